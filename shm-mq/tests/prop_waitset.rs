//! Whatever is sent, received, ended and set, a wait with a deadline that has passed tells exactly
//! what a plain model says is ready.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;
use proptest::prelude::*;
use shm_mq::spsc::{Receiver, Sender};
use shm_mq::waitset::{Alarm, Descriptor, Interest, Source, WaitSet};
use shm_testkit::depth::cases;
use spsc_common::queue;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const QUEUES: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Receive(usize),
    Leave(usize),
    Write,
    Read,
    Ring(bool),
    /// With the descriptor, or without.
    Wait(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..QUEUES).prop_map(Op::Send),
        3 => (0..QUEUES).prop_map(Op::Receive),
        1 => (0..QUEUES).prop_map(Op::Leave),
        2 => Just(Op::Write),
        2 => Just(Op::Read),
        1 => any::<bool>().prop_map(Op::Ring),
        5 => any::<bool>().prop_map(Op::Wait),
    ]
}

struct World {
    senders: Vec<Option<Sender>>,
    receivers: Vec<Receiver>,
    fd: UnixStream,
    other: UnixStream,
    alarm: Alarm,
    set: WaitSet,
    /// Records in each queue, bytes in the descriptor, whether the alarm rings.
    records: Vec<u64>,
    bytes: u64,
    rings: bool,
}

impl World {
    fn new() -> World {
        let queues: Vec<_> = (0..QUEUES).map(|_| queue(1024)).collect();
        let (fd, other) = UnixStream::pair().unwrap();
        World {
            senders: queues.iter().map(|(queue, me)| Some(queue.sender(me).unwrap())).collect(),
            receivers: queues.iter().map(|(queue, me)| queue.receiver(me).unwrap()).collect(),
            fd,
            other,
            alarm: Alarm::never(),
            set: WaitSet::new(),
            records: vec![0; QUEUES],
            bytes: 0,
            rings: false,
        }
    }

    fn is_ready(&self, number: usize) -> bool {
        self.records[number] > 0 || self.senders[number].is_none()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Send(number) => {
                if let Some(sender) = &mut self.senders[number] {
                    self.records[number] += u64::from(sender.try_send(b"a record").unwrap());
                }
            }
            Op::Receive(number) => {
                let got = self.receivers[number].try_recv();
                assert_eq!(matches!(got, Ok(Some(_))), self.records[number] > 0);
                self.records[number] = self.records[number].saturating_sub(1);
            }
            Op::Leave(number) => self.senders[number] = None,
            Op::Write => {
                self.other.write_all(&[1]).unwrap();
                self.bytes += 1;
            }
            Op::Read if self.bytes > 0 => {
                self.fd.read_exact(&mut [0]).unwrap();
                self.bytes -= 1;
            }
            Op::Read => {}
            Op::Ring(rings) => {
                let hour = Duration::from_secs(3600);
                let now = Instant::now();
                self.alarm = Alarm::at(if rings { now } else { now + hour });
                self.rings = rings;
            }
            Op::Wait(with_descriptor) => self.wait(with_descriptor),
        }
    }

    fn wait(&mut self, with_descriptor: bool) {
        let mut expected: Vec<usize> =
            (0..QUEUES).filter(|number| self.is_ready(*number)).collect();
        expected.extend(self.rings.then_some(QUEUES));
        expected.extend((with_descriptor && self.bytes > 0).then_some(QUEUES + 1));
        let mut fd = Descriptor::new(self.fd.as_fd(), Interest::Readable);
        let mut sources: Vec<(usize, &mut dyn Source)> = Vec::new();
        for (number, receiver) in self.receivers.iter_mut().enumerate() {
            sources.push((number, receiver));
        }
        sources.push((QUEUES, &mut self.alarm));
        if with_descriptor {
            sources.push((QUEUES + 1, &mut fd));
        }
        let ready = self.set.wait(&mut sources, Some(Instant::now())).unwrap();
        assert_eq!(ready, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]

    #[test]
    fn exactly_what_is_ready_is_told(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        world.apply(&Op::Wait(true));
    }
}
