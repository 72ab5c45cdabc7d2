//! A soak of the queues: processes send and receive through each of them, one is killed every few
//! milliseconds, and another takes its place. In the end each message is accounted for: what was
//! acknowledged to its sender has come, once and whole and in order, and nothing else has.
//!
//! Who sends writes down in shared memory what it is about to send and what it was told is sent;
//! who receives, what it has used, before it lets go of it.
//!
//! It takes 3 s (`ci/soak.sh`: 12); `SHM_SOAK_SECONDS`, or ten minutes with `SHM_DEEP=1`, make it
//! longer. It prints the seed of what everybody does; `SHM_SEED=…` has them do it again, as far as
//! the kernel lets them.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;

#[path = "soak_messages/calls.rs"]
mod calls;
#[path = "soak_messages/casts.rs"]
mod casts;
#[path = "soak_messages/jobs.rs"]
mod jobs;
#[path = "soak_messages/lanes.rs"]
mod lanes;

use dsm::backend::{self, Backend, Place};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::Child;
use shm_testkit::depth::is_deep;
use shm_testkit::random::{self, next, text};
use shm_testkit::unique::Unique;
use shm_testkit::watchdog::within;
use spsc_common::LIMIT;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 16;
/// Processes that one scene may start.
const LIVES_MAX: u64 = 1 << 14;
/// Messages of a scene in which each has words of its own.
const LEDGER: u64 = 1 << 22;
/// Who waits looks so often whether it is over.
const SHORT: Duration = Duration::from_millis(5);
/// One is killed after at most so long.
const KILLED_WITHIN_MICROS: u64 = 40_000;

/// The words of a life, in which it and others count.
#[derive(Clone, Copy)]
enum Told {
    /// Messages that it was about to send.
    Begun,
    /// Messages that it was told are sent.
    Sent,
    /// Of a sender: messages that a receiver has used. Of a subscriber: the next one's number.
    Used,
    /// The first one's number.
    First,
    /// Messages that it was told it has missed.
    Missed,
    /// Who it is.
    Id,
    /// How often its end was told.
    Ends,
}
const WORDS: u64 = 8;

/// How far a scene is, from 0.
const NOBODY_SENDS: u64 = 1;
const ONLY_WHAT_IS_LEFT: u64 = 2;

/// What processes do with one queue.
struct Scene {
    name: &'static str,
    /// The functions of those who send and of those who receive, and how many.
    senders: (&'static str, usize),
    receivers: (&'static str, usize),
    bytes: u64,
    /// Makes the queue.
    make: fn(&Arc<Mapping>, u64),
    /// Whether each message has words in the ledger.
    has_ledger: bool,
    /// The messages that were sent, and that were received; or what is not accounted for.
    check: fn(&World, &Lives) -> Result<[u64; 2], String>,
}

/// Those that there were.
struct Lives {
    senders: Vec<u64>,
    receivers: Vec<u64>,
    /// The receivers that were not killed.
    last: Vec<u64>,
}

/// A segment with a table, the words of all lives, a ledger and a queue.
struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    over: Mapped<AtomicU64>,
    /// How many of the ledger's messages somebody has.
    given: Mapped<AtomicU64>,
    words: MappedSlice<AtomicU64>,
    ledger: MappedSlice<AtomicU64>,
    queue_at: u64,
}

impl World {
    fn of(mapping: &Arc<Mapping>, me: Arc<Member>, has_ledger: bool) -> World {
        let [words_at, ledger_at, queue_at] = World::parts(has_ledger);
        World {
            mapping: mapping.clone(),
            me,
            over: Mapped::new(mapping, words_at - 64).unwrap(),
            given: Mapped::new(mapping, words_at - 56).unwrap(),
            words: MappedSlice::new(mapping, words_at, WORDS * LIVES_MAX).unwrap(),
            ledger: MappedSlice::new(mapping, ledger_at, (queue_at - ledger_at) / 8).unwrap(),
            queue_at,
        }
    }

