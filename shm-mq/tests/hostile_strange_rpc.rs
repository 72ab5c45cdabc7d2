//! Strangers that call, or answer, and lie: in records that make no sense, in the words of their
//! queues, by floods, and by silence. Who lies ends its own calls; all others' are answered; and no
//! call is held up.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams")]
mod liar;
mod strange_rpc_common;

use liar::{ASLEEP, HEAD_WORDS, Liar, POSITION, Stops, half, liar};
use shm_core::sync::{AtomicU32, Ordering};
use shm_core::trust::Hostile;
use shm_mq::fan_in::Why;
use shm_mq::rpc::AskError;
use shm_mq::rpc::strangers::{
    CallId, Connection, Event, StrangeClient, StrangeConfig, StrangeError, StrangeServer,
};
use shm_mq::spsc::{ConnectError, Limits, Receiver, Sender};
use shm_testkit::depth::is_deep;
use shm_testkit::watchdog::within;
use std::os::unix::net::UnixStream;
use strange_rpc_common::{LIMIT, config, met, next, sockets, soon, text};

const SENDER: u64 = 0x7368_6d71_736e_6401;
const RECEIVER: u64 = 0x7368_6d71_7263_7601;
// Kinds of records.
const HELLO: u64 = 1;
const ASK: u64 = 2;
const CANCEL: u64 = 3;
const ANSWER: u64 = 4;
const REFUSE: u64 = 5;
const LET_GO: u64 = 6;

/// A record, as docs/layout.md has it.
fn record(number: u64, kind: u64, word: u64, bytes: &[u8]) -> Vec<u8> {
    let words = [number << 8 | kind, word].map(u64::to_ne_bytes);
    [&words[0], &words[1], bytes].concat()
}

/// The two queues of a side that says what it likes.
struct Raw {
    says: Sender<Hostile>,
    hears: Receiver<Hostile>,
}

impl Raw {
    fn says(&mut self, number: u64, kind: u64, word: u64, bytes: &[u8]) {
        self.says.send(&record(number, kind, word, bytes)).unwrap();
    }

    fn client([requests, answers]: [UnixStream; 2]) -> Raw {
        let says = Sender::<Hostile>::connect(requests, 1024, 0, None).unwrap();
        Raw {
            says,
            hears: Receiver::<Hostile>::connect(answers, Limits::default(), 0, None).unwrap(),
        }
    }

    fn server([requests, answers]: [UnixStream; 2]) -> Raw {
        let hears = Receiver::<Hostile>::connect(requests, Limits::default(), 0, None).unwrap();
        Raw { says: Sender::<Hostile>::connect(answers, 1024, 0, None).unwrap(), hears }
    }
}

/// A client that says what it likes, admitted.
fn raw_client(server: &mut StrangeServer<u32>, key: u32) -> Raw {
    let (ours, theirs) = sockets();
    let raw = std::thread::spawn(|| Raw::client(theirs));
    server.admit(key, Connection::connect(ours, &config(), None).unwrap());
    raw.join().unwrap()
}

/// A client of a server that says what it likes, and has greeted it with so many calls.
fn victim(calls: u64) -> (Result<StrangeClient, ConnectError>, Raw) {
    greeted(1, calls)
}

fn greeted(version: u64, calls: u64) -> (Result<StrangeClient, ConnectError>, Raw) {
    let (ours, theirs) = sockets();
    let raw = std::thread::spawn(move || {
        let mut raw = Raw::server(theirs);
        raw.says(version, HELLO, calls, b"");
        raw
    });
    (StrangeClient::connect(ours, &config(), None), raw.join().unwrap())
}

fn honest(server: &mut StrangeServer<u32>, key: u32) -> StrangeClient {
    let (client, connection) = met(&config(), &config());
    server.admit(key, connection);
    client
}

/// Asks, has it answered, and reads the answer.
fn is_served(server: &mut StrangeServer<u32>, client: &mut StrangeClient) {
    let call = client.ask(b"honest", None).unwrap();
    match within(LIMIT, || server.take(None)).unwrap() {
        Event::Asked(_, request) => {
            assert_eq!(*request, *b"honest");
            server.answer(request, b"answer").unwrap();
        }
        end => panic!("{end:?}"),
    }
    assert_eq!(client.wait(call, soon(60_000)).unwrap(), b"answer");
}

