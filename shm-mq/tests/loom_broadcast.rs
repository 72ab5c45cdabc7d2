//! `broadcast` under every interleaving and with a death at every access: each subscriber gets each
//! record once, in order and whole, or is told that it missed it; who takes over from a dead
//! publisher goes on with the next number; a dead subscriber holds nobody back.
//!
//! Process 1 lives. A record is two words, a cell four. All are at one level of trust, for their
//! words are other objects of loom's.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering, fence, yield_now};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::broadcast::{
    AttachError, Broadcast, BroadcastConfig, Kind, Lapped, Publisher, Record, RecvError, Start,
    Subscriber, Subscription,
};
use shm_mq::stream::OneMapping;
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Life, thread::JoinHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

const BYTES: usize = 16;
const CELL_WORDS: u64 = 4;
const LIVING: fn() -> Life = Life::endless;

fn record(number: u64) -> [u8; BYTES] {
    [number as u8 + 1; BYTES]
}

/// A broadcast, and seats for processes 1 to 3, who have joined, and for one that joins later.
#[derive(Clone)]
struct World<T: OneMapping> {
    table: Table,
    broadcast: Broadcast<T>,
    members: [Arc<Member>; 3],
    /// The mark of the last cell.
    last_mark: Mapped<Word>,
    /// Records that who published them lived to see published.
    acknowledged: Arc<Counter>,
}

fn world<T: OneMapping>(kind: Kind, cells: u32, earlier: u64) -> World<T> {
    let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, BYTES as u64, 2) };
    let at = Table::bytes_for(4).next_multiple_of(128);
    let mapping = Mapping::heap((at + Broadcast::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let broadcast = unsafe { Broadcast::create(&mapping, at, &config) }.unwrap().with_peers();
    let members = [2, 3, 1].map(|pid| {
        become_process(pid);
        table.join().unwrap()
    });
    let [two, three, one] = members;
    let members = [one, two, three];
    let acknowledged = Arc::new(Counter::new(0));
    let cell_at = at + Broadcast::bytes_for(&config) - CELL_WORDS * size_of::<Word>() as u64;
    let last_mark = Mapped::new(&mapping, cell_at).unwrap();
    let world = World { table, broadcast, members, last_mark, acknowledged };
    if earlier > 0 {
        become_process(2);
        assert_eq!(world.publishes(2, earlier), earlier);
        become_process(1);
    }
    world
}

/// What a subscriber came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    received: u64,
    missed: u64,
}

impl<T: OneMapping> World<T> {
    fn member(&self, pid: u32) -> &Arc<Member> {
        &self.members[pid as usize - 1]
    }

    fn subscribes(&self, pid: u32, start: Start) -> Subscriber<T> {
        let subscription = Subscription { start, lapped: Lapped::Oldest };
        self.broadcast.subscribe(self.member(pid), subscription).unwrap()
    }

    /// Publishes so many, for which there is room or not: how many.
    fn publishes(&self, pid: u32, count: u64) -> u64 {
        let mut publisher = self.broadcast.publisher(self.member(pid)).unwrap();
        (0..count).filter(|_| self.publishes_one(&mut publisher)).count() as u64
    }

    fn publishes_one(&self, publisher: &mut Publisher<T>) -> bool {
        let number = publisher.published();
        let is_published = publisher.try_publish(&record(number)).unwrap();
        if is_published {
            self.acknowledged.fetch_max(number + 1, Relaxed);
        }
        is_published
    }

    /// Runs `act` as process `pid`, for as long as it lives.
    fn process(
        &self,
        pid: u32,
        life: Life,
        act: impl FnOnce(&World<T>) + Send + 'static,
    ) -> JoinHandle<()> {
        let world = self.clone();
        model::thread::spawn(move || {
            let id = become_process(pid);
            if life.run(|| act(&world)).is_none() {
                process_ends(&world.table, id);
            }
        })
    }

