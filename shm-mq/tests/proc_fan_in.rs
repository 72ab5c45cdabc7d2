//! Real processes send to one that receives, and all are killed, replaced, stopped and forked: each
//! record arrives once, in its sender's order and whole, and then the sender's end.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::{FINGERPRINT, LIMIT, SHORT, kill, killed_soon};
use shm_core::mapping::Mapped;
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::fan_in::{
    AttachError, CreateError, Event, FanIn, FanInConfig, JoinError, LANES_MAX, LaneState, Receiver,
    RecvError, SendError, Sender, Why,
};
use shm_mq::waitset::{Alarm, Source, WaitSet};
use shm_testkit::child::{Child, in_a_fork, parent_says, tell_parent};
use shm_testkit::random::{self, next, text};
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

/// Two records that do not fit into the least ring together.
const FIRST: [u8; 56] = [1; 56];
const SECOND: [u8; 56] = [2; 56];

/// Senders at a time in the test in which all are killed, and kills.
const SENDERS: usize = 3;
const KILLS: usize = 36;
const LANES: u32 = 4;

/// Of each process that sends, in the order in which they were started, the words that it and the
/// receivers count in.
#[derive(Clone, Copy)]
enum Told {
    /// Who it is.
    Id,
    /// It was told that it has a lane.
    Joined,
    /// Records that it was about to send.
    Begun,
    /// Records that it was told are sent.
    Sent,
    /// Records that some receiver has used, before it released them.
    Used,
    /// How often its end was told.
    Ends,
}
const PROCESSES_MAX: u64 = 128;
const WORDS: u64 = 8;

type World = process_common::World<FanIn, { WORDS * PROCESSES_MAX }>;

/// Whose fan-in has so many lanes.
fn create(hint: &str, lanes: u32, ring_bytes: u64) -> World {
    World::create(hint, &FanInConfig::new(lanes, ring_bytes))
}

impl World {
    fn told(&self, who: u64, what: Told) -> &AtomicU64 {
        &self.words[(who * WORDS) as usize + what as usize]
    }

    fn count_of(&self, who: u64, what: Told) -> u64 {
        self.told(who, what).load(Ordering::Relaxed)
    }

    fn sender(&self) -> Sender {
        self.queue.sender(&self.me).unwrap()
    }

    fn receiver(&self) -> Receiver {
        self.queue.receiver(&self.me).unwrap()
    }

    /// Uses an event, and lets go of it.
    fn uses(&self, event: Event<'_>) {
        match event {
            Event::Record(got) => {
                let who = u64::from_ne_bytes(got[..8].try_into().unwrap());
                let used = self.count_of(who, Told::Used);
                // What its predecessor was killed over comes again.
                let number = got.number();
                assert!(number == used || number + 1 == used, "{number}, and {used} were used");
                assert_eq!(*got, record(who, number));
                assert_eq!(u64::from(got.sender().to_bits()), self.count_of(who, Told::Id));
                assert_eq!(self.count_of(who, Told::Ends), 0, "after its end");
                self.told(who, Told::Used).store(number + 1, Ordering::Relaxed);
            }
            Event::End(end) => {
                let is_its =
                    |who: &u64| self.count_of(*who, Told::Id) == u64::from(end.sender().to_bits());
                let who = (0..PROCESSES_MAX).find(is_its).expect("one that was");
                let before = self.told(who, Told::Ends).fetch_add(1, Ordering::Relaxed);
                let is_right = end.received() == self.count_of(who, Told::Used);
                assert!(is_right || before > 0 && end.received() == 0, "{end:?}");
                assert_eq!(end.why(), Why::Died);
            }
        }
    }
}

/// Record number `number` of sender number `who`.
fn record(who: u64, number: u64) -> Vec<u8> {
    let len = if number.is_multiple_of(7) { number % 200 } else { number * 7919 % 151 };
    let mut record = who.to_ne_bytes().to_vec();
    record.extend(text(who << 40 | number, len as usize));
    record
}

shm_testkit::children! { sends, receives, sends_when_told, receives_nothing, only_joins }

