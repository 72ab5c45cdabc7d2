//! Any sequence of settings, resettings and waits, of departures of a peer, and of nonsense in the
//! word agrees with a plain `bool`.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::latch::{Latch, LatchError, WaitError};
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::depth::cases;
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const AT: u64 = 512;

#[derive(Debug, Clone, Copy)]
enum Op {
    Set,
    Reset,
    Wait,
    /// With a peer, who then may leave.
    WaitForPeer(bool),
    Scribble(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Set),
        3 => Just(Op::Reset),
        2 => Just(Op::Wait),
        2 => any::<bool>().prop_map(Op::WaitForPeer),
        1 => any::<u32>().prop_map(Op::Scribble),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]

    #[test]
    fn agrees_with_a_bool(ops in proptest::collection::vec(op(), 0..40)) {
        let mapping = Mapping::heap(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let latch = unsafe { Latch::create(&mapping, AT) }.unwrap();
        let (me, mut peer) = (table.join().unwrap(), table.join().unwrap());
        let mut is_set = false;
        for op in ops {
            match op {
                Op::Set => {
                    latch.set();
                    is_set = true;
                }
                Op::Reset => prop_assert_eq!(latch.reset(), std::mem::take(&mut is_set)),
                Op::Wait => {
                    let waited = latch.wait(&me, &[], Some(Instant::now()));
                    prop_assert_eq!(waited, if is_set { Ok(()) } else { Err(WaitError::TimedOut) });
                }
                Op::WaitForPeer(leaves) => {
                    let (by, watch) = (peer.id(), me.watch(peer.id()));
                    if leaves {
                        drop(peer);
                        peer = table.join().unwrap();
                    }
                    let waited = latch.wait(&me, &[&watch], Some(Instant::now()));
                    let error = if leaves { WaitError::Died { by } } else { WaitError::TimedOut };
                    prop_assert_eq!(waited, if is_set { Ok(()) } else { Err(error) });
                }
                Op::Scribble(word) => {
                    let address = mapping.region().at::<u32>(AT + 8).unwrap();
                    // SAFETY: aligned, in bounds, and only this thread has the mapping.
                    unsafe { address.write(word) };
                    is_set = word != 0;
                }
            }
            prop_assert_eq!(latch.is_set(), is_set);
        }
    }
}

#[test]
fn what_is_no_latch_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(Latch::attach(&mapping, 0).unwrap_err(), LatchError::NotALatch);
    assert!(matches!(Latch::attach(&mapping, 4096), Err(LatchError::BadPlace(_))));
    // SAFETY: nobody else has the mapping.
    assert!(matches!(unsafe { Latch::create(&mapping, 8) }, Err(LatchError::BadPlace(_))));
    assert_eq!(Latch::BYTES, 64);
    assert_ne!(Latch::FINGERPRINT, 0);
}

/// As where a setter was stopped for ever after it had set it, and before it woke anybody.
#[test]
fn a_sleeper_looks_for_itself() {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let latch = unsafe { Latch::create(&mapping, AT) }.unwrap();
    let me = table.join().unwrap();
    let sleeper = std::thread::spawn(move || latch.wait(&me, &[], None));
    std::thread::sleep(Duration::from_millis(50));
    let word: &AtomicU32 = mapping.region().share(AT + 8).unwrap();
    word.store(1, Relaxed);
    let waited = within(Duration::from_secs(30), move || sleeper.join().unwrap());
    assert_eq!(waited, Ok(()));
}
