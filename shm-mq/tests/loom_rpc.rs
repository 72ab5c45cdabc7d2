//! `rpc` under every interleaving and with a death at every access: each call ends, with its answer
//! or with the reason why not, and who waits for it is woken; no slot is lost, nobody living loses
//! his own.
//!
//! Process 1 looks for the dead, and cleans up when all have ended.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model as process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::rpc::{Answer, AskError, Call, CallError, Client, Rpc, RpcConfig, Server, Status};
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Life, thread::JoinHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// A table, and seats for processes 1 to 3, who have joined, and for one that joins later.
#[derive(Clone)]
struct World {
    table: Table,
    rpc: Rpc,
    members: [Arc<Member>; 3],
    has_died: Arc<AtomicBool>,
}

fn world(clients: u32, calls: u32) -> World {
    let config = RpcConfig::new(clients, calls, 8, 8);
    let at = Table::bytes_for(4).next_multiple_of(128);
    let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let rpc = unsafe { Rpc::create(&mapping, at, &config) }.unwrap();
    let members = [2, 3, 1].map(|pid| {
        process::become_process(pid);
        table.join().unwrap()
    });
    let [one, two, me] = members;
    World { table, rpc, members: [me, one, two], has_died: Arc::default() }
}

impl World {
    fn member(&self, pid: u32) -> &Arc<Member> {
        &self.members[pid as usize - 1]
    }

    fn client(&self, pid: u32) -> Client {
        self.rpc.client(self.member(pid)).unwrap()
    }

    fn server(&self, pid: u32) -> Server {
        self.rpc.server(self.member(pid)).unwrap()
    }

    /// Runs `act` as process `pid`, for as long as it lives.
    fn process(
        &self,
        pid: u32,
        life: Life,
        act: impl FnOnce(&World) + Send + 'static,
    ) -> JoinHandle<()> {
        let world = self.clone();
        model::thread::spawn(move || {
            let id = process::become_process(pid);
            if life.run(|| act(&world)).is_none() {
                world.has_died.store(true, Relaxed);
                process_ends(&world.table, id);
            }
        })
    }

    fn has_died(&self) -> bool {
        self.has_died.load(Relaxed)
    }

    /// Looks for the dead, while the others go on.
    fn reaps(&self, life: Life) {
        if life.run(|| self.rpc.reap(self.member(1))).is_none() {
            self.has_died.store(true, Relaxed);
        }
    }

    /// When all have ended nothing is left: where some died, after a look for the dead.
    fn ends(&self, threads: impl IntoIterator<Item = JoinHandle<()>>) {
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        if self.has_died() {
            self.rpc.reap(self.member(1));
        }
        let status = self.rpc.status();
        let slots = self.rpc.config().clients * self.rpc.config().calls;
        let Status { asked_ever, answered_ever, died_ever, .. } = status;
        let nothing =
            Status { free: slots, asked_ever, answered_ever, died_ever, ..<_>::default() };
        assert_eq!(status, nothing, "something is lost");
    }
}

/// What the answer to a request says.
fn answer_to(request: u8) -> [u8; 1] {
    [request + 100]
}

fn ask(client: &Client, request: u8) -> Call {
    client.try_ask(&[request]).unwrap().expect("there is room")
}

/// Answers a call, if there is one: which.
fn answers(server: &mut Server) -> Option<u8> {
    let request = server.try_take().unwrap()?;
    let [number] = *request else { panic!("torn: {request:?}") };
    let _ = request.answer(&answer_to(number));
    Some(number)
}

/// The right answer, or an error.
fn end(number: u8, end: Result<Answer<'_>, CallError>) -> Option<CallError> {
    match end {
        Ok(answer) => {
            assert_eq!(*answer, answer_to(number), "torn, or another's");
            None
        }
        Err(error) => Some(error),
    }
}

const LIVING: fn() -> Life = Life::endless;

/// One asks, and sleeps until its call ends; one waits for calls.
fn one_answers(life: Life) {
    let world = world(1, 1);
    let (mut server, client) = (world.server(3), world.client(2));
    let answers = world.process(3, life, move |_| {
        let request = server.take(None).unwrap();
        assert_eq!(*request, [7], "torn");
        request.answer(&answer_to(7)).expect("somebody waits");
    });
    process::become_process(2);
    // It may have died before.
    let error = client.try_ask(&[7]).map(|call| end(7, call.unwrap().wait(None)));
    drop(client);
    process::become_process(1);
    answers.join().unwrap();
    let is_right = match error {
        Ok(None) => true,
        Ok(Some(CallError::ServerDied | CallError::NoServer)) => world.has_died(),
        _ => false,
    };
    assert!(is_right, "{error:?}");
    world.ends([]);
}