    /// What process 1 finds when the others have ended: it takes over, what was acknowledged is
    /// there, and nobody who is no more holds it back.
    fn goes_on(&self, publishes: u64) {
        let mut publisher = self.broadcast.publisher(self.member(1)).unwrap();
        let (found, acknowledged) = (publisher.published(), self.acknowledged.load(Relaxed));
        assert!(found == acknowledged || found == acknowledged + 1, "one is lost, or comes twice");
        assert!(
            (0..publishes).all(|_| self.publishes_one(&mut publisher)),
            "held back by the dead"
        );
    }
}

/// Receives, in so many tries.
fn receives<T: OneMapping>(subscriber: &mut Subscriber<T>, tries: u64, tally: &mut Tally) {
    for _ in 0..tries {
        let at = subscriber.position();
        let whole = |found: Record<'_, T>| {
            assert_eq!(found.number(), at);
            assert_eq!(*found, record(at), "torn");
        };
        match subscriber.try_recv().map(|found| found.map(whole)) {
            Ok(Some(())) => tally.received += 1,
            Ok(None) | Err(RecvError::Detached | RecvError::PublisherDied) => {}
            Err(RecvError::Missed { records }) => {
                assert!(records > 0 && subscriber.position() == at + records);
                tally.missed += records;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// What a scene is about: so many cells, records that are there before, and that are published.
#[derive(Clone, Copy)]
struct Shape {
    kind: Kind,
    cells: u32,
    earlier: u64,
    count: u64,
    /// So often the subscriber looks meanwhile.
    tries: u64,
}

const OVERWRITTEN: Shape = Shape { kind: Kind::Lossy, cells: 1, earlier: 1, count: 1, tries: 1 };
const LOSSLESS: Shape = Shape { kind: Kind::Lossless, cells: 1, earlier: 0, count: 2, tries: 2 };

/// One publishes, and may die; the other one reads while it does, and its successor's records too.
fn publisher_dies<T: OneMapping>(shape: Shape, [life]: [Life; 1]) {
    let world = world::<T>(shape.kind, shape.cells, shape.earlier);
    let mut subscriber = world.subscribes(1, Start::Oldest);
    let begins = subscriber.position();
    let publishing = world.process(2, life, move |world| {
        world.publishes(2, shape.count);
    });
    let mut tally = Tally::default();
    receives(&mut subscriber, shape.tries, &mut tally);
    publishing.join().unwrap();
    // One more, where there is room.
    let mut publisher = world.broadcast.publisher(world.member(1)).unwrap();
    let (found, acknowledged) = (publisher.published(), world.acknowledged.load(Relaxed));
    assert!(found == acknowledged || found == acknowledged + 1, "one is lost, or comes twice");
    world.publishes_one(&mut publisher);
    receives(&mut subscriber, 4, &mut tally);
    assert_eq!(subscriber.position(), publisher.published());
    assert_eq!(begins + tally.received + tally.missed, publisher.published());
    assert!(shape.kind == Kind::Lossy || tally.missed == 0);
}

/// One comes, reads from the oldest record on, and goes; or dies. The other one publishes.
fn subscriber_dies(kind: Kind, cells: u32, earlier: u64, [life]: [Life; 1]) {
    let world = world::<Crashing>(kind, cells, earlier);
    let reading = world.process(3, life, |world| {
        let mut subscriber = world.subscribes(3, Start::Oldest);
        receives(&mut subscriber, 1, &mut Tally::default());
    });
    world.publishes(1, 2);
    reading.join().unwrap();
    world.goes_on(u64::from(cells) + 1);
    assert!(world.broadcast.status().subscribers.len() <= 1);
    world.broadcast.reap(world.member(1));
    assert_eq!(world.broadcast.status().subscribers, []);
}

/// Both die.
fn both_die([one, other]: [Life; 2]) {
    let world = world::<Crashing>(Kind::Lossless, 1, 1);
    let both = [
        world.process(2, one, |world| {
            world.publishes(2, 1);
        }),
        world.process(3, other, |world| {
            let mut subscriber = world.subscribes(3, Start::Oldest);
            receives(&mut subscriber, 1, &mut Tally::default());
        }),
    ];
    both.into_iter().for_each(|thread| thread.join().unwrap());
    world.goes_on(2);
}

/// The publisher waits for room, and the subscriber for records: each wakes the other, or dies.
fn both_wait(cells: u32, dies_first: bool, life: Life) {
    let world = world::<Crashing>(Kind::Lossless, cells, 0);
    let count = u64::from(cells) + 1;
    if dies_first {
        become_process(3);
        let mut reader = world.subscribes(3, Start::Next);
        become_process(1);
        let reading = world.process(3, life, move |_| {
            for number in 0..count {
                assert_eq!(*reader.recv(None).unwrap(), record(number), "torn");
            }
        });
        let mut publisher = world.broadcast.publisher(world.member(1)).unwrap();
        for number in 0..count {
            publisher.publish(&record(number), None).unwrap();
        }
        // It may read still.
        std::mem::forget(publisher);
        reading.join().unwrap();
        return;
    }
    let mut reader = world.subscribes(1, Start::Next);
    world.broadcast.set_publisher(world.member(1), world.member(2).id()).unwrap();
    let publishing = world.process(2, life, move |world| {
        let mut publisher = world.broadcast.publisher(world.member(2)).unwrap();
        for number in 0..count {
            publisher.publish(&record(number), None).unwrap();
        }
    });
    for number in 0..count {
        match reader.recv(None) {
            Ok(found) => assert_eq!(*found, record(number), "torn"),
            Err(RecvError::PublisherDied) => break,
            Err(other) => panic!("{other}"),
        }
    }
    publishing.join().unwrap();
}

/// One dies after so many accesses, and another one comes after it and says how many there are,
/// while a third one subscribes.
fn is_followed(fuel: u32) {
    let world = world::<Crashing>(Kind::Lossless, 2, 0);
    let subscribing = world.process(1, LIVING(), |world| {
        let seen = world.broadcast.status().published;
        let mut tally = Tally::default();
        receives(&mut world.subscribes(1, Start::Oldest), 1, &mut tally);
        assert!(tally.received >= seen, "one was published, and is not there");
    });
    let id = become_process(2);
    if model::mortal(fuel, || world.publishes(2, 1)).is_none() {
        process_ends(&world.table, id);
    }
    become_process(3);
    drop(world.broadcast.publisher(world.member(3)).unwrap());
    subscribing.join().unwrap();
}

/// So many accesses to the first record's being there, before its publisher says so.
const THERE: u32 = 17;
const FOR_EVER: u32 = u32::MAX;

/// One looks at a record, leaves it, and goes.
fn puts_back() {
    let world = world::<Crashing>(Kind::Lossless, 1, 1);
    let reading = world.process(3, LIVING(), |world| {
        let mut subscriber = world.subscribes(3, Start::Oldest);
        if let Ok(Some(found)) = subscriber.try_recv() {
            assert_eq!(*found, record(found.number()), "torn");
            found.put_back();
        }
    });
    world.publishes(1, 1);
    reading.join().unwrap();
}

/// Two want the role: who has it after the other one goes on behind what that one did.
fn takes_over() {
    let world = world::<Crashing>(Kind::Lossless, 1, 0);
    let tries = |world: &World<Crashing>, pid| {
        let Ok(mut publisher) = world.broadcast.publisher(world.member(pid)) else { return };
        assert_eq!(publisher.published(), world.acknowledged.load(Relaxed), "one comes twice");
        assert!(world.publishes_one(&mut publisher));
    };
    let publishing = world.process(2, LIVING(), move |world| tries(world, 2));
    tries(&world, 1);
    publishing.join().unwrap();
    assert!(world.broadcast.status().published >= 1);
}

/// Two want the role, one of whom has just come to the table: the other one sees that it lives.
fn just_come_and_publishes() {
    let world = world::<Crashing>(Kind::Lossy, 1, 0);
    let (theirs, has_it) = (world.clone(), Arc::new(Counter::new(0)));
    let its = has_it.clone();
    let comes = model::thread::spawn(move || {
        become_process(4);
        let me = theirs.table.join().unwrap();
        let publisher = theirs.broadcast.publisher(&me);
        its.fetch_add(publisher.is_ok().into(), Relaxed);
        std::mem::forget((publisher, me));
    });
    let publisher = world.broadcast.publisher(world.member(1));
    has_it.fetch_add(publisher.is_ok().into(), Relaxed);
    comes.join().unwrap();
    assert_eq!(has_it.load(Relaxed), 1, "two have the role, or nobody");
}

/// A publisher has come and gone, and lives. Another one comes, and may die before it wakes
/// anybody: who waits for a publisher hears of it.
fn waits_for_the_next([life]: [Life; 1]) {
    let world = world::<Crashing>(Kind::Lossy, 1, 0);
    let mut reader = world.subscribes(1, Start::Next);
    become_process(2);
    let publisher = world.broadcast.publisher(world.member(2)).unwrap();
    become_process(1);
    assert!(reader.try_recv().unwrap().is_none(), "it is watched from now on");
    become_process(2);
    drop(publisher);
    become_process(1);
    let takes = |world: &World<Crashing>, pid| {
        std::mem::forget(world.broadcast.publisher(world.member(pid)));
    };
    let comes = world.process(3, life, move |world| takes(world, 3));
    let theirs = world.clone();
    let comes_then = model::thread::spawn(move || {
        comes.join().unwrap();
        // Where it had not taken the role yet, nobody has it.
        if theirs.broadcast.status().publisher.is_none() {
            become_process(2);
            takes(&theirs, 2);
        }
    });
    let waited = reader.wait_for_publisher(None);
    assert!(matches!(waited, Ok(()) | Err(RecvError::PublisherDied)), "{waited:?}");
    comes_then.join().unwrap();
}

/// One takes the role, finds nonsense, and leaves it again: who looked meanwhile is told.
fn is_refused() {
    let world = world::<Crashing>(Kind::Lossy, 1, 1);
    let mut reader = world.subscribes(1, Start::Next);
    // Record 0 is being written, which was there already.
    world.last_mark.atomic().store(1, Ordering::Relaxed);
    world.broadcast.set_publisher(world.member(1), world.member(2).id()).unwrap();
    let comes = world.process(2, LIVING(), |world| {
        let refused = world.broadcast.publisher(world.member(2)).map(drop);
        assert_eq!(refused, Err(AttachError::Corrupt));
    });
    assert_eq!(reader.recv(None).map(drop), Err(RecvError::Detached));
    comes.join().unwrap();
}

/// A publisher that goes around a ring of one, while another one subscribes.
fn comes_meanwhile(start: Start) {
    let world = world::<Crashing>(Kind::Lossless, 1, 0);
    let publishing = world.process(2, LIVING(), |world| {
        world.publishes(2, 2);
    });
    let mut reader = world.subscribes(1, start);
    receives(&mut reader, 2, &mut Tally::default());
    publishing.join().unwrap();
    receives(&mut reader, 2, &mut Tally::default());
    assert_eq!(reader.position(), world.broadcast.status().published);
}

/// Who has just come to the table subscribes; who looks for the dead sees that it lives.
fn just_come() {
    let world = world::<Crashing>(Kind::Lossless, 1, 0);
    let theirs = world.clone();
    let comes = model::thread::spawn(move || {
        become_process(4);
        let me = theirs.table.join().unwrap();
        std::mem::forget(theirs.broadcast.subscribe(&me, Subscription::default()).unwrap());
        std::mem::forget(me);
    });
    assert_eq!(world.broadcast.reap(world.member(1)), 0, "it lives");
    comes.join().unwrap();
}

/// The newest value is read while another one is set.
fn latest([life]: [Life; 1]) {
    let world = world::<Crashing>(Kind::Lossy, 2, 2);
    let setting = world.process(2, life, |world| {
        world.publishes(2, 1);
    });
    let mut latest = world.broadcast.latest().unwrap();
    if let Ok(found) = latest.read() {
        let (number, bytes) = found.expect("there was one");
        assert!(number >= 1 && bytes == record(number), "torn");
    }
    setting.join().unwrap();
    let (number, bytes) = latest.read().unwrap().expect("a value is kept");
    assert!(number + 1 >= world.acknowledged.load(Relaxed) && bytes == record(number));
}

fn each_death(name: &str, scene: impl Fn([Life; 1]) + Clone + Send + Sync + 'static) {
    // One preemption less than elsewhere.
    let bound = model::preemption_bound() - 1;
    println!("broadcast, {name}: {:?}", model::every_death_of(bound, scene));
}

#[test]
fn a_lossy_publisher_may_die_anywhere() {
    each_death("lossy", |lives| publisher_dies::<Crashing>(OVERWRITTEN, lives));
    if is_deep() {
        let shape = Shape { earlier: 0, count: 2, tries: 2, ..OVERWRITTEN };
        each_death("lossy, two", move |lives| publisher_dies::<Crashing>(shape, lives));
        let shape = Shape { cells: 2, earlier: 2, ..OVERWRITTEN };
        each_death("lossy, two cells", move |lives| publisher_dies::<Buggy>(shape, lives));
    }
}

#[test]
fn a_lossless_publisher_may_die_anywhere() {
    each_death("lossless", |lives| publisher_dies::<Crashing>(LOSSLESS, lives));
    if is_deep() {
        each_death("buggy peers", |lives| publisher_dies::<Buggy>(LOSSLESS, lives));
    }
}

#[test]
fn a_subscriber_may_die_anywhere() {
    each_death("subscriber", |lives| subscriber_dies(Kind::Lossless, 1, 1, lives));
    if is_deep() {
        each_death("subscriber, two cells", |lives| subscriber_dies(Kind::Lossless, 2, 2, lives));
        each_death("lossy subscriber", |lives| subscriber_dies(Kind::Lossy, 1, 1, lives));
    }
}

/// In an ordinary run one of the two, and both where a run is deep.
#[test]
fn both_may_die_anywhere() {
    let bound = model::preemption_bound() - 2;
    if is_deep() {
        println!("broadcast, two deaths: {:?}", model::every_two_deaths(bound, both_die));
    } else {
        println!("broadcast, one of two dies: {:?}", model::every_death_of(bound, both_die));
    }
}

/// Interrupted where they wait; in a deep run elsewhere too, once.
#[test]
fn who_waits_is_woken_or_hears_of_the_death() {
    let bound = model::preemption_bound() - 2;
    for dies_first in [false, true] {
        let scene = move |[life]: [Life; 1]| both_wait(1, dies_first, life);
        let name = if dies_first { "subscriber" } else { "publisher" };
        println!("broadcast, the {name} dies: {:?}", model::every_death_of(bound, scene));
    }
}

#[test]
fn who_waits_for_a_publisher_hears_of_the_next() {
    let bound = model::preemption_bound() - 1;
    let tried = model::every_death_of(bound, waits_for_the_next);
    println!("broadcast, waits for the next: {tried:?}");
}

#[test]
fn who_sleeps_on_one_that_is_refused_is_woken() {
    println!("broadcast, is refused: {:?}", model::check(is_refused));
}

#[test]
fn who_comes_meanwhile_gets_what_is_there() {
    let bound = Some(model::preemption_bound() - 1);
    for start in [Start::Next, Start::Newest, Start::Oldest] {
        let tried = model::check_bounded(bound, move || comes_meanwhile(start));
        println!("broadcast, comes meanwhile, {start:?}: {tried:?}");
    }
    for fuel in [THERE - 1, THERE, THERE + 1, FOR_EVER] {
        let tried = model::check_bounded(bound, move || is_followed(fuel));
        println!("broadcast, is followed, {fuel}: {tried:?}");
    }
    println!("broadcast, takes over: {:?}", model::check(takes_over));
    let tried = model::check(just_come_and_publishes);
    println!("broadcast, takes the role, and has just come: {tried:?}");
}

#[test]
fn the_latest_value_is_whole() {
    each_death("latest of two", latest);
}

/// With fences the words that stand beside loom's might order what the code does not.
#[test]
fn nothing_rests_on_the_shadow() {
    model::without_shadow(|| {
        println!("broadcast, bare, cell: {:?}", model::check(|| small(Bug::None)));
        let bound = model::preemption_bound();
        let tried = model::check_bounded(Some(bound), || comes_meanwhile(Start::Oldest));
        println!("broadcast, bare, comes meanwhile: {tried:?}");
    });
}

#[test]
fn every_ordering_matters() {
    // The fence makes the new owner's position come after the last one's, in an order in which
    // loom has each two stores to a word as it ran them.
    let but = ["claim_row: fence(Ordering::Acquire)"];
    let found = model::every_ordering_matters_but(&["shm-mq/src/broadcast/"], &but, || {
        let one = Some(1);
        model::check_bounded(one, || publisher_dies::<Crashing>(OVERWRITTEN, [LIVING()]));
        model::check_bounded(one, || publisher_dies::<Crashing>(LOSSLESS, [LIVING()]));
        model::check_bounded(one, || comes_meanwhile(Start::Next));
        model::check_bounded(one, puts_back);
        model::check_bounded(one, || is_followed(THERE));
        model::check_bounded(one, || is_followed(FOR_EVER));
        model::check_bounded(one, || subscriber_dies(Kind::Lossless, 1, 1, [LIVING()]));
        model::check(just_come);
    });
    assert_eq!(found, 14);
}

/// A mistake in a cell that is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The mark says nothing of a record that is being written.
    NoMark,
    /// The reader does not look at the mark again.
    NoSecondLook,
    /// The second look may come before the words.
    NoReaderFence,
    /// The words may come before the mark.
    NoWriterFence,
}

/// A cell without anything around it, for the bugs.
struct Small {
    mark: AtomicU64,
    words: [Word; 2],
}
// SAFETY: modelled words and atomics.
unsafe impl shm_core::ShmSync for Small {}

impl Small {
    fn publish(&self, bug: Bug, number: u64) {
        if bug != Bug::NoMark {
            self.mark.store(2 * number + 1, Ordering::Relaxed);
        }
        if bug != Bug::NoWriterFence {
            fence(Ordering::Release);
        }
        self.words.iter().for_each(|word| word.store(number));
        self.mark.store(2 * number + 2, Ordering::Release);
    }

    fn read(&self, bug: Bug) {
        let mark = self.mark.load(Ordering::Acquire);
        if mark == 0 || mark % 2 == 1 {
            return;
        }
        let words = [self.words[0].load(), self.words[1].load()];
        if bug != Bug::NoReaderFence {
            fence(Ordering::Acquire);
        }
        if bug == Bug::NoSecondLook || self.mark.load(Ordering::Relaxed) == mark {
            assert_eq!(words, [mark / 2 - 1; 2], "torn");
        }
    }
}

fn small(bug: Bug) {
    let words = [Word::new(), Word::new()];
    let small = Small { mark: AtomicU64::new(0), words };
    // SAFETY: nobody else has the mapping.
    let small = unsafe { Mapped::place(&Mapping::heap(4096), 0, small) }.unwrap();
    small.publish(bug, 1);
    let theirs = small.clone();
    let publishing = model::thread::spawn(move || theirs.publish(bug, 2));
    small.read(bug);
    yield_now();
    publishing.join().unwrap();
}

#[test]
fn planted_bugs_are_found() {
    println!("broadcast, planted, none: {:?}", model::check(|| small(Bug::None)));
    for bug in [Bug::NoMark, Bug::NoSecondLook, Bug::NoReaderFence, Bug::NoWriterFence] {
        model::finds("torn", || {
            model::check(move || small(bug));
        });
    }
}
