//! The bytes of the frames: changed so that no death tears a page for good, and which of them
//! differ from their files.
//!
//! ```text
//!  frames' bytes   latches       states           intents
//!  0  [ page 7 ]   [ free     ]  [ clean       ]  0  [ p3, thread 0 | frame 1, ranges | image ]
//!  1  [ page 2 ]   [ X of p3  ]  [ by intent 0 ]  1  [ p7, thread 0 | frame 2, ranges | image ]
//!  2  [ page 9 ]   [ torn, p5 ]  [ by intent 2 ]  2  [ p5, thread 1 | frame 2, ranges | image ]
//! ```
//!
//! There is no log. Who [changes](Exclusive::write) a page writes down what it is going to write,
//! in an intent of its own; whoever finds the page torn writes it from there. So a change is made
//! wholly or not at all, and the changes before it, which may be nowhere but in the frame, stay.
//!
//! # The protocol
//!
//! The latch of a frame says who is at its page (see [`latch`], whose version is odd
//! while the bytes may be in change).
//!
//! | who changes the page, exclusively | dies after it: the page is |
//! | --- | --- |
//! | (A) writes ranges and image into its intent, and the frame's number | as before |
//! | (B) state → changed by this intent, which is *dirty*, too | as before, dirty |
//! | (C) version odd | torn |
//! | (D) bytes | torn |
//! | (E) version even | changed |
//!
//! A page is torn from (C) to (E) only. Its state then names an intent that says all of the change,
//! for (A) and (B) come before (C), and the next (A) comes after (E): that the compiler keeps it so
//! is all that is needed, for whoever relies on it has proved the death. A state that names an
//! intent means nothing more than *dirty* while the version is even: the next to change the page
//! writes (B) before (C).
//!
//! | who mends a torn page | dies after it: the page is |
//! | --- | --- |
//! | (F) torn → X(me), version odd still | torn |
//! | (G) bytes, of the intent that the state names | torn |
//! | (H) version even | changed |
//!
//! (G) may be done again, from its beginning: the intent stays as it is. It does for as long as it
//! may be needed:
//!
//! | intent | becomes | by whom | when |
//! | --- | --- | --- | --- |
//! | nobody's | p's | p | it begins to use the pages |
//! | p's | nobody's | p | it is done |
//! | p's | nobody's | anyone who has proved p dead | the frame that it names does not need it |
//!
//! Of a dead one an intent is needed only by the frame that it names, and only until that one's
//! version is even, or its state names another intent: if it ever is odd again, then of who has
//! written (B) before. Who finds it needed mends the page; where one who lives is at it, the intent
//! stays, and whoever is short of intents asks again. Nobody waits for one who mends but who wants
//! that very page.
//!
//! | who loads a page into a frame | dies after it: the frame is |
//! | --- | --- |
//! | (I) its latch → X(me), version odd | torn; if at all, mended in vain: it has no page |
//! | (J) state → clean | torn, and not to be mended |
//! | (K) bytes | the same |
//! | (L) version even; then others are told of the page | whole, and has no page |
//!
//! Who loads has the frame to itself: it has [claimed](crate::frames::Free) it, and nobody has it
//! pinned. Others may be at it all the same: who looks, which the version tells, and who mends a
//! page that was there. The latter has the latch, and (I) fails.
//!
//! A page that is torn is dirty: who evicts it would write it out, and so has it mended first.
//!
//! | who writes a page out, share-exclusively | dies after it: the page is |
//! | --- | --- |
//! | (M) reads the bytes, which nobody changes, and writes them to the file | dirty |
//! | (N) state → clean | clean |
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | who reads | a share, at most | as the latch says |
//! | who changes, before (C) | X(dead), and a page that may be dirty for nothing | as the latch says |
//! | who changes, in (C) to (E) | a torn page | whoever wants it, cleans up or needs an intent mends it |
//! | who changes, after (E) | X(dead) | as the latch says |
//! | who mends | torn, or X(dead) and a page that is whole | the next one |
//! | who loads | a frame without a page | whoever loads into it next |
//! | who writes out | SX(dead), dirty or clean | as the latch says |
//! | any of them | an intent that is its own | who cleans up gives it back, or who is short of one |
//! | who cleans up | some of it | the next one |
//!
//! Each intent is given back by a compare-and-swap from a word that names its owner, generation and
//! all: of two who do it the later one changes nothing, though the seat be used again.
//!
//! # Lies
//!
//! What an intent says is checked as it is read: that there is one of this number, that it is about
//! this frame, that its ranges lie in the page. Where it is nonsense the page stays torn, and that
//! is told ([`LatchError::Torn`]): it is to be read again from its file. A peer that writes
//! intents, states or pages at will can have any bytes in a page, as it could write them itself.
mod guard;
mod load;
mod record;
mod shared;
mod take;
mod user;
mod word;

