//! A process is killed at each instruction of allocating, freeing, taking back, taking pages,
//! leaving and reaping: afterwards each block is named by the word for which it was made, or free,
//! and every page can be used again.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::{shared, words_from};
use dsm::area::{AllocError, Area, AreaConfig, AreaError, AreaPtr, FreeError, Heap};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::ptr::NonNull;
use std::sync::Arc;

const SEATS: u32 = 4;
const HEAPS: u32 = 5;
/// Small pages, so that a span is soon full: two blocks of `SMALL`.
const PAGE: u32 = 128;
const PAGES: u64 = 10;
const SMALL: u64 = 64;
const LARGE: u64 = 300;
const CONFIG: AreaConfig = AreaConfig::tiny(PAGES, PAGE, HEAPS);

const WORDS_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const WORDS: u64 = 32;
const AREA_AT: u64 = WORDS_AT + 8 * WORDS;
const BYTES: u64 = AREA_AT + Area::bytes_for(&CONFIG);

/// In the notes: that the operation is done; how many blocks it has told.
const DONE: usize = 0;
/// In the notes, from here on: what each word of the doomed one was told to name; 1: nothing.
const TOLD: usize = 1;

/// Words of the survivor, and of the bystander; those before are the doomed one's.
const OURS: usize = 8;
const BYSTANDERS: usize = 20;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    words: MappedSlice<AtomicU64>,
    /// Of the process that survives, with a span that is full: two blocks in `OURS`.
    heap: Option<Heap>,
}

fn nothing(_: NonNull<u8>) {}

impl World {
    fn empty() -> World {
        let (_, mapping) = shared(BYTES);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let words = MappedSlice::new(&mapping, WORDS_AT, WORDS).unwrap();
        World { me: table.join().unwrap(), mapping, words, heap: None }
    }

    fn with_area() -> World {
        let mut world = World::empty();
        let heap = world.create().heap(&world.me).unwrap();
        for at in [OURS, OURS + 1] {
            heap.alloc_to(&world.words[at], SMALL, nothing).unwrap();
        }
        world.heap = Some(heap);
        world
    }

    fn create(&self) -> Area {
        // SAFETY: nobody has published the area, or uses it.
        unsafe { Area::create_in_place(&self.mapping, AREA_AT, &CONFIG) }.unwrap()
    }

    fn area(&self) -> Area {
        Area::attach_in_place(&self.mapping, AREA_AT).unwrap()
    }

    fn reap(&self) -> usize {
        let area = self.area();
        self.me.table().reap(|dead| {
            area.reap(dead);
        })
    }

    /// What the words name, in order.
    fn named(&self) -> Vec<AreaPtr> {
        let words = self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let mut named: Vec<_> = words.filter(|word| *word != 0).map(AreaPtr::from_bits).collect();
        named.sort_unstable();
        named
    }

    /// Nothing is lost, and nothing is anybody's twice.
    fn is_whole(&self, when: &str) -> Result<(), String> {
        let report = self.area().verify();
        if !report.is_clean() {
            return Err(format!("{when}: {report:?}"));
        }
        let (mut blocks, named) = (Vec::new(), self.named());
        self.area().for_each_block(|block, _| blocks.push(block));
        if blocks == named { Ok(()) } else { Err(format!("{when}: {blocks:?}, named {named:?}")) }
    }

    /// Everything is freed, and then all pages are one block's.
    fn use_up(&self) -> Result<(), String> {
        let heap = self.area().heap(&self.me).map_err(|error| error.to_string())?;
        for word in self.words.iter().filter(|word| word.load(Ordering::Relaxed) != 0) {
            heap.free_from(word).map_err(|error| error.to_string())?;
        }
        heap.trim();
        if let Some(heap) = &self.heap {
            heap.trim();
        }
        self.is_whole("at the end")?;
        let all = heap.alloc_to(&self.words[0], PAGES * u64::from(PAGE), nothing);
        all.map(|_| ()).map_err(|error| format!("{error}; {:?}", self.area().stats()))
    }
}

