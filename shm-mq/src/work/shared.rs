//! The words of a job queue that lie in shared memory. The slots follow, each before its bytes.
use shm_core::event::EventCount;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// "shmwork" and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shmwork\x02");

/// The head of a queue.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` … `lease` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `tail` | who has taken a slot: only upwards | producers, workers | Release / Acquire on itself: the state of the slots before it | too low: a producer then brings `head` back to its place |
/// | `head` | see [`Front`] | workers | itself: no job stands before it, but those whose owner is not done with bringing it back | too low |
/// | `arrived` | sleeping workers, who makes a job ready | | its own fences | |
/// | `left` | sleeping producers, who frees a slot | | its own fences | |
///
/// Who sleeps stands beside what those write who look for sleepers: producers `tail`, workers
/// `head`.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) slots: AtomicU64,
    pub(super) job_bytes: AtomicU64,
    pub(super) attempts_max: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pub(super) lease: AtomicU64,
    pad_0: Reserved<10>,
    pub(super) tail: AtomicU64,
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pad_2: Reserved<14>,
    pub(super) head: AtomicU64,
    pub(super) left: EventCount,
    pad_3: AtomicU32,
    pad_4: Reserved<14>,
}

/// One job, or the place of one. Its bytes follow in the same cache line, and in those behind it.
///
/// | word | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | see [`State`]: by one compare-and-swap, or by the owner it names | all | Release / Acquire on itself: the job's bytes and the other words |
/// | `len` | the producer that owns it | who owns it later | `state` |
/// | `due` | the producer that owns it; who gives it back; of a lease, whoever finds none | who looks for a job, reapers | itself: see [`Due`] |
/// | `at` | the producer that owns it | who looks for a job | `state`: the position at which it was taken; or itself: that it is being written |
#[derive(Debug)]
#[repr(C, align(32))]
pub(super) struct Slot {
    pub(super) state: AtomicU64,
    pub(super) len: AtomicU64,
    pub(super) due: AtomicU64,
    pub(super) at: AtomicU64,
}

shm_sync!(Shared {
    magic,
    slots,
    job_bytes,
    attempts_max,
    fingerprint,
    lease,
    pad_0,
    tail,
    arrived,
    pad_1,
    pad_2,
    head,
    left,
    pad_3,
    pad_4,
});
shm_sync!(Slot { state, len, due, at });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 384 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, tail) == 128 && offset_of!(Shared, head) == 256);
    assert!(size_of::<Slot>() == 32 && align_of::<Slot>() == 32);
};

impl Shared {
    #[inline(always)]
    pub(super) fn new(config: &super::WorkConfig) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            slots: AtomicU64::new(config.slots.into()),
            job_bytes: AtomicU64::new(config.job_bytes),
            attempts_max: AtomicU64::new(config.attempts_max.into()),
            fingerprint: AtomicU64::new(config.fingerprint),
            lease: AtomicU64::new(config.lease_ms),
            pad_0: Reserved::new(),
            tail: AtomicU64::new(0),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            pad_2: Reserved::new(),
            head: AtomicU64::new(0),
            left: EventCount::new(),
            pad_3: AtomicU32::new(0),
            pad_4: Reserved::new(),
        }
    }
}

impl Slot {
    #[inline(always)]
    pub(super) fn new() -> Slot {
        Slot {
            state: AtomicU64::new(State::FREE.bits()),
            len: AtomicU64::new(0),
            due: AtomicU64::new(0),
            // No position yet.
            at: AtomicU64::new(u64::MAX),
        }
    }
}

/// What stands in [`Slot::state`]: kind 3 bits | attempts 8 | step 21 | participant 32.
///
/// The step counts the jobs that were ready here, so that a job which comes back is not mistaken
/// for the one that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u64);

/// The kinds of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Free,
    /// A producer has it.
    Writing,
    /// Waits for a worker.
    Ready,
    /// A worker has it.
    Doing,
    /// It was tried too often.
    Dead,
}

const OWNER_BITS: u32 = 32;
const STEP_BITS: u32 = 21;
const STEP_MASK: u64 = (1 << STEP_BITS) - 1;
const ATTEMPT_SHIFT: u32 = OWNER_BITS + STEP_BITS;
const ATTEMPT_MASK: u64 = 0xff;
const KIND_SHIFT: u32 = ATTEMPT_SHIFT + 8;

impl State {
    pub(super) const FREE: State = State(0);

    #[inline(always)]
    fn new(kind: u64, attempts: u64, step: u64, owner: u64) -> State {
        State(
            kind << KIND_SHIFT
                | (attempts & ATTEMPT_MASK) << ATTEMPT_SHIFT
                | (step & STEP_MASK) << OWNER_BITS
                | owner,
        )
    }

    #[inline(always)]
    pub(super) const fn from_bits(bits: u64) -> State {
        State(bits)
    }

    #[inline(always)]
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// `None` where it is nonsense.
    #[inline(always)]
    pub(super) fn kind(self) -> Option<Kind> {
        Some(match self.0 >> KIND_SHIFT {
            0 => Kind::Free,
            1 => Kind::Writing,
            2 => Kind::Ready,
            3 => Kind::Doing,
            4 => Kind::Dead,
            _ => return None,
        })
    }

    #[inline(always)]
    pub(super) fn is(self, kind: Kind) -> bool {
        self.kind() == Some(kind)
    }

