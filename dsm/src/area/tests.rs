//! Allocating and freeing in one process, and every error.
use super::*;
use shm_core::participants::{Member, Table};
use shm_core::sync::AtomicU64;

const WORDS_AT: u64 = 0;
const AREA_AT: u64 = 1024;

struct World {
    area: Area,
    members: Vec<Arc<Member>>,
    words: MappedSlice<AtomicU64>,
}

fn world(config: AreaConfig) -> World {
    let mapping = Mapping::heap(Table::bytes_for(4) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    let mapping = Mapping::heap((AREA_AT + Area::bytes_for(&config)) as usize);
    // SAFETY: as above.
    let area = unsafe { Area::create_in_place(&mapping, AREA_AT, &config) }.unwrap();
    let words = MappedSlice::new(&mapping, WORDS_AT, AREA_AT / 8).unwrap();
    World { area, members: (0..2).map(|_| table.join().unwrap()).collect(), words }
}

impl World {
    fn heap(&self) -> Heap {
        self.area.heap(&self.members[0]).unwrap()
    }

    fn named(&self, at: usize) -> AreaPtr {
        AreaPtr::from_bits(self.words[at].load(Ordering::Relaxed))
    }

    #[track_caller]
    fn is_clean(&self, blocks: u64) {
        let report = self.area.verify();
        assert!(report.is_clean() && report.stats.blocks == blocks, "{report:?}");
    }
}

fn nothing(_: NonNull<u8>) {}

#[test]
fn blocks_of_all_sizes_are_apart_and_go_back() {
    let world = world(AreaConfig::new(4 << 20));
    let heap = world.heap();
    let sizes: Vec<u64> = (0..128).map(|at| 1 + at * at * 3).collect();
    for (at, size) in sizes.iter().enumerate() {
        let fill = |address: NonNull<u8>| {
            // SAFETY: as many bytes as asked for.
            unsafe { address.write_bytes(at as u8, *size as usize) };
        };
        heap.alloc_to(&world.words[at], *size, fill).unwrap();
    }
    world.is_clean(128);
    for (at, size) in sizes.iter().enumerate() {
        let address = world.area.resolve_len(world.named(at), *size).unwrap();
        // SAFETY: as many bytes as asked for, and written.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), *size as usize) };
        assert!(bytes.iter().all(|byte| *byte == at as u8));
        heap.free_from(&world.words[at]).unwrap();
    }
    world.is_clean(0);
    heap.trim();
    let stats = world.area.stats();
    assert_eq!((stats.free_pages, stats.spans), (stats.pages, 0));
}

#[test]
fn others_free_blocks_and_the_owner_takes_them_back() {
    let world = world(AreaConfig::new(8192));
    let (one, other) = (world.heap(), world.heap());
    for round in 0..10 {
        for at in 0..64 {
            one.alloc_to(&world.words[at], 128, nothing).unwrap();
        }
        let full = one.alloc_to(&world.words[64], 128, nothing);
        assert_eq!(full, Err(AllocError::OutOfMemory { size: 128 }), "{round}");
        for at in 0..64 {
            other.free_from(&world.words[at]).unwrap();
        }
        assert_eq!(world.area.stats().freed, 64);
    }
    drop((one, other));
    world.is_clean(0);
    assert_eq!(world.area.stats().free_pages, 1);
}

#[test]
fn what_a_heap_leaves_the_next_adopts() {
    let world = world(AreaConfig::new(4 * 8192));
    let one = world.heap();
    one.alloc_to(&world.words[0], 512, nothing).unwrap();
    drop(one);
    let stats = world.area.stats();
    assert_eq!((stats.spans, stats.idle_spans, stats.heaps), (1, 1, 0), "{stats:?}");
    let other = world.heap();
    other.alloc_to(&world.words[1], 512, nothing).unwrap();
    let stats = world.area.stats();
    assert_eq!((stats.spans, stats.idle_spans, stats.heaps), (1, 0, 1), "{stats:?}");
    world.is_clean(2);
}

#[test]
fn large_blocks_are_runs_of_pages() {
    let world = world(AreaConfig::new(16 * 8192));
    let heap = world.heap();
    let large = 5 * 8192 - 100;
    for at in 0..3 {
        heap.alloc_to(&world.words[at], large, nothing).unwrap();
    }
    let none = heap.alloc_to(&world.words[3], large, nothing);
    assert_eq!(none, Err(AllocError::OutOfMemory { size: large }));
    world.is_clean(3);
    let middle = world.named(1);
    heap.free_from(&world.words[1]).unwrap();
    assert_eq!(heap.free(middle), Err(FreeError::DoubleFree(middle.to_bits())));
    heap.alloc_aligned_to(&world.words[3], 5 * 8192, 4096, |address| {
        assert!(address.addr().get().is_multiple_of(4096));
    })
    .unwrap();
    world.is_clean(3);
}

#[test]
fn every_error_is_told() {
    let world = world(AreaConfig::new(1 << 20).heaps(2));
    let heap = world.heap();
    let (to, outside) = (&world.words[0], AtomicU64::new(0));
    assert_eq!(heap.alloc_to(to, 0, nothing), Err(AllocError::ZeroSize));
    let large = heap.alloc_to(to, u64::MAX / 4, nothing);
    assert!(matches!(large, Err(AllocError::TooLarge { .. })), "{large:?}");
    let align = heap.alloc_aligned_to(to, 8, 8192, nothing);
    assert_eq!(align, Err(AllocError::Alignment(8192)));
    assert_eq!(heap.alloc_aligned_to(to, 8, 3, nothing), Err(AllocError::Alignment(3)));
    let stray = heap.alloc_to(&outside, 8, nothing);
    assert!(matches!(stray, Err(AllocError::Destination(_))), "{stray:?}");
    let block = heap.alloc_to(to, 100, |_| {
        let inner = heap.alloc_to(&world.words[1], 8, nothing);
        assert_eq!(inner, Err(AllocError::Busy));
        assert_eq!(heap.free(AreaPtr::NULL), Err(FreeError::Busy));
    });
    let block = block.unwrap();
    let occupied = heap.alloc_to(to, 100, nothing);
    assert_eq!(occupied, Err(AllocError::Occupied(block.to_bits())));
    let inside = AreaPtr::from_bits(block.to_bits() + 8);
    assert_eq!(heap.free(inside), Err(FreeError::NotABlock(inside.to_bits())));
    let other = AreaPtr::from_bits(block.to_bits() ^ 1 << 60);
    assert_eq!(heap.free(other), Err(FreeError::NotOfArea(other.to_bits())));
    assert_eq!(world.area.resolve(other), Err(FreeError::NotOfArea(other.to_bits())));
    assert!(world.area.resolve_len(block, 1 << 30).is_err());
    heap.free_from(to).unwrap();
    assert_eq!(heap.free(block), Err(FreeError::DoubleFree(block.to_bits())));
    assert_eq!(heap.free_from(to), Err(FreeError::NotOfArea(0)));
    let second = world.heap();
    let third = world.area.heap(&world.members[1]).unwrap_err();
    assert_eq!(third, AreaError::HeapsTaken { heaps: 2 });
    heap.alloc_to(to, 100, nothing).unwrap();
    second.free_from(to).unwrap();
    assert!(matches!(second.free(block), Err(FreeError::DoubleFree(_))), "marked twice");
}

#[test]
fn a_block_whose_initialisation_panics_is_free() {
    let world = world(AreaConfig::new(1 << 20));
    let heap = world.heap();
    for size in [100, 100_000] {
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            heap.alloc_to(&world.words[0], size, |_| panic!("on purpose"))
        }));
        assert!(panics.is_err() && world.named(0).is_null());
        world.is_clean(0);
    }
    heap.alloc_to(&world.words[0], 100, nothing).unwrap();
}

