//! A table of calls that lies, before a process attaches and while it is used: each call ends, with
//! a value or with an error of its own; no request and no answer is longer than its slot, or
//! changes while it is looked at; and nothing but the table's bytes is touched. And what the lies
//! of one cost the others.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use hostile_common::{Victim, guarded, members, soon};
use shm_core::mapping::Mapping;
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::trust::Buggy;
use shm_mq::rpc::{
    AnswerError, AttachError, Call, CallError, Client, Rpc, RpcConfig, Server, Status, TakeError,
};
use shm_testkit::liar::Trials;
use std::sync::Arc;

const CONFIG: RpcConfig = RpcConfig::new(2, 3, 40, 24);
const BYTES: usize = Rpc::bytes_for(&CONFIG) as usize;

/// Where the slots begin, and how far they are apart.
const SLOTS_AT: u64 = 512 + 2 * 64;
const SLOT_BYTES: u64 = 64;

/// What a table holds in the course of its life.
fn images(members: &[Arc<Member>]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let rpc = unsafe { Rpc::create(&mapping, 0, &CONFIG) }.unwrap();
    let mut images = vec![block.outside().read()];
    let (client, mut server) = (rpc.client(&members[0]).unwrap(), rpc.server(&members[1]).unwrap());
    let mut calls: Vec<Call> =
        [&b"peel"[..], b"boil", b"mash"].map(|dish| client.try_ask(dish).unwrap().unwrap()).into();
    images.push(block.outside().read());
    server.try_take().unwrap().unwrap().answer(b"peeled").unwrap();
    let request = server.try_take().unwrap().unwrap();
    images.push(block.outside().read());
    calls.pop();
    drop(calls.remove(1));
    images.push(block.outside().read());
    drop(request);
    images.push(block.outside().read());
    images
}

fn values(members: &[Arc<Member>]) -> Vec<u64> {
    let ids = members.iter().map(|member| u64::from(member.id().to_bits()));
    let states = ids.flat_map(|id| (0..8).flat_map(move |kind| [kind << 61 | id, kind << 61]));
    let turns = (0..4).map(|turn| 2 << 61 | turn << 32 | 1);
    let others = [0, 1, 24, 25, 40, 41, 1 << 32, 1 << 33, u64::MAX - 1, u64::MAX];
    states.chain(turns).chain(others).collect()
}

fn look(trials: &Trials, seed: u64, bytes: &[u8], largest: u64) {
    trials.check(seed, "bytes", bytes.len() as u64 <= largest, "longer than their slot");
    let kept = bytes.to_vec();
    trials.check(seed, "bytes", *bytes == kept[..], "change while they are looked at");
}

fn take(trials: &Trials, seed: u64, server: &mut Server<Buggy>, round: u64) {
    let taken = trials.call(seed, "take", || {
        let taken = if round == 0 {
            server.take(Some(soon()))
        } else {
            server.try_take()?.ok_or(TakeError::TimedOut)
        };
        taken.map(|request| {
            look(trials, seed, &request, CONFIG.request_bytes);
            let _ = (request.left(), request.client());
            match (request.is_cancelled(), round) {
                (_, 0) => request.answer(b"done").is_ok(),
                (_, 1) => request.reply(9).is_ok_and(|reply| reply.send().is_ok()),
                (false, 2) => request.refuse(5, b"no").is_ok(),
                _ => request.answer(&[0; 25]).is_ok(),
            }
        })
    });
    let _ = taken;
}

fn end(trials: &Trials, seed: u64, call: &mut Call<Buggy>, round: u64) {
    trials.call(seed, "poll or wait", || {
        let ended = if round == 0 { call.wait(Some(soon())).map(Some) } else { call.poll() };
        if let Ok(Some(answer)) = ended {
            look(trials, seed, &answer, CONFIG.answer_bytes);
        }
        if let Some(reason) = call.refusal() {
            look(trials, seed, &reason, CONFIG.answer_bytes);
        }
    });
}

