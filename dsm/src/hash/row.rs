//! Steps: one word changes, and what that makes reachable and what it makes garbage is on record.
//!
//! ```text
//!   owner    fresh <- block       last, old, place       state: under way
//!   owner    word: expected -> last, marked with the descriptor's number         the step happens
//!   anybody  state: under way -> done
//!   anybody  word: marked -> last
//!   owner    fresh <- 0           retired <- old         state: idle, next number
//! ```
//!
//! A mark stays in its word until the state says done, and so, of a dead owner, the word and the
//! state together say what happened: marked or done, it did; neither, it did not, and never will.
//! (The order of an owner's stores matters to its reaper only, who comes after its death: they are
//! held in program order.) Whoever wants to change a marked word helps first. Descriptors are
//! numbered: row * 2, and one more for the second.
use super::HashError;
use super::core::Core;
use super::ground::{Ground, Shield};
use super::shared::{Descriptor, Row, State};
use super::table::Table;
use super::word::Word;
use shm_core::sync::{AtomicU64, Ordering, in_program_order};

/// Rounds after which a word or a state that changes all the time is nonsense.
pub(super) const ROUNDS_MAX: u32 = 1000;

/// In a retired word: it is a table, whose pieces go with it.
pub(super) const TABLE: u64 = 1 << 63;

/// Which of a row's descriptors: entries come and go by the first, tables and their pieces, which
/// may be needed in the midst of that, by the second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    Entry,
    Table,
}

/// What kind of word of a table, or the root; and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    Cell(u64),
    Piece(u64),
    Next,
    Root,
}

const AT_SHIFT: u32 = 60;

impl At {
    fn to_bits(self) -> u64 {
        match self {
            At::Cell(index) => index,
            At::Piece(index) => 1 << AT_SHIFT | index,
            At::Next => 2 << AT_SHIFT,
            At::Root => 3 << AT_SHIFT,
        }
    }

    fn from_bits(bits: u64) -> At {
        let index = bits & ((1 << AT_SHIFT) - 1);
        match bits >> AT_SHIFT {
            0 => At::Cell(index),
            1 => At::Piece(index),
            2 => At::Next,
            _ => At::Root,
        }
    }
}

/// A word and where it is: in which table, and what of it.
#[derive(Clone, Copy)]
pub(super) struct Place<'g> {
    pub(super) word: &'g AtomicU64,
    pub(super) block: u64,
    pub(super) at: At,
}

/// A step to be taken.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// What stands there now.
    pub(super) expected: Word,
    /// What is to stand there.
    pub(super) last: Word,
    /// What becomes garbage, as a retired word; 0 for nothing.
    pub(super) old: u64,
}

/// A row as its owner, or who cleans up after it, works with it.
#[derive(Clone, Copy)]
pub(super) struct Owned<'g> {
    pub(super) index: u32,
    pub(super) row: &'g Row,
    pub(super) retired: &'g [AtomicU64],
}

impl<'g> Owned<'g> {
    pub(super) fn descriptor(&self, which: Which) -> (u16, &'g Descriptor) {
        match which {
            Which::Entry => ((self.index * 2) as u16, &self.row.entry),
            Which::Table => ((self.index * 2 + 1) as u16, &self.row.table),
        }
    }

    /// Takes the step, unless the word is not what was expected: then that word.
    pub(super) fn step(&self, which: Which, place: Place<'_>, step: Step) -> Result<(), Word> {
        let (number, descriptor) = self.descriptor(which);
        let idle = State::of(descriptor, Ordering::Relaxed);
        // Pairs with the Acquire in `Core::help`: who reads this one reads a later state after it.
        descriptor.last.store(step.last.bits(), Ordering::Release);
        descriptor.old.store(step.old, Ordering::Relaxed);
        descriptor.at_block.store(place.block, Ordering::Relaxed);
        descriptor.at_index.store(place.at.to_bits(), Ordering::Relaxed);
        // Pairs with the Acquire in `Core::help`: the last word.
        descriptor.state.store(idle.under_way().0, Ordering::Release);
        let (expected, marked) = (step.expected.bits(), step.last.marked(number).bits());
        // Pairs with the Acquires of all who read such words: the contents of the fresh block, and
        // the state. The other Acquire, with the Releases of all who write them.
        let (ok, err) = (Ordering::Release, Ordering::Acquire);
        if let Err(now) = place.word.compare_exchange(expected, marked, ok, err) {
            descriptor.state.store(idle.idle().0, Ordering::Relaxed);
            return Err(Word::from_bits(now));
        }
        descriptor.state.store(idle.done().0, Ordering::Relaxed);
        in_program_order();
        // Fails where somebody helped. Pairs with the Acquire in `Core::settle`: the state.
        let _ = place.word.compare_exchange(marked, step.last.bits(), ok, err);
        in_program_order();
        if step.last.is_block() {
            descriptor.fresh.store(0, Ordering::Relaxed);
        }
        self.retire(step.old);
        in_program_order();
        descriptor.state.store(idle.idle().0, Ordering::Relaxed);
        in_program_order();
        Ok(())
    }

