//! `spsc` beside the queues of `iceoryx2`, `shaq` and `ringfire`, in one run: how long a record is
//! under way, and how many there are in a second.
//!
//! ```sh
//! cd benches/peers && cargo run --release -- [ROUNDS [GROUP]]
//! ```
//!
//! Two threads, each on a processor of its own, that ask again and again. Each byte is written
//! anew for a record, and each is read.
use benches::{memory, pin};
use iceoryx2::port::{publisher::Publisher, subscriber::Subscriber};
use iceoryx2::prelude::{NodeBuilder, ipc};
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use ringfire::{FlowControl, RingConsumer, RingProducer, RingProducerBuilder};
use shm_mq::spsc::{Queue, Receiver, Sender};
use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

const PINGS: u64 = 100_000;
const FLOW_MAX: u64 = 1_000_000;
const RING_BYTES: u64 = 1 << 18;

/// One end that sends records of `N` bytes.
trait Gives<const N: usize> {
    /// `false` where there is no room now.
    fn give(&mut self, record: &[u8; N]) -> bool;
}

/// One end that receives them.
trait Takes<const N: usize> {
    /// The exclusive or of its bytes, if a record is there now.
    fn take(&mut self) -> Option<u8>;
}

fn all_of(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |all, byte| all ^ byte)
}

impl<const N: usize> Gives<N> for Sender {
    fn give(&mut self, record: &[u8; N]) -> bool {
        self.try_send(record).expect("sound")
    }
}

impl<const N: usize> Takes<N> for Receiver {
    fn take(&mut self) -> Option<u8> {
        self.try_recv().expect("sound").map(|record| all_of(&record))
    }
}

/// The two ends of a queue, each of which its thread makes: not all of them can move.
type Ends<G, T> = (Box<dyn FnOnce() -> G + Send>, Box<dyn FnOnce() -> T + Send>);

fn made<G: Send + 'static, T: Send + 'static>((give, take): (G, T)) -> Ends<G, T> {
    (Box::new(move || give), Box::new(move || take))
}

fn ours<const N: usize>() -> Ends<Sender, Receiver> {
    let (mapping, me, at) = memory(Queue::bytes_for(RING_BYTES));
    // SAFETY: nobody else has the bytes.
    let queue = unsafe { Queue::create(&mapping, at, RING_BYTES, 0) }.expect("a queue");
    made((queue.sender(&me).expect("free"), queue.receiver(&me).expect("free")))
}

impl<const N: usize> Gives<N> for shaq::spsc::Producer<[u8; N]> {
    fn give(&mut self, record: &[u8; N]) -> bool {
        self.try_write(*record).is_ok()
    }
}

impl<const N: usize> Takes<N> for shaq::spsc::Consumer<[u8; N]> {
    fn take(&mut self) -> Option<u8> {
        self.try_read().map(|record| all_of(&record[..]))
    }
}

fn shaqs<const N: usize>() -> Ends<shaq::spsc::Producer<[u8; N]>, shaq::spsc::Consumer<[u8; N]>> {
    made(shaq::spsc::pair(slots(N)).expect("a queue"))
}

/// Of whole records, a power of two: as many as fit a ring of ours.
fn slots(bytes: usize) -> usize {
    (RING_BYTES as usize / bytes).max(2)
}

impl<const N: usize> Gives<N> for RingProducer<[u8; N]> {
    fn give(&mut self, record: &[u8; N]) -> bool {
        self.try_push(record).is_ok()
    }
}

impl<const N: usize> Takes<N> for RingConsumer<[u8; N]> {
    fn take(&mut self) -> Option<u8> {
        self.try_recv().map(|record| all_of(&record))
    }
}

fn name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("peers-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn ringfires<const N: usize>() -> Ends<RingProducer<[u8; N]>, RingConsumer<[u8; N]>> {
    let path = format!("/dev/shm/{}", name());
    let producer = RingProducerBuilder::new(slots(N) as u64).flow_control(FlowControl::LosslessBackpressure);
    let producer = producer.build(&path).expect("a ring");
    let consumer = RingConsumer::attach(&path).expect("it is there");
    made((producer, consumer))
}

type Gave<const N: usize> = Publisher<ipc::Service, [u8; N], ()>;
type Took<const N: usize> = Subscriber<ipc::Service, [u8; N], ()>;

impl<const N: usize> Gives<N> for Publisher<ipc::Service, [u8; N], ()> {
    fn give(&mut self, record: &[u8; N]) -> bool {
        let Ok(sample) = self.loan_uninit() else { return false };
        sample.write_payload(*record).send().is_ok_and(|receivers| receivers > 0)
    }
}

