//! Any sequence of operations on a fan-in, its senders coming and going, agrees with a plain queue
//! for each of them that are served in turn. At each level of trust.
#![cfg(not(any(shm_loom, shm_explore)))]
mod fan_common;
mod spsc_common;
use fan_common::fan_in;
use proptest::prelude::*;
use shm_core::participants::Member;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::fan_in::{
    Event, FanIn, JoinError, LINE_BYTES, LaneState, Receiver, SendError, Sender, Why,
};
use shm_mq::stream::OneMapping;
use shm_mq::waitset::Source;
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use std::collections::VecDeque;
use std::sync::Arc;

/// Lanes are counted modulo those that there are, lengths in percent of the longest record.
#[derive(Clone, Debug)]
enum Op {
    Join,
    Leave(usize),
    TrySend(usize, usize),
    Push(usize, usize),
    Flush(usize),
    /// Written in place; sent, or not.
    Reserve(usize, usize, bool),
    Receive,
    PutBack,
    Drain(usize),
    /// As a set does; before it sleeps, or at first.
    Look(bool),
    NextReceiver,
}

fn op() -> impl Strategy<Value = Op> {
    let lane = || 0..70_usize;
    prop_oneof![
        4 => Just(Op::Join),
        1 => lane().prop_map(Op::Leave),
        5 => (lane(), 0..110_usize).prop_map(|(lane, len)| Op::TrySend(lane, len)),
        4 => (lane(), 0..110_usize).prop_map(|(lane, len)| Op::Push(lane, len)),
        2 => lane().prop_map(Op::Flush),
        3 => (lane(), 0..105_usize, any::<bool>()).prop_map(|(l, n, s)| Op::Reserve(l, n, s)),
        9 => Just(Op::Receive),
        1 => Just(Op::PutBack),
        1 => (1..6_usize).prop_map(Op::Drain),
        3 => any::<bool>().prop_map(Op::Look),
        1 => Just(Op::NextReceiver),
    ]
}

/// What a lane should hold.
struct Lane<S: OneMapping> {
    sender: Option<Sender<S>>,
    /// Its sender has left, of which the receiver has not been told.
    has_left: bool,
    sent: u64,
    received: u64,
    /// Records in it, and whether each has been published for certain.
    records: VecDeque<(Vec<u8>, bool)>,
}

impl<S: OneMapping> Lane<S> {
    fn publish(&mut self) {
        self.records.iter_mut().for_each(|(_, published)| *published = true);
    }

    fn has_record(&self) -> bool {
        self.records.front().is_some_and(|(_, published)| *published)
    }

    fn is_free(&self) -> bool {
        self.sender.is_none() && !self.has_left
    }
}

struct World<S: OneMapping, R: OneMapping> {
    fan_in: FanIn,
    me: Arc<Member>,
    lanes: Vec<Lane<S>>,
    receiver: Option<Receiver<R>>,
    /// Whose turn it is.
    next: usize,
    /// A look has found something: that comes next, whatever comes before it meanwhile.
    is_seen: bool,
    /// Tells records apart.
    seed: u64,
}