/// A process that has a heap and blocks, one of them named nowhere yet, and died.
fn die(world: &World) {
    assert!(in_a_fork(|| {
        let member = world.me.table().join().unwrap();
        let heap = world.area().heap(&member).unwrap();
        for (at, size) in [(16, SMALL), (17, SMALL), (18, LARGE)] {
            heap.alloc_to(&world.words[at], size, nothing).unwrap();
        }
        heap.free_from(&world.words[17]).unwrap();
        // SAFETY: a process that ends in the middle of an allocation.
        let end = |_| unsafe { libc::_exit(0) };
        let _ = heap.alloc_to(&world.words[19], SMALL, end);
        false
    }));
}

/// What the process has that is killed: two members, each with a heap.
#[derive(Default)]
struct Doomed {
    heaps: Vec<Heap>,
    member: Option<Arc<Member>>,
}

/// What a process does with the area.
struct AtArea {
    name: &'static str,
    operations: &'static [&'static str],
    prepare: fn(&World) -> Doomed,
    operate: fn(&World, &mut Doomed, &Notes),
    /// Somebody has died before, and is not reaped yet.
    has_dead: bool,
}

const AT_AREA: AtArea = AtArea {
    name: "",
    operations: &[],
    prepare: |_| Doomed::default(),
    operate: |_, _, _| (),
    has_dead: false,
};

