//! Either side of a hostile stream, or queue of records, is killed at each instruction of
//! `connect`, while the other one connects to it: that one has a stream whose peer has died, or an
//! error, in bounded time, and holds nothing more than before: no descriptor, no memory, no thread.
//! And at each instruction of sending, receiving and leaving: what was acknowledged is there.
//!
//! The survivor said its hello before, so that the doomed one has all of it to do: memory made,
//! hello said and heard, memory looked at and mapped.
//!
//! One test, for it looks at all that this process holds.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use common::LIMIT;
use shm_core::sealed::ExchangeError;
use shm_core::trust::Hostile;
use shm_mq::spsc;
use shm_mq::stream::{ConnectError, Limits, Receiver, RecvError, SendError, Sender};
use shm_mq::waitset::WaitSet;
use shm_testkit::fault::Footprint;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

#[global_allocator]
static HEAP: Heap = Heap;

const RING_BYTES: u64 = 256;
/// In the notes: the doomed one was told that it is connected; or how many records were sent or
/// released.
const TOLD: usize = 0;
/// Records that there is room for; each fills a line.
const ROOM: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Sender,
    Receiver,
}

/// What the two have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Stream,
    Queue,
}

enum Half {
    Sender(Sender<Hostile>),
    Receiver(Receiver<Hostile>),
    RecordSender(spsc::Sender<Hostile>),
    RecordReceiver(spsc::Receiver<Hostile>),
}

fn record(number: u64) -> [u8; 56] {
    [number as u8 + 1; 56]
}

impl Half {
    fn connect(kind: Kind, side: Side, socket: UnixStream) -> Result<Half, ConnectError> {
        let (end, limits) = (Some(Instant::now() + LIMIT), Limits::default());
        match (kind, side) {
            (Kind::Stream, Side::Sender) => {
                Sender::<Hostile>::connect(socket, RING_BYTES, end).map(Half::Sender)
            }
            (Kind::Stream, Side::Receiver) => {
                Receiver::<Hostile>::connect(socket, limits, end).map(Half::Receiver)
            }
            (Kind::Queue, Side::Sender) => {
                let sender = spsc::Sender::<Hostile>::connect(socket, RING_BYTES, 0, end);
                sender.map(Half::RecordSender)
            }
            (Kind::Queue, Side::Receiver) => {
                let receiver = spsc::Receiver::<Hostile>::connect(socket, limits, 0, end);
                receiver.map(Half::RecordReceiver)
            }
        }
    }

    /// What it learns of its peer, which does nothing any more: whether that has detached, and how
    /// many records it had sent, or had released.
    fn finds_detached(self) -> Result<(bool, u64), String> {
        match self {
            Half::Receiver(mut receiver) => match receiver.recv_timeout(LIMIT) {
                Err(RecvError::Detached) => Ok((true, 0)),
                Err(RecvError::PeerDied) => Ok((false, 0)),
                other => Err(format!("received: {:?}", other.map(|message| message.len()))),
            },
            Half::Sender(mut sender) => {
                // As long as there is room it may be told nothing.
                let ends = (0..=RING_BYTES).find_map(|_| sender.send_timeout(&[7; 8], LIMIT).err());
                match ends {
                    Some(SendError::Detached) => Ok((true, 0)),
                    Some(SendError::PeerDied) => Ok((false, 0)),
                    other => Err(format!("sent: {other:?}")),
                }
            }
            Half::RecordReceiver(mut receiver) => loop {
                let number = receiver.received();
                match receiver.recv_deadline(Instant::now() + LIMIT) {
                    Ok(got) if *got == record(number) => {}
                    Err(spsc::RecvError::Detached) => return Ok((true, number)),
                    Err(spsc::RecvError::PeerDied) => return Ok((false, number)),
                    other => return Err(format!("received: {other:?}")),
                }
            },
            Half::RecordSender(mut sender) => loop {
                let number = sender.sent();
                match sender.send_deadline(&record(number), Instant::now() + LIMIT) {
                    Ok(()) => {}
                    Err(spsc::SendError::Detached) => return Ok((true, number)),
                    Err(spsc::SendError::PeerDied) => return Ok((false, number - ROOM)),
                    other => return Err(format!("sent: {other:?}")),
                }
            },
        }
    }

    /// Sends, or receives, as many records as there is room for.
    fn talk(&mut self, mut told: impl FnMut(u64)) {
        for number in 0..ROOM {
            match self {
                Half::RecordSender(sender) => {
                    assert!(sender.try_send(&record(number)).unwrap());
                }
                Half::RecordReceiver(receiver) => {
                    assert_eq!(*receiver.try_recv().unwrap().unwrap(), record(number));
                }
                _ => unreachable!("a stream's"),
            }
            told(number + 1);
        }
    }
}

type Survivor = JoinHandle<Result<Half, ConnectError>>;

struct World {
    before: Footprint,
    /// The doomed one's end, and who has the other.
    meeting: Option<(UnixStream, Survivor)>,
}

impl World {
    /// What became of the survivor, now that the doomed one is gone.
    fn end(&mut self) -> Result<Half, String> {
        let (socket, survivor) = self.meeting.take().ok_or("it has ended")?;
        drop(socket);
        let connected = survivor.join().map_err(|_| "the survivor panicked")?;
        connected.map_err(|error| error.to_string())
    }
}

