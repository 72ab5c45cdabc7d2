//! Pages on their way into frames of ours: one, or neighbours that are read together.
//!
//! Who reads several at once has claimed the frames first, and then said in each page's entry that
//! it reads it: so it waits for nobody while others wait for it, and where another one was first
//! with a page it reads those before that one. One call reads them all. Where that call did not
//! bring the first one, that is read alone; and others when they are wanted. So each error is told
//! of the block that it is about.
//!
//! Each page is published by itself. The first is so last of all, for it alone stays pinned: who
//! has one pin left can read neighbours.
//!
//! # Deaths
//!
//! As where one page is read: each of the entries says that it is being read, by one who is dead,
//! and whoever wants that page takes it over.
use super::PageError;
use super::read::Miss;
use super::session::Session;
use super::stats::Count;
use super::strategy::Ring;
use crate::checksum::{self, HEADER_BYTES};
use crate::files::{FileNumber, Files};
use crate::frames::{FindError, Free, Loading, PageId, Pin};
use crate::pages;
use crate::store::{PARTS_MAX, read_whole};
use std::ptr::NonNull;

/// So many blocks are read together, and so many bytes, where nothing else was said: PostgreSQL's
/// `io_combine_limit`.
const BLOCKS: u32 = 16;
const BYTES: u32 = 128 << 10;

/// A page that is being read into a frame of ours. Dropped, it is in no frame, and its frame is
/// said to be vacant.
pub(super) struct Coming<'s> {
    session: &'s Session,
    /// Where its frame is noted.
    ring: Option<&'s Ring>,
    page: PageId,
    frame: u32,
    /// Goes first: nobody is to have the frame while its latch is ours. It is there from `begin`
    /// on, and both are gone when the page was published.
    bytes: Option<pages::Loading<'s>>,
    loading: Option<Loading<'s, Files>>,
    /// The frame has the page, or is put by, or is nothing for others yet.
    is_settled: bool,
}

/// A page that is being read into a frame of ours, and neighbours of it.
pub(super) struct Run<'s> {
    pub(super) first: Coming<'s>,
    /// Those that come after it in the file.
    pub(super) behind: Vec<Coming<'s>>,
}

impl Session {
    /// So many blocks are read together, where nothing else was said.
    pub(super) fn combine(&self) -> u32 {
        BLOCKS.min(BYTES / self.inner.config.page_bytes)
    }

    /// So many frames a session claims at once, at most: where all that there can be do so there
    /// is one for each still.
    pub(super) fn share_of_frames(&self) -> u32 {
        let config = &self.inner.config;
        let sessions = config.processes.saturating_mul(config.sessions);
        (self.inner.limit.get() / sessions).clamp(1, PARTS_MAX as u32)
    }

    /// Says that we read `page`, and up to `more` pages behind it. None, where somebody was first
    /// with that one.
    pub(super) fn claim<'s>(
        &'s self,
        page: PageId,
        more: u32,
        ring: Option<&'s Ring>,
    ) -> Result<Option<Run<'s>>, PageError> {
        let (free, frames) = self.free_frames(more, ring)?;
        let first = self.says(page, free, ring)?;
        let (mut frames, mut behind) = (frames.into_iter(), Vec::new());
        if first.is_some() {
            let blocks = (page.block()..=u32::MAX).skip(1).take(more as usize);
            let pages = blocks.map_while(|block| FileNumber::of(page).page(block));
            for (page, free) in pages.zip(&mut frames) {
                let Some(coming) = self.says(page, free, ring)? else { break };
                behind.push(coming);
            }
        }
        frames.for_each(|free| self.user.put_by(&mut self.reserve().stock, free));
        Ok(first.map(|first| Run { first, behind }))
    }

    /// Says that we read `page` into this frame; None where somebody was first.
    fn says<'s>(
        &'s self,
        page: PageId,
        free: Free<'s, Files>,
        ring: Option<&'s Ring>,
    ) -> Result<Option<Coming<'s>>, PageError> {
        let frame = free.frame();
        match free.load(page) {
            Ok(Ok(loading)) => Ok(Some(Coming::new(self, page, loading, ring))),
            Ok(Err(free)) => {
                self.user.put_by(&mut self.reserve().stock, free);
                Ok(None)
            }
            // Since we looked.
            Err(FindError::NoSuchPage(_)) => {
                self.policy.vacate(frame);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Has the first of these pages found in its frame, pinned, and the others as far as nothing
    /// hinders: how many of those. `None`: look again.
    pub(super) fn bring_in<'s>(
        &'s self,
        run: Run<'s>,
        miss: Miss<'_>,
    ) -> Result<Option<(Pin<'s>, u32)>, PageError> {
        let Run { mut first, mut behind } = run;
        if !first.begin()? {
            return Ok(None);
        }
        let begun = behind.iter_mut().map_while(|page| page.begin().ok().filter(|begun| *begun));
        let begun = begun.count();
        behind.truncate(begun);
        let whole = if begun > 0 { self.read_together(&first, &behind)? } else { 0 };
        first.fill(miss, whole > 0)?;
        let mut more = 0;
        // The others are read, and their errors told, when they are wanted.
        for page in behind.into_iter().take(whole.saturating_sub(1)) {
            if page.read(true).is_err() {
                break;
            }
            self.count(Count::Reads);
            match page.publish(Miss::Read) {
                Ok(Some(_)) => more += 1,
                _ => break,
            }
        }
        Ok(first.publish(miss)?.map(|pin| (pin, more)))
    }

    /// How many of these pages one call brings, from the first on.
    fn read_together(&self, first: &Coming<'_>, behind: &[Coming<'_>]) -> Result<usize, PageError> {
        let file = self.inner.open_file(FileNumber::of(first.page))?;
        let coming = [first].into_iter().chain(behind);
        let places = coming.map(|page| self.inner.pages.bytes_of(page.frame));
        let places = places.collect::<Result<Vec<NonNull<[u8]>>, _>>()?;
        let page_bytes = self.inner.config.page_bytes as usize;
        self.count(Count::ReadCalls);
        let at = u64::from(first.page.block()) * page_bytes as u64;
        // SAFETY: the frames, which we load; their bytes are cells, of which there are shared
        // references only.
        let read = unsafe { file.read_vectored(at, &places) };
        Ok(read.unwrap_or(0).min(places.len() * page_bytes) / page_bytes)
    }
}

