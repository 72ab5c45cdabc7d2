//! After a death: what was begun is ended or undone, and what was the dead one's is anybody's.
use super::order::in_order;
use super::ptr::{AreaPtr, MARKS};
use super::shared::{Intent, Kind, Owner, Page, Row};
use super::{Area, Place};
use shm_core::participants::ParticipantId;
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
}

impl Area {
    /// Takes back what a participant has left that is dead. What its blocks' destinations name
    /// stays.
    ///
    /// To be called in the `cleanup` of [`Table::reap`](shm_core::participants::Table::reap) and
    /// [`Table::join_with`](shm_core::participants::Table::join_with), where the death is proven
    /// and the seat nobody else's. It may be called again. It reads all rows and the page map.
    ///
    /// # If a process dies here
    /// A part is done, and the next reaper begins again. No span is given up before all intents are
    /// settled, and no row before all spans are given up.
    pub fn reap(&self, dead: ParticipantId) -> Reaped {
        let (mut reaped, bits) = (Reaped::default(), u64::from(dead.to_bits()));
        // Relaxed: the proof of the death orders what the dead one did.
        let is_of = |row: &Row| row.owner.load(Ordering::Relaxed) == bits;
        for (at, row) in self.inner.rows.iter().enumerate() {
            if is_of(row) {
                reaped.heaps += 1;
                reaped.intents += u64::from(self.settle(row, Owner::new(dead, at)));
            }
        }
        for at in 0..self.pages() {
            let Some(word) = self.page(at) else { break };
            if word.owner().participant() != dead.to_bits() {
                continue;
            }
            match word.kind() {
                Kind::Taken => {
                    self.give_pages(at, word);
                    reaped.taken += 1;
                }
                Kind::Span => {
                    if self.has_no_block(at, word.class()) {
                        self.give_span(at, word, word.owner());
                    } else {
                        self.leave_span(at, word);
                    }
                    reaped.spans += 1;
                }
                _ => {}
            }
        }
        for row in self.inner.rows.iter().filter(|row| is_of(row)) {
            leave_row(row, dead);
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
            in_order();
            self.drop_block(block, owner);
        }
        in_order();
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
                    descriptor.set_allocated(index, false);
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
pub(super) fn leave_row(row: &Row, who: ParticipantId) {
    // Pairs with the Acquire in `Area::heap`: the intent is settled.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    let _ = row.owner.compare_exchange(u64::from(who.to_bits()), 0, ok, err);
}
