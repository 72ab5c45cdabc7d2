//! A page, and what may be done with it.
use super::PageError;
use super::session::Session;
use crate::checksum::HEADER_BYTES;
use crate::files::FileNumber;
use crate::frames::{PageId, Pin};
use crate::pages;
use shm_core::bytes::{WORD_BYTES, Word, relaxed};
use std::fmt;

/// A page that stays in the pool for as long as this lives.
///
/// Reading and changing it needs no latch of the caller's: each call takes what it needs. Several
/// reads, or changes, that belong together are made under a [`Share`] or an [`Exclusive`]. A thread
/// that has one of a page asks for none of another page's but in an order that all keep to. What
/// was found under one of them stays where it is afterwards, too, for as long as this lives, where
/// all who move it or take it away do that under a [`Cleanup`](super::Cleanup).
pub struct Page<'s> {
    pub(super) session: &'s Session,
    pub(super) id: PageId,
    pub(super) pin: Pin<'s>,
}

/// A page that nobody changes for as long as this lives.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Share<'p> {
    page: &'p Page<'p>,
    held: pages::Share<'p>,
}

/// A page that this thread alone changes, and nobody reads but by looks, for as long as it lives.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Exclusive<'p> {
    page: &'p Page<'p>,
    held: pages::Exclusive<'p>,
}

/// A page's bytes, to be loaded one by one: others may be changing them.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    words: &'a [Word],
}

impl<'s> Page<'s> {
    #[inline]
    pub(super) fn new(session: &'s Session, id: PageId, pin: Pin<'s>) -> Page<'s> {
        Page { session, id, pin }
    }

    /// Of which file.
    #[inline]
    pub fn file(&self) -> FileNumber {
        FileNumber::from_bits(self.id.file())
    }

    /// Which block of the file.
    #[inline]
    pub fn block(&self) -> u32 {
        self.id.block()
    }

    /// The frame that it is in.
    #[inline]
    pub fn frame(&self) -> u32 {
        self.pin.frame()
    }

    /// What `read` reads of the page: without a latch, as long as nobody changes the page
    /// meanwhile; else it is called again. It loads and believes nothing: what it reads may be half
    /// changed, and is thrown away then.
    ///
    /// # Errors
    /// [`PageError::TimedOut`], [`PageError::Torn`], [`PageError::Overwritten`],
    /// [`PageError::Forked`].
    ///
    /// # If a process dies here
    /// It may share the latch, which is taken back from the dead.
    #[inline]
    pub fn read<R>(&self, mut read: impl FnMut(PageView<'_>) -> R) -> Result<R, PageError> {
        let (session, frame) = (self.session, self.frame());
        let deadline = || session.inner.deadline();
        Ok(session.pages.read_with(frame, deadline, |words| read(PageView::new(words)))?)
    }

    /// Copies `out.len()` bytes from byte `at` of the page.
    ///
    /// # Errors
    /// [`PageError::OutOfPage`]; those of [`read`](Page::read).
    ///
    /// # If a process dies here
    /// As in [`read`](Page::read).
    pub fn copy_out(&self, at: usize, out: &mut [u8]) -> Result<(), PageError> {
        self.session.check_range(at, out.len())?;
        self.read(|view| view.copy_out(at, out))
    }

    /// The page, as nobody changes it. Waits for who does.
    ///
    /// # Errors
    /// As [`read`](Page::read).
    ///
    /// # If a process dies here
    /// Its share is taken back.
    pub fn share(&self) -> Result<Share<'_>, PageError> {
        let deadline = self.session.inner.deadline();
        Ok(Share { page: self, held: self.session.pages.share(self.frame(), deadline)? })
    }

    /// The page, for this thread to change. Waits for who changes, shares or writes it out.
    ///
    /// # Errors
    /// As [`read`](Page::read); [`PageError::Open`], for who cannot open the file changes no page.
    ///
    /// # If a process dies here
    /// The page is as it was.
    pub fn exclusive(&self) -> Result<Exclusive<'_>, PageError> {
        self.session.has_open(self.file())?;
        let deadline = self.session.inner.deadline();
        Ok(Exclusive { page: self, held: self.session.pages.exclusive(self.frame(), deadline)? })
    }

    /// Writes to the page, which the caller has exclusively.
    pub(super) fn write(
        &self,
        held: &mut pages::Exclusive<'_>,
        changes: &[(usize, &[u8])],
    ) -> Result<(), PageError> {
        let page_bytes = self.session.inner.config.page_bytes;
        if let Some((at, bytes)) = changes.iter().find(|(at, _)| *at < HEADER_BYTES) {
            return Err(PageError::OutOfPage { at: *at, len: bytes.len(), page_bytes });
        }
        held.write(changes).map_err(|error| PageError::of_write(error, page_bytes))
    }
}

