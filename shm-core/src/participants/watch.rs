//! Watching somebody who may die.
use super::Table;
use super::claim::{Claim, Seat};
use super::id::ParticipantId;
use super::member::Waiting;
use super::recheck::Recheck;
use super::shared::{Life, Slot};
use crate::futex::Futex;
use crate::process::{Liveness, ProcessHandle, ProcessId};
use crate::sync::{Ordering, fence};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// So long one that is marked is waited for, which ends within moments.
const MARKED_MAX: Duration = Duration::from_millis(1);

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
pub(super) enum Armed<'a> {
    Gone,
    Word(&'a Futex, u32),
    /// Nothing that would change at its death.
    Doubtful,
}

impl Watch {
    pub(super) fn new(table: &Table, peer: ParticipantId, waiting: Waiting) -> Watch {
        // Pairs with the fence in `Table::join_with`, as that in `Table::liveness` does.
        fence(Ordering::Acquire);
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
    pub(super) fn is_proved_dead(&self) -> bool {
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
            handle.wait_dead(Some(Instant::now() + MARKED_MAX));
        }
        self.is_proved_dead()
    }

    /// Its slot, unless we know already that it is gone.
    fn slot(&self) -> Option<&Slot> {
        self.process?;
        if self.gone.get().is_some() { None } else { self.table.slot(self.peer) }
    }

    /// Whether who watches can sleep on several words at once.
    pub(super) fn has_waitv(&self) -> bool {
        self.waiting == Waiting::Waitv
    }

    /// Makes sure that the peer's death will wake a sleeper on the word returned.
    pub(super) fn arm(&self) -> Armed<'_> {
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

    /// After a sleep by other means than [`Night::sleep`](super::Night::sleep): the kernel wakes
    /// one sleeper for a death, and that may have been us. Wakes the others.
    pub fn pass_on(&self) {
        if let Some(slot) = self.slot()
            && !self.life(slot).is_some_and(Life::is_held)
        {
            slot.life.wake_all();
        }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
pub(super) mod tests {
    use super::super::Member;
    use super::super::member::JoinOptions;
    use super::*;
    use crate::futex::Wake;
    use crate::mapping::Mapping;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    const LIMIT: Duration = Duration::from_secs(30);
    const HELD: u32 = 4711;

    pub(in super::super) fn table() -> Table {
        let mapping = Mapping::heap(Table::bytes_for(2) as usize);
        // SAFETY: nobody else has the mapping.
        unsafe { Table::create(&mapping, 0, 2) }.unwrap()
    }

    pub(in super::super) fn join(table: &Table, waiting: Waiting) -> Arc<Member> {
        table.join_with(JoinOptions { waiting: Some(waiting) }, |_| ()).unwrap()
    }

    /// Who has the pid of this process, and began before it.
    fn dead() -> ProcessId {
        let me = ProcessId::me();
        ProcessId::new(me.pid(), me.start_ticks() - 1).unwrap()
    }

    /// A dead process's seat, and a life word that looks held all the same.
    pub(in super::super) fn watch_of_the_dead(table: &Table, waiting: Waiting) -> Watch {
        let id = ParticipantId::from_bits(1 << 22 | 1).unwrap();
        let slot = table.slot(id).unwrap();
        slot.claim.store(Claim::new(Seat::Live, dead()).to_bits(), Ordering::Relaxed);
        slot.life.word().store(HELD, Ordering::Relaxed);
        Watch::new(table, id, waiting)
    }

    #[test]
    fn who_sleeps_leaves_a_sign_in_the_life_word() {
        let table = table();
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let watch = me.watch(peer.id());
        let life = &watch.slot().unwrap().life;
        let signed = life.load(Ordering::Relaxed) | Life::WAITERS;
        for _ in 0..2 {
            let Armed::Word(word, expected) = watch.arm() else { panic!("it lives, and is held") };
            assert!(std::ptr::eq(word, life));
            assert_eq!((expected, life.load(Ordering::Relaxed)), (signed, signed));
        }
    }

    #[test]
    fn a_mark_or_none_at_all_leaves_a_doubt() {
        let table = table();
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let watch = me.watch(peer.id());
        for life in [0, Life::WAITERS, libc::FUTEX_OWNER_DIED] {
            watch.slot().unwrap().life.word().store(life, Ordering::Relaxed);
            assert!(matches!(watch.arm(), Armed::Doubtful), "{life:x}");
            assert!(!watch.is_dead() && !watch.is_dead_soon(), "{life:x}");
        }
        drop(peer);
        assert!(matches!(watch.arm(), Armed::Gone));
    }

    #[test]
    fn a_dead_one_is_gone_with_a_mark_and_without() {
        for life in [0, libc::FUTEX_OWNER_DIED] {
            let watch = watch_of_the_dead(&table(), Waiting::Bounded);
            watch.slot().unwrap().life.word().store(life, Ordering::Relaxed);
            assert!(matches!(watch.arm(), Armed::Gone), "{life:x}");
        }
        assert!(watch_of_the_dead(&table(), Waiting::Bounded).is_dead_soon());
    }

    #[test]
    fn a_living_one_is_given_a_moment_to_end() {
        let table = table();
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let (watch, before) = (me.watch(peer.id()), Instant::now());
        assert!(!watch.is_dead_soon());
        // Where there are no pidfds there is nothing to wait on.
        let can_wait = ProcessHandle::open(peer.process()).is_ok();
        assert!(!can_wait || before.elapsed() >= MARKED_MAX);
    }

    #[test]
    fn who_asks_for_the_first_time_does_not_trust_the_life_word() {
        assert!(watch_of_the_dead(&table(), Waiting::Bounded).is_dead());
    }

    #[test]
    fn who_has_left_is_dead_at_once() {
        let table = table();
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let watch = me.watch(peer.id());
        assert_eq!((watch.peer(), watch.process()), (peer.id(), Some(peer.process())));
        assert!(!watch.is_dead(), "and the kernel has just been asked");
        drop(peer);
        assert!(watch.is_dead());
    }

    #[test]
    fn whoever_is_woken_passes_it_on() {
        let table = table();
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let watch = me.watch(peer.id());
        let life = &watch.slot().unwrap().life;
        let (marked, ended) = (libc::FUTEX_OWNER_DIED, AtomicBool::new(false));
        life.word().store(marked, Ordering::Relaxed);
        assert!(!Life(marked).is_held());
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let woken = life.wait(marked, Some(Instant::now() + LIMIT));
                ended.store(true, Ordering::Relaxed);
                woken
            });
            while !ended.load(Ordering::Relaxed) {
                watch.pass_on();
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(sleeper.join().unwrap(), Wake::Woken);
        });
    }
}
