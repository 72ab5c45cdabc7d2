//! What the tests with real processes share: a segment in which there is one queue of some kind,
//! and processes that come to it and are killed.
#![allow(dead_code, reason = "each test file uses its part")]
use dsm::backend::{self, Backend, Place};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::broadcast::{Broadcast, BroadcastConfig};
use shm_mq::fan_in::{FanIn, FanInConfig};
use shm_mq::rpc::{Rpc, RpcConfig};
use shm_mq::spsc::Queue;
use shm_mq::stream::{Receiver, Sender, Stream};
use shm_mq::work::{WorkConfig, WorkQueue};
use shm_testkit::child::Child;
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::time::Duration;

/// No wait of these tests takes so long unless something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// So long nobody is late without a reason.
pub(crate) const SHORT: Duration = Duration::from_millis(50);
/// Of each queue's messages.
pub(crate) const FINGERPRINT: u64 = 0x5b5c;

const SEATS: u32 = 80;

/// A kind of queue.
pub(crate) trait Kind: Sized {
    type Config;

    fn bytes_for(config: &Self::Config) -> u64;
    /// Where nobody else has been told of the place.
    fn create(mapping: &Arc<Mapping>, at: u64, config: &Self::Config) -> Self;
    fn attach(mapping: &Arc<Mapping>, at: u64) -> Self;
}

macro_rules! kinds {
    ($($Kind:ident $Config:ident),*) => { $(
        impl Kind for $Kind {
            type Config = $Config;

            fn bytes_for(config: &$Config) -> u64 {
                $Kind::bytes_for(config)
            }

            fn create(mapping: &Arc<Mapping>, at: u64, config: &$Config) -> $Kind {
                let config = $Config { fingerprint: FINGERPRINT, ..*config };
                // SAFETY: nobody else knows of the place.
                unsafe { $Kind::create(mapping, at, &config) }.unwrap()
            }

            fn attach(mapping: &Arc<Mapping>, at: u64) -> $Kind {
                $Kind::attach(mapping, at, FINGERPRINT).unwrap()
            }
        }
    )* };
}
kinds! { WorkQueue WorkConfig, FanIn FanInConfig, Broadcast BroadcastConfig, Rpc RpcConfig }

impl Kind for Queue {
    /// The ring's bytes.
    type Config = u64;

    fn bytes_for(ring_bytes: &u64) -> u64 {
        Queue::bytes_for(*ring_bytes)
    }

    fn create(mapping: &Arc<Mapping>, at: u64, ring_bytes: &u64) -> Queue {
        // SAFETY: nobody else knows of the place.
        unsafe { Queue::create(mapping, at, *ring_bytes, FINGERPRINT) }.unwrap()
    }

    fn attach(mapping: &Arc<Mapping>, at: u64) -> Queue {
        Queue::attach(mapping, at, FINGERPRINT).unwrap()
    }
}

/// Streams one after another.
impl Kind for Vec<Stream> {
    /// How many, and the bytes of each ring.
    type Config = (u64, u64);

    fn bytes_for((count, ring_bytes): &(u64, u64)) -> u64 {
        count * stride_for(*ring_bytes)
    }

    fn create(mapping: &Arc<Mapping>, at: u64, (count, ring_bytes): &(u64, u64)) -> Vec<Stream> {
        let places = (0..*count).map(|index| at + index * stride_for(*ring_bytes));
        // SAFETY: nobody else knows of the places, which do not overlap.
        places.map(|at| unsafe { Stream::create(mapping, at, *ring_bytes) }.unwrap()).collect()
    }

    fn attach(mapping: &Arc<Mapping>, mut at: u64) -> Vec<Stream> {
        let mut streams = Vec::new();
        while let Ok(stream) = Stream::attach(mapping, at) {
            at += stride_for(stream.status().ring_bytes);
            streams.push(stream);
        }
        streams
    }
}

fn stride_for(ring_bytes: u64) -> u64 {
    Stream::bytes_for(ring_bytes).next_multiple_of(64)
}

