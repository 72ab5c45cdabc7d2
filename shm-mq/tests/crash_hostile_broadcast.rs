//! A publisher that trusts nobody, or a subscriber of it, is killed at each instruction of meeting
//! the other one, of publishing, receiving, and leaving: the other one has what was acknowledged,
//! and learns how it ended, or has an error, in bounded time; and holds nothing more than before:
//! no descriptor, no memory, no thread.
//!
//! The survivor said its hello before, as in `crash_hostile.rs`.
//!
//! One test, for it looks at all that this process holds.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::sealed::ExchangeError;
use shm_mq::broadcast::{
    BroadcastConfig, ConnectError, Guest, Invitation, Lapped, Limits, RecvError, Start,
    StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_testkit::fault::Footprint;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[global_allocator]
static HEAP: Heap = Heap;

/// No wait of these tests takes so long unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// In the notes: the doomed one was told that it has met the other; or how many records were
/// published or received.
const TOLD: usize = 0;
const RECORDS: u64 = 3;
const HOW: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Publisher,
    Subscriber,
}

fn record(number: u64) -> [u8; 40] {
    [number as u8 + 1; 40]
}

fn publisher() -> (StrangePublisher<u32>, Invitation) {
    // Nothing is to be written over: there is a cell for each.
    StrangePublisher::new(&BroadcastConfig::lossless(RECORDS as u32, 40, 1)).unwrap()
}

fn end() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

enum Half {
    Publisher(StrangePublisher<u32>),
    Subscriber(StrangeSubscriber),
}

fn admit(mut publisher: StrangePublisher<u32>, guest: Guest) -> Half {
    assert!(publisher.admit(7, guest).is_ok());
    Half::Publisher(publisher)
}

impl Half {
    fn connect(side: Side, socket: UnixStream) -> Result<Half, ConnectError> {
        if side == Side::Publisher {
            let (publisher, invitation) = publisher();
            return Ok(admit(publisher, invitation.meet(socket, end())?));
        }
        StrangeSubscriber::connect(socket, Limits::default(), HOW, 0, end()).map(Half::Subscriber)
    }

    /// Publishes, or receives, all records, and says so each time.
    fn talk(&mut self, mut told: impl FnMut(u64)) {
        for number in 0..RECORDS {
            match self {
                Half::Publisher(publisher) if number == 0 => {
                    publisher.publish(&record(number), None).unwrap();
                }
                Half::Publisher(publisher) => {
                    assert!(publisher.try_publish(&record(number)).unwrap());
                }
                Half::Subscriber(subscriber) => {
                    let found = subscriber.try_recv().unwrap().unwrap();
                    assert_eq!(found, (number, &record(number)[..]));
                }
            }
            told(number + 1);
        }
    }

