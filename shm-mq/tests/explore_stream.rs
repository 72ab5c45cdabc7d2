//! `stream` under the explorer: nothing acknowledged is lost, nothing arrives torn or twice, and
//! each side learns why the other is silent, whichever of them dies where; and a side that is told
//! nonsense gives up without harm.
//!
//! Process 1 is the sender and process 2 the receiver.
#![cfg(shm_explore)]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::{OneMapping, Receiver, RecvError, SendError, Sender, Stream};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

/// A stream between two participants, who have no roles yet.
struct World {
    stream: Stream,
    sender: Arc<Member>,
    receiver: Arc<Member>,
}

fn world(ring_bytes: u64) -> World {
    let at = Table::bytes_for(2).next_multiple_of(64);
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    World { stream, sender: join(1), receiver: join(2) }
}

impl World {
    /// Both roles are given, so that each knows whose death to look for.
    fn given(ring_bytes: u64) -> World {
        let world = world(ring_bytes);
        world.stream.set_sender(world.sender.id()).unwrap();
        world.stream.set_receiver(world.receiver.id()).unwrap();
        world
    }

    fn sender(&self) -> Sender {
        self.stream.sender(&self.sender).unwrap()
    }

    fn receiver(&self) -> Receiver {
        self.stream.receiver(&self.receiver).unwrap()
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("stream", name).alone_at_most(2000)
}

/// Sends `messages` in order; says how many were taken, one by one.
fn sends<'a>(world: &'a World, messages: &'a [&'a [u8]]) -> Process<'a> {
    Process::new("sender", move |me| {
        let mut sender = world.sender();
        for message in messages {
            match sender.send(message) {
                Ok(()) => me.say(1),
                Err(SendError::PeerDied | SendError::Detached) => return,
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Receives until the end, which it says last: 100 for `Detached`, 101 for `PeerDied`.
fn receives<'a>(world: &'a World, messages: &'a [&'a [u8]]) -> Process<'a> {
    Process::new("receiver", move |me| {
        let mut receiver = world.receiver();
        let mut expected = messages.iter();
        loop {
            match receiver.recv() {
                Ok(message) => assert_eq!(expected.next(), Some(&&*message), "torn or twice"),
                Err(RecvError::Detached) => return me.say(100),
                Err(RecvError::PeerDied) => return me.say(101),
                Err(other) => panic!("{other}"),
            }
            me.say(1);
        }
    })
}

/// What was acknowledged has arrived, and the end was the right one.
fn nothing_is_lost(messages: &[&[u8]], end: &End<'_>) {
    let sent = end.said(0).len();
    let Some((last, received)) = end.said(1).split_last().filter(|_| end.has_finished(1)) else {
        assert!(end.is_dead(1), "a receiver that lives has an end");
        return;
    };
    assert!(received.len() >= sent, "{sent} acknowledged, {} received", received.len());
    match last {
        100 => assert_eq!(received.len(), messages.len(), "all was sent before it detached"),
        101 => assert!(end.is_dead(0), "it was told of a death that is none"),
        _ => panic!("a receiver that ends says why"),
    }
}

/// Each fills the ring of 8 bytes.
const SHORT: &[&[u8]] = &[b"1", b"22", b"333"];
/// Two fragments in the ring of 8 bytes.
const LONG: &[&[u8]] = &[b"123456"];
/// Goes around the end of a ring of 24 bytes.
const AROUND: &[&[u8]] = &[b"1", b"12345678abcd"];

#[test]
fn a_sender_may_die_anywhere() {
    for (name, ring, messages, preemptions) in [
        ("short messages", 8, &SHORT[..2], if is_deep() { 2 } else { 1 }),
        ("fragments", 8, LONG, 1),
        ("around the end", 24, AROUND, 1),
    ] {
        let world = World::given(ring);
        let scenario = scenario(&format!("{name}, a sender dies")).deaths(1);
        let scenario = scenario.process(sends(&world, messages).mortal());
        let scenario = scenario.process(receives(&world, messages)).states_at_most(5_000_000);
        let scenario = scenario.preemptions_at_most(preemptions);
        let scenario = if is_deep() { scenario.lingering() } else { scenario };
        scenario.check(move |end| nothing_is_lost(messages, end)).explore();
    }
}

#[test]
fn either_may_die_anywhere() {
    let world = World::given(16);
    let most = if is_deep() { 3_000_000 } else { 150_000 };
    let scenario = scenario("either dies").deaths(2).states_at_most(most);
    let scenario = scenario.process(sends(&world, SHORT).mortal());
    let scenario = scenario.process(receives(&world, SHORT).mortal()).preemptions_at_most(1);
    scenario.check(|end| nothing_is_lost(SHORT, end)).explore();
}

/// Neither knows of the other before it comes: they wait for each other, and lazy messages come
/// through when the sender goes.
#[test]
fn who_comes_late_is_waited_for() {
    let world = world(64);
    let pushes = Process::new("sender", |me: &Me| {
        let mut sender = world.sender();
        match sender.wait_for_peer(None) {
            Ok(()) => {}
            Err(SendError::PeerDied | SendError::Detached) => return,
            Err(other) => panic!("{other}"),
        }
        if sender.push(b"1").is_ok() && sender.flush().is_ok() && sender.push(b"22").is_ok() {
            drop(sender);
            me.say(2);
        }
    });
    let receives = Process::new("receiver", |me: &Me| {
        let mut receiver = world.receiver();
        // It may have come and gone, and left its messages.
        let _ = receiver.wait_for_peer(None);
        let mut count = 0;
        while let Ok(message) = receiver.recv() {
            assert_eq!(*message, *[&b"1"[..], b"22"][count]);
            count += 1;
        }
        me.say(count as u64);
    });
    // Who dies before it has taken its role is nobody's peer: it is waited for as long as it takes.
    let nobody_came = |end: &End<'_>| {
        let status = world.stream.status();
        let nameless = status.sender.owner.is_none() || status.receiver.owner.is_none();
        assert!(end.deaths() == 1 && nameless, "{status:?}");
    };
    let scenario = scenario("two strangers").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(pushes.mortal()).process(receives.mortal());
    let all = |end: &End<'_>| assert!(end.deaths() > 0 || end.said(0) == end.said(1));
    scenario.check(all).may_all_wait(nobody_came).explore();
}

