//! Any sequence of what strangers ask, cancel, read and answer agrees with a plain list of calls:
//! each call ends once, with what was said of it; the server takes each client's calls in their
//! order and in turn; one that reads no answers costs the others nothing; and who is asked of a
//! call that is another one's says so.
#![cfg(not(any(shm_loom, shm_explore)))]
mod strange_rpc_common;

use proptest::prelude::*;
use shm_mq::fan_in::Why;
use shm_mq::rpc::strangers::{
    CallId, Event, Request, StrangeClient, StrangeConfig, StrangeError, StrangeServer,
    StrangeTakeError,
};
use shm_mq::rpc::{AnswerError, AskError};
use shm_mq::waitset::Source;
use shm_testkit::depth::cases;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;
use strange_rpc_common::{config, met, text};

const CALLS: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Op {
    Admit,
    Ask(usize, usize),
    /// With a deadline that has passed.
    AskLate(usize),
    Poll(usize, usize),
    WaitAny(usize),
    Cancel(usize, usize),
    /// At a client, of a call of any.
    OfAnother(usize, usize),
    Leave(usize),
    Take,
    Answer(usize, usize),
    Refuse(usize, u32),
    /// At a server that has not taken the call.
    AnswerElsewhere(usize),
    Drop(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = any::<usize>;
    let which = any::<usize>;
    prop_oneof![
        1 => Just(Op::Admit),
        8 => (who(), 0..120_usize).prop_map(|(who, len)| Op::Ask(who, len)),
        1 => who().prop_map(Op::AskLate),
        4 => (who(), which()).prop_map(|(who, which)| Op::Poll(who, which)),
        4 => who().prop_map(Op::WaitAny),
        2 => (who(), which()).prop_map(|(who, which)| Op::Cancel(who, which)),
        2 => (who(), which()).prop_map(|(who, which)| Op::OfAnother(who, which)),
        1 => who().prop_map(Op::Leave),
        9 => Just(Op::Take),
        6 => (which(), 0..120_usize).prop_map(|(which, len)| Op::Answer(which, len)),
        1 => (which(), any::<u32>()).prop_map(|(which, code)| Op::Refuse(which, code)),
        1 => which().prop_map(Op::AnswerElsewhere),
        1 => which().prop_map(Op::Drop),
    ]
}

/// A call, as a plain list has it.
struct Plain {
    id: CallId,
    request: Vec<u8>,
    is_late: bool,
    is_taken: bool,
    is_given_up: bool,
    end: Option<Result<Vec<u8>, StrangeError>>,
}

struct Client {
    key: u64,
    client: Option<StrangeClient>,
    calls: Vec<Plain>,
    asked: u64,
    /// Of whom a call was taken while it had one that waits.
    passed_by: BTreeSet<u64>,
}

impl Client {
    fn waits(&self) -> bool {
        self.client.is_some() && self.calls.iter().any(Plain::waits)
    }
}

impl Plain {
    fn waits(&self) -> bool {
        !self.is_taken && !self.is_given_up && !self.is_late && self.end.is_none()
    }
}

#[derive(Default)]
struct World {
    server: StrangeServer<u64>,
    clients: Vec<Client>,
    admitted: u64,
    /// Requests that the server has, whose they are.
    taken: VecDeque<(u64, CallId, Request)>,
}

impl World {
    fn admit(&mut self) {
        let small = StrangeConfig { calls: CALLS, ring_bytes: 512, ..config() };
        // There is room for all that it can say before the server looks.
        let more = StrangeConfig { calls: 9, ring_bytes: 2048, ..small };
        let (client, connection) = met(&small, &more);
        self.server.admit(self.admitted, connection);
        assert_eq!(client.calls_max(), CALLS as usize);
        let (key, client, calls) = (self.admitted, Some(client), Vec::new());
        let passed_by = BTreeSet::new();
        self.clients.push(Client { key, client, calls, asked: 0, passed_by });
        self.admitted += 1;
    }

    fn chosen(&mut self, who: usize) -> Option<&mut Client> {
        let many = self.clients.len().max(1);
        self.clients.get_mut(who % many).filter(|chosen| chosen.client.is_some())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Admit if self.clients.len() < 3 => self.admit(),
            Op::Admit => {}
            Op::Ask(who, len) => self.ask(who, len, false),
            Op::AskLate(who) => self.ask(who, 5, true),
            Op::Poll(who, which) => {
                let Some(Client { client: Some(client), calls, .. }) = self.chosen(who) else {
                    return;
                };
                let Some(plain) = pick(calls, which) else { return };
                let id = plain.id;
                let end = client.poll(id).transpose();
                told(calls, id, end);
            }
            Op::WaitAny(who) => self.wait_any(who),
            Op::Cancel(who, which) => {
                let Some(chosen) = self.chosen(who) else { return };
                let Client { client: Some(client), calls, .. } = chosen else { return };
                let Some(plain) = pick(calls, which) else { return };
                client.cancel(plain.id).unwrap();
                assert_eq!(client.poll(plain.id), Err(StrangeError::NotOpen));
                plain.is_given_up = true;
                if !chosen.waits() {
                    chosen.passed_by.clear();
                }
            }
            Op::OfAnother(who, which) => self.of_another(who, which),
            Op::Leave(who) => {
                if let Some(chosen) = self.chosen(who) {
                    chosen.client = None;
                }
            }
            Op::Take => self.take(),
            Op::Answer(which, len) => self.answer(which, len),
            Op::Refuse(which, code) => self.refuse(which, code),
            Op::AnswerElsewhere(which) => {
                let Some((key, id, request)) = self.picked(which) else { return };
                is_not_answered_by(&mut StrangeServer::<u64>::new(), request);
                self.ends(key, id, Err(StrangeError::Unanswered));
            }
            Op::Drop(which) => {
                let Some((key, id, request)) = self.picked(which) else { return };
                drop(request);
                self.ends(key, id, Err(StrangeError::Unanswered));
            }
        }
    }

    fn ask(&mut self, who: usize, len: usize, is_late: bool) {
        let Some(chosen) = self.chosen(who) else { return };
        let Client { key, client: Some(client), calls, asked, .. } = chosen else { return };
        let request = text((*key << 32) + *asked, len);
        let asking = if is_late {
            let asked = client.ask(&request, Some(Instant::now()));
            match asked {
                Err(AskError::TimedOut) => Ok(None),
                asked => asked.map(Some),
            }
        } else {
            client.try_ask(&request)
        };
        let Some(id) = asking.unwrap() else {
            // All are in use: taken, or not looked at, or their ends not.
            return;
        };
        *asked += 1;
        let (is_taken, is_given_up, end) = (false, false, None);
        calls.push(Plain { id, request, is_late, is_taken, is_given_up, end });
    }

    fn of_another(&mut self, who: usize, which: usize) {
        let calls = self.clients.iter().flat_map(|client| {
            let key = client.key;
            client.calls.iter().map(move |call| (key, call.id))
        });
        let calls: Vec<(u64, CallId)> = calls.collect();
        let Some((of, id)) = calls.get(which % calls.len().max(1)).copied() else { return };
        let Some(chosen) = self.chosen(who).filter(|chosen| chosen.key != of) else { return };
        is_not_known_to(chosen.client.as_mut().unwrap(), id);
    }

    fn wait_any(&mut self, who: usize) {
        let Some(Client { client: Some(client), calls, .. }) = self.chosen(who) else { return };
        let is_ready = client.is_ready();
        let any = client.wait_any(Some(Instant::now()));
        assert_eq!(is_ready, any.is_some());
        match any {
            Some((id, end)) => told(calls, id, Some(end)),
            None => {
                let has_ended = |call: &&Plain| call.end.is_some() && !call.is_given_up;
                // There may have been no room for its end.
                let ends = calls.iter().filter(has_ended).count();
                assert!(ends == 0 || client.open() > 0);
            }
        }
    }

    fn take(&mut self) {
        let is_ready = self.server.is_ready();
        let event = self.server.try_take().unwrap();
        // Of ends it looks for one client's at a time.
        assert!(is_ready == event.is_some() || matches!(event, Some(Event::End { .. })));
        match event {
            Some(Event::Asked(key, request)) => {
                let key = *key;
                for other in &mut self.clients {
                    if other.key != key && other.waits() {
                        assert!(other.passed_by.insert(key), "out of turn");
                    }
                }
                let from = self.clients.iter_mut().find(|client| client.key == key).unwrap();
                from.passed_by.clear();
                let call = from.calls.iter_mut().find(|call| call.waits()).expect("it was asked");
                assert_eq!(*request, *call.request);
                call.is_taken = true;
                self.taken.push_back((key, call.id, request));
            }
            Some(Event::End { client, why, asked, open }) => {
                let index = self.clients.iter().position(|other| other.key == client);
                let gone = self.clients.remove(index.expect("one end"));
                assert!(gone.client.is_none() && why == Why::Left);
                assert!(asked <= gone.asked);
                let taken = self.taken.iter().filter(|(key, ..)| *key == client);
                assert_eq!(open, taken.count());
            }
            None => assert!(!self.clients.iter().any(Client::waits), "a call is passed over"),
        }
        assert_eq!(self.server.len(), self.clients.len());
    }

    fn picked(&mut self, which: usize) -> Option<(u64, CallId, Request)> {
        let many = self.taken.len().max(1);
        self.taken.remove(which % many)
    }

    fn plain(&mut self, key: u64, id: CallId) -> Option<&mut Plain> {
        let client = self.clients.iter_mut().find(|client| client.key == key)?;
        client.client.as_ref()?;
        client.calls.iter_mut().find(|call| call.id == id)
    }

    fn ends(&mut self, key: u64, id: CallId, end: Result<Vec<u8>, StrangeError>) {
        if let Some(plain) = self.plain(key, id) {
            assert!(plain.end.is_none(), "it ends once");
            plain.end = Some(end);
        }
    }

    /// Whether somebody waits for the answer.
    fn is_wanted(&mut self, key: u64, id: CallId) -> bool {
        self.plain(key, id).is_some_and(|plain| !plain.is_given_up)
    }

    fn answer(&mut self, which: usize, len: usize) {
        let Some((key, id, request)) = self.picked(which) else { return };
        let is_wanted = self.is_wanted(key, id);
        assert_eq!(self.server.is_cancelled(&request).unwrap(), !is_wanted);
        let bytes = text(!key, len);
        let answered = self.server.answer(request, &bytes);
        assert_eq!(answered, if is_wanted { Ok(()) } else { Err(AnswerError::Abandoned) });
        self.ends(key, id, Ok(bytes));
    }

    fn refuse(&mut self, which: usize, code: u32) {
        let Some((key, id, request)) = self.picked(which) else { return };
        let reason = text(code.into(), 9);
        let is_wanted = self.is_wanted(key, id);
        let refused = self.server.refuse(request, code, &reason);
        assert_eq!(refused.is_ok(), is_wanted);
        self.ends(key, id, Err(StrangeError::Refused { code, reason }));
    }

    /// Everybody reads until nothing is open; then all leave.
    fn ends_all(mut self) {
        for _ in 0..4 * CALLS {
            self.take();
            while !self.taken.is_empty() {
                self.answer(0, 3);
            }
            self.take();
            for who in 0..self.clients.len() {
                while self.chosen(who).is_some_and(|chosen| {
                    let Client { client: Some(client), calls, .. } = chosen else { return false };
                    let end = client.wait_any(Some(Instant::now()));
                    end.map(|(id, end)| told(calls, id, Some(end))).is_some()
                }) {}
            }
        }
        while !self.taken.is_empty() {
            self.answer(0, 3);
        }
        for client in &mut self.clients {
            assert_eq!(client.client.as_ref().map_or(0, StrangeClient::open), 0);
            client.client = None;
        }
        while !self.clients.is_empty() {
            self.take();
        }
        assert_eq!(self.server.take(None).err(), Some(StrangeTakeError::Nobody));
    }
}

