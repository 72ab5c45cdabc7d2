//! Real processes at the two ends of a hostile queue of records are killed, stopped, forked, and
//! end without a word; and one that lies. The kernel alone says who lives: the other side gets
//! everything that was acknowledged, learns the reason, and nobody hangs.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams")]
mod liar;
#[path = "proc_common/peer.rs"]
mod peer;
use common::LIMIT;
use liar::{HEAD_WORDS, Liar};
use peer::*;
use shm_core::sync::Ordering;
use shm_core::trust::Hostile;
use shm_mq::fan_in::{Strange, Strangers, Why};
use shm_mq::spsc::{Limits, Receiver, RecvError, SendError, Sender};
use shm_testkit::child::{in_a_fork, parent_says, tell_parent};
use shm_testkit::random::{self, next, text};
use shm_testkit::watchdog::within;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);
const SENDER: u64 = 0x7368_6d71_736e_6401;
const RECEIVER: u64 = 0x7368_6d71_7263_7601;

/// Record number `number`, of at most so many bytes.
fn record(number: u64, longest: usize) -> Vec<u8> {
    text(number, number as usize * 7919 % (longest.min(300) + 1))
}

fn receiver(args: &[String]) -> Receiver<Hostile> {
    Receiver::<Hostile>::connect(given(args, 0).into(), Limits::default(), 0, None).unwrap()
}

fn sender(args: &[String]) -> Sender<Hostile> {
    let ring_bytes = args[2].parse().unwrap();
    Sender::<Hostile>::connect(given(args, 0).into(), ring_bytes, 0, None).unwrap()
}

/// Sends until it is killed, and counts what was acknowledged.
fn sends(args: &[String]) {
    let (mut sender, count) = (sender(args), count(args));
    for number in 0.. {
        sender.send(&record(number, sender.record_bytes_max())).unwrap();
        count.store(number + 1, Ordering::Relaxed);
    }
}

/// Receives until it is killed, and counts.
fn receives(args: &[String]) {
    let (mut receiver, count) = (receiver(args), count(args));
    let longest = receiver.record_bytes_max();
    for number in 0.. {
        assert_eq!(*receiver.recv().unwrap(), *record(number, longest));
        count.store(number + 1, Ordering::Relaxed);
    }
}

/// Sends a record for each line from the parent; "leave" drops the handle, "exit" ends the process
/// without.
fn sends_when_told(args: &[String]) {
    let mut sender = sender(args);
    tell_parent("attached");
    loop {
        match parent_says().as_str() {
            "send" => sender.send(b"told").unwrap(),
            "leave" => return,
            // SAFETY: ends the process, without running a destructor.
            _ => unsafe { libc::_exit(0) },
        }
    }
}

/// Does nothing with its handle.
fn receives_nothing(args: &[String]) {
    let _receiver = receiver(args);
    tell_parent("attached");
    std::thread::sleep(LIMIT);
}

/// Sends a few true records, and then lies about everything it can write.
fn lies(args: &[String]) {
    let (own, words) = liar::half(SENDER, 1024, 0);
    let liar = liar::liar(given(args, 0).into(), &own, words, SENDER, RECEIVER);
    assert_eq!(parent_says(), "lie");
    let mut seed = args[2].parse::<u64>().unwrap() | 1;
    let Liar { words, .. } = &liar;
    for number in 0..next(&mut seed) % 8 {
        let at = HEAD_WORDS + number as usize * 2;
        words[at].store(number << 32 | 9, Ordering::Release);
    }
    std::thread::sleep(Duration::from_millis(3));
    loop {
        let at = next(&mut seed) as usize % words.len();
        let number = next(&mut seed) >> 5 & 15;
        let lies = [0, number << 32 | 9, number << 32 | 600, next(&mut seed)];
        words[at].store(lies[next(&mut seed) as usize >> 7 & 3], Ordering::Relaxed);
    }
}

shm_testkit::children! { sends, receives, sends_when_told, receives_nothing, lies }

fn receive_from(peer: &mut Peer) -> Receiver<Hostile> {
    let socket = peer.socket.take().unwrap();
    let connect = || Receiver::<Hostile>::connect(socket, Limits::default(), 0, None);
    within(LIMIT, connect).unwrap()
}

