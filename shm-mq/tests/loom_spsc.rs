//! `spsc` under every interleaving and with a death at every access: each record arrives once, in
//! order and whole; who takes over from a dead one goes on where it was; nobody hangs.
//!
//! Process 1 is the receiver, process 2 the sender, process 3 the heir of who dies. A model's line
//! has two words. Its ends are at one level of trust, for their words are other objects of loom's.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{
    AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, yield_now,
};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::spsc::{AttachError, LINE_BYTES, Queue, Receiver, RecvError, SendError, Sender};
use shm_mq::stream::OneMapping;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Deaths, Tried};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Counter;

const RECEIVER: u32 = 1;
const SENDER: u32 = 2;
const HEIR: u32 = 3;
const FOR_EVER: u32 = u32::MAX;

/// What a scene begins with, and the lengths of the records that it is about.
#[derive(Clone, Copy)]
struct Shape {
    lines: u64,
    /// Sent before, and the first so many of them received.
    earlier: &'static [usize],
    received: u64,
    to_send: &'static [usize],
}

/// Two records in a ring for one: the second waits until the first one has been released.
const FULL: Shape = Shape { lines: 2, earlier: &[], received: 0, to_send: &[1, 1] };
/// One of two lines, behind which there is room for another one.
const TWO_LINES: Shape = Shape { lines: 4, earlier: &[], received: 0, to_send: &[9, 1] };
/// One of two lines, for which there is a line before the end of the ring: it goes to the
/// beginning, once the two that stand there have been released.
const AROUND: Shape = Shape { lines: 4, earlier: &[9, 1], received: 0, to_send: &[9] };
/// The same, and they have been.
const AT_THE_BEGINNING: Shape = Shape { received: 2, ..AROUND };
/// The lines of the first one are used anew once the second one has been released, and no fence
/// comes between: the receiver looks for sleepers where it has released a quarter of the ring.
const USED_ANEW: Shape = Shape { lines: 8, earlier: &[9, 1, 56], received: 0, to_send: &[9] };
/// Room for both.
const ROOM: Shape = Shape { lines: 4, ..FULL };

impl Shape {
    fn before(self) -> u64 {
        self.earlier.len() as u64
    }

    fn count(self) -> u64 {
        self.before() + self.to_send.len() as u64
    }

    /// The record with this number.
    fn record(self, number: u64) -> Vec<u8> {
        let mut lens = self.earlier.iter().chain(self.to_send);
        vec![number as u8 + 1; *lens.nth(number as usize).unwrap()]
    }
}

/// A queue whose roles are given, but not taken yet.
struct World<T: OneMapping> {
    table: Table,
    queue: Queue<T>,
    members: [Arc<Member>; 3],
    shape: Shape,
    /// Records that were acknowledged to who dies: sent, or released.
    acknowledged: Counter,
}

