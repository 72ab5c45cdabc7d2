//! `shmctl agg` with its worker processes: the built binary, on each backend.
//!
//! What is proved: the answer is that of a plain pass, whoever is killed or stopped; nothing is
//! left behind, no name, segment, file or process; and what cannot be done ends with exit code 2
//! and one line. Each test has a domain of its own, so they run beside each other.

mod answers;
mod chaos;
mod environment;
mod files;
mod leader;
mod scene;
mod shared;
mod stale;
mod workers;
