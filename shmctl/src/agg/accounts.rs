//! The file that is used when none is named: pgbench's accounts table as CSV.
//!
//! As in pgbench, a scale is 100,000 accounts of one branch: `aid` counts from 1, `bid` is the
//! branch, `filler` is 84 blanks. In pgbench all balances begin at 0; here `abalance` is a
//! pseudo-random number from -99,999 to 99,999 made from `aid`, so that sums mean something. The
//! file of a scale is always the same, so it is kept and used again.

use super::error::AggError;
use super::interrupt::Interrupt;
use super::progress::Progress;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Accounts of one branch.
pub const BRANCH_ROWS: u64 = 100_000;

/// The largest scale: a file of about 100 GB.
pub const SCALE_MAX: u32 = 10_000;

const HEADER: &[u8] = b"aid,bid,abalance,filler\n";
const FILLER: [u8; 84] = [b' '; 84];
const BLOCK_ROWS: u64 = 10_000;
const BALANCE_MAX: u64 = 99_999;

/// The file of a scale in `directory`, made if it is not there whole.
///
/// # Errors
/// [`AggError::Environment`] where there is no room or no right to make it;
/// [`AggError::Interrupted`] where a signal came first.
pub fn ensure(
    directory: &Path,
    scale: u32,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<PathBuf, AggError> {
    let user = rustix::process::geteuid().as_raw();
    let path = directory.join(format!("shmkit-accounts-{user}-{scale}.csv"));
    let starts = block_starts(u64::from(scale) * BRANCH_ROWS);
    if is_whole(&path, &starts, user) {
        return Ok(path);
    }
    let bytes = starts[starts.len() - 1];
    let progress =
        if quiet { Progress::hidden() } else { Progress::on_terminal("generating", bytes) };
    let failed = |error: io::Error| no_file(&path, bytes, &error);
    let file = tempfile::Builder::new()
        .prefix(".shmkit-accounts-")
        .tempfile_in(directory)
        .map_err(failed)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)
        .or_else(|error| if error == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(error) })
        .map_err(|error| failed(error.into()))?;
    fill(file.as_file(), &starts, &path, &progress, interrupt)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

fn no_file(path: &Path, bytes: u64, error: &io::Error) -> AggError {
    AggError::Environment(format!(
        "{} ({} MB) cannot be made: {error}; give --data-dir or a smaller --scale",
        path.display(),
        bytes.div_ceil(1_000_000),
    ))
}

/// Whether the file is there, ours, and as long as it should be, with the right first and last row.
fn is_whole(path: &Path, starts: &[u64], user: u32) -> bool {
    let bytes = starts[starts.len() - 1];
    let last_row = row((starts.len() as u64 - 1) * BLOCK_ROWS);
    // Not through a symbolic link: others may write to the directory.
    let ours = std::fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.is_file() && metadata.uid() == user && metadata.len() == bytes
    });
    let holds = |file: &File, text: &[u8], offset| {
        let mut found = vec![0; text.len()];
        file.read_exact_at(&mut found, offset).is_ok() && found == text
    };
    ours && File::open(path).is_ok_and(|file| {
        holds(&file, HEADER, 0) && holds(&file, &last_row, bytes - last_row.len() as u64)
    })
}

/// Where each block of rows begins, and where the last one ends. Known without writing a row, so
/// that threads can write blocks at once.
fn block_starts(rows: u64) -> Vec<u64> {
    let mut at = HEADER.len() as u64;
    let mut starts = vec![at];
    for block in 0..rows / BLOCK_ROWS {
        at += block_aids(block).map(row_bytes).sum::<u64>();
        starts.push(at);
    }
    starts
}

fn block_aids(block: u64) -> std::ops::RangeInclusive<u64> {
    block * BLOCK_ROWS + 1..=(block + 1) * BLOCK_ROWS
}

