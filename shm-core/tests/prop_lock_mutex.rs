//! Any sequence of takings, givings-up, departures, panics and clean-ups agrees with a plain model
//! of a mutex whose dead holder is reported. A forked child takes nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::mutex::{LockError, Mutex, MutexError, MutexGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 3;
const AT: u64 = 512;
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
enum Op {
    Lock(usize),
    TryLock(usize),
    LockUntilNow(usize),
    Recover(usize),
    /// Of who has it: gives it up, or leaves without, or panics.
    GiveUp,
    Leave(usize),
    Panic,
    CleanUp(usize),
}

/// What the mutex is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    Free,
    Held(ParticipantId),
    /// Held by one who left, or left by one who panicked.
    Left(ParticipantId),
    Poisoned(ParticipantId),
}

/// What a call comes to.
#[derive(Debug, PartialEq)]
enum Said {
    Mine,
    AfterDeathOf(ParticipantId),
    Busy,
    Deadlock,
    TimedOut,
    PoisonedBy(ParticipantId),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..SEATS as usize;
    prop_oneof![
        4 => who.clone().prop_map(Op::Lock),
        2 => who.clone().prop_map(Op::TryLock),
        2 => who.clone().prop_map(Op::LockUntilNow),
        2 => who.clone().prop_map(Op::Recover),
        4 => Just(Op::GiveUp),
        2 => who.clone().prop_map(Op::Leave),
        1 => Just(Op::Panic),
        1 => who.prop_map(Op::CleanUp),
    ]
}

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    mutex: Mutex,
}

fn world() -> World {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, AT) }.unwrap();
    World { mapping, table, mutex }
}

type Taken<'a> = Result<Option<MutexGuard<'a>>, LockError<'a>>;

/// Everybody forgets its guard; giving up is done by a guard made anew from what the word says.
fn said(taken: Taken<'_>, repairs: bool) -> Said {
    match taken {
        Ok(Some(guard)) => {
            std::mem::forget(guard);
            Said::Mine
        }
        Err(LockError::Abandoned(abandoned)) => {
            let by = abandoned.by();
            if repairs {
                std::mem::forget(abandoned.recover());
            } else {
                drop(abandoned);
            }
            Said::AfterDeathOf(by)
        }
        Ok(None) => Said::Busy,
        Err(LockError::Deadlock) => Said::Deadlock,
        Err(LockError::TimedOut) => Said::TimedOut,
        Err(LockError::Poisoned { by }) => Said::PoisonedBy(by),
        Err(other) => panic!("{other}"),
    }
}

/// The same by the book. `waits` says what a caller is told who would have to wait.
fn by_the_book(
    plain: &mut Plain,
    me: ParticipantId,
    waits: Said,
    heals: bool,
    repairs: bool,
) -> Said {
    let after = if repairs { Plain::Held(me) } else { Plain::Poisoned(me) };
    match *plain {
        Plain::Free => {
            *plain = Plain::Held(me);
            Said::Mine
        }
        Plain::Held(_) => waits,
        Plain::Poisoned(by) if !heals => Said::PoisonedBy(by),
        Plain::Left(by) | Plain::Poisoned(by) => {
            *plain = after;
            Said::AfterDeathOf(by)
        }
    }
}

