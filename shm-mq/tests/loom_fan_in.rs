//! `fan_in` under every interleaving and with a death at every access: each record arrives once, in
//! its sender's order and whole, and after the last one the sender's end; no bit is lost; who takes
//! over from a receiver that died goes on where it was; nobody hangs.
//!
//! Process 1 is the receiver, processes 2 and 3 send, or come after who dies. What goes on in a
//! lane is the affair of the model of `spsc`.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::event::{EventCount, announced};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, yield_now,
};
use shm_mq::fan_in::{
    AttachError, Event, FanIn, FanInConfig, JoinError, LINE_BYTES, LaneState, Receiver, Sender, Why,
};
use shm_testkit::depth::is_deep;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Deaths, Tried};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Counter;

const RECEIVER: u32 = 1;
const SENDER: u32 = 2;
const OTHER: u32 = 3;

struct World {
    table: Table,
    fan_in: FanIn,
    members: [Arc<Member>; 3],
    /// What was acknowledged to who dies: records that are sent, or released.
    acknowledged: Counter,
    /// Ends of which who dies was told, and of which it let go.
    told: Counter,
    finished: Counter,
}

fn table_and_fan_in(lanes: u32, lines: u64) -> (Table, FanIn) {
    let config = FanInConfig::new(lanes, lines * LINE_BYTES);
    let at = Table::bytes_for(3).next_multiple_of(64);
    let mapping = Mapping::heap((at + FanIn::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let fan_in = unsafe { FanIn::create(&mapping, at, &config) }.unwrap();
    (table, fan_in)
}

fn world(lanes: u32, lines: u64) -> Arc<World> {
    let (table, fan_in) = table_and_fan_in(lanes, lines);
    let members = [RECEIVER, SENDER, OTHER].map(|process| {
        become_process(process);
        table.join().unwrap()
    });
    become_process(RECEIVER);
    let [acknowledged, told, finished] = [0; 3].map(Counter::new);
    Arc::new(World { table, fan_in, members, acknowledged, told, finished })
}

impl World {
    fn member(&self, process: u32) -> &Arc<Member> {
        &self.members[process as usize - 1]
    }

    /// The calling thread is `process` now, and has a lane, or the role.
    fn sender(&self, process: u32) -> Sender {
        become_process(process);
        self.fan_in.sender(self.member(process)).unwrap()
    }

    fn receiver(&self, process: u32) -> Receiver {
        become_process(process);
        self.fan_in.receiver(self.member(process)).unwrap()
    }

    /// Sends records number 0, 1, … and counts those that were acknowledged.
    fn send(&self, sender: &mut Sender, count: u64) {
        for number in 0..count {
            assert_eq!(sender.sent(), number);
            sender.send(&[number as u8 + 1]).unwrap();
            self.acknowledged.fetch_max(number + 1, Relaxed);
        }
    }

    /// Runs `first` as a process that dies after `fuel` accesses; if it does, `then`.
    fn mortal(
        self: &Arc<Self>,
        process: u32,
        (fuel, deaths): (u32, &Deaths),
        first: impl FnOnce(&Self) + 'static,
        then: fn(&Self),
    ) -> JoinHandle<()> {
        let (world, deaths) = (self.clone(), deaths.clone());
        spawn(move || {
            let id = become_process(process);
            if model::mortal(fuel, || first(&world)).is_none() {
                deaths.died();
                process_ends(&world.table, id);
                then(&world);
            }
        })
    }

    fn is_empty(&self) -> bool {
        self.fan_in.status().iter().all(|lane| lane.state == LaneState::Free)
    }

    /// What was received of a sender that died, or left.
    fn is_plausible(&self, received: u64, why: Why) {
        let acknowledged = self.acknowledged.load(Relaxed);
        let most = acknowledged + u64::from(why == Why::Died);
        assert!((acknowledged..=most).contains(&received), "{received} of {acknowledged}, {why:?}");
    }
}

/// The records of one sender, which come in order, and then its end.
fn receive_all(receiver: &mut Receiver) -> (u64, Why) {
    let mut number = 0;
    loop {
        match receiver.recv().unwrap() {
            Event::Record(record) => {
                assert_eq!((record.number(), &*record), (number, &[number as u8 + 1][..]));
                number += 1;
            }
            Event::End(end) => {
                assert_eq!(end.received(), number);
                return (number, end.why());
            }
        }
    }
}

/// A sender may die at any access; all lanes are taken, so the receiver sleeps until it is woken.
fn sender_dies(lines: u64, count: u64) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world(1, lines);
        let mut sender = world.sender(SENDER);
        let mut receiver = world.receiver(RECEIVER);
        let sends = move |world: &World| {
            world.send(&mut sender, count);
            drop(sender);
        };
        let sending = world.mortal(SENDER, (fuel, deaths), sends, |_| ());
        let (received, why) = receive_all(&mut receiver);
        sending.join().unwrap();
        world.is_plausible(received, why);
        assert!(receiver.try_recv().unwrap().is_none(), "told twice");
        // The lane is another one's.
        let mut next = world.sender(OTHER);
        assert_eq!((next.sent(), next.try_send(&[1])), (0, Ok(true)));
        become_process(RECEIVER);
        let Ok(Some(Event::Record(record))) = receiver.try_recv() else { panic!("lost") };
        assert_eq!((record.number(), record.sender()), (0, world.member(OTHER).id()));
    }
}

