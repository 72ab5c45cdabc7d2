//! A process is killed at each instruction of making, attaching and leaving what stands in a
//! domain by itself: areas. Nothing of it is left but what others use, and that is whole.
//!
//! Shared bytes are not compared with those of the trace: a domain's hold a nonce and pids.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{Area, AreaConfig};
use dsm::backend::Backend;
use dsm::{Domain, DomainConfig, OpenAreaError};
use shm_core::sync::Ordering;
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use shm_testkit::unique::{TempDir, Unique};

#[global_allocator]
static HEAP: Heap = Heap;

const CONFIG: AreaConfig = AreaConfig::new(1 << 20).heaps(4);
/// Where a death leaves something new there are fewer.
const POINTS: usize = 100;

struct World {
    config: DomainConfig,
    survivor: Domain,
    area: Area,
    unique: Unique,
    _directory: TempDir,
}

impl World {
    fn new() -> World {
        let (directory, mut unique) = (TempDir::new("areas"), Unique::new("areas"));
        unique.watch_directory(directory.path());
        let config = DomainConfig {
            backend: Some(Backend::Mmap),
            directory: Some(directory.path().to_owned()),
            participants_max: 3,
            segments_max: Some(3),
            ..DomainConfig::new(unique.name())
        };
        let survivor = Domain::open(config.clone()).unwrap();
        let area = Area::create(&survivor, &CONFIG).unwrap();
        let heap = area.heap(survivor.member()).unwrap();
        heap.alloc_to(area.root(), 100, |_| ()).unwrap();
        drop(heap);
        World { config, survivor, area, unique, _directory: directory }
    }

    fn go_on(self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        self.survivor.reap();
        if self.survivor.segments().len() != 1 {
            return Err(format!("of one segment there are {:?}", self.survivor.segments()));
        }
        self.area.reap_all();
        let report = self.area.verify();
        if !report.is_clean() || report.stats.blocks != 1 || report.stats.heaps != 0 {
            return Err(format!("{report:?}"));
        }
        for _ in 0..2 {
            Area::create(&self.survivor, &CONFIG).map_err(|e| text(&e))?;
        }
        let World { survivor, area, unique, _directory, .. } = self;
        drop(area);
        drop(survivor);
        let left = unique.left();
        if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
    }
}

struct Areas;

impl Scenario for Areas {
    type World = World;
    type Doomed = Domain;

    fn name(&self) -> String {
        "area, in a domain".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::area::Area::create", "dsm::area::Area::attach"]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Domain {
        Domain::open(world.config.clone()).unwrap()
    }

    fn operate(&self, world: &World, domain: &mut Domain, notes: &Notes) {
        let mine = Area::create(domain, &CONFIG).unwrap();
        let heap = mine.heap(domain.member()).unwrap();
        heap.alloc_to(mine.root(), 100, |_| ()).unwrap();
        notes.set(0, 1);
        drop((heap, mine));
        let theirs = Area::attach(domain, world.area.handle().unwrap()).unwrap().unwrap();
        assert_ne!(theirs.root().load(Ordering::Relaxed), 0);
        drop(theirs);
        notes.set(0, 2);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.go_on()
    }

    fn forked(&self, _: &World, domain: &mut Domain) -> Result<(), String> {
        let made = Area::create(domain, &CONFIG);
        let refused = matches!(made, Err(OpenAreaError::Create(_)));
        if refused { Ok(()) } else { Err("uses its parent's domain".to_owned()) }
    }
}

#[test]
fn who_has_an_area_may_die_anywhere() {
    Run::new(&Areas).points(POINTS).allow_missed(500).kill().passes();
}

#[test]
fn who_forks_at_it_is_left_alone() {
    Run::new(&Areas).points(POINTS / 4).allow_missed(500).fork().passes();
}