impl Drop for World {
    /// Of a point that was missed: what it held is gone before the next one begins.
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl World {
    /// The survivor has a half of this kind, and says so first: this is the other end. A sender has
    /// sent records if there is something to talk about.
    fn new(kind: Kind, doomed: Side, talks: bool) -> World {
        let before = Footprint::now();
        let (ours, socket) = UnixStream::pair().unwrap();
        let side = if doomed == Side::Sender { Side::Receiver } else { Side::Sender };
        let survivor = std::thread::spawn(move || {
            let mut half = Half::connect(kind, side, ours)?;
            if let (true, Half::RecordSender(sender)) = (talks, &mut half) {
                // All at once: where the first is, all are.
                (0..ROOM).for_each(|number| assert_eq!(sender.push(&record(number)), Ok(true)));
                sender.flush().unwrap();
            }
            Ok(half)
        });
        // Its hello is there, and it waits for the other one.
        let mut there = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut there, None), Ok(1));
        World { before, meeting: Some((socket, survivor)) }
    }

    /// The doomed one's end of the socket.
    fn socket(&self) -> Option<UnixStream> {
        self.meeting.as_ref().map(|(socket, _)| socket.try_clone().unwrap())
    }
}

struct Connects {
    kind: Kind,
    doomed: Side,
    operations: &'static [&'static str],
}

impl Scenario for Connects {
    type World = World;
    type Doomed = (Option<UnixStream>, Option<Half>);

    fn name(&self) -> String {
        let kind = if self.kind == Kind::Stream { "stream" } else { "queue" };
        format!("hostile {kind}, {:?}::connect", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(self.kind, self.doomed, false)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        (world.socket(), None)
    }

    fn operate(&self, _: &World, (socket, half): &mut Self::Doomed, notes: &Notes) {
        *half = Some(Half::connect(self.kind, self.doomed, socket.take().unwrap()).unwrap());
        notes.set(TOLD, 1);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let died = ConnectError::Exchange(ExchangeError::PeerDied).to_string();
        match (world.end(), end) {
            (Ok(half), _) => {
                let (detached, _) = half.finds_detached()?;
                if detached != (end == End::Finished) {
                    return Err(format!("it {end:?}; has it detached? {detached}"));
                }
            }
            (Err(error), End::Killed) if error == died && notes.get(TOLD) == 0 => {}
            (Err(error), _) => return Err(format!("it {end:?}, and the survivor has: {error}")),
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

/// Three records are sent, or received, and then it leaves; or waits, in a set, for what does not
/// come, and then leaves.
struct Talks {
    doomed: Side,
    waits: bool,
    operations: &'static [&'static str],
}

impl Scenario for Talks {
    type World = World;
    type Doomed = Option<Half>;

    fn name(&self) -> String {
        let waits = if self.waits { ", waits" } else { "" };
        format!("hostile queue, a {:?} works{waits} and leaves", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(Kind::Queue, self.doomed, true)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<Half> {
        let socket = world.socket().unwrap();
        let mut half = Half::connect(Kind::Queue, self.doomed, socket).unwrap();
        if let Half::RecordReceiver(receiver) = &mut half {
            receiver.recv().unwrap().put_back();
        }
        Some(half)
    }

    fn operate(&self, _: &World, half: &mut Option<Half>, notes: &Notes) {
        half.as_mut().unwrap().talk(|number| notes.set(TOLD, number));
        if let (true, Some(Half::RecordReceiver(receiver))) = (self.waits, half.as_mut()) {
            let ready = WaitSet::new().wait(&mut [((), receiver)], Some(Instant::now()));
            assert!(ready.unwrap().is_empty(), "nothing has come");
        }
        *half = None;
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let (detached, done) = world.end()?.finds_detached()?;
        let told = notes.get(TOLD);
        if detached && told < ROOM || end == End::Finished && !detached {
            return Err(format!("it {end:?} after {told}; has it detached? {detached}"));
        }
        // To one that has left nothing is sent.
        let asked = self.doomed == Side::Sender || !detached;
        if asked && !(told..=told + 1).contains(&done) {
            return Err(format!("it was told of {told}, and there are {done}"));
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

#[test]
fn one_may_die_connecting_or_talking() {
    let connects = |kind, doomed, operations| Connects { kind, doomed, operations };
    for scenario in [
        connects(Kind::Stream, Side::Sender, &["shm_mq::stream::Sender::connect"]),
        connects(Kind::Stream, Side::Receiver, &["shm_mq::stream::Receiver::connect"]),
        connects(Kind::Queue, Side::Sender, &["shm_mq::spsc::Sender::connect"]),
        connects(Kind::Queue, Side::Receiver, &["shm_mq::spsc::Receiver::connect"]),
    ] {
        Run::new(&scenario).points(1000).kill().passes();
    }
    let (sends, receives): (&[&str], &[&str]) = (
        &["shm_mq::spsc::Sender::try_send", "shm_mq::spsc::Sender::drop"],
        &["shm_mq::spsc::Receiver::try_recv", "shm_mq::spsc::receiver::Held::drop"],
    );
    let waits: &[&str] = &["shm_mq::waitset::WaitSet::wait"];
    for (doomed, waits, operations) in [
        (Side::Sender, false, sends),
        (Side::Receiver, false, receives),
        (Side::Receiver, true, waits),
    ] {
        Run::new(&Talks { doomed, waits, operations }).points(1000).kill().passes();
    }
}
