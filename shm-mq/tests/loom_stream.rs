//! `stream` under every interleaving and with a death at every access: nothing acknowledged is
//! lost, nothing arrives torn or twice, nobody hangs, and each side learns why the other is
//! silent.
//!
//! Process 1 is the receiver and process 2 the sender, whatever thread they run in. A model's two
//! ends are at one level of trust, for their words are other objects of loom's.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model as process;
use shm_core::sync::{AtomicU32, Ordering, yield_now};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::{OneMapping, Receiver, RecvError, SendError, Sender, Stream};
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Deaths};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const RECEIVER: u32 = 1;
const SENDER: u32 = 2;

/// A stream whose roles are given, but not taken yet.
struct World<T: OneMapping> {
    table: Table,
    stream: Stream<T>,
    receiver: Arc<Member>,
    sender: Arc<Member>,
}

fn stream_at() -> u64 {
    Table::bytes_for(2).next_multiple_of(64)
}

/// Where the first word of the ring is.
fn ring_at() -> u64 {
    stream_at() + Stream::bytes_for(0)
}

fn table_and_stream(ring_bytes: u64) -> (Table, Stream) {
    let at = stream_at();
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.unwrap();
    (table, stream)
}

fn world<T: OneMapping>(ring_bytes: u64) -> World<T> {
    let (table, stream) = table_and_stream(ring_bytes);
    let stream = stream.with_peers::<T>();
    process::become_process(SENDER);
    let sender = table.join().unwrap();
    stream.set_sender(sender.id()).unwrap();
    process::become_process(RECEIVER);
    let receiver = table.join().unwrap();
    stream.set_receiver(receiver.id()).unwrap();
    World { table, stream, receiver, sender }
}

impl<T: OneMapping> World<T> {
    /// Runs `send` as the sender's process, which dies after `fuel` accesses, or leaves at its end.
    fn sending(
        &self,
        fuel: u32,
        deaths: &Deaths,
        send: impl FnOnce(Sender<T>) + 'static,
    ) -> model::thread::JoinHandle<()> {
        let (stream, me, table) = (self.stream.clone(), self.sender.clone(), self.table.clone());
        let deaths = deaths.clone();
        model::thread::spawn(move || {
            let id = process::become_process(SENDER);
            if model::mortal(fuel, || send(stream.sender(&me).unwrap())).is_none() {
                deaths.died();
                process_ends(&table, id);
            }
        })
    }

    /// The same for the receiver.
    fn receiving(
        &self,
        fuel: u32,
        deaths: &Deaths,
        receive: impl FnOnce(Receiver<T>) + 'static,
    ) -> model::thread::JoinHandle<()> {
        let (stream, me, table) = (self.stream.clone(), self.receiver.clone(), self.table.clone());
        let deaths = deaths.clone();
        model::thread::spawn(move || {
            let id = process::become_process(RECEIVER);
            if model::mortal(fuel, || receive(stream.receiver(&me).unwrap())).is_none() {
                deaths.died();
                process_ends(&table, id);
            }
        })
    }
}

const FOR_EVER: u32 = u32::MAX;

/// Receives until the end: how many messages, which must be `messages` in order, and why it ended.
fn receive_all<T: OneMapping>(mut receiver: Receiver<T>, messages: &[&[u8]]) -> (usize, RecvError) {
    let mut received = 0;
    loop {
        match receiver.recv() {
            Ok(message) => assert_eq!(*message, *messages[received]),
            Err(end) => return (received, end),
        }
        received += 1;
    }
}

/// The sender may die at any access.
fn sender_dies<T: OneMapping>(
    ring: u64,
    messages: &'static [&'static [u8]],
) -> impl Fn(u32, &Deaths) + Clone {
    sender_taken_for_dead::<T>(ring, messages, None)
}

