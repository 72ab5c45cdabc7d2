//! A small ring with switchable bugs: what each checker must find, or it proves nothing.
//!
//! Many producers, one consumer at a time (a dead one has a successor). A position is handed out by
//! one compare-and-swap on its slot, which names the producer; `tail` follows and may be moved on
//! by anyone. So with [`Bug::None`] a process may die at any access:
//!
//! | dies after | leaves | repaired by |
//! | --- | --- | --- |
//! | the claim | CLAIMED(dead) | [`Ring::reap`] makes it a TOMB, which the consumer steps over |
//! | READY, before the wake-up | a message, and perhaps a sleeper | the wake-up of `reap` |
//! | (consumer) FREE, before `head` moved | a `head` that is behind | the next `pop` moves it |
//!
//! A consumer that dies inside `pop` may take the message with it; nothing else is ever lost.
#![allow(dead_code)] // each checker uses its part

use shm_core::bytes::Word;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{BadPtr, shm_sync};
use std::sync::Arc;
use std::time::Instant;

/// What is wrong with a ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    None,
    /// The position is taken first, and its owner named one step later.
    AnonymousClaim,
    /// READY is stored without Release.
    PublishRelaxed,
    /// The consumer moves `head` before it has freed the slot: dying in between, it leaks it.
    HeadBeforeFree,
    /// `tail` is helped past slots that are taken, but not past those freed again meanwhile.
    TailNotHelped,
    /// Who cleans up after a dead producer does not wake the consumer in its place.
    WakeForgotten,
    /// The consumer believes the index of the payload that it reads in the slot.
    BoundsSkipped,
}

/// Rounds of a loop that another process's step makes us repeat.
const ROUNDS_MAX: u32 = if cfg!(shm_loom) { 16 } else { 200 };

const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const READY: u64 = 2;
const TOMB: u64 = 3;
const OWNER_SHIFT: u32 = 2;
const POSITION_SHIFT: u32 = 34;

/// position 30 bits | owner 32 | what it is 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State(u64);

impl State {
    fn new(position: u64, owner: u32, tag: u64) -> State {
        State(position << POSITION_SHIFT | u64::from(owner) << OWNER_SHIFT | tag)
    }
    fn position(self) -> u64 {
        self.0 >> POSITION_SHIFT
    }
    fn owner(self) -> u32 {
        (self.0 >> OWNER_SHIFT) as u32
    }
    fn tag(self) -> u64 {
        self.0 & 3
    }
}

/// | word | written by | ordered by |
/// | --- | --- | --- |
/// | `head` | the consumer | nothing: it has it for itself |
/// | `tail` | any producer: a hint | nothing: slots tell the truth |
#[repr(C)]
struct Head {
    head: AtomicU64,
    tail: AtomicU64,
    arrived: EventCount,
    reserved: AtomicU32,
}

shm_sync!(Head { head, tail, arrived, reserved });

/// | word | written by | ordered by |
/// | --- | --- | --- |
/// | `state` | free → claimed → ready: a producer; → tomb: a reaper; → free: the consumer | itself |
/// | `place` | the producer that has the slot | `state` |
#[repr(C)]
struct Slot {
    state: AtomicU64,
    place: AtomicU64,
}