    /// Where words, ledger and queue begin.
    fn parts(has_ledger: bool) -> [u64; 3] {
        let words_at = Table::bytes_for(SEATS).next_multiple_of(64) + 64;
        let ledger_at = words_at + 8 * WORDS * LIVES_MAX;
        [words_at, ledger_at, ledger_at + if has_ledger { 16 * LEDGER } else { 0 }]
    }

    /// In a child, which was given the name; and which life it is, and its seed.
    fn attach(args: &[String], has_ledger: bool) -> (World, u64, u64) {
        let object = backend::open(&Place::new(Backend::Posix), &args[0]).unwrap().unwrap();
        let me = Table::attach(object.mapping(), 0).unwrap().join().unwrap();
        let world = World::of(object.mapping(), me, has_ledger);
        (world, args[1].parse().unwrap(), args[2].parse().unwrap())
    }

    fn is_over(&self, state: u64) -> bool {
        // Pairs with the Release of who ends it: all that those who sent have said.
        self.over.load(Ordering::Acquire) >= state
    }

    fn told(&self, life: u64, what: Told) -> &AtomicU64 {
        &self.words[(life * WORDS) as usize + what as usize]
    }

    fn count(&self, life: u64, what: Told) -> u64 {
        self.told(life, what).load(Ordering::Relaxed)
    }

    fn set(&self, life: u64, what: Told, count: u64) {
        self.told(life, what).store(count, Ordering::Relaxed);
    }

    /// What its sender, and who receives it, say of a message.
    fn entry(&self, id: u64) -> [&AtomicU64; 2] {
        [&self.ledger[2 * id as usize], &self.ledger[2 * id as usize + 1]]
    }

    /// The next messages of the ledger, for one life; `None` where there are no more.
    fn some_ids(&self) -> Option<std::ops::Range<u64>> {
        const MANY: u64 = 256;
        let first = self.given.fetch_add(MANY, Ordering::Relaxed);
        (first + MANY <= LEDGER).then(|| first..first + MANY)
    }

    /// As if a message that was sent had not come.
    fn lose_one(&self, lives: &Lives, sent: u64) {
        if let Some(at) = self.entries().position(|entry| entry[0] == 2 && entry[1] != 0) {
            return self.entry(at as u64)[1].store(0, Ordering::Relaxed);
        }
        let most = lives.senders.iter().max_by_key(|life| self.count(**life, Told::Sent));
        for life in lives.last.iter().chain(most) {
            let used = self.count(*life, Told::Used).min(sent);
            self.set(*life, Told::Used, used.saturating_sub(1));
        }
    }

    /// What the two words of each message say together.
    fn entries(&self) -> impl Iterator<Item = [u64; 2]> {
        let words = self.ledger.chunks_exact(2);
        words.map(|pair| [&pair[0], &pair[1]].map(|word| word.load(Ordering::Relaxed)))
    }
}

/// Message number `number` of somebody.
fn message(of: u64, number: u64) -> Vec<u8> {
    let mut bytes = of.to_ne_bytes().to_vec();
    bytes.extend(number.to_ne_bytes());
    bytes.extend(text(of << 40 | number, (number * 7919 % 101) as usize));
    bytes
}

/// Whose message it is, and which: it is whole.
fn read(bytes: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let (of, number) = (word(0), word(8));
    assert_eq!(bytes, message(of, number), "half a message");
    (of, number)
}

fn soon() -> Instant {
    Instant::now() + SHORT
}

shm_testkit::children! {
    sends, receives, joins_and_sends, receives_from_all,
    publishes, subscribes, misses_none, produces, works, asks, answers
}
use calls::{answers, asks};
use casts::{misses_none, publishes, subscribes};
use jobs::{produces, works};
use lanes::{joins_and_sends, receives, receives_from_all, sends};

/// The processes of a scene.
struct Cast<'s> {
    scene: &'s Scene,
    unique: &'s mut Unique,
    seed: u64,
    started: u64,
    lives: Lives,
    /// The senders, then the receivers.
    children: Vec<(u64, Child)>,
}

