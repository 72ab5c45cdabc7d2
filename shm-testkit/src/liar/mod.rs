//! Memory that lies: is a structure safe from a peer that writes nonsense into it?
//!
//! A structure in shared memory reads words that any process may have overwritten, before it looks
//! or *while* it looks. Whatever stands there, each of its calls should end in time, with a value
//! or an error: no panic, no hang, no access outside its bytes. This is what to try it with:
//!
//! - [`Guarded`]: a block between two pages that nobody may touch, flush with one of them, so that
//!   one byte too far is a fault and not somebody else's memory;
//! - [`Liar`]: an endless row of [`Lie`]s (bits flipped, words replaced by telling values, swapped,
//!   or as they once were), the same for the same seed;
//! - [`Scribbler`]: a thread that tells them while your calls run. It writes through another
//!   mapping of the same memory, as another process would, so that to the compiler, to
//!   AddressSanitizer and to ThreadSanitizer it is one;
//! - [`Trials`]: runs the calls, each under a watchdog and with its panic caught, and counts.
//!   Findings name the call and the seed; `SHM_SEED=…` repeats that one, `SHM_DEEP=1` tries
//!   [twenty-five](Trials::DEEP) times as many. A fault in a guard page says which call made it,
//!   and how far outside the block it was.
//!
//! The order in which two threads get their turn cannot be replayed: with a scribbler, a seed
//! gives the same lies and not the same race. What lies do *before* a call replays exactly.
//!
//! ```
//! use shm_testkit::liar::{Edge, Guarded, Liar, Scribbler, Trials};
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! use std::time::Duration;
//!
//! /// A structure of yours: a number of items, and then the items.
//! struct Sum<'a>(&'a [AtomicU64]);
//! impl Sum<'_> {
//!     fn read(&self) -> Option<u64> {
//!         let count = self.0[0].load(Relaxed); // once: it may change behind our back
//!         let items = self.0[1..].get(..usize::try_from(count).ok()?)?;
//!         Some(items.iter().fold(0, |sum, item| sum.wrapping_add(item.load(Relaxed))))
//!     }
//! }
//!
//! let valid: Vec<u8> = [3u64, 10, 20, 30].iter().flat_map(|word| word.to_le_bytes()).collect();
//! let trials = Trials::new("sum", Duration::from_secs(10));
//! for seed in trials.seeds(100) {
//!     let block = Guarded::holding(&valid, Edge::of(seed));
//!     // SAFETY: the block is aligned, lives as long as the slice, and any bits are atomics.
//!     let words = unsafe { std::slice::from_raw_parts(block.base().cast().as_ptr(), 4) };
//!     let sum = Sum(words);
//!     assert_eq!(trials.call(seed, "read", || sum.read()), Some(Some(60)));
//!
//!     let mut liar = Liar::new(seed, &valid);
//!     trials.tell(&block.outside(), &mut liar, 1 + seed % 3);
//!     trials.call(seed, "read", || sum.read());
//!
//!     let scribbler = Scribbler::start(block.outside(), liar);
//!     scribbler.meanwhile(100, || {
//!         trials.call(seed, "read while it changes", || sum.read());
//!     });
//!     trials.add(scribbler.stop());
//! }
//! trials.finish(); // prints what was tried; panics where there is a finding
//! ```
mod fault;
mod guarded;
mod lie;
mod outside;
mod scribbler;
mod trials;

pub use guarded::{Edge, Guarded};
pub use lie::{Liar, Lie, Random};
pub use outside::Outside;
pub use scribbler::Scribbler;
pub use trials::Trials;
