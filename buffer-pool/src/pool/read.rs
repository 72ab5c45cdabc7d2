//! Finding a page, or reading it in.
use super::PageError;
use super::load::{Coming, Run};
use super::page::{Page, PageView};
use super::session::Session;
use super::stats::Count;
use super::strategy::Ring;
use crate::checksum::HEADER_BYTES;
use crate::files::FileNumber;
use crate::frames::{Find, FindError, PageId, Pin};
use std::time::Instant;

/// What to do about a page that is in no frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Miss<'b> {
    Read,
    /// It is not read: this is in it, behind what is the pool's.
    Write(&'b [u8]),
    /// Zeroes do, where its checksum is wrong.
    ZeroOnError,
}

impl Session {
    /// The page of block `block` of `file`, which stays in the pool for as long as the answer
    /// lives: found there, or read in.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # If a process dies here
    /// Its pin is taken back when it is reaped; who wants a page that it was reading goes on.
    // Inlined wherever it is called: else the page is returned through memory, and loaded from it
    // in other pieces than it was stored, for which the processor waits.
    #[inline(always)]
    pub fn page(&self, file: FileNumber, block: u32) -> Result<Page<'_>, PageError> {
        let page = match self.pin(file, block) {
            Some(page) => page,
            None => self.miss(file, block, Miss::Read)?,
        };
        Ok(page)
    }

    /// As [`page`](Session::page), with `body` in it from here on, which is all of the page but for
    /// the first [`HEADER_BYTES`]: what is not in the pool is not read.
    ///
    /// # Errors
    /// [`PageError`]; [`PageError::OutOfPage`] where `body` is not of that length. The page is as
    /// it was.
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page); the page is as it was, or has all of `body`.
    pub fn overwrite(
        &self,
        file: FileNumber,
        block: u32,
        body: &[u8],
    ) -> Result<Page<'_>, PageError> {
        self.overwrite_in(file, block, body, None)
    }

    pub(super) fn overwrite_in<'s>(
        &'s self,
        file: FileNumber,
        block: u32,
        body: &[u8],
        ring: Option<&'s Ring>,
    ) -> Result<Page<'s>, PageError> {
        let page = file.page(block).ok_or(PageError::NoSuchFile(file))?;
        let page_bytes = self.inner.config.page_bytes;
        if body.len() != page_bytes as usize - HEADER_BYTES {
            return Err(PageError::OutOfPage { at: HEADER_BYTES, len: body.len(), page_bytes });
        }
        self.has_open(file)?;
        Ok(self.bring(page, Miss::Write(body), 0, ring)?.0)
    }

    /// As [`page`](Session::page); a page that is damaged is one of zeroes from here on, for
    /// whoever finds it in the pool. In its file it is damaged until it was changed and written.
    ///
    /// # Errors
    /// [`PageError`], but [`PageError::Checksum`].
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page).
    pub fn page_or_zero(&self, file: FileNumber, block: u32) -> Result<Page<'_>, PageError> {
        self.miss(file, block, Miss::ZeroOnError)
    }

    /// The page, where it is in the pool; it is not read.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page).
    pub fn page_if_here(
        &self,
        file: FileNumber,
        block: u32,
    ) -> Result<Option<Page<'_>>, PageError> {
        let page = file.page(block).ok_or(PageError::NoSuchFile(file))?;
        match self.find(page)? {
            Find::Pinned(pin) => Ok(Some(self.hit(page, pin))),
            _ => self.check_block(page).map(|()| None),
        }
    }

    /// What `read` reads of a page: found in the pool, or read in. For short reads: where the page
    /// is there, in one of the frames that the pool was made with, and nobody changes it or throws
    /// it out meanwhile, nothing is written at all, not even a pin; else `read` is called again. It
    /// loads and believes nothing: what it reads may be half changed, or another page's, and is
    /// thrown away then.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page).
    #[inline]
    pub fn read<R>(
        &self,
        file: FileNumber,
        block: u32,
        mut read: impl FnMut(PageView<'_>) -> R,
    ) -> Result<R, PageError> {
        match self.glance(file, block, &mut read) {
            Some(bytes) => Ok(bytes),
            None => self.page_called(file, block)?.read(read),
        }
    }

    /// As [`page`](Session::page), for who comes here rarely.
    #[inline(never)]
    fn page_called(&self, file: FileNumber, block: u32) -> Result<Page<'_>, PageError> {
        self.page(file, block)
    }

    /// What `read` reads of a page that is in the pool, and that nobody changes or moves.
    ///
    /// Of frame `f`: (1) the entry says that the page is in `f`; (2) the version is even; (3) the
    /// entry says the same, and the file has the block; (4) the bytes; (5) the version is the same.
    /// Who puts another page into `f` begins a change first. So there was none from (2) to (5), and
    /// at (3) the page was in `f`: so it was at (4), as it was.
    #[inline]
    fn glance<R>(
        &self,
        file: FileNumber,
        block: u32,
        read: impl FnOnce(PageView<'_>) -> R,
    ) -> Option<R> {
        let (spot, frames) = (self.finder.spot(file, block)?, self.user.frames());
        let frame = frames.frame_in(spot.entry(), self.frames_kept)?;
        let looked = self.pages.look(frame, |words| {
            let is_here = frames.is_in(spot.entry(), frame) && spot.is_there();
            is_here.then(|| read(PageView::new(words)))
        });
        let bytes = looked.ok()?.flatten()?;
        self.policy.hit(frame);
        self.count(Count::Hits);
        Some(bytes)
    }

    /// A page that is in the pool, and that nobody moves.
    #[inline(always)]
    fn pin(&self, file: FileNumber, block: u32) -> Option<Page<'_>> {
        let (page, spot) = (file.page(block)?, self.finder.spot(file, block)?);
        let pin = self.user.pin(spot.entry(), |frame| self.policy.hit(frame))?;
        // As in `find`.
        if !spot.is_there() {
            return None;
        }
        self.count(Count::Hits);
        Some(Page::new(self, page, pin))
    }

    /// Finds a page of a file that has it. After the pin it is asked whether the file has the
    /// block: the entry that led to it may be another file's by then.
    pub(super) fn find(&self, page: PageId) -> Result<Find<'_>, PageError> {
        match self.user.find(page) {
            Ok(Find::Pinned(_)) if !self.inner.files.contains(page) => Ok(Find::Absent),
            Ok(found) => Ok(found),
            Err(error) => Err(self.not_found(error)),
        }
    }

    /// Where there is no such page it is the block that there is not, or the file.
    #[cold]
    fn not_found(&self, error: FindError) -> PageError {
        match error {
            FindError::NoSuchPage(page) => self.check_block(page).err().unwrap_or(error.into()),
            error => error.into(),
        }
    }

    #[inline]
    fn hit<'s>(&'s self, page: PageId, pin: Pin<'s>) -> Page<'s> {
        self.policy.hit(pin.frame());
        self.count(Count::Hits);
        Page::new(self, page, pin)
    }

    /// As `hit`, by one who may have a ring.
    pub(super) fn found<'s>(&'s self, page: PageId, pin: Pin<'s>, ring: Option<&Ring>) -> Page<'s> {
        if ring.is_none() {
            return self.hit(page, pin);
        }
        self.policy.hit_aside(pin.frame());
        self.count(Count::Hits);
        Page::new(self, page, pin)
    }

    #[cold]
    fn miss(&self, file: FileNumber, block: u32, miss: Miss<'_>) -> Result<Page<'_>, PageError> {
        let page = file.page(block).ok_or(PageError::NoSuchFile(file))?;
        Ok(self.bring(page, miss, 0, None)?.0)
    }

    /// The page, and how many behind it were read in together with it: `more` at most.
    pub(super) fn bring<'s>(
        &'s self,
        page: PageId,
        miss: Miss<'_>,
        more: u32,
        ring: Option<&'s Ring>,
    ) -> Result<(Page<'s>, u32), PageError> {
        let deadline = self.inner.deadline();
        for round in 0.. {
            if round > 0 && deadline.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            let run = match self.find(page)? {
                Find::Pinned(pin) => {
                    let page = self.found(page, pin, ring);
                    if let Miss::Write(body) = miss {
                        page.exclusive()?.write(&[(HEADER_BYTES, body)])?;
                    }
                    return Ok((page, 0));
                }
                Find::Loading { frame } => {
                    let Some(loading) = self.user.take_over(page, frame)? else {
                        self.count(Count::Waits);
                        self.user.wait(frame, deadline)?;
                        continue;
                    };
                    // Who was to have this frame no more has left it, with a page on its way.
                    if frame >= self.inner.limit.get() {
                        continue;
                    }
                    self.count(Count::TakenOver);
                    Run { first: Coming::new(self, page, loading, ring), behind: Vec::new() }
                }
                Find::Absent => {
                    self.check_block(page)?;
                    let Some(run) = self.claim(page, more, ring)? else { continue };
                    run
                }
            };
            if let Some((pin, more)) = self.bring_in(run, miss)? {
                return Ok((Page::new(self, page, pin), more));
            }
        }
        Err(PageError::TimedOut)
    }

    #[cold]
    pub(super) fn check_block(&self, page: PageId) -> Result<(), PageError> {
        if self.inner.files.contains(page) {
            return Ok(());
        }
        let file = FileNumber::of(page);
        let info = self.inner.files.info(file).ok_or(PageError::NoSuchFile(file))?;
        Err(PageError::PastEnd { path: info.path, block: page.block(), blocks: info.blocks })
    }
}