#[test]
fn a_client_that_writes_nonsense_ends_alone() {
    let nonsense = [
        record(1, ASK, 0, b"not the next one"),
        record(1 << 55, ASK, 0, b""),
        record(0, HELLO, 4, b""),
        record(0, ANSWER, 0, b""),
        record(0, 0, 0, b""),
        record(0, 7, 0, b""),
        record(0, CANCEL, 0, b""),
        record(0, CANCEL, 1, b""),
        record(0, CANCEL, 0, b"bytes"),
        b"less than one".to_vec(),
        Vec::new(),
    ];
    let mut server = StrangeServer::new();
    let mut client = honest(&mut server, 0);
    for (key, nonsense) in (1..).zip(nonsense) {
        let mut liar = raw_client(&mut server, key);
        liar.says.send(&nonsense).unwrap();
        match within(LIMIT, || server.take(None)).unwrap() {
            Event::End { client, why, asked, open } => {
                assert_eq!((client, why, asked, open), (key, Why::Corrupt, 0, 0), "{nonsense:?}");
            }
            asked => panic!("{asked:?} for {nonsense:?}"),
        }
        is_served(&mut server, &mut client);
    }
}

#[test]
fn a_flood_is_found_out_at_the_first_call_too_many() {
    for (taken, cancelled) in [(0, 0), (2, 0), (4, 4)] {
        let mut server = StrangeServer::new();
        let mut client = honest(&mut server, 0);
        let mut liar = raw_client(&mut server, 1);
        (0..4).for_each(|number| liar.says(number, ASK, 0, b"much"));
        let mut requests = Vec::new();
        for _ in 0..taken {
            match server.take(None).unwrap() {
                Event::Asked(1, request) => requests.push(request),
                other => panic!("{other:?}"),
            }
        }
        // Its calls are open, whether it wants them or not.
        (0..cancelled).for_each(|number| liar.says(number, CANCEL, 0, b""));
        assert_eq!(
            requests.iter().filter(|one| server.is_cancelled(one).unwrap()).count(),
            cancelled as usize
        );
        liar.says(4, ASK, 0, b"too many");
        match within(LIMIT, || server.take(None)).unwrap() {
            Event::End { client: 1, why: Why::Corrupt, asked: 4, open } => assert_eq!(open, taken),
            other => panic!("{other:?}"),
        }
        assert!(requests.iter().all(|request| server.is_cancelled(request).unwrap()));
        for request in requests {
            assert!(server.answer(request, b"to nobody").is_err());
        }
        is_served(&mut server, &mut client);
    }
}

