//! Real processes at the two ends of a hostile stream are killed, stopped, forked, and end without
//! a word; and one that lies. The kernel alone says who lives: the other side gets everything that
//! was acknowledged, learns the reason, and nobody hangs.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "another test's")]
mod liar;
#[path = "proc_common/peer.rs"]
mod peer;
mod proc_common;
use common::LIMIT;
use peer::*;
use proc_common::*;
use shm_core::sealed::ExchangeError;
use shm_core::sync::AtomicU32;
use shm_core::trust::Hostile;
use shm_mq::stream::{ConnectError, Limits, Receiver, RecvError, SendError, Sender};
use shm_testkit::child::{parent_says, tell_parent};
use shm_testkit::fault::become_root_of_a_namespace;
use shm_testkit::random::{self, next};
use shm_testkit::watchdog::within;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn sender(args: &[String]) -> Sender<Hostile> {
    let ring_bytes = args[2].parse().unwrap();
    Sender::<Hostile>::connect(given(args, 0).into(), ring_bytes, None).unwrap()
}

fn receiver(args: &[String]) -> Receiver<Hostile> {
    Receiver::<Hostile>::connect(given(args, 0).into(), Limits::default(), None).unwrap()
}

fn sends(args: &[String]) {
    send_for_ever(sender(args), &count(args));
}

fn receives(args: &[String]) {
    receive_for_ever(receiver(args), &count(args));
}

/// Sends a message for each line from the parent; "leave" drops the handle, "exit" ends the process
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

/// Leaves the socket to a child of its own, which ends with the test.
fn leaves_the_socket_to_a_child(args: &[String]) {
    let _sender = sender(args);
    // SAFETY: the child makes system calls alone.
    if unsafe { libc::fork() } == 0 {
        let mut byte = 0_u8;
        // SAFETY: one byte, from the pipe that the test holds open.
        while unsafe { libc::read(0, (&raw mut byte).cast(), 1) } > 0 {}
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    tell_parent("attached");
    std::thread::sleep(LIMIT);
}

/// Connects from a pid namespace of its own, in which nobody else has a name, and says what ends
/// its receiving.
fn receives_in_a_namespace(args: &[String]) {
    if let Err(not_run) = become_root_of_a_namespace(libc::CLONE_NEWPID) {
        return tell_parent(&not_run.to_string());
    }
    tell_parent("inside");
    await_end(forked(|| {
        let mut receiver = receiver(args);
        tell_parent("attached");
        let end = receiver.recv().map(drop).unwrap_err();
        tell_parent(&end.to_string());
    }));
}

/// A child that does this, dies with its parent, and runs no destructor.
fn forked(body: impl FnOnce()) -> libc::pid_t {
    // SAFETY: this process has one thread, so that the child is a whole one.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        body();
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    child
}

fn await_end(child: libc::pid_t) {
    // SAFETY: our child, and no place for its status.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
}

/// Ends at once.
fn does_nothing(_: &[String]) {}

/// Makes the hello and sends it, as `Sender::connect` does, and is killed at some moment.
fn connects(args: &[String]) {
    let _sender = sender(args);
    std::thread::sleep(LIMIT);
}

/// Lies about everything it can write.
fn lies(args: &[String]) {
    let (own, words) = liar::half(liar::SENDER, 1024, 0);
    let liar = liar::liar(given(args, 0).into(), &own, words, liar::SENDER, liar::RECEIVER);
    assert_eq!(parent_says(), "lie");
    let seed = args[2].parse().unwrap();
    let pace = liar.pace();
    liar.lies(1024, &pace, true).tell(seed, &AtomicU32::new(0));
}

shm_testkit::children! {
    sends, receives, sends_when_told, receives_nothing, leaves_the_socket_to_a_child, does_nothing,
    connects, lies, receives_in_a_namespace,
}

/// Its half of a stream.
trait Ends {
    fn receiver(&mut self) -> Receiver<Hostile>;
    fn sender(&mut self, ring_bytes: u64) -> Sender<Hostile>;
}

impl Ends for Peer {
    fn receiver(&mut self) -> Receiver<Hostile> {
        let socket = self.socket.take().unwrap();
        within(LIMIT, || Receiver::<Hostile>::connect(socket, Limits::default(), None)).unwrap()
    }

    fn sender(&mut self, ring_bytes: u64) -> Sender<Hostile> {
        let socket = self.socket.take().unwrap();
        within(LIMIT, || Sender::<Hostile>::connect(socket, ring_bytes, None)).unwrap()
    }
}

#[test]
fn what_a_killed_sender_had_sent_is_received() {
    let mut seed = random::seed();
    let mut total = 0;
    for ring_bytes in [8, 64, 256, 1024, 65536].repeat(6) {
        let mut peer = spawn("sends", ring_bytes);
        let (receiver, count) = (peer.receiver(), peer.count());
        total += kill_the_sender(&mut peer.child, receiver, &count, &mut seed);
    }
    println!("messages received: {total}");
}

#[test]
fn the_sender_learns_that_the_receiver_was_killed() {
    let mut seed = random::seed();
    for ring_bytes in [8, 64, 256, 1024, 65536].repeat(3) {
        let mut peer = spawn("receives", ring_bytes);
        let (sender, count) = (peer.sender(ring_bytes), peer.count());
        kill_the_receiver(&mut peer.child, sender, &count, &mut seed);
    }
}

#[test]
fn a_sleeper_is_woken_by_the_other_sides_death() {
    let mut peer = spawn("sends_when_told", 1024);
    let mut receiver = peer.receiver();
    assert_eq!(peer.child.hear(LIMIT), "attached");
    kill_under_a_sleeping_receiver(&mut peer.child, &mut receiver);
    let mut peer = spawn("receives_nothing", 0);
    let mut sender = peer.sender(64);
    kill_under_a_sleeping_sender(&mut peer.child, &mut sender);
}

#[test]
fn a_stopped_peer_is_slow_and_not_dead() {
    let mut peer = spawn("sends_when_told", 64);
    let mut receiver = peer.receiver();
    assert_eq!(peer.child.hear(LIMIT), "attached");
    stop_the_sender(&mut peer.child, &mut receiver);
    let mut peer = spawn("receives_nothing", 0);
    let mut sender = peer.sender(64);
    assert_eq!(peer.child.hear(LIMIT), "attached");
    stop_the_receiver(&mut peer.child, &mut sender);
}

#[test]
fn who_leaves_has_detached_and_who_ends_without_a_word_has_died() {
    for (word, end) in [("leave", RecvError::Detached), ("exit", RecvError::PeerDied)] {
        let mut peer = spawn("sends_when_told", 64);
        let mut receiver = peer.receiver();
        peer.child.say("send");
        peer.child.say(word);
        peer.child.wait(LIMIT).assert_success();
        assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told", "{word}");
        assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), end, "{word}");
    }
}

