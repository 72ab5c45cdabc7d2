//! The liar and its victims: memory between guard pages, lies that hit what is just being read, and
//! the other end of a hostile stream in the hands of somebody who only knows docs/layout.md.
use crate::common::LIMIT;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sealed::{Doorbell, Foreign, Own, Wanted, exchange, page_bytes};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::trust::Hostile;
use shm_mq::stream::{Limits, Receiver, Sender, Stream};
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// Words before the ring, at each level.
pub(crate) const HEAD_WORDS: usize = 48;
/// Of `written`, or of a half's `position`.
pub(crate) const POSITION: usize = 16;
pub(crate) const READ: usize = 32;

pub(crate) const FIRST: u32 = 1 << 31;
pub(crate) const LAST: u32 = 1 << 30;

/// Memory between two pages that nobody may touch; it ends where the second one begins.
pub(crate) fn guarded(len: usize) -> Arc<Mapping> {
    let page = page_bytes() as usize;
    let inside = len.next_multiple_of(page);
    let (all, none) = (inside + 2 * page, ProtFlags::empty());
    // SAFETY: a new mapping, wherever the kernel likes.
    let around =
        unsafe { mmap_anonymous(std::ptr::null_mut(), all, none, MapFlags::PRIVATE) }.unwrap();
    let around = around.cast::<u8>();
    // SAFETY: inside the mapping.
    let first = unsafe { around.add(page) };
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the pages just mapped, but for the outer two.
    unsafe { mprotect(first.cast(), inside, flags) }.unwrap();
    // SAFETY: inside the mapping.
    let base = unsafe { first.add(inside - len) };
    let around = around.addr();
    let unmap = move |base: std::ptr::NonNull<u8>, _| {
        let around = base.as_ptr().with_addr(around);
        // SAFETY: the mapping made above; its last view is gone.
        unsafe { munmap(around.cast(), all) }.unwrap();
    };
    // SAFETY: `len` bytes of it, aligned to 64 for `len` is a multiple of that.
    unsafe { Mapping::from_raw(std::ptr::NonNull::new(base).unwrap(), len, Box::new(unmap)) }
}

/// A stream that fills a guarded mapping, and its words as a liar sees them.
pub(crate) struct World {
    pub(crate) stream: Stream,
    pub(crate) words: MappedSlice<AtomicU64>,
    pub(crate) me: Arc<Member>,
    _table: Arc<Mapping>,
}

impl World {
    pub(crate) fn lies(&self, ring: u64, told: usize, pace: usize) -> Lies<'_> {
        let (words, pace) = (&self.words[..], &self.words[pace]);
        Lies { words, ring, told, pace, is_ahead: told == POSITION }
    }
}

pub(crate) fn world(ring_bytes: u64) -> World {
    let table = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&table, 0, 2) }.unwrap().join().unwrap();
    let len = Stream::bytes_for(ring_bytes);
    assert!(len.is_multiple_of(64));
    let mapping = guarded(len as usize);
    // SAFETY: as above.
    let stream = unsafe { Stream::create(&mapping, 0, ring_bytes) }.unwrap();
    let words = MappedSlice::new(&mapping, 0, len / 8).unwrap();
    World { stream, words, me, _table: table }
}

/// The next pseudo-random number, of 44 bits. Low bits of a plain xorshift depend on those of the
/// number before: some lies would never be told.
fn draw(seed: &mut u64) -> u64 {
    next(seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20
}

/// A word that does most harm; `near` is a position that could be true.
pub(crate) fn nonsense(seed: &mut u64, near: u64, ring: u64) -> u64 {
    let some = draw(seed) % (2 * ring);
    match draw(seed) % 12 {
        0 => next(seed),
        1 => 0,
        2 => u64::MAX - draw(seed) % 16,
        3 => near.wrapping_sub(some),
        4 => near.wrapping_add(some),
        5 => near.wrapping_add(some) & !7,
        6 => u64::from(LAST - 1 - (draw(seed) % 9) as u32),
        _ => {
            let flags = [0, FIRST, LAST, FIRST | LAST][draw(seed) as usize % 4];
            u64::from(flags) | (draw(seed) % 24) | (draw(seed) << 32)
        }
    }
}

/// What a liar has in its hands.
pub(crate) struct Lies<'a> {
    words: &'a [AtomicU64],
    ring: u64,
    /// The position that it tells.
    told: usize,
    /// The position that the victim tells.
    pace: &'a AtomicU64,
    /// It plays the sender: its position is ahead of the victim's.
    is_ahead: bool,
}

