//! `work` under the explorer: each job that was sent is done by one, in its turn, whichever of
//! several producers, workers and reapers die where; who stands still holds up his own job only;
//! and lies do no harm.
//!
//! Processes 1 to 3 are the case's, the next one drains the queue when they have ended.
#![cfg(shm_explore)]
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::OneMapping;
use shm_mq::work::{Status, WorkConfig, WorkQueue, Worker};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Duration;

const SEATS: usize = 4;
/// Said of a job that was given out, and of one that is done; of one that was sent, its number.
const TRIED: u64 = 100;
const DONE: u64 = 200;

struct World {
    queue: WorkQueue,
    members: [Arc<Member>; SEATS],
    attempts_max: u8,
}

/// A queue with so many slots, in which these jobs wait.
fn world(slots: u32, attempts_max: u8, jobs: &[u8]) -> World {
    let mut config = WorkConfig::new(slots, 8);
    config.attempts_max = attempts_max;
    let at = Table::bytes_for(SEATS as u32).next_multiple_of(128);
    let mapping = Mapping::heap((at + WorkQueue::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS as u32) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { WorkQueue::create(&mapping, at, &config) }.unwrap();
    let members = [1, 2, 3, 4].map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    for job in jobs {
        assert!(queue.producer(&members[3]).unwrap().try_send(&[*job]).unwrap());
    }
    World { queue, members, attempts_max }
}

impl World {
    fn member(&self, pid: u32) -> &Arc<Member> {
        &self.members[pid as usize - 1]
    }

    fn worker(&self, me: &Me) -> Worker {
        self.queue.worker(self.member(me.pid())).unwrap()
    }

    /// Sends a job, if there is room, and says so.
    fn sends(&self, me: &Me, job: u8) -> bool {
        let mut producer = self.queue.producer(self.member(me.pid())).unwrap();
        let is_sent = producer.try_send(&[job]).unwrap();
        if is_sent {
            me.say(job.into());
        }
        is_sent
    }

    /// Does a job, if there is one, and says so: which.
    fn works(&self, me: &Me) -> Option<u64> {
        let mut worker = self.worker(me);
        let job = worker.try_claim().unwrap()?;
        let [number] = *job else { panic!("torn: {job:?}") };
        let number = u64::from(number);
        me.say(TRIED + number);
        job.ack().expect("nobody living loses his own");
        me.say(DONE + number);
        Some(number)
    }

    /// Gives a job back, if there is one.
    fn gives_back(&self, me: &Me) {
        let mut worker = self.worker(me);
        if let Some(job) = worker.try_claim().unwrap() {
            me.say(TRIED + u64::from(job[0]));
            job.nack(Duration::ZERO).expect("nobody living loses his own");
        }
    }

    /// When all have ended: what is there is found, after a look for the dead where some died, and
    /// each job of `waiting` and of those that were sent was done once, or tried by a dead one.
    fn all_is_done(&self, end: &End<'_>, processes: usize, waiting: &[u8]) {
        let me = self.member(processes as u32 + 1);
        if end.deaths() > 0 {
            self.queue.reap(me);
        }
        let said = (0..processes).flat_map(|process| end.said(process)).copied();
        let mut said: Vec<u64> = said.chain(waiting.iter().map(|job| u64::from(*job))).collect();
        let mut worker = self.queue.worker(me).unwrap();
        while let Some(job) = worker.try_claim().unwrap() {
            let attempts = u8::try_from(job.attempts()).unwrap();
            assert!(attempts < self.attempts_max && *job != [0], "{attempts} attempts");
            said.push(DONE + u64::from(job[0]));
            job.ack().unwrap();
        }
        while let Some(job) = worker.try_claim_dead().unwrap() {
            assert!(job.attempts() == u32::from(self.attempts_max));
            said.push(DONE + u64::from(job[0]));
            job.ack().unwrap();
        }
        let all_free = Status { free: self.queue.slots(), ..Status::default() };
        assert_eq!(self.queue.status(), all_free, "a job hides");
        let tried_by_dead = |job| {
            (0..processes).any(|each| end.is_dead(each) && end.said(each).contains(&(TRIED + job)))
        };
        for job in 1..TRIED {
            let count = |what| said.iter().filter(|said| **said == what).count();
            let (sent, done) = (count(job), count(DONE + job));
            assert!(done <= 1, "job {job} is done twice: {said:?}");
            assert!(sent == 0 || done == 1 || tried_by_dead(job), "job {job} is lost: {said:?}");
        }
    }
}

/// Sends these.
fn producer<'a>(world: &'a World, jobs: &'a [u8]) -> Process<'a> {
    Process::new("producer", move |me| {
        for job in jobs {
            world.sends(me, *job);
        }
    })
    .never_waits()
}

/// Does so many.
fn worker(world: &World, jobs: usize) -> Process<'_> {
    Process::new("worker", move |me| {
        for _ in 0..jobs {
            world.works(me);
        }
    })
    .never_waits()
}