#[test]
fn a_death_is_seen_though_a_child_of_the_dead_holds_the_socket() {
    let mut peer = spawn("leaves_the_socket_to_a_child", 64);
    let mut receiver = peer.receiver();
    assert_eq!(peer.child.hear(LIMIT), "attached");
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            peer.child.kill();
        });
        assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), RecvError::PeerDied);
    });
}

/// Whether the kernel hands a pidfd of the sender over: Linux 6.5.
fn pidfds_come_with_messages() -> bool {
    const SO_PASSPIDFD: libc::c_int = 76;
    let (socket, _) = UnixStream::pair().unwrap();
    let (fd, on, len) = (socket.as_raw_fd(), 1_i32, size_of::<i32>() as libc::socklen_t);
    let on = (&raw const on).cast();
    // SAFETY: a value and its size.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSPIDFD, on, len) == 0 }
}

#[test]
fn a_death_is_seen_from_a_pid_namespace_in_which_the_dead_had_no_name() {
    // A child of the one that will die holds the socket, so that nobody hangs up.
    let mut peer = spawn("leaves_the_socket_to_a_child", 64);
    let socket = peer.socket.take().unwrap();
    let mut watcher = spawn_at("receives_in_a_namespace", &socket, 0).child;
    drop(socket);
    let inside = watcher.hear(LIMIT);
    if inside != "inside" {
        return println!("{inside}");
    }
    assert_eq!(watcher.hear(LIMIT), "attached");
    assert_eq!(peer.child.hear(LIMIT), "attached");
    if !pidfds_come_with_messages() {
        return println!("not run: before Linux 6.5 such a death does not show");
    }
    peer.child.kill();
    assert_eq!(watcher.hear(LIMIT), RecvError::PeerDied.to_string());
}

#[test]
fn a_peer_that_ends_before_its_hello_has_died() {
    let mut peer = spawn("does_nothing", 64);
    let socket = peer.socket.take().unwrap();
    let end = within(LIMIT, || Receiver::<Hostile>::connect(socket, Limits::default(), None));
    assert_eq!(end.unwrap_err(), ConnectError::Exchange(ExchangeError::PeerDied));
    let mut peer = spawn("receives_nothing", 0);
    peer.child.stop();
    let socket = peer.socket.take().unwrap();
    let deadline = Some(Instant::now() + SHORT);
    let end = within(LIMIT, || Sender::<Hostile>::connect(socket, 64, deadline));
    // It may have said hello before it was stopped; then there is a stream, and nobody reads.
    match end {
        Ok(mut sender) => {
            assert_eq!(sender.send_timeout(&[0; 99], SHORT), Err(SendError::TimedOut))
        }
        Err(end) => assert_eq!(end, ConnectError::Exchange(ExchangeError::TimedOut)),
    }
}

#[test]
fn a_peer_killed_while_it_connects_has_died() {
    let mut seed = random::seed();
    let (mut connected, mut refused) = (0, 0);
    for _ in 0..60 {
        let mut peer = spawn("connects", 64);
        std::thread::sleep(Duration::from_micros(next(&mut seed) % 3000));
        peer.child.kill();
        let socket = peer.socket.take().unwrap();
        let end = within(LIMIT, || Receiver::<Hostile>::connect(socket, Limits::default(), None));
        match end {
            Ok(mut receiver) => {
                let end = within(LIMIT, || receiver.recv().map(|message| message.len()));
                assert_eq!(end, Err(RecvError::PeerDied));
                connected += 1;
            }
            Err(end) => {
                assert_eq!(end, ConnectError::Exchange(ExchangeError::PeerDied));
                refused += 1;
            }
        }
    }
    println!("killed before its hello {refused} times, after it {connected} times");
}

#[test]
fn a_process_that_lies_is_found_out_or_dies() {
    let mut seed = random::seed();
    let (mut received, mut corrupt, mut died) = (0, 0, 0);
    for _ in 0..20 {
        let mut peer = spawn("lies", next(&mut seed) >> 1);
        let mut receiver = peer.receiver();
        peer.child.say("lie");
        let kill_at = Instant::now() + Duration::from_millis(5 + next(&mut seed) % 30);
        let end = within(LIMIT, || {
            loop {
                if Instant::now() > kill_at {
                    peer.child.kill();
                }
                match receiver.recv_timeout(Duration::from_millis(1)) {
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
    println!("{received} messages, found out {corrupt} times, dead {died} times");
    assert!(corrupt > 0);
}

#[test]
fn a_forked_child_is_nobody() {
    let (sender, receiver) = common::hostile_stream(64);
    fork_is_nobody(sender, receiver);
}
