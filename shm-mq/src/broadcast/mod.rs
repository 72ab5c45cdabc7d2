//! `broadcast`: records from one publisher to subscribers that come and go, each of whom gets all.
//!
//! ```text
//!                 a slow subscriber          one that keeps up
//!                         │                          │          the publisher's place
//!                         ▼                          ▼          ▼
//!  cells: ... ┬───────────┬───────────┬───────────┬───────────┬───────────┬─── ...
//!             │ n - 4     │ n - 3     │ n - 2     │ n - 1     │ n: being  │ n - 5
//!             │ is there  │ is there  │ is there  │ is there  │ written   │
//!             ┴───────────┴───────────┴───────────┴───────────┴───────────┴───
//! ```
//!
//! Record n stands in cell n modulo their count, which need not be a power of two. The cell's mark
//! says which record is there, or is being written; so a subscriber that waits for record n looks
//! at one word, and learns all that it needs: that it is not there yet, that it is there, or that
//! it came too late. The number of the next record, `published`, is for who comes, for who was
//! lapped, and for who has waited long enough to doubt his cell.
//!
//! **Lossless**: the publisher writes over a record when all live subscribers have read it; where
//! one has not, there is no room, which is a result. It looks at their rows when it has used up
//! what it found the last time. A subscriber that dies holds nobody back, once the participants'
//! table says so; one that stands still does, for as long as it does. Where nobody has subscribed,
//! everything is written over, and the cells are the history for who comes late.
//!
//! **Lossy**: the publisher never waits. A subscriber that is lapped is told exactly how many
//! records it missed, and goes on with the oldest that is still there, or with the newest; it
//! copies, and never sees half of one record and half of another: see `cells.rs`. [`Latest`] reads
//! the newest alone, of two cells or more.
//!
//! **Who moves what.** The publisher alone writes cells, `published` and `horizon`. Each subscriber
//! writes its row, which the publisher takes from it if it is dead, or says what cannot be. The
//! publisher's role is given back or taken over as in [`spsc`].
//!
//! ```text
//!  cell:  n - cells is there ──► n is being written ──► n is there       by the publisher
//!                                       │    ▲
//!                                       └────┘                           by its successor
//!  row:   free ──► joining(s) ──► open(s) ──► free                       by s; see `Claim`
//! ```
//!
//! | dies after | what there is |
//! | --- | --- |
//! | (publisher) saying that n is being written, or writing its bytes | n is seen by nobody; its successor writes n there. What was in the cell is gone: all had read it, or are told |
//! | n is there, before `published` | record n; who comes looks one cell further than `published` says |
//! | `published`, before the wake-up | record n; subscribers are woken by the death instead |
//! | raising `horizon` | late joiners begin a little later than they need |
//! | (subscriber) taking a row, saying where it begins, opening it | a row that names the dead: who finds it in the way, or looks for the dead, frees it |
//! | reading a record, or saying so | the same |
//!
//! **Trust.** Positions, marks and lengths are checked. Among peers that only crash, records of a
//! lossless broadcast are written and read where they lie; else they move as relaxed words, and are
//! checked afterwards. A publisher that lies makes subscribers wait, miss records, or say `Corrupt`
//! for good, which then hold nobody back. A subscriber whose row says that it has read what was
//! never published is struck from those that the publisher waits for, and hears `Corrupt` once it
//! has read what is there, or was lapped; one that says that it has not read holds a lossless
//! publisher back: there is no other difference between the slow and the liars. Where nobody trusts
//! anybody there is [`StrangePublisher`].
//!
//! The sequence word of each cell is that of a seqlock (H.-J. Boehm, 2012) and of Agrona's
//! broadcast buffer; the slowest position that is looked at seldom is the Disruptor's gating
//! sequence.
mod cells;
mod latest;
mod publisher;
mod rows;
mod shared;
mod strangers;
mod subscriber;

pub use crate::hostile::{ConnectError, Limits};
pub use latest::{Latest, ReadError};
pub use publisher::{Draft, PublishError, Publisher, Space};
pub use strangers::{Ended, Guest, Invitation, StrangePublisher, StrangeSubscriber};
pub use subscriber::{Arrival, Record, RecvError, Subscriber};

use crate::spsc::{self, Seat, take};
use crate::stream::OneMapping;
use cells::{Cells, Place};
use shared::{Claim, MAGIC, Mark, NUMBER_MAX, Row, Shared, parts};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::sync::Arc;
use std::time::Duration;

