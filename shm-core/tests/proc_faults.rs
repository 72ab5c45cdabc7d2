//! What processes and participants do where the system refuses: each of their system calls failing,
//! with each error that it can give. An error, or the operation does without; never a wrong verdict
//! of life or death; nothing leaks.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;
mod sealed_common;

use participants_common::{World, world};
use shm_core::participants::{Member, ParticipantId, Table, Waiting, Watch, wait};
use shm_core::process::{Liveness, Namespaces, OpenError, ProcessHandle, ProcessId};
use shm_core::sealed::{Doorbell, ExchangeError, Foreign, Own, exchange};
use shm_testkit::child::Child;
use shm_testkit::fault::{Footprint, Sweep, becomes_single_threaded, storm};
use std::convert::Infallible;
use std::fmt::Display;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

/// Makes a test of each function: it runs in a child process, which may fork.
macro_rules! in_a_child {
    ($($function:ident),* $(,)?) => {
        shm_testkit::children! { $($function),* }
        mod in_a_child { $(
            #[test]
            fn $function() {
                let exit = super::Child::spawn(stringify!($function), &[]).wait(super::LIMIT);
                exit.assert_success();
                print!("{}", exit.stderr);
            }
        )* }
    };
}

in_a_child! {
    making_a_table, joining, leaving, reaping, asking_who_one_is,
    a_living_process_is_not_dead, a_dead_process_is_not_alive, a_process_is_held,
    waiting_for_a_death, making_sealed_memory, meeting, refusing, parting,
}

/// Every error at every call of `perform`; `check` says what is to be true of its result. What is
/// held afterwards is what was held before.
fn survives<S, T, E: Display>(
    name: &str,
    prepare: impl Fn() -> S,
    perform: impl Fn(&mut S) -> Result<T, E>,
    check: impl Fn(S, Result<T, E>),
) {
    let prepare = || {
        // What a process asks once.
        let _ = shm_core::process::generation();
        let before = Footprint::now();
        (before, prepare())
    };
    let perform = |(_, scene): &mut (Footprint, S)| perform(scene);
    let check = |(before, scene): (Footprint, S), result: Result<T, E>| {
        if let Err(error) = &result {
            assert!(error.to_string().len() > 30, "says too little: {error}");
        }
        check(scene, result);
        before.assert_same();
    };
    match Sweep::new(name).run(prepare, perform, check) {
        Ok(report) => report.assert_clean(),
        Err(not_run) => return eprintln!("{not_run}"),
    }
    match storm(name, 20, prepare, perform, check) {
        Ok(interruptions) => eprintln!("{name}: {interruptions} interruptions got over"),
        Err(not_run) => eprintln!("{not_run}"),
    }
}

/// A seat can be taken and given back.
fn works(table: &Table) {
    drop(table.join().unwrap());
    assert!(table.is_empty());
}

fn making_a_table(_: &[String]) {
    let perform = |mapping: &mut Arc<_>| {
        // SAFETY: nobody else has the mapping.
        unsafe { Table::create(mapping, 0, 2) }
    };
    let prepare = || participants_common::shared_mapping(1 << 16);
    survives("Table::create", prepare, perform, |mapping, made| {
        drop(made);
        // SAFETY: as above.
        works(&unsafe { Table::create(&mapping, 0, 2) }.unwrap());
    });
}

fn joining(_: &[String]) {
    let perform = |world: &mut World| world.table.join();
    survives(
        "Table::join",
        || world(2),
        perform,
        |world, joined| {
            if let Ok(member) = &joined {
                assert_eq!(world.table.snapshot()[0].id, member.id());
            }
            drop(joined);
            assert!(world.table.is_empty(), "no seat is lost");
            works(&world.table);
        },
    );
}

