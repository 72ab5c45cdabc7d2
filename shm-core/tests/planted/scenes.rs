//! What happens to the planted ring in models: producers that may die, consumers that may die, and
//! a sleeper. Each scene ends with the kernel's verdict on the dead, a reaping, and an account of
//! what was acknowledged and what arrived.
use crate::planted::{Bug, Pop, PushError, Ring};
use shm_core::mapping::Mapping;
use shm_core::process::model::{become_process, buried};
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::{AtomicU32, Ordering::Relaxed, yield_now};
use shm_testkit::model::{self, Deaths};
use std::sync::Arc;

/// Who reaps a producer, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The consumer, when the kernel says that it is dead.
    Certified,
    /// Its parent, which the kernel tells of the death.
    Parent,
    /// The consumer, when it has waited long enough.
    Guessed,
}

/// A producer: process `pid`, which sends `messages` and dies after `fuel` accesses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Producer {
    pub(crate) pid: u32,
    pub(crate) messages: u64,
    pub(crate) fuel: u32,
}

pub(crate) const FOR_EVER: u32 = u32::MAX;

/// What a producer was told, which no death takes back.
#[derive(Clone, Copy, Default, Debug)]
struct Told {
    acknowledged: u64,
    fenced: bool,
    died: bool,
}

pub(crate) fn ring(capacity: u64, bug: Bug) -> Ring {
    Ring::create(&Mapping::heap(Ring::bytes_for(capacity) as usize), capacity, bug)
}

/// The n-th message of process `pid`, from 1 on.
fn message(pid: u32, n: u64) -> u64 {
    u64::from(pid) * 100 + n
}

fn is_dead(pid: u32) -> bool {
    ProcessId::of(pid).is_ok_and(|process| process.liveness() == Liveness::Dead)
}

/// Sends until it is refused, or dies; `patience` is how often it tries a full ring again. Where it
/// dies, the kernel says so, and `parent` is called as the process that learns of it.
fn send(
    ring: &Ring,
    producer: Producer,
    patience: u32,
    deaths: &Deaths,
    parent: impl FnOnce(),
) -> Told {
    let me = become_process(producer.pid);
    let mut told = Told::default();
    let end = model::mortal(producer.fuel, || {
        let mut left = patience;
        while told.acknowledged < producer.messages {
            match ring.push(producer.pid, message(producer.pid, told.acknowledged + 1)) {
                Ok(()) => told.acknowledged += 1,
                Err(PushError::Fenced) => {
                    told.fenced = true;
                    return;
                }
                Err(_) if left == 0 => return,
                Err(_) => {
                    left -= 1;
                    yield_now();
                }
            }
        }
    });
    if end.is_none() {
        told.died = true;
        deaths.died();
        buried(me);
        become_process(6);
        parent();
    }
    told
}

/// What has arrived, in order.
#[derive(Default)]
struct Arrived(Vec<u64>);

impl Arrived {
    /// Takes one message, if there is one; reaps whom the verdict is on.
    fn take(&mut self, ring: &Ring, verdict: Verdict) {
        match ring.pop() {
            Pop::Got(message) => self.0.push(message),
            Pop::Pending { owner, .. } if verdict == Verdict::Guessed || is_dead(owner) => {
                ring.reap(owner);
            }
            Pop::Pending { .. } | Pop::Empty => {}
            Pop::Corrupt => panic!("the ring is corrupt"),
        }
    }

    fn drain(&mut self, ring: &Ring) {
        loop {
            match ring.pop() {
                Pop::Got(message) => self.0.push(message),
                Pop::Empty => return,
                other => panic!("{other:?}, and all that are dead have been reaped"),
            }
        }
    }

    /// What arrived of `pid`.
    fn of(&self, pid: u32) -> impl Iterator<Item = u64> {
        self.0.iter().filter(move |&&m| m / 100 == u64::from(pid)).copied()
    }

    /// What was taken from a producer that was thought dead has not come in another one's name.
    fn no_zombie(&self, pid: u32, told: Told) {
        let refused = message(pid, told.acknowledged + 1);
        let came = told.fenced && self.0.contains(&refused);
        assert!(!came, "the zombie's payload arrived as somebody else's: {:?}", self.0);
    }

    /// Once and in order, nothing acknowledged missing but `lost` messages at most, and at most one
    /// more than acknowledged: of who died after it had published and before it was told.
    fn account(&self, pid: u32, told: Told, lost: usize) {
        let arrived: Vec<u64> = self.of(pid).collect();
        assert!(arrived.is_sorted_by(|a, b| a < b), "twice, or out of order: {:?}", self.0);
        let known = arrived.iter().filter(|&&m| m <= message(pid, told.acknowledged)).count();
        let missing = told.acknowledged as usize - known;
        assert!(missing <= lost, "an acknowledged message is lost: process {pid}, {:?}", self.0);
        let unacknowledged = arrived.len() - known;
        assert!(unacknowledged <= usize::from(told.died), "it was refused, and arrived");
    }
}

