//! Any sequence of operations of clients and servers, and of their deaths, agrees with a plain list
//! of calls. At each level of trust.
#![cfg(not(any(shm_loom, shm_explore)))]
mod rpc_common;

use proptest::prelude::*;
use rpc_common::vanishes;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::rpc::{
    AnswerError, AskError, Call, CallError, Client, Request, Rpc, RpcConfig, Server, Status,
};
use shm_mq::stream::OneMapping;
use shm_testkit::depth::cases;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUEST_BYTES: usize = 40;
const ANSWER_BYTES: usize = 20;

#[derive(Clone, Debug)]
enum Op {
    Ask(usize, usize),
    /// With a deadline that has passed.
    AskLate(usize),
    /// Written, and not asked.
    Withdraw(usize),
    Poll(usize),
    Drop(usize),
    Answer(usize),
    Refuse(u32),
    LetGo,
    /// The call that is taken is dropped meanwhile, and then answered.
    DropTaken,
    /// The server leaves with a call in its hands; its seat is given to another one.
    ServerLeaves,
    /// A client comes, asks, writes, and leaves so.
    ClientLeaves,
}

fn op() -> impl Strategy<Value = Op> {
    let clients = 0..2_usize;
    prop_oneof![
        8 => (clients.clone(), 0..REQUEST_BYTES + 3).prop_map(|(who, len)| Op::Ask(who, len)),
        1 => clients.clone().prop_map(Op::AskLate),
        1 => clients.prop_map(Op::Withdraw),
        5 => (0..8_usize).prop_map(Op::Poll),
        2 => (0..8_usize).prop_map(Op::Drop),
        5 => (0..ANSWER_BYTES + 2).prop_map(Op::Answer),
        1 => any::<u32>().prop_map(Op::Refuse),
        1 => Just(Op::LetGo),
        1 => Just(Op::DropTaken),
        1 => Just(Op::ServerLeaves),
        1 => Just(Op::ClientLeaves),
    ]
}

/// What is known of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Plain {
    Asked,
    Late,
    Answered(Vec<u8>),
    Refused(u32, Vec<u8>),
    Failed(CallError),
}

/// A call, its number and its request, by when it was asked.
struct Open<T: OneMapping> {
    client: usize,
    call: Call<T>,
    bytes: Vec<u8>,
    plain: Plain,
    seen: bool,
}

struct World<T: OneMapping> {
    table: Table,
    rpc: Rpc,
    me: Arc<Member>,
    clients: [Client<T>; 2],
    server: Server<T>,
    calls: u32,
    asked: u64,
    open: Vec<Open<T>>,
}

