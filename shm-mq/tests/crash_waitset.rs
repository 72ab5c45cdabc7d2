//! Who waits for many queues is killed at each instruction of its wait, and asleep: the queues go
//! on as if it had never waited, and who comes next is woken.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod spsc_common;

use crash_common::{shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::spsc::{Queue, Receiver, Sender};
use shm_mq::waitset::{Source, WaitSet};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use spsc_common::LIMIT;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 3;
const RING_BYTES: u64 = 256;
const QUEUE_BYTES: u64 = Queue::bytes_for(RING_BYTES).next_multiple_of(64);
const AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_millis(400);
const BYSTANDER_MAX: usize = 200_000;

/// The test process sends to both queues, the doomed one waits for them.
struct World {
    mapping: Arc<Mapping>,
    table: Table,
    me: Arc<Member>,
    queues: [Queue; 2],
    /// Of each queue, or of none yet.
    senders: Vec<Sender>,
}

impl World {
    fn new(has_senders: bool) -> World {
        let (_, mapping) = shared(AT + 2 * QUEUE_BYTES);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let me = table.join().unwrap();
        let queues = [AT, AT + QUEUE_BYTES].map(|at| {
            // SAFETY: as above, and what stands before ends there.
            unsafe { Queue::create(&mapping, at, RING_BYTES, 0) }.unwrap()
        });
        let sent_to = queues.iter().filter(|_| has_senders);
        let senders = sent_to.map(|queue| queue.sender(&me).unwrap()).collect();
        World { mapping, table, me, queues, senders }
    }

    fn receivers(&self, me: &Arc<Member>) -> Result<[Receiver; 2], String> {
        let open = |queue: &Queue| queue.receiver(me).map_err(|error| error.to_string());
        let [one, other] = &self.queues;
        Ok([open(one)?, open(other)?])
    }

    /// Sends to the second queue.
    fn send(&mut self) -> Result<(), String> {
        if self.senders.is_empty() {
            let sender = self.queues[1].sender(&self.me).map_err(|error| error.to_string())?;
            self.senders.push(sender);
        }
        let sender = self.senders.last_mut().ok_or("no sender")?;
        sender.send(b"after").map_err(|error| error.to_string())
    }
}

/// What is doomed.
struct Doomed {
    _member: Arc<Member>,
    receivers: [Receiver; 2],
    set: WaitSet,
}

impl Doomed {
    fn wait(&mut self, deadline: Option<Instant>) -> Vec<usize> {
        wait(&mut self.set, &mut self.receivers, deadline)
    }
}

fn wait(set: &mut WaitSet, receivers: &mut [Receiver; 2], deadline: Option<Instant>) -> Vec<usize> {
    let [one, other] = receivers;
    let sources: &mut [(usize, &mut dyn Source)] = &mut [(0, one), (1, other)];
    set.wait(sources, deadline).unwrap()
}

struct Waits {
    name: &'static str,
    operate: fn(&mut Doomed),
    /// Who waits watches them. Where nothing is to be found it asks the kernel about them now and
    /// then, by the clock, and not in the same number of instructions each time.
    has_senders: bool,
    /// So many records lie in each queue before.
    queued: u64,
}

impl Scenario for Waits {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("waitset, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_mq::waitset::WaitSet::wait", "shm_core::participants::Sleeper::lie_down"]
    }

    fn world(&self) -> World {
        let mut world = World::new(self.has_senders);
        for _ in 0..self.queued {
            for sender in &mut world.senders {
                assert!(sender.try_send(b"before").unwrap());
            }
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        let member = world.table.join().unwrap();
        let receivers = world.receivers(&member).unwrap();
        Doomed { _member: member, receivers, set: WaitSet::new() }
    }

    fn operate(&self, _: &World, doomed: &mut Doomed, _: &Notes) {
        (self.operate)(doomed);
    }

    /// The queues: the table, and their roles, name processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    /// Who comes next gets what was there, sleeps, and is woken.
    fn check(&self, mut world: World, _: &Notes, end: End) -> Result<(), String> {
        if end != End::Killed {
            return Ok(());
        }
        let member = world.me.clone();
        let mut receivers = world.receivers(&member)?;
        let mut set = WaitSet::new();
        for receiver in &mut receivers {
            for _ in 0..self.queued {
                let record = receiver.try_recv().map_err(|error| error.to_string())?;
                record.filter(|record| **record == *b"before").ok_or("a record is lost")?;
            }
        }
        let ready = std::thread::scope(|scope| {
            let sleeper =
                scope.spawn(|| wait(&mut set, &mut receivers, Some(Instant::now() + LIMIT)));
            world.send().map(|()| sleeper.join().unwrap())
        });
        if ready? == [1] { Ok(()) } else { Err("who waits next is not woken".to_owned()) }
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.table.reap(|_| ());
            Ok(())
        }))
    }
}

#[test]
fn who_waits_may_die_anywhere() {
    let scenario = Waits {
        name: "two that are ready",
        operate: |doomed| assert_eq!(doomed.wait(None), [0, 1]),
        has_senders: true,
        queued: 1,
    };
    Run::new(&scenario).bystander_at_most(BYSTANDER_MAX).kill().passes();
    Run::new(&scenario).bystander_at_most(BYSTANDER_MAX).stop().passes();
}

#[test]
fn who_announces_itself_may_die_anywhere() {
    let scenario = Waits {
        name: "two that are not ready",
        operate: |doomed| assert!(doomed.wait(Some(Instant::now())).is_empty()),
        has_senders: false,
        queued: 0,
    };
    Run::new(&scenario).kill().passes();
}

#[test]
fn who_sleeps_may_die() {
    let scenario = Waits {
        name: "two that are not ready, asleep",
        operate: |doomed| assert!(doomed.wait(Some(Instant::now() + NAP)).is_empty()),
        has_senders: true,
        queued: 0,
    };
    Run::new(&scenario).asleep().passes();
}
