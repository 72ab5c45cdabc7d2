//! Clients and servers on threads for a fixed time, some of which leave with calls in their hands:
//! each call ends, with its own answer or with the reason why not, whatever the table's size.
#![cfg(not(any(shm_loom, shm_explore)))]
mod rpc_common;

use rpc_common::vanishes;
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::rpc::{AskError, Call, CallError, Client, Rpc, RpcConfig, TakeError};
use shm_mq::stream::OneMapping;
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RUN: Duration = Duration::from_millis(400);
const CLIENTS: u64 = 3;
const SERVERS: u64 = 3;

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    died: AtomicU64,
    other: AtomicU64,
    calling: AtomicU64,
}

struct World {
    table: Table,
    rpc: Rpc,
    counts: Counts,
}

fn soon(seed: &mut u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_micros(next(seed) % 200))
}

/// What is answered to a number, and to which of them nothing.
fn answer_to(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn ends<T: OneMapping>(
    world: &World,
    number: u64,
    call: &mut Call<T>,
    until: Option<Instant>,
) -> bool {
    let count = match call.wait(until) {
        Ok(answer) => {
            assert_eq!(*answer, answer_to(number).to_ne_bytes(), "another's answer");
            &world.counts.answered
        }
        Err(CallError::Refused { code }) => {
            assert_eq!(code, number as u32, "another's refusal");
            &world.counts.refused
        }
        Err(CallError::ServerDied) => &world.counts.died,
        Err(CallError::TimedOut) => return false,
        Err(CallError::NoServer | CallError::Unanswered | CallError::DeadlinePassed) => {
            &world.counts.other
        }
        Err(error) => panic!("{error}"),
    };
    count.fetch_add(1, Ordering::Relaxed);
    true
}

/// Asks several at once, and waits for them, mostly in their order.
fn calls<T: OneMapping>(world: &World, who: u64) {
    let (mut seed, end) = (who + 1, Instant::now() + RUN);
    let mut number = who << 40;
    while Instant::now() < end {
        let me = world.table.join().unwrap();
        let client: Client<T> = world.rpc.clone().with_peers().client(&me).unwrap();
        let mut open: VecDeque<(u64, Call<T>)> = VecDeque::new();
        for _ in 0..next(&mut seed) % 300 {
            number += 1;
            let bytes = number.to_ne_bytes();
            let asked = match next(&mut seed) % 8 {
                0 => client.ask(&bytes, soon(&mut seed)).map(Some),
                _ => client.try_ask(&bytes),
            };
            match asked {
                Ok(Some(call)) => open.push_back((number, call)),
                Err(AskError::NoServer) => drop(client.wait_for_server(soon(&mut seed))),
                Ok(None) | Err(AskError::TimedOut) => {
                    let Some((number, mut call)) = open.pop_front() else { continue };
                    if !ends(world, number, &mut call, soon(&mut seed)) {
                        open.push_back((number, call));
                    }
                }
                Err(error) => panic!("{error}"),
            }
            if next(&mut seed).is_multiple_of(32) {
                drop(open.pop_back());
            }
        }
        if next(&mut seed).is_multiple_of(2) {
            // As one who dies.
            std::mem::forget((open, client.reserve(8).ok()));
            std::mem::forget(client);
            vanishes(me);
            continue;
        }
        for (number, mut call) in open {
            // It ends, for servers are there, or are none.
            assert!(ends(world, number, &mut call, None));
        }
    }
    world.counts.calling.fetch_sub(1, Ordering::Release);
}

fn serves<T: OneMapping>(world: &World, who: u64) {
    let mut seed = who + 77;
    while world.counts.calling.load(Ordering::Acquire) > 0 {
        let me = world.table.join().unwrap();
        let mut server = world.rpc.clone().with_peers::<T>().server(&me).unwrap();
        for _ in 0..next(&mut seed) % 1000 {
            let request = match next(&mut seed) % 2 {
                0 => server.try_take().and_then(|request| request.ok_or(TakeError::TimedOut)),
                _ => server.take(soon(&mut seed)),
            };
            let request = match request {
                Ok(request) => request,
                Err(TakeError::TimedOut) => continue,
                Err(error) => panic!("{error}"),
            };
            let number = u64::from_ne_bytes((*request).try_into().unwrap());
            match next(&mut seed) % 64 {
                0 => drop(request),
                1 => drop(request.refuse(number as u32, b"no")),
                2 => {
                    // As one who dies.
                    std::mem::forget(request);
                    break;
                }
                _ => drop(request.answer(&answer_to(number).to_ne_bytes())),
            }
        }
        if next(&mut seed).is_multiple_of(2) {
            std::mem::forget(server);
            vanishes(me);
        }
    }
}

fn each_call_ends<T: OneMapping>(calls_each: u32) {
    let config = RpcConfig::new(2 * CLIENTS as u32, calls_each, 8, 8);
    let at = Table::bytes_for(16).next_multiple_of(128);
    let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 16) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let rpc = unsafe { Rpc::create(&mapping, at, &config) }.unwrap();
    let counts = Counts { calling: AtomicU64::new(CLIENTS), ..Counts::default() };
    let world = World { table, rpc, counts };
    within(LIMIT, move || {
        std::thread::scope(|scope| {
            for who in 0..SERVERS {
                let world = &world;
                scope.spawn(move || serves::<T>(world, who));
            }
            for who in 0..CLIENTS {
                let world = &world;
                scope.spawn(move || calls::<T>(world, who));
            }
        });
        world.rpc.reap(&world.table.join().unwrap());
        let status = world.rpc.status();
        assert_eq!((status.free, status.clients, status.servers), (6 * calls_each, 0, 0));
        let Counts { answered, refused, died, other, .. } = &world.counts;
        let counts = [answered, refused, died, other].map(|count| count.load(Ordering::Relaxed));
        println!("answered, refused, died, other: {counts:?}, {status:?}");
        assert!(counts[0] > 100, "{counts:?}");
    });
}

#[test]
fn one_call_at_a_time() {
    each_call_ends::<Crashing>(1);
}

#[test]
fn a_few_at_a_time() {
    each_call_ends::<Buggy>(5);
}

#[test]
fn many_at_a_time() {
    each_call_ends::<Crashing>(200);
}