impl<T: OneMapping> World<T> {
    fn new(calls: u32) -> World<T> {
        let config = RpcConfig::new(3, calls, REQUEST_BYTES as u64, ANSWER_BYTES as u64);
        let at = Table::bytes_for(8).next_multiple_of(128);
        let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 8) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let rpc = unsafe { Rpc::create(&mapping, at, &config) }.unwrap();
        let me = table.join().unwrap();
        let level = rpc.clone().with_peers();
        let clients = [(); 2].map(|()| level.client(&me).unwrap());
        let server = level.server(&me).unwrap();
        World { table, rpc, me, clients, server, calls, asked: 0, open: Vec::new() }
    }

    fn of(&self, client: usize) -> impl Iterator<Item = &Open<T>> {
        self.open.iter().filter(move |open| open.client == client)
    }

    /// How many slots of a client have a call in them.
    fn used(&self, client: usize) -> u32 {
        let has_slot = |open: &&Open<T>| match open.plain {
            Plain::Failed(_) | Plain::Late => !open.seen,
            _ => true,
        };
        self.of(client).filter(has_slot).count() as u32
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Ask(client, len) => self.ask(client, len),
            Op::AskLate(client) => {
                let has_room = self.used(client) < self.calls;
                let draft = self.clients[client].reserve(0).unwrap();
                assert_eq!(draft.is_some(), has_room);
                let late = Instant::now() - Duration::from_millis(1);
                if let Some(call) = draft.map(|draft| draft.until(late).ask()) {
                    self.opened(client, call, Vec::new(), Plain::Late);
                }
            }
            Op::Withdraw(client) => {
                let has_room = self.used(client) < self.calls;
                assert_eq!(self.clients[client].reserve(1).unwrap().is_some(), has_room);
            }
            Op::Poll(at) => self.poll(at),
            Op::Drop(at) => {
                if at < self.open.len() {
                    self.open.remove(at);
                }
            }
            Op::Answer(len) => self.answer(len),
            Op::Refuse(code) => {
                let plain = Plain::Refused(code, b"because".to_vec());
                self.take(plain, |request| request.refuse(code, b"because").unwrap());
            }
            Op::LetGo => self.take(Plain::Failed(CallError::Unanswered), |request| drop(request)),
            Op::DropTaken => self.drop_taken(),
            Op::ServerLeaves => self.server_leaves(),
            Op::ClientLeaves => self.client_leaves(),
        }
        self.is_as_it_says();
    }

    fn opened(&mut self, client: usize, call: Call<T>, bytes: Vec<u8>, plain: Plain) {
        self.asked += 1;
        self.open.push(Open { client, call, bytes, plain, seen: false });
    }

    fn ask(&mut self, client: usize, len: usize) {
        let has_room = self.used(client) < self.calls;
        let bytes: Vec<u8> = (0..len).map(|at| (self.asked as usize * 7 + at) as u8).collect();
        match self.clients[client].try_ask(&bytes) {
            Ok(call) => {
                assert_eq!(call.is_some(), has_room);
                if let Some(call) = call {
                    self.opened(client, call, bytes, Plain::Asked);
                }
            }
            Err(error) => {
                assert_eq!(error, AskError::TooLong { len, largest: REQUEST_BYTES });
                assert!(len > REQUEST_BYTES);
            }
        }
    }

    fn poll(&mut self, at: usize) {
        let Some(open) = self.open.get_mut(at) else { return };
        let refusal = |call: &mut Call<T>| call.refusal().map(|bytes| bytes.to_vec());
        match (open.call.poll(), &open.plain) {
            (Ok(None), Plain::Asked) => return,
            (Ok(Some(answer)), Plain::Answered(expected)) => assert_eq!(*answer, expected[..]),
            (Err(CallError::Refused { code }), Plain::Refused(expected, reason)) => {
                assert_eq!(code, *expected);
                assert_eq!(refusal(&mut open.call).as_ref(), Some(reason));
            }
            (Err(error), Plain::Failed(expected)) => assert_eq!(error, *expected),
            (Err(CallError::DeadlinePassed), Plain::Late) => {}
            (end, plain) => panic!("{end:?} of {plain:?}"),
        }
        open.seen = true;
    }

    /// Takes a call, which is the one that was asked first, and does something with it.
    fn take(&mut self, plain: Plain, with: impl FnOnce(Request<'_, T>)) {
        let first = self.open.iter_mut().find(|open| open.plain == Plain::Asked);
        let request = self.server.try_take().unwrap();
        assert_eq!(request.is_some(), first.is_some());
        if let (Some(request), Some(first)) = (request, first) {
            assert_eq!((&*request, request.left()), (&first.bytes[..], None));
            assert!(!request.is_cancelled() && request.client() == self.me.id());
            with(request);
            first.plain = plain;
        }
    }

    fn answer(&mut self, len: usize) {
        let answer: Vec<u8> = (0..len).map(|at| (self.asked as usize * 5 + at) as u8).collect();
        if len > ANSWER_BYTES {
            return self.take(Plain::Failed(CallError::Unanswered), |request| {
                let error = AnswerError::TooLong { len, largest: ANSWER_BYTES };
                assert_eq!(request.answer(&answer), Err(error));
            });
        }
        self.take(Plain::Answered(answer.clone()), |request| request.answer(&answer).unwrap());
    }

    fn drop_taken(&mut self) {
        let Some(request) = self.server.try_take().unwrap() else { return };
        let first = self.open.iter().position(|open| open.plain == Plain::Asked);
        drop(self.open.remove(first.expect("it is one of them")));
        assert!(request.is_cancelled());
        assert_eq!(self.rpc.status().cancelled, 1);
        assert_eq!(request.answer(b"late"), Err(AnswerError::Abandoned));
    }

    fn server_leaves(&mut self) {
        let member = self.table.join().unwrap();
        let mut other = self.rpc.server(&member).unwrap();
        let request = other.try_take().unwrap();
        let has_one = request.is_some();
        std::mem::forget(request);
        std::mem::forget(other);
        vanishes(member);
        if has_one {
            let first = self.open.iter_mut().find(|open| open.plain == Plain::Asked);
            first.expect("it is one of them").plain = Plain::Failed(CallError::ServerDied);
        }
        // Whoever looks first: the client, or who reaps.
        if self.asked.is_multiple_of(2) {
            assert_eq!(self.rpc.reap(&self.me), usize::from(has_one) + 1);
        } else if has_one {
            let at = self
                .open
                .iter()
                .position(|open| open.plain == Plain::Failed(CallError::ServerDied) && !open.seen);
            self.poll(at.unwrap());
            self.rpc.reap(&self.me);
        } else {
            self.rpc.reap(&self.me);
        }
    }

    fn client_leaves(&mut self) {
        let member = self.table.join().unwrap();
        let other = self.rpc.client(&member).unwrap();
        let call = other.try_ask(b"never mind").unwrap().unwrap();
        let is_written = self.calls > 1;
        std::mem::forget((call, other.reserve(3).unwrap()));
        std::mem::forget(other);
        vanishes(member);
        assert_eq!(self.rpc.reap(&self.me), 2 + usize::from(is_written));
    }

    fn is_as_it_says(&self) {
        let status = self.rpc.status();
        let count = |is: fn(&Plain) -> bool| {
            let counts = |open: &&Open<T>| is(&open.plain) && !has_gone(open);
            self.open.iter().filter(counts).count() as u32
        };
        let asked = count(|plain| matches!(plain, Plain::Asked | Plain::Late));
        let answered = count(|plain| matches!(plain, Plain::Answered(_) | Plain::Refused(..)));
        let ended = count(|plain| matches!(plain, Plain::Failed(_)));
        let free = 3 * self.calls - asked - answered - ended;
        let Status { asked_ever, answered_ever, died_ever, .. } = status;
        let expected = Status {
            clients: 2,
            servers: 1,
            free,
            asked,
            answered,
            ended,
            asked_ever,
            answered_ever,
            died_ever,
            ..Status::default()
        };
        assert_eq!(status, expected);
        assert!(asked_ever >= self.asked && answered_ever + died_ever <= asked_ever);
    }
}

