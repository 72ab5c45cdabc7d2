//! Finding the entries of pages, of the same files mostly.
use super::shared::Row;
use super::word::{Extent, Span};
use super::{FileNumber, Files};
use shm_core::sync::AtomicU64;
use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;

/// So many files are kept. A row has one place: the first so many do not get in each other's way.
const KEPT: usize = if cfg!(any(shm_loom, shm_explore)) { 1 } else { 16 };

/// The files, as one thread finds pages in them: it keeps where those are that it asked for last,
/// as they were then.
///
/// What it keeps is true of a file for as long as its row says the same, in two words: the length,
/// with all that the row's `extent` says; and where the entries are, for a number comes round. So
/// an entry is found without a look at the row, and whether it was the page's is asked once,
/// [afterwards](Spot::is_there). Where what is kept does not do it is forgotten, and nothing was
/// found: the page is looked for as by one who has kept nothing.
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<buffer_pool::files::Finder>();
/// ```
pub struct Finder {
    files: Files,
    kept: [Cell<Kept>; KEPT],
}

// SAFETY: the pointers are into memory that all threads share, and that the files keep mapped.
unsafe impl Send for Finder {}

/// What is known of a file.
#[derive(Clone, Copy)]
struct Kept {
    /// The number of one, or of nobody.
    number: u64,
    /// 1. This and `entries` are references into the finder's files, or there are no entries.
    row: NonNull<Row>,
    /// Those of the blocks that the file has.
    entries: NonNull<[AtomicU64]>,
    /// This and `span` are one file's.
    extent: Extent,
    span: Span,
}

/// Where a page is noted: in the row of its file, and in its entry.
#[derive(Clone, Copy)]
pub struct Spot<'f> {
    kept: &'f Cell<Kept>,
    entry: &'f AtomicU64,
    row: &'f Row,
    extent: Extent,
    span: Span,
}

impl Files {
    /// For one thread.
    pub fn finder(&self) -> Finder {
        Finder { files: self.clone(), kept: [const { Cell::new(Kept::NOTHING) }; KEPT] }
    }
}

impl Kept {
    const NOTHING: Kept = Kept {
        number: u64::MAX,
        row: NonNull::dangling(),
        entries: NonNull::slice_from_raw_parts(NonNull::dangling(), 0),
        extent: Extent::from_bits(0),
        span: Span::from_bits(0),
    };
}

impl Finder {
    /// Where a page is noted, of a file that has it, or had it when this was kept.
    #[inline(always)]
    pub fn spot(&self, number: FileNumber, block: u32) -> Option<Spot<'_>> {
        let kept = &self.kept[number.row() % KEPT];
        if kept.get().number != number.to_bits().into() {
            self.keep(kept, number);
        }
        let Kept { row, entries, extent, span, .. } = kept.get();
        // SAFETY: 1, and the files keep their memory mapped for as long as self; or there are none.
        let Some(entry) = unsafe { entries.as_ref() }.get(block as usize) else {
            forget(kept);
            return None;
        };
        // SAFETY: 1: there are entries.
        let row = unsafe { row.as_ref() };
        Some(Spot { kept, entry, row, extent, span })
    }

    /// Another file than the one that was kept there.
    #[inline(never)]
    fn keep(&self, kept: &Cell<Kept>, number: FileNumber) {
        kept.set(self.look(number).unwrap_or(Kept::NOTHING));
    }

    /// What is known of a file now.
    fn look(&self, number: FileNumber) -> Option<Kept> {
        let look = |row: &Row, _: &_, extent| (NonNull::from(row), extent, row.span());
        let (found, (row, extent, span)) = self.files.read(number.row(), look)?;
        let first = usize::try_from(span.entries().start).ok()?;
        // Whoever overwrites one of the two says anything.
        let blocks = extent.blocks().min(span.blocks_max()) as usize;
        let entries = self.files.entries.get(first..)?.get(..blocks)?;
        let (number_bits, entries) = (number.to_bits().into(), NonNull::from(entries));
        (found == number).then_some(Kept { number: number_bits, row, entries, extent, span })
    }
}

#[cold]
fn forget(kept: &Cell<Kept>) {
    kept.set(Kept::NOTHING);
}

impl<'f> Spot<'f> {
    /// The page's entry, or that of another page where the row has become another file's: what was
    /// found by it counts if [`is_there`](Spot::is_there) says so afterwards.
    #[inline(always)]
    pub fn entry(&self) -> &'f AtomicU64 {
        self.entry
    }

    /// Whether the page is within the length of its file, and all that was known of that is true.
    #[inline(always)]
    pub fn is_there(&self) -> bool {
        // The span afterwards: it is this file's then, or a later one's.
        let is_same = self.row.look() == self.extent && self.row.span() == self.span;
        if !is_same {
            forget(self.kept);
        }
        is_same
    }
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").field("files", &self.files).finish_non_exhaustive()
    }
}

