//! The publisher's half.
use super::cells::{Cells, Place};
use super::rows::{free_dead, look_at_rows, stride};
use super::shared::{Mark, Row, Shared};
use super::{AttachError, Broadcast, LOOKED_EVERY};
use crate::lent::Lent;
use crate::spsc::{Seat, leave_seat, take};
use crate::stream::OneMapping;
use crate::wait::{look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::process::ForkGuard;
use shm_core::sync::{Ordering, in_program_order};
use shm_core::trust::{Crashing, Trust};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a record was not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The deadline passed.
    #[error("the deadline passed before all subscribers had read what was in the way")]
    TimedOut,
    /// No record of this broadcast is so long.
    #[error("a record of {len} bytes is too long: this broadcast takes {largest}")]
    TooLong {
        /// Bytes of the record.
        len: usize,
        /// The most that it takes.
        largest: usize,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the publisher was attached by the process that this one was forked from")]
    Forked,
}

/// The publishing end of a [`Broadcast`]: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::broadcast::Publisher>();
/// ```
///
/// # If a process dies here
/// What it published stays. A record that it was writing is seen by nobody; who takes the role next
/// goes on with its number, which is [`published`](Publisher::published).
pub struct Publisher<T: OneMapping = Crashing> {
    cells: Cells<T>,
    cursor: Cursor,
}

/// How far the publisher is. Apart from the cells, of which a [`Draft`] borrows one beside it.
struct Cursor {
    shared: Mapped<Shared>,
    rows: MappedSlice<Row>,
    member: Arc<Member>,
    fork: ForkGuard,
    count: u64,
    /// Where the next record goes.
    place: Place,
    /// Records before this number go to cells that all have read.
    limit: u64,
    /// What we said last that we go up to.
    horizon: u64,
    /// Those who have held us back: first who did when we looked last.
    watches: Vec<Watch>,
    not_sync: PhantomData<Cell<()>>,
}

impl Publisher {
    /// Takes the publisher's role in the broadcast at `offset` of `mapping`, whose records are what
    /// `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError`].
    ///
    /// # If a process dies here
    /// It has the role or not; if it has, the next one takes it over.
    pub fn attach(
        m: &Arc<Mapping>,
        offset: u64,
        fingerprint: u64,
        me: &Arc<Member>,
    ) -> Result<Publisher, AttachError> {
        Broadcast::attach(m, offset, fingerprint)?.publisher(me)
    }
}

impl<T: OneMapping> Publisher<T> {
    pub(super) fn open(
        broadcast: &Broadcast<T>,
        me: &Arc<Member>,
    ) -> Result<Publisher<T>, AttachError> {
        me.check_fork()?;
        let shared = &broadcast.shared;
        take(&shared.publisher, me, me.id(), Seat::Open)?;
        let Some(number) = go_on(broadcast) else {
            // Nobody is to wait for who has no handle.
            leave_seat(&shared.publisher, me.id());
            shared.arrived.notify();
            return Err(AttachError::Corrupt);
        };
        let count = broadcast.cells.count();
        let is_lossy = broadcast.cells.is_lossy();
        let mut cursor = Cursor {
            shared: shared.clone(),
            rows: broadcast.rows.clone(),
            member: me.clone(),
            fork: ForkGuard::new(),
            count,
            place: Place::of(number, count),
            limit: if is_lossy { u64::MAX } else { number },
            horizon: 0,
            watches: Vec::new(),
            not_sync: PhantomData,
        };
        shared.arrived.notify();
        if !is_lossy {
            // Whatever `horizon` was, it makes sense now.
            cursor.look_for_room();
        }
        Ok(Publisher { cells: broadcast.cells.clone(), cursor })
    }

    /// Records that were ever published: the number of the next one. Of a publisher that takes over
    /// from a dead one: so many of its predecessors' are there.
    pub fn published(&self) -> u64 {
        self.cursor.place.number
    }

    /// The longest record, in bytes.
    pub fn record_bytes(&self) -> usize {
        self.cells.record_bytes()
    }

    /// Publishes a record, if no subscriber holds it back; `false` where one does, be it for the
    /// moment in which it subscribes. Those of a lossy broadcast never do, nor do the dead.
    ///
    /// # Errors
    /// [`PublishError::TooLong`], [`PublishError::Forked`].
    ///
    /// # If a process dies here
    /// The record is there as a whole, for all, or not at all.
    #[inline]
    pub fn try_publish(&mut self, record: &[u8]) -> Result<bool, PublishError> {
        self.check(record.len())?;
        let has_room = self.cursor.has_room();
        if has_room {
            self.put(record);
        }
        Ok(has_room)
    }

    /// Publishes a record, waiting until `deadline`, or as long as it takes, for who has not read
    /// the one whose cell it needs. Whoever dies meanwhile is waited for no more.
    ///
    /// # Errors
    /// [`PublishError`].
    ///
    /// # If a process dies here
    /// As in [`try_publish`](Publisher::try_publish).
    #[inline]
    pub fn publish(
        &mut self,
        record: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), PublishError> {
        self.check(record.len())?;
        if !self.cursor.has_room() {
            self.cursor.wait_for_room(deadline)?;
        }
        self.put(record);
        Ok(())
    }

    /// Lends the cell of a record of `len` bytes, to be written where it lies; `None` where a
    /// subscriber holds it back. In a lossy broadcast, where others may be reading the record that
    /// was there, it is written in private memory and copied.
    ///
    /// # Errors
    /// As [`try_publish`](Publisher::try_publish).
    ///
    /// # If a process dies here
    /// There is no such record.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Option<Draft<'_, T>>, PublishError> {
        self.check(len)?;
        if !self.cursor.has_room() {
            return Ok(None);
        }
        let bytes = if self.cells.is_in_place() {
            let at = self.cursor.place;
            self.cells.begin(at);
            // SAFETY: all have read the cell, and none looks again before it is published, after
            // the draft.
            Lent::InPlace(unsafe { self.cells.draft(at, len) })
        } else {
            Lent::Private(vec![0; len])
        };
        Ok(Some(Draft { bytes, len, cells: &self.cells, cursor: &mut self.cursor }))
    }

    /// Room for a record, to wait for in a [`WaitSet`](crate::waitset::WaitSet).
    pub fn space(&mut self) -> Space<'_, T> {
        Space { publisher: self }
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), PublishError> {
        if self.cursor.fork.check().is_err() {
            return Err(PublishError::Forked);
        }
        let largest = self.cells.record_bytes();
        if len > largest { Err(PublishError::TooLong { len, largest }) } else { Ok(()) }
    }

    #[inline]
    fn put(&mut self, record: &[u8]) {
        let at = self.cursor.place;
        self.cells.begin(at);
        // SAFETY: we are the publisher, and `has_room`.
        unsafe { self.cells.write(at, record) };
        self.cursor.step(&self.cells, record.len());
    }
}