/// A POSIX segment with a table, words in which the processes count, and a queue.
pub(crate) struct World<Q, const WORDS: u64> {
    name: String,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) me: Arc<Member>,
    pub(crate) queue: Q,
    pub(crate) words: MappedSlice<AtomicU64>,
    is_owner: bool,
}

impl<Q: Kind, const WORDS: u64> World<Q, WORDS> {
    pub(crate) const WORDS_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
    pub(crate) const QUEUE_AT: u64 = (Self::WORDS_AT + 8 * WORDS).next_multiple_of(128);

    pub(crate) fn create(hint: &str, config: &Q::Config) -> Self {
        let name = shm_testkit::unique::name(hint);
        let size = Self::QUEUE_AT + Q::bytes_for(config);
        let object = backend::create(&Place::new(Backend::Posix), &name, size).unwrap();
        // SAFETY: nobody else has the name.
        let table = unsafe { Table::create(object.mapping(), 0, SEATS) }.unwrap();
        let queue = Q::create(object.mapping(), Self::QUEUE_AT, config);
        World::of(name, object.mapping(), &table, queue, true)
    }

    /// In a child: its first argument is the name.
    pub(crate) fn attach(args: &[String]) -> Self {
        let object = backend::open(&Place::new(Backend::Posix), &args[0]).unwrap().unwrap();
        let table = Table::attach(object.mapping(), 0).unwrap();
        let queue = Q::attach(object.mapping(), Self::QUEUE_AT);
        World::of(args[0].clone(), object.mapping(), &table, queue, false)
    }

    fn of(name: String, mapping: &Arc<Mapping>, table: &Table, queue: Q, is_owner: bool) -> Self {
        let words = MappedSlice::new(mapping, Self::WORDS_AT, WORDS).unwrap();
        World { name, mapping: mapping.clone(), me: table.join().unwrap(), queue, words, is_owner }
    }

    pub(crate) fn count(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Relaxed)
    }

    /// A child that is told the name, and these numbers.
    pub(crate) fn spawn(&self, function: &str, numbers: &[u64]) -> Child {
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        let args: Vec<&str> =
            std::iter::once(&self.name).chain(&numbers).map(String::as_str).collect();
        Child::spawn(function, &args)
    }

    /// A child that has said "there".
    pub(crate) fn spawn_there(&self, function: &str) -> Child {
        let mut child = self.spawn(function, &[]);
        assert_eq!(child.hear(LIMIT), "there");
        child
    }
}

impl<const WORDS: u64> World<Vec<Stream>, WORDS> {
    pub(crate) fn sender(&self, index: usize) -> Sender {
        self.queue[index].sender(&self.me).unwrap()
    }

    pub(crate) fn receiver(&self, index: usize) -> Receiver {
        self.queue[index].receiver(&self.me).unwrap()
    }
}

impl<Q, const WORDS: u64> Drop for World<Q, WORDS> {
    fn drop(&mut self) {
        if self.is_owner {
            let _ = backend::remove(&Place::new(Backend::Posix), &self.name);
        }
    }
}

/// Kills it, and is sure that it ended so.
pub(crate) fn kill(child: &mut Child) {
    child.kill();
    let exit = child.wait(LIMIT);
    assert_eq!(exit.signal(), Some(libc::SIGKILL), "{exit:?}");
}

/// Kills it while the caller sleeps.
pub(crate) fn killed_soon<E>(child: &mut Child, sleep: impl FnOnce() -> E) -> E {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            kill(child);
        });
        within(LIMIT, sleep)
    })
}

/// Kills one after another at any moment, and starts the next in its place, for as long as it is
/// told, how many it killed, to go on.
pub(crate) fn kill_and_replace(
    children: &mut [Child],
    mut seed: u64,
    goes_on: impl Fn(u64) -> bool,
    start: impl Fn(usize) -> Child,
) -> u64 {
    let mut kills = 0;
    while goes_on(kills) {
        std::thread::sleep(Duration::from_micros(next(&mut seed) % 40_000));
        let at = next(&mut seed) as usize % children.len();
        kill(&mut children[at]);
        children[at] = start(at);
        kills += 1;
    }
    kills
}