    /// What it learns of the other one, which does nothing any more: whether that has left, and how
    /// many records it had published, or had received.
    fn finds(self) -> Result<(bool, u64), String> {
        match self {
            Half::Publisher(mut publisher) => {
                let late = Instant::now() + LIMIT;
                while Instant::now() < late {
                    if let Some(end) = publisher.next_end() {
                        return Ok((end.why == Why::Left, end.position));
                    }
                }
                Err("its end is not told".into())
            }
            Half::Subscriber(mut subscriber) => loop {
                match subscriber.recv_deadline(Instant::now() + LIMIT) {
                    Ok((number, bytes)) if *bytes == record(number) => {}
                    Err(RecvError::Detached) => return Ok((true, subscriber.position())),
                    Err(RecvError::PublisherDied) => return Ok((false, subscriber.position())),
                    other => return Err(format!("received: {other:?}")),
                }
            },
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
    /// The survivor says its hello first: this is the other end. A publisher publishes all if there
    /// is something to talk about.
    fn new(doomed: Side, talks: bool) -> World {
        let before = Footprint::now();
        let (ours, socket) = UnixStream::pair().unwrap();
        let side = if doomed == Side::Publisher { Side::Subscriber } else { Side::Publisher };
        let survivor = std::thread::spawn(move || {
            let mut half = Half::connect(side, ours)?;
            if let (true, Half::Publisher(_)) = (talks, &half) {
                half.talk(|_| ());
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

/// One meets the other.
struct Meets {
    doomed: Side,
    operations: &'static [&'static str],
}

/// What a doomed one has that meets another.
#[derive(Default)]
struct Meeting {
    socket: Option<UnixStream>,
    publisher: Option<(StrangePublisher<u32>, Invitation)>,
    met: Option<Half>,
}

impl Scenario for Meets {
    type World = World;
    type Doomed = Meeting;

    fn name(&self) -> String {
        format!("hostile broadcast, a {:?} meets the other side", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(self.doomed, false)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Meeting {
        let publisher = (self.doomed == Side::Publisher).then(publisher);
        Meeting { socket: world.socket(), publisher, met: None }
    }

    fn operate(&self, _: &World, doomed: &mut Meeting, notes: &Notes) {
        let socket = doomed.socket.take().unwrap();
        doomed.met = Some(match doomed.publisher.take() {
            Some((publisher, invitation)) => {
                admit(publisher, invitation.meet(socket, end()).unwrap())
            }
            None => Half::connect(Side::Subscriber, socket).unwrap(),
        });
        notes.set(TOLD, 1);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let died = ConnectError::Exchange(ExchangeError::PeerDied).to_string();
        match (world.end(), end) {
            (Ok(half), _) => {
                let (has_left, records) = half.finds()?;
                if has_left != (end == End::Finished) || records > 0 {
                    return Err(format!("it {end:?}; left: {has_left}, of {records} records"));
                }
            }
            (Err(error), End::Killed) if error == died && notes.get(TOLD) == 0 => {}
            (Err(error), _) => return Err(format!("it {end:?}, and the survivor has: {error}")),
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

/// All records are published, or received, and then it leaves.
struct Talks {
    doomed: Side,
    operations: &'static [&'static str],
}

impl Scenario for Talks {
    type World = World;
    type Doomed = Option<Half>;

    fn name(&self) -> String {
        format!("hostile broadcast, a {:?} works and leaves", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(self.doomed, true)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<Half> {
        let mut half = Half::connect(self.doomed, world.socket().unwrap()).unwrap();
        if let Half::Subscriber(subscriber) = &mut half {
            // All are there once one can be received; this one says nothing of what it reads.
            let late = Instant::now() + LIMIT;
            while subscriber.published() < RECORDS && Instant::now() < late {
                std::thread::yield_now();
            }
        }
        Some(half)
    }

    fn operate(&self, _: &World, half: &mut Option<Half>, notes: &Notes) {
        half.as_mut().unwrap().talk(|number| notes.set(TOLD, number));
        *half = None;
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        let (has_left, done) = world.end()?.finds()?;
        let told = notes.get(TOLD);
        if has_left && told < RECORDS || end == End::Finished && !has_left {
            return Err(format!("it {end:?} after {told}; has it left? {has_left}"));
        }
        if !(told..=told + 1).contains(&done) {
            return Err(format!("it was told of {told}, and there are {done}"));
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

#[test]
fn one_may_die_meeting_or_talking() {
    let (meets, connects): (&[&str], &[&str]) = (
        &["shm_mq::broadcast::Invitation::meet"],
        &["shm_mq::broadcast::StrangeSubscriber::connect"],
    );
    for (doomed, operations) in [(Side::Publisher, meets), (Side::Subscriber, connects)] {
        Run::new(&Meets { doomed, operations }).points(1000).kill().passes();
    }
    let (publishes, receives): (&[&str], &[&str]) = (
        &[
            "shm_mq::broadcast::StrangePublisher::publish",
            "shm_mq::broadcast::StrangePublisher::try_publish",
            "shm_mq::broadcast::StrangePublisher::drop",
        ],
        &[
            "shm_mq::broadcast::StrangeSubscriber::try_recv",
            "shm_mq::broadcast::StrangeSubscriber::drop",
        ],
    );
    for (doomed, operations) in [(Side::Publisher, publishes), (Side::Subscriber, receives)] {
        Run::new(&Talks { doomed, operations }).points(1000).kill().passes();
    }
}
