//! After a death: what was begun is ended or undone, and what was the dead one's is anybody's.
use super::ptr::{AreaPtr, MARKS};
use super::shared::{Claim, Intent, Kind, Owner, Page, Row};
use super::{Area, Place};
use shm_core::participants::ParticipantId;
use shm_core::process::Liveness;
use shm_core::sync::in_program_order;
use shm_core::sync::{AtomicU64, Ordering};

/// What a dead participant had left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Reaped {
    /// Its heaps.
    pub heaps: u64,
    /// Those of them that were in the middle of a call.
    pub intents: u64,
    /// Its spans: those that were empty are free, the others without an owner.
    pub spans: u64,
    /// Groups of pages that it was taking or giving back.
    pub taken: u64,
    /// Chunks behind which it was putting memory, or whose memory it was giving back.
    pub chunks: u64,
}

/// One thread of a process at a time reaps the areas of domains: its claims name the process.
#[cfg(not(any(shm_loom, shm_explore)))]
static REAPING: std::sync::Mutex<()> = std::sync::Mutex::new(());

impl Area {
    /// Takes back what a participant has left that is dead. What its blocks' destinations name
    /// stays.
    ///
    /// Of an area in a domain nothing is taken back where the death is not certain, and whoever
    /// finds no room does this by himself for all who are dead. For one in place, this is to be
    /// called in the `cleanup` of [`Table::reap`](shm_core::participants::Table::reap) and
    /// [`Table::join_with`](shm_core::participants::Table::join_with), where the death is proven
    /// and the seat nobody else's. It may be called again. It reads all rows and the page map.
    ///
    /// # If a process dies here
    /// A part is done, and the next reaper begins again. No span is given up before all intents are
    /// settled, and no row before all spans are given up.
    pub fn reap(&self, dead: ParticipantId) -> Reaped {
        if self.inner.census.is_some() {
            return self.reap_where(|owner| owner == dead);
        }
        // Relaxed: the proof of the death orders what the dead one did.
        let claim = |row: &Row| Claim(row.owner.load(Ordering::Relaxed));
        let rows = self.inner.rows.iter().enumerate().map(|(at, row)| (at, claim(row)));
        self.reap_rows(rows.filter(|(_, claim)| claim.owner() == Some(dead)).collect())
    }

    /// In a domain: takes back what all have left that are dead. See [`reap`](Area::reap).
    ///
    /// # If a process dies here
    /// As there.
    pub fn reap_all(&self) -> Reaped {
        self.reap_where(|_| true)
    }

    /// Whether it was anything.
    pub(super) fn reap_unasked(&self) -> bool {
        self.inner.census.is_some() && self.reap_all() != Reaped::default()
    }

    /// Whether a participant has a heap, or is not reaped.
    pub(crate) fn has_rows_of(&self, who: ParticipantId) -> bool {
        // Relaxed: who asks has joined, or has the proof of the death.
        let owner = |row: &Row| Claim(row.owner.load(Ordering::Relaxed)).owner();
        self.inner.rows.iter().any(|row| owner(row) == Some(who))
    }