/// The only server leaves while a client waits for its call to be taken.
fn leaves(life: Life) {
    let world = world(1, 1);
    let (server, client) = (world.server(3), world.client(2));
    let leaving = world.process(3, life, move |_| drop(server));
    process::become_process(2);
    // It may have left before.
    let error = client.try_ask(&[7]).map(|call| call.unwrap().wait(None).map(drop));
    assert!(matches!(error, Ok(Err(CallError::NoServer)) | Err(AskError::NoServer)), "{error:?}");
    drop(client);
    process::become_process(1);
    world.ends([leaving]);
}

/// One asks, one answers what there is, and one looks for the dead.
fn one_of_each([asks, serves, reaper]: [Life; 3]) {
    let world = world(1, 1);
    let (client, mut server) = (world.client(2), world.server(3));
    let asking = world.process(2, asks, move |world| {
        let Ok(Some(mut call)) = client.try_ask(&[7]) else { return };
        let error = end(7, call.wait(None));
        let is_known = matches!(error, None | Some(CallError::NoServer | CallError::ServerDied));
        assert!(is_known, "{error:?}");
        assert!(error != Some(CallError::ServerDied) || world.has_died());
    });
    let serving = world.process(3, serves, move |_| {
        assert!(matches!(answers(&mut server), None | Some(7)), "torn");
    });
    world.reaps(reaper);
    world.ends([asking, serving]);
}

/// One drops its call, and asks another in its place, while a server is at the first; so many calls
/// are taken.
fn cancelled(taken: usize, [asks, serves]: [Life; 2]) {
    let world = world(1, 1);
    let (client, mut server) = (world.client(2), world.server(3));
    let asking = world.process(2, asks, move |_| {
        drop(client.try_ask(&[1]));
        // The server may have the slot.
        if let Ok(Some(mut call)) = client.try_ask(&[2]) {
            let error = end(2, call.wait(None));
            assert!(matches!(error, None | Some(CallError::NoServer | CallError::ServerDied)));
        }
    });
    let serving = world.process(3, serves, move |_| {
        for _ in 0..taken {
            let Some(request) = server.try_take().unwrap() else { continue };
            let number = request[0];
            assert!(*request == [number] && (1..=2).contains(&number), "torn");
            let is_cancelled = request.is_cancelled();
            let answered = request.answer(&answer_to(number));
            assert!(!is_cancelled || answered.is_err(), "it stays so");
        }
    });
    world.ends([asking, serving]);
}

/// Two ask a call each, one after another: they are taken in their order, and whoever looked too
/// early finds them later.
fn in_turn() {
    let world = world(2, 1);
    let (first, second, mut server) = (world.client(2), world.client(1), world.server(3));
    let serving = model::thread::spawn(move || {
        process::become_process(3);
        let taken: Vec<u8> = (0..2).filter_map(|_| answers(&mut server)).collect();
        (taken, server)
    });
    let asking = world.process(2, LIVING(), move |_| std::mem::forget(ask(&first, 1)));
    asking.join().unwrap();
    std::mem::forget(ask(&second, 2));
    let (mut taken, mut server) = serving.join().unwrap();
    process::become_process(3);
    taken.extend(std::iter::from_fn(|| answers(&mut server)));
    assert_eq!(taken, [1, 2], "out of turn, or hidden");
    process::become_process(1);
}

/// A server comes, and is waited for.
fn a_server_comes() {
    let world = world(1, 1);
    let client = world.client(1);
    let (rpc, table) = (world.rpc.clone(), world.table.clone());
    let comes = model::thread::spawn(move || {
        process::become_process(4);
        let me = table.join().unwrap();
        let mut server = rpc.server(&me).unwrap();
        let request = server.take(None).unwrap();
        request.answer(&answer_to(7)).unwrap();
    });
    client.wait_for_server(None).unwrap();
    let error = end(7, ask(&client, 7).wait(None));
    assert_eq!(error, None, "it lives");
    comes.join().unwrap();
}

/// A call ends though its server lets go of it, or refuses it.
fn without_an_answer(refuses: bool) {
    let world = world(1, 1);
    let (client, mut server) = (world.client(1), world.server(3));
    let serving = world.process(3, LIVING(), move |_| {
        let request = server.take(None).unwrap();
        if refuses {
            request.refuse(5, b"no").unwrap();
        }
    });
    let mut call = ask(&client, 7);
    match call.wait(None).map(|answer| answer.to_vec()) {
        Err(CallError::Unanswered) => assert!(!refuses),
        Err(CallError::Refused { code: 5 }) => assert_eq!(*call.refusal().unwrap(), *b"no"),
        other => panic!("{other:?}"),
    }
    drop((call, client));
    world.ends([serving]);
}

