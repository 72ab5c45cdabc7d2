//! The hostile stream between two honest sides, under every interleaving and with a death at every
//! access: each side writes a mapping of its own and makes relaxed loads of the other's. Nothing
//! acknowledged is lost, nothing arrives torn or twice, nobody hangs, and each side learns why the
//! other is silent.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sealed::Doorbell;
use shm_core::sync::{AtomicU32, Ordering, fence, yield_now};
use shm_core::trust::Hostile;
use shm_mq::stream::model::{Ends, hostile};
use shm_mq::stream::{Receiver, RecvError, SendError};
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Life};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Receives until the end: how many messages, which must be `messages` in order, and why it ended.
fn receive_all(mut receiver: Receiver<Hostile>, messages: &[&[u8]]) -> (usize, RecvError) {
    let mut received = 0;
    loop {
        match receiver.recv() {
            Ok(message) => assert_eq!(*message, *messages[received], "torn"),
            Err(end) => return (received, end),
        }
        received += 1;
    }
}

/// All messages go through a ring of `ring` bytes. The sender may die, and the receiver.
fn goes_through(ring: u64, messages: &'static [&'static [u8]], [sends, receives]: [Life; 2]) {
    let Ends { mut sender, sender_held, receiver, receiver_held } = hostile(ring).unwrap();
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let count = acknowledged.clone();
    let sending = model::thread::spawn(move || {
        let end = sends.run(move || {
            for message in messages {
                sender.send(message)?;
                count.fetch_add(1, Relaxed);
            }
            Ok::<(), SendError>(())
        });
        if end.is_none() {
            sender_held.ends();
        }
        end
    });
    let received = receives.run(move || receive_all(receiver, messages));
    if received.is_none() {
        receiver_held.ends();
    }
    match (sending.join().unwrap(), received) {
        (Some(Ok(())), Some(end)) => {
            assert_eq!(end, (messages.len(), RecvError::Detached), "a message is lost");
        }
        (Some(Ok(())), None) => {}
        (Some(Err(end)), received) => {
            assert_eq!((end, received), (SendError::PeerDied, None), "a wrong verdict");
        }
        (None, Some((received, end))) => {
            assert!(received >= acknowledged.load(Relaxed), "an acknowledged message is lost");
            match end {
                // It died after it had said so.
                RecvError::Detached => assert_eq!(received, messages.len()),
                other => assert_eq!(other, RecvError::PeerDied),
            }
        }
        (None, None) => {}
    }
}

fn both_live() -> [Life; 2] {
    [Life::endless(), Life::endless()]
}

/// A message that stays pending until the sender goes: no fence of a wake-up stands between its
/// last position and its end.
fn comes_and_goes() {
    // A quarter of it is more than the message.
    let Ends { mut sender, receiver, .. } = hostile(64).unwrap();
    let sending = model::thread::spawn(move || sender.push(b"1").unwrap());
    let end = receive_all(receiver, &[b"1"]);
    assert_eq!(end, (1, RecvError::Detached), "a message is lost");
    sending.join().unwrap();
}

/// Each fills the ring of 8 bytes, which so wraps with every message.
const TWO: &[&[u8]] = &[b"1", b"22"];
/// Frames of 24 bytes in a ring of 40: the bytes of the second one go around the end.
const AROUND: &[&[u8]] = &[b"123456789", b"abcdefghi"];
/// Two fragments in the ring of 8 bytes.
const LONG: &[&[u8]] = &[b"123456"];
/// Through the ring of 8 bytes: each side sleeps more than once, and nobody's end wakes it.
const THREE: &[&[u8]] = &[b"1", b"22", b"333"];

#[test]
fn one_message_arrives_whole_or_not_at_all() {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound, |lives| goes_through(8, &[b"1"], lives));
    println!("hostile, one message, each side dies: {tried:?}");
    let tried = model::every_two_deaths(bound - 1, |lives| goes_through(8, &[b"1"], lives));
    println!("hostile, one message, both die: {tried:?}");
}

#[test]
fn a_ring_wraps_and_either_side_may_die_anywhere() {
    let bound = if is_deep() { model::preemption_bound() } else { 1 };
    let tried = model::every_death_of(bound, |lives| goes_through(40, AROUND, lives));
    println!("hostile, around the end, each side dies: {tried:?}");
}

