//! The B-tree: its pages, how a key is found, how it is built.
//!
//! It is the tree that PostgreSQL's `nbtsort.c` builds from sorted keys, page by page and in the
//! same order of blocks. A page is full when less than a tenth of it is free, or three tenths in an
//! inner page. When the next entry comes, the last one goes over to a new page, and its key stays
//! as the old page's high key. At 20 bytes for an entry, the pointer to it among them, 366 stay in
//! a leaf, and 284 in an inner page, whose first entry is 8 bytes shorter there. Scale 50 has
//! 13,662 leaves, 49 inner pages and a root, which is block 290; block 0 says where the root is.
use crate::format::{HEAD_END, Head, Kind, Nonsense, PAGE_BYTES, Page, put, u16_at, u32_at};

const LEAF_ENTRIES: usize = 366;
const INNER_ENTRIES: usize = 284;
const ENTRY_BYTES: usize = 20;
const ENTRIES_MAX: usize = (PAGE_BYTES - HEAD_END) / ENTRY_BYTES;

/// More levels than any tree of 32-bit keys has.
const LEVELS_MAX: u16 = 8;

/// A key, and where it is: in a leaf a row, in an inner page the page where it would be the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: u32,
    pub(crate) block: u32,
    pub(crate) item: u16,
}

impl Entry {
    fn put(self, page: &mut Page, index: usize) {
        let at = HEAD_END + index * ENTRY_BYTES;
        put(page, at, &self.key.to_le_bytes());
        put(page, at + 4, &self.block.to_le_bytes());
        put(page, at + 8, &self.item.to_le_bytes());
    }

    fn read(page: &[u8], index: usize) -> Result<Entry, Nonsense> {
        let at = HEAD_END + index * ENTRY_BYTES;
        Ok(Entry {
            key: u32_at(page, at)?,
            block: u32_at(page, at + 4)?,
            item: u16_at(page, at + 8)?,
        })
    }
}

/// The head of a page of the tree, whose entries there may be.
fn head_of(page: &[u8], block: u32) -> Result<Head, Nonsense> {
    let head = Head::read(page, Kind::Tree, block)?;
    if !(1..=ENTRIES_MAX).contains(&usize::from(head.count)) {
        return Err(Nonsense("says that it has no entries, or more than it has room for"));
    }
    Ok(head)
}

/// Where `key` is, or below which page, by a page that should be this block at this level.
pub(crate) fn find(page: &[u8], block: u32, level: u16, key: u32) -> Result<Entry, Nonsense> {
    let head = head_of(page, block)?;
    if head.level != level {
        return Err(Nonsense("is on another level"));
    }
    if head.right.is_some_and(|(_, high_key)| key >= high_key) {
        return Err(Nonsense("has only smaller keys"));
    }
    // The last entry that is not greater.
    let (mut from, mut to) = (0, usize::from(head.count));
    while from < to {
        let middle = from.midpoint(to);
        if Entry::read(page, middle)?.key <= key { from = middle + 1 } else { to = middle }
    }
    let last = from.checked_sub(1).ok_or(Nonsense("has only greater keys"))?;
    let entry = Entry::read(page, last)?;
    match level == 0 && entry.key != key {
        true => Err(Nonsense("does not have the key")),
        false => Ok(entry),
    }
}

/// What block 0 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Blocks of the tree, this one among them.
    pub(crate) blocks: u32,
    /// Keys, which are the numbers from 1 on.
    pub(crate) keys: u32,
    pub(crate) root: u32,
    /// The root's level.
    pub(crate) level: u16,
}

impl Meta {
    fn page(&self) -> Page {
        let head = Head { kind: Kind::Meta, block: 0, count: 0, level: self.level, right: None };
        let mut page = head.page();
        put(&mut page, HEAD_END, &self.blocks.to_le_bytes());
        put(&mut page, HEAD_END + 4, &self.keys.to_le_bytes());
        put(&mut page, HEAD_END + 8, &self.root.to_le_bytes());
        page
    }

