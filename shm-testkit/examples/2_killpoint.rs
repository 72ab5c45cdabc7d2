//! Seats in shared memory, taken and left by processes that may be killed at any instruction: the
//! first way to take one is wrong, and is caught; the second is not.
//!
//! `cargo run -p shm-testkit --example 2_killpoint`
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory};
use std::sync::atomic::{AtomicU64, Ordering};

const SEATS: usize = 3;
/// What the process that will be killed calls itself.
const DOOMED: u64 = 7;
const NOTE_TAKEN: usize = 0;
const NOTE_LEFT: usize = 1;

/// In each seat the name of who has it; 0 where it is free.
#[repr(C)]
struct Table {
    count: AtomicU64,
    seats: [AtomicU64; SEATS],
}

impl Table {
    /// Takes a free seat: `None` where all are taken.
    fn take(&self, me: u64) -> Option<usize> {
        let free = |seat: &AtomicU64| {
            seat.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        self.seats.iter().position(free)
    }

    /// The same with a count of the seats that are taken, which is wrong in between.
    fn take_and_count(&self, me: u64) -> Option<usize> {
        if self.count.fetch_add(1, Ordering::Acquire) == SEATS as u64 {
            self.count.fetch_sub(1, Ordering::Release);
            return None;
        }
        self.take(me)
    }

    fn leave(&self, seat: usize) {
        self.seats[seat].store(0, Ordering::Release);
    }

    fn leave_and_count(&self, seat: usize) {
        self.leave(seat);
        self.count.fetch_sub(1, Ordering::Release);
    }

    /// Frees the seats of somebody who has died.
    fn clean_up_after(&self, dead: u64) {
        for seat in (0..SEATS).filter(|seat| self.seats[*seat].load(Ordering::Relaxed) == dead) {
            self.leave(seat);
        }
    }
}

/// A process takes a seat and leaves it.
struct TakeAndLeave {
    counted: bool,
}

impl TakeAndLeave {
    fn take(&self, table: &Table, me: u64) -> Option<usize> {
        if self.counted { table.take_and_count(me) } else { table.take(me) }
    }
}

/// The table, in memory that children share.
struct World(SharedMemory);

impl World {
    fn table(&self) -> &Table {
        // SAFETY: a page of zeros, mapped as long as self, is an empty table.
        unsafe { self.0.base().cast().as_ref() }
    }
}

impl Scenario for TakeAndLeave {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("seats, counted: {}", self.counted)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["Table::take", "Table::leave"]
    }

    fn world(&self) -> World {
        World(SharedMemory::new(size_of::<Table>()))
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        let seat = self.take(world.table(), DOOMED).expect("all are free");
        notes.set(NOTE_TAKEN, 1);
        if self.counted {
            world.table().leave_and_count(seat)
        } else {
            world.table().leave(seat)
        }
        notes.set(NOTE_LEFT, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.0.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let table = world.table();
        let taken = table.seats.iter().any(|seat| seat.load(Ordering::Relaxed) == DOOMED);
        if taken && notes.get(NOTE_LEFT) == 1 {
            return Err("it was told that it has left its seat".into());
        }
        table.clean_up_after(DOOMED);
        let usable = (1..=SEATS as u64).filter(|me| self.take(table, *me).is_some()).count();
        if usable == SEATS { Ok(()) } else { Err(format!("of {SEATS} seats {usable} are usable")) }
    }
}

fn main() {
    let everywhere = |counted| Run::new(&TakeAndLeave { counted }).points(usize::MAX).kill();
    everywhere(true).finds("of 3 seats 2 are usable");
    everywhere(false).passes();
}
