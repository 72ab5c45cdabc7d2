//! Any sequence of operations on both ends of a queue, and of handing them on, agrees with a plain
//! queue of records. At each level of trust.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;
use proptest::prelude::*;
use shm_core::trust::{Buggy, Crashing, Hostile};
use shm_mq::spsc::{LINE_BYTES, Level, Limits, Receiver, SendError, Sender};
use shm_mq::stream::OneMapping;
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use spsc_common::queue;
use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

/// Lengths are in percent of the longest record.
#[derive(Clone, Debug)]
enum Op {
    TrySend(usize),
    Push(usize),
    Flush,
    /// Written in place; sent, or not.
    Reserve(usize, bool),
    Receive,
    PutBack,
    /// The sender leaves, and another one comes.
    NextSender,
    NextReceiver,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..110_usize).prop_map(Op::TrySend),
        4 => (0..110_usize).prop_map(Op::Push),
        1 => Just(Op::Flush),
        3 => (0..105_usize, any::<bool>()).prop_map(|(len, sent)| Op::Reserve(len, sent)),
        8 => Just(Op::Receive),
        1 => Just(Op::PutBack),
        1 => Just(Op::NextSender),
        1 => Just(Op::NextReceiver),
    ]
}

/// The two ends and what they should do.
struct Pair<S: Level, R: Level> {
    sender: Option<Sender<S>>,
    receiver: Option<Receiver<R>>,
    /// To hand them on, where that can be.
    next: Option<Next<S, R>>,
    lines: u64,
    sent: u64,
    received: u64,
    /// Records in the queue, and whether each has been published for certain.
    model: VecDeque<(Vec<u8>, bool)>,
}

/// How somebody takes a role that was left.
struct Next<S: Level, R: Level> {
    sender: Box<dyn Fn() -> Sender<S>>,
    receiver: Box<dyn Fn() -> Receiver<R>>,
}

fn lines_for(len: usize) -> u64 {
    (len as u64 + 8).div_ceil(LINE_BYTES)
}

impl<S: OneMapping, R: OneMapping> Pair<S, R> {
    fn in_one_mapping(lines: u64) -> Self {
        let (queue, me) = queue(lines * LINE_BYTES);
        let (other, him) = (queue.clone(), me.clone());
        let sender = move || queue.clone().with_peers::<S>().sender(&me).unwrap();
        let receiver = move || other.clone().with_peers::<R>().receiver(&him).unwrap();
        let (first, second) = (sender(), receiver());
        let next = Next { sender: Box::new(sender), receiver: Box::new(receiver) };
        Pair { next: Some(next), ..Pair::new(first, second, lines) }
    }
}

impl Pair<Hostile, Hostile> {
    fn apart(lines: u64) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Limits { ring_bytes_max: lines * LINE_BYTES, ..Limits::default() };
        let receiving =
            std::thread::spawn(move || Receiver::<Hostile>::connect(theirs, limits, 0, None));
        let sender = Sender::<Hostile>::connect(ours, lines * LINE_BYTES, 0, None).unwrap();
        Pair::new(sender, receiving.join().unwrap().unwrap(), lines)
    }
}

impl<S: Level, R: Level> Pair<S, R> {
    fn new(sender: Sender<S>, receiver: Receiver<R>, lines: u64) -> Self {
        let (sender, receiver, model) = (Some(sender), Some(receiver), VecDeque::new());
        Pair { sender, receiver, next: None, lines, sent: 0, received: 0, model }
    }

    fn sender(&mut self) -> &mut Sender<S> {
        self.sender.as_mut().unwrap()
    }

    fn next(&mut self, percent: usize) -> Vec<u8> {
        let len = self.sender().record_bytes_max() * percent / 100;
        text(self.sent + 1, len)
    }