    fn reap_where(&self, is_meant: impl Fn(ParticipantId) -> bool) -> Reaped {
        let Some(member) = self.inner.census.as_deref() else { return Reaped::default() };
        if member.check_fork().is_err() {
            return Reaped::default();
        }
        #[cfg(not(any(shm_loom, shm_explore)))]
        let _alone = match REAPING.try_lock() {
            Ok(alone) => alone,
            Err(std::sync::TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return Reaped::default(),
        };
        let (me, table) = (member.id(), member.table());
        let is_dead = |id| id != me && table.liveness(id) == Liveness::Dead;
        let mut rows = Vec::new();
        for (at, row) in self.inner.rows.iter().enumerate() {
            // Relaxed: the proof of the death orders what the dead one did.
            let claim = Claim(row.owner.load(Ordering::Relaxed));
            let Some(owner) = claim.owner().filter(|owner| is_meant(*owner)) else { continue };
            // A claim in our own name is one that a panic of ours has left.
            let is_free = claim.reaper().is_none_or(|reaper| reaper == me || is_dead(reaper));
            if !is_free || !is_dead(owner) {
                continue;
            }
            let mine = claim.reaped_by(me);
            // Relaxed: nobody but its claimer acts for the dead one, and what an earlier one did
            // is done because he is dead.
            let relaxed = Ordering::Relaxed;
            if row.owner.compare_exchange(claim.0, mine.0, relaxed, relaxed).is_ok() {
                rows.push((at, mine));
            }
        }
        self.reap_rows(rows)
    }

    /// Rows whose owners are dead, and that nobody else reaps, each with its claim.
    fn reap_rows(&self, rows: Vec<(usize, Claim)>) -> Reaped {
        let mut reaped = Reaped::default();
        if rows.is_empty() {
            return reaped;
        }
        let owner = |(at, claim): &(usize, Claim)| claim.owner().map(|id| Owner::new(id, *at));
        let mut dead: Vec<Owner> = rows.iter().filter_map(owner).collect();
        dead.sort_unstable();
        for owner in &dead {
            reaped.heaps += 1;
            reaped.intents += u64::from(self.settle(&self.inner.rows[owner.row()], *owner));
            reaped.chunks += self.reap_chunks(*owner);
        }
        for (at, word) in self.all_pages() {
            let is_theirs = matches!(word.kind(), Kind::Taken | Kind::Span);
            if !is_theirs || dead.binary_search(&word.owner()).is_err() {
                continue;
            }
            if word.kind() == Kind::Taken {
                self.give_pages(at, word);
                reaped.taken += 1;
            } else {
                if self.has_no_block(at, word.class()) {
                    self.give_span(at, word, word.owner());
                } else {
                    self.leave_span(at, word);
                }
                reaped.spans += 1;
            }
        }
        for (at, claim) in rows {
            leave_row(&self.inner.rows[at], claim);
        }
        reaped
    }

    /// Ends what a dead heap's intent says, or what this one could not; whether there was one.
    pub(super) fn settle(&self, row: &Row, owner: Owner) -> bool {
        let intent = row.intent();
        if intent == Intent::NONE {
            return false;
        }
        let block = intent.block();
        let destination = self.destination_of(row).filter(|word| names(word, block));
        if intent.is_link() && destination.is_none() {
            self.drop_block(block, owner);
        } else if intent.is_free() {
            if let Some(word) = destination {
                // Nobody but the dead one writes it; a liar's word is left alone.
                let held = word.load(Ordering::Relaxed);
                if held & !MARKS == block.to_bits() {
                    // Relaxed: there is nothing behind 0.
                    let relaxed = Ordering::Relaxed;
                    let _ = word.compare_exchange(held, 0, relaxed, relaxed);
                }
            }
            in_program_order();
            self.drop_block(block, owner);
        }
        in_program_order();
        row.set(Intent::NONE);
        true
    }

    fn destination_of(&self, row: &Row) -> Option<&AtomicU64> {
        // Relaxed: the proof of the death.
        let offset = row.destination.load(Ordering::Relaxed);
        if offset == 0 {
            return None;
        }
        self.inner.mapping.region().share(offset & !MARKS).ok()
    }

    /// Frees a block in the name of `owner`, who said that it would; it may have.
    fn drop_block(&self, block: AreaPtr, owner: Owner) {
        match self.locate(block) {
            Ok(Place::Block { page, word, index }) => {
                let descriptor = self.descriptor(page);
                if word.kind() == Kind::Span && word.owner() == owner {
                    descriptor.clear_allocated(index);
                } else if descriptor.allocated_bit(index) {
                    descriptor.mark_freed(index);
                }
            }
            // Its pages are found with the others that it has taken.
            Ok(Place::Run { page, word }) => {
                self.claim(page, word, Page::taken(owner));
            }
            // It had not come so far, or it is done.
            Err(_) => {}
        }
    }
}

fn names(word: &AtomicU64, block: AreaPtr) -> bool {
    // Relaxed: the proof of the death.
    word.load(Ordering::Relaxed) & !MARKS == block.to_bits()
}

/// The row is free for the next heap.
pub(super) fn leave_row(row: &Row, claim: Claim) {
    // Pairs with the Acquire in `Area::heap`: the intent is settled.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    let _ = row.owner.compare_exchange(claim.0, 0, ok, err);
}