fn unwilling(world: &World) -> Process<'_> {
    Process::new("unwilling", |me| world.gives_back(me)).never_waits()
}

fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |me| {
        world.queue.reap(world.member(me.pid()));
    })
    .never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("work", name)
}

/// The case with these processes, of which `deaths` may die.
fn dying<'a>(
    name: &str,
    world: &'a World,
    waiting: &'static [u8],
    processes: impl IntoIterator<Item = Process<'a>>,
    (deaths, preemptions): (u32, u32),
) {
    let (mut scenario, mut count) = (scenario(&format!("{name}, {deaths} deaths")), 0);
    for process in processes {
        scenario = scenario.process(if deaths > 0 { process.mortal() } else { process });
        count += 1;
    }
    let scenario = scenario.deaths(deaths).preemptions_at_most(preemptions);
    scenario.check(move |end| world.all_is_done(end, count, waiting)).explore();
}

/// Nobody looks for the dead where none died: nothing may hide from who does not.
#[test]
fn nobody_dies_and_no_job_hides() {
    for slots in [1, 2] {
        let world = world(slots, 9, &[]);
        let three = [producer(&world, &[1, 2]), producer(&world, &[3]), worker(&world, 2)];
        dying(&format!("two send to {slots}"), &world, &[], three, (0, 3));
    }
    let world = world(2, 9, &[1]);
    let three = [unwilling(&world), producer(&world, &[2]), worker(&world, 2)];
    dying("one is given back", &world, &[1], three, (0, 3));
}

#[test]
fn who_sends_may_die_anywhere() {
    for slots in [1, 2] {
        let world = world(slots, 9, &[]);
        let three = [producer(&world, &[1, 2]), producer(&world, &[3]), worker(&world, 2)];
        dying(&format!("two send to {slots}"), &world, &[], three, (2, 1));
    }
}

#[test]
fn who_works_and_who_cleans_up_may_die_anywhere() {
    let world = world(2, 2, &[1, 2]);
    let three = [worker(&world, 1), unwilling(&world), reaper(&world)];
    dying("two work and one cleans up", &world, &[1, 2], three, (3, 1));
    let three = [worker(&world, 1), reaper(&world), reaper(&world)];
    dying("one works and two clean up", &world, &[1, 2], three, (3, 1));
}

/// A process stands still at any of its accesses while another goes on, who has room and a job each
/// time: of two slots the first has one at most.
#[test]
fn who_stands_still_holds_up_his_own_job_only() {
    type Other = fn(&World) -> Process<'_>;
    let others: [(&str, &[u8], Other); 3] = [
        ("a producer stands still", &[], |world| producer(world, &[1])),
        ("a worker stands still", &[1], |world| worker(world, 1)),
        ("an unwilling one stands still", &[1], unwilling),
    ];
    for (name, jobs, other) in others {
        let world = world(2, 9, jobs);
        let goes_on = Process::new("who goes on", |me: &Me| {
            for job in [2, 3] {
                assert!(world.sends(me, job), "there is room");
                assert!(world.works(me).is_some(), "there is a job");
            }
        });
        let goes_on = goes_on.never_waits();
        let scenario = scenario(name).process(other(&world)).process(goes_on);
        scenario.check(|end| world.all_is_done(end, 2, jobs)).explore();
    }
}

/// The jobs of one come in their order, whoever sends besides.
#[test]
fn the_jobs_of_one_come_in_their_order() {
    let world = world(2, 9, &[]);
    let three = [producer(&world, &[1, 2]), producer(&world, &[3]), worker(&world, 3)];
    let [one, other, works] = three;
    let in_order = |end: &End<'_>| {
        let mut done = end.said(2).to_vec();
        done.retain(|said| *said == DONE + 1 || *said == DONE + 2);
        assert!(done.is_sorted(), "{done:?}");
        world.all_is_done(end, 3, &[]);
    };
    let scenario = scenario("in order").process(one).process(other).process(works);
    scenario.preemptions_at_most(2).check(in_order).explore();
}

