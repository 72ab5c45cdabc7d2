//! A job queue outlives who uses it: a job is there as a whole or not at all, one that was taken
//! comes back, one that was acknowledged does not, and no slot is lost. Whoever dies, be it at
//! taking back what others left.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::{said, shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::work::{Priorities, Producer, SendError, WorkConfig, WorkQueue, Worker};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONFIG: WorkConfig = WorkConfig { attempts_max: 2, ..WorkConfig::new(4, 8) };
/// Leases that do not end here.
const LEASED: WorkConfig = WorkConfig { lease_ms: 60_000, ..CONFIG };
const SEATS: u32 = 4;
const AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);

/// In the notes: jobs that were sent, and that were acknowledged.
const SENT: usize = 0;
const ACKED: usize = 1;

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    me: Arc<Member>,
}

impl World {
    fn empty() -> World {
        World::of(&CONFIG)
    }

    fn of(config: &WorkConfig) -> World {
        let (_, mapping) = shared(AT + WorkQueue::bytes_for(&CONFIG));
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let me = table.join().unwrap();
        let world = World { mapping, table, me };
        world.create(config);
        world
    }

    fn create(&self, config: &WorkConfig) -> WorkQueue {
        // SAFETY: nobody has been told of the place.
        unsafe { WorkQueue::create(&self.mapping, AT, config) }.unwrap()
    }

    fn queue(&self) -> WorkQueue {
        WorkQueue::attach(&self.mapping, AT, 0).unwrap()
    }

    /// With three jobs, the first of which was tried in vain before.
    fn with_jobs() -> World {
        World::with_jobs_of(&CONFIG)
    }

    fn with_leases() -> World {
        World::with_jobs_of(&LEASED)
    }

    fn with_jobs_of(config: &WorkConfig) -> World {
        let world = World::of(config);
        let queue = world.queue();
        let mut producer = queue.producer(&world.me).unwrap();
        for job in [b"job 0", b"job 1", b"job 2"] {
            assert!(producer.try_send(job).unwrap());
        }
        drop(queue.worker(&world.me).unwrap().try_claim().unwrap());
        world
    }

    /// Takes back what the dead have, and then all jobs that there are, the dead ones too: their
    /// numbers, in order. Then every slot is free.
    fn rest(&self) -> Result<Vec<u64>, String> {
        let (queue, mut jobs) = (self.queue(), Vec::new());
        queue.reap(&self.me);
        let mut worker = queue.worker(&self.me).map_err(said)?;
        for is_dead in [false, true] {
            while let Some(job) =
                if is_dead { worker.try_claim_dead() } else { worker.try_claim() }.map_err(said)?
            {
                let number = match &*job {
                    [b'j', b'o', b'b', b' ', digit @ b'0'..=b'9'] => u64::from(digit - b'0'),
                    torn => return Err(format!("a job of {torn:?}")),
                };
                jobs.push(number);
                job.ack().map_err(said)?;
            }
        }
        let status = queue.status();
        if status.free != CONFIG.slots {
            return Err(format!("not all is free: {status:?}"));
        }
        jobs.sort_unstable();
        Ok(jobs)
    }
}

/// What is killed.
struct Doomed {
    member: Arc<Member>,
    producer: Producer,
    worker: Worker,
}

type Check = fn(&World, &Notes) -> Result<(), String>;

struct AtWork {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> World,
    operate: fn(&World, &mut Doomed, &Notes),
    check: Check,
}

