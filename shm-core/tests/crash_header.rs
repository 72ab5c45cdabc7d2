//! Who opens a header first is killed at each instruction: the next one finds it ready, with all
//! that was initialised, or initialises it anew; and of the one after next the same is true.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::shared;
use shm_core::header::{Header, Identity, Opened, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::process::Namespaces;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IDENTITY: Identity = Identity::new("crash", 1, 0xf1f1, 4096);
const LIMIT: Duration = Duration::from_secs(60);
/// Two words that the initialiser writes; behind the header, which fills 64 bytes.
const DATA_AT: [u64; 2] = [128, 136];
/// In the notes: it was told that it has created it.
const CREATED: usize = 0;
/// Texts of `/proc` are read, and differ in length.
const MISSED_MAX: usize = 100;

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
    header: Mapped<Header>,
}

impl World {
    fn data(&self, index: usize) -> &AtomicU64 {
        self.mapping.region().share(DATA_AT[index]).unwrap()
    }

    fn open(&self) -> Result<Opened, String> {
        let opener = Opener::this_process(Instant::now() + LIMIT).map_err(|e| e.to_string())?;
        let init = || {
            self.data(0).store(1, Ordering::Relaxed);
            self.data(1).store(2, Ordering::Relaxed);
            Ok::<(), Infallible>(())
        };
        self.header.open(&IDENTITY, &opener, init).map_err(|error| error.to_string())
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
        let header = Mapped::new(&mapping, 0).unwrap();
        World { memory, mapping, header }
    }

    fn prepare(&self, _: &World, _: &Notes) {
        Namespaces::mine().unwrap();
    }

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        assert_eq!(world.open(), Ok(Opened::Created));
        notes.set(CREATED, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        // The state's upper bits name the process that initialises.
        let mut bytes = world.memory.copy();
        bytes[0] &= 3;
        bytes[1..8].fill(0);
        bytes
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let opened = world.open()?;
        if opened == Opened::Created && (notes.get(CREATED) == 1 || end == End::Finished) {
            return Err("it was told that it has created the header".to_owned());
        }
        let data = [0, 1].map(|index| world.data(index).load(Ordering::Relaxed));
        if data != [1, 2] {
            return Err(format!("{opened:?}, and what was initialised is {data:?}"));
        }
        let again = world.open()?;
        if again == Opened::Attached { Ok(()) } else { Err("created twice".to_owned()) }
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| world.open().map(drop)))
    }
}

#[test]
fn who_opens_first_may_die_anywhere() {
    Run::new(&Open).points(700).allow_missed(MISSED_MAX).kill().passes();
}

#[test]
fn the_heir_may_die_too() {
    Run::new(&Open).points(60).allow_missed(MISSED_MAX).nested().passes();
}
