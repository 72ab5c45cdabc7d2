//! Any stream, and any use of one by its two sides.
use crate::block::{Lie, guarded, image, member, split};
use arbitrary::{Arbitrary, Unstructured};
use shm_core::mapping::Mapping;
use shm_mq::stream::{MESSAGE_BYTES_MAX, Receiver, RecvError, SendError, Sender, Stream};
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

const RING: u64 = 128;
const BYTES: usize = Stream::bytes_for(RING) as usize;
const MESSAGES: [&[u8]; 3] = [b"abc", b"a message that takes its room", b""];

/// A stream whose sender has come, has sent something, and is still there; and one nobody has come
/// to.
static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let mut used = Vec::new();
    let fresh = image(BYTES, |mapping| {
        // SAFETY: nobody else has the mapping.
        unsafe { Stream::create(mapping, 0, RING) }.expect("a stream");
    });
    let _ = image(BYTES, |mapping| {
        // SAFETY: nobody else has the mapping.
        let stream = unsafe { Stream::create(mapping, 0, RING) }.expect("a stream");
        let mut sender = stream.sender(member(1)).expect("the role");
        for message in MESSAGES {
            sender.try_send(message).expect("room");
        }
        let word = |word| mapping.region().read::<[u8; 8]>(8 * word).expect("inside");
        used = (0..BYTES as u64 / 8).flat_map(word).collect();
    });
    [used, fresh]
});

/// The receiver of a stream that is valid but for the input's lies, and then its sender.
pub fn stream(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let image = &IMAGES[usize::from(how >> 1 & 1)];
    let (block, mapping) = guarded(image, bytes, how & 1 == 1);
    let Ok(stream) = Stream::attach(&mapping, 0) else { return };
    assert!(stream.status().ring_bytes <= RING);
    if let Ok(mut receiver) = stream.receiver(member(0)) {
        receive(&mut receiver);
    }
    let _ = (stream.set_sender(member(2).id()), stream.set_receiver(member(2).id()));
    for who in 0..3 {
        if let Ok(mut sender) = stream.sender(member(who)) {
            send(&mut sender);
        }
    }
    stream.status();
    assert!(block.is_intact());
}

/// Every call of a receiver, with a deadline where it waits.
fn receive(receiver: &mut Receiver) {
    let now = Instant::now();
    let _ = receiver.wait_for_peer(Some(now));
    let _ = receiver.occupied_bytes();
    for round in 0..2 * RING {
        let end = match receiver.recv_deadline(now) {
            Ok(message) => {
                assert!(message.len() <= MESSAGE_BYTES_MAX);
                message.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                if round == 0 {
                    message.put_back();
                }
                continue;
            }
            Err(end) => end,
        };
        if end == RecvError::Corrupt {
            assert!(matches!(receiver.try_recv(), Err(RecvError::Corrupt)), "it is for good");
        }
        return;
    }
}

/// Every call of a sender, with a deadline where it waits.
fn send(sender: &mut Sender) {
    let now = Instant::now();
    let _ = sender.wait_for_peer(Some(now));
    let _ = sender.free_space();
    let _ = sender.try_send(b"a message");
    let _ = sender.send_deadline(&[7; 3 * RING as usize], now);
    if let Ok(mut sending) = sender.start(&[8; 40]) {
        let _ = sending.poll();
    }
    let corrupt = sender.flush() == Err(SendError::Corrupt);
    assert!(!corrupt || sender.try_send(b"x") == Err(SendError::Corrupt), "it is for good");
}

#[derive(Arbitrary, Debug)]
enum Op {
    TrySend { len: u8 },
    Push { len: u8 },
    Flush,
    SendDeadline { len: u16 },
    Start { len: u16, polls: u8 },
    Receive,
    PutBack,
    DropSender,
    DropReceiver,
    Lie(Lie),
}

/// The two sides, and what was sent and not received yet; empty messages and all.
struct Pair {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// And whether it has been shown to the receiver for certain.
    model: VecDeque<(Vec<u8>, bool)>,
    sent: u8,
    honest: bool,
}

