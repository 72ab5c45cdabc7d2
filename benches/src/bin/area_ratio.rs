//! The shared heap beside the system's allocator and `mimalloc`, in one process: a block is
//! allocated, written to and freed, one at a time and in batches of 1,000; and two do so at once.
//!
//! ```sh
//! cargo build --release -p benches && target/release/area_ratio [ROUNDS]
//! ```
//!
//! Each figure is the median over the rounds, in which all take turns. Ours grows and shrinks in a
//! domain, and allocates to words in shared memory, so that a death leaks nothing; the others do
//! not. It is asked for by `alloc_to` and `free_from`.
use benches::{median, processor_seconds};
use dsm::area::{AllocOptions, Area, AreaConfig, AreaPtr, Heap};
use dsm::{Domain, DomainConfig};
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU64, Ordering};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Instant;

const BATCH: usize = 1000;
/// Blocks that are allocated in a round, at least.
const BLOCKS: usize = 200_000;
const SMALL: [u64; 4] = [8, 64, 512, 1024];
const LARGE: [u64; 3] = [4096, 8192, 16384];

/// Allocates blocks to numbered places, writes to them, and frees them.
trait Allocator {
    fn alloc(&self, place: usize, size: u64);
    fn free(&self, place: usize, size: u64);
}

struct Ours {
    heap: Heap,
    places: MappedSlice<AtomicU64>,
}

impl Ours {
    /// With places of its own in the area: a block that a word of the root's block names.
    fn new(domain: &Domain, area: &Area, who: usize) -> Ours {
        let heap = area.heap(domain.member()).expect("a heap");
        let of = |block: AreaPtr, count: u64| {
            let address = area.resolve(block).expect("a block");
            let at = area.mapping().region().offset_of(address).expect("inside");
            MappedSlice::<AtomicU64>::new(area.mapping(), at, count).expect("inside")
        };
        let root = AreaPtr::from_bits(area.root().load(Ordering::Acquire));
        let options = AllocOptions::new(8 * BATCH as u64).zeroed();
        let name = &of(root, 8)[who];
        if name.load(Ordering::Relaxed) != 0 {
            heap.free_from(name).expect("an earlier round's");
        }
        let block = heap.alloc_with(name, options, |_| ()).expect("room");
        Ours { places: of(block, BATCH as u64), heap }
    }
}

impl Allocator for Ours {
    fn alloc(&self, place: usize, size: u64) {
        let write = |address: NonNull<u8>| {
            // SAFETY: at least eight bytes, and ours.
            unsafe { address.cast::<u64>().write(size) }
        };
        self.heap.alloc_to(&self.places[place], size, write).expect("room");
    }

    fn free(&self, place: usize, _: u64) {
        self.heap.free_from(&self.places[place]).expect("a block");
    }
}

/// Names blocks in private words.
struct Theirs<A> {
    allocator: A,
    places: Vec<std::cell::Cell<*mut u8>>,
}

impl<A> Theirs<A> {
    fn new(allocator: A) -> Theirs<A> {
        Theirs { allocator, places: vec![std::cell::Cell::new(std::ptr::null_mut()); BATCH] }
    }
}

fn layout(size: u64) -> Layout {
    Layout::from_size_align(size as usize, 8).expect("a layout")
}

impl<A: GlobalAlloc> Allocator for Theirs<A> {
    fn alloc(&self, place: usize, size: u64) {
        // SAFETY: the size is not zero.
        let address = unsafe { self.allocator.alloc(layout(size)) };
        assert!(!address.is_null());
        // SAFETY: at least eight bytes, and ours.
        unsafe { black_box(address).copy_from_nonoverlapping((&raw const size).cast(), 8) };
        self.places[place].set(address);
    }

    fn free(&self, place: usize, size: u64) {
        // SAFETY: allocated above with this layout, and freed once.
        unsafe { self.allocator.dealloc(self.places[place].get(), layout(size)) };
    }
}

/// Nanoseconds for each block.
fn each(allocator: &dyn Allocator, size: u64, batch: usize) -> f64 {
    let start = processor_seconds();
    for _ in 0..BLOCKS / batch {
        for place in 0..batch {
            allocator.alloc(black_box(place), black_box(size));
        }
        for place in 0..batch {
            allocator.free(black_box(place), size);
        }
    }
    (processor_seconds() - start) * 1e9 / (BLOCKS / batch * batch) as f64
}

/// How much longer a block takes where two threads allocate at once, each with its own heap.
fn two_at_once(domain: &Domain, area: &Area, size: u64) -> f64 {
    let heaps = [1, 2].map(|who| Ours::new(domain, area, who));
    let seconds = |ours: &Ours| {
        let start = Instant::now();
        for _ in 0..10 {
            each(ours, size, 100);
        }
        start.elapsed().as_secs_f64()
    };
    let one = seconds(&heaps[0]);
    let both = std::thread::scope(|scope| {
        let seconds = &seconds;
        let all = heaps.each_ref().map(|ours| SendRef(ours as *const Ours));
        let all = all.map(|ours| scope.spawn(move || seconds(ours.get())));
        all.into_iter().map(|thread| thread.join().expect("ended")).fold(0.0, f64::max)
    });
    both / one
}

/// A heap wanders to the thread that alone uses it.
struct SendRef(*const Ours);
// SAFETY: `Ours` is Send, and each has one user.
unsafe impl Send for SendRef {}

impl SendRef {
    fn get(&self) -> &Ours {
        // SAFETY: it lives as long as the scope of the thread.
        unsafe { &*self.0 }
    }
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(7, |arg| arg.parse().expect("a number"));
    let name = format!("area-ratio-{}", std::process::id());
    let domain = Domain::open(DomainConfig::new(name)).expect("a domain");
    let area = Area::create(&domain, &AreaConfig::new(1 << 30)).expect("an area");
    {
        let heap = area.heap(domain.member()).expect("a heap");
        let options = AllocOptions::new(64).zeroed();
        heap.alloc_with(area.root(), options, |_| ()).expect("room");
    }
    let all: [(&str, Box<dyn Allocator>); 3] = [
        ("dsm::area", Box::new(Ours::new(&domain, &area, 0))),
        ("system", Box::new(Theirs::new(System))),
        ("mimalloc", Box::new(Theirs::new(mimalloc::MiMalloc))),
    ];
    println!(
        "ns for each block   {:>10} {:>10} {:>10}   times the better",
        all[0].0, all[1].0, all[2].0
    );
    let cases = SMALL.map(|size| (size, 1)).into_iter();
    let cases = cases.chain(SMALL.map(|size| (size, BATCH))).chain(LARGE.map(|size| (size, BATCH)));
    for (size, batch) in cases {
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..=rounds {
            for ((_, allocator), figures) in all.iter().zip(&mut figures) {
                figures.push(each(&**allocator, size, batch));
            }
        }
        let [ours, system, mimalloc] = figures.map(median);
        let ratio = ours / system.min(mimalloc);
        println!(
            "{size:>6} B by {batch:>4}  {ours:>14.1} {system:>10.1} {mimalloc:>10.1} {ratio:>10.2}"
        );
    }
    for size in [64, 1024] {
        let ratios = (0..rounds).map(|_| two_at_once(&domain, &area, size)).collect();
        println!("two at once, {size} B: {:.2} times one (wanted: at most 1.2)", median(ratios));
    }
    println!("wanted: at most 15 ns up to 1 KiB, 100 ns above, 2 times the better");
}
