//! A peer that scribbles over the words of queues can neither hang a wait beyond its deadline, nor
//! crash it; nor does one that stands in its bed and rings all the time, nor a hostile one that
//! rings its socket: who waits looks in vain, and goes on waiting.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about positions too")]
mod liar;
use liar::{ASLEEP, HEAD_WORDS, Liar, STATE, Stops, half, liar, victim_receiver, victim_sender};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering};
use shm_core::trust::{Buggy, Hostile};
use shm_mq::fan_in::Strangers;
use shm_mq::spsc::{self, Queue};
use shm_mq::waitset::{Descriptor, Interest, Source, WaitSet};
use shm_mq::work::{WorkConfig, WorkQueue};
use shm_testkit::liar::{Edge, Guarded, Liar as Lies, Scribbler, Trials};
use shm_testkit::watchdog::within;
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
        let liar = Lies::new(seed, &image).with_values(&[0, 1, 2, 3, 4, u64::MAX, 1 << 32]);
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

/// Rings, and fills the socket, and says that it sleeps; and says nothing else.
fn rings_all_the_time(liars: &[&Liar], stop: &AtomicU32) -> u64 {
    let mut rings = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        rings += 1;
        for liar in liars {
            liar.bell.ring();
            liar.words[ASLEEP].store(rings, Ordering::Relaxed);
        }
    }
    rings
}

/// One stranger that is a liar.
fn a_lying_stranger() -> (Strangers<u32>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let [sender, receiver] = [b"shmqsnd\x01", b"shmqrcv\x01"].map(|m| u64::from_be_bytes(*m));
        let (own, words) = half(sender, 512, 0);
        liar(theirs, &own, words, sender, receiver)
    });
    let limits = spsc::Limits::default();
    let end = spsc::Receiver::<Hostile>::connect(ours, limits, 0, None).unwrap();
    let mut strangers = Strangers::new();
    strangers.admit(7, end);
    (strangers, lying.join().unwrap())
}

#[test]
fn who_rings_in_vain_makes_nothing_ready_and_ends_no_wait() {
    let (_block, mapping, me) = world();
    let mut trusting = Queue::attach(&mapping, 0, 0).unwrap().receiver(&me).unwrap();
    let mut trusted = Queue::attach(&mapping, 0, 0).unwrap().sender(&me).unwrap();
    let ((mut receiver, one), (mut sender, two)) = (victim_receiver(64), victim_sender(64, 64));
    let (mut strangers, three) = a_lying_stranger();
    while sender.try_send(b"full").is_ok() {}
    let (stop, mut set) = (AtomicU32::new(0), WaitSet::new());
    let mut wait = |for_how_long: u64| {
        let deadline = Instant::now() + Duration::from_millis(for_how_long);
        let mut space = sender.space(4);
        let sources: &mut [(u32, &mut dyn Source)] =
            &mut [(1, &mut receiver), (2, &mut space), (3, &mut strangers), (4, &mut trusting)];
        let ready = within(LIMIT, || set.wait(sources, Some(deadline))).unwrap();
        assert_eq!(ready.is_empty(), Instant::now() >= deadline, "{ready:?}");
        if ready.contains(&4) {
            drop(trusting.try_recv().unwrap().unwrap());
        }
        ready
    };
    let rings = std::thread::scope(|scope| {
        let rings = scope.spawn(|| rings_all_the_time(&[&one, &two, &three], &stop));
        let _stops = Stops(&stop);
        for _ in 0..20 {
            assert_eq!(wait(10), [0_u32; 0], "nothing is there but bells");
            trusted.send(b"true").unwrap();
            assert_eq!(wait(60_000), [4], "others are received from");
        }
        drop(_stops);
        rings.join().unwrap()
    });
    println!("rung {rings} times");
    // An end that is no lie is ready at once: the one says so, the others hang up.
    one.words[STATE].store(2, Ordering::Relaxed);
    three.words[HEAD_WORDS].store(0, Ordering::Relaxed);
    drop((two, three));
    assert_eq!(wait(60_000), [1, 2, 3]);
}
