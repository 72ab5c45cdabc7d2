//! A peer that scribbles over the words of queues can neither hang a wait beyond its deadline, nor
//! crash it; nor does one that stands in its bed and rings all the time.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::Buggy;
use shm_mq::spsc::Queue;
use shm_mq::waitset::{Descriptor, Interest, Source, WaitSet};
use shm_mq::work::{WorkConfig, WorkQueue};
use shm_testkit::liar::{Edge, Guarded, Liar, Scribbler, Trials};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RING_BYTES: u64 = 256;
const JOBS: WorkConfig = WorkConfig::new(4, 8);
const QUEUE_BYTES: u64 = Queue::bytes_for(RING_BYTES).next_multiple_of(64);
const JOBS_AT: u64 = 2 * QUEUE_BYTES;
const BYTES: usize = (JOBS_AT + WorkQueue::bytes_for(&JOBS)) as usize;
/// `arrived` and `left` of a queue of records.
const BEDS: [usize; 2] = [168, 296];

fn world() -> (Guarded, Arc<Mapping>, Arc<Member>) {
    let table = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&table, 0, 2) }.unwrap().join().unwrap();
    let block = Guarded::holding(&[0; BYTES], Edge::of(1));
    let kept = block.clone();
    // SAFETY: the block is aligned to 64 bytes, lives as long as `kept`, and no reference leads to
    // it; those who lie to it have a mapping of their own.
    let mapping =
        unsafe { Mapping::from_raw(block.base(), block.len(), Box::new(|_, _| drop(kept))) };
    for at in [0, QUEUE_BYTES] {
        // SAFETY: nobody else has the mapping.
        unsafe { Queue::create(&mapping, at, RING_BYTES, 0) }.unwrap();
    }
    // SAFETY: as above, and the queues end before.
    unsafe { WorkQueue::create(&mapping, JOBS_AT, &JOBS) }.unwrap();
    (block, mapping, me)
}

/// Waits for all of it while somebody lies, also with a descriptor, which is slept on otherwise.
fn is_waited_for(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, me: &Arc<Member>) -> u64 {
    let (fd, _other) = UnixStream::pair().unwrap();
    let open = |at| Queue::attach(mapping, at, 0).ok()?.with_peers::<Buggy>().receiver(me).ok();
    let (Some(mut one), Some(mut other)) = (open(0), open(QUEUE_BYTES)) else { return 0 };
    let Ok(jobs) = WorkQueue::attach(mapping, JOBS_AT, 0) else { return 0 };
    let mut worker = jobs.with_peers::<Buggy>().worker(me).unwrap();
    let mut set = WaitSet::new();
    for with_descriptor in [false, true] {
        let mut fd = Descriptor::new(fd.as_fd(), Interest::Readable);
        let ready = trials.call(seed, "wait", || {
            let mut sources: Vec<(u32, &mut dyn Source)> =
                vec![(0, &mut one), (1, &mut other), (2, &mut worker)];
            if with_descriptor {
                sources.push((3, &mut fd));
            }
            set.wait(&mut sources, Some(Instant::now() + Duration::from_micros(200)))
        });
        let is_sane = ready.is_some_and(|ready| ready.is_ok_and(|ready| !ready.contains(&3)));
        trials.check(seed, "wait", is_sane, "an error, or a descriptor on which nothing comes");
    }
    1
}

#[test]
fn a_scribbler_hangs_no_wait() {
    let trials = Trials::new("waitset, meanwhile", LIMIT);
    let mut waited = 0;
    for seed in trials.seeds(24) {
        let (block, mapping, me) = world();
        let image = block.outside().read();
        let liar = Liar::new(seed, &image).with_values(&[0, 1, 2, 3, 4, u64::MAX, 1 << 32]);
        let bed = BEDS[seed as usize % 2];
        let liar = match seed % 3 {
            0 => liar,
            1 => liar.about(bed..bed + 4),
            _ => liar.about(24..QUEUE_BYTES as usize),
        };
        let scribbler = Scribbler::start(block.outside(), liar.restoring());
        scribbler.meanwhile(200, || waited += is_waited_for(&trials, seed, &mapping, &me));
        trials.add(scribbler.stop());
        trials.check(seed, "waitset", block.is_intact(), "wrote beside the queues");
    }
    println!("waited {waited} times");
    trials.finish();
    // Whose ends cannot be had, or who is told at once, is no wait.
    assert!(waited > 0);
}