/// A broadcast has at most so many cells.
pub const CELLS_MAX: u32 = 1 << 24;

/// The longest record of any broadcast.
pub const RECORD_BYTES_MAX: u64 = 1 << 32;

/// A broadcast has at most so many subscribers at a time.
pub const SUBSCRIBERS_MAX: u32 = 1 << 12;

/// What models need of broadcasts among strangers.
#[cfg(shm_loom)]
pub mod model {
    pub use super::strangers::modelled::Strangers;
    pub use crate::hostile::modelled::Ends;
}

/// What explorations need of broadcasts among strangers.
#[cfg(shm_explore)]
pub mod explored {
    pub use super::strangers::explored::Strangers;
}

/// Who waits looks this often whether it was missed, or somebody has died.
const LOOKED_EVERY: Duration = Duration::from_millis(20);

/// Who waits for one that lives looks this often for a record that it was not woken for.
const STOPPED_EVERY: Duration = Duration::from_secs(1);

/// What becomes of records that a subscriber has not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The publisher waits for the slowest.
    Lossless,
    /// They are written over, and the subscriber is told how many.
    Lossy,
}

/// What a broadcast is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroadcastConfig {
    /// Who waits for whom.
    pub kind: Kind,
    /// Records that are kept: 1 to [`CELLS_MAX`], a power of two or any.
    pub cells: u32,
    /// The longest record, in bytes; up to 48 take one cache line.
    pub record_bytes: u64,
    /// Subscribers that there can be at a time: 1 to [`SUBSCRIBERS_MAX`].
    pub subscribers: u32,
    /// What the records are: who attaches is to know the same. 0: bytes.
    pub fingerprint: u64,
}

impl BroadcastConfig {
    /// A publisher that waits for the slowest of up to `subscribers`.
    pub const fn lossless(cells: u32, record_bytes: u64, subscribers: u32) -> BroadcastConfig {
        let kind = Kind::Lossless;
        BroadcastConfig { kind, cells, record_bytes, subscribers, fingerprint: 0 }
    }

    /// A publisher that waits for nobody.
    pub const fn lossy(cells: u32, record_bytes: u64, subscribers: u32) -> BroadcastConfig {
        let kind = Kind::Lossy;
        BroadcastConfig { kind, cells, record_bytes, subscribers, fingerprint: 0 }
    }

    fn check(&self) -> Result<(), CreateError> {
        let bad = |what, value| Err(CreateError::Config { what, value });
        if !(1..=CELLS_MAX).contains(&self.cells) {
            return bad("cells", self.cells.into());
        }
        if self.record_bytes > RECORD_BYTES_MAX {
            return bad("bytes a record", self.record_bytes);
        }
        if !(1..=SUBSCRIBERS_MAX).contains(&self.subscribers) {
            return bad("subscribers", self.subscribers.into());
        }
        Ok(())
    }
}

/// With which record a subscriber begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Start {
    /// The next to be published.
    #[default]
    Next,
    /// The newest, if there is one. Of one cell it may be gone.
    Newest,
    /// The oldest that is still there. Of a lossless broadcast, all but an eighth of the cells, or
    /// but one, are sure to be.
    Oldest,
}

/// With which record a subscriber goes on that was lapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lapped {
    /// The oldest that is still there: it misses the fewest, and will soon be lapped again if it is
    /// too slow.
    #[default]
    Oldest,
    /// The newest.
    Newest,
}

/// How somebody subscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Where it begins.
    pub start: Start,
    /// Where it goes on if it was lapped: of a lossy broadcast.
    pub lapped: Lapped,
}