/// What does not wait does not, and what waits for some time ends; a message that is put back, cut
/// off or borrowed is what it should be.
#[test]
fn calls_with_a_limit_end() {
    let world = World::given(8);
    let past = Instant::now();
    let tries = Process::new("sender", |me: &Me| {
        let mut sender = world.sender();
        if sender.try_send(b"1").is_ok() {
            me.say(1);
        }
        // A beginning that is not followed by its end.
        let _ = sender.start(b"123456").map(|mut sending| sending.poll());
        match sender.send_deadline(b"22", past) {
            Ok(()) => me.say(22),
            Err(SendError::TimedOut | SendError::Detached | SendError::PeerDied) => {}
            Err(other) => panic!("{other}"),
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let mut receiver = world.receiver();
        let _ = receiver.try_recv().map(|message| message.put_back());
        for _ in 0..2 {
            match receiver.recv_deadline(past) {
                Ok(message) => match &*message {
                    b"1" => me.say(1),
                    b"22" => me.say(22),
                    b"123456" => {}
                    other => panic!("never sent: {other:?}"),
                },
                Err(RecvError::TimedOut | RecvError::Detached | RecvError::PeerDied) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let scenario = scenario("calls with a limit").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(tries.mortal()).process(takes.mortal());
    let order = |end: &End<'_>| assert!(end.said(1).is_sorted_by(|a, b| a < b), "{end:?}");
    scenario.check(order).explore();
}

/// Each side is told lies by its peer's words: about positions, frames, roles, seats and bytes.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    for (ring, messages) in [(8, &SHORT[..2]), (24, AROUND)] {
        let world = World::given(ring);
        let stream = world.stream.clone().with_peers::<T>();
        let sends = Process::new("sender", |_| {
            let Ok(mut sender) = stream.sender(&world.sender) else { return };
            for message in messages {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let receives = Process::new("receiver", |_| {
            let Ok(mut receiver) = stream.receiver(&world.receiver) else { return };
            for _ in messages {
                match receiver.recv() {
                    Ok(message) => assert!(message.len() <= ring as usize * messages.len()),
                    Err(_) => return,
                }
            }
        });
        let name = format!("{level} peers, a ring of {ring} bytes, {lies} lies");
        let scenario = scenario(&name).lies(lies).preemptions_at_most(1);
        scenario.process(sends).process(receives).may_all_wait(|_| ()).explore();
    }
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// Planted bug: a sender that publishes before it has written, in short.
#[test]
fn finds_a_position_published_too_early() {
    use shm_core::bytes::Word;
    use shm_core::mapping::Mapped;
    use shm_core::sync::{AtomicU64, Ordering::Relaxed};
    let mapping = Mapping::heap(16);
    let word: Mapped<Word> = Mapped::new(&mapping, 0).unwrap();
    let written: Mapped<AtomicU64> = Mapped::new(&mapping, 8).unwrap();
    let sends = Process::new("sender", |_| {
        written.store(1, Relaxed);
        // SAFETY: none, which is the bug.
        unsafe { word.set(7) };
    });
    let receives = Process::new("receiver", |_| {
        if written.load(Relaxed) == 1 {
            // SAFETY: it was published.
            assert_eq!(unsafe { word.get() }, 7, "torn");
        }
    });
    finds("torn", || scenario("in short").process(sends).process(receives).explore());
}
