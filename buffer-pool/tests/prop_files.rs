//! Any sequence of registering, extending, shortening and dropping files, of which some is left to
//! the next registrar, agrees with a plain model:
//!
//! 1. Every file is found by its key, with its path, and is as long as it was made.
//! 2. Its entries are its own, in the first gap that is large enough, and all ABSENT at first.
//! 3. A number is one file's, and what goes wrong changes nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::files::{
    CutError, End, ExtendError, FileInfo, FileKey, FileNumber, Files, NoSuchFile, RegisterError,
    Shape,
};
use buffer_pool::frames::Entries;
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SHAPE: Shape = Shape { files: 5, entries: 8 * LINES as u64 };
const LINES: usize = 7;
const KEYS: u64 = 8;

fn files() -> (Files, Arc<Member>) {
    let mapping = Mapping::heap(Table::bytes_for(1) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
    let mapping = Mapping::heap(Files::bytes_for(SHAPE) as usize);
    // SAFETY: as above.
    unsafe { Files::create(&mapping, 0, SHAPE) }.unwrap();
    (Files::attach(&mapping, 0).unwrap(), table.join().unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    /// A key, and a path, of so many blocks and at most so many.
    Register(u64, usize, u32, u32),
    /// A file, so far from its length, by so many blocks.
    Extend(usize, u32, u32),
    /// A file, to so many blocks, and whether that is finished.
    Shrink(usize, u32, bool),
    Drop(usize, bool),
    /// What was left is finished.
    Finish,
}

fn step() -> impl Strategy<Value = Step> {
    let of = any::<usize>();
    prop_oneof![
        4 => (0..KEYS, prop_oneof![9 => 1_usize..9, 1 => 1_010_usize..1_020], 0_u32..20, 0_u32..20)
            .prop_map(|(key, path, blocks, max)| Step::Register(key, path, blocks, max)),
        3 => (of, prop_oneof![4 => Just(0_u32), 1 => 0..3_u32], 0_u32..6)
            .prop_map(|(at, off, by)| Step::Extend(at, off, by)),
        2 => (of, 0_u32..20, any::<bool>())
            .prop_map(|(at, blocks, is_done)| Step::Shrink(at, blocks, is_done)),
        2 => (of, prop::bool::weighted(0.7)).prop_map(|(at, is_done)| Step::Drop(at, is_done)),
        1 => Just(Step::Finish),
    ]
}

/// A file as it should be.
#[derive(Clone, Debug)]
struct Plain {
    number: FileNumber,
    key: FileKey,
    path: PathBuf,
    blocks: u32,
    blocks_max: u32,
    lines: Range<usize>,
    /// The blocks that go.
    cut: Option<Range<u32>>,
    /// Cuts that are done.
    cuts: u32,
}

impl Plain {
    fn info(&self) -> FileInfo {
        let Plain { number, key, path, blocks, blocks_max, .. } = self.clone();
        FileInfo { number, key, path, blocks, blocks_max }
    }
}

struct Model {
    files: Files,
    member: Arc<Member>,
    there: Vec<Plain>,
    dropped: Vec<Plain>,
    /// Numbers that were some file's, which is no more.
    gone: Vec<FileNumber>,
}

fn key(id: u64) -> FileKey {
    FileKey { id: id / 2, fork: (id % 2) as u8 }
}

fn path(id: u64, bytes: usize) -> PathBuf {
    // Keys that agree in their last bits have equal paths.
    char::from(b'a' + (id % 4) as u8).to_string().repeat(bytes).into()
}

impl Model {
    /// Where so many lines are free.
    fn room(&self, lines: usize) -> Result<Range<usize>, u64> {
        let is_free = |line: &usize| {
            let mut all = self.there.iter().chain(&self.dropped);
            !all.any(|file| file.lines.contains(line))
        };
        let free = |from: usize| (from..LINES).take_while(is_free).count();
        let first = (0..LINES).find(|from| free(*from) >= lines);
        let largest = (0..LINES).map(free).max().unwrap_or_default();
        first.map(|first| first..first + lines).ok_or(8 * largest as u64)
    }

    fn register(&mut self, id: u64, path: &Path, blocks: u32, blocks_max: u32) {
        let before = self.files.list();
        let mut registrar = self.files.registrar(&self.member, None).unwrap();
        let registered = registrar.register(key(id), path, blocks, blocks_max);
        drop(registrar);
        let (bytes, lines) = (path.as_os_str().len(), blocks_max.div_ceil(8) as usize);
        let known = self.there.iter().find(|file| file.key == key(id));
        let expected = if bytes > 1016 {
            Err(RegisterError::PathTooLong { bytes, max: 1016 })
        } else if blocks_max == 0 || blocks > blocks_max {
            Err(RegisterError::BadLength { blocks, blocks_max })
        } else if let Some(known) = known {
            let other = RegisterError::OtherPath { key: key(id), path: known.path.clone() };
            if known.path == path { Ok(Some(known.number)) } else { Err(other) }
        } else if self.there.len() + self.dropped.len() == SHAPE.files as usize {
            Err(RegisterError::NoRow { files: SHAPE.files })
        } else {
            let no_room = |free| RegisterError::NoRoom { wanted: 8 * lines as u64, free };
            self.room(lines).map(|_| None).map_err(no_room)
        };
        match (registered, expected) {
            (Ok(registered), Ok(None)) => {
                assert!(!registered.found);
                self.add(registered.number, id, path, blocks, blocks_max);
            }
            (Ok(registered), Ok(known)) => {
                assert!(registered.found && Some(registered.number) == known);
                assert_eq!(self.files.list(), before);
            }
            (registered, expected) => {
                assert_eq!(registered.err(), expected.err());
                assert_eq!(self.files.list(), before);
            }
        }
    }

    fn add(&mut self, number: FileNumber, id: u64, path: &Path, blocks: u32, blocks_max: u32) {
        let (key, path) = (key(id), path.to_owned());
        let lines = self.room(blocks_max.div_ceil(8) as usize).unwrap();
        let is_used = self.there.iter().chain(&self.dropped).any(|file| file.number == number);
        assert!(!is_used && !self.gone.contains(&number), "a number of another file");
        self.there.push(Plain { number, key, path, blocks, blocks_max, lines, cut: None, cuts: 0 });
        for block in 0..blocks_max {
            let entry = self.entry(number, block).unwrap();
            assert_eq!(entry.load(Relaxed), 0, "an entry of a new file says something");
            // What nobody honest leaves.
            entry.store(7, Relaxed);
        }
    }

    fn entry(&self, number: FileNumber, block: u32) -> Option<&AtomicU64> {
        self.files.entry(number.page(block).unwrap())
    }

    fn extend(&mut self, at: usize, off: u32, by: u32) {
        let Some(file) = self.there.get_mut(at) else { return };
        // Once it was cut off, what was seen before is of no use.
        let seen = self.files.end(file.number).unwrap();
        assert_eq!((seen.blocks, seen.cuts), (file.blocks, file.cuts));
        let from = End { blocks: file.blocks + off / 2, cuts: file.cuts.wrapping_sub(off % 2) };
        let to = from.blocks + by;
        let expected = match () {
            () if to > file.blocks_max => Err(ExtendError::TooLong { blocks_max: file.blocks_max }),
            () if file.cut.is_some() => Err(ExtendError::Shrinking { by: None }),
            () if off > 0 => Err(ExtendError::End { now: seen }),
            () => Ok(()),
        };
        assert_eq!(self.files.extend(file.number, from, to), expected);
        if expected.is_ok() {
            file.blocks = to;
        }
    }

    fn shrink(&mut self, at: usize, blocks: u32, is_done: bool) {
        let Some(file) = self.there.get_mut(at) else { return };
        let mut registrar = self.files.registrar(&self.member, None).unwrap();
        let cut = match registrar.shrink(file.number, blocks) {
            Ok(cut) => cut,
            Err(error) => {
                assert!(blocks > file.blocks);
                assert_eq!(error, CutError::Length { now: file.blocks });
                return;
            }
        };
        let goes = blocks..file.cut.as_ref().map_or(file.blocks, |cut| cut.end);
        assert_eq!((cut.number(), cut.blocks(), cut.is_drop()), (file.number, goes.clone(), false));
        (file.blocks, file.cut) = (blocks, Some(goes));
        if is_done {
            cut.done().unwrap();
            (file.cut, file.cuts) = (None, file.cuts + 1);
        }
    }

    fn drop_file(&mut self, at: usize, is_done: bool) {
        if at >= self.there.len() {
            return;
        }
        let mut file = self.there.swap_remove(at);
        let mut registrar = self.files.registrar(&self.member, None).unwrap();
        let cut = registrar.drop_file(file.number).unwrap();
        let goes = 0..file.cut.as_ref().map_or(file.blocks, |cut| cut.end);
        assert_eq!((cut.number(), cut.blocks(), cut.is_drop()), (file.number, goes.clone(), true));
        file.cut = Some(goes);
        if is_done {
            cut.done().unwrap();
            return self.gone.push(file.number);
        }
        self.dropped.push(file);
    }

    fn finish(&mut self) {
        let mut registrar = self.files.registrar(&self.member, None).unwrap();
        let mut told = Vec::new();
        for cut in registrar.unfinished() {
            told.push((cut.number(), cut.blocks(), cut.is_drop()));
            cut.done().unwrap();
        }
        drop(registrar);
        let cuts = self.there.iter_mut().filter_map(|file| {
            let goes = file.cut.take()?;
            file.cuts += 1;
            Some((file.number, goes, false))
        });
        let mut expected: Vec<_> = cuts.collect();
        for file in self.dropped.drain(..) {
            expected.push((file.number, file.cut.unwrap(), true));
            self.gone.push(file.number);
        }
        expected.sort_by_key(|(number, _, _)| *number);
        assert_eq!(told, expected);
    }

    fn agrees(&self) {
        let mut expected: Vec<_> = self.there.iter().map(Plain::info).collect();
        expected.sort_by_key(|file| file.number);
        assert_eq!(self.files.list(), expected);
        let mut entries = Vec::new();
        for file in &self.there {
            assert_eq!(self.files.find(file.key), Some(file.number));
            assert_eq!(self.files.length(file.number), Ok(file.blocks));
            assert_eq!(self.files.info(file.number), Some(file.info()));
            for block in [0, file.blocks.max(1) - 1, file.blocks] {
                let page = file.number.page(block).unwrap();
                assert_eq!(self.files.contains(page), block < file.blocks);
                assert_eq!(self.files.admits(page), block < file.blocks);
            }
        }
        for file in self.there.iter().chain(&self.dropped) {
            let of = |block| self.entry(file.number, block).map(std::ptr::from_ref);
            entries.extend((0..file.blocks_max).map(|block| of(block).expect("an entry")));
            assert_eq!(of(file.blocks_max), None);
        }
        let count = entries.len();
        entries.sort();
        entries.dedup();
        assert_eq!(entries.len(), count, "two pages have one entry");
        for number in self.dropped.iter().map(|file| file.number).chain(self.gone.iter().copied()) {
            assert_eq!(self.files.length(number), Err(NoSuchFile(number)));
            assert_eq!(self.files.info(number), None);
            assert_eq!(self.files.end(number), Err(NoSuchFile(number)));
            let extended = self.files.extend(number, End { blocks: 0, cuts: 0 }, 0);
            assert_eq!(extended, Err(NoSuchFile(number).into()));
        }
        assert!(self.gone.iter().all(|number| self.entry(*number, 0).is_none()));
        let is_there = |id| self.there.iter().any(|file| file.key == key(id));
        assert!((0..KEYS).all(|id| is_there(id) == self.files.find(key(id)).is_some()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_model(steps in prop::collection::vec(step(), 1..80)) {
        let (files, member) = files();
        let (there, dropped, gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut model = Model { files, member, there, dropped, gone };
        for step in steps {
            // More often than not there is one.
            let at = |at: usize| at % (model.there.len() + 1);
            match step {
                Step::Register(id, bytes, blocks, max) => {
                    model.register(id, &path(id, bytes), blocks, max);
                }
                Step::Extend(file, off, by) => model.extend(at(file), off, by),
                Step::Shrink(file, blocks, is_done) => model.shrink(at(file), blocks, is_done),
                Step::Drop(file, is_done) => model.drop_file(at(file), is_done),
                Step::Finish => model.finish(),
            }
            model.agrees();
        }
        // All can be had again.
        model.finish();
        (0..model.there.len()).for_each(|_| model.drop_file(0, true));
        model.register(0, &path(0, 1), 0, 8 * LINES as u32);
        model.agrees();
    }
}

#[test]
fn a_row_takes_all_its_numbers_and_then_the_first() {
    let (files, member) = files();
    let mut registrar = files.registrar(&member, None).unwrap();
    let mut used = |id| {
        let registered = registrar.register(key(id), "a".as_ref(), 0, 1).unwrap();
        registrar.drop_file(registered.number).unwrap().done().unwrap();
        registered.number.to_bits()
    };
    assert!((0..1 << 20).all(|generation| used(generation) == generation as u32));
    assert_eq!(used(0), 0, "the first again");
}

#[test]
fn a_path_that_no_file_has_is_refused() {
    let (files, member) = files();
    let mut registrar = files.registrar(&member, None).unwrap();
    for path in ["", "a\0b"] {
        let refused = registrar.register(key(0), path.as_ref(), 0, 1);
        assert_eq!(refused, Err(RegisterError::BadPath));
    }
    let most = registrar.register(key(0), "a".as_ref(), 0, u32::MAX);
    assert_eq!(most, Err(RegisterError::BadLength { blocks: 0, blocks_max: u32::MAX }));
}

#[test]
fn what_is_no_shape_is_refused() {
    let mapping = Mapping::heap(4096);
    for (files, entries) in [(0, 1), (4097, 1), (1, 0), (1, (8 << 32) + 1)] {
        let shape = Shape { files, entries };
        // SAFETY: nobody else has the mapping.
        assert!(unsafe { Files::create(&mapping, 0, shape) }.is_err(), "{shape:?}");
    }
    assert!(Files::attach(&mapping, 0).is_err());
}