/// A call whose deadline has passed: it ends so, or is not asked again, whoever had taken it.
fn in_time([asks, serves]: [Life; 2]) {
    let world = world(1, 1);
    let (client, mut server) = (world.client(2), world.server(3));
    let long_ago = Instant::now();
    let asking = world.process(2, asks, move |_| {
        let Ok(Some(mut draft)) = client.reserve(1) else { return };
        draft[0] = 7;
        let error = end(7, draft.until(long_ago).ask().wait(None));
        assert_eq!(error, Some(CallError::DeadlinePassed));
    });
    let serving = world.process(3, serves, move |_| {
        assert!(server.try_take().unwrap().is_none(), "it has passed");
    });
    world.ends([asking, serving]);
}

/// As [`cancelled`], and nobody waits: a run that goes wrong ends.
fn looked_at() {
    let world = world(1, 1);
    let (client, mut server) = (world.client(1), world.server(3));
    let serving = world.process(3, LIVING(), move |_| {
        answers(&mut server);
        answers(&mut server);
        std::mem::forget(server);
    });
    drop(client.try_ask(&[1]));
    // The server may have the slot.
    let mut call = client.try_ask(&[2]).unwrap();
    let mut look = || {
        let Some(call) = &mut call else { return };
        if let Some(answer) = call.poll().expect("it lives") {
            assert_eq!(*answer, answer_to(2), "torn, or another's");
        }
    };
    look();
    serving.join().unwrap();
    look();
}

/// A server ends a call that nobody wants any more, whose slot is used anew.
fn used_anew() {
    let world = world(1, 1);
    let (client, mut other) = (world.client(1), world.server(1));
    // The request goes to a thread.
    let server = Box::leak(Box::new(world.server(3)));
    let call = ask(&client, 1);
    process::become_process(3);
    let request = server.try_take().unwrap().expect("it was asked");
    process::become_process(1);
    drop(call);
    let ends = world.process(3, LIVING(), move |_| {
        assert!(request.answer(&answer_to(1)).is_err(), "nobody wants it");
    });
    if let Some(mut call) = client.try_ask(&[2]).unwrap() {
        assert_eq!(answers(&mut other), Some(2));
        assert_eq!(*call.poll().unwrap().expect("it is there"), answer_to(2));
    }
    ends.join().unwrap();
}

/// A server comes to where one has died: whoever sees its seat sees that it lives.
fn seen_to_live() {
    let world = world(1, 1);
    let (client, server) = (world.client(1), world.server(3));
    let mut call = ask(&client, 7);
    std::mem::forget(server);
    process_ends(&world.table, world.member(3).process());
    let theirs = world.clone();
    let comes = model::thread::spawn(move || {
        process::become_process(4);
        let me = theirs.table.join().unwrap();
        std::mem::forget((theirs.rpc.server(&me).unwrap(), me));
    });
    if world.rpc.status().servers == 2 {
        assert!(call.poll().expect("one lives").is_none());
    }
    comes.join().unwrap();
    std::mem::forget(call);
}

/// Who has just come has a lane, a slot or a call at once; who looks for the dead sees that it
/// lives.
fn just_come(asked: bool, act: fn(&Rpc, &Arc<Member>)) {
    let world = world(2, 1);
    let server = world.server(1);
    if asked {
        let client = world.client(1);
        std::mem::forget(ask(&client, 7));
        std::mem::forget(client);
    }
    let (rpc, table) = (world.rpc.clone(), world.table.clone());
    let comes = model::thread::spawn(move || {
        process::become_process(4);
        let me = table.join().unwrap();
        act(&rpc, &me);
        std::mem::forget(me);
    });
    assert_eq!(world.rpc.reap(world.member(1)), 0, "it lives");
    comes.join().unwrap();
    drop(server);
}

fn comes_to_serve(rpc: &Rpc, me: &Arc<Member>) {
    let mut server = rpc.server(me).unwrap();
    std::mem::forget(server.try_take().unwrap());
    std::mem::forget(server);
}

fn comes_to_ask(rpc: &Rpc, me: &Arc<Member>) {
    let client = rpc.client(me).unwrap();
    std::mem::forget(client.reserve(1).unwrap());
    std::mem::forget(client);
}