impl fmt::Debug for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spot").field("entry", &self.entry).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::super::{FileKey, Shape};
    use super::*;
    use shm_core::mapping::Mapping;
    use shm_core::participants::{Member, Table};
    use shm_core::sync::Ordering;
    use std::sync::Arc;

    const SHAPE: Shape = Shape { files: 1, entries: 64 };

    fn files() -> (Files, Arc<Member>) {
        let mapping = Mapping::heap(Table::bytes_for(1) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
        let mapping = Mapping::heap(Files::bytes_for(SHAPE) as usize);
        // SAFETY: as above.
        unsafe { Files::create(&mapping, 0, SHAPE) }.unwrap();
        (Files::attach(&mapping, 0).unwrap(), table.join().unwrap())
    }

    fn register(files: &Files, member: &Arc<Member>, id: u64) -> FileNumber {
        let mut registrar = files.registrar(member, None).unwrap();
        registrar.register(FileKey { id, fork: 0 }, "one".as_ref(), 3, 8).unwrap().number
    }

    /// Whether a block was found, and was there.
    fn finds(finder: &Finder, number: FileNumber, block: u32) -> bool {
        finder.spot(number, block).is_some_and(|spot| spot.is_there())
    }

    #[test]
    fn nothing_is_found_of_no_file() {
        let (files, _) = files();
        let finder = files.finder();
        for bits in [0, 1, 1 << 20, u32::MAX] {
            assert!(finder.spot(FileNumber::from_bits(bits), 0).is_none());
        }
    }

    #[test]
    fn what_is_kept_is_forgotten_when_the_file_has_another_length() {
        let (files, member) = files();
        let (finder, number) = (files.finder(), register(&files, &member, 1));
        assert!(finds(&finder, number, 2) && !finds(&finder, number, 3));

        let before = finder.spot(number, 2).unwrap();
        files.extend(number, files.end(number).unwrap(), 5).unwrap();
        assert!(!before.is_there());
        assert!(finds(&finder, number, 4));

        let mut registrar = files.registrar(&member, None).unwrap();
        registrar.shrink(number, 1).unwrap().done().unwrap();
        assert!(!finds(&finder, number, 4), "it was kept");
        assert!(!finds(&finder, number, 4), "it is looked for anew");
        assert!(finds(&finder, number, 0));
    }

    #[test]
    fn what_is_kept_of_a_file_is_not_true_of_the_next_one_of_its_row() {
        let (files, member) = files();
        let (finder, number) = (files.finder(), register(&files, &member, 1));
        assert!(finds(&finder, number, 0));
        let mut registrar = files.registrar(&member, None).unwrap();
        registrar.drop_file(number).unwrap().done().unwrap();
        drop(registrar);
        let other = register(&files, &member, 2);
        assert_eq!(other.row(), number.row());
        assert!(!finds(&finder, number, 0) && !finds(&finder, number, 0));
        assert!(finds(&finder, other, 0));
    }

    /// As if the row had had 2^20 others.
    #[test]
    fn a_number_that_comes_round_is_not_taken_for_the_same_file() {
        let (files, member) = files();
        let (finder, number) = (files.finder(), register(&files, &member, 1));
        assert!(finds(&finder, number, 0));
        let span = &files.rows[number.row()].span;
        span.store(Span::new(2, 8).to_bits(), Ordering::Relaxed);
        assert!(!finds(&finder, number, 0), "these are another file's entries");
        let spot = finder.spot(number, 0).unwrap();
        assert!(spot.is_there() && std::ptr::eq(spot.entry(), &files.entries[16]));
    }

    #[test]
    fn nonsense_in_a_row_leads_to_no_entry_outside() {
        let (files, member) = files();
        let (finder, number) = (files.finder(), register(&files, &member, 1));
        let Row { extent, span, .. } = &files.rows[number.row()];
        extent.fetch_or(u32::MAX.into(), Ordering::Relaxed);
        for (line, blocks) in [(0, 64), (u32::MAX, u32::MAX), (7, 9), (8, 0)] {
            span.store(Span::new(line, blocks).to_bits(), Ordering::Relaxed);
            for block in [63, 64, u32::MAX] {
                assert_eq!(finder.spot(number, block).is_some(), (line, block) == (0, 63));
            }
        }
    }
}
