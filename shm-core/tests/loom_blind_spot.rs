//! Why our modelled atomics carry a shadow word: loom 0.7.2 skips interleavings without it.
//!
//! One thread loads a word and then stores to it; another loads it. Each order of the two makes
//! sense, and loom explores one of them: the thread's own load hides the other's earlier one.
//! Where this test fails after an update of loom, the shadow may go.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::model;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

trait Word: Send + Sync + 'static {
    fn zero() -> Self;
    fn load(&self) -> u32;
    fn store(&self, value: u32);
}

macro_rules! word {
    ($atomic:ty) => {
        impl Word for $atomic {
            fn zero() -> Self {
                <$atomic>::new(0)
            }
            fn load(&self) -> u32 {
                self.load(Relaxed)
            }
            fn store(&self, value: u32) {
                self.store(value, Relaxed);
            }
        }
    };
}
word!(model::runtime::sync::atomic::AtomicU32);
word!(shm_core::sync::AtomicU32);

/// Whether the writer looks at the word before it writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Blind,
    LoadsFirst,
}

/// The values that the reader sees in any execution.
fn seen<W: Word>(writer: Writer) -> BTreeSet<u32> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = seen.clone();
    model::check(move || {
        let word = Arc::new(W::zero());
        let theirs = word.clone();
        let writing = model::thread::spawn(move || {
            if writer == Writer::LoadsFirst {
                theirs.load();
            }
            theirs.store(1);
        });
        let value = word.load();
        writing.join().unwrap();
        all.lock().unwrap().insert(value);
    });
    std::mem::take(&mut *seen.lock().unwrap())
}

#[test]
fn a_load_of_ones_own_hides_anothers_from_loom() {
    use model::runtime::sync::atomic::AtomicU32 as Bare;
    assert_eq!(seen::<Bare>(Writer::Blind), BTreeSet::from([0, 1]));
    assert_eq!(seen::<Bare>(Writer::LoadsFirst).len(), 1, "loom sees it: the shadow may go");
}

#[test]
fn the_shadow_shows_it() {
    use shm_core::sync::AtomicU32 as Shadowed;
    for writer in [Writer::Blind, Writer::LoadsFirst] {
        assert_eq!(seen::<Shadowed>(writer), BTreeSet::from([0, 1]));
    }
}