/// Why a broadcast could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is no such broadcast.
    #[error("a broadcast cannot be made with {what} of {value}")]
    Config {
        /// Which figure.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// The broadcast does not fit there.
    #[error("the broadcast does not fit into the mapping")]
    Place(#[from] BadPtr),
    /// Of a [`StrangePublisher`]: its memory could not be made.
    #[error("own memory: {0}")]
    Memory(#[from] shm_core::sealed::CreateError),
}

/// Why a broadcast, or its publisher's role, could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The offset is outside the mapping, or odd.
    #[error("no broadcast can be there")]
    Place(#[from] BadPtr),
    /// Something else is there, or a broadcast of another version.
    #[error("no broadcast of this version is there (found {found:#x})")]
    NotABroadcast {
        /// What stands in place of the magic number.
        found: u64,
    },
    /// Its records are others.
    #[error("the broadcast is one of other records (fingerprint {found:#x})")]
    OtherRecords {
        /// What its creator said of them.
        found: u64,
    },
    /// What the last publisher left behind, or the size, makes no sense.
    #[error("the broadcast is corrupt")]
    Corrupt,
    /// Another participant is the publisher, and lives.
    #[error("the publisher is {by:?}")]
    Taken {
        /// Who it is.
        by: ParticipantId,
    },
    /// This participant is the publisher, and has a handle.
    #[error("this process is the publisher already")]
    OpenAlready,
    /// Others changed the role's word all the time.
    #[error("the publisher changes all the time")]
    Restless,
    /// The seat belongs to the process that this one was forked from.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<spsc::AttachError> for AttachError {
    fn from(error: spsc::AttachError) -> AttachError {
        match error {
            spsc::AttachError::Taken { by } => AttachError::Taken { by },
            spsc::AttachError::OpenAlready => AttachError::OpenAlready,
            // A seat gives no other.
            _ => AttachError::Restless,
        }
    }
}

/// Why nobody could subscribe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// All rows belong to subscribers that live.
    #[error("there are {rows} subscribers, which is all there can be")]
    Full {
        /// How many there can be.
        rows: u32,
    },
    /// Another process wrote nonsense into shared memory.
    #[error("the broadcast is corrupt")]
    Corrupt,
    /// The seat belongs to the process that this one was forked from.
    #[error("the seat belongs to the process that this one was forked from")]
    Forked,
}

/// How a broadcast is, as [`Broadcast::status`] saw it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Records that were published.
    pub published: u64,
    /// Whose the publisher's role is.
    pub publisher: Option<ParticipantId>,
    /// The subscribers.
    pub subscribers: Vec<SubscriberStatus>,
}

/// How a subscriber is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscriberStatus {
    /// Who it is.
    pub id: ParticipantId,
    /// The number of the record that it receives next.
    pub position: u64,
    /// Records that it has not received yet.
    pub lag: u64,
    /// Records that it was told to have missed.
    pub missed: u64,
    /// Its position made no sense: nobody waits for it.
    pub is_struck: bool,
}

/// A broadcast in shared memory, without a role in it.
///
/// `T` says what its peers may do: see [`with_peers`](Broadcast::with_peers).
#[derive(Debug)]
pub struct Broadcast<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    rows: MappedSlice<Row>,
    cells: Cells<T>,
}

impl Broadcast {
    /// Bytes of mapping for such a broadcast.
    ///
    /// ```
    /// use shm_mq::broadcast::{Broadcast, BroadcastConfig};
    /// let config = BroadcastConfig::lossy(100, 48, 8);
    /// assert_eq!(Broadcast::bytes_for(&config), 384 + 8 * 128 + 100 * 64);
    /// ```
    pub const fn bytes_for(config: &BroadcastConfig) -> u64 {
        let is_too_much = config.record_bytes > RECORD_BYTES_MAX
            || config.cells > CELLS_MAX
            || config.subscribers > SUBSCRIBERS_MAX;
        if is_too_much {
            // For `create` to refuse.
            return u64::MAX;
        }
        parts(0, config.subscribers as u64).1 + cells::mapped_bytes(config)
    }

