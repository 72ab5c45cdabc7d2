//! Either side of a queue is killed at each instruction of what it does, and somebody takes its
//! role: each record that was acknowledged is received once, in its order and whole, and the
//! counts of both sides are right.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod spsc_common;
use crash_common::said;
#[path = "crash_spsc/world.rs"]
mod world;

use shm_core::participants::Member;
use shm_mq::spsc::{AttachError, Queue, Receiver, RecvError, SendError, Sender};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use spsc_common::LIMIT;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{BASE, RING_BYTES, World, queue_at, record};

/// In the notes: how many records the doomed one was told are sent, or has released.
const SENT: usize = 0;
const RECEIVED: usize = 1;
/// Whether the doomed one was told that it has the role.
const HAS_ROLE: usize = 2;
/// Whether a silent peer lives is read from `/proc`: 60,000 instructions where not optimised.
const BYSTANDER_MAX: usize = 200_000;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_millis(400);
/// Who finds nothing to do looks through a text of `/proc`, which is not of one length: so many
/// instructions in there may be missed.
const MISSED_MAX: usize = 200;

/// What the doomed one is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sender,
    Receiver,
    /// It sends to itself.
    Both,
}

impl Role {
    fn sends(self) -> bool {
        self != Role::Receiver
    }

    fn receives(self) -> bool {
        self != Role::Sender
    }
}

/// One that has a role does something.
#[derive(Clone, Copy)]
struct Acts {
    name: &'static str,
    operations: &'static [&'static str],
    role: Role,
    /// Records in the queue before.
    queued: u64,
    /// So many the doomed one sends.
    sends: u64,
    /// All of them at once.
    are_together: bool,
    /// It takes the role in `operate`.
    is_late: bool,
    prepare: fn(&mut Doomed),
    operate: fn(&World, &mut Doomed, &Notes),
    /// Nobody has the other role but a bystander.
    is_alone: bool,
    /// The other side learns of the end before somebody takes the role.
    learns: bool,
    /// Somebody has taken the role before, and may have sent or received one record.
    has_heir: bool,
}

const ACTS: Acts = Acts {
    name: "",
    operations: &[],
    role: Role::Both,
    queued: 0,
    sends: 0,
    are_together: false,
    is_late: false,
    prepare: |_| (),
    operate: |_, _, _| (),
    is_alone: false,
    learns: false,
    has_heir: false,
};

struct Doomed {
    me: Arc<Member>,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    to_send: Vec<Vec<u8>>,
    to_receive: Vec<Vec<u8>>,
}

impl Doomed {
    fn sender(&mut self) -> &mut Sender {
        self.sender.as_mut().unwrap()
    }

    fn receiver(&mut self) -> &mut Receiver {
        self.receiver.as_mut().unwrap()
    }
}

impl Acts {
    fn first(&self) -> u64 {
        BASE + self.queued
    }

    /// What the successors were told fits what the doomed one was told, and did.
    fn counts_are_right(&self, world: &World, notes: &Notes, end: End) -> Result<(), String> {
        let (Some(sender), Some(receiver)) = (&world.sender, &world.receiver) else {
            return Err("has not taken the roles".to_owned());
        };
        let (sent, received) = (sender.sent(), receiver.received());
        let heirs = u64::from(self.has_heir && end == End::Killed);
        if self.role.sends() {
            let least = self.first() + notes.get(SENT);
            let most = self.first() + self.sends + heirs;
            let is_all = end == End::Killed || self.is_alone || sent == most;
            if !(least..=most).contains(&sent) || !is_all {
                return Err(format!("{sent} were sent, and not {least} to {most}"));
            }
            if self.are_together && sent != self.first() && sent != most {
                return Err(format!("of {most} only {sent} were sent"));
            }
        }
        if self.role.receives() {
            let least = BASE + notes.get(RECEIVED);
            // Between the release and the note.
            let most = least + u64::from(end == End::Killed) + heirs;
            if !(least..=most).contains(&received) {
                return Err(format!("{received} were received, and not {least} to {most}"));
            }
        }
        if received > sent {
            return Err(format!("of {sent} records {received} were received"));
        }
        Ok(())
    }
}

