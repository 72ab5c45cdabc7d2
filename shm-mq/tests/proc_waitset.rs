//! One who waits for many things at once is woken by each of them: by what arrives, by room, by a
//! death, by a time, by a descriptor; and not hindered by one who stands still.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "proc_common/peer.rs"]
#[allow(dead_code, reason = "nobody counts here")]
mod peer;
use dsm::backend::{self, Backend, Place};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::Hostile;
use shm_mq::fan_in::{Strange, Strangers, Why};
use shm_mq::spsc::{self, Limits, Queue, Receiver, RecvError};
use shm_mq::stream::{self, Stream};
use shm_mq::waitset::{Alarm, Descriptor, Interest, Source, WaitError, WaitSet};
use shm_mq::work::{WorkConfig, WorkQueue};
use shm_testkit::child::{Child, parent_says, tell_parent};
use shm_testkit::watchdog::within;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// So long nobody is late without a reason.
const SHORT: Duration = Duration::from_millis(30);
const SEATS: u32 = 16;
const RING_BYTES: u64 = 1024;
const STREAM_BYTES: u64 = 64;
const JOBS: WorkConfig = WorkConfig::new(4, 16);
/// More than one sleep can be on.
const QUEUES: u64 = 140;

const QUEUE_BYTES: u64 = Queue::bytes_for(RING_BYTES).next_multiple_of(64);
const QUEUES_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const STREAM_AT: u64 = QUEUES_AT + QUEUES * QUEUE_BYTES;
const JOBS_AT: u64 = (STREAM_AT + Stream::bytes_for(STREAM_BYTES)).next_multiple_of(128);
const BYTES: u64 = JOBS_AT + WorkQueue::bytes_for(&JOBS);

/// A table, queues, a stream and jobs in memory that children may have.
struct World {
    name: Option<String>,
    mapping: Arc<Mapping>,
    me: Arc<Member>,
}

impl World {
    /// For this process alone.
    fn private() -> World {
        World::made(None, Mapping::heap(BYTES as usize))
    }

    fn create() -> World {
        let name = shm_testkit::unique::name("waitset");
        let object = backend::create(&Place::new(Backend::Posix), &name, BYTES).unwrap();
        World::made(Some(name), object.mapping().clone())
    }

    fn made(name: Option<String>, mapping: Arc<Mapping>) -> World {
        // SAFETY: nobody else has the mapping.
        let me = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap().join().unwrap();
        for number in 0..QUEUES {
            // SAFETY: as above, and what stands before ends there.
            unsafe { Queue::create(&mapping, World::at(number), RING_BYTES, 0) }.unwrap();
        }
        // SAFETY: as above.
        unsafe { Stream::create(&mapping, STREAM_AT, STREAM_BYTES) }.unwrap();
        // SAFETY: as above.
        unsafe { WorkQueue::create(&mapping, JOBS_AT, &JOBS) }.unwrap();
        World { name, mapping, me }
    }

    fn attach(args: &[String]) -> World {
        let object = backend::open(&Place::new(Backend::Posix), &args[0]).unwrap().unwrap();
        let me = Table::attach(object.mapping(), 0).unwrap().join().unwrap();
        World { name: None, mapping: object.mapping().clone(), me }
    }

    const fn at(number: u64) -> u64 {
        QUEUES_AT + number * QUEUE_BYTES
    }

    fn queue(&self, number: u64) -> Queue {
        Queue::attach(&self.mapping, World::at(number), 0).unwrap()
    }

    fn receiver(&self, number: u64) -> Receiver {
        self.queue(number).receiver(&self.me).unwrap()
    }

    fn jobs(&self) -> WorkQueue {
        WorkQueue::attach(&self.mapping, JOBS_AT, 0).unwrap()
    }

    /// A child that sends to a queue when it is told to.
    fn child(&self, number: u64) -> Child {
        let name = self.name.as_ref().unwrap();
        let mut child = Child::spawn("sends_when_told", &[name, &number.to_string()]);
        assert_eq!(child.hear(LIMIT), "attached");
        child
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = backend::remove(&Place::new(Backend::Posix), name);
        }
    }
}