impl<S: OneMapping, R: OneMapping> World<S, R> {
    fn new(lanes: usize, lines: u64) -> Self {
        let (fan_in, me) = fan_in(lanes as u32, lines * LINE_BYTES);
        let receiver = Some(fan_in.clone().with_peers::<R>().receiver(&me).unwrap());
        let lane = |_| {
            let records = VecDeque::new();
            Lane { sender: None, has_left: false, sent: 0, received: 0, records }
        };
        let lanes = (0..lanes).map(lane).collect();
        World { fan_in, me, lanes, receiver, next: 0, is_seen: false, seed: 0 }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Join => self.join(),
            Op::Leave(lane) => {
                let lane = self.lane(lane);
                if lane.sender.take().is_some() {
                    lane.publish();
                    lane.has_left = true;
                }
            }
            Op::TrySend(lane, percent) => self.send(lane, percent, |sender, record| {
                let is_put = sender.try_send(record);
                (is_put, is_put.is_ok())
            }),
            Op::Push(lane, percent) => self.send(lane, percent, |sender, record| {
                let is_put = sender.push(record);
                (is_put, is_put == Ok(false))
            }),
            Op::Flush(lane) => {
                let lane = self.lane(lane);
                if let Some(sender) = &mut lane.sender {
                    sender.flush().unwrap();
                    lane.publish();
                }
            }
            Op::Reserve(lane, percent, sent) => self.send(lane, percent, |sender, record| {
                let place = match sender.reserve(record.len()) {
                    Ok(place) => place,
                    Err(error) => return (Err(error), false),
                };
                let Some(mut place) = place else { return (Ok(false), true) };
                place.copy_from_slice(record);
                if sent {
                    place.commit();
                }
                (Ok(sent), sent)
            }),
            Op::Receive => self.receive(false),
            Op::PutBack => self.receive(true),
            Op::Drain(most) => self.drain(most),
            Op::Look(is_last) => self.look(is_last),
            Op::NextReceiver => {
                self.receiver = None;
                (self.next, self.is_seen) = (0, false);
                if let Some(sender) = self.lanes.iter_mut().find_map(|lane| lane.sender.as_mut()) {
                    assert_eq!(sender.try_send(b""), Err(SendError::Detached));
                }
                self.receiver = Some(self.fan_in.clone().with_peers().receiver(&self.me).unwrap());
            }
        }
        self.status_agrees();
    }

    fn lane(&mut self, lane: usize) -> &mut Lane<S> {
        let count = self.lanes.len();
        &mut self.lanes[lane % count]
    }

    fn join(&mut self) {
        let sender = self.fan_in.clone().with_peers::<S>().sender(&self.me);
        let lanes = self.lanes.len() as u32;
        match self.lanes.iter_mut().find(|lane| lane.is_free()) {
            Some(lane) => {
                let sender = sender.unwrap();
                assert_eq!(sender.sent(), 0);
                (lane.sender, lane.sent, lane.received) = (Some(sender), 0, 0);
            }
            None => assert_eq!(sender.err(), Some(JoinError::AllTaken { lanes })),
        }
    }

    fn send(
        &mut self,
        lane: usize,
        percent: usize,
        how: impl FnOnce(&mut Sender<S>, &[u8]) -> (Result<bool, SendError>, bool),
    ) {
        self.seed += 1;
        let seed = self.seed;
        let lane = self.lane(lane);
        let Some(sender) = &mut lane.sender else { return };
        let largest = sender.record_bytes_max();
        let record = text(seed, largest * percent / 100);
        let len = record.len();
        let (is_put, is_published) = how(sender, &record);
        match is_put {
            Ok(true) => {
                lane.sent += 1;
                lane.records.push_back((record, false));
            }
            Ok(false) => {}
            Err(error) => {
                assert_eq!(error, SendError::TooLong { len, largest });
                assert!(len > largest);
            }
        }
        if is_published {
            lane.publish();
        }
        assert_eq!(lane.sender.as_ref().unwrap().sent(), lane.sent);
    }

    fn receive(&mut self, puts_back: bool) {
        let mut receiver = self.receiver.take().unwrap();
        match receiver.try_recv().unwrap() {
            Some(event) => {
                self.is_right(&event, !puts_back);
                if puts_back {
                    event.put_back();
                }
            }
            None => assert!(!self.is_seen && !self.has_something()),
        }
        self.receiver = Some(receiver);
    }

    fn has_something(&self) -> bool {
        self.lanes.iter().any(|lane| lane.has_record() || lane.has_left)
    }

    fn look(&mut self, is_last: bool) {
        let receiver = self.receiver.as_mut().unwrap();
        let sees = if is_last { receiver.is_ready_at_last() } else { receiver.is_ready() };
        assert!(sees || !self.is_seen && !self.has_something());
        self.is_seen = sees;
    }

    fn drain(&mut self, most: usize) {
        let mut receiver = self.receiver.take().unwrap();
        let mut given = 0;
        let count = receiver.drain(most, |event| {
            self.is_right(&event, true);
            given += 1;
        });
        assert_eq!(count, Ok(given));
        assert!(given == most || !self.has_something());
        self.receiver = Some(receiver);
    }

    /// It is what its lane has next, and no lane before it had its turn.
    fn is_right(&mut self, event: &Event<'_, R>, is_taken: bool) {
        assert_eq!(event.sender(), self.me.id());
        let number = match event {
            Event::Record(record) => {
                let lane = &mut self.lanes[record.lane() as usize];
                assert_eq!(record.number(), lane.received);
                assert_eq!(**record, lane.records.front().expect("sent").0);
                record.lane() as usize
            }
            Event::End(end) => {
                let lane = &self.lanes[end.lane() as usize];
                assert_eq!(end.why(), Why::Left);
                assert_eq!(end.received(), lane.received);
                assert!(lane.has_left && lane.records.is_empty(), "it has something yet");
                end.lane() as usize
            }
        };
        let count = self.lanes.len();
        let waits =
            (0..count).map(|step| (self.next + step) % count).take_while(|at| *at != number);
        let is_seen = std::mem::take(&mut self.is_seen);
        if matches!(event, Event::Record(_)) && !is_seen {
            waits.for_each(|at| assert!(!self.lanes[at].has_record(), "{at} before {number}"));
        }
        self.next = (number + 1) % count;
        let lane = &mut self.lanes[number];
        match event {
            Event::Record(_) if is_taken => {
                lane.records.pop_front();
                lane.received += 1;
            }
            Event::End(_) if is_taken => lane.has_left = false,
            _ => {}
        }
    }

    fn status_agrees(&self) {
        for (lane, status) in self.lanes.iter().zip(self.fan_in.status()) {
            let me = self.me.id();
            let state = match (&lane.sender, lane.has_left) {
                (Some(_), _) => LaneState::Open(me),
                (None, true) => LaneState::Left(me),
                (None, false) => LaneState::Free,
            };
            assert_eq!(status.state, state);
            if !lane.is_free() {
                let published = lane.records.iter().filter(|(_, published)| *published).count();
                assert!(status.waiting >= published as u64 && status.waiting <= lane.sent);
                assert_eq!(status.received, lane.received);
            }
        }
    }
}

fn agrees<S: OneMapping, R: OneMapping>(lanes: usize, lines: u64, ops: &[Op]) {
    let mut world = World::<S, R>::new(lanes, lines);
    ops.iter().for_each(|op| world.apply(op));
    (0..lanes).for_each(|lane| world.apply(&Op::Leave(lane)));
    while world.lanes.iter().any(|lane| !lane.is_free()) {
        world.receive(false);
    }
    world.receive(false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(160)))]

    #[test]
    fn agrees_with_a_plain_queue_for_each_sender(
        lanes in prop_oneof![1..6_usize, 60..70_usize],
        lines in 2..20_u64,
        ops in prop::collection::vec(op(), 1..200),
        careful in 0..4,
    ) {
        match careful {
            0 => agrees::<Crashing, Crashing>(lanes, lines, &ops),
            1 => agrees::<Crashing, Buggy>(lanes, lines, &ops),
            2 => agrees::<Buggy, Crashing>(lanes, lines, &ops),
            _ => agrees::<Buggy, Buggy>(lanes, lines, &ops),
        }
    }
}
