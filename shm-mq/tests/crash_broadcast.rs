//! A broadcast outlives who uses it: a record is there as a whole, for all, or not at all; a
//! publisher's successor goes on with the next number; a dead subscriber holds nobody back, and its
//! row is free. Whoever dies, be it at taking the place of one that died before.
#![cfg(not(any(shm_loom, shm_explore)))]
mod broadcast_common;
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use broadcast_common::dies;
use crash_common::{said, shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::broadcast::{
    Broadcast, BroadcastConfig, Kind, Lapped, PublishError, Publisher, RecvError, Start,
    Subscriber, Subscription,
};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CELLS: u64 = 4;
const ROWS: u32 = 4;
const SEATS: u32 = 6;
const AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const FROM_THE_OLDEST: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };

/// In the notes: records that were published.
const PUBLISHED: usize = 0;

fn config(kind: Kind) -> BroadcastConfig {
    BroadcastConfig { kind, ..BroadcastConfig::lossy(CELLS as u32, 16, ROWS) }
}

fn record(number: u64) -> [u8; 16] {
    [number as u8 + 1; 16]
}

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    me: Arc<Member>,
    kind: Kind,
    /// Subscribed from the beginning.
    reader: Option<Subscriber>,
}

impl World {
    fn empty(kind: Kind) -> World {
        let (_, mapping) = shared(AT + Broadcast::bytes_for(&config(kind)));
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let me = table.join().unwrap();
        let mut world = World { mapping, table, me, kind, reader: None };
        world.reader = Some(world.create().subscribe(&world.me, FROM_THE_OLDEST).unwrap());
        world
    }

    fn create(&self) -> Broadcast {
        // SAFETY: nobody has been told of the place.
        unsafe { Broadcast::create(&self.mapping, AT, &config(self.kind)) }.unwrap()
    }

    fn broadcast(&self) -> Broadcast {
        Broadcast::attach(&self.mapping, AT, 0).unwrap()
    }

    /// Publishes up to this number, as one that comes and goes.
    fn publish(&self, me: &Arc<Member>, up_to: u64) -> Result<(), String> {
        let mut publisher = self.broadcast().publisher(me).map_err(said)?;
        while publisher.published() < up_to {
            let number = publisher.published();
            if !publisher.try_publish(&record(number)).map_err(said)? {
                return Err(format!("record {number} is held back by the dead"));
            }
        }
        Ok(())
    }

    /// So many records are there.
    fn with(kind: Kind, published: u64) -> World {
        let mut world = World::empty(kind);
        for number in 0..published {
            world.publish(&world.me, number + 1).unwrap();
            if kind == Kind::Lossless {
                world.reads_all(number + 1).unwrap();
            }
        }
        world
    }

    /// Who subscribed from the beginning gets all up to this number, or is told otherwise.
    fn reads_all(&mut self, published: u64) -> Result<(), String> {
        let reader = self.reader.as_mut().unwrap();
        while reader.position() < published {
            let at = reader.position();
            match reader.try_recv() {
                Ok(Some(found)) if *found == record(at) => {}
                Err(RecvError::Missed { .. }) if self.kind == Kind::Lossy => {}
                other => return Err(format!("at {at} of {published}: {other:?}")),
            }
        }
        match reader.try_recv() {
            Ok(None) | Err(RecvError::Detached | RecvError::PublisherDied) => Ok(()),
            other => Err(format!("behind all {published}: {other:?}")),
        }
    }

    /// Somebody takes the role; as many were published as the dead one was told, or one more; and
    /// goes around the cells, held back by nobody.
    fn goes_on(&mut self, least: u64, most: u64) -> Result<(), String> {
        let found = self.broadcast().publisher(&self.me).map_err(said)?.published();
        if !(least..=most).contains(&found) {
            return Err(format!("{found} were published, and not {least} to {most}"));
        }
        self.reads_all(found)?;
        for number in found..found + CELLS + 1 {
            self.publish(&self.me, number + 1)?;
            self.reads_all(number + 1)?;
        }
        let me = self.me.id();
        self.broadcast().reap(&self.me);
        let left: Vec<_> = self.broadcast().status().subscribers;
        if left.iter().any(|subscriber| subscriber.id != me) {
            return Err(format!("a row of the dead: {left:?}"));
        }
        Ok(())
    }
}

/// What is killed.
struct Doomed {
    member: Arc<Member>,
    publisher: Option<Publisher>,
    subscriber: Option<Subscriber>,
}

impl Doomed {
    fn publisher(&mut self) -> &mut Publisher {
        self.publisher.as_mut().unwrap()
    }

    fn subscriber(&mut self) -> &mut Subscriber {
        self.subscriber.as_mut().unwrap()
    }
}

struct AtWork {
    name: &'static str,
    operations: &'static [&'static str],
    kind: Kind,
    /// Records that are there before.
    before: u64,
    /// And that it publishes at most.
    publishes: u64,
    world: fn(Kind, u64) -> World,
    prepare: fn(&World, &mut Doomed, &Notes),
    operate: fn(&World, &mut Doomed, &Notes),
}