/// Joins, and sends in each of the ways until it is killed.
fn sends(args: &[String]) {
    let (world, who, mut seed) =
        (World::attach(args), args[1].parse().unwrap(), args[2].parse().unwrap());
    world.told(who, Told::Id).store(world.me.id().to_bits().into(), Ordering::Relaxed);
    let mut sender = loop {
        match world.queue.sender(&world.me) {
            Ok(sender) => break sender,
            Err(error) => assert_eq!(error, JoinError::AllTaken { lanes: LANES }),
        }
        std::thread::yield_now();
    };
    world.told(who, Told::Joined).store(1, Ordering::Relaxed);
    tell_parent("there");
    loop {
        let number = sender.sent();
        world.told(who, Told::Begun).store(number + 3, Ordering::Relaxed);
        match send_some(&mut sender, who, number, &mut seed) {
            Ok(()) => world.told(who, Told::Sent).store(sender.sent(), Ordering::Relaxed),
            // Somebody will come in its place.
            Err(SendError::PeerDied) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends up to three records, in one of the ways.
fn send_some(sender: &mut Sender, who: u64, number: u64, seed: &mut u64) -> Result<(), SendError> {
    let bytes = record(who, number);
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
                if !sender.push(&record(who, number))? {
                    break;
                }
            }
            sender.flush()
        }
    }
}

