//! Who is attached: a table with one slot a participant, and waiting for one that may die.
//!
//! A process that attaches takes a slot and is a [`Member`]; its [`ParticipantId`] (slot and
//! generation) is what every other structure writes where it has to say *whose*. The others ask the
//! table whether an id is still alive, sleep until it is not ([`wait`]), and clean up after the
//! dead ([`Table::reap`]).
//!
//! ```text
//!        claim: state | pid | start time      generation      life word
//! slot 0 [ LIVE    | 4711 | 88812 ]           [ 3 ]           [ 4712 | WAITERS ]  4712: keeper
//! slot 1 [ FREE                   ]           [ 9 ]           [ 0 ]
//! slot 2 [ REAPING | 4711 | 88812 ]           [ 1 ]           [ OWNER_DIED ]      reaped by 4711
//! ```
//!
//! # The claim word
//!
//! It says what the slot is and for whom, in one word, and changes hands by one compare-and-swap.
//!
//! | from | to | by whom | a death leaves |
//! | --- | --- | --- | --- |
//! | FREE | JOINING(me) | anyone | JOINING(dead): reaped; no other process knows the id yet |
//! | JOINING(me) | LIVE(me) | the same | LIVE(dead): reaped |
//! | LIVE(me) | FREE | the same, having cleaned up and bumped the generation | LIVE(dead): reaped |
//! | JOINING, LIVE, REAPING of a dead process | REAPING(me) | anyone who proved the death | REAPING(dead): the next reaper begins anew |
//! | REAPING(me) | FREE | the same, having cleaned up and bumped the generation | FREE |
//!
//! So cleaning up is exclusive (only the process in the claim word does it), is done at least once
//! before the slot is used again, and is begun again where a reaper died of it; therefore it must
//! be idempotent. A reaper that is stopped, not dead, keeps this one slot and nothing else.
//!
//! The generation is bumped *before* the slot is free: once anybody else can have the slot, the old
//! id is nobody's. A process that dies between the two leaves a slot whose reaper bumps again. That
//! is harmless: 1. the old id stays out of date; 2. the id in between was never given out, so its
//! cleaning up finds nothing; 3. the old id's was complete, for it comes before the bump.
//!
//! Generations have 22 bits. An id comes back after 4,194,303 uses of its slot; who keeps one for
//! so long takes another participant for the one it knew.
//!
//! # The life word
//!
//! A robust futex, held by a thread of the member's process that does nothing else (`keeper.rs`).
//! When the thread ends, whatever the cause, the kernel sets `OWNER_DIED` in it and wakes *one*
//! sleeper if `WAITERS` is set. Hence sleepers set `WAITERS` first, and the one who wakes passes it
//! on to all. It may be killed before it has: so every sleep on life words ends after a second and
//! the sleeper asks the kernel itself. That second is the net under a rare double death, and under
//! somebody's scribbling on the word; it is not how deaths are normally noticed. Those who never
//! sleep have their own: [`Watch::is_dead`] asks the kernel every 100 ms, whatever the word says.
//!
//! The mark is a hint, never the verdict: it appears when the keeper thread ends, and then another
//! thread of the dying process may still be executing, or the process may have called `exec`, which
//! ends all other threads. The verdict is
//! [`ProcessId::liveness`](crate::process::ProcessId::liveness). A process that `exec`s keeps its
//! seat until it ends.
//!
//! Kernels without `futex_waitv`, or without robust futexes, get bounded sleeps and look at the
//! pid in between ([`Waiting::Bounded`]).
//!
//! # Limits
//!
//! A table is for processes of one pid namespace and one time namespace, for pids and start times
//! mean something else in another; joining from there is refused. At most [`SLOTS_MAX`] slots.

mod claim;
mod id;
#[cfg_attr(shm_loom, path = "keeper_modelled.rs")]
#[cfg_attr(shm_explore, path = "keeper_explored.rs")]
mod keeper;
mod member;
mod reap;
#[cfg_attr(any(shm_loom, shm_explore), path = "recheck_modelled.rs")]
mod recheck;
mod shared;
mod sleep;
mod table;
mod watch;

pub use claim::Seat;
pub use id::{ParticipantId, SLOTS_MAX};
pub use member::{JoinError, JoinOptions, Member, Waiting};
pub use sleep::{Night, Outcome, Sleeper, wait};
pub use table::{ParticipantInfo, Table, TableError};
pub use watch::Watch;

pub(crate) use recheck::Recheck;

#[cfg(shm_loom)]
pub use keeper::process_ends;

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}
