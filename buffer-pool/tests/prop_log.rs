//! A log and a disk that loses power, at every call of a workload:
//!
//! 1. What was flushed is there afterwards, all of it, in order.
//! 2. What was made since is there up to some record, or not at all; nothing else is.
//! 3. Where the disk failed meanwhile, what a later flush has told is there is there.
//! 4. The log goes on where it ended, any number of times.
//! 5. A disk that lies about syncs is found by the same checks.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::log::{LogError, LogOptions, LogReader, LogUser, Next};
use buffer_pool::store::Store;
use buffer_pool::store::sim::{Call, Failure, Fault, Loss, SimDisk, SimOptions, When};
use buffer_pool::tail::{Lsn, Shape, Tail};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::depth;
use shm_testkit::random::Random;
use std::path::Path;
use std::sync::Arc;

const LOG: u64 = 77;
/// Of two sectors that are the log's: most records lie in two segments or more.
const SEGMENT_BYTES: u64 = 512 + 1024;
const SHAPE: Shape = Shape { seats: 2, threads: 2, slots: 8, lane_bytes: 512 };
const STEPS: usize = 24;

fn options(disk: &SimDisk) -> LogOptions {
    let store: Arc<dyn Store> = Arc::new(disk.clone());
    LogOptions { store, segment_bytes: SEGMENT_BYTES, ..LogOptions::new(Path::new("/log"), LOG) }
}

/// A machine that is on.
struct Machine {
    users: Vec<LogUser>,
    _members: Vec<Arc<Member>>,
}

/// Two processes use the log that ends here.
fn machine(disk: &SimDisk, end: Lsn) -> Machine {
    let mapping = Mapping::heap(Table::bytes_for(SHAPE.seats) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, SHAPE.seats) }.unwrap();
    let mapping = Mapping::heap(Tail::bytes_for(SHAPE) as usize);
    // SAFETY: as above.
    unsafe { Tail::create(&mapping, 0, SHAPE, end) }.unwrap();
    let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
    let members = [(); 2].map(|()| table.join().unwrap()).to_vec();
    let of = |at: usize| LogUser::new(&tail, &options(disk), &members[at / 2], at as u32 % 2);
    let users = (0..4).map(|at| of(at).unwrap()).collect();
    Machine { users, _members: members }
}

/// What was made, and how much of it was told to be on the disk.
#[derive(Debug, Default, Clone)]
struct Told {
    made: Vec<(Lsn, Vec<u8>)>,
    flushed: usize,
}

/// Makes records of odd lengths and flushes, until something fails but a flush that is told to.
fn works(disk: &SimDisk, seed: u64, end: Lsn, told: &mut Told) -> Result<(), LogError> {
    let (mut machine, mut random) = (machine(disk, end), Random::new(seed, 0));
    for step in 0..STEPS {
        let user = &mut machine.users[random.below(4) as usize];
        // Lengths come again, so that old records may stand where new ones would.
        let mut said = vec![step as u8 + 1; [8, 30, 200, 400][random.below(4) as usize]];
        said[0] = seed as u8;
        let is_down = || disk.list(Path::new("/log")).is_err();
        let (half, rest) = said.split_at(said.len() / 3);
        match user.append(&[half, rest], None) {
            Ok(range) => told.made.push((range.start, said)),
            Err(error) if is_down() => return Err(error),
            // There was no room, and the disk failed.
            Err(error) => assert!(matches!(error, LogError::File { .. }), "{error}"),
        }
        let Some((last, _)) = told.made.last().filter(|_| random.below(3) == 0) else { continue };
        match user.flush(*last, None) {
            Ok(()) => told.flushed = told.made.len(),
            Err(error) if is_down() => return Err(error),
            Err(error) => assert!(matches!(error, LogError::File { .. }), "{error}"),
        }
    }
    Ok(())
}

/// Reads the log: where it ends; or what should not be.
fn check(disk: &SimDisk, from: Lsn, told: &Told) -> Result<(Lsn, usize), String> {
    let mut reader = LogReader::new(&options(disk), from);
    let mut count = 0;
    loop {
        match reader.next_record().map_err(|error| error.to_string())? {
            Next::End(_) if count < told.flushed => {
                return Err(format!("{count} records are left of {}", told.flushed));
            }
            Next::End(_) => break,
            Next::Record(lsn, said) => {
                let made = told.made.get(count).ok_or("a record that nobody has made")?;
                if (lsn, said) != (made.0, &made.1[..]) {
                    return Err(format!("record {count} at {lsn} is another"));
                }
                count += 1;
            }
        }
    }
    let end = reader.end_here().map_err(|error| error.to_string())?;
    Ok((end, count))
}

/// The loss that a seed stands for.
fn loss(seed: u64) -> Loss {
    match seed % 4 {
        0 => Loss::All,
        1 => Loss::Nothing,
        2 => Loss::Some(seed),
        _ => Loss::After(seed),
    }
}

fn disk(dir: &Path, options: SimOptions) -> SimDisk {
    SimDisk::new(dir, options).unwrap()
}

/// Stops the world at each call, three times over; how often it was stopped.
fn crashes_everywhere(seed: u64, options: &SimOptions) -> Result<u64, String> {
    for stop_at in 0.. {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (mut end, mut told, mut was_down) = (Lsn(8), Told::default(), false);
        for round in 0..3 {
            let from = disk(dir.path(), SimOptions::default()).changes().unwrap();
            let at = from + stop_at;
            let on = disk(dir.path(), SimOptions { stop_at: Some(at), ..options.clone() });
            was_down = works(&on, seed + round, end, &mut told).is_err();
            on.lose_power(loss(seed + at)).unwrap();
            let after = disk(dir.path(), SimOptions::default());
            let count;
            (end, count) = check(&after, Lsn(8), &told)?;
            told.made.truncate(count);
            told.flushed = count;
        }
        if !was_down {
            return Ok(stop_at);
        }
    }
    Ok(0)
}

fn seeds() -> std::ops::Range<u64> {
    0..if depth::is_deep() { 200 } else { 4 }
}

#[test]
fn what_was_flushed_outlives_the_power() {
    let mut crashes = 0;
    for seed in seeds() {
        let crashed = crashes_everywhere(seed, &SimOptions::default());
        crashes += crashed.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
    println!("power lost at {crashes} calls, three times over");
    assert!(crashes > 100);
}

#[test]
fn a_disk_that_fails_loses_nothing_that_was_told() {
    let fault = |call, failure, seed| {
        let when = When::OneIn { calls: 5, seed };
        Fault { call, when, failure, in_part: seed % 2 == 0 }
    };
    for seed in seeds() {
        let faults = vec![
            fault(Call::Sync, Failure::Io, seed),
            fault(Call::Write, Failure::Io, seed + 1),
            fault(Call::Extend, Failure::NoSpace, seed + 2),
        ];
        let options = SimOptions { faults, ..SimOptions::default() };
        let crashed = crashes_everywhere(seed, &options);
        crashed.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn a_disk_that_lies_is_found() {
    let lying = SimOptions { lies: true, ..SimOptions::default() };
    assert!(seeds().any(|seed| crashes_everywhere(seed, &lying).is_err()));
}
