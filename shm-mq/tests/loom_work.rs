//! `work` under every interleaving and with a death at every access: each job that was sent is done
//! by one, none hides behind `head`, nobody living loses his own.
//!
//! Process 1 looks for the dead, and drains the queue when all have ended.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model as process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::work::{Producer, Status, WorkConfig, WorkQueue, Worker};
use shm_testkit::model::{self, Life, thread::JoinHandle};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A queue, and seats for processes 1 to 3, who have joined, and for one that joins later.
#[derive(Clone)]
struct World {
    table: Table,
    queue: WorkQueue,
    members: [Arc<Member>; 3],
    /// What each job came to.
    jobs: Arc<Mutex<Vec<Fate>>>,
    has_died: Arc<AtomicBool>,
}

/// A job is its number: what became of it, as those saw it who lived to say.
#[derive(Clone, Copy, Default)]
struct Fate {
    sent: bool,
    tried: u32,
    done: u32,
}

fn world(slots: u32, attempts_max: u8) -> World {
    world_of(WorkConfig { attempts_max, ..WorkConfig::new(slots, 8) })
}

fn world_of(config: WorkConfig) -> World {
    let at = Table::bytes_for(4).next_multiple_of(128);
    let mapping = Mapping::heap((at + WorkQueue::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { WorkQueue::create(&mapping, at, &config) }.unwrap();
    let members = [2, 3, 1].map(|pid| {
        process::become_process(pid);
        table.join().unwrap()
    });
    let [one, two, me] = members;
    World { table, queue, members: [me, one, two], jobs: Arc::default(), has_died: Arc::default() }
}

impl World {
    fn member(&self, pid: u32) -> &Arc<Member> {
        &self.members[pid as usize - 1]
    }

    fn producer(&self, pid: u32) -> Producer {
        self.queue.producer(self.member(pid)).unwrap()
    }

    fn worker(&self, pid: u32) -> Worker {
        self.queue.worker(self.member(pid)).unwrap()
    }

    fn fate(&self, job: u8, change: impl FnOnce(&mut Fate)) {
        let mut jobs = self.jobs.lock().unwrap();
        let len = jobs.len().max(usize::from(job) + 1);
        jobs.resize(len, Fate::default());
        change(&mut jobs[usize::from(job)]);
    }

    /// Runs `act` as process `pid`, for as long as it lives.
    fn process(
        &self,
        pid: u32,
        life: Life,
        act: impl FnOnce(&World) + Send + 'static,
    ) -> JoinHandle<()> {
        let world = self.clone();
        model::thread::spawn(move || {
            let id = process::become_process(pid);
            if life.run(|| act(&world)).is_none() {
                world.has_died.store(true, Relaxed);
                process_ends(&world.table, id);
            }
        })
    }

    /// Sends a job if there is room.
    fn sends(&self, pid: u32, job: u8) {
        if self.producer(pid).try_send(&[job]) == Ok(true) {
            self.fate(job, |fate| fate.sent = true);
        }
    }

    /// Does a job, if there is one.
    fn works(&self, pid: u32) -> bool {
        let mut worker = self.worker(pid);
        let Some(job) = worker.try_claim().unwrap() else { return false };
        let [number] = *job else { panic!("torn: {job:?}") };
        self.fate(number, |fate| fate.tried += 1);
        job.ack().expect("nobody living loses his own");
        self.fate(number, |fate| fate.done += 1);
        true
    }

    /// Looks for the dead, while the others go on.
    fn reaps(&self, life: Life) {
        if life.run(|| self.queue.reap(self.member(1))).is_none() {
            self.has_died.store(true, Relaxed);
        }
    }

    /// When all have ended, what is there is found: where some died, after a look for the dead.
    fn drain(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let deaths = self.has_died.load(Relaxed);
        if deaths {
            self.queue.reap(self.member(1));
        }
        while self.works(1) {}
        if deaths {
            // Nor does one that comes now.
            assert_eq!(self.producer(1).try_send(&[9]), Ok(true));
            assert!(self.works(1), "a job hides");
            self.jobs.lock().unwrap().truncate(9);
        }
        let all_free = Status { free: self.queue.slots(), ..Status::default() };
        assert_eq!(self.queue.status(), all_free, "a job hides");
        for fate in self.jobs.lock().unwrap().iter() {
            assert!(fate.done <= 1, "a job is done twice");
            // Who tried it may have died between having done it and saying so.
            assert!(!fate.sent || fate.done == 1 || deaths && fate.tried > 0, "a job is lost");
        }
    }
}

const LIVING: fn() -> Life = Life::endless;

/// A producer of two jobs, a worker, and a reaper.
fn one_of_each(slots: u32, [producer, worker, reaper]: [Life; 3]) {
    let world = world(slots, 9);
    let threads = [
        world.process(2, producer, |world| {
            world.sends(2, 1);
            world.sends(2, 2);
        }),
        world.process(3, worker, |world| {
            world.works(3);
        }),
    ];
    world.reaps(reaper);
    world.drain(threads);
}

/// Two send to one slot, while a worker does what there is: the slower looked for a place before
/// the faster had taken it, sent, and seen its job done.
fn two_send([one, worker]: [Life; 2]) {
    let world = world(1, 9);
    let threads = [
        world.process(2, one, |world| world.sends(2, 1)),
        world.process(3, worker, |world| {
            world.works(3);
        }),
    ];
    world.sends(1, 2);
    world.drain(threads);
}

/// A worker gives a job back, while another looks for one.
fn given_back(sent_after: bool, [one, other, reaper]: [Life; 3]) {
    let world = world(1, 9);
    world.sends(1, 1);
    let gives = world.process(2, one, |world| {
        let mut worker = world.worker(2);
        let Some(job) = worker.try_claim().unwrap() else { return };
        assert!(*job == [1] || *job == [2], "torn");
        job.nack(Duration::ZERO).expect("nobody living loses his own");
    });
    let works = world.process(3, other, move |world| {
        world.works(3);
        if sent_after {
            world.sends(3, 2);
        }
    });
    world.reaps(reaper);
    world.drain([gives, works]);
}

/// A job that is given back for later is not tried at once: in a model no time passes.
fn given_back_for_later() {
    let world = world(1, 9);
    world.sends(1, 1);
    let gives = world.process(2, LIVING(), |world| {
        let mut worker = world.worker(2);
        if let Some(job) = worker.try_claim().unwrap().filter(|job| job.attempts() == 0) {
            job.nack(Duration::from_millis(1)).unwrap();
        }
    });
    let mut worker = world.worker(1);
    if let Some(job) = worker.try_claim().unwrap() {
        assert_eq!(job.attempts(), 0, "before its time");
        job.ack().unwrap();
    }
    gives.join().unwrap();
}

/// A job that is written for long, while others go around the queue: it is looked for behind them.
fn written_for_long(producer: Life) {
    let world = world(2, 9);
    // The draft goes to a thread.
    let first = Box::leak(Box::new(world.producer(2)));
    process::become_process(2);
    let mut draft = first.reserve(1).unwrap().expect("it is empty");
    process::become_process(1);
    draft[0] = 1;
    world.sends(1, 2);
    assert!(world.works(1));
    world.sends(1, 3);
    let ends = world.process(2, producer, |world| {
        draft.commit().unwrap();
        world.fate(1, |fate| fate.sent = true);
    });
    world.works(1);
    world.drain([ends]);
}

/// A job is called dead, and taken up by who looks for such.
fn tried_too_often([worker, reaper]: [Life; 2]) {
    let world = world(1, 1);
    let tries = world.process(2, worker, |world| {
        world.sends(2, 1);
        drop(world.worker(2).try_claim().unwrap());
    });
    let mut mine = world.worker(1);
    let looked = reaper.run(|| {
        if let Some(job) = mine.try_claim_dead().unwrap() {
            assert_eq!(*job, [1], "torn");
            job.retry().expect("nobody living loses his own");
        }
    });
    if looked.is_none() {
        world.has_died.store(true, Relaxed);
    }
    tries.join().unwrap();
    world.queue.reap(world.member(1));
    let status = world.queue.status();
    // Who died as process 1 is alive again, and has it still.
    let is_there = status.ready + status.dead == 1 || looked.is_none() && status.doing == 1;
    // Nobody said that it was sent.
    assert!(is_there || world.has_died.load(Relaxed) && status.free == 1, "{status:?}");
}

/// A lease ends, in a model, when somebody looks: another one does the job, and its slot goes to
/// the next job, whatever who had it is doing with the first.
fn a_lease_ends([worker]: [Life; 1]) {
    let world = world_of(WorkConfig { attempts_max: 9, lease_ms: 1, ..WorkConfig::new(1, 8) });
    world.sends(1, 1);
    let slow = world.process(2, worker, |world| {
        let mut worker = world.worker(2);
        let Some(mut job) = worker.try_claim().unwrap() else { return };
        let [number] = *job else { panic!("torn: {job:?}") };
        world.fate(number, |fate| fate.tried += 1);
        if job.extend(Duration::from_secs(1)).is_ok() && job.ack().is_ok() {
            world.fate(number, |fate| fate.done += 1);
        }
    });
    world.queue.reap(world.member(1));
    if world.works(1) {
        world.sends(1, 2);
    }
    world.drain([slow]);
}

/// Who has just come has a slot at once; who looks for the dead sees that it lives.
fn just_come(jobs: u8, act: fn(&WorkQueue, &Arc<Member>)) {
    let world = world(1, 9);
    (0..jobs).for_each(|job| world.sends(1, job));
    let (queue, table) = (world.queue.clone(), world.table.clone());
    let comes = model::thread::spawn(move || {
        process::become_process(4);
        let me = table.join().unwrap();
        act(&queue, &me);
        std::mem::forget(me);
    });
    assert_eq!(world.queue.reap(world.member(1)), 0, "it lives");
    comes.join().unwrap();
}

fn comes_to_work(queue: &WorkQueue, me: &Arc<Member>) {
    let mut worker = queue.worker(me).unwrap();
    std::mem::forget(worker.try_claim().unwrap());
}

fn comes_to_send(queue: &WorkQueue, me: &Arc<Member>) {
    std::mem::forget(queue.producer(me).unwrap().reserve(1).unwrap());
}

#[test]
fn whoever_has_a_part_may_die_anywhere() {
    let bound = model::preemption_bound();
    // Three processes: one preemption less than elsewhere.
    for slots in [1, 2] {
        let tried = model::every_death_of(bound - 1, move |lives| one_of_each(slots, lives));
        println!("work, one of each, {slots} slots: {tried:?}");
    }
    let tried = model::every_two_deaths(bound - 2, |lives| one_of_each(1, lives));
    println!("work, one of each, two deaths: {tried:?}");
}

#[test]
fn who_sends_beside_others_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("work, two send: {:?}", model::every_death_of(bound - 1, two_send));
    let tried = model::every_death_of(bound, |[life]: [Life; 1]| written_for_long(life));
    println!("work, written for long: {tried:?}");
}

#[test]
fn who_gives_a_job_back_may_die_anywhere() {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound - 1, |lives| given_back(false, lives));
    println!("work, given back: {tried:?}");
    println!("work, tried too often: {:?}", model::every_death_of(bound, tried_too_often));
}

