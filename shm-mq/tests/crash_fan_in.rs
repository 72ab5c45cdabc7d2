//! A sender or the receiver of a fan-in is killed at each instruction of what it does: each record
//! that was acknowledged comes once, in its order and whole, and then its sender's end, once; of a
//! receiver that dies somebody takes the role, and is given what it had not let go of.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod spsc_common;
use crash_common::said;
#[path = "crash_fan_in/world.rs"]
mod world;

use shm_core::participants::Member;
use shm_mq::fan_in::{
    AttachError, Event, FanIn, JoinError, Receiver, RecvError, SendError, Sender, Why,
};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{CONFIG, Came, World, fan_in_at, record};

/// In the notes: that the doomed one was told that it has a lane, how many records it was told are
/// sent, and that it has left.
const JOINED: usize = 0;
const SENT: usize = 1;
const LEFT: usize = 2;
/// How many records the doomed one let go of, and how many ends.
const RECEIVED: usize = 3;
const ENDS: usize = 4;
/// Whether a silent peer lives is read from `/proc`: 60,000 instructions where not optimised.
const BYSTANDER_MAX: usize = 400_000;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_millis(400);

/// One that comes as a sender, and goes. The test process receives.
#[derive(Clone, Copy)]
struct Sends {
    name: &'static str,
    operations: &'static [&'static str],
    prepare: fn(&World, &mut Comes, &Notes),
    operate: fn(&World, &mut Comes, &Notes),
    /// Another process has a sender besides, and sends while the doomed one stands still.
    is_watched: bool,
}

struct Comes {
    me: Arc<Member>,
    sender: Option<Sender>,
    records: Vec<Vec<u8>>,
}

impl Comes {
    fn joins(&mut self, world: &World, notes: &Notes) {
        self.sender = Some(world.fan_in.sender(&self.me).unwrap());
        notes.set(JOINED, 1);
    }

    fn sends(&mut self, notes: &Notes) {
        for record in &self.records {
            match self.sender.as_mut().unwrap().try_send(record) {
                Ok(true) => notes.count(SENT),
                // A bystander may have come and gone as the receiver.
                other => assert_eq!(other, Err(SendError::Detached)),
            }
        }
    }

    fn leaves(&mut self, notes: &Notes) {
        self.sender = None;
        notes.set(LEFT, 1);
    }
}

impl Scenario for Sends {
    type World = World;
    type Doomed = Comes;

    fn name(&self) -> String {
        format!("fan_in, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let mut world = World::new();
        if !self.is_watched {
            world.receiver().unwrap();
        }
        world
    }

    fn prepare(&self, world: &World, notes: &Notes) -> Comes {
        let me = world.me.table().join().unwrap();
        let mut comes = Comes { me, sender: None, records: (0..2).map(record).collect() };
        (self.prepare)(world, &mut comes, notes);
        comes
    }

    fn operate(&self, world: &World, doomed: &mut Comes, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let (_, came) = world.receive_all()?;
        let [joined, sent, left] = [JOINED, SENT, LEFT].map(|what| notes.get(what));
        let is_right = match came.why {
            None => joined == 0,
            Some(Why::Left) => true,
            Some(Why::Died) => left == 0 && end == End::Killed,
            Some(Why::Corrupt) => false,
        };
        if !is_right || came.ends > 1 || came.first.unwrap_or(0) != 0 {
            return Err(format!("{came:?} came, of {joined}, {sent}, {left}"));
        }
        if !(sent..=sent + 1).contains(&came.records) {
            return Err(format!("of {sent} records came {}", came.records));
        }
        world.goes_on()?;
        world.nothing_leaks(end)
    }

    /// Another sender and the receiver go on, whatever the doomed one stands at.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let me = world.me.table().join().unwrap();
        Some(Box::new(move || {
            let mut receiver = world.fan_in.receiver(&me).map_err(said)?;
            let mut sender = world.fan_in.sender(&me).map_err(said)?;
            let mine = record(0);
            if !sender.try_send(&mine).map_err(said)? {
                return Err("no room".to_owned());
            }
            let (mut sender, mut is_received) = (Some(sender), false);
            // The doomed one's may come before, and stays there.
            for _ in 0..500 {
                match receiver.try_recv().map_err(said)? {
                    Some(event) if event.sender() != me.id() => event.put_back(),
                    Some(Event::Record(_)) => {
                        is_received = true;
                        sender = None;
                    }
                    Some(Event::End(end)) if sender.is_none() && end.received() == 1 => {
                        return Ok(());
                    }
                    None if !is_received => return Err("its record is lost".to_owned()),
                    other => return Err(format!("no record, but {other:?}")),
                }
            }
            Err("starved".to_owned())
        }))
    }