/// Ready where [`try_publish`](Publisher::try_publish) takes a record, or says why not: made by
/// [`Publisher::space`]. A lossy broadcast always has room.
#[derive(Debug)]
pub struct Space<'p, T: OneMapping = Crashing> {
    publisher: &'p mut Publisher<T>,
}

impl<T: OneMapping> Source for Space<'_, T> {
    fn is_ready(&mut self) -> bool {
        let cursor = &mut self.publisher.cursor;
        cursor.fork.check().is_err() || cursor.is_ready()
    }

    sleeps_by!(publisher.cursor);
}

/// Finds out how far the last publisher was, and says so.
fn go_on<T: OneMapping>(broadcast: &Broadcast<T>) -> Option<u64> {
    let (mut number, mark) = broadcast.said()?;
    number += u64::from(mark == Mark::there(number));
    let cells = broadcast.cells.count();
    let mark = broadcast.cells.look(Place::of(number, cells));
    let before = number.checked_sub(cells).map_or(Mark::EMPTY, Mark::there);
    if mark != before && mark != Mark::writing(number) {
        return None;
    }
    // Pairs with the Acquire in `Broadcast::said`: the records before. Who subscribes compares
    // `horizon` with it.
    broadcast.shared.published.store(number, Ordering::Release);
    Some(number)
}

impl Cursor {
    #[inline]
    fn has_room(&mut self) -> bool {
        self.place.number < self.limit || self.look_for_room()
    }

