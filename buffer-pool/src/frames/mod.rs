//! Which page is in which frame, and who moves it: found without a lock, moved by one at a time.
//!
//! ```text
//!   entries, one a page                     frames, one cache line each
//!   page 0  RESIDENT 2  ──────────────────► 2  [ claim: nobody | page 0 ]
//!   page 1  ABSENT                          1  [ claim: p7     | –      ]   p7 has it in stock
//!   page 2  LOADING 0   ──────────────────► 0  [ claim: p3     | page 2 ]   p3 reads it
//!   page 3  LEAVING 3   ──────────────────► 3  [ claim: p3     | page 3 ]   p3 wants the frame
//! ```
//!
//! A process *pins* a page by announcing the frame in its own [hazard](shm_core::hazard) row, and
//! looking at the entry again: no shared line is written, however many use the page. A page is
//! *moved* (read in, thrown out) by who has claimed its frame, in one word that names it.
//!
//! # The protocol
//!
//! Who has claimed a frame moves the entry of its page; so has, for one step, who uses the page.
//!
//! | entry | becomes | by whom | when |
//! | --- | --- | --- | --- |
//! | ABSENT | LOADING(f) | who has claimed f, which no entry names | it wants the page |
//! | LOADING(f) | RESIDENT(f) | the same | the bytes are in the frame |
//! | LOADING(f) | ABSENT | the same; a reaper where that one is dead | they could not be read |
//! | RESIDENT(f) | LEAVING(f) | who has claimed f | it wants the frame |
//! | LEAVING(f) | RESIDENT(f) | anyone: who wants the page, who has claimed f, a reaper | it is in use |
//! | LEAVING(f) | ABSENT | who has claimed f | nobody has announced f since it was LEAVING |
//!
//! | who pins | who evicts |
//! | --- | --- |
//! | (A) announces the frame | (C) RESIDENT → LEAVING |
//! | fence | fence |
//! | (B) looks: still RESIDENT? or makes it so, from LEAVING | (D) looks at all announcements; then LEAVING → ABSENT |
//!
//! Of the two fences one comes first: either (D) sees the announcement, and the page stays; or (B)
//! sees LEAVING. Then it makes it RESIDENT, and the evictor's last step fails; or that step came
//! first, and the page is absent. So nobody waits for an evictor, not even for one that is stopped,
//! and what is read is never thrown out. Only the claim's holder makes an entry LEAVING, or goes on
//! with one that a holder before it left: its last step undoes nobody else's.
//!
//! A frame whose claim is nobody's and that no entry names is free. There is no list of these: the
//! hand that looks for victims finds them. One that has been [put by](User::put_by) for its owner's
//! next page is claimed, and free for whoever comes first all the same: so the stock of one who is
//! stopped, or has nothing to read, is no loss to others.
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | who has pinned | an announcement | its row is cleared; there is no count to correct |
//! | who has put frames by | frames that anybody takes | – |
//! | who has claimed, and not moved | a claim; perhaps a page number that no entry agrees with | the claim is taken away |
//! | who loads | LOADING(f), bytes in part | who wants the page takes the claim over and reads it again; or a reaper makes it ABSENT |
//! | who has loaded, and not let go | RESIDENT(f) | the claim is taken away |
//! | who evicts | LEAVING(f), or ABSENT | a reaper makes it RESIDENT, or takes the claim away |
//!
//! A reaper has no claim of its own: each of its steps is a compare-and-swap from what the dead one
//! left. Where another has taken the frame over meanwhile, at worst that one reads a page again:
//!
//! 1. LOADING(f) → ABSENT, too late: whoever loads the page finds that its last step fails. It has
//!    the frame still, and starts over.
//! 2. LEAVING(f) → RESIDENT(f), too late: as if somebody had wanted the page.
//! 3. dead's claim → nobody's fails: it is not the dead one's any more.
//!
//! A process that is stopped keeps the frames that it has claimed from being given to others, and
//! who wants a page that it is loading waits; so it is with one that calls `exec`, until it ends. A
//! reaper that is stopped keeps what the one dead process had. They hinder nobody else. A thread
//! that looks for a page that it is itself loading would wait for itself.
//!
//! # Lies
//!
//! An entry is decoded against the number of frames that this process knows of, and taken for
//! corrupt otherwise. A peer that writes entries at will can have a page shown to others under
//! another's name, and one that writes page numbers can have a frame taken from a page, as it could
//! write into the frame. No call hangs, and nothing outside is touched.
mod evict;
mod find;
mod limit;
mod load;
mod pinned;
mod reap;
mod shared;
mod stock;
mod user;
mod wait;
mod word;

