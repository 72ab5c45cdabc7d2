//! Producers and workers that are processes, killed at random and replaced: each job that was sent
//! is worked on, and acknowledged once at most; nobody hangs, and in the end nothing is left.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::{FINGERPRINT, LIMIT, kill_and_replace};
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::work::{AttachError, ClaimError, Lost, SendError, WorkConfig, WorkQueue};
use shm_testkit::child::{Child, tell_parent};
use shm_testkit::random;
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(1500);
const PRODUCERS: u64 = 2;
const WORKERS: u64 = 3;
/// Jobs that a producer and its successors send at most.
const JOBS_MAX: u64 = 400_000;
const CONFIG: WorkConfig = WorkConfig { attempts_max: 255, ..WorkConfig::new(24, 8) };

/// Words for each producer, the jobs that it has begun to send; and two for each job.
type World = process_common::World<WorkQueue, { PRODUCERS + 2 * PRODUCERS * JOBS_MAX }>;

/// How often a job was given out, and how often acknowledged.
fn of_job(world: &World, job: u64) -> (&AtomicU64, &AtomicU64) {
    let at = (PRODUCERS + 2 * job) as usize;
    (&world.words[at], &world.words[at + 1])
}

fn produces(args: &[String]) {
    let world = World::attach(args);
    let who: u64 = args[1].parse().unwrap();
    let mut producer = world.queue.producer(&world.me).unwrap();
    let begun = &world.words[who as usize];
    while begun.load(Ordering::Relaxed) < JOBS_MAX {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        let job = (who * JOBS_MAX + number).to_ne_bytes();
        producer.send(&job, None).unwrap();
        of_job(&world, who * JOBS_MAX + number).0.fetch_or(SENT, Ordering::Relaxed);
    }
    std::thread::sleep(LIMIT);
}

/// In the word that counts how often a job was given out: it is known to be sent.
const SENT: u64 = 1 << 32;