    pub(crate) fn read(page: &[u8]) -> Result<Meta, Nonsense> {
        let level = Head::read(page, Kind::Meta, 0)?.level;
        let [blocks, keys, root] = [0, 4, 8].map(|at| u32_at(page, HEAD_END + at));
        match level < LEVELS_MAX {
            true => Ok(Meta { blocks: blocks?, keys: keys?, root: root?, level }),
            false => Err(Nonsense("says that there are too many levels")),
        }
    }
}

/// The page of a level that is being filled.
struct Open {
    block: u32,
    entries: Vec<Entry>,
}

impl Open {
    fn page(&self, level: usize, right: Option<(u32, u32)>) -> Page {
        let (count, level) = (self.entries.len() as u16, level as u16);
        let head = Head { kind: Kind::Tree, block: self.block, count, level, right };
        let mut page = head.page();
        self.entries.iter().enumerate().for_each(|(index, entry)| entry.put(&mut page, index));
        page
    }

    /// What the level above says of it.
    fn downlink(&self) -> Entry {
        Entry { key: self.entries[0].key, block: self.block, item: 0 }
    }
}

/// A tree that is being built, from entries in the order of their keys. Pages go to `write`.
pub(crate) struct Builder<W> {
    levels: Vec<Open>,
    blocks: u32,
    write: W,
}

impl<E, W: FnMut(u32, &Page) -> Result<(), E>> Builder<W> {
    pub(crate) fn new(write: W) -> Builder<W> {
        Builder { levels: Vec::new(), blocks: 1, write }
    }