#[test]
fn who_loses_a_job_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("work, a lease ends: {:?}", model::every_death_of(bound - 1, a_lease_ends));
}

/// Nobody dies and nobody looks for the dead.
#[test]
fn no_job_hides() {
    println!("work, two send: {:?}", model::check(|| two_send([LIVING(), LIVING()])));
    println!("work, for long: {:?}", model::check(|| written_for_long(LIVING())));
}

#[test]
fn every_ordering_matters() {
    // In loom no load sees what is stored later in its run; and what is given up was not written
    // yet, for a model writes a draft when it is sent.
    let not_needed = [
        "is_still: slot.state.compare_exchange",
        "free: let is_free = slot.state.compare_exchange",
    ];
    let found = model::every_ordering_matters_but(&["shm-mq/src/work/"], &not_needed, || {
        let all = || [(); 3].map(|()| LIVING());
        model::check_bounded(Some(1), move || one_of_each(1, all()));
        model::check_bounded(Some(1), move || given_back(true, all()));
        model::check(given_back_for_later);
        model::check(|| written_for_long(LIVING()));
        model::check(|| tried_too_often([LIVING(), LIVING()]));
        model::check(|| just_come(1, comes_to_work));
        model::check(|| just_come(0, comes_to_send));
        model::check_bounded(Some(1), || a_lease_ends([LIVING()]));
    });
    assert_eq!(found, 13);
}