shm_testkit::children! { sends_when_told, stranger, takes_when_told, asks_nothing, forks }

fn sends_when_told(args: &[String]) {
    let world = World::attach(args);
    let mut sender = world.queue(args[1].parse().unwrap()).sender(&world.me).unwrap();
    tell_parent("attached");
    while parent_says() == "send" {
        sender.send(b"told").unwrap();
    }
}

/// As that, through a hostile queue.
fn stranger(args: &[String]) {
    let socket = peer::given(args, 0).into();
    let mut sender = spsc::Sender::<Hostile>::connect(socket, 1024, 0, None).unwrap();
    tell_parent("attached");
    while parent_says() == "send" {
        sender.send(b"told").unwrap();
    }
}

/// Takes a message of a hostile stream when it is told to.
fn takes_when_told(args: &[String]) {
    let socket = peer::given(args, 0).into();
    let limits = Limits::default();
    let mut receiver = stream::Receiver::<Hostile>::connect(socket, limits, None).unwrap();
    tell_parent("attached");
    while parent_says() == "take" {
        drop(receiver.recv().unwrap());
        // Who sleeps is told of it by who finds nothing more.
        let _ = receiver.try_recv();
        tell_parent("taken");
    }
}

/// Does something soon, while the caller waits.
fn soon<R>(act: impl FnOnce() + Send, wait: impl FnOnce() -> R) -> R {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            act();
        });
        within(LIMIT, wait)
    })
}

/// A descriptor on which nothing comes, and its other end.
fn silent() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

/// The keys of the ready ones of three queues, and of a descriptor if there is one.
fn wait(
    receivers: &mut [Receiver; 3],
    fd: Option<&UnixStream>,
    deadline: Option<Instant>,
) -> Vec<usize> {
    let mut fd = fd.map(|fd| Descriptor::new(fd.as_fd(), Interest::Readable));
    let mut sources: Vec<(usize, &mut dyn Source)> = Vec::new();
    for (number, receiver) in receivers.iter_mut().enumerate() {
        sources.push((number, receiver));
    }
    if let Some(fd) = &mut fd {
        sources.push((3, fd));
    }
    WaitSet::new().wait(&mut sources, deadline).unwrap()
}

#[test]
fn who_sleeps_is_woken_by_a_death() {
    for with_descriptor in [false, true] {
        let world = World::create();
        let mut children = [0, 1, 2].map(|number| world.child(number));
        let mut receivers = [0, 1, 2].map(|number| world.receiver(number));
        let (fd, _other) = silent();
        let fd = with_descriptor.then_some(&fd);
        let now = Some(Instant::now());
        assert_eq!(wait(&mut receivers, fd, now), [0_usize; 0], "nothing yet");
        let [_, doomed, _] = &mut children;
        let ready = soon(|| doomed.kill(), || wait(&mut receivers, fd, None));
        assert_eq!(ready, [1]);
        assert_eq!(receivers[1].try_recv().err(), Some(RecvError::PeerDied));
    }
}

#[test]
fn a_watched_one_that_dies_wakes() {
    let world = World::create();
    let mut child = world.child(0);
    let table = Table::attach(&world.mapping, 0).unwrap();
    let process = shm_core::process::ProcessId::of(child.pid()).unwrap();
    let all = table.snapshot();
    let id = all.iter().find(|one| one.process == process).unwrap().id;
    let mut watch = world.me.watch(id);
    let ready = soon(|| child.kill(), || WaitSet::new().wait(&mut [((), &mut watch)], None));
    assert_eq!(ready.unwrap().len(), 1);
    assert!(watch.is_dead());
}

#[test]
fn a_stopped_one_hinders_nobody() {
    let world = World::create();
    let mut children = [0, 1, 2].map(|number| world.child(number));
    let mut receivers = [0, 1, 2].map(|number| world.receiver(number));
    children[0].stop();
    for _ in 0..10 {
        let ready = soon(|| children[2].say("send"), || wait(&mut receivers, None, None));
        assert_eq!(ready, [2]);
        assert_eq!(*receivers[2].try_recv().unwrap().unwrap(), *b"told");
    }
    children[0].say("send");
    children[0].cont();
    assert_eq!(within(LIMIT, || wait(&mut receivers, None, None)), [0]);
}

