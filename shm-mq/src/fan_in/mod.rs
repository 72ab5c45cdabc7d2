//! `fan_in`: records from many senders, who come and go and may die, to one receiver.
//!
//! ```text
//!  sender p ──► lane 0: a queue of `spsc` ──┐
//!               lane 1: free                ├──► receiver: a record of each lane in turn, and
//!  sender q ──► lane 2: a queue of `spsc` ──┘    after the last one of a sender its end
//!                 │
//!                 └─ busy: 1 0 1      a bit for each lane in which something may be
//! ```
//!
//! A lane is a queue of [`spsc`](crate::spsc): its records are whole and in place, its sender reads
//! no other one's lines, and nobody waits for anybody but for room. What is new is who has a lane,
//! and how the receiver finds those in which something is.
//!
//! **A lane's word** names its sender, and changes hands by one compare-and-swap:
//!
//! ```text
//!          named          joins             leaves
//!     FREE ─────► GIVEN(p) ────► OPEN(p) ────────► LEFT(p)    (1)
//!      ▲ └───────────│─────────────►│ │              │ │
//!      ├─────────────┴──────────────┴─│──────────────┘ │      (2)
//!      │                  DROPPED(p) ◄┘                ▼      (3)
//!      └──────────────────────┴─────────────────────► GONE(p) (4)
//! ```
//!
//! 1. By who names p, and then by p, which may join unnamed too.
//! 2. By the receiver, once it was told of the end: p has left, or died.
//! 3. By the receiver, where it found nonsense in the lane, of one that has not come yet too; of
//!    one that has left: GONE.
//! 4. DROPPED to GONE by p, which leaves; both to FREE by the receiver, once p has died or left.
//!
//! Only who is sure that p writes nothing any more, for p said so or the kernel does, gives its
//! lane to others; it empties it before: the next sender begins with record 0. So each sender that
//! joined, or was named, has one end, after its last record: [`Left`](Why::Left),
//! [`Died`](Why::Died), or, where the receiver found nonsense in its lane,
//! [`Corrupt`](Why::Corrupt), which is the end of that lane's records only.
//!
//! **The bits** are hints that lose nothing: a sender that published looks at its bit, and sets it
//! where it is clear; the receiver clears a bit, and looks at the lane once more (`Bell` in
//! `spsc/bell.rs` shows why that is enough). It clears that of a lane in which it found nothing for
//! some time, and only where many are set: while few are busy nobody writes a bit. So a record of
//! one busy lane out of 64 costs the transfer of its own lines. A lane about whose bit somebody
//! died, or stands still, is found by the tour: the receiver looks at each lane, one at a time
//! while others are busy, and at all before it sleeps.
//!
//! **A death is learned** from the life word of who is named: at once by one who sleeps, in its
//! turn of the tour by one who is busy. One who joins and dies before anybody saw it has an end
//! too: where there are free lanes the receiver sleeps 200 ms at most.
//!
//! | dies after | what there is |
//! | --- | --- |
//! | (sender) taking a lane, before it rings | a lane that names the dead; the tour finds it: `Died` |
//! | writing a record, before it is published | the records before it, then `Died` |
//! | publishing, before its bit is set, or the receiver woken | the record: the receiver learns of the death, looks, receives it, then `Died` |
//! | leaving, before its bit is set | `Left`, likewise |
//! | (receiver) clearing a bit, before it looks | its successor sets all bits |
//! | receiving a record, before it is released | the record: its successor receives it, as in `spsc` |
//! | being told of an end, before it lets go of it | the end: its successor is told of it (again) |
//! | emptying the lane, between any two stores | as before: its successor empties it again |
//! | FREE | a free lane; nobody is told again |
//!
//! So no record and no end is ever lost, and none is told twice but one: what a receiver that died
//! had in its hands, a record or an end, its successor is given, again if the dead one had acted on
//! it already. Who has to know notes it before it lets go of it: an end by sender and lane, a
//! record by its [`number`](Record::number) besides. An end makes the notes of its sender and lane
//! void: one that joins again under the same id may get the same lane, and begins with number 0;
//! of two ends of such a one that came next to each other it cannot be told which was noted.
//!
//! **Trust.** As in `spsc`; what one sender wrote into its own lane's ring or counters is found out
//! as nonsense there, and a bit makes the receiver look in vain. Not so a lie in the head, or in a
//! lane's word: it can name another receiver or sender, and a lane may stay taken. Senders that are
//! hostile have a queue and a mapping of their own each: [`Strangers`].
//!
//! **Limits.** Of more than 127 senders a sleeping receiver asks every 100 ms who lives, and so may
//! learn of a death that much later.
mod lane;
mod receiver;
mod shared;
mod strangers;

