//! Either side of a stream is killed at each instruction of what it does: the other one learns of
//! it, has everything that was acknowledged and nothing torn, and hangs on nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use common::LIMIT;
use crash_common::{image, nothing_leaks, shared};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::stream::{AttachError, Message, Receiver, RecvError, SendError, Sender, Stream};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use shm_testkit::random::text;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SLOTS: u32 = 3;
const RING_BYTES: u64 = 256;
/// In the notes: how many messages the doomed one was told are sent, or has received.
const DONE: usize = 0;
/// Whether a silent peer lives is read from `/proc`: 60,000 instructions where not optimised.
const BYSTANDER_MAX: usize = 200_000;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
/// Who finds nothing to do looks through a text of `/proc`, which is not of one length: so many
/// instructions in there may be missed.
const MISSED_MAX: usize = 200;

/// A table and a stream in memory that children share; the test process is a member.
struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    stream: Stream,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// Makes room once, while the doomed one prepares.
    reader: Mutex<Option<JoinHandle<Receiver>>>,
}

fn stream_at() -> u64 {
    Table::bytes_for(SLOTS).next_multiple_of(64)
}

impl World {
    fn new() -> World {
        let (memory, mapping) = shared(stream_at() + Stream::bytes_for(RING_BYTES));
        // SAFETY: nobody else has the mapping.
        let me = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap().join().unwrap();
        // SAFETY: as above, and the table ends before.
        let stream = unsafe { Stream::create(&mapping, stream_at(), RING_BYTES) }.unwrap();
        let reader = Mutex::new(None);
        World { memory, mapping, me, stream, sender: None, receiver: None, reader }
    }

    fn with_receiver() -> World {
        let mut world = World::new();
        world.receiver = Some(world.stream.receiver(&world.me).unwrap());
        world
    }

    fn with_sender() -> World {
        let mut world = World::new();
        world.sender = Some(world.stream.sender(&world.me).unwrap());
        world
    }

    fn image(&self) -> Vec<u8> {
        image(&self.memory, SLOTS)
    }

    fn nothing_leaks(&self, end: End) -> Result<(), String> {
        nothing_leaks(&self.me, SLOTS, end)
    }
}

/// What the receiver should learn once everything is received.
fn received_end(end: End, detached: bool, error: RecvError) -> Result<(), String> {
    match (end, error) {
        (End::Killed, RecvError::PeerDied) if !detached => Ok(()),
        (End::Killed, RecvError::Detached) => Ok(()),
        (End::Finished, RecvError::Detached) => Ok(()),
        _ => Err(format!("the sender {end:?}, and the receiver learns: {error}")),
    }
}

/// The sending side does something.
struct Sends {
    name: &'static str,
    operations: &'static [&'static str],
    /// Before the marks: what may need the other side to act.
    prepare: fn(&World, &mut Sender),
    operate: fn(&mut Option<Sender>, &Notes),
    /// Every message that is sent, in order.
    messages: fn() -> Vec<Vec<u8>>,
    /// Nobody receives but a bystander.
    is_alone: bool,
    reads_once: bool,
}

const SENDS: Sends = Sends {
    name: "",
    operations: &[],
    prepare: |_, _| (),
    operate: |_, _| (),
    messages: Vec::new,
    is_alone: false,
    reads_once: false,
};

struct Doomed<T> {
    me: Arc<Member>,
    half: Option<T>,
}

impl Scenario for Sends {
    type World = World;
    type Doomed = Doomed<Sender>;

