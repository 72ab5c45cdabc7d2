//! Calls among strangers under the explorer: either side dies anywhere, and the other one learns
//! of it; each call that was asked ends once, with its answer where both live; nobody sleeps for
//! good; and a side that is lied to has a value or an error, in bounded time.
//!
//! Process 1 is the client, process 2 the server.
#![cfg(shm_explore)]
use shm_mq::fan_in::Why;
use shm_mq::rpc::AskError;
use shm_mq::rpc::strangers::explored::{client, connection};
use shm_mq::rpc::strangers::{
    CallId, Event, StrangeClient, StrangeError, StrangeServer, StrangeTakeError,
};
use shm_mq::spsc::explored::Hostiles;
use shm_mq::waitset::WaitSet;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep};

const CLIENT: u32 = 1;
const SERVER: u32 = 2;
/// How a call ended, at its client's: with its answer, or without.
const ANSWERED: u64 = 1;
const DIED: u64 = 2;
const LEFT: u64 = 3;
/// A server's last word: how the client ended.
const END: u64 = 100;

/// The two queues of a connection.
struct World {
    requests: Hostiles,
    answers: Hostiles,
    calls: u32,
}

impl World {
    fn new(lines: [u64; 2], calls: u32) -> World {
        let [requests, answers] = lines.map(|lines| Hostiles::new(lines).unwrap());
        World { requests, answers, calls }
    }

    fn client(&self) -> StrangeClient {
        client(self.requests.sender(SERVER), self.answers.receiver(SERVER), self.calls)
    }

    fn server(&self) -> StrangeServer<()> {
        let (requests, answers) = (self.requests.receiver(CLIENT), self.answers.sender(CLIENT));
        let mut server = StrangeServer::new();
        server.admit((), connection(requests, answers, self.calls));
        server
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    let states = if is_deep() { 2_000_000 } else { 45_000 };
    Scenario::new("rpc among strangers", name).alone_at_most(6000).states_at_most(states)
}

fn ask(client: &mut StrangeClient, number: u8) -> Option<CallId> {
    match client.ask(&[number], None) {
        Ok(call) => Some(call),
        Err(AskError::NoServer) => None,
        Err(other) => panic!("{other}"),
    }
}

/// How a call ended, which was asked with this number.
fn told(end: Result<Vec<u8>, StrangeError>, number: u8) -> Option<u64> {
    match end {
        Ok(answer) => {
            assert!(answer == [number + 1] || is_after_a_lie(), "another's answer");
            Some(ANSWERED)
        }
        Err(StrangeError::ServerDied) => Some(DIED),
        Err(StrangeError::Unanswered) => Some(LEFT),
        Err(StrangeError::Corrupt | StrangeError::Refused { .. }) => {
            assert!(is_after_a_lie(), "nobody lied");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// Asks so many, and then waits for each, the last one first.
fn asks(world: &World, calls: u8) -> Process<'_> {
    Process::new("client", move |me: &Me| {
        let mut client = world.client();
        let asked: Vec<_> = (0..calls).map_while(|number| ask(&mut client, number)).collect();
        for (number, call) in asked.into_iter().enumerate().rev() {
            if let Some(end) = told(client.wait(call, None), number as u8) {
                me.say(end);
            }
            assert_eq!(client.poll(call), Err(StrangeError::NotOpen), "it ends once");
        }
    })
}

/// Answers until the client's end, and says how that was.
fn answers(world: &World) -> Process<'_> {
    Process::new("server", move |me: &Me| {
        let mut server = world.server();
        // A liar may go on without end.
        for _ in 0..6 {
            match server.take(None) {
                Ok(Event::Asked((), request)) => {
                    let answer: Vec<u8> = request.iter().map(|byte| byte.wrapping_add(1)).collect();
                    let _ = server.answer(request, &answer);
                }
                Ok(Event::End { why, .. }) => {
                    assert!(why != Why::Corrupt || is_after_a_lie(), "nobody lied");
                    me.say(END + why as u64);
                }
                Err(end) => return assert_eq!(end, StrangeTakeError::Nobody),
            }
        }
    })
}

/// Both as above, and wait as one of many would. The client asks while it may, takes the ends of
/// its calls as they come, and says each.
fn asks_in_a_set(world: &World, calls: u8) -> Process<'_> {
    Process::new("client", move |me: &Me| {
        let mut client = world.client();
        let (mut asked, mut ended) = (Vec::new(), 0);
        while ended < calls {
            while asked.len() < calls.into() {
                match client.try_ask(&[asked.len() as u8]) {
                    Ok(Some(call)) => asked.push(call),
                    Ok(None) => break,
                    Err(AskError::NoServer) if client.open() == 0 => return,
                    Err(AskError::NoServer) => break,
                    Err(other) => panic!("{other}"),
                }
            }
            WaitSet::new().wait(&mut [((), &mut client)], None).unwrap();
            for (number, call) in asked.iter().enumerate() {
                match client.poll(*call).transpose() {
                    None | Some(Err(StrangeError::NotOpen)) => {}
                    Some(end) => {
                        me.say(told(end, number as u8).expect("nobody lies"));
                        ended += 1;
                    }
                }
            }
        }
    })
}

fn answers_in_a_set(world: &World) -> Process<'_> {
    Process::new("server", move |me: &Me| {
        let mut server = world.server();
        while !server.is_empty() {
            WaitSet::new().wait(&mut [((), &mut server)], None).unwrap();
            match server.try_take().unwrap().expect("it is ready") {
                Event::Asked((), request) => {
                    let answer = [request[0] + 1];
                    let _ = server.answer(request, &answer);
                }
                Event::End { why, .. } => me.say(END + why as u64),
            }
        }
    })
}

