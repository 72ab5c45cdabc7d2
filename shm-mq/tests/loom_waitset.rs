//! `WaitSet` under every interleaving: of two queues none is missed, nor a stranger's among others,
//! and one whose sender dies at any access is ready then too.
//!
//! The orderings are those of `EventCount`, here in front of two beds; the queues' own are shown in
//! `loom_spsc`.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sealed::Doorbell;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_core::trust::Hostile;
use shm_mq::spsc::model::{Ends, hostile};
use shm_mq::spsc::{LINE_BYTES, Queue, Receiver, RecvError};
use shm_mq::waitset::{Source, WaitSet};
use shm_testkit::model::{self, Deaths, thread::spawn};

/// Two conditions, each with its bed.
struct Two {
    beds: [EventCount; 2],
    full: [AtomicU32; 2],
}
// SAFETY: modelled atomics.
unsafe impl shm_core::ShmSync for Two {}

fn two() -> Mapped<Two> {
    let full = [AtomicU32::new(0), AtomicU32::new(0)];
    let two = Two { beds: [EventCount::new(), EventCount::new()], full };
    // SAFETY: nobody else has the mapping yet.
    unsafe { Mapped::place(&Mapping::heap(4096), 0, two) }.unwrap()
}

/// One of them, and how often it was looked at in the wrong order.
struct Flag {
    two: Mapped<Two>,
    number: usize,
    /// Planted bug: what was seen before the announcement counts afterwards.
    looks_once: bool,
}

impl Source for Flag {
    fn is_ready(&mut self) -> bool {
        self.two.full[self.number].load(Relaxed) == 1
    }

    fn is_ready_at_last(&mut self) -> bool {
        !self.looks_once && self.is_ready()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.two.beds[self.number])
    }
}

/// Somebody fills both, in this order; one sleeper waits for either, and then for the other.
fn both_are_filled(order: [usize; 2], looks_once: bool) {
    let two = two();
    let theirs = two.clone();
    let fills = spawn(move || {
        for number in order {
            theirs.full[number].store(1, Relaxed);
            theirs.beds[number].notify();
        }
    });
    let [mut one, mut other] = [0, 1].map(|number| Flag { two: two.clone(), number, looks_once });
    let mut set = WaitSet::new();
    let ready = set.wait(&mut [(0, &mut one), (1, &mut other)], None).unwrap();
    assert!(!ready.is_empty(), "nothing woke it");
    for (number, flag) in [&mut one, &mut other].into_iter().enumerate() {
        if !ready.contains(&number) {
            assert_eq!(set.wait(&mut [(number, flag)], None).unwrap(), [number]);
        }
    }
    fills.join().unwrap();
}

/// Of two, somebody fills one, and nothing comes after it.
fn one_is_filled(number: usize) {
    let two = two();
    let theirs = two.clone();
    let fills = spawn(move || {
        theirs.full[number].store(1, Relaxed);
        theirs.beds[number].notify();
    });
    let [mut one, mut other] =
        [0, 1].map(|number| Flag { two: two.clone(), number, looks_once: false });
    let ready = WaitSet::new().wait(&mut [(0, &mut one), (1, &mut other)], None).unwrap();
    assert_eq!(ready, [number]);
    fills.join().unwrap();
}

#[test]
fn neither_of_two_is_missed() {
    for order in [[0, 1], [1, 0]] {
        println!("waitset, {order:?}: {:?}", model::check(move || both_are_filled(order, false)));
    }
}

#[test]
fn both_fences_matter() {
    let found = model::every_ordering_matters(&["src/event.rs"], || {
        model::check(|| one_is_filled(0));
        model::check(|| one_is_filled(1));
    });
    assert_eq!(found, 4, "each as AcqRel, and taken away");
}

/// Planted bug: a source that does not look again after the announcement.
#[test]
fn finds_a_source_that_does_not_look_again() {
    model::finds("deadlock", || {
        model::check(|| both_are_filled([0, 1], true));
    });
}

