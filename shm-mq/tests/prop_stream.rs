//! Any sequence of operations on both ends agrees with a plain queue; and messages of every length
//! from 0 to four times the ring survive at every place in the ring. At each level of trust.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
use common::{hostile_stream, stream_among};
use proptest::prelude::*;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::{Level, Receiver, RecvError, SendError, Sender, frame_bytes};
use shm_testkit::depth::cases;
use shm_testkit::random::text;
use std::collections::VecDeque;

/// Lengths are in percent of the ring.
#[derive(Clone, Debug)]
enum Op {
    TrySend(u64),
    Push(u64),
    Flush,
    Receive,
    PutBack,
    ReceiveInto,
    /// Sends a message in as many steps as it takes, with a receive after each, but at most so
    /// many.
    Start {
        percent: u64,
        polls: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..110_u64).prop_map(Op::TrySend),
        4 => (0..60_u64).prop_map(Op::Push),
        1 => Just(Op::Flush),
        6 => Just(Op::Receive),
        1 => Just(Op::PutBack),
        1 => Just(Op::ReceiveInto),
        3 => (0..400_u64, 0..80_usize).prop_map(|(percent, polls)| Op::Start { percent, polls }),
    ]
}

/// The two ends and what they should do.
struct Pair<S: Level, R: Level> {
    ring: u64,
    sender: Sender<S>,
    receiver: Receiver<R>,
    sent: u64,
    /// Messages in the stream, and whether each has been published for certain.
    model: VecDeque<(Vec<u8>, bool)>,
}

impl<S: Level, R: Level> Pair<S, R> {
    fn new(ring: u64, (sender, receiver): (Sender<S>, Receiver<R>)) -> Self {
        Pair { ring, sender, receiver, sent: 0, model: VecDeque::new() }
    }

    fn next(&mut self, percent: u64) -> Vec<u8> {
        self.sent += 1;
        text(self.sent, (self.ring * percent / 100) as usize)
    }

    fn all_published(&mut self) {
        self.model.iter_mut().for_each(|(_, published)| *published = true);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::TrySend(percent) => self.try_send(percent),
            Op::Push(percent) => self.push(percent),
            Op::Flush => {
                self.sender.flush().unwrap();
                self.all_published();
            }
            Op::Receive => self.receive(),
            Op::PutBack => {
                if let Ok(message) = self.receiver.try_recv() {
                    assert_eq!(*message, self.model[0].0);
                    message.put_back();
                }
            }
            Op::ReceiveInto => {
                if self.model.front().is_some_and(|(_, published)| *published) {
                    let mut out = vec![1, 2, 3];
                    self.receiver.recv_into(&mut out).unwrap();
                    assert_eq!(out, self.model.pop_front().unwrap().0);
                }
            }
            Op::Start { percent, polls } => self.start(percent, polls),
        }
    }

    fn try_send(&mut self, percent: u64) {
        let message = self.next(percent);
        let free = self.sender.free_space().unwrap();
        match self.sender.try_send(&message) {
            Ok(()) => {
                assert!(frame_bytes(message.len()) <= free);
                self.model.push_back((message, true));
            }
            Err(SendError::WouldBlock) => assert!(frame_bytes(message.len()) > free),
            Err(SendError::TooLarge { largest }) => {
                assert!(message.len() > largest && frame_bytes(largest) <= self.ring);
                return;
            }
            Err(other) => panic!("{other}"),
        }
        self.all_published();
    }

    fn push(&mut self, percent: u64) {
        let message = self.next(percent);
        if frame_bytes(message.len()) <= self.sender.free_space().unwrap() {
            self.sender.push(&message).unwrap();
            self.model.push_back((message, false));
        }
    }

    fn receive(&mut self) {
        match self.receiver.try_recv() {
            Ok(message) => assert_eq!(*message, self.model.pop_front().expect("sent").0),
            Err(RecvError::WouldBlock) => {
                assert!(self.model.front().is_none_or(|(_, published)| !published));
                let unread: u64 = self.model.iter().map(|(m, _)| frame_bytes(m.len())).sum();
                assert!(unread <= self.ring / 4, "more than a quarter is pending unpublished");
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn start(&mut self, percent: u64, polls: usize) {
        let message = self.next(percent);
        let mut sending = self.sender.start(&message).unwrap();
        for _ in 0..polls {
            match sending.poll() {
                Ok(()) => {
                    assert_eq!(sending.remaining(), 0);
                    self.model.push_back((message, true));
                    self.all_published();
                    return;
                }
                Err(SendError::WouldBlock) => {}
                Err(other) => panic!("{other}"),
            }
            match self.receiver.try_recv() {
                Ok(got) => assert_eq!(*got, self.model.pop_front().expect("sent").0),
                Err(RecvError::WouldBlock) => assert!(self.model.is_empty()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Everything sent comes out, then the end.
    fn drain(self) {
        let Pair { sender, mut receiver, model, .. } = self;
        drop(sender);
        for (message, _) in model {
            assert_eq!(*receiver.recv().unwrap(), message);
        }
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached);
        assert_eq!(receiver.recv().unwrap_err(), RecvError::Detached);
    }
}

fn agrees<S: Level, R: Level>(mut pair: Pair<S, R>, ops: &[Op]) {
    for op in ops {
        pair.apply(op);
    }
    pair.drain();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn any_operations_agree_with_a_queue(
        words in 1..=32_u64,
        ops in proptest::collection::vec(op(), 0..100),
    ) {
        let ring = words * 8;
        agrees(Pair::new(ring, stream_among::<Crashing, Crashing>(ring)), &ops);
        agrees(Pair::new(ring, stream_among::<Buggy, Buggy>(ring)), &ops);
        agrees(Pair::new(ring, stream_among::<Crashing, Buggy>(ring)), &ops);
        agrees(Pair::new(ring, stream_among::<Buggy, Crashing>(ring)), &ops);
        agrees(Pair::new(ring, hostile_stream(ring)), &ops);
    }
}

/// Sends and receives one message, a step of each side in turn; says how far the ring moved.
fn pass<S: Level, R: Level>(
    sender: &mut Sender<S>,
    receiver: &mut Receiver<R>,
    message: &[u8],
) -> u64 {
    let mut sending = sender.start(message).unwrap();
    let mut moved = 0;
    loop {
        let done = sending.poll();
        moved += receiver.occupied_bytes().unwrap();
        match receiver.try_recv() {
            Ok(got) => {
                assert_eq!(*got, *message);
                assert_eq!(done, Ok(()));
                return moved;
            }
            Err(end) => assert_eq!(end, RecvError::WouldBlock),
        }
        assert_eq!(done, Err(SendError::WouldBlock));
    }
}

#[test]
fn every_length_at_every_place() {
    every_length(stream_among::<Crashing, Crashing>);
    every_length(stream_among::<Buggy, Buggy>);
    every_length(hostile_stream);
}

fn every_length<T: Level>(stream: impl Fn(u64) -> (Sender<T>, Receiver<T>)) {
    let mut passed = 0;
    for ring in [8, 16, 24, 64, 128] {
        for offset in (0..ring).step_by(8) {
            let (mut sender, mut receiver) = stream(ring);
            let mut position = 0;
            for len in 0..=4 * ring as usize {
                while position % ring != offset {
                    position += pass(&mut sender, &mut receiver, &[]);
                }
                position += pass(&mut sender, &mut receiver, &text(len as u64, len));
                passed += 1;
            }
        }
    }
    println!("lengths times places: {passed}");
}
