//! Any sequence of what strangers do around a publisher agrees with a plain list of records: each
//! subscriber gets each record once and in order, or is told exactly how many it missed, which of a
//! lossless broadcast only those do that were expelled; who leaves has one end; and there is room
//! unless somebody who lives, and has begun, has not read.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams")]
mod liar;
use liar::Liar;
use proptest::prelude::*;
use shm_mq::broadcast::{
    BroadcastConfig, ConnectError, Ended, Guest, Invitation, Kind, Lapped, Limits, RecvError,
    Start, StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_mq::waitset::Source;
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::time::Instant;

const ROOM: usize = 3;
const PUBLISHER: u64 = 0x7368_6d63_7075_6202;
const SUBSCRIBER: u64 = 0x7368_6d63_7375_6202;

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit(Start, Lapped),
    /// One that never says where it begins.
    AdmitSilent,
    /// The first of these goes away.
    DropSilent,
    Publish(usize),
    /// The subscriber with this number, modulo how many there are.
    Receive(usize),
    Leave(usize),
    Expel(usize),
    Ends,
}

fn op() -> impl Strategy<Value = Op> {
    let start = prop_oneof![Just(Start::Next), Just(Start::Newest), Just(Start::Oldest)];
    let lapped = prop_oneof![Just(Lapped::Oldest), Just(Lapped::Newest)];
    prop_oneof![
        1 => (start, lapped).prop_map(|(start, lapped)| Op::Admit(start, lapped)),
        1 => Just(Op::AdmitSilent),
        1 => Just(Op::DropSilent),
        8 => (0..57_usize).prop_map(Op::Publish),
        8 => any::<usize>().prop_map(Op::Receive),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => any::<usize>().prop_map(Op::Expel),
        1 => Just(Op::Ends),
    ]
}

struct Plain {
    subscriber: StrangeSubscriber,
    position: u64,
    missed: u64,
    lapped: Lapped,
    is_expelled: bool,
}

struct World {
    kind: Kind,
    cells: u64,
    publisher: Option<StrangePublisher<u64>>,
    invitation: Invitation,
    records: Vec<Vec<u8>>,
    plain: BTreeMap<u64, Plain>,
    silent: BTreeMap<u64, Liar>,
    /// Who left, or hung up, and is not told of yet: how far it was.
    left: BTreeMap<u64, (Why, u64)>,
    admitted: u64,
}