/// A sender that may die at any access; beside its queue one whose sender lives and says nothing.
fn a_sender_dies(fuel: u32, deaths: &Deaths) {
    let (at, ring) = (Table::bytes_for(3).next_multiple_of(64), 2 * LINE_BYTES);
    let bytes = Queue::bytes_for(ring).next_multiple_of(64);
    let mapping = Mapping::heap((at + 2 * bytes) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    // SAFETY: as above, and each ends before the next.
    let queues = [0, bytes].map(|place| unsafe { Queue::create(&mapping, at + place, ring, 0) });
    let [queue, silent] = queues.map(Result::unwrap);
    let members = [1, 2, 3].map(|process| {
        become_process(process);
        table.join().unwrap()
    });
    let [me, sender, other] = &members;
    queue.set_sender(me, sender.id()).unwrap();
    silent.set_sender(me, other.id()).unwrap();
    become_process(1);
    let (theirs, member, deaths) = (queue.clone(), sender.clone(), deaths.clone());
    let sending = spawn(move || {
        let id = become_process(2);
        let send = || {
            let mut sender = theirs.sender(&member).unwrap();
            sender.send(&[7]).unwrap();
            std::mem::forget(sender);
        };
        if model::mortal(fuel, send).is_none() {
            deaths.died();
        }
        process_ends(&table, id);
    });
    let (mut receiver, mut nothing) = (queue.receiver(me).unwrap(), silent.receiver(me).unwrap());
    let mut set = WaitSet::new();
    let mut received = 0;
    loop {
        let sources: &mut [(u32, &mut dyn Source)] = &mut [(1, &mut receiver), (2, &mut nothing)];
        assert_eq!(set.wait(sources, None).unwrap(), [1], "the other one has nothing to say");
        match receiver.try_recv() {
            Ok(Some(record)) => received += u32::from(record[0] == 7),
            Ok(None) => panic!("it was said to be ready"),
            Err(end) => break assert_eq!(end, RecvError::PeerDied),
        }
    }
    assert!(received <= 1);
    sending.join().unwrap();
}

#[test]
fn a_sender_may_die_anywhere() {
    let tried = model::every_death_bounded(Some(1), a_sender_dies);
    println!("waitset, a sender dies: {tried:?}");
    assert!(tried.deaths > 0);
}

/// A hostile queue's receiver that does not say that it is about to sleep.
struct Mute(Receiver<Hostile>);

impl Source for Mute {
    fn is_ready(&mut self) -> bool {
        self.0.is_ready()
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        self.0.doorbells(to);
    }
}

/// Waits for something from a stranger, and for a condition that nobody brings about.
fn wait_for_a_stranger(set: &mut WaitSet, nothing: &mut Flag, end: &mut dyn Source) {
    let ready = set.wait(&mut [(0, nothing), (1, end)], None).unwrap();
    assert_eq!(ready, [1], "the other one has nothing to say");
}

/// A stranger sends a record, and stays.
fn a_stranger_sends(is_mute: bool) {
    let Ends { mut sender, mut receiver, .. } = hostile(2).unwrap();
    let sending = spawn(move || {
        sender.send(b"1").unwrap();
        sender
    });
    let (mut set, mut nothing) =
        (WaitSet::new(), Flag { two: two(), number: 0, looks_once: false });
    if is_mute {
        let mut mute = Mute(receiver);
        wait_for_a_stranger(&mut set, &mut nothing, &mut mute);
        receiver = mute.0;
    } else {
        wait_for_a_stranger(&mut set, &mut nothing, &mut receiver);
    }
    assert_eq!(*receiver.try_recv().unwrap().unwrap(), *b"1");
    drop(sending.join().unwrap());
}

#[test]
fn a_strangers_ring_is_not_missed() {
    println!("waitset, a stranger sends: {:?}", model::check(|| a_stranger_sends(false)));
}

/// Planted bug: who waits for strangers does not announce itself.
#[test]
fn finds_a_source_that_does_not_announce_itself() {
    model::finds("deadlock", || {
        model::check(|| a_stranger_sends(true));
    });
}

/// A stranger that may die at any access: what it sent is ready, and then its end is.
fn a_stranger_dies(fuel: u32, deaths: &Deaths) {
    let Ends { mut sender, sender_held, mut receiver, .. } = hostile(2).unwrap();
    let deaths = deaths.clone();
    let sending = spawn(move || {
        // It leaves at its end.
        let sent = model::mortal(fuel, move || sender.send(b"1").unwrap());
        if sent.is_none() {
            deaths.died();
            sender_held.ends();
        }
        sent.is_some()
    });
    let (mut set, mut nothing) =
        (WaitSet::new(), Flag { two: two(), number: 0, looks_once: false });
    let mut received = 0;
    let end = loop {
        wait_for_a_stranger(&mut set, &mut nothing, &mut receiver);
        match receiver.try_recv() {
            Ok(Some(record)) => received += u32::from(*record == *b"1"),
            Ok(None) => panic!("it was said to be ready"),
            Err(end) => break end,
        }
    };
    match (sending.join().unwrap(), end) {
        (true, RecvError::Detached) => assert_eq!(received, 1, "a record is lost"),
        (false, RecvError::PeerDied | RecvError::Detached) => assert!(received <= 1),
        (lives, end) => panic!("{lives}, {end}"),
    }
}

#[test]
fn a_stranger_may_die_anywhere() {
    let tried = model::every_death_bounded(Some(1), a_stranger_dies);
    println!("waitset, a stranger dies: {tried:?}");
    assert!(tried.deaths > 0);
}
