//! An event outlives whoever dies in sleeping on it or in notifying: the next notification wakes
//! the next sleeper.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::shared;
use shm_core::event::EventCount;
use shm_core::futex::{Futex, Wake};
use shm_core::mapping::{Mapped, Mapping};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const DONE: usize = 0;

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

impl World {
    fn event(&self) -> Mapped<EventCount> {
        Mapped::new(&self.mapping, 0).unwrap()
    }

    fn futex(&self) -> Mapped<Futex> {
        Mapped::new(&self.mapping, 64).unwrap()
    }

    /// A thread that sleeps is woken.
    fn wake_somebody(&self) -> Result<(), String> {
        let (told, hears) = channel();
        let event = self.event();
        let ticket = event.prepare();
        let theirs = self.event();
        let deadline = Some(Instant::now() + LIMIT);
        let sleeper = std::thread::spawn(move || told.send(theirs.wait(ticket, deadline)));
        event.notify();
        let wake = hears.recv().map_err(|error| error.to_string());
        let _ = sleeper.join();
        match wake? {
            Wake::Woken => Ok(()),
            Wake::TimedOut => Err("after a death a notification wakes nobody".into()),
        }
    }
}

/// Goes to sleep on a word and on an event that have moved already (a clock would make it take
/// another way each time), and notifies.
struct Sleep;

impl Scenario for Sleep {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "event, sleep and notify".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "shm_core::futex::Futex::wait",
            "shm_core::event::EventCount::prepare",
            "shm_core::event::EventCount::wait",
            "shm_core::event::EventCount::notify",
        ]
    }

    fn world(&self) -> World {
        let (memory, mapping) = shared(4096);
        World { memory, mapping }
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        assert_eq!(world.futex().wait(1, None), Wake::Woken);
        notes.count(DONE);
        let event = world.event();
        let ticket = event.prepare();
        notes.count(DONE);
        event.notify();
        notes.count(DONE);
        assert_eq!(event.wait(ticket, None), Wake::Woken);
        let _ = event.prepare();
        event.notify();
        notes.count(DONE);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        if world.memory.copy()[64..68] != [0; 4] {
            return Err("a sleeper has changed the word that it slept on".into());
        }
        world.wake_somebody()
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.event().notify();
            Ok(())
        }))
    }
}

#[test]
fn who_sleeps_or_wakes_may_die_anywhere() {
    Run::new(&Sleep).points(400).kill().passes();
}

#[test]
fn who_stands_still_asleep_or_waking_hinders_no_notifier() {
    Run::new(&Sleep).points(200).stop().passes();
}