/// A child that is a stranger, and our end of its queue.
fn a_stranger() -> (Child, Receiver<Hostile>) {
    let mut peer = peer::spawn("stranger", 0);
    let socket = peer.socket.take().unwrap();
    let connect = || Receiver::<Hostile>::connect(socket, Limits::default(), 0, None);
    let end = within(LIMIT, connect).unwrap();
    assert_eq!(peer.child.hear(LIMIT), "attached");
    (peer.child, end)
}

/// What is waited for together with strangers: a queue of one that is trusted (0), one of a
/// stranger (1), many strangers (2), a timer (3). Each end is told of once.
struct Mixed {
    trusting: Option<Receiver>,
    hostile: Option<Receiver<Hostile>>,
    strangers: Strangers<u32>,
    set: WaitSet,
}

impl Mixed {
    fn wait(&mut self, timeout: Duration) -> Vec<u32> {
        let mut timer = Alarm::at(Instant::now() + timeout);
        let mut sources: Vec<(u32, &mut dyn Source)> =
            vec![(2, &mut self.strangers), (3, &mut timer)];
        sources.extend(self.trusting.iter_mut().map(|end| (0, end as &mut dyn Source)));
        sources.extend(self.hostile.iter_mut().map(|end| (1, end as &mut dyn Source)));
        within(2 * LIMIT, || self.set.wait(&mut sources, None)).unwrap()
    }

    /// Takes what is ready: whether it is a record.
    fn take(&mut self, key: u32) -> bool {
        let told = match key {
            0 => self.trusting.as_mut().unwrap().try_recv().map(|record| record.unwrap().to_vec()),
            1 => self.hostile.as_mut().unwrap().try_recv().map(|record| record.unwrap().to_vec()),
            _ => match self.strangers.try_recv().unwrap().unwrap() {
                Strange::Record(_, record) => Ok(record.to_vec()),
                Strange::End { why, received, .. } => {
                    assert_eq!((why, received), (Why::Died, 3));
                    return false;
                }
            },
        };
        match told {
            Ok(record) => assert_eq!(record, b"told"),
            Err(end) => {
                assert_eq!(end, RecvError::PeerDied);
                self.trusting.take_if(|_| key == 0);
                self.hostile.take_if(|_| key == 1);
                return false;
            }
        }
        true
    }
}

#[test]
fn strangers_are_waited_for_beside_others() {
    let world = World::create();
    let mut children = vec![(0, world.child(0))];
    let (child, hostile) = a_stranger();
    children.push((1, child));
    let mut strangers = Strangers::new();
    for name in [20, 21] {
        let (child, end) = a_stranger();
        strangers.admit(name, end);
        children.push((2, child));
    }
    let (trusting, hostile, set) = (Some(world.receiver(0)), Some(hostile), WaitSet::new());
    let mut all = Mixed { trusting, hostile, strangers, set };
    assert_eq!(all.wait(SHORT), [3], "nobody says anything");
    for _ in 0..3 {
        for (key, child) in &mut children {
            assert_eq!(soon(|| child.say("send"), || all.wait(LIMIT)), [*key]);
            assert!(all.take(*key));
        }
    }
    assert_eq!(all.wait(SHORT), [3], "all is received");
    // One that stands still hinders nobody, and is no end.
    children[1].1.stop();
    assert_eq!(all.wait(SHORT), [3]);
    for (key, mut child) in children {
        assert_eq!(soon(|| child.kill(), || all.wait(LIMIT)), [key]);
        assert!(!all.take(key), "an end");
        assert_eq!(all.wait(SHORT), [3], "the others live");
    }
    assert!(all.strangers.is_empty());
}