impl Scenario for AtArea {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("area, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::with_area();
        if self.has_dead {
            die(&world);
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        (self.prepare)(world)
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
        notes.set(DONE, 1);
    }

    /// The words and the area: the table names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, WORDS_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        for at in 0..OURS {
            let (told, held) = (notes.get(TOLD + at), world.words[at].load(Ordering::Relaxed));
            if told == 1 && held != 0 || told > 1 && told != held {
                return Err(format!("word {at} holds {held:#x}, and was told {told:#x}"));
            }
        }
        // The survivor takes back what others have freed, and uses it, before the dead is reaped.
        let heap = world.heap.as_ref().ok_or("no heap")?;
        for at in [OURS + 2, OURS + 3] {
            match heap.alloc_to(&world.words[at], SMALL, nothing) {
                Ok(_) | Err(AllocError::OutOfMemory { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        world.reap();
        world.is_whole("after the reaper")?;
        world.reap();
        world.is_whole("after another one")?;
        world.use_up()
    }

    /// Allocates and frees.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let member = world.me.table().join().unwrap();
        Some(Box::new(move || {
            let heap = world.area().heap(&member).map_err(|error| error.to_string())?;
            let word = &world.words[BYSTANDERS];
            match heap.alloc_to(word, SMALL, nothing) {
                Ok(_) => heap.free_from(word).map_err(|error| error.to_string()),
                Err(AllocError::OutOfMemory { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.reap();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Doomed) -> Result<(), String> {
        let word = &world.words[BYSTANDERS];
        let mut refused = matches!(world.area().heap(&world.me), Err(AreaError::Forked(_)));
        for heap in &doomed.heaps {
            let got = heap.alloc_to(word, SMALL, nothing);
            refused &= matches!(got, Err(AllocError::Forked(_)));
            refused &= matches!(heap.free_from(word), Err(FreeError::Forked(_)));
            heap.trim();
        }
        if refused { Ok(()) } else { Err("uses its parent's heap".to_owned()) }
    }
}

/// Two heaps, of one member.
fn with_heaps(world: &World) -> Doomed {
    let member = world.me.table().join().unwrap();
    let heaps = (0..2).map(|_| world.area().heap(&member).unwrap()).collect();
    Doomed { heaps, member: Some(member) }
}

/// Allocates for a word, and notes what it was told.
fn alloc(world: &World, heap: &Heap, at: usize, size: u64, notes: &Notes) {
    if let Ok(block) = heap.alloc_to(&world.words[at], size, nothing) {
        notes.set(TOLD + at, block.to_bits());
    }
}

/// Frees what a word names, which may be nothing.
fn free(world: &World, heap: &Heap, at: usize, notes: &Notes) {
    notes.set(TOLD + at, 0);
    let _ = heap.free_from(&world.words[at]);
    notes.set(TOLD + at, 1);
}

#[test]
fn one_may_die_allocating_and_freeing() {
    let scenario = AtArea {
        name: "allocate, free",
        operations: &[
            "dsm::area::Heap::alloc_to",
            "dsm::area::Heap::alloc_aligned_to",
            "dsm::area::Heap::free_from",
            "dsm::area::Heap::free",
        ],
        prepare: with_heaps,
        operate: |world, doomed, notes| {
            let heap = &doomed.heaps[0];
            alloc(world, heap, 0, SMALL, notes);
            alloc(world, heap, 1, LARGE, notes);
            free(world, heap, 0, notes);
            free(world, heap, 1, notes);
        },
        ..AT_AREA
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).stop().passes();
    Run::new(&scenario).points(300).fork().passes();
    Run::new(&scenario).points(60).nested().passes();
}

/// Blocks of a survivor's, who uses them again at once, and of another one who dies too.
#[test]
fn one_may_die_freeing_blocks_of_others_and_taking_them_back() {
    let scenario = AtArea {
        name: "free others' blocks, take them back",
        operations: &["dsm::area::Heap::free_from", "dsm::area::Heap::alloc_to"],
        prepare: |world| {
            let doomed = with_heaps(world);
            for at in 0..2 {
                doomed.heaps[0].alloc_to(&world.words[at], SMALL, nothing).unwrap();
            }
            doomed
        },
        operate: |world, doomed, notes| {
            let [one, other] = [&doomed.heaps[0], &doomed.heaps[1]];
            // The survivor's, which it has handed over.
            other.free_from(&world.words[OURS]).unwrap();
            for at in 0..2 {
                free(world, other, at, notes);
            }
            for at in 2..4 {
                alloc(world, one, at, SMALL, notes);
            }
        },
        ..AT_AREA
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).nested().passes();
}

#[test]
fn one_may_die_taking_a_heap_and_leaving_it() {
    let scenario = AtArea {
        name: "take a heap, trim, leave it",
        operations: &["dsm::area::Area::heap", "dsm::area::Heap::trim", "dsm::area::Heap::drop"],
        prepare: |world| Doomed {
            member: Some(world.me.table().join().unwrap()),
            heaps: Vec::new(),
        },
        operate: |world, doomed, _| {
            let heap = world.area().heap(doomed.member.as_ref().unwrap()).unwrap();
            heap.alloc_to(&world.words[0], 20, nothing).unwrap();
            heap.alloc_to(&world.words[1], SMALL, nothing).unwrap();
            heap.free_from(&world.words[0]).unwrap();
            heap.trim();
            drop(heap);
        },
        ..AT_AREA
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).stop().passes();
}

#[test]
fn one_may_die_reaping() {
    let scenario = AtArea {
        name: "reap",
        operations: &["dsm::area::Area::reap"],
        has_dead: true,
        operate: |world, _, _| {
            let seats = world.me.table().snapshot();
            let dead = seats.iter().map(|info| info.id).find(|id| *id != world.me.id()).unwrap();
            world.area().reap(dead);
            // The next finds nothing.
            assert_eq!(world.area().reap(dead).heaps, 0);
        },
        ..AT_AREA
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).nested().passes();
}

/// The area's creator.
struct Create;

impl Scenario for Create {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "area, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::area::Area::create_in_place"]
    }

    fn world(&self) -> World {
        World::empty()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        world.create();
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, WORDS_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if notes.get(DONE) == 0 {
            world.create();
        }
        world.use_up()
    }
}

#[test]
fn its_creator_may_die_anywhere() {
    Run::new(&Create).points(300).kill().passes();
}

/// Planted bug: a word is cleared before the block is freed that only it names.
struct Careless;

impl Scenario for Careless {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        "area, planted carelessness".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[]
    }

    fn world(&self) -> World {
        World::with_area()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        with_heaps(world)
    }

    /// Takes the word away first, and then frees the block that only it knows.
    fn operate(&self, world: &World, doomed: &mut Doomed, _: &Notes) {
        let heap = &doomed.heaps[0];
        let block = heap.alloc_to(&world.words[0], SMALL, nothing).unwrap();
        let word: &Mapped<AtomicU64> = &Mapped::new(&world.mapping, WORDS_AT).unwrap();
        word.store(0, Ordering::Relaxed);
        heap.free(block).unwrap();
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, WORDS_AT)
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.reap();
        world.is_whole("after the reaper")
    }
}

#[test]
fn finds_a_block_that_nobody_knows() {
    Run::new(&Careless).kill().finds("after the reaper");
}
