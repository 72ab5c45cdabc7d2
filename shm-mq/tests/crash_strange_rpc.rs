//! A client, or a server, of calls among strangers is killed at each instruction of `connect`, and
//! of asking, cancelling, reading, taking and answering: the other one finds what was acknowledged,
//! learns of the end, and holds nothing more than before.
//!
//! The survivor has done its part before: what the doomed one does is the same each time.
//!
//! One test, for it looks at all that this process holds.
#![cfg(not(any(shm_loom, shm_explore)))]
mod strange_rpc_common;

use shm_core::sealed::ExchangeError;
use shm_core::trust::Hostile;
use shm_mq::fan_in::Why;
use shm_mq::rpc::strangers::{
    CallId, Connection, Event, StrangeClient, StrangeConfig, StrangeError, StrangeServer,
};
use shm_mq::spsc::{ConnectError, Limits, Receiver, RecvError, SendError, Sender};
use shm_testkit::fault::Footprint;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;
use strange_rpc_common::{LIMIT, sockets};

#[global_allocator]
static HEAP: Heap = Heap;

/// In the notes: how far the doomed one was told that it is.
const TOLD: usize = 0;
/// Points of an operation that may not be reached.
const MISSED_MAX: usize = 10;

fn config() -> StrangeConfig {
    StrangeConfig { calls: 8, ..strange_rpc_common::config() }
}

fn end() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

/// A survivor at work, and the doomed one's ends of what leads to it.
struct World<S> {
    before: Footprint,
    meeting: Option<(Vec<UnixStream>, JoinHandle<S>)>,
}

impl<S: Send + 'static> World<S> {
    /// The survivor has its two sockets, and one to say on that it has done its part.
    fn new(survivor: impl FnOnce([UnixStream; 2], UnixStream) -> S + Send + 'static) -> World<S> {
        let before = Footprint::now();
        let (ours, [requests, answers]) = sockets();
        let (ready, says_ready) = UnixStream::pair().unwrap();
        let survivor = std::thread::spawn(move || survivor(ours, says_ready));
        World { before, meeting: Some((vec![requests, answers, ready], survivor)) }
    }

    /// One of the doomed one's ends.
    fn socket(&self, index: usize) -> UnixStream {
        self.meeting.as_ref().unwrap().0[index].try_clone().unwrap()
    }

    fn sockets(&self) -> [UnixStream; 2] {
        [0, 1].map(|index| self.socket(index))
    }

    fn waits_until_ready(&self) {
        self.socket(2).read_exact(&mut [0]).unwrap();
    }

    /// What became of the survivor, now that the doomed one is gone.
    fn end(&mut self) -> Result<S, String> {
        let (sockets, survivor) = self.meeting.take().ok_or("it has ended")?;
        drop(sockets);
        survivor.join().map_err(|_| "the survivor panicked".to_owned())
    }
}

impl<S> Drop for World<S> {
    /// Of a point that was missed: what it held is gone before the next one begins.
    fn drop(&mut self) {
        if let Some((sockets, survivor)) = self.meeting.take() {
            drop(sockets);
            let _ = survivor.join();
        }
    }
}

/// What the survivor of a `connect` has: the end of each of the two queues.
type Ends = [Result<RecvError, ConnectError>; 2];

/// Says both its hellos at once, and what it learns of the other side by each queue. It never says
/// that it sleeps before the other side is gone.
fn meets([requests, answers]: [UnixStream; 2], is_server: bool) -> Ends {
    let (limits, ring_bytes) = (Limits::default(), 1024);
    let (says_gone, gone) = mpsc::channel::<()>();
    let writes = move |socket: UnixStream| {
        let mut sender = Sender::<Hostile>::connect(socket, ring_bytes, 0, end())?;
        if is_server {
            let hello = [1_u64 << 8 | 1, 8].map(u64::to_ne_bytes).concat();
            let _ = sender.try_send(&hello);
        }
        let _ = gone.recv();
        // Once there is no room it is told.
        let told = (0..1024).find_map(|_| {
            let sent = sender.send_deadline(&[0; 400], Instant::now() + LIMIT);
            sent.err()
        });
        Ok(told.map_or(RecvError::TimedOut, |error| match error {
            SendError::PeerDied => RecvError::PeerDied,
            SendError::Detached => RecvError::Detached,
            _ => RecvError::Corrupt,
        }))
    };
    let reads = move |socket: UnixStream| {
        let mut receiver = Receiver::<Hostile>::connect(socket, limits, 0, end())?;
        loop {
            match receiver.try_recv() {
                Ok(hello) => assert!(hello.is_none_or(|hello| hello.len() == 16)),
                Err(error) => return Ok(error),
            }
            std::thread::yield_now();
        }
    };
    let (written, read) = if is_server { (answers, requests) } else { (requests, answers) };
    let writing = std::thread::spawn(move || writes(written));
    let read = reads(read);
    drop(says_gone);
    [writing.join().unwrap(), read]
}

