//! The end of a log that lies, before it is attached and while it is used: each call ends, and
//! nothing but its bytes is touched; and whatever stands in the lanes, the file is whole.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use buffer_pool::tail::{Lsn, RecordError, Said, Shape, Tail, User, parse};
use hostile_common::{LIMIT, Victim, guarded, members, soon, with_members};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::in_a_fork;
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { seats: 2, threads: 1, slots: 4, lane_bytes: 128 };
const BYTES: usize = Tail::bytes_for(SHAPE) as usize;
const LOG: u64 = 9;
/// So long two threads are given to meet.
const TIME_MAX: Duration = Duration::from_secs(5);
const START: Lsn = Lsn(4096);
/// Where the lanes begin, which are the last part.
const LANES_AT: usize = BYTES - 2 * 128;

/// What they hold in the course of their life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
    let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
    let mut images = vec![block.outside().read()];
    for (round, member) in [me, peer, me].into_iter().enumerate() {
        let mut user = tail.user(member, 0).unwrap();
        for said in [&b"one"[..], b"and another"] {
            user.record(&[said]).unwrap().take_in().map_err(|(_, error)| error).unwrap();
            images.push(block.outside().read());
        }
        let mut writer = tail.writer(member, None).unwrap();
        writer.gather(usize::MAX, &mut Vec::new()).unwrap();
        images.push(block.outside().read());
        if round > 0 {
            writer.wrote();
            images.push(block.outside().read());
        }
    }
    images
}

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let words = images.iter().flat_map(|image| image.as_chunks().0);
    let mut words: Vec<u64> = words.map(|word| u64::from_ne_bytes(*word)).collect();
    words.sort_unstable();
    words.dedup();
    let nearly = |word| [word, word ^ 1, word ^ 2, word ^ 1 << 24, word + 8, word ^ 1 << 31];
    let far = [u64::MAX, 1 << 63, u64::MAX << 24 | 2, 8, 1 << 31];
    words.into_iter().flat_map(nearly).chain(far).collect()
}

fn make(trials: &Trials, seed: u64, user: &mut User) {
    for len in [0, 3, 100, 1000] {
        let made = trials.call(seed, "record", || {
            let record = user.record(&[&vec![7; len]])?;
            record.take_in().map_err(|(_, error)| error)
        });
        let Some(made) = made else { continue };
        let is_known = match made {
            Ok(range) => range.start < range.end,
            Err(RecordError::TooLong { .. }) => len == 1000,
            Err(error) => matches!(error, RecordError::Full | RecordError::Corrupt),
        };
        trials.check(seed, "record", is_known, "neither a record nor an error of its own");
    }
}

/// What is gathered is records, one behind the other.
fn write_out(trials: &Trials, seed: u64, tail: &Tail, member: &Member) {
    let writer = trials.call(seed, "writer", || tail.writer(member, Some(soon())));
    let Some(Ok(mut writer)) = writer else { return };
    for most in [1, usize::MAX] {
        let mut bytes = Vec::new();
        let range = trials.call(seed, "gather", || writer.gather(most, &mut bytes));
        let Some(Ok(range)) = range else { break };
        let (mut at, mut rest) = (range.start, &bytes[..]);
        while let Some((said, space)) = parse(LOG, at, rest) {
            let is_void = said == Said::Nothing;
            trials.check(seed, "gather", is_void || space > 0, "a record of no bytes");
            (at, rest) = (Lsn(at.0 + space), &rest[space as usize..]);
        }
        trials.check(seed, "gather", rest.is_empty(), "the file would not be whole");
        trials.check(seed, "gather", at == range.end, "the range is another");
        trials.call(seed, "wrote", || writer.wrote());
    }
}

/// Every call there is, with a deadline where it sleeps.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>; 2]) -> bool {
    let attached = trials.call(seed, "attach", || Tail::attach(mapping, 0, SHAPE, LOG));
    let Some(Ok(tail)) = attached else { return false };
    for member in members {
        let user = trials.call(seed, "user", || tail.user(member, 0));
        if let Some(Ok(mut user)) = user {
            make(trials, seed, &mut user);
        }
        write_out(trials, seed, &tail, member);
        trials.call(seed, "has_taken", || tail.has_taken(member.id().slot(), 8));
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "clean_up", || tail.clean_up(id));
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn an_end_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("log's end, before", 600, 200));
}

#[test]
fn an_end_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("log's end, meanwhile", 60, 30));
}

/// Whoever scribbles on what is in a lane has that record lost, and no other.
#[test]
fn a_record_that_is_damaged_in_its_lane_is_replaced() {
    let members = members();
    for damaged in 0..3 {
        let (_block, mapping) = guarded(&[0; BYTES], 0);
        // SAFETY: nobody else has the mapping.
        unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
        let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
        for member in &members {
            let mut user = tail.user(member, 0).unwrap();
            user.record(&[b"this"]).unwrap().take_in().map_err(|(_, error)| error).unwrap();
        }
        // The LSN, the length, and what it says.
        let word = mapping.region().share_slice::<AtomicU64>(LANES_AT as u64, 3).unwrap();
        word[damaged].fetch_xor(1 << 3, Ordering::Relaxed);
        let (mut bytes, mut writer) = (Vec::new(), tail.writer(&members[0], None).unwrap());
        let range = writer.gather(usize::MAX, &mut bytes).unwrap();
        assert_eq!(range, START..Lsn(START.0 + 48));
        assert_eq!(parse(LOG, START, &bytes), Some((Said::Nothing, 24)));
        let other = parse(LOG, Lsn(START.0 + 24), &bytes[24..]);
        assert_eq!(other, Some((Said::Something(b"this"), 24)));
    }
}

