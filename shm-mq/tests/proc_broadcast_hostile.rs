//! Real processes around a publisher that trusts none of them are killed, stopped, and end without
//! a word; and the publisher is. The others get what was acknowledged, or are told exactly how much
//! they missed, learn the reason, and nobody hangs.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "proc_common/peer.rs"]
#[allow(dead_code, reason = "it has what more tests need")]
mod peer;
use common::LIMIT;
use peer::{Peer, count, given, spawn};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::broadcast::{
    BroadcastConfig, Ended, Invitation, Kind, Lapped, Limits, PublishError, RecvError, Start,
    StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_testkit::child::{Child, Setup, parent_says, tell_parent};
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(50);
const CELLS: u32 = 16;
const LONGEST: u64 = 100;
const HOW: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };

fn record(number: u64) -> Vec<u8> {
    text(number, number as usize * 7919 % (LONGEST as usize + 1))
}

fn config(kind: Kind) -> BroadcastConfig {
    BroadcastConfig { kind, ..BroadcastConfig::lossy(CELLS, LONGEST, 8) }
}

fn subscriber(socket: OwnedFd) -> StrangeSubscriber {
    StrangeSubscriber::connect(socket.into(), Limits::default(), HOW, 0, None).unwrap()
}

/// Receives until the end, and checks each record and each number; what was accounted for.
fn receives_all(
    subscriber: &mut StrangeSubscriber,
    mut each: impl FnMut(u64),
) -> (u64, u64, RecvError) {
    let (mut next, mut missed) = (subscriber.position(), 0);
    loop {
        match subscriber.recv() {
            Ok((number, bytes)) => {
                assert_eq!(number, next, "lost, or received twice");
                assert_eq!(*bytes, *record(number), "torn");
                next += 1;
            }
            Err(RecvError::Missed { records }) => {
                next += records;
                missed += records;
            }
            Err(end) => return (next, missed, end),
        }
        each(next);
    }
}

/// Receives until the end, which it tells the parent; counts how far it is.
fn receives(args: &[String]) {
    let (mut subscriber, count) = (subscriber(given(args, 0)), count(args));
    tell_parent("attached");
    let (next, missed, end) =
        receives_all(&mut subscriber, |next| count.store(next, Ordering::Relaxed));
    tell_parent(&format!("{next} {} {end:?}", missed > 0));
}

/// Publishes to two subscribers until it is killed, or was told to leave, and counts what was
/// acknowledged.
fn publishes(args: &[String]) {
    let kind = if args[3] == "0" { Kind::Lossy } else { Kind::Lossless };
    let (mut publisher, invitation) = StrangePublisher::new(&config(kind)).unwrap();
    for index in [0, 1] {
        let guest = invitation.meet(given(args, index).into(), None).unwrap();
        assert!(publisher.admit(index, guest).is_ok());
    }
    // They are to have all.
    while publisher.lags().count() < 2 {
        std::thread::yield_now();
    }
    let count = dsm::backend::memfd::open_fd(given(args, 2)).unwrap();
    let count: Mapped<AtomicU64> = Mapped::new(count.mapping(), 0).unwrap();
    for number in 0..args[4].parse().unwrap() {
        publisher.publish(&record(number), None).unwrap();
        count.store(number + 1, Ordering::Relaxed);
    }
    tell_parent("published");
    if parent_says() == "exit" {
        // SAFETY: ends the process, without running a destructor.
        unsafe { libc::_exit(0) };
    }
}

shm_testkit::children! { receives, publishes }

fn admit(
    publisher: &mut StrangePublisher<u64>,
    invitation: &Invitation,
    key: u64,
) -> (Peer, Mapped<AtomicU64>) {
    let mut peer = spawn("receives", 0);
    let socket = peer.socket.take().unwrap();
    let guest = within(LIMIT, || invitation.meet(socket, None)).unwrap();
    assert!(publisher.admit(key, guest).is_ok());
    assert_eq!(peer.child.hear(LIMIT), "attached");
    let count = peer.count();
    (peer, count)
}

fn soon() -> Instant {
    Instant::now() + SHORT
}

