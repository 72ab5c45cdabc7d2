//! What a model of shared memory needs beyond loom: death at any access, and a proof that each
//! ordering matters.
//!
//! Only under `--cfg shm_loom`, in `RUSTFLAGS`. The structure under test takes its atomics from one
//! module of its own: core's in production, [`AtomicU32`], [`AtomicU64`] and [`fence`] of this one
//! in models. They are loom's, with a shadow access per word (see [`without_shadow`]), a note of
//! each ordering used, and death.
//!
//! A modelled process is a [`thread`] whose body runs inside [`mortal`]: after `fuel` accesses it
//! unwinds, and from then on nothing it does has an effect, destructors included, as after SIGKILL.
//! [`every_death`] sweeps the fuel from 0 until no schedule runs out of it; [`every_death_of`] does
//! so for each of several processes, [`every_two_deaths`] for each two at once.
//! [`every_ordering_matters`] reruns a model once per ordering site with that site weakened, and
//! reports the sites whose weakening no run noticed. [`finds`] holds a checker to its planted bugs.
//!
//! ```
//! # #[cfg(not(shm_shuttle))] {
//! use shm_testkit::model::{self, AtomicU32, Deaths, UnsafeCell};
//! use std::sync::Arc;
//! use std::sync::atomic::Ordering::{Acquire, Release};
//!
//! /// A value that is there once `full` is 1.
//! struct Slot {
//!     full: AtomicU32,
//!     value: UnsafeCell<u64>,
//! }
//! // SAFETY: loom checks that `full` orders the accesses to `value`.
//! unsafe impl Sync for Slot {}
//!
//! /// The writer may die at any access; what the reader finds is whole.
//! fn published(fuel: u32, deaths: &Deaths) {
//!     let slot = Arc::new(Slot { full: AtomicU32::new(0), value: UnsafeCell::new(0) });
//!     let (theirs, deaths) = (slot.clone(), deaths.clone());
//!     let writer = model::thread::spawn(move || {
//!         let end = model::mortal(fuel, || {
//!             // SAFETY: not published yet.
//!             theirs.value.with_mut(|value| unsafe { *value = 7 });
//!             theirs.full.store(1, Release);
//!         });
//!         if end.is_none() {
//!             deaths.died();
//!         }
//!     });
//!     if slot.full.load(Acquire) == 1 {
//!         // SAFETY: published, and never written again.
//!         assert_eq!(slot.value.with(|value| unsafe { *value }), 7);
//!     }
//!     writer.join().unwrap();
//! }
//!
//! let tried = model::every_death(published);
//! assert!(tried.deaths > 0);
//! let found = model::every_ordering_matters(&[file!()], || {
//!     model::check(|| published(u32::MAX, &Deaths::default()));
//! });
//! assert_eq!(found, 2, "the Release, and the Acquire");
//! # }
//! ```
//!
//! loom tries everything, and so cannot finish with many processes or many messages. With
//! `--cfg shm_shuttle` besides, the same code runs under shuttle: `sample` tries random schedules
//! with random deaths, of memory that is sequentially consistent, and prints the seed.
//!
//! Modules, lowest first; each uses only those above it.

// `mortal`: a process that dies at its n-th access.
mod death;

// What a run tells; `finds`.
mod run;

// `every_ordering_matters`: each ordering weakened, and the model fails.
#[cfg_attr(shm_shuttle, path = "orders_ignored.rs")]
mod orders;

// The atomics: of the runtime, with shadow, notes and death.
mod atomic;

// Payload, where the runtime has no cell of its own.
#[cfg(shm_shuttle)]
mod cell;

// `check`, `every_death`: every interleaving.
#[cfg(not(shm_shuttle))]
mod exhaustive;

// `sample`: a choice of them, where there are too many.
#[cfg(shm_shuttle)]
mod sampled;

pub use atomic::{AtomicU32, AtomicU64, fence, spin_loop, yield_now};
pub use death::{Deaths, Effect, Life, is_dead, mortal, step};
pub use run::{Tried, finds};

#[cfg(not(shm_shuttle))]
pub use {
    atomic::without_shadow,
    exhaustive::{
        check, check_bounded, every_death, every_death_bounded, every_death_of, every_two_deaths,
        preemption_bound,
    },
    orders::{every_ordering_matters, every_ordering_matters_but},
};

#[cfg(shm_shuttle)]
pub use {
    cell::UnsafeCell,
    sampled::{Choice, chance, chance_of_death, every_schedule, sample, sample_seeded},
};

/// What schedules the threads of a model.
#[cfg(not(shm_shuttle))]
pub use loom as runtime;
/// Payload whose unordered accesses fail the model.
#[cfg(not(shm_shuttle))]
pub use loom::cell::UnsafeCell;
/// The threads of a model: each one process, or several of one.
pub use runtime::thread;
/// What schedules the threads of a model.
#[cfg(shm_shuttle)]
pub use shuttle as runtime;