/// The same, while `guess` passes its own verdict on it.
fn sender_taken_for_dead<T: OneMapping>(
    ring: u64,
    messages: &'static [&'static [u8]],
    guess: Option<fn(&World<T>)>,
) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world::<T>(ring);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let count = acknowledged.clone();
        let sending = world.sending(fuel, deaths, move |mut sender| {
            for message in messages {
                match sender.send(message) {
                    Ok(()) => count.fetch_add(1, Relaxed),
                    // It has been buried alive, and the mourners have left.
                    Err(SendError::Detached) if guess.is_some() => return,
                    Err(other) => panic!("{other}"),
                };
            }
        });
        if let Some(guess) = guess {
            guess(&world);
        }
        let (received, end) =
            receive_all(world.stream.receiver(&world.receiver).unwrap(), messages);
        sending.join().unwrap();
        assert!(received >= acknowledged.load(Relaxed), "an acknowledged message is lost");
        match end {
            RecvError::Detached => assert_eq!(received, messages.len()),
            RecvError::PeerDied => {}
            other => panic!("{other}"),
        }
    }
}

/// The receiver may die at any access; the sender ends, and knows why.
fn receiver_dies<T: OneMapping>(
    ring: u64,
    messages: &'static [&'static [u8]],
) -> impl Fn(u32, &Deaths) + Clone {
    move |fuel, deaths| {
        let world = world::<T>(ring);
        let receiving = world.receiving(fuel, deaths, move |mut receiver| {
            for message in messages {
                match receiver.recv() {
                    Ok(got) => assert_eq!(*got, **message),
                    Err(end) => panic!("{end}"),
                }
            }
        });
        process::become_process(SENDER);
        let mut sender = world.stream.sender(&world.sender).unwrap();
        for message in messages {
            match sender.send(message) {
                Ok(()) => {}
                Err(SendError::PeerDied | SendError::Detached) => break,
                Err(other) => panic!("{other}"),
            }
        }
        receiving.join().unwrap();
    }
}

/// A sender that comes, sends and goes, and a receiver that knows nothing of it beforehand.
fn comes_and_goes<T: OneMapping>() {
    // A quarter of it is more than the message: the push stays pending until the sender goes.
    let (table, stream) = table_and_stream(64);
    let stream = stream.with_peers::<T>();
    let receiver = table.join().unwrap();
    let (theirs, their_table) = (stream.clone(), table.clone());
    let sending = model::thread::spawn(move || {
        process::become_process(SENDER);
        let me = their_table.join().unwrap();
        theirs.sender(&me).unwrap().push(b"1").unwrap();
    });
    let end = receive_all(stream.receiver(&receiver).unwrap(), &[b"1"]);
    assert_eq!(end, (1, RecvError::Detached));
    sending.join().unwrap();
}

/// A receiver that leaves after one message: the sender sends all or learns of it.
fn receiver_leaves() {
    let world = world::<Crashing>(8);
    let receiving = world.receiving(FOR_EVER, &Deaths::default(), |mut receiver| {
        assert_eq!(*receiver.recv().unwrap(), *b"1");
    });
    process::become_process(SENDER);
    let mut sender = world.stream.sender(&world.sender).unwrap();
    let mut sent = [b"1", b"2", b"3"].map(|message| sender.send(message)).into_iter();
    assert_eq!(sent.find(|end| end.is_err()), Some(Err(SendError::Detached)));
    receiving.join().unwrap();
}

/// A message cut off half-way, then a whole one.
fn cancelled() {
    let world = world::<Crashing>(8);
    let sending = world.sending(FOR_EVER, &Deaths::default(), |mut sender| {
        let _ = sender.start(b"123456").unwrap().poll();
        sender.send(b"7").unwrap();
    });
    let mut receiver = world.stream.receiver(&world.receiver).unwrap();
    loop {
        let last = match receiver.recv() {
            Ok(message) => message.to_vec(),
            Err(end) => panic!("{end}"),
        };
        if last == b"7" {
            break;
        }
        assert_eq!(last, b"123456", "it went through before it could be cancelled");
    }
    sending.join().unwrap();
}

