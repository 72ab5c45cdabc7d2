//! Calls: each that a living client asks ends, is answered right, and is never tried twice.
use super::{LEDGER, Lives, NOBODY_SENDS, ONLY_WHAT_IS_LEFT, Scene, World};
use super::{message, next, read, soon};
use shm_core::sync::Ordering;
use shm_mq::rpc::{
    AnswerError, AskError, Call, CallError, Client, Rpc, RpcConfig, Server, TakeError,
};
use std::collections::VecDeque;
use std::time::Duration;

const CONFIG: RpcConfig = RpcConfig::new(3, 8, 120, 120);
/// Whose the answers are.
const ANSWER: u64 = 1;

/// What a client says of a call.
const BEGUN: u64 = 1;
const ANSWERED: u64 = 2;
const FAILED: u64 = 3;

pub(crate) const RPC: Scene = Scene {
    name: "rpc",
    senders: ("asks", 2),
    receivers: ("answers", 2),
    bytes: Rpc::bytes_for(&CONFIG),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { Rpc::create(mapping, at, &CONFIG) }.unwrap()),
    has_ledger: true,
    check,
};

/// Calls that were asked, and that were answered.
fn check(world: &World, lives: &Lives) -> Result<[u64; 2], String> {
    let (mut asked, mut answered, mut open) = (0, 0, 0);
    for entry in world.entries() {
        match entry {
            [0, 0] => continue,
            // Its client was killed.
            [BEGUN, 0 | 1] => open += 1,
            [ANSWERED, 1] => answered += 1,
            [FAILED, 0 | 1] => {}
            wrong => {
                return Err(format!("a call was tried twice, or answered by nobody: {wrong:?}"));
            }
        }
        asked += 1;
    }
    // Each client that was not killed has seen the ends of its calls.
    let most = lives.senders.len() * CONFIG.calls as usize;
    if open > most {
        return Err(format!("{open} calls have no end, and at most {most} were open at a death"));
    }
    let rpc = Rpc::attach(&world.mapping, world.queue_at, 0).unwrap();
    rpc.reap(&world.me);
    let status = rpc.status();
    assert_eq!(status.free, CONFIG.clients * CONFIG.calls, "{status:?}");
    Ok([asked, answered])
}

pub(crate) fn asks(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, true);
    let rpc = Rpc::attach(&world.mapping, world.queue_at, 0).unwrap();
    let client = rpc.client(&world.me).unwrap();
    let mut open: VecDeque<(u64, Call)> = VecDeque::new();
    let mut ids = 0..0;
    while !world.is_over(NOBODY_SENDS) {
        if open.len() == CONFIG.calls as usize || next(&mut seed).is_multiple_of(8) {
            end_one(&world, &mut open, &mut seed);
            continue;
        }
        let Some(id) = ids.next() else {
            match world.some_ids() {
                Some(some) => ids = some,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
            continue;
        };
        world.entry(id)[0].store(BEGUN, Ordering::Relaxed);
        match ask(&client, id) {
            Some(call) => open.push_back((id, call)),
            None => world.entry(id)[0].store(FAILED, Ordering::Relaxed),
        }
    }
    while !open.is_empty() {
        end_one(&world, &mut open, &mut seed);
    }
}

fn ask(client: &Client, id: u64) -> Option<Call> {
    match client.try_ask(&message(0, id)) {
        Ok(call) => call,
        Err(AskError::NoServer) => {
            match client.wait_for_server(Some(soon())) {
                Ok(()) | Err(AskError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Sees the end of one of the calls.
fn end_one(world: &World, open: &mut VecDeque<(u64, Call)>, seed: &mut u64) {
    let at = next(seed) as usize % open.len().max(1);
    let Some((id, mut call)) = open.remove(at) else { return };
    let told = world.entry(id)[0];
    match call.wait(None) {
        Ok(answer) => {
            assert_eq!(read(&answer), (ANSWER, id), "the answer of another call");
            told.store(ANSWERED, Ordering::Relaxed);
        }
        Err(CallError::ServerDied | CallError::NoServer | CallError::Unanswered) => {
            told.store(FAILED, Ordering::Relaxed);
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn answers(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, true);
    let rpc = Rpc::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut server = rpc.server(&world.me).unwrap();
    while answer(&world, &mut server, &mut seed) {}
}

/// Answers one call. Whether there may be more.
fn answer(world: &World, server: &mut Server, seed: &mut u64) -> bool {
    let is_last = world.is_over(ONLY_WHAT_IS_LEFT);
    let request = match next(seed) % 4 {
        0 => server.try_take().unwrap(),
        _ => match server.take(Some(soon())) {
            Ok(request) => Some(request),
            Err(TakeError::TimedOut) => None,
            Err(error) => panic!("{error}"),
        },
    };
    let Some(request) = request else { return !is_last };
    let (_, id) = read(&request);
    assert!(id < LEDGER);
    let [told, tried] = world.entry(id);
    assert_ne!(told.load(Ordering::Relaxed), 0, "nobody asked {id}");
    assert_eq!(tried.fetch_add(1, Ordering::Relaxed), 0, "{id} was given again");
    if next(seed).is_multiple_of(32) {
        drop(request);
        return true;
    }
    match request.answer(&message(ANSWER, id)) {
        // Its client was killed.
        Ok(()) | Err(AnswerError::Abandoned) => true,
        Err(error) => panic!("{error}"),
    }
}
