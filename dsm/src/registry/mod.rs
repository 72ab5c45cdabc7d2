//! Names: a library finds its segment by a name that it knows, and makes it if it is not there.
//!
//! The registry is an array of rows in the control segment. A row has a name and what is found by
//! it. Looking a name up changes nothing, and waits for nobody; the initialiser of what is not
//! there yet is one process in the whole domain.
//!
//! ```text
//!  free --claim--> claimed --write the name, show it--> shown --no other has it--> initialising
//!   ^                 |                                   |                          |       |
//!   +---- give up ----+<--------- somebody else has it ---+                        fails   ready
//!   |                                                                                |       |
//!   +--------------- unpin, forget ------------------- clearing <--------------------+-remove+
//! ```
//!
//! # One row a name
//!
//! Rows have no order by which two who want a new name would meet. So each of them claims a free
//! row, writes the name, *shows* the row, and then looks at all others:
//!
//! 1. Another row of this name is ready or being initialised: the caller gives its own up.
//! 2. One further in front is shown: the same. That one's owner, or the next in front, will have
//!    the name.
//! 3. One further behind is shown: the caller hides it again, by a compare-and-swap. If it comes
//!    too late, that row is being initialised: see 1.
//!
//! Who has looked at all rows begins to initialise, if its own is still shown. Why there are never
//! two: between showing and looking each takes a turn at one word, and who has the later turn sees
//! what was shown before the earlier one. Say A has the later one and sees B's row, and B has not
//! seen A's. If B's is in front, A gives up. Otherwise A hides B's row, and then B's change to
//! initialising fails; or B's change comes first, A's hiding fails, and A gives up.
//!
//! # Deaths
//!
//! Every state but ready names its owner. Who comes upon a row of this name whose owner is dead
//! clears it and begins anew; the reaper of the table of participants clears all that the dead one
//! had. Nothing of a half initialised segment is used again: the next initialiser has a new one.
//!
//! | dead | it leaves | who clears it |
//! | --- | --- | --- |
//! | claiming, or showing | a row that nobody finds, or that all who want the name wait for | who wants the name, the reaper |
//! | initialising | the name, and a segment that nobody else is attached to, perhaps pinned | the same; the handle is in the row before the segment is pinned, and is unpinned first |
//! | removing, or clearing | a row that nobody finds, and perhaps a pinned segment | the reaper |
//!
//! A process that is stopped while it initialises keeps this one name: others wait for it for as
//! long as they like, and no longer.
//!
//! A pin says that a name leads to the segment; who takes it away by
//! [`Domain::unpin`](crate::Domain::unpin) leaves a name that leads nowhere once the segment has
//! gone, and the next to ask for the name makes it anew.
mod claim;
mod name;
mod shared;
mod word;

use crate::handle::SegmentHandle;
use shared::{Head, Row, get};
use shm_core::BadPtr;
use shm_core::event::Ticket;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{self, Outcome, ParticipantId, Watch};
use std::sync::Arc;
use std::time::Instant;
use word::{State, Word};

pub use claim::{Claim, Hand, Step};
pub use name::{NAME_BYTES_MAX, Name, NameError};
pub(crate) use shared::FINGERPRINT;

/// What a name leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// A segment, all of it the user's.
    Segment,
    /// An area: the registry makes none yet.
    Area,
    /// A hash table: the registry makes none yet.
    Hash,
    /// Of a later version, or nonsense.
    Unknown(u64),
}

impl Kind {
    pub(crate) fn to_word(self) -> u64 {
        match self {
            Kind::Segment => 1,
            Kind::Area => 2,
            Kind::Hash => 3,
            Kind::Unknown(kind) => kind,
        }
    }

    pub(crate) fn from_word(word: u64) -> Kind {
        match word {
            1 => Kind::Segment,
            2 => Kind::Area,
            3 => Kind::Hash,
            kind => Kind::Unknown(kind),
        }
    }
}

/// What somebody wants under a name, and what a row says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// The size that its maker asked for, in bytes.
    pub size: u64,
    /// Of the layout of what is in it, as its maker sees it.
    pub fingerprint: u64,
}

/// A row, as somebody saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub(crate) index: usize,
    pub(crate) word: Word,
    /// What its maker wanted.
    pub entry: Entry,
    /// The segment, once it is ready.
    pub handle: Option<SegmentHandle>,
}

