//! Clients and servers that are processes, killed at random and replaced, or stopped: each call of
//! who lives ends, with its own answer or with the reason why not; who waits for a dead server is
//! woken at once; nobody hangs, and in the end nothing is left.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::{FINGERPRINT, LIMIT, kill_and_replace, killed_soon};
use shm_core::sync::Ordering;
use shm_mq::rpc::{
    AnswerError, AskError, AttachError, Call, CallError, ClientError, CreateError, Rpc, RpcConfig,
    SERVERS_MAX, ServerError, TakeError,
};
use shm_mq::waitset::{Source, WaitSet};
use shm_testkit::child::{Child, tell_parent};
use shm_testkit::random;
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(1500);
const CLIENTS: usize = 2;
const SERVERS: usize = 3;
const CONFIG: RpcConfig = RpcConfig::new(8, 4, 16, 16);

/// The words in which the test counts how calls end.
const ANSWERED: usize = 0;
const DIED: usize = 1;
const OTHER: usize = 2;
type World = process_common::World<Rpc, 3>;

fn answer_to(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Has four calls open at a time, until it is killed.
fn calls(args: &[String]) {
    let world = World::attach(args);
    let client = world.queue.client(&world.me).unwrap();
    let mut number = u64::from(std::process::id()) << 32;
    loop {
        client.wait_for_server(None).unwrap();
        let mut open: Vec<(u64, Call)> = Vec::new();
        for _ in 0..CONFIG.calls {
            number += 1;
            match client.try_ask(&number.to_ne_bytes()) {
                // A server that stands still, or has not looked yet, may have a slot of ours.
                Ok(call) => open.extend(call.map(|call| (number, call))),
                Err(AskError::NoServer) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for (number, mut call) in open {
            let which = match call.wait(None) {
                Ok(answer) => {
                    assert_eq!(*answer, answer_to(number).to_ne_bytes(), "another's answer");
                    ANSWERED
                }
                Err(CallError::ServerDied) => DIED,
                Err(CallError::NoServer) => OTHER,
                Err(error) => panic!("{error}"),
            };
            world.words[which].fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn serves(args: &[String]) {
    let world = World::attach(args);
    let mut server = world.queue.server(&world.me).unwrap();
    loop {
        let request = server.take(None).unwrap();
        let number = u64::from_ne_bytes((*request).try_into().unwrap());
        // Its work: some take long.
        if number.is_multiple_of(16) {
            std::thread::sleep(Duration::from_micros(300));
        }
        let _ = request.answer(&answer_to(number).to_ne_bytes());
    }
}

/// Takes a call and holds it.
fn holds(args: &[String]) {
    let world = World::attach(args);
    let mut server = world.queue.server(&world.me).unwrap();
    tell_parent("there");
    let _request = server.take(None).unwrap();
    tell_parent("holds");
    std::thread::sleep(LIMIT);
}

/// Is there, and takes nothing.
fn idles(args: &[String]) {
    let world = World::attach(args);
    let _server = world.queue.server(&world.me).unwrap();
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

/// Asks one call, begins another, and waits.
fn asks(args: &[String]) {
    let world = World::attach(args);
    let client = world.queue.client(&world.me).unwrap();
    let (mut call, _draft) = (client.ask(b"call", None).unwrap(), client.reserve(1).unwrap());
    tell_parent("there");
    let _ = call.wait(None);
}

shm_testkit::children! { calls, serves, holds, idles, asks }

#[test]
fn each_call_ends_though_all_are_killed() {
    let seed = random::seed();
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let all: Vec<&str> = [["serves"; SERVERS].as_slice(), &["calls"; CLIENTS]].concat();
        let start = |at: usize| world.spawn(all[at], &[]);
        let mut children: Vec<Child> = (0..all.len()).map(start).collect();
        let end = Instant::now() + RUN;
        // And until a server has died with a call.
        let goes_on = |kills| Instant::now() < end || kills < 10 || world.count(DIED) == 0;
        let kills = kill_and_replace(&mut children, seed, goes_on, start);
        // Whoever is left goes on: none hangs.
        let before = world.count(ANSWERED);
        while world.count(ANSWERED) < before + 100 {
            std::thread::sleep(Duration::from_millis(1));
        }
        children.into_iter().for_each(|mut child| child.kill());
        world.queue.reap(&world.me);
        let status = world.queue.status();
        let slots = CONFIG.clients * CONFIG.calls;
        assert_eq!((status.free, status.clients, status.servers), (slots, 0, 0), "{status:?}");
        let ends = [ANSWERED, DIED, OTHER].map(|which| world.count(which));
        println!("{kills} kills; answered, died, other: {ends:?}");
        assert!(ends[ANSWERED] > 100, "{ends:?}, {kills} kills");
    });
}

#[test]
fn the_death_of_a_server_ends_its_call_at_once() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let client = world.queue.client(&world.me).unwrap();
        assert_eq!(client.try_ask(b"call").unwrap_err(), AskError::NoServer);
        let (mut holds, mut idles) = (world.spawn_there("holds"), world.spawn_there("idles"));
        let mut taken = client.ask(b"taken", None).unwrap();
        assert_eq!(holds.hear(LIMIT), "holds");
        let mut asked = client.ask(b"asked", None).unwrap();
        // A stopped one is not dead.
        holds.stop();
        let soon = Instant::now() + Duration::from_millis(50);
        assert_eq!(taken.wait(Some(soon)).unwrap_err(), CallError::TimedOut);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| (taken.wait(None).map(drop), Instant::now()));
            std::thread::sleep(Duration::from_millis(50));
            let killed = Instant::now();
            holds.kill();
            let (end, ended) = waits.join().unwrap();
            assert_eq!(end, Err(CallError::ServerDied));
            // Where the death itself does not wake it, it looks every 100 ms.
            println!("it knew {:?} after the kill", ended - killed);
        });
        assert!(asked.poll().unwrap().is_none(), "there is another one");
        let end = killed_soon(&mut idles, || asked.wait(None).map(drop));
        assert_eq!(end, Err(CallError::NoServer));
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(client.wait_for_server(Some(soon)), Err(AskError::TimedOut));
        drop((taken, asked, client));
        world.queue.reap(&world.me);
        let status = world.queue.status();
        assert_eq!((status.free, status.clients, status.servers), (32, 0, 0), "{status:?}");
    });
}

