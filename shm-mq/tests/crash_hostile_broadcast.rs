//! A publisher that trusts nobody, or a subscriber of it, is killed at each instruction of meeting
//! the other one, of publishing, receiving, waiting, and leaving, the publisher also of admitting,
//! expelling, and asking who has ended: the other one has what was acknowledged, and learns how it
//! ended, or has an error, in bounded time; and holds nothing more than before: no descriptor, no
//! memory, no thread.
//!
//! The survivor said its hello before, as in `crash_hostile.rs`.
//!
//! One test, for it looks at all that this process holds.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::sealed::ExchangeError;
use shm_mq::broadcast::{
    BroadcastConfig, ConnectError, Ended, Guest, Invitation, Lapped, Limits, PublishError,
    RecvError, Start, StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_testkit::fault::Footprint;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[global_allocator]
static HEAP: Heap = Heap;

/// No wait of these tests takes so long unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_millis(400);
/// In the notes: the doomed one was told that it has met the other; or how many records were
/// published or received; or how many calls were over.
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

fn publisher(subscribers: u32) -> (StrangePublisher<u32>, Invitation) {
    // Nothing is to be written over: there is a cell for each.
    StrangePublisher::new(&BroadcastConfig::lossless(RECORDS as u32, 40, subscribers)).unwrap()
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

fn subscribe(socket: UnixStream) -> Result<StrangeSubscriber, ConnectError> {
    StrangeSubscriber::connect(socket, Limits::default(), HOW, 0, end())
}

impl Half {
    fn connect(side: Side, socket: UnixStream) -> Result<Half, ConnectError> {
        if side == Side::Publisher {
            let (publisher, invitation) = publisher(1);
            return Ok(admit(publisher, invitation.meet(socket, end())?));
        }
        subscribe(socket).map(Half::Subscriber)
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

    /// The same in calls that wait, and then waits so long for what does not come.
    fn talk_and_wait(&mut self, nap: Duration, mut told: impl FnMut(u64)) {
        for number in 0..=RECORDS {
            let until = Instant::now() + if number < RECORDS { LIMIT } else { nap };
            let is_over = match self {
                Half::Publisher(publisher) => {
                    let published = publisher.publish(&record(number), Some(until));
                    published == Err(PublishError::TimedOut)
                }
                Half::Subscriber(subscriber) => {
                    let found = match number {
                        0 => subscriber.recv(),
                        _ => subscriber.recv_deadline(until),
                    };
                    assert!(number == RECORDS || found == Ok((number, &record(number)[..])));
                    found == Err(RecvError::TimedOut)
                }
            };
            assert_eq!(is_over, number == RECORDS);
            told((number + 1).min(RECORDS));
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
            Half::Subscriber(subscriber) => finds(subscriber),
        }
    }
}

fn finds(mut subscriber: StrangeSubscriber) -> Result<(bool, u64), String> {
    loop {
        match subscriber.recv_deadline(Instant::now() + LIMIT) {
            Ok((number, bytes)) if *bytes == record(number) => {}
            Err(RecvError::Detached) => return Ok((true, subscriber.position())),
            Err(RecvError::PublisherDied) => return Ok((false, subscriber.position())),
            other => return Err(format!("received: {other:?}")),
        }
    }
}

type Survivor<S> = JoinHandle<Result<S, ConnectError>>;

struct World<S = Half> {
    before: Footprint,
    /// The doomed one's ends, and who has the others.
    meeting: Option<(Vec<UnixStream>, Survivor<S>)>,
}

impl World {
    /// The survivor says its hello first: this is the other end. A publisher publishes all if there
    /// is something to talk about.
    fn new(doomed: Side, talks: bool) -> World {
        let side = if doomed == Side::Publisher { Side::Subscriber } else { Side::Publisher };
        World::with([()], move |[ours]| {
            let mut half = Half::connect(side, ours)?;
            if let (true, Half::Publisher(_)) = (talks, &half) {
                half.talk(|_| ());
            }
            Ok(half)
        })
    }
}

impl<S: Send + 'static> World<S> {
    /// The survivor has so many ends, and says its hello by the first one.
    fn with<const N: usize>(
        count: [(); N],
        survivor: impl FnOnce([UnixStream; N]) -> Result<S, ConnectError> + Send + 'static,
    ) -> World<S> {
        let before = Footprint::now();
        let mut sockets = Vec::new();
        let ours = count.map(|()| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            sockets.push(theirs);
            ours
        });
        let survivor = std::thread::spawn(move || survivor(ours));
        // Its hello is there, and it waits for the other one.
        let mut there = [rustix::event::PollFd::new(&sockets[0], rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut there, None), Ok(1));
        World { before, meeting: Some((sockets, survivor)) }
    }
}

impl<S> World<S> {
    /// The doomed one's ends of the sockets.
    fn sockets(&self) -> Vec<UnixStream> {
        let (sockets, _) = self.meeting.as_ref().unwrap();
        sockets.iter().map(|socket| socket.try_clone().unwrap()).collect()
    }

    fn socket(&self) -> UnixStream {
        self.sockets().remove(0)
    }

    /// What became of the survivor, now that the doomed one is gone.
    fn end(&mut self) -> Result<S, String> {
        let (sockets, survivor) = self.meeting.take().ok_or("it has ended")?;
        drop(sockets);
        let connected = survivor.join().map_err(|_| "the survivor panicked")?;
        connected.map_err(|error| error.to_string())
    }
}

impl<S> Drop for World<S> {
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
        let publisher = (self.doomed == Side::Publisher).then(|| publisher(1));
        Meeting { socket: Some(world.socket()), publisher, met: None }
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
    /// So long it waits besides for what does not come, if it waits.
    nap: Option<Duration>,
}

impl Scenario for Talks {
    type World = World;
    type Doomed = Option<Half>;

    fn name(&self) -> String {
        let waits = if self.nap.is_some() { ", waits" } else { "" };
        format!("hostile broadcast, a {:?} works{waits} and leaves", self.doomed)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(self.doomed, true)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<Half> {
        let half = Half::connect(self.doomed, world.socket()).unwrap();
        let is_ready = || match &half {
            // It holds us back once it has begun.
            Half::Publisher(publisher) => publisher.lags().next().is_some(),
            // All are there once one can be received; this one says nothing of what it reads.
            Half::Subscriber(subscriber) => subscriber.published() == RECORDS,
        };
        let late = Instant::now() + LIMIT;
        while !is_ready() && Instant::now() < late {
            std::thread::yield_now();
        }
        Some(half)
    }

    fn operate(&self, _: &World, half: &mut Option<Half>, notes: &Notes) {
        let mut half = half.take().unwrap();
        let told = |number| notes.set(TOLD, number);
        match self.nap {
            Some(nap) => half.talk_and_wait(nap, told),
            None => half.talk(told),
        }
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

/// A publisher admits two, tells of the end of a third one, expels one, publishes, and leaves.
struct Keeps;

impl Scenario for Keeps {
    type World = World<[StrangeSubscriber; 2]>;
    type Doomed = (Option<StrangePublisher<u32>>, Vec<Guest>);

    fn name(&self) -> String {
        "hostile broadcast, a Publisher admits, expels and leaves".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "shm_mq::broadcast::StrangePublisher::admit",
            "shm_mq::broadcast::StrangePublisher::next_end",
            "shm_mq::broadcast::StrangePublisher::expel",
        ]
    }

    fn world(&self) -> Self::World {
        World::with([(); 4], |[gone, first, second, mut ready]| {
            drop(subscribe(gone)?);
            let stay = [subscribe(first)?, subscribe(second)?];
            ready.write_all(&[1]).unwrap();
            Ok(stay)
        })
    }

    fn prepare(&self, world: &Self::World, _: &Notes) -> Self::Doomed {
        let (mut publisher, invitation) = publisher(3);
        let mut sockets = world.sockets();
        let mut ready = sockets.pop().unwrap();
        let guests = sockets.into_iter().map(|socket| invitation.meet(socket, end()).unwrap());
        let mut guests: Vec<Guest> = guests.collect();
        assert!(publisher.admit(0, guests.remove(0)).is_ok());
        ready.read_exact(&mut [0]).unwrap();
        (Some(publisher), guests)
    }

    fn operate(&self, _: &Self::World, (publisher, guests): &mut Self::Doomed, notes: &Notes) {
        let mut publisher = publisher.take().unwrap();
        for (key, guest) in (1..).zip(guests.drain(..)) {
            assert!(publisher.admit(key, guest).is_ok());
            notes.count(TOLD);
        }
        let gone = Ended { key: 0, why: Why::Left, position: 0 };
        assert_eq!(publisher.next_end(), Some(gone));
        notes.count(TOLD);
        assert_eq!(publisher.expel(|key, _| *key == 2), [2]);
        notes.count(TOLD);
        assert!(publisher.try_publish(&record(0)).unwrap());
        notes.count(TOLD);
        assert_eq!((publisher.next_end(), publisher.len()), (None, 1));
    }

    fn image(&self, _: &Self::World) -> Vec<u8> {
        Vec::new()
    }

    /// Who was expelled has the memory still, and so both find the same.
    fn check(&self, mut world: Self::World, notes: &Notes, end: End) -> Result<(), String> {
        let (subscribers, told) = (world.end()?, notes.get(TOLD));
        for subscriber in subscribers {
            let (has_left, records) = finds(subscriber)?;
            let is_true = if has_left { told == 5 } else { end == End::Killed };
            if !is_true || !(told / 5..=u64::from(told >= 4)).contains(&records) {
                return Err(format!("it {end:?} after {told}; left: {has_left}, of {records}"));
            }
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

#[test]
fn one_may_die_meeting_talking_or_waiting() {
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
        let scenario = Talks { doomed, operations, nap: None };
        Run::new(&scenario).points(1000).kill().passes();
    }
    let (publishes, receives): (&[&str], &[&str]) = (
        &["shm_mq::broadcast::StrangePublisher::publish"],
        &[
            "shm_mq::broadcast::StrangeSubscriber::recv",
            "shm_mq::broadcast::StrangeSubscriber::recv_deadline",
        ],
    );
    for (doomed, operations) in [(Side::Publisher, publishes), (Side::Subscriber, receives)] {
        let scenario = Talks { doomed, operations, nap: Some(Duration::ZERO) };
        Run::new(&scenario).points(1000).kill().passes();
        Run::new(&Talks { nap: Some(NAP), ..scenario }).asleep().passes();
    }
    Run::new(&Keeps).points(1000).kill().passes();
}
