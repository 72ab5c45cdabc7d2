//! The explorer: the code that ships, under every schedule of a small case, with deaths, stops and
//! lies.
//!
//! ```text
//!   state = memory + kernel + one log a process
//!     │
//!     ├─ a process makes its next access        (and, told a lie, the same access again)
//!     ├─ a sleep with a limit ends
//!     ├─ a process is killed; its life words are marked; it is certainly dead
//!     ▼
//!   next state, unless it was there before
//! ```
//!
//! **A process is the log of the values that its accesses returned.** To take one step, the memory
//! is put back as it was in that state and the process's action is run from its start: its accesses
//! are answered from the log and touch nothing, until the log is used up; then one new access takes
//! place, and at the next one the process is stopped by an unwind. Its destructors run, without any
//! effect. So no process needs a stack of its own, a state is a few hundred bytes that can be
//! hashed, and whichever schedule leads to it, it is visited once.
//!
//! What is tried from each state: every process's next step; with a budget of *deaths*, the death
//! of each mortal process; with a budget of *lies*, the next load's returning one of a few values
//! that do not stand there, as if a peer had written them. A process that is stopped for ever is
//! one that is not scheduled, so it needs no edge; instead every process is run alone from every
//! state, and has to end its action within a bound, or to wait for somebody.
//!
//! What is found: a panic; an access outside of the [`Arena`]s; a process that cannot end alone; a
//! state in which all who live wait; a [check](Scenario::check) that fails at an end. The schedule
//! that led there is printed.
//!
//! **What is left out without loss.** A load of a word that nobody changes in the whole exploration
//! finds the same whenever it is made, and is no step of its own. Which words these are is found
//! out by trying: where one of them does change, the exploration begins anew and knows better.
//! (With lies every load is a step.) What is still too large can be [bounded by the number of
//! interruptions](Scenario::preemptions_at_most), or [by that of
//! states](Scenario::states_at_most), and then the figures say so.
//!
//! What it does not see: weak memory. All is sequentially consistent here; models under loom look
//! at orderings.
//!
//! A user's structure is explored as ours are: its atomics come from here under a `cfg` of its own,
//! and waiting goes through [`kernel`] or [`yield_now`].
//!
//! ```
//! use shm_testkit::explore::{Arena, AtomicU64, Process, Scenario};
//! use std::sync::atomic::Ordering::Relaxed;
//!
//! let arena = Arena::new(8);
//! // SAFETY: 8 bytes, aligned, that live as long as the arena.
//! let count = unsafe { AtomicU64::from_ptr(arena.base().cast().as_ptr()) };
//! let adds = |name| {
//!     Process::new(name, |_| {
//!         count.fetch_add(1, Relaxed);
//!     })
//! };
//! let explored = Scenario::new("count", "two add")
//!     .process(adds("A"))
//!     .process(adds("B"))
//!     .check(|_| assert_eq!(count.load(Relaxed), 2))
//!     .explore();
//! assert_eq!(explored.states, 4);
//! ```
mod arena;
mod atomic;
pub mod kernel;
mod run;
mod scenario;
mod search;
mod state;
mod trace;

pub use crate::depth::is_deep;
pub use arena::Arena;
pub use atomic::{AtomicU8, AtomicU32, AtomicU64, fence, place};
pub use run::{Me, is_after_a_lie, is_exploring, spin_loop, yield_now};
pub use scenario::{End, Explored, Process, Scenario, finds};
