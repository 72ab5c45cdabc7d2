//! `rpc` under the explorer: each call ends once, with its own answer or with the reason why not,
//! whichever of several clients, servers and reapers die where; who waits is woken by a death; who
//! stands still holds up his own calls only; and lies do no harm.
//!
//! Processes 1 to 3 are the case's, the next one cleans up when they have ended.
#![cfg(shm_explore)]
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::rpc::{Call, CallError, Client, Rpc, RpcConfig, Server, Status};
use shm_mq::stream::OneMapping;
use shm_mq::waitset::WaitSet;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

const SEATS: usize = 4;
/// Said of a call that was asked, taken, answered; and of its end: an answer, or an error.
const TAKEN: u64 = 100;
const ANSWERED: u64 = 200;
const GOT: u64 = 300;
const FAILED: u64 = 400;
/// Said by a client that has met a server: from now on it does not wait for ever.
const MET: u64 = 500;

struct World {
    rpc: Rpc,
    members: [Arc<Member>; SEATS],
}

fn world(clients: u32, calls: u32) -> World {
    let config = RpcConfig::new(clients, calls, 8, 8);
    let at = Table::bytes_for(SEATS as u32).next_multiple_of(128);
    let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS as u32) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let rpc = unsafe { Rpc::create(&mapping, at, &config) }.unwrap();
    let members = [1, 2, 3, 4].map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    World { rpc, members }
}

impl World {
    fn member(&self, pid: u32) -> &Arc<Member> {
        &self.members[pid as usize - 1]
    }

    fn server(&self, me: &Me) -> Server {
        self.rpc.server(self.member(me.pid())).unwrap()
    }

    fn client(&self, me: &Me) -> Client {
        self.rpc.client(self.member(me.pid())).unwrap()
    }

    /// When all have ended: after a look for the dead nothing is left, and each call ended once.
    fn all_has_ended(&self, end: &End<'_>, processes: usize) {
        if end.deaths() > 0 {
            self.rpc.reap(self.member(processes as u32 + 1));
        }
        let status = self.rpc.status();
        let slots = self.rpc.config().clients * self.rpc.config().calls;
        let Status { asked_ever, answered_ever, died_ever, .. } = status;
        let nothing =
            Status { free: slots, asked_ever, answered_ever, died_ever, ..<_>::default() };
        assert_eq!(status, nothing, "something is lost");
        let said: Vec<u64> = (0..processes).flat_map(|each| end.said(each)).copied().collect();
        let count = |what| said.iter().filter(|said| **said == what).count();
        for call in 1..TAKEN {
            let (taken, got) = (count(TAKEN + call), count(GOT + call));
            assert!(taken <= 1, "call {call} is taken twice: {said:?}");
            assert!(got + count(FAILED + call) <= 1, "call {call} ends twice: {said:?}");
            assert!(got <= taken, "call {call} has an answer of nobody's: {said:?}");
            let is_promised = count(ANSWERED + call) == 1 && end.deaths() == 0;
            assert!(!is_promised || got == 1, "the answer of call {call} is lost: {said:?}");
        }
    }
}

/// Waits for the end of a call, and says how it ended.
fn say_end(me: &Me, number: u64, call: &mut Call) -> Option<CallError> {
    match call.wait(None) {
        Ok(answer) => {
            assert_eq!(*answer, [number as u8 + 100], "torn, or another's");
            me.say(GOT + number);
            None
        }
        Err(error) => {
            me.say(FAILED + number);
            Some(error)
        }
    }
}

fn ends_with_its_server(error: Option<CallError>) {
    let is_known = matches!(error, None | Some(CallError::ServerDied | CallError::NoServer));
    assert!(is_known, "{error:?}");
}

/// Waits for a server, asks these at once, and waits for all, the last one first.
fn client<'a>(world: &'a World, numbers: &'a [u64]) -> Process<'a> {
    Process::new("client", move |me| {
        let client = world.client(me);
        client.wait_for_server(None).unwrap();
        me.say(MET);
        let calls = numbers.iter().map(|number| {
            let call = client.try_ask(&[*number as u8]);
            (*number, call.ok().map(|call| call.expect("there is room")))
        });
        let mut calls: Vec<(u64, Option<Call>)> = calls.collect();
        for (number, call) in calls.iter_mut().rev() {
            if let Some(call) = call {
                ends_with_its_server(say_end(me, *number, call));
            }
        }
    })
}

