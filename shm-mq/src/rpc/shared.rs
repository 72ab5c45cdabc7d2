//! The words of a call table that lie in shared memory. Lanes, slots, and then the bytes of
//! requests and answers follow the head.
use super::RpcConfig;
use shm_core::event::EventCount;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

/// "shm-rpc" and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shm-rpc\x01");

/// There are at most so many servers at a time: a client that sleeps watches each of them.
pub const SERVERS_MAX: usize = match () {
    _ if cfg!(shm_loom) => 2,
    // A cache line.
    _ if cfg!(shm_explore) => 16,
    _ => 64,
};

/// The head of a table.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` … `fingerprint` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `turn` | clients, with each call: only upwards | servers | Release / Acquire on itself: what was asked before a call was begun | too low: a server looks again |
/// | `arrived` | sleeping servers, clients that ask | | its own fences | |
/// | `servers` | who comes, who leaves, who takes a dead one away: `ParticipantId` or 0 | clients | coming: the fences of the table of participants. Going: Release / Acquire on itself: what the one that is gone did last | an old one: it is watched for nothing; a new one, which rings the bells of all clients before it takes a call |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) clients: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) request_bytes: AtomicU64,
    pub(super) answer_bytes: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pad_0: Reserved<10>,
    pub(super) turn: AtomicU64,
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pad_2: Reserved<14>,
    pub(super) servers: [AtomicU32; SERVERS_MAX],
}

/// One client's part: so many slots are its own.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `owner` | who takes the lane, leaves it, or takes a dead one away: `ParticipantId` or 0 | all | the fences of the table of participants; for servers `asked` | no |
/// | `bell` | its client's sleeping threads; who ends a call of its, a server that comes or leaves | | its own fences | |
/// | `asked` | its clients: counts their calls | servers | Release / Acquire on itself: the states of the calls, and whose the lane is | too low: a server looks again |
/// | `answered` | its clients: counts the answers that they took | anybody, for statistics | | by those who died meanwhile |
/// | `died` | who ends a call of a dead server: counts them | the same | | the same |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Lane {
    pub(super) owner: AtomicU32,
    pub(super) bell: EventCount,
    pub(super) asked: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) died: AtomicU64,
    pad: Reserved<4>,
}

/// One call, or the place of one.
///
/// | word | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | see [`State`]: by one compare-and-swap | all | Release / Acquire on itself: bytes and the other words |
/// | `client` | the client, while it writes the request: `ParticipantId` | who reaps a call that was taken | `state` |
/// | `request_len`, `due` | the client, while it writes the request | the server that takes the call; `due`: who looks for one | `state` |
/// | `answer_len`, `refusal` | the server that has the call | the client, once it is answered | `state` |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) state: AtomicU64,
    pub(super) client: AtomicU32,
    pad_0: AtomicU32,
    pub(super) request_len: AtomicU64,
    /// Not to be taken any more from then on: milliseconds of the monotonic clock; 0: never.
    pub(super) due: AtomicU64,
    pub(super) answer_len: AtomicU64,
    /// See [`refused`](super::server): 0 for an answer.
    pub(super) refusal: AtomicU64,
    pad_1: Reserved<2>,
}

shm_sync!(Shared {
    magic,
    clients,
    calls,
    request_bytes,
    answer_bytes,
    fingerprint,
    pad_0,
    turn,
    arrived,
    pad_1,
    pad_2,
    servers,
});
shm_sync!(Lane { owner, bell, asked, answered, died, pad });
shm_sync!(Slot { state, client, pad_0, request_len, due, answer_len, refusal, pad_1 });

#[cfg(not(any(shm_loom, shm_explore)))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 512 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, turn) == 128 && offset_of!(Shared, servers) == 256);
    assert!(size_of::<Lane>() == 64 && align_of::<Lane>() == 64);
    assert!(size_of::<Slot>() == 64 && align_of::<Slot>() == 64);
};

