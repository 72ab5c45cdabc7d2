//! Message queues between processes that survive the death of either side.
//!
//! | | from | to | what arrives |
//! | --- | --- | --- | --- |
//! | [`stream`] | one | one | messages of any length, among hostile processes too |
//! | [`spsc`] | one | one | records that lie in one piece, small ones in a cache line each |
//! | [`fan_in`] | many, who come and go | one | each sender's records in their order, and then how it ended |
//! | [`work`] | many | one of many | jobs, each done by somebody who says so |
//! | [`broadcast`] | one | all subscribers | every record, or those that a slow one did not miss |
//! | [`rpc`] | many | one of many, and back | answers, [among strangers](rpc::strangers) too |
//!
//! [`waitset`] waits for several of them at once, `futures` without a thread; [`typed`] makes
//! values of records.
//!
//! Modules, lowest first; each uses only those above it.

// `WaitSet`: sleeping on many queues, peers, timers and file descriptors at once.
pub mod waitset;

// Waiting for another process, in steps.
mod wait;

// The bytes of a record, lent to who writes it; and of a slot, to who owns it.
mod lent;

// How a receiver gives back the lines of a long record.
mod hand_back;

// Two sides that do not trust each other: one writer a mapping, and a socket.
mod hostile;

// `stream`: byte messages of any size, one sender to one receiver.
pub mod stream;

// `spsc`: records from one sender to one receiver, in place.
pub mod spsc;

// `work`: jobs from many producers to many workers, each done by one.
pub mod work;

// `fan_in`: records from many senders, who come and go, to one receiver.
pub mod fan_in;

// `broadcast`: records from one publisher to subscribers that come and go.
pub mod broadcast;

// `rpc`: calls from many clients to many servers, pipelined; each ends. `rpc::strangers`: among
// those that do not trust each other.
pub mod rpc;

// `typed`: values as records, checked when they arrive.
pub mod typed;

// `futures`: asynchronous faces, for any runtime (feature `async`).
#[cfg(all(feature = "async", not(any(shm_loom, shm_explore))))]
pub mod futures;