impl World {
    fn new(kind: Kind, cells: u32) -> World {
        let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, 56, ROOM as u32) };
        let (publisher, invitation) = StrangePublisher::new(&config).unwrap();
        World {
            kind,
            cells: cells.into(),
            publisher: Some(publisher),
            invitation,
            records: Vec::new(),
            plain: BTreeMap::new(),
            silent: BTreeMap::new(),
            left: BTreeMap::new(),
            admitted: 0,
        }
    }

    fn published(&self) -> u64 {
        self.records.len() as u64
    }

    fn oldest(&self) -> u64 {
        self.published().saturating_sub(self.cells)
    }

    fn publisher(&mut self) -> &mut StrangePublisher<u64> {
        self.publisher.as_mut().expect("it lives")
    }

    fn admit(&mut self, start: Start, lapped: Lapped) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let how = Subscription { start, lapped };
        let connect = move || StrangeSubscriber::connect(theirs, Limits::default(), how, 0, None);
        let connecting = std::thread::spawn(connect);
        let guest = self.invitation.meet(ours, None).unwrap();
        let subscriber = connecting.join().unwrap().unwrap();
        let position = match start {
            Start::Next => self.published(),
            Start::Newest => self.published().saturating_sub(1),
            Start::Oldest => self.oldest(),
        };
        assert_eq!(subscriber.position(), position);
        if let Some(key) = self.takes_in(guest) {
            let plain = Plain { subscriber, position, missed: 0, lapped, is_expelled: false };
            self.plain.insert(key, plain);
        }
    }

    fn admit_silent(&mut self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let greeting = std::thread::spawn(move || {
            let (own, words) = liar::half(SUBSCRIBER, 0, 56);
            liar::liar(theirs, &own, words, SUBSCRIBER, PUBLISHER)
        });
        let guest = self.invitation.meet(ours, None).unwrap();
        let silent = greeting.join().unwrap();
        if let Some(key) = self.takes_in(guest) {
            self.silent.insert(key, silent);
        }
    }

    /// Those that hold a place.
    fn living(&self) -> usize {
        let open = self.plain.values().filter(|plain| !plain.is_expelled);
        open.count() + self.silent.len()
    }

    /// The key of the guest, if there is room. It looks who has left before it refuses.
    fn takes_in(&mut self, guest: Guest) -> Option<u64> {
        let (key, has_room) = (self.admitted, self.living() < ROOM);
        match self.publisher().admit(key, guest) {
            Ok(()) => assert!(has_room),
            Err((back, _)) => assert!(back == key && !has_room),
        }
        self.admitted += u64::from(has_room);
        has_room.then_some(key)
    }

    fn chosen(&mut self, who: usize) -> Option<u64> {
        let many = self.plain.len().max(1);
        self.plain.keys().nth(who % many).copied()
    }

    fn publish(&mut self, len: usize) {
        let (number, oldest) =
            (self.published(), (self.published() + 1).saturating_sub(self.cells));
        let holds = |plain: &Plain| !plain.is_expelled && plain.position < oldest;
        let has_room = self.kind == Kind::Lossy || !self.plain.values().any(holds);
        let record = text(number, len);
        assert_eq!(self.publisher().try_publish(&record), Ok(has_room));
        if has_room {
            self.records.push(record);
        }
        assert_eq!(self.publisher().published(), self.published());
    }

    fn receive(&mut self, key: u64) {
        let (published, oldest) = (self.published(), self.oldest());
        let is_over = self.publisher.is_none();
        let plain = self.plain.get_mut(&key).unwrap();
        let is_ready = plain.subscriber.is_ready();
        let found = plain.subscriber.try_recv();
        assert_eq!(is_ready, found != Ok(None));
        if plain.position < oldest {
            assert!(self.kind == Kind::Lossy || plain.is_expelled);
            let newest = plain.lapped == Lapped::Newest;
            let to = if newest { published - 1 } else { oldest };
            let records = to - plain.position;
            assert_eq!(found, Err(RecvError::Missed { records }));
            (plain.position, plain.missed) = (to, plain.missed + records);
        } else if plain.position < published {
            let (number, bytes) = found.unwrap().expect("it is there");
            assert_eq!(number, plain.position);
            assert_eq!(*bytes, *self.records[number as usize]);
            plain.position += 1;
        } else if plain.is_expelled {
            // Whose publisher hung up, and may have left since.
            let end = found.expect_err("it is over");
            assert!(end == RecvError::PublisherDied || is_over && end == RecvError::Detached);
        } else if is_over {
            assert_eq!(found, Err(RecvError::Detached));
        } else {
            assert_eq!(found, Ok(None));
        }
        assert_eq!(plain.subscriber.position(), plain.position);
        assert_eq!(plain.subscriber.missed(), plain.missed);
    }

    fn ends(&mut self) {
        while let Some(Ended { key, why, position }) = self.publisher().next_end() {
            let at = self.left.remove(&key).expect("it left, and has one end");
            assert_eq!((why, position), at);
        }
        assert!(self.left.is_empty());
        let admitted = self.living();
        assert_eq!(self.publisher().len(), admitted);
        let lags: BTreeMap<u64, u64> =
            self.publisher().lags().map(|(key, lag)| (*key, lag)).collect();
        let published = self.published();
        let expected = self.plain.iter().filter(|(_, plain)| !plain.is_expelled);
        assert_eq!(lags, expected.map(|(key, plain)| (*key, published - plain.position)).collect());
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit(start, lapped) => self.admit(start, lapped),
            Op::AdmitSilent => self.admit_silent(),
            Op::DropSilent => {
                if let Some((key, _)) = self.silent.pop_first() {
                    self.left.insert(key, (Why::Died, 0));
                }
            }
            Op::Publish(len) => self.publish(len),
            Op::Receive(who) => {
                if let Some(key) = self.chosen(who) {
                    self.receive(key);
                }
            }
            Op::Leave(who) => {
                if let Some(key) = self.chosen(who) {
                    let plain = self.plain.remove(&key).unwrap();
                    if !plain.is_expelled {
                        self.left.insert(key, (Why::Left, plain.position));
                    }
                }
            }
            Op::Expel(who) => {
                let Some(key) = self.chosen(who) else { return };
                let lag = self.published() - self.plain[&key].position;
                let is_there = !self.plain[&key].is_expelled;
                let gone = self.publisher().expel(|each, its| *each == key && its == lag);
                assert_eq!(gone, if is_there { vec![key] } else { vec![] });
                self.plain.get_mut(&key).unwrap().is_expelled = true;
            }
            Op::Ends => self.ends(),
        }
    }

    fn over(mut self) {
        self.ends();
        let len = self.publisher().record_bytes() + 1;
        assert!(self.publisher().try_publish(&vec![0; len]).is_err());
        self.publisher = None;
        for key in self.plain.keys().copied().collect::<Vec<_>>() {
            for _ in 0..self.cells + 2 {
                self.receive(key);
            }
            let subscriber = &mut self.plain.get_mut(&key).unwrap().subscriber;
            let end = subscriber.try_recv().expect_err("it is over");
            assert_eq!(subscriber.recv(), Err(end));
            assert_eq!(subscriber.recv_deadline(Instant::now()), Err(end), "it stays so");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn agrees_with_a_plain_list(
        is_lossy in any::<bool>(),
        cells in 1..6_u32,
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let kind = if is_lossy { Kind::Lossy } else { Kind::Lossless };
        let mut world = World::new(kind, cells);
        world.admit(Start::Next, Lapped::Oldest);
        ops.iter().for_each(|op| world.apply(*op));
        world.over();
    }
}

#[test]
fn other_records_are_refused() {
    let config = BroadcastConfig { fingerprint: 7, ..BroadcastConfig::lossy(4, 100, 1) };
    let (_publisher, invitation) = StrangePublisher::<u32>::new(&config).unwrap();
    let small = Limits { message_bytes_max: 99, ..Limits::default() };
    let tight = Limits { ring_bytes_max: 4 * 128 - 64, ..Limits::default() };
    for (limits, fingerprint) in [(Limits::default(), 8), (small, 7), (tight, 7)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let how = Subscription::default();
        let connect = move || StrangeSubscriber::connect(theirs, limits, how, fingerprint, None);
        let connecting = std::thread::spawn(connect);
        let met = invitation.meet(ours, None);
        let refused = connecting.join().unwrap().err();
        match (fingerprint, refused) {
            (8, Some(ConnectError::OtherRecords { found: 7 })) => {
                assert_eq!(met.err(), Some(ConnectError::OtherRecords { found: 8 }));
            }
            (7, Some(ConnectError::NoMemory { bytes: 100 } | ConnectError::Corrupt)) => {}
            // Its memory is larger than was allowed.
            (7, Some(ConnectError::Exchange(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    let none = BroadcastConfig::lossy(0, 8, 1);
    assert!(StrangePublisher::<u32>::new(&none).is_err());
}