fn leaving(_: &[String]) {
    let prepare = || {
        let world = world(2);
        let member = world.table.join().unwrap();
        (world, Some(member))
    };
    let perform = |(_, member): &mut (World, Option<Arc<Member>>)| -> Result<(), Infallible> {
        drop(member.take());
        Ok(())
    };
    survives("leave", prepare, perform, |(world, _), _| works(&world.table));
}

/// A process that has joined and died.
fn dead_member(world: &World) -> ParticipantId {
    let mut child = participants_common::Child::fork(|| {
        let member = world.table.join().unwrap();
        world.set(0, member.id().to_bits());
        std::mem::forget(member);
    });
    assert_eq!(child.wait(), 0);
    ParticipantId::from_bits(world.word(0)).unwrap()
}

fn reaping(_: &[String]) {
    let prepare = || {
        let world = world(2);
        (dead_member(&world), world)
    };
    let perform = |(dead, world): &mut (ParticipantId, World)| -> Result<usize, Infallible> {
        Ok(world.table.reap(|id| assert_eq!(id, *dead)))
    };
    survives("Table::reap", prepare, perform, |(dead, world), reaped| {
        let Ok(reaped) = reaped;
        let rest = world.table.reap(|id| assert_eq!(id, dead));
        assert_eq!(reaped + rest, 1, "later, if it could not tell");
        works(&world.table);
    });
}

fn asking_who_one_is(_: &[String]) {
    let perform = |_: &mut ()| -> Result<_, String> {
        let me = ProcessId::try_me().map_err(|error| format!("cannot tell who I am: {error}"))?;
        let text = |error| format!("cannot tell where I am: {error}");
        Ok((me, Namespaces::mine().map_err(text)?))
    };
    survives(
        "ProcessId::try_me",
        || (),
        perform,
        |(), told| {
            let now = (ProcessId::try_me().unwrap(), Namespaces::mine().unwrap());
            assert!(told.is_err() || told == Ok(now));
            assert_eq!(ProcessId::of(std::process::id()).unwrap(), ProcessId::me());
        },
    );
}

fn liveness(process: &mut ProcessId) -> Result<Liveness, Infallible> {
    Ok(process.liveness())
}

fn a_living_process_is_not_dead(_: &[String]) {
    let parent = || ProcessId::of(std::os::unix::process::parent_id()).unwrap();
    survives("liveness of a living one", parent, liveness, |process, told| {
        assert_ne!(told, Ok(Liveness::Dead), "a wrong verdict");
        assert_eq!(process.liveness(), Liveness::Alive);
    });
}

/// A process that has ended, and whether its parent has taken notice.
fn ended(reaped: bool) -> ProcessId {
    // SAFETY: the child ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: until the parent knows who it is.
        unsafe { libc::raise(libc::SIGSTOP) };
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let process = ProcessId::of(pid.cast_unsigned()).unwrap();
    // SAFETY: our own child, and no place for its status.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WUNTRACED) };
    // SAFETY: our own child.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    let mut about = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let how = if reaped { libc::WEXITED } else { libc::WEXITED | libc::WNOWAIT };
    // SAFETY: our own child, and a place for what is told of it.
    unsafe { libc::waitid(libc::P_PID, pid.cast_unsigned(), about.as_mut_ptr(), how) };
    process
}

fn a_dead_process_is_not_alive(_: &[String]) {
    for (name, reaped) in [("liveness of a zombie", false), ("liveness of one gone", true)] {
        survives(
            name,
            || ended(reaped),
            liveness,
            |process, told| {
                assert_ne!(told, Ok(Liveness::Alive), "a wrong verdict");
                assert_eq!(process.liveness(), Liveness::Dead);
            },
        );
    }
}

fn a_process_is_held(_: &[String]) {
    let parent = || ProcessId::of(std::os::unix::process::parent_id()).unwrap();
    let open = |process: &mut ProcessId| ProcessHandle::open(*process);
    survives("ProcessHandle::open", parent, open, |_, opened| match opened {
        Ok(handle) => assert!(!handle.is_dead()),
        Err(OpenError::Unknown(..)) => {}
        Err(OpenError::Dead(_)) => panic!("a wrong verdict"),
    });
}