/// Every call there is; whether there was a table.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>]) -> bool {
    let rpc = match trials.call(seed, "attach", || Rpc::attach(mapping, 0, 0)) {
        Some(Ok(rpc)) => rpc.with_peers::<Buggy>(),
        Some(Err(AttachError::Place(_))) => {
            trials.check(seed, "attach", false, "says that the place is wrong");
            return false;
        }
        _ => return false,
    };
    let both = trials.call(seed, "client, server", || {
        (rpc.client(&members[0]).ok(), rpc.server(&members[1]).ok())
    });
    let Some((Some(client), Some(mut server))) = both else { return false };
    for round in 0..4 {
        let mut calls = Vec::new();
        let asked = trials.call(seed, "ask", || {
            calls.extend(client.try_ask(&vec![7; round as usize * 10]).ok().flatten());
            calls.extend(client.ask(b"soon", Some(soon())).ok());
            drop(client.reserve(4));
            calls.extend(client.reserve(4).ok().flatten().map(|draft| draft.until(soon()).ask()));
            client.wait_for_server(Some(soon())).is_ok()
        });
        let _ = asked;
        take(trials, seed, &mut server, round);
        take(trials, seed, &mut server, round + 1);
        calls.iter_mut().for_each(|call| end(trials, seed, call, round));
        trials.call(seed, "drop", || drop(calls));
        trials.call(seed, "reap", || rpc.reap(&members[round as usize % 2]));
        let status = trials.call(seed, "status", || rpc.status());
        let is_bounded = status.is_none_or(|status| slots(&status) == rpc_slots(&rpc));
        trials.check(seed, "status", is_bounded, "counts other slots than there are");
    }
    trials.call(seed, "leave", || drop((client, server)));
    true
}

fn slots(status: &Status) -> u64 {
    let Status { free, writing, asked, taken, cancelled, answered, ended, .. } = *status;
    [free, writing, asked, taken, cancelled, answered, ended].map(u64::from).iter().sum()
}

fn rpc_slots(rpc: &Rpc<Buggy>) -> u64 {
    u64::from(rpc.config().clients) * u64::from(rpc.config().calls)
}

fn victim<'a>(
    members: &'a [Arc<Member>],
    use_it: &'a dyn Fn(&Trials, u64, &Arc<Mapping>) -> bool,
) -> Victim<'a> {
    Victim { images: images(members), values: values(members), use_it }
}

#[test]
fn a_table_of_lies_is_used_or_refused() {
    let members = members();
    let uses = |trials: &Trials, seed, mapping: &_| use_it(trials, seed, mapping, &members);
    victim(&members, &uses).is_lied_to("rpc, before", 300, 50);
}

#[test]
fn a_table_that_is_scribbled_on_is_used() {
    let members = members();
    let uses = |trials: &Trials, seed, mapping: &_| use_it(trials, seed, mapping, &members);
    victim(&members, &uses).is_lied_to_meanwhile("rpc, meanwhile", 16, 0);
}

/// An honest client, one that lies, and a server; and each word of the table.
struct Liars {
    member: Arc<Member>,
    mapping: Arc<Mapping>,
    honest: Client<Buggy>,
    liar: Client<Buggy>,
    server: Server<Buggy>,
    /// The liar's.
    other: Arc<Member>,
}

impl Liars {
    fn new() -> Liars {
        let mapping = Mapping::heap(BYTES);
        // SAFETY: nobody else has the mapping.
        let rpc = unsafe { Rpc::create(&mapping, 0, &CONFIG) }.unwrap().with_peers::<Buggy>();
        let [one, other] = members();
        let (honest, liar) = (rpc.client(&one).unwrap(), rpc.client(&other).unwrap());
        let server = rpc.server(&one).unwrap();
        Liars { member: one, mapping, honest, liar, server, other }
    }