fn pick(calls: &mut [Plain], which: usize) -> Option<&mut Plain> {
    let many = calls.len().max(1);
    calls.get_mut(which % many)
}

/// A client was told this of a call.
fn told(calls: &mut [Plain], id: CallId, end: Option<Result<Vec<u8>, StrangeError>>) {
    let plain = calls.iter_mut().find(|call| call.id == id).expect("it was asked");
    match end {
        _ if plain.is_given_up => assert_eq!(end, Some(Err(StrangeError::NotOpen))),
        // What has ended, and was found no room for, has not for the client.
        None => assert!(!plain.is_late),
        Some(Err(StrangeError::DeadlinePassed)) => {
            assert!(plain.is_late && !plain.is_taken);
            plain.is_given_up = true;
        }
        // The server looked first.
        Some(Err(StrangeError::Unanswered)) if plain.is_late => plain.is_given_up = true,
        end => {
            assert_eq!(end, plain.end, "another end than was said");
            plain.is_given_up = true;
        }
    }
}

/// Another client has asked it.
fn is_not_known_to(client: &mut StrangeClient, call: CallId) {
    assert_eq!(client.poll(call), Err(StrangeError::OtherClient));
    assert_eq!(client.wait(call, None), Err(StrangeError::OtherClient));
    assert_eq!(client.cancel(call), Err(StrangeError::OtherClient));
}