pub use find::{Find, FindError, Pin};
pub use limit::Limit;
pub use load::{Free, Loading};
pub use pinned::Pinned;
pub use stock::Stock;
pub use user::{User, Users};
pub use wait::WaitError;
pub use word::PageId;

use shared::Frame;
use shm_core::BadPtr;
use shm_core::hazard::Hazards;
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use word::{Claim, Entry, Place};

/// So often an entry may change under us: among honest processes each is another one's success.
const ROUNDS_MAX: u32 = 1 << 20;

/// Where the entries are: pages to words.
///
/// The same in all processes: what one of them does not know is in no frame, and its word, if there
/// ever was one, says so. It is asked for any page number, also for one that somebody scribbled or
/// that is nobody's (of the last block of the last file), and neither panics nor forks.
pub trait Entries {
    /// The word of this page; `None` where there is no such page.
    fn entry(&self, page: PageId) -> Option<&AtomicU64>;

    /// Whether this page may be loaded: asked by who has said in a frame that it will, before it
    /// looks for the word. Where pages come to an end this fences first, and who ends them
    /// publishes it, fences, and waits for each frame that is [about](Frames::is_about) to have one
    /// of them.
    fn admits(&self, page: PageId) -> bool {
        self.entry(page).is_some()
    }
}

/// A word of shared memory is nonsense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the entry of block {} of file {} is nonsense ({value:#x})", page.block(), page.file())]
pub struct Corrupt {
    /// Whose entry.
    pub page: PageId,
    /// What stands there.
    pub value: u64,
}

/// The frames of a pool and the entries of its pages, as one process has them. Clones are the same.
#[derive(Clone, Debug)]
pub struct Frames<E> {
    frames: MappedSlice<Frame>,
    entries: E,
    hazards: Hazards,
}

impl<E: Entries> Frames<E> {
    /// Bytes for so many frames, at an offset that is a multiple of 64.
    pub const fn bytes_for(frames: u32) -> u64 {
        frames as u64 * size_of::<Frame>() as u64
    }

    /// Bytes for the entries of so many pages, at an offset that is a multiple of 8.
    pub const fn entry_bytes_for(pages: u64) -> u64 {
        pages * size_of::<AtomicU64>() as u64
    }

