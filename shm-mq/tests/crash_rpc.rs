//! A table of calls outlives who uses it: each call of a survivor ends, answered as a whole or with
//! the reason why not; what was answered stays so; and no slot, lane or seat is lost. Whoever dies,
//! be it at taking back what others left.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod rpc_common;

use crash_common::{said, shared, words_from};
use rpc_common::vanishes;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_mq::rpc::{AskError, Call, CallError, Client, Rpc, RpcConfig, Server, TakeError};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CONFIG: RpcConfig = RpcConfig::new(4, 4, 8, 8);
const SEATS: u32 = 4;
const AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);

/// In the notes: calls that the doomed one has answered, or that were answered to it.
const ANSWERED: usize = 0;

/// Instructions of one who comes and calls himself, after the calls of others.
const BYSTANDER: usize = 60_000;

/// What the refused are told.
const CODE: u32 = 7;

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    me: Arc<Member>,
    /// One of each that survives, and the calls of the one.
    client: Client,
    server: Server,
    calls: Vec<Call>,
}

impl World {
    fn empty() -> World {
        let (_, mapping) = shared(AT + Rpc::bytes_for(&CONFIG));
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let me = table.join().unwrap();
        let rpc = World::create(&mapping);
        let (client, server) = (rpc.client(&me).unwrap(), rpc.server(&me).unwrap());
        World { mapping, table, me, client, server, calls: Vec::new() }
    }

    fn create(mapping: &Arc<Mapping>) -> Rpc {
        // SAFETY: nobody has been told of the place.
        unsafe { Rpc::create(mapping, AT, &CONFIG) }.unwrap()
    }

    /// The survivor has asked four calls, "0" to "3".
    fn with_calls() -> World {
        let mut world = World::empty();
        let ask = |number: u8| world.client.try_ask(&[b'0' + number]).unwrap().unwrap();
        world.calls = (0..4).map(ask).collect();
        world
    }

    fn rpc(&self) -> Rpc {
        Rpc::attach(&self.mapping, AT, 0).unwrap()
    }

    /// The calls of the survivor end: how, in order. `None`: answered. Those that nobody has taken
    /// are answered by its own server.
    fn ends(&mut self) -> Result<Vec<Option<CallError>>, String> {
        self.client.rpc().reap(&self.me);
        while let Some(request) = self.server.try_take().map_err(said)? {
            let answer = [request[0], b'!'];
            let _ = request.answer(&answer);
        }
        let ends = (b'0'..).zip(&mut self.calls).map(|(number, call)| {
            let end = match call.poll() {
                Ok(Some(answer)) if *answer == [number, b'!'] => Ok(None),
                Ok(Some(answer)) => Err(format!("call {number} was answered {answer:?}")),
                Ok(None) => Err(format!("call {number} has not ended")),
                Err(error) => Ok(Some(error)),
            };
            match (&end, call.refusal()) {
                (Ok(Some(CallError::Refused { code: CODE })), Some(why)) if *why == *b"no" => end,
                (Ok(Some(CallError::Refused { .. })), why) => Err(format!("refused: {why:?}")),
                _ => end,
            }
        });
        ends.collect()
    }

    /// Nothing is left but the survivor, who calls itself.
    fn rest(mut self) -> Result<(), String> {
        self.calls.clear();
        self.calls.push(self.client.try_ask(b"0").map_err(said)?.ok_or("full")?);
        if self.ends()? != [None] {
            return Err("the survivor has no answer".to_owned());
        }
        self.calls.clear();
        let status = self.client.rpc().status();
        let is_all = (status.free, status.clients, status.servers) == (16, 1, 1);
        if is_all { Ok(()) } else { Err(format!("not all is free: {status:?}")) }
    }
}

/// Where a death leaves something new, and at some other points.
fn run(scenario: &AtWork) -> Run<'_, AtWork> {
    Run::new(scenario).each_up_to(1000).bystander_at_most(BYSTANDER)
}

/// What is killed.
struct Doomed {
    member: Arc<Member>,
    client: Client,
    server: Server,
}

struct AtWork {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> World,
    operate: fn(&World, &mut Doomed, &Notes),
    check: fn(World, &Notes, End) -> Result<(), String>,
}

impl Scenario for AtWork {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("rpc, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        let member = world.table.join().unwrap();
        let rpc = world.rpc();
        let (client, server) = (rpc.client(&member).unwrap(), rpc.server(&member).unwrap());
        Doomed { member, client, server }
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    /// The calls alone: the table of participants names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        (self.check)(world, notes, end)
    }

