//! Power is lost at every call of a workload of a pool, which has no log:
//!
//! 1. What a page was at a sync that succeeded it is afterwards, or what it became later.
//! 2. So is how long the file is, and that it is there.
//! 3. A page that was torn since is an error to who reads it, and no other page is one.
//! 4. Where a sync failed, the next one that succeeds has all that is in the pool durable.
//! 5. A disk that lies about syncs is found by the same checks.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileError, FileOptions, PageError, Session};
use buffer_pool::store::Store;
use buffer_pool::store::sim::{Call, Failure, Fault, Loss, SimDisk, SimOptions, Stopped, When};
use pool_common::{pool_of, small};
use shm_testkit::depth;
use shm_testkit::random::Random;
use std::path::Path;
use std::sync::Arc;

const PAGE: usize = 1024;
const BODY: usize = PAGE - HEADER_BYTES;
/// More than there are frames: some are written when they are thrown out.
const MANY: u32 = 24;
/// All of them are in the pool.
const FEW: u32 = 12;
const STEPS: u64 = 30;

fn path() -> &'static Path {
    Path::new("/file")
}

fn register(session: &Session) -> Result<FileNumber, FileError> {
    let options = FileOptions { create: true, blocks_max: Some(64) };
    session.register(FileKey { id: 1, fork: 0 }, path(), &options)
}

/// What was told to the user.
#[derive(Debug, Default)]
struct Told {
    is_registered: bool,
    /// Of each block, what it was at the last sync, and what it became since.
    values: Vec<Vec<u64>>,
    /// So many were there at the last sync.
    blocks: usize,
}

impl Told {
    fn synced(&mut self) {
        self.values.iter_mut().for_each(|values| _ = values.drain(..values.len() - 1));
        self.blocks = self.values.len();
    }
}

/// Changes pages and syncs them, until something fails but a sync that is told to.
fn works(disk: &SimDisk, seed: u64, blocks: u32, told: &mut Told) -> Result<(), FileError> {
    let pool = pool_of(&small(), Arc::new(disk.clone()));
    let session = pool.session().unwrap();
    let file = register(&session)?;
    told.is_registered = true;
    let mut random = Random::new(seed, 0);
    for value in 1..=STEPS {
        match (random.below(6), told.values.len() as u32) {
            (0, now) | (_, now @ 0) if now < blocks => {
                let count = (blocks / 3).min(blocks - now);
                // If it fails it may have happened.
                told.values.resize(told.values.len() + count as usize, vec![0]);
                session.extend(file, count)?;
            }
            (1, _) => match session.sync(file) {
                Ok(_) => told.synced(),
                Err(error) if disk.list(Path::new("/")).is_err() => return Err(error.into()),
                Err(error) => assert!(matches!(error, PageError::File { what: "sync", .. })),
            },
            (_, now) => {
                let block = random.below(now.into()) as u32;
                let page = session.page(file, block)?;
                page.exclusive()?
                    .write(&[(HEADER_BYTES, &value.to_le_bytes().repeat(BODY / 8))])?;
                told.values[block as usize].push(value);
            }
        }
    }
    Ok(())
}

/// The value of a page of which all is of one write.
fn whole(page: &[u8]) -> Option<u64> {
    let words = page[HEADER_BYTES..].as_chunks().0;
    let is_whole = words.iter().all(|word| *word == words[0]);
    is_whole.then_some(u64::from_le_bytes(words[0]))
}

/// Reads all there is after a loss: how many pages are torn; or what should not be.
fn check(disk: &SimDisk, told: &Told) -> Result<usize, String> {
    let there = disk.bytes_of(path());
    if there.is_err() && told.is_registered {
        return Err("the file is gone".to_owned());
    }
    let there = there.unwrap_or_default();
    if there.len() / PAGE < told.blocks {
        return Err(format!("{} blocks are left of {}", there.len() / PAGE, told.blocks));
    }
    let pool = pool_of(&small(), Arc::new(disk.clone()));
    let session = pool.session().unwrap();
    let file = register(&session).map_err(|error| error.to_string())?;
    let mut torn = 0;
    for (block, page) in there.chunks(PAGE).enumerate() {
        let read = session.read(file, block as u32, |view| {
            let mut bytes = [0; PAGE];
            view.copy_out(0, &mut bytes);
            whole(&bytes)
        });
        let values = &told.values[block];
        match (read, whole(page)) {
            (Ok(Some(value)), _) if values.contains(&value) => {}
            (Err(PageError::Checksum { .. }), None) if values.len() > 1 => torn += 1,
            (read, _) => return Err(format!("block {block} is {read:?}, and was {values:?}")),
        }
    }
    Ok(torn)
}

