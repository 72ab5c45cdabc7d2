//! `AreaConfig`: what an area is made for; `AllocOptions`: what a block is.
use super::ROWS_MAX;
use super::class::PAGE;
use super::error::AreaError;

/// Of what is free, so much is not given back unasked.
const KEEP_BYTES: u64 = 64 << 20;

/// How large an area can get, and for how many threads it is.
///
/// ```
/// use dsm::area::AreaConfig;
/// // At most a gibibyte, of which 64 MiB may be used for now.
/// let config = AreaConfig::new(1 << 30).limit(64 << 20).heaps(16);
/// assert_eq!(config.max_bytes(), 1 << 30);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaConfig {
    pub(super) pages: u64,
    pub(super) heaps: u32,
    pub(super) page_bytes: u32,
    /// Pages whose memory comes and goes together; 0: all are there for good.
    pub(super) chunk_pages: u32,
    /// Pages that are there from the beginning.
    pub(super) initial: u64,
    /// In bytes.
    pub(super) limit: u64,
    /// Pages that are free and not given back.
    pub(super) keep: u64,
    pub(super) tag: Option<u64>,
}

/// No block is larger, but for one that is asked for as [`huge`](AllocOptions::huge).
pub const BLOCK_MAX: u64 = (1 << 30) - 1;
/// Pages of a chunk, unless there would be too many chunks.
const CHUNK_PAGES: u64 = 128;
const CHUNKS_MAX: u64 = 1 << 16;

impl AreaConfig {
    /// With room for blocks of `bytes` in all (pages of 8 KiB), for 64 heaps. An area in a domain
    /// begins without memory and gets some by and by; one in place has all of it.
    pub const fn new(bytes: u64) -> AreaConfig {
        let pages = bytes.div_ceil(PAGE as u64);
        let (mut chunk_pages, keep) = (CHUNK_PAGES, KEEP_BYTES / PAGE as u64);
        while pages.div_ceil(chunk_pages) > CHUNKS_MAX && chunk_pages < 1 << 31 {
            chunk_pages *= 2;
        }
        AreaConfig {
            pages,
            heaps: 64,
            page_bytes: PAGE,
            chunk_pages: chunk_pages as u32,
            initial: 0,
            limit: u64::MAX,
            keep,
            tag: None,
        }
    }

    /// With memory behind the first `bytes` of pages from the beginning: for an area in a domain.
    #[must_use]
    pub const fn initial(self, bytes: u64) -> AreaConfig {
        AreaConfig { initial: bytes.div_ceil(self.page_bytes as u64), ..self }
    }

    /// With memory behind `bytes` of pages at most, in whole chunks (1 MiB; more where the area can
    /// be of more than 64 GiB): for an area in a domain. See [`Area::set_limit`].
    ///
    /// [`Area::set_limit`]: super::Area::set_limit
    #[must_use]
    pub const fn limit(self, bytes: u64) -> AreaConfig {
        AreaConfig { limit: bytes, ..self }
    }

    /// Of what is free, so much is kept when memory is given back without being asked for, 64 MiB
    /// by default: for an area in a domain.
    #[must_use]
    pub const fn keep(self, bytes: u64) -> AreaConfig {
        AreaConfig { keep: bytes.div_ceil(self.page_bytes as u64), ..self }
    }

    /// The most that it can hold.
    pub const fn max_bytes(&self) -> u64 {
        self.pages.saturating_mul(self.page_bytes as u64)
    }

    pub(crate) const fn fixed(self) -> AreaConfig {
        AreaConfig { chunk_pages: 0, ..self }
    }

    pub(super) const fn chunks(&self) -> u64 {
        if self.chunk_pages == 0 { 0 } else { self.pages.div_ceil(self.chunk_pages as u64) }
    }

    /// What a head says.
    pub(super) fn found(pages: u64, rows: u64, page_bytes: u64, chunk: u64) -> AreaConfig {
        let word = |word: u64| u32::try_from(word).unwrap_or(u32::MAX);
        let (heaps, page_bytes, chunk_pages) = (word(rows), word(page_bytes), word(chunk));
        AreaConfig { pages, heaps, page_bytes, chunk_pages, ..AreaConfig::new(0) }
    }

    /// For so many threads at once, of all processes: 1 to 4096.
    #[must_use]
    pub const fn heaps(self, heaps: u32) -> AreaConfig {
        AreaConfig { heaps, ..self }
    }

    /// For models: `pages` of `page_bytes`, and always the same pointers.
    #[doc(hidden)]
    #[must_use]
    pub const fn tiny(pages: u64, page_bytes: u32, heaps: u32) -> AreaConfig {
        AreaConfig { pages, heaps, page_bytes, tag: Some(7), ..AreaConfig::new(0).fixed() }
    }

    /// For models: memory comes and goes by so many pages, a power of two.
    #[doc(hidden)]
    #[must_use]
    pub const fn chunks_of(self, chunk_pages: u32) -> AreaConfig {
        AreaConfig { chunk_pages, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), AreaError> {
        let (heaps, page) = (u64::from(self.heaps), u64::from(self.page_bytes));
        if !(1..=ROWS_MAX).contains(&heaps) {
            return Err(AreaError::Config { what: "heaps", value: heaps });
        }
        if !(1..u64::from(u32::MAX)).contains(&self.pages) {
            return Err(AreaError::Config { what: "pages", value: self.pages });
        }
        if !page.is_power_of_two() || !(64..=u64::from(PAGE)).contains(&page) {
            return Err(AreaError::Config { what: "page size", value: page });
        }
        let chunk = u64::from(self.chunk_pages);
        if chunk != 0 && !chunk.is_power_of_two() {
            return Err(AreaError::Config { what: "chunk", value: chunk });
        }
        Ok(())
    }
}

/// What a block is to be like: see [`Heap::alloc_with`](super::Heap::alloc_with).
///
/// ```
/// use dsm::area::AllocOptions;
/// let options = AllocOptions::new(3000).align(64).zeroed();
/// assert_eq!(options, AllocOptions { size: 3000, align: 64, zeroed: true, huge: false });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct AllocOptions {
    /// Bytes.
    pub size: u64,
    /// It begins at a multiple of this: a power of two up to 4096.
    pub align: u64,
    /// Its bytes are zero when its initialisation begins.
    pub zeroed: bool,
    /// It may be larger than [`BLOCK_MAX`].
    pub huge: bool,
}

impl AllocOptions {
    /// A block of `size` bytes at a multiple of 8.
    pub const fn new(size: u64) -> AllocOptions {
        AllocOptions { size, align: 8, zeroed: false, huge: false }
    }

    /// At a multiple of `align`.
    pub const fn align(self, align: u64) -> AllocOptions {
        AllocOptions { align, ..self }
    }

    /// With zeroes in it.
    pub const fn zeroed(self) -> AllocOptions {
        AllocOptions { zeroed: true, ..self }
    }

    /// Of any size.
    pub const fn huge(self) -> AllocOptions {
        AllocOptions { huge: true, ..self }
    }
}
