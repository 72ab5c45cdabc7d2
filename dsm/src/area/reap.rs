//! Ending a heap: its owner's own way out, and what its reaper does in its name.
use super::ptr::{AreaPtr, MARKS};
use super::shared::{Intent, Kind, Owner, Page, Row};
use super::{Area, Inner};
use shm_core::participants::ParticipantId;
use shm_core::sync::{Ordering, in_program_order};

/// A link that a dead process may have made, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The block.
    pub block: AreaPtr,
    /// The place of the word that was to hold it: [`Area::word_at`].
    pub destination: AreaPtr,
}

impl Unsettled {
    /// Whether the destination holds the block, whatever its marks.
    pub fn is_at_destination(&self, area: &Area) -> bool {
        area.inner.holds(self.destination, self.block)
    }
}

/// What a dead participant left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Heaps.
    pub heaps: u64,
    /// Blocks that it alone knew, now free.
    pub blocks: u64,
    /// Spans that have blocks of others in them, and are anybody's now.
    pub spans: u64,
}

impl Area {
    /// Takes back what `dead` held, for who reaps it: call this where the table of participants
    /// [cleans up](shm_core::participants::Table::reap). The heaps of one that lives must not be
    /// reaped.
    ///
    /// A block whose linking was under way is linked if its destination holds it, or if somebody
    /// has [settled](super::Heap::settle) or freed it.
    ///
    /// # If a process dies here
    /// The next reaper begins anew: each step may be done twice.
    pub fn reap(&self, dead: ParticipantId) -> Reaped {
        self.reap_with(dead, |link| link.is_at_destination(self))
    }

    /// The same, where `is_linked` looks whether a block is reachable: in a list, say, where others
    /// may have put something in front of it. It reads with Acquire.
    ///
    /// # If a process dies here
    /// As in [`reap`](Area::reap).
    pub fn reap_with(
        &self,
        dead: ParticipantId,
        mut is_linked: impl FnMut(&Unsettled) -> bool,
    ) -> Reaped {
        let mut reaped = Reaped::default();
        let name = u64::from(dead.to_bits());
        for (index, row) in self.inner.rows.iter().enumerate() {
            // What its owner did we see by the proof of its death.
            if row.owner.load(Ordering::Relaxed) == name {
                let one = self.inner.give_back(Owner::new(dead, index), &mut is_linked);
                reaped.heaps += 1;
                reaped.blocks += one.blocks;
                reaped.spans += one.spans;
            }
        }
        reaped
    }
}

impl Inner {
    /// Ends a heap: nothing of it is left.
    pub(super) fn give_back(
        &self,
        owner: Owner,
        is_linked: impl FnMut(&Unsettled) -> bool,
    ) -> Reaped {
        let row = &self.rows[owner.row()];
        self.finish_intent(row, owner, is_linked);
        let mut reaped = Reaped::default();
        for head in 0..self.words.len() {
            let word = self.page(head);
            if !word.is_of(owner) {
                continue;
            }
            if word.kind() == Kind::Taken {
                self.free_run_of(head);
                reaped.blocks += 1;
            } else {
                self.end_span(owner, head, word.class(), &mut reaped);
            }
        }
        if reaped.spans > 0 {
            self.head.given_up.fetch_add(1, Ordering::Relaxed);
        }
        free_row(row, owner);
        reaped
    }

    /// Frees the held blocks of a span, takes back what others have freed, and leaves it.
    fn end_span(&self, owner: Owner, head: usize, class: usize, reaped: &mut Reaped) {
        let Some(shape) = self.classes.shape(class) else { return };
        for (index, group) in self.groups(head, shape) {
            let held = group.held.load(Ordering::Relaxed);
            if held != 0 {
                let allocated = group.allocated.load(Ordering::Relaxed);
                reaped.blocks += u64::from((allocated & held).count_ones());
                group.allocated.store(allocated & !held, Ordering::Relaxed);
                in_program_order();
                group.held.store(0, Ordering::Relaxed);
            }
            self.collect(head, shape, index);
        }
        in_program_order();
        if self.is_empty_span(head, shape) {
            self.free_span(owner, head);
        } else {
            reaped.spans += 1;
            self.give_up_span(head, class);
        }
    }

    /// Carries out, or undoes, what the heap was about to do.
    fn finish_intent(&self, row: &Row, owner: Owner, is_linked: impl FnMut(&Unsettled) -> bool) {
        let intent = Intent(row.intent.load(Ordering::Relaxed));
        if intent == Intent::NONE {
            return;
        }
        let destination = AreaPtr::from_bits(row.destination.load(Ordering::Relaxed));
        if intent.is_link() {
            self.finish_link(owner, Unsettled { block: intent.block(), destination }, is_linked);
        } else if intent.is_free() && !self.holds(destination, intent.block()) {
            self.finish_free(owner, intent.block());
        }
        in_program_order();
        // Pairs with the Acquire in `is_being_freed`: the block is freed.
        row.intent.store(Intent::NONE.0, Ordering::Release);
    }

    fn finish_link(
        &self,
        owner: Owner,
        link: Unsettled,
        mut is_linked: impl FnMut(&Unsettled) -> bool,
    ) {
        // First the destination, then who is about to free it, then who has.
        let is_linked = is_linked(&link) || self.is_being_freed(link.block);
        if let Some((word, shape, spot)) = self.span_of(link.block) {
            let group = self.group(spot.head, shape, spot.group);
            let others =
                group.freed.load(Ordering::Relaxed) | group.reached.load(Ordering::Relaxed);
            if word.is_of(owner) && (is_linked || others & spot.bit != 0) {
                let held = group.held.load(Ordering::Relaxed);
                group.held.store(held & !spot.bit, Ordering::Relaxed);
            }
        } else if let Some((head, 0)) = self.page_of(link.block)
            && is_linked
        {
            // It fails where somebody has settled or freed it.
            self.change_page(head, Page::taken(owner), Page::RUN);
        }
    }

    fn finish_free(&self, owner: Owner, block: AreaPtr) {
        if let Some((word, shape, spot)) = self.span_of(block) {
            let group = self.group(spot.head, shape, spot.group);
            let allocated = group.allocated.load(Ordering::Relaxed);
            if word.is_of(owner) {
                group.allocated.store(allocated & !spot.bit, Ordering::Relaxed);
            } else if allocated & spot.bit != 0 {
                self.free_for_owner(group, spot.bit);
            }
        } else if let Some((head, 0)) = self.page_of(block) {
            let word = self.page(head);
            let is_linked = matches!(word.kind(), Kind::Run | Kind::Taken);
            if is_linked && !word.is_of(owner) && !self.change_page(head, word, Page::taken(owner))
            {
                // Its maker has just said that it is linked.
                self.change_page(head, Page::RUN, Page::taken(owner));
            }
        }
    }

    fn holds(&self, destination: AreaPtr, block: AreaPtr) -> bool {
        let Some(at) = destination.offset(self.tag) else { return false };
        let Ok(word) = self.mapping.region().share::<shm_core::sync::AtomicU64>(at) else {
            return false;
        };
        // Pairs with the Release in `Heap::free_from`, or of who else has changed it: his intent,
        // or that he has settled the block.
        word.load(Ordering::Acquire) & !MARKS == block.to_bits()
    }
}

fn free_row(row: &Row, owner: Owner) {
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    // Pairs with the Acquire in `Area::heap_of`: the row's last user is done. It fails only where
    // somebody scribbled on a word that was ours.
    let _ = row.owner.compare_exchange(owner.participant(), 0, ok, err);
}