#[test]
fn a_stopped_server_holds_up_its_own_call_only() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let client = world.queue.client(&world.me).unwrap();
        let mut holds = world.spawn_there("holds");
        let soon = Instant::now() + Duration::from_millis(100);
        let mut first = client.ask(b"first", Some(soon)).unwrap();
        assert_eq!(holds.hear(LIMIT), "holds");
        holds.stop();
        let mut other = world.queue.server(&world.me).unwrap();
        let mut second = client.ask(b"second", None).unwrap();
        let request = other.take(None).unwrap();
        assert_eq!((&*request, request.left()), (&b"second"[..], None));
        request.answer(b"done").unwrap();
        assert_eq!(*second.wait(None).unwrap(), *b"done");
        assert_eq!(first.wait(None).unwrap_err(), CallError::DeadlinePassed);
        assert_eq!(world.queue.status().cancelled, 1, "the slot is the stopped one's");
        let mut calls = Vec::new();
        while let Some(call) = client.try_ask(b"x").unwrap() {
            calls.push(call);
        }
        // Second, and two more.
        assert_eq!(calls.len(), 2);
        holds.kill();
        holds.wait(LIMIT);
        // Who finds no room looks for the dead.
        assert!(client.try_ask(b"x").unwrap().is_some());
    });
}

#[test]
fn the_death_of_a_client_is_known_to_its_server() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let mut server = world.queue.server(&world.me).unwrap();
        let mut asks = world.spawn_there("asks");
        let request = server.take(None).unwrap();
        assert!(!request.is_cancelled());
        asks.stop();
        assert!(!request.is_cancelled(), "it is not dead");
        asks.kill();
        while !request.is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(request.answer(b"late"), Err(AnswerError::Abandoned));
        // The lane, and what it was writing.
        assert_eq!(world.queue.reap(&world.me), 2);
        assert_eq!(world.queue.status().free, 32);
    });
}

#[test]
fn who_sleeps_is_woken_by_whatever_happens() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let client = world.queue.client(&world.me).unwrap();
        let mut server = world.queue.server(&world.me).unwrap();
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                for _ in 0..20 {
                    let request = server.take(None).unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                    request.answer(b"done").unwrap();
                }
                std::thread::sleep(Duration::from_millis(10));
                drop(server);
            });
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(2));
                assert_eq!(*client.ask(b"call", None).unwrap().wait(None).unwrap(), *b"done");
            }
            // It leaves, and nobody takes this.
            let end = client.ask(b"call", None).map(|mut call| call.wait(None).map(drop));
            assert!(matches!(end, Ok(Err(CallError::NoServer))), "{end:?}");
            serving.join().unwrap();
            // One comes.
            let waits = scope.spawn(|| client.wait_for_server(None));
            std::thread::sleep(Duration::from_millis(10));
            let _server = world.queue.server(&world.me).unwrap();
            assert_eq!(waits.join().unwrap(), Ok(()));
        });
    });
}

