//! Real processes that call, and answer, strangers are killed, stopped and forked: the kernel alone
//! says who lives. Each call ends, what was answered is what was asked, others are served, and
//! nobody hangs.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "proc_common/peer.rs"]
#[allow(dead_code, reason = "its sockets come alone")]
mod peer;
mod strange_rpc_common;

use dsm::backend::{self, Backend, Object, Place};
use peer::given;
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::fan_in::Why;
use shm_mq::rpc::strangers::{Connection, Event, StrangeClient, StrangeError, StrangeServer};
use shm_mq::rpc::{AnswerError, AskError};
use shm_testkit::child::{Child, Setup, parent_says, tell_parent};
use shm_testkit::watchdog::within;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use strange_rpc_common::{LIMIT, config, met, next, sockets, soon, text};

/// A child at the other end of a connection.
struct Peer {
    child: Child,
    sockets: Option<[UnixStream; 2]>,
    counter: Object,
}

fn spawn(function: &str) -> Peer {
    let (ours, theirs) = sockets();
    let counter = backend::create(&Place::new(Backend::Memfd), "count", 4096).unwrap();
    let fds = [theirs[0].as_fd(), theirs[1].as_fd(), counter.fd().unwrap()];
    let numbers = fds.map(|fd| fd.as_raw_fd().to_string());
    let args = numbers.each_ref().map(String::as_str);
    let setup = Setup { args: &args, fds: &fds, ..Setup::default() };
    Peer { child: Child::spawn_with(function, setup), sockets: Some(ours), counter }
}

impl Peer {
    /// How many calls were acknowledged to it.
    fn count(&self) -> u64 {
        let count = Mapped::<AtomicU64>::new(self.counter.mapping(), 0).unwrap();
        count.load(Ordering::Relaxed)
    }

    fn admitted(&mut self) -> Connection {
        let sockets = self.sockets.take().unwrap();
        within(LIMIT, || Connection::connect(sockets, &config(), None)).unwrap()
    }

    fn client(&mut self) -> StrangeClient {
        let sockets = self.sockets.take().unwrap();
        within(LIMIT, || StrangeClient::connect(sockets, &config(), None)).unwrap()
    }
}

/// Call number so much of anybody.
fn request(number: u64) -> Vec<u8> {
    text(number, 8 + number as usize % 60)
}

fn answer(request: &[u8]) -> Vec<u8> {
    request.iter().rev().chain(request).copied().collect()
}

fn connected(args: &[String]) -> (StrangeClient, Mapped<AtomicU64>) {
    let sockets = [given(args, 0).into(), given(args, 1).into()];
    let counter = backend::memfd::open_fd(given(args, 2)).unwrap();
    let client = StrangeClient::connect(sockets, &config(), None).unwrap();
    (client, Mapped::new(counter.mapping(), 0).unwrap())
}

/// Calls until it is killed, several calls at a time, and counts.
fn calls(args: &[String]) {
    let (mut client, count) = connected(args);
    let mut open = BTreeMap::new();
    for number in 0.. {
        while open.len() == 3 {
            let (call, end) = client.wait_any(None).unwrap();
            let number: u64 = open.remove(&call).unwrap();
            assert_eq!(end.unwrap(), answer(&request(number)));
            count.fetch_add(1, Ordering::Relaxed);
        }
        open.insert(client.ask(&request(number), None).unwrap(), number);
    }
}