#[test]
fn room_in_a_strangers_stream_is_waited_for_and_its_end() {
    let mut peer = peer::spawn("takes_when_told", 0);
    let socket = peer.socket.take().unwrap();
    let connect = || stream::Sender::<Hostile>::connect(socket, 64, None);
    let mut sender = within(LIMIT, connect).unwrap();
    assert_eq!(peer.child.hear(LIMIT), "attached");
    let mut set = WaitSet::new();
    let mut wait = |sender: &mut stream::Sender<Hostile>, deadline| {
        let ready = within(2 * LIMIT, || set.wait(&mut [((), &mut sender.space(56))], deadline));
        !ready.unwrap().is_empty()
    };
    for _ in 0..3 {
        assert!(wait(&mut sender, None));
        sender.try_send(&[1; 56]).unwrap();
        assert!(!wait(&mut sender, Some(Instant::now() + SHORT)), "it is full");
        assert!(soon(|| peer.child.say("take"), || wait(&mut sender, None)));
        // Or its second look takes the next one.
        assert_eq!(peer.child.hear(LIMIT), "taken");
    }
    sender.try_send(&[1; 56]).unwrap();
    assert!(soon(|| peer.child.kill(), || wait(&mut sender, None)));
    assert_eq!(sender.try_send(b"1"), Err(stream::SendError::PeerDied));
}

#[test]
fn a_descriptor_and_a_queue_at_once() {
    let world = World::private();
    let mut sender = world.queue(0).sender(&world.me).unwrap();
    let mut receivers = [0, 1, 2].map(|number| world.receiver(number));
    let (mut fd, mut other) = silent();
    // Both before the wait.
    sender.send(b"first").unwrap();
    other.write_all(b"1").unwrap();
    assert_eq!(wait(&mut receivers, Some(&fd), None), [0, 3]);
    assert_eq!(wait(&mut receivers, Some(&fd), None), [0, 3], "they still are");
    assert_eq!(*receivers[0].try_recv().unwrap().unwrap(), *b"first");
    assert_eq!(wait(&mut receivers, Some(&fd), None), [3]);
    fd.read_exact(&mut [0]).unwrap();
    // Either while it sleeps.
    for _ in 0..5 {
        let ready =
            soon(|| other.write_all(b"2").unwrap(), || wait(&mut receivers, Some(&fd), None));
        assert_eq!(ready, [3]);
        fd.read_exact(&mut [0]).unwrap();
        let ready =
            soon(|| sender.send(b"next").unwrap(), || wait(&mut receivers, Some(&fd), None));
        assert_eq!(ready, [0]);
        assert_eq!(*receivers[0].try_recv().unwrap().unwrap(), *b"next");
    }
    drop(other);
    assert_eq!(wait(&mut receivers, Some(&fd), None), [3], "its other side has gone");
}

#[test]
fn a_descriptor_is_ready_for_what_is_asked() {
    let (one, _other) = silent();
    for (interest, is_ready) in
        [(Interest::Readable, false), (Interest::Writable, true), (Interest::Both, true)]
    {
        let mut one = Descriptor::new(one.as_fd(), interest);
        let now = Some(Instant::now());
        let ready = WaitSet::new().wait(&mut [((), &mut one)], now).unwrap();
        assert_eq!(!ready.is_empty(), is_ready, "{interest:?}");
    }
}

#[test]
fn room_is_waited_for() {
    let world = World::private();
    let (mut sender, mut receiver) = (world.queue(0).sender(&world.me).unwrap(), world.receiver(0));
    while sender.try_send(&[1; 100]).unwrap() {}
    let now = Some(Instant::now());
    let mut set = WaitSet::new();
    assert!(set.wait(&mut [((), &mut sender.space(100))], now).unwrap().is_empty());
    let receives = || while receiver.try_recv().unwrap().is_some() {};
    soon(receives, || set.wait(&mut [((), &mut sender.space(100))], None)).unwrap();
    assert!(sender.try_send(&[1; 100]).unwrap());
    drop(receiver);
    assert_eq!(set.wait(&mut [((), &mut sender.space(1))], None).unwrap().len(), 1, "an end");
}

