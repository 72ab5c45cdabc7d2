//! `broadcast` under the explorer: whichever publishers and subscribers die where, each record that
//! was acknowledged reaches each subscriber that lives, whole and in its turn, or is told to have
//! been missed; a successor goes on with the next number; the dead hold nobody back, and who stands
//! still only who waits for him; and lies do no harm.
//!
//! A check is the last process.
#![cfg(shm_explore)]
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::broadcast::{
    AttachError, Broadcast, BroadcastConfig, Kind, Lapped, Publisher, Record, RecvError, Start,
    SubscribeError, Subscriber, Subscription,
};
use shm_mq::stream::OneMapping;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::ops::Range;
use std::sync::Arc;

const SEATS: u32 = 4;
const ROWS: u32 = 2;
/// Two words, so that one can be torn.
const BYTES: usize = 16;

/// Said of the record that a process begins with, and of so many that were missed; of one that was
/// published or received, its number.
const BEGINS: u64 = 100;
const MISSED: u64 = 200;

fn record(number: u64) -> [u8; BYTES] {
    [number as u8 + 1; BYTES]
}

struct World {
    mapping: Arc<Mapping>,
    at: u64,
    kind: Kind,
    broadcast: Broadcast,
    members: Vec<Arc<Member>>,
}

/// A broadcast in which so many records are there.
fn world(kind: Kind, cells: u32, earlier: u64) -> World {
    let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, BYTES as u64, ROWS) };
    let at = Table::bytes_for(SEATS + 2).next_multiple_of(128);
    let mapping = Mapping::heap((at + Broadcast::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS + 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let broadcast = unsafe { Broadcast::create(&mapping, at, &config) }.unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members: Vec<_> = (1..=SEATS).map(join).collect();
    kernel::become_process(kernel::BUILDER);
    let mut publisher = broadcast.publisher(&members[SEATS as usize - 1]).unwrap();
    for number in 0..earlier {
        assert!(publisher.try_publish(&record(number)).unwrap());
    }
    drop(publisher);
    World { mapping, at, kind, broadcast, members }
}

impl World {
    fn member(&self, me: &Me) -> &Arc<Member> {
        &self.members[me.pid() as usize - 1]
    }

    /// The role is given to process 1, so that its death is known.
    fn given(self) -> World {
        let last = &self.members[SEATS as usize - 1];
        self.broadcast.set_publisher(last, self.members[0].id()).unwrap();
        self
    }

    fn publisher(&self, me: &Me) -> Publisher {
        (1..me.pid()).for_each(dies);
        let publisher = self.broadcast.publisher(self.member(me)).unwrap();
        me.say(BEGINS + publisher.published());
        publisher
    }

    fn subscriber(&self, me: &Me, start: Start) -> Option<Subscriber> {
        let subscription = Subscription { start, lapped: Lapped::Oldest };
        match self.broadcast.subscribe(self.member(me), subscription) {
            Ok(subscriber) => {
                me.say(BEGINS + subscriber.position());
                Some(subscriber)
            }
            Err(SubscribeError::Full { rows: ROWS }) => None,
            Err(other) => panic!("{other}"),
        }
    }

    /// When all have ended: the publishers went on one after the other, subscribers got all, and
    /// the dead hold nobody back.
    fn all_is_well(&self, end: &End<'_>, publishers: Range<usize>, subscribers: Range<usize>) {
        let me = self.members.last().unwrap();
        let mut publisher = match self.broadcast.publisher(me) {
            Ok(publisher) => publisher,
            // Of a living one that waits still.
            Err(AttachError::Taken { .. }) => return,
            Err(other) => panic!("{other}"),
        };
        let told: Vec<&[u64]> = publishers.map(|each| end.said(each)).collect();
        let told = told.concat();
        let acknowledged = told.iter().filter(|said| **said < BEGINS).map(|said| said + 1).max();
        let (least, found) = (acknowledged.unwrap_or(0), publisher.published());
        assert!(found >= least, "{least} were acknowledged, {found} are there");
        for each in subscribers {
            let said = end.said(each);
            let mut next = said.first().map_or(0, |begins| begins - BEGINS);
            for said in said.iter().skip(1) {
                match *said {
                    missed if missed > MISSED => next += missed - MISSED,
                    number => {
                        assert_eq!(number, next, "lost, or received twice");
                        next += 1;
                    }
                }
            }
            assert!(next <= found, "received before it was there");
        }
        // Who ended without dying has given its row back; who waits still has it.
        let rows = self.broadcast.status().subscribers;
        let is_dead = |id| me.table().liveness(id) == Liveness::Dead;
        let is_held = rows.iter().any(|row| !is_dead(row.id));
        for number in found..found + 3 {
            assert!(publisher.try_publish(&record(number)).unwrap() || is_held, "held back");
        }
    }
}

/// Waits until it has: no log grows by it, as by asking again and again.
fn dies(pid: u32) {
    while !kernel::is_dead(pid) {
        kernel::sleep_until_dead(pid, false);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("broadcast", name).alone_at_most(2000).states_at_most(15_000)
}

/// Publishes up to this number, waiting for room; says each.
fn publishes(world: &World, up_to: u64) -> Process<'_> {
    Process::new("publisher", move |me| {
        let mut publisher = world.publisher(me);
        while publisher.published() < up_to {
            let number = publisher.published();
            publisher.publish(&record(number), None).unwrap();
            me.say(number);
        }
    })
}

/// Publishes so many, for which there is room or not.
fn tries_to_publish(world: &World, count: u64) -> Process<'_> {
    let tries = Process::new("publisher", move |me: &Me| {
        let mut publisher = world.publisher(me);
        for _ in 0..count {
            let number = publisher.published();
            let is_published = publisher.try_publish(&record(number)).unwrap();
            assert!(is_published || world.kind == Kind::Lossless);
            if is_published {
                me.say(number);
            }
        }
    });
    tries.never_waits()
}