impl Scenario for Acts {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("spsc, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let mut world = World::new(self.queued);
        world.sender.take_if(|_| self.is_alone || self.role.sends());
        world.receiver.take_if(|_| self.is_alone || self.role.receives());
        if self.is_alone && self.role == Role::Sender {
            world.forget_the_receiver();
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        let me = world.me.table().join().unwrap();
        let (first, has) = (self.first(), |role: bool| role && !self.is_late);
        let mut doomed = Doomed {
            sender: has(self.role.sends()).then(|| world.queue.sender(&me).unwrap()),
            receiver: has(self.role.receives()).then(|| world.queue.receiver(&me).unwrap()),
            me,
            to_send: (first..first + self.sends).map(record).collect(),
            to_receive: (BASE..first + self.sends).map(record).collect(),
        };
        (self.prepare)(&mut doomed);
        doomed
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        if self.learns && (!self.is_late || notes.get(HAS_ROLE) == 1) {
            world.learns(end)?;
        }
        world.succeed()?;
        self.counts_are_right(&world, notes, end)?;
        world.goes_on()?;
        (world.sender, world.receiver) = (None, None);
        world.nothing_leaks(end)
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let me = world.me.table().join().unwrap();
        if self.role == Role::Receiver {
            let (mut sender, record) = (world.queue.sender(&me).unwrap(), record(self.first()));
            return Some(Box::new(move || match sender.try_send(&record) {
                Ok(_) | Err(SendError::Detached) => Ok(()),
                Err(error) => Err(said(error)),
            }));
        }
        let (mut receiver, record) = (world.queue.receiver(&me).unwrap(), record(BASE));
        // Looks at the sender: that takes many instructions once.
        receiver.wait_for_peer(None).unwrap();
        Some(Box::new(move || match receiver.try_recv() {
            Ok(Some(got)) if *got != *record => Err(format!("received {got:?} of nobody's")),
            Ok(_) | Err(RecvError::Detached) => Ok(()),
            Err(error) => Err(format!("learns of one that is stopped: {error}")),
        }))
    }

    /// Somebody takes the role, and does something in it.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        // That this may die too, the tests of participants show.
        world.me.table().reap(|_| ());
        let heir = world.me.table().join().unwrap();
        Some(Box::new(move || {
            if self.role.sends() {
                let mut sender = world.queue.sender(&heir).map_err(said)?;
                let number = sender.sent();
                sender.try_send(&record(number)).map_err(said)?;
            }
            if self.role.receives() {
                let mut receiver = world.queue.receiver(&heir).map_err(said)?;
                let number = receiver.received();
                let got = if number < self.first() { receiver.try_recv() } else { Ok(None) };
                match got.map_err(said)? {
                    Some(got) if *got != *record(number) => {
                        return Err(format!("no record {number}, but {got:?}"));
                    }
                    _ => {}
                }
            }
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Doomed) -> Result<(), String> {
        let sends = |sender: &mut Sender| sender.try_send(b"forked") != Err(SendError::Forked);
        let receives = |receiver: &mut Receiver| {
            !receiver.try_recv().is_err_and(|error| error == RecvError::Forked)
        };
        if doomed.sender.as_mut().is_some_and(sends) {
            return Err("works with its parent's sender".to_owned());
        }
        if doomed.receiver.as_mut().is_some_and(receives) {
            return Err("works with its parent's receiver".to_owned());
        }
        if !matches!(world.queue.sender(&doomed.me), Err(AttachError::Forked(_))) {
            return Err("takes a role in its parent's name".to_owned());
        }
        (doomed.sender, doomed.receiver) = (None, None);
        Ok(())
    }
}

/// At all states that a death can leave, and some others: an operation has fifty of them at most.
fn run(scenario: &Acts) -> Run<'_, Acts> {
    Run::new(scenario).points(50)
}

fn acknowledge(result: Result<(), SendError>, notes: &Notes) {
    // A bystander may have come and gone as the receiver.
    if result.is_ok() {
        notes.count(SENT);
    } else {
        assert_eq!(result, Err(SendError::Detached));
    }
}

fn push_all(doomed: &mut Doomed) {
    let sender = doomed.sender.as_mut().unwrap();
    assert!(doomed.to_send.iter().all(|record| sender.push(record) == Ok(true)));
}

fn send_all(doomed: &mut Doomed, notes: &Notes) {
    for record in &doomed.to_send {
        acknowledge(doomed.sender.as_mut().unwrap().send(record), notes);
    }
}

/// Sends two records, the second one behind the end of the ring.
fn send() -> Acts {
    Acts {
        name: "send",
        operations: &["shm_mq::spsc::Sender::send", "shm_mq::spsc::Sender"],
        role: Role::Sender,
        sends: 2,
        operate: |_, doomed, notes| send_all(doomed, notes),
        ..ACTS
    }
}

#[test]
fn a_sender_may_die_in_send() {
    run(&send()).kill().passes();
    run(&Acts { learns: true, name: "send, the receiver learns of it", ..send() }).kill().passes();
    run(&send()).fork().passes();
    let alone = Acts { is_alone: true, name: "send, a receiver stands by", ..send() };
    run(&alone).bystander_at_most(BYSTANDER_MAX).stop().passes();
}

#[test]
fn a_sender_may_die_in_try_send() {
    let scenario = Acts {
        name: "try_send, until the ring is full",
        operations: &["shm_mq::spsc::Sender::try_send"],
        operate: |_, doomed, notes| {
            let sender = doomed.sender.as_mut().unwrap();
            for record in &doomed.to_send {
                acknowledge(sender.try_send(record).map(|is_sent| assert!(is_sent)), notes);
            }
            // Says how far it is.
            assert_eq!(sender.try_send(&[]), Ok(false));
        },
        ..send()
    };
    run(&scenario).kill().passes();
}

#[test]
fn a_sender_may_die_asleep() {
    let scenario = Acts {
        name: "send_deadline to a full ring, asleep",
        operations: &["shm_mq::spsc::Sender::send_deadline"],
        queued: 2,
        sends: 0,
        learns: true,
        operate: |_, doomed, _| {
            let sent = doomed.sender().send_deadline(&[], Instant::now() + NAP);
            assert_eq!(sent, Err(SendError::TimedOut));
        },
        ..send()
    };
    run(&scenario).asleep().passes();
}

#[test]
fn a_sender_may_die_pushing_and_flushing() {
    let scenario = Acts {
        name: "push and flush",
        are_together: true,
        operations: &["shm_mq::spsc::Sender::push", "shm_mq::spsc::Sender::flush"],
        operate: |_, doomed, notes| {
            push_all(doomed);
            doomed.sender().flush().unwrap();
            notes.set(SENT, 2);
        },
        ..send()
    };
    run(&scenario).kill().passes();
    let scenario = Acts {
        name: "push, until the ring is full",
        operations: &["shm_mq::spsc::Sender::push"],
        operate: |_, doomed, notes| {
            push_all(doomed);
            // Publishes what was pushed.
            assert_eq!(doomed.sender().push(&[]), Ok(false));
            notes.set(SENT, 2);
        },
        ..scenario
    };
    run(&scenario).kill().passes();
}

/// Two records' places are lent and written.
fn reserve() -> Acts {
    Acts {
        name: "reserve and commit",
        operations: &["shm_mq::spsc::Sender::reserve", "shm_mq::spsc::Reserved::commit"],
        operate: |_, doomed, notes| {
            let sender = doomed.sender.as_mut().unwrap();
            for record in &doomed.to_send {
                let mut place = sender.reserve(record.len()).unwrap().unwrap();
                place.copy_from_slice(record);
                place.commit();
                notes.count(SENT);
            }
        },
        ..send()
    }
}

#[test]
fn a_sender_may_die_in_a_place_that_it_reserved() {
    run(&reserve()).kill().passes();
    run(&reserve()).fork().passes();
    let dropped = Acts {
        name: "reserve, and no commit",
        operations: &["shm_mq::spsc::Sender::reserve"],
        sends: 0,
        operate: |_, doomed, _| {
            let mut place = doomed.sender().reserve(200).unwrap().unwrap();
            place.fill(7);
        },
        ..reserve()
    };
    run(&dropped).kill().passes();
}

#[test]
fn a_sender_may_die_detaching() {
    let scenario = Acts {
        name: "drop of a sender with something pending",
        are_together: true,
        operations: &["shm_mq::spsc::Sender::drop"],
        prepare: push_all,
        operate: |_, doomed, _| drop(doomed.sender.take()),
        learns: true,
        ..send()
    };
    run(&scenario).kill().passes();
}

/// Receives two records, the second one from behind the end of the ring.
fn recv() -> Acts {
    Acts {
        name: "recv, drop of a record",
        operations: &[
            "shm_mq::spsc::Receiver::recv",
            "shm_mq::spsc::receiver::Held::drop",
            "shm_mq::spsc::Receiver",
        ],
        role: Role::Receiver,
        queued: 2,
        operate: |_, doomed, notes| {
            let receiver = doomed.receiver.as_mut().unwrap();
            for record in &doomed.to_receive {
                assert_eq!(*receiver.recv().unwrap(), **record);
                notes.count(RECEIVED);
            }
        },
        ..ACTS
    }
}

#[test]
fn a_receiver_may_die_in_recv() {
    run(&recv()).kill().passes();
    run(&Acts { learns: true, name: "recv, the sender learns of it", ..recv() }).kill().passes();
    run(&recv()).fork().passes();
    let alone = Acts { is_alone: true, name: "recv, a sender stands by", ..recv() };
    run(&alone).bystander_at_most(BYSTANDER_MAX).stop().passes();
}

#[test]
fn a_receiver_may_die_finding_nothing() {
    let scenario = Acts {
        name: "try_recv of an empty queue",
        operations: &["shm_mq::spsc::Receiver::try_recv"],
        queued: 0,
        // Looks at the sender: that takes many instructions once.
        prepare: |doomed| doomed.receiver().wait_for_peer(None).unwrap(),
        operate: |_, doomed, _| assert!(doomed.receiver().try_recv().unwrap().is_none()),
        ..recv()
    };
    run(&scenario).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn a_receiver_may_die_asleep() {
    let scenario = Acts {
        name: "recv_deadline, asleep",
        operations: &["shm_mq::spsc::Receiver::recv_deadline"],
        queued: 0,
        learns: true,
        operate: |_, doomed, _| {
            let got = doomed.receiver().recv_deadline(Instant::now() + NAP);
            assert_eq!(got.err(), Some(RecvError::TimedOut));
        },
        ..recv()
    };
    run(&scenario).asleep().passes();
}

#[test]
fn a_receiver_may_die_putting_back() {
    let scenario = Acts {
        name: "try_recv and put_back, then recv_deadline",
        operations: &["shm_mq::spsc::Receiver::try_recv", "shm_mq::spsc::Receiver::recv_deadline"],
        operate: |_, doomed, notes| {
            doomed.receiver().try_recv().unwrap().unwrap().put_back();
            let soon = Instant::now() + LIMIT;
            for _ in 0..2 {
                doomed.receiver().recv_deadline(soon).unwrap();
                notes.count(RECEIVED);
            }
        },
        ..recv()
    };
    run(&scenario).kill().passes();
}

#[test]
fn a_receiver_may_die_detaching() {
    let scenario = Acts {
        name: "drop of a receiver",
        operations: &["shm_mq::spsc::receiver::Cursor::drop"],
        operate: |_, doomed, _| drop(doomed.receiver.take()),
        learns: true,
        ..recv()
    };
    run(&scenario).kill().passes();
}

/// Goes around the ring: what has been received is written anew.
fn both() -> Acts {
    Acts {
        name: "try_send and try_recv, around the ring",
        operations: &["shm_mq::spsc::Sender::try_send", "shm_mq::spsc::Receiver::try_recv"],
        queued: 1,
        sends: 3,
        operate: |_, doomed, notes| {
            let (sender, receiver) = (doomed.sender.as_mut().unwrap(), &mut doomed.receiver);
            for record in &doomed.to_send {
                assert_eq!(sender.try_send(record), Ok(true));
                notes.count(SENT);
                drop(receiver.as_mut().unwrap().try_recv().unwrap().unwrap());
                notes.count(RECEIVED);
            }
        },
        ..ACTS
    }
}

#[test]
fn one_may_die_that_goes_around_the_ring() {
    run(&both()).kill().passes();
    run(&both()).fork().passes();
}

#[test]
fn who_takes_the_roles_of_a_dead_one_may_die_too() {
    Run::new(&Acts { has_heir: true, ..both() }).nested().passes();
}

/// A role is taken, or given to the doomed one.
#[test]
fn one_may_die_attaching_or_being_given_a_role() {
    let at = |role, name, operations, operate| {
        let queued = 2;
        Acts { name, operations, role, queued, operate, is_late: true, learns: true, ..ACTS }
    };
    let scenarios = [
        at(
            Role::Sender,
            "Sender::attach",
            &["shm_mq::spsc::Sender::attach"],
            |world, doomed, notes| {
                let sender = Sender::attach(&world.mapping, queue_at(), 0, &doomed.me);
                doomed.sender = Some(sender.unwrap());
                notes.set(HAS_ROLE, 1);
            },
        ),
        at(
            Role::Receiver,
            "Receiver::attach",
            &["shm_mq::spsc::Receiver::attach"],
            |world, doomed, notes| {
                let receiver = Receiver::attach(&world.mapping, queue_at(), 0, &doomed.me);
                doomed.receiver = Some(receiver.unwrap());
                notes.set(HAS_ROLE, 1);
            },
        ),
        at(
            Role::Sender,
            "set_sender, and attach",
            &["shm_mq::spsc::Queue::set_sender"],
            |world, doomed, notes| {
                world.queue.set_sender(&doomed.me, doomed.me.id()).unwrap();
                doomed.sender = Some(world.queue.sender(&doomed.me).unwrap());
                notes.set(HAS_ROLE, 1);
            },
        ),
        at(
            Role::Receiver,
            "set_receiver, and attach",
            &["shm_mq::spsc::Queue::set_receiver"],
            |world, doomed, notes| {
                world.queue.set_receiver(&doomed.me, doomed.me.id()).unwrap();
                doomed.receiver = Some(world.queue.receiver(&doomed.me).unwrap());
                notes.set(HAS_ROLE, 1);
            },
        ),
    ];
    for scenario in scenarios {
        run(&scenario).kill().passes();
    }
}

/// A queue is made; who dies at it leaves bytes that are made into one anew.
struct Creates;

impl Scenario for Creates {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "spsc, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_mq::spsc::Queue::create"]
    }

    fn world(&self) -> World {
        let mut world = World::new(2);
        (world.sender, world.receiver) = (None, None);
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), _: &Notes) {
        // SAFETY: nobody else uses these bytes.
        unsafe { Queue::create(&world.mapping, queue_at(), RING_BYTES, 0) }.unwrap();
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, mut world: World, _: &Notes, _: End) -> Result<(), String> {
        // SAFETY: nobody else uses these bytes.
        let queue = unsafe { Queue::create(&world.mapping, queue_at(), RING_BYTES, 0) };
        world.queue = queue.map_err(said)?;
        world.succeed()?;
        world.goes_on()
    }
}

#[test]
fn one_may_die_creating() {
    Run::new(&Creates).points(50).kill().passes();
}