pub use guard::{Exclusive, Page, Share, ShareExclusive, WriteError};
pub use load::Loading;
pub use user::{User, UserError};

use crate::latch::{self, LatchError, Latches};
use record::Record;
use shared::{Intent, Line};
use shm_core::BadPtr;
use shm_core::bytes::{WORD_BYTES, Word};
use shm_core::mapping::{MappedRows, MappedSlice, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::Ordering;
use std::sync::Arc;
use word::{Head, Owner, State};

/// The segment's offsets of frames are multiples of it: direct reads and writes want that.
const ALIGNMENT: u64 = 4096;
/// So many intents there are besides one a thread, for those that the dead have left. A model has
/// them run short.
const INTENTS_SPARE: u64 = if cfg!(shm_loom) { 0 } else { 4 };

/// How many of what there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Frames, of a page each.
    pub frames: u32,
    /// Seats of the [table of participants](shm_core::participants::Table).
    pub seats: u32,
    /// Threads of a process.
    pub threads: u32,
    /// Bytes of a page: a power of two, from 1 KiB to 32 KiB. A model may have some words.
    pub page_bytes: u32,
}

/// Why pages could not be made or attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PagesError {
    /// There are no such pages.
    #[error("pages of {0} bytes: they have a power of two, from 1024 to 32768")]
    PageBytes(u32),
    /// They do not fit where they are to be.
    #[error(transparent)]
    BadPtr(#[from] BadPtr),
}

/// The pages in a pool's frames, and who is at them. Clones are the same.
///
/// ```
/// use buffer_pool::pages::{Pages, Shape};
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// // In real life all of it lies in one shared mapping.
/// let mapping = Mapping::heap(Table::bytes_for(4) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 4) }?;
/// let shape = Shape { frames: 2, seats: 4, threads: 1, page_bytes: 1024 };
/// let mapping = Mapping::heap(Pages::bytes_for(shape) as usize);
/// // SAFETY: as above.
/// unsafe { Pages::create(&mapping, 0, shape) }?;
/// let pages = Pages::attach(&mapping, 0, shape)?;
/// let (frame, user) = (1, pages.user(&table.join()?, 0)?);
///
/// // Nobody else has the frame: `frames` says so.
/// let mut loading = user.load(frame)?.expect("nobody is at the page that was there");
/// loading.copy_in(0, &[b'.'; 1024]);
/// loading.done()?;
/// assert!(!pages.is_dirty(frame));
///
/// let mut page = user.exclusive(frame, None)?;
/// page.write(&[(0, b"both"), (1016, b"or none")])?;
/// drop(page);
///
/// let mut bytes = [0; 6];
/// user.read(frame, 0, &mut bytes, None)?;
/// assert_eq!((&bytes, pages.is_dirty(frame)), (b"both..", true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pages {
    latches: Latches,
    /// The frames' bytes, one page after the other.
    bytes: MappedRows<Word>,
    lines: MappedSlice<Line>,
    intents: MappedSlice<Intent>,
    /// The intents' images, a page each.
    images: MappedSlice<Word>,
    page_words: usize,
}

impl Pages {
    /// Bytes that they take, at an offset that is a multiple of 4096.
    pub const fn bytes_for(shape: Shape) -> u64 {
        shape.images_at() + shape.intents() * shape.page_size()
    }

