//! Real processes that write to one disk that loses power, killed as they do, also within a call:
//! the others go on, what was told is there, and a write is there wholly or not at all. The disk is
//! whole afterwards: what can be seen is what is left where nothing is lost, and where all was
//! synced.
#![cfg(not(any(shm_loom, shm_explore)))]

use buffer_pool::store::sim::{Loss, SimDisk, SimOptions};
use buffer_pool::store::{PageFile, Store};
use shm_testkit::killpoint::SharedMemory;
use shm_testkit::random;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const WRITERS: u64 = 4;
const BLOCKS: u64 = 8;
/// In more than one sector, and not from the beginning of one.
const BLOCK: usize = 1300;
const TIME: Duration = Duration::from_secs(2);

/// How often each block of the file was written, as was told; and the number of calls.
struct Board(SharedMemory);

impl Board {
    fn word(&self, index: u64) -> &AtomicU64 {
        assert!((index as usize) < self.0.len() / 8);
        // SAFETY: inside the memory.
        let word = unsafe { self.0.base().cast::<AtomicU64>().add(index as usize) };
        // SAFETY: aligned, and only ever an atomic.
        unsafe { word.as_ref() }
    }
}

fn path(dir: &str, name: u64) -> PathBuf {
    Path::new(dir).join(name.to_string())
}

/// Writes its blocks of a file that all share, in turns, and does other things meanwhile.
fn works(disk: &SimDisk, board: &Board, writer: u64) -> ! {
    let file = disk.open(&path("/shared", 0), true).unwrap();
    let mut state = random::Random::new(std::process::id().into(), writer);
    loop {
        let block = writer * BLOCKS + state.below(BLOCKS);
        let next = value(&read(&*file, block)).max(board.word(block).load(Relaxed)) + 1;
        file.write(block * BLOCK as u64, &block_of(next)).unwrap();
        board.word(block).store(next, Relaxed);
        board.word(WRITERS * BLOCKS).fetch_add(1, Relaxed);
        match state.below(8) {
            0 => file.sync().unwrap(),
            1 => comes_and_goes(disk, writer),
            2 => drop(disk.list(Path::new("/own")).unwrap()),
            _ => {}
        }
    }
}

/// A file of its own is replaced as a control file is.
fn comes_and_goes(disk: &SimDisk, writer: u64) {
    let (old, new) = (path("/own", writer), path("/own", writer + WRITERS));
    let file = disk.open(&new, true).unwrap();
    file.write(0, &block_of(7)).unwrap();
    file.sync().unwrap();
    disk.rename(&new, &old).unwrap();
    disk.sync_name(&old).unwrap();
    let scratch = path("/own", writer + 2 * WRITERS);
    disk.open(&scratch, true).unwrap();
    disk.remove(&scratch).unwrap();
}

fn block_of(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(BLOCK.div_ceil(8))[..BLOCK].to_vec()
}

/// What a block says; it is of one write.
fn value(block: &[u8]) -> u64 {
    let value = block.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    assert!(*block == block_of(value)[..block.len()], "half a write");
    value
}

fn read(file: &dyn PageFile, block: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; BLOCK];
    let into = std::ptr::NonNull::from(&mut bytes[..]).cast();
    // SAFETY: so many bytes, and nobody else has them.
    let read = unsafe { file.read(block * BLOCK as u64, into, BLOCK) }.unwrap();
    bytes.truncate(read);
    bytes
}

struct Killed(libc::pid_t);

impl Killed {
    fn fork(work: impl FnOnce()) -> Killed {
        // SAFETY: the child works, and ends in `_exit` where it panics.
        match unsafe { libc::fork() } {
            0 => {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                // SAFETY: ends the process.
                unsafe { libc::_exit(1) }
            }
            pid => {
                assert!(pid > 0);
                Killed(pid)
            }
        }
    }

    /// Whether it was at work until then.
    fn kill(&self) -> bool {
        let mut status = 0;
        // SAFETY: our child, which is waited for once.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: as above, and a place for its status.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        pid == self.0 && libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL
    }
}

/// All blocks, as far as the file goes; none is short of what was told.
fn check(board: &Board, file: &dyn PageFile) {
    for block in 0..WRITERS * BLOCKS {
        let (found, told) = (value(&read(file, block)), board.word(block).load(Relaxed));
        assert!((told..=told + 1).contains(&found), "{block}: {told} told, {found} found");
    }
}

#[test]
fn whoever_is_killed_the_disk_is_whole() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = SimDisk::new(dir.path(), SimOptions::default()).unwrap();
    let shared: Arc<dyn PageFile> = disk.open(&path("/shared", 0), true).unwrap();
    disk.sync_name(&path("/shared", 0)).unwrap();
    let board = Board(SharedMemory::new(4096));
    let mut state = random::seed();
    let mut random = |below: u64| random::next(&mut state) % below;
    let spawn = |writer| Killed::fork(|| works(&disk, &board, writer));
    let mut children: Vec<_> = (0..WRITERS).map(spawn).collect();
    let (end, mut kills) = (Instant::now() + TIME, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(200 + random(2000)));
        let at = random(WRITERS);
        assert!(children[at as usize].kill(), "it failed by itself");
        kills += 1;
        check_one(&disk, at);
        children[at as usize] = spawn(at);
    }
    children.iter().for_each(|child| assert!(child.kill()));
    check(&board, &*shared);
    let names = || (0..3 * WRITERS).map(|name| disk.bytes_of(&path("/own", name)).ok());
    let seen: Vec<_> = names().chain([disk.bytes_of(&path("/shared", 0)).ok()]).collect();
    disk.lose_power(Loss::Nothing).unwrap();
    let left: Vec<_> = names().chain([disk.bytes_of(&path("/shared", 0)).ok()]).collect();
    assert!(seen == left, "what was seen is not what is left");
    let shared = disk.open(&path("/shared", 0), false).unwrap();
    shared.sync().unwrap();
    disk.lose_power(Loss::All).unwrap();
    check(&board, &*disk.open(&path("/shared", 0), false).unwrap());
    let writes = board.word(WRITERS * BLOCKS).load(Relaxed);
    println!("{writes} writes, {kills} killed");
    assert!(writes > 100 && kills > 20);
}

/// The file of one who was killed replacing it is whole.
fn check_one(disk: &SimDisk, writer: u64) {
    if let Ok(bytes) = disk.bytes_of(&path("/own", writer)) {
        assert!(bytes == block_of(7));
    }
}