    fn all_published(&mut self) {
        self.model.iter_mut().for_each(|(_, published)| *published = true);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::TrySend(percent) => {
                let record = self.next(percent);
                let end = self.sender().try_send(&record);
                if end.is_ok() {
                    self.all_published();
                }
                self.was_put(record, end, true);
            }
            Op::Push(percent) => {
                let record = self.next(percent);
                let end = self.sender().push(&record);
                if end == Ok(false) {
                    self.all_published();
                }
                self.was_put(record, end, false);
            }
            Op::Flush => {
                self.sender().flush().unwrap();
                self.all_published();
            }
            Op::Reserve(percent, sent) => self.reserve(percent, sent),
            Op::Receive => self.receive(),
            Op::PutBack => {
                if let Ok(Some(record)) = self.receiver.as_mut().unwrap().try_recv() {
                    assert_eq!(*record, self.model[0].0);
                    record.put_back();
                }
            }
            Op::NextSender => {
                if let Some(next) = &self.next {
                    self.sender = None;
                    self.sender = Some((next.sender)());
                    self.all_published();
                }
            }
            Op::NextReceiver => {
                if let Some(next) = &self.next {
                    self.receiver = None;
                    let end = self.sender.as_mut().map(|sender| sender.try_send(b""));
                    assert_eq!(end, Some(Err(SendError::Detached)));
                    self.receiver = Some((next.receiver)());
                }
            }
        }
        assert_eq!(self.sender().sent(), self.sent);
        assert_eq!(self.receiver.as_ref().unwrap().received(), self.received);
    }

    fn was_put(&mut self, record: Vec<u8>, end: Result<bool, SendError>, published: bool) {
        let largest = self.sender().record_bytes_max();
        match end {
            Ok(true) => {
                self.sent += 1;
                self.model.push_back((record, published));
            }
            // What is in the queue, the end, and what may have to be left out before the end.
            Ok(false) => {
                let used: u64 = self.model.iter().map(|(record, _)| lines_for(record.len())).sum();
                let need = lines_for(record.len());
                assert!(used + 2 * self.most_left_out() + 2 * need > self.lines, "{used} {need}");
            }
            Err(error) => {
                assert_eq!(error, SendError::TooLong { len: record.len(), largest });
                assert!(record.len() > largest);
            }
        }
    }

    /// Lines at the end of the ring that records in the queue may have left out.
    fn most_left_out(&self) -> u64 {
        self.model.iter().map(|(record, _)| lines_for(record.len()) - 1).max().unwrap_or(0)
    }

    fn reserve(&mut self, percent: usize, sent: bool) {
        let record = self.next(percent);
        match self.sender().reserve(record.len()) {
            Ok(Some(mut place)) => {
                place.copy_from_slice(&record);
                assert_eq!(*place, record[..]);
                if sent {
                    place.commit();
                    self.all_published();
                    self.was_put(record, Ok(true), true);
                }
            }
            Ok(None) => {
                self.all_published();
                self.was_put(record, Ok(false), true);
            }
            Err(error) => self.was_put(record, Err(error), true),
        }
    }

    fn receive(&mut self) {
        match self.receiver.as_mut().unwrap().try_recv().unwrap() {
            Some(record) => {
                assert_eq!(*record, self.model.pop_front().expect("sent").0);
                self.received += 1;
            }
            None => assert!(self.model.front().is_none_or(|(_, published)| !published)),
        }
    }
}

fn agrees<S: OneMapping, R: OneMapping>(lines: u64, ops: &[Op]) {
    agrees_with(Pair::<S, R>::in_one_mapping(lines), ops);
}

fn agrees_with<S: Level, R: Level>(mut pair: Pair<S, R>, ops: &[Op]) {
    ops.iter().for_each(|op| pair.apply(op));
    pair.sender().flush().unwrap();
    pair.all_published();
    while !pair.model.is_empty() {
        pair.receive();
    }
    pair.receive();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_queue(
        lines in 2..40_u64,
        ops in prop::collection::vec(op(), 1..200),
        careful in 0..5,
    ) {
        match careful {
            0 => agrees::<Crashing, Crashing>(lines, &ops),
            1 => agrees::<Crashing, Buggy>(lines, &ops),
            2 => agrees::<Buggy, Crashing>(lines, &ops),
            3 => agrees::<Buggy, Buggy>(lines, &ops),
            _ => agrees_with(Pair::apart(lines), &ops),
        }
    }
}

/// What is written to a place and given up lies where the next record ends.
#[test]
fn a_record_that_was_given_up_is_nothing() {
    let ops = [Op::Push(99), Op::TrySend(99), Op::Flush, Op::Reserve(12, false), Op::TrySend(10)];
    agrees::<Crashing, Crashing>(16, &ops);
}