    fn name(&self) -> String {
        format!("stream, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        if self.is_alone {
            return World::new();
        }
        let mut world = World::with_receiver();
        if self.reads_once {
            let (mut receiver, stream) = (world.receiver.take().unwrap(), world.stream.clone());
            let (begins, has_begun) = mpsc::channel();
            let reads = move || {
                begins.send(()).unwrap();
                while stream.status().read == 0 {
                    // The last fragment may have come since.
                    let _ = receiver.try_recv().map(Message::put_back);
                    std::thread::yield_now();
                }
                receiver
            };
            *world.reader.lock().unwrap() = Some(std::thread::spawn(reads));
            // A thread that begins holds locks, and a child forked then would find them held.
            has_begun.recv().unwrap();
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed<Sender> {
        let me = world.me.table().join().unwrap();
        let mut sender = world.stream.sender(&me).unwrap();
        (self.prepare)(world, &mut sender);
        Doomed { me, half: Some(sender) }
    }

    fn operate(&self, _: &World, doomed: &mut Doomed<Sender>, notes: &Notes) {
        (self.operate)(&mut doomed.half, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        if let Some(reader) = world.reader.lock().unwrap().take() {
            world.receiver = Some(reader.join().unwrap());
        }
        let Some(receiver) = &mut world.receiver else { return world.nothing_leaks(end) };
        let (mut got, all) = (Vec::new(), (self.messages)());
        let error = loop {
            match receiver.recv_timeout(LIMIT) {
                Ok(message) => got.push(message.to_vec()),
                Err(error) => break error,
            }
        };
        received_end(end, false, error)?;
        let least = if end == End::Finished { all.len() } else { notes.get(DONE) as usize };
        if !all.starts_with(&got) || got.len() < least {
            let got: Vec<usize> = got.iter().map(Vec::len).collect();
            return Err(format!(
                "{least} messages were acknowledged, and of these lengths came {got:?}"
            ));
        }
        world.receiver = None;
        world.nothing_leaks(end)
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let me = world.me.table().join().unwrap();
        let mut receiver = world.stream.receiver(&me).unwrap();
        Some(Box::new(move || {
            let mut all = (self.messages)().into_iter();
            loop {
                match receiver.try_recv() {
                    Ok(got) if all.next().is_some_and(|sent| *sent == *got) => {}
                    Ok(got) => return Err(format!("received {} bytes of nobody's", got.len())),
                    Err(RecvError::WouldBlock | RecvError::Detached) => return Ok(()),
                    Err(error) => return Err(format!("learns of one that is stopped: {error}")),
                }
            }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.me.table().reap(|_| ());
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Doomed<Sender>) -> Result<(), String> {
        let sender = doomed.half.as_mut().ok_or("has no sender")?;
        let refused = sender.try_send(b"forked") == Err(SendError::Forked)
            && matches!(world.stream.receiver(&doomed.me), Err(AttachError::Forked(_)))
            && doomed.me.check_fork().is_err();
        drop(doomed.half.take());
        if refused { Ok(()) } else { Err("works with its parent's sender".to_owned()) }
    }
}

fn acknowledge(result: Result<(), SendError>, notes: &Notes) {
    // A bystander may have come and gone as the receiver.
    if result.is_ok() {
        notes.count(DONE);
    } else {
        assert_eq!(result, Err(SendError::Detached));
    }
}

fn two_messages() -> Vec<Vec<u8>> {
    vec![text(1, 20), text(2, 70)]
}

fn send() -> Sends {
    Sends {
        name: "send",
        operations: &["shm_mq::stream::Sender::send"],
        operate: |sender, notes| {
            for message in two_messages() {
                acknowledge(sender.as_mut().unwrap().send(&message), notes);
            }
        },
        messages: two_messages,
        ..SENDS
    }
}

#[test]
fn a_sender_may_die_in_send() {
    Run::new(&send()).kill().passes();
    Run::new(&send()).nested().passes();
    Run::new(&send()).fork().passes();
    let alone = Sends { is_alone: true, name: "send, a receiver stands by", ..send() };
    Run::new(&alone).bystander_at_most(BYSTANDER_MAX).stop().passes();
}

#[test]
fn a_sender_may_die_in_try_send() {
    let scenario = Sends {
        name: "try_send, until the ring is full",
        operations: &["shm_mq::stream::Sender::try_send"],
        operate: |sender, notes| {
            for message in full_ring() {
                acknowledge(sender.as_mut().unwrap().try_send(&message), notes);
            }
            let full = sender.as_mut().unwrap().try_send(&[0; 40]);
            assert_eq!(full, Err(SendError::WouldBlock));
        },
        messages: full_ring,
        ..SENDS
    };
    Run::new(&scenario).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn a_sender_may_die_asleep() {
    let scenario = Sends {
        name: "send to a full ring, asleep",
        operations: &["shm_mq::stream::Sender::send_timeout"],
        prepare: |_, sender| {
            for message in full_ring() {
                sender.try_send(&message).unwrap();
            }
        },
        operate: |sender, _| {
            let sent = sender.as_mut().unwrap().send_timeout(&[0; 40], NAP);
            assert_eq!(sent, Err(SendError::TimedOut));
        },
        messages: full_ring,
        ..SENDS
    };
    Run::new(&scenario).asleep().passes();
}

fn full_ring() -> Vec<Vec<u8>> {
    (0..3).map(|seed| text(seed, 64)).collect()
}

#[test]
fn a_sender_may_die_pushing_and_flushing() {
    let scenario = Sends {
        name: "push and flush",
        operations: &["shm_mq::stream::Sender::push", "shm_mq::stream::Sender::flush"],
        operate: |sender, notes| {
            let sender = sender.as_mut().unwrap();
            for message in two_messages() {
                sender.push(&message).unwrap();
            }
            sender.flush().unwrap();
            notes.set(DONE, 2);
        },
        messages: two_messages,
        ..SENDS
    };
    Run::new(&scenario).kill().passes();
}

#[test]
fn a_sender_may_die_in_the_last_fragment() {
    let scenario = Sends {
        name: "the last fragment of a long message",
        operations: &["shm_mq::stream::Sender::start", "shm_mq::stream::Sending::poll"],
        // The first fragment fills the ring, and has been read when this returns; the message goes
        // on in `operate`, from the same place.
        prepare: |world, sender| {
            let message = text(3, 400);
            let mut sending = sender.start(&message).unwrap();
            assert_eq!(sending.poll(), Err(SendError::WouldBlock));
            // Sooner than the killer loses its patience.
            let end = Instant::now() + Duration::from_secs(20);
            while world.stream.status().read == 0 {
                assert!(Instant::now() < end, "nobody reads");
                std::thread::yield_now();
            }
        },
        operate: |sender, notes| {
            let message = text(4, 30);
            // Abandons the long one.
            let mut sending = sender.as_mut().unwrap().start(&message).unwrap();
            sending.poll().unwrap();
            notes.set(DONE, 1);
        },
        messages: || vec![text(4, 30)],
        reads_once: true,
        ..SENDS
    };
    Run::new(&scenario).kill().passes();
}

#[test]
fn a_sender_may_die_detaching() {
    let scenario = Sends {
        name: "drop of a sender with something pending",
        operations: &["shm_mq::stream::Sender"],
        prepare: |_, sender| sender.push(&text(1, 20)).unwrap(),
        operate: |sender, _| drop(sender.take()),
        messages: || vec![text(1, 20)],
        ..SENDS
    };
    Run::new(&scenario).kill().passes();
}

/// The receiving side does something.
struct Receives {
    name: &'static str,
    operations: &'static [&'static str],
    operate: fn(&mut Option<Receiver>, &Notes),
    /// What is in the ring before.
    messages: fn() -> Vec<Vec<u8>>,
    is_alone: bool,
}

impl Scenario for Receives {
    type World = World;
    type Doomed = Doomed<Receiver>;

    fn name(&self) -> String {
        format!("stream, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        if self.is_alone {
            return World::new();
        }
        let mut world = World::with_sender();
        for message in (self.messages)() {
            world.sender.as_mut().unwrap().try_send(&message).unwrap();
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed<Receiver> {
        let me = world.me.table().join().unwrap();
        let receiver = world.stream.receiver(&me).unwrap();
        Doomed { me, half: Some(receiver) }
    }

    fn operate(&self, _: &World, doomed: &mut Doomed<Receiver>, notes: &Notes) {
        (self.operate)(&mut doomed.half, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let all = (self.messages)().len() as u64;
        if notes.get(DONE) > all {
            return Err(format!("of {all} messages it received {}", notes.get(DONE)));
        }
        let Some(sender) = &mut world.sender else { return world.nothing_leaks(end) };
        // It may send as long as there is room, and then learns why there is no more.
        let mut sent = 0;
        let error = loop {
            match sender.send_timeout(&[7; 40], LIMIT) {
                Ok(()) if sent < RING_BYTES => sent += 48,
                Ok(()) => return Err("there is more room than a ring has".to_owned()),
                Err(error) => break error,
            }
        };
        match (end, error) {
            (End::Killed, SendError::PeerDied | SendError::Detached) => {}
            (End::Finished, SendError::Detached) => {}
            _ => return Err(format!("the receiver {end:?}, and the sender learns: {error}")),
        }
        world.sender = None;
        world.nothing_leaks(end)
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let me = world.me.table().join().unwrap();
        let mut sender = world.stream.sender(&me).unwrap();
        Some(Box::new(move || {
            loop {
                match sender.try_send(&[7; 40]) {
                    Ok(()) => {}
                    Err(SendError::WouldBlock | SendError::Detached) => return Ok(()),
                    Err(error) => return Err(format!("learns of one that is stopped: {error}")),
                }
            }
        }))
    }

    /// The receiver may be in the midst of learning of its peer: it is not dropped.
    fn forked(&self, _: &World, doomed: &mut Doomed<Receiver>) -> Result<(), String> {
        let receiver = doomed.half.as_mut().ok_or("has no receiver")?;
        let refused = matches!(receiver.occupied_bytes(), Err(RecvError::Forked));
        if refused { Ok(()) } else { Err("works with its parent's receiver".to_owned()) }
    }
}

fn receives(name: &'static str, operate: fn(&mut Option<Receiver>, &Notes)) -> Receives {
    Receives {
        name,
        operations: &["shm_mq::stream::Receiver::recv", "shm_mq::stream::Receiver::try_recv"],
        operate,
        messages: two_messages,
        is_alone: false,
    }
}

fn recv_all(receiver: &mut Option<Receiver>, notes: &Notes) {
    for message in two_messages() {
        assert_eq!(*receiver.as_mut().unwrap().recv().unwrap(), *message);
        notes.count(DONE);
    }
    let empty = receiver.as_mut().unwrap().try_recv();
    assert_eq!(empty.err(), Some(RecvError::WouldBlock));
}

#[test]
fn a_receiver_may_die_in_recv() {
    let scenario = receives("recv", recv_all);
    Run::new(&scenario).allow_missed(MISSED_MAX).kill().passes();
    Run::new(&scenario).allow_missed(MISSED_MAX).fork().passes();
}

#[test]
fn a_receiver_may_die_asleep() {
    let scenario = receives("recv_timeout, asleep", |receiver, _| {
        let got = receiver.as_mut().unwrap().recv_timeout(NAP);
        assert_eq!(got.err(), Some(RecvError::TimedOut));
    });
    let operations = &["shm_mq::stream::Receiver::recv_timeout"];
    let scenario = Receives { operations, messages: Vec::new, ..scenario };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn a_receiver_may_die_putting_back() {
    let scenario = receives("put_back, then recv", |receiver, notes| {
        receiver.as_mut().unwrap().recv().unwrap().put_back();
        recv_all(receiver, notes);
    });
    let operations = &["shm_mq::stream::Message::put_back", "shm_mq::stream::Receiver::recv"];
    let scenario = Receives { operations, ..scenario };
    Run::new(&scenario).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn a_sender_goes_on_while_the_receiver_stands_still() {
    let looks =
        |receiver: &mut Option<Receiver>, _: &Notes| match receiver.as_mut().unwrap().try_recv() {
            Ok(got) => assert_eq!(*got, [7; 40]),
            Err(error) => assert!(matches!(error, RecvError::WouldBlock | RecvError::Detached)),
        };
    let scenario = receives("try_recv, a sender stands by", looks);
    Run::new(&Receives { is_alone: true, messages: Vec::new, ..scenario })
        .bystander_at_most(BYSTANDER_MAX)
        .stop()
        .passes();
}

#[test]
fn a_receiver_may_die_detaching() {
    let scenario = receives("drop of a receiver", |receiver, _| drop(receiver.take()));
    let operations = &["shm_mq::stream::Receiver"];
    Run::new(&Receives { operations, ..scenario }).kill().passes();
}

/// A role is taken, or given to the doomed one.
struct Attaches {
    name: &'static str,
    operations: &'static [&'static str],
    /// Whether it is the sender's.
    is_sender: bool,
    is_given: bool,
}

impl Scenario for Attaches {
    type World = World;
    type Doomed = (Arc<Member>, Option<Sender>, Option<Receiver>);

    fn name(&self) -> String {
        format!("stream, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        if self.is_sender { World::with_receiver() } else { World::with_sender() }
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        (world.me.table().join().unwrap(), None, None)
    }

    fn operate(&self, world: &World, doomed: &mut Self::Doomed, notes: &Notes) {
        let (me, sender, receiver) = doomed;
        match (self.is_sender, self.is_given) {
            (true, true) => world.stream.set_sender(me.id()).unwrap(),
            (false, true) => world.stream.set_receiver(me.id()).unwrap(),
            (true, false) => {
                *sender = Some(Sender::attach(&world.mapping, stream_at(), me).unwrap())
            }
            (false, false) => {
                *receiver = Some(Receiver::attach(&world.mapping, stream_at(), me).unwrap());
            }
        }
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let status = world.stream.status();
        let role = if self.is_sender { status.sender } else { status.receiver };
        if role.owner.is_none() {
            // It is still to be had.
            if notes.get(DONE) == 1 {
                return Err("it was told that it has the role".to_owned());
            }
            return world.both_halves_work().and_then(|()| world.nothing_leaks(end));
        }
        let error = if self.is_sender {
            let got = world.receiver.as_mut().unwrap().recv_timeout(LIMIT);
            got.err().map(|error| error.to_string())
        } else {
            let sender = world.sender.as_mut().unwrap();
            (0..9).find_map(|_| sender.send_timeout(&[7; 40], LIMIT).err()).map(|e| e.to_string())
        };
        let error = error.ok_or("something was received")?;
        let is_right = match end {
            End::Killed => error.ends_with("process has died"),
            // One that never opened its handle, and has ended since.
            End::Finished if self.is_given => error.ends_with("process has died"),
            End::Finished => error.ends_with("has detached"),
        };
        if !is_right {
            return Err(format!("it {end:?}, and the other side learns: {error}"));
        }
        (world.sender, world.receiver) = (None, None);
        world.nothing_leaks(end)
    }
}

impl World {
    fn both_halves_work(&mut self) -> Result<(), String> {
        let (stream, me) = (&self.stream, &self.me);
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => stream.sender(me).map_err(|error| error.to_string())?,
        };
        let mut receiver = match self.receiver.take() {
            Some(receiver) => receiver,
            None => stream.receiver(me).map_err(|error| error.to_string())?,
        };
        sender.send(b"hello").map_err(|error| error.to_string())?;
        let got = receiver.recv_timeout(Duration::ZERO).map_err(|error| error.to_string())?;
        if *got == *b"hello" { Ok(()) } else { Err("not what was sent".to_owned()) }
    }
}

#[test]
fn one_may_die_attaching_or_being_given_a_role() {
    let scenario =
        |name, operations, is_sender, is_given| Attaches { name, operations, is_sender, is_given };
    for scenario in [
        scenario("Sender::attach", &["shm_mq::stream::Sender::attach"], true, false),
        scenario("Receiver::attach", &["shm_mq::stream::Receiver::attach"], false, false),
        scenario("set_sender", &["shm_mq::stream::Stream::set_sender"], true, true),
        scenario("set_receiver", &["shm_mq::stream::Stream::set_receiver"], false, true),
    ] {
        Run::new(&scenario).kill().passes();
    }
}

/// A stream is made; who dies at it leaves bytes that are made into one anew.
struct Creates;

impl Scenario for Creates {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "stream, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_mq::stream::Stream::create"]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), _: &Notes) {
        // SAFETY: nobody else uses these bytes.
        unsafe { Stream::create(&world.mapping, stream_at(), RING_BYTES) }.unwrap();
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, _: &Notes, _: End) -> Result<(), String> {
        // SAFETY: nobody else uses these bytes.
        let stream = unsafe { Stream::create(&world.mapping, stream_at(), RING_BYTES) };
        world.stream = stream.map_err(|error| error.to_string())?;
        world.both_halves_work()
    }
}

#[test]
fn one_may_die_creating() {
    Run::new(&Creates).kill().passes();
}