/// Who waits for a job, or for room, gets it, also that of a dead one.
#[test]
fn who_waits_gets_what_the_dead_had() {
    let world = world(1, 9, &[1]);
    let sends = Process::new("producer", |me: &Me| {
        let mut producer = world.queue.producer(world.member(me.pid())).unwrap();
        producer.send(&[2], None).unwrap();
        me.say(2);
    });
    let works = |jobs: &'static [u8]| {
        let world = &world;
        Process::new("worker", move |me: &Me| {
            let mut worker = world.worker(me);
            for expected in jobs {
                let job = worker.claim(None).unwrap();
                assert_eq!(*job, [*expected]);
                me.say(TRIED + u64::from(*expected));
                job.ack().expect("nobody living loses his own");
                me.say(DONE + u64::from(*expected));
            }
        })
    };
    let three = [sends, works(&[1, 2]), unwilling(&world).mortal()];
    waiting("a job of a dead one", &world, three);
    let sends = Process::new("producer", |me: &Me| {
        let mut producer = world.queue.producer(world.member(me.pid())).unwrap();
        producer.send(&[2], None).unwrap();
        me.say(2);
    });
    let leaves = Process::new("one that leaves a draft", |me: &Me| {
        let mut producer = world.queue.producer(world.member(me.pid())).unwrap();
        std::hint::black_box(producer.reserve(1).unwrap());
    });
    waiting("room of a dead one", &world, [sends, works(&[1, 2]), leaves.mortal()]);
}

/// The case with these, the last of which may die.
fn waiting(name: &str, world: &World, processes: [Process<'_>; 3]) {
    let name = format!("waiting for {name}");
    // Those who wait go far alone, from each state anew.
    let states = if is_deep() { 150_000 } else { 20_000 };
    let mut scenario = scenario(&name).deaths(1).preemptions_at_most(0).states_at_most(states);
    for process in processes {
        scenario = scenario.process(process);
    }
    scenario.check(|end| world.all_is_done(end, 3, &[1])).explore();
}

/// Each is told lies: about states, places, lengths, `tail` and `head`, seats and bytes.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    let world = world(2, 2, &[1]);
    let queue = world.queue.clone().with_peers::<T>();
    let sends = Process::new("producer", |me: &Me| {
        let mut producer = queue.producer(world.member(me.pid())).unwrap();
        for job in [2, 3] {
            let _ = producer.try_send(&[job]);
        }
    });
    let works = Process::new("worker", |me: &Me| {
        let mut worker = queue.worker(world.member(me.pid())).unwrap();
        for round in 0..2 {
            match worker.try_claim() {
                Ok(Some(job)) if round == 0 => drop(job),
                Ok(Some(job)) => {
                    assert!(job.len() <= 8, "longer than its slot");
                    let _ = job.ack();
                }
                Ok(None) | Err(_) => {}
            }
        }
        if let Ok(Some(job)) = worker.try_claim_dead() {
            let _ = job.retry();
        }
    });
    let scenario = scenario(&format!("{level} peers, {lies} lies")).lies(lies);
    let scenario = scenario.process(sends.never_waits()).process(works.never_waits());
    scenario.process(reaper(&world)).preemptions_at_most(1).explore();
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// Planted bug, in short: a producer that comes late to a place says nothing to `head`.
#[test]
fn finds_a_place_that_head_has_passed() {
    let mapping = Mapping::heap(24);
    let word = |at| Mapped::<AtomicU64>::new(&mapping, at).unwrap();
    let (state, head, tail) = (word(0), word(8), word(16));
    let sends = || {
        Process::new("producer", |_: &Me| {
            let at = tail.load(Relaxed);
            if state.compare_exchange(0, 1, Relaxed, Relaxed).is_ok() {
                tail.fetch_max(at + 1, Relaxed);
                state.store(2, Relaxed);
            }
        })
    };
    let work = || {
        let tail = tail.load(Relaxed);
        if head.load(Relaxed) < tail && state.compare_exchange(2, 0, Relaxed, Relaxed).is_ok() {
            head.fetch_max(tail, Relaxed);
        }
    };
    let works = Process::new("worker", |_: &Me| work());
    let found = |_: &End<'_>| {
        work();
        assert!(state.load(Relaxed) == 0, "a job hides");
    };
    let scenario = scenario("in short").process(sends()).process(sends()).process(works);
    finds("a job hides", || scenario.check(found).explore());
}
