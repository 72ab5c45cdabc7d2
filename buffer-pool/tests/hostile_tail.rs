//! The end of a log that lies, before it is attached and while it is used: each call ends, and
//! nothing but its bytes is touched; and whatever stands in the lanes, the file is whole.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use buffer_pool::tail::{Lsn, RecordError, Said, Shape, Tail, User, parse};
use hostile_common::{Victim, guarded, members, soon, with_members};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::liar::Trials;
use std::sync::Arc;

const SHAPE: Shape = Shape { seats: 2, threads: 1, slots: 4, lane_bytes: 128 };
const BYTES: usize = Tail::bytes_for(SHAPE) as usize;
const LOG: u64 = 9;
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
        trials.call(seed, "has_taken_last", || tail.has_taken_last(member.id().slot()));
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