/// Takes the receiver's role, and receives in each of the ways until it is killed.
fn receives(args: &[String]) {
    let (world, mut seed) = (World::attach(args), args[2].parse().unwrap());
    let mut receiver = world.receiver();
    tell_parent("there");
    loop {
        let event = match next(&mut seed) % 3 {
            0 => receiver.recv().map(Some),
            1 => receiver.try_recv(),
            _ => receiver.recv_deadline(Instant::now() + Duration::from_millis(1)).map(Some),
        };
        match event {
            Ok(Some(event)) if next(&mut seed).is_multiple_of(8) => event.put_back(),
            Ok(Some(event)) => world.uses(event),
            Ok(None) | Err(RecvError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Joins, and sends one record for each line from the parent.
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

/// Is a participant, and has no role.
fn only_joins(args: &[String]) {
    let world = World::attach(args);
    tell_parent(&world.me.id().to_bits().to_string());
    std::thread::sleep(LIMIT);
}

/// Senders and receivers are killed and replaced again and again, at any moment.
fn each_record_arrives_once(ring_bytes: u64) {
    let mut seed = random::seed();
    let world = create("fan_kill", LANES, ring_bytes);
    let mut started = 0;
    let mut sender = |seed: u64| {
        started += 1;
        world.spawn("sends", &[started - 1, seed])
    };
    let mut senders: [Child; SENDERS] = std::array::from_fn(|_| sender(next(&mut seed)));
    let mut receiver = world.spawn("receives", &[0, next(&mut seed)]);
    for kills in 0..KILLS {
        // While they start, or join, or later.
        std::thread::sleep(Duration::from_micros(next(&mut seed) % 8000));
        if kills % 4 == 3 {
            kill(&mut receiver);
            receiver = world.spawn("receives", &[0, next(&mut seed)]);
        } else {
            let at = next(&mut seed) as usize % SENDERS;
            kill(&mut senders[at]);
            senders[at] = sender(next(&mut seed));
        }
    }
    for child in &mut senders {
        assert_eq!(child.hear(LIMIT), "there");
    }
    assert_eq!(receiver.hear(LIMIT), "there");
    std::thread::sleep(Duration::from_millis(5));
    senders.iter_mut().for_each(kill);
    kill(&mut receiver);
    // What is left, and each end, is the next receiver's.
    let mut receiver = world.receiver();
    while world.queue.status().iter().any(|lane| lane.state != LaneState::Free) {
        world.uses(receiver.recv().unwrap());
    }
    assert!(receiver.try_recv().unwrap().is_none());
    let (mut records, mut joined, mut again) = (0, 0, 0);
    for who in 0..started {
        let [begun, sent, used] =
            [Told::Begun, Told::Sent, Told::Used].map(|what| world.count_of(who, what));
        assert!((sent..=begun).contains(&used), "of {begun} begun, {sent} sent, {used} received");
        let ends = world.count_of(who, Told::Ends);
        assert!(ends >= world.count_of(who, Told::Joined), "{who} has no end");
        (records, again) = (records + used, again + ends.saturating_sub(1));
        joined += u64::from(ends > 0);
    }
    println!("{records} records of {joined} senders that died, {again} ends told again");
    assert!(again <= KILLS as u64 / 4 + 1 && joined > 10);
}

#[test]
fn each_record_arrives_once_whoever_is_killed() {
    within(LIMIT, || each_record_arrives_once(512));
}

#[test]
fn each_record_arrives_once_through_large_rings() {
    within(LIMIT, || each_record_arrives_once(1 << 15));
}

fn is_end(event: &Event<'_>, sender: ParticipantId, why: Why) -> bool {
    matches!(event, Event::End(end) if end.sender() == sender && end.why() == why)
}

fn sender_of(world: &World, lane: usize) -> ParticipantId {
    match world.queue.status()[lane].state {
        LaneState::Open(id) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sleeping_receiver_is_woken_by_a_senders_death() {
    // With a free lane, and with none.
    for lanes in [2, 3] {
        let world = create("fan_sleep", lanes, 1024);
        let mut receiver = world.receiver();
        let mut living = world.spawn_there("sends_when_told");
        let mut child = world.spawn_there("sends_when_told");
        let id = sender_of(&world, 1);
        killed_soon(&mut child, || {
            let end = receiver.recv().unwrap();
            assert!(is_end(&end, id, Why::Died), "{end:?}");
        });
        // Its lane is another one's, and the receiver is woken by what that one sends.
        let mut child = world.spawn_there("sends_when_told");
        assert_ne!(sender_of(&world, 1), id);
        for child in [&mut child, &mut living] {
            child.say("send");
            let Event::Record(got) = within(LIMIT, || receiver.recv()).unwrap() else { panic!() };
            assert_eq!(*got, *b"told");
        }
        kill(&mut child);
        kill(&mut living);
    }
}

#[test]
fn a_sleeping_sender_is_woken_by_the_receivers_death() {
    let world = create("fan_sleep", 2, 128);
    let mut sender = world.sender();
    let mut child = world.spawn_there("receives_nothing");
    sender.send(&FIRST).unwrap();
    let end = killed_soon(&mut child, || sender.send(&SECOND));
    assert_eq!(end, Err(SendError::PeerDied));
    let mut receiver = world.receiver();
    for expected in [&FIRST, &SECOND] {
        let Event::Record(got) = receiver.recv().unwrap() else { panic!() };
        assert_eq!(*got, *expected);
        drop(got);
        if sender.sent() == 1 {
            sender.send(&SECOND).unwrap();
        }
    }
}

/// Waits for an event among other things, and is given it by a call that does not wait.
fn awaited<'r>(set: &mut WaitSet, receiver: &'r mut Receiver) -> Event<'r> {
    let mut never = Alarm::never();
    let ready = set.wait(&mut [(0, receiver), (1, &mut never)], None).unwrap();
    assert_eq!(ready, [0]);
    receiver.try_recv().unwrap().expect("it is ready")
}

#[test]
fn a_sleeping_set_is_woken_by_a_senders_death_and_told_of_it() {
    // With a free lane, and with none.
    for lanes in [2, 3] {
        let (world, mut set) = (create("fan_set", lanes, 1024), WaitSet::new());
        let mut receiver = world.receiver();
        let mut living = world.spawn_there("sends_when_told");
        let mut child = world.spawn_there("sends_when_told");
        let [living_id, id] = [0, 1].map(|lane| sender_of(&world, lane));
        for (child, id) in [(&mut child, id), (&mut living, living_id)] {
            child.say("send");
            let got = within(LIMIT, || awaited(&mut set, &mut receiver));
            assert!(matches!(&got, Event::Record(record) if **record == *b"told"), "{got:?}");
            assert_eq!(got.sender(), id);
        }
        killed_soon(&mut child, || {
            let end = awaited(&mut set, &mut receiver);
            assert!(is_end(&end, id, Why::Died), "{end:?}");
        });
        living.say("leave");
        let end = within(LIMIT, || awaited(&mut set, &mut receiver));
        assert!(is_end(&end, living_id, Why::Left), "{end:?}");
        drop(end);
        let now = Some(Instant::now());
        assert!(set.wait(&mut [((), &mut receiver)], now).unwrap().is_empty());
    }
}

#[test]
fn a_set_waits_for_room_in_a_lane() {
    let (world, mut set) = (create("fan_room", 2, 128), WaitSet::new());
    let (mut sender, mut child) = (world.sender(), world.spawn_there("receives_nothing"));
    sender.send(&FIRST).unwrap();
    let now = Some(Instant::now());
    assert!(set.wait(&mut [((), &mut sender.space(56))], now).unwrap().is_empty(), "it is full");
    killed_soon(&mut child, || set.wait(&mut [((), &mut sender.space(56))], None)).unwrap();
    assert_eq!(sender.send(&SECOND), Err(SendError::PeerDied));
    let mut receiver = world.receiver();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            drop(receiver.recv().unwrap());
        });
        within(LIMIT, || set.wait(&mut [((), &mut sender.space(56))], None)).unwrap();
    });
    assert!(sender.try_send(&SECOND).unwrap());
}

