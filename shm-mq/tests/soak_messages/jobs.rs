//! Jobs: each that was sent is acknowledged once, and by nobody again.
use super::{LEDGER, Lives, NOBODY_SENDS, ONLY_WHAT_IS_LEFT, Scene, World};
use super::{message, next, read, soon};
use shm_core::sync::Ordering;
use shm_mq::work::{ClaimError, SendError, WorkConfig, WorkQueue};
use std::time::Duration;

const CONFIG: WorkConfig = WorkConfig { attempts_max: 255, ..WorkConfig::new(64, 120) };

/// What a producer says of a job.
const BEGUN: u64 = 1;
const SENT: u64 = 2;
/// What workers say of one.
const TO_BE_ACKNOWLEDGED: u64 = 1;
const ACKNOWLEDGED: u64 = 2;

pub(crate) const WORK: Scene = Scene {
    name: "work",
    senders: ("produces", 2),
    receivers: ("works", 2),
    bytes: WorkQueue::bytes_for(&CONFIG),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { WorkQueue::create(mapping, at, &CONFIG) }.unwrap()),
    has_ledger: true,
    check,
};

fn check(world: &World, lives: &Lives) -> Result<[u64; 2], String> {
    let (mut sent, mut done, mut doubtful) = (0, 0, 0);
    for entry in world.entries() {
        match entry {
            [0, 0] | [BEGUN, 0] => continue,
            [SENT | BEGUN, ACKNOWLEDGED] => done += 1,
            // Its worker was killed just after it had acknowledged it, before it could say so.
            [SENT | BEGUN, TO_BE_ACKNOWLEDGED] => doubtful += 1,
            lost => return Err(format!("a job is lost, or of nobody: {lost:?}")),
        }
        sent += 1;
    }
    let killed = lives.receivers.len() - lives.last.len();
    if doubtful > killed {
        return Err(format!("{doubtful} were not acknowledged, and {killed} killed"));
    }
    let queue = WorkQueue::attach(&world.mapping, world.queue_at, 0).unwrap();
    queue.reap(&world.me);
    assert_eq!(queue.status().free, CONFIG.slots, "{:?}", queue.status());
    Ok([sent, done + doubtful as u64])
}

pub(crate) fn produces(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, true);
    let queue = WorkQueue::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut producer = queue.producer(&world.me).unwrap();
    let mut ids = 0..0;
    while !world.is_over(NOBODY_SENDS) {
        let Some(id) = ids.next() else {
            match world.some_ids() {
                Some(some) => ids = some,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
            continue;
        };
        let entry = world.entry(id)[0];
        entry.store(BEGUN, Ordering::Relaxed);
        let bytes = message(0, id);
        while !world.is_over(NOBODY_SENDS) {
            let is_sent = match next(&mut seed) % 3 {
                0 => producer.try_send(&bytes).unwrap(),
                1 => match producer.send(&bytes, Some(soon())) {
                    Ok(()) => true,
                    Err(SendError::TimedOut) => false,
                    Err(error) => panic!("{error}"),
                },
                _ => match producer.reserve(bytes.len()).unwrap() {
                    Some(draft) if next(&mut seed).is_multiple_of(16) => {
                        drop(draft);
                        false
                    }
                    Some(mut draft) => {
                        draft.copy_from_slice(&bytes);
                        draft.commit().unwrap();
                        true
                    }
                    None => false,
                },
            };
            if is_sent {
                entry.store(SENT, Ordering::Relaxed);
                break;
            }
        }
    }
}

pub(crate) fn works(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, true);
    let queue = WorkQueue::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut worker = queue.worker(&world.me).unwrap();
    loop {
        let is_last = world.is_over(ONLY_WHAT_IS_LEFT);
        let job = match next(&mut seed) % 4 {
            0 => worker.try_claim().unwrap(),
            _ => match worker.claim(Some(soon())) {
                Ok(job) => Some(job),
                Err(ClaimError::TimedOut) => None,
                Err(error) => panic!("{error}"),
            },
        };
        let Some(job) = job else {
            if is_last && is_empty(&queue, &world) {
                return;
            }
            continue;
        };
        let (_, id) = read(&job);
        assert!(id < LEDGER);
        let [told, done] = world.entry(id);
        assert_ne!(told.load(Ordering::Relaxed), 0, "nobody sent {id}");
        match next(&mut seed) % 32 {
            0 => drop(job),
            1 => job.nack(Duration::ZERO).unwrap(),
            _ => {
                let before = done.swap(TO_BE_ACKNOWLEDGED, Ordering::Relaxed);
                assert_ne!(before, ACKNOWLEDGED, "{id} was given again");
                job.ack().unwrap();
                done.store(ACKNOWLEDGED, Ordering::Relaxed);
            }
        }
    }
}

/// Whether no job is left that some worker could do, now or once a dead one is found.
fn is_empty(queue: &WorkQueue, world: &World) -> bool {
    queue.reap(&world.me);
    let status = queue.status();
    status.ready == 0 && status.dead == 0
}
