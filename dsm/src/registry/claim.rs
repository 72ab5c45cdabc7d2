//! Having a name for oneself: claiming, initialising, giving up, removing; and clearing up after
//! the dead.
use super::shared::{Row, put};
use super::word::{State, Word};
use super::{Entry, Found, Name, Registry};
use crate::handle::SegmentHandle;
use shm_core::participants::ParticipantId;
use shm_core::sync::Ordering;

/// How often others may be in our way within one [`step`](Registry::step): each time is one of
/// theirs that got further, or one of the dead.
const ROUNDS_MAX: u32 = 1 << 12;

/// What [`Registry::step`] came to.
#[derive(Debug)]
pub enum Step {
    /// The name is there.
    Ready(Found),
    /// Somebody who lives is making it: wait, and step again.
    Busy(Found),
    /// It is the caller's to make.
    Mine(Claim),
    /// There is no such name, and no free row.
    Full,
    /// The rows never stay the same: somebody scribbles on them.
    Restless,
}

/// A name that is the caller's to initialise. Dropping it leaves the row to its owner's reaper:
/// [`publish`](Claim::publish) it or [give it up](Claim::give_up).
#[derive(Debug)]
#[must_use = "publish it or give it up"]
pub struct Claim {
    registry: Registry,
    index: usize,
    word: Word,
    me: ParticipantId,
}

/// How a look at all other rows ended.
enum Contest {
    Won(Word),
    Lost,
}

/// Who makes and clears rows: which participant, and what it knows and can do.
#[expect(missing_debug_implementations, reason = "it is two closures")]
pub struct Hand<'a> {
    /// In whose name.
    pub me: ParticipantId,
    /// Whether that one is certainly dead.
    pub is_dead: &'a dyn Fn(ParticipantId) -> bool,
    /// Takes the pin of a segment away to which no name leads any more. It may be called again, or
    /// for a segment that was not pinned yet, or is gone.
    pub unpin: &'a dyn Fn(SegmentHandle),
}

impl Registry {
    /// Finds the name, or has it to make. Waits for nobody.
    ///
    /// # If a process dies here
    /// A row names it that nobody finds, or that all who want the name find: they, or its reaper,
    /// clear it.
    pub fn step(&self, hand: &Hand<'_>, wanted: &Entry) -> Step {
        for _ in 0..ROUNDS_MAX {
            match self.look(&wanted.name) {
                Some(found) if found.is_ready() => return Step::Ready(found),
                Some(found) if self.is_left(hand, found.word) => {
                    self.clear(hand, found.index, found.word);
                }
                Some(found) => return Step::Busy(found),
                None => {
                    let Some((index, word)) = self.claim(hand, wanted) else { return Step::Full };
                    if let Contest::Won(word) = self.contest(hand, index, word, &wanted.name) {
                        let registry = self.clone();
                        return Step::Mine(Claim { registry, index, word, me: hand.me });
                    }
                }
            }
        }
        Step::Restless
    }

    /// Whether nobody is at the row: its owner is dead, or there is none where there should be one.
    fn is_left(&self, hand: &Hand<'_>, word: Word) -> bool {
        word.owner().is_none_or(|owner| owner != hand.me && (hand.is_dead)(owner))
    }

    /// A free row, with the name in it, shown to all.
    fn claim(&self, hand: &Hand<'_>, wanted: &Entry) -> Option<(usize, Word)> {
        let (index, word) = self.rows_for(&wanted.name).find_map(|index| {
            let (row, word) = (&self.rows[index], self.rows[index].seen());
            let claimed = word.owned(State::Claimed, hand.me);
            let free = word.state() == State::Free;
            (free && row.change(word, claimed)).then_some((index, claimed))
        })?;
        let row = &self.rows[index];
        put(&row.handle, 0);
        put(&row.size, wanted.size);
        put(&row.fingerprint, wanted.fingerprint);
        put(&row.kind, wanted.kind.to_word());
        row.set_name(&wanted.name);
        let shown = word.owned(State::Shown, hand.me);
        // It fails only where somebody has overwritten our claim: then the contest is lost.
        row.change(word, shown);
        Some((index, shown))
    }