/// One crash: whether the workload came to its end, and what is left.
fn crash(seed: u64, blocks: u32, loss: Loss, options: SimOptions) -> (bool, Result<usize, String>) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = SimDisk::new(dir.path(), options).unwrap();
    let mut told = Told::default();
    let worked = works(&disk, seed, blocks, &mut told);
    if let Err(error) = &worked {
        let stopped = disk.list(Path::new("/")).map(drop);
        assert!(stopped.is_err_and(|error| Stopped::is(&error)), "{error:?}");
    }
    disk.lose_power(loss).unwrap();
    let fresh = SimDisk::new(dir.path(), SimOptions::default()).unwrap();
    (worked.is_ok(), check(&fresh, &told))
}

fn losses(seed: u64) -> [Loss; 5] {
    [Loss::All, Loss::Nothing, Loss::Some(seed), Loss::Some(!seed), Loss::After(seed)]
}

/// At every call of some workloads: how many crashes, and torn pages, there were.
fn at_every_call(blocks: u32, faults: &[Fault]) -> (usize, usize) {
    let (mut crashes, mut torn) = (0, 0);
    for seed in 1..=if depth::is_deep() { 200 } else { 6 } {
        for stop_at in 0.. {
            let mut ended = false;
            for loss in losses(seed * 1000 + stop_at) {
                let faults = faults.to_vec();
                let options = SimOptions { stop_at: Some(stop_at), faults, ..Default::default() };
                let (has_ended, left) = crash(seed, blocks, loss, options);
                let here = || format!("workload {seed} stopped at {stop_at}, then {loss:?}");
                torn += left.unwrap_or_else(|wrong| panic!("{}: {wrong}", here()));
                ended |= has_ended;
                crashes += 1;
            }
            if ended {
                break;
            }
        }
    }
    println!("{crashes} crashes, {torn} torn pages");
    (crashes, torn)
}

#[test]
fn what_was_synced_is_there_and_what_is_torn_is_told() {
    let (crashes, torn) = at_every_call(MANY, &[]);
    assert!(crashes > 300 && torn > 30, "{crashes} crashes, {torn} torn pages");
}

#[test]
fn what_a_failed_sync_lost_is_made_durable_by_the_next() {
    for in_part in [false, true] {
        let when = When::OneIn { calls: 2, seed: 3 };
        let fault = Fault { call: Call::Sync, when, failure: Failure::Io, in_part };
        let (crashes, torn) = at_every_call(FEW, &[fault]);
        assert!(crashes > 300 && torn > 30, "{crashes} crashes, {torn} torn pages");
    }
}

/// A page that was changed on the disk is an error, too.
#[test]
fn a_flipped_bit_is_told() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = SimDisk::new(dir.path(), SimOptions::default()).unwrap();
    let pool = pool_of(&small(), Arc::new(disk.clone()));
    let session = pool.session().unwrap();
    let file = register(&session).unwrap();
    session.extend(file, 2).unwrap();
    let page = session.page(file, 1).unwrap();
    page.exclusive().unwrap().write(&[(HEADER_BYTES, b"whole")]).unwrap();
    drop(page);
    session.sync(file).unwrap();
    session.evict_all().unwrap();
    disk.flip(path(), PAGE as u64 + 700, 3).unwrap();
    let found = session.page(file, 1).map(drop);
    assert!(matches!(found, Err(PageError::Checksum { block: 1, .. })), "{found:?}");
    session.page(file, 0).unwrap();
}

#[test]
fn a_lying_disk_is_found() {
    let found = (1..=40).filter(|seed| {
        let options = SimOptions { lies: true, ..SimOptions::default() };
        crash(*seed, FEW, Loss::Some(*seed), options).1.is_err()
    });
    let found = found.count();
    assert!(found > 20, "{found} of 40");
}