pub use crate::spsc::{AttachError, LINE_BYTES, Reserved, SendError, Sender};
pub use receiver::{Arrival, End, Event, Receiver, Record, RecvError, Why};

pub use strangers::{Strange, StrangeArrival, Strangers, StrangersError};

use crate::spsc::{Bell, Hub, Queue, Seat, take};
use crate::stream::OneMapping;
use shared::{MAGIC, Shared, WORDS};
use shm_core::BadPtr;
use shm_core::bytes::WORD_BYTES;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::trust::Crashing;
use std::sync::Arc;

/// Bits in a word.
const BITS: usize = u64::BITS as usize;

/// A fan-in has at most so many lanes.
pub const LANES_MAX: u32 = (WORDS * BITS) as u32;

/// The least ring: two lines.
const RING_BYTES_MIN: u64 = 2 * LINE_BYTES;

/// What a fan-in is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FanInConfig {
    /// Senders that there can be at a time: 1 to [`LANES_MAX`].
    pub lanes: u32,
    /// Bytes of each lane's ring, at least 128; rounded down to a multiple of 64.
    pub ring_bytes: u64,
    /// What the records are: who attaches is to know the same. 0: bytes.
    pub fingerprint: u64,
}

impl FanInConfig {
    /// For up to `lanes` senders at a time, each with a ring of `ring_bytes`.
    pub const fn new(lanes: u32, ring_bytes: u64) -> FanInConfig {
        FanInConfig { lanes, ring_bytes, fingerprint: 0 }
    }
}

/// Why a fan-in could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// It has 1 to [`LANES_MAX`] lanes.
    #[error("a fan-in has 1 to {LANES_MAX} lanes, and not {lanes}")]
    Lanes {
        /// Lanes asked for.
        lanes: u32,
    },
    /// A ring has at least two lines.
    #[error("a ring of {ring_bytes} bytes is too small: it needs at least {RING_BYTES_MIN}")]
    RingTooSmall {
        /// Bytes asked for.
        ring_bytes: u64,
    },
    /// The fan-in does not fit there.
    #[error("the fan-in does not fit into the mapping")]
    Place(#[from] BadPtr),
}

/// Why nobody could join as a sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Each lane has a sender, or one whose end the receiver has not been told yet.
    #[error("all {lanes} lanes are taken")]
    AllTaken {
        /// How many there are.
        lanes: u32,
    },
    /// Nonsense is in the lane that is free. The receiver is told that we left it, and mends it.
    #[error("the free lane is corrupt")]
    Corrupt,
    /// The seat belongs to the process that this one was forked from.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// What a lane is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneState {
    /// Nobody's.
    Free,
    /// Named for a participant that has not come yet.
    Given(ParticipantId),
    /// Its sender's, who may be dead.
    Open(ParticipantId),
    /// Its sender has left; the receiver is to be told of it.
    Left(ParticipantId),
    /// Nonsense was in it; it is free once its sender has died or left; where that never came,
    /// once it has left the table.
    Dropped(ParticipantId),
}

/// One lane, as [`FanIn::status`] saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneStatus {
    /// What it is, and whose.
    pub state: LaneState,
    /// Records of its sender's that were received.
    pub received: u64,
    /// Records that wait for the receiver.
    pub waiting: u64,
    /// Bytes of the ring that these take.
    pub waiting_bytes: u64,
}

/// A fan-in in shared memory, without a role in it.
///
/// `T` says what its peers may do: see [`with_peers`](FanIn::with_peers).
#[derive(Clone, Debug)]
pub struct FanIn<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    lanes: Arc<[Queue<T>]>,
}

/// Where lane number `number` of a fan-in at `offset` begins.
const fn lane_at(offset: u64, ring_bytes: u64, number: u64) -> u64 {
    let lane = Queue::bytes_for(ring_bytes).saturating_add(63) / 64 * 64;
    offset.saturating_add(size_of::<Shared>() as u64).saturating_add(lane.saturating_mul(number))
}

fn take_lane(word: &AtomicU64, from: Seat, to: Seat) -> bool {
    // Pairs with the Release in `Lane::free`: the lane is empty. And with the Acquire in
    // `Peer::gone`: the seat of whom we name.
    let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
    let (from, to) = (from.to_bits(), to.to_bits());
    word.load(Ordering::Relaxed) == from && word.compare_exchange(from, to, ok, err).is_ok()
}