#[test]
fn who_reads_no_answers_has_them_kept_and_holds_up_nobody() {
    let mut server = StrangeServer::new();
    let mut client = honest(&mut server, 0);
    let mut deaf = honest(&mut server, 1);
    let calls: Vec<CallId> = (0..4).map(|_| deaf.ask(b"honest", None).unwrap()).collect();
    let answer = |number: u8| vec![number; 400];
    within(LIMIT, || {
        for number in 0..4 {
            match server.take(None).unwrap() {
                Event::Asked(1, request) => server.answer(request, &answer(number)).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        is_served(&mut server, &mut client);
        assert!(server.try_take().unwrap().is_none());
    });
    // It sleeps, and is woken as there is room.
    let serving = std::thread::spawn(move || {
        let woken = server.take(soon(60_000)).map(|event| format!("{event:?}"));
        (woken, server)
    });
    for (number, call) in (0..).zip(calls) {
        assert_eq!(deaf.wait(call, soon(60_000)).unwrap(), answer(number));
    }
    let call = deaf.ask(b"honest", None).unwrap();
    let (woken, mut server) = serving.join().unwrap();
    assert!(woken.unwrap().starts_with("Asked(1"));
    // That request was dropped.
    assert!(server.try_take().unwrap().is_none());
    assert_eq!(deaf.wait(call, soon(60_000)), Err(StrangeError::Unanswered));
    is_served(&mut server, &mut client);
}

#[test]
fn no_more_is_kept_of_who_reads_nothing_than_it_may_ask() {
    let mut server = StrangeServer::new();
    let mut client = honest(&mut server, 0);
    let mut deaf = raw_client(&mut server, 1);
    let mut asked = 0;
    let found = within(LIMIT, || {
        loop {
            deaf.says(asked, ASK, 0, b"much");
            asked += 1;
            match server.take(None).unwrap() {
                Event::Asked(1, request) => server.answer(request, &[7; 400]).unwrap(),
                end => break format!("{end:?}"),
            }
        }
    });
    assert!(found.contains("Corrupt"), "{found}");
    // Two or three had room in its ring of 1024 bytes; four are kept.
    assert!((6..=8).contains(&asked), "{asked}");
    is_served(&mut server, &mut client);
}

#[test]
fn a_server_that_writes_nonsense_ends_its_clients_calls() {
    let nonsense = [
        vec![record(2, ANSWER, 0, b"to what?")],
        vec![record(0, ANSWER, 0, b"once"), record(0, LET_GO, 0, b"")],
        vec![record(0, ANSWER, 1, b"")],
        vec![record(0, REFUSE, 1 << 32, b"")],
        vec![record(0, LET_GO, 0, b"bytes")],
        vec![record(0, HELLO, 4, b"")],
        vec![record(0, ASK, 0, b"")],
        vec![record(0, CANCEL, 0, b"")],
        vec![record(0, 255, 0, b"")],
        vec![b"short".to_vec()],
    ];
    for nonsense in nonsense {
        let (client, mut raw) = victim(4);
        let mut client = client.unwrap();
        let [first, second] = [(); 2].map(|()| client.ask(b"ask", None).unwrap());
        nonsense.iter().for_each(|record| raw.says.send(record).unwrap());
        let end = within(LIMIT, || client.wait(second, None));
        assert_eq!(end, Err(StrangeError::Corrupt), "{nonsense:?}");
        let first = client.wait(first, None);
        let expected = if nonsense.len() == 2 { Ok(b"once".to_vec()) } else { end };
        assert_eq!(first, expected, "what ended before has ended");
        assert_eq!(client.ask(b"more", None), Err(AskError::NoServer));
        assert_eq!(client.wait(second, None), Err(StrangeError::NotOpen), "it ends once");
    }
    for (version, calls) in [(1, 0), (0, 4), (2, 4)] {
        assert!(matches!(greeted(version, calls).0, Err(ConnectError::Corrupt)));
    }
    assert_eq!(victim(u64::MAX).0.unwrap().calls_max(), 4);
}

#[test]
fn a_server_that_says_nothing_costs_calls_until_their_deadline() {
    let (client, mut raw) = victim(2);
    let mut client = client.unwrap();
    let first = client.ask(b"ask", soon(20)).unwrap();
    let second = client.ask(b"ask", None).unwrap();
    assert_eq!(client.try_ask(b"no more"), Ok(None));
    assert_eq!(client.ask(b"no more", soon(20)), Err(AskError::TimedOut));
    let any = within(LIMIT, || client.wait_any(None));
    assert_eq!(any, Some((first, Err(StrangeError::DeadlinePassed))));
    assert_eq!(client.wait(second, soon(20)), Err(StrangeError::TimedOut));
    assert_eq!(client.try_ask(b"the server has not let go of it"), Ok(None));
    let heard: Vec<Vec<u8>> = (0..3).map(|_| raw.hears.recv().unwrap().to_vec()).collect();
    assert_eq!(heard[2], record(0, CANCEL, 0, b""));
    raw.says(0, ANSWER, 0, b"too late");
    assert!(client.try_ask(b"now").unwrap().is_some());
    // It hangs up one of the two.
    let Raw { hears, says: _says } = raw;
    drop(hears);
    assert_eq!(within(LIMIT, || client.ask(b"x", None)), Err(AskError::NoServer));
    client.cancel(second).unwrap();
}

#[test]
fn who_hangs_up_one_queue_has_ended() {
    let mut server = StrangeServer::new();
    let mut client = honest(&mut server, 0);
    let Raw { mut says, hears } = raw_client(&mut server, 1);
    says.send(&record(0, ASK, 0, b"deaf")).unwrap();
    let request = match server.take(None).unwrap() {
        Event::Asked(1, request) => request,
        other => panic!("{other:?}"),
    };
    drop(hears);
    assert!(server.answer(request, b"to nobody").is_err());
    assert!(matches!(server.take(None), Ok(Event::End { client: 1, why: Why::Left, .. })));
    is_served(&mut server, &mut client);
    let (victim, raw) = victim(2);
    let mut victim = victim.unwrap();
    let call = victim.ask(b"ask", None).unwrap();
    let Raw { hears: _hears, says } = raw;
    drop(says);
    assert_eq!(within(LIMIT, || victim.wait(call, None)), Err(StrangeError::Unanswered));
}

/// A client in the hands of a liar who scribbles on the words of both queues.
fn scribbler(server: &mut StrangeServer<u32>, key: u32) -> [Liar; 2] {
    let ([requests, answers], theirs) = sockets();
    let serving = std::thread::spawn(move || Connection::connect(theirs, &config(), None));
    let (own, words) = half(SENDER, 512, 0);
    let says = liar(requests, &own, words, SENDER, RECEIVER);
    let (own, words) = half(RECEIVER, 0, 1 << 14);
    let hears = liar(answers, &own, words, RECEIVER, SENDER);
    server.admit(key, serving.join().unwrap().unwrap());
    [says, hears]
}

/// Lies in words: sometimes it is a call, as many as may be.
fn scribbles(liars: &[Liar; 2], mut seed: u64, stop: &AtomicU32) {
    let mut number = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        // The low bits of a plain xorshift depend on those before.
        let some = next(&mut seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        let liar = &liars[(some >> 3) as usize & 1];
        match some % 8 {
            0 => drop(liar.bell.ring()),
            1 => liar.words[ASLEEP].store(some, Ordering::Relaxed),
            2 if (some >> 4).is_multiple_of(16) => {
                liar.words[POSITION].store(some % 128, Ordering::Relaxed);
            }
            3 if number < 4 => {
                let [says, _] = liars;
                let at = HEAD_WORDS + number as usize * 8;
                says.words[at + 1].store(number << 8 | ASK, Ordering::Relaxed);
                says.words[at].store(number << 32 | 17, Ordering::Release);
                number += 1;
            }
            4 if (some >> 4).is_multiple_of(8) => {
                let [says, _] = liars;
                let at = HEAD_WORDS + (some >> 20) as usize % 32;
                says.words[at].store(next(&mut seed), Ordering::Relaxed);
            }
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn who_scribbles_spoils_its_own_calls_only() {
    const CALLS: u64 = 500;
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    let (mut found_out, mut late, mut lies) = (0, 0, 0);
    println!("seed {seed}");
    let rounds = if is_deep() { 300 } else { 6 };
    for _ in 0..rounds {
        let mut server = StrangeServer::new();
        let mut client = honest(&mut server, 0);
        let liars = scribbler(&mut server, 1);
        let (stop, lies_seed) = (AtomicU32::new(0), next(&mut seed));
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| scribbles(&liars, lies_seed, &stop));
            let asking = scope.spawn(move || {
                for number in 0..CALLS {
                    let (ask, len) = (text(number, 30), number as usize % 100);
                    let call = client.ask(&ask, None).unwrap();
                    assert_eq!(client.wait(call, None).unwrap(), text(!number, len));
                }
            });
            let mut answered = 0;
            within(LIMIT, || {
                while answered < CALLS {
                    match server.take(None).unwrap() {
                        Event::Asked(0, request) => {
                            assert_eq!(*request, *text(answered, 30));
                            let answer = text(!answered, answered as usize % 100);
                            server.answer(request, &answer).unwrap();
                            answered += 1;
                        }
                        Event::Asked(_, request) => {
                            lies += 1;
                            let _ = server.answer(request, &[1; 300]);
                        }
                        Event::End { client, why, .. } => {
                            assert_eq!((client, why), (1, Why::Corrupt));
                            found_out += 1;
                        }
                    }
                }
            });
            asking.join().unwrap();
        });
        // Wherever the server looks next.
        liars[0].words[HEAD_WORDS..]
            .iter()
            .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        while let Ok(event) = within(LIMIT, || server.take(None)) {
            if let Event::End { client: 1, why, .. } = event {
                assert_eq!(why, Why::Corrupt);
                late += 1;
            }
        }
    }
    println!("{found_out} of {rounds} liars were found out, {late} at last; {lies} of their calls");
    assert_eq!(found_out + late, rounds);
}

/// Records that are nearly true, in any order.
fn says_anything(raw: &mut Raw, seed: &mut u64, stop: &AtomicU32) {
    let mut number = 0_u64;
    while stop.load(Ordering::Relaxed) == 0 {
        let some = next(seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        let (mut kind, mut word, bytes) = (ASK, some >> 10 & 3, &b"any"[..some as usize >> 8 & 3]);
        match some % 64 {
            0 => kind = some >> 20 & 7,
            1 => word = next(seed),
            2..32 => (kind, word) = (CANCEL, 0),
            _ => {}
        }
        let its = if kind == ASK { number } else { number.saturating_sub(some >> 12 & 3) };
        let bytes = if kind == ASK { bytes } else { b"" };
        // Who is found out is dropped.
        match raw.says.try_send(&record(its, kind, word, bytes)) {
            Ok(is_said) => number += u64::from(is_said && kind == ASK),
            Err(_) => return,
        }
        match raw.hears.try_recv() {
            Ok(_) => {}
            Err(_) => return,
        }
        std::thread::yield_now();
    }
}

#[test]
fn any_records_are_calls_or_an_end() {
    let mut seed = u64::from(std::process::id()) << 20 | 3;
    let (mut corrupt, mut late) = (0, 0);
    println!("seed {seed}");
    let rounds = if is_deep() { 2000 } else { 30 };
    for _ in 0..rounds {
        let mut server = StrangeServer::new();
        let mut client = honest(&mut server, 0);
        let mut raw = raw_client(&mut server, 1);
        let (stop, mut lies_seed) = (AtomicU32::new(0), next(&mut seed));
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| says_anything(&mut raw, &mut lies_seed, &stop));
            for _ in 0..40 {
                let call = client.ask(b"honest", None).unwrap();
                let mut others = 0;
                within(LIMIT, || {
                    loop {
                        match server.take(None).unwrap() {
                            Event::Asked(0, request) => {
                                break server.answer(request, b"answer").unwrap();
                            }
                            Event::Asked(_, request) => {
                                others += 1;
                                assert!(others <= 2, "out of turn");
                                let _ = server.answer(request, b"answer");
                            }
                            Event::End { client, why, .. } => {
                                assert_eq!((client, why), (1, Why::Corrupt));
                                corrupt += 1;
                            }
                        }
                    }
                });
                assert_eq!(client.wait(call, soon(60_000)).unwrap(), b"answer");
            }
        });
        drop(client);
        // At the latest.
        while let Ok(Some(event)) = server.try_take() {
            corrupt += u64::from(matches!(event, Event::End { why: Why::Corrupt, .. }));
        }
        let _ = raw.says.try_send(b"nonsense");
        while let Ok(event) = within(LIMIT, || server.take(None)) {
            if let Event::End { client: 1, why, .. } = event {
                assert_eq!(why, Why::Corrupt);
                late += 1;
            }
        }
    }
    println!("{corrupt} of {rounds} were found out, {late} at last");
    assert_eq!(corrupt + late, rounds);
}

#[test]
fn a_limit_is_told() {
    let config = StrangeConfig {
        limits: Limits { ring_bytes_max: 4096, message_bytes_max: 10 },
        ..config()
    };
    let (mut client, connection) = met(&config, &config);
    assert_eq!(client.request_bytes_max(), 10);
    let too_long = AskError::TooLong { len: 11, largest: 10 };
    assert_eq!(client.try_ask(&[0; 11]), Err(too_long));
    let mut server = StrangeServer::new();
    server.admit((), connection);
    let call = client.ask(&[7; 10], None).unwrap();
    match server.take(None).unwrap() {
        Event::Asked((), request) => assert!(server.answer(request, &[0; 11]).is_err()),
        end => panic!("{end:?}"),
    }
    assert_eq!(client.wait(call, soon(60_000)), Err(StrangeError::Unanswered));
}