/// The guard of who has it, once more.
fn guard<'a>(world: &'a World, me: &'a Member) -> MutexGuard<'a> {
    // What it holds, given up in its name and taken again at once.
    world.mutex.clean_up(me.id());
    match world.mutex.lock(me) {
        Err(LockError::Abandoned(abandoned)) => abandoned.recover(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]

    #[test]
    fn agrees_with_a_plain_mutex(
        ops in proptest::collection::vec((op(), any::<bool>()), 0..40),
    ) {
        let world = world();
        let mut members: Vec<_> = (0..SEATS).map(|_| world.table.join().unwrap()).collect();
        let mut plain = Plain::Free;
        for (op, repairs) in ops {
            let holder = members.iter().position(|m| plain == Plain::Held(m.id()));
            match op {
                Op::Lock(n) | Op::Recover(n) => {
                    let (me, heals) = (&members[n], matches!(op, Op::Recover(_)));
                    if holder.is_some_and(|at| at != n) {
                        continue; // it would wait for ever
                    }
                    let taken =
                        if heals { world.mutex.recover(me) } else { world.mutex.lock(me) };
                    let said = said(taken.map(Some), repairs);
                    let book = by_the_book(&mut plain, me.id(), Said::Deadlock, heals, repairs);
                    prop_assert_eq!(said, book);
                }
                Op::TryLock(n) => {
                    let me = &members[n];
                    let said = said(world.mutex.try_lock(me), repairs);
                    let book = by_the_book(&mut plain, me.id(), Said::Busy, false, repairs);
                    prop_assert_eq!(said, book);
                }
                Op::LockUntilNow(n) => {
                    let me = &members[n];
                    let said = said(world.mutex.lock_until(me, Instant::now()).map(Some), repairs);
                    let mine = holder == Some(n);
                    let waits = if mine { Said::Deadlock } else { Said::TimedOut };
                    prop_assert_eq!(said, by_the_book(&mut plain, me.id(), waits, false, repairs));
                }
                Op::GiveUp | Op::Panic => {
                    let Some(at) = holder else { continue };
                    let (me, panics) = (&members[at], matches!(op, Op::Panic));
                    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let _guard = guard(&world, me);
                        if panics {
                            std::panic::resume_unwind(Box::new("in between"));
                        }
                    }));
                    prop_assert_eq!(end.is_err(), panics);
                    plain = if panics { Plain::Left(me.id()) } else { Plain::Free };
                }
                Op::Leave(n) => {
                    let id = members[n].id();
                    let left = members.remove(n);
                    drop(left);
                    members.insert(n, world.table.join().unwrap());
                    if plain == Plain::Held(id) {
                        plain = Plain::Left(id);
                    }
                }
                Op::CleanUp(n) => {
                    let id = members[n].id();
                    world.mutex.clean_up(id);
                    if plain == Plain::Held(id) {
                        plain = Plain::Left(id);
                    }
                }
            }
        }
    }

    #[test]
    fn any_words_are_a_mutex_or_an_error(word in any::<u64>(), state in 0..16u64) {
        let world = world();
        let me = world.table.join().unwrap();
        for word in [word, word & !0x3ff | state, state] {
            let address = world.mapping.region().at::<u64>(AT + 8).unwrap();
            // SAFETY: aligned, in bounds, and only this thread has the mapping.
            unsafe { address.write(word) };
            // Whoever is named there never sat at this table.
            match world.mutex.lock_until(&me, Instant::now()) {
                Ok(guard) => drop(guard),
                Err(LockError::Abandoned(abandoned)) => drop(abandoned.recover()),
                Err(LockError::Corrupt | LockError::Poisoned { .. } | LockError::TimedOut) => (),
                Err(LockError::Deadlock) => prop_assert!(false, "{word:x}"),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

#[test]
fn what_is_no_mutex_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(Mutex::attach(&mapping, 0).unwrap_err(), MutexError::NotAMutex);
    assert!(matches!(Mutex::attach(&mapping, 4096), Err(MutexError::BadPlace(_))));
    // SAFETY: nobody else has the mapping.
    assert!(matches!(unsafe { Mutex::create(&mapping, 8) }, Err(MutexError::BadPlace(_))));
    assert_eq!(Mutex::BYTES, 64);
    assert_ne!(Mutex::FINGERPRINT, 0);
}

#[test]
fn another_thread_of_the_process_waits_and_is_not_refused() {
    let world = world();
    let me = world.table.join().unwrap();
    let held = world.mutex.lock(&me).unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| drop(world.mutex.lock(&me).unwrap()));
        assert!(matches!(world.mutex.lock(&me), Err(LockError::Deadlock)));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(held);
        other.join().unwrap();
    });
}

#[test]
fn a_forked_child_takes_nothing() {
    let world = world();
    let me = world.table.join().unwrap();
    let held = std::mem::ManuallyDrop::new(world.mutex.lock(&me).unwrap());
    // SAFETY: the child makes two calls, which take no lock, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = matches!(world.mutex.lock(&me), Err(LockError::Forked(_)));
        drop(std::mem::ManuallyDrop::into_inner(held));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = -1;
    // SAFETY: our child, and a status of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(world.mutex.try_lock(&me).unwrap().is_none(), "the child gave it up");
    drop(std::mem::ManuallyDrop::into_inner(held));
    assert!(world.mutex.try_lock(&me).unwrap().is_some());
}

/// As where the holder was stopped for ever after it had given it up, and before it woke anybody.
#[test]
fn a_sleeper_looks_for_itself() {
    let world = world();
    let [me, peer] = [(); 2].map(|()| world.table.join().unwrap());
    std::mem::forget(world.mutex.lock(&peer).unwrap());
    let word: &AtomicU64 = world.mapping.region().share(AT + 8).unwrap();
    let taken = within(LIMIT, || {
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| world.mutex.lock(&me).map(drop).is_ok());
            std::thread::sleep(Duration::from_millis(50));
            word.store(0, Relaxed);
            sleeper.join().unwrap()
        })
    });
    assert!(taken);
}

/// Who slept left a sign at the event; giving up and cleaning up take it away, for they wake.
#[test]
fn who_gives_up_or_cleans_up_wakes_who_sleeps() {
    let world = world();
    let [me, peer] = [(); 2].map(|()| world.table.join().unwrap());
    let freed: &AtomicU32 = world.mapping.region().share(AT + 16).unwrap();
    let somebody_sleeps = || freed.load(Relaxed) & 1 == 1;
    for cleans_up in [false, true] {
        let guard = world.mutex.lock(&peer).unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(matches!(world.mutex.lock_until(&me, soon), Err(LockError::TimedOut)));
        assert!(somebody_sleeps());
        if cleans_up {
            std::mem::forget(guard);
            world.mutex.clean_up(peer.id());
        } else {
            drop(guard);
        }
        assert!(!somebody_sleeps(), "cleans up: {cleans_up}");
    }
}