impl FanIn {
    /// Bytes of mapping for such a fan-in.
    ///
    /// ```
    /// use shm_mq::fan_in::{FanIn, FanInConfig};
    /// assert_eq!(FanIn::bytes_for(&FanInConfig::new(8, 1024)), 256 + 8 * (384 + 1024));
    /// ```
    pub const fn bytes_for(config: &FanInConfig) -> u64 {
        // What is too much stays too much, for `create` to refuse.
        lane_at(0, config.ring_bytes, config.lanes as u64)
    }

    /// The longest record of such a fan-in, in bytes: half of a ring.
    pub const fn record_bytes_max(config: &FanInConfig) -> u64 {
        Queue::record_bytes_max(config.ring_bytes)
    }

    /// Makes a fan-in at `offset` of `mapping`, a multiple of 64.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::fan_in::{Event, FanIn, FanInConfig, Why};
    ///
    /// let config = FanInConfig::new(8, 1024);
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + FanIn::bytes_for(&config)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let fan_in = unsafe { FanIn::create(&mapping, at, &config) }?;
    ///
    /// let me = table.join()?;
    /// let mut receiver = fan_in.receiver(&me)?;
    /// let (mut one, mut other) = (fan_in.sender(&me)?, fan_in.sender(&me)?);
    /// assert!(one.try_send(b"hello")? && one.try_send(b"again")? && other.try_send(b"world")?);
    /// for expected in [b"hello", b"world", b"again"] {
    ///     let Some(Event::Record(record)) = receiver.try_recv()? else { panic!("sent") };
    ///     assert_eq!(*record, *expected);
    /// }
    /// drop(one);
    /// let Some(Event::End(end)) = receiver.try_recv()? else { panic!("left") };
    /// assert_eq!((end.sender(), end.why()), (me.id(), Why::Left));
    /// drop(end);
    /// assert!(receiver.try_recv()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](FanIn::bytes_for) bytes. The offset is handed out only
    /// afterwards, in a way that orders memory: a toc entry, a segment's handle, the start of a
    /// process.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// Nobody has the offset: the bytes are as unused as before.
    pub unsafe fn create(
        m: &Arc<Mapping>,
        offset: u64,
        config: &FanInConfig,
    ) -> Result<FanIn, CreateError> {
        let FanInConfig { lanes, ring_bytes, fingerprint } = *config;
        if !(1..=LANES_MAX).contains(&lanes) {
            return Err(CreateError::Lanes { lanes });
        }
        if ring_bytes < RING_BYTES_MIN {
            return Err(CreateError::RingTooSmall { ring_bytes });
        }
        // Before anything is written.
        m.region().range(offset, FanIn::bytes_for(config))?;
        let lines = ring_bytes / LINE_BYTES;
        let shared = Shared::new(lanes, lines, fingerprint);
        // SAFETY: nobody else uses these bytes, the caller says.
        let shared = unsafe { Mapped::place(m, offset, shared) }?;
        let lanes = (0..lanes.into()).map(|number| {
            let at = lane_at(offset, ring_bytes, number);
            // SAFETY: as above.
            unsafe { Queue::create(m, at, ring_bytes, fingerprint) }.map_err(|error| match error {
                crate::spsc::CreateError::Place(place) => CreateError::Place(place),
                _ => CreateError::RingTooSmall { ring_bytes },
            })
        });
        Ok(FanIn { shared, lanes: lanes.collect::<Result<_, _>>()? })
    }

    /// The fan-in at `offset` of `mapping`, whose records are what `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError::Place`], [`AttachError::NotAQueue`], [`AttachError::OtherRecords`],
    /// [`AttachError::Corrupt`].
    pub fn attach(m: &Arc<Mapping>, offset: u64, fingerprint: u64) -> Result<FanIn, AttachError> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotAQueue { found });
        }
        let found = shared.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(AttachError::OtherRecords { found });
        }
        let lanes = shared.lanes.load(Ordering::Relaxed);
        let lines = shared.lines.load(Ordering::Relaxed);
        let is_sane = (1..=u64::from(LANES_MAX)).contains(&lanes)
            && (RING_BYTES_MIN / LINE_BYTES..=u64::MAX / LINE_BYTES).contains(&lines);
        if !is_sane {
            return Err(AttachError::Corrupt);
        }
        let lane = |number| Queue::lane(m, lane_at(offset, lines * LINE_BYTES, number), lines);
        let lanes = (0..lanes).map(lane).collect::<Result<_, _>>();
        Ok(FanIn { shared, lanes: lanes.map_err(|_| AttachError::Corrupt)? })
    }
}

