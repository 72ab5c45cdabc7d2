//! A header outlives whoever dies in opening it: the next to open takes over, writes all anew, or
//! finds it ready.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{shared, without};
use shm_core::header::{Header, Identity, OpenError, Opened, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WHOLE: u64 = 0xfeed;
/// It names the process that initialises.
const STATE: std::ops::Range<usize> = 0..8;
const OPENED: usize = 0;

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

impl World {
    /// Whoever initialises writes two words behind the header.
    fn open(&self) -> Result<Opened, OpenError> {
        let header = Mapped::<Header>::new(&self.mapping, 0).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let opener = Opener::this_process(deadline).unwrap();
        let identity = Identity::new("crash", 1, 2, self.mapping.len() as u64);
        header.open(&identity, &opener, || {
            self.words().iter().for_each(|word| word.store(WHOLE, Ordering::Relaxed));
            Ok(())
        })
    }

    fn words(&self) -> &[AtomicU64] {
        self.mapping.region().share_slice(64, 2).unwrap()
    }

    fn is_whole(&self) -> bool {
        self.words().iter().all(|word| word.load(Ordering::Relaxed) == WHOLE)
    }
}

struct Open;

impl Scenario for Open {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "header, open".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_core::header::Header::open"]
    }

    fn world(&self) -> World {
        let (memory, mapping) = shared(4096);
        World { memory, mapping }
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        world.open().unwrap();
        notes.set(OPENED, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        without(world.memory.copy(), &[STATE])
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let opened = world.open().map_err(|error| format!("cannot open: {error}"))?;
        if notes.get(OPENED) == 1 && opened == Opened::Created {
            return Err("it was told that it is ready, and it was made again".into());
        }
        if !world.is_whole() {
            return Err("it is ready, and not all was initialised".into());
        }
        match world.open() {
            Ok(Opened::Attached) => Ok(()),
            other => Err(format!("opened twice, it gave {other:?}")),
        }
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| world.open().map(drop).map_err(|error| error.to_string())))
    }
}

#[test]
fn who_opens_may_die_anywhere() {
    Run::new(&Open).kill().passes();
    Run::new(&Open).nested().passes();
}