const AT_WORK: AtWork = AtWork {
    name: "",
    operations: &[],
    kind: Kind::Lossless,
    before: 0,
    publishes: 0,
    world: World::with,
    prepare: |_, _, _| (),
    operate: |_, _, _| (),
};

impl Scenario for AtWork {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        let kind = if self.kind == Kind::Lossy { "lossy" } else { "lossless" };
        format!("broadcast, {kind}, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)(self.kind, self.before)
    }

    fn prepare(&self, world: &World, notes: &Notes) -> Doomed {
        let member = world.table.join().unwrap();
        let mut doomed = Doomed { member, publisher: None, subscriber: None };
        (self.prepare)(world, &mut doomed, notes);
        doomed
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    /// The broadcast alone: the table names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let least = self.before + notes.get(PUBLISHED);
        let most = if end == End::Killed { least + 1 } else { least };
        // And one of who recovered, and died at that.
        world.goes_on(least, (most + 1).min(self.before + self.publishes + 1))
    }

    /// Somebody comes, reads the newest record, and goes.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let (broadcast, me) = (world.broadcast(), world.table.join().unwrap());
        Some(Box::new(move || {
            let from = Subscription { start: Start::Newest, lapped: Lapped::Newest };
            let mut reader = broadcast.subscribe(&me, from).map_err(said)?;
            let at = reader.position();
            match reader.try_recv().map_err(said)? {
                Some(found) if *found == record(at) => Ok(()),
                other => Err(format!("torn, or not there: {other:?}")),
            }
        }))
    }

    /// Somebody takes the role, if it is the doomed one's, and publishes; frees the rows; and
    /// subscribes.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let broadcast = world.broadcast();
        // That this may die too, the tests of participants show.
        world.table.reap(|_| ());
        let member = world.table.join().unwrap();
        Some(Box::new(move || {
            let mut publisher = broadcast.publisher(&member).map_err(said)?;
            if self.publishes > 0 {
                let number = publisher.published();
                publisher.try_publish(&record(number)).map_err(said)?;
            }
            broadcast.reap(&member);
            broadcast.subscribe(&member, Subscription::default()).map_err(said)?;
            Ok(())
        }))
    }

    fn forked(&self, _: &World, doomed: &mut Doomed) -> Result<(), String> {
        let published = doomed.publisher.as_mut().map(|it| it.try_publish(b"forked"));
        let received = doomed.subscriber.as_mut().map(|it| it.try_recv().map(|_| ()));
        let waited = doomed.subscriber.as_mut().map(|it| it.wait_for_publisher(soon()));
        if published.is_some_and(|it| it != Err(PublishError::Forked))
            || received.into_iter().chain(waited).any(|it| it != Err(RecvError::Forked))
        {
            return Err("works with its parent's handles".to_owned());
        }
        (doomed.publisher, doomed.subscriber) = (None, None);
        doomed.member.check_fork().err().map(drop).ok_or_else(|| "it has a seat".to_owned())
    }
}

/// At so many points that all runs take some seconds; a deep run goes through all.
fn run(scenario: &AtWork) -> Run<'_, AtWork> {
    Run::new(scenario).points(40)
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(30))
}

fn publishes(kind: Kind) -> AtWork {
    AtWork {
        name: "publish",
        operations: &[
            "shm_mq::broadcast::Publisher::try_publish",
            "shm_mq::broadcast::Publisher::publish",
            "shm_mq::broadcast::Publisher::reserve",
            "shm_mq::broadcast::Draft::commit",
        ],
        kind,
        before: 3,
        publishes: 3,
        prepare: |world, doomed, _| {
            doomed.publisher = Some(world.broadcast().publisher(&doomed.member).unwrap());
        },
        operate: |_, doomed, notes| {
            let publisher = doomed.publisher();
            assert!(publisher.try_publish(&record(3)).unwrap());
            notes.count(PUBLISHED);
            drop(publisher.reserve(5).unwrap());
            let mut draft = publisher.reserve(16).unwrap().unwrap();
            draft.copy_from_slice(&record(4));
            draft.commit();
            notes.count(PUBLISHED);
            publisher.publish(&record(5), soon()).unwrap();
            notes.count(PUBLISHED);
        },
        ..AT_WORK
    }
}

#[test]
fn a_publisher_may_die_anywhere() {
    let scenario = publishes(Kind::Lossless);
    run(&scenario).kill().passes();
    run(&scenario).stop().passes();
    run(&scenario).nested().passes();
    run(&scenario).fork().passes();
}

#[test]
fn a_lossy_publisher_may_die_anywhere() {
    let scenario = publishes(Kind::Lossy);
    run(&scenario).kill().passes();
    run(&scenario).stop().passes();
    run(&scenario).nested().passes();
}

#[test]
fn a_publisher_that_goes_may_die_anywhere() {
    let scenario = AtWork {
        name: "publisher goes",
        operations: &["shm_mq::broadcast::publisher::Cursor::drop"],
        operate: |_, doomed, _| doomed.publisher = None,
        publishes: 0,
        ..publishes(Kind::Lossless)
    };
    run(&scenario).kill().passes();
}