/// With `SHM_DEEP=1`, one preemption less than above: only the number of words differs.
#[test]
fn either_side_of_a_ring_of_one_word_may_die_anywhere() {
    let bound = model::preemption_bound() - 1;
    for messages in [TWO, LONG] {
        let tried = model::every_death_of(bound, move |lives| goes_through(8, messages, lives));
        println!("hostile, {} in one word, each side dies: {tried:?}", messages.len());
    }
}

#[test]
fn each_sleep_of_three_messages_is_ended_by_a_ring() {
    println!("hostile, three: {:?}", model::check(|| goes_through(8, THREE, both_live())));
}

#[test]
fn a_sender_that_comes_and_goes_is_not_missed() {
    println!("hostile, comes and goes: {:?}", model::check(comes_and_goes));
}

/// The shadow of a word synchronizes together with fences, and here is one behind each load: what
/// passes above has to pass without it.
#[test]
fn nothing_rests_on_the_shadow() {
    model::without_shadow(|| {
        println!("hostile, bare, comes and goes: {:?}", model::check(comes_and_goes));
        let tried = model::check(|| goes_through(8, THREE, both_live()));
        println!("hostile, bare, three: {tried:?}");
        let tried = model::every_death_of(model::preemption_bound(), |lives| {
            goes_through(8, &[b"1"], lives);
        });
        println!("hostile, bare, one message, each side dies: {tried:?}");
    });
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["shm-mq/src/hostile/"], || {
        model::check(|| goes_through(8, &[b"1"], both_live()));
        model::check(comes_and_goes);
    });
    assert_eq!(found, 4, "position and state: the Release, and the fence behind the load");
}

/// A mistake in a stream of one message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The position is published Relaxed.
    PublishedRelaxed,
    /// No fence behind the load of the position.
    NoFence,
    /// The end is told Relaxed.
    LeftRelaxed,
    /// The receiver does not look at the position again after it saw that the sender has gone.
    NoSecondLook,
    /// It looks at the flag first, and then asks whether the sender has ended.
    FlagBeforeEnd,
}

const WORD: u64 = 0x5eed;

/// The sender's memory.
struct Small {
    word: Word,
    position: AtomicU32,
    detached: AtomicU32,
}
// SAFETY: modelled words and atomics.
unsafe impl shm_core::ShmSync for Small {}

impl Small {
    fn send(&self, bug: Bug) {
        let release_unless = |relaxed| if relaxed { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(WORD);
        self.position.store(1, release_unless(bug == Bug::PublishedRelaxed));
        self.detached.store(1, release_unless(bug == Bug::LeftRelaxed));
    }

    /// Whether the message is there.
    fn look(&self, bug: Bug) -> bool {
        let position = self.position.load(Ordering::Relaxed);
        if bug != Bug::NoFence {
            fence(Ordering::Acquire);
        }
        if position == 1 {
            assert_eq!(self.word.load(), WORD, "torn");
        }
        position == 1
    }

    fn is_detached(&self) -> bool {
        let detached = self.detached.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        detached == 1
    }
}

/// What a receiver needs of the protocol of `stream::hostile`, and nothing around it.
fn small(bug: Bug) {
    let (position, detached) = (AtomicU32::new(0), AtomicU32::new(0));
    let value = Small { word: Word::new(), position, detached };
    // SAFETY: nobody else has the mapping.
    let shared = unsafe { Mapped::place(&Mapping::heap(4096), 0, value) }.unwrap();
    let [bell, sender_bell] = Doorbell::pair();
    let theirs = shared.clone();
    let sending = model::thread::spawn(move || {
        theirs.send(bug);
        drop(sender_bell);
    });
    let mut received = false;
    while !received {
        received = shared.look(bug);
        let early = bug == Bug::FlagBeforeEnd && shared.is_detached();
        let ended = bell.is_gone();
        let detached = if bug == Bug::FlagBeforeEnd { early } else { shared.is_detached() };
        if detached || ended {
            received |= bug != Bug::NoSecondLook && shared.look(bug);
            assert!(received, "a message is lost");
            assert!(detached, "it has left, and counts as dead");
        }
        yield_now();
    }
    sending.join().unwrap();
}

#[test]
fn planted_bugs_are_found() {
    model::check(|| small(Bug::None));
    for (bug, reason) in [
        (Bug::PublishedRelaxed, "torn"),
        (Bug::NoFence, "torn"),
        (Bug::LeftRelaxed, "a message is lost"),
        (Bug::NoSecondLook, "a message is lost"),
        (Bug::FlagBeforeEnd, "counts as dead"),
    ] {
        model::finds(reason, || {
            model::check(move || small(bug));
        });
    }
}