impl Share<'_> {
    /// The page's bytes.
    pub fn view(&self) -> PageView<'_> {
        PageView { words: self.held.words() }
    }

    /// The page that it is of.
    pub fn page(&self) -> &Page<'_> {
        self.page
    }
}

impl Exclusive<'_> {
    /// The page's bytes.
    pub fn view(&self) -> PageView<'_> {
        PageView { words: self.held.words() }
    }

    /// The page that it is of.
    pub fn page(&self) -> &Page<'_> {
        self.page
    }

    /// Writes these bytes at these places of the page, in this order: all of them, or none where
    /// it fails or the process dies. The page is dirty then, and is written to its file when its
    /// frame is wanted, or by [`Session::flush`].
    ///
    /// # Errors
    /// [`PageError::OutOfPage`] where one touches the first [`HEADER_BYTES`], or what is not there;
    /// [`PageError::TooManyRanges`], [`PageError::Forked`]. The page is as it was.
    ///
    /// # If a process dies here
    /// All is written, or nothing; whoever finds it half done does the rest.
    pub fn write(&mut self, changes: &[(usize, &[u8])]) -> Result<(), PageError> {
        self.page.write(&mut self.held, changes)
    }
}

impl<'a> PageView<'a> {
    #[inline]
    pub(super) fn new(words: &'a [Word]) -> PageView<'a> {
        PageView { words }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        size_of_val(self.words)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The byte at `at`; `None` where there is none, as below.
    #[inline]
    pub fn u8(&self, at: usize) -> Option<u8> {
        self.array::<1>(at).map(|[byte]| byte)
    }

    /// The two bytes at `at`, as a little-endian number.
    #[inline]
    pub fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// The four bytes at `at`, as a little-endian number.
    #[inline]
    pub fn u32(&self, at: usize) -> Option<u32> {
        if at.is_multiple_of(4) {
            let eight = self.u64(at & !7)?;
            return Some((eight >> (8 * (at & 4))) as u32);
        }
        self.array(at).map(u32::from_le_bytes)
    }

    /// The eight bytes at `at`, as a little-endian number.
    #[inline]
    pub fn u64(&self, at: usize) -> Option<u64> {
        if at.is_multiple_of(WORD_BYTES) {
            return self.words.get(at / WORD_BYTES).map(|word| u64::from_le(word.load()));
        }
        self.array(at).map(u64::from_le_bytes)
    }

    /// The `N` bytes at `at`.
    #[inline]
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (at.checked_add(N)? <= self.len())
            .then(|| relaxed::copy_out(self.words, at, &mut bytes))?;
        Some(bytes)
    }

    /// Copies `out.len()` bytes from byte `at` on.
    ///
    /// # Panics
    /// Where they are not all in the page.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        relaxed::copy_out(self.words, at, out);
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("id", &self.id).field("frame", &self.frame()).finish()
    }
}

impl fmt::Debug for PageView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageView").field("len", &self.len()).finish()
    }
}
