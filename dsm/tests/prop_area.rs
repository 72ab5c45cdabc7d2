//! Any sequence of allocations and frees by several heaps that come and go agrees with a plain map
//! of live blocks: none overlap, each keeps its contents, and nothing is lost. So in an area in
//! place, and in one in a domain that grows and shrinks under a limit that changes.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{AllocError, AllocOptions, Area, AreaConfig, AreaPtr, FreeError, Heap, Reaped};
use dsm::backend::Backend;
use dsm::{Domain, DomainConfig};
use proptest::prelude::*;
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::cases;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, LazyLock};

const PAGES: u64 = 24;
const PLACES: usize = 48;
const AREA_AT: u64 = 512;
const CHUNK: u64 = 1 << 20;

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        heap: usize,
        place: usize,
        size: u64,
        align: u32,
    },
    Free {
        heap: usize,
        place: usize,
    },
    FreeAgain {
        heap: usize,
    },
    Trim {
        heap: usize,
    },
    Leave {
        heap: usize,
    },
    /// As after its process's death.
    Reap {
        member: usize,
    },
    /// So many chunks, where there are chunks.
    Limit {
        chunks: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![8 => 1..300u64, 2 => 300..9000u64, 1 => 9000..60_000u64];
    prop_oneof![
        8 => (0..3usize, 0..PLACES, size, 3..13u32)
            .prop_map(|(heap, place, size, align)| Op::Alloc { heap, place, size, align }),
        8 => (0..3usize, 0..PLACES).prop_map(|(heap, place)| Op::Free { heap, place }),
        1 => (0..3usize).prop_map(|heap| Op::FreeAgain { heap }),
        1 => (0..3usize).prop_map(|heap| Op::Trim { heap }),
        1 => (0..3usize).prop_map(|heap| Op::Leave { heap }),
        1 => (0..2usize).prop_map(|member| Op::Reap { member }),
        1 => (0..5u64).prop_map(|chunks| Op::Limit { chunks }),
    ]
}

/// A block in the plain map: how long it is, where it is named, what fills it.
#[derive(Clone, Copy, Debug)]
struct Live {
    len: u64,
    fill: u8,
}

struct World {
    area: Area,
    members: [Arc<Member>; 2],
    places: MappedSlice<AtomicU64>,
    /// The first two are of one member.
    heaps: [Option<Heap>; 3],
    live: BTreeMap<usize, Live>,
    last_freed: AreaPtr,
    /// Where the area grows and shrinks; its root names the block of the places.
    is_elastic: bool,
    limit: u64,
}

/// Of this process, in a table of their own. It takes a thread to be a member: they stay, from one
/// case to the next.
static MEMBERS: LazyLock<[Arc<Member>; 2]> = LazyLock::new(|| {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
});

/// In which each case has an area.
static DOMAIN: LazyLock<Domain> = LazyLock::new(|| {
    let config = DomainConfig { backend: Some(Backend::Memfd), ..DomainConfig::new("prop_area") };
    Domain::open(config).unwrap()
});