/// Another server has taken it.
fn is_not_answered_by(server: &mut StrangeServer<u64>, request: Request) {
    assert_eq!(server.is_cancelled(&request), Err(AnswerError::OtherServer));
    assert_eq!(server.answer(request, b"of another's"), Err(AnswerError::OtherServer));
}

#[test]
fn calls_of_the_same_numbers_are_not_taken_for_each_other() {
    let [mut one, mut other] = [(); 2].map(|()| {
        let (mut client, connection) = met(&config(), &config());
        let mut server = StrangeServer::new();
        server.admit(0_u64, connection);
        let calls = [(); 2].map(|()| client.try_ask(b"first of its client").unwrap().unwrap());
        let requests = calls.map(|_| match server.take(None).unwrap() {
            Event::Asked(_, request) => request,
            end => panic!("{end:?}"),
        });
        (client, server, calls, requests)
    });
    is_not_known_to(&mut other.0, one.2[0]);
    let [first, second] = one.3;
    is_not_answered_by(&mut other.1, first);
    let refused = other.1.refuse(second, 7, b"of another's");
    assert_eq!(refused, Err(AnswerError::OtherServer));
    // Nobody's call has changed but those of the requests, which are gone.
    assert!(matches!(one.1.try_take(), Ok(None)));
    for call in one.2 {
        assert_eq!(one.0.wait(call, None), Err(StrangeError::Unanswered));
    }
    for (call, request) in other.2.into_iter().zip(other.3) {
        assert_eq!(other.1.is_cancelled(&request), Ok(false));
        other.1.answer(request, b"its own").unwrap();
        assert_eq!(other.0.wait(call, None), Ok(b"its own".to_vec()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    #[test]
    fn agrees_with_a_plain_list_of_calls(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::default();
        world.admit();
        ops.iter().for_each(|op| world.apply(*op));
        world.ends_all();
    }
}
