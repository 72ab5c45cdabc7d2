//! Pages one after the other, whose blocks are known some way ahead.
//!
//! ```text
//!    given     distance: so much is known
//!      │   ┌──────────────────────────────┐
//!      7   8   9   10   31   44   45   62 │ 63   90 …     as the iterator says them
//!      └─ one read ─┘  told  └ told ┘  not told: it may go on
//! ```
//!
//! It is PostgreSQL's `read_stream.c`, for reads that a call of the system ends. Blocks are looked
//! up some way ahead of the one that is given. One that is not in the pool is read when its turn
//! comes, together with those behind it that follow it in the file; and the system is told before
//! of what does not follow the blocks before it, for of what does it thinks by itself.
//!
//! How far it looks ahead grows twofold with each read, and shrinks by one with each page that is
//! there. Where the blocks follow each other it grows to one read only.
//!
//! What was read ahead is in the pool as any other page, and not pinned: a stream has no pin but
//! those of the pages that it has given. So it takes none from its caller, and holds up nobody
//! while the caller is busy. Where a page is thrown out before its turn has come it is read again.
use super::page::Page;
use super::read::Miss;
use super::session::Session;
use super::strategy::Ring;
use super::{PageError, stats::Count};
use crate::files::FileNumber;
use crate::frames::{Find, PageId};
use std::collections::VecDeque;
use std::fmt;
use std::iter::Fuse;
use std::ops::Range;

/// How a [`ReadStream`] reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamOptions {
    /// So many blocks are read together at most; where it is `None`, 16, or as many as 128 KiB have
    /// (PostgreSQL's `io_combine_limit`). It may be fewer, so that the frames suffice for all who
    /// may read at the same time.
    pub combine: Option<u32>,
    /// So many blocks it looks ahead at most, where they do not follow each other.
    pub distance_max: u32,
    /// Whether it looks ahead from the beginning: for who takes all of the pages.
    pub begins_ahead: bool,
}

impl Default for StreamOptions {
    fn default() -> StreamOptions {
        StreamOptions { combine: None, distance_max: 256, begins_ahead: false }
    }
}

/// The pages of some blocks of a file, in the order in which an iterator says them:
/// [`Session::stream`].
///
/// Each block has its page, or an error of its own: after an error it goes on with the next one.
pub struct ReadStream<'s, I> {
    session: &'s Session,
    ring: Option<&'s Ring>,
    file: FileNumber,
    blocks: Fuse<I>,
    /// What comes next, as far as it is known.
    ahead: VecDeque<Ahead>,
    /// So many of them should be.
    distance: u32,
    distance_max: u32,
    combine: u32,
    /// The last blocks that were found to be in no frame, and follow each other.
    run: Range<u32>,
    /// Whether the system need not be told of them.
    is_told: bool,
    /// The block behind the last read.
    read_end: Option<u32>,
}

/// A block whose turn comes.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    block: u32,
    /// It was read together with one before it.
    is_read: bool,
}

impl Session {
    /// The pages of `blocks` of a file, read in as far as they are not there, neighbours together.
    ///
    /// ```
    /// use buffer_pool::files::FileKey;
    /// use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, StreamOptions};
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
    /// session.extend(games, 100)?;
    ///
    /// for page in session.stream(games, (0..100).step_by(2), StreamOptions::default()) {
    ///     assert_eq!(page?.read(|view| view.u64(16))?, Some(0));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream<I: Iterator<Item = u32>>(
        &self,
        file: FileNumber,
        blocks: I,
        options: StreamOptions,
    ) -> ReadStream<'_, I> {
        ReadStream::new(self, None, file, blocks, options)
    }

    /// Tells the system that these blocks will be read.
    pub(super) fn hint(&self, file: FileNumber, blocks: Range<u32>) -> Result<(), PageError> {
        self.inner.check_fork()?;
        let page_bytes = u64::from(self.inner.config.page_bytes);
        let (at, len) = (u64::from(blocks.start) * page_bytes, blocks.len() as u64 * page_bytes);
        self.inner.open_file(file)?.prefetch(at, len);
        self.count(Count::Hints);
        Ok(())
    }

    /// Whether a page is in a frame. A hint.
    pub(super) fn is_resident(&self, file: FileNumber, block: u32) -> bool {
        file.page(block).is_some_and(|page| self.user.frames().frame_of(page).is_some())
    }
}

