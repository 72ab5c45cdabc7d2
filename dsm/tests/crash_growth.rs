//! A growable segment outlives whoever dies, or stops, in making it longer or shorter: it has the
//! old length or the new one, its pages are there and zero when new, and the next to change it
//! gives back what the dead one left behind its end.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod growth_common;

use dsm::backend::Backend;
use dsm::{Domain, DomainConfig, GrowError, Segment, SegmentHandle, SegmentOptions};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use shm_testkit::unique::Unique;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

const PAGE: u64 = 4096;
const MAX: u64 = 6 * PAGE;
/// In the notes: how many of its steps were done.
const DONE: usize = 0;
/// Lengths after each step, in pages.
const LENGTHS: [u64; 4] = [2, 4, 1, 3];

struct World {
    config: DomainConfig,
    unique: Unique,
    domain: Domain,
    segment: Option<Segment>,
}

impl World {
    fn new() -> World {
        let unique = Unique::new("crash");
        let config = DomainConfig {
            backend: Some(Backend::Posix),
            participants_max: 3,
            segments_max: Some(4),
            ..DomainConfig::new(unique.name())
        };
        let domain = Domain::open(config.clone()).unwrap();
        let segment = domain.create_segment_with(LENGTHS[0] * PAGE, growable()).unwrap();
        World { config, unique, domain, segment: Some(segment) }
    }

    fn handle(&self) -> SegmentHandle {
        self.segment.as_ref().unwrap().handle()
    }

    /// Memory that the system has behind the segment's file.
    fn resident(&self) -> u64 {
        let ending = format!(".{}", self.handle());
        let files = self.unique.left().into_iter();
        let file = files.filter(|path| path.ends_with(&ending));
        file.map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
    }
}

fn growable() -> SegmentOptions {
    SegmentOptions::growable(MAX)
}

/// The first word of each page.
fn words(mapping: &Mapping) -> impl Iterator<Item = &AtomicU64> {
    let region = mapping.region();
    (0..region.len() as u64 / PAGE).map(move |page| region.share(page * PAGE).unwrap())
}

/// Every page can be written, and those from `new` on are zero.
fn use_pages(segment: &Segment, new: u64) -> Result<(), String> {
    let current = segment.current().map_err(|error| error.to_string())?;
    for (page, word) in words(&current).enumerate() {
        if page as u64 >= new && word.load(Ordering::Relaxed) != 0 {
            return Err(format!("page {page} is new and not zero"));
        }
        word.store(7, Ordering::Relaxed);
    }
    Ok(())
}

/// Grows it, shrinks it, grows it again.
struct Change;

impl Scenario for Change {
    type World = World;
    type Doomed = Option<(Segment, Domain)>;

