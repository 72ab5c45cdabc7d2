//! Under `--cfg shm_explore`: the explorer's atomics. Each access is a step of the process that
//! makes it; see [`shm_testkit::explore`].
pub use shm_testkit::explore::{AtomicU32, AtomicU64, fence, spin_loop, yield_now};