#[test]
fn a_set_is_woken_by_the_death_of_a_server() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let client = world.queue.client(&world.me).unwrap();
        let (mut holds, mut idles) = (world.spawn_there("holds"), world.spawn_there("idles"));
        let mut taken = client.ask(b"taken", None).unwrap();
        assert_eq!(holds.hear(LIMIT), "holds");
        let mut asked = client.ask(b"asked", None).unwrap();
        let mut set = WaitSet::new();
        let soon = Some(Instant::now() + Duration::from_millis(20));
        let both: &mut [(_, &mut dyn Source)] = &mut [("taken", &mut taken), ("asked", &mut asked)];
        assert!(set.wait(both, soon).unwrap().is_empty(), "nobody has died");
        // Of the server that has a call, and then of the last one that could take one.
        assert_eq!(killed_soon(&mut holds, || set.wait(both, None)).unwrap(), ["taken"]);
        let one: &mut [(_, &mut dyn Source)] = &mut [("asked", &mut asked)];
        assert_eq!(killed_soon(&mut idles, || set.wait(one, None)).unwrap(), ["asked"]);
        assert_eq!(taken.poll().unwrap_err(), CallError::ServerDied);
        assert_eq!(asked.poll().unwrap_err(), CallError::NoServer);
    });
}

#[test]
fn a_set_is_woken_by_calls_answers_and_deadlines() {
    let world = World::create("rpc", &CONFIG);
    within(LIMIT, move || {
        let client = world.queue.client(&world.me).unwrap();
        let mut server = world.queue.server(&world.me).unwrap();
        let mut set = WaitSet::new();
        let soon = Instant::now() + Duration::from_millis(20);
        let mut late = client.ask(b"late", Some(soon)).unwrap();
        assert_eq!(set.wait(&mut [("late", &mut late)], None).unwrap(), ["late"]);
        assert_eq!(late.poll().unwrap_err(), CallError::DeadlinePassed);
        let mut asks = world.spawn("asks", &[]);
        assert_eq!(set.wait(&mut [("server", &mut server)], None).unwrap(), ["server"]);
        assert_eq!(asks.hear(LIMIT), "there");
        let request = server.try_take().unwrap().expect("it is ready");
        assert_eq!(*request, *b"call");
        asks.kill();
        drop(request);
        let mut call = client.ask(b"call", None).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                server.take(None).unwrap().answer(b"done").unwrap();
            });
            assert_eq!(set.wait(&mut [("call", &mut call)], None).unwrap(), ["call"]);
        });
        assert_eq!(*call.poll().unwrap().expect("it is ready"), *b"done");
    });
}

#[test]
fn bad_input_is_an_error_of_its_own() {
    let world = World::create("rpc", &CONFIG);
    let other = Rpc::attach(&world.mapping, World::QUEUE_AT, 0).unwrap_err();
    assert_eq!(other, AttachError::OtherCalls { found: FINGERPRINT });
    let nothing = Rpc::attach(&world.mapping, World::WORDS_AT, 0).unwrap_err();
    assert_eq!(nothing, AttachError::NotATable { found: 0 });
    assert!(matches!(Rpc::attach(&world.mapping, 3, 0), Err(AttachError::Place(_))));
    for config in [
        RpcConfig::new(0, 1, 1, 1),
        RpcConfig::new(1, 0, 1, 1),
        RpcConfig::new(1 << 16, 1 << 16, 1, 1),
        RpcConfig::new(u32::MAX, u32::MAX, u64::MAX, u64::MAX),
        RpcConfig::new(1, 1, u64::MAX, 1),
        RpcConfig::new(1, 1, 1, u64::MAX),
    ] {
        // SAFETY: nothing is written.
        let error = unsafe { Rpc::create(&world.mapping, World::QUEUE_AT, &config) }.unwrap_err();
        assert!(matches!(error, CreateError::Config { .. }), "{error}");
    }
    // SAFETY: nothing is written.
    let place =
        unsafe { Rpc::create(&world.mapping, World::QUEUE_AT, &RpcConfig::new(8, 8, 9999, 9)) };
    assert!(matches!(place, Err(CreateError::Place(_))));
    let clients: Vec<_> =
        (0..CONFIG.clients).map(|_| world.queue.client(&world.me).unwrap()).collect();
    assert_eq!(world.queue.client(&world.me).unwrap_err(), ClientError::Full { clients: 8 });
    let mut servers: Vec<_> =
        (0..SERVERS_MAX).map(|_| world.queue.server(&world.me).unwrap()).collect();
    assert_eq!(world.queue.server(&world.me).unwrap_err(), ServerError::Full);
    let client = &clients[0];
    let long = AskError::TooLong { len: 17, largest: 16 };
    assert_eq!(client.try_ask(&[0; 17]).unwrap_err(), long);
    let mut calls: Vec<_> = (0..4).map(|_| client.try_ask(b"x").unwrap().unwrap()).collect();
    assert!(client.try_ask(b"x").unwrap().is_none(), "full is no error");
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(client.ask(b"x", Some(soon)).unwrap_err(), AskError::TimedOut);
    let request = servers[0].try_take().unwrap().unwrap();
    let long = AnswerError::TooLong { len: 17, largest: 16 };
    assert_eq!(request.answer(&[0; 17]), Err(long));
    assert_eq!(calls[0].poll().unwrap_err(), CallError::Unanswered);
    drop(calls);
    let soon = Instant::now() + Duration::from_millis(20);
    assert_eq!(servers[0].take(Some(soon)).unwrap_err(), TakeError::TimedOut);
}