    /// Room for so many more retired words: from the hint on, which it moves there.
    pub(super) fn has_room(&self, count: usize) -> bool {
        let hint = self.row.hint.load(Ordering::Relaxed) as usize;
        let is_free = |at: usize| self.retired.get(at).is_some_and(Owned::is_zero);
        let Some(first) = (hint..self.retired.len()).find(|at| is_free(*at)) else { return false };
        if first != hint {
            self.row.hint.store(first as u64, Ordering::Relaxed);
        }
        // What is free between others counts once it has come first.
        (first..self.retired.len()).filter(|at| is_free(*at)).take(count).count() == count
    }

    fn is_zero(word: &AtomicU64) -> bool {
        word.load(Ordering::Relaxed) == 0
    }

    /// Notes that `old` is garbage. There is room, for the caller has looked; where a liar has
    /// taken it, the block is lost.
    fn retire(&self, old: u64) {
        if old == 0 {
            return;
        }
        let hint = self.row.hint.load(Ordering::Relaxed) as usize;
        let from_hint = self.retired.iter().skip(hint);
        if let Some(word) = from_hint.chain(self.retired).find(|word| Owned::is_zero(word)) {
            word.store(old, Ordering::Relaxed);
        }
    }

    fn has_retired(&self, old: u64) -> bool {
        self.retired.iter().any(|word| word.load(Ordering::Relaxed) == old)
    }
}

impl<G: Ground> Core<G> {
    /// Calls the step done whose mark was `seen` in `word`, and takes the mark away. What stands
    /// there instead.
    ///
    /// The block is announced meanwhile: given back and taken again it could be put there by the
    /// same row, and the mark that is taken away would be that of a step that nobody has called
    /// done. (A tomb does not come back.)
    pub(super) fn help(&self, word: &AtomicU64, seen: Word) -> Result<Word, HashError> {
        let mut shield = self.ground.shield()?;
        if seen.is_block() {
            // Whether it is still there is asked by the swap below.
            shield.protect(seen.value(), || true)?;
        }
        for _ in 0..ROUNDS_MAX {
            let descriptor = self.descriptor(seen)?;
            // Pairs with the Releases in `Owned::step`: the last word of this step or a later one.
            let state = State::of(descriptor, Ordering::Acquire);
            // Pairs with the Release in `Owned::step`: a state no older than the word.
            let last = Word::from_bits(descriptor.last.load(Ordering::Acquire));
            // Pairs with the Release of the mark: the state at that time, or a later one. A swap,
            // for a load may return a mark that is no more, and go on doing so.
            let (ok, err) = (Ordering::Acquire, Ordering::Acquire);
            if let Err(now) = word.compare_exchange(seen.bits(), seen.bits(), ok, err) {
                return Ok(Word::from_bits(now));
            }
            let now = State::of(descriptor, Ordering::Relaxed);
            if now.is_same_step(state) && (state.is_under_way() || state.is_done()) {
                // The same step all the while, and its mark was there meanwhile: it is this one's.
                return self.take_mark(word, seen, descriptor, state, last);
            }
        }
        Err(HashError::corrupt("a mark", seen.bits()))
    }

    fn take_mark(
        &self,
        word: &AtomicU64,
        seen: Word,
        descriptor: &Descriptor,
        state: State,
        last: Word,
    ) -> Result<Word, HashError> {
        if last.is_marked() || last.marked(seen.tag()) != seen {
            return Err(HashError::corrupt("a last word", last.bits()));
        }
        let (under_way, done) = (state.under_way().0, state.done().0);
        // Fails where others said it.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = descriptor.state.compare_exchange(under_way, done, ok, err);
        // Pairs with the Acquire in `settle`: the state. And what others put there is read here.
        let (ok, err) = (Ordering::Release, Ordering::Acquire);
        match word.compare_exchange(seen.bits(), last.bits(), ok, err) {
            Ok(_) => Ok(last),
            Err(now) => Ok(Word::from_bits(now)),
        }
    }

    fn descriptor(&self, mark: Word) -> Result<&Descriptor, HashError> {
        let owned = self.row(u32::from(mark.tag() / 2))?;
        let which = if mark.tag().is_multiple_of(2) { Which::Entry } else { Which::Table };
        Ok(owned.descriptor(which).1)
    }

