//! Producers and workers on threads for a fixed time, some of which leave with a job in their
//! hands: each job that was sent is acknowledged once, whatever the queue's size.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_mq::work::{ClaimError, SendError, WorkConfig, WorkQueue};
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RUN: Duration = Duration::from_millis(400);
const PRODUCERS: u64 = 2;
const WORKERS: u64 = 3;
/// Jobs that a producer sends at most.
const JOBS_MAX: u64 = 1 << 18;

struct World {
    table: Table,
    queue: WorkQueue,
    /// For each job, how often it was acknowledged.
    acked: Vec<AtomicU8>,
    sent: AtomicU64,
    producing: AtomicU64,
}

fn soon(seed: &mut u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_micros(next(seed) % 200))
}

fn produce(world: &World, who: u64) {
    let (mut seed, end) = (who + 1, Instant::now() + RUN);
    let mut number = 0;
    while Instant::now() < end && number < JOBS_MAX {
        let me = world.table.join().unwrap();
        let mut producer = world.queue.producer(&me).unwrap();
        for _ in 0..next(&mut seed) % 500 {
            if number == JOBS_MAX {
                break;
            }
            let job = (who * JOBS_MAX + number).to_ne_bytes();
            let sent = match next(&mut seed) % 4 {
                0 => producer.send(&job, soon(&mut seed)).map(|()| true),
                1 => producer.reserve(8).map(|draft| {
                    draft.is_some_and(|mut draft| {
                        draft.copy_from_slice(&job);
                        draft.delay(Duration::from_millis(1)).commit().unwrap();
                        true
                    })
                }),
                _ => producer.try_send(&job),
            };
            match sent {
                Ok(is_sent) => number += u64::from(is_sent),
                Err(SendError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Its seat is given away with a slot that it was writing to.
        std::mem::forget(producer.reserve(8).unwrap());
    }
    world.sent.fetch_add(number, Ordering::Relaxed);
    world.producing.fetch_sub(1, Ordering::Release);
}

/// Works until nobody produces and nothing is left; how many jobs it has acknowledged.
fn work(world: &World, who: u64) -> u64 {
    let (mut seed, mut acked) = (who + 77, 0);
    loop {
        let me = world.table.join().unwrap();
        let mut worker = world.queue.worker(&me).unwrap();
        for _ in 0..next(&mut seed) % 500 {
            let is_over = world.producing.load(Ordering::Acquire) == 0;
            let job = match next(&mut seed) % 2 {
                0 => worker.try_claim().map(|job| job.ok_or(ClaimError::TimedOut)),
                _ => Ok(worker.claim(soon(&mut seed))),
            };
            match job.unwrap() {
                Ok(job) => {
                    let number = u64::from_ne_bytes((*job).try_into().unwrap());
                    match next(&mut seed) % 32 {
                        0 => drop(job),
                        1 => job.nack(Duration::from_millis(next(&mut seed) % 2)).unwrap(),
                        2 => {
                            // As one who dies.
                            std::mem::forget(job);
                            break;
                        }
                        _ => {
                            job.ack().unwrap();
                            world.acked[number as usize].fetch_add(1, Ordering::Relaxed);
                            acked += 1;
                        }
                    }
                }
                Err(ClaimError::TimedOut) if is_over => {
                    let status = world.queue.status();
                    if status.ready + status.doing + status.writing == 0 {
                        return acked;
                    }
                    world.queue.reap(&me);
                }
                Err(ClaimError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn each_is_done_once(slots: u32) {
    let mut config = WorkConfig::new(slots, 8);
    config.attempts_max = u8::MAX;
    let at = Table::bytes_for(16).next_multiple_of(128);
    let mapping = Mapping::heap((at + WorkQueue::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 16) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { WorkQueue::create(&mapping, at, &config) }.unwrap();
    let acked = (0..PRODUCERS * JOBS_MAX).map(|_| AtomicU8::new(0)).collect();
    let (sent, producing) = (AtomicU64::new(0), AtomicU64::new(PRODUCERS));
    let world = Arc::new(World { table, queue, acked, sent, producing });
    within(LIMIT, move || {
        let done: u64 = std::thread::scope(|scope| {
            let world = &*world;
            for who in 0..PRODUCERS {
                scope.spawn(move || produce(world, who));
            }
            let workers: Vec<_> =
                (0..WORKERS).map(|who| scope.spawn(move || work(world, who))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        let sent = world.sent.load(Ordering::Relaxed);
        assert!(world.acked.iter().all(|times| times.load(Ordering::Relaxed) <= 1));
        assert_eq!(done, sent);
        assert!(sent > 100, "{sent}");
        assert_eq!(world.queue.status().dead, 0);
    });
}

#[test]
fn in_one_slot() {
    each_is_done_once(1);
}

#[test]
fn in_a_few() {
    each_is_done_once(5);
}

#[test]
fn in_many() {
    each_is_done_once(500);
}