/// Looks for a record; whether there was one, or an end.
fn looks(me: &Me, subscriber: &mut Subscriber) -> bool {
    let at = subscriber.position();
    let whole = |found: Record<'_>| assert_eq!(*found, record(at), "torn");
    match subscriber.try_recv().map(|found| found.map(whole)) {
        Ok(Some(())) => me.say(at),
        Ok(None) => return false,
        Err(RecvError::Missed { records }) => {
            assert_eq!(subscriber.position(), at + records);
            me.say(MISSED + records);
        }
        Err(RecvError::Detached | RecvError::PublisherDied) => {}
        Err(other) => panic!("{other}"),
    }
    true
}

fn tries_to_receive(world: &World, start: Start, tries: u32) -> Process<'_> {
    let tries = Process::new("subscriber", move |me: &Me| {
        let Some(mut subscriber) = world.subscriber(me, start) else { return };
        for _ in 0..tries {
            looks(me, &mut subscriber);
        }
    });
    tries.never_waits()
}

/// Receives all up to this number, waiting for it, whoever publishes; says each.
fn receives(world: &World, up_to: u64) -> Process<'_> {
    Process::new("subscriber", move |me| {
        let Some(mut subscriber) = world.subscriber(me, Start::Oldest) else { return };
        while subscriber.position() < up_to {
            let at = subscriber.position();
            match subscriber.recv(None) {
                Ok(found) => assert_eq!(*found, record(at), "torn"),
                Err(RecvError::Detached | RecvError::PublisherDied) => return,
                Err(other) => panic!("{other}"),
            }
            me.say(at);
        }
    })
}

/// The case with these processes: the publishers, then the subscribers; each of which may die.
fn dying<'a>(
    name: &str,
    world: &'a World,
    publishers: Vec<Process<'a>>,
    subscribers: Vec<Process<'a>>,
    (deaths, preemptions): (u32, u32),
) {
    let count = (publishers.len(), publishers.len() + subscribers.len());
    let name = format!("{:?}, {name}, {deaths} deaths", world.kind);
    let mut scenario = scenario(&name).deaths(deaths).preemptions_at_most(preemptions);
    for process in publishers.into_iter().chain(subscribers) {
        scenario = scenario.process(if deaths > 0 { process.mortal() } else { process });
    }
    let check = |end: &End<'_>| world.all_is_well(end, 0..count.0, count.0..count.1);
    scenario.check(check).may_all_wait(check).explore();
}

#[test]
fn a_lossy_publisher_waits_for_nobody() {
    for cells in [1, 2] {
        let world = world(Kind::Lossy, cells, 1).given();
        let subscribers = vec![
            tries_to_receive(&world, Start::Oldest, 3),
            tries_to_receive(&world, Start::Next, 2),
        ];
        let name = format!("two read {cells} cells");
        dying(&name, &world, vec![tries_to_publish(&world, 3)], subscribers, (2, 1));
    }
    let world = world(Kind::Lossy, 2, 0).given();
    let subscribers = vec![tries_to_receive(&world, Start::Next, 4)];
    dying("one reads", &world, vec![tries_to_publish(&world, 4)], subscribers, (0, 6));
}