    /// A word of a slot; the liar's are those from number 3 on.
    fn word(&self, slot: u64, at: u64) -> &AtomicU64 {
        self.mapping.region().share(SLOTS_AT + slot * SLOT_BYTES + at).unwrap()
    }

    fn serves(&mut self) -> Option<Vec<u8>> {
        let request = self.server.try_take().unwrap()?;
        let bytes = request.to_vec();
        request.answer(b"done").unwrap();
        Some(bytes)
    }
}

#[test]
fn who_lies_about_a_request_spoils_his_own_call() {
    let mut liars = Liars::new();
    let mut lie = liars.liar.try_ask(b"lie").unwrap().unwrap();
    let mut call = liars.honest.try_ask(b"call").unwrap().unwrap();
    liars.word(3, 16).store(41, Ordering::Relaxed);
    assert_eq!(liars.server.try_take().unwrap_err(), TakeError::Corrupt { len: 41 });
    assert_eq!(liars.serves().unwrap(), b"call");
    assert_eq!(*call.poll().unwrap().unwrap(), *b"done");
    assert_eq!(lie.poll().unwrap_err(), CallError::Unanswered);
}

#[test]
fn who_lies_about_an_answer_spoils_that_call() {
    let mut liars = Liars::new();
    let mut calls = [b"one", b"two"].map(|call| liars.honest.try_ask(call).unwrap().unwrap());
    assert!(liars.serves().is_some() && liars.serves().is_some());
    liars.word(0, 32).store(25, Ordering::Relaxed);
    assert_eq!(calls[0].poll().unwrap_err(), CallError::Corrupt);
    assert_eq!(*calls[1].poll().unwrap().unwrap(), *b"done");
}

/// kind 3 bits | turn 29 | participant 32
struct State(u64);

impl State {
    fn earlier(self, turns: u64) -> u64 {
        let mask = ((1 << 29) - 1) << 32;
        let turn = (self.0 & mask).wrapping_sub(turns << 32) & mask;
        self.0 & !mask | turn
    }
}

/// A client that says of each of its calls that it was begun long ago is not served alone.
#[test]
fn who_lies_about_his_turn_does_not_starve_others() {
    let mut liars = Liars::new();
    let _call = liars.honest.try_ask(b"call").unwrap().unwrap();
    let slots = CONFIG.clients * CONFIG.calls;
    for lies in 0.. {
        assert!(lies <= slots + 1, "it is not served");
        let _lie = liars.liar.try_ask(b"lie").unwrap().unwrap();
        let state = liars.word(3, 0);
        let lied = State(state.load(Ordering::Relaxed)).earlier(5000);
        state.store(lied, Ordering::Relaxed);
        match liars.serves().unwrap().as_slice() {
            b"lie" => liars.word(3, 0).store(0, Ordering::Relaxed),
            served => {
                assert_eq!(served, b"call");
                assert!(lies > 0, "the lie has no effect");
                return;
            }
        }
    }
}

/// States that name nobody, or that no call of its client is in, keep no slot.
#[test]
fn a_state_of_nonsense_is_taken_back() {
    let liars = Liars::new();
    for kind in 1..8 {
        liars.word(4, 0).store(kind << 61, Ordering::Relaxed);
        assert_eq!(liars.liar.rpc().reap(&liars.member), 1, "kind {kind}");
        assert_eq!(liars.liar.rpc().status().free, 6);
    }
}

/// The names of those who come next to the seat of one who leaves.
fn next_name(member: Arc<Member>) -> u32 {
    member.id().to_bits() + 1
}

