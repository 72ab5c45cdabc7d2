//! `stream` with more messages than loom can finish, in rings of several sizes, where both sides
//! may die: a sample of schedules.
#![cfg(all(shm_loom, shm_shuttle))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::{OneMapping, RecvError, SendError, Stream};
use shm_testkit::model::{self, Choice, Deaths, chance, chance_of_death};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const RECEIVER: u32 = 1;
const SENDER: u32 = 2;
const FOR_EVER: u32 = u32::MAX;
const MESSAGES: usize = 12;
const CHOICES: [Choice; 2] = [Choice::Random, Choice::Priorities(3)];

/// The n-th message: no two alike, some empty, some longer than the ring.
fn message(n: usize) -> Vec<u8> {
    vec![b'a' + n as u8; n * 7 % 40]
}

/// A stream whose roles are given, but not taken yet.
struct World<T: OneMapping> {
    table: Table,
    stream: Stream<T>,
    receiver: Arc<Member>,
    sender: Arc<Member>,
}

fn world<T: OneMapping>(ring_bytes: u64) -> World<T> {
    let at = Table::bytes_for(2).next_multiple_of(64);
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.unwrap().with_peers::<T>();
    become_process(SENDER);
    let sender = table.join().unwrap();
    stream.set_sender(sender.id()).unwrap();
    become_process(RECEIVER);
    let receiver = table.join().unwrap();
    stream.set_receiver(receiver.id()).unwrap();
    World { table, stream, receiver, sender }
}

/// What a process does until its end, and how it ended: `None` is death.
fn process<T: OneMapping, E: Send + 'static>(
    world: &World<T>,
    pid: u32,
    fuel: u32,
    deaths: &Deaths,
    act: impl FnOnce() -> E + Send + 'static,
) -> model::thread::JoinHandle<Option<E>> {
    let (table, deaths) = (world.table.clone(), deaths.clone());
    model::thread::spawn(move || {
        let id = become_process(pid);
        let end = model::mortal(fuel, act);
        if end.is_none() {
            deaths.died();
            process_ends(&table, id);
        }
        end
    })
}

/// The sender sends all, and the receiver receives until the end; each dies as its fuel says.
///
/// With `guessed` the receiver takes the sender for dead, which is wrong.
fn both<T: OneMapping>(ring: u64, fuels: [u32; 2], guessed: bool, deaths: &Deaths) {
    let world = world::<T>(ring);
    let told = [0; 2].map(|n| Arc::new(AtomicUsize::new(n)));
    let [acknowledged, received] = told.clone();
    let (stream, me) = (world.stream.clone(), world.sender.clone());
    let sending = process(&world, SENDER, fuels[0], deaths, move || {
        let mut sender = stream.sender(&me).unwrap();
        for n in 0..MESSAGES {
            sender.send(&message(n))?;
            acknowledged.fetch_add(1, Relaxed);
        }
        Ok(())
    });
    let (stream, me) = (world.stream.clone(), world.receiver.clone());
    let (table, peer) = (world.table.clone(), world.sender.process());
    let receiving = process(&world, RECEIVER, fuels[1], deaths, move || {
        if guessed {
            process_ends(&table, peer);
        }
        let mut receiver = stream.receiver(&me).unwrap();
        loop {
            match receiver.recv() {
                Ok(got) => assert_eq!(*got, *message(received.load(Relaxed)), "torn, or not next"),
                Err(end) => return end,
            }
            received.fetch_add(1, Relaxed);
        }
    });
    let (sent, end) = (sending.join().unwrap(), receiving.join().unwrap());
    let [acknowledged, received] = told.map(|count| count.load(Relaxed));
    assert!(end.is_none() || received >= acknowledged, "an acknowledged message is lost");
    if !guessed {
        account(sent, end, received);
    }
}

/// Each learned of the other what happened to it.
fn account(sent: Option<Result<(), SendError>>, end: Option<RecvError>, received: usize) {
    match sent {
        // It may have died after it had left.
        None | Some(Ok(())) => match end {
            None => {}
            Some(RecvError::Detached) => assert_eq!(received, MESSAGES),
            Some(RecvError::PeerDied) if sent.is_none() => {}
            other => panic!("received {received}, and then {other:?}; sent: {sent:?}"),
        },
        Some(Err(SendError::PeerDied)) => assert_eq!(end, None),
        Some(other) => panic!("the receiver did not leave: {other:?}"),
    }
}

fn sample<T: OneMapping + 'static>(name: &str, schedules: usize) {
    for choice in CHOICES {
        let tried = model::sample(choice, schedules, |deaths| {
            let ring = [8, 16, 64][chance(3) as usize];
            both::<T>(ring, [(); 2].map(|()| chance_of_death(300)), false, deaths);
        });
        println!("stream, {name}: {tried:?}");
        assert!(tried.deaths > 0);
    }
}

#[test]
fn both_sides_may_die_anywhere() {
    sample::<Crashing>("both sides", 3_000);
}

#[test]
fn among_buggy_peers_both_sides_may_die_anywhere() {
    sample::<Buggy>("both sides, buggy", 2_000);
}

/// Wrong verdict: the sender that was taken for dead goes on, and nobody receives what it sends.
#[test]
fn finds_a_death_that_was_guessed() {
    for choice in CHOICES {
        model::finds("an acknowledged message is lost", || {
            model::sample(choice, 3_000, |deaths| {
                both::<Crashing>(64, [FOR_EVER; 2], true, deaths);
            });
        });
    }
}
