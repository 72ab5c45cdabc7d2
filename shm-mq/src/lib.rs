//! Message queues between processes that survive the death of either side.
//!
//! Modules, lowest first; each uses only those above it.

/// `stream`: byte messages of any size, one sender to one receiver.
pub mod stream;

/// `spsc`: records from one sender to one receiver, in place.
pub mod spsc;

/// `work`: jobs from many producers to many workers, each done by one.
pub mod work;