#[test]
fn a_name_that_was_written_ahead_does_no_harm_to_its_bearer() {
    let Liars { member, mapping, honest, liar, mut server, other } = Liars::new();
    let (rpc, table) = (honest.rpc().clone(), member.table().clone());
    // The liar asks in the name of the next one, and that is said to be a server too.
    let lie = liar.try_ask(b"lie").unwrap().unwrap();
    let name = next_name(other);
    let state: &AtomicU64 = mapping.region().share(SLOTS_AT + 3 * SLOT_BYTES).unwrap();
    state.store(state.load(Ordering::Relaxed) & !0xffff_ffff | u64::from(name), Ordering::Relaxed);
    assert!(server.try_take().unwrap().unwrap().is_cancelled(), "nobody has that name");
    drop((lie, liar));
    drop(server);
    let seat: &AtomicU64 = mapping.region().share(256).unwrap();
    seat.store(u64::from(name), Ordering::Relaxed);
    let mut call = honest.try_ask(b"call").unwrap().unwrap();
    assert_eq!(call.poll().unwrap_err(), CallError::NoServer);

    let next = table.join().unwrap();
    assert_eq!(next.id().to_bits(), name);
    let mut servers = [&member, &next].map(|member| rpc.server(member).unwrap());
    // Its server is taken to live.
    let mut call = honest.try_ask(b"call").unwrap().unwrap();
    let request = servers[1].try_take().unwrap().unwrap();
    assert!(call.poll().unwrap().is_none());
    assert_eq!(rpc.reap(&member), 0);
    request.answer(b"done").unwrap();
    assert_eq!(*call.poll().unwrap().unwrap(), *b"done");
    // And so is its client.
    let _call = rpc.client(&next).unwrap().try_ask(b"call").unwrap().unwrap();
    assert!(!servers[0].try_take().unwrap().unwrap().is_cancelled());
}

#[test]
fn a_count_of_the_last_client_hides_no_call_of_the_next() {
    let Liars { member, mapping, honest, liar, mut server, .. } = Liars::new();
    drop(liar.try_ask(b"lie").unwrap().unwrap());
    assert!(server.try_take().unwrap().is_none());
    let asked: &AtomicU64 = mapping.region().share(512 + 64 + 8).unwrap();
    assert_eq!(asked.swap(0, Ordering::Relaxed), 1);
    let rpc = honest.rpc().clone();
    drop(liar);
    let _call = rpc.client(&member).unwrap().try_ask(b"call").unwrap().unwrap();
    assert_eq!(*server.try_take().unwrap().expect("it was asked"), *b"call");
}

#[test]
fn slots_that_the_last_client_gave_away_are_those_of_the_next() {
    let Liars { member, mapping, honest, liar, server, other } = Liars::new();
    for (slot, kind) in [1, 5, 6].into_iter().enumerate() {
        let at = SLOTS_AT + (3 + slot as u64) * SLOT_BYTES;
        let state: &AtomicU64 = mapping.region().share(at).unwrap();
        state.store(kind << 61 | u64::from(member.id().to_bits()), Ordering::Relaxed);
    }
    let (rpc, table) = (honest.rpc().clone(), member.table().clone());
    drop((liar, other));
    let next = rpc.client(&table.join().unwrap()).unwrap();
    let calls: Vec<_> = (0..3).map(|_| next.try_ask(b"call").unwrap().expect("a slot")).collect();
    drop((calls, server));
}

#[test]
fn a_late_answer_to_a_call_that_was_taken_back_is_not_anothers() {
    let Liars { member, mapping, honest, liar, mut server, other } = Liars::new();
    let lie = liar.try_ask(b"lie").unwrap().unwrap();
    let request = server.try_take().unwrap().unwrap();
    let state: &AtomicU64 = mapping.region().share(SLOTS_AT + 3 * SLOT_BYTES).unwrap();
    state.store(0, Ordering::Relaxed);
    let (rpc, table) = (honest.rpc().clone(), member.table().clone());
    drop((lie, liar, other));
    let mut call = rpc.client(&table.join().unwrap()).unwrap().try_ask(b"call").unwrap().unwrap();
    rpc.server(&member).unwrap().try_take().unwrap().unwrap().answer(b"right").unwrap();
    assert_eq!(request.answer(b"wrong"), Err(AnswerError::Abandoned));
    assert_eq!(*call.poll().unwrap().unwrap(), *b"right");
}
