//! Any sequence of operations of producers and workers, and of their deaths, agrees with a plain
//! list of jobs. At each level of trust.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::OneMapping;
use shm_mq::work::{
    ClaimError, Priorities, Producer, SendError, Status, WorkConfig, WorkQueue, Worker,
};
use shm_testkit::depth::cases;
use shm_testkit::watchdog::within;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const JOB_BYTES: usize = 40;
const ATTEMPTS: u8 = 3;
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    /// Written, and not sent.
    Withdraw,
    Ack,
    Nack,
    /// Dropped.
    Forget,
    /// The worker leaves with a job in its hands; its seat is given to another one.
    Leave,
    /// The same of a producer.
    LeaveWriting,
    TakeDead(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..JOB_BYTES + 3).prop_map(Op::Send),
        1 => Just(Op::Withdraw),
        6 => Just(Op::Ack),
        1 => Just(Op::Nack),
        1 => Just(Op::Forget),
        1 => Just(Op::Leave),
        1 => Just(Op::LeaveWriting),
        1 => any::<bool>().prop_map(Op::TakeDead),
    ]
}

/// A job as the model knows it; those that came back are before the others, by when they were sent.
#[derive(Clone, Debug)]
struct Plain {
    bytes: Vec<u8>,
    attempts: u32,
}

struct World<T: OneMapping> {
    table: Table,
    queue: WorkQueue,
    me: Arc<Member>,
    producer: Producer<T>,
    worker: Worker<T>,
    sent: u64,
    ready: BTreeMap<u64, Plain>,
    dead: BTreeMap<u64, Plain>,
    slots: u32,
}

impl<T: OneMapping> World<T> {
    fn new(slots: u32) -> World<T> {
        let mut config = WorkConfig::new(slots, JOB_BYTES as u64);
        config.attempts_max = ATTEMPTS;
        let at = Table::bytes_for(8).next_multiple_of(128);
        let mapping = Mapping::heap((at + WorkQueue::bytes_for(&config)) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 8) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let queue = unsafe { WorkQueue::create(&mapping, at, &config) }.unwrap();
        let me = table.join().unwrap();
        let producer = queue.clone().with_peers().producer(&me).unwrap();
        let worker = queue.clone().with_peers().worker(&me).unwrap();
        let (ready, dead) = Default::default();
        World { table, queue, me, producer, worker, sent: 0, ready, dead, slots }
    }

    fn has_room(&self) -> bool {
        self.ready.len() + self.dead.len() < self.slots as usize
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Send(len) => self.send(len),
            Op::Withdraw => {
                let draft = self.producer.reserve(1).unwrap();
                assert_eq!(
                    draft.is_some(),
                    self.ready.len() + self.dead.len() < self.slots as usize
                );
            }
            Op::Ack => {
                if self.claim(|job| job.ack().unwrap()).is_some() {
                    self.ready.pop_first();
                }
            }
            Op::Nack => {
                if self.claim(|job| job.nack(Duration::ZERO).unwrap()).is_some() {
                    self.tried();
                }
            }
            Op::Forget => {
                if self.claim(|job| drop(job)).is_some() {
                    self.tried();
                }
            }
            Op::Leave => {
                let member = self.table.join().unwrap();
                let mut other = self.queue.worker(&member).unwrap();
                let job = other.try_claim().unwrap();
                let has_one = job.is_some();
                std::mem::forget(job);
                drop((other, member));
                assert_eq!(self.queue.reap(&self.me), usize::from(has_one));
                if has_one {
                    self.tried();
                }
            }
            Op::LeaveWriting => {
                let has_room = self.has_room();
                let member = self.table.join().unwrap();
                let mut other = self.queue.producer(&member).unwrap();
                std::mem::forget(other.reserve(3).unwrap());
                drop((other, member));
                assert_eq!(self.queue.reap(&self.me), usize::from(has_room));
            }
            Op::TakeDead(retried) => self.take_dead(retried),
        }
        let status = Status {
            free: self.slots - (self.ready.len() + self.dead.len()) as u32,
            writing: 0,
            ready: self.ready.len() as u32,
            doing: 0,
            dead: self.dead.len() as u32,
        };
        assert_eq!(self.queue.status(), status);
    }

    fn send(&mut self, len: usize) {
        let has_room = self.has_room();
        let bytes: Vec<u8> = (0..len).map(|at| (self.sent as usize * 7 + at) as u8).collect();
        match self.producer.try_send(&bytes) {
            Ok(is_sent) => {
                assert_eq!(is_sent, has_room);
                if is_sent {
                    self.sent += 1;
                    self.ready.insert(self.sent, Plain { bytes, attempts: 0 });
                }
            }
            Err(error) => {
                assert_eq!(error, SendError::TooLong { len, largest: JOB_BYTES });
                assert!(len > JOB_BYTES);
            }
        }
    }

    /// Claims a job, which is the oldest, and does something with it.
    fn claim(&mut self, with: impl FnOnce(shm_mq::work::Job<'_, T>)) -> Option<()> {
        let expected = self.ready.first_key_value().map(|(_, plain)| plain);
        let job = self.worker.try_claim().unwrap();
        assert_eq!(job.is_some(), expected.is_some());
        let (job, expected) = (job?, expected?);
        assert_eq!((&*job, job.attempts()), (&expected.bytes[..], expected.attempts));
        with(job);
        Some(())
    }

    /// The oldest job has been tried in vain.
    fn tried(&mut self) {
        let (number, mut plain) = self.ready.pop_first().unwrap();
        plain.attempts += 1;
        let to = if plain.attempts >= ATTEMPTS.into() { &mut self.dead } else { &mut self.ready };
        to.insert(number, plain);
    }

    fn take_dead(&mut self, retried: bool) {
        let Some(job) = self.worker.try_claim_dead().unwrap() else {
            assert!(self.dead.is_empty());
            return;
        };
        let is_it = |(_, plain): &(&u64, &Plain)| plain.bytes == *job;
        let number = *self.dead.iter().find(is_it).expect("dead").0;
        assert_eq!(job.attempts(), u32::from(ATTEMPTS));
        let mut plain = self.dead.remove(&number).unwrap();
        if retried {
            job.retry().unwrap();
            plain.attempts = 0;
            self.ready.insert(number, plain);
        } else {
            job.ack().unwrap();
        }
    }
}

