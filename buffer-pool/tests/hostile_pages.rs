//! Pages that lie, before they are attached and while they are used: each call ends, sleepers obey
//! their deadline, and nothing but their bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
mod pages_common;

use buffer_pool::latch::LatchError;
use buffer_pool::pages::{Pages, Shape, User};
use hostile_common::{Victim, guarded, soon, with_members};
use pages_common::{PAGE_BYTES, copy, shape, tear, write};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const SHAPE: Shape = shape(2, 2, 1);
const BYTES: usize = Pages::bytes_for(SHAPE) as usize;
/// Where the words lie behind the pages: two latches, two rows and their users, two states, and the
/// intents.
const LATCHES_AT: usize = 2 * PAGE_BYTES;
const STATES_AT: usize = LATCHES_AT + 5 * 64;
const INTENTS_AT: usize = STATES_AT + 2 * 64;

/// The first latch and its version, the first state; owner, head and the first two ranges of the
/// first intent.
const WORDS: [usize; 7] = [
    LATCHES_AT,
    LATCHES_AT + 8,
    STATES_AT,
    INTENTS_AT,
    INTENTS_AT + 8,
    INTENTS_AT + 64,
    INTENTS_AT + 72,
];

/// What they hold in the course of their life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Pages::create(&mapping, 0, SHAPE) }.unwrap();
    let pages = Pages::attach(&mapping, 0, SHAPE).unwrap();
    let mut images = vec![block.outside().read()];
    let [user, other] = [me, peer].map(|member| pages.user(member, 0).unwrap());
    write(&mut other.exclusive(1, None).unwrap(), 1);
    let mut page = user.exclusive(0, None).unwrap();
    let before = copy(&page);
    images.push(block.outside().read());
    write(&mut page, 2);
    images.push(block.outside().read());
    tear(&mapping, (0, SHAPE), 0, &before, |word| word > 60);
    images.push(block.outside().read());
    std::mem::forget(page);
    std::mem::forget(user);
    pages.clean_up(me.id());
    images.push(block.outside().read());
    assert!(other.mend(0).unwrap());
    images.push(block.outside().read());
    let loading = other.load(1).unwrap();
    images.push(block.outside().read());
    drop(loading);
    images.push(block.outside().read());
    images
}

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let word =
        |image: &Vec<u8>, at: usize| u64::from_ne_bytes(image[at..at + 8].try_into().unwrap());
    let words = images.iter().flat_map(|image| WORDS.map(|at| word(image, at)));
    let nearly = |word| [word, word ^ 1, word ^ 2, word ^ 1 << 32, word ^ 1 << 42, word ^ 1 << 10];
    words.flat_map(nearly).collect()
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
    let mut bytes = [0; PAGE_BYTES];
    waits(trials, seed, "read", |end| user.read(frame, 0, &mut bytes, end));
    let share = waits(trials, seed, "share", |end| user.share(frame, end));
    trials.call(seed, "copy_out", || share.map(|page| copy(&page)));
    let alone = waits(trials, seed, "share_exclusive", |end| user.share_exclusive(frame, end));
    trials.call(seed, "mark_clean", || alone.map(|mut page| page.mark_clean()));
    if let Some(mut page) = waits(trials, seed, "exclusive", |end| user.exclusive(frame, end)) {
        trials.call(seed, "write", || write(&mut page, 3));
        trials.call(seed, "Exclusive::drop", || drop(page));
    }
    trials.call(seed, "mend", || user.mend(frame));
    trials.call(seed, "try_share_exclusive", || drop(user.try_share_exclusive(frame)));
    if let Some(Ok(Some(mut page))) = trials.call(seed, "load", || user.load(frame)) {
        trials.call(seed, "Loading::copy_in", || page.copy_in(0, &bytes));
        trials.call(seed, "Loading::done", || page.done());
    }
}

/// Every call there is, with a deadline where it sleeps.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>; 2]) -> bool {
    let attached = trials.call(seed, "attach", || Pages::attach(mapping, 0, SHAPE));
    let Some(Ok(pages)) = attached else { return false };
    for member in members {
        // Where all intents are somebody's it has none.
        if let Some(Ok(user)) = trials.call(seed, "user", || pages.user(member, 0)) {
            (0..SHAPE.frames).for_each(|frame| use_frame(trials, seed, &user, frame));
            for bits in [1, 1 << 22 | 1, u32::MAX] {
                let id = ParticipantId::from_bits(bits).unwrap();
                trials.call(seed, "User::clean_up", || user.clean_up(id));
            }
            trials.call(seed, "User::drop", || drop(user));
        }
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "clean_up", || pages.clean_up(id));
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn pages_of_lies_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("pages, before", 600, 200));
}

#[test]
fn pages_that_change_all_the_time_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("pages, meanwhile", 60, 30));
}