impl<'s> Coming<'s> {
    pub(super) fn new(
        session: &'s Session,
        page: PageId,
        loading: Loading<'s, Files>,
        ring: Option<&'s Ring>,
    ) -> Coming<'s> {
        let (frame, loading) = (loading.frame(), Some(loading));
        Coming { session, ring, page, frame, bytes: None, loading, is_settled: false }
    }

    /// Takes the frame's bytes. Where that cannot be now the page is to be looked for again.
    fn begin(&mut self) -> Result<bool, PageError> {
        let Session { inner, pages, .. } = self.session;
        // Who cuts the file off sees the entry; or we see that the file is shorter.
        if !inner.files.admits(self.page) {
            self.session.check_block(self.page)?;
            return Ok(false);
        }
        self.bytes = pages.load(self.frame)?;
        if self.bytes.is_none() {
            // Somebody mends the page that was there. Others are to have another frame.
            self.is_settled = true;
            std::thread::yield_now();
        }
        Ok(self.bytes.is_some())
    }

    /// Has in the frame what is wanted of the page; `is_here`: the page is there.
    fn fill(&mut self, miss: Miss<'_>, is_here: bool) -> Result<(), PageError> {
        if let Miss::Write(body) = miss {
            self.copy_in(0, &[0; HEADER_BYTES]);
            self.copy_in(HEADER_BYTES, body);
            return Ok(());
        }
        let read = self.read(is_here);
        self.session.count(if read.is_ok() { Count::Reads } else { Count::ReadErrors });
        match read {
            Err(PageError::Checksum { .. }) if miss == Miss::ZeroOnError => {
                let mut reserve = self.session.reserve();
                let zeroes = reserve.page.bytes();
                zeroes.fill(0);
                self.copy_in(0, zeroes);
                Ok(())
            }
            read => read,
        }
    }

    fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().for_each(|page| page.copy_in(at, bytes));
    }

    /// Reads the page, where it is not there, and looks at its checksum.
    fn read(&self, is_here: bool) -> Result<(), PageError> {
        if !is_here {
            self.read_alone()?;
        }
        if self.session.inner.config.checksums { self.check_sum() } else { Ok(()) }
    }

    fn read_alone(&self) -> Result<(), PageError> {
        let Session { inner, .. } = self.session;
        let (number, block) = (FileNumber::of(self.page), self.page.block());
        let file = inner.open_file(number)?;
        let place = inner.pages.bytes_of(self.frame)?;
        let at = u64::from(block) * place.len() as u64;
        self.session.count(Count::ReadCalls);
        // SAFETY: the frame, which we load; its bytes are cells, of which there are shared
        // references only.
        let read = unsafe { read_whole(&*file, at, place.cast(), place.len()) };
        PageError::of_read(read, block, || self.session.path_of(number))
    }

    fn check_sum(&self) -> Result<(), PageError> {
        let Some(page) = &self.bytes else { return Ok(()) };
        let (session, block) = (self.session, self.page.block());
        let mut reserve = session.reserve();
        let bytes = reserve.page.bytes();
        page.copy_out(0, bytes);
        checksum::check(block, bytes).map_err(|(found, expected)| {
            let path = session.path_of(FileNumber::of(self.page));
            PageError::Checksum { path, block, found, expected }
        })
    }

    /// Has the page found in its frame. `None`: look again.
    fn publish(mut self, miss: Miss<'_>) -> Result<Option<Pin<'s>>, PageError> {
        let (session, frame) = (self.session, self.frame);
        let (Some(bytes), Some(loading)) = (self.bytes.take(), self.loading.take()) else {
            return Ok(None);
        };
        bytes.done()?;
        if let Miss::Write(_) = miss {
            // Before anybody finds it; nobody else has the latch.
            session.pages.share_exclusive(frame, session.inner.deadline())?.mark_dirty()?;
        }
        let policy = &session.policy;
        match self.ring {
            Some(_) => policy.admit_aside(frame),
            None => policy.admit(frame, self.page.to_bits()),
        }
        let published = loading.publish()?;
        self.is_settled = true;
        match published {
            Ok(pin) => {
                match self.ring {
                    Some(ring) => ring.push(frame, self.page),
                    // A writer that rests.
                    None => session.inner.head.read.notify(),
                }
                Ok(Some(pin))
            }
            Err(free) => {
                session.user.put_by(&mut session.reserve().stock, free);
                Ok(None)
            }
        }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        (self.bytes, self.loading) = (None, None);
        if !self.is_settled {
            self.session.policy.vacate(self.frame);
        }
    }
}
