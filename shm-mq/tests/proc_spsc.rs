//! Real processes at the two ends of a queue are killed, replaced, stopped and forked: each record
//! arrives once, in its order and whole, and who waits learns why it waits in vain.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::{FINGERPRINT, LIMIT, SHORT, kill, killed_soon};
use shm_core::mapping::Mapped;
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::spsc::{AttachError, Queue, Receiver, RecvError, SendError, Sender};
use shm_testkit::child::{in_a_fork, parent_says, tell_parent};
use shm_testkit::random::{self, next, text};
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

/// Each role is taken over so many times.
const SUCCESSORS: usize = 10;
/// Where the receiver says how far it is.
const RELEASED: u64 = 256;

/// What the processes were told, counted in the world's words.
#[derive(Clone, Copy)]
enum Told {
    /// Records that some sender was about to send.
    Begun,
    /// Records that some sender was told are sent.
    Sent,
    /// Records that some receiver has used, before it released them.
    Used,
}

type World = process_common::World<Queue, 3>;

impl World {
    fn told(&self, what: Told) -> &AtomicU64 {
        &self.words[what as usize]
    }

    /// A word of the queue.
    fn word(&self, at: u64) -> Mapped<AtomicU64> {
        Mapped::new(&self.mapping, World::QUEUE_AT + at).unwrap()
    }

    fn sender(&self) -> Sender {
        self.queue.sender(&self.me).unwrap()
    }

    fn receiver(&self) -> Receiver {
        self.queue.receiver(&self.me).unwrap()
    }
}

/// Record number `number`, of 0 to 150 bytes, some of them of more.
fn record(number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(7) { number % 200 } else { number * 7919 % 151 };
    text(number, len as usize)
}

shm_testkit::children! { sends, receives, sends_when_told, receives_nothing, only_joins }