/// Serves until it is killed, and counts.
fn serves(args: &[String]) {
    let sockets = [given(args, 0).into(), given(args, 1).into()];
    let counter = backend::memfd::open_fd(given(args, 2)).unwrap();
    let count = Mapped::<AtomicU64>::new(counter.mapping(), 0).unwrap();
    let mut server = StrangeServer::new();
    server.admit((), Connection::connect(sockets, &config(), None).unwrap());
    while let Ok(Event::Asked((), asked)) = server.take(None) {
        let bytes = answer(&asked);
        server.answer(asked, &bytes).unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes what comes, answers when it is told to, and leaves then.
fn serves_when_told(args: &[String]) {
    let sockets = [given(args, 0).into(), given(args, 1).into()];
    let mut server = StrangeServer::new();
    server.admit((), Connection::connect(sockets, &config(), None).unwrap());
    let Ok(Event::Asked((), asked)) = server.take(None) else { panic!("no call") };
    tell_parent("taken");
    assert_eq!(parent_says(), "answer");
    let bytes = answer(&asked);
    server.answer(asked, &bytes).unwrap();
}

shm_testkit::children! { calls, serves, serves_when_told }

/// A server, and its clients, of which it knows how many calls of each it has answered.
#[derive(Default)]
struct World {
    server: StrangeServer<u64>,
    peers: BTreeMap<u64, (Peer, u64)>,
    admitted: u64,
}

impl World {
    fn admit(&mut self) -> u64 {
        let (key, mut peer) = (self.admitted, spawn("calls"));
        self.server.admit(key, peer.admitted());
        self.peers.insert(key, (peer, 0));
        self.admitted += 1;
        key
    }

    /// Serves one call, or is told of an end: whose.
    fn serve(&mut self) -> Option<u64> {
        match within(LIMIT, || self.server.take(None)).unwrap() {
            Event::Asked(from, asked) => {
                let (_, answered) = self.peers.get_mut(from).unwrap();
                assert_eq!(*asked, *request(*answered), "call {answered} of {from}");
                *answered += 1;
                let bytes = answer(&asked);
                let said = self.server.answer(asked, &bytes);
                assert!(matches!(said, Ok(()) | Err(AnswerError::Abandoned)));
                None
            }
            Event::End { client, why, asked, open } => {
                let (peer, answered) = self.peers.remove(&client).unwrap();
                assert_eq!((why, open), (Why::Died, 0), "of {client}");
                assert!(asked >= answered && answered >= peer.count(), "of {client}");
                Some(client)
            }
        }
    }
}

#[test]
fn clients_are_killed_and_the_others_are_served() {
    let mut seed = u64::from(std::process::id()) | 1 << 42;
    println!("seed {seed}");
    let mut world = World::default();
    for _ in 0..3 {
        world.admit();
    }
    let (mut deaths, mut served) = (0, 0);
    while deaths < 8 {
        let victim = *world.peers.keys().nth(next(&mut seed) as usize % 3).unwrap();
        for _ in 0..next(&mut seed) % 200 {
            served += u64::from(world.serve().is_none());
        }
        world.peers.get_mut(&victim).unwrap().0.child.kill();
        let mut others = 0;
        while world.serve() != Some(victim) {
            others += 1;
            assert!(others < 3000, "its end is not told");
        }
        deaths += 1;
        world.admit();
    }
    println!("{served} calls served");
    world.peers.values_mut().for_each(|(peer, _)| peer.child.kill());
    while !world.peers.is_empty() {
        world.serve();
    }
}

#[test]
fn a_killed_server_ends_each_call_at_once() {
    let mut seed = u64::from(std::process::id()) | 1 << 43;
    println!("seed {seed}");
    for _ in 0..6 {
        let mut peer = spawn("serves");
        let (mut client, kill_at) = (peer.client(), next(&mut seed) % 300);
        let (mut asked, mut answered, mut open) = (0, 0, BTreeMap::new());
        within(LIMIT, || {
            loop {
                if asked == kill_at {
                    peer.child.kill();
                }
                match client.ask(&request(asked), None) {
                    Ok(call) => open.insert(call, asked),
                    Err(error) => break assert_eq!(error, AskError::NoServer),
                };
                asked += 1;
                if open.len() == 4 {
                    let (call, end) = client.wait_any(None).unwrap();
                    let number = open.remove(&call).unwrap();
                    match end {
                        Ok(bytes) => assert_eq!(bytes, answer(&request(number))),
                        Err(end) => break assert_eq!(end, StrangeError::ServerDied),
                    }
                    answered += 1;
                }
            }
            // All that is open ends, and nothing twice.
            while let Some((call, end)) = client.wait_any(None) {
                let number = open.remove(&call).expect("it ends once");
                match end {
                    Ok(bytes) => {
                        assert_eq!(bytes, answer(&request(number)));
                        answered += 1;
                    }
                    Err(end) => assert_eq!(end, StrangeError::ServerDied),
                }
            }
        });
        assert!(open.is_empty() && answered >= peer.count(), "an answer is lost");
    }
}

#[test]
fn a_sleeper_is_woken_by_the_other_sides_death() {
    let mut peer = spawn("serves_when_told");
    let mut client = peer.client();
    let call = client.ask(b"never answered", None).unwrap();
    assert_eq!(peer.child.hear(LIMIT), "taken");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            peer.child.kill();
        });
        let end = within(LIMIT, || client.wait(call, None));
        assert_eq!(end, Err(StrangeError::ServerDied));
    });
}

#[test]
fn who_is_stopped_holds_up_nobody() {
    let mut world = World::default();
    let (stopped, lives) = (world.admit(), world.admit());
    while world.peers[&stopped].1 < 5 {
        world.serve();
    }
    world.peers.get_mut(&stopped).unwrap().0.child.stop();
    let before = world.peers[&lives].1;
    while world.peers[&lives].1 < before + 500 {
        assert_eq!(world.serve(), None, "nobody has died");
    }
    let its = world.peers[&stopped].1;
    assert!(its < 30, "it asks no more");
    world.peers.get_mut(&stopped).unwrap().0.child.cont();
    while world.peers[&stopped].1 < its + 50 {
        world.serve();
    }
    // A server that is stopped is slow.
    let mut peer = spawn("serves_when_told");
    let mut client = peer.client();
    let call = client.ask(b"slow", None).unwrap();
    assert_eq!(peer.child.hear(LIMIT), "taken");
    peer.child.stop();
    peer.child.say("answer");
    let late = client.ask(b"too slow", soon(20)).unwrap();
    assert_eq!(within(LIMIT, || client.wait(late, None)), Err(StrangeError::DeadlinePassed));
    assert_eq!(client.wait(call, soon(5)), Err(StrangeError::TimedOut));
    peer.child.cont();
    assert_eq!(within(LIMIT, || client.wait(call, None)), Ok(answer(b"slow")));
    peer.child.wait(LIMIT).assert_success();
    assert_eq!(within(LIMIT, || client.ask(b"gone", None)), Err(AskError::NoServer));
}

#[test]
fn a_forked_child_is_nobody() {
    let (mut client, connection) = met(&config(), &config());
    let mut server = StrangeServer::new();
    server.admit((), connection);
    let first = client.ask(b"first", None).unwrap();
    let Ok(Event::Asked((), taken)) = server.take(None) else { panic!("no call") };
    // SAFETY: the child calls only what follows, none of which takes a lock that another thread
    // may have, and `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = client.try_ask(b"") == Err(AskError::Forked)
            && client.poll(first) == Err(StrangeError::Forked)
            && server.is_cancelled(&taken).unwrap()
            && server.answer(taken, b"a child's") == Err(AnswerError::Abandoned)
            && server.try_take().is_err();
        drop((client, server));
        // SAFETY: ends the process.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "its handles refused to work");
    server.answer(taken, b"the parent's").unwrap();
    assert_eq!(client.wait(first, None), Ok(b"the parent's".to_vec()));
}
