//! A reader-writer lock that lies, before it is attached and while it is used: each call ends,
//! sleepers obey their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::lock::rwlock::{LockError, RwLock};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::Instant;

const SEATS: u32 = 2;
const BYTES: usize = RwLock::bytes_for(SEATS) as usize;
/// Where the words lie: the exclusive right, and the first row.
const WORDS: [std::ops::Range<usize>; 2] = [16..24, 128..136];

/// Two members of a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

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

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let words = images
        .iter()
        .flat_map(|image| WORDS.map(|word| u64::from_ne_bytes(image[word].try_into().unwrap())));
    let words: Vec<u64> = words.flat_map(|word| [word, word ^ 1, word ^ 1 << 32]).collect();
    Liar::new(seed, &images[seed as usize % images.len()]).with_images(images).with_values(&words)
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

#[test]
fn a_lock_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("rwlock, before", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(600) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 4);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "rwlock", block.is_intact(), "wrote beside the lock");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_lock_that_changes_all_the_time_is_used_or_refused() {
    let (trials, members) = (Trials::new("rwlock, meanwhile", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(1000, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "rwlock", block.is_intact(), "wrote beside the lock");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