fn agrees<T: OneMapping>(slots: u32, ops: &[Op]) {
    let mut world = World::<T>::new(slots);
    ops.iter().for_each(|op| world.apply(op));
    while world.claim(|job| job.ack().unwrap()).is_some() {
        world.ready.pop_first();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_list(
        slots in 1..12_u32,
        ops in prop::collection::vec(op(), 1..150),
        careful in any::<bool>(),
    ) {
        if careful {
            agrees::<Buggy>(slots, &ops);
        } else {
            agrees::<Crashing>(slots, &ops);
        }
    }
}

/// So many queues of one process, and a worker of all.
fn by_rank(ranks: u64) -> (Vec<Producer>, Priorities, Arc<Member>) {
    let config = WorkConfig::new(8, JOB_BYTES as u64);
    let at = Table::bytes_for(2).next_multiple_of(64);
    let bytes = WorkQueue::bytes_for(&config);
    let mapping = Mapping::heap((at + ranks * bytes) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, 2) }.unwrap().join().unwrap();
    let (mut producers, mut workers) = (Vec::new(), Vec::new());
    for rank in 0..ranks {
        // SAFETY: as above, and what is before ends before.
        let queue = unsafe { WorkQueue::create(&mapping, at + rank * bytes, &config) }.unwrap();
        producers.push(queue.producer(&me).unwrap());
        workers.push(queue.worker(&me).unwrap());
    }
    (producers, Priorities::new(workers), me)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Of the jobs that are there the first of the lowest rank is done.
    #[test]
    fn the_most_urgent_is_first(ops in prop::collection::vec(prop::option::of(0..3_usize), 0..60)) {
        let (mut producers, mut worker, _me) = by_rank(3);
        let mut plain = vec![std::collections::VecDeque::new(); 3];
        for (number, op) in ops.iter().enumerate() {
            if let Some(rank) = op {
                let is_sent = producers[*rank].try_send(&[number as u8]).unwrap();
                prop_assert_eq!(is_sent, plain[*rank].len() < 8);
                if is_sent {
                    plain[*rank].push_back(number as u8);
                }
                continue;
            }
            let expected = plain.iter().position(|jobs| !jobs.is_empty());
            let expected = expected.map(|rank| (rank, plain[rank].pop_front().unwrap()));
            let claimed = worker.try_claim().unwrap();
            prop_assert_eq!(claimed.as_ref().map(|(rank, job)| (*rank, job[0])), expected);
            if let Some((_, job)) = claimed {
                job.ack().unwrap();
            }
        }
    }
}

#[test]
fn who_has_ranks_is_woken_by_each() {
    let (mut producers, mut worker, _me) = by_rank(2);
    let soon = || Some(Instant::now() + Duration::from_millis(20));
    assert_eq!(worker.claim(soon()).unwrap_err(), ClaimError::TimedOut);
    for producer in &mut producers {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                producer.send(b"come", None).unwrap();
            });
            let (_, job) = within(LIMIT, || worker.claim(None)).unwrap();
            assert_eq!(*job, *b"come");
            job.ack().unwrap();
        });
    }
    let none = Priorities::<Crashing>::new(Vec::new()).claim(None).map(drop);
    assert_eq!(none, Err(ClaimError::TimedOut), "nothing could end the wait");
}