/// Somebody overwrites the ring's one word while a message goes through it.
fn scribbled<T: OneMapping>(nonsense: u64) {
    let (table, stream) = table_and_stream(8);
    let word = Mapped::<Word>::new(stream.mapping(), ring_at()).unwrap();
    process::become_process(SENDER);
    let sender = table.join().unwrap();
    stream.set_sender(sender.id()).unwrap();
    process::become_process(RECEIVER);
    let receiver = table.join().unwrap();
    let (theirs, me) = (stream.clone().with_peers::<T>(), sender.clone());
    let sending = model::thread::spawn(move || {
        process::become_process(SENDER);
        let mut sender = theirs.sender(&me).unwrap();
        // The receiver leaves where it finds nonsense.
        assert!(matches!(sender.send(b"1"), Ok(()) | Err(SendError::Detached)));
        assert!(matches!(sender.send(b"2"), Ok(()) | Err(SendError::Detached)));
    });
    let scribbling = model::thread::spawn(move || word.store(nonsense));
    let mut receiver = stream.with_peers::<T>().receiver(&receiver).unwrap();
    let mut received = 0;
    let end = loop {
        match receiver.recv() {
            Ok(message) => assert!(message.len() <= 4, "more than a frame of this ring holds"),
            Err(end) => break end,
        }
        received += 1;
    };
    assert!(received <= 2 && matches!(end, RecvError::Corrupt | RecvError::Detached));
    drop(receiver);
    sending.join().unwrap();
    scribbling.join().unwrap();
}

/// Each fills the ring of 8 bytes.
const TWO: &[&[u8]] = &[b"1", b"22"];
/// Two fragments in the ring of 8 bytes.
const LONG: &[&[u8]] = &[b"123456"];

#[test]
fn a_sender_may_die_anywhere() {
    let tried = model::every_death_bounded(dear_bound(), sender_dies::<Crashing>(8, TWO));
    println!("stream, sender: {tried:?}");
    assert!(tried.deaths > 0);
}

/// Preemptions, of models that are dear: one, and with `SHM_DEEP=1` as many as elsewhere.
fn dear_bound() -> Option<usize> {
    Some(if is_deep() { model::preemption_bound() } else { 1 })
}

#[test]
fn a_sender_of_fragments_may_die_anywhere() {
    let tried = model::every_death_bounded(dear_bound(), sender_dies::<Crashing>(8, LONG));
    println!("stream, sender of fragments: {tried:?}");
    assert!(tried.deaths > 0);
}

/// Wrong verdict: the receiver has waited too long, and the sender goes on. With the kernel's
/// verdict, which comes after the last store, this is `a_sender_may_die_anywhere`.
#[test]
fn finds_a_death_that_was_guessed() {
    let guess: fn(&World<Crashing>) = |world| process_ends(&world.table, world.sender.process());
    model::finds("an acknowledged message is lost", || {
        model::check(move || {
            sender_taken_for_dead(8, &[b"1"], Some(guess))(FOR_EVER, &Deaths::default());
        });
    });
}

#[test]
fn a_receiver_may_die_anywhere() {
    let tried = model::every_death_bounded(dear_bound(), receiver_dies::<Crashing>(8, TWO));
    println!("stream, receiver: {tried:?}");
    assert!(tried.deaths > 0);
}

/// The positions are as among crashing peers, and only the payload moves otherwise: with
/// `SHM_DEEP=1`, one preemption less than there.
#[test]
fn among_buggy_peers_a_sender_may_die_anywhere() {
    let bound = Some(model::preemption_bound() - 1);
    let tried = model::every_death_bounded(bound, sender_dies::<Buggy>(8, TWO));
    println!("stream, buggy, sender: {tried:?}");
    assert!(tried.deaths > 0);
    if is_deep() {
        let tried = model::every_death(sender_dies::<Buggy>(8, LONG));
        println!("stream, buggy, sender of fragments: {tried:?}");
    }
}

