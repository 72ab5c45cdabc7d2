//! Pids that come again, and pids that mean something else.
use crate::participants_common::{Child, World, shared_mapping, world};
use crate::{Suspect, in_a_child, member, report, sleeps_for_ever};
use shm_core::header::{self, Header, Identity, Opened, Opener};
use shm_core::mapping::Mapped;
use shm_core::participants::JoinError;
use shm_core::process::{Liveness, ProcessHandle};
use shm_testkit::fault::{NotRun, become_root_of_a_namespace, mount_empty, trial};
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

in_a_child! {
    a_pid_that_comes_again_names_somebody_else,
    a_pid_that_comes_again_at_once_condemns_nobody,
    another_pid_namespace_judges_nobody,
    another_time_namespace_judges_nobody,
    no_initialiser_is_judged_across_namespaces,
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `scene` as the first process of pid (or time) namespaces of its own, with a /proc of its
/// own.
fn in_a_namespace(kind: libc::c_int, scene: impl Fn()) {
    report(&trial(PATIENCE, || {
        if let Err(not_run) = become_root_of_a_namespace(kind | libc::CLONE_NEWNS) {
            return eprintln!("{not_run}");
        }
        let mut first = Child::fork(|| {
            match mount_empty("proc", Path::new("/proc"), 0, "") {
                Ok(()) => scene(),
                Err(not_run) => eprintln!("{not_run}"),
            }
            // The first process of a pid namespace takes its children with it.
        });
        assert_eq!(first.wait(), 0);
    }));
}

/// The next process of this namespace gets `pid`.
fn next_is(pid: u32) -> Result<(), NotRun> {
    let last = (pid - 1).to_string();
    let set = std::fs::write("/proc/sys/kernel/ns_last_pid", last);
    set.map_err(|error| NotRun::new("choosing the next pid", error))
}

/// A member that has died, and its pid given to a new member.
struct Reused {
    world: World,
    old: Suspect,
    new: Child,
    /// Taken of the old one while it lived.
    handle: Option<ProcessHandle>,
}

fn reuse(pause: Duration) -> Result<Reused, NotRun> {
    let world = world(8);
    let mut first = member(&world, sleeps_for_ever);
    let old = Suspect::known(&world, 0);
    let handle = ProcessHandle::open(old.process).ok();
    first.kill();
    std::thread::sleep(pause);
    next_is(first.pid)?;
    let new = Child::fork(|| {
        let member = world.table.join().unwrap();
        world.set(1, member.id().to_bits());
        sleeps_for_ever();
        drop(member);
    });
    assert_eq!(new.pid, first.pid, "nobody else starts processes in this namespace");
    Ok(Reused { world, old, new, handle })
}

fn a_pid_that_comes_again_names_somebody_else(_: &[String]) {
    in_a_namespace(libc::CLONE_NEWPID, || {
        // Longer than a tick of the clock that start times are told by.
        let mut reused = match reuse(Duration::from_millis(50)) {
            Ok(reused) => reused,
            Err(not_run) => return eprintln!("{not_run}"),
        };
        let Reused { world, old, .. } = &reused;
        let new = Suspect::known(world, 1);
        assert_eq!(new.process.pid(), old.process.pid());
        assert_ne!(new.process, old.process);
        for _ in 0..50 {
            assert!(!new.is_condemned(world), "it is taken for the one that died");
            assert_eq!(old.process.liveness(), Liveness::Dead, "kept alive by its pid's new owner");
        }
        old.assert_dies(world, "while another has its pid");
        new.assert_lives(world, "with a dead one's pid");
        reused.new.kill();
        new.assert_dies(&reused.world, "the second one with that pid");
        eprintln!("pid {} given to another: the dead is dead, the new one alive", old_pid(&reused));
    });
}

fn old_pid(reused: &Reused) -> u32 {
    reused.old.process.pid()
}

/// Within one tick of the clock (10 ms) both have one name: then nobody is declared dead, and the
/// dead one is cleaned up when the other one dies. Pids go round, so that this has to be forced.
fn a_pid_that_comes_again_at_once_condemns_nobody(_: &[String]) {
    in_a_namespace(libc::CLONE_NEWPID, || {
        let (mut alike, rounds) = (0, 40);
        for _ in 0..rounds {
            let mut reused = match reuse(Duration::ZERO) {
                Ok(reused) => reused,
                Err(not_run) => return eprintln!("{not_run}"),
            };
            let Reused { world, old, .. } = &reused;
            let new = Suspect::known(world, 1);
            assert!(!new.is_condemned(world), "the living one is taken for dead");
            let same = new.process == old.process;
            alike += u32::from(same);
            let verdict = if same { Liveness::Alive } else { Liveness::Dead };
            assert_eq!(old.process.liveness(), verdict);
            assert!(reused.handle.as_ref().is_none_or(ProcessHandle::is_dead), "a pidfd knows");
            let early = world.table.reap(|id| assert_eq!(id, old.id));
            assert_eq!(early, usize::from(!same));
            reused.new.kill();
            let late = reused.world.table.reap(|_| ());
            assert_eq!(early + late, 2, "both, in the end");
        }
        eprintln!(
            "{rounds} pids given to another at once, {alike} within one tick: nobody condemned"
        );
    });
}

/// A member that lives and one that has died, seen from elsewhere.
fn judges_nobody(kind: libc::c_int) {
    let world = world(4);
    let mut dead = member(&world, sleeps_for_ever);
    let dead_suspect = Suspect::known(&world, 0);
    dead.kill();
    world.set(0, 0);
    let mut living = member(&world, sleeps_for_ever);
    let suspect = Suspect::known(&world, 0);
    in_a_namespace(kind, || {
        let refused = world.table.join().unwrap_err();
        assert!(matches!(refused, JoinError::OtherNamespace { .. }), "{refused}");
        for id in [dead_suspect.id, suspect.id] {
            assert_eq!(world.table.liveness(id), Liveness::Unknown);
        }
        assert!(!suspect.watch.is_dead());
        assert_eq!(world.table.reap(|_| panic!("cannot know")), 0);
        eprintln!("refused: {refused}");
    });
    dead_suspect.assert_dies(&world, "where it lived");
    suspect.assert_lives(&world, "after all that");
    living.kill();
}

fn another_pid_namespace_judges_nobody(_: &[String]) {
    report(&trial(PATIENCE, || judges_nobody(libc::CLONE_NEWPID)));
}

fn another_time_namespace_judges_nobody(_: &[String]) {
    report(&trial(PATIENCE, || judges_nobody(libc::CLONE_NEWTIME)));
}

/// Whoever initialises has died here: of that nobody elsewhere can be sure.
fn no_initialiser_is_judged_across_namespaces(_: &[String]) {
    let open_in = |header: &Header, init: &dyn Fn()| {
        let opener = Opener::this_process(Instant::now() + Duration::from_secs(2)).unwrap();
        let identity = Identity::new("death", 1, 1, 4096);
        header.open(&identity, &opener, || {
            init();
            Ok::<(), Infallible>(())
        })
    };
    report(&trial(PATIENCE, || {
        let memory = shared_mapping(4096);
        let header = Mapped::<Header>::new(&memory, 0).unwrap();
        let die = || {
            // SAFETY: ends the process, half-way.
            unsafe { libc::_exit(0) };
        };
        let mut half_way = Child::fork(|| assert!(open_in(&header, &die).is_err(), "it has died"));
        assert_eq!(half_way.wait(), 0);
        in_a_namespace(libc::CLONE_NEWPID, || {
            let refused = open_in(&header, &|| panic!("not ours to initialise")).unwrap_err();
            assert!(matches!(refused, header::OpenError::OtherNamespace), "{refused}");
            eprintln!("refused: {refused}");
        });
        assert_eq!(open_in(&header, &|| ()).unwrap(), Opened::Created, "taken over, where it died");
    }));
}