    /// Another one of both, who answers what there is, its own call included.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let rpc = world.rpc();
        Some(Box::new(move || {
            let member = world.table.join().map_err(said)?;
            let client = rpc.client(&member).map_err(said)?;
            let mut server = rpc.server(&member).map_err(said)?;
            let call = client.try_ask(b"9").map_err(said)?;
            while let Some(request) = server.try_take().map_err(said)? {
                let answer = [request[0], b'!'];
                let _ = request.answer(&answer);
            }
            match call.ok_or("there is no room")?.poll() {
                Ok(Some(answer)) if *answer == *b"9!" => Ok(()),
                other => Err(format!("its own call: {other:?}")),
            }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let rpc = world.rpc();
        Some(Box::new(move || {
            let member = world.table.join().map_err(said)?;
            rpc.reap(&member);
            Ok(())
        }))
    }

    fn forked(&self, _: &World, doomed: &mut Doomed) -> Result<(), String> {
        let asked = doomed.client.try_ask(b"7").err();
        let taken = doomed.server.try_take().err();
        if asked != Some(AskError::Forked) || taken != Some(TakeError::Forked) {
            return Err(format!("{asked:?}, {taken:?}"));
        }
        doomed.member.check_fork().err().map(drop).ok_or_else(|| "it has a seat".to_owned())
    }
}

fn call(world: &World, doomed: &mut Doomed, notes: &Notes) {
    // One more lane, and back.
    drop(world.rpc().client(&doomed.member).unwrap());
    let (client, server) = (&doomed.client, &mut doomed.server);
    drop(client.reserve(1).unwrap());
    let mut draft = client.reserve(1).unwrap().unwrap();
    draft.copy_from_slice(b"4");
    let mut first = draft.ask();
    // Dropped while it is asked.
    drop(client.try_ask(b"5").unwrap().unwrap());
    let mut third = client.ask(b"6", None).unwrap();
    server.try_take().unwrap().unwrap().answer(b"4!").unwrap();
    assert_eq!(*first.wait(None).unwrap(), *b"4!");
    notes.count(ANSWERED);
    let request = server.try_take().unwrap().unwrap();
    assert!(third.poll().unwrap().is_none());
    // While it is taken.
    drop(third);
    assert!(request.is_cancelled());
    request.answer(b"6!").unwrap_err();
}

#[test]
fn a_client_may_die_anywhere() {
    let scenario = AtWork {
        name: "ask, cancel, look",
        operations: &[
            "shm_mq::rpc::Rpc::client",
            "shm_mq::rpc::OwnLane::drop",
            "shm_mq::rpc::Client::try_ask",
            "shm_mq::rpc::Client::ask",
            "shm_mq::rpc::Client::reserve",
            "shm_mq::rpc::Draft::ask",
            "shm_mq::rpc::Ours::drop",
            "shm_mq::rpc::Call::poll",
            "shm_mq::rpc::Call::wait",
            "shm_mq::rpc::Call::drop",
        ],
        world: World::empty,
        operate: call,
        check: |world, _, _| world.rest(),
    };
    run(&scenario).kill().passes();
    run(&scenario).points(60).nested().passes();
    run(&scenario).fork().passes();
}

/// A call that another may take meanwhile.
fn asks(world: &World, doomed: &mut Doomed, notes: &Notes) {
    drop(world.rpc().client(&doomed.member).unwrap());
    drop(doomed.client.reserve(1).unwrap());
    let mut call = doomed.client.try_ask(b"4").unwrap().unwrap();
    if let Ok(Some(request)) = doomed.server.try_take() {
        request.answer(b"4!").unwrap();
    }
    let soon = Instant::now() + Duration::from_secs(30);
    assert_eq!(*call.wait(Some(soon)).unwrap(), *b"4!");
    notes.count(ANSWERED);
    drop(doomed.client.try_ask(b"5"));
}

#[test]
fn who_stands_still_hinders_nobody() {
    let scenario = AtWork {
        name: "ask and be answered",
        operations: &[
            "shm_mq::rpc::Client::try_ask",
            "shm_mq::rpc::Call::wait",
            "shm_mq::rpc::Server::try_take",
            "shm_mq::rpc::Request::answer",
        ],
        world: World::empty,
        operate: asks,
        check: |world, _, _| world.rest(),
    };
    run(&scenario).points(60).stop().passes();
}

fn serve(world: &World, doomed: &mut Doomed, notes: &Notes) {
    // One more seat, and back.
    drop(world.rpc().server(&doomed.member).unwrap());
    if let Some(request) = doomed.server.try_take().unwrap() {
        request.answer(b"0!").unwrap();
        notes.count(ANSWERED);
    }
    let soon = Some(Instant::now() + Duration::from_millis(1));
    if let Ok(request) = doomed.server.take(soon) {
        let mut reply = request.reply(2).unwrap();
        let (request, answer) = reply.parts();
        answer.copy_from_slice(&[request[0], b'!']);
        reply.send().unwrap();
        notes.count(ANSWERED);
    }
}

/// The first ones were answered, those of whom it is known; the others are, one of a dead server
/// apart.
fn was_served(mut world: World, notes: &Notes, end: End) -> Result<(), String> {
    let (answered, ends) = (notes.get(ANSWERED), world.ends()?);
    let was_answered = ends.iter().take(answered as usize).all(Option::is_none);
    let died = ends.iter().filter(|end| **end == Some(CallError::ServerDied)).count();
    let is_right = ends.iter().all(|end| matches!(end, None | Some(CallError::ServerDied)));
    if !was_answered || died > usize::from(end == End::Killed) || !is_right {
        return Err(format!("{answered} were answered, and {ends:?}"));
    }
    world.rest()
}

#[test]
fn a_server_may_die_anywhere() {
    let scenario = AtWork {
        name: "take, answer",
        operations: &[
            "shm_mq::rpc::Rpc::server",
            "shm_mq::rpc::Server::try_take",
            "shm_mq::rpc::Server::take",
            "shm_mq::rpc::Server::drop",
            "shm_mq::rpc::Request::answer",
            "shm_mq::rpc::Reply::send",
        ],
        world: World::with_calls,
        operate: serve,
        check: was_served,
    };
    run(&scenario).kill().passes();
    run(&scenario).points(60).nested().passes();
}

fn gives_no_answer(_: &World, doomed: &mut Doomed, _: &Notes) {
    doomed.server.try_take().unwrap().unwrap().refuse(CODE, b"no").unwrap();
    let mut reply = doomed.server.try_take().unwrap().unwrap().reply(2).unwrap();
    reply.copy_from_slice(b"no");
    reply.refuse(CODE).unwrap();
    drop(doomed.server.try_take().unwrap());
}

#[test]
fn a_server_that_does_not_answer_may_die_anywhere() {
    let scenario = AtWork {
        name: "take, refuse, let go",
        operations: &[
            "shm_mq::rpc::Request::refuse",
            "shm_mq::rpc::Reply::refuse",
            "shm_mq::rpc::Held::drop",
        ],
        world: World::with_calls,
        operate: gives_no_answer,
        check: |mut world, _, end| {
            let ends = world.ends()?;
            let is_right = ends.iter().zip(0..).all(|(how, number)| match how {
                Some(CallError::Refused { .. }) => number < 2,
                Some(CallError::Unanswered) => number == 2,
                Some(CallError::ServerDied) => end == End::Killed,
                None => number == 3 || end == End::Killed,
                Some(_) => false,
            });
            if is_right { world.rest() } else { Err(format!("{ends:?}")) }
        },
    };
    run(&scenario).kill().passes();
}

/// Some have died: a client with a slot that it wrote to, a call that nobody has taken, one that a
/// living server has and an answer; and a server with two calls of the survivor, one of which it
/// does not want any more.
fn with_the_dead() -> World {
    let mut world = World::empty();
    let (rpc, member) = (world.rpc(), world.table.join().unwrap());
    let (client, mut server) = (rpc.client(&member).unwrap(), rpc.server(&member).unwrap());
    let answered = client.try_ask(b"4").unwrap();
    world.server.try_take().unwrap().unwrap().answer(b"4!").unwrap();
    let taken = client.try_ask(b"5").unwrap();
    std::mem::forget(world.server.try_take().unwrap());
    let calls = [b"0", b"1"].map(|number| world.client.try_ask(number).unwrap().unwrap());
    for _ in 0..2 {
        std::mem::forget(server.try_take().unwrap().unwrap());
    }
    let [kept, dropped] = calls;
    drop(dropped);
    world.calls.push(kept);
    std::mem::forget((answered, taken, client.try_ask(b"6").unwrap(), client.reserve(1).unwrap()));
    std::mem::forget((client, server));
    vanishes(member);
    world
}

fn was_reaped(mut world: World, _: &Notes, _: End) -> Result<(), String> {
    let ends = world.ends()?;
    if ends != [Some(CallError::ServerDied)] {
        return Err(format!("{ends:?}"));
    }
    // What the survivor's server has forgotten is its own.
    let status = world.client.rpc().status();
    let is_all = (status.free, status.cancelled, status.clients, status.servers) == (15, 1, 1, 1);
    if is_all { Ok(()) } else { Err(format!("not all is free: {status:?}")) }
}

#[test]
fn who_takes_back_may_die_anywhere() {
    let scenario = AtWork {
        name: "reap",
        operations: &["shm_mq::rpc::Rpc::reap", "shm_mq::rpc::Request::is_cancelled"],
        world: with_the_dead,
        operate: |world, doomed, _| {
            let request = doomed.server.try_take().unwrap().unwrap();
            assert!(request.is_cancelled(), "its client has died");
            request.answer(b"6!").unwrap_err();
            world.rpc().reap(&doomed.member);
        },
        check: was_reaped,
    };
    run(&scenario).kill().passes();
    run(&scenario).points(60).nested().passes();
}

#[test]
fn a_creator_may_die_anywhere() {
    let scenario = AtWork {
        name: "create",
        operations: &["shm_mq::rpc::Rpc::create"],
        world: World::empty,
        operate: |world, _, _| drop(World::create(&world.mapping)),
        // Nobody was told of the place: whoever owns the memory makes it again.
        check: |world, _, _| {
            let World { mapping, table, me, client, server, .. } = world;
            drop((client, server));
            let rpc = World::create(&mapping);
            let (client, server) = (rpc.client(&me).unwrap(), rpc.server(&me).unwrap());
            World { mapping, table, me, client, server, calls: Vec::new() }.rest()
        },
    };
    run(&scenario).kill().passes();
}