fn send_to(peer: &mut Peer, ring_bytes: u64) -> Sender<Hostile> {
    let socket = peer.socket.take().unwrap();
    within(LIMIT, || Sender::<Hostile>::connect(socket, ring_bytes, 0, None)).unwrap()
}

fn soon() -> Instant {
    Instant::now() + SHORT
}

#[test]
fn what_a_killed_sender_had_sent_is_received() {
    let mut seed = random::seed();
    let mut total = 0;
    for ring_bytes in [128, 256, 1024, 65536].repeat(3) {
        let mut peer = spawn("sends", ring_bytes);
        let (mut receiver, count) = (receive_from(&mut peer), peer.count());
        let (longest, kill_at) = (receiver.record_bytes_max(), next(&mut seed) % 300);
        let end = within(LIMIT, || {
            loop {
                let number = receiver.received();
                if number == kill_at {
                    peer.child.kill();
                }
                match receiver.recv() {
                    Ok(got) => assert_eq!(*got, *record(number, longest)),
                    Err(end) => return end,
                }
            }
        });
        assert_eq!(end, RecvError::PeerDied);
        let received = receiver.received();
        assert!(received >= count.load(Ordering::Relaxed), "an acknowledged one is lost");
        assert_eq!(receiver.try_recv().err(), Some(RecvError::PeerDied), "it stays so");
        total += received;
    }
    println!("records received: {total}");
}

#[test]
fn the_sender_learns_that_the_receiver_was_killed() {
    let mut seed = random::seed();
    for ring_bytes in [128, 256, 1024, 65536].repeat(2) {
        let mut peer = spawn("receives", ring_bytes);
        let (mut sender, count) = (send_to(&mut peer, ring_bytes), peer.count());
        let (longest, kill_at) = (sender.record_bytes_max(), next(&mut seed) % 300);
        let end = within(LIMIT, || {
            loop {
                if sender.sent() == kill_at {
                    peer.child.kill();
                }
                if let Err(end) = sender.send(&record(sender.sent(), longest)) {
                    return end;
                }
            }
        });
        assert_eq!(end, SendError::PeerDied);
        assert!(sender.sent() >= count.load(Ordering::Relaxed));
        assert_eq!(sender.try_send(b""), Err(SendError::PeerDied), "it stays so");
    }
}

#[test]
fn a_sleeper_is_woken_by_the_other_sides_death() {
    let killed_soon = |peer: &mut Peer, sleep: &mut dyn FnMut()| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                peer.child.kill();
            });
            within(LIMIT, sleep);
        });
    };
    let mut peer = spawn("sends_when_told", 1024);
    let mut receiver = receive_from(&mut peer);
    killed_soon(&mut peer, &mut || {
        assert_eq!(receiver.recv().err(), Some(RecvError::PeerDied));
    });
    let mut peer = spawn("receives_nothing", 0);
    let mut sender = send_to(&mut peer, 128);
    sender.send(&[1; 56]).unwrap();
    killed_soon(&mut peer, &mut || {
        assert_eq!(sender.send(&[1; 56]), Err(SendError::PeerDied));
    });
}

#[test]
fn a_stopped_peer_is_slow_and_not_dead() {
    let mut peer = spawn("sends_when_told", 128);
    let mut receiver = receive_from(&mut peer);
    assert_eq!(peer.child.hear(LIMIT), "attached");
    peer.child.stop();
    peer.child.say("send");
    assert_eq!(receiver.recv_deadline(soon()).err(), Some(RecvError::TimedOut));
    assert!(receiver.try_recv().unwrap().is_none());
    peer.child.cont();
    assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told");
    let mut peer = spawn("receives_nothing", 0);
    let mut sender = send_to(&mut peer, 128);
    assert_eq!(peer.child.hear(LIMIT), "attached");
    peer.child.stop();
    sender.send(&[1; 56]).unwrap();
    assert_eq!(sender.send_deadline(&[1; 56], soon()), Err(SendError::TimedOut));
    assert_eq!(sender.try_send(&[1; 56]), Ok(false));
}