impl Cast<'_> {
    fn is_sender(&self, at: usize) -> bool {
        at < self.scene.senders.1
    }

    fn start(&mut self, at: usize) -> (u64, Child) {
        let life = self.started;
        assert!(life < LIVES_MAX, "there are no words for more");
        self.started += 1;
        let (function, lives) = match self.is_sender(at) {
            true => (self.scene.senders.0, &mut self.lives.senders),
            false => (self.scene.receivers.0, &mut self.lives.receivers),
        };
        lives.push(life);
        let seed = next(&mut self.seed).to_string();
        let child = Child::spawn(function, &[self.unique.name(), &life.to_string(), &seed]);
        self.unique.watch_process(child.pid());
        (life, child)
    }

    /// One is killed, and another comes.
    fn kill_one(&mut self) {
        let at = next(&mut self.seed) as usize % self.children.len();
        let child = &mut self.children[at].1;
        child.kill();
        let exit = child.wait(LIMIT);
        assert_eq!(exit.signal(), Some(9), "it had failed: {exit:?}");
        self.children[at] = self.start(at);
    }

    /// Those that send end, or those that receive.
    fn end(&mut self, senders: bool) {
        let some = self.children.len() - self.scene.receivers.1;
        let ending = if senders { self.children.drain(..some) } else { self.children.drain(..) };
        for (life, mut child) in ending {
            child.wait(LIMIT).assert_success();
            self.lives.last.extend((!senders).then_some(life));
        }
    }
}

/// Plays a scene for so long. The lives, and the messages that were sent and received.
fn play(scene: &Scene, length: Duration, seed: u64) -> (u64, [u64; 2]) {
    let mut unique = Unique::new("soak_mq");
    let [.., queue_at] = World::parts(scene.has_ledger);
    let place = Place::new(Backend::Posix);
    let object = backend::create(&place, unique.name(), queue_at + scene.bytes).unwrap();
    // SAFETY: nobody else has the name.
    let table = unsafe { Table::create(object.mapping(), 0, SEATS) }.unwrap();
    (scene.make)(object.mapping(), queue_at);
    let world = World::of(object.mapping(), table.join().unwrap(), scene.has_ledger);
    let lives = Lives { senders: Vec::new(), receivers: Vec::new(), last: Vec::new() };
    let name = unique.name().to_owned();
    let mut cast =
        Cast { scene, unique: &mut unique, seed, started: 0, lives, children: Vec::new() };
    for at in 0..scene.senders.1 + scene.receivers.1 {
        let child = cast.start(at);
        cast.children.push(child);
    }
    let end = Instant::now() + length;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(next(&mut cast.seed) % KILLED_WITHIN_MICROS));
        cast.kill_one();
    }
    world.over.store(NOBODY_SENDS, Ordering::Release);
    cast.end(true);
    world.over.store(ONLY_WHAT_IS_LEFT, Ordering::Release);
    cast.end(false);
    let (started, lives) = (cast.started, cast.lives);
    let messages = (scene.check)(&world, &lives).unwrap();
    // One that was lost would be found.
    world.lose_one(&lives, messages[0]);
    (scene.check)(&world, &lives).unwrap_err();
    drop(world);
    backend::remove(&place, &name).unwrap();
    unique.assert_nothing_left(Duration::ZERO);
    (started, messages)
}

#[test]
fn each_message_is_accounted_for() {
    let deep = if is_deep() { 600 } else { 3 };
    let told = std::env::var("SHM_SOAK_SECONDS").ok();
    let length = Duration::from_secs(told.map_or(deep, |told| told.parse().expect("seconds")));
    let seed = random::seed();
    let scenes =
        [lanes::SPSC, lanes::FAN_IN, casts::LOSSLESS, casts::LOSSY, jobs::WORK, calls::RPC];
    let mut all = 0;
    for scene in &scenes {
        let length = length / scenes.len() as u32;
        let (lives, [sent, received]) = within(length + 2 * LIMIT, || play(scene, length, seed));
        println!("soak {}: {lives} lives, {sent} sent, {received} received", scene.name);
        assert!(received > 100 && lives > 4, "nothing was done");
        all += sent;
    }
    println!("soak: {all} messages, each accounted for");
}