shm_sync!(Slot { state, place });

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushError {
    Full,
    /// Somebody took our slot, as if we were dead.
    Fenced,
    /// Others made us begin anew too often.
    Stuck,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pop {
    Got(u64),
    Empty,
    /// The next one is not ready, and this is whose it is.
    Pending {
        position: u64,
        owner: u32,
    },
    /// A slot holds nonsense.
    Corrupt,
}

#[derive(Clone)]
pub(crate) struct Ring {
    head: Mapped<Head>,
    slots: MappedSlice<Slot>,
    payload: MappedSlice<Word>,
    bug: Bug,
}

/// Where the slots begin, and the payload behind them.
fn offsets(capacity: u64) -> (u64, u64) {
    let slots = (size_of::<Head>() as u64).next_multiple_of(64);
    (slots, (slots + capacity * size_of::<Slot>() as u64).next_multiple_of(64))
}

impl Ring {
    pub(crate) fn bytes_for(capacity: u64) -> u64 {
        offsets(capacity).1 + capacity * size_of::<Word>() as u64
    }

    /// Makes a ring at the beginning of `mapping`, which nobody else has yet.
    pub(crate) fn create(mapping: &Arc<Mapping>, capacity: u64, bug: Bug) -> Ring {
        Ring::create_at(mapping, 0, capacity, bug)
    }

    /// Makes a ring at `at`, a multiple of 64, of bytes which nobody else has yet.
    pub(crate) fn create_at(mapping: &Arc<Mapping>, at: u64, capacity: u64, bug: Bug) -> Ring {
        let (slots, payload) = offsets(capacity);
        let zero = || AtomicU64::new(0);
        let (arrived, reserved) = (EventCount::new(), AtomicU32::new(0));
        let head = Head { head: zero(), tail: zero(), arrived, reserved };
        // SAFETY: nobody else has these bytes.
        unsafe { Mapped::place(mapping, at, head) }.unwrap();
        for i in 0..capacity {
            let free = AtomicU64::new(State::new(i, 0, FREE).0);
            let slot = Slot { state: free, place: zero() };
            // SAFETY: as above.
            unsafe { Mapped::place(mapping, at + slots + i * size_of::<Slot>() as u64, slot) }
                .unwrap();
            let to = at + payload + i * size_of::<Word>() as u64;
            // SAFETY: as above.
            unsafe { Mapped::place(mapping, to, Word::new()) }.unwrap();
        }
        Ring::attach_at(mapping, at, capacity, bug).unwrap()
    }

    pub(crate) fn attach_at(
        mapping: &Arc<Mapping>,
        at: u64,
        capacity: u64,
        bug: Bug,
    ) -> Result<Ring, BadPtr> {
        let (slots, payload) = offsets(capacity);
        Ok(Ring {
            head: Mapped::new(mapping, at)?,
            slots: MappedSlice::new(mapping, at + slots, capacity)?,
            payload: MappedSlice::new(mapping, at + payload, capacity)?,
            bug,
        })
    }

    fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    fn slot(&self, position: u64) -> &Slot {
        &self.slots[(position % self.capacity()) as usize]
    }

    /// Sends `value` as producer `me`, a number that is nobody else's.
    #[track_caller]
    pub(crate) fn push(&self, me: u32, value: u64) -> Result<(), PushError> {
        for _ in 0..ROUNDS_MAX {
            let position = self.head.tail.load(Ordering::Relaxed);
            let slot = self.slot(position);
            let state = State(slot.state.load(Ordering::Relaxed));
            if state == State::new(position, 0, FREE) {
                if self.claim(position, me) {
                    return self.publish(position, me, value);
                }
            } else if state.position() == position
                || (state.position() > position && self.bug != Bug::TailNotHelped)
            {
                // Its claimant has not come to it yet.
                self.move_tail(position);
            } else if state.position() < position
                && self.head.tail.load(Ordering::Relaxed) == position
            {
                return Err(PushError::Full);
            }
        }
        Err(PushError::Stuck)
    }

    fn claim(&self, position: u64, me: u32) -> bool {
        let (free, mine) = (State::new(position, 0, FREE), State::new(position, me, CLAIMED));
        if self.bug == Bug::AnonymousClaim {
            let taken = self.move_tail(position);
            if taken {
                self.slot(position).state.store(mine.0, Ordering::Relaxed);
            }
            return taken;
        }
        let state = &self.slot(position).state;
        // Pairs with the Release in `free`: the consumer's last look at the payload.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let claimed = state.compare_exchange(free.0, mine.0, ok, err).is_ok();
        if claimed {
            self.move_tail(position);
        }
        claimed
    }

    fn move_tail(&self, position: u64) -> bool {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        self.head.tail.compare_exchange(position, position + 1, ok, err).is_ok()
    }

    fn publish(&self, position: u64, me: u32, value: u64) -> Result<(), PushError> {
        let (index, slot) = (position % self.capacity(), self.slot(position));
        // SAFETY: the claim gives us the payload of this slot.
        unsafe { self.payload[index as usize].set(value) };
        slot.place.store(index, Ordering::Relaxed);
        let (mine, ready) = (State::new(position, me, CLAIMED), State::new(position, me, READY));
        // Pairs with the Acquire in `pop`: payload and place.
        let release =
            if self.bug == Bug::PublishRelaxed { Ordering::Relaxed } else { Ordering::Release };
        let published = slot.state.compare_exchange(mine.0, ready.0, release, Ordering::Relaxed);
        self.head.arrived.notify();
        published.map(drop).map_err(|_| PushError::Fenced)
    }

    /// Takes the next message: for one consumer at a time.
    pub(crate) fn pop(&self) -> Pop {
        for _ in 0..ROUNDS_MAX {
            let position = self.head.head.load(Ordering::Relaxed);
            let slot = self.slot(position);
            // Pairs with the Release in `publish` and in `reap`.
            let state = State(slot.state.load(Ordering::Acquire));
            if state.position() > position && self.bug != Bug::HeadBeforeFree {
                // Our predecessor died after it had freed the slot.
                self.head.head.store(position + 1, Ordering::Relaxed);
                continue;
            }
            if state.position() != position || state.tag() == FREE {
                return Pop::Empty;
            }
            match state.tag() {
                CLAIMED => return Pop::Pending { position, owner: state.owner() },
                TOMB => self.free(position),
                _ => return self.take(position),
            }
        }
        Pop::Corrupt
    }

    fn take(&self, position: u64) -> Pop {
        let index = self.slot(position).place.load(Ordering::Relaxed) as usize;
        let word = if self.bug == Bug::BoundsSkipped {
            // SAFETY: none, which is the bug.
            unsafe { &*self.payload.as_ptr().wrapping_add(index) }
        } else {
            match self.payload.get(index) {
                Some(word) => word,
                None => return Pop::Corrupt,
            }
        };
        // SAFETY: a READY slot's payload is the consumer's.
        let value = unsafe { word.get() };
        self.free(position);
        Pop::Got(value)
    }

    fn free(&self, position: u64) {
        let free = State::new(position + self.capacity(), 0, FREE);
        if self.bug == Bug::HeadBeforeFree {
            self.head.head.store(position + 1, Ordering::Relaxed);
        }
        // Pairs with the Acquire in `claim`: our last look at the payload.
        self.slot(position).state.store(free.0, Ordering::Release);
        if self.bug != Bug::HeadBeforeFree {
            self.head.head.store(position + 1, Ordering::Relaxed);
        }
    }

    /// Takes the next message, and sleeps until there is one: until its producer wakes us, or who
    /// reaps it. Returns what `pop` does, and `Empty` only once the deadline has passed.
    pub(crate) fn pop_waiting(&self, deadline: Option<Instant>) -> Pop {
        loop {
            let ticket = self.head.arrived.prepare();
            match self.pop() {
                Pop::Empty => {}
                other => return other,
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Pop::Empty;
            }
            self.head.arrived.wait(ticket, deadline);
        }
    }

    /// What a consumer sleeps on that has more to wait for than messages.
    pub(crate) fn arrived(&self) -> &EventCount {
        &self.head.arrived
    }

    /// Where slot `index` says that its payload is: what a liar overwrites.
    pub(crate) fn place_word(&self, index: usize) -> &AtomicU64 {
        &self.slots[index].place
    }

    /// Cleans up after producer `dead`: its unfinished slot becomes a tomb, and who sleeps is woken
    /// in its place. The death has to be certain.
    pub(crate) fn reap(&self, dead: u32) {
        for slot in self.slots.iter() {
            let state = State(slot.state.load(Ordering::Relaxed));
            if state.tag() == CLAIMED && state.owner() == dead {
                let tomb = State::new(state.position(), dead, TOMB);
                // Pairs with the Acquire in `pop`: what the dead one wrote, which we see because it
                // is dead, comes before whatever the slot is used for next.
                let (ok, err) = (Ordering::Release, Ordering::Relaxed);
                let _ = slot.state.compare_exchange(state.0, tomb.0, ok, err);
            }
        }
        if self.bug != Bug::WakeForgotten {
            self.head.arrived.notify();
        }
    }
}
