//! `Member`: this process's seat.
use super::claim::{Claim, Seat};
use super::id::{Generation, ParticipantId};
use super::keeper::Keeper;
use super::watch::Watch;
use super::{SLOTS_MAX, Table, model_unwinds};
use crate::futex::waitv_works;
use crate::process::{ForkGuard, Forked, Namespaces, ProcessId};
use crate::sync::{Ordering, fence};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

/// How a member sleeps where it waits for an event and for peers at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiting {
    /// On all the words at once (`futex_waitv`): a death wakes it.
    Waitv,
    /// On the event, for 100 ms at a time, and looks at the peers in between.
    Bounded,
}

/// What may be chosen when joining.
#[derive(Clone, Copy, Default, Debug)]
pub struct JoinOptions {
    /// How to wait. By default what the environment variable `SHM_WAITING` says (`waitv`,
    /// `bounded`), or else [`Waiting::Waitv`] where the system can.
    pub waiting: Option<Waiting>,
}

impl JoinOptions {
    fn waiting(self) -> Waiting {
        let asked = || match std::env::var("SHM_WAITING").as_deref() {
            Ok("waitv") => Some(Waiting::Waitv),
            Ok("bounded") => Some(Waiting::Bounded),
            _ => None,
        };
        match self.waiting.or_else(asked) {
            Some(Waiting::Bounded) => Waiting::Bounded,
            _ if waitv_works() => Waiting::Waitv,
            _ => Waiting::Bounded,
        }
    }
}

/// Why a process could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// All slots are taken by living processes.
    #[error(
        "all {slots} participant slots are in use; let a process leave, or create the domain with \
         more slots (at most {SLOTS_MAX})"
    )]
    Full {
        /// How many there are.
        slots: u32,
    },
    /// The table belongs to another namespace.
    #[error(
        "this process lives in other pid or time namespaces ({mine:?}) than the participant table \
         ({table:?}); run all processes of a domain in the same ones"
    )]
    OtherNamespace {
        /// The caller's.
        mine: Namespaces,
        /// The table's.
        table: Namespaces,
    },
    /// `/proc` does not say who we are.
    #[error(
        "cannot tell from /proc who this process is: {0}; \
         mount it, or free a descriptor (ulimit -n)"
    )]
    Proc(io::Error),
    /// No thread for the life word.
    #[error(
        "cannot start the thread that holds this process's life word (a limit on threads, \
         RLIMIT_NPROC or the cgroup's pids.max?): {0}"
    )]
    Keeper(io::Error),
}

type Cleanup = Box<dyn FnOnce(ParticipantId) + Send>;

/// This process's seat in the table; it leaves when the last reference is dropped.
///
/// All threads of the process may use it. A forked child may not:
/// [`check_fork`](Member::check_fork).
pub struct Member {
    table: Table,
    id: ParticipantId,
    process: ProcessId,
    waiting: Waiting,
    guard: ForkGuard,
    keeper: Option<Keeper>,
    on_leave: Mutex<Vec<Cleanup>>,
}

impl Table {
    /// Takes a seat. Where all are taken, those of the dead are freed first.
    ///
    /// For a table that stands alone. Where others keep things under participants' ids, use
    /// [`join_with`](Table::join_with), so that they are cleaned up before a seat is used again.
    ///
    /// # Errors
    /// [`JoinError`].
    ///
    /// # If a process dies here
    /// The slot names it, and is reaped.
    pub fn join(&self) -> Result<Arc<Member>, JoinError> {
        self.join_with(JoinOptions::default(), |_| ())
    }

    /// As [`join`](Table::join), with options, and with what [`reap`](Table::reap) is to run.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join_with(
        &self,
        options: JoinOptions,
        cleanup: impl FnMut(ParticipantId),
    ) -> Result<Arc<Member>, JoinError> {
        let mine = Namespaces::mine().map_err(JoinError::Proc)?;
        if mine != self.namespaces() {
            return Err(JoinError::OtherNamespace { mine, table: self.namespaces() });
        }
        // Whoever attached may not have been told where it lives, or have been our parent.
        let table = self.at_home();
        let process = ProcessId::try_me().map_err(JoinError::Proc)?;
        let joining = Claim::new(Seat::Joining, process);
        let index = match self.take_free(joining) {
            Some(index) => index,
            None => {
                table.reap(cleanup);
                self.take_free(joining).ok_or(JoinError::Full { slots: self.capacity() })?
            }
        };
        let slot = &self.slots()[index];
        let generation = Generation::from_word(slot.generation.load(Ordering::Relaxed));
        let keeper = Keeper::hold(self.slots(), index).map_err(|e| {
            slot.vacate(joining);
            JoinError::Keeper(e)
        })?;
        // Pairs with the Acquire in `Table::liveness`: the generation we found before our claim.
        slot.claim.store(Claim::new(Seat::Live, process).to_bits(), Ordering::Release);
        // Pairs with the fences in `Table::liveness` and `Watch::new`: who sees what we write from
        // now on, our name for instance, sees that we have a seat.
        fence(Ordering::Release);
        Ok(Arc::new(Member {
            table,
            id: ParticipantId::new(index as u32, generation),
            process,
            waiting: options.waiting(),
            guard: ForkGuard::new(),
            keeper,
            on_leave: Mutex::default(),
        }))
    }

    fn take_free(&self, joining: Claim) -> Option<usize> {
        let (free, joining) = (Claim::FREE.to_bits(), joining.to_bits());
        self.slots().iter().position(|slot| {
            // Pairs with the Release in `vacate`: the slot's last user and its cleaning up are
            // over.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            slot.claim.load(Ordering::Relaxed) == free
                && slot.claim.compare_exchange(free, joining, ok, err).is_ok()
        })
    }
}