fn table_and_queue(lines: u64) -> (Table, Queue) {
    let (at, ring) = (Table::bytes_for(3).next_multiple_of(64), lines * LINE_BYTES);
    let mapping = Mapping::heap((at + Queue::bytes_for(ring)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let queue = unsafe { Queue::create(&mapping, at, ring, 0) }.unwrap();
    (table, queue)
}

fn world<T: OneMapping>(shape: Shape) -> Arc<World<T>> {
    let (table, queue) = table_and_queue(shape.lines);
    let queue = queue.with_peers::<T>();
    let members = [RECEIVER, SENDER, HEIR].map(|process| {
        become_process(process);
        table.join().unwrap()
    });
    let acknowledged = Counter::new(shape.before());
    let world = World { table, queue, members, shape, acknowledged };
    if shape.before() > 0 {
        world.send(&mut world.sender(SENDER), 0..shape.before());
    }
    if shape.received > 0 {
        world.receive(&mut world.receiver(RECEIVER), 0..shape.received, |_| ());
    }
    world.queue.set_sender(world.member(HEIR), world.member(SENDER).id()).unwrap();
    world.queue.set_receiver(world.member(HEIR), world.member(RECEIVER).id()).unwrap();
    become_process(RECEIVER);
    Arc::new(world)
}

impl<T: OneMapping> World<T> {
    fn member(&self, process: u32) -> &Arc<Member> {
        &self.members[process as usize - 1]
    }

    /// The calling thread is `process` now, and has the role.
    fn sender(&self, process: u32) -> Sender<T> {
        become_process(process);
        self.queue.sender(self.member(process)).unwrap()
    }

    fn receiver(&self, process: u32) -> Receiver<T> {
        become_process(process);
        self.queue.receiver(self.member(process)).unwrap()
    }

    /// Sends these, whoever the receiver is.
    fn send(&self, sender: &mut Sender<T>, numbers: Range<u64>) {
        for number in numbers {
            assert_eq!(sender.sent(), number);
            while let Err(why) = sender.send(&self.shape.record(number)) {
                assert_eq!(why, SendError::PeerDied);
                yield_now();
            }
            self.acknowledged.fetch_max(number + 1, Relaxed);
        }
    }

    /// Receives these, whoever the sender is, and says so to `released` after each.
    fn receive(&self, receiver: &mut Receiver<T>, numbers: Range<u64>, released: impl Fn(u64)) {
        for number in numbers {
            assert_eq!(receiver.received(), number);
            loop {
                match receiver.recv() {
                    Ok(record) => break assert_eq!(*record, self.shape.record(number), "torn"),
                    Err(why) => assert_eq!(why, RecvError::PeerDied),
                }
                yield_now();
            }
            released(number + 1);
        }
    }

    /// Receives all, until it ends, of which the sender hears nothing but that it has been taken.
    fn receive_all(&self, receiver: &mut Receiver<T>) {
        self.receive(receiver, self.shape.received..self.shape.count(), |_| ());
    }

    /// Runs `first` as a process that dies after `fuel` accesses; if it does, `then` as its heir.
    fn mortal(
        self: &Arc<Self>,
        process: u32,
        (fuel, deaths): (u32, &Deaths),
        first: fn(&Self),
        then: fn(&Self),
    ) -> JoinHandle<()> {
        let (world, deaths) = (self.clone(), deaths.clone());
        spawn(move || {
            let id = become_process(process);
            if model::mortal(fuel, || first(&world)).is_none() {
                deaths.died();
                process_ends(&world.table, id);
                then(&world);
            }
        })
    }

    /// What the heir finds: what was acknowledged, and perhaps what the other one died of.
    fn is_plausible(&self, found: u64, at_once: u64) {
        let acknowledged = self.acknowledged.load(Relaxed);
        let all = [acknowledged, acknowledged + at_once];
        assert!(all.contains(&found), "{found} of {all:?}: one is lost, or comes twice");
    }
}

/// The sender may die at any access, and has an heir.
fn sender_dies<T: OneMapping>(shape: Shape) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world::<T>(shape);
        let sends = |world: &World<T>| {
            world.send(&mut world.sender(SENDER), world.shape.before()..world.shape.count());
        };
        let goes_on = |world: &World<T>| {
            let mut sender = world.sender(HEIR);
            let sent = sender.sent();
            world.is_plausible(sent, 1);
            world.send(&mut sender, sent..world.shape.count());
        };
        let sending = world.mortal(SENDER, (fuel, deaths), sends, goes_on);
        let mut receiver = world.receiver(RECEIVER);
        world.receive_all(&mut receiver);
        sending.join().unwrap();
        assert!(receiver.try_recv().is_err(), "nobody is left, and nothing");
    }
}

/// The sender pushes all, and may die at any access: its heir finds all of it or nothing.
fn batch_dies(shape: Shape) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world::<Crashing>(shape);
        let pushes = |world: &World<Crashing>| {
            let mut sender = world.sender(SENDER);
            for number in 0..world.shape.count() {
                assert_eq!(sender.push(&world.shape.record(number)), Ok(true), "there is room");
            }
            sender.flush().unwrap();
            world.acknowledged.store(world.shape.count(), Relaxed);
        };
        let goes_on = |world: &World<Crashing>| {
            let mut sender = world.sender(HEIR);
            let sent = sender.sent();
            world.is_plausible(sent, world.shape.count());
            world.send(&mut sender, sent..world.shape.count());
        };
        let sending = world.mortal(SENDER, (fuel, deaths), pushes, goes_on);
        world.receive_all(&mut world.receiver(RECEIVER));
        sending.join().unwrap();
    }
}

/// The receiver may die at any access, and has an heir.
fn receiver_dies<T: OneMapping>(shape: Shape) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world::<T>(shape);
        world.acknowledged.store(shape.received, Relaxed);
        let receives = |world: &World<T>| {
            let released = |count| world.acknowledged.store(count, Relaxed);
            let numbers = world.shape.received..world.shape.count();
            world.receive(&mut world.receiver(RECEIVER), numbers, released);
        };
        let goes_on = |world: &World<T>| {
            let mut receiver = world.receiver(HEIR);
            let received = receiver.received();
            world.is_plausible(received, 1);
            world.receive(&mut receiver, received..world.shape.count(), |_| ());
        };
        let receiving = world.mortal(RECEIVER, (fuel, deaths), receives, goes_on);
        let mut sender = world.sender(SENDER);
        for number in shape.before()..shape.count() {
            while let Err(why) = sender.send(&shape.record(number)) {
                assert_eq!(why, SendError::PeerDied);
                yield_now();
            }
        }
        drop(sender);
        receiving.join().unwrap();
    }
}

