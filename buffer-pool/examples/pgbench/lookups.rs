//! One client: its lookups.
use crate::error::Error;
use crate::heap::{self, Row};
use crate::index::{self, Entry, Meta};
use crate::pages::{Counts, File, PageId, Pages};
use crate::random::Random;

/// What clients have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) transactions: u64,
    /// Of the balances that they found.
    pub(crate) balance: i64,
    pub(crate) counts: Counts,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Totals) {
        self.transactions += other.transactions;
        self.balance += other.balance;
        self.counts.accesses += other.counts.accesses;
        self.counts.hits += other.counts.hits;
    }
}

/// A client.
pub(crate) struct Client {
    meta: Meta,
    random: Random,
    transactions: u64,
    balance: i64,
}

impl Client {
    /// The client of this number. It finds out where the root is.
    pub(crate) fn connect(pages: &mut impl Pages, seed: u64, number: u32) -> Result<Client, Error> {
        let random = Random::new(seed, number);
        Ok(Client { meta: meta(pages)?, random, transactions: 0, balance: 0 })
    }

    /// Looks for any account, and at its row.
    pub(crate) fn transact(&mut self, pages: &mut impl Pages) -> Result<(), Error> {
        let aid = self.random.below(self.meta.keys) + 1;
        let row = row_of(pages, &self.meta, aid)?;
        if row != Row::loaded(aid) {
            return Err(Error::WrongRow { aid, found: row });
        }
        self.transactions += 1;
        self.balance += i64::from(row.abalance);
        Ok(())
    }

    /// What it has done, with pages that were `counts`.
    pub(crate) fn totals(&self, counts: Counts) -> Totals {
        Totals { transactions: self.transactions, balance: self.balance, counts }
    }
}

/// What block 0 of the index says.
pub(crate) fn meta(pages: &mut impl Pages) -> Result<Meta, Error> {
    let page = PageId { file: File::Pkey, block: 0 };
    let meta = pages.read(page, |bytes| Meta::read(bytes))?;
    meta.map_err(|problem| page.damaged(problem))
}

/// The row of this account: down the tree, one page of each level, and then the heap.
pub(crate) fn row_of(pages: &mut impl Pages, meta: &Meta, aid: u32) -> Result<Row, Error> {
    let mut place = Entry { key: aid, block: meta.root, item: 0 };
    for level in (0..=meta.level).rev() {
        let page = PageId { file: File::Pkey, block: place.block };
        let found = pages.read(page, |bytes| index::find(bytes, page.block, level, aid))?;
        place = found.map_err(|problem| page.damaged(problem))?;
    }
    let page = PageId { file: File::Accounts, block: place.block };
    let row = pages.read(page, |bytes| heap::row(bytes, page.block, place.item))?;
    row.map_err(|problem| page.damaged(problem))
}