impl<T: OneMapping> FanIn<T> {
    /// The same fan-in for who trusts its peers less, or more:
    /// [`Buggy`](shm_core::trust::Buggy) for those that may write nonsense anywhere.
    pub fn with_peers<U: OneMapping>(self) -> FanIn<U> {
        let lanes = self.lanes.iter().map(|lane| lane.clone().with_peers()).collect();
        FanIn { shared: self.shared, lanes }
    }

    /// Lanes there are.
    pub fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Joins as a sender: takes the lane that was [given](FanIn::set_sender) to `me`, or the first
    /// that is free. One participant may have several. What it has [sent](Sender::sent) counts from
    /// 0.
    ///
    /// # Errors
    /// [`JoinError`].
    ///
    /// # If a process dies here
    /// The lane is free, or names the dead: the receiver is told that it died.
    pub fn sender(&self, me: &Arc<Member>) -> Result<Sender<T>, JoinError> {
        me.check_fork()?;
        for from in [Seat::Given(me.id()), Seat::Free] {
            for (number, lane) in self.lanes.iter().enumerate() {
                if !take_lane(&lane.word(), from, Seat::Open(me.id())) {
                    continue;
                }
                return lane.lane_sender(self.hub(number), me).ok_or(JoinError::Corrupt);
            }
        }
        Err(JoinError::AllTaken { lanes: self.lanes() })
    }

    /// Gives a free lane to a participant, which takes it when it [joins](FanIn::sender): if it
    /// dies before it comes, the receiver is told. `by` is who asks.
    ///
    /// # Errors
    /// [`JoinError::AllTaken`], [`JoinError::Forked`].
    ///
    /// # If a process dies here
    /// The lane is given or it is not.
    pub fn set_sender(&self, by: &Member, id: ParticipantId) -> Result<(), JoinError> {
        by.check_fork()?;
        let mut lanes = self.lanes.iter().enumerate();
        let given = lanes.find(|(_, lane)| take_lane(&lane.word(), Seat::Free, Seat::Given(id)));
        let Some((number, _)) = given else {
            return Err(JoinError::AllTaken { lanes: self.lanes() });
        };
        let hub = self.hub(number);
        hub.bell.ring(&hub.bed);
        Ok(())
    }

    /// Takes the receiver's role: it is free, was given to `me`, or its owner has left or died.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Restless`],
    /// [`AttachError::Forked`].
    ///
    /// # If a process dies here
    /// It has the role or not; if it has, the next one takes it over.
    pub fn receiver(&self, me: &Arc<Member>) -> Result<Receiver<T>, AttachError> {
        me.check_fork()?;
        take(&self.shared.receiver, me, me.id(), Seat::Open)?;
        Ok(Receiver::new(self.clone(), me.clone()))
    }

    /// Gives the receiver's role to a participant: if it dies before it comes, senders that wait
    /// for room learn of it. `by` is who asks.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Restless`],
    /// [`AttachError::Forked`].
    ///
    /// # If a process dies here
    /// The role is given or it is not.
    pub fn set_receiver(&self, by: &Member, id: ParticipantId) -> Result<(), AttachError> {
        by.check_fork()?;
        take(&self.shared.receiver, by, id, Seat::Given)?;
        self.wake_senders();
        Ok(())
    }

    /// What each lane holds: one after the other, while others send and receive.
    pub fn status(&self) -> Vec<LaneStatus> {
        let status = |lane: &Queue<T>| {
            let state = match Seat::from_bits(lane.word().load(Ordering::Relaxed)) {
                Seat::Free => LaneState::Free,
                Seat::Given(id) => LaneState::Given(id),
                Seat::Open(id) => LaneState::Open(id),
                Seat::Left(id) => LaneState::Left(id),
                Seat::Dropped(id) | Seat::Gone(id) => LaneState::Dropped(id),
            };
            let depth = lane.depth();
            LaneStatus {
                state,
                received: depth.received,
                waiting: depth.waiting,
                waiting_bytes: depth.words * WORD_BYTES as u64,
            }
        };
        self.lanes.iter().map(status).collect()
    }

    /// The bit of a lane, and the word that it is in.
    fn bell(&self, number: usize) -> Bell {
        let (word, bit) = (number / BITS, number % BITS);
        Bell::new(self.busy(word), 1 << bit)
    }

    fn busy(&self, word: usize) -> Mapped<AtomicU64> {
        self.shared.part(move |shared| &shared.busy[word])
    }

    /// The receiver, for the sender of a lane.
    fn hub(&self, number: usize) -> Hub {
        Hub {
            role: self.shared.part(|shared| &shared.receiver),
            bed: self.shared.part(|shared| &shared.arrived),
            bell: self.bell(number),
        }
    }

    fn wake_senders(&self) {
        self.lanes.iter().for_each(Queue::wake_sender);
    }
}