/// A child that publishes, the two subscribers of it, and where it counts.
struct Publishing {
    child: Child,
    subscribers: [StrangeSubscriber; 2],
    count: Mapped<AtomicU64>,
}

fn publishing(kind: Kind, records: u64) -> Publishing {
    use dsm::backend::{self, Backend, Place};
    let counter = backend::create(&Place::new(Backend::Memfd), "count", 4096).unwrap();
    let [(ours, its), (also_ours, also_its)] = [(); 2].map(|()| UnixStream::pair().unwrap());
    let fds = [its.as_fd(), also_its.as_fd(), counter.fd().unwrap()];
    let numbers = fds.map(|fd| fd.as_raw_fd().to_string());
    let (kind, records) = (u64::from(kind == Kind::Lossless).to_string(), records.to_string());
    let args = [numbers[0].as_str(), &numbers[1], &numbers[2], &kind, &records];
    let setup = Setup { args: &args, fds: &fds, ..Setup::default() };
    let child = Child::spawn_with("publishes", setup);
    drop((its, also_its));
    let connect = |socket: UnixStream| within(LIMIT, || subscriber(socket.into()));
    let subscribers = [ours, also_ours].map(connect);
    Publishing { child, subscribers, count: Mapped::new(counter.mapping(), 0).unwrap() }
}

#[test]
fn what_a_killed_publisher_had_published_is_received_by_all() {
    let mut seed = u64::from(std::process::id()) | 1 << 42;
    println!("seed {seed}");
    let mut total = 0;
    for kind in [Kind::Lossy, Kind::Lossless].repeat(4) {
        let Publishing { mut child, subscribers, count } = publishing(kind, u64::MAX);
        let kill_at = 1 + next(&mut seed) % 300;
        let ends = std::thread::scope(|scope| {
            let receiving = subscribers.map(|mut subscriber| {
                scope.spawn(move || within(LIMIT, || receives_all(&mut subscriber, |_| ())))
            });
            within(LIMIT, || {
                while count.load(Ordering::Relaxed) < kill_at {
                    std::thread::yield_now();
                }
            });
            child.kill();
            receiving.map(|one| one.join().unwrap())
        });
        for (found, missed, end) in ends {
            assert_eq!(end, RecvError::PublisherDied);
            assert!(found >= count.load(Ordering::Relaxed), "an acknowledged one is lost");
            assert!(kind == Kind::Lossy || missed == 0);
            total += found;
        }
    }
    println!("records accounted for: {total}");
}

#[test]
fn who_leaves_has_detached_and_who_ends_without_a_word_has_died() {
    for (word, end) in [("leave", RecvError::Detached), ("exit", RecvError::PublisherDied)] {
        let Publishing { mut child, subscribers, .. } = publishing(Kind::Lossy, 10);
        assert_eq!(child.hear(LIMIT), "published");
        let [mut first, mut second] = subscribers;
        assert_eq!(first.recv().unwrap().0, 0);
        child.say(word);
        child.wait(LIMIT).assert_success();
        for subscriber in [&mut first, &mut second] {
            let found = within(LIMIT, || receives_all(subscriber, |_| ()));
            assert_eq!(found, (10, 0, end), "{word}");
        }
    }
}

#[test]
fn a_stopped_publisher_is_waited_for_and_a_killed_one_ends_the_sleep() {
    let Publishing { mut child, subscribers, .. } = publishing(Kind::Lossless, 3);
    assert_eq!(child.hear(LIMIT), "published");
    child.stop();
    let [mut subscriber, _other] = subscribers;
    for number in 0..3 {
        assert_eq!(subscriber.recv().unwrap().0, number);
    }
    assert_eq!(subscriber.recv_deadline(soon()), Err(RecvError::TimedOut));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            child.kill();
        });
        let end = within(LIMIT, || subscriber.recv().err());
        assert_eq!(end, Some(RecvError::PublisherDied));
    });
}

