//! Waiting for somebody who may die.
use super::Table;
use super::claim::{Claim, Seat};
use super::id::ParticipantId;
use super::member::Waiting;
use super::recheck::Recheck;
use super::shared::{Life, Slot};
use crate::event::{EventCount, Ticket};
use crate::futex::{Futex, WAIT_WORDS_MAX, Wake};
use crate::process::{Liveness, ProcessHandle, ProcessId};
use crate::sync::Ordering;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A sleep on life words lasts at most so long; then the sleeper asks the kernel about its peers.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The same for one who cannot sleep on life words.
const BOUNDED_SLEEP_MAX: Duration = Duration::from_millis(100);
/// Where a peer is marked but not dead yet, or has no life word; doubles up to the bounded sleep.
const DOUBTFUL_SLEEP_MIN: Duration = Duration::from_millis(1);

/// A peer, watched. Costs no file descriptor.
#[derive(Debug)]
pub struct Watch {
    table: Table,
    peer: ParticipantId,
    /// Taken once; later scribbles on the claim word do not matter. `None`: it was not there.
    process: Option<ProcessId>,
    waiting: Waiting,
    /// Set once the peer was found dead: it stays so.
    gone: OnceLock<()>,
    /// The net under a mark that is missing, for those who only ask and never sleep.
    recheck: Recheck,
}

/// What there is to sleep on.
enum Armed<'a> {
    Gone,
    Word(&'a Futex, u32),
    /// Nothing that would change at its death.
    Doubtful,
}

impl Watch {
    pub(super) fn new(table: &Table, peer: ParticipantId, waiting: Waiting) -> Watch {
        let process = table.slot(peer).and_then(|slot| {
            // Pairs with the Releases that `Table::liveness` names.
            let claim = Claim::from_bits(slot.claim.load(Ordering::Acquire));
            let here = slot.is_still(peer) && claim.seat() == Seat::Live;
            claim.process().filter(|_| here)
        });
        let (gone, recheck) = (OnceLock::new(), Recheck::new());
        Watch { table: table.clone(), peer, process, waiting, gone, recheck }
    }

    /// Who is watched.
    pub fn peer(&self) -> ParticipantId {
        self.peer
    }

    /// Its process, if it was attached when the watch was made.
    pub fn process(&self) -> Option<ProcessId> {
        self.process
    }

    /// Whether the peer will never act again under its id: its process is dead, or it has left.
    ///
    /// Never guessed, and what the peer did last is visible to the caller. A few loads and a look
    /// at a coarse clock while the life word is held and unmarked; ten times a second the kernel is
    /// asked all the same, for the mark may be missing.
    pub fn is_dead(&self) -> bool {
        let Some(slot) = self.slot() else { return true };
        let trusted = self.life(slot).is_some_and(Life::is_held) && !self.recheck.is_due();
        !trusted && self.is_proved_dead()
    }

    /// The peer's life word; `None` where the slot is not the peer's any more.
    fn life(&self, slot: &Slot) -> Option<Life> {
        // Pairs with the Release of the slot's next user (`Keeper`): who sees that one's word sees
        // that the peer has gone.
        let life = Life(slot.life.load(Ordering::Acquire));
        slot.is_still(self.peer).then_some(life)
    }

    /// As [`is_dead`](Watch::is_dead), without trusting the life word.
    fn is_proved_dead(&self) -> bool {
        let dead = match (self.slot(), self.process) {
            (Some(slot), Some(process)) => {
                !slot.is_still(self.peer) || self.table.certify(process) == Liveness::Dead
            }
            _ => true,
        };
        if dead {
            let _ = self.gone.set(());
        }
        dead
    }

    /// A marked process ends within moments, unless it called `exec`: gives it those moments.
    fn is_dead_soon(&self) -> bool {
        if let Some(Ok(handle)) = self.process.map(ProcessHandle::open) {
            handle.wait_dead(Some(Instant::now() + DOUBTFUL_SLEEP_MIN));
        }
        self.is_proved_dead()
    }

    /// Its slot, unless we know already that it is gone.
    fn slot(&self) -> Option<&Slot> {
        self.process?;
        if self.gone.get().is_some() { None } else { self.table.slot(self.peer) }
    }

