//! Sealed memory and its handing over outlive a peer that dies in them: the other side has its
//! memory, or learns that the peer has died, and is never left waiting.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::sealed::{ExchangeError, Own, Wanted, exchange, page_bytes};
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[global_allocator]
static HEAP: Heap = Heap;

const MADE: usize = 0;
const SAID: usize = 1;
const HELLO: u64 = 0x5ea1;
const LIMIT: Duration = Duration::from_secs(20);

struct World {
    ours: UnixStream,
    theirs: UnixStream,
}

fn wanted() -> Wanted {
    Wanted { mine: HELLO, theirs: HELLO, bytes_min: page_bytes(), bytes_max: 1 << 20 }
}

struct HandOver;

impl Scenario for HandOver {
    type World = World;
    type Doomed = Option<UnixStream>;

    fn name(&self) -> String {
        "sealed memory, create and hand over".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_core::sealed::Own::create", "shm_core::sealed::exchange"]
    }

    fn world(&self) -> World {
        let (ours, theirs) = UnixStream::pair().unwrap();
        World { ours, theirs }
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<UnixStream> {
        Some(world.theirs.try_clone().unwrap())
    }

    fn operate(&self, _: &World, socket: &mut Option<UnixStream>, notes: &Notes) {
        let own = Own::create("crash", page_bytes()).unwrap();
        notes.set(MADE, 1);
        // Nobody answers as long as the parent traces: a deadline that has passed ends it.
        let answer = exchange(socket.take().unwrap(), &own, wanted(), Some(Instant::now()));
        assert!(answer.is_err());
        notes.set(SAID, 1);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        let World { ours, theirs } = world;
        drop(theirs);
        let own = Own::create("crash", page_bytes()).map_err(|error| error.to_string())?;
        match exchange(ours, &own, wanted(), Some(Instant::now() + LIMIT)) {
            // Its hello came before its death.
            Ok((memory, doorbell)) if memory.len() == page_bytes() && doorbell.is_gone() => Ok(()),
            Ok((memory, _)) => Err(format!("of {} bytes a peer that is gone is not", memory.len())),
            Err(ExchangeError::PeerDied) => Ok(()),
            Err(error) => Err(format!("of a peer that has died it says: {error}")),
        }
    }
}

#[test]
fn who_hands_memory_over_may_die_anywhere() {
    Run::new(&HandOver).points(150).kill().passes();
}