    /// Looks whether any other row has the name: see the [module](super).
    fn contest(&self, hand: &Hand<'_>, mine: usize, shown: Word, name: &Name) -> Contest {
        self.head.take_turn();
        let lost = (0..self.rows.len()).filter(|index| *index != mine).any(|index| {
            let row = &self.rows[index];
            let word = row.seen();
            if !word.is_shown() || !row.has(name) {
                return false;
            }
            let is_behind = index > mine && word.state() == State::Shown;
            let hide = |owner| row.change(word, word.owned(State::Claimed, owner));
            let is_hidden = is_behind && word.owner().is_some_and(hide);
            if is_hidden {
                // Who waits for it has somebody else to wait for.
                row.event.notify();
            }
            !is_hidden
        });
        let row = &self.rows[mine];
        let initialising = shown.owned(State::Initialising, hand.me);
        if !lost && row.change(shown, initialising) {
            return Contest::Won(initialising);
        }
        // It is ours in one of these two, or somebody has overwritten it.
        for held in [shown, shown.owned(State::Claimed, hand.me)] {
            if row.change(held, held.freed()) {
                row.event.notify();
                break;
            }
        }
        Contest::Lost
    }

    /// Clears a row of which the caller knows that nobody is at it: in its own name.
    fn clear(&self, hand: &Hand<'_>, index: usize, word: Word) {
        let row = &self.rows[index];
        if matches!(word.state(), State::Claimed | State::Shown) {
            if row.change(word, word.freed()) {
                row.event.notify();
            }
            return;
        }
        let mine = word.owned(State::Clearing, hand.me);
        if word == mine || row.change(word, mine) {
            empty(row, mine, hand.unpin);
        }
    }

    /// Takes the name away, if it is ready: it can be used again at once. Its segment goes when its
    /// last user does. `false` where there is no such name, or where it is not ready.
    ///
    /// # If a process dies here
    /// The name is gone or it is not; its reaper takes the segment's pin away.
    pub fn remove(&self, hand: &Hand<'_>, name: &Name) -> bool {
        let found = self.look(name).filter(Found::is_ready);
        found.is_some_and(|found| self.remove_found(hand, &found))
    }

    /// As [`remove`](Registry::remove), of exactly what was found.
    pub(crate) fn remove_found(&self, hand: &Hand<'_>, found: &Found) -> bool {
        let row = &self.rows[found.index];
        let mine = found.word.owned(State::Clearing, hand.me);
        let removed = row.change(found.word, mine);
        if removed {
            empty(row, mine, hand.unpin);
        }
        removed
    }

    /// Clears all rows of a participant in whose name the caller acts alone: the reaper of a dead
    /// one, or one who leaves. To be called before its attachments are ended.
    ///
    /// # If a process dies here
    /// The next reaper begins anew.
    pub fn reap(&self, dead: ParticipantId, unpin: &dyn Fn(SegmentHandle)) {
        let hand = Hand { me: dead, is_dead: &|_| false, unpin };
        for (index, row) in self.rows.iter().enumerate() {
            let word = row.seen();
            let is_its = word.owner() == Some(dead) && word.state() != State::Ready;
            if is_its && !matches!(word.state(), State::Free | State::Nonsense) {
                self.clear(&hand, index, word);
            }
        }
    }
}

/// The row, which `mine` says is the caller's to clear, without its segment, and free.
fn empty(row: &Row, mine: Word, unpin: &dyn Fn(SegmentHandle)) {
    // It is ours: no order is needed.
    if let Some(handle) = SegmentHandle::from_bits(row.handle.load(Ordering::Relaxed)) {
        unpin(handle);
        put(&row.handle, 0);
    }
    // It fails only where somebody has overwritten it.
    row.change(mine, mine.freed());
    row.event.notify();
}

impl Claim {
    /// Says which segment it will be. To be called before the segment is pinned, so that whoever
    /// clears the row unpins it.
    ///
    /// # If a process dies here
    /// Who clears the row takes the pin away.
    pub fn set_segment(&self, handle: SegmentHandle) {
        put(&self.registry.rows[self.index].handle, handle.to_bits());
    }

    /// Says that it is made. `false` where somebody has overwritten the row: it has no name then.
    ///
    /// # If a process dies here
    /// It is made or it is not; then who clears the row takes the pin away.
    pub fn publish(self) -> bool {
        let row = &self.registry.rows[self.index];
        let published = row.change(self.word, self.word.ready());
        row.event.notify();
        published
    }

    /// Gives the name back: the next to want it makes it.
    ///
    /// # If a process dies here
    /// As in [`step`](Registry::step).
    pub fn give_up(self, unpin: &dyn Fn(SegmentHandle)) {
        let hand = Hand { me: self.me, is_dead: &|_| false, unpin };
        self.registry.clear(&hand, self.index, self.word);
    }
}
