//! Rings of frames, for who goes over many pages and comes back to few.
//!
//! ```text
//!   oldest                                newest
//!   │ 17: page 4 │ 23: page 5 │ … │ 9: page 35 │    as many as the strategy says
//!        └─ gives up its page for page 36
//! ```
//!
//! A plain scan of a large file takes each frame of the pool in its turn, and throws out what
//! others use. With a ring it takes its own again: PostgreSQL's `BufferAccessStrategy`
//! (`freelist.c`). While the ring is not full it takes frames as anybody does. Afterwards its
//! oldest frame is for its next page, unless somebody else wants the page that is there: has it
//! pinned, or has used it since. Then the frame is left to the pool, and another one takes its
//! place. A ring for reading also leaves what was changed, for it would have to write that out
//! first.
//!
//! Its pages count as used once, however often its owner does. With a probation ring they do not go
//! through that: they stand under the clock at once, where a use by others is told from none.
//!
//! A ring is private, and a list of hints: no frame is claimed for it, and anybody may take one.
//! So it is looked at whether the page that came with the ring is there still; and who dies with a
//! ring leaves nothing but pages that were used once.
use super::page::Page;
use super::read::Miss;
use super::session::{Reserve, Session};
use super::stats::Count;
use super::stream::{ReadStream, StreamOptions};
use super::{PageError, Prewarm};
use crate::files::{FileNumber, Files};
use crate::frames::{Find, Free, PageId};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

/// What somebody is going to do with many pages. The sizes of the rings are PostgreSQL's; none is
/// more than an eighth of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Reads them: a ring of 256 KiB. What was changed all the same is left to others to write.
    BulkRead,
    /// Writes them: 16 MiB.
    BulkWrite,
    /// Reads them and changes some: 2 MiB.
    Vacuum,
}

impl Strategy {
    const fn bytes(self) -> u32 {
        match self {
            Strategy::BulkRead => 256 << 10,
            Strategy::BulkWrite => 16 << 20,
            Strategy::Vacuum => 2 << 20,
        }
    }
}

/// A ring's share of the pool, at most.
const SHARE: u32 = 8;

/// A session that takes the frames for what it reads from a ring of its own:
/// [`Session::with_strategy`]. Its other calls do not.
#[derive(Debug)]
pub struct Bulk<'s> {
    session: &'s Session,
    ring: Ring,
}

/// The frames, and which page came to each: the oldest first.
#[derive(Debug)]
pub(super) struct Ring {
    strategy: Strategy,
    frames: RefCell<VecDeque<(u32, PageId)>>,
}

impl Ring {
    /// A page has come to a frame.
    pub(super) fn push(&self, frame: u32, page: PageId) {
        self.frames.borrow_mut().push_back((frame, page));
    }

    /// The oldest, `count` of them at most, where so many more would be too many for `size`; where
    /// the pool has become smaller, say, more of them leave the ring.
    fn leave(&self, count: u32, size: u32) -> Vec<(u32, PageId)> {
        let mut frames = self.frames.borrow_mut();
        let surplus = (frames.len() + count as usize).saturating_sub(size as usize);
        let surplus = surplus.min(frames.len());
        frames.drain(..surplus).take(count as usize).collect()
    }
}

