//! Dynamic shared memory: named segments with a life cycle, over POSIX, System V, mmap and memfd.
//!
//! Processes that open a [`Domain`] of the same name share its segments. One creates a [`Segment`]
//! and tells the others its [`SegmentHandle`]; they attach by that number alone. A segment lives
//! while anybody is attached, or while it is pinned; the last one out destroys it, and the last one
//! to leave removes the domain. A process may be killed at any point: the others go on, and what it
//! held is taken back, by [`Domain::reap`] or by whoever comes next.
//!
//! ```
//! use dsm::toc::{Toc, TocPlan};
//! use dsm::{Domain, DomainConfig};
//!
//! const MAGIC: u64 = 0x706c_616e;
//! const KEY_GREETING: u64 = 1;
//! # let name = format!("doc-crate-{}", std::process::id());
//!
//! // One process makes a segment and puts something into it …
//! let leader = Domain::open(DomainConfig::new(&name))?;
//! let plan = TocPlan::new().chunk(64).keys(1);
//! let segment = leader.create_segment(plan.bytes()?)?;
//! let toc = Toc::create(segment.mapping(), MAGIC, plan.entries())?;
//! toc.insert(KEY_GREETING, toc.allocate(64)?)?;
//!
//! // … and another one finds it by the handle. (Here both are this process.)
//! let worker = Domain::open(DomainConfig::new(&name))?;
//! let theirs = worker.attach(segment.handle())?.expect("it is there");
//! let toc = Toc::attach(theirs.mapping(), MAGIC)?;
//! assert!(toc.lookup(KEY_GREETING)?.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Modules, lowest first; each uses only those above it.

// `SegmentHandle`: the number by which processes tell each other about a segment.
mod handle;

// Where shared memory comes from: one module per kind the system offers.
pub mod backend;

// `Toc`: a table of contents inside a segment.
pub mod toc;

// The segment table: which segments there are, who is attached to each, and the last one out.
pub mod control;

// The registry's rows: which name leads to what, and who makes what is not there yet.
pub mod registry;

// `Growth`: the length of a growable segment.
pub mod growth;

// A heap in shared memory, for blocks of any size.
pub mod area;

// `Hash`: a hash table that several processes share, found and changed without a lock.
pub mod hash;

// `Segment`: a segment as this process has it.
mod segment;

// `Domain`: the processes that share one control segment.
pub mod domain;

// Areas in a domain: they have a segment of their own, grow and shrink.
mod areas;

// `SharedHash`: a hash with all that it stands on, in one segment of a domain.
mod shared_hash;

// Segments, areas and hashes by name: made once in the domain, whoever dies at it.
mod named;

pub use areas::OpenAreaError;
pub use control::PinError;
pub use domain::{
    AttachError, CreateError, DestroyError, Domain, DomainConfig, HandOverError, Inheritance,
    NameState, Names, OpenError,
};
pub use growth::GrowError;
pub use handle::{ParseHandleError, SegmentHandle};
pub use named::{AreaSpec, EntryInfo, Named, NamedArea, NamedError, NamedSpec, RemoveError};
pub use segment::{CallbackId, CheckError, ReadOnlySegment, Segment, SegmentOptions};
pub use shared_hash::{HashHandle, HashSpec, SharedHash};