#[test]
fn a_stopped_sender_holds_up_nobody_and_is_not_dead() {
    let world = create("fan_stop", 2, 128);
    let (mut receiver, mut other) = (world.receiver(), world.sender());
    let mut child = world.spawn_there("sends_when_told");
    child.stop();
    child.say("send");
    for _ in 0..100 {
        other.send(b"other").unwrap();
        let Event::Record(got) = receiver.recv().unwrap() else { panic!("it has not ended") };
        assert_eq!(*got, *b"other");
    }
    let late = receiver.recv_deadline(Instant::now() + SHORT).err();
    assert_eq!(late, Some(RecvError::TimedOut));
    assert!(receiver.try_recv().unwrap().is_none());
    let id = sender_of(&world, 1);
    child.cont();
    let Event::Record(got) = within(LIMIT, || receiver.recv()).unwrap() else { panic!() };
    assert_eq!((&*got, got.sender()), (b"told".as_slice(), id));
    drop(got);
    child.say("leave");
    assert!(is_end(&within(LIMIT, || receiver.recv()).unwrap(), id, Why::Left));
    child.wait(LIMIT).assert_success();
}

#[test]
fn a_stopped_receiver_keeps_its_role_and_its_senders_what_they_have() {
    let world = create("fan_stop", 2, 128);
    let (mut one, mut other) = (world.sender(), world.sender());
    let mut child = world.spawn_there("receives_nothing");
    child.stop();
    for sender in [&mut one, &mut other] {
        assert!(sender.try_send(&FIRST).unwrap());
        assert!(!sender.try_send(&SECOND).unwrap(), "full is no error");
        let late = sender.send_deadline(&SECOND, Instant::now() + SHORT);
        assert_eq!(late, Err(SendError::TimedOut));
    }
    assert!(matches!(world.queue.receiver(&world.me), Err(AttachError::Taken { .. })));
    drop(one);
    kill(&mut child);
    let mut receiver = world.receiver();
    let mut ends = Vec::new();
    for _ in 0..3 {
        match receiver.recv().unwrap() {
            Event::Record(record) => assert_eq!((&*record, record.number()), (&FIRST[..], 0)),
            Event::End(end) => ends.push((end.lane(), end.why(), end.received())),
        }
    }
    assert_eq!(ends, [(0, Why::Left, 1)]);
}

#[test]
fn a_named_receiver_that_dies_before_it_comes_has_died() {
    let world = create("fan_named", 1, 128);
    let mut sender = world.sender();
    let mut child = world.spawn("only_joins", &[0, 1]);
    let id = ParticipantId::from_bits(child.hear(LIMIT).parse().unwrap()).unwrap();
    world.queue.set_receiver(&world.me, id).unwrap();
    let taken = world.queue.receiver(&world.me).err();
    assert_eq!(taken, Some(AttachError::Taken { by: id }));
    sender.send(&FIRST).unwrap();
    let end = killed_soon(&mut child, || sender.send(&SECOND));
    assert_eq!(end, Err(SendError::PeerDied));
    world.queue.set_receiver(&world.me, world.me.id()).unwrap();
    assert!(matches!(world.receiver().recv(), Ok(Event::Record(_))));
}