/// One word at a time is a lie, whichever and whenever: also where a single wrong count would do.
#[test]
fn each_word_may_be_any() {
    with_victim(|victim| {
        let trials = Trials::new("log's end, each word", LIMIT);
        let far = [0, 8, 1 << 31, 1 << 62, u64::MAX - 7, u64::MAX];
        let mut seed = 0;
        for image in victim.images.iter().step_by(3) {
            for at in (0..BYTES).step_by(8) {
                for lie in far {
                    let mut image = image.clone();
                    image[at..at + 8].copy_from_slice(&lie.to_ne_bytes());
                    let (block, mapping) = guarded(&image, seed);
                    (victim.use_it)(&trials, seed, &mapping);
                    trials.check(seed, "all of it", block.is_intact(), "wrote beside its memory");
                    seed += 1;
                }
            }
        }
        trials.finish();
    });
}

/// Somebody shortens a record as it is looked at, and is right about its checksum: the file is
/// whole all the same.
#[test]
fn a_record_that_changes_its_length_is_none() {
    let [me, peer] = &members();
    // What the words of the first lane are once its record says this.
    let made = |said: &[u8]| {
        let mapping = Mapping::heap(BYTES);
        // SAFETY: nobody else has the mapping.
        unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
        let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
        let mut user = tail.user(me, 0).unwrap();
        user.record(&[said]).unwrap().take_in().map_err(|(_, error)| error).unwrap();
        (mapping, tail)
    };
    let length = |mapping: &Arc<Mapping>| {
        MappedSlice::<AtomicU64>::new(mapping, LANES_AT as u64 + 8, 1).unwrap()
    };
    let (mapping, tail) = made(b"8 bytes.");
    let (word, (other, _)) = (length(&mapping), made(b""));
    let lengths = [&word, &length(&other)].map(|word| word[0].load(Ordering::Relaxed));
    let is_over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for length in
                lengths.iter().cycle().take_while(|_| is_over.load(Ordering::Relaxed) == 0)
            {
                word[0].store(*length, Ordering::Relaxed);
            }
        });
        let (end, mut last, mut changes) = (Instant::now() + TIME_MAX, false, 0);
        let mut are_whole = true;
        while are_whole && changes < 5000 && Instant::now() < end {
            let (mut bytes, mut writer) = (Vec::new(), tail.writer(peer, None).unwrap());
            let range = writer.gather(usize::MAX, &mut bytes).unwrap();
            assert_eq!(range, START..Lsn(START.0 + 24));
            let record = parse(LOG, START, &bytes);
            are_whole = record.is_some_and(|(_, space)| space == 24);
            // The other thread was there meanwhile.
            let is_void = record.is_some_and(|(said, _)| said == Said::Nothing);
            changes += u32::from(is_void != last);
            last = is_void;
        }
        is_over.store(1, Ordering::Relaxed);
        assert!(are_whole, "the file would not be whole");
    });
}

/// What somebody says of where a record ends makes no other one seem to be in the file.
#[test]
fn an_end_that_lies_before_another_is_told() {
    let [me, peer] = members();
    let (_block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
    let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
    let say = |member| {
        let mut user = tail.user(member, 0).unwrap();
        user.record(&[b"this"]).unwrap().take_in().map_err(|(_, error)| error).unwrap()
    };
    say(&me);
    say(&peer);
    // The end of the second slot, as if there were nothing.
    let second = (LANES_AT - 2 * 128 - 3 * 64) as u64;
    let words = mapping.region().share_slice::<AtomicU64>(second, 2).unwrap();
    words[1].store(START.0, Ordering::Relaxed);
    say(&me);
    // At once, and one after the other.
    for most in [usize::MAX, 1] {
        let mut writer = tail.writer(&peer, None).unwrap();
        let [_, second] = [most; 2].map(|most| writer.gather(most, &mut Vec::new()));
        assert_eq!(second, Err(RecordError::Corrupt));
    }
}

#[test]
fn a_forked_child_takes_nothing_in_and_writes_nothing_out() {
    let [me, peer] = members();
    let (_block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
    let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
    let mut user = tail.user(&me, 0).unwrap();
    user.record(&[b"this"]).unwrap().take_in().map_err(|(_, error)| error).unwrap();
    let mut writer = tail.writer(&peer, None).unwrap();
    writer.gather(usize::MAX, &mut Vec::new()).unwrap();
    let mut record = Some(user.record(&[b"that"]).unwrap());
    assert!(in_a_fork(|| {
        let taken = record.take().unwrap().take_in().map_err(|(_, error)| error);
        let gathered = writer.gather(usize::MAX, &mut Vec::new());
        writer.wrote();
        matches!((taken, gathered), (Err(RecordError::Forked(_)), Err(RecordError::Forked(_))))
    }));
    assert_eq!(tail.written(), START);
    drop(writer);
    let range = record.unwrap().take_in().map_err(|(_, error)| error).unwrap();
    assert_eq!(range, Lsn(START.0 + 24)..Lsn(START.0 + 48));
}
