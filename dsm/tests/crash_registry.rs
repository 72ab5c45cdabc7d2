//! A process is killed at each instruction of making, failing to make, removing and clearing names,
//! in the rows alone and in a domain: the name can be had by the next one, what it was told is made
//! is there, and no segment stays to which no name leads.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod registry_common;

use crash_common::{shared, words_from};
use dsm::backend::Backend;
use dsm::registry::{Registry, Step};
use dsm::{Domain, DomainConfig, NamedSpec, Segment};
use registry_common::{Asked, SEATS, World, handle};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use shm_testkit::unique::{TempDir, Unique};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const NAMES: u32 = 3;
const ROWS_AT: u64 = Table::bytes_for(SEATS);
/// In the notes: how many steps were done.
const DONE: usize = 0;

/// What the survivor has.
struct Rows {
    mapping: Arc<Mapping>,
    world: World,
    me: Arc<Member>,
}

impl Rows {
    fn new() -> Rows {
        let (_, mapping) = shared(World::bytes_for(NAMES));
        let world = World::over(&mapping, NAMES);
        let me = world.table.join().unwrap();
        Rows { mapping, world, me }
    }
}

/// A process that is about to make "b", has pinned its segment, and dies.
fn die(rows: &Rows) {
    assert!(in_a_fork(|| {
        let me = rows.world.table.join().unwrap();
        let Step::Mine(claim) = rows.world.step(&me, "b") else { unreachable!("nobody has it") };
        claim.set_segment(handle(3));
        rows.world.system.pinned[3].store(1, Ordering::Relaxed);
        std::mem::forget((claim, me));
        true
    }));
}

/// What a process does with the rows.
struct AtRows {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> Rows,
    operate: fn(&Rows, &Arc<Member>, &Notes),
    /// From so many steps on "a" is there.
    made_from: u64,
    /// From so many it is gone again.
    gone_from: u64,
}

impl Scenario for AtRows {
    type World = Rows;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("registry, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> Rows {
        (self.world)()
    }

    fn prepare(&self, rows: &Rows, _: &Notes) -> Arc<Member> {
        rows.world.table.join().unwrap()
    }

    fn operate(&self, rows: &Rows, me: &mut Arc<Member>, notes: &Notes) {
        (self.operate)(rows, me, notes);
    }

    /// The rows alone: the table names processes.
    fn image(&self, rows: &Rows) -> Vec<u8> {
        words_from(&rows.mapping, ROWS_AT)
    }

    fn check(&self, rows: Rows, notes: &Notes, _: End) -> Result<(), String> {
        let world = &rows.world;
        world.reap();
        let (pinned, names) = world.count();
        if pinned != names {
            return Err(format!("{pinned} segments are pinned, and {names} names are there"));
        }
        let done = notes.get(DONE);
        match world.ask(&rows.me, "a", 4) {
            Asked::Found(_) if done < self.gone_from => {}
            Asked::Made(_) if done < self.made_from || done + 1 >= self.gone_from => {}
            other => return Err(format!("after {done} steps the name was {other:?}")),
        }
        for (name, number) in [("b", 1), ("c", 2)] {
            if !matches!(world.ask(&rows.me, name, number), Asked::Made(_)) {
                return Err(format!("`{name}` cannot be had"));
            }
        }
        let removed = ["a", "b", "c"].iter().all(|name| world.remove(&rows.me, name));
        let left = world.count();
        if removed && left == (0, 0) { Ok(()) } else { Err(format!("{left:?} are left")) }
    }

    /// Has a name of its own.
    fn bystander<'a>(&'a self, rows: &'a Rows) -> Option<Work<'a>> {
        Some(Box::new(|| match rows.world.step(&rows.me, "c") {
            Step::Mine(claim) => {
                claim.give_up(&|handle| rows.world.unpin(handle));
                Ok(())
            }
            other => Err(format!("`c` is {other:?}")),
        }))
    }

    fn recover<'a>(&'a self, rows: &'a Rows) -> Option<Work<'a>> {
        Some(Box::new(|| {
            rows.world.reap();
            Ok(())
        }))
    }
}

/// Gives the name up, makes it, and removes it.
fn make(rows: &Rows, me: &Arc<Member>, notes: &Notes) {
    let world = &rows.world;
    let Step::Mine(claim) = world.step(me, "a") else { panic!("nobody has it") };
    claim.set_segment(handle(2));
    world.system.pinned[2].store(1, Ordering::Relaxed);
    claim.give_up(&|handle| world.unpin(handle));
    let Step::Mine(claim) = world.step(me, "a") else { panic!("nobody has it") };
    assert!(matches!(world.make(claim, 2), Asked::Made(_)));
    notes.set(DONE, 1);
    assert!(world.remove(me, "a"));
    notes.set(DONE, 2);
}

