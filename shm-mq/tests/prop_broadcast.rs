//! Any sequence of operations of a publisher and subscribers, of their coming and going and dying,
//! agrees with a plain list of records; and what a set waits for is ready when it says so. At each
//! level of trust, lossless and lossy.
#![cfg(not(any(shm_loom, shm_explore)))]
mod broadcast_common;
use broadcast_common::{broadcast, dies};
use proptest::prelude::*;
use shm_core::participants::{Member, Table};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::broadcast::{
    Broadcast, BroadcastConfig, Kind, Lapped, PublishError, Publisher, RecvError, Start,
    SubscribeError, Subscriber, Subscription,
};
use shm_mq::stream::OneMapping;
use shm_mq::waitset::Source;
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use std::sync::Arc;

const RECORD_BYTES: usize = 60;
const ROWS: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Publish(usize),
    /// Written in place; published, or not.
    Reserve(usize, bool),
    Subscribe(Start, Lapped),
    Receive(usize),
    PutBack(usize),
    Leave(usize),
    Die(usize),
    /// The publisher leaves, and another one comes.
    NextPublisher,
    /// It dies at a record, and another one comes.
    PublisherDies,
    Latest,
}

fn op() -> impl Strategy<Value = Op> {
    let start = prop_oneof![Just(Start::Next), Just(Start::Newest), Just(Start::Oldest)];
    let lapped = prop_oneof![Just(Lapped::Oldest), Just(Lapped::Newest)];
    prop_oneof![
        9 => (0..RECORD_BYTES + 3).prop_map(Op::Publish),
        2 => (0..RECORD_BYTES, any::<bool>()).prop_map(|(len, sent)| Op::Reserve(len, sent)),
        3 => (start, lapped).prop_map(|(start, lapped)| Op::Subscribe(start, lapped)),
        9 => (0..3_usize).prop_map(Op::Receive),
        1 => (0..3_usize).prop_map(Op::PutBack),
        1 => (0..3_usize).prop_map(Op::Leave),
        1 => (0..3_usize).prop_map(Op::Die),
        1 => Just(Op::NextPublisher),
        1 => Just(Op::PublisherDies),
        1 => Just(Op::Latest),
    ]
}

/// A subscriber, and what it should do.
struct Reader<T: OneMapping> {
    member: Arc<Member>,
    handle: Subscriber<T>,
    lapped: Lapped,
    position: u64,
    missed: u64,
}

struct World<T: OneMapping> {
    table: Table,
    broadcast: Broadcast<T>,
    publisher: Option<(Arc<Member>, Publisher<T>)>,
    kind: Kind,
    cells: u64,
    /// All records that were published.
    records: Vec<Vec<u8>>,
    /// A record was begun, so that the one in its cell is gone.
    is_begun: bool,
    readers: Vec<Reader<T>>,
}

