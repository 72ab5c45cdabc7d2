//! Rows, and the pages they are in.
//!
//! A row takes as many bytes as in PostgreSQL: 24 for its head, three numbers, 84 blanks with one
//! for their length, and what is missing to a multiple of eight: 128; and four more at the
//! beginning of the page, which say where it is. The head is zero: nobody asks who made a row.
use crate::format::{HEAD_END, Head, Kind, Nonsense, PAGE_BYTES, Page};
use crate::format::{bytes_at, put, u16_at, u32_at};
use crate::random::mixed;

/// Rows to a page.
pub(crate) const ROWS: u32 = 61;

/// Accounts of one branch.
pub(crate) const BRANCH_ROWS: u32 = 100_000;

const POINTER_BYTES: usize = 4;
const ROW_BYTES: usize = 128;
const FIELDS: usize = 24;
const FILLER: [u8; 84] = [b' '; 84];

const _: () = {
    let room = PAGE_BYTES - HEAD_END;
    assert!(room / (POINTER_BYTES + ROW_BYTES) == ROWS as usize);
};

/// An account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) aid: u32,
    pub(crate) bid: u32,
    pub(crate) abalance: i32,
}

impl Row {
    /// The account as it is loaded. In pgbench all balances begin at 0; here they are made from
    /// `aid`, so that sums mean something.
    pub(crate) fn loaded(aid: u32) -> Row {
        let balance = mixed(aid.into()) % 199_999;
        Row { aid, bid: aid.saturating_sub(1) / BRANCH_ROWS + 1, abalance: balance as i32 - 99_999 }
    }
}

/// Where an account is: a block, and a row in it.
pub(crate) fn place_of(aid: u32) -> (u32, u16) {
    ((aid - 1) / ROWS, ((aid - 1) % ROWS) as u16)
}

/// Blocks for so many accounts.
pub(crate) fn blocks_for(rows: u32) -> u32 {
    rows.div_ceil(ROWS)
}

/// A block of the accounts from 1 to `rows`.
pub(crate) fn page_of(block: u32, rows: u32) -> Page {
    let first = block * ROWS + 1;
    let count = ROWS.min(rows + 1 - first);
    let head = Head { kind: Kind::Heap, block, count: count as u16, level: 0, right: None };
    let mut page = head.page();
    for item in 0..count as usize {
        let at = PAGE_BYTES - (item + 1) * ROW_BYTES;
        let pointer = HEAD_END + item * POINTER_BYTES;
        put(&mut page, pointer, &(at as u16).to_le_bytes());
        put(&mut page, pointer + 2, &(ROW_BYTES as u16).to_le_bytes());
        let row = Row::loaded(first + item as u32);
        put(&mut page, at + FIELDS, &row.aid.to_le_bytes());
        put(&mut page, at + FIELDS + 4, &row.bid.to_le_bytes());
        put(&mut page, at + FIELDS + 8, &row.abalance.to_le_bytes());
        put(&mut page, at + FIELDS + 12, &FILLER);
    }
    page
}

/// The row `item` of a page that should be this block.
pub(crate) fn row(page: &[u8], block: u32, item: u16) -> Result<Row, Nonsense> {
    let head = Head::read(page, Kind::Heap, block)?;
    if item >= head.count {
        return Err(Nonsense("has no such row"));
    }
    let pointer = HEAD_END + usize::from(item) * POINTER_BYTES;
    let at = usize::from(u16_at(page, pointer)?);
    if usize::from(u16_at(page, pointer + 2)?) != ROW_BYTES || at < HEAD_END {
        return Err(Nonsense("has a row of another size"));
    }
    if *bytes_at(page, at + FIELDS + 12)? != FILLER {
        return Err(Nonsense("has a row whose filler is not blank"));
    }
    Ok(Row {
        aid: u32_at(page, at + FIELDS)?,
        bid: u32_at(page, at + FIELDS + 4)?,
        abalance: i32::from_le_bytes(*bytes_at(page, at + FIELDS + 8)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let rows = BRANCH_ROWS;
        for aid in [1, 2, 61, 62, 99_999, 100_000] {
            let (block, item) = place_of(aid);
            let page = page_of(block, rows);
            assert_eq!(row(&page, block, item), Ok(Row::loaded(aid)), "{aid}");
        }
        let last = blocks_for(rows) - 1;
        let count = (rows - last * ROWS) as u16;
        assert_eq!(row(&page_of(last, rows), last, count), Err(Nonsense("has no such row")));
    }

    #[test]
    fn branches_change_where_pgbench_changes_them() {
        let bids = [1, BRANCH_ROWS, BRANCH_ROWS + 1].map(|aid| Row::loaded(aid).bid);
        assert_eq!(bids, [1, 1, 2]);
    }

    #[test]
    fn a_heap_is_as_long_as_in_postgresql() {
        assert_eq!(blocks_for(50 * BRANCH_ROWS), 81_968);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = page_of(0, BRANCH_ROWS);
        let with = |at: usize, bytes: &[u8]| {
            let mut page = good;
            put(&mut page, at, bytes);
            row(&page, 0, 0)
        };
        assert!(with(0, &[0xff; 16]).is_ok(), "the pool's bytes mean nothing here");
        for (at, bytes) in [
            (HEAD_END, &u16::MAX.to_le_bytes()),
            (HEAD_END, &8100u16.to_le_bytes()),
            (HEAD_END, &0u16.to_le_bytes()),
            (HEAD_END + 2, &129u16.to_le_bytes()),
            (24, &0u16.to_le_bytes()),
            (PAGE_BYTES - ROW_BYTES + FIELDS + 20, b"xx"),
        ] {
            assert!(with(at, bytes).is_err(), "{bytes:?} at {at}");
        }
    }
}