/// A sender that comes, pushes and goes, and a receiver that knows nothing of it beforehand.
fn comes_and_goes() {
    let (table, queue) = table_and_queue(2);
    let receiver = table.join().unwrap();
    let (theirs, their_table) = (queue.clone(), table.clone());
    let sending = spawn(move || {
        become_process(SENDER);
        let me = their_table.join().unwrap();
        assert_eq!(theirs.sender(&me).unwrap().push(b"1"), Ok(true));
    });
    let mut receiver = queue.receiver(&receiver).unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"1");
    assert!(matches!(receiver.recv(), Err(RecvError::Detached)));
    sending.join().unwrap();
}

/// Takes a role as soon as it can be had.
fn as_soon_as<R>(take: impl Fn() -> Result<R, AttachError>) -> R {
    loop {
        match take() {
            Ok(role) => return role,
            Err(AttachError::Taken { .. }) => yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

/// A sender leaves after one record, and another one comes after it.
fn sender_is_followed() {
    let world = world::<Crashing>(ROOM);
    let theirs = world.clone();
    let sending = spawn(move || theirs.send(&mut theirs.sender(SENDER), 0..1));
    become_process(HEIR);
    let mut heir = as_soon_as(|| world.queue.sender(world.member(HEIR)));
    world.send(&mut heir, 1..2);
    world.receive_all(&mut world.receiver(RECEIVER));
    become_process(HEIR);
    drop(heir);
    sending.join().unwrap();
}

/// A receiver leaves after one record, and another one comes after it.
fn receiver_is_followed() {
    let world = world::<Crashing>(Shape { earlier: &[1, 1], to_send: &[], ..ROOM });
    let theirs = world.clone();
    let receiving = spawn(move || theirs.receive(&mut theirs.receiver(RECEIVER), 0..1, |_| ()));
    become_process(HEIR);
    let mut heir = as_soon_as(|| world.queue.receiver(world.member(HEIR)));
    world.receive(&mut heir, 1..2, |_| ());
    receiving.join().unwrap();
}

/// The sender dies, and who has proof of that names another one, which asks nobody.
fn sender_is_named() {
    let world = world::<Crashing>(ROOM);
    let theirs = world.clone();
    let sending = spawn(move || {
        let mut sender = theirs.sender(SENDER);
        theirs.send(&mut sender, 0..1);
        std::mem::forget(sender);
        process_ends(&theirs.table, theirs.member(SENDER).process());
        become_process(HEIR);
    });
    let theirs = world.clone();
    let naming = spawn(move || {
        become_process(RECEIVER);
        let (me, heir) = (theirs.member(RECEIVER), theirs.member(HEIR).id());
        let _ = theirs.queue.set_sender(me, heir);
    });
    become_process(HEIR);
    let mut heir = as_soon_as(|| world.queue.sender(world.member(HEIR)));
    world.send(&mut heir, 1..2);
    drop(heir);
    world.receive_all(&mut world.receiver(RECEIVER));
    sending.join().unwrap();
    naming.join().unwrap();
}

/// The receiver releases two records, and goes on reading: what stood there is written anew.
fn used_anew() {
    let world = world::<Crashing>(USED_ANEW);
    let theirs = world.clone();
    let sending = spawn(move || theirs.send(&mut theirs.sender(SENDER), 3..4));
    let mut receiver = world.receiver(RECEIVER);
    world.receive(&mut receiver, 0..2, |_| ());
    sending.join().unwrap();
    world.receive(&mut receiver, 2..4, |_| ());
}

/// One that has just come has the role; who wants it too sees that it lives.
fn just_come() {
    let (table, queue) = table_and_queue(2);
    let me = table.join().unwrap();
    let (theirs, their_table) = (queue.clone(), table.clone());
    let coming = spawn(move || {
        become_process(SENDER);
        let member = their_table.join().unwrap();
        let has_it = theirs.sender(&member).map(std::mem::forget).is_ok();
        std::mem::forget(member);
        has_it
    });
    let have_it = queue.sender(&me).map(std::mem::forget).is_ok();
    assert!(coming.join().unwrap() != have_it, "two have the role");
}

/// The receiver leaves after one record: a sender that waits for room learns of it.
fn receiver_leaves() {
    let world = world::<Crashing>(FULL);
    let theirs = world.clone();
    let receiving = spawn(move || theirs.receive(&mut theirs.receiver(RECEIVER), 0..1, |_| ()));
    let mut sender = world.sender(SENDER);
    let mut ends = [0, 1, 1].map(|number| sender.send(&FULL.record(number))).into_iter();
    assert_eq!(ends.find(|end| end.is_err()), Some(Err(SendError::Detached)));
    receiving.join().unwrap();
}

/// The heir believes that the sender is dead, which goes on.
fn death_is_guessed() {
    let world = world::<Crashing>(ROOM);
    let (theirs, mut sender) = (world.clone(), world.sender(SENDER));
    let sending = spawn(move || {
        become_process(SENDER);
        theirs.send(&mut sender, 0..1);
    });
    process_ends(&world.table, world.member(SENDER).process());
    let mut heir = world.sender(HEIR);
    if heir.sent() == 0 {
        world.send(&mut heir, 0..1);
    }
    sending.join().unwrap();
}

fn each_death(name: &str, scene: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    // With heirs it is three processes: a bound one lower than elsewhere.
    let bound = Some(model::preemption_bound() - 1);
    let tried = model::every_death_bounded(bound, scene);
    println!("spsc, {name}: {tried:?}");
    assert!(tried.deaths > 0);
}

fn lives(scene: impl Fn(u32, &Deaths) + Send + Sync + 'static) -> Tried {
    model::check(move || scene(FOR_EVER, &Deaths::default()))
}

#[test]
fn a_sender_may_die_anywhere() {
    each_death("sender, full", sender_dies::<Crashing>(FULL));
    each_death("sender, around", sender_dies::<Crashing>(AROUND));
}

#[test]
fn a_sender_of_two_lines_may_die_anywhere() {
    each_death("sender, two lines", sender_dies::<Crashing>(TWO_LINES));
}

#[test]
fn a_batch_is_there_or_it_is_not() {
    each_death("sender, batch", batch_dies(ROOM));
}

#[test]
fn a_receiver_may_die_anywhere() {
    each_death("receiver, full", receiver_dies::<Crashing>(FULL));
    each_death("receiver, around", receiver_dies::<Crashing>(AT_THE_BEGINNING));
}

#[test]
fn among_buggy_peers_a_sender_may_die_anywhere() {
    each_death("buggy, sender, around", sender_dies::<Buggy>(AROUND));
}

#[test]
fn who_lives_gets_each_record() {
    for shape in [FULL, TWO_LINES, AROUND] {
        println!("spsc, nobody dies: {:?}", lives(sender_dies::<Crashing>(shape)));
    }
    println!("spsc, a batch, nobody dies: {:?}", lives(batch_dies(ROOM)));
}

#[test]
fn who_comes_and_goes_is_not_missed() {
    println!("spsc, comes and goes: {:?}", model::check(comes_and_goes));
    println!("spsc, receiver leaves: {:?}", model::check(receiver_leaves));
}

#[test]
fn who_leaves_is_followed() {
    println!("spsc, a sender follows: {:?}", model::check(sender_is_followed));
    println!("spsc, a receiver follows: {:?}", model::check(receiver_is_followed));
    println!("spsc, a sender is named: {:?}", model::check(sender_is_named));
}

/// Wrong verdict: two send. Where the kernel certifies the death, whose word comes after the last
/// store, this is `a_sender_may_die_anywhere`.
#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("Causality violation", || {
        model::check(death_is_guessed);
    });
}