fn works(args: &[String]) {
    let world = World::attach(args);
    let mut worker = world.queue.worker(&world.me).unwrap();
    loop {
        let job = worker.claim(None).unwrap();
        let number = u64::from_ne_bytes((*job).try_into().unwrap());
        let (given, acked) = of_job(&world, number);
        given.fetch_add(1, Ordering::Relaxed);
        // Its work.
        (0..number % 64).for_each(|_| std::hint::spin_loop());
        job.ack().unwrap();
        acked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a job and holds it.
fn holds(args: &[String]) {
    let world = World::attach(args);
    let mut worker = world.queue.worker(&world.me).unwrap();
    let _job = worker.claim(None).unwrap();
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

/// Takes a slot and writes to it.
fn writes(args: &[String]) {
    let world = World::attach(args);
    let mut producer = world.queue.producer(&world.me).unwrap();
    let _draft = producer.reserve(8).unwrap().unwrap();
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

shm_testkit::children! { produces, works, holds, writes, is_slow }

#[test]
fn each_job_is_done_though_all_are_killed() {
    let seed = random::seed();
    let world = World::create("work", &CONFIG);
    within(LIMIT, move || {
        let all: Vec<(&str, u64)> = (0..PRODUCERS)
            .map(|who| ("produces", who))
            .chain((0..WORKERS).map(|who| ("works", who)))
            .collect();
        let start = |at: usize| world.spawn(all[at].0, &[all[at].1]);
        let mut children: Vec<Child> = (0..all.len()).map(start).collect();
        let end = Instant::now() + RUN;
        let kills = kill_and_replace(&mut children, seed, |_| Instant::now() < end, start);
        children.drain(..PRODUCERS as usize).for_each(|mut child| child.kill());
        // The workers go on until all is done.
        loop {
            world.queue.reap(&world.me);
            let status = world.queue.status();
            if status.ready + status.doing + status.writing == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        children.into_iter().for_each(|mut child| child.kill());
        world.queue.reap(&world.me);
        assert_eq!(world.queue.status().free, CONFIG.slots);
        let (mut sent, mut again) = (0, 0);
        for job in 0..PRODUCERS * JOBS_MAX {
            let (given, acked) = of_job(&world, job);
            let (given, acked) = (given.load(Ordering::Relaxed), acked.load(Ordering::Relaxed));
            assert!(given & SENT == 0 || given & !SENT > 0, "job {job} was sent, and lost");
            assert!(acked <= 1, "job {job} was acknowledged {acked} times");
            sent += u64::from(given & SENT != 0);
            again += (given & !SENT).saturating_sub(1);
        }
        println!("{sent} jobs, {again} given out again, {kills} kills");
        assert!(sent > 100 && kills > 10, "{sent} jobs, {kills} kills");
    });
}

#[test]
fn what_the_dead_had_comes_back() {
    let world = World::create("work", &CONFIG);
    within(LIMIT, move || {
        let mut producer = world.queue.producer(&world.me).unwrap();
        let mut worker = world.queue.worker(&world.me).unwrap();
        producer.send(b"first", None).unwrap();
        producer.send(b"second", None).unwrap();
        let mut holds = world.spawn_there("holds");
        let mut writes = world.spawn_there("writes");
        // A stopped one keeps its own, and nothing else.
        holds.stop();
        worker.try_claim().unwrap().expect("the second").ack().unwrap();
        assert!(worker.try_claim().unwrap().is_none());
        let soon = Instant::now() + Duration::from_millis(100);
        assert_eq!(worker.claim(Some(soon)).unwrap_err(), ClaimError::TimedOut);
        holds.kill();
        writes.kill();
        // Who waits reaps.
        let job = worker.claim(None).unwrap();
        assert_eq!((&*job, job.attempts()), (&b"first"[..], 1));
        job.ack().unwrap();
        world.queue.reap(&world.me);
        assert_eq!(world.queue.status().free, CONFIG.slots);
    });
}

/// Takes a job, and says whether it could acknowledge it in the end.
fn is_slow(args: &[String]) {
    let world = World::attach(args);
    let mut worker = world.queue.worker(&world.me).unwrap();
    let mut job = worker.claim(None).unwrap();
    tell_parent("there");
    std::thread::sleep(Duration::from_millis(20));
    let lost = (job.extend(Duration::from_secs(1)), job.ack());
    tell_parent(if lost == (Err(Lost), Err(Lost)) { "lost" } else { "kept" });
}

#[test]
fn who_is_stopped_loses_his_lease() {
    const LEASE: Duration = Duration::from_millis(100);
    let world = World::create("work", &WorkConfig { lease_ms: LEASE.as_millis() as u64, ..CONFIG });
    within(LIMIT, move || {
        let mut producer = world.queue.producer(&world.me).unwrap();
        let mut worker = world.queue.worker(&world.me).unwrap();
        producer.send(b"first", None).unwrap();
        let mut slow = world.spawn_there("is_slow");
        slow.stop();
        // Who waits looks for leases that have ended.
        let mut job = worker.claim(None).unwrap();
        assert_eq!((&*job, job.attempts()), (&b"first"[..], 1));
        for _ in 0..5 {
            job.extend(LEASE).unwrap();
            std::thread::sleep(LEASE / 4);
            assert_eq!(world.queue.reap(&world.me), 0, "it was extended");
        }
        slow.cont();
        assert_eq!(slow.hear(LIMIT), "lost");
        job.extend(LEASE).unwrap();
        job.ack().unwrap();
        assert_eq!(world.queue.status().free, CONFIG.slots);
    });
}

#[test]
fn bad_input_is_an_error_of_its_own() {
    let world = World::create("work", &CONFIG);
    let other = WorkQueue::attach(&world.mapping, World::QUEUE_AT, 0).unwrap_err();
    assert_eq!(other, AttachError::OtherJobs { found: FINGERPRINT });
    let nothing = WorkQueue::attach(&world.mapping, World::WORDS_AT, 0).unwrap_err();
    assert_eq!(nothing, AttachError::NotAQueue { found: 0 });
    assert!(matches!(WorkQueue::attach(&world.mapping, 3, 0), Err(AttachError::Place(_))));
    let mut producer = world.queue.producer(&world.me).unwrap();
    assert_eq!(producer.try_send(&[0; 9]), Err(SendError::TooLong { len: 9, largest: 8 }));
    for _ in 0..CONFIG.slots {
        assert!(producer.try_send(b"x").unwrap());
    }
    assert!(!producer.try_send(b"x").unwrap(), "full is no error");
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(producer.send(b"x", Some(soon)), Err(SendError::TimedOut));
}