    /// Makes a broadcast at `offset` of `mapping`, a multiple of 64.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::broadcast::{Broadcast, BroadcastConfig, RecvError, Subscription};
    ///
    /// let config = BroadcastConfig::lossy(2, 40, 8);
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + Broadcast::bytes_for(&config)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let broadcast = unsafe { Broadcast::create(&mapping, at, &config) }?;
    ///
    /// let me = table.join()?;
    /// let mut publisher = broadcast.publisher(&me)?;
    /// let mut subscriber = broadcast.subscribe(&me, Subscription::default())?;
    /// for record in [&b"dinner"[..], b"is", b"served"] {
    ///     assert!(publisher.try_publish(record)?);
    /// }
    /// // There are two cells.
    /// assert_eq!(subscriber.try_recv().unwrap_err(), RecvError::Missed { records: 1 });
    /// assert_eq!(*subscriber.recv(None)?, *b"is");
    /// assert_eq!(*subscriber.recv(None)?, *b"served");
    /// assert!(subscriber.try_recv()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](Broadcast::bytes_for) bytes. The offset is handed out
    /// only afterwards, in a way that orders memory: a toc entry, a segment's handle, the start of
    /// a process.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// Nobody has the offset: the bytes are as unused as before.
    pub unsafe fn create(
        m: &Arc<Mapping>,
        offset: u64,
        config: &BroadcastConfig,
    ) -> Result<Broadcast, CreateError> {
        config.check()?;
        // Before anything is written.
        m.region().range(offset, Broadcast::bytes_for(config))?;
        // SAFETY: nobody else uses these bytes, the caller says.
        let shared = unsafe { Mapped::place(m, offset, Shared::new(config)) }?;
        let (rows_at, cells_at) = parts(offset, config.subscribers.into());
        for row in 0..u64::from(config.subscribers) {
            // SAFETY: as above.
            unsafe { Mapped::place(m, rows_at + row * size_of::<Row>() as u64, Row::new()) }?;
        }
        // SAFETY: as above.
        unsafe { Cells::<Crashing>::create(m, cells_at, config) }?;
        let rows = MappedSlice::new(m, rows_at, config.subscribers.into())?;
        let (count, record_bytes) = (config.cells.into(), config.record_bytes);
        let cells = Cells::attach(m, cells_at, config.kind, count, record_bytes)?;
        Ok(Broadcast { shared, rows, cells })
    }

    /// The broadcast at `offset` of `mapping`, whose records are what `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError::Place`], [`AttachError::NotABroadcast`], [`AttachError::OtherRecords`],
    /// [`AttachError::Corrupt`].
    pub fn attach(
        m: &Arc<Mapping>,
        offset: u64,
        fingerprint: u64,
    ) -> Result<Broadcast, AttachError> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotABroadcast { found });
        }
        let found = shared.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(AttachError::OtherRecords { found });
        }
        let kind = Kind::from_bits(shared.kind.load(Ordering::Relaxed));
        let count = shared.cells.load(Ordering::Relaxed);
        let record_bytes = shared.record_bytes.load(Ordering::Relaxed);
        let rows = shared.rows.load(Ordering::Relaxed);
        let is_sane = (1..=u64::from(CELLS_MAX)).contains(&count)
            && record_bytes <= RECORD_BYTES_MAX
            && (1..=u64::from(SUBSCRIBERS_MAX)).contains(&rows);
        let (Some(kind), true) = (kind, is_sane) else { return Err(AttachError::Corrupt) };
        let (rows_at, cells_at) = parts(offset, rows);
        let rows = MappedSlice::new(m, rows_at, rows).map_err(|_| AttachError::Corrupt)?;
        let cells = Cells::attach(m, cells_at, kind, count, record_bytes);
        Ok(Broadcast { shared, rows, cells: cells.map_err(|_| AttachError::Corrupt)? })
    }
}

impl<T: OneMapping> Clone for Broadcast<T> {
    fn clone(&self) -> Broadcast<T> {
        self.at_level()
    }
}

impl<T: OneMapping> Broadcast<T> {
    fn at_level<U: OneMapping>(&self) -> Broadcast<U> {
        let (shared, rows) = (self.shared.clone(), self.rows.clone());
        Broadcast { shared, rows, cells: self.cells.at_level() }
    }

    /// The same broadcast for who trusts its peers less, or more:
    /// [`Buggy`](shm_core::trust::Buggy) for those that may write nonsense anywhere.
    pub fn with_peers<U: OneMapping>(self) -> Broadcast<U> {
        self.at_level()
    }

    /// The longest record, in bytes.
    pub fn record_bytes(&self) -> usize {
        self.cells.record_bytes()
    }

    /// Whether the publisher waits for the slowest.
    pub fn kind(&self) -> Kind {
        if self.cells.is_lossy() { Kind::Lossy } else { Kind::Lossless }
    }

    /// Takes the publisher's role: it is free, was given to `me`, or its owner has left or died.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Restless`],
    /// [`AttachError::Corrupt`], [`AttachError::Forked`].
    pub fn publisher(&self, me: &Arc<Member>) -> Result<Publisher<T>, AttachError> {
        Publisher::open(self, me)
    }