impl Shared {
    pub(super) fn new(config: &RpcConfig) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            clients: AtomicU64::new(config.clients.into()),
            calls: AtomicU64::new(config.calls.into()),
            request_bytes: AtomicU64::new(config.request_bytes),
            answer_bytes: AtomicU64::new(config.answer_bytes),
            fingerprint: AtomicU64::new(config.fingerprint),
            pad_0: Reserved::new(),
            turn: AtomicU64::new(0),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            pad_2: Reserved::new(),
            servers: [(); SERVERS_MAX].map(|()| AtomicU32::new(0)),
        }
    }

    /// Those who say that they are servers, the dead ones too, and where they say so.
    pub(super) fn seats(&self) -> impl Iterator<Item = (&AtomicU32, ParticipantId)> {
        self.servers.iter().filter_map(|word| {
            // Pairs with the Release in `leave_seat`: who finds nobody here finds what the last one
            // did to calls.
            let server = ParticipantId::from_bits(word.load(Ordering::Acquire))?;
            Some((word, server))
        })
    }
}

/// Writes `me` into the first of these words that is nobody's: which.
pub(super) fn take_seat<'a>(
    words: impl Iterator<Item = &'a AtomicU32>,
    me: ParticipantId,
) -> Option<usize> {
    words.enumerate().find_map(|(number, word)| {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let is_free = word.load(Ordering::Relaxed) == 0;
        (is_free && word.compare_exchange(0, me.to_bits(), ok, err).is_ok()).then_some(number)
    })
}

/// Takes `id` out of such a word; whether it was there.
pub(super) fn leave_seat(word: &AtomicU32, id: ParticipantId) -> bool {
    // Pairs with the Acquire in `Shared::seats`: what it did to calls, or what we know of one that
    // is dead, before it is gone.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    word.compare_exchange(id.to_bits(), 0, ok, err).is_ok()
}