#[test]
fn who_leaves_has_detached_and_who_ends_without_a_word_has_died() {
    for (word, end) in [("leave", RecvError::Detached), ("exit", RecvError::PeerDied)] {
        let mut peer = spawn("sends_when_told", 128);
        let mut receiver = receive_from(&mut peer);
        peer.child.say("send");
        peer.child.say(word);
        peer.child.wait(LIMIT).assert_success();
        assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told", "{word}");
        assert_eq!(within(LIMIT, || receiver.recv().err()), Some(end), "{word}");
    }
}

#[test]
fn a_process_that_lies_is_found_out_or_dies() {
    let mut seed = random::seed();
    let (mut received, mut corrupt, mut died) = (0, 0, 0);
    for _ in 0..12 {
        let mut peer = spawn("lies", next(&mut seed) >> 1);
        let mut receiver = receive_from(&mut peer);
        peer.child.say("lie");
        let kill_at = Instant::now() + Duration::from_millis(5 + next(&mut seed) % 30);
        let end = within(LIMIT, || {
            loop {
                if Instant::now() > kill_at {
                    peer.child.kill();
                }
                match receiver.recv_deadline(Instant::now() + Duration::from_millis(1)) {
                    Ok(_) => received += 1,
                    Err(RecvError::TimedOut) => {}
                    Err(end) => return end,
                }
            }
        });
        match end {
            RecvError::Corrupt => corrupt += 1,
            RecvError::PeerDied | RecvError::Detached => died += 1,
            other => panic!("{other}"),
        }
    }
    println!("{received} records, found out {corrupt} times, dead {died} times");
    assert!(received > 0 && corrupt > 0);
}

#[test]
fn each_of_many_strangers_is_received_and_has_its_end() {
    const LIAR: usize = 3;
    let mut seed = random::seed();
    for _ in 0..4 {
        let lies_seed = next(&mut seed) >> 1;
        let mut peers = [("sends", 1024), ("sends", 128), ("sends", 8192), ("lies", lies_seed)]
            .map(|(function, number)| spawn(function, number));
        let mut strangers = Strangers::new();
        let longest = [0, 1, 2, LIAR].map(|key| {
            let receiver = receive_from(&mut peers[key]);
            let longest = receiver.record_bytes_max();
            strangers.admit(key, receiver);
            longest
        });
        peers[LIAR].child.say("lie");
        let kill_at = [0, 1, 2].map(|_| next(&mut seed) % 300);
        let (mut received, mut ends) = ([0; 4], 0);
        within(LIMIT, || {
            while let Ok(event) = strangers.recv() {
                match event {
                    Strange::Record(&LIAR, _) => received[LIAR] += 1,
                    Strange::Record(&from, got) => {
                        assert_eq!(*got, *record(received[from], longest[from]));
                        received[from] += 1;
                        if received[from] > kill_at[from] {
                            peers[from].child.kill();
                        }
                    }
                    Strange::End { from, why, received: count } => {
                        assert_eq!(count, received[from]);
                        assert!(count >= peers[from].count().load(Ordering::Relaxed), "lost");
                        assert!(why == Why::Died || (from == LIAR && why == Why::Corrupt));
                        ends += 1;
                        if ends == 3 {
                            peers[LIAR].child.kill();
                        }
                    }
                }
            }
        });
        assert_eq!(ends, 4);
    }
}

#[test]
fn a_forked_child_is_nobody() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connect = || Receiver::<Hostile>::connect(theirs, Limits::default(), 0, None);
    let receiving = std::thread::spawn(connect);
    let sender = Sender::<Hostile>::connect(ours, 128, 0, None).unwrap();
    let receiver = receiving.join().unwrap().unwrap();
    let (mut sends, mut receives) = (Some(sender), Some(receiver));
    let refused = in_a_fork(|| {
        let (mut sender, mut receiver) = (sends.take().unwrap(), receives.take().unwrap());
        sender.try_send(b"") == Err(SendError::Forked)
            && receiver.try_recv().is_err_and(|error| error == RecvError::Forked)
    });
    assert!(refused, "its handles worked");
    let (mut sender, mut receiver) = (sends.unwrap(), receives.unwrap());
    assert_eq!(sender.try_send(b"still here"), Ok(true));
    assert_eq!(*receiver.recv().unwrap(), *b"still here");
}