/// One who joins may die at any access: before it has a lane nobody hears of it.
fn joiner_dies(fuel: u32, deaths: &Deaths) {
    let world = world(2, 2);
    let mut receiver = world.receiver(RECEIVER);
    let joins = |world: &World| {
        let mut sender = world.sender(SENDER);
        world.send(&mut sender, 1);
    };
    let joining = world.mortal(SENDER, (fuel, deaths), joins, |_| ());
    let mut received = u64::from(is_record(receiver.try_recv().unwrap()));
    joining.join().unwrap();
    let mut ends = 0;
    while !world.is_empty() {
        match receiver.recv().unwrap() {
            Event::Record(_) => received += 1,
            Event::End(end) => {
                world.is_plausible(received, end.why());
                ends += 1;
            }
        }
    }
    assert!(ends == u64::from(received > 0) || received == 0 && ends <= 1);
}

fn is_record(event: Option<Event<'_>>) -> bool {
    match event {
        None => false,
        Some(Event::Record(_)) => true,
        Some(Event::End(end)) => {
            // For a later one.
            end.put_back();
            false
        }
    }
}

/// The receiver may die at any access, and has an heir: of what it let go nothing comes again, of
/// what it did not all does.
fn receiver_dies(fuel: u32, deaths: &Deaths) {
    let world = world(1, 4);
    let mut sender = world.sender(SENDER);
    world.send(&mut sender, 1);
    world.acknowledged.store(0, Relaxed);
    become_process(RECEIVER);
    let receives = |world: &World| {
        let mut receiver = world.receiver(RECEIVER);
        while world.finished.load(Relaxed) == 0 {
            match receiver.recv().unwrap() {
                Event::Record(record) => {
                    assert_eq!(*record, [record.number() as u8 + 1]);
                    drop(record);
                    world.acknowledged.fetch_add(1, Relaxed);
                }
                Event::End(end) => {
                    world.told.fetch_add(1, Relaxed);
                    drop(end);
                    world.finished.store(1, Relaxed);
                }
            }
        }
    };
    let goes_on = |world: &World| {
        let mut receiver = world.receiver(OTHER);
        let (released, mut first) = (world.acknowledged.load(Relaxed), None);
        while !world.is_empty() {
            match receiver.recv().unwrap() {
                Event::Record(record) => {
                    first.get_or_insert(record.number());
                }
                Event::End(end) => {
                    let number = first.unwrap_or(2);
                    assert!((released..=released + 1).contains(&number), "{number}, {released}");
                    let was_told = world.told.load(Relaxed) == 1;
                    assert!(end.received() == 2 || was_told && end.received() == 0);
                    assert_eq!(end.why(), Why::Left);
                    assert_eq!(world.finished.load(Relaxed), 0, "it let go of it");
                    world.told.fetch_add(1, Relaxed);
                }
            }
        }
    };
    let receiving = world.mortal(RECEIVER, (fuel, deaths), receives, goes_on);
    become_process(SENDER);
    sender.send(&[2]).unwrap();
    drop(sender);
    receiving.join().unwrap();
    assert!((1..=2).contains(&world.told.load(Relaxed)));
    assert!(world.is_empty());
}

/// A sender that comes, sends and goes, and a receiver that knows nothing of it beforehand.
fn comes_and_goes() {
    let (table, fan_in) = table_and_fan_in(1, 2);
    let receiver = table.join().unwrap();
    let (theirs, their_table) = (fan_in.clone(), table.clone());
    let sending = spawn(move || {
        become_process(SENDER);
        let me = their_table.join().unwrap();
        assert_eq!(theirs.sender(&me).unwrap().push(&[1]), Ok(true));
    });
    let mut receiver = fan_in.receiver(&receiver).unwrap();
    assert_eq!(receive_all(&mut receiver), (1, Why::Left));
    sending.join().unwrap();
}