/// Someone waits for a member that dies meanwhile: it is told, however its own calls fail.
fn waiting_for_a_death(_: &[String]) {
    let prepare = || {
        let world = world(2);
        let me = world.table.join().unwrap();
        assert_eq!(me.waiting() == Waiting::Waitv, shm_core::futex::waitv_works());
        let child = participants_common::Child::fork(|| {
            let member = world.table.join().unwrap();
            world.set(0, member.id().to_bits());
            std::thread::sleep(Duration::from_millis(20));
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        });
        let id = ParticipantId::from_bits(world.await_word(0, |word| word != 0)).unwrap();
        let watch = me.watch(id);
        (watch, me, world, child)
    };
    type Scene = (Watch, Arc<Member>, World, participants_common::Child);
    let perform = |(watch, _, world, _): &mut Scene| -> Result<(), Infallible> {
        while !watch.is_dead() {
            let ticket = world.board.event.prepare();
            if !watch.is_dead() {
                wait(&world.board.event, ticket, &[watch], None);
            }
        }
        Ok(())
    };
    survives("wait", prepare, perform, |(watch, me, world, mut child), _| {
        assert_eq!(child.wait(), 0);
        drop((watch, me));
        assert_eq!(world.table.reap(|_| ()), 1);
        works(&world.table);
    });
}

fn making_sealed_memory(_: &[String]) {
    let perform = |_: &mut ()| Own::create("faults", 3 * sealed_common::PAGE);
    survives("Own::create", || (), perform, |(), made| drop(made));
}

type Said = (Option<UnixStream>, UnixStream, Own);

/// Our end of a socket in which a hello lies, with `fds` descriptors; and the other end.
fn said(fds: usize) -> Said {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let memory = sealed_common::memory(2 * sealed_common::PAGE, sealed_common::ALL);
    sealed_common::say(&theirs, &sealed_common::hello(), &vec![memory.as_fd(); fds]).unwrap();
    (Some(ours), theirs, Own::create("faults", sealed_common::PAGE).unwrap())
}

fn meet((ours, _, own): &mut Said) -> Result<(Foreign, Doorbell), ExchangeError> {
    let deadline = Some(Instant::now() + LIMIT / 10);
    exchange(ours.take().unwrap(), own, sealed_common::WANTED, deadline)
}

fn meeting(_: &[String]) {
    survives(
        "exchange",
        || said(1),
        meet,
        |(_, theirs, _), met| {
            if let Ok((memory, bell)) = met {
                assert_eq!(memory.len(), 2 * sealed_common::PAGE);
                assert!(!bell.is_gone());
                drop(theirs);
                assert!(bell.is_gone());
            }
            other_threads_end();
        },
    );
}

/// Too many descriptors came: a thread closes them, or, where there is none to be had, who heard
/// them.
fn refusing(_: &[String]) {
    let perform = |scene: &mut _| match meet(scene) {
        Ok(_) => panic!("three descriptors are taken for one"),
        Err(ExchangeError::Descriptors) => Ok(()),
        Err(other) => Err(other),
    };
    survives("exchange that refuses", || said(3), perform, |_, _| other_threads_end());
}

/// Those that close something for us.
fn other_threads_end() {
    assert!(becomes_single_threaded(LIMIT / 10), "the thread does not end");
}

fn parting(_: &[String]) {
    let prepare = || {
        let mut scene = said(1);
        (Some(meet(&mut scene).unwrap()), scene)
    };
    type Scene = (Option<(Foreign, Doorbell)>, Said);
    let perform = |(met, _): &mut Scene| -> Result<(), Infallible> {
        drop(met.take());
        Ok(())
    };
    survives("the end of what came of it", prepare, perform, |_, _| other_threads_end());
}
