//! Latches that lie, before they are attached and while they are used: each call ends, sleepers
//! obey their deadline, and nothing but their bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use buffer_pool::latch::{LatchError, Latches, Shape, User};
use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const SHAPE: Shape = Shape { frames: 2, seats: 2, threads: 1 };
const BYTES: usize = Latches::bytes_for(SHAPE) as usize;
/// Where the words lie: of the first latch, and the first of its first row.
const WORDS: [std::ops::Range<usize>; 3] = [0..8, 8..16, 128..136];

/// What they hold in the course of their life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Latches::create(&mapping, 0, SHAPE) }.unwrap();
    let latches = Latches::attach(&mapping, 0, SHAPE).unwrap();
    let mut images = vec![block.outside().read()];
    let [me, peer] = [me, peer].map(|member| latches.user(member, 0).unwrap());
    let shares = (me.share(0, None).unwrap(), me.share(1, None).unwrap());
    images.push(block.outside().read());
    assert_eq!(peer.exclusive(0, Some(soon())).unwrap_err(), LatchError::TimedOut);
    let latch = peer.share_exclusive(0, None).unwrap();
    images.push(block.outside().read());
    drop((shares, latch));
    let change = me.exclusive(0, None).unwrap().change().unwrap();
    images.push(block.outside().read());
    assert_eq!(peer.share(0, Some(soon())).unwrap_err(), LatchError::TimedOut);
    drop(change);
    images.push(block.outside().read());
    images
}

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let words = images
        .iter()
        .flat_map(|image| WORDS.map(|word| u64::from_ne_bytes(image[word].try_into().unwrap())));
    words.flat_map(|word| [word, word ^ 1, word ^ 2, word ^ 1 << 32]).collect()
}

/// A call that waits until a deadline.
fn waits<T>(
    trials: &Trials,
    seed: u64,
    call: &'static str,
    take: impl FnOnce(Option<Instant>) -> Result<T, LatchError>,
) -> Option<T> {
    let deadline = soon();
    let taken = trials.call(seed, call, || take(Some(deadline)))?;
    let early = matches!(taken, Err(LatchError::TimedOut)) && Instant::now() < deadline;
    trials.check(seed, call, !early, "timed out too early");
    taken.ok()
}

fn use_frame(trials: &Trials, seed: u64, user: &User, frame: u32) {
    let share = waits(trials, seed, "share", |end| user.share(frame, end));
    trials.call(seed, "Share::drop", || drop(share));
    waits(trials, seed, "read", |end| user.read(frame, end, || ()));
    if let Some(latch) =
        waits(trials, seed, "share_exclusive", |end| user.share_exclusive(frame, end))
    {
        let why = |end| latch.upgrade(end).map_err(|(_, why)| why);
        let latch = waits(trials, seed, "upgrade", why);
        trials.call(seed, "Exclusive::drop", || drop(latch));
    }
    if let Some(latch) = waits(trials, seed, "exclusive", |end| user.exclusive(frame, end)) {
        trials.call(seed, "change, done", || drop(latch.change().map(|change| change.done())));
    }
    trials.call(seed, "owner", || user.latches().owner(frame));
    trials.call(seed, "repair", || drop(user.repair(frame)));
    if let Some(Ok(Some(change))) = trials.call(seed, "repair", || user.repair(frame)) {
        trials.call(seed, "Change::done", || drop(change.done()));
    }
    trials.call(seed, "try_share", || drop(user.try_share(frame)));
    trials.call(seed, "try_share_exclusive", || drop(user.try_share_exclusive(frame)));
    trials.call(seed, "try_exclusive", || drop(user.try_exclusive(frame)));
}

/// Every call there is, with a deadline where it sleeps.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>; 2]) -> bool {
    let attached = trials.call(seed, "attach", || Latches::attach(mapping, 0, SHAPE));
    let Some(Ok(latches)) = attached else { return false };
    for member in members {
        let user = latches.user(member, 0).unwrap();
        (0..SHAPE.frames).for_each(|frame| use_frame(trials, seed, &user, frame));
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "clean_up", || latches.clean_up(id));
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn latches_of_lies_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("latch, before", 600, 200));
}

#[test]
fn latches_that_change_all_the_time_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("latch, meanwhile", 60, 30));
}