/// Whether its slot is another's by now.
fn has_gone<T: OneMapping>(open: &Open<T>) -> bool {
    open.seen && matches!(open.plain, Plain::Failed(_) | Plain::Late)
}

fn agrees<T: OneMapping>(calls: u32, ops: &[Op]) {
    let mut world = World::<T>::new(calls);
    ops.iter().for_each(|op| world.apply(op));
    for _ in 0..world.open.len() {
        world.answer(3);
    }
    (0..world.open.len()).for_each(|at| world.poll(at));
    assert!(world.open.iter().all(|open| open.seen), "each has ended");
}

/// A server that took calls of one client all the time, while another one took those of the other.
#[test]
fn who_has_served_one_client_takes_calls_in_turn() {
    let mut world = World::<Crashing>::new(1);
    let mut other = world.rpc.server(&world.me).unwrap();
    let [first, second] = &world.clients;
    let ask = |client: &Client, call| client.try_ask(call).unwrap().unwrap();
    for _ in 0..5 {
        let _calls = (ask(first, b"first"), ask(second, b"second"));
        let requests = (world.server.try_take().unwrap(), other.try_take().unwrap());
        assert_eq!(*requests.0.unwrap(), *b"first");
        assert_eq!(*requests.1.unwrap(), *b"second");
    }
    let _calls = (ask(first, b"first"), ask(second, b"second"));
    assert_eq!(*world.server.try_take().unwrap().unwrap(), *b"first");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_list(
        calls in 1..6_u32,
        ops in prop::collection::vec(op(), 1..100),
        careful in any::<bool>(),
    ) {
        if careful {
            agrees::<Buggy>(calls, &ops);
        } else {
            agrees::<Crashing>(calls, &ops);
        }
    }
}