fn reads() -> AtWork {
    AtWork {
        name: "subscribe, read, go",
        operations: &[
            "shm_mq::broadcast::Broadcast::subscribe",
            "shm_mq::broadcast::Subscriber::try_recv",
            "shm_mq::broadcast::Subscriber::recv",
            "shm_mq::broadcast::Held::drop",
            "shm_mq::broadcast::subscriber::Cursor::drop",
        ],
        before: CELLS,
        prepare: |world, doomed, _| {
            let subscribed = world.broadcast().subscribe(&doomed.member, FROM_THE_OLDEST);
            doomed.subscriber = Some(subscribed.unwrap());
        },
        operate: |world, doomed, _| {
            let other = world.broadcast().subscribe(&doomed.member, FROM_THE_OLDEST).unwrap();
            let subscriber = doomed.subscriber();
            let at = subscriber.position();
            let found = subscriber.try_recv().unwrap().unwrap();
            assert_eq!(*found, record(at));
            found.put_back();
            assert_eq!(*subscriber.recv(soon()).unwrap(), record(at));
            assert_eq!(*subscriber.recv(None).unwrap(), record(at + 1));
            drop(other);
        },
        ..AT_WORK
    }
}

#[test]
fn a_subscriber_may_die_anywhere() {
    let scenario = reads();
    run(&scenario).kill().passes();
    run(&scenario).stop().passes();
    run(&scenario).fork().passes();
    run(&scenario).nested().passes();
}

#[test]
fn one_that_is_lapped_may_die_anywhere() {
    let scenario = AtWork {
        name: "read, lapped",
        operations: &["shm_mq::broadcast::Subscriber::try_recv"],
        kind: Kind::Lossy,
        before: 2,
        publishes: CELLS + 1,
        prepare: |world, doomed, notes| {
            let subscribed = world.broadcast().subscribe(&doomed.member, FROM_THE_OLDEST);
            doomed.subscriber = Some(subscribed.unwrap());
            world.publish(&doomed.member, 3 + CELLS).unwrap();
            (0..=CELLS).for_each(|_| notes.count(PUBLISHED));
        },
        operate: |_, doomed, _| {
            let subscriber = doomed.subscriber();
            assert_eq!(subscriber.try_recv().unwrap_err(), RecvError::Missed { records: 3 });
            assert_eq!(*subscriber.try_recv().unwrap().unwrap(), record(3));
        },
        ..AT_WORK
    };
    run(&scenario).kill().passes();
}

/// A publisher has died at a record, and a subscriber before it read any: all cells are full.
fn with_two_dead(kind: Kind, published: u64) -> World {
    let mut world = World::with(kind, 0);
    let member = world.table.join().unwrap();
    dies(world.broadcast().subscribe(&member, FROM_THE_OLDEST).unwrap(), member);
    for number in 0..published {
        let member = world.table.join().unwrap();
        world.publish(&member, number + 1).unwrap();
        world.reads_all(number + 1).unwrap();
    }
    let member = world.table.join().unwrap();
    dies(world.broadcast().publisher(&member).unwrap(), member);
    world
}

#[test]
fn who_comes_after_the_dead_may_die_too() {
    let scenario = AtWork {
        name: "attach, look past the dead",
        operations: &[
            "shm_mq::broadcast::Broadcast::set_publisher",
            "shm_mq::broadcast::Publisher::attach",
            "shm_mq::broadcast::Publisher::try_publish",
        ],
        before: CELLS,
        publishes: 1,
        world: with_two_dead,
        operate: |world, doomed, notes| {
            let me = &doomed.member;
            world.broadcast().set_publisher(me, me.id()).unwrap();
            let mut publisher = Publisher::attach(&world.mapping, AT, 0, me).unwrap();
            assert!(publisher.try_publish(&record(CELLS)).unwrap());
            notes.count(PUBLISHED);
            doomed.publisher = Some(publisher);
        },
        ..AT_WORK
    };
    run(&scenario).kill().passes();
    run(&scenario).nested().passes();
    let scenario = AtWork {
        name: "reap",
        operations: &["shm_mq::broadcast::Broadcast::reap"],
        before: CELLS,
        world: with_two_dead,
        operate: |world, doomed, _| {
            world.broadcast().reap(&doomed.member);
        },
        ..AT_WORK
    };
    // It asks the kernel about the dead, whose answers differ in length.
    run(&scenario).allow_missed(500).kill().passes();
}

#[test]
fn a_creator_may_die_anywhere() {
    crash_common::Makes {
        name: "broadcast, create",
        operations: &["shm_mq::broadcast::Broadcast::create"],
        at: 0,
        make: |mapping| {
            // SAFETY: nobody has been told of the place.
            unsafe { Broadcast::create(mapping, 0, &config(Kind::Lossless)) }.unwrap();
        },
        check: |mapping| {
            let broadcast = Broadcast::attach(mapping, 0, 0).map_err(said)?;
            let status = broadcast.status();
            if status == shm_mq::broadcast::Status::default() {
                Ok(())
            } else {
                Err(format!("not new: {status:?}"))
            }
        },
    }
    .may_die_anywhere();
}
