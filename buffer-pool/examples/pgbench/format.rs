//! Numbers in pages, and the head that all pages have. All little-endian.
//!
//! | bytes | |
//! | --- | --- |
//! | 0..16 | the pool's: zero in a file, and of no meaning here |
//! | 16..20 | what kind of page it is |
//! | 20..24 | which block of its file it is |
//! | 24..26 | rows or entries in it |
//! | 26..28 | its level: 0 for a leaf, and in the heap |
//! | 28..32 | the block to its right; 0 if there is none |
//! | 32..36 | if there is one, the least key there |
//! | 36..40 | zero |
//! | 40.. | rows or entries |
//!
//! Pages come from files, which anybody may have written: every number is read by a function that
//! can fail.

pub(crate) const PAGE_BYTES: usize = 8192;

/// A page, whole.
pub(crate) type Page = [u8; PAGE_BYTES];

/// Where rows or entries begin.
pub(crate) const HEAD_END: usize = 40;

const HEAD: usize = 16;

/// What is wrong with a page, to be read behind its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Nonsense(pub(crate) &'static str);

/// What kind of page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Heap = u32::from_le_bytes(*b"heap"),
    Meta = u32::from_le_bytes(*b"meta"),
    Tree = u32::from_le_bytes(*b"tree"),
}

/// The head of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) block: u32,
    pub(crate) count: u16,
    pub(crate) level: u16,
    /// The block to its right, and the least key there.
    pub(crate) right: Option<(u32, u32)>,
}

impl Head {
    /// A page that has this head, and nothing else yet.
    pub(crate) fn page(&self) -> Page {
        let mut page = [0; PAGE_BYTES];
        let (right, high_key) = self.right.unwrap_or_default();
        put(&mut page, HEAD, &(self.kind as u32).to_le_bytes());
        put(&mut page, HEAD + 4, &self.block.to_le_bytes());
        put(&mut page, HEAD + 8, &self.count.to_le_bytes());
        put(&mut page, HEAD + 10, &self.level.to_le_bytes());
        put(&mut page, HEAD + 12, &right.to_le_bytes());
        put(&mut page, HEAD + 16, &high_key.to_le_bytes());
        page
    }

    /// The head of a page that should be of this kind, and this block.
    pub(crate) fn read(page: &[u8], kind: Kind, block: u32) -> Result<Head, Nonsense> {
        if u32_at(page, HEAD)? != kind as u32 {
            return Err(Nonsense("is no page of its kind"));
        }
        if u32_at(page, HEAD + 4)? != block {
            return Err(Nonsense("says that it is another block"));
        }
        let right = (u32_at(page, HEAD + 12)?, u32_at(page, HEAD + 16)?);
        Ok(Head {
            kind,
            block,
            count: u16_at(page, HEAD + 8)?,
            level: u16_at(page, HEAD + 10)?,
            right: (right.0 != 0).then_some(right),
        })
    }
}

pub(crate) fn u16_at(page: &[u8], at: usize) -> Result<u16, Nonsense> {
    Ok(u16::from_le_bytes(*bytes_at(page, at)?))
}

pub(crate) fn u32_at(page: &[u8], at: usize) -> Result<u32, Nonsense> {
    Ok(u32::from_le_bytes(*bytes_at(page, at)?))
}

pub(crate) fn bytes_at<const N: usize>(page: &[u8], at: usize) -> Result<&[u8; N], Nonsense> {
    let found = page.get(at..).and_then(|rest| rest.first_chunk());
    found.ok_or(Nonsense("has something behind its end"))
}

/// Writes into a page of our own, where there is room.
pub(crate) fn put(page: &mut Page, at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_OF_A_LEAF: Head =
        Head { kind: Kind::Tree, block: 7, count: 3, level: 0, right: Some((8, 100)) };

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let page = HEAD_OF_A_LEAF.page();
        assert_eq!(page[..16], [0; 16], "the pool's bytes");
        assert_eq!(Head::read(&page, Kind::Tree, 7), Ok(HEAD_OF_A_LEAF));
        let last = Head { right: None, ..HEAD_OF_A_LEAF };
        assert_eq!(Head::read(&last.page(), Kind::Tree, 7), Ok(last));
    }

    #[test]
    fn another_page_is_refused() {
        let page = HEAD_OF_A_LEAF.page();
        for (kind, block) in [(Kind::Tree, 8), (Kind::Heap, 7), (Kind::Meta, 7)] {
            assert!(Head::read(&page, kind, block).is_err(), "{kind:?} {block}");
        }
        assert!(Head::read(&[0; PAGE_BYTES], Kind::Heap, 0).is_err());
        for len in [0, 16, 35] {
            assert!(Head::read(&page[..len], Kind::Tree, 7).is_err(), "{len} bytes");
        }
    }
}
