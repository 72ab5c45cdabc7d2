//! The thread that holds a member's life word.
//!
//! Robust futexes belong to threads: the kernel walks a thread's robust list when that thread ends.
//! So each membership has a thread of its own, which does nothing but live as long as it.
//!
//! Its robust list is empty, and its `list_op_pending` (what the C library sets around one lock
//! operation) names the life word for as long as it lives. The kernel treats the pending word as it
//! treats a listed one, but finds it by an address in this process's own memory, so that no pointer
//! stands in shared memory and nobody can lead the kernel astray. What is left to a scribbler is
//! the word itself; the price is its victim's death mark, and the pid check replaces it.
//!
//! The list's head has a page of its own, mapped shared, though with nobody: where memory is short,
//! the kernel may empty the private pages of a process that it has killed before that one's threads
//! have looked at their lists (`oom_kill.c`, and `process_mrelease`); it leaves shared mappings
//! alone, says its source. It has waited 2 s before it does so since Linux 5.18. We have not seen
//! such a loss, nor tried to bring one about. A mark that is missing all the same costs a sleeper a
//! second and others 100 ms: see `Watch`.
//!
//! # If a process dies here
//! - Before the thread id is in the word: the word stays 0, nobody sleeps on it, and the claim word
//!   names a dead process.
//! - From then on: the kernel marks it.
//! - When leaving, after the word was cleared: a pending word of 0 makes the kernel wake one
//!   sleeper, who passes it on.
use super::shared::Slot;
use crate::futex::Futex;
use crate::mapping::MappedSlice;
use crate::sync::Ordering;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::{c_long, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// The C library adds what its thread-local data needs.
const STACK_BYTES: usize = 64 << 10;

const HEAD_BYTES: usize = size_of::<RobustListHead>();

/// The kernel's `struct robust_list_head` (linux/futex.h).
#[repr(C)]
struct RobustListHead {
    next: *const c_void,
    futex_offset: c_long,
    list_op_pending: *const c_void,
}

/// Memory for a list's head, which only the kernel reads.
struct HeadPage(NonNull<RobustListHead>);

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for HeadPage {}

impl HeadPage {
    fn new() -> io::Result<HeadPage> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, wherever the kernel likes.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), HEAD_BYTES, access, flags) }?;
        let page = HeadPage(NonNull::new(page.cast()).ok_or(Errno::NOMEM)?);
        // A forked child, which has no keeper, could write to it.
        // SAFETY: our page.
        unsafe { madvise(page.0.as_ptr().cast(), HEAD_BYTES, Advice::LinuxDontFork) }?;
        Ok(page)
    }

    /// An empty list, one that ends where it begins, with `life` pending.
    fn fill(&self, life: &Futex) -> *const RobustListHead {
        let head = RobustListHead {
            next: self.0.as_ptr().cast_const().cast(),
            futex_offset: 0,
            list_op_pending: std::ptr::from_ref(life).cast(),
        };
        // SAFETY: our page, aligned as pages are, and not registered yet.
        unsafe { self.0.write(head) };
        self.0.as_ptr()
    }
}

impl Drop for HeadPage {
    fn drop(&mut self) {
        // SAFETY: our page, registered no more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), HEAD_BYTES) };
    }
}

pub(super) struct Keeper {
    quit: Arc<Futex>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Has the life word of slot `index` held by a new thread.
    ///
    /// `None` where this system has no robust futexes; an error where it refuses a thread.
    pub(super) fn hold(slots: &MappedSlice<Slot>, index: usize) -> io::Result<Option<Keeper>> {
        let quit = Arc::new(Futex::new(0));
        let (ready, held) = mpsc::channel();
        let (slots, theirs) = (slots.clone(), quit.clone());
        let page = HeadPage::new()?;
        let keep = move || keep(&slots[index].life, &page, &theirs, &ready);
        // The thread inherits the mask: signals are for threads that can act on them.
        let blocked = AllSignalsBlocked::new();
        let name = "shm-keeper".to_owned();
        let thread = std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(keep)?;
        drop(blocked);
        match held.recv() {
            Ok(true) => Ok(Some(Keeper { quit, thread })),
            _ => {
                // It is on its way out, and has the table mapped until it is there.
                let _ = thread.join();
                Ok(None)
            }
        }
    }

    /// Ends the thread, when the life word is no longer its own. Returns when it has let go.
    pub(super) fn release(self) {
        // Pairs with the Acquire in `keep`.
        self.quit.word().store(1, Ordering::Release);
        self.quit.wake_all();
        // The thread does not panic; if it did, it would have let go all the same.
        let _ = self.thread.join();
    }
}

fn keep(life: &Futex, page: &HeadPage, quit: &Futex, ready: &mpsc::Sender<bool>) {
    if !set_robust_list(page.fill(life)) {
        let _ = ready.send(false);
        return;
    }
    let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    // Pairs with the Acquire in `Watch::life`: who sees the new holder sees that the old one has
    // gone.
    life.word().store(thread, Ordering::Release);
    let _ = ready.send(true);
    // Pairs with the Release in `release`: the word was given up before we let go of it.
    while quit.load(Ordering::Acquire) == 0 {
        quit.wait(0, None);
    }
    set_robust_list(std::ptr::null());
}

/// Replaces the list that the C library registered: this thread takes no robust mutex.
fn set_robust_list(head: *const RobustListHead) -> bool {
    // SAFETY: `head` is null or outlives its registration (`keep`); the kernel only reads it.
    unsafe { libc::syscall(libc::SYS_set_robust_list, head, HEAD_BYTES) == 0 }
}

/// While it lives, the calling thread takes no signal.
struct AllSignalsBlocked {
    before: libc::sigset_t,
}

impl AllSignalsBlocked {
    fn new() -> AllSignalsBlocked {
        let mut all = MaybeUninit::uninit();
        // SAFETY: fills the set in.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: two sets of our own, the first of them filled in.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: filled in by the call, which fails only on a bad first argument.
        AllSignalsBlocked { before: unsafe { before.assume_init() } }
    }
}

impl Drop for AllSignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: restores what `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}