    /// The next entry of the leaves.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<(), E> {
        self.add(0, entry)
    }

    /// Writes what is left, and block 0.
    pub(crate) fn finish(mut self, keys: u32) -> Result<Meta, E> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            self.add(level + 1, self.levels[level].downlink())?;
            self.write_last(level)?;
            level += 1;
        }
        self.write_last(level)?;
        let root = self.levels[level].block;
        let meta = Meta { blocks: self.blocks, keys, root, level: level as u16 };
        (self.write)(0, &meta.page())?;
        Ok(meta)
    }

    fn add(&mut self, level: usize, entry: Entry) -> Result<(), E> {
        let stay = if level == 0 { LEAF_ENTRIES } else { INNER_ENTRIES };
        if level == self.levels.len() {
            let block = self.allocate();
            self.levels.push(Open { block, entries: Vec::new() });
        }
        if self.levels[level].entries.len() > stay {
            let block = self.allocate();
            let last = self.levels[level].entries.split_off(stay);
            let high_key = last[0].key;
            let new = Open { block, entries: last };
            let full = std::mem::replace(&mut self.levels[level], new);
            self.add(level + 1, full.downlink())?;
            (self.write)(full.block, &full.page(level, Some((block, high_key))))?;
        }
        self.levels[level].entries.push(entry);
        Ok(())
    }

    fn write_last(&mut self, level: usize) -> Result<(), E> {
        let last = &self.levels[level];
        (self.write)(last.block, &last.page(level, None))
    }

    fn allocate(&mut self) -> u32 {
        self.blocks += 1;
        self.blocks - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    /// The tree of the keys from 1 on, which has its pages told to `see`.
    fn build(keys: u32, mut see: impl FnMut(u32, &Page)) -> Meta {
        let write = |block, page: &Page| -> Result<(), Infallible> {
            see(block, page);
            Ok(())
        };
        let mut builder = Builder::new(write);
        for key in 1..=keys {
            let Ok(()) = builder.push(Entry { key, block: key / 9, item: (key % 9) as u16 });
        }
        let Ok(meta) = builder.finish(keys);
        meta
    }

    /// All pages of a tree; none is written twice.
    fn pages(keys: u32) -> (Meta, BTreeMap<u32, Page>) {
        let mut pages = BTreeMap::new();
        let meta = build(keys, |block, page| {
            assert!(pages.insert(block, *page).is_none(), "{block} is written twice");
        });
        assert_eq!(pages.keys().copied().collect::<Vec<_>>(), (0..meta.blocks).collect::<Vec<_>>());
        (meta, pages)
    }

    fn lookup(meta: Meta, pages: &BTreeMap<u32, Page>, key: u32) -> Result<Entry, Nonsense> {
        let mut entry = Entry { key: 0, block: meta.root, item: 0 };
        for level in (0..=meta.level).rev() {
            entry = find(&pages[&entry.block], entry.block, level, key)?;
        }
        Ok(entry)
    }

    /// What PostgreSQL 15 says by `bt_metap` and `bt_page_stats` of a new `pgbench_accounts_pkey`;
    /// it counts the high key among a page's entries.
    #[test]
    fn scale_50_is_the_tree_that_postgresql_builds() {
        let mut shapes = BTreeMap::<(u16, u16), u32>::new();
        let mut links = BTreeMap::new();
        let meta = build(5_000_000, |block, page| {
            if block == 0 {
                return;
            }
            let head = head_of(page, block).unwrap();
            *shapes.entry((head.level, head.count)).or_default() += 1;
            if [1, 2, 3, 287, 289, 290, 13_712].contains(&block) {
                links.insert(block, head.right.map(|(right, _)| right));
            }
        });
        assert_eq!(meta, Meta { blocks: 13_713, keys: 5_000_000, root: 290, level: 2 });
        let shapes: Vec<_> = shapes.into_iter().collect();
        let [leaves, inner] = [[((0, 74), 1), ((0, 366), 13_661)], [((1, 30), 1), ((1, 284), 48)]];
        assert_eq!(shapes, [&leaves[..], &inner, &[((2, 49), 1)]].concat());
        let links: Vec<_> = links.into_iter().collect();
        let expected = [(1, Some(2)), (2, Some(4)), (3, Some(289)), (287, Some(288))];
        assert_eq!(links[..4], expected);
        assert_eq!((links[5], links[6]), ((290, None), (13_712, None)));
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        for keys in [1, 366, 367, 368, 733, 734, 366 * 284 + 2, 366 * 285 + 2, 250_000] {
            let (meta, pages) = pages(keys);
            let ends = [1, 2, 366, 367, 368, keys - 1, keys];
            for key in (1..=keys).step_by(97).chain(ends).filter(|key| (1..=keys).contains(key)) {
                let expected = Entry { key, block: key / 9, item: (key % 9) as u16 };
                assert_eq!(lookup(meta, &pages, key), Ok(expected), "{key} of {keys}");
            }
            assert!(lookup(meta, &pages, 0).is_err() && lookup(meta, &pages, keys + 1).is_err());
        }
    }

    #[test]
    fn each_level_is_in_order_from_left_to_right() {
        let (meta, pages) = pages(250_000);
        assert_eq!(Meta::read(&pages[&0]), Ok(meta));
        let (mut first, mut seen) = (Some(meta.root), 1);
        for level in (0..=meta.level).rev() {
            let (mut next, mut least) = (first, 0);
            first = None;
            while let Some(block) = next {
                let head = head_of(&pages[&block], block).unwrap();
                let high_key = head.right.map_or(u32::MAX, |(_, high_key)| high_key);
                assert_eq!(head.level, level);
                seen += 1;
                for index in 0..head.count.into() {
                    let entry = Entry::read(&pages[&block], index).unwrap();
                    assert!((least..high_key).contains(&entry.key), "{entry:?} in {block}");
                    least = entry.key + 1;
                    first = first.or((level > 0).then_some(entry.block));
                }
                next = head.right.map(|(right, _)| right);
            }
        }
        assert_eq!(seen, meta.blocks);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (_, pages) = pages(1000);
        let good = pages[&1];
        assert_eq!(find(&good, 1, 0, 5).unwrap().key, 5);
        assert_eq!(find(&good, 1, 1, 5), Err(Nonsense("is on another level")));
        assert_eq!(find(&good, 1, 0, 367), Err(Nonsense("has only smaller keys")));
        for count in [0, ENTRIES_MAX as u16 + 1, u16::MAX] {
            let mut page = good;
            put(&mut page, 24, &count.to_le_bytes());
            assert!(find(&page, 1, 0, 5).is_err(), "{count} entries");
        }
        let mut page = good;
        Entry { key: 6, block: 0, item: 0 }.put(&mut page, 4);
        assert_eq!(find(&page, 1, 0, 5), Err(Nonsense("does not have the key")));
        let mut meta = pages[&0];
        put(&mut meta, 26, &LEVELS_MAX.to_le_bytes());
        assert!(Meta::read(&meta).is_err() && Meta::read(&good).is_err());
    }
}