/// The ring takes as much as it has room for, and gives it back.
fn works_on(ring: &Ring, capacity: u64) {
    become_process(7);
    for n in 0..capacity {
        match ring.push(7, message(7, n)) {
            Ok(()) => {}
            Err(PushError::Full) => panic!("room is lost for good"),
            Err(other) => panic!("no room can be had: {other:?}"),
        }
    }
    for n in 0..capacity {
        assert_eq!(ring.pop(), Pop::Got(message(7, n)), "what was sent last is lost");
    }
    become_process(1);
}

/// A number of producers in threads of their own. The main thread, process 1, looks for messages
/// `looks` times while they run, and tries to send one of its own after each look but the last.
pub(crate) struct Scene<'a> {
    pub(crate) bug: Bug,
    pub(crate) verdict: Verdict,
    pub(crate) capacity: u64,
    pub(crate) producers: &'a [Producer],
    pub(crate) looks: u64,
}

impl Scene<'_> {
    pub(crate) fn play(&self, deaths: &Deaths) {
        let ring = ring(self.capacity, self.bug);
        let threads: Vec<_> = self
            .producers
            .iter()
            .map(|&producer| {
                let (ring, deaths, patience) = (ring.clone(), deaths.clone(), self.patience());
                let parent = self.verdict == Verdict::Parent;
                model::thread::spawn(move || {
                    let reap = || {
                        if parent {
                            ring.reap(producer.pid)
                        }
                    };
                    send(&ring, producer, patience, &deaths, reap)
                })
            })
            .collect();
        let (arrived, own) = self.look_and_send(&ring);
        let told = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        self.settle(&ring, arrived, own, told);
    }

    fn patience(&self) -> u32 {
        if self.looks > 3 { self.looks as u32 } else { 0 }
    }

    fn look_and_send(&self, ring: &Ring) -> (Arrived, Told) {
        let (mut arrived, mut own) = (Arrived::default(), Told::default());
        for look in 1..=self.looks {
            arrived.take(ring, self.verdict);
            if look < self.looks {
                let next = message(1, own.acknowledged + 1);
                own.acknowledged += u64::from(ring.push(1, next).is_ok());
            }
        }
        (arrived, own)
    }

    /// All have ended: whoever has died is reaped, and the books are closed.
    fn settle(&self, ring: &Ring, mut arrived: Arrived, own: Told, told: Vec<Told>) {
        for producer in self.producers.iter().filter(|producer| is_dead(producer.pid)) {
            ring.reap(producer.pid);
        }
        arrived.drain(ring);
        let producers = self.producers.iter().map(|producer| producer.pid).zip(told);
        let all: Vec<_> = producers.chain([(1, own)]).collect();
        all.iter().for_each(|&(pid, told)| arrived.no_zombie(pid, told));
        all.iter().for_each(|&(pid, told)| arrived.account(pid, told, 0));
        works_on(ring, self.capacity);
    }
}

/// A consumer that may die while one sends: its successor finds all but what it had in hand.
pub(crate) fn consumer_dies(bug: Bug, capacity: u64, messages: u64, fuel: u32, deaths: &Deaths) {
    let ring = ring(capacity, bug);
    let (theirs, its_deaths) = (ring.clone(), deaths.clone());
    let consumer = model::thread::spawn(move || {
        let me = become_process(2);
        let mut arrived = Arrived::default();
        let end = model::mortal(fuel, || {
            for _ in 0..messages {
                arrived.take(&theirs, Verdict::Certified);
                yield_now();
            }
        });
        if end.is_none() {
            its_deaths.died();
            buried(me);
        }
        (arrived, end.is_none())
    });
    let producer = Producer { pid: 1, messages, fuel: FOR_EVER };
    let told = send(&ring, producer, 1, deaths, || ());
    let (mut arrived, died) = consumer.join().unwrap();
    arrived.drain(&ring);
    arrived.account(1, told, usize::from(died));
    works_on(&ring, capacity);
}

/// A consumer sleeps until the one message is there, or its producer is known to be dead and has
/// been reaped by its parent.
pub(crate) fn sleeper(bug: Bug, fuel: u32, deaths: &Deaths) {
    let ring = ring(1, bug);
    let over = Arc::new(AtomicU32::new(0));
    let (theirs, dead, deaths) = (ring.clone(), over.clone(), deaths.clone());
    let parent = model::thread::spawn(move || {
        send(&theirs, Producer { pid: 2, messages: 1, fuel }, 0, &deaths, || {
            dead.store(1, Relaxed);
            theirs.reap(2);
        })
    });
    let mut arrived = Arrived::default();
    loop {
        let ticket = ring.arrived().prepare();
        let over = over.load(Relaxed) == 1;
        match ring.pop() {
            Pop::Got(message) => break arrived.0.push(message),
            Pop::Empty if over => break,
            Pop::Empty | Pop::Pending { .. } => {}
            Pop::Corrupt => panic!("the ring is corrupt"),
        }
        ring.arrived().wait(ticket, None);
    }
    let told = parent.join().unwrap();
    arrived.drain(&ring);
    arrived.account(2, told, 0);
}
