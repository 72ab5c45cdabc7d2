//! The hostile queue of records between two honest sides, under every interleaving and with a death
//! at every access: the receiver learns of a record from its header, in memory that it cannot
//! write, and the sender of room from the receiver's word. Nothing acknowledged is lost, nothing
//! arrives torn or twice, nobody hangs, and each side learns why the other is silent.
//!
//! What is common to hostile queues, `loom_hostile.rs` is about. A model's line has two words.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering, fence, yield_now};
use shm_core::trust::Hostile;
use shm_mq::fan_in::{Strange, Strangers, StrangersError, Why};
use shm_mq::spsc::model::{Ends, hostile};
use shm_mq::spsc::{Receiver, RecvError, SendError};
use shm_testkit::model::{self, Life};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Receives until the end: how many records, which must be `records` in order, and why it ended.
fn receive_all(mut receiver: Receiver<Hostile>, records: &[&[u8]]) -> (usize, RecvError) {
    let mut received = 0;
    loop {
        match receiver.recv() {
            Ok(record) => assert_eq!(*record, *records[received], "torn"),
            Err(end) => return (received, end),
        }
        received += 1;
    }
}

/// All records go through a ring of so many lines. The sender may die, and the receiver.
fn goes_through(lines: u64, records: &'static [&'static [u8]], [sends, receives]: [Life; 2]) {
    let Ends { mut sender, sender_held, receiver, receiver_held } = hostile(lines).unwrap();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let count = acknowledged.clone();
    let sending = model::thread::spawn(move || {
        let end = sends.run(move || {
            for record in records {
                sender.send(record)?;
                count.fetch_add(1, Relaxed);
            }
            Ok::<(), SendError>(())
        });
        if end.is_none() {
            sender_held.ends();
        }
        end
    });
    let received = receives.run(move || receive_all(receiver, records));
    if received.is_none() {
        receiver_held.ends();
    }
    match (sending.join().unwrap(), received) {
        (Some(Ok(())), Some(end)) => {
            assert_eq!(end, (records.len(), RecvError::Detached), "a record is lost");
        }
        (Some(Ok(())), None) => {}
        (Some(Err(end)), received) => {
            assert_eq!((end, received), (SendError::PeerDied, None), "a wrong verdict");
        }
        (None, Some((received, end))) => {
            assert!(received >= acknowledged.load(Relaxed), "an acknowledged record is lost");
            match end {
                // It died after it had said so.
                RecvError::Detached => assert_eq!(received, records.len()),
                other => assert_eq!(other, RecvError::PeerDied),
            }
        }
        (None, None) => {}
    }
}

fn both_live() -> [Life; 2] {
    [Life::endless(), Life::endless()]
}

/// Each fills a line: the second one waits in a ring of two lines until the first is released.
const TWO: &[&[u8]] = &[b"1", b"22"];
/// The same once more, at the beginning of the ring.
const THREE: &[&[u8]] = &[b"1", b"22", b"333"];

#[test]
fn one_record_arrives_whole_or_not_at_all() {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound, |lives| goes_through(2, &[b"1"], lives));
    println!("hostile records, one, each side dies: {tried:?}");
}

#[test]
fn either_side_of_a_full_ring_may_die_anywhere() {
    let bound = model::preemption_bound() - 1;
    let tried = model::every_death_of(bound, |lives| goes_through(2, TWO, lives));
    println!("hostile records, two, each side dies: {tried:?}");
}

#[test]
fn each_sleep_is_ended_by_a_ring() {
    println!("hostile records, three: {:?}", model::check(|| goes_through(2, THREE, both_live())));
}

/// The shadow of a word synchronizes together with fences, and here is one behind each load: what
/// passes above has to pass without it.
#[test]
fn nothing_rests_on_the_shadow() {
    model::without_shadow(|| {
        let tried = model::check(|| goes_through(2, THREE, both_live()));
        println!("hostile records, bare, three: {tried:?}");
    });
}

/// Two strangers send a record each to one receiver, and leave; either may die.
fn two_strangers([first, second]: [Life; 2]) {
    let mut strangers = Strangers::new();
    let sending = [first, second].map(|life| {
        let ends = hostile(2).unwrap();
        strangers.admit(strangers.len(), ends.receiver);
        let (mut sender, held) = (ends.sender, ends.sender_held);
        model::thread::spawn(move || {
            let sent = life.run(move || {
                sender.send(b"1").unwrap();
                // It leaves.
            });
            if sent.is_none() {
                held.ends();
            }
            sent.is_some()
        })
    });
    let (mut records, mut ends) = ([0; 2], [None; 2]);
    loop {
        match strangers.recv() {
            Ok(Strange::Record(from, record)) => {
                assert_eq!(*record, *b"1", "torn");
                records[*from] += 1;
            }
            Ok(Strange::End { from, why, received }) => {
                assert!(ends[from].replace(why).is_none(), "an end is told twice");
                assert_eq!(received, records[from]);
            }
            Err(end) => break assert_eq!(end, StrangersError::Nobody),
        }
    }
    for (number, sending) in sending.into_iter().enumerate() {
        match (sending.join().unwrap(), records[number], ends[number]) {
            (true, 1, Some(Why::Left)) | (false, 1, Some(Why::Left)) => {}
            (false, 0 | 1, Some(Why::Died)) => {}
            other => panic!("sender {number} lives, is received, ended: {other:?}"),
        }
    }
}

