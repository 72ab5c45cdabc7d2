//! A process is killed at each instruction of growing, shrinking and reaping an area whose memory
//! comes and goes: whoever comes next finds out that it is dead, and takes back what it left; all
//! memory can be used again, and no more is there than is said.
#![cfg(not(any(shm_loom, shm_explore)))]
mod area_common;
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use area_common::Chunks;
use crash_common::{shared, words_from};
use dsm::area::{AllocError, AllocOptions, Area, AreaConfig, AreaPtr, Heap};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::ptr::NonNull;
use std::sync::Arc;

const SEATS: u32 = 4;
const PAGE: u32 = 128;
/// Of two pages each.
const CHUNKS: u64 = 4;
const SMALL: u64 = 64;
const CHUNK_BYTES: u64 = 2 * PAGE as u64;
const CONFIG: AreaConfig = AreaConfig::tiny(2 * CHUNKS, PAGE, 5).chunks_of(2);

const WORDS_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const WORDS: u64 = 16;
const SYSTEM_AT: u64 = WORDS_AT + 8 * WORDS;
const AREA_AT: u64 = SYSTEM_AT + Chunks::BYTES;
const BYTES: u64 = AREA_AT + Area::bytes_for(&CONFIG);

/// In the notes: that the operation is done.
const DONE: usize = 0;
/// A word of the survivor, and of the bystander; those before are the doomed one's.
const OURS: usize = 8;
const BYSTANDERS: usize = 9;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    words: MappedSlice<AtomicU64>,
}

fn nothing(_: NonNull<u8>) {}

impl World {
    fn new() -> World {
        let (_, mapping) = shared(BYTES);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        let words = MappedSlice::new(&mapping, WORDS_AT, WORDS).unwrap();
        area_common::create(&mapping, SYSTEM_AT, AREA_AT, &CONFIG);
        World { me: table.join().unwrap(), mapping, words }
    }

    fn area(&self, member: &Arc<Member>) -> (Area, Arc<Chunks>) {
        area_common::attach(&self.mapping, SYSTEM_AT, AREA_AT, Some(member))
    }

    fn is_whole(&self, when: &str) -> Result<(), String> {
        let (area, chunks) = self.area(&self.me);
        let (report, there) = (area.verify(), chunks.count() as u64);
        if !report.is_clean() || report.stats.chunks_there != there {
            return Err(format!("{when}: {there} there, {report:?}"));
        }
        let words = self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let mut named: Vec<_> = words.filter(|word| *word != 0).map(AreaPtr::from_bits).collect();
        named.sort_unstable();
        let mut blocks = Vec::new();
        area.for_each_block(|block, _| blocks.push(block));
        let is_there = |block: &&AreaPtr| chunks.is_there(&area, **block);
        match blocks == named && blocks.iter().all(|block| is_there(&block)) {
            true => Ok(()),
            false => Err(format!("{when}: {blocks:?}, named {named:?}")),
        }
    }

    /// Everything is freed, and then all that can be there is one block's.
    fn use_up(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (area, chunks) = self.area(&self.me);
        let heap = area.heap(&self.me).map_err(|e| text(&e))?;
        for word in self.words.iter().filter(|word| word.load(Ordering::Relaxed) != 0) {
            heap.free_from(word).map_err(|e| text(&e))?;
        }
        heap.trim();
        self.is_whole("at the end")?;
        if chunks.count() > 0 {
            return Err(format!("{:?} after all was given back", area.stats()));
        }
        area.set_limit(u64::MAX);
        let all = heap.alloc_to(&self.words[0], CHUNKS * CHUNK_BYTES, nothing);
        all.map(|_| ()).map_err(|error| format!("{error}; {:?}", area.stats()))
    }
}

/// A process that died when it had just grown the area, with a block that is named nowhere yet.
fn die(world: &World) {
    assert!(in_a_fork(|| {
        let member = world.me.table().join().unwrap();
        let heap = world.area(&member).0.heap(&member).unwrap();
        // SAFETY: a process that ends in the middle of an allocation.
        let end = |_| unsafe { libc::_exit(0) };
        let _ = heap.alloc_to(&world.words[7], SMALL, end);
        false
    }));
}