/// Answers one call, and says so.
fn answers(me: &Me, server: &mut Server) -> bool {
    let Some(request) = server.try_take().unwrap() else { return false };
    let [number] = *request else { panic!("torn: {request:?}") };
    me.say(TAKEN + u64::from(number));
    if request.answer(&[number + 100]).is_ok() {
        me.say(ANSWERED + u64::from(number));
    }
    true
}

/// Answers so many calls, if they are there, and leaves.
fn server(world: &World, calls: usize) -> Process<'_> {
    Process::new("server", move |me| {
        let mut server = world.server(me);
        for _ in 0..calls {
            answers(me, &mut server);
        }
    })
    .never_waits()
}

/// The same of one that waits for them.
fn patient(world: &World, calls: usize) -> Process<'_> {
    Process::new("patient", move |me| {
        let mut server = world.server(me);
        for _ in 0..calls {
            let request = server.take(None).unwrap();
            let number = request[0];
            me.say(TAKEN + u64::from(number));
            if request.answer(&[number + 100]).is_ok() {
                me.say(ANSWERED + u64::from(number));
            }
        }
    })
}

fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |me| {
        world.rpc.reap(world.member(me.pid()));
    })
    .never_waits()
}

/// A client waits for a server as long as it takes, and a server for calls; nobody for the end of a
/// call whose server is no more.
fn nobody_hangs(end: &End<'_>, processes: usize) {
    let lives = |each: &usize| !end.is_dead(*each) && !end.has_finished(*each);
    let hangs = (0..processes).filter(lives).any(|each| end.said(each).contains(&MET));
    assert!(!hangs, "a client hangs");
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("rpc", name).alone_at_most(3000).states_at_most(20_000)
}

/// The case with these processes, of which `deaths` may die, the mortal ones first.
fn dying<'a>(
    name: &str,
    world: &'a World,
    processes: impl IntoIterator<Item = (Process<'a>, bool)>,
    (deaths, preemptions): (u32, u32),
) {
    let (mut scenario, mut count) = (scenario(&format!("{name}, {deaths} deaths")), 0);
    for (process, is_mortal) in processes {
        scenario = scenario.process(if is_mortal { process.mortal() } else { process });
        count += 1;
    }
    let scenario = scenario.deaths(deaths).preemptions_at_most(preemptions);
    let scenario = scenario.may_all_wait(move |end| nobody_hangs(end, count));
    scenario.check(move |end| world.all_has_ended(end, count)).explore();
}

/// A client with two calls, and servers that wait for them: a client that waits is woken by
/// whatever ends its call, and a server by whoever asks.
#[test]
fn nobody_dies_and_each_call_has_its_answer() {
    let two = world(1, 2);
    let both = [(client(&two, &[1, 2]), false), (patient(&two, 2), false)];
    dying("one waits for two", &two, both, (0, 3));
    let one = world(1, 1);
    let three = [(client(&one, &[1]), false), (patient(&one, 1), false), (server(&one, 1), false)];
    dying("two wait for one", &one, three, (0, 1));
}

#[test]
fn a_server_may_die_anywhere() {
    let world = world(1, 1);
    let three =
        [(client(&world, &[1]), false), (server(&world, 1), true), (server(&world, 1), true)];
    dying("two servers", &world, three, (2, 0));
    let three = [(client(&world, &[1]), false), (server(&world, 1), true), (reaper(&world), true)];
    dying("a server and a reaper", &world, three, (2, 0));
}

/// Whose seat goes away, by itself or by another, while a client is about to sleep.
#[test]
fn no_seat_that_goes_away_leaves_a_sleeper_behind() {
    let one = world(1, 1);
    let leaves = [(client(&one, &[1]), false), (server(&one, 0), true)];
    dying("a server leaves", &one, leaves, (1, 2));
    let two = world(2, 1);
    // Serves beside, and takes away the seat of a dead one.
    let other = Process::new("other", |me: &Me| {
        let (client, _server) = (two.client(me), two.server(me));
        let call = client.try_ask(&[2]);
        let _ = call.map(|call| call.expect("there is room").poll().map(drop));
    });
    let three =
        [(client(&two, &[1]), false), (server(&two, 1), true), (other.never_waits(), false)];
    dying("a seat is taken away", &two, three, (1, 1));
}

/// As [`a_server_may_die_anywhere`], where the client waits with a set.
#[test]
fn a_set_is_woken_whoever_dies() {
    let world = world(1, 1);
    let asks = Process::new("client", |me: &Me| {
        let client = world.client(me);
        client.wait_for_server(None).unwrap();
        me.say(MET);
        let Ok(Some(mut call)) = client.try_ask(&[1]) else { return };
        let ready = WaitSet::new().wait(&mut [((), &mut call)], None);
        assert_eq!(ready.unwrap(), [()]);
        assert!(!matches!(call.poll(), Ok(None)), "it is ready");
        ends_with_its_server(say_end(me, 1, &mut call));
    });
    let three = [(asks, false), (server(&world, 1), true), (reaper(&world), true)];
    dying("a set", &world, three, (1, 1));
}