/// Takes the sender's role, and sends in each of the ways until it is killed.
fn sends(args: &[String]) {
    let (world, mut seed) = (World::attach(args), args[1].parse().unwrap());
    let (begun, told) = (world.told(Told::Begun), world.told(Told::Sent));
    let mut sender = world.sender();
    tell_parent("there");
    let (least, most) = (told.load(Ordering::Relaxed), begun.load(Ordering::Relaxed));
    let sent = sender.sent();
    assert!((least..=most).contains(&sent), "{sent} were sent, and not {least} to {most}");
    loop {
        let number = sender.sent();
        begun.store(number + 3, Ordering::Relaxed);
        match send_some(&mut sender, number, &mut seed) {
            Ok(()) => told.store(sender.sent(), Ordering::Relaxed),
            // Somebody will come in its place.
            Err(SendError::PeerDied) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends up to three records, in one of the ways.
fn send_some(sender: &mut Sender, number: u64, seed: &mut u64) -> Result<(), SendError> {
    let bytes = record(number);
    match next(seed) % 5 {
        0 => sender.send(&bytes),
        1 => sender.try_send(&bytes).map(drop),
        2 => match sender.send_deadline(&bytes, Instant::now() + Duration::from_millis(1)) {
            Err(SendError::TimedOut) => Ok(()),
            result => result,
        },
        3 => {
            if let Some(mut place) = sender.reserve(bytes.len())? {
                place.copy_from_slice(&bytes);
                place.commit();
            }
            Ok(())
        }
        _ => {
            for number in number..number + 3 {
                if !sender.push(&record(number))? {
                    break;
                }
            }
            sender.flush()
        }
    }
}

/// Takes the receiver's role, and receives in each of the ways until it is killed.
fn receives(args: &[String]) {
    let (world, mut seed) = (World::attach(args), args[1].parse::<u64>().unwrap());
    let used = world.told(Told::Used);
    let mut receiver = world.receiver();
    tell_parent("there");
    // Its predecessor was killed before it released what it had used, or after.
    let (received, most) = (receiver.received(), used.load(Ordering::Relaxed));
    assert!(received == most || received + 1 == most, "{most} were used, {received} released");
    loop {
        let number = receiver.received();
        let got = match next(&mut seed) % 3 {
            0 => receiver.recv().map(Some),
            1 => receiver.try_recv(),
            _ => receiver.recv_deadline(Instant::now() + Duration::from_millis(1)).map(Some),
        };
        match got {
            Ok(Some(got)) => {
                assert_eq!(*got, *record(number), "record {number}");
                if next(&mut seed).is_multiple_of(8) {
                    got.put_back();
                } else {
                    used.store(number + 1, Ordering::Relaxed);
                }
            }
            Ok(None) | Err(RecvError::TimedOut) => {}
            // Somebody will come in its place.
            Err(RecvError::PeerDied) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Takes the sender's role, and sends one record for each line from the parent.
fn sends_when_told(args: &[String]) {
    let world = World::attach(args);
    let mut sender = world.sender();
    tell_parent("there");
    while parent_says() == "send" {
        sender.send(b"told").unwrap();
    }
}

/// Takes the receiver's role and does nothing.
fn receives_nothing(args: &[String]) {
    let world = World::attach(args);
    let _receiver = world.receiver();
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

/// Joins, says who it is, and has no role.
fn only_joins(args: &[String]) {
    let world = World::attach(args);
    tell_parent(&world.me.id().to_bits().to_string());
    std::thread::sleep(LIMIT);
}

/// Both roles are taken over again and again, at any moment.
fn each_record_arrives_once(ring_bytes: u64) {
    let mut seed = random::seed();
    let world = World::create("spsc_kill", &ring_bytes);
    let roles = ["sends", "receives"];
    let mut children = roles.map(|role| world.spawn(role, &[next(&mut seed)]));
    for kills in 0..2 * SUCCESSORS {
        // Either at any moment, but each as often as the other.
        let who = kills % 2;
        if !next(&mut seed).is_multiple_of(4) {
            assert_eq!(children[who].hear(LIMIT), "there");
            std::thread::sleep(Duration::from_micros(next(&mut seed) % 8000));
        } else {
            // While it starts, or attaches.
            std::thread::sleep(Duration::from_micros(next(&mut seed) % 4000));
        }
        kill(&mut children[who]);
        children[who] = world.spawn(roles[who], &[next(&mut seed)]);
    }
    for child in &mut children {
        assert_eq!(child.hear(LIMIT), "there");
    }
    // Until both have done something.
    let before = [Told::Sent, Told::Used].map(|what| world.told(what).load(Ordering::Relaxed));
    for (what, before) in [Told::Sent, Told::Used].into_iter().zip(before) {
        while world.told(what).load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
    }
    children.iter_mut().for_each(kill);
    let (sender, mut receiver) = (world.sender(), world.receiver());
    let (sent, received) = (sender.sent(), receiver.received());
    let [begun, told, used] =
        [Told::Begun, Told::Sent, Told::Used].map(|what| world.told(what).load(Ordering::Relaxed));
    println!("{sent} records were sent, {received} of them received, among those who were killed");
    assert!((told..=begun).contains(&sent), "{sent} were sent, and not {told} to {begun}");
    assert!(received == used || received + 1 == used, "{used} were used, {received} released");
    for number in received..sent {
        assert_eq!(*receiver.try_recv().unwrap().unwrap(), *record(number));
    }
    assert!(receiver.try_recv().unwrap().is_none());
}

#[test]
fn each_record_arrives_once_whoever_is_killed() {
    within(LIMIT, || each_record_arrives_once(1024));
}

#[test]
fn each_record_arrives_once_through_a_large_ring() {
    within(LIMIT, || each_record_arrives_once(1 << 15));
}

#[test]
fn a_sleeping_receiver_is_woken_by_the_senders_death() {
    let world = World::create("spsc_sleep", &1024);
    let mut receiver = world.receiver();
    let mut child = world.spawn_there("sends_when_told");
    let end = killed_soon(&mut child, || receiver.recv().map(drop));
    assert_eq!(end, Err(RecvError::PeerDied));
    // And goes on with its successor, asleep when that one comes.
    let mut child = world.spawn("sends_when_told", &[1]);
    child.say("send");
    within(LIMIT, || {
        loop {
            match receiver.recv() {
                Ok(got) => break assert_eq!(*got, *b"told"),
                Err(error) => assert_eq!(error, RecvError::PeerDied),
            }
        }
    });
    kill(&mut child);
}

#[test]
fn a_sleeping_sender_is_woken_by_the_receivers_death() {
    let world = World::create("spsc_sleep", &128);
    let mut sender = world.sender();
    let mut child = world.spawn_there("receives_nothing");
    // Two of them do not fit.
    let [first, second] = [[1; 56], [2; 56]];
    sender.send(&first).unwrap();
    let end = killed_soon(&mut child, || sender.send(&second));
    assert_eq!(end, Err(SendError::PeerDied));
    let mut receiver = world.receiver();
    assert_eq!(receiver.received(), 0);
    assert_eq!(*receiver.recv().unwrap(), first);
    sender.send(&second).unwrap();
    assert_eq!(*receiver.recv().unwrap(), second);
}

#[test]
fn a_stopped_sender_is_slow_and_not_dead() {
    let world = World::create("spsc_stop", &128);
    let mut receiver = world.receiver();
    let mut child = world.spawn_there("sends_when_told");
    child.stop();
    child.say("send");
    let late = receiver.recv_deadline(Instant::now() + SHORT).err();
    assert_eq!(late, Some(RecvError::TimedOut));
    assert!(receiver.try_recv().unwrap().is_none());
    assert!(matches!(world.queue.sender(&world.me), Err(AttachError::Taken { .. })));
    child.cont();
    assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told");
    child.say("leave");
    assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), RecvError::Detached);
    child.wait(LIMIT).assert_success();
}

#[test]
fn a_named_one_that_dies_before_it_comes_has_died() {
    let world = World::create("spsc_named", &128);
    let (queue, mut receiver) = (&world.queue, world.receiver());
    let mut child = world.spawn("only_joins", &[1]);
    let id = ParticipantId::from_bits(child.hear(LIMIT).parse().unwrap()).unwrap();
    queue.set_sender(&world.me, id).unwrap();
    assert_eq!(queue.sender(&world.me).err(), Some(AttachError::Taken { by: id }));
    let late = receiver.recv_deadline(Instant::now() + SHORT).err();
    assert_eq!(late, Some(RecvError::TimedOut));
    let end = killed_soon(&mut child, || receiver.recv().map(drop));
    assert_eq!(end, Err(RecvError::PeerDied));
    queue.set_sender(&world.me, world.me.id()).unwrap();
    world.sender().send(b"hello").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"hello");
}

#[test]
fn who_cannot_attach_is_told_why() {
    let world = World::create("spsc_errors", &1024);
    let (mapping, me) = (&world.mapping, &world.me);
    let attach = |at, fingerprint| Queue::attach(mapping, at, fingerprint).err();
    assert!(matches!(attach(World::QUEUE_AT + 1, FINGERPRINT), Some(AttachError::Place(_))));
    assert!(matches!(attach(1 << 40, FINGERPRINT), Some(AttachError::Place(_))));
    assert_eq!(attach(World::WORDS_AT, FINGERPRINT), Some(AttachError::NotAQueue { found: 0 }));
    let other = AttachError::OtherRecords { found: FINGERPRINT };
    assert_eq!(attach(World::QUEUE_AT, 0), Some(other));
    assert_eq!(Sender::attach(mapping, World::QUEUE_AT, 0, me).err(), Some(other));
    assert_eq!(Receiver::attach(mapping, World::QUEUE_AT, 0, me).err(), Some(other));

    let lines = world.word(8);
    let right = lines.load(Ordering::Relaxed);
    for wrong in [0, 1, right + (1 << 20), u64::MAX] {
        lines.store(wrong, Ordering::Relaxed);
        assert_eq!(
            attach(World::QUEUE_AT, FINGERPRINT),
            Some(AttachError::Corrupt),
            "{wrong} lines"
        );
    }
    lines.store(right, Ordering::Relaxed);

    let mut child = world.spawn_there("sends_when_told");
    let taken = |error| matches!(error, Some(AttachError::Taken { .. }));
    assert!(taken(world.queue.sender(me).err()));
    assert!(taken(world.queue.set_sender(me, me.id()).err()));
    let receiver = world.receiver();
    assert_eq!(world.queue.receiver(me).err(), Some(AttachError::OpenAlready));
    assert_eq!(world.queue.set_receiver(me, me.id()).err(), Some(AttachError::OpenAlready));
    drop(receiver);
    child.say("leave");
    child.wait(LIMIT).assert_success();
    drop((world.receiver(), world.sender()));
}

/// Who finds nonsense where it would go on has no role: nobody waits for it, and it may try again.
#[test]
fn who_finds_nonsense_has_no_role() {
    const SENT: u64 = 128;
    const RING: u64 = 384;
    let world = World::create("spsc_corrupt", &1024);
    let (mut sender, mut receiver) = (world.sender(), world.receiver());
    sender.send(b"hello").unwrap();
    drop(sender);
    // No mark has that position; a header of another record, of a long one, of one elsewhere.
    for (at, wrong) in [(SENT, 5), (RING, 7 << 32 | 4), (RING, 1 << 16), (RING, u64::MAX)] {
        let right = world.word(at).load(Ordering::Relaxed);
        world.word(SENT).store(if at == SENT { wrong } else { 0 }, Ordering::Relaxed);
        world.word(at).store(wrong, Ordering::Relaxed);
        for _ in 0..2 {
            let sender = world.queue.sender(&world.me);
            assert_eq!(sender.err(), Some(AttachError::Corrupt), "{wrong:#x} at {at}");
        }
        world.word(at).store(right, Ordering::Relaxed);
    }
    assert_eq!(*receiver.recv().unwrap(), *b"hello");
    assert_eq!(receiver.recv().unwrap_err(), RecvError::Detached, "nobody is there");
    drop(receiver);
    world.word(RELEASED).store(7, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(world.queue.receiver(&world.me).err(), Some(AttachError::Corrupt));
    }
}

#[test]
fn a_forked_child_is_nobody() {
    let world = World::create("spsc_fork", &1024);
    let queue = &world.queue;
    let (mut sender, mut receiver) = (Some(world.sender()), Some(world.receiver()));
    sender.as_mut().unwrap().push(b"pushed").unwrap();
    let refused = in_a_fork(|| {
        let (mut sender, mut receiver) = (sender.take().unwrap(), receiver.take().unwrap());
        let soon = Instant::now() + SHORT;
        let refused = sender.send(b"") == Err(SendError::Forked)
            && sender.try_send(b"") == Err(SendError::Forked)
            && sender.push(b"") == Err(SendError::Forked)
            && sender.flush() == Err(SendError::Forked)
            && sender.reserve(0).err() == Some(SendError::Forked)
            && receiver.recv().err() == Some(RecvError::Forked)
            && receiver.try_recv().err() == Some(RecvError::Forked)
            && receiver.recv_deadline(soon).err() == Some(RecvError::Forked)
            && queue.sender(&world.me).err() == Some(AttachError::Forked(Forked))
            && queue.receiver(&world.me).err() == Some(AttachError::Forked(Forked));
        drop((sender, receiver));
        refused
    });
    assert!(refused, "it works with its parent's handles");
    let (mut sender, mut receiver) = (sender.unwrap(), receiver.unwrap());
    assert!(receiver.try_recv().unwrap().is_none(), "the child has published, or left");
    sender.flush().unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"pushed");
}

#[test]
fn a_forked_child_sends_and_releases_nothing_that_its_parent_holds() {
    let world = World::create("spsc_fork", &1024);
    let (mut sender, mut receiver) = (world.sender(), world.receiver());
    let mut place = sender.reserve(5).unwrap();
    place.as_mut().unwrap().copy_from_slice(b"hello");
    assert!(in_a_fork(|| {
        place.take().unwrap().commit();
        true
    }));
    assert!(receiver.try_recv().unwrap().is_none(), "the child has sent it");
    place.unwrap().commit();
    let mut got = receiver.try_recv().unwrap();
    let released = world.word(RELEASED).load(Ordering::Relaxed);
    assert!(in_a_fork(|| {
        drop(got.take());
        true
    }));
    assert_eq!(world.word(RELEASED).load(Ordering::Relaxed), released, "the child gave it back");
    assert_eq!(*got.unwrap(), *b"hello");
    drop(receiver);
    assert_eq!(world.receiver().received(), 1, "once, by its parent");
}