/// What the process has that is killed.
struct Doomed {
    heap: Heap,
    member: Arc<Member>,
}

struct AtChunks {
    name: &'static str,
    operations: &'static [&'static str],
    has_dead: bool,
    operate: fn(&World, &mut Doomed),
}

impl Scenario for AtChunks {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("chunks, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        if self.has_dead {
            die(&world);
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        let member = world.me.table().join().unwrap();
        Doomed { heap: world.area(&member).0.heap(&member).unwrap(), member }
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed);
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, WORDS_AT)
    }

    /// The survivor is refused nothing, whatever the dead one was at; who is dead it finds out.
    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        let (area, _) = world.area(&world.me);
        let heap = area.heap(&world.me).map_err(|error| error.to_string())?;
        let got = heap.alloc_to(&world.words[OURS], CHUNK_BYTES, nothing);
        got.map_err(|error| format!("{error}; {:?}", area.verify()))?;
        drop(heap);
        area.reap_all();
        world.is_whole("after the reaper")?;
        world.use_up()
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let member = world.me.table().join().unwrap();
        Some(Box::new(move || {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let heap = world.area(&member).0.heap(&member).map_err(|e| text(&e))?;
            let word = &world.words[BYSTANDERS];
            heap.alloc_to(word, SMALL, nothing).map_err(|e| text(&e))?;
            heap.free_from(word).map_err(|e| text(&e))
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.area(&world.me).0.reap_all();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Doomed) -> Result<(), String> {
        let got = doomed.heap.alloc_to(&world.words[BYSTANDERS], SMALL, nothing);
        let reaped = world.area(&doomed.member).0.reap_all();
        let refused = matches!(got, Err(AllocError::Forked(_))) && reaped == Default::default();
        if refused { Ok(()) } else { Err("uses its parent's heap".to_owned()) }
    }
}

#[test]
fn one_may_die_growing_and_shrinking() {
    let scenario = AtChunks {
        name: "grow, shrink",
        operations: &[
            "dsm::area::Heap::alloc_with",
            "dsm::area::Heap::trim",
            "dsm::area::Area::set_limit",
        ],
        has_dead: false,
        operate: |world, doomed| {
            let heap = &doomed.heap;
            let options = AllocOptions::new(3 * u64::from(PAGE)).zeroed();
            heap.alloc_with(&world.words[0], options, nothing).unwrap();
            heap.free_from(&world.words[0]).unwrap();
            heap.area().set_limit(3 * CHUNK_BYTES);
            assert_eq!(heap.trim(), 2 * CHUNK_BYTES);
        },
    };
    Run::new(&scenario).points(400).kill().passes();
    Run::new(&scenario).points(100).stop().passes();
    Run::new(&scenario).points(100).fork().passes();
    Run::new(&scenario).points(300).nested().passes();
}

#[test]
fn one_may_die_reaping_whom_it_found_dead() {
    let scenario = AtChunks {
        name: "reap all",
        operations: &["dsm::area::Area::reap_all"],
        has_dead: true,
        operate: |_, doomed| {
            let reaped = doomed.heap.area().reap_all();
            assert_eq!((reaped.heaps, reaped.intents), (1, 1));
        },
    };
    Run::new(&scenario).points(200).kill().passes();
    Run::new(&scenario).points(200).nested().passes();
}

/// Planted bug: a chunk's word says that it is gone before its memory is.
struct Hasty;

impl Scenario for Hasty {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "chunks, planted haste".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    /// Puts memory somewhere without saying so first.
    fn operate(&self, world: &World, (): &mut (), _: &Notes) {
        let system = world.area(&world.me).1;
        system.system.there[0].store(1, Ordering::Relaxed);
        system.system.there[0].store(0, Ordering::Relaxed);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, WORDS_AT)
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.area(&world.me).0.reap_all();
        world.is_whole("after the reaper")
    }
}

#[test]
fn finds_memory_that_nobody_knows_of() {
    Run::new(&Hasty).points(50).kill().finds("1 there");
}