/// A slot of a dead server comes back by its client, or by a reaper, who may die before it rings.
#[test]
fn who_waits_for_a_slot_has_it_whoever_dies() {
    let world = world(1, 1);
    // A call is dropped that the server has taken.
    kernel::become_process(2);
    let mut server = world.rpc.server(world.member(2)).unwrap();
    kernel::become_process(1);
    let client = world.rpc.client(world.member(1)).unwrap();
    let call = client.try_ask(&[1]).unwrap();
    kernel::become_process(2);
    std::mem::forget(server.try_take().unwrap().expect("it was asked"));
    kernel::become_process(1);
    drop((call, client));
    std::mem::forget(server);
    kernel::become_process(kernel::BUILDER);
    let asks = Process::new("client", |me: &Me| {
        let (client, _server) = (world.client(me), world.server(me));
        drop(client.ask(&[2], None).unwrap());
    });
    let has_it = Process::new("server", |me: &Me| me.stay());
    // The reaper is tried late.
    let scenario = scenario("a slot is waited for")
        .states_at_most(if is_deep() { 200_000 } else { 80_000 })
        .process(asks)
        .process(has_it.mortal());
    let scenario = scenario.process(reaper(&world).mortal()).deaths(2).preemptions_at_most(1);
    let scenario = scenario.may_all_wait(|end| assert!(!end.is_dead(1), "a client hangs"));
    scenario.check(|end| world.all_has_ended(end, 3)).explore();
}

#[test]
fn a_client_may_die_anywhere() {
    let world = world(2, 1);
    let three =
        [(client(&world, &[1]), true), (client(&world, &[2]), true), (server(&world, 2), true)];
    dying("two clients and a server", &world, three, (1, 0));
    let three = [(client(&world, &[1]), true), (reaper(&world), true), (patient(&world, 1), false)];
    dying("a client, a reaper and a server", &world, three, (2, 0));
}

/// One asks, drops the call, and asks another in its place.
fn fickle(world: &World) -> Process<'_> {
    Process::new("fickle", |me| {
        let client = world.client(me);
        drop(client.try_ask(&[1]));
        if let Ok(Some(mut call)) = client.try_ask(&[2]) {
            ends_with_its_server(say_end(me, 2, &mut call));
        }
    })
}

#[test]
fn who_drops_a_call_may_die_anywhere() {
    let world = world(1, 1);
    let three = [(fickle(&world), true), (server(&world, 2), true), (reaper(&world), true)];
    dying("dropped", &world, three, (1, 1));
}