    /// Makes them at `offset` of `mapping`: all clean, with whatever bytes are there.
    ///
    /// # Errors
    /// [`PagesError`].
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        shape: Shape,
    ) -> Result<(), PagesError> {
        shape.check(offset)?;
        // SAFETY: the caller's promise.
        unsafe { Latches::create(mapping, offset + shape.latches_at(), shape.of_latches()) }?;
        let region = mapping.region();
        for index in 0..u64::from(shape.frames) {
            let at = offset + shape.lines_at() + index * size_of::<Line>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Line::new()) }?;
        }
        for index in 0..shape.intents() {
            let at = offset + shape.intents_at() + index * size_of::<Intent>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Intent::new()) }?;
        }
        // Any bytes are a word but in a model, and whatever was never in a page need not be there.
        if cfg!(any(shm_loom, shm_explore)) {
            let pages = u64::from(shape.frames);
            for (at, pages) in [(0, pages), (shape.images_at(), shape.intents())] {
                for word in 0..pages * shape.page_words() {
                    let at = offset + at + word * size_of::<Word>() as u64;
                    // SAFETY: as above.
                    unsafe { region.place(at, Word::new()) }?;
                }
            }
        }
        Ok(())
    }

    /// Those at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`PagesError`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64, shape: Shape) -> Result<Pages, PagesError> {
        shape.check(offset)?;
        let (frames, intents) = (u64::from(shape.frames), shape.intents());
        let (latches_at, words) = (offset + shape.latches_at(), shape.page_words());
        Ok(Pages {
            latches: Latches::attach(mapping, latches_at, shape.of_latches())?,
            bytes: MappedRows::new(mapping, offset, shape.page_size(), frames, words)?,
            lines: MappedSlice::new(mapping, offset + shape.lines_at(), frames)?,
            intents: MappedSlice::new(mapping, offset + shape.intents_at(), intents)?,
            images: MappedSlice::new(mapping, offset + shape.images_at(), intents * words)?,
            page_words: words as usize,
        })
    }

    /// How many bytes a page has.
    pub fn page_bytes(&self) -> usize {
        self.page_words * WORD_BYTES
    }

    /// Who may read the pages, and who has which.
    pub fn latches(&self) -> &Latches {
        &self.latches
    }

    /// Whether the page in `frame` may differ from its file. Without a latch this is a hint, but
    /// for who knows that nobody has it pinned.
    pub fn is_dirty(&self, frame: u32) -> bool {
        let state = |line: &Line| State::from_bits(line.state.load(Ordering::Relaxed));
        self.lines.get(frame as usize).is_some_and(|line| state(line).is_dirty())
    }

    /// Where the bytes of `frame` are, for system calls: of who loads it, or writes it out and has
    /// it share-exclusively.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`].
    #[cfg(not(any(shm_loom, shm_explore)))]
    pub fn bytes_of(&self, frame: u32) -> Result<std::ptr::NonNull<[u8]>, LatchError> {
        let first = std::ptr::NonNull::from(self.page(frame)?).cast();
        Ok(std::ptr::NonNull::slice_from_raw_parts(first, self.page_bytes()))
    }

    /// Gives up what `gone` had: its latches, and its intents, but for those that a torn page
    /// needs. Looks at every frame.
    ///
    /// As [`Latches::clean_up`], and for the same ones. Who has a [`User`] leaves less behind
    /// ([`User::clean_up`]).
    ///
    /// # If a process dies here
    /// Some of it is given up, and the next one to clean up does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        self.latches.clean_up(gone);
        self.sweep(None, |who| who == gone);
    }

    /// Gives the intents of the dead back, having mended what needs them, if that can be done.
    fn sweep(&self, mender: Option<&latch::User>, is_gone: impl Fn(ParticipantId) -> bool) {
        for (index, intent) in self.intents.iter().enumerate() {
            // Relaxed: the proof of the death has shown us what it wrote last.
            let owner = Owner::from_bits(intent.owner.load(Ordering::Relaxed));
            if owner == Owner::NOBODY || owner.who().is_some_and(|who| !is_gone(who)) {
                continue;
            }
            let frame = Head::from_bits(intent.head.load(Ordering::Relaxed)).frame();
            if let Some(mender) = mender.filter(|_| self.needs(frame, index)) {
                // Where it fails it is needed still.
                let _ = self.mend(mender, frame);
            }
            if !self.needs(frame, index) {
                // Pairs with the fence of who takes a page to write it by this intent: what who
                // mended has read.
                let (ok, err) = (Ordering::Release, Ordering::Relaxed);
                let (from, to) = (owner.to_bits(), Owner::NOBODY.to_bits());
                // Where it fails somebody else did it.
                let _ = intent.owner.compare_exchange(from, to, ok, err);
            }
        }
    }

    /// Whether the page in `frame`, which the intent of a dead one names, may be torn by that.
    fn needs(&self, frame: u32, intent: usize) -> bool {
        let Ok(line) = self.line(frame) else { return false };
        // Pairs with the fence of who took the page to change it since: what was read to mend it.
        let state = State::from_bits(line.state.load(Ordering::Acquire));
        // `look` shows the same of who mended.
        state.intent() == Some(intent) && self.latches.look(frame, || ()) == Ok(None)
    }

    /// Makes a torn page whole: whether it was torn, and nobody else is at it.
    fn mend(&self, mender: &latch::User, frame: u32) -> Result<bool, LatchError> {
        let Some(change) = mender.repair(frame)? else { return Ok(false) };
        // Relaxed: the latch orders it.
        let state = State::from_bits(self.line(frame)?.state.load(Ordering::Relaxed));
        let record = state.intent().and_then(|intent| self.record(intent));
        if record.and_then(|record| record.redo(frame, self.page(frame).ok()?)).is_none() {
            // Dropped, the change leaves it torn.
            return Err(LatchError::Torn { by: change.by() });
        }
        drop(change.done()?);
        Ok(true)
    }

    #[inline]
    fn page(&self, frame: u32) -> Result<&[Word], LatchError> {
        let is_there = (frame as usize) < self.bytes.rows();
        is_there.then(|| self.bytes.row(frame as usize)).ok_or(LatchError::NoSuchFrame(frame))
    }

    fn line(&self, frame: u32) -> Result<&Line, LatchError> {
        self.lines.get(frame as usize).ok_or(LatchError::NoSuchFrame(frame))
    }

    fn record(&self, intent: usize) -> Option<Record<'_>> {
        let image = self.images.chunks_exact(self.page_words).nth(intent)?;
        Some(Record { intent: self.intents.get(intent)?, image })
    }
}