/// As soon as a lane is free, another one has it.
fn lane_is_taken_over() {
    let world = world(1, 2);
    let mut sender = world.sender(SENDER);
    world.send(&mut sender, 1);
    drop(sender);
    let theirs = world.clone();
    let joining = spawn(move || {
        become_process(OTHER);
        let mut sender = loop {
            match theirs.fan_in.sender(theirs.member(OTHER)) {
                Ok(sender) => break sender,
                Err(error) => assert_eq!(error, JoinError::AllTaken { lanes: 1 }),
            }
            yield_now();
        };
        assert_eq!((sender.sent(), sender.try_send(&[1])), (0, Ok(true)));
    });
    let mut receiver = world.receiver(RECEIVER);
    assert_eq!(receive_all(&mut receiver), (1, Why::Left));
    assert_eq!(receive_all(&mut receiver), (1, Why::Left));
    joining.join().unwrap();
}

/// A receiver leaves after one record, and another one comes after it.
fn receiver_is_followed() {
    let world = world(1, 4);
    let mut sender = world.sender(SENDER);
    world.send(&mut sender, 2);
    world.fan_in.set_receiver(world.member(OTHER), world.member(RECEIVER).id()).unwrap();
    let theirs = world.clone();
    let receiving = spawn(move || {
        let mut receiver = theirs.receiver(RECEIVER);
        assert!(is_record(receiver.try_recv().unwrap()));
    });
    become_process(OTHER);
    let mut heir = loop {
        match world.fan_in.receiver(world.member(OTHER)) {
            Ok(receiver) => break receiver,
            Err(AttachError::Taken { .. }) => yield_now(),
            Err(other) => panic!("{other}"),
        }
    };
    loop {
        let Event::Record(record) = heir.recv().unwrap() else { panic!("it has not ended") };
        if record.number() == 1 {
            break;
        }
        // The first one has found nothing.
        assert_eq!(record.number(), 0);
    }
    receiving.join().unwrap();
}

/// While the receiver clears bits, two senders send: what was sent is found at once.
fn bits_are_set_anew() {
    let world = world(2, 4);
    let (mut one, _other) = (world.sender(SENDER), world.sender(OTHER));
    let mut receiver = world.receiver(RECEIVER);
    let theirs = world.clone();
    let sending = spawn(move || {
        become_process(SENDER);
        theirs.send(&mut one, 1);
        one
    });
    let first = is_record(receiver.try_recv().unwrap());
    let mut one = sending.join().unwrap();
    assert!(first || is_record(receiver.try_recv().unwrap()), "the bit is clear");
    become_process(SENDER);
    assert_eq!(one.try_send(&[2]), Ok(true));
    become_process(RECEIVER);
    assert!(is_record(receiver.try_recv().unwrap()), "the bit is clear");
}

fn each_death(name: &str, scene: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    let bound = Some(model::preemption_bound() - 1);
    let tried = model::every_death_bounded(bound, scene);
    println!("fan_in, {name}: {tried:?}");
    assert!(tried.deaths > 0);
}

/// With a bound one lower than elsewhere: who comes and goes makes many accesses.
fn check(scene: fn()) -> Tried {
    model::check_bounded(Some(model::preemption_bound() - 1), scene)
}

#[test]
fn a_sender_may_die_anywhere() {
    each_death("sender", sender_dies(4, 1));
    if is_deep() {
        each_death("sender, of two records", sender_dies(4, 2));
    }
}

#[test]
fn a_joiner_may_die_anywhere() {
    each_death("joiner", joiner_dies);
}

#[test]
fn a_receiver_may_die_anywhere() {
    each_death("receiver", receiver_dies);
}

#[test]
fn who_comes_and_goes_is_not_missed() {
    println!("fan_in, comes and goes: {:?}", check(comes_and_goes));
    println!("fan_in, a lane is taken over: {:?}", check(lane_is_taken_over));
    println!("fan_in, a receiver follows: {:?}", model::check(receiver_is_followed));
}

#[test]
fn no_bit_is_lost() {
    println!("fan_in, bits: {:?}", model::check(bits_are_set_anew));
    let lives = |fuel| move || sender_dies(4, 2)(fuel, &Deaths::default());
    println!("fan_in, nobody dies: {:?}", model::check(lives(u32::MAX)));
}