    /// Makes sure that the peer's death will wake a sleeper on the word returned.
    fn arm(&self) -> Armed<'_> {
        let Some(slot) = self.slot() else { return Armed::Gone };
        let Some(life) = self.life(slot) else { return Armed::Gone };
        if !life.is_held() {
            let dead = self.is_proved_dead() || (life.is_marked() && self.is_dead_soon());
            return if dead { Armed::Gone } else { Armed::Doubtful };
        }
        let armed = life.0 | Life::WAITERS;
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        if life.has_sleepers() || slot.life.word().compare_exchange(life.0, armed, ok, err).is_ok()
        {
            return Armed::Word(&slot.life, armed);
        }
        // It has just changed: look again soon.
        Armed::Doubtful
    }

    /// The kernel wakes one sleeper for a death, and that may have been us: wake the others.
    fn pass_on(&self) {
        if let Some(slot) = self.slot()
            && !self.life(slot).is_some_and(Life::is_held)
        {
            slot.life.wake_all();
        }
    }
}

/// Why [`wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The event was notified, or a peer is dead, or for no reason: look again.
    Woken,
    /// The deadline passed.
    TimedOut,
}

/// Sleeps on an event and on peers' lives at once: the one way to wait for somebody.
///
/// [`EventCount::prepare`], look at the condition, ask each peer's [`Watch::is_dead`], then wait
/// with the ticket; after that look again.
///
/// ```
/// use shm_core::event::EventCount;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::{Outcome, Table, wait};
///
/// let mapping = Mapping::heap(Table::bytes_for(2) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// let (me, peer) = (table.join().unwrap(), table.join().unwrap());
/// let watch = me.watch(peer.id());
/// let event = EventCount::new();
/// let leaving = std::thread::spawn(move || drop(peer));
/// while !watch.is_dead() {
///     let ticket = event.prepare();
///     assert_eq!(wait(&event, ticket, &[&watch], None), Outcome::Woken);
/// }
/// leaving.join().unwrap();
/// ```
///
/// # If a process dies here
/// It leaves a bit in the event and in life words that says "somebody sleeps": a wake-up in vain.
pub fn wait(
    event: &EventCount,
    ticket: Ticket,
    peers: &[&Watch],
    deadline: Option<Instant>,
) -> Outcome {
    let waitv =
        peers.iter().all(|peer| peer.waiting == Waiting::Waitv) && peers.len() < WAIT_WORDS_MAX;
    let mut words = Vec::with_capacity(peers.len());
    let mut doubtful_sleep = DOUBTFUL_SLEEP_MIN;
    loop {
        words.clear();
        let mut sleep = if waitv { SLEEP_MAX } else { BOUNDED_SLEEP_MAX };
        for peer in peers {
            match peer.arm() {
                Armed::Gone => return Outcome::Woken,
                Armed::Word(futex, expected) => words.push((futex, expected)),
                Armed::Doubtful => sleep = doubtful_sleep,
            }
        }
        if !waitv {
            words.clear();
        }
        let until = end(sleep, peers, deadline);
        let wake = event.wait_any(ticket, &words, until);
        peers.iter().for_each(|peer| peer.pass_on());
        if wake == Wake::Woken || peers.iter().any(|peer| peer.is_proved_dead()) {
            return Outcome::Woken;
        }
        // Where the sleep was to last until then, the clock need not be asked; a model has none.
        if until == deadline || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Outcome::TimedOut;
        }
        doubtful_sleep = (doubtful_sleep * 2).min(BOUNDED_SLEEP_MAX);
    }
}

/// When to stop sleeping: a caller without peers has nobody to look after.
fn end(sleep: Duration, peers: &[&Watch], deadline: Option<Instant>) -> Option<Instant> {
    // A model's kernel has no clock, and its double deaths are tried without this net.
    if peers.is_empty() || (cfg!(any(shm_loom, shm_explore)) && sleep == SLEEP_MAX) {
        return deadline;
    }
    let slice = Instant::now() + sleep;
    Some(deadline.map_or(slice, |deadline| deadline.min(slice)))
}
