//! A job queue that lies, before a process attaches and while it works: each call ends, with a
//! value or with an error of its own; no job is longer than its slot, and nothing but the queue's
//! bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::Buggy;
use shm_mq::work::{AttachError, Job, WorkConfig, WorkQueue};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONFIG: WorkConfig = WorkConfig::new(3, 40);
const BYTES: usize = WorkQueue::bytes_for(&CONFIG) as usize;

/// Two seats of this process, in a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(4) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What a queue holds in the course of its life.
fn images(members: &[Arc<Member>]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let queue = unsafe { WorkQueue::create(&mapping, 0, &CONFIG) }.unwrap();
    let mut images = vec![block.outside().read()];
    let mut producer = queue.producer(&members[0]).unwrap();
    let mut worker = queue.worker(&members[1]).unwrap();
    for job in [&b"peel"[..], b"boil", b"mash"] {
        assert!(producer.try_send(job).unwrap());
    }
    images.push(block.outside().read());
    for _ in 0..3 {
        drop(worker.try_claim().unwrap());
        images.push(block.outside().read());
    }
    let job = worker.try_claim().unwrap();
    images.push(block.outside().read());
    drop(job);
    images
}

fn liar(seed: u64, images: &[Vec<u8>], members: &[Arc<Member>]) -> Liar {
    let ids = members.iter().map(|member| u64::from(member.id().to_bits()));
    let states = ids.flat_map(|id| (0..6).map(move |kind| kind << 61 | id));
    let mut values: Vec<u64> = states.collect();
    values.extend([0, 1, 39, 40, 41, 1 << 16, 3 << 16, u64::MAX - 1, u64::MAX]);
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&values)
}

fn look(trials: &Trials, seed: u64, job: &Job<'_, Buggy>) {
    trials.check(seed, "a job", job.len() <= CONFIG.job_bytes as usize, "longer than its slot");
    let kept = job.to_vec();
    trials.check(seed, "a job", **job == kept[..], "changes while it is looked at");
}

/// Every call there is; whether there was a queue.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>]) -> bool {
    let attached = trials.call(seed, "attach", || WorkQueue::attach(mapping, 0, 0));
    let queue = match attached {
        Some(Ok(queue)) => queue.with_peers::<Buggy>(),
        Some(Err(AttachError::Place(_))) => {
            trials.check(seed, "attach", false, "says that the place is wrong");
            return false;
        }
        _ => return false,
    };
    let (Ok(mut producer), Ok(mut worker)) =
        (queue.producer(&members[0]), queue.worker(&members[1]))
    else {
        return false;
    };
    let soon = || Some(Instant::now() + Duration::from_millis(1));
    for round in 0..3_usize {
        trials.call(seed, "try_send", || producer.try_send(&vec![7; round * 20]));
        trials.call(seed, "send", || producer.send(b"soon", soon()));
        trials.call(seed, "reserve", || {
            if let Ok(Some(draft)) = producer.reserve(9) {
                draft.delay(Duration::MAX).commit().unwrap();
            }
        });
        trials.call(seed, "withdraw", || producer.reserve(9).map(|draft| draft.is_some()));
        trials.call(seed, "try_claim", || {
            if let Ok(Some(job)) = worker.try_claim() {
                look(trials, seed, &job);
                let _ = job.nack(Duration::from_millis(round as u64));
            }
        });
        trials.call(seed, "claim", || {
            if let Ok(job) = worker.claim(soon()) {
                look(trials, seed, &job);
                let _ = job.ack();
            }
        });
        trials.call(seed, "try_claim_dead", || {
            if let Ok(Some(job)) = worker.try_claim_dead() {
                look(trials, seed, &job);
                let _ = if round == 0 { job.retry() } else { job.ack() };
            }
        });
        trials.call(seed, "drop", || worker.try_claim().map(|job| job.is_some()));
        trials.call(seed, "reap", || queue.reap(&members[round % 2]));
        let status = trials.call(seed, "status", || queue.status());
        let all = status.map(|all| all.free + all.writing + all.ready + all.doing + all.dead);
        let is_bounded = all.is_none_or(|all| all <= queue.slots());
        trials.check(seed, "status", is_bounded, "counts more slots than there are");
    }
    true
}

#[test]
fn a_queue_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("work, before", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(400) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images, &members), seed % 6);
        attached += u64::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "memory", block.is_intact(), "was written to outside of the queue");
    }
    assert!(attached > 100, "{attached} attached");
    trials.finish();
}

#[test]
fn a_queue_that_is_scribbled_on_is_used() {
    let (trials, members) = (Trials::new("work, meanwhile", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(24) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = liar(seed, &images, &members).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(200, || {
            attached += u64::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "memory", block.is_intact(), "was written to outside of the queue");
    }
    assert!(attached > 0);
    trials.finish();
}