    #[inline(always)]
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.0 as u32)
    }

    #[inline(always)]
    pub(super) fn step(self) -> u64 {
        self.0 >> OWNER_BITS & STEP_MASK
    }

    /// How often it was given to a worker that did not say that it is done.
    #[inline(always)]
    pub(super) fn attempts(self) -> u64 {
        self.0 >> ATTEMPT_SHIFT & ATTEMPT_MASK
    }

    /// Free, for the next job.
    #[inline(always)]
    pub(super) fn freed(self) -> State {
        State::new(0, 0, self.step().wrapping_add(1), 0)
    }

    #[inline(always)]
    pub(super) fn written_by(self, me: ParticipantId) -> State {
        State::new(1, 0, self.step(), me.to_bits().into())
    }

    #[inline(always)]
    pub(super) fn ready(self) -> State {
        State::new(2, self.attempts(), self.step(), 0)
    }

    #[inline(always)]
    pub(super) fn done_by(self, me: ParticipantId) -> State {
        State::new(3, self.attempts(), self.step(), me.to_bits().into())
    }

    /// Ready once more, after one attempt more.
    pub(super) fn again(self) -> State {
        State::new(2, (self.attempts() + 1).min(ATTEMPT_MASK), self.step() + 1, 0)
    }

    /// Ready, as if it had never been tried.
    pub(super) fn anew(self) -> State {
        State::new(2, 0, self.step().wrapping_add(1), 0)
    }

    /// Not to be tried any more.
    pub(super) fn dead(self) -> State {
        State::new(4, (self.attempts() + 1).min(ATTEMPT_MASK), self.step() + 1, 0)
    }
}

/// What stands in [`Slot::due`]: last bits of the state's step 21 | being done 1 | milliseconds of
/// the monotonic clock 42. It counts only beside a state of that step, and that kind: a ready job
/// is given out to nobody before, and one that is being done comes back then, if the queue has
/// leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due(u64);

impl Due {
    const MS_BITS: u32 = 64 - STEP_BITS - 1;

    fn tag(state: State) -> u64 {
        state.step() << 1 | u64::from(state.is(Kind::Doing))
    }

    pub(super) fn new(state: State, ms: u64) -> Due {
        let most = (1 << Due::MS_BITS) - 1;
        Due(Due::tag(state) << Due::MS_BITS | ms.min(most))
    }

    pub(super) const fn from_bits(bits: u64) -> Due {
        Due(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// The time, if it is one of this state.
    #[inline(always)]
    pub(super) fn of(self, state: State) -> Option<u64> {
        let is_its = self.0 >> Due::MS_BITS == Due::tag(state);
        is_its.then_some(self.0 & ((1 << Due::MS_BITS) - 1))
    }
}

/// What stands in [`Shared::head`]: position 48 bits | times that somebody brought a job back 16.
///
/// Workers let it pass slots that have no job and will not have the one that they look at; who
/// brings a job back, or comes late with one, moves it down again, and counts: so nobody who looked
/// before lets it pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Front(u64);

impl Front {
    const BACK_BITS: u32 = 16;

    #[inline(always)]
    pub(super) const fn from_bits(bits: u64) -> Front {
        Front(bits)
    }

    #[inline(always)]
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(super) const fn position(self) -> u64 {
        self.0 >> Front::BACK_BITS
    }

    #[inline(always)]
    pub(super) const fn times_back(self) -> u64 {
        self.0 & ((1 << Front::BACK_BITS) - 1)
    }

    /// Further on.
    #[inline(always)]
    pub(super) const fn at(self, position: u64) -> Front {
        Front(position << Front::BACK_BITS | self.times_back())
    }

    /// Back at `position`, or before.
    pub(super) fn back_at(self, position: u64) -> Front {
        let back = self.0.wrapping_add(1) & ((1 << Front::BACK_BITS) - 1);
        Front(self.position().min(position) << Front::BACK_BITS | back)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_state_goes_around() {
        let me = ParticipantId::from_bits(7).unwrap();
        let writing = State::FREE.written_by(me);
        assert!(writing.is(Kind::Writing) && writing.owner() == Some(me));
        let ready = writing.ready();
        assert!(ready.is(Kind::Ready) && ready.owner().is_none());
        let doing = ready.done_by(me);
        assert!(doing.is(Kind::Doing) && doing.owner() == Some(me));
        let again = doing.again();
        assert!(again.is(Kind::Ready) && again.attempts() == 1 && again.step() == 1);
        assert!(again.done_by(me).dead().is(Kind::Dead));
        assert_eq!(again.done_by(me).freed().step(), 2);
        assert_eq!(State::from_bits(u64::MAX).kind(), None);
        assert_eq!(State::from_bits(u64::MAX).freed().step(), 0, "it begins anew");
    }

    #[test]
    fn a_time_counts_for_its_state_only() {
        let me = ParticipantId::from_bits(7).unwrap();
        let ready = State::FREE.written_by(me).ready();
        let doing = ready.done_by(me);
        let due = Due::new(doing, 1000);
        assert_eq!([due.of(doing), due.of(ready), due.of(doing.again())], [Some(1000), None, None]);
        assert_eq!(Due::new(ready, u64::MAX).of(ready), Some((1 << 42) - 1));
    }

    #[test]
    fn the_front_comes_back() {
        let front = Front::from_bits(0).at(100);
        assert_eq!((front.position(), front.back_at(7).position()), (100, 7));
        assert_eq!(front.back_at(200).position(), 100);
        assert_ne!(front.back_at(200), front, "whoever looked before will see");
        assert_eq!(Front::from_bits(0xffff).back_at(0), Front::from_bits(0));
    }
}