impl Session {
    /// The session, with a ring for what it reads. Each call makes a new one.
    ///
    /// ```
    /// use buffer_pool::files::FileKey;
    /// use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions};
    /// use buffer_pool::pool::{Strategy, StreamOptions};
    /// use shm_core::mapping::Mapping;
    ///
    /// let directory = tempfile::tempdir()?;
    /// let config = PoolConfig { processes: 2, ..PoolConfig::new(1 << 20) };
    /// let mapping = Mapping::heap(Pool::bytes_for(&config)?.try_into()?);
    /// let pool = Pool::open(&mapping, &config, PoolOptions::default())?;
    /// let session = pool.session()?;
    /// let options = FileOptions { create: true, ..FileOptions::default() };
    /// let key = FileKey { id: 1, fork: 0 };
    /// let games = session.register(key, &directory.path().join("games"), &options)?;
    /// session.extend(games, 1000)?;
    ///
    /// let bulk = session.with_strategy(Strategy::BulkRead);
    /// for page in bulk.stream(games, 0..1000, StreamOptions::default()) {
    ///     page?.read(|view| view.u64(16))?;
    /// }
    /// assert_eq!(pool.resident().len(), 128 / 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_strategy(&self, strategy: Strategy) -> Bulk<'_> {
        Bulk { session: self, ring: Ring { strategy, frames: RefCell::default() } }
    }

    /// So many frames a ring has.
    pub(super) fn size_of(&self, ring: &Ring) -> u32 {
        let frames = ring.strategy.bytes() / self.inner.config.page_bytes;
        frames.min(self.inner.limit.get() / SHARE).max(1)
    }

    /// Frames of the ring for `count` pages, as far as it is full and nobody else wants what is
    /// there. What cannot be written is left by the ring; who finds no other frame meets it again.
    pub(super) fn recycle(
        &self,
        ring: &Ring,
        count: u32,
    ) -> Result<Vec<Free<'_, Files>>, PageError> {
        let oldest = ring.leave(count, self.size_of(ring));
        let is_unused = |frame: &u32| self.policy.use_count(*frame).is_some_and(|uses| uses <= 1);
        let unused: Vec<u32> = oldest.iter().map(|(frame, _)| *frame).filter(is_unused).collect();
        let mut reserve = self.reserve();
        let Reserve { protected, page: buffer, .. } = &mut *reserve;
        let mut free = Vec::with_capacity(unused.len());
        self.user.evict(&unused, protected, &mut free, |frame, page| {
            let writes = ring.strategy != Strategy::BulkRead;
            oldest.contains(&(frame, page))
                && (writes || !self.inner.pages.is_dirty(frame))
                && self.is_written(frame, page, buffer, &mut None)
        })?;
        self.tally.add(Count::Evictions, free.len() as u64);
        self.tally.add(Count::Recycled, free.len() as u64);
        free.retain(|free| self.inner.limit.admits(free));
        Ok(free)
    }
}

impl<'s> Bulk<'s> {
    /// As [`Session::page`].
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # If a process dies here
    /// As in [`Session::page`].
    pub fn page(&self, file: FileNumber, block: u32) -> Result<Page<'_>, PageError> {
        let page = file.page(block).ok_or(PageError::NoSuchFile(file))?;
        match self.session.find(page)? {
            Find::Pinned(pin) => Ok(self.session.found(page, pin, Some(&self.ring))),
            _ => Ok(self.session.bring(page, Miss::Read, 0, Some(&self.ring))?.0),
        }
    }

    /// As [`Session::overwrite`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # If a process dies here
    /// As in [`Session::overwrite`].
    pub fn overwrite(
        &self,
        file: FileNumber,
        block: u32,
        body: &[u8],
    ) -> Result<Page<'_>, PageError> {
        self.session.overwrite_in(file, block, body, Some(&self.ring))
    }

    /// As [`Session::stream`].
    pub fn stream<I: Iterator<Item = u32>>(
        &self,
        file: FileNumber,
        blocks: I,
        options: StreamOptions,
    ) -> ReadStream<'_, I> {
        ReadStream::new(self.session, Some(&self.ring), file, blocks, options)
    }

    /// As [`Session::prewarm`]: of what is read into the pool no more than the ring has stays.
    ///
    /// # Errors
    /// As there.
    ///
    /// # If a process dies here
    /// As in [`Session::prewarm`].
    pub fn prewarm(
        &self,
        file: FileNumber,
        blocks: Range<u32>,
        how: Prewarm,
    ) -> Result<u64, PageError> {
        self.session.prewarm_in(file, blocks, how, Some(&self.ring))
    }
}
