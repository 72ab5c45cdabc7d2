//! Real processes at the two ends of a stream, at whatever level: what the children do, and what
//! the other side gets when they are killed.
use crate::common::LIMIT;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::stream::{Level, Receiver, RecvError, SendError, Sender};
use shm_testkit::child::{Child, in_a_fork};
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use std::time::Duration;

pub(crate) const SHORT: Duration = Duration::from_millis(200);

/// Message number `number`, of 0 to 299 bytes.
fn message(number: u64) -> Vec<u8> {
    text(number, (number * 7919 % 300) as usize)
}

/// In a child: sends until it is killed, and counts what was acknowledged.
pub(crate) fn send_for_ever<T: Level>(mut sender: Sender<T>, count: &AtomicU64) {
    for number in 0.. {
        sender.send(&message(number)).unwrap();
        count.store(number + 1, Ordering::Relaxed);
    }
}

/// In a child: receives until it is killed, and counts.
pub(crate) fn receive_for_ever<T: Level>(mut receiver: Receiver<T>, count: &AtomicU64) {
    for number in 0.. {
        assert_eq!(*receiver.recv().unwrap(), *message(number));
        count.store(number + 1, Ordering::Relaxed);
    }
}

/// Kills a child that sends for ever, at some moment: all it has counted is received, and then its
/// end. How many were received.
pub(crate) fn kill_the_sender<T: Level>(
    child: &mut Child,
    mut receiver: Receiver<T>,
    count: &AtomicU64,
    seed: &mut u64,
) -> u64 {
    let mut number = 0;
    for _ in 0..next(seed) % 300 {
        assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *message(number));
        number += 1;
    }
    std::thread::sleep(Duration::from_micros(next(seed) % 2000));
    child.kill();
    let end = within(LIMIT, || {
        loop {
            match receiver.recv() {
                Ok(got) => assert_eq!(*got, *message(number)),
                Err(end) => return end,
            }
            number += 1;
        }
    });
    assert_eq!(end, RecvError::PeerDied);
    assert!(number >= count.load(Ordering::Relaxed), "an acknowledged one is lost");
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::PeerDied, "it stays so");
    number
}

/// Kills a child that receives for ever, at some moment: the sender learns of it.
pub(crate) fn kill_the_receiver<T: Level>(
    child: &mut Child,
    mut sender: Sender<T>,
    count: &AtomicU64,
    seed: &mut u64,
) {
    let kill_at = next(seed) % 300;
    let mut number = 0;
    let end = within(LIMIT, || {
        loop {
            if number == kill_at {
                child.kill();
            }
            if let Err(end) = sender.send(&message(number)) {
                return end;
            }
            number += 1;
        }
    });
    assert_eq!(end, SendError::PeerDied);
    assert!(number >= count.load(Ordering::Relaxed));
    assert_eq!(sender.try_send(b""), Err(SendError::PeerDied), "it stays so");
}

/// The receiver sleeps when the child, which sends nothing, is killed.
pub(crate) fn kill_under_a_sleeping_receiver<T: Level>(
    child: &mut Child,
    receiver: &mut Receiver<T>,
) {
    assert_eq!(receiver.recv_timeout(SHORT).unwrap_err(), RecvError::TimedOut);
    let end = killed_soon(child, || receiver.recv().map(drop));
    assert_eq!(end, Err(RecvError::PeerDied));
}

/// The sender sleeps, the ring of 64 bytes full, when the child, which receives nothing, is killed.
pub(crate) fn kill_under_a_sleeping_sender<T: Level>(child: &mut Child, sender: &mut Sender<T>) {
    sender.send(&[1; 56]).unwrap();
    assert_eq!(sender.send_timeout(b"", SHORT), Err(SendError::TimedOut));
    assert_eq!(killed_soon(child, || sender.send(b"")), Err(SendError::PeerDied));
}

fn killed_soon<E>(child: &mut Child, sleep: impl FnOnce() -> E) -> E {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            child.kill();
        });
        within(LIMIT, sleep)
    })
}

/// The child, which would send, is stopped; then it goes on.
pub(crate) fn stop_the_sender<T: Level>(child: &mut Child, receiver: &mut Receiver<T>) {
    child.stop();
    child.say("send");
    for _ in 0..3 {
        assert_eq!(receiver.recv_timeout(SHORT).unwrap_err(), RecvError::TimedOut);
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    }
    child.cont();
    assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told");
}

/// The child, which receives nothing from a ring of 64 bytes, is stopped.
pub(crate) fn stop_the_receiver<T: Level>(child: &mut Child, sender: &mut Sender<T>) {
    child.stop();
    sender.send(&[1; 56]).unwrap();
    for _ in 0..3 {
        assert_eq!(sender.send_timeout(b"", SHORT), Err(SendError::TimedOut));
        assert_eq!(sender.try_send(b""), Err(SendError::WouldBlock));
    }
}

/// A forked child has both ends, and is nobody.
pub(crate) fn fork_is_nobody<T: Level>(sender: Sender<T>, receiver: Receiver<T>) {
    let (mut sends, mut receives) = (Some(sender), Some(receiver));
    let refused = in_a_fork(|| {
        let (mut sender, mut receiver) = (sends.take().unwrap(), receives.take().unwrap());
        sender.send(b"") == Err(SendError::Forked)
            && receiver.try_recv().is_err_and(|error| error == RecvError::Forked)
    });
    assert!(refused, "its handles worked");
    let (mut sender, mut receiver) = (sends.unwrap(), receives.unwrap());
    sender.send(b"still here").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"still here");
}
