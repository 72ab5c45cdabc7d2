//! Hazard pointers between processes: who uses a thing says so, and who would free it looks first.
//!
//! A reader *announces* in a slot of its own what it is about to use, and *validates*: looks again
//! whether the thing is still where it found it. Who takes a thing out *scans* the slots
//! afterwards, and frees it only where nobody has announced it. A thing is any number but 0 (an
//! offset, a handle, a frame); the scan compares numbers and nothing else.
//!
//! ```text
//!            holders: who, groups used      groups: 8 slots a thread, one cache line
//!  seat 0  [ participant 0.3 | 2 ]        [ 4096 0 0 … ] [ 0 8192 0 … ]
//!  seat 1  [ nobody               ]        [ 0 0 0 …    ] [ 0 0 0 …    ]     not looked at
//!  seat 2  [ participant 2.1 | 1 ]        [ 4096 0 0 … ] [ 0 0 0 …    ]     second: never used
//! ```
//!
//! Each seat of the [table of participants](crate::participants) has a row of groups. A process
//! takes its [row](Hazards::row) once, and its threads take [groups](HazardRow::protector) of it
//! from a pool in private memory: a thread writes only its own cache line.
//!
//! # Announce, then validate
//!
//! | reader | who frees |
//! | --- | --- |
//! | (A) announces the thing in its slot | (C) takes the thing out of all places where it is found |
//! | fence | fence |
//! | (B) looks: is it still there? | (D) looks at the slots |
//!
//! Of the two fences one comes first: either (B) sees that the thing was taken out, and the reader
//! lets go of it, or (D) sees the announcement. The same holds for the words that say which rows
//! and groups are in use, for they are written before (A).
//!
//! # Why readers fence
//!
//! A reader's fence costs some 5 ns, on the path of every lookup. `membarrier(GLOBAL_EXPEDITED)`
//! would take it away: the kernel executes a fence in every running thread of every process that
//! has registered. But Linux (seen on 6.18) leaves some out. A processor that went idle after it
//! ran one of our threads keeps our address space, and the registration does not reach it, for
//! what it runs is not ours; when a thread of ours comes back to it nothing is switched, so the
//! kernel goes on believing that this processor runs nobody who has registered. A thread there
//! announces without any fence until another program runs on that processor, and what it reads may
//! be freed under it. Nothing that a process can ask for repairs it, or tells of it.
//!
//! # Deaths
//!
//! | death of | leaves | repaired by |
//! | --- | --- | --- |
//! | a reader, anywhere | a row with announcements: they protect on | the reaper of its seat, by [`Hazards::clear_row`] in the `cleanup` of [`Table::reap`](crate::participants::Table::reap) |
//! | that reaper | a row cleared in part | the next reaper, from the beginning |
//! | who frees, between (C) and the freeing | a thing that nobody finds | the caller's list of things taken out: any process may scan for them again |
//!
//! A seat has one user at a time, and is not used again before its reaper is done; so nobody writes
//! into a row but the threads of its process and, after its death, one reaper. A process that is
//! stopped protects what it has announced, for as long as it is stopped, and hinders nobody else.
//!
//! # Limits
//!
//! A peer that overwrites slots takes protection away, or protects what nobody uses. The answers
//! are then wrong, as with any structure among processes that may write the same memory; nothing
//! hangs, and nothing outside the rows is touched.
#[cfg_attr(any(shm_loom, shm_explore), path = "fence_modelled.rs")]
mod fence;
mod row;
mod rows;
mod scan;
mod shared;
mod slot;

pub use row::{HazardRow, Protector, ProtectorError, RowError};
pub use rows::{Hazards, HazardsError};
pub use scan::Protected;
pub use shared::{GROUP_SLOTS, GROUPS_MAX};
pub use slot::{ProtectError, Slot};

/// Tells the layout of the rows from others.
pub const FINGERPRINT: u64 = shared::FINGERPRINT;