#[test]
fn each_of_two_strangers_is_received_and_has_its_end() {
    let bound = model::preemption_bound() - 1;
    let tried = model::every_death_of(bound, two_strangers);
    println!("two strangers, each dies: {tried:?}");
}

/// That of `released`, on both sides, keeps the receiver's last look before the sender's next
/// store: a load that sees a later store is not in loom. `loom_hostile` has the same orderings of
/// `position`. And the wake-up's fence is between a sender's last record and its end.
const NOT_HERE: [&str; 3] = ["tell: ", "position: ", "leave: "];

#[test]
fn every_ordering_matters() {
    let files = ["shm-mq/src/spsc/", "shm-mq/src/hostile/"];
    let found = model::every_ordering_matters_but(&files, &NOT_HERE, || {
        model::check(|| goes_through(2, TWO, both_live()));
    });
    assert_eq!(found, 3, "the header: the Release, and the fence behind the load; the end's fence");
}

/// A mistake in a queue of one record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The header is published Relaxed.
    PublishedRelaxed,
    /// No fence behind the load of the header.
    NoFence,
    /// The length is loaded once more after it was checked, from memory that a liar writes.
    LoadedTwice,
    /// That the sender has left is believed without a fence, and then no record is found.
    LeftWithoutFence,
}

const WORD: u64 = 0x5eed;
/// The longest record.
const LONGEST: u64 = 8;

/// The sender's memory.
struct Small {
    header: AtomicU64,
    word: Word,
    left: AtomicU64,
}
// SAFETY: a modelled word and atomics.
unsafe impl shm_core::ShmSync for Small {}

fn small_memory() -> Mapped<Small> {
    let [header, left] = [0, 0].map(AtomicU64::new);
    let value = Small { header, word: Word::new(), left };
    // SAFETY: nobody else has the mapping.
    unsafe { Mapped::place(&Mapping::heap(4096), 0, value) }.unwrap()
}

/// A sender publishes a record and leaves; the receiver sees that, and looks once more.
fn small_end(bug: Bug) {
    let shared = small_memory();
    let theirs = shared.clone();
    let sending = model::thread::spawn(move || {
        theirs.header.store(LONGEST, Ordering::Release);
        theirs.left.store(1, Ordering::Release);
    });
    while shared.left.load(Ordering::Relaxed) == 0 {
        yield_now();
    }
    if bug != Bug::LeftWithoutFence {
        fence(Ordering::Acquire);
    }
    assert_eq!(shared.header.load(Ordering::Relaxed), LONGEST, "a record is lost");
    sending.join().unwrap();
}

/// What a receiver needs of a record, and nothing around it. The sender lies about the length as
/// soon as the record is there.
fn small(bug: Bug) {
    let shared = small_memory();
    let theirs = shared.clone();
    let sending = model::thread::spawn(move || {
        theirs.word.store(WORD);
        let relaxed = bug == Bug::PublishedRelaxed;
        let order = if relaxed { Ordering::Relaxed } else { Ordering::Release };
        theirs.header.store(LONGEST, order);
        theirs.header.store(LONGEST + 1, order);
    });
    loop {
        let header = shared.header.load(Ordering::Relaxed);
        if bug != Bug::NoFence {
            fence(Ordering::Acquire);
        }
        if header > LONGEST {
            break;
        }
        if header > 0 {
            assert_eq!(shared.word.load(), WORD, "torn");
            let twice = bug == Bug::LoadedTwice;
            let used = if twice { shared.header.load(Ordering::Relaxed) } else { header };
            assert!(used <= LONGEST, "more than was checked");
            break;
        }
        yield_now();
    }
    sending.join().unwrap();
}

#[test]
fn planted_bugs_are_found() {
    model::check(|| small(Bug::None));
    model::check(|| small_end(Bug::None));
    model::finds("a record is lost", || {
        model::check(|| small_end(Bug::LeftWithoutFence));
    });
    for (bug, reason) in [
        (Bug::PublishedRelaxed, "torn"),
        (Bug::NoFence, "torn"),
        (Bug::LoadedTwice, "more than was checked"),
    ] {
        model::finds(reason, || {
            model::check(move || small(bug));
        });
    }
}
