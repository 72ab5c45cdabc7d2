//! Threads read what others replace and free, for a while: nobody ever sees a thing that was
//! freed, and in the end all can be.
#![cfg(not(any(shm_loom, shm_explore)))]
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const READERS: u64 = 3;
const THINGS: usize = 64;
const PLACES: usize = 4;
const TIME: Duration = Duration::from_millis(900);
const LIMIT: Duration = Duration::from_secs(60);

/// A thing holds its number while it is in use, and 0 once it was freed.
struct Store {
    places: [AtomicU64; PLACES],
    things: [AtomicU64; THINGS],
}

impl Store {
    fn new() -> Store {
        let word = |value| AtomicU64::new(value);
        Store {
            places: std::array::from_fn(|place| word(place as u64 + 1)),
            things: std::array::from_fn(|at| word(if at < PLACES { at as u64 + 1 } else { 0 })),
        }
    }

    fn thing(&self, number: u64) -> &AtomicU64 {
        &self.things[number as usize - 1]
    }
}

/// How many things it has read, and how often one had been freed.
fn read(hazards: &Hazards, store: &Store, table: &Table, end: Instant) -> (u64, u64) {
    let row = hazards.row(&table.join().unwrap()).unwrap();
    let protector = row.protector().unwrap();
    let (mut count, mut freed) = (0, 0);
    let (mut one, mut other) = (protector.slot().unwrap(), protector.slot().unwrap());
    while Instant::now() < end {
        for place in store.places.iter().cycle().take(400) {
            let number = one.protect_word(place, |word| word).unwrap();
            for _ in 0..3 {
                let held = store.thing(number).load(Ordering::Relaxed);
                freed += u64::from(held != number);
            }
            count += 1;
            std::mem::swap(&mut one, &mut other);
        }
    }
    (count, freed)
}

/// Replaces things for as long, and frees what it may: how many, and what it could not free.
fn replace(hazards: &Hazards, store: &Store, end: Instant) -> (u64, Vec<u64>) {
    let mut free: Vec<u64> = (PLACES as u64 + 1..=THINGS as u64).collect();
    let (mut out, mut protected, mut count) = (Vec::new(), Protected::default(), 0);
    while Instant::now() < end {
        for place in &store.places {
            let Some(number) = free.pop() else { break };
            store.thing(number).store(number, Ordering::Relaxed);
            out.push(place.swap(number, Ordering::Release));
        }
        hazards.snapshot_into(&mut protected);
        out.retain(|number| {
            if protected.contains(*number) {
                return true;
            }
            store.thing(*number).store(0, Ordering::Relaxed);
            free.push(*number);
            count += 1;
            false
        });
    }
    (count, out)
}

fn replaced_and_read() {
    let seats = READERS as u32;
    let mapping = Mapping::heap(Table::bytes_for(seats) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(seats, 1) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, seats, 1) }.unwrap();
    let (store, end) = (Store::new(), Instant::now() + TIME);
    let (read, freed, mut out) = std::thread::scope(|scope| {
        let readers =
            [(); READERS as usize].map(|()| scope.spawn(|| read(&hazards, &store, &table, end)));
        let (freed, out) = replace(&hazards, &store, end);
        let (mut count, mut violations) = (0, 0);
        for reader in readers {
            let (read, too_early) = reader.join().unwrap();
            (count, violations) = (count + read, violations + too_early);
        }
        assert_eq!(violations, 0, "things were freed while somebody used them");
        (count, freed, out)
    });
    println!("{read} read, {freed} freed");
    assert!(read > 1000 && freed > 10, "{read} read, {freed} freed");
    let protected = hazards.snapshot();
    out.retain(|number| protected.contains(*number));
    assert_eq!(out, [], "nobody reads any more");
}

#[test]
fn nothing_is_freed_too_early() {
    within(LIMIT, replaced_and_read);
}

/// Threads of one process take groups and give them back: no two have the same.
#[test]
fn threads_have_groups_of_their_own() {
    let mapping = Mapping::heap(Table::bytes_for(1) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(1, 3) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, 1, 3) }.unwrap();
    let row = hazards.row(&table.join().unwrap()).unwrap();
    let taken = || {
        let mut taken = 0;
        for value in 1..400u64 {
            // Four threads, three groups.
            let Ok(protector) = row.protector() else { continue };
            let mut slot = protector.slot().unwrap();
            let word = AtomicU64::new(value << 8);
            slot.protect_word(&word, |word| word).unwrap();
            assert!(hazards.snapshot().contains(value << 8), "somebody else cleared it");
            taken += 1;
        }
        taken
    };
    let taken: u64 = within(LIMIT, || {
        std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(taken));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        })
    });
    assert!(taken > 100, "{taken}");
    assert!(hazards.snapshot().is_empty());
}