    /// Who receives meanwhile is given something, and dies too.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        world.me.table().reap(|_| ());
        let heir = world.me.table().join().unwrap();
        Some(Box::new(move || {
            let mut receiver = world.fan_in.receiver(&heir).map_err(said)?;
            for _ in 0..2 {
                if let Some(event) = receiver.try_recv().map_err(said)? {
                    event.put_back();
                }
            }
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Comes) -> Result<(), String> {
        if !matches!(world.fan_in.sender(&doomed.me), Err(JoinError::Forked(_))) {
            return Err("joins in its parent's name".to_owned());
        }
        let given = world.fan_in.set_sender(&doomed.me, doomed.me.id());
        if !matches!(given, Err(JoinError::Forked(_))) {
            return Err("gives a lane in its parent's name".to_owned());
        }
        let sends = |sender: &mut Sender| sender.try_send(b"forked") != Err(SendError::Forked);
        if doomed.sender.as_mut().is_some_and(sends) {
            return Err("works with its parent's sender".to_owned());
        }
        doomed.sender = None;
        Ok(())
    }
}

/// At all states that a death can leave, and some others: an operation has fifty of them at most.
fn run<S: Scenario>(scenario: &S) -> Run<'_, S> {
    Run::new(scenario).points(50)
}

const COMES: Sends = Sends {
    name: "join, send, leave",
    operations: &["shm_mq::fan_in::FanIn::sender"],
    prepare: |_, _, _| (),
    operate: |world, doomed, notes| {
        doomed.joins(world, notes);
        doomed.sends(notes);
        doomed.leaves(notes);
    },
    is_watched: false,
};

#[test]
fn one_may_die_that_comes_and_goes() {
    run(&COMES).kill().passes();
    // In a child the handle that its parent was moving is half there: here it is not moved.
    let stays = Sends {
        name: "send in a lane",
        prepare: |world, doomed, notes| doomed.joins(world, notes),
        operate: |_, doomed, notes| doomed.sends(notes),
        ..COMES
    };
    run(&stays).fork().passes();
}

#[test]
fn one_that_stands_still_holds_up_nobody() {
    let scenario = Sends { name: "join, send, leave, watched", is_watched: true, ..COMES };
    run(&scenario).bystander_at_most(BYSTANDER_MAX).stop().passes();
}

#[test]
fn who_looks_at_the_lane_of_a_dead_one_may_die_too() {
    let scenario = Sends { name: "join, send, leave, an heir", is_watched: true, ..COMES };
    Run::new(&scenario).nested().passes();
}

#[test]
fn one_may_die_to_whom_a_lane_is_given() {
    let scenario = Sends {
        name: "set_sender, join, send, leave",
        operations: &["shm_mq::fan_in::FanIn::set_sender", "shm_mq::fan_in::FanIn::sender"],
        operate: |world, doomed, notes| {
            world.fan_in.set_sender(&doomed.me, doomed.me.id()).unwrap();
            notes.set(JOINED, 1);
            (COMES.operate)(world, doomed, notes);
        },
        ..COMES
    };
    run(&scenario).kill().passes();
}

/// One that receives. In lane 0 the test process sends; the sender of lane 1 has left, or died.
#[derive(Clone, Copy)]
struct Receives {
    name: &'static str,
    operations: &'static [&'static str],
    /// Records in each lane before.
    queued: u64,
    /// The sender of lane 1 sent nothing: it died before it came.
    died: bool,
    /// There is no sender of lane 1.
    alone: bool,
    /// The test process has no lane: the other one's is lane 0.
    is_absent: bool,
    /// The role is taken in `operate`.
    is_late: bool,
    prepare: fn(&mut Takes),
    operate: fn(&World, &mut Takes, &Notes),
    /// Somebody has taken the role before, and may have let go of one event.
    has_heir: bool,
}

struct Takes {
    me: Arc<Member>,
    receiver: Option<Receiver>,
    records: Vec<Vec<u8>>,
}

impl Takes {
    fn receiver(&mut self) -> &mut Receiver {
        self.receiver.as_mut().unwrap()
    }