struct Connects {
    is_client: bool,
}

impl Scenario for Connects {
    type World = World<Ends>;
    type Doomed = (Option<[UnixStream; 2]>, Option<StrangeClient>, Option<Connection>);

    fn name(&self) -> String {
        format!("strangers, a {} connects", if self.is_client { "client" } else { "server" })
    }

    fn operations(&self) -> &'static [&'static str] {
        if self.is_client {
            &["shm_mq::rpc::strangers::StrangeClient::connect"]
        } else {
            &["shm_mq::rpc::strangers::Connection::connect"]
        }
    }

    fn world(&self) -> Self::World {
        let is_server = self.is_client;
        let world = World::new(move |sockets, _| meets(sockets, is_server));
        // Its hellos are there, and it waits for the other ones.
        for socket in world.sockets() {
            let mut there = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut there, None), Ok(1));
        }
        world
    }

    fn prepare(&self, world: &Self::World, _: &Notes) -> Self::Doomed {
        (Some(world.sockets()), None, None)
    }

    fn operate(&self, _: &Self::World, doomed: &mut Self::Doomed, notes: &Notes) {
        let (sockets, client, server) = doomed;
        let sockets = sockets.take().unwrap();
        if self.is_client {
            *client = Some(StrangeClient::connect(sockets, &config(), None).unwrap());
        } else {
            *server = Some(Connection::connect(sockets, &config(), None).unwrap());
        }
        notes.set(TOLD, 1);
    }

    fn image(&self, _: &Self::World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: Self::World, notes: &Notes, end: End) -> Result<(), String> {
        let died = ConnectError::Exchange(ExchangeError::PeerDied);
        for found in world.end()? {
            let is_expected = match (end, found) {
                (End::Finished, found) => found == Ok(RecvError::Detached),
                (_, Ok(found)) => found == RecvError::PeerDied,
                (_, Err(error)) => error == died && notes.get(TOLD) == 0,
            };
            if !is_expected {
                return Err(format!("it {end:?}, and the survivor has: {found:?}"));
            }
        }
        world.before.changes().map_or(Ok(()), Err)
    }
}

/// A client reads an answer, asks, cancels and leaves.
struct Calls;

/// Looks until there is a call, without saying that it sleeps.
fn takes<K>(server: &mut StrangeServer<K>) -> shm_mq::rpc::strangers::Request {
    loop {
        match server.try_take().unwrap() {
            Some(Event::Asked(_, request)) => return request,
            Some(Event::End { why, .. }) => panic!("{why:?}"),
            None => std::thread::yield_now(),
        }
    }
}

impl Scenario for Calls {
    type World = World<StrangeServer<()>>;
    type Doomed = (Option<StrangeClient>, CallId);

    fn name(&self) -> String {
        "strangers, a client calls and leaves".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "shm_mq::rpc::strangers::StrangeClient::poll",
            "shm_mq::rpc::strangers::StrangeClient::try_ask",
            "shm_mq::rpc::strangers::StrangeClient::ask",
            "shm_mq::rpc::strangers::StrangeClient::cancel",
            "shm_mq::rpc::strangers::StrangeClient::wait",
            "shm_mq::rpc::strangers::StrangeClient::wait_any",
        ]
    }

    fn world(&self) -> Self::World {
        World::new(|sockets, mut ready| {
            let mut server = StrangeServer::new();
            server.admit((), Connection::connect(sockets, &config(), end()).unwrap());
            let request = takes(&mut server);
            server.answer(request, b"one").unwrap();
            ready.write_all(&[1]).unwrap();
            server
        })
    }

    fn prepare(&self, world: &Self::World, _: &Notes) -> Self::Doomed {
        let mut client = StrangeClient::connect(world.sockets(), &config(), None).unwrap();
        let call = client.try_ask(b"first").unwrap().unwrap();
        world.waits_until_ready();
        (Some(client), call)
    }

    fn operate(&self, _: &Self::World, (client, first): &mut Self::Doomed, notes: &Notes) {
        let (past, mut client) = (Some(Instant::now()), client.take().unwrap());
        assert_eq!(client.poll(*first), Ok(Some(b"one".to_vec())));
        let second = client.try_ask(b"second").unwrap().unwrap();
        notes.set(TOLD, 1);
        let third = client.ask(b"third", None).unwrap();
        notes.set(TOLD, 2);
        client.cancel(second).unwrap();
        assert_eq!(client.wait(third, past), Err(StrangeError::TimedOut));
        assert_eq!(client.wait_any(past), None);
        notes.set(TOLD, 3);
        drop(client);
    }

    fn image(&self, _: &Self::World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: Self::World, notes: &Notes, end: End) -> Result<(), String> {
        let (mut server, told) = (world.end()?, notes.get(TOLD));
        let mut taken = Vec::new();
        let (why, asked, open) = loop {
            match server.take(self::end()).map_err(|error| error.to_string())? {
                Event::Asked((), request) => taken.push(request),
                Event::End { why, asked, open, .. } => break (why, asked, open),
            }
        };
        let (least, is_left) = (1 + told.min(2), why == Why::Left);
        if open != taken.len() || !(least..=least + 1).contains(&asked) || why == Why::Corrupt {
            return Err(format!("it was told of {told}, and asked {asked}, {open} open: {why:?}"));
        }
        if is_left && told < 3 || end == End::Finished && !is_left {
            return Err(format!("it {end:?} after {told}; its end: {why:?}"));
        }
        if taken.iter().any(|request| !server.is_cancelled(request).unwrap()) {
            return Err("a dead one wants its answer".to_owned());
        }
        drop((taken, server));
        world.before.changes().map_or(Ok(()), Err)
    }
}