impl<'s, I: Iterator<Item = u32>> ReadStream<'s, I> {
    pub(super) fn new(
        session: &'s Session,
        ring: Option<&'s Ring>,
        file: FileNumber,
        blocks: I,
        options: StreamOptions,
    ) -> ReadStream<'s, I> {
        let most = session.share_of_frames();
        let most = ring.map_or(most, |ring| most.min(session.size_of(ring)));
        let combine = options.combine.unwrap_or(session.combine()).clamp(1, most);
        ReadStream {
            session,
            ring,
            file,
            blocks: blocks.fuse(),
            ahead: VecDeque::new(),
            distance: if options.begins_ahead { combine } else { 1 },
            distance_max: options.distance_max.min(session.inner.limit.get()).max(combine),
            combine,
            run: 0..0,
            is_told: true,
            read_end: None,
        }
    }

    /// Knows what comes next, as far as the distance says.
    fn look_ahead(&mut self) {
        while self.ahead.len() < self.distance as usize {
            let Some(block) = self.blocks.next() else { return self.tell() };
            self.look_up(block);
            self.ahead.push_back(Ahead { block, is_read: false });
        }
    }

    fn look_up(&mut self, block: u32) {
        if self.session.is_resident(self.file, block) {
            return;
        }
        let follows = block == self.run.end;
        if !follows || self.run.len() >= self.combine as usize {
            self.tell();
            // What follows is read ahead by the system of its own accord.
            (self.run.start, self.is_told) = (block, follows);
        }
        self.run.end = block.saturating_add(1);
    }

    /// Tells the system of the run, which does not go on.
    fn tell(&mut self) {
        if !self.is_told {
            self.is_told = true;
            // It is a suggestion: what hinders it is told when the blocks are read.
            let _ = self.session.hint(self.file, self.run.clone());
        }
    }

    fn take(&mut self, next: Ahead) -> Result<Page<'s>, PageError> {
        let page = self.file.page(next.block).ok_or(PageError::NoSuchFile(self.file))?;
        match self.session.find(page)? {
            // That was its use.
            Find::Pinned(pin) if next.is_read => Ok(Page::new(self.session, page, pin)),
            Find::Pinned(pin) => {
                self.distance = self.distance.saturating_sub(1).max(1);
                Ok(self.session.found(page, pin, self.ring))
            }
            _ => self.read(page),
        }
    }

    /// Reads a page, and of those behind it as many as may be.
    fn read(&mut self, page: PageId) -> Result<Page<'s>, PageError> {
        let block = page.block();
        let follows = self.read_end == Some(block);
        let most = if follows { self.combine } else { self.distance_max };
        self.distance = self.distance.max(self.distance.saturating_mul(2).min(most));
        self.look_ahead();
        let is_wanted = |(ahead, block): &(&Ahead, u32)| {
            ahead.block == *block && !self.session.is_resident(self.file, *block)
        };
        let behind = self.ahead.iter().zip(block.saturating_add(1)..=u32::MAX);
        let combine = self.combine.min(self.session.share_of_frames());
        let behind = behind.take(combine as usize - 1).take_while(is_wanted);
        let behind = behind.count() as u32;
        let (page, more) = self.session.bring(page, Miss::Read, behind, self.ring)?;
        self.ahead.iter_mut().take(more as usize).for_each(|ahead| ahead.is_read = true);
        self.read_end = block.checked_add(1 + more);
        Ok(page)
    }
}

impl<'s, I: Iterator<Item = u32>> Iterator for ReadStream<'s, I> {
    type Item = Result<Page<'s>, PageError>;

    /// The next page.
    ///
    /// # Errors
    /// As [`Session::page`].
    ///
    /// # If a process dies here
    /// As in [`Session::page`], for each of the pages that it was reading.
    fn next(&mut self) -> Option<Result<Page<'s>, PageError>> {
        let next = self.ahead.pop_front().or_else(|| {
            let block = self.blocks.next()?;
            self.look_up(block);
            Some(Ahead { block, is_read: false })
        })?;
        if self.run.contains(&next.block) {
            // Its turn has come.
            self.is_told = true;
        }
        self.look_ahead();
        Some(self.take(next))
    }
}

impl<I> fmt::Debug for ReadStream<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReadStream { file, distance, combine, .. } = self;
        f.debug_struct("ReadStream")
            .field("file", file)
            .field("distance", distance)
            .field("combine", combine)
            .finish_non_exhaustive()
    }
}