impl Lies<'_> {
    /// Lies until it is told to stop; how often. Half of the time it tells a truth, for a victim
    /// that has found a lie out looks no further.
    pub(crate) fn tell(&self, mut seed: u64, stop: &AtomicU32) -> u64 {
        let (mut lies, mut near, seed) = (0, 0_u64, &mut seed);
        while stop.load(Ordering::Relaxed) == 0 {
            let nonsense = nonsense(seed, near, self.ring);
            match draw(seed) % 512 {
                0 => self.words[self.told].store(nonsense, Ordering::Relaxed),
                1 => self.words[draw(seed) as usize % self.words.len()]
                    .store(nonsense, Ordering::Relaxed),
                2..256 => {
                    near = self.truth(near, draw(seed));
                    self.words[self.told].store(near, Ordering::Release);
                }
                some if self.words.len() > HEAD_WORDS => {
                    // What the victim may be reading.
                    let index = draw(seed) as usize % (self.words.len() - HEAD_WORDS);
                    let whole = u64::from(FIRST | LAST) | (draw(seed) % 5);
                    let word = if some % 32 == 0 { nonsense } else { whole };
                    self.words[HEAD_WORDS + index].store(word, Ordering::Relaxed);
                }
                _ => {}
            }
            lies += 1;
            if draw(seed).is_multiple_of(8) {
                std::thread::yield_now();
            }
        }
        lies
    }

    /// A position that an honest peer could be at, and not behind `near`.
    pub(crate) fn truth(&self, near: u64, some: u64) -> u64 {
        let pace = self.pace.load(Ordering::Relaxed) & !7;
        let furthest = if self.is_ahead { pace.wrapping_add(self.ring) } else { pace };
        let room = furthest.wrapping_sub(near);
        if room > self.ring { near } else { near.wrapping_add((some % (room + 8)) & !7) }
    }
}

/// Tells the liar to stop, also when its victim has panicked.
pub(crate) struct Stops<'a>(pub(crate) &'a AtomicU32);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::Relaxed);
    }
}

/// Runs `victim` while a liar lies to it; how many lies.
pub(crate) fn while_lying(lies: &Lies<'_>, seed: u64, victim: impl FnOnce()) -> u64 {
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let liar = scope.spawn(|| lies.tell(seed ^ 0xfeed, &stop));
        {
            let _stops = Stops(&stop);
            within(LIMIT, victim);
        }
        liar.join().unwrap()
    })
}

pub(crate) const SENDER: u64 = 0x7368_6d68_736e_6401;
pub(crate) const RECEIVER: u64 = 0x7368_6d68_7263_7601;
pub(crate) const RING_BYTES: usize = 1;
pub(crate) const MESSAGE_BYTES_MAX: usize = 2;
pub(crate) const STATE: usize = 3;
pub(crate) const ASLEEP: usize = 32;

pub(crate) const LIMITS: Limits = Limits { ring_bytes_max: 1 << 16, message_bytes_max: 5000 };

/// The other end, in the hands of a liar.
pub(crate) struct Liar {
    pub(crate) words: MappedSlice<AtomicU64>,
    pub(crate) bell: Doorbell,
    pub(crate) theirs: Foreign,
}

impl Liar {
    /// Where the victim says how far it is.
    pub(crate) fn pace(&self) -> Mapped<AtomicU64> {
        // SAFETY: only loads are made through it.
        unsafe { self.theirs.share(POSITION as u64 * 8) }.unwrap()
    }

    pub(crate) fn lies<'a>(&'a self, ring: u64, pace: &'a AtomicU64, is_ahead: bool) -> Lies<'a> {
        Lies { words: &self.words, ring, told: POSITION, pace, is_ahead }
    }
}

/// Memory that says what it should, with `ring` bytes behind it.
pub(crate) fn half(
    magic: u64,
    ring_bytes: u64,
    message_bytes_max: u64,
) -> (Own, MappedSlice<AtomicU64>) {
    let own = Own::create("liar", HEAD_WORDS as u64 * 8 + ring_bytes).unwrap();
    let words = HEAD_WORDS as u64 + ring_bytes / 8;
    let words = MappedSlice::<AtomicU64>::new(own.mapping(), 0, words).unwrap();
    let begin = [(0, magic), (RING_BYTES, ring_bytes), (MESSAGE_BYTES_MAX, message_bytes_max)];
    for (index, value) in begin.into_iter().chain([(STATE, 1)]) {
        words[index].store(value, Ordering::Relaxed);
    }
    (own, words)
}

pub(crate) fn liar(
    socket: UnixStream,
    own: &Own,
    words: MappedSlice<AtomicU64>,
    mine: u64,
    theirs: u64,
) -> Liar {
    let wanted = Wanted { mine, theirs, bytes_min: 384, bytes_max: 1 << 20 };
    let (theirs, bell) = exchange(socket, own, wanted, None).unwrap();
    Liar { words, bell, theirs }
}

pub(crate) fn victim_receiver(ring_bytes: u64) -> (Receiver<Hostile>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(SENDER, ring_bytes, 0);
        liar(theirs, &own, words, SENDER, RECEIVER)
    });
    let receiver = Receiver::<Hostile>::connect(ours, LIMITS, None).unwrap();
    (receiver, lying.join().unwrap())
}

pub(crate) fn victim_sender(ring_bytes: u64, limit: u64) -> (Sender<Hostile>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(RECEIVER, 0, limit);
        liar(theirs, &own, words, RECEIVER, SENDER)
    });
    let sender = Sender::<Hostile>::connect(ours, ring_bytes, None).unwrap();
    (sender, lying.join().unwrap())
}