/// A server takes calls, answers one, refuses one, lets go of one, and leaves.
struct Serves;

impl Scenario for Serves {
    type World = World<(StrangeClient, Vec<CallId>)>;
    type Doomed = Option<StrangeServer<()>>;

    fn name(&self) -> String {
        "strangers, a server answers and leaves".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "shm_mq::rpc::strangers::StrangeServer::try_take",
            "shm_mq::rpc::strangers::StrangeServer::take",
            "shm_mq::rpc::strangers::StrangeServer::is_cancelled",
            "shm_mq::rpc::strangers::StrangeServer::answer",
            "shm_mq::rpc::strangers::StrangeServer::refuse",
        ]
    }

    fn world(&self) -> Self::World {
        World::new(|sockets, mut ready| {
            let mut client = StrangeClient::connect(sockets, &config(), end()).unwrap();
            let ask = |number: u8| client.try_ask(&[number]).unwrap().unwrap();
            let calls: Vec<CallId> = (0..5).map(ask).collect();
            client.cancel(calls[3]).unwrap();
            ready.write_all(&[1]).unwrap();
            (client, calls)
        })
    }

    fn prepare(&self, world: &Self::World, _: &Notes) -> Self::Doomed {
        let mut server = StrangeServer::new();
        server.admit((), Connection::connect(world.sockets(), &config(), None).unwrap());
        world.waits_until_ready();
        // That rings, should its client have said that it sleeps before it was greeted.
        let request = takes(&mut server);
        server.answer(request, b"zero").unwrap();
        Some(server)
    }

    fn operate(&self, _: &Self::World, server: &mut Self::Doomed, notes: &Notes) {
        let mut server = server.take().unwrap();
        let first = takes(&mut server);
        assert!(!server.is_cancelled(&first).unwrap());
        server.answer(first, b"one").unwrap();
        notes.set(TOLD, 1);
        let Ok(Event::Asked((), second)) = server.take(None) else { panic!("none") };
        server.refuse(second, 7, b"no").unwrap();
        notes.set(TOLD, 2);
        let fourth = takes(&mut server);
        assert!(server.try_take().unwrap().is_none());
        notes.set(TOLD, 3);
        drop(server);
        drop(fourth);
    }

    fn image(&self, _: &Self::World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: Self::World, notes: &Notes, end: End) -> Result<(), String> {
        let ((mut client, calls), told) = (world.end()?, notes.get(TOLD));
        let refused = Err(StrangeError::Refused { code: 7, reason: b"no".to_vec() });
        let said = [Ok(b"zero".to_vec()), Ok(b"one".to_vec()), refused];
        for (number, said) in (0..).zip(said) {
            let found = client.wait(calls[number as usize], self::end());
            let may_be_lost = number > told && found == Err(StrangeError::ServerDied);
            if found != said && !may_be_lost {
                return Err(format!("it was told of {told}, and {number} has: {found:?}"));
            }
        }
        let cancelled = client.poll(calls[3]);
        if cancelled != Err(StrangeError::NotOpen) {
            return Err(format!("cancelled: {cancelled:?}"));
        }
        let last = client.wait(calls[4], self::end());
        let is_left = last == Err(StrangeError::Unanswered);
        let is_dead = last == Err(StrangeError::ServerDied);
        let is_true = if is_left { told >= 3 } else { is_dead && end == End::Killed };
        if !is_true {
            return Err(format!("it {end:?} after {told}; the last call: {last:?}"));
        }
        drop(client);
        world.before.changes().map_or(Ok(()), Err)
    }
}

#[test]
fn one_may_die_connecting_calling_or_answering() {
    // Whether what is allocated zeroed has to be written depends on what was freed before.
    for is_client in [true, false] {
        Run::new(&Connects { is_client }).points(250).allow_missed(MISSED_MAX).kill().passes();
    }
    Run::new(&Calls).points(400).kill().passes();
    Run::new(&Serves).points(400).kill().passes();
}