impl Scenario for AtWork {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("work, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        let member = world.table.join().unwrap();
        let queue = world.queue();
        let (producer, worker) = (queue.producer(&member).unwrap(), queue.worker(&member).unwrap());
        Doomed { member, producer, worker }
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    /// The queue alone: the table names processes. And so do states, in their lower half.
    /// All but the times at which leases end.
    fn image(&self, world: &World) -> Vec<u8> {
        let mut bytes = words_from(&world.mapping, AT);
        for slot in bytes[384..].chunks_mut(64).take(CONFIG.slots as usize) {
            slot[16..21].fill(0);
        }
        bytes
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        (self.check)(&world, notes)
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let queue = world.queue();
        Some(Box::new(move || {
            // A job of its own, past what the other one has.
            let member = world.table.join().map_err(said)?;
            let mut producer = queue.producer(&member).map_err(said)?;
            producer.try_send(b"job 9").map_err(said)?;
            Ok(())
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let queue = world.queue();
        Some(Box::new(move || {
            let member = world.table.join().map_err(said)?;
            queue.reap(&member);
            Ok(())
        }))
    }

    fn forked(&self, _: &World, doomed: &mut Doomed) -> Result<(), String> {
        let sent = doomed.producer.try_send(b"job 7");
        let claimed = doomed.worker.try_claim();
        if sent != Err(SendError::Forked) || claimed.is_ok() {
            return Err(format!("{sent:?}, {claimed:?}"));
        }
        doomed.member.check_fork().err().map(drop).ok_or_else(|| "it has a seat".to_owned())
    }
}

fn send(_: &World, doomed: &mut Doomed, notes: &Notes) {
    assert!(doomed.producer.try_send(b"job 0").unwrap());
    notes.count(SENT);
    drop(doomed.producer.reserve(5).unwrap());
    let mut draft = doomed.producer.reserve(5).unwrap().unwrap();
    draft.copy_from_slice(b"job 1");
    draft.commit().unwrap();
    notes.count(SENT);
    doomed.producer.send(b"job 2", None).unwrap();
    notes.count(SENT);
}

fn was_sent(world: &World, notes: &Notes) -> Result<(), String> {
    let (sent, jobs) = (notes.get(SENT), world.rest()?);
    let is_right = jobs.iter().copied().filter(|job| *job != 9).eq(0..sent)
        || jobs.iter().copied().filter(|job| *job != 9).eq(0..sent + 1);
    if is_right { Ok(()) } else { Err(format!("{sent} were sent, and {jobs:?} are there")) }
}

#[test]
fn a_producer_may_die_anywhere() {
    let scenario = AtWork {
        name: "send",
        operations: &[
            "shm_mq::work::Producer::try_send",
            "shm_mq::work::Producer::send",
            "shm_mq::work::Producer::reserve",
            "shm_mq::work::Draft::commit",
            "shm_mq::work::Ours::drop",
        ],
        world: World::empty,
        operate: send,
        check: was_sent,
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).stop().passes();
    Run::new(&scenario).fork().passes();
    Run::new(&scenario).points(60).nested().passes();
}

fn work(_: &World, doomed: &mut Doomed, notes: &Notes) {
    let worker = &mut doomed.worker;
    // Its second attempt, and so its last.
    worker.try_claim().unwrap().unwrap().nack(Duration::ZERO).unwrap();
    let soon = Some(Instant::now() + Duration::from_secs(30));
    worker.claim(soon).unwrap().ack().unwrap();
    notes.count(ACKED);
    worker.try_claim_dead().unwrap().unwrap().retry().unwrap();
    drop(worker.try_claim().unwrap());
}

fn was_done(world: &World, notes: &Notes) -> Result<(), String> {
    let (acked, mut jobs) = (notes.get(ACKED), world.rest()?);
    jobs.retain(|job| *job != 9);
    let is_right = jobs == [0, 2] || (acked == 0 && jobs == [0, 1, 2]);
    if is_right {
        Ok(())
    } else {
        Err(format!("{acked} were acknowledged, and {jobs:?} are there"))
    }
}

#[test]
fn a_worker_may_die_anywhere() {
    let scenario = AtWork {
        name: "claim, acknowledge, give back",
        operations: &[
            "shm_mq::work::Worker::try_claim",
            "shm_mq::work::Worker::claim",
            "shm_mq::work::Worker::try_claim_dead",
            "shm_mq::work::Job::ack",
            "shm_mq::work::Job::nack",
            "shm_mq::work::Job::retry",
            "shm_mq::work::Held::drop",
        ],
        world: World::with_jobs,
        operate: work,
        check: was_done,
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).stop().passes();
    Run::new(&scenario).fork().passes();
    Run::new(&scenario).points(60).nested().passes();
}

fn work_by_rank(world: &World, doomed: &mut Doomed, notes: &Notes) {
    let workers = vec![world.queue().worker(&doomed.member).unwrap()];
    let mut worker = Priorities::new(workers);
    // Its second attempt, and so its last.
    worker.try_claim().unwrap().unwrap().1.nack(Duration::ZERO).unwrap();
    let soon = Some(Instant::now() + Duration::from_secs(30));
    worker.claim(soon).unwrap().1.ack().unwrap();
    notes.count(ACKED);
}

#[test]
fn a_worker_of_several_queues_may_die_anywhere() {
    let scenario = AtWork {
        name: "claim by rank",
        operations: &["shm_mq::work::Priorities::try_claim", "shm_mq::work::Priorities::claim"],
        world: World::with_jobs,
        operate: work_by_rank,
        check: was_done,
    };
    Run::new(&scenario).kill().passes();
}

fn extend(_: &World, doomed: &mut Doomed, notes: &Notes) {
    let worker = &mut doomed.worker;
    drop(worker.try_claim().unwrap());
    let mut job = worker.try_claim().unwrap().unwrap();
    job.extend(Duration::from_secs(90)).unwrap();
    job.ack().unwrap();
    notes.count(ACKED);
}

#[test]
fn a_worker_with_a_lease_may_die_anywhere() {
    let scenario = AtWork {
        name: "claim, extend, acknowledge",
        operations: &["shm_mq::work::Job::extend"],
        world: World::with_leases,
        operate: extend,
        check: was_done,
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).fork().passes();
}

/// One has died with a job in its hands, and a slot that it was writing to.
fn with_a_dead_one() -> World {
    let world = World::with_jobs();
    let (queue, member) = (world.queue(), world.table.join().unwrap());
    let (mut producer, mut worker) =
        (queue.producer(&member).unwrap(), queue.worker(&member).unwrap());
    std::mem::forget(worker.try_claim().unwrap());
    std::mem::forget(producer.reserve(1).unwrap());
    world
}

#[test]
fn who_takes_back_may_die_anywhere() {
    let scenario = AtWork {
        name: "reap",
        operations: &["shm_mq::work::WorkQueue::reap"],
        world: with_a_dead_one,
        operate: |world, doomed, _| {
            world.queue().reap(&doomed.member);
        },
        check: |world, _| match world.rest()?.as_slice() {
            [0, 1, 2] => Ok(()),
            jobs => Err(format!("{jobs:?} are there")),
        },
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).nested().passes();
}

#[test]
fn a_creator_may_die_anywhere() {
    let scenario = AtWork {
        name: "create",
        operations: &["shm_mq::work::WorkQueue::create"],
        world: World::empty,
        operate: |world, _, _| drop(world.create(&CONFIG)),
        // Nobody was told of the place: whoever owns the memory makes it again.
        check: |world, _| {
            world.create(&CONFIG);
            world.rest().map(drop)
        },
    };
    Run::new(&scenario).kill().passes();
}