/// Of three, one is killed and one is stopped: the third has all, and so has the stopped one, or is
/// told how many it missed.
#[test]
fn a_killed_subscriber_and_a_stopped_one_are_nothing_to_the_others() {
    const RECORDS: u64 = 3000;
    let mut seed = u64::from(std::process::id()) | 1 << 43;
    println!("seed {seed}");
    for _ in 0..2 {
        let (mut publisher, invitation) = StrangePublisher::new(&config(Kind::Lossy)).unwrap();
        let [mut killed, mut stopped, mut third] =
            [0, 1, 2].map(|key| admit(&mut publisher, &invitation, key));
        let (kill_at, stop_at) = (next(&mut seed) % 1000, next(&mut seed) % 1000);
        within(LIMIT, || {
            for number in 0..RECORDS {
                if number == kill_at {
                    killed.0.child.kill();
                }
                if number == stop_at {
                    stopped.0.child.stop();
                }
                publisher.publish(&record(number), None).unwrap();
            }
        });
        let end = within(LIMIT, || {
            loop {
                if let Some(end) = publisher.next_end() {
                    return end;
                }
            }
        });
        let Ended { key, why, position } = end;
        assert_eq!((key, why), (0, Why::Died));
        assert!(position <= RECORDS && position >= killed.1.load(Ordering::Relaxed));
        assert_eq!(publisher.len(), 2);
        stopped.0.child.cont();
        drop(publisher);
        for (which, peer) in [("stopped", &mut stopped), ("third", &mut third)] {
            let said = peer.0.child.hear(LIMIT);
            println!("the {which} one: {said}");
            assert!(said.starts_with(&format!("{RECORDS} ")) && said.ends_with("Detached"));
        }
    }
}

/// It holds a lossless publisher back, which says whom it waits for, and expels it.
#[test]
fn a_stopped_subscriber_holds_back_until_it_is_expelled_or_dies() {
    for is_killed in [false, true] {
        let (mut publisher, invitation) = StrangePublisher::new(&config(Kind::Lossless)).unwrap();
        let mut stopped = admit(&mut publisher, &invitation, 0);
        let mut other = admit(&mut publisher, &invitation, 1);
        stopped.0.child.stop();
        // It may have been stopped before it slept, or after.
        let end = within(LIMIT, || {
            (0..).find_map(|number| publisher.publish(&record(number), Some(soon())).err())
        });
        assert_eq!(end, Some(PublishError::TimedOut));
        let published = publisher.published();
        assert!(published >= u64::from(CELLS));
        let slowest = publisher.lags().max_by_key(|(_, lag)| *lag);
        assert_eq!(slowest, Some((&0, u64::from(CELLS))));
        if is_killed {
            stopped.0.child.kill();
        } else {
            assert_eq!(publisher.expel(|_, lag| lag == u64::from(CELLS)), [0]);
        }
        within(LIMIT, || publisher.publish(&record(published), None)).unwrap();
        let told = publisher.next_end().map(|end| (end.key, end.why));
        assert_eq!(told, is_killed.then_some((0, Why::Died)));
        drop(publisher);
        let all = format!("{} false Detached", published + 1);
        assert_eq!(other.0.child.hear(LIMIT), all);
        if !is_killed {
            stopped.0.child.cont();
            // The first is gone, the others are there.
            let said = stopped.0.child.hear(LIMIT);
            assert!(said.starts_with(&format!("{} true ", published + 1)), "{said}");
        }
    }
}

#[test]
fn a_forked_child_is_nobody() {
    let (mut publisher, invitation) = StrangePublisher::new(&config(Kind::Lossless)).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connecting = std::thread::spawn(|| subscriber(theirs.into()));
    let guest = invitation.meet(ours, None).unwrap();
    let mut subscriber = connecting.join().unwrap();
    assert!(publisher.admit(0, guest).is_ok());
    // SAFETY: the child calls only what follows, none of which takes a lock, and `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = publisher.try_publish(b"") == Err(PublishError::Forked)
            && subscriber.try_recv() == Err(RecvError::Forked)
            && publisher.expel(|_, _| true).is_empty()
            && publisher.next_end().is_none();
        drop((publisher, subscriber));
        // SAFETY: ends the process.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "its handles refused to work");
    assert_eq!(publisher.try_publish(b"still here"), Ok(true));
    assert_eq!(subscriber.recv(), Ok((0, &b"still here"[..])));
}