impl<const N: usize> Takes<N> for Subscriber<ipc::Service, [u8; N], ()> {
    fn take(&mut self) -> Option<u8> {
        self.receive().expect("sound").map(|sample| all_of(&*sample))
    }
}

fn service<const N: usize>(name: &str) -> PortFactory<ipc::Service, [u8; N], ()> {
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    let service = node.service_builder(&name.try_into().expect("a name"));
    let service = service.publish_subscribe::<[u8; N]>().enable_safe_overflow(false);
    let service = service.subscriber_max_buffer_size(slots(N).min(1024));
    service.open_or_create().expect("a service")
}

fn iceoryxs<const N: usize>() -> Ends<Gave<N>, Took<N>> {
    let give = name();
    let take_from = give.clone();
    (
        Box::new(move || service(&give).publisher_builder().create().expect("a publisher")),
        Box::new(move || service(&take_from).subscriber_builder().create().expect("a subscriber")),
    )
}

fn gives<const N: usize>(to: &mut impl Gives<N>, number: u64) {
    let record = black_box([number as u8; N]);
    while !to.give(&record) {
        spin_loop();
    }
}

fn takes<const N: usize>(from: &mut impl Takes<N>) {
    loop {
        match from.take() {
            Some(all) => return drop(black_box(all)),
            None => spin_loop(),
        }
    }
}

/// Both at once, each on a processor of its own, once what each needs is there: seconds.
fn both<A, B>(
    makes: (impl FnOnce() -> A, impl FnOnce() -> B + Send),
    acts: (impl FnOnce(A), impl FnOnce(B) + Send),
) -> f64 {
    let made = Barrier::new(2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1);
            let ends = makes.1();
            made.wait();
            acts.1(ends);
        });
        pin(0);
        let ends = makes.0();
        made.wait();
        let start = Instant::now();
        acts.0(ends);
        other.join().expect("it ends");
        start.elapsed().as_secs_f64()
    })
}

/// Nanoseconds one way.
fn ping<const N: usize, G: Gives<N>, T: Takes<N>>(queue: fn() -> Ends<G, T>) -> f64 {
    let ((there, theirs), (back, ours)) = (queue(), queue());
    let pings = PINGS.min((1 << 30) / N as u64);
    let seconds = both(
        (|| (there(), ours()), || (back(), theirs())),
        (
            |(mut there, mut ours)| {
                for number in 0..pings {
                    gives(&mut there, number);
                    takes(&mut ours);
                }
            },
            |(mut back, mut theirs)| {
                for number in 0..pings {
                    takes(&mut theirs);
                    gives(&mut back, number);
                }
            },
        ),
    );
    seconds * 1e9 / (2 * pings) as f64
}

/// Millions in a second.
fn flow<const N: usize, G: Gives<N>, T: Takes<N>>(queue: fn() -> Ends<G, T>) -> f64 {
    let (give, take) = queue();
    let count = FLOW_MAX.min((1 << 31) / N as u64);
    let seconds = both(
        (give, take),
        (
            |mut to| (0..count).for_each(|number| gives(&mut to, number)),
            |mut from| (0..count).for_each(|_| takes(&mut from)),
        ),
    );
    count as f64 / seconds / 1e6
}

/// The rows of records of `N` bytes.
macro_rules! rows {
    ($($bytes:literal: $pings:literal, $flows:literal;)*) => {
        [$(
            ($pings, &|| ping::<$bytes, _, _>(ours::<$bytes>)),
            ("  shaq", &|| ping::<$bytes, _, _>(shaqs::<$bytes>)),
            ("  ringfire", &|| ping::<$bytes, _, _>(ringfires::<$bytes>)),
            ("  iceoryx2", &|| ping::<$bytes, _, _>(iceoryxs::<$bytes>)),
            ($flows, &|| flow::<$bytes, _, _>(ours::<$bytes>)),
            ("  shaq", &|| flow::<$bytes, _, _>(shaqs::<$bytes>)),
            ("  ringfire", &|| flow::<$bytes, _, _>(ringfires::<$bytes>)),
            ("  iceoryx2", &|| flow::<$bytes, _, _>(iceoryxs::<$bytes>)),
        )*]
    };
}

fn main() {
    let rows: [(&str, &dyn Fn() -> f64); 32] = rows! {
        8: "8 B, one way, ns: spsc", "8 B, M/s: spsc";
        64: "64 B, one way, ns: spsc", "64 B, M/s: spsc";
        1024: "1 KiB, one way, ns: spsc", "1 KiB, M/s: spsc";
        65536: "64 KiB, one way, ns: spsc", "64 KiB, M/s: spsc";
    };
    benches::print(&rows);
}
