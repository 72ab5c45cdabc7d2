//! The words of a hash table in shared memory.
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"shmkhash");

/// The head of a hash; its rows follow, and after each row its retired blocks, one word each.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic` … `retired` | the creator, before the place is published | who attaches, once | the publication |
/// | `root` | whoever lets the root swing, whoever calls that done | all | a [`Word`](super::word::Word); Release / Acquire on itself: the table's head |
#[derive(Debug)]
#[repr(C)]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) layout: AtomicU64,
    pub(super) seed: AtomicU64,
    pub(super) key_bytes: AtomicU64,
    pub(super) value_bytes: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) retired: AtomicU64,
    pub(super) root: AtomicU64,
}

/// What a thread is doing, and what it has to give back.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `claim` | who takes the row, where it is 0; who cleans up after a dead one; who leaves | who looks for a row; the reaper | Release / Acquire on itself: the rest of the row |
/// | `entry`, `table` | see [`Descriptor`] | | |
/// | `out` | the owner: the block that it is giving back | the reaper | `claim` |
/// | `hint` | the owner: where it found room for a retired word | the same | nothing: never believed |
///
/// The owner is the participant whom `claim` names, or who cleans up after it, in its name. Retired
/// words are the owner's alone.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Row {
    pub(super) claim: AtomicU64,
    pub(super) out: AtomicU64,
    pub(super) entry: Descriptor,
    pub(super) table: Descriptor,
    pub(super) hint: AtomicU64,
    reserved: Reserved<1>,
}

/// One step of its owner: a word changes, a fresh block becomes reachable, an old one is not any
/// more.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `state` | the owner; who helps (under way → done) | all who meet its mark; the reaper | Release / Acquire on itself: the others |
/// | `fresh` | the owner: a block that is its own | the reaper | the row's `claim` |
/// | `last` | the owner, before the state says under way | who meets its mark | `state`, read before and after |
/// | `old`, `at_block`, `at_index` | the owner, before the state says under way | the reaper | the row's `claim` |
#[derive(Debug)]
#[repr(C)]
pub(super) struct Descriptor {
    pub(super) state: AtomicU64,
    pub(super) fresh: AtomicU64,
    pub(super) last: AtomicU64,
    pub(super) old: AtomicU64,
    pub(super) at_block: AtomicU64,
    pub(super) at_index: AtomicU64,
}

/// The head of a table; its directory (a word a piece) follows, and then one bit for each
/// [chunk](super::table::CHUNK_LINES) that has been moved to the next table.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `shape` | its maker, before it is published | all | the word that led there |
/// | `next` | who begins a migration; who calls that done | all | Release / Acquire on itself: the next table's head |
/// | `cursor` | who is about to move a chunk | the same | nothing: a hint |
/// | `swept` | who has seen all bits before it set | the same | Release / Acquire on itself: those bits |
#[derive(Debug)]
#[repr(C)]
pub(super) struct TableHead {
    pub(super) shape: AtomicU64,
    pub(super) next: AtomicU64,
    pub(super) cursor: AtomicU64,
    pub(super) swept: AtomicU64,
    reserved: Reserved<4>,
}

shm_sync!(Head { magic, layout, seed, key_bytes, value_bytes, rows, retired, root });
shm_sync!(Descriptor { state, fresh, last, old, at_block, at_index });
shm_sync!(Row { claim, out, entry, table, hint, reserved });
shm_sync!(TableHead { shape, next, cursor, swept, reserved });

/// Words that each takes.
pub(super) const HEAD_WORDS: u64 = 8;
pub(super) const ROW_WORDS: u64 = 16;
pub(super) const TABLE_WORDS: u64 = 8;

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Head>() as u64 == 8 * HEAD_WORDS && offset_of!(Head, root) == 56);
    assert!(size_of::<Row>() as u64 == 8 * ROW_WORDS && offset_of!(Row, table) == 64);
    assert!(size_of::<Descriptor>() == 48 && offset_of!(Descriptor, last) == 16);
    assert!(size_of::<TableHead>() as u64 == 8 * TABLE_WORDS);
    assert!(offset_of!(TableHead, next) == 8);
};

/// Tells this layout from others.
pub(super) const LAYOUT: u64 = shm_core::layout::combine(&[
    shm_core::fingerprint!(Head {
        magic: AtomicU64,
        layout: AtomicU64,
        seed: AtomicU64,
        key_bytes: AtomicU64,
        value_bytes: AtomicU64,
        rows: AtomicU64,
        retired: AtomicU64,
        root: AtomicU64,
    }),
    shm_core::fingerprint!(Row {
        claim: AtomicU64,
        out: AtomicU64,
        entry: Descriptor,
        table: Descriptor,
        hint: AtomicU64,
        reserved: Reserved<1>,
    }),
    shm_core::fingerprint!(Descriptor {
        state: AtomicU64,
        fresh: AtomicU64,
        last: AtomicU64,
        old: AtomicU64,
        at_block: AtomicU64,
        at_index: AtomicU64,
    }),
    shm_core::fingerprint!(TableHead {
        shape: AtomicU64,
        next: AtomicU64,
        cursor: AtomicU64,
        swept: AtomicU64,
        reserved: Reserved<4>,
    }),
]);

/// What stands in [`Descriptor::state`]: number of the step 62 bits | status 2 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(pub(super) u64);

impl State {
    const STATUS: u64 = 3;
    const UNDER_WAY: u64 = 1;
    const DONE: u64 = 2;

    pub(super) fn of(descriptor: &Descriptor, order: Ordering) -> State {
        State(descriptor.state.load(order))
    }

    /// The step has begun.
    pub(super) fn under_way(self) -> State {
        State(self.0 & !State::STATUS | State::UNDER_WAY)
    }

    pub(super) fn done(self) -> State {
        State(self.0 & !State::STATUS | State::DONE)
    }

    /// No step is under way; the next one will have another number.
    pub(super) fn idle(self) -> State {
        State((self.0 | State::STATUS).wrapping_add(1))
    }

    pub(super) fn is_under_way(self) -> bool {
        self.0 & State::STATUS == State::UNDER_WAY
    }

    pub(super) fn is_done(self) -> bool {
        self.0 & State::STATUS == State::DONE
    }

    pub(super) fn is_same_step(self, other: State) -> bool {
        self.0 | State::STATUS == other.0 | State::STATUS
    }
}