/// A process stands still at any of its accesses while others go on: a client, who has answers all
/// the same where another server is there, or a server, who has calls of another client.
#[test]
fn who_stands_still_holds_up_his_own_calls_only() {
    for is_client in [false, true] {
        let world = world(2, 2);
        let still = if is_client { client(&world, &[1]) } else { server(&world, 1) };
        // Both roles in one, and more calls than the other one takes.
        let goes_on = Process::new("who goes on", |me: &Me| {
            let (client, mut server) = (world.client(me), world.server(me));
            for number in [2, 3] {
                let mut call = client.try_ask(&[number]).unwrap().expect("there is room");
                while answers(me, &mut server) {}
                match call.poll() {
                    Ok(Some(answer)) => {
                        assert_eq!(*answer, [number + 100]);
                        me.say(GOT + u64::from(number));
                    }
                    // The other one has it.
                    Ok(None) => assert!(!is_client),
                    Err(CallError::ServerDied) => unreachable!("nobody dies"),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let name = format!("a {} stands still", if is_client { "client" } else { "server" });
        let scenario = scenario(&name).process(still).process(goes_on.never_waits());
        let scenario = scenario.preemptions_at_most(2).may_all_wait(|_| ());
        scenario.check(|end| world.all_has_ended(end, 2)).explore();
    }
}

/// One asks two calls by two lanes, one after another; others are asked besides.
#[test]
fn calls_are_taken_in_turn() {
    let world = world(3, 1);
    let asks = Process::new("client", |me: &Me| {
        let (first, second) = (world.client(me), world.client(me));
        let calls = [(first, 1), (second, 2)].map(|(client, number)| client.try_ask(&[number]));
        calls.into_iter().for_each(|call| std::mem::forget(call.unwrap()));
    });
    let other = Process::new("another", |me: &Me| {
        std::mem::forget(world.client(me).try_ask(&[3]).unwrap());
    });
    let takes = Process::new("server", |me: &Me| {
        let mut server = world.server(me);
        for _ in 0..3 {
            answers(me, &mut server);
        }
    });
    let in_order = |end: &End<'_>| {
        let mut taken = end.said(2).to_vec();
        taken.retain(|said| *said == TAKEN + 1 || *said == TAKEN + 2);
        assert!(taken.is_sorted(), "{taken:?}");
    };
    // A server that is there from the beginning.
    kernel::become_process(4);
    std::mem::forget(world.rpc.server(world.member(4)).unwrap());
    kernel::become_process(kernel::BUILDER);
    let three = [asks.never_waits(), other.never_waits(), takes.never_waits()];
    let mut scenario = scenario("in turn").preemptions_at_most(2);
    for process in three {
        scenario = scenario.process(process);
    }
    scenario.check(in_order).explore();
}

/// Each is told lies: about states, names, lengths, deadlines, turns, seats and bytes.
fn lies_to<T: OneMapping>(level: &str) {
    let lies = if is_deep() { 2 } else { 1 };
    let world = world(1, 2);
    let rpc = world.rpc.clone().with_peers::<T>();
    let asks = Process::new("client", |me: &Me| {
        let Ok(client) = rpc.client(world.member(me.pid())) else { return };
        let calls = [1, 2].map(|number| client.try_ask(&[number]));
        for call in calls.into_iter().flatten().flatten() {
            let mut call = call;
            for _ in 0..2 {
                if let Ok(Some(answer)) = call.poll() {
                    assert!(answer.len() <= 8, "longer than its slot");
                }
            }
            let _ = call.refusal().map(|bytes| bytes.len());
        }
    });
    let serves = Process::new("server", |me: &Me| {
        let Ok(mut server) = rpc.server(world.member(me.pid())) else { return };
        for round in 0..2 {
            if let Ok(Some(request)) = server.try_take() {
                assert!(request.len() <= 8, "longer than its slot");
                let _ = match (request.is_cancelled(), round) {
                    (true, _) => {
                        drop(request);
                        Ok(())
                    }
                    (false, 0) => request.answer(&[1; 8]),
                    _ => request.refuse(7, &[]),
                };
            }
        }
    });
    let scenario = scenario(&format!("{level} peers, {lies} lies")).lies(lies);
    let scenario = scenario.process(asks.never_waits()).process(serves.never_waits());
    scenario.process(reaper(&world)).preemptions_at_most(0).explore();
}

#[test]
fn a_lie_of_a_crashing_peer_does_no_harm() {
    lies_to::<Crashing>("crashing");
}

#[test]
fn a_lie_of_a_buggy_peer_does_no_harm() {
    lies_to::<Buggy>("buggy");
}

/// A call whose deadline has passed is not taken, and ends so.
#[test]
fn a_call_ends_in_time() {
    let world = world(1, 1);
    let long_ago = Instant::now();
    let asks = Process::new("client", |me: &Me| {
        let client = world.client(me);
        let Ok(Some(mut draft)) = client.reserve(1) else { return };
        draft[0] = 1;
        let error = say_end(me, 1, &mut draft.until(long_ago).ask());
        assert_eq!(error, Some(CallError::DeadlinePassed));
    });
    let serves = Process::new("server", |me: &Me| {
        assert!(!answers(me, &mut world.server(me)), "it has passed");
    });
    let two = [(asks, true), (serves, true)];
    dying("in time", &world, two, (2, 3));
}

/// Planted bug, in short: who is about to sleep looks at its call, and sees then who has a seat:
/// not the server that has taken the call since, and died, whose seat another has taken away.
#[test]
fn finds_a_sleeper_whom_no_death_wakes() {
    let mapping = Mapping::heap(16);
    let word = |at| Mapped::<AtomicU64>::new(&mapping, at).unwrap();
    let (taken, gone) = (word(0), word(8));
    let serves = Process::new("server", |_: &Me| {
        taken.store(1, Relaxed);
        gone.store(1, Relaxed);
    });
    let asks = Process::new("client", |_: &Me| {
        let is_asked = taken.load(Relaxed) == 0;
        let is_watched = gone.load(Relaxed) == 0;
        assert!(!is_asked || is_watched || taken.load(Relaxed) == 0, "the call hangs");
    });
    finds("the call hangs", || scenario("in short").process(serves).process(asks).explore());
}