#[test]
fn among_buggy_peers_a_receiver_may_die_anywhere() {
    let bound = Some(model::preemption_bound() - 1);
    let tried = model::every_death_bounded(bound, receiver_dies::<Buggy>(8, TWO));
    println!("stream, buggy, receiver: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn a_scribbler_makes_nonsense_and_no_more() {
    // A fragment longer than the ring; the end of a message that did not begin; another message.
    for nonsense in [u64::MAX, 1 << 30 | 1, 0x2a << 32 | 3 << 30 | 1] {
        // Three processes are many: a bound one lower than elsewhere.
        let bound = model::preemption_bound() - 1;
        let tried = model::check_bounded(Some(bound), move || scribbled::<Buggy>(nonsense));
        println!("stream, scribbled {nonsense:#x}: {tried:?}");
    }
}

#[test]
fn a_sender_that_comes_and_goes_is_not_missed() {
    println!("stream, comes and goes: {:?}", model::check(comes_and_goes::<Crashing>));
}

#[test]
fn a_sender_learns_that_the_receiver_left() {
    println!("stream, receiver leaves: {:?}", model::check(receiver_leaves));
}

#[test]
fn a_cancelled_message_is_not_received() {
    println!("stream, cancelled: {:?}", model::check(cancelled));
}

#[test]
fn every_ordering_matters() {
    // Needed where one is named by another who came before it, as in `loom_spsc::one_is_named`.
    let not_here = ["name: match self.role", "watched: let owner ="];
    let found = model::every_ordering_matters_but(&["shm-mq/src/stream/"], &not_here, || {
        model::check(|| sender_dies::<Crashing>(8, TWO)(FOR_EVER, &Deaths::default()));
        model::check(comes_and_goes::<Crashing>);
    });
    assert_eq!(found, 6, "written, read and state, each end");
}

/// A mistake in a stream of one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// `written` is published Relaxed.
    PublishedRelaxed,
    /// The receiver does not look at `written` again after it saw that the sender has gone.
    NoSecondLook,
    /// `read` is published before the bytes are copied.
    GivenBackEarly,
}

/// The protocol of `stream` without anything around it, for the bugs.
struct Small {
    word: Word,
    written: AtomicU32,
    read: AtomicU32,
    gone: AtomicU32,
}
// SAFETY: modelled words and atomics.
unsafe impl shm_core::ShmSync for Small {}

fn small(bug: Bug, relaxed_words: bool) {
    let [written, read, gone] = [0; 3].map(AtomicU32::new);
    // SAFETY: nobody else has the mapping.
    let shared = unsafe {
        Mapped::place(&Mapping::heap(4096), 0, Small { word: Word::new(), written, read, gone })
    };
    let shared = shared.unwrap();
    let theirs = shared.clone();
    let sending = model::thread::spawn(move || {
        for sent in 0..2 {
            while theirs.read.load(Ordering::Acquire) < sent {
                yield_now();
            }
            if relaxed_words {
                theirs.word.store(u64::from(sent));
            } else {
                // SAFETY: it has been given back, unless there is a bug.
                unsafe { theirs.word.set(u64::from(sent)) };
            }
            let relaxed = bug == Bug::PublishedRelaxed;
            let order = if relaxed { Ordering::Relaxed } else { Ordering::Release };
            theirs.written.store(sent + 1, order);
        }
        theirs.gone.store(1, Ordering::Release);
    });
    let mut received = 0;
    loop {
        let gone = shared.gone.load(Ordering::Acquire) == 1;
        let second = bug != Bug::NoSecondLook;
        if shared.written.load(Ordering::Acquire) > received {
            if bug == Bug::GivenBackEarly {
                shared.read.store(received + 1, Ordering::Release);
            }
            let word = if relaxed_words {
                shared.word.load()
            } else {
                // SAFETY: it is published, unless there is a bug.
                unsafe { shared.word.get() }
            };
            assert_eq!(word, u64::from(received), "torn");
            received += 1;
            shared.read.store(received, Ordering::Release);
        } else if gone || (!second && shared.gone.load(Ordering::Acquire) == 1) {
            break;
        }
        yield_now();
    }
    sending.join().unwrap();
    assert_eq!(received, 2, "a message is lost");
}

#[test]
fn planted_bugs_are_found() {
    model::check(|| small(Bug::None, false));
    for (bug, reason) in [
        (Bug::PublishedRelaxed, "Causality violation"),
        (Bug::NoSecondLook, "a message is lost"),
        (Bug::GivenBackEarly, "Causality violation"),
    ] {
        model::finds(reason, || {
            model::check(move || small(bug, false));
        });
    }
}

/// Words that move one by one tell of no race: what was published too weakly shows by its value.
///
/// That `read` be published with Release loom cannot see here: a load of the word that sees what
/// the sender stores after it learned of that load is load buffering, which loom does not explore.
#[test]
fn planted_bugs_are_found_by_relaxed_words_too() {
    model::check(|| small(Bug::None, true));
    for (bug, reason) in [
        (Bug::PublishedRelaxed, "torn"),
        (Bug::NoSecondLook, "a message is lost"),
        (Bug::GivenBackEarly, "torn"),
    ] {
        model::finds(reason, || {
            model::check(move || small(bug, true));
        });
    }
}