    /// Makes `count` frames at `offset` of `mapping`, all free.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not fit.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(mapping: &Arc<Mapping>, offset: u64, count: u32) -> Result<(), BadPtr> {
        for index in 0..u64::from(count) {
            let at = offset + index * size_of::<Frame>() as u64;
            // SAFETY: the caller's promise.
            unsafe { mapping.region().place(at, Frame::new()) }?;
        }
        Ok(())
    }

    /// Makes `count` entries at `offset` of `mapping`: their pages are in no frame.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not fit.
    ///
    /// # Safety
    /// As [`create`](Frames::create).
    pub unsafe fn create_entries(
        mapping: &Arc<Mapping>,
        offset: u64,
        count: u64,
    ) -> Result<(), BadPtr> {
        for index in 0..count {
            let at = offset + index * size_of::<AtomicU64>() as u64;
            // SAFETY: the caller's promise.
            unsafe { mapping.region().place(at, shared::absent()) }?;
        }
        Ok(())
    }

    /// The `count` frames at `offset` of `mapping`, for pages of `entries`, whose users announce
    /// themselves in `hazards`: these rows announce frames and nothing else.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not lie in the mapping.
    pub fn attach(
        mapping: &Arc<Mapping>,
        offset: u64,
        count: u32,
        entries: E,
        hazards: Hazards,
    ) -> Result<Frames<E>, BadPtr> {
        let frames = MappedSlice::new(mapping, offset, u64::from(count))?;
        Ok(Frames { frames, entries, hazards })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.frames.len() as u32
    }

    /// The page that `frame` has or had last; `None` where it has had none, and where there is no
    /// such frame. A hint: only an entry says where a page is.
    pub fn page_in(&self, frame: u32) -> Option<PageId> {
        let Frame { page, .. } = self.frames.get(frame as usize)?;
        let page = PageId::from_bits(page.load(Ordering::Relaxed));
        (page != PageId::NOWHERE).then_some(page)
    }

    /// The page that can be found in `frame` now. A hint, for who shows what is where.
    pub fn resident_in(&self, frame: u32) -> Option<PageId> {
        let page = self.page_in(frame)?;
        let seen = self.entries.entry(page)?.load(Ordering::Relaxed);
        let place = Entry::from_bits(seen).place(self.count())?;
        let is_here = matches!(place, Place::Resident(at) | Place::Leaving(at) if at == frame);
        is_here.then_some(page)
    }

    /// Whether somebody who has claimed `frame` moves a page into it or out of it that `is_asked`
    /// knows: for who ends pages, behind a fence. A frame that was put by has none.
    pub fn is_about(&self, frame: u32, is_asked: impl FnOnce(PageId) -> bool) -> bool {
        self.is_claimed(frame) && self.page_in(frame).is_some_and(is_asked)
    }

    /// The frame that `page` can be found in now, without pinning it: for who reads there, and
    /// finds out afterwards whether the page was there all the time.
    pub fn frame_of(&self, page: PageId) -> Option<u32> {
        let word = self.entries.entry(page)?;
        // Pairs with the Release in `Loading::publish`: the bytes.
        match Entry::from_bits(word.load(Ordering::Acquire)).place(self.count())? {
            Place::Resident(frame) | Place::Leaving(frame) => Some(frame),
            Place::Absent | Place::Loading(_) => None,
        }
    }

    /// As [`frame_of`](Frames::frame_of) the page of this entry, where nobody moves it and that is
    /// one of the first `frames` frames.
    #[inline]
    pub fn frame_in(&self, entry: &AtomicU64, frames: u32) -> Option<u32> {
        // Pairs with the Release in `Loading::publish`: the bytes.
        Entry::from_bits(entry.load(Ordering::Acquire)).resident_in(frames)
    }

    /// Whether the page of `entry` is in `frame`, and nobody moves it.
    #[inline]
    pub fn is_in(&self, entry: &AtomicU64, frame: u32) -> bool {
        find::is_at(entry, frame)
    }

    /// Whether somebody has claimed `frame`, to move a page into it or out of it. A hint.
    pub fn is_claimed(&self, frame: u32) -> bool {
        frame < self.count() && self.claim_of(frame).holder().is_some()
    }

    fn place(&self, page: PageId, bits: u64) -> Result<Place, Corrupt> {
        Entry::from_bits(bits).place(self.count()).ok_or(Corrupt { page, value: bits })
    }

    fn claim_of(&self, frame: u32) -> Claim {
        // Relaxed: it is `take` and `give_up` that count.
        Claim::from_bits(self.frames[frame as usize].claim.load(Ordering::Relaxed))
    }

    /// Takes a claim over from who has it no more.
    fn take(&self, frame: u32, from: Claim, to: Claim) -> bool {
        let claim = &self.frames[frame as usize].claim;
        // Pairs with the Release in `give_up`: what its last holder did.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        claim.compare_exchange(from.to_bits(), to.to_bits(), ok, err).is_ok()
    }

    /// Gives up a claim, of ours or of a dead one, and wakes who waits for the page.
    fn give_up(&self, frame: u32, from: Claim) {
        let Frame { claim, moved, .. } = &self.frames[frame as usize];
        // Pairs with the Acquire in `take`: what we did, or the dead one, whose death was proven to
        // us. Where it fails somebody has taken it over.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        if claim.compare_exchange(from.to_bits(), Claim::NOBODY.to_bits(), ok, err).is_ok() {
            moved.notify();
        }
    }
}

/// What a hazard slot says for a frame: numbers from 1.
fn announced(frame: u32) -> std::num::NonZeroU64 {
    std::num::NonZeroU64::MIN.saturating_add(u64::from(frame))
}