impl Found {
    /// Whether it was initialised.
    pub fn is_ready(&self) -> bool {
        self.word.state() == State::Ready
    }

    /// Of several rows of one name: the one that will have it.
    fn comes_before(&self, other: &Found) -> bool {
        let rank = |found: &Found| {
            let is_shown = found.word.state() == State::Shown;
            (!found.is_ready(), is_shown, found.index)
        };
        rank(self) < rank(other)
    }

    /// Who is about to initialise it; nobody once it is ready.
    pub fn owner(&self) -> Option<ParticipantId> {
        self.word.owner()
    }
}

/// The rows, seen by one process. Clones are the same rows.
#[derive(Clone, Debug)]
pub struct Registry {
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
}

impl Registry {
    /// Bytes that so many rows take.
    pub const fn bytes_for(names: u32) -> u64 {
        size_of::<Head>() as u64 + names as u64 * size_of::<Row>() as u64
    }

    /// Makes `names` free rows at `offset` of `mapping`, a multiple of 64.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not fit or `offset` is not aligned.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    ///
    /// # If a process dies here
    /// The rows are not published, and are made again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        names: u32,
    ) -> Result<Registry, BadPtr> {
        // SAFETY: the caller's promise.
        unsafe { mapping.region().place(offset, Head::new()) }?;
        for index in 0..names {
            // SAFETY: the caller's promise.
            unsafe { mapping.region().place(offset + Registry::bytes_for(index), Row::new()) }?;
        }
        Registry::attach(mapping, offset, names)
    }

    /// The rows that somebody made, of the same number.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not fit or `offset` is not aligned.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64, names: u32) -> Result<Registry, BadPtr> {
        let rows = offset.saturating_add(Registry::bytes_for(0));
        Ok(Registry {
            head: Mapped::new(mapping, offset)?,
            rows: MappedSlice::new(mapping, rows, u64::from(names))?,
        })
    }

    /// How many names there can be.
    pub fn capacity(&self) -> u32 {
        self.rows.len() as u32
    }

    /// The row that is found by `name`: ready, or else being made. Changes nothing.
    pub fn look(&self, name: &Name) -> Option<Found> {
        let mut best: Option<Found> = None;
        for index in self.rows_for(name) {
            let row = &self.rows[index];
            let word = row.seen();
            if !word.is_shown() || !row.has(name) {
                continue;
            }
            let Some(found) = self.read(index, word) else { continue };
            if found.entry.name == *name
                && best.as_ref().is_none_or(|best| found.comes_before(best))
            {
                best = Some(found);
            }
            // Others of this name, if there are any, are about to give up.
            if found.is_ready() {
                break;
            }
        }
        best
    }

    /// All names: those that are ready, and those that are being made.
    pub fn entries(&self) -> Vec<Found> {
        let all = (0..self.rows.len()).filter_map(|index| {
            let word = self.rows[index].seen();
            word.is_shown().then(|| self.read(index, word)).flatten()
        });
        all.collect()
    }

    /// The row, if it is still that.
    fn read(&self, index: usize, word: Word) -> Option<Found> {
        let row = &self.rows[index];
        let entry = Entry {
            name: row.name()?,
            kind: Kind::from_word(get(&row.kind)),
            size: get(&row.size),
            fingerprint: get(&row.fingerprint),
        };
        let handle = SegmentHandle::from_bits(get(&row.handle));
        let handle = handle.filter(|_| word.state() == State::Ready);
        row.is_still(word).then_some(Found { index, word, entry, handle })
    }

    /// All rows, beginning with the one where the name would like to be.
    fn rows_for(&self, name: &Name) -> impl Iterator<Item = usize> + use<> {
        let count = self.rows.len();
        let home = (name.hash() % count.max(1) as u64) as usize;
        (home..count).chain(0..home)
    }

    /// Sleeps until `found`, which is being made, may be something else, the `owner` has died, or
    /// `deadline`. `owner` is `None` where that is the caller's own process.
    pub fn wait(&self, found: &Found, owner: Option<&Watch>, deadline: Option<Instant>) -> Outcome {
        let row = &self.rows[found.index];
        let ticket: Ticket = row.event.prepare();
        if !row.is_still(found.word) || owner.is_some_and(Watch::is_dead) {
            return Outcome::Woken;
        }
        let owner: Vec<&Watch> = owner.into_iter().collect();
        participants::wait(&row.event, ticket, &owner, deadline)
    }
}