    /// Gives the publisher's role to a participant: if it dies before it comes, subscribers learn
    /// of it. `by` is who asks.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Restless`].
    ///
    /// # If a process dies here
    /// The role is given or it is not.
    pub fn set_publisher(&self, by: &Member, id: ParticipantId) -> Result<(), AttachError> {
        take(&self.shared.publisher, by, id, Seat::Given)?;
        self.shared.arrived.notify();
        Ok(())
    }

    /// For one thread of `me` that receives all records, from now on or from before.
    ///
    /// # Errors
    /// [`SubscribeError`].
    ///
    /// # If a process dies here
    /// A row names it, and is freed by who finds it in the way, or looks for the dead.
    pub fn subscribe(
        &self,
        me: &Arc<Member>,
        subscription: Subscription,
    ) -> Result<Subscriber<T>, SubscribeError> {
        Subscriber::open(self, me, subscription)
    }

    /// For who wants the newest record alone; `None` where the broadcast is lossless.
    ///
    /// ```
    /// # use shm_core::{mapping::Mapping, participants::Table};
    /// # use shm_mq::broadcast::{Broadcast, BroadcastConfig};
    /// # let config = BroadcastConfig::lossy(2, 8, 1);
    /// # let at = Table::bytes_for(2).next_multiple_of(64);
    /// # let mapping = Mapping::heap((at + Broadcast::bytes_for(&config)) as usize);
    /// # // SAFETY: nobody else has the mapping.
    /// # let me = unsafe { Table::create(&mapping, 0, 2) }?.join()?;
    /// # // SAFETY: as above, and the table ends before.
    /// # let broadcast = unsafe { Broadcast::create(&mapping, at, &config) }?;
    /// let mut latest = broadcast.latest().expect("it is lossy");
    /// assert_eq!(latest.read()?, None);
    /// let mut publisher = broadcast.publisher(&me)?;
    /// publisher.try_publish(b"18.5 C")?;
    /// publisher.try_publish(b"18.7 C")?;
    /// assert_eq!(latest.read()?, Some((1, &b"18.7 C"[..])));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn latest(&self) -> Option<Latest<T>> {
        self.cells.is_lossy().then(|| Latest::new(self.clone()))
    }

    /// How the broadcast is now: each row looked at once, not together.
    pub fn status(&self) -> Status {
        let published = self.published().unwrap_or(0);
        let publisher = match Seat::from_bits(self.shared.publisher.load(Ordering::Relaxed)) {
            Seat::Given(id) | Seat::Open(id) => Some(id),
            _ => None,
        };
        let of_row = |row: &Row| {
            let claim = Claim::from_bits(row.claim.load(Ordering::Relaxed));
            let position = row.position.load(Ordering::Relaxed);
            Some(SubscriberStatus {
                id: claim.owner()?,
                position,
                lag: published.saturating_sub(position),
                missed: row.missed.load(Ordering::Relaxed),
                is_struck: matches!(claim, Claim::Struck(_)),
            })
        };
        Status { published, publisher, subscribers: self.rows.iter().filter_map(of_row).collect() }
    }

    /// Frees the rows of the dead: how many. A publisher that one of them holds back does so
    /// itself, and so does who finds no row free; a supervisor may at any time.
    ///
    /// # If a process dies here
    /// The next one to reap goes on.
    pub fn reap(&self, me: &Member) -> usize {
        let reaped = rows::reap_rows(&self.rows, me);
        if reaped > 0 {
            self.shared.left.notify();
        }
        reaped
    }

    /// How many records there were, those included whose publisher has not said so yet; `None`
    /// where that is nonsense. It never becomes less.
    fn published(&self) -> Option<u64> {
        let (number, mark) = self.said()?;
        Some(number + u64::from(mark.bits() >= Mark::there(number).bits()))
    }

    /// How many records there were, as the publisher has said, and the mark of the next one's cell;
    /// `None` where that is nonsense.
    fn said(&self) -> Option<(u64, Mark)> {
        // Pairs with the Releases in `Cursor::step` and `go_on`: the records before.
        let number = self.shared.published.load(Ordering::Acquire);
        if number > NUMBER_MAX {
            return None;
        }
        let mark = |number| self.cells.look(Place::of(number, self.cells.count()));
        let is_lie = number.checked_sub(1).is_some_and(|last| mark(last).number() < Some(last));
        (!is_lie).then(|| (number, mark(number)))
    }
}