    /// Loads `word`, helping whoever has it marked.
    pub(super) fn load_settled(&self, word: &AtomicU64) -> Result<Word, HashError> {
        // Pairs with the Releases of all who write such words.
        let mut seen = Word::from_bits(word.load(Ordering::Acquire));
        for _ in 0..ROUNDS_MAX {
            if !seen.is_marked() {
                return Ok(seen);
            }
            seen = self.help(word, seen)?;
        }
        Err(HashError::corrupt("a mark", seen.bits()))
    }

    /// Finishes or undoes the step of an owner that is no more.
    pub(super) fn settle(&self, owned: &Owned<'_>, which: Which) -> Result<(), HashError> {
        let (number, descriptor) = owned.descriptor(which);
        let state = State::of(descriptor, Ordering::Relaxed);
        let mut is_done = state.is_done();
        if state.is_under_way() || is_done {
            let at = At::from_bits(descriptor.at_index.load(Ordering::Relaxed));
            let block = descriptor.at_block.load(Ordering::Relaxed);
            self.with_place(block, at, |word| {
                // Pairs with the Releases in `step` and `help`: a state that says done.
                let seen = Word::from_bits(word.load(Ordering::Acquire));
                let is_its = seen.is_marked() && seen.tag() == number;
                if is_its { self.help(word, seen).map(drop) } else { Ok(()) }
            })?;
            is_done = State::of(descriptor, Ordering::Relaxed).is_done();
        }
        if is_done {
            let last = Word::from_bits(descriptor.last.load(Ordering::Relaxed));
            if last.is_block() {
                descriptor.fresh.store(0, Ordering::Relaxed);
            }
            let old = descriptor.old.load(Ordering::Relaxed);
            if !owned.has_retired(old) {
                self.make_room(owned, 1)?;
                owned.retire(old);
            }
        }
        in_program_order();
        descriptor.state.store(state.idle().0, Ordering::Relaxed);
        in_program_order();
        if descriptor.fresh.load(Ordering::Relaxed) != 0 {
            self.ground.give(&descriptor.fresh)?;
        }
        Ok(())
    }

    /// Gives back the retired blocks that nobody looks at, if there is not room for `count` more.
    pub(super) fn make_room(&self, owned: &Owned<'_>, count: usize) -> Result<(), HashError> {
        if owned.has_room(count) {
            return Ok(());
        }
        self.collect(owned)?;
        if owned.has_room(count) { Ok(()) } else { Err(HashError::Busy) }
    }

    /// Gives back the retired blocks that nobody looks at.
    pub(super) fn collect(&self, owned: &Owned<'_>) -> Result<(), HashError> {
        let mut protected = Vec::new();
        self.ground.protected(&mut protected)?;
        for word in owned.retired {
            let old = word.load(Ordering::Relaxed);
            let block = old & !TABLE;
            if old == 0 || protected.binary_search(&block).is_ok() {
                continue;
            }
            if old & TABLE != 0 {
                for piece in Table::open(&self.ground, block)?.pieces() {
                    let block = Word::from_bits(piece.load(Ordering::Relaxed)).value();
                    self.give_from(owned, piece, block)?;
                }
            }
            self.give_from(owned, word, block)?;
        }
        owned.row.hint.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back `block`, named by `from` alone, by way of the row.
    pub(super) fn give_from(
        &self,
        owned: &Owned<'_>,
        from: &AtomicU64,
        block: u64,
    ) -> Result<(), HashError> {
        if block == 0 {
            return Ok(());
        }
        owned.row.out.store(self.ground.name_of(block), Ordering::Relaxed);
        in_program_order();
        from.store(0, Ordering::Relaxed);
        in_program_order();
        self.ground.give(&owned.row.out)
    }

    /// Ends what a dead owner was giving back: it may still stand where it was named before.
    pub(super) fn finish_giving(&self, owned: &Owned<'_>) -> Result<(), HashError> {
        let name = owned.row.out.load(Ordering::Relaxed);
        if name == 0 {
            return Ok(());
        }
        let out = self.ground.block_of(name);
        for word in owned.retired {
            let old = word.load(Ordering::Relaxed);
            if old & !TABLE == out {
                word.store(0, Ordering::Relaxed);
            } else if old & TABLE != 0 {
                let table = Table::open(&self.ground, old & !TABLE)?;
                let names = |piece: &&AtomicU64| {
                    Word::from_bits(piece.load(Ordering::Relaxed)).value() == out
                };
                // Only of a table of which nobody else knows any more are pieces given back; no
                // other names this block.
                if let Some(piece) = table.pieces().iter().find(names) {
                    piece.store(0, Ordering::Relaxed);
                }
            }
        }
        self.ground.give(&owned.row.out)
    }
}
