//! A verdict of death is never wrong: a process that is declared dead executes nothing more, and no
//! call that it was in the middle of goes on; and what looks like a death (a stop, a mark, a pid
//! that is another's, a first thread that has ended, a SIGKILL that was sent) is not taken for one.
//!
//! "Dead" is asked for in each way there is: with a pidfd, without one, of the table of
//! participants, of a watch. What the system does not let a test bring about is said to be not run.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "proc_death/kinds.rs"]
mod kinds;
#[path = "proc_death/namespaces.rs"]
mod namespaces;
mod participants_common;
#[path = "proc_death/stores.rs"]
mod stores;

use participants_common::{Child, WATCHDOG, World};
use shm_core::participants::{ParticipantId, Watch};
use shm_core::process::{Liveness, ProcessHandle, ProcessId};
use shm_testkit::fault::{Ended, forbid, trial};
use std::time::{Duration, Instant};

/// For one child process; minutes of SIGSTOP when `SHM_DEEP=1`.
const LIMIT: Duration = Duration::from_secs(550);

/// Makes a test of each function: it runs in a child process, which may fork.
macro_rules! in_a_child {
    ($($function:ident),* $(,)?) => {
        shm_testkit::children! { $($function),* }
        mod in_a_child { $(
            #[test]
            fn $function() {
                let mut child = shm_testkit::child::Child::spawn(stringify!($function), &[]);
                let exit = child.wait(crate::LIMIT);
                exit.assert_success();
                print!("{}", exit.stderr);
            }
        )* }
    };
}
pub(crate) use in_a_child;

/// Runs `scene` as it is, and once more where no pidfd is to be had (`pidfd_open` forbidden): then
/// /proc is asked.
fn with_and_without_pidfd(scene: impl Fn()) {
    report(&trial(LIMIT, &scene));
    report(&trial(LIMIT, || match forbid(&[libc::SYS_pidfd_open], libc::EPERM) {
        Ok(()) => scene(),
        Err(not_run) => eprintln!("{not_run}"),
    }));
}

fn report(ended: &Ended) {
    eprint!("{}", ended.stderr);
    assert!(ended.is_success(), "{:?}\n{}", ended.failure(), ended.stderr);
}

/// A member, and all ways to ask about it.
struct Suspect {
    id: ParticipantId,
    process: ProcessId,
    watch: Watch,
    /// None where pidfds are not to be had.
    handle: Option<ProcessHandle>,
}

impl Suspect {
    /// Who has told its id in word `index`.
    fn known(world: &World, index: usize) -> Suspect {
        let id = ParticipantId::from_bits(world.await_word(index, |word| word != 0)).unwrap();
        // Watched through a table only: a watcher needs no seat of its own, but takes one to watch.
        let me = world.table.join().unwrap();
        let watch = me.watch(id);
        let process = watch.process().expect("it is attached");
        Suspect { id, process, watch, handle: ProcessHandle::open(process).ok() }
    }

    /// Whether anybody says that it is dead.
    fn is_condemned(&self, world: &World) -> bool {
        self.process.liveness() == Liveness::Dead
            || world.table.liveness(self.id) == Liveness::Dead
            || self.watch.is_dead()
            || self.handle.as_ref().is_some_and(ProcessHandle::is_dead)
    }

    /// Nobody takes it for dead, and nothing of it is cleaned up.
    fn assert_lives(&self, world: &World, what: &str) {
        assert!(!self.is_condemned(world), "{what}: taken for dead");
        assert_eq!(world.table.reap(|id| panic!("{what}: {id} is reaped")), 0);
    }

    /// Everybody takes it for dead, soon.
    fn assert_dies(&self, world: &World, what: &str) {
        let deadline = Instant::now() + WATCHDOG;
        while self.process.liveness() != Liveness::Dead {
            assert!(Instant::now() < deadline, "{what}: not found dead");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(world.table.liveness(self.id), Liveness::Dead, "{what}");
        while !self.watch.is_dead() {
            assert!(Instant::now() < deadline, "{what}: its watch does not tell");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(self.handle.as_ref().is_none_or(ProcessHandle::is_dead), "{what}");
        assert_eq!(world.table.reap(|id| assert_eq!(id, self.id)), 1, "{what}");
    }
}

/// A child that joins, tells its id in word 0, and goes on with `body`.
fn member(world: &World, body: impl FnOnce()) -> Child {
    Child::fork(|| {
        let member = world.table.join().unwrap();
        world.set(0, member.id().to_bits());
        body();
        std::mem::forget(member);
    })
}

fn sleeps_for_ever() {
    loop {
        std::thread::sleep(WATCHDOG);
    }
}