impl Lane {
    pub(super) fn new() -> Lane {
        Lane {
            owner: AtomicU32::new(0),
            bell: EventCount::new(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            died: AtomicU64::new(0),
            pad: Reserved::new(),
        }
    }
}

impl Slot {
    pub(super) fn new() -> Slot {
        Slot {
            state: AtomicU64::new(State::FREE.bits()),
            client: AtomicU32::new(0),
            pad_0: AtomicU32::new(0),
            request_len: AtomicU64::new(0),
            due: AtomicU64::new(0),
            answer_len: AtomicU64::new(0),
            refusal: AtomicU64::new(0),
            pad_1: Reserved::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        // Pairs with the Release in `moves`: bytes, and the words beside.
        State::from_bits(self.state.load(Ordering::Acquire))
    }

    /// Moves a slot from one state to another, if it is in that; whether it was.
    pub(super) fn moves(&self, from: State, to: State) -> bool {
        // Pairs with the Acquires in `state` and `begins`: what we wrote, and our last look at what
        // we read.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        self.state.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }

    /// The same of a slot that is free, to be written anew.
    pub(super) fn begins(&self, from: State, to: State) -> bool {
        // Pairs with the Release in `moves`: the last look at the bytes.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        self.state.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }
}

/// What stands in [`Slot::state`]: kind 3 bits | turn 29 | participant 32.
///
/// The turn is a number that each call has of its own: it says which was begun first, and that a
/// slot is not what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u64);

/// The kinds of state. Beside each, whom it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nobody.
    Free,
    /// The client, which writes the request.
    Writing,
    /// The client: any server may take it.
    Asked,
    /// The server, which has it.
    Taken,
    /// The server, which has it still: its client does not want it any more.
    Cancelled,
    /// The client, which is to look at the answer.
    Answered,
    /// The client, which is to learn that the server died.
    Died,
    /// The client, which is to learn that the server gave no answer.
    Dropped,
}

const OWNER_BITS: u32 = 32;
const TURN_BITS: u32 = 29;
const TURN_MASK: u32 = (1 << TURN_BITS) - 1;
const KIND_SHIFT: u32 = OWNER_BITS + TURN_BITS;

impl State {
    pub(super) const FREE: State = State(0);

    fn new(kind: Kind, turn: Turn, owner: u32) -> State {
        let kind = kind as u64;
        State(kind << KIND_SHIFT | u64::from(turn.0) << OWNER_BITS | u64::from(owner))
    }

    pub(super) const fn from_bits(bits: u64) -> State {
        State(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(super) fn kind(self) -> Kind {
        match self.0 >> KIND_SHIFT {
            0 => Kind::Free,
            1 => Kind::Writing,
            2 => Kind::Asked,
            3 => Kind::Taken,
            4 => Kind::Cancelled,
            5 => Kind::Answered,
            6 => Kind::Died,
            _ => Kind::Dropped,
        }
    }

    pub(super) fn turn(self) -> Turn {
        Turn::of((self.0 >> OWNER_BITS) as u32)
    }

    /// Whom it names. A claim.
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.0 as u32)
    }

    /// Of a slot that is free: written by `client`, as the call with this turn.
    pub(super) fn written(turn: Turn, client: ParticipantId) -> State {
        State::new(Kind::Writing, turn, client.to_bits())
    }

    /// Of another kind, and the same participant.
    pub(super) fn turned(self, kind: Kind) -> State {
        State::new(kind, self.turn(), self.0 as u32)
    }

    /// Of another kind, in the hands of another participant.
    pub(super) fn given(self, kind: Kind, to: ParticipantId) -> State {
        State::new(kind, self.turn(), to.to_bits())
    }

    pub(super) fn freed(self) -> State {
        State::new(Kind::Free, self.turn(), 0)
    }
}

/// Which call it is, of 2^29 that follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn(u32);

impl Turn {
    pub(super) fn of(count: u32) -> Turn {
        Turn(count & TURN_MASK)
    }

    /// Whether it was begun before the other, as far as they are not half a round apart.
    pub(super) fn is_before(self, other: Turn) -> bool {
        let ahead = other.0.wrapping_sub(self.0) & TURN_MASK;
        ahead != 0 && ahead <= TURN_MASK / 2
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_state_goes_around() {
        let (client, server) =
            (ParticipantId::from_bits(7).unwrap(), ParticipantId::from_bits(9).unwrap());
        let mut state = State::written(Turn::of(5), client);
        for (kind, owner) in [
            (Kind::Writing, client),
            (Kind::Asked, client),
            (Kind::Taken, server),
            (Kind::Cancelled, server),
            (Kind::Answered, client),
            (Kind::Died, client),
            (Kind::Dropped, client),
        ] {
            state = state.given(kind, owner);
            assert_eq!((state.kind(), state.owner(), state.turn()), (kind, Some(owner), Turn(5)));
            assert_eq!(State::from_bits(state.bits()), state);
            assert_eq!(state.turned(Kind::Asked), state.given(Kind::Asked, owner));
        }
        let free = state.freed();
        assert_eq!((free.kind(), free.owner(), free.turn()), (Kind::Free, None, Turn(5)));
        assert_eq!(State::from_bits(u64::MAX).kind(), Kind::Dropped);
        assert_eq!(State::from_bits(u64::MAX).freed().kind(), Kind::Free);
    }

    #[test]
    fn a_turn_is_before_those_that_follow_it() {
        let turn = Turn::of;
        assert!(turn(0).is_before(turn(1)) && !turn(1).is_before(turn(0)));
        assert!(!turn(3).is_before(turn(3)));
        assert_eq!(turn(u32::MAX), Turn(TURN_MASK));
        assert!(turn(u32::MAX).is_before(turn(0)), "they go around");
        assert!(turn(0).is_before(turn(TURN_MASK / 2)));
        assert!(!turn(0).is_before(turn(TURN_MASK / 2 + 1)));
    }

    #[test]
    fn a_seat_is_one_participants() {
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        let [one, two, three] = [1, 2, 3].map(|bits| ParticipantId::from_bits(bits).unwrap());
        assert_eq!(take_seat(words.iter(), one), Some(0));
        assert_eq!(take_seat(words.iter(), two), Some(1));
        assert_eq!(take_seat(words.iter(), three), None);
        assert!(!leave_seat(&words[0], two) && leave_seat(&words[0], one));
        assert_eq!(take_seat(words.iter(), three), Some(0));
    }
}