#[test]
fn streams_are_waited_for() {
    let world = World::private();
    let stream = Stream::attach(&world.mapping, STREAM_AT).unwrap();
    let mut receiver = stream.receiver(&world.me).unwrap();
    let mut sender = Stream::attach(&world.mapping, STREAM_AT).unwrap().sender(&world.me).unwrap();
    let mut set = WaitSet::new();
    soon(|| sender.send(&[1; 56]).unwrap(), || set.wait(&mut [((), &mut receiver)], None)).unwrap();
    let now = Some(Instant::now());
    assert!(set.wait(&mut [((), &mut sender.space(8))], now).unwrap().is_empty(), "it is full");
    let receives = || {
        assert_eq!(receiver.recv().unwrap().len(), 56);
        assert_eq!(receiver.try_recv().err(), Some(stream::RecvError::WouldBlock));
    };
    soon(receives, || set.wait(&mut [((), &mut sender.space(56))], None)).unwrap();
    sender.try_send(&[1; 56]).unwrap();
    receiver.recv().unwrap();
    drop(sender);
    assert_eq!(set.wait(&mut [((), &mut receiver)], None).unwrap().len(), 1);
    assert_eq!(receiver.try_recv().err(), Some(stream::RecvError::Detached));
}

#[test]
fn jobs_are_waited_for_and_come_back_from_the_dead() {
    let world = World::private();
    let (mut producer, mut worker) =
        (world.jobs().producer(&world.me).unwrap(), world.jobs().worker(&world.me).unwrap());
    let mut set = WaitSet::new();
    soon(
        || assert!(producer.try_send(b"job").unwrap()),
        || set.wait(&mut [((), &mut worker)], None),
    )
    .unwrap();
    // One that holds it leaves its seat, and the job.
    let other = Table::attach(&world.mapping, 0).unwrap().join().unwrap();
    std::mem::forget(world.jobs().worker(&other).unwrap().try_claim().unwrap().unwrap());
    let now = Some(Instant::now());
    assert!(set.wait(&mut [((), &mut worker)], now).unwrap().is_empty());
    soon(move || drop(other), || set.wait(&mut [((), &mut worker)], None)).unwrap();
    worker.try_claim().unwrap().unwrap().nack(SHORT).unwrap();
    // It is not due yet.
    assert_eq!(set.wait(&mut [((), &mut worker)], None).unwrap().len(), 1);
    worker.try_claim().unwrap().unwrap().ack().unwrap();
    for _ in 0..4 {
        assert_eq!(set.wait(&mut [((), &mut producer)], None).unwrap().len(), 1);
        assert!(producer.try_send(b"job").unwrap());
    }
    let now = Some(Instant::now());
    assert!(set.wait(&mut [((), &mut producer)], now).unwrap().is_empty(), "no slot is free");
}

#[test]
fn more_than_one_sleep_can_be_on() {
    let world = World::private();
    let mut receivers: Vec<_> = (0..QUEUES).map(|number| world.receiver(number)).collect();
    let senders =
        [0, 77, QUEUES - 1].map(|number| (number, world.queue(number).sender(&world.me).unwrap()));
    let mut set = WaitSet::new();
    for (number, mut sender) in senders {
        let mut sources: Vec<(u64, &mut dyn Source)> = Vec::new();
        for (number, receiver) in (0..).zip(&mut receivers) {
            sources.push((number, receiver));
        }
        let ready = soon(
            || {
                sender.send(b"one").unwrap();
                std::mem::forget(sender);
            },
            || set.wait(&mut sources, None),
        );
        assert_eq!(ready.unwrap(), [number]);
        drop(receivers[number as usize].try_recv().unwrap().unwrap());
    }
}

#[test]
fn times_end_a_wait() {
    let (mut set, (fd, _other)) = (WaitSet::new(), silent());
    let before = Instant::now();
    let mut alarm = Alarm::at(before + SHORT);
    let mut fd = Descriptor::new(fd.as_fd(), Interest::Readable);
    let ready = set.wait(&mut [(1, &mut alarm), (2, &mut fd)], None).unwrap();
    assert!(ready == [1] && before.elapsed() >= SHORT);
    alarm = Alarm::never();
    let deadline = Instant::now() + SHORT;
    let ready = set.wait(&mut [(1, &mut alarm), (2, &mut fd)], Some(deadline)).unwrap();
    assert!(ready.is_empty() && Instant::now() >= deadline);
    let forever = set.wait(&mut [((), &mut alarm)], None);
    assert!(matches!(forever, Err(WaitError::Nothing)), "{forever:?}");
}