#[test]
fn places_without_an_area_are_refused() {
    let config = AreaConfig::new(8192);
    let mapping = Mapping::heap(Area::bytes_for(&config) as usize);
    assert_eq!(Area::attach_in_place(&mapping, 0).unwrap_err(), AreaError::NotArea);
    for bad in [config.heaps(0), config.heaps(5000), AreaConfig::new(0), AreaConfig::new(1 << 60)] {
        // SAFETY: nobody else has the mapping.
        let made = unsafe { Area::create_in_place(&mapping, 0, &bad) };
        assert!(matches!(made, Err(AreaError::Config { .. } | AreaError::Place(_))), "{made:?}");
    }
    // SAFETY: as above.
    let made = unsafe { Area::create_in_place(&mapping, 1 << 20, &config) };
    assert!(matches!(made, Err(AreaError::Place(_))), "{made:?}");
    // SAFETY: as above.
    let area = unsafe { Area::create_in_place(&mapping, 0, &config) }.unwrap();
    assert_eq!(area.stats(), Area::attach_in_place(&mapping, 0).unwrap().stats());
}

/// What the dead have begun is undone or done, and nothing is theirs any more.
#[test]
fn a_reaper_settles_every_intent() {
    use super::shared::Intent;
    for case in 0..8 {
        let [large, is_named, free] = [1, 2, 4].map(|bit| case & bit != 0);
        let world = world(AreaConfig::new(1 << 20));
        let (heap, me) = (world.heap(), world.members[0].id());
        let (to, size) = (&world.words[0], if large { 50_000 } else { 50 });
        let block = heap.alloc_to(to, size, nothing).unwrap();
        let row = &world.area.inner.rows[0];
        row.destination.store(WORDS_AT | 1, Ordering::Relaxed);
        row.set(if free { Intent::free(block) } else { Intent::link(block) });
        if !is_named {
            to.store(0, Ordering::Relaxed);
        }
        std::mem::forget(heap);
        let reaped = world.area.reap(me);
        assert_eq!((reaped.heaps, reaped.intents), (1, 1));
        assert_eq!(world.area.reap(me), Reaped::default(), "it is done");
        let is_left = is_named && !free;
        world.is_clean(u64::from(is_left));
        assert_eq!(world.named(0).is_null(), !is_left);
        let heap = world.heap();
        if is_left {
            heap.free_from(to).unwrap();
        }
        heap.trim();
        assert_eq!(world.area.stats().free_pages, world.area.stats().pages);
    }
}