#[test]
fn who_asks_for_what_cannot_be_is_told_why() {
    let world = create("fan_errors", 1, 1024);
    let mapping = &world.mapping;
    let create = |lanes, ring_bytes| {
        // SAFETY: refused.
        unsafe { FanIn::create(mapping, 0, &FanInConfig::new(lanes, ring_bytes)) }.err()
    };
    assert_eq!(create(0, 1024), Some(CreateError::Lanes { lanes: 0 }));
    let lanes = LANES_MAX + 1;
    assert_eq!(create(lanes, 1024), Some(CreateError::Lanes { lanes }));
    assert_eq!(create(1, 0), Some(CreateError::RingTooSmall { ring_bytes: 0 }));
    assert_eq!(create(1, 127), Some(CreateError::RingTooSmall { ring_bytes: 127 }));
    for (lanes, ring_bytes) in [(1, u64::MAX), (LANES_MAX, u64::MAX / 8), (1, 1 << 40)] {
        assert!(matches!(create(lanes, ring_bytes), Some(CreateError::Place(_))), "{ring_bytes}");
    }

    let attach = |at, fingerprint| FanIn::attach(mapping, at, fingerprint).err();
    assert!(matches!(attach(World::QUEUE_AT + 1, FINGERPRINT), Some(AttachError::Place(_))));
    assert!(matches!(attach(1 << 40, FINGERPRINT), Some(AttachError::Place(_))));
    assert_eq!(attach(World::WORDS_AT, FINGERPRINT), Some(AttachError::NotAQueue { found: 0 }));
    let other = AttachError::OtherRecords { found: FINGERPRINT };
    assert_eq!(attach(World::QUEUE_AT, 0), Some(other));
    for (at, wrongs) in [(8, [0, 2, 961, u64::MAX]), (16, [0, 1, 1 << 20, u64::MAX])] {
        let word: Mapped<AtomicU64> = Mapped::new(mapping, World::QUEUE_AT + at).unwrap();
        let right = word.load(Ordering::Relaxed);
        for wrong in wrongs {
            word.store(wrong, Ordering::Relaxed);
            assert_eq!(attach(World::QUEUE_AT, FINGERPRINT), Some(AttachError::Corrupt), "{wrong}");
        }
        word.store(right, Ordering::Relaxed);
    }

    let (mut sender, receiver) = (world.sender(), world.receiver());
    let full = world.queue.sender(&world.me).err();
    assert_eq!(full, Some(JoinError::AllTaken { lanes: 1 }));
    assert_eq!(world.queue.receiver(&world.me).err(), Some(AttachError::OpenAlready));
    let largest = sender.record_bytes_max();
    let long = sender.try_send(&[0; 1024]);
    assert_eq!(long, Err(SendError::TooLong { len: 1024, largest }));
    drop(receiver);
    assert_eq!(sender.try_send(b""), Err(SendError::Detached));
}

#[test]
fn a_forked_child_is_nobody() {
    let world = create("fan_fork", 2, 1024);
    let (mut sender, mut receiver) = (Some(world.sender()), Some(world.receiver()));
    sender.as_mut().unwrap().push(b"pushed").unwrap();
    let id = world.me.id();
    let refused = in_a_fork(|| {
        let (mut sender, mut receiver) = (sender.take().unwrap(), receiver.take().unwrap());
        let soon = Instant::now() + SHORT;
        let refused = sender.send(b"") == Err(SendError::Forked)
            && receiver.recv().err() == Some(RecvError::Forked)
            && receiver.try_recv().err() == Some(RecvError::Forked)
            && receiver.recv_deadline(soon).err() == Some(RecvError::Forked)
            && receiver.drain(1, |_| ()).err() == Some(RecvError::Forked)
            && receiver.is_ready()
            && receiver.is_ready_at_last()
            && world.queue.sender(&world.me).err() == Some(JoinError::Forked(Forked))
            && world.queue.receiver(&world.me).err() == Some(AttachError::Forked(Forked))
            && world.queue.set_sender(&world.me, id).err() == Some(JoinError::Forked(Forked))
            && world.queue.set_receiver(&world.me, id).err() == Some(AttachError::Forked(Forked));
        drop((sender, receiver));
        refused
    });
    assert!(refused, "it works with its parent's handles");
    let (mut sender, mut receiver) = (sender.unwrap(), receiver.unwrap());
    assert!(receiver.try_recv().unwrap().is_none(), "the child has published, or left");
    sender.flush().unwrap();
    // Of what its parent has in its hands the child lets go in vain.
    let mut has = |what: fn(&Event<'_>) -> bool| {
        let mut got = receiver.try_recv().unwrap();
        assert!(in_a_fork(|| {
            drop(got.take());
            true
        }));
        let got = got.unwrap();
        assert!(what(&got), "{got:?}");
        got.put_back();
    };
    has(|got| matches!(got, Event::Record(record) if **record == *b"pushed"));
    has(|got| matches!(got, Event::Record(record) if **record == *b"pushed"));
    drop(receiver.try_recv().unwrap());
    drop(sender);
    let mut got = receiver.try_recv().unwrap();
    assert!(in_a_fork(|| {
        drop(got.take());
        true
    }));
    got.unwrap().put_back();
    assert!(matches!(world.queue.status()[0].state, LaneState::Left(_)), "the child freed it");
    assert!(matches!(receiver.try_recv(), Ok(Some(Event::End(_)))));
    assert_eq!(world.queue.status()[0].state, LaneState::Free);
}