impl Shape {
    const fn of_latches(self) -> latch::Shape {
        latch::Shape { frames: self.frames, seats: self.seats, threads: self.threads }
    }

    fn check(self, offset: u64) -> Result<(), PagesError> {
        let least = if cfg!(any(shm_loom, shm_explore)) { WORD_BYTES as u32 } else { 1 << 10 };
        let is_right = self.page_bytes.is_power_of_two();
        if !is_right || self.page_bytes < least || self.page_bytes > 1 << 15 {
            return Err(PagesError::PageBytes(self.page_bytes));
        }
        if !offset.is_multiple_of(ALIGNMENT) {
            return Err(BadPtr::Misaligned { offset, align: ALIGNMENT }.into());
        }
        Ok(())
    }

    const fn page_words(self) -> u64 {
        self.page_bytes as u64 / WORD_BYTES as u64
    }

    /// A model's words are larger.
    const fn page_size(self) -> u64 {
        self.page_words() * size_of::<Word>() as u64
    }

    const fn intents(self) -> u64 {
        self.seats as u64 * self.threads as u64 + INTENTS_SPARE
    }

    const fn latches_at(self) -> u64 {
        (self.frames as u64 * self.page_size()).next_multiple_of(64)
    }

    const fn lines_at(self) -> u64 {
        (self.latches_at() + Latches::bytes_for(self.of_latches())).next_multiple_of(64)
    }

    const fn intents_at(self) -> u64 {
        self.lines_at() + self.frames as u64 * size_of::<Line>() as u64
    }

    const fn images_at(self) -> u64 {
        self.intents_at() + self.intents() * size_of::<Intent>() as u64
    }
}