#[test]
fn a_lossless_publisher_writes_over_nothing_unread() {
    for (cells, earlier) in [(1, 1), (2, 2)] {
        let world = world(Kind::Lossless, cells, earlier).given();
        let subscribers = vec![
            tries_to_receive(&world, Start::Oldest, 2),
            tries_to_receive(&world, Start::Newest, 2),
        ];
        let name = format!("two read {cells} cells");
        dying(&name, &world, vec![tries_to_publish(&world, 2)], subscribers, (2, 1));
    }
    let world = world(Kind::Lossless, 2, 2).given();
    let subscribers = vec![tries_to_receive(&world, Start::Oldest, 3)];
    dying("one reads", &world, vec![tries_to_publish(&world, 3)], subscribers, (0, 6));
}

#[test]
fn publishers_may_die_anywhere_and_are_followed() {
    let world = world(Kind::Lossless, 1, 0).given();
    let two = || vec![publishes(&world, 2), publishes(&world, 2)];
    dying("two publish", &world, two(), vec![receives(&world, 2)], (2, 0));
    let world = world_of_lossy().given();
    let two = vec![tries_to_publish_next(&world, 2), tries_to_publish_next(&world, 2)];
    dying("two publish", &world, two, vec![tries_to_receive(&world, Start::Next, 3)], (2, 1));
}

fn world_of_lossy() -> World {
    world(Kind::Lossy, 1, 0)
}

/// As one that comes after another one, whose death it waits for.
fn tries_to_publish_next(world: &World, count: u64) -> Process<'_> {
    Process::new("publisher", move |me: &Me| {
        let mut publisher = world.publisher(me);
        for _ in 0..count {
            let number = publisher.published();
            assert!(publisher.try_publish(&record(number)).unwrap());
            me.say(number);
        }
    })
}

#[test]
fn who_waits_is_woken_or_hears_of_a_death() {
    for cells in [1, 2] {
        let world = world(Kind::Lossless, cells, 0).given();
        let up_to = u64::from(cells) + 1;
        let two = vec![receives(&world, up_to), receives(&world, up_to)];
        dying(
            &format!("all wait, {cells} cells"),
            &world,
            vec![publishes(&world, up_to)],
            two,
            (2, 0),
        );
    }
}

/// Three come to two rows, one of whom cleans up, while the publisher goes around.
#[test]
fn rows_are_found_again() {
    let world = world(Kind::Lossless, 1, 1).given();
    let comes = |start| {
        let world = &world;
        let comes = Process::new("comes and goes", move |me: &Me| {
            for _ in 0..2 {
                drop(world.subscriber(me, start));
                world.broadcast.reap(world.member(me));
            }
        });
        comes.never_waits()
    };
    let (start, other) = (Start::Oldest, Start::Next);
    let scenario = scenario("two come and go").deaths(3).preemptions_at_most(1);
    let scenario = scenario.process(tries_to_publish(&world, 2).mortal());
    let scenario = scenario.process(comes(start).mortal()).process(comes(other).mortal());
    scenario.check(|end| world.all_is_well(end, 0..1, 0..0)).explore();
}

/// The newest value, while others are set, whoever dies.
#[test]
fn the_latest_value_is_whole() {
    let world = world(Kind::Lossy, 2, 1).given();
    let reads = Process::new("reader", |me: &Me| {
        let mut latest = world.broadcast.latest().unwrap();
        let mut least = 0;
        for _ in 0..2 {
            let version = latest.version().unwrap();
            assert!(version >= least, "what was published is no more");
            least = version;
            if let Ok(found) = latest.read() {
                let (number, bytes) = found.expect("there was one");
                assert_eq!(bytes, record(number), "torn");
                me.say(number);
            }
        }
    });
    let check = |end: &End<'_>| {
        assert!(end.said(1).is_sorted(), "back in time");
        world.all_is_well(end, 0..1, 0..0);
        assert!(world.broadcast.latest().unwrap().read().is_ok());
    };
    let scenario = scenario("the latest value").deaths(1).preemptions_at_most(2);
    let scenario = scenario.process(tries_to_publish(&world, 3).mortal());
    scenario.process(reads.never_waits()).check(check).explore();
}