/// What goes in comes out, in order and whole, until the first lie.
pub fn stream_ops(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let ring = 8 * (1 + u64::from(how % 32));
    let len = Stream::bytes_for(ring) as usize;
    let (block, mapping) = guarded(&vec![0; len], &[], false);
    let mut pair = Pair::new(&mapping, ring);
    for op in Unstructured::new(bytes).arbitrary_iter::<Op>().into_iter().flatten() {
        let Ok(op) = op else { break };
        if let Op::Lie(lie) = op {
            lie.tell(&block.outside());
            pair.honest = false;
            continue;
        }
        pair.step(&op);
    }
    drop(pair);
    assert!(block.is_intact());
}

impl Pair {
    fn new(mapping: &Arc<Mapping>, ring: u64) -> Pair {
        // SAFETY: nobody else has the mapping.
        let stream = unsafe { Stream::create(mapping, 0, ring) }.expect("a stream");
        let sender = Some(stream.sender(member(0)).expect("the role"));
        let receiver = Some(stream.receiver(member(1)).expect("the role"));
        Pair { sender, receiver, model: VecDeque::new(), sent: 0, honest: true }
    }

    fn text(&mut self, len: usize) -> Vec<u8> {
        self.sent = self.sent.wrapping_add(1);
        (0..len).map(|i| self.sent.wrapping_mul(31).wrapping_add(i as u8)).collect()
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::TrySend { len } => self.send(len.into(), true, |s, text| s.try_send(text)),
            Op::Push { len } => {
                let free = self.sender.as_mut().and_then(|sender| sender.free_space().ok());
                // It waits where there is no room.
                if free.is_some_and(|free| shm_mq::stream::frame_bytes(len.into()) <= free) {
                    self.send(len.into(), false, |sender, text| sender.push(text));
                }
            }
            Op::Flush => {
                let flushed = self.sender.as_mut().map(Sender::flush);
                if flushed == Some(Ok(())) {
                    self.all_shown();
                }
            }
            Op::SendDeadline { len } => {
                let now = Instant::now();
                self.send((len % 2048).into(), true, |s, text| s.send_deadline(text, now));
            }
            Op::Start { len, polls } => self.send((len % 2048).into(), true, |sender, text| {
                let mut sending = sender.start(text)?;
                let mut end = Err(SendError::WouldBlock);
                for _ in 0..polls % 8 {
                    end = sending.poll();
                }
                end
            }),
            Op::Receive => self.receive(false),
            Op::PutBack => self.receive(true),
            Op::DropSender => {
                self.sender = None;
                self.all_shown();
            }
            Op::DropReceiver => self.receiver = None,
            Op::Lie(_) => {}
        }
    }

    fn all_shown(&mut self) {
        self.model.iter_mut().for_each(|(_, shown)| *shown = true);
    }

    fn send(
        &mut self,
        len: usize,
        shows: bool,
        send: impl FnOnce(&mut Sender, &[u8]) -> Result<(), SendError>,
    ) {
        let text = self.text(len);
        let Some(sender) = self.sender.as_mut() else { return };
        match send(sender, &text) {
            Ok(()) => {
                self.model.push_back((text, shows));
                if shows {
                    self.all_shown();
                }
            }
            Err(SendError::Detached) => assert!(!self.honest || self.receiver.is_none()),
            Err(end) => {
                let honest = [SendError::WouldBlock, SendError::TimedOut].contains(&end)
                    || matches!(end, SendError::TooLarge { .. });
                assert!(!self.honest || honest, "{end}");
            }
        }
    }

    fn receive(&mut self, put_back: bool) {
        let Some(receiver) = self.receiver.as_mut() else { return };
        match receiver.try_recv() {
            Ok(message) if put_back => {
                assert!(!self.honest || *message == self.model[0].0);
                message.put_back();
            }
            Ok(message) => {
                let next = self.model.pop_front();
                assert!(!self.honest || next.is_some_and(|(next, _)| *message == next));
            }
            Err(end) if self.honest => match end {
                RecvError::WouldBlock => {
                    assert!(self.sender.is_some());
                    assert!(self.model.front().is_none_or(|(_, shown)| !shown));
                }
                RecvError::Detached => assert!(self.sender.is_none() && self.model.is_empty()),
                end => panic!("{end}"),
            },
            Err(_) => {}
        }
    }
}