/// Planted bug, in short: a producer that comes late to a place says nothing to `head`.
#[test]
fn finds_a_place_that_head_has_passed() {
    model::finds("a job hides", || {
        model::check(|| {
            // One slot, which is ready or not, and which place `head` and `tail` are at.
            let words = Arc::new([(); 3].map(|()| AtomicU64::new(0)));
            let theirs = words.clone();
            let send = |[state, _, tail]: &[AtomicU64; 3]| {
                let at = tail.load(Ordering::Relaxed);
                let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
                if state.compare_exchange(0, 1, ok, err).is_ok() {
                    tail.fetch_max(at + 1, Ordering::Release);
                    state.store(2, Ordering::Release);
                }
            };
            let work = |[state, head, tail]: &[AtomicU64; 3]| {
                let tail = tail.load(Ordering::Acquire);
                if head.load(Ordering::Acquire) < tail {
                    let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
                    let is_done = state.compare_exchange(2, 0, ok, err).is_ok();
                    if is_done || state.load(Ordering::Relaxed) == 0 {
                        head.fetch_max(tail, Ordering::Release);
                    }
                }
            };
            let other = model::thread::spawn(move || send(&theirs));
            send(&words);
            work(&words);
            other.join().unwrap();
            work(&words);
            assert!(words[0].load(Ordering::Relaxed) == 0, "a job hides");
        });
    });
}
