//! A process is killed at each instruction of making, finding, using and leaving areas and hashes
//! by name, and of reaping in a hash: others find each whole or make it anew, with all that was
//! acknowledged in it, and nothing else is left.
//!
//! Shared bytes are not compared with those of the trace: a domain's hold a nonce and pids.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{Area, AreaConfig, AreaError};
use dsm::backend::Backend;
use dsm::hash::Size;
use dsm::{AreaSpec, Domain, DomainConfig, HashSpec, SharedHash};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use shm_testkit::unique::{TempDir, Unique};

#[global_allocator]
static HEAP: Heap = Heap;

/// Where a death leaves something new there are fewer.
const POINTS: usize = 100;
const MISSED_MAX: usize = 500;
/// In the notes: how many steps were done.
const DONE: usize = 0;

fn area_spec() -> AreaSpec {
    AreaSpec::new(AreaConfig::new(1 << 20).heaps(2))
}

fn hash_spec() -> HashSpec {
    let spec = HashSpec::new(Size::Fixed(8), Size::Fixed(8));
    HashSpec { max_bytes: 1 << 20, threads: 3, threads_of_process: 2, ..spec }
}

fn make(area: &Area) -> Result<(), AreaError> {
    assert_eq!(area.stats().blocks, 0, "an area that is not new");
    Ok(())
}

struct World {
    config: DomainConfig,
    survivor: Domain,
    common: SharedHash,
    unique: Unique,
    _directory: TempDir,
}

impl World {
    fn new() -> World {
        let (directory, mut unique) = (TempDir::new("hashes"), Unique::new("hashes"));
        unique.watch_directory(directory.path());
        let config = DomainConfig {
            backend: Some(Backend::Mmap),
            directory: Some(directory.path().to_owned()),
            participants_max: 3,
            segments_max: Some(3),
            ..DomainConfig::new(unique.name())
        };
        let survivor = Domain::open(config.clone()).unwrap();
        let common = survivor.named_hash("common", &hash_spec()).unwrap();
        common.join().unwrap().insert(&[1; 8], &[1; 8]).unwrap();
        World { config, survivor, common, unique, _directory: directory }
    }

    /// Everybody who is left is the survivor, and all is whole.
    fn is_whole(&self) -> Result<(), String> {
        let report = self.common.area().verify();
        if report.is_clean() && report.stats.heaps == 0 {
            return Ok(());
        }
        Err(format!("{report:?}"))
    }

    fn go_on(self, done: u64) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        self.survivor.reap();
        self.common.reap();
        if self.common.reap() > 0 {
            return Err("reaped twice".to_owned());
        }
        self.is_whole()?;
        let mut hash = self.common.join().map_err(|e| text(&e))?;
        let mut holds = |key: u8| hash.find(&[key; 8]).map(|found| found.is_some());
        if !holds(1).map_err(|e| text(&e))? || done >= 3 && !holds(2).map_err(|e| text(&e))? {
            return Err(format!("an entry is lost, after {done} steps"));
        }
        // All threads that it was made for.
        drop(hash);
        let joined: Vec<_> = (0..2).map(|_| self.common.join()).collect();
        if let Some(error) = joined.into_iter().find_map(Result::err) {
            return Err(text(&error));
        }
        for (name, least) in [("area", 1), ("hash", 2)] {
            let found = match name {
                "area" => self.survivor.named_area(name, &area_spec(), make).map(|it| it.found),
                _ => match self.survivor.named_hash(name, &hash_spec()) {
                    Ok(hash) => {
                        hash.reap();
                        hash.join()
                            .map_err(|e| text(&e))?
                            .insert(&[3; 8], &[3; 8])
                            .map_err(|e| text(&e))?;
                        Ok(hash.was_found())
                    }
                    Err(error) => return Err(text(&error)),
                },
            };
            if !found.map_err(|e| text(&e))? && done >= least {
                return Err(format!("`{name}` was made, and is lost"));
            }
            self.survivor.remove_named(name).map_err(|e| text(&e))?;
        }
        if self.survivor.segments().len() != 1 {
            return Err(format!("of one segment there are {:?}", self.survivor.segments()));
        }
        let World { survivor, common, unique, _directory, .. } = self;
        survivor.remove_named("common").map_err(|e| text(&e))?;
        drop(common);
        drop(survivor);
        let left = unique.left();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

/// A process has the hash, a thread's handle and an entry that it was just changing, and ends.
fn die(world: &World) {
    assert!(in_a_fork(|| {
        let domain = Domain::open(world.config.clone()).unwrap();
        let shared = domain.named_hash("common", &hash_spec()).unwrap();
        let mut hash = shared.join().unwrap();
        hash.upsert(&[1; 8], &[9; 8]).unwrap();
        let found = hash.find(&[1; 8]).unwrap();
        // It has announced what it found.
        let is_found = found.is_some();
        std::mem::forget(found);
        std::mem::forget((hash, shared, domain));
        is_found
    }));
}

struct Names {
    name: &'static str,
    operations: &'static [&'static str],
    has_dead: bool,
    operate: fn(&Domain, &Notes),
}

impl Scenario for Names {
    type World = World;
    type Doomed = Domain;

    fn name(&self) -> String {
        format!("names, {}", self.name)
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

    fn prepare(&self, world: &World, _: &Notes) -> Domain {
        Domain::open(world.config.clone()).unwrap()
    }

    fn operate(&self, _: &World, domain: &mut Domain, notes: &Notes) {
        (self.operate)(domain, notes);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        world.go_on(notes.get(DONE))
    }
}

#[test]
fn who_has_what_is_named_may_die_anywhere() {
    let names = Names {
        name: "areas and hashes",
        operations: &[
            "dsm::named::Domain::named_area",
            "dsm::named::Domain::named_hash",
            "dsm::shared_hash::SharedHash::join",
        ],
        has_dead: false,
        operate: |domain, notes| {
            drop(domain.named_area("area", &area_spec(), make).unwrap());
            notes.set(DONE, 1);
            drop(domain.named_hash("hash", &hash_spec()).unwrap());
            notes.set(DONE, 2);
            let shared = domain.named_hash("common", &hash_spec()).unwrap();
            let mut hash = shared.join().unwrap();
            hash.insert(&[2; 8], &[2; 8]).unwrap();
            notes.set(DONE, 3);
        },
    };
    Run::new(&names).points(POINTS).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn who_reaps_in_a_hash_may_die_anywhere() {
    let names = Names {
        name: "reap in a hash",
        operations: &["dsm::shared_hash::SharedHash::reap"],
        has_dead: true,
        operate: |domain, _| {
            // The dead one's seat may be ours by now.
            let shared = domain.named_hash("common", &hash_spec()).unwrap();
            assert_eq!(shared.reap(), 0, "attaching has reaped");
        },
    };
    Run::new(&names).points(POINTS).allow_missed(MISSED_MAX).kill().passes();
}

/// Planted bug: one that forgets that a name leads to what it has made.
#[test]
fn finds_what_is_lost() {
    let names = Names {
        name: "planted loss",
        operations: &[],
        has_dead: false,
        operate: |domain, notes| {
            drop(domain.named_area("area", &area_spec(), make).unwrap());
            notes.set(DONE, 2);
        },
    };
    Run::new(&names).points(40).allow_missed(MISSED_MAX).kill().finds("is lost");
}