/// While there is something to receive no system call is made: the kernel would end the thread.
fn asks_nothing(args: &[String]) {
    let world = World::attach(args);
    let mut senders = [0, 1].map(|number| world.queue(number).sender(&world.me).unwrap());
    let mut told = world.queue(2).sender(&world.me).unwrap();
    let mut receivers = [0, 1].map(|number| world.receiver(number));
    let mut set = WaitSet::new();
    let mut rounds = |count: usize| {
        for round in 0..count {
            senders[round % 2].send(b"message").unwrap();
            let [one, other] = &mut receivers;
            let ready = set.wait(&mut [(0, one), (1, other)], None).unwrap();
            assert_eq!(ready, [round % 2]);
            drop(receivers[round % 2].try_recv().unwrap().unwrap());
        }
    };
    rounds(100);
    // SAFETY: from here on this thread may read, write and end.
    let strict = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
    if strict == 0 {
        rounds(100_000);
    }
    // Nor does this, to a receiver that does not sleep.
    let what = if strict == 0 { "none" } else { "not run: no strict mode" };
    told.send(what.as_bytes()).unwrap();
    loop {
        std::hint::spin_loop();
    }
}

/// What a child says of its system calls, unless it ends at one.
fn system_calls() -> Option<String> {
    let world = World::create();
    let mut child = Child::spawn("asks_nothing", &[world.name.as_ref().unwrap()]);
    let (mut receiver, end) = (world.receiver(2), Instant::now() + LIMIT / 4);
    let mut told = None;
    while told.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
        let record = receiver.try_recv().unwrap();
        told = record.map(|told| String::from_utf8_lossy(&told).into_owned());
    }
    child.kill();
    told
}

/// Now and then the kernel is asked whether a peer lives: on a busy machine that may come then.
#[test]
fn who_keeps_up_makes_no_system_call() {
    let told = (0..5).find_map(|_| system_calls()).expect("one of five makes none");
    println!("system calls of 100,000 messages: {told}");
}

/// A child has a set of its own, with a bell of its own; the queues are its parent's.
fn forks(args: &[String]) {
    let world = World::attach(args);
    let (mut receiver, (fd, mut other)) = (world.receiver(0), silent());
    let mut set = WaitSet::new();
    let mut fd = Descriptor::new(fd.as_fd(), Interest::Readable);
    let now = Some(Instant::now());
    assert!(set.wait(&mut [(0, &mut receiver), (1, &mut fd)], now).unwrap().is_empty());
    // SAFETY: the child only does what follows.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = set.wait(&mut [(0, &mut receiver), (1, &mut fd)], None).unwrap() == [0]
            && receiver.try_recv().err() == Some(RecvError::Forked);
        let mut word = Asleep(shm_core::event::EventCount::new());
        let now = Some(Instant::now() + SHORT);
        let own = set.wait(&mut [(0, &mut word), (1, &mut fd)], now).unwrap().is_empty();
        std::mem::forget((receiver, world));
        // SAFETY: ends the process.
        unsafe { libc::_exit(if refused && own { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    other.write_all(b"1").unwrap();
    assert_eq!(set.wait(&mut [(0, &mut receiver), (1, &mut fd)], None).unwrap(), [1]);
}

/// Never ready.
struct Asleep(shm_core::event::EventCount);

impl Source for Asleep {
    fn is_ready(&mut self) -> bool {
        false
    }

    fn bed(&self) -> Option<&shm_core::event::EventCount> {
        Some(&self.0)
    }
}

#[test]
fn a_forked_child_waits_by_itself() {
    let world = World::create();
    let mut child = Child::spawn("forks", &[world.name.as_ref().unwrap()]);
    child.wait(LIMIT).assert_success();
}