fn fill(
    file: &File,
    starts: &[u64],
    path: &Path,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<(), AggError> {
    let failed = |error: io::Error| no_file(path, starts[starts.len() - 1], &error);
    let write_every = |first: usize, step: usize| -> Result<(), AggError> {
        let mut rows = Vec::new();
        for block in (first..starts.len() - 1).step_by(step) {
            interrupt.check()?;
            rows.clear();
            block_aids(block as u64).for_each(|aid| push_row(&mut rows, aid));
            file.write_all_at(&rows, starts[block]).map_err(failed)?;
            progress.advance(rows.len() as u64);
        }
        Ok(())
    };
    file.write_all_at(HEADER, 0).map_err(failed)?;
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    std::thread::scope(|scope| {
        let write_every = &write_every;
        let writers: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || write_every(first, threads))).collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn row(aid: u64) -> Vec<u8> {
    let mut row = Vec::new();
    push_row(&mut row, aid);
    row
}

fn push_row(rows: &mut Vec<u8>, aid: u64) {
    // Writing to a vector does not fail.
    let _ = write!(rows, "{aid},{},{},", branch(aid), balance(aid));
    rows.extend(FILLER);
    rows.push(b'\n');
}

fn row_bytes(aid: u64) -> u64 {
    let digits = |number: u64| 1 + u64::from(number.checked_ilog10().unwrap_or(0));
    let balance = balance(aid);
    let balance = digits(balance.unsigned_abs()) + u64::from(balance < 0);
    digits(aid) + digits(branch(aid)) + balance + FILLER.len() as u64 + 4
}

fn branch(aid: u64) -> u64 {
    (aid - 1) / BRANCH_ROWS + 1
}

fn balance(aid: u64) -> i64 {
    // SplitMix64: a bijection that scatters neighbours. (Steele, Lea, Flood, 2014.)
    let mut bits = aid.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits % (2 * BALANCE_MAX + 1)) as i64 - BALANCE_MAX as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(directory: &Path) -> PathBuf {
        ensure(directory, 1, true, &Interrupt::never()).unwrap()
    }

    #[test]
    fn a_scale_is_one_branch_of_pgbench_accounts() {
        let directory = tempfile::tempdir().unwrap();
        let path = make(directory.path());
        let mut rows = csv::Reader::from_path(&path).unwrap();
        let mut aid = 0;
        for row in rows.deserialize() {
            let (found, bid, abalance, filler): (u64, u64, i64, String) = row.unwrap();
            aid += 1;
            assert_eq!((found, bid, abalance), (aid, 1, balance(aid)));
            assert!(abalance.unsigned_abs() <= BALANCE_MAX && filler.len() == 84);
        }
        assert_eq!(aid, BRANCH_ROWS);
        let names: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing but the file is left");
    }

    #[test]
    fn branches_change_where_pgbench_changes_them() {
        assert_eq!((branch(1), branch(BRANCH_ROWS), branch(BRANCH_ROWS + 1)), (1, 1, 2));
        assert_eq!((branch(1_000_000), balance(1) == balance(2)), (10, false));
    }

    #[test]
    fn a_whole_file_is_used_again_and_a_damaged_one_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = make(directory.path());
        let whole = std::fs::read(&path).unwrap();
        let inode = || std::fs::symlink_metadata(&path).unwrap().ino();
        let first = inode();
        make(directory.path());
        assert_eq!(inode(), first);

        for damage in ["cut off", "last row", "symbolic link"] {
            match damage {
                "cut off" => std::fs::write(&path, &whole[..whole.len() - 1]).unwrap(),
                "last row" => {
                    let mut other = whole.clone();
                    let at = other.len() - 90;
                    other[at] ^= 1;
                    std::fs::write(&path, other).unwrap();
                }
                _ => {
                    let elsewhere = directory.path().join("elsewhere");
                    std::fs::rename(&path, &elsewhere).unwrap();
                    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
                }
            }
            make(directory.path());
            assert!(std::fs::symlink_metadata(&path).unwrap().is_file(), "{damage}");
            assert!(std::fs::read(&path).unwrap() == whole, "{damage}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_told_with_a_remedy() {
        let error = ensure(Path::new("/nowhere/at/all"), 1, true, &Interrupt::never());
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
