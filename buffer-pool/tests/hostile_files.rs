//! Files that lie, before they are attached and while they are used: each call ends, sleepers obey
//! their deadline, and nothing but their bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use buffer_pool::files::{
    Cut, ExtendError, FileKey, FileNumber, Files, Registrar, RegistrarError, Shape, WaitError,
};
use buffer_pool::frames::Entries;
use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const SHAPE: Shape = Shape { files: 3, entries: 32 };
const BYTES: usize = Files::bytes_for(SHAPE) as usize;
/// Where the words lie: of the head, and of the first two rows.
const WORDS: [usize; 9] = [0, 8, 16, 24, 64, 72, 80, 128, 136];

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 1 }
}

/// What they hold in the course of their life.
fn images([me, _]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Files::create(&mapping, 0, SHAPE) }.unwrap();
    let files = Files::attach(&mapping, 0).unwrap();
    let mut images = vec![block.outside().read()];
    let mut registrar = files.registrar(me, None).unwrap();
    let number = registrar.register(key(1), "one".as_ref(), 3, 9).unwrap().number;
    registrar.register(key(2), "another".as_ref(), 8, 8).unwrap();
    images.push(block.outside().read());
    drop(registrar);
    images.push(block.outside().read());
    let mut registrar = files.registrar(me, None).unwrap();
    drop(registrar.shrink(number, 1).unwrap());
    images.push(block.outside().read());
    drop(registrar.drop_file(number).unwrap());
    images.push(block.outside().read());
    registrar.unfinished().into_iter().for_each(|cut| cut.done().unwrap());
    drop(registrar);
    images.push(block.outside().read());
    images
}

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let words = images.iter().flat_map(|image| {
        WORDS.map(|at| u64::from_ne_bytes(image[at..at + 8].try_into().unwrap()))
    });
    let nearly = |word: u64| {
        [word, word ^ 1, word ^ 1 << 32, word ^ 1 << 52, word ^ 2 << 52, word | 0xffff_ffff]
    };
    words.flat_map(nearly).collect()
}

/// A call that waits until a deadline.
fn waits<T, E>(
    trials: &Trials,
    seed: u64,
    call: &'static str,
    is_late: impl FnOnce(&E) -> bool,
    take: impl FnOnce(Option<Instant>) -> Result<T, E>,
) -> Option<T> {
    let deadline = soon();
    let taken = trials.call(seed, call, || take(Some(deadline)))?;
    let early = taken.as_ref().err().is_some_and(is_late) && Instant::now() < deadline;
    trials.check(seed, call, !early, "timed out too early");
    taken.ok()
}

/// What needs no right.
fn look(trials: &Trials, seed: u64, files: &Files, number: FileNumber, member: &Member) {
    trials.call(seed, "info", || drop(files.info(number)));
    let length = trials.call(seed, "length", || files.length(number));
    for block in [0, 1, 8, 31, u32::MAX - 1] {
        let Some(page) = number.page(block) else { continue };
        trials.call(seed, "contains", || files.contains(page));
        trials.call(seed, "admits", || files.admits(page));
        trials.call(seed, "entry", || files.entry(page).map(|entry| entry.fetch_or(0, Relaxed)));
    }
    if let (Some(Ok(_)), Some(Ok(from))) = (length, trials.call(seed, "end", || files.end(number)))
    {
        let to = from.blocks.max(5);
        let extended = trials.call(seed, "extend", || files.extend(number, from, to));
        if let Some(Err(ExtendError::Shrinking { .. })) = extended {
            let is_late = |error: &_| matches!(error, WaitError::TimedOut);
            waits(trials, seed, "wait_shrinking", is_late, |end| {
                files.wait_shrinking(number, member, end)
            });
        }
    }
}

fn finish(trials: &Trials, seed: u64, cut: Cut<'_>) {
    trials.call(seed, "Cut::blocks", || (cut.number(), cut.blocks(), cut.is_drop()));
    trials.call(seed, "Cut::done", || cut.done());
}

fn change(trials: &Trials, seed: u64, registrar: &mut Registrar<'_>, number: FileNumber) {
    if let Some(cuts) = trials.call(seed, "unfinished", || registrar.unfinished()) {
        cuts.into_iter().for_each(|cut| finish(trials, seed, cut));
    }
    for id in 1..4 {
        trials.call(seed, "register", || drop(registrar.register(key(id), "one".as_ref(), 2, 9)));
    }
    if let Some(Ok(cut)) = trials.call(seed, "shrink", || registrar.shrink(number, 1)) {
        finish(trials, seed, cut);
    }
    if let Some(Ok(cut)) = trials.call(seed, "drop_file", || registrar.drop_file(number)) {
        finish(trials, seed, cut);
    }
}

/// Every call there is, with a deadline where it sleeps.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>; 2]) -> bool {
    let attached = trials.call(seed, "attach", || Files::attach(mapping, 0));
    let Some(Ok(files)) = attached else { return false };
    let listed = trials.call(seed, "list", || files.list()).unwrap_or_default();
    let found = trials.call(seed, "find", || files.find(key(1))).flatten();
    let numbers = listed.iter().map(|file| file.number).chain(found);
    let numbers: Vec<_> =
        numbers.chain([0, 1, 1 << 20, u32::MAX].map(FileNumber::from_bits)).collect();
    for (number, member) in numbers.into_iter().zip(members.iter().cycle()) {
        look(trials, seed, &files, number, member);
        let is_late = |error: &_| matches!(error, RegistrarError::TimedOut);
        let registrar =
            waits(trials, seed, "registrar", is_late, |end| files.registrar(member, end));
        if let Some(mut registrar) = registrar {
            change(trials, seed, &mut registrar, number);
            trials.call(seed, "Registrar::drop", || drop(registrar));
        }
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "reap", || files.reap(id));
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn files_of_lies_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("files, before", 600, 200));
}

#[test]
fn files_that_change_all_the_time_are_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("files, meanwhile", 60, 20));
}