/// Somebody comes and takes the sender's role. So does another, who came before: one of them has
/// it, and the other one sees that he lives.
fn two_come() {
    let (table, queue) = table_and_queue(2);
    become_process(SENDER);
    let me = table.join().unwrap();
    let theirs = queue.clone();
    let comes = spawn(move || {
        become_process(HEIR);
        let me = table.join().unwrap();
        let sender = theirs.sender(&me);
        let has_it = sender.is_ok();
        std::mem::forget((sender, me));
        has_it
    });
    let sender = queue.sender(&me);
    let has_it = sender.is_ok();
    std::mem::forget(sender);
    assert!(comes.join().unwrap() != has_it, "both have it, or nobody");
}

/// Somebody who has just come is named by another, who came before.
fn one_is_named() {
    let (table, queue) = table_and_queue(2);
    become_process(SENDER);
    let namer = table.join().unwrap();
    become_process(RECEIVER);
    let mut receiver = queue.receiver(&table.join().unwrap()).unwrap();
    let (told, names) = (Arc::new(AtomicU32::new(0)), queue.clone());
    let tells = told.clone();
    let comes = spawn(move || {
        become_process(HEIR);
        let member = table.join().unwrap();
        tells.store(member.id().to_bits(), Release);
        std::mem::forget(member);
    });
    let naming = spawn(move || {
        become_process(SENDER);
        if let Some(id) = ParticipantId::from_bits(told.load(Acquire)) {
            names.set_sender(&namer, id).unwrap();
        }
    });
    assert!(receiver.try_recv().expect("it lives").is_none());
    comes.join().unwrap();
    naming.join().unwrap();
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["shm-mq/src/spsc/"], || {
        model::check(used_anew);
        model::check(comes_and_goes);
        model::check(sender_is_followed);
        model::check(receiver_is_followed);
        model::check(two_come);
        model::check(one_is_named);
        model::check(just_come);
    });
    assert_eq!(found, 8, "a header, a position, and a role: taken, left, looked at, asked for");
}