    /// Looks how far the subscribers are, past those who are dead: whether there is room.
    #[cold]
    fn look_for_room(&mut self) -> bool {
        let (number, horizon) = (self.place.number, self.place.number + stride(self.count));
        if self.horizon != horizon {
            // Pairs with the Release in `open_row`: who has opened a row. What was published
            // before, its Acquire has by the fence in `notify`, which comes after each record.
            self.shared.horizon.swap(horizon, Ordering::Acquire);
            self.horizon = horizon;
        }
        // Each time but the last a row is freed that belonged to a dead one.
        for _ in 0..=self.rows.len() {
            let (limit, slowest) = look_at_rows(&self.rows, number, horizon, self.count);
            self.limit = limit;
            match slowest {
                Some(slowest) if limit == number && self.is_dead(slowest) => {
                    free_dead(&self.rows, slowest);
                }
                _ => return number < limit,
            }
        }
        false
    }

    /// Whether who holds us back is dead. If not, its death will wake us.
    ///
    /// Those that are slow by turns are each watched for longer: a new watch asks the kernel.
    fn is_dead(&mut self, slowest: ParticipantId) -> bool {
        let at = self.watches.iter().position(|watch| watch.peer() == slowest);
        let at = at.unwrap_or_else(|| {
            // Some have left since.
            if self.watches.len() >= self.rows.len() {
                self.watches.clear();
            }
            self.watches.push(self.member.watch(slowest));
            self.watches.len() - 1
        });
        self.watches.swap(0, at);
        self.watches[0].is_dead()
    }

    /// Who holds us back, to sleep on its life.
    fn living(&self) -> Option<&Watch> {
        self.watches.first().filter(|watch| !watch.is_dead())
    }

    #[cold]
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), PublishError> {
        let look = |cursor: &mut Self, _| cursor.has_room().then_some(());
        look_until(self, |cursor| cursor, deadline, look).ok_or(PublishError::TimedOut)
    }

    /// The bytes of a record have been written: lets all see it.
    #[inline]
    fn step<T: Trust>(&mut self, cells: &Cells<T>, len: usize) {
        cells.publish(self.place, len);
        // Who comes after us looks one record beyond the number, not two.
        in_program_order();
        self.place = self.place.next(self.count);
        // Pairs with the Acquire in `Broadcast::said`: the records before.
        self.shared.published.store(self.place.number, Ordering::Release);
        in_program_order();
        self.shared.arrived.notify();
    }
}

/// Ready where there is room. A subscriber that reads wakes us without a fence, and may miss us: we
/// look again soon.
impl Source for Cursor {
    fn is_ready(&mut self) -> bool {
        self.has_room()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.shared.left)
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.living());
    }

    fn sleep_max(&self) -> Option<Duration> {
        Some(LOOKED_EVERY)
    }
}

impl Drop for Cursor {
    /// Gives the role back.
    ///
    /// # If a process dies here
    /// As if it had died before.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            leave_seat(&self.shared.publisher, self.member.id());
            self.shared.arrived.notify();
        }
    }
}

impl<T: OneMapping> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("published", &self.published()).finish()
    }
}

/// A record that is not published yet. Dropped, it never is; where it was written in place, the
/// record that was in its cell is gone.
#[must_use = "it is published by `commit`"]
pub struct Draft<'p, T: OneMapping = Crashing> {
    bytes: Lent<'p>,
    len: usize,
    cells: &'p Cells<T>,
    cursor: &'p mut Cursor,
}

impl<T: OneMapping> Draft<'_, T> {
    /// Publishes the record. In a forked child, which has the cell of its parent, it does nothing.
    ///
    /// # If a process dies here
    /// The record is there as a whole, for all, or not at all.
    #[inline]
    pub fn commit(self) {
        if self.cursor.fork.check().is_err() {
            return;
        }
        match self.bytes {
            Lent::InPlace(draft) => draft.finish(),
            Lent::Private(bytes) => {
                self.cells.begin(self.cursor.place);
                // SAFETY: we are the publisher, and there was room.
                unsafe { self.cells.write(self.cursor.place, &bytes) }
            }
        }
        self.cursor.step(self.cells, self.len);
    }
}

impl<T: OneMapping> Deref for Draft<'_, T> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> DerefMut for Draft<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Draft<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("len", &self.len).finish_non_exhaustive()
    }
}