    fn name(&self) -> String {
        "growable segment, grow, shrink, grow".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "dsm::growth::Growth::grow",
            "dsm::growth::Growth::shrink",
            "dsm::segment::elastic::Segment::grow",
            "dsm::segment::elastic::Segment::shrink",
        ]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        let domain = Domain::open(world.config.clone()).unwrap();
        let segment = domain.attach(world.handle()).unwrap().unwrap();
        words(&segment.current().unwrap()).for_each(|word| word.store(5, Ordering::Relaxed));
        Some((segment, domain))
    }

    fn operate(&self, _: &World, doomed: &mut Self::Doomed, notes: &Notes) {
        let (segment, _) = doomed.as_ref().unwrap();
        assert_eq!(segment.grow(LENGTHS[1] * PAGE).unwrap(), LENGTHS[1] * PAGE);
        notes.set(DONE, 1);
        use_pages(segment, LENGTHS[0]).unwrap();
        assert_eq!(segment.shrink(LENGTHS[2] * PAGE).unwrap(), LENGTHS[2] * PAGE);
        notes.set(DONE, 2);
        assert_eq!(segment.grow(LENGTHS[3] * PAGE).unwrap(), LENGTHS[3] * PAGE);
        notes.set(DONE, 3);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, _: End) -> Result<(), String> {
        world.domain.reap();
        let text = |error: GrowError| error.to_string();
        let segment = world.segment.as_ref().unwrap();
        let done = notes.get(DONE) as usize;
        let pages = segment.current().map_err(text)?.len() as u64 / PAGE;
        let next = LENGTHS.get(done + 1).copied().unwrap_or(LENGTHS[done]);
        if pages != LENGTHS[done] && pages != next {
            return Err(format!("after step {done} it has {pages} pages"));
        }
        use_pages(segment, MAX)?;
        segment.grow(MAX).map_err(text)?;
        use_pages(segment, pages)?;
        segment.shrink(PAGE).map_err(text)?;
        let resident = world.resident();
        if resident != 2 * PAGE {
            return Err(format!("one page and the head, and {resident} bytes of memory"));
        }
        drop(world.segment.take());
        drop(world.domain);
        let left = world.unique.left();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

/// Makes one.
struct Create;

impl Scenario for Create {
    type World = World;
    type Doomed = Option<Domain>;

    fn name(&self) -> String {
        "growable segment, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::domain::Domain::create_segment_with"]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        Some(Domain::open(world.config.clone()).unwrap())
    }

    fn operate(&self, _: &World, doomed: &mut Self::Doomed, notes: &Notes) {
        let segment = doomed.as_ref().unwrap().create_segment_with(PAGE, growable()).unwrap();
        notes.set(DONE, segment.len());
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, _: &Notes, _: End) -> Result<(), String> {
        world.domain.reap();
        let alive = world.domain.segments().len();
        if alive != 1 {
            return Err(format!("there are {alive} segments"));
        }
        drop(world.segment.take());
        drop(world.domain);
        let left = world.unique.left();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

/// The word alone, with a system that is plain memory.
struct Word;

struct Plain {
    growth: growth_common::World,
    memory: SharedMemory,
    _mapping: Arc<Mapping>,
}

impl Scenario for Word {
    type World = Plain;
    type Doomed = ();

    fn name(&self) -> String {
        "length, grow, shrink, grow".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::growth::Growth::grow", "dsm::growth::Growth::shrink"]
    }

    fn world(&self) -> Plain {
        let (memory, mapping) = crash_common::shared(PAGE);
        let growth = growth_common::World::at(&mapping, 2, growth_common::Care::Deaths);
        Plain { growth, memory, _mapping: mapping }
    }

    fn prepare(&self, _: &Plain, _: &Notes) {}

    fn operate(&self, world: &Plain, (): &mut (), notes: &Notes) {
        for (done, pages) in [(1, 4), (2, 1), (3, 3)] {
            // Whoever is here beside it may be at it, or have been.
            let changed = world.growth.change(0, pages, |_| false);
            assert!(matches!(changed, Ok(_) | Err(GrowError::Busy { .. })));
            notes.set(DONE, done);
        }
    }

    fn image(&self, world: &Plain) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: Plain, _: &Notes, _: End) -> Result<(), String> {
        let text = |error: GrowError| error.to_string();
        world.growth.look();
        for pages in [4, 1, 2] {
            world.growth.change(1, pages, |_| true).map_err(text)?;
            world.growth.look();
        }
        world.growth.assert_exact();
        Ok(())
    }

    /// It gets its length, or is told who is at it.
    fn bystander<'a>(&'a self, world: &'a Plain) -> Option<Work<'a>> {
        let grow =
            || match world.growth.growth.grow(growth_common::id(2), 4, |_| false, &world.growth) {
                Ok(_) | Err(GrowError::Busy { .. }) => Ok(()),
                Err(other) => Err(other.to_string()),
            };
        Some(Box::new(grow))
    }

    fn recover<'a>(&'a self, world: &'a Plain) -> Option<Work<'a>> {
        let change = || world.growth.change(3, 2, |_| true).map(drop);
        Some(Box::new(move || change().map_err(|error| error.to_string())))
    }
}

/// Where a death leaves something new there are fewer.
const POINTS: usize = 150;
const MISSED_MAX: usize = 500;

#[test]
fn who_changes_it_may_die_anywhere() {
    Run::new(&Change).points(POINTS).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn who_claims_the_word_may_die_anywhere() {
    Run::new(&Word).points(400).kill().passes();
}

#[test]
fn who_stops_at_it_hinders_nobody() {
    Run::new(&Word).points(200).stop().passes();
}

#[test]
fn who_finishes_what_a_dead_one_left_may_die_too() {
    Run::new(&Word).points(150).nested().passes();
}

#[test]
fn who_makes_it_may_die_anywhere() {
    Run::new(&Create).points(POINTS / 2).allow_missed(MISSED_MAX).kill().passes();
}
