//! The two files: built, or found.
use crate::error::Error;
use crate::format::{PAGE_BYTES, Page};
use crate::heap::{self, BRANCH_ROWS, Row};
use crate::index::{Builder, Entry, Meta};
use crate::lookups::{meta, row_of};
use crate::pages::{File, Preads};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The files of a scale.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) directory: PathBuf,
    /// How long each one is.
    pub(crate) blocks: [u32; 2],
}

/// The files of this scale in `directory`: those that are there, if they fit, or new ones.
pub(crate) fn ensure(directory: &Path, scale: u32) -> Result<Data, Error> {
    let rows = scale * BRANCH_ROWS;
    if let Some(found) = find(directory, rows) {
        return Ok(found);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |problem| Error::File { path, problem }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    // Under their names only when they are whole.
    let new = || tempfile::NamedTempFile::new_in(directory).map_err(failed(directory));
    let new = [new()?, new()?];
    let paths = File::ALL.map(|file| directory.join(file.name()));
    write_heap(new[0].as_file(), rows).map_err(failed(&paths[0]))?;
    let meta = write_index(new[1].as_file(), rows).map_err(failed(&paths[1]))?;
    for (new, path) in new.into_iter().zip(&paths) {
        new.persist(path).map_err(|problem| failed(path)(problem.error))?;
    }
    let blocks = [heap::blocks_for(rows), meta.blocks];
    Ok(Data { directory: directory.to_owned(), blocks })
}

/// The files of so many rows in `directory`, if they are as long as they should be, and the last
/// row is found.
fn find(directory: &Path, rows: u32) -> Option<Data> {
    let mut files = Preads::open(directory).ok()?;
    let meta = meta(&mut files).ok()?;
    let blocks = [heap::blocks_for(rows), meta.blocks];
    let is_whole = |file: File| {
        let bytes = u64::from(blocks[file.index()]) * PAGE_BYTES as u64;
        files.len(file).is_ok_and(|len| len == bytes)
    };
    let fits = meta.keys == rows && File::ALL.into_iter().all(is_whole);
    let last = row_of(&mut files, &meta, rows);
    let found = Data { directory: directory.to_owned(), blocks };
    (fits && last.is_ok_and(|row| row == Row::loaded(rows))).then_some(found)
}

fn write_heap(file: &fs::File, rows: u32) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(64 * PAGE_BYTES, file);
    for block in 0..heap::blocks_for(rows) {
        file.write_all(&heap::page_of(block, rows))?;
    }
    file.flush()
}

fn write_index(file: &fs::File, rows: u32) -> io::Result<Meta> {
    let write = |block, page: &Page| file.write_all_at(page, u64::from(block) * PAGE_BYTES as u64);
    let mut tree = Builder::new(write);
    for key in 1..=rows {
        let (block, item) = heap::place_of(key);
        tree.push(Entry { key, block, item })?;
    }
    tree.finish(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookups::Client;
    use crate::pages::{Counts, PageId, Pages};

    fn file_of(directory: &Path, file: File) -> PathBuf {
        directory.join(file.name())
    }

    #[test]
    fn every_account_is_found_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let data = ensure(directory.path(), 1).unwrap();
        let mut files = Preads::open(&data.directory).unwrap();
        let meta = meta(&mut files).unwrap();
        assert_eq!((data.blocks, meta.level), ([1640, meta.blocks], 1));
        for aid in 1..=BRANCH_ROWS {
            assert_eq!(row_of(&mut files, &meta, aid).unwrap(), Row::loaded(aid));
        }
        assert!(row_of(&mut files, &meta, 0).is_err());
        let error = row_of(&mut files, &meta, BRANCH_ROWS + 1).unwrap_err().to_string();
        assert!(error.contains("of accounts_pkey does not have the key"), "{error}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_lookup_uses_each_page_on_its_way_once() {
        let directory = tempfile::tempdir().unwrap();
        let data = ensure(directory.path(), 2).unwrap();
        let mut files = Preads::open(&data.directory).unwrap();
        let mut client = Client::connect(&mut files, 1, 0).unwrap();
        assert_eq!(files.counts(), Counts { accesses: 1, hits: 0 });
        for _ in 0..100 {
            client.transact(&mut files).unwrap();
        }
        // A root, an inner page, a leaf, and a page of the heap.
        assert_eq!(files.counts().accesses, 401);
        assert_eq!(client.totals(files.counts()).transactions, 100);
    }

    #[test]
    fn whole_files_are_used_again_and_others_are_built_anew() {
        let directory = tempfile::tempdir().unwrap();
        let data = ensure(directory.path(), 1).unwrap();
        let whole = File::ALL.map(|file| fs::read(file_of(directory.path(), file)).unwrap());
        assert_eq!(find(directory.path(), BRANCH_ROWS).as_ref(), Some(&data));
        assert_eq!(find(directory.path(), 2 * BRANCH_ROWS), None);
        for (file, whole) in File::ALL.into_iter().zip(&whole) {
            let path = file_of(directory.path(), file);
            let cut = &whole[..whole.len() - 1];
            let mut other = whole.clone();
            // The last page, on which the last row is, or the last key.
            other[whole.len() - PAGE_BYTES..].fill(0xff);
            for damage in [cut, &other, b""] {
                fs::write(&path, damage).unwrap();
                assert_eq!(find(directory.path(), BRANCH_ROWS), None);
                assert_eq!(ensure(directory.path(), 1).unwrap(), data);
                assert!(fs::read(&path).unwrap() == *whole);
            }
        }
    }

    #[test]
    fn a_damaged_page_is_named() {
        let directory = tempfile::tempdir().unwrap();
        ensure(directory.path(), 1).unwrap();
        let mut files = Preads::open(directory.path()).unwrap();
        let meta = meta(&mut files).unwrap();
        let heap =
            fs::OpenOptions::new().write(true).open(file_of(directory.path(), File::Accounts));
        heap.unwrap().write_all_at(&[0; PAGE_BYTES], 3 * PAGE_BYTES as u64).unwrap();
        let error = row_of(&mut files, &meta, 3 * heap::ROWS + 1).unwrap_err().to_string();
        assert!(error.starts_with("page 3 of accounts is no page of its kind"), "{error}");
        let beyond = PageId { file: File::Pkey, block: meta.blocks };
        let error = files.read(beyond, |_| ()).unwrap_err().to_string();
        assert!(error.contains("of accounts_pkey cannot be read"), "{error}");
    }
}