/// Somebody who has just come is named by another, who came before.
fn one_is_named() {
    let (table, fan_in) = table_and_fan_in(1, 2);
    become_process(SENDER);
    let namer = table.join().unwrap();
    become_process(RECEIVER);
    let mut receiver = fan_in.receiver(&table.join().unwrap()).unwrap();
    let (told, names) = (Arc::new(AtomicU32::new(0)), fan_in.clone());
    let tells = told.clone();
    let comes = spawn(move || {
        become_process(OTHER);
        let member = table.join().unwrap();
        tells.store(member.id().to_bits(), Release);
        std::mem::forget(member);
    });
    let naming = spawn(move || {
        become_process(SENDER);
        if let Some(id) = ParticipantId::from_bits(told.load(Acquire)) {
            names.set_sender(&namer, id).unwrap();
        }
    });
    assert!(receiver.try_recv().expect("a role").is_none(), "it lives");
    comes.join().unwrap();
    naming.join().unwrap();
}

#[test]
fn every_ordering_matters() {
    let files = ["shm-mq/src/fan_in/", "shm-mq/src/spsc/bell.rs"];
    let found = model::every_ordering_matters(&files, || {
        model::check(bits_are_set_anew);
        model::check(|| sender_dies(4, 1)(u32::MAX, &Deaths::default()));
        check(lane_is_taken_over);
        check(comes_and_goes);
        model::check(one_is_named);
    });
    assert_eq!(found, 7, "two fences, and a lane that is taken and freed");
}

/// A mistake with a bit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The receiver clears the bit after it has looked at the lane.
    LooksBefore,
    /// The receiver that finds something after it cleared the bit leaves it clear.
    StaysClear,
    /// The sender looks at its bit before it publishes.
    RingsBefore,
    /// The sender that set its bit does not look whether somebody sleeps.
    WakesNobody,
}

/// The bit of a lane, without anything around it, for the bugs.
struct Small {
    records: AtomicU64,
    busy: AtomicU64,
    arrived: EventCount,
}
// SAFETY: modelled words and atomics.
unsafe impl shm_core::ShmSync for Small {}

impl Small {
    fn send(&self, count: u64, bug: Bug) {
        for number in 1..=count {
            let was_set = self.busy.load(Relaxed) == 1;
            self.records.store(number, Release);
            announced();
            let is_set =
                if bug == Bug::RingsBefore { was_set } else { self.busy.load(Relaxed) == 1 };
            if !is_set {
                self.busy.store(1, Relaxed);
                if bug == Bug::WakesNobody {
                    continue;
                }
            }
            self.arrived.notify_seen();
        }
    }

    /// One look at the lane, if the bit says so; how many records have been received then.
    fn look(&self, received: u64, bug: Bug) -> u64 {
        if self.busy.load(Relaxed) == 0 {
            return received;
        }
        let before = self.records.load(Acquire);
        self.busy.store(0, Relaxed);
        announced();
        let there = if bug == Bug::LooksBefore { before } else { self.records.load(Acquire) };
        if there == received {
            return received;
        }
        if bug != Bug::StaysClear {
            // One at a time: more may be behind it.
            self.busy.store(1, Relaxed);
        }
        received + 1
    }

    /// Sleeps until one is there: before it sleeps it looks at the lane, and not at the bit.
    fn sleep(&self) {
        loop {
            let ticket = self.arrived.prepare();
            if self.records.load(Acquire) > 0 {
                return;
            }
            self.arrived.wait(ticket, None);
        }
    }
}

/// One sends so many records; what the receiver makes of it meanwhile.
fn small<R>(count: u64, bug: Bug, receive: impl FnOnce(&Small) -> R) -> (Mapped<Small>, R) {
    let [records, busy] = [0; 2].map(AtomicU64::new);
    let small = Small { records, busy, arrived: EventCount::new() };
    // SAFETY: nobody else has the mapping.
    let small = unsafe { Mapped::place(&Mapping::heap(4096), 0, small) }.unwrap();
    let theirs = small.clone();
    let sending = spawn(move || theirs.send(count, bug));
    let received = receive(&small);
    sending.join().unwrap();
    (small, received)
}

/// What the receiver has not found yet, the bit says.
fn looks(bug: Bug) {
    let two = |small: &Small| small.look(small.look(0, bug), bug);
    let (small, received) = small(2, bug, two);
    assert!(received == 2 || small.busy.load(Relaxed) == 1, "the bit is clear");
}

fn sleeps(bug: Bug) {
    small(1, bug, Small::sleep);
}

#[test]
fn planted_bugs_are_found() {
    println!("planted, none: {:?}", model::check(|| looks(Bug::None)));
    println!("planted, none, asleep: {:?}", model::check(|| sleeps(Bug::None)));
    for bug in [Bug::LooksBefore, Bug::StaysClear, Bug::RingsBefore] {
        model::finds("the bit is clear", || {
            model::check(move || looks(bug));
        });
    }
    model::finds("deadlock", || {
        model::check(|| sleeps(Bug::WakesNobody));
    });
}
