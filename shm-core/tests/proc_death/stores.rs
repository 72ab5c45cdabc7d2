//! SIGKILL that was sent is not a death: stores go on to land, made by the kernel in a call that
//! the killed process was in, or into memory that it still has. After a verdict of death none does.
use crate::kinds::{ptrace, stop_of};
use crate::participants_common::{Child, World, shared_mapping, world};
use crate::{Suspect, in_a_child, member, sleeps_for_ever, with_and_without_pidfd};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::fault::NotRun;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

in_a_child! {
    what_a_killed_process_reads_lands_before_it_is_dead,
    a_killed_process_stores_nothing_after_it_is_dead,
    a_killed_process_that_stands_at_its_end_is_alive,
}

const PIECE: usize = 8 << 20;
const PIECES: usize = 200;
const ROUNDS: usize = 5;

/// A file with the number of each piece at the piece's end, and holes else.
fn numbered_pieces() -> std::fs::File {
    // SAFETY: a name.
    let fd = unsafe { libc::memfd_create(c"pieces".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: just made, and nobody else's.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    for piece in 1..=PIECES {
        let at = (piece * PIECE - 8) as u64;
        file.write_all_at(&(piece as u64).to_ne_bytes(), at).unwrap();
    }
    file
}

/// Reads all pieces, one after the other, to the same place: one system call, which the kernel does
/// not break off when the process is killed.
fn read_all_pieces(file: &std::fs::File, memory: &Mapping) {
    let base = memory.region().base().as_ptr().cast();
    let piece = libc::iovec { iov_base: base, iov_len: PIECE };
    let pieces = vec![piece; PIECES];
    // SAFETY: writes to the mapping, which is as long as a piece.
    unsafe { libc::preadv(file.as_raw_fd(), pieces.as_ptr(), PIECES as libc::c_int, 0) };
}

fn what_a_killed_process_reads_lands_before_it_is_dead(_: &[String]) {
    with_and_without_pidfd(|| {
        let (file, mut landed, mut longest) = (numbered_pieces(), 0, Duration::ZERO);
        let mut after_mark = 0;
        for _ in 0..ROUNDS {
            let (world, memory) = (world(4), shared_mapping(PIECE));
            let last = Mapped::<AtomicU64>::new(&memory, PIECE as u64 - 8).unwrap();
            let child = member(&world, || {
                world.await_word(1, |word| word == 1);
                read_all_pieces(&file, &memory);
                sleeps_for_ever();
            });
            let suspect = Suspect::known(&world, 0);
            world.set(1, 1);
            while last.load(Ordering::Relaxed) < 2 {
                std::hint::spin_loop();
            }
            let killed = kill(child);
            let seen = until_condemned(&world, &suspect, &last, killed);
            landed += seen.stores;
            after_mark += seen.stores_after_mark;
            longest = longest.max(seen.took);
        }
        eprintln!(
            "{ROUNDS} killed in a long read: {landed} pieces of {PIECE} bytes landed after kill() \
             had returned, {after_mark} after the kernel had marked the life word; the verdict \
             took up to {longest:?}"
        );
        // The verdict that we do not give, which this test would find to be wrong.
        assert!(landed < 100 || after_mark > 0, "the mark alone is no proof, and looked like one");
        if landed == 0 {
            eprintln!("not run: this kernel breaks the call off; no store was seen after SIGKILL");
        }
    });
}

/// Sends SIGKILL, and has the child waited for by nobody until the end of the process.
fn kill(child: Child) -> Instant {
    child.signal(libc::SIGKILL);
    std::mem::forget(child);
    Instant::now()
}

/// What was seen of a killed process.
struct Seen {
    /// Stores that landed after SIGKILL was sent.
    stores: u64,
    /// Of these, after the kernel had marked its life word.
    stores_after_mark: u64,
    /// From SIGKILL to the verdict.
    took: Duration,
}

/// Looks until the suspect is declared dead; from then on nothing may change.
fn until_condemned(world: &World, suspect: &Suspect, word: &AtomicU64, killed: Instant) -> Seen {
    let at_kill = word.load(Ordering::Relaxed);
    let mut at_mark = None;
    while !suspect.is_condemned(world) {
        assert!(killed.elapsed() < Duration::from_secs(60), "not found dead");
        if at_mark.is_none() && world.table.snapshot().iter().all(|info| !info.held) {
            at_mark = Some(word.load(Ordering::Relaxed));
        }
    }
    let (at_verdict, took) = (word.load(Ordering::Relaxed), killed.elapsed());
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(1));
        let now = word.load(Ordering::Relaxed);
        assert_eq!(now, at_verdict, "a store landed after the verdict");
    }
    suspect.assert_dies(world, "killed");
    let stores_after_mark = at_verdict - at_mark.unwrap_or(at_verdict);
    Seen { stores: at_verdict - at_kill, stores_after_mark, took }
}

/// Four threads that store as fast as they can.
fn a_killed_process_stores_nothing_after_it_is_dead(_: &[String]) {
    with_and_without_pidfd(|| {
        let (rounds, mut landed) = (30, 0);
        for _ in 0..rounds {
            let (world, memory) = (world(4), shared_mapping(4096));
            let count = Mapped::<AtomicU64>::new(&memory, 0).unwrap();
            let child = member(&world, || store_for_ever(&memory));
            let suspect = Suspect::known(&world, 0);
            while count.load(Ordering::Relaxed) < 1000 {
                std::thread::yield_now();
            }
            let killed = kill(child);
            landed += until_condemned(&world, &suspect, &count, killed).stores;
        }
        eprintln!(
            "{rounds} killed while storing: {landed} stores landed after kill() had returned"
        );
    });
}

fn store_for_ever(memory: &Arc<Mapping>) {
    for _ in 0..4 {
        let count = Mapped::<AtomicU64>::new(memory, 0).unwrap();
        std::thread::spawn(move || {
            loop {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    sleeps_for_ever();
}

/// SIGKILL was sent and taken, no instruction of the process is to come; but it has not ended: its
/// tracer holds it at its exit, and stores into its memory.
fn a_killed_process_that_stands_at_its_end_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let (world, memory) = (world(4), shared_mapping(4096));
        let word = Mapped::<AtomicU64>::new(&memory, 0).unwrap();
        let mut child = member(&world, sleeps_for_ever);
        let suspect = Suspect::known(&world, 0);
        if !ptrace(libc::PTRACE_SEIZE, &child, libc::PTRACE_O_TRACEEXIT) {
            return eprintln!("{}", NotRun::last("tracing a child"));
        }
        child.signal(libc::SIGKILL);
        let status = stop_of(&child);
        if !libc::WIFSTOPPED(status) || status >> 16 != libc::PTRACE_EVENT_EXIT {
            return eprintln!("not run: the tracer is not told of the end: {status:#x}");
        }
        let at = memory.region().base().as_ptr();
        for stores in 1..=100_u64 {
            suspect.assert_lives(&world, "killed, and at its end");
            // SAFETY: a word in the child's memory, which is ours as well.
            unsafe { libc::ptrace(libc::PTRACE_POKEDATA, child.pid, at, stores) };
            assert_eq!(word.load(Ordering::Relaxed), stores, "its memory takes stores");
        }
        assert!(ptrace(libc::PTRACE_CONT, &child, 0));
        child.wait();
        suspect.assert_dies(&world, "let go");
        eprintln!("killed, and held at its end: 100 stores through its memory, alive at each");
    });
}
