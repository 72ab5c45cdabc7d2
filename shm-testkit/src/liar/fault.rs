//! Who touched a guard page: said on standard error before the process dies of it.
use std::cell::Cell;
use std::fmt::Write;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Blocks at a time whose guard pages are known by name; beyond that a fault is just a fault.
const BLOCKS_MAX: usize = 256;

/// Where a block lies: its base and length and the size of a guard page. Base 0: none.
struct Block {
    base: AtomicUsize,
    len: AtomicUsize,
    page: AtomicUsize,
}

static BLOCKS: [Block; BLOCKS_MAX] = [const {
    Block { base: AtomicUsize::new(0), len: AtomicUsize::new(0), page: AtomicUsize::new(0) }
}; BLOCKS_MAX];

/// The structure, the call and the seed.
pub(super) type Calling = (&'static str, &'static str, u64);

thread_local! {
    static CALLING: Cell<Option<Calling>> = const { Cell::new(None) };
}

/// From now on this thread makes that call: what it made before.
pub(super) fn calling(call: Option<Calling>) -> Option<Calling> {
    CALLING.replace(call)
}

/// Makes the guard pages of a block known.
pub(super) fn guard(base: usize, len: usize, page: usize) -> Option<usize> {
    report_faults();
    let relaxed = Ordering::Relaxed;
    // One is claimed by its length, for a fault looks for its base.
    let claim = |block: &Block| block.len.compare_exchange(0, len, relaxed, relaxed).is_ok();
    let slot = BLOCKS.iter().position(claim)?;
    BLOCKS[slot].page.store(page, relaxed);
    BLOCKS[slot].base.store(base, relaxed);
    Some(slot)
}

pub(super) fn unguard(slot: Option<usize>) {
    if let Some(block) = slot.map(|slot| &BLOCKS[slot]) {
        block.base.store(0, Ordering::Relaxed);
        block.len.store(0, Ordering::Relaxed);
    }
}

/// What handled such faults before: Rust's runtime (stack overflows), or a sanitizer.
static mut BEFORE: MaybeUninit<libc::sigaction> = MaybeUninit::uninit();

pub(super) fn report_faults() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = on_fault as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut _);
        // SAFETY: all zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let before = &raw mut BEFORE;
        // SAFETY: a handler that calls only what a handler may, and a place for the old one, which
        // is written here only.
        unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, before.cast()) };
    });
}

/// Says what it knows and lets the instruction fault again: for good where it touched a guard page,
/// and otherwise for the former handler.
extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's record of this fault.
    let info = unsafe { &*info };
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() } as usize;
    let mut line = Line { bytes: [0; 256], len: 0 };
    let is_guard = describe(&mut line, address);
    // SAFETY: the bytes of `line`; write may be called by a handler.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.len) };
    if is_guard {
        // SAFETY: a valid disposition.
        unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        return;
    }
    let before = &raw const BEFORE;
    // SAFETY: filled in before this handler could run.
    unsafe { libc::sigaction(libc::SIGSEGV, before.cast(), std::ptr::null_mut()) };
}

/// Whether it is near a block. Formatting integers and strings into a buffer allocates nothing and
/// takes no lock.
fn describe(line: &mut Line, address: usize) -> bool {
    let _ = line.write_str("\nliar: ");
    if let Some((name, what, seed)) = CALLING.get() {
        let _ = write!(line, "{name}: `{what}` with SHM_SEED={seed}: ");
    }
    let relaxed = Ordering::Relaxed;
    let guarding = BLOCKS.iter().find_map(|block| {
        let (base, len) = (block.base.load(relaxed), block.len.load(relaxed));
        // The block's own page, and the guard page beyond.
        let near = 2 * block.page.load(relaxed);
        let is_near =
            base != 0 && address.saturating_add(near) >= base && address < base + len + near;
        is_near.then_some((base, len))
    });
    let _ = match guarding {
        Some((base, len)) if address < base => {
            writeln!(line, "access {} bytes before the block of {len} bytes", base - address)
        }
        Some((base, len)) => {
            let behind = address.wrapping_sub(base + len);
            writeln!(line, "access {behind} bytes behind the block of {len} bytes")
        }
        None => writeln!(line, "access to {address:#x}, near no block"),
    };
    guarding.is_some()
}

struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}
