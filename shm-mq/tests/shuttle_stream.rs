//! `stream` with more messages than loom can finish, and with deaths on both sides at once: a
//! sample of schedules. A receiver that lives gets all that was acknowledged, what arrives is whole
//! and in order, and nobody hangs.
#![cfg(all(shm_loom, shm_shuttle))]
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model as process;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::stream::{OneMapping, Receiver, RecvError, SendError, Sender, Stream};
use shm_testkit::model::{self, Choice, Deaths, chance, chance_of_death};
use std::sync::Arc;

const RECEIVER: u32 = 1;
const SENDER: u32 = 2;
const MESSAGES: usize = 12;

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
    process::become_process(SENDER);
    let sender = table.join().unwrap();
    stream.set_sender(sender.id()).unwrap();
    process::become_process(RECEIVER);
    let receiver = table.join().unwrap();
    stream.set_receiver(receiver.id()).unwrap();
    World { table, stream, receiver, sender }
}

/// Message `n`: as long as chance had it when the scene began, and full of its number.
fn message(n: usize, lengths: &[usize]) -> Vec<u8> {
    vec![n as u8 + 1; lengths[n]]
}

/// How many messages were acknowledged, and why it ended before the last.
fn send_all<T: OneMapping>(
    mut sender: Sender<T>,
    lengths: &[usize],
    acknowledged: &mut usize,
) -> Option<SendError> {
    for n in 0..MESSAGES {
        match sender.send(&message(n, lengths)) {
            Ok(()) => *acknowledged += 1,
            Err(end) => return Some(end),
        }
    }
    None
}

/// How many messages came, in order, and why it ended.
fn receive_all<T: OneMapping>(
    mut receiver: Receiver<T>,
    lengths: &[usize],
    received: &mut usize,
) -> RecvError {
    loop {
        match receiver.recv() {
            Ok(got) => assert_eq!(*got, *message(*received, lengths), "torn, lost or out of order"),
            Err(end) => return end,
        }
        *received += 1;
    }
}

/// Either side may die at any access, or both.
fn both_may_die<T: OneMapping + Send + Sync>(ring_bytes: u64, deaths: &Deaths) {
    let world = world::<T>(ring_bytes);
    let lengths: Vec<usize> = (0..MESSAGES).map(|_| 1 + chance(20) as usize).collect();
    let (stream, me, table) = (world.stream.clone(), world.sender.clone(), world.table.clone());
    let (sizes, deaths_of_sender) = (lengths.clone(), deaths.clone());
    let fuels = [chance_of_death(300), chance_of_death(300)];
    let sending = model::thread::spawn(move || {
        let id = process::become_process(SENDER);
        let mut acknowledged = 0;
        let end = model::mortal(fuels[0], || {
            send_all(stream.sender(&me).unwrap(), &sizes, &mut acknowledged)
        });
        if end.is_none() {
            deaths_of_sender.died();
            process_ends(&table, id);
        }
        (acknowledged, end)
    });
    process::become_process(RECEIVER);
    let mut received = 0;
    let end = model::mortal(fuels[1], || {
        receive_all(world.stream.receiver(&world.receiver).unwrap(), &lengths, &mut received)
    });
    if end.is_none() {
        deaths.died();
        process_ends(&world.table, world.receiver.process());
    }
    let (acknowledged, sent) = sending.join().unwrap();
    match end {
        Some(RecvError::Detached) => assert_eq!(received, MESSAGES, "a message is lost"),
        Some(RecvError::PeerDied) => {
            assert!(sent.is_none(), "a living sender was called dead");
            assert!(received >= acknowledged, "an acknowledged message is lost");
        }
        Some(other) => panic!("{other}"),
        None => assert!(
            matches!(sent, None | Some(None | Some(SendError::PeerDied | SendError::Detached))),
            "{sent:?}"
        ),
    }
}

fn sample<T: OneMapping + Send + Sync>(name: &str, ring_bytes: u64) {
    for choice in [Choice::Random, Choice::Priorities(3)] {
        let tried =
            model::sample(choice, 3_000, move |deaths| both_may_die::<T>(ring_bytes, deaths));
        println!("stream, {name}, ring of {ring_bytes}: {tried:?}");
        assert!(tried.deaths > 0);
    }
}

#[test]
fn both_may_die_anywhere() {
    sample::<Crashing>("crashing", 16);
    sample::<Crashing>("crashing", 64);
}

#[test]
fn both_may_die_anywhere_among_buggy_peers() {
    sample::<Buggy>("buggy", 16);
}

/// Wrong verdict: the sender is taken for dead at some time, and goes on.
#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("an acknowledged message is lost", || {
        model::sample(Choice::Priorities(3), 10_000, |_| {
            let world = world::<Crashing>(64);
            let lengths = vec![3; MESSAGES];
            let (stream, me, sizes) = (world.stream.clone(), world.sender.clone(), lengths.clone());
            let sending = model::thread::spawn(move || {
                process::become_process(SENDER);
                let mut acknowledged = 0;
                send_all(stream.sender(&me).unwrap(), &sizes, &mut acknowledged);
                acknowledged
            });
            // Too long without a word from it.
            process_ends(&world.table, world.sender.process());
            let mut received = 0;
            receive_all(world.stream.receiver(&world.receiver).unwrap(), &lengths, &mut received);
            let acknowledged = sending.join().unwrap();
            assert!(received >= acknowledged, "an acknowledged message is lost");
        });
    });
}