/// A mistake in a queue of two lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The end is put behind a record after it has been published.
    EndTooLate,
    /// The sender says how far it is only when it leaves.
    ToldTooLate,
    /// With a record that is about to be read, the next one is released too.
    ReleasedTooEarly,
    /// The heir asks how far the sender was, and does not walk on from there.
    NoWalk,
}

/// The protocol of `spsc` without anything around it, for the bugs.
struct Small {
    headers: [AtomicU64; 2],
    words: [Word; 2],
    sent: AtomicU64,
    released: AtomicU64,
}
// SAFETY: modelled words and atomics.
unsafe impl shm_core::ShmSync for Small {}

const SMALL_RECORDS: u64 = 3;

impl Small {
    fn send(&self, bug: Bug, from: u64) {
        for number in from..SMALL_RECORDS {
            let [at, end] = [number, number + 1].map(|number| (number % 2) as usize);
            while self.released.load(Acquire) < number {
                yield_now();
            }
            if bug != Bug::ToldTooLate {
                self.sent.store(number, Relaxed);
            }
            // SAFETY: it has been released, unless there is a bug.
            unsafe { self.words[at].set(number) };
            if bug != Bug::EndTooLate {
                self.headers[end].store(0, Relaxed);
            }
            self.headers[at].store(number + 1, Release);
            if bug == Bug::EndTooLate {
                self.headers[end].store(0, Relaxed);
            }
        }
        self.sent.store(SMALL_RECORDS, Relaxed);
    }

    /// How many a dead one has sent.
    fn walk(&self, bug: Bug) -> u64 {
        let mut number = self.sent.load(Relaxed);
        while bug != Bug::NoWalk && self.headers[(number % 2) as usize].load(Acquire) == number + 1
        {
            number += 1;
        }
        number
    }

    fn receive(&self, bug: Bug) {
        for number in 0..SMALL_RECORDS {
            let at = (number % 2) as usize;
            loop {
                match self.headers[at].load(Acquire) {
                    0 => yield_now(),
                    header if header == number + 1 => break,
                    _ => panic!("no such record"),
                }
            }
            if bug == Bug::ReleasedTooEarly {
                self.released.store(number + 2, Release);
            }
            // SAFETY: it is published, unless there is a bug.
            assert_eq!(unsafe { self.words[at].get() }, number, "torn");
            self.released.store(number + 1, Release);
        }
    }
}

/// The sender may die at any access; its heir goes on.
fn small(bug: Bug) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let [one, other, sent, released] = [0; 4].map(AtomicU64::new);
        let words = [Word::new(), Word::new()];
        let small = Small { headers: [one, other], words, sent, released };
        // SAFETY: nobody else has the mapping.
        let small = unsafe { Mapped::place(&Mapping::heap(4096), 0, small) }.unwrap();
        let (theirs, deaths) = (small.clone(), deaths.clone());
        let sending = spawn(move || {
            if model::mortal(fuel, || theirs.send(bug, 0)).is_none() {
                deaths.died();
                theirs.send(bug, theirs.walk(bug));
            }
        });
        small.receive(bug);
        sending.join().unwrap();
    }
}

#[test]
fn planted_bugs_are_found() {
    each_death("planted, none", small(Bug::None));
    for (bug, reason) in [
        (Bug::EndTooLate, "no such record"),
        (Bug::ToldTooLate, "Causality violation"),
        (Bug::ReleasedTooEarly, "Causality violation"),
        (Bug::NoWalk, "Causality violation"),
    ] {
        model::finds(reason, || {
            model::every_death_bounded(Some(1), small(bug));
        });
    }
}