#[test]
fn one_may_die_making_and_removing_a_name() {
    let scenario = AtRows {
        name: "make, fail, remove",
        operations: &[
            "dsm::registry::Registry::step",
            "dsm::registry::Registry::remove",
            "dsm::registry::Claim::set_segment",
            "dsm::registry::Claim::publish",
            "dsm::registry::Claim::give_up",
        ],
        world: Rows::new,
        operate: make,
        made_from: 1,
        gone_from: 2,
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(150).nested().passes();
}

#[test]
fn who_stands_still_at_a_name_hinders_no_other_name() {
    let scenario = AtRows {
        name: "make, stopped",
        operations: &["dsm::registry::Registry::step", "dsm::registry::Claim::publish"],
        world: Rows::new,
        operate: make,
        made_from: 1,
        gone_from: 2,
    };
    Run::new(&scenario).points(150).stop().passes();
}

#[test]
fn one_may_die_clearing_up() {
    let scenario = AtRows {
        name: "clear up after a dead one",
        operations: &["dsm::registry::Registry::reap", "dsm::registry::Registry::step"],
        world: || {
            let rows = Rows::new();
            rows.world.ask(&rows.me, "a", 1);
            die(&rows);
            rows
        },
        operate: |rows, me, _| {
            let world = &rows.world;
            let Step::Mine(claim) = world.step(me, "b") else { panic!("its maker is dead") };
            claim.give_up(&|handle| world.unpin(handle));
            world.reap();
        },
        made_from: 0,
        gone_from: 9,
    };
    Run::new(&scenario).points(200).kill().passes();
}

/// The rows' creator.
struct Create;

impl Scenario for Create {
    type World = Arc<Mapping>;
    type Doomed = ();

    fn name(&self) -> String {
        "registry, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::registry::Registry::create"]
    }

    fn world(&self) -> Arc<Mapping> {
        shared(Registry::bytes_for(NAMES)).1
    }

    fn prepare(&self, _: &Arc<Mapping>, _: &Notes) {}

    fn operate(&self, mapping: &Arc<Mapping>, (): &mut (), notes: &Notes) {
        create(mapping);
        notes.set(DONE, 1);
    }

    fn image(&self, mapping: &Arc<Mapping>) -> Vec<u8> {
        words_from(mapping, 0)
    }

    fn check(&self, mapping: Arc<Mapping>, notes: &Notes, _: End) -> Result<(), String> {
        let registry = match notes.get(DONE) {
            1 => Registry::attach(&mapping, 0, NAMES).map_err(|error| error.to_string())?,
            _ => create(&mapping),
        };
        if registry.entries().is_empty() { Ok(()) } else { Err("it has names".to_owned()) }
    }
}

fn create(mapping: &Arc<Mapping>) -> Registry {
    // SAFETY: nobody has published the rows, or uses them.
    unsafe { Registry::create(mapping, 0, NAMES) }.unwrap()
}

#[test]
fn their_creator_may_die_anywhere() {
    Run::new(&Create).kill().passes();
}

const SPEC: NamedSpec = NamedSpec { size: 4096, filled: None, fingerprint: 5, deadline: None };
const WHOLE: u64 = 0xfeed;

struct InDomain {
    survivor: Domain,
    config: DomainConfig,
    unique: Unique,
    _directory: TempDir,
}

fn first_word(segment: &Segment) -> &AtomicU64 {
    segment.mapping().region().share(0).unwrap()
}

fn fill(segment: &Segment) -> Result<(), Infallible> {
    first_word(segment).fetch_add(WHOLE, Ordering::Relaxed);
    Ok(())
}

/// Makes a named segment in a domain, and removes it.
struct Domains(Backend);

impl Scenario for Domains {
    type World = InDomain;
    type Doomed = Domain;

    fn name(&self) -> String {
        format!("registry, {}, make and remove a segment", self.0)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::named::Domain::named_segment", "dsm::named::Domain::remove_named"]
    }

    fn world(&self) -> InDomain {
        let (directory, mut unique) = (TempDir::new("crash"), Unique::new("crash"));
        unique.watch_directory(directory.path());
        let config = DomainConfig {
            backend: Some(self.0),
            directory: Some(directory.path().to_owned()),
            participants_max: 3,
            segments_max: Some(4),
            ..DomainConfig::new(unique.name())
        };
        let survivor = Domain::open(config.clone()).unwrap();
        InDomain { survivor, config, unique, _directory: directory }
    }

    fn prepare(&self, world: &InDomain, _: &Notes) -> Domain {
        Domain::open(world.config.clone()).unwrap()
    }

    fn operate(&self, _: &InDomain, domain: &mut Domain, notes: &Notes) {
        let named = domain.named_segment("a", &SPEC, fill).unwrap();
        notes.set(DONE, 1);
        drop(named);
        notes.set(DONE, 2);
        assert_eq!(domain.remove_named("a"), Ok(true));
        notes.set(DONE, 3);
    }

    fn image(&self, _: &InDomain) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: InDomain, notes: &Notes, _: End) -> Result<(), String> {
        let (domain, done) = (world.survivor, notes.get(DONE));
        domain.reap();
        let named = domain.named_segment("a", &SPEC, fill).map_err(|error| error.to_string())?;
        if named.found && done == 3 || !named.found && done == 1 {
            return Err(format!("after {done} steps it was found: {}", named.found));
        }
        if first_word(&named.segment).load(Ordering::Relaxed) != WHOLE {
            return Err("half a segment, or one that was used before".to_owned());
        }
        drop(named);
        domain.remove_named("a").map_err(|error| error.to_string())?;
        if !domain.segments().is_empty() || !domain.named().is_empty() {
            return Err(format!("left: {:?} {:?}", domain.segments(), domain.named()));
        }
        drop(domain);
        let left = world.unique.left();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

#[test]
fn one_may_die_making_a_named_segment() {
    for backend in [Backend::Posix, Backend::Mmap] {
        let scenario = Domains(backend);
        let run = Run::new(&scenario).patience(Duration::from_secs(60));
        run.points(100).allow_missed(500).kill().passes();
    }
}
