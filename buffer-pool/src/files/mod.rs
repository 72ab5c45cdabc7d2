//! Which files a pool has: their numbers, names and lengths, and where the entries of their pages
//! are.
//!
//! ```text
//!   registrar: p3, who drops row 2
//!
//!   rows, one cache line a file                    entries, one a page
//!   0  [ FILE      generation 0 | 3 blocks | lines 0..2 ]  ──►  | 0 0 0 – – – – – | – – – …
//!   1  [ SHRINKING generation 4 | 1 block  | lines 3..4 ]  ──►        | 0 – – …
//!   2  [ DROPPING  generation 1 | 0 blocks | line  2    ]  ──►  | – – …
//!   3  [ free, the next has generation 7                ]
//! ```
//!
//! All is in shared memory, and no file is read or written here. A *block* is there if it is within
//! the length; a file has entries for as many as it may ever have, and [`Files`] are the
//! [`Entries`] of the [`frames`](crate::frames). Which ranges of entries are in use the rows say,
//! and nobody else: whoever dies leaves nothing but a row.
//!
//! # The protocol
//!
//! One participant at a time registers files, drops them and makes them shorter: the *registrar*,
//! whom a word names. Anyone makes them longer. All that is decided is decided in the row's
//! `extent`, by one store or compare-and-swap:
//!
//! | extent | becomes | by whom | when |
//! | --- | --- | --- | --- |
//! | free | file, so many blocks | the registrar | the rest of the row is written |
//! | file, a blocks | file, b ≥ a blocks | anyone | it wants the new blocks |
//! | file or shrinking, a blocks | shrinking, b ≤ a blocks | the registrar | it is to be shorter |
//! | shrinking, b blocks | file, b blocks, one cut more | the registrar | no page behind is in a frame, and the file is that short |
//! | file or shrinking | dropping, no blocks | the registrar | it is to go |
//! | dropping | free, the next generation | the registrar | no page of it is in a frame, or will be |
//!
//! An extension is a compare-and-swap from the [end](End) that was seen, of a file that does not
//! shrink. So it comes before a cut, which then counts the new blocks among those that go; or it
//! finds that the file shrinks, and waits; or it fails, for cuts are counted, though the file have
//! its old length again. What it did to the file behind its end, in between, nobody has cut off.
//!
//! | who loads a page | who cuts the file |
//! | --- | --- |
//! | (A) makes its entry LOADING | (C) publishes the lower length |
//! | fence | fence |
//! | (B) [asks](Files::admits) whether it is within the length; else makes it ABSENT | (D) looks at each entry behind, evicts the page, and waits until it is ABSENT |
//!
//! Of the two fences one comes first: either (B) sees the lower length, and nothing is read; or (D)
//! sees LOADING. Who takes the cut over from a dead registrar fences for itself.
//!
//! # Addresses that are old
//!
//! Who has asked for an entry may be stopped, and go on when its file was dropped and the range is
//! another file's. What it does then:
//!
//! 1. It finds the other file's page, and pins it. It asks afterwards whether the file still
//!    [has](Files::contains) the block: it does not. For who has put the page there saw the other
//!    file in its row, and that was registered after this one was dropped.
//! 2. It would make the other file's entry LOADING; and if it died then, nobody would find that
//!    entry by what its frame says. So who loads asks (B) before that, too, once the frame that it
//!    has claimed says which page it is to have; and a row is freed only when no frame is claimed
//!    for a page of its file ([`Cut::done`]). One of the two sees the other, by the same fences.
//! 3. It takes over from one who died as it loaded the other file's page. (B) says no, and it makes
//!    the entry ABSENT, as a reaper would.
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | a registrar | a word that names it | the next one takes it over; or a reaper gives it up |
//! | who registers | a free row, with a name in part; or a file | nothing to do |
//! | who cuts, the length not published | the file as it was | nothing to do |
//! | who cuts | SHRINKING or DROPPING | the next registrar is [told](Registrar::unfinished): it evicts the pages, and ends the cut |
//! | who has ended a cut | sleepers | each sleeps on the registrar's life word, too |
//! | who extends | one length or the other | nothing to do: who reads a block that was not filled reads what the file has |
//! | a reaper | the registrar's word, as it was or nobody's | nothing to do |
//!
//! A registrar that is stopped holds up who would register, drop or shrink, and who would extend a
//! file that it shrinks, until their deadlines; all else goes on.
//!
//! # Lies
//!
//! Rows, lengths and ranges are checked against what this process knows of: an entry is one of the
//! entries, whatever a row says. A peer that writes rows at will can give a file another's entries,
//! or another path: who opens a file by it looks whether it may. One that writes the registrar's
//! word can have two at once. No call hangs, and nothing outside is touched.
mod cut;
mod extend;
mod finder;
mod look;
mod register;
mod registrar;
mod room;
mod shared;
mod word;

pub use cut::{Cut, CutError};
pub use extend::{ExtendError, WaitError};
pub use finder::{Finder, Spot};
pub use look::{FileInfo, FileKey, NoSuchFile};
pub use register::{RegisterError, Registered};
pub use registrar::{Registrar, RegistrarError};
pub use word::{End, FILES_MAX, FileNumber};

