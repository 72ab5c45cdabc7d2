//! Models too simple to be wrong: vectors and sets, one process, no memory order.
//!
//! A property test runs the same operations on the model and on the shared structure and compares
//! every answer.

mod queue;
mod segments;

pub use queue::{NoMessage, NotSent, Queue};
pub use segments::{Attached, Handle, Participant, Refused, Segments};