impl Member {
    /// What others know this process by.
    pub fn id(&self) -> ParticipantId {
        self.id
    }

    /// The table it sits in.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The process that joined.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// How this member waits for peers.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Whether the caller is the process that joined: asked by every handle that acts in its name.
    ///
    /// # Errors
    /// [`Forked`] in a forked child, which has no seat and may join for itself.
    #[inline]
    pub fn check_fork(&self) -> Result<(), Forked> {
        self.guard.check()
    }

    /// Has `cleanup` run when this member leaves, while the slot still names it; the last one
    /// first.
    ///
    /// It must not hold a reference to this member, which would then never leave.
    pub fn on_leave(&self, cleanup: impl FnOnce(ParticipantId) + Send + 'static) {
        let mut list = self.on_leave.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        list.push(Box::new(cleanup));
    }

    /// Watches a peer. One that is not attached (any more) is dead from the beginning.
    pub fn watch(&self, peer: ParticipantId) -> Watch {
        Watch::new(&self.table, peer, self.waiting)
    }
}

impl Drop for Member {
    /// # If a process dies here
    /// The slot still names it. What it had cleaned up is cleaned up once more by the reaper.
    fn drop(&mut self) {
        let cleanups = std::mem::take(
            self.on_leave.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()),
        );
        if model_unwinds() {
            return;
        }
        if self.guard.check().is_err() {
            // The seat is our parent's, and so is the thread.
            std::mem::forget((cleanups, self.keeper.take()));
            return;
        }
        for cleanup in cleanups.into_iter().rev() {
            cleanup(self.id);
        }
        if let Some(slot) = self.table.slot(self.id) {
            slot.vacate(Claim::new(Seat::Live, self.process));
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.release();
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Member { id, process, waiting, .. } = self;
        f.debug_struct("Member")
            .field("id", id)
            .field("process", process)
            .field("waiting", waiting)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use crate::mapping::Mapping;
    use shm_testkit::child::{Child, Setup};
    use std::time::Duration;

    fn table() -> Table {
        let mapping = Mapping::heap(Table::bytes_for(2) as usize);
        // SAFETY: nobody else has the mapping.
        unsafe { Table::create(&mapping, 0, 2) }.unwrap()
    }

    #[test]
    fn a_member_says_who_it_is() {
        let member = table().join().unwrap();
        let (id, process) = (member.id(), member.process());
        let text = format!("{member:?}");
        assert!(
            text.contains(&format!("{id:?}")) && text.contains(&format!("{process:?}")),
            "{text}"
        );
    }

    #[test]
    fn a_seat_that_is_taken_says_so_at_once() {
        let (table, joining) = (table(), Claim::new(Seat::Joining, ProcessId::me()));
        assert_eq!(table.take_free(joining), Some(0));
        assert_eq!(table.slots()[0].claim.load(Ordering::Relaxed), joining.to_bits());
        assert_eq!((table.take_free(joining), table.take_free(joining)), (Some(1), None));
    }

    #[test]
    fn who_panics_leaves_all_the_same() {
        let table = table();
        let member = table.join().unwrap();
        let panics = std::panic::AssertUnwindSafe(move || {
            let _member = member;
            std::panic::resume_unwind(Box::new("in between"));
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert!(table.is_empty());
    }

    fn waits_as_told(told: &[String]) {
        let expected = match (told[0].as_str(), waitv_works()) {
            ("bounded", _) | (_, false) => Waiting::Bounded,
            _ => Waiting::Waitv,
        };
        let table = table();
        assert_eq!(table.join().unwrap().waiting(), expected);
        for waiting in [Waiting::Bounded, expected] {
            let member = table.join_with(JoinOptions { waiting: Some(waiting) }, |_| ()).unwrap();
            assert_eq!(member.waiting(), waiting, "what the program says goes before");
        }
    }
    shm_testkit::children! { waits_as_told }

    #[test]
    fn the_environment_says_how_to_wait() {
        for told in ["bounded", "waitv", "nonsense"] {
            let setup = Setup { args: &[told], env: &[("SHM_WAITING", told)], fds: &[] };
            let mut child = Child::spawn_with("waits_as_told", setup);
            child.wait(Duration::from_secs(60)).assert_success();
        }
    }
}