fn world() -> World {
    let config = AreaConfig::new(PAGES * 8192).heaps(3);
    let mapping = Mapping::heap((AREA_AT + Area::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping.
    let area = unsafe { Area::create_in_place(&mapping, AREA_AT, &config) }.unwrap();
    World {
        area,
        members: MEMBERS.clone(),
        places: MappedSlice::new(&mapping, 0, PLACES as u64).unwrap(),
        heaps: [const { None }; 3],
        live: BTreeMap::new(),
        last_freed: AreaPtr::NULL,
        is_elastic: false,
        limit: u64::MAX,
    }
}

/// In a domain. Whoever has a heap is this process, which does not die.
fn elastic_world() -> World {
    let domain = &*DOMAIN;
    let config = AreaConfig::new(4 * CHUNK).heaps(3).keep(CHUNK);
    let area = Area::create(domain, &config).unwrap();
    let heap = area.heap(domain.member()).unwrap();
    let options = AllocOptions::new(8 * PLACES as u64).zeroed();
    let block = heap.alloc_with(area.root(), options, |_| ()).unwrap();
    drop(heap);
    let at = area.mapping().region().offset_of(area.resolve(block).unwrap()).unwrap();
    World {
        members: [domain.member().clone(), domain.member().clone()],
        places: MappedSlice::new(area.mapping(), at, PLACES as u64).unwrap(),
        area,
        heaps: [const { None }; 3],
        live: BTreeMap::new(),
        last_freed: AreaPtr::NULL,
        is_elastic: true,
        limit: u64::MAX,
    }
}

impl World {
    fn heap(&mut self, at: usize) -> &Heap {
        let (area, members) = (&self.area, &self.members);
        self.heaps[at].get_or_insert_with(|| area.heap(&members[at / 2]).unwrap())
    }

    fn named(&self, place: usize) -> AreaPtr {
        AreaPtr::from_bits(self.places[place].load(Ordering::Relaxed))
    }

    fn is_whole(&self, place: usize, live: Live) -> bool {
        let address = self.area.resolve_len(self.named(place), live.len).unwrap();
        // SAFETY: the block's bytes, which were all written.
        let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), live.len as usize) };
        bytes.iter().all(|byte| *byte == live.fill)
    }

    fn alloc(&mut self, heap: usize, place: usize, size: u64, align: u64, fill: u8) {
        let (places, before) = (self.places.clone(), self.area.stats().there);
        let init = |address: NonNull<u8>| {
            assert!(address.addr().get().is_multiple_of(align as usize));
            // SAFETY: as many bytes as asked for.
            unsafe { address.write_bytes(fill, size as usize) };
        };
        let got = self.heap(heap).alloc_aligned_to(&places[place], size, align, init);
        match (got, self.live.contains_key(&place)) {
            (Err(AllocError::Occupied(_)), true) => {}
            (Ok(block), false) => {
                assert_eq!(block, self.named(place));
                self.live.insert(place, Live { len: size, fill });
            }
            (Err(AllocError::Limit { limit, .. }), false) => assert_eq!(limit, self.limit),
            (Err(AllocError::OutOfMemory { .. }), false) => {
                let stats = self.area.stats();
                // A span of blocks of up to 128 bytes has one page; others want several in a row.
                let wants_more = stats.free_pages == 0 || size > 128 || align > 128;
                assert!(wants_more, "{stats:?} and no room for {size}");
            }
            other => panic!("{other:?}"),
        }
        let there = self.area.stats().there;
        assert!(there <= before || there <= self.limit, "{there} above {}", self.limit);
    }

    fn free(&mut self, heap: usize, place: usize) {
        let (places, named) = (self.places.clone(), self.named(place));
        let freed = self.heap(heap).free_from(&places[place]);
        match self.live.remove(&place) {
            Some(_) => {
                assert_eq!(freed, Ok(()));
                self.last_freed = named;
            }
            None => assert_eq!(freed, Err(FreeError::NotOfArea(0))),
        }
        assert!(self.named(place).is_null());
    }

    /// Unless the block is in use again, that is an error.
    fn free_again(&mut self, heap: usize) {
        let block = self.last_freed;
        let mut is_used = false;
        let page = |ptr: AreaPtr| ptr.to_bits() >> 13;
        for place in self.live.keys() {
            is_used |= page(self.named(*place)) == page(block);
        }
        if !is_used {
            assert!(self.heap(heap).free(block).is_err());
        }
    }

    fn apply(&mut self, op: &Op, fill: u8) {
        match *op {
            Op::Alloc { heap, place, size, align } => {
                self.alloc(heap, place, size, 1 << align, fill);
            }
            Op::Free { heap, place } => self.free(heap, place),
            Op::FreeAgain { heap } => self.free_again(heap),
            Op::Trim { heap } => {
                self.heap(heap).trim();
            }
            Op::Limit { chunks } => {
                self.limit = chunks * CHUNK;
                self.area.set_limit(self.limit);
            }
            Op::Leave { heap } => drop(self.heaps[heap].take()),
            // Nobody is reaped whose death is not certain.
            Op::Reap { member } if self.is_elastic => {
                let reaped = self.area.reap(self.members[member].id());
                assert_eq!(reaped, Reaped::default());
            }
            Op::Reap { member } => {
                for at in [0, 1, 2].into_iter().filter(|at| at / 2 == member) {
                    std::mem::forget(self.heaps[at].take());
                }
                self.area.reap(self.members[member].id());
            }
        }
    }

    /// The area has the blocks of the map and no others, each of them whole.
    fn check(&self) {
        let report = self.area.verify();
        assert!(report.is_clean(), "{report:?}");
        let mut blocks = BTreeMap::new();
        let is_place = |block: AreaPtr| block.to_bits() == self.area.root().load(Ordering::Relaxed);
        self.area.for_each_block(|block, len| {
            assert!(is_place(block) || blocks.insert(block, len).is_none());
        });
        let named: Vec<_> = self.live.keys().map(|place| self.named(*place)).collect();
        assert_eq!(blocks.len(), named.len());
        for (block, live) in named.iter().zip(self.live.values()) {
            assert!(
                blocks.get(block).is_some_and(|len| *len >= live.len),
                "{block:?} is not there"
            );
        }
        for ((one, len), next) in blocks.iter().zip(blocks.keys().skip(1)) {
            assert!(one.to_bits() + len <= next.to_bits(), "blocks overlap");
        }
        assert!(self.live.iter().all(|(place, live)| self.is_whole(*place, *live)));
    }
}

fn follow(mut world: World, ops: &[Op]) -> World {
    for (fill, op) in ops.iter().enumerate() {
        world.apply(op, fill as u8);
        world.check();
    }
    for place in 0..PLACES {
        if world.live.contains_key(&place) {
            world.free(place % 3, place);
        }
    }
    world.heaps = [const { None }; 3];
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = follow(world(), &ops);
        world.heap(0).trim();
        let stats = world.area.stats();
        prop_assert_eq!(stats.free_pages, stats.pages);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(96)))]

    #[test]
    fn agrees_with_a_map_while_it_grows_and_shrinks(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = follow(elastic_world(), &ops);
        world.heap(0).trim();
        let stats = world.area.stats();
        prop_assert_eq!((stats.blocks, stats.there), (1, CHUNK), "that of the places");
        let area = world.area.clone();
        world.heap(0).free_from(area.root()).unwrap();
        prop_assert_eq!(world.heap(0).trim(), CHUNK);
        prop_assert_eq!(area.classes().iter().map(|class| class.spans).sum::<u64>(), 0);
    }
}