use crate::frames::{Entries, PageId};
use shared::{Head, Name, Row};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::AtomicU64;
use std::sync::Arc;

/// So often a row may change under us: among honest processes each is another one's success.
const ROUNDS_MAX: u32 = 1 << 20;

/// How many of what there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The most files at a time, up to 4096.
    pub files: u32,
    /// Entries for all of them, up to 2^35; each file has a multiple of eight.
    pub entries: u64,
}

/// Why there are no files at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// Nobody has made them there, or their head was overwritten.
    #[error("there are no files of a pool at this place")]
    NotFiles,
    /// More than there can be, or nothing.
    #[error("a pool cannot have {} files and {} entries", .0.files, .0.entries)]
    Shape(Shape),
    /// They do not lie in the mapping.
    #[error(transparent)]
    BadPlace(#[from] BadPtr),
}

/// The files of a pool. Clones are the same.
///
/// ```
/// use buffer_pool::files::{FileKey, Files, Shape};
/// use buffer_pool::frames::Entries;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// // In real life all of it lies in one shared mapping.
/// let mapping = Mapping::heap(Table::bytes_for(4) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 4) }?;
/// let shape = Shape { files: 16, entries: 1 << 16 };
/// let mapping = Mapping::heap(Files::bytes_for(shape) as usize);
/// // SAFETY: as above.
/// unsafe { Files::create(&mapping, 0, shape) }?;
/// let files = Files::attach(&mapping, 0)?;
/// let member = table.join()?;
///
/// let key = FileKey { id: 16384, fork: 0 };
/// let number = {
///     let mut registrar = files.registrar(&member, None)?;
///     registrar.register(key, "base/5/16384".as_ref(), 10, 1000)?.number
/// };
/// assert_eq!(files.find(key), Some(number));
/// files.extend(number, files.end(number)?, 12)?;
/// assert_eq!(files.length(number), Ok(12));
/// assert!(files.contains(number.page(11).unwrap()) && !files.contains(number.page(12).unwrap()));
///
/// let mut registrar = files.registrar(&member, None)?;
/// let cut = registrar.shrink(number, 5)?;
/// assert_eq!(cut.blocks(), 5..12);
/// // Here the pool evicts these pages.
/// cut.done()?;
/// assert_eq!(files.length(number), Ok(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
    names: MappedSlice<Name>,
    entries: MappedSlice<AtomicU64>,
}

impl Files {
    /// Bytes that they take, at an offset that is a multiple of 64.
    pub const fn bytes_for(shape: Shape) -> u64 {
        let entries = shape.entries.saturating_mul(size_of::<AtomicU64>() as u64);
        entries_at(shape.files).saturating_add(entries)
    }

    /// Makes them at `offset` of `mapping`: no file, and every entry says ABSENT.
    ///
    /// # Errors
    /// [`FilesError::Shape`], [`FilesError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        shape: Shape,
    ) -> Result<(), FilesError> {
        if !shape.is_possible() {
            return Err(FilesError::Shape(shape));
        }
        let region = mapping.region();
        for index in 0..u64::from(shape.files) {
            let at = offset + ROWS_AT + index * size_of::<Row>() as u64;
            // SAFETY: the caller's promise.
            unsafe { region.place(at, Row::new()) }?;
            let at = offset + names_at(shape.files) + index * size_of::<Name>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Name::new()) }?;
        }
        for index in 0..shape.entries {
            let at = offset + entries_at(shape.files) + index * size_of::<AtomicU64>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, shared::absent()) }?;
        }
        // SAFETY: as above.
        unsafe { region.place(offset, Head::new(shape)) }?;
        Ok(())
    }

    /// Those at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`FilesError::NotFiles`], [`FilesError::BadPlace`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Files, FilesError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let shape = head.checked().ok_or(FilesError::NotFiles)?;
        let (files, at) = (u64::from(shape.files), |part: u64| offset.saturating_add(part));
        Ok(Files {
            head,
            rows: MappedSlice::new(mapping, at(ROWS_AT), files)?,
            names: MappedSlice::new(mapping, at(names_at(shape.files)), files)?,
            entries: MappedSlice::new(mapping, at(entries_at(shape.files)), shape.entries)?,
        })
    }

    /// What they were made for.
    pub fn shape(&self) -> Shape {
        Shape { files: self.rows.len() as u32, entries: self.entries.len() as u64 }
    }
}

const ROWS_AT: u64 = size_of::<Head>() as u64;

const fn names_at(files: u32) -> u64 {
    ROWS_AT + files as u64 * size_of::<Row>() as u64
}

const fn entries_at(files: u32) -> u64 {
    names_at(files) + files as u64 * size_of::<Name>() as u64
}

impl Entries for Files {
    /// The entry of any block that the file may ever have, also while it is shorter, shrinks, or is
    /// dropped: who evicts the page needs it.
    #[inline]
    fn entry(&self, page: PageId) -> Option<&AtomicU64> {
        let (row, _) = self.look(FileNumber::of(page))?;
        self.entries.get(row.span().entry_of(page.block())? as usize)
    }

    fn admits(&self, page: PageId) -> bool {
        Files::admits(self, page)
    }
}
