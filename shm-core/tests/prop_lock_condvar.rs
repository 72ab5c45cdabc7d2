//! Whatever single callers do with a condition variable and a mutex, a wait gives the mutex back,
//! or says why not; and it ends for the reason it says.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::condvar::{Condvar, CondvarError, Woke};
use shm_core::lock::mutex::{LockError, Mutex};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::depth::cases;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MUTEX_AT: u64 = 512;
const AT: u64 = MUTEX_AT + Mutex::BYTES;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A wait that names a peer, or not, who has left, or not.
    Wait {
        names: bool,
        leaves: bool,
    },
    NotifyOne,
    NotifyAll,
    Scribble(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<[bool; 2]>().prop_map(|[names, leaves]| Op::Wait { names, leaves }),
        2 => Just(Op::NotifyOne),
        1 => Just(Op::NotifyAll),
        1 => any::<u32>().prop_map(Op::Scribble),
    ]
}

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    me: Arc<Member>,
    mutex: Mutex,
    changed: Condvar,
}

fn world() -> World {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, MUTEX_AT) }.unwrap();
    // SAFETY: as above, and the mutex ends before.
    let changed = unsafe { Condvar::create(&mapping, AT) }.unwrap();
    World { me: table.join().unwrap(), mapping, table, mutex, changed }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]

    #[test]
    fn a_wait_ends_for_the_reason_it_says(ops in proptest::collection::vec(op(), 0..20)) {
        let world = world();
        let mut peer = world.table.join().unwrap();
        for op in ops {
            match op {
                Op::Wait { names, leaves } => {
                    let (by, watch) = (peer.id(), world.me.watch(peer.id()));
                    if leaves {
                        drop(peer);
                        peer = world.table.join().unwrap();
                    }
                    let peers: &[_] = if names { &[&watch] } else { &[] };
                    let guard = world.mutex.lock(&world.me).unwrap();
                    let (guard, woke) =
                        world.changed.wait_until(guard, peers, Instant::now()).unwrap();
                    let died = names && leaves;
                    prop_assert_eq!(woke, if died { Woke::Died { by } } else { Woke::TimedOut });
                    prop_assert!(world.mutex.try_lock(&world.me).unwrap().is_none());
                    drop(guard);
                }
                Op::NotifyOne => world.changed.notify_one(),
                Op::NotifyAll => world.changed.notify_all(),
                Op::Scribble(word) => {
                    let address = world.mapping.region().at::<u32>(AT + 8).unwrap();
                    // SAFETY: aligned, in bounds, and only this thread has the mapping.
                    unsafe { address.write(word) };
                }
            }
        }
        prop_assert!(world.mutex.try_lock(&world.me).unwrap().is_some());
    }
}

#[test]
fn what_is_no_condvar_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(Condvar::attach(&mapping, 0).unwrap_err(), CondvarError::NotACondvar);
    assert!(matches!(Condvar::attach(&mapping, 4096), Err(CondvarError::BadPlace(_))));
    // SAFETY: nobody else has the mapping.
    assert!(matches!(unsafe { Condvar::create(&mapping, 8) }, Err(CondvarError::BadPlace(_))));
    assert_eq!(Condvar::BYTES, 64);
    assert_ne!(Condvar::FINGERPRINT, 0);
}

/// Whether somebody else had the mutex at the deadline, and the caller was told so.
fn a_deadline_has_passed() -> bool {
    let world = world();
    let peer = world.table.join().unwrap();
    let guard = world.mutex.lock(&world.me).unwrap();
    std::thread::scope(|scope| {
        let (done, ends) = std::sync::mpsc::channel::<()>();
        let (mutex, peer) = (&world.mutex, &peer);
        scope.spawn(move || {
            let _guard = mutex.lock(peer).unwrap();
            let _ = ends.recv();
        });
        let deadline = Instant::now() + Duration::from_millis(50);
        let woken = world.changed.wait_until(guard, &[], deadline);
        assert!(Instant::now() >= deadline);
        let without = matches!(woken, Err(LockError::TimedOut));
        assert!(without || matches!(woken, Ok((_, Woke::TimedOut))), "{woken:?}");
        drop(woken);
        drop(done);
        without
    })
}

/// The other thread may come too late once, but not each time.
#[test]
fn a_deadline_holds_for_taking_the_mutex_again() {
    assert!((0..100).any(|_| a_deadline_has_passed()));
}