/// A broadcast whose publisher has died amid a record, and one of whose subscribers has died.
fn inherited(kind: Kind) -> World {
    let world = world(kind, 2, 1);
    let dies = |pid, acts: &dyn Fn(&Arc<Member>)| {
        kernel::become_process(pid);
        let member = world.members[0].table().join().unwrap();
        acts(&member);
        std::mem::forget(member);
        kernel::end_process(pid);
        kernel::become_process(kernel::BUILDER);
    };
    dies(50, &|member| {
        let subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };
        let mut subscriber = world.broadcast.subscribe(member, subscription).unwrap();
        drop(subscriber.try_recv().unwrap());
        std::mem::forget(subscriber);
    });
    dies(51, &|member| {
        let mut publisher = world.broadcast.publisher(member).unwrap();
        assert!(publisher.try_publish(&record(1)).unwrap());
        std::mem::forget(publisher.reserve(BYTES).unwrap());
        std::mem::forget(publisher);
    });
    world
}

/// Each side is told lies: about roles, rows, marks, lengths, positions, bytes, and the head.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    for kind in [Kind::Lossless, Kind::Lossy] {
        let world = inherited(kind);
        let attach =
            || Some(Broadcast::attach(&world.mapping, world.at, 0).ok()?.with_peers::<T>());
        let sets = Process::new("publisher", |me: &Me| {
            let Some(broadcast) = attach() else { return };
            let Ok(mut publisher) = broadcast.publisher(world.member(me)) else { return };
            for _ in 0..2 {
                let number = publisher.published();
                let _ = publisher.try_publish(&[number as u8; BYTES]);
            }
        });
        let gets = Process::new("subscriber", |me: &Me| {
            let Some(broadcast) = attach() else { return };
            let subscription = Subscription { start: Start::Oldest, lapped: Lapped::Newest };
            let Ok(mut subscriber) = broadcast.subscribe(world.member(me), subscription) else {
                return;
            };
            for _ in 0..3 {
                if let Ok(Some(found)) = subscriber.try_recv() {
                    assert!(found.len() <= BYTES, "longer than its cell");
                }
            }
            if let Some(mut latest) = broadcast.latest() {
                let _ = latest.read();
            }
        });
        let scenario = scenario(&format!("{kind:?}, {level} peers, {lies} lies")).lies(lies);
        let scenario = scenario.process(sets.never_waits()).process(gets.never_waits());
        scenario.preemptions_at_most(1).explore();
    }
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// Planted bug, in short: who subscribes says where it begins, and does not ask how far the
/// publisher goes, which has looked at the rows before.
#[test]
fn finds_a_row_that_was_not_seen() {
    let mapping = Mapping::heap(32);
    let words = MappedSlice::<AtomicU64>::new(&mapping, 0, 4).unwrap();
    let [row, horizon, cell] = [0, 1, 2];
    let goes_up = |with_horizon: bool| {
        let words = &words;
        Process::new("publisher", move |_: &Me| {
            if with_horizon {
                words[horizon].store(1, Relaxed);
            }
            if words[row].load(Relaxed) == 0 {
                words[cell].store(1, Relaxed);
            }
        })
    };
    let comes = |with_horizon: bool| {
        let words = &words;
        Process::new("subscriber", move |_: &Me| {
            words[row].store(1, Relaxed);
            if with_horizon && words[horizon].load(Relaxed) == 1 {
                return;
            }
            assert_eq!(words[cell].load(Relaxed), 0, "written over");
            assert_eq!(words[cell].load(Relaxed), 0, "written over");
        })
    };
    let case = |with_horizon| {
        let scenario = scenario("a row in short").process(goes_up(with_horizon));
        scenario.process(comes(with_horizon)).explore()
    };
    case(true);
    finds("written over", || case(false));
}

/// Planted bug, in short: a reader that looks at the mark once.
#[test]
fn finds_a_record_that_was_written_over() {
    let mapping = Mapping::heap(32);
    let words = MappedSlice::<AtomicU64>::new(&mapping, 0, 3).unwrap();
    let (mark, one, other) = (0, 1, 2);
    let sets = || {
        Process::new("publisher", |_: &Me| {
            words[mark].store(1, Relaxed);
            words[one].store(1, Relaxed);
            words[other].store(1, Relaxed);
            words[mark].store(2, Relaxed);
        })
    };
    let reads = |looks_twice: bool| {
        let words = &words;
        Process::new("subscriber", move |_: &Me| {
            let seen = words[mark].load(Relaxed);
            let both = [words[one].load(Relaxed), words[other].load(Relaxed)];
            if seen != 1 && (!looks_twice || words[mark].load(Relaxed) == seen) {
                assert_eq!(both[0], both[1], "torn");
            }
        })
    };
    scenario("a mark in short").process(sets()).process(reads(true)).explore();
    finds("torn", || scenario("a mark in short").process(sets()).process(reads(false)).explore());
}