/// What was asked ended as what became of the other side says.
fn each_knows(calls: u64, end: &End<'_>) {
    if end.is_after_a_lie() {
        return;
    }
    if !end.is_dead(0) {
        let told = end.said(0);
        if !end.is_dead(1) {
            assert_eq!(told, vec![ANSWERED; calls as usize], "a call is lost");
        }
        // Nobody leaves before its client.
        assert!(told.iter().all(|end| *end != LEFT), "a wrong verdict");
    }
    if !end.is_dead(1) {
        let died = END + Why::Died as u64;
        let expected = if end.is_dead(0) { None } else { Some(END + Why::Left as u64) };
        let said = end.said(1).to_vec();
        assert!(said.len() == 1 && (expected.is_none_or(|it| it == said[0])), "{said:?}");
        // One that died after it had left has left.
        assert!(end.is_dead(0) || said[0] != died);
    }
}

fn mortal(deaths: u32, process: Process<'_>) -> Process<'_> {
    if deaths > 0 { process.mortal() } else { process }
}

fn explores(name: &str, world: &World, calls: u8, deaths: u32, lies: u32) {
    let check = |end: &End<'_>| each_knows(calls.into(), end);
    let scenario = scenario(name).deaths(deaths).lies(lies);
    let (asks, answers) = (asks(world, calls), answers(world));
    let scenario = scenario.process(mortal(deaths, asks)).process(mortal(deaths, answers));
    let scenario = scenario.check(check);
    // One that was told that nobody sleeps wakes nobody.
    let scenario = if lies > 0 {
        scenario.may_all_wait(|end| assert!(end.is_after_a_lie()))
    } else {
        scenario
    };
    scenario.explore();
}

#[test]
fn either_may_die_anywhere() {
    explores("a call, both may die", &World::new([4, 4], 1), 1, 2, 0);
}

#[test]
fn calls_are_answered_one_after_another() {
    explores("two calls, of which one may be open, a death", &World::new([4, 4], 1), 2, 1, 0);
}

#[test]
fn answers_wait_for_room() {
    explores("three calls, room for one answer", &World::new([16, 4], 3), 3, 0, 0);
}

#[test]
fn both_may_be_waited_for_in_a_set() {
    for (name, lines, open, calls, deaths) in [
        ("in sets, a call, both may die", [4, 4], 1, 1, 2),
        ("in sets, three calls, room for one answer", [16, 4], 3, 3, 0),
        ("in sets, two calls, room for one of each, a death", [4, 4], 2, 2, 1),
    ] {
        let world = World::new(lines, open);
        let check = |end: &End<'_>| each_knows(calls.into(), end);
        scenario(name)
            .deaths(deaths)
            .process(mortal(deaths, asks_in_a_set(&world, calls)))
            .process(mortal(deaths, answers_in_a_set(&world)))
            .check(check)
            .explore();
    }
}

#[test]
fn a_lie_does_no_harm() {
    explores("a call, one lie", &World::new([4, 4], 1), 1, 0, 1);
}

/// Asks once, cancels, and asks again: there is no room for it before the server has let go.
fn cancels(world: &World) -> Process<'_> {
    Process::new("client", |me: &Me| {
        let mut client = world.client();
        let Some(first) = ask(&mut client, 1) else { return };
        client.cancel(first).unwrap();
        assert_eq!(client.poll(first), Err(StrangeError::NotOpen));
        let Some(second) = ask(&mut client, 2) else { return };
        if let Some(end) = told(client.wait(second, None), 2) {
            me.say(end);
        }
    })
}

#[test]
fn what_is_cancelled_makes_room() {
    let world = World::new([4, 4], 1);
    let check = |end: &End<'_>| each_knows(1, end);
    let (cancels, answers) = (cancels(&world), answers(&world));
    scenario("a call is cancelled, and another one asked, a death")
        .deaths(1)
        .process(cancels.mortal())
        .process(answers.mortal())
        .check(check)
        .explore();
}

/// One that answers and looks only once: the check notices.
#[test]
fn finds_a_server_that_does_not_answer() {
    finds("everybody waits", || {
        let world = World::new([4, 4], 1);
        let forgets = Process::new("server", |me: &Me| {
            let mut server = world.server();
            let mut kept = Vec::new();
            while let Ok(event) = server.take(None) {
                match event {
                    Event::Asked((), request) => kept.push(request),
                    Event::End { why, .. } => return me.say(END + why as u64),
                }
            }
        });
        scenario("planted").process(asks(&world, 1)).process(forgets).explore()
    });
}