impl<T: OneMapping> World<T> {
    fn new(kind: Kind, cells: u32) -> World<T> {
        let config =
            BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, RECORD_BYTES as u64, ROWS) };
        let (table, broadcast) = broadcast(&config);
        let (broadcast, records, readers) = (broadcast.with_peers(), Vec::new(), Vec::new());
        let (publisher, cells, is_begun) = (None, u64::from(cells), false);
        let mut world =
            World { table, broadcast, publisher, kind, cells, records, is_begun, readers };
        world.take_role();
        world
    }

    fn take_role(&mut self) {
        let member = self.table.join().unwrap();
        let publisher = self.broadcast.publisher(&member).unwrap();
        assert_eq!(publisher.published(), self.published());
        self.publisher = Some((member, publisher));
    }

    fn publisher(&mut self) -> &mut Publisher<T> {
        &mut self.publisher.as_mut().unwrap().1
    }

    fn published(&self) -> u64 {
        self.records.len() as u64
    }

    fn is_lossy(&self) -> bool {
        self.kind == Kind::Lossy
    }

    /// The oldest record that is in a cell.
    fn oldest(&self) -> u64 {
        let published = self.published();
        let gone = u64::from(self.is_begun && published >= self.cells);
        published.saturating_sub(self.cells) + gone
    }

    fn has_room(&self) -> bool {
        let slowest = self.readers.iter().map(|reader| reader.position).min();
        self.is_lossy() || slowest.is_none_or(|slowest| self.published() < slowest + self.cells)
    }

    fn apply(&mut self, op: &Op) {
        let (count, reader) = (self.readers.len(), |which: usize, count| which % count);
        match *op {
            Op::Publish(len) => self.publish(len),
            Op::Reserve(len, is_sent) => self.reserve(len, is_sent),
            Op::Subscribe(start, lapped) => self.subscribe(start, lapped),
            Op::Latest => self.latest(),
            Op::NextPublisher => {
                self.publisher = None;
                self.without_publisher(&RecvError::Detached);
                self.take_role();
            }
            Op::PublisherDies => {
                let has_room = self.has_room();
                let (member, mut publisher) = self.publisher.take().unwrap();
                let draft = publisher.reserve(7).unwrap();
                assert_eq!(draft.is_some(), has_room);
                std::mem::forget(draft);
                self.is_begun |= has_room && !self.is_lossy() && T::IN_PLACE;
                dies(publisher, member);
                self.without_publisher(&RecvError::PublisherDied);
                self.take_role();
            }
            _ if count == 0 => {}
            Op::Receive(which) => self.receive(reader(which, count)),
            Op::PutBack(which) => {
                let reader = &mut self.readers[reader(which, count)];
                if let Ok(Some(record)) = reader.handle.try_recv() {
                    record.put_back();
                }
                // It may have been told that it missed some.
                (reader.position, reader.missed) =
                    (reader.handle.position(), reader.handle.missed());
            }
            Op::Leave(which) => drop(self.readers.remove(reader(which, count))),
            Op::Die(which) => {
                let Reader { member, handle, .. } = self.readers.remove(reader(which, count));
                dies(handle, member);
            }
        }
        self.is_as_expected();
    }

    fn publish(&mut self, len: usize) {
        let (record, has_room) = (text(self.published() + 1, len), self.has_room());
        let published = self.publisher().try_publish(&record);
        if len > RECORD_BYTES {
            assert_eq!(published, Err(PublishError::TooLong { len, largest: RECORD_BYTES }));
            return;
        }
        assert_eq!(published, Ok(has_room));
        if has_room {
            self.records.push(record);
            self.is_begun = false;
        }
    }

    fn reserve(&mut self, len: usize, is_sent: bool) {
        let (record, has_room) = (text(self.published() + 1, len), self.has_room());
        let draft = self.publisher().reserve(len).unwrap();
        assert_eq!(draft.is_some(), has_room);
        let Some(mut draft) = draft else { return };
        draft.copy_from_slice(&record);
        if is_sent {
            draft.commit();
            self.records.push(record);
        } else {
            drop(draft);
        }
        self.is_begun = !is_sent && !self.is_lossy() && T::IN_PLACE || self.is_begun && !is_sent;
    }

    fn subscribe(&mut self, start: Start, lapped: Lapped) {
        let member = self.table.join().unwrap();
        let subscribed = self.broadcast.subscribe(&member, Subscription { start, lapped });
        if self.readers.len() == ROWS as usize {
            assert_eq!(subscribed.unwrap_err(), SubscribeError::Full { rows: ROWS });
            return;
        }
        let handle = subscribed.unwrap();
        let (position, published, oldest) = (handle.position(), self.published(), self.oldest());
        match start {
            Start::Next => assert_eq!(position, published),
            // The newest is being written over.
            Start::Newest if self.cells == 1 && !self.is_lossy() => assert!(position <= published),
            Start::Newest => assert_eq!(position, published.saturating_sub(1)),
            Start::Oldest if self.is_lossy() => assert_eq!(position, oldest),
            Start::Oldest => {
                let most =
                    published.saturating_sub(self.cells - self.cells.min(stride(self.cells)));
                assert!((oldest..=most.max(oldest)).contains(&position), "{position}");
            }
        }
        self.readers.push(Reader { member, handle, lapped, position, missed: 0 });
    }

    fn receive(&mut self, which: usize) {
        let (published, oldest, lowest) =
            (self.published(), self.oldest(), self.published().saturating_sub(self.cells));
        let reader = &mut self.readers[which];
        let at = reader.position;
        match reader.handle.try_recv() {
            Ok(Some(record)) => {
                assert_eq!(record.number(), at);
                assert_eq!(*record, self.records[at as usize]);
                reader.position += 1;
            }
            Ok(None) => assert_eq!(at, published),
            Err(RecvError::Missed { records }) => {
                assert!(self.kind == Kind::Lossy && at < lowest);
                let to = match reader.lapped {
                    Lapped::Oldest => oldest,
                    Lapped::Newest => published - 1,
                };
                assert_eq!(records, to - at);
                (reader.position, reader.missed) = (to, reader.missed + records);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Who has read all hears of the end, who has not, does not.
    fn without_publisher(&mut self, end: &RecvError) {
        let published = self.published();
        for reader in &mut self.readers {
            if reader.position == published {
                assert_eq!(&reader.handle.try_recv().unwrap_err(), end);
            }
        }
    }

    fn latest(&self) {
        let Some(mut latest) = self.broadcast.latest() else {
            assert!(!self.is_lossy());
            return;
        };
        let newest = self.published().checked_sub(1);
        let expected = newest.map(|newest| (newest, &self.records[newest as usize][..]));
        assert_eq!(latest.read().unwrap(), expected);
    }

    fn is_as_expected(&mut self) {
        let (status, published) = (self.broadcast.status(), self.published());
        assert_eq!(status.published, published);
        let has_room = self.has_room();
        assert_eq!(self.publisher().space().is_ready(), has_room);
        for reader in &mut self.readers {
            let its = status.subscribers.iter().find(|its| its.id == reader.member.id()).unwrap();
            let lag = published - reader.position;
            assert_eq!(reader.handle.is_ready(), lag > 0);
            assert_eq!((its.position, its.lag, its.missed), (reader.position, lag, reader.missed));
            assert_eq!((reader.handle.lag(), its.is_struck), (lag, false));
        }
    }
}

fn stride(cells: u64) -> u64 {
    if cells < 16 { 1 } else { cells / 8 }
}

fn run<T: OneMapping>(kind: Kind, cells: u32, ops: &[Op]) {
    let mut world = World::<T>::new(kind, cells);
    ops.iter().for_each(|op| world.apply(op));
    // The dead do not matter: all rows can be had.
    world.readers.clear();
    world.broadcast.reap(&world.publisher.as_ref().unwrap().0);
    assert_eq!(world.broadcast.status().subscribers, []);
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn a_lossless_one_agrees(cells in 1..20_u32, ops in ops()) {
        run::<Crashing>(Kind::Lossless, cells, &ops);
    }

    #[test]
    fn a_lossy_one_agrees(cells in 1..20_u32, ops in ops()) {
        run::<Crashing>(Kind::Lossy, cells, &ops);
    }

    #[test]
    fn among_buggy_peers_it_agrees(cells in 1..6_u32, is_lossy in any::<bool>(), ops in ops()) {
        run::<Buggy>(if is_lossy { Kind::Lossy } else { Kind::Lossless }, cells, &ops);
    }
}
