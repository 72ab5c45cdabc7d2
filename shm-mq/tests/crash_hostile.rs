//! Either side of a hostile stream is killed at each instruction of `connect`, while the other one
//! connects to it: that one has a stream whose peer has died, or an error, in bounded time, and
//! holds nothing more than before: no descriptor, no memory, no thread.
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
use shm_mq::stream::{ConnectError, Limits, Receiver, RecvError, SendError, Sender};
use shm_testkit::fault::Footprint;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Instant;

#[global_allocator]
static HEAP: Heap = Heap;

const RING_BYTES: u64 = 256;
/// In the notes: the doomed one was told that it is connected.
const CONNECTED: usize = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Sender,
    Receiver,
}

enum Half {
    Sender(Sender<Hostile>),
    Receiver(Receiver<Hostile>),
}

impl Half {
    fn connect(side: Side, socket: UnixStream) -> Result<Half, ConnectError> {
        let end = Some(Instant::now() + LIMIT);
        match side {
            Side::Sender => Sender::<Hostile>::connect(socket, RING_BYTES, end).map(Half::Sender),
            Side::Receiver => {
                Receiver::<Hostile>::connect(socket, Limits::default(), end).map(Half::Receiver)
            }
        }
    }

    /// What it learns of its peer, which does nothing; whether that has detached.
    fn finds_detached(self) -> Result<bool, String> {
        match self {
            Half::Receiver(mut receiver) => match receiver.recv_timeout(LIMIT) {
                Err(RecvError::Detached) => Ok(true),
                Err(RecvError::PeerDied) => Ok(false),
                other => Err(format!("received: {:?}", other.map(|message| message.len()))),
            },
            Half::Sender(mut sender) => {
                // As long as there is room it may be told nothing.
                let ends = (0..=RING_BYTES).find_map(|_| sender.send_timeout(&[7; 8], LIMIT).err());
                match ends {
                    Some(SendError::Detached) => Ok(true),
                    Some(SendError::PeerDied) => Ok(false),
                    other => Err(format!("sent: {other:?}")),
                }
            }
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

struct Connects {
    doomed: Side,
    operations: &'static [&'static str],
}

impl Scenario for Connects {
    type World = World;
    type Doomed = (Option<UnixStream>, Option<Half>);

    fn name(&self) -> String {
        format!("hostile stream, {:?}::connect", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let before = Footprint::now();
        let (ours, socket) = UnixStream::pair().unwrap();
        let side = if self.doomed == Side::Sender { Side::Receiver } else { Side::Sender };
        let survivor = std::thread::spawn(move || Half::connect(side, ours));
        // Its hello is there, and it waits for the other one.
        let mut there = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut there, None), Ok(1));
        World { before, meeting: Some((socket, survivor)) }
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        (world.meeting.as_ref().map(|(socket, _)| socket.try_clone().unwrap()), None)
    }

    fn operate(&self, _: &World, (socket, half): &mut Self::Doomed, notes: &Notes) {
        *half = Some(Half::connect(self.doomed, socket.take().unwrap()).unwrap());
        notes.set(CONNECTED, 1);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let died = ConnectError::Exchange(ExchangeError::PeerDied).to_string();
        match (world.end(), end) {
            (Ok(half), _) => {
                let detached = half.finds_detached()?;
                if detached != (end == End::Finished) {
                    return Err(format!("it {end:?}; has it detached? {detached}"));
                }
            }
            (Err(error), End::Killed) if error == died && notes.get(CONNECTED) == 0 => {}
            (Err(error), _) => return Err(format!("it {end:?}, and the survivor has: {error}")),
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

#[test]
fn one_may_die_connecting() {
    let scenarios = [
        Connects { doomed: Side::Sender, operations: &["shm_mq::stream::Sender::connect"] },
        Connects { doomed: Side::Receiver, operations: &["shm_mq::stream::Receiver::connect"] },
    ];
    for scenario in scenarios {
        Run::new(&scenario).points(1000).kill().passes();
    }
}