/// A server takes a call and dies, and another client takes its seat away: whoever sees no seat
/// sees that the call was taken, and does not wait for others to take it.
fn without_its_seat() {
    let world = world(2, 1);
    let (client, other) = (world.client(2), world.client(1));
    let (mut server, stays) = (world.server(3), world.server(1));
    let (mut call, mut another) = (ask(&client, 1), ask(&other, 2));
    // It has met both: to meet one takes a fence.
    assert!(call.poll().unwrap().is_none());
    let theirs = world.clone();
    let dies = model::thread::spawn(move || {
        process::become_process(3);
        std::mem::forget(server.try_take().unwrap().expect("two were asked"));
        std::mem::forget(server);
        process_ends(&theirs.table, theirs.member(3).process());
        process::become_process(1);
        assert!(another.poll().unwrap().is_none(), "one stays");
        std::mem::forget(another);
    });
    process::become_process(2);
    if world.rpc.status().servers == 1 {
        assert_eq!(call.poll().map(|_| ()), Err(CallError::ServerDied));
    }
    process::become_process(1);
    dies.join().unwrap();
    std::mem::forget((call, stays));
}

/// Deaths at each access of this many: the explorer interrupts more often.
fn bound() -> usize {
    model::preemption_bound() - 1
}

#[test]
fn a_server_may_die_anywhere() {
    let tried = model::every_death_of(bound(), |[life]: [Life; 1]| one_answers(life));
    println!("rpc, one answers: {tried:?}");
    println!(
        "rpc, one leaves: {:?}",
        model::every_death_of(bound(), |[life]: [Life; 1]| leaves(life))
    );
}

#[test]
fn whoever_has_a_part_may_die_anywhere() {
    println!("rpc, one of each: {:?}", model::every_death_of(bound() - 1, one_of_each));
    if is_deep() {
        let tried = model::every_two_deaths(bound() - 2, one_of_each);
        println!("rpc, one of each, two deaths: {tried:?}");
    }
}

#[test]
fn a_call_that_is_dropped_does_no_harm_whoever_dies() {
    let taken = if is_deep() { 2 } else { 1 };
    let tried = model::every_death_of(bound() - 1, move |lives| cancelled(taken, lives));
    println!("rpc, cancelled: {tried:?}");
    println!("rpc, in time: {:?}", model::every_death_of(bound(), in_time));
}

#[test]
fn every_call_ends() {
    println!("rpc, one answers: {:?}", model::check(|| one_answers(LIVING())));
    let tried = model::check_bounded(Some(bound() - 1), || cancelled(2, [LIVING(), LIVING()]));
    println!("rpc, cancelled: {tried:?}");
    println!("rpc, a server comes: {:?}", model::check(a_server_comes));
    for refuses in [false, true] {
        let tried = model::check_bounded(Some(bound()), move || without_an_answer(refuses));
        println!("rpc, no answer: {tried:?}");
    }
}

#[test]
fn calls_are_taken_in_turn() {
    println!("rpc, in turn: {:?}", model::check_bounded(Some(bound()), in_turn));
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["shm-mq/src/rpc/"], || {
        model::check(used_anew);
        model::check(seen_to_live);
        model::check(|| just_come(true, comes_to_serve));
        model::check(|| just_come(false, comes_to_ask));
        model::check(without_its_seat);
        model::check_bounded(Some(1), in_turn);
        model::check_bounded(Some(1), looked_at);
    });
    assert_eq!(found, 9);
}

/// Planted bug, in short: who is about to sleep looks at its call, and sees then who has a seat:
/// not the server that has taken the call since, and died, whose seat another has taken away.
#[test]
fn finds_a_sleeper_whom_no_death_wakes() {
    model::finds("the call hangs", || {
        model::check(|| {
            // Whether the call has been taken, and its server has no seat any more.
            let words = Arc::new([(); 2].map(|()| AtomicU64::new(0)));
            let theirs = words.clone();
            let server = model::thread::spawn(move || {
                let [taken, gone] = &*theirs;
                taken.store(1, Ordering::Release);
                gone.store(1, Ordering::Release);
            });
            let [taken, gone] = &*words;
            let is_asked = taken.load(Ordering::Acquire) == 0;
            if is_asked {
                let is_watched = gone.load(Ordering::Acquire) == 0;
                let hangs = !is_watched && taken.load(Ordering::Acquire) == 1;
                assert!(!hangs, "the call hangs");
            }
            server.join().unwrap();
        });
    });
}