    /// Uses an event, and lets go of it.
    fn uses(event: Event<'_>, records: &[Vec<u8>], notes: &Notes) {
        match event {
            Event::Record(got) => {
                assert_eq!(*got, *records[got.number() as usize]);
                drop(got);
                notes.count(RECEIVED);
            }
            Event::End(end) => {
                drop(end);
                notes.count(ENDS);
            }
        }
    }
}

impl Scenario for Receives {
    type World = World;
    type Doomed = Takes;

    fn name(&self) -> String {
        format!("fan_in, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let mut world = World::new();
        if !self.is_absent {
            let mut sender = world.fan_in.sender(&world.me).unwrap();
            for number in 0..self.queued {
                assert!(sender.try_send(&record(number)).unwrap());
            }
            world.sender = Some(sender);
        }
        if self.alone {
            return world;
        }
        let other = world.me.table().join().unwrap();
        if self.died {
            // It leaves the table before it takes its lane, which is as if it had died.
            world.fan_in.set_sender(&world.me, other.id()).unwrap();
        } else {
            let mut sender = world.fan_in.sender(&other).unwrap();
            for number in 0..self.queued {
                assert!(sender.try_send(&record(number)).unwrap());
            }
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Takes {
        let me = world.me.table().join().unwrap();
        let receiver = (!self.is_late).then(|| world.fan_in.receiver(&me).unwrap());
        let records = (0..self.queued).map(record).collect();
        let mut doomed = Takes { me, receiver, records };
        (self.prepare)(&mut doomed);
        doomed
    }

    fn operate(&self, world: &World, doomed: &mut Takes, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let (ours, theirs) = world.receive_all()?;
        let of_lanes = if self.died || self.alone { 1 } else { 2 };
        let all = of_lanes * self.queued;
        let in_hand = u64::from(end == End::Killed) + u64::from(self.has_heir);
        let (received, ends) = (notes.get(RECEIVED), notes.get(ENDS));
        let came = ours.records + theirs.records;
        let gone = (received + came, received + came + in_hand);
        if !(gone.0 <= all && all <= gone.1) {
            return Err(format!("{received} of {all} were received, then {ours:?}, {theirs:?}"));
        }
        let all = u64::from(!self.alone);
        if !(ends + theirs.ends <= all && all <= ends + theirs.ends + in_hand) || ours.ends > 0 {
            return Err(format!("{ends} of {all} ends were told, then {ours:?}, {theirs:?}"));
        }
        let why = if self.died { Why::Died } else { Why::Left };
        if theirs.why.is_some_and(|its| its != why) {
            return Err(format!("{theirs:?} came"));
        }
        // Records that come are the last ones.
        for came in [ours, theirs] {
            let Came { first: Some(first), records, .. } = came else { continue };
            if first + records != self.queued {
                return Err(format!("{came:?} came of {}", self.queued));
            }
        }
        world.goes_on()?;
        world.nothing_leaks(end)
    }

    /// Somebody takes the role, and is given something.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        world.me.table().reap(|_| ());
        let heir = world.me.table().join().unwrap();
        Some(Box::new(move || {
            let mut receiver = world.fan_in.receiver(&heir).map_err(said)?;
            let event = receiver.try_recv().map_err(said)?;
            match event {
                Some(Event::Record(got)) if *got != *record(got.number()) => {
                    Err(format!("torn: {got:?}"))
                }
                _ => Ok(()),
            }
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Takes) -> Result<(), String> {
        let works = |receiver: &mut Receiver| {
            !receiver.try_recv().is_err_and(|error| error == RecvError::Forked)
        };
        if doomed.receiver.as_mut().is_some_and(works) {
            return Err("works with its parent's receiver".to_owned());
        }
        if !matches!(world.fan_in.receiver(&doomed.me), Err(AttachError::Forked(_))) {
            return Err("takes a role in its parent's name".to_owned());
        }
        doomed.receiver = None;
        Ok(())
    }
}

/// Receives two records of each of two, and the end of one that left.
const TAKES: Receives = Receives {
    name: "try_recv, of two lanes",
    operations: &["shm_mq::fan_in::Receiver::try_recv", "shm_mq::fan_in::receiver::End::drop"],
    queued: 2,
    died: false,
    alone: false,
    is_absent: false,
    is_late: false,
    prepare: |_| (),
    operate: |_, doomed, notes| {
        let receiver = doomed.receiver.as_mut().unwrap();
        for _ in 0..5 {
            let event = receiver.try_recv().unwrap().unwrap();
            Takes::uses(event, &doomed.records, notes);
        }
    },
    has_heir: false,
};

#[test]
fn a_receiver_may_die_in_try_recv() {
    run(&TAKES).kill().passes();
    run(&TAKES).fork().passes();
}

#[test]
fn who_takes_the_role_of_a_dead_one_may_die_too() {
    let scenario = Receives {
        name: "try_recv, of two lanes, an heir",
        queued: 1,
        has_heir: true,
        operate: |_, doomed, notes| {
            let receiver = doomed.receiver.as_mut().unwrap();
            for _ in 0..3 {
                let event = receiver.try_recv().unwrap().unwrap();
                Takes::uses(event, &doomed.records, notes);
            }
        },
        ..TAKES
    };
    Run::new(&scenario).nested().passes();
}

#[test]
fn a_receiver_may_die_in_recv_and_drain() {
    let scenario = Receives {
        name: "recv, recv_deadline and drain, one that died",
        operations: &[
            "shm_mq::fan_in::Receiver::recv",
            "shm_mq::fan_in::Receiver::recv_deadline",
            "shm_mq::fan_in::Receiver::drain",
        ],
        queued: 3,
        died: true,
        operate: |_, doomed, notes| {
            let Takes { receiver, records, .. } = doomed;
            let receiver = receiver.as_mut().unwrap();
            Takes::uses(receiver.recv().unwrap(), records, notes);
            let soon = Instant::now() + NAP;
            Takes::uses(receiver.recv_deadline(soon).unwrap(), records, notes);
            let uses = |event: Event<'_>| Takes::uses(event, records, notes);
            assert_eq!(receiver.drain(1, uses), Ok(1));
        },
        ..TAKES
    };
    run(&scenario).kill().passes();
}

#[test]
fn a_receiver_may_die_told_of_a_death() {
    let scenario = Receives {
        name: "try_recv, one that died",
        operations: &["shm_mq::fan_in::receiver::End::drop"],
        queued: 0,
        died: true,
        // To look whether one lives takes many instructions.
        is_absent: true,
        operate: |_, doomed, notes| {
            let Takes { receiver, records, .. } = doomed;
            let receiver = receiver.as_mut().unwrap();
            let event = loop {
                if let Some(event) = receiver.try_recv().unwrap() {
                    break event;
                }
            };
            Takes::uses(event, records, notes);
        },
        ..TAKES
    };
    run(&scenario).kill().passes();
}

#[test]
fn a_receiver_may_die_asleep() {
    let scenario = Receives {
        name: "recv_deadline, asleep",
        operations: &["shm_mq::fan_in::Receiver::recv_deadline"],
        queued: 0,
        alone: true,
        operate: |_, doomed, _| {
            let got = doomed.receiver().recv_deadline(Instant::now() + NAP);
            assert_eq!(got.err(), Some(RecvError::TimedOut));
        },
        ..TAKES
    };
    run(&scenario).asleep().passes();
}

#[test]
fn a_receiver_may_die_coming_and_going() {
    let comes = Receives {
        name: "receiver, and drop",
        operations: &[
            "shm_mq::fan_in::FanIn::receiver",
            "shm_mq::fan_in::receiver::Receiver::drop",
        ],
        is_late: true,
        operate: |world, doomed, _| {
            doomed.receiver = Some(world.fan_in.receiver(&doomed.me).unwrap());
            doomed.receiver = None;
        },
        ..TAKES
    };
    run(&comes).kill().passes();
    let named = Receives {
        name: "set_receiver, and receiver",
        operations: &["shm_mq::fan_in::FanIn::set_receiver"],
        operate: |world, doomed, _| {
            world.fan_in.set_receiver(&doomed.me, doomed.me.id()).unwrap();
            doomed.receiver = Some(world.fan_in.receiver(&doomed.me).unwrap());
        },
        ..comes
    };
    run(&named).kill().passes();
}

/// A fan-in is made; who dies at it leaves bytes that are made into one anew.
struct Creates;

impl Scenario for Creates {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "fan_in, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_mq::fan_in::FanIn::create"]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), _: &Notes) {
        // SAFETY: nobody else uses these bytes.
        unsafe { FanIn::create(&world.mapping, fan_in_at(), &CONFIG) }.unwrap();
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, _: &Notes, _: End) -> Result<(), String> {
        // SAFETY: nobody else uses these bytes.
        let fan_in = unsafe { FanIn::create(&world.mapping, fan_in_at(), &CONFIG) };
        world.fan_in = fan_in.map_err(said)?;
        world.goes_on()
    }
}

#[test]
fn one_may_die_creating() {
    Run::new(&Creates).points(50).kill().passes();
}
