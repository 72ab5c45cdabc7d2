//! Any sequence of what strangers do, and of what is received from them, agrees with plain queues:
//! each record arrives in its sender's order, each sender has one end behind its last record, and
//! who has something waits for one record of each other one at most.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;
use proptest::prelude::*;
use shm_core::trust::Hostile;
use shm_mq::fan_in::{Strange, Strangers, StrangersError, Why};
use shm_mq::spsc::{Limits, Receiver, Sender};
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit,
    /// The sender with this number, modulo how many there are, sends so many bytes.
    Send(usize, usize),
    Leave(usize),
    Receive,
    PutBack,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Admit),
        6 => (any::<usize>(), 0..57_usize).prop_map(|(who, len)| Op::Send(who, len)),
        1 => any::<usize>().prop_map(Op::Leave),
        6 => Just(Op::Receive),
        1 => Just(Op::PutBack),
    ]
}

/// A sender, until it left, and what it has in its lane.
struct Plain {
    sender: Option<Sender<Hostile>>,
    records: VecDeque<Vec<u8>>,
    received: u64,
    /// Records that others had while it had something.
    passed_over: usize,
}

#[derive(Default)]
struct World {
    strangers: Strangers<u64>,
    plain: BTreeMap<u64, Plain>,
    admitted: u64,
}

impl World {
    fn admit(&mut self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connect = || Receiver::<Hostile>::connect(theirs, Limits::default(), 0, None);
        let receiving = std::thread::spawn(connect);
        let sender = Sender::<Hostile>::connect(ours, 512, 0, None).unwrap();
        self.strangers.admit(self.admitted, receiving.join().unwrap().unwrap());
        let (records, sender) = (VecDeque::new(), Some(sender));
        self.plain.insert(self.admitted, Plain { sender, records, received: 0, passed_over: 0 });
        self.admitted += 1;
    }

    fn chosen(&mut self, who: usize) -> Option<(u64, &mut Plain)> {
        let many = self.plain.len().max(1);
        self.plain.iter_mut().nth(who % many).map(|(key, plain)| (*key, plain))
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit if self.plain.len() < 4 => self.admit(),
            Op::Admit => {}
            Op::Send(who, len) => {
                let Some((key, plain)) = self.chosen(who) else { return };
                let record = text((key << 32) + plain.received + plain.records.len() as u64, len);
                if plain.sender.as_mut().is_some_and(|sender| sender.try_send(&record).unwrap()) {
                    plain.records.push_back(record);
                }
            }
            Op::Leave(who) => {
                if let Some((_, plain)) = self.chosen(who) {
                    plain.sender = None;
                }
            }
            Op::Receive => self.receive(false),
            Op::PutBack => self.receive(true),
        }
        assert_eq!(self.strangers.len(), self.plain.len());
    }

    fn receive(&mut self, put_back: bool) {
        match self.strangers.try_recv().unwrap() {
            Some(Strange::Record(from, record)) if put_back => {
                assert_eq!(*record, *self.plain[from].records[0]);
                record.put_back();
                // It has had its turn.
                self.plain.values_mut().for_each(|plain| plain.passed_over = 0);
            }
            Some(Strange::Record(from, record)) => {
                let plain = self.plain.get_mut(from).unwrap();
                assert_eq!(*record, *plain.records.pop_front().expect("sent"));
                plain.received += 1;
                plain.passed_over = 0;
                let from = *from;
                let others = self.plain.len() - 1;
                for (key, plain) in &mut self.plain {
                    if *key != from && !plain.records.is_empty() {
                        plain.passed_over += 1;
                        assert!(plain.passed_over <= others, "out of turn");
                    }
                }
            }
            Some(Strange::End { from, why, received }) => {
                let plain = self.plain.remove(&from).expect("one end");
                assert!(plain.sender.is_none() && plain.records.is_empty());
                assert_eq!((why, received), (Why::Left, plain.received));
            }
            None => assert!(self.plain.values().all(|plain| plain.records.is_empty())),
        }
    }

    fn ends(mut self) {
        self.plain.values_mut().for_each(|plain| plain.sender = None);
        while !self.plain.is_empty() {
            self.receive(false);
        }
        let end = self.strangers.recv_deadline(Instant::now()).err();
        assert_eq!(end, Some(StrangersError::Nobody));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn agrees_with_plain_queues(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::default();
        world.admit();
        ops.iter().for_each(|op| world.apply(*op));
        world.ends();
    }
}
