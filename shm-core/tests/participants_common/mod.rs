//! Forked children and a shared page for the participants' tests.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{ParticipantId, Table};
use shm_core::sync::{AtomicU32, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No wait of these tests takes so long unless something hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// Words next to the table, for the tests' own use.
#[repr(C)]
pub(crate) struct Board {
    pub(crate) event: EventCount,
    pub(crate) words: [AtomicU32; 64],
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

/// Anonymous memory that forked children share.
pub(crate) fn shared_mapping(len: usize) -> Arc<Mapping> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: a new mapping, wherever the kernel likes.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, flags) }.unwrap();
    let unmap = Box::new(|base: NonNull<u8>, len| {
        // SAFETY: the mapping made above, which nobody uses any more.
        unsafe { munmap(base.as_ptr().cast(), len) }.unwrap();
    });
    // SAFETY: our fresh mapping of `len` bytes, page aligned.
    unsafe { Mapping::from_raw(NonNull::new(base.cast()).unwrap(), len, unmap) }
}

pub(crate) struct World {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) table: Table,
    pub(crate) board: Mapped<Board>,
}

pub(crate) fn world(slots: u32) -> World {
    let mapping = shared_mapping(1 << 17);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, slots) }.unwrap();
    let board = Mapped::<Board>::new(&mapping, 1 << 16).unwrap(); // all zero is a fine Board
    World { mapping, table, board }
}

impl World {
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.board.words[index].load(Ordering::Acquire)
    }

    /// The life word of `id`, which only its keeper and the kernel should write.
    pub(crate) fn life(&self, id: ParticipantId) -> Mapped<AtomicU32> {
        let slots_at = Table::bytes_for(id.slot());
        Mapped::new(&self.mapping, slots_at + 12).unwrap()
    }

    pub(crate) fn set(&self, index: usize, value: u32) {
        self.board.words[index].store(value, Ordering::Release);
        self.board.event.notify();
    }

    pub(crate) fn await_word(&self, index: usize, wanted: impl Fn(u32) -> bool) -> u32 {
        let end = Instant::now() + WATCHDOG;
        loop {
            let ticket = self.board.event.prepare();
            let word = self.word(index);
            if wanted(word) {
                return word;
            }
            assert!(Instant::now() < end, "word {index} stayed {word}");
            self.board.event.wait(ticket, Some(end));
        }
    }

    /// A child that joins, says so in word `index`, and then only waits to be killed.
    pub(crate) fn member_child(&self, index: usize) -> (Child, ParticipantId) {
        let child = Child::fork(|| {
            let member = self.table.join().unwrap();
            self.set(index, member.id().to_bits());
            loop {
                std::thread::sleep(WATCHDOG);
            }
        });
        let id = self.await_word(index, |word| word != 0);
        (child, ParticipantId::from_bits(id).unwrap())
    }
}

/// A forked child, killed and waited for when dropped.
pub(crate) struct Child {
    pub(crate) pid: u32,
    ended: bool,
}

impl Child {
    pub(crate) fn fork(body: impl FnOnce()) -> Child {
        // SAFETY: the child runs `body` and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            let end = catch_unwind(AssertUnwindSafe(body));
            // SAFETY: ends the process.
            unsafe { libc::_exit(if end.is_ok() { 0 } else { 101 }) };
        }
        Child { pid: pid as u32, ended: false }
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: our child, not waited for yet, so the pid is its own.
        assert_eq!(unsafe { libc::kill(self.pid as i32, signal) }, 0);
    }

    /// Waits for its end; its exit code, or minus the signal.
    pub(crate) fn wait(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: our child, and a place for its status.
        let got = unsafe { libc::waitpid(self.pid as i32, &raw mut status, 0) };
        assert_eq!(got, self.pid as i32);
        self.ended = true;
        if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
    }

    pub(crate) fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        assert_eq!(self.wait(), -libc::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}
