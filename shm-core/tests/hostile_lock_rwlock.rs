//! A reader-writer lock that lies, before it is attached and while it is used: each call ends,
//! sleepers obey their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::lock::rwlock::{LockError, RwLock};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const SEATS: u32 = 2;
const BYTES: usize = RwLock::bytes_for(SEATS) as usize;
/// Where the words lie: the exclusive right, and the first row.
const WORDS: [std::ops::Range<usize>; 2] = [16..24, 128..136];

/// What a lock holds in the course of its life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let lock = unsafe { RwLock::create(&mapping, 0, SEATS) }.unwrap();
    let mut images = vec![block.outside().read()];
    let shares = (lock.read(me).unwrap(), lock.read(me).unwrap());
    images.push(block.outside().read());
    assert!(matches!(lock.write_until(peer, soon()), Err(LockError::TimedOut)));
    images.push(block.outside().read());
    drop(shares);
    let right = lock.write(me).unwrap();
    images.push(block.outside().read());
    assert!(matches!(lock.read_until(peer, soon()), Err(LockError::TimedOut)));
    images.push(block.outside().read());
    std::mem::forget(right);
    lock.clean_up(me.id());
    images.push(block.outside().read());
    images
}

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let words = images
        .iter()
        .flat_map(|image| WORDS.map(|word| u64::from_ne_bytes(image[word].try_into().unwrap())));
    words.flat_map(|word| [word, word ^ 1, word ^ 1 << 32]).collect()
}

/// Every call there is, with a deadline where it sleeps; whether it could be attached.
fn use_it(
    trials: &Trials,
    seed: u64,
    mapping: &Arc<Mapping>,
    [me, peer]: &[Arc<Member>; 2],
) -> bool {
    let attached = trials.call(seed, "attach", || RwLock::attach(mapping, 0));
    let Some(Ok(lock)) = attached else { return false };
    for who in [me, peer] {
        let deadline = soon();
        let read = trials.call(seed, "read_until", || lock.read_until(who, deadline));
        let early = matches!(read, Some(Err(LockError::TimedOut))) && Instant::now() < deadline;
        trials.check(seed, "read_until", !early, "timed out too early");
        trials.call(seed, "drop", || drop(read));
        let deadline = soon();
        let written = trials.call(seed, "write_until", || lock.write_until(who, deadline));
        let early = matches!(written, Some(Err(LockError::TimedOut))) && Instant::now() < deadline;
        trials.check(seed, "write_until", !early, "timed out too early");
        trials.call(seed, "drop", || drop(written));
        let recovered = trials.call(seed, "recover", || lock.recover(who));
        if let Some(Ok(Some(recovery))) = recovered {
            trials.call(seed, "Recovery::done", || drop(recovery.done()));
        }
        trials.call(seed, "try_read", || drop(lock.try_read(who)));
        trials.call(seed, "try_write", || drop(lock.try_write(who)));
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "clean_up", || lock.clean_up(id));
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn a_lock_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("rwlock, before", 600, 200));
}

#[test]
fn a_lock_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("rwlock, meanwhile", 60, 30));
}
