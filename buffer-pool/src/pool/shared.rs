//! The words in the segment, and where its parts are.
use super::config::{PoolConfig, SESSIONS_MAX};
use crate::files::{Files, Shape as FilesShape};
use crate::frames::Frames;
use crate::pages::{Pages, Shape as PagesShape};
use crate::policy::{Kind, Policy};
use shm_core::event::EventCount;
use shm_core::hazard::Hazards;
use shm_core::header::{Header, Identity};
use shm_core::layout::Plan;
use shm_core::participants::Table;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};
use std::ops::Range;

/// Of this layout.
const LAYOUT_VERSION: u32 = 1;

/// The head of a pool; its parts follow.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `header` | see [`Header`] | all, at opening | itself |
/// | `limit`, `backed` | the creator; then who has the right to resize (see `resize.rs`) | `limit`: who takes a frame, after it has claimed it; people. `backed`: who resizes; people | `limit`: the frames' claims; the registrar's word |
/// | `read` | the background writer that rests; who has read a page in | | an event count |
/// | the rest | the creator, before the header is published | all, once, at opening | the header; checked there, private from then on |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub(super) header: Header,
    entries: AtomicU64,
    page_bytes: AtomicU32,
    frames: AtomicU32,
    policy: AtomicU32,
    seats: AtomicU32,
    threads: AtomicU32,
    files: AtomicU32,
    flags: AtomicU32,
    frames_max: AtomicU32,
    pub(super) limit: AtomicU32,
    pub(super) backed: AtomicU32,
    pub(super) read: EventCount,
    spare: AtomicU32,
    reserved: Reserved<1>,
}

shm_sync!(Head {
    header,
    entries,
    page_bytes,
    frames,
    policy,
    seats,
    threads,
    files,
    flags,
    frames_max,
    limit,
    backed,
    read,
    spare,
    reserved,
});

const _: () = {
    assert!(size_of::<Head>() == 128);
    assert!(std::mem::offset_of!(Head, entries) == 64);
};

const CHECKSUMS: u32 = 1;

impl Head {
    /// Writes what the creator wants.
    pub(super) fn fill(&self, config: &PoolConfig) {
        // Relaxed, all: the header's publication comes after.
        self.entries.store(config.entries, Ordering::Relaxed);
        self.page_bytes.store(config.page_bytes, Ordering::Relaxed);
        self.frames.store(config.frames, Ordering::Relaxed);
        self.frames_max.store(config.frames_max, Ordering::Relaxed);
        self.limit.store(config.frames, Ordering::Relaxed);
        self.backed.store(config.frames, Ordering::Relaxed);
        self.policy.store(config.policy.bits(), Ordering::Relaxed);
        self.seats.store(config.processes, Ordering::Relaxed);
        self.threads.store(config.sessions, Ordering::Relaxed);
        self.files.store(config.files, Ordering::Relaxed);
        self.flags.store(u32::from(config.checksums) * CHECKSUMS, Ordering::Relaxed);
    }

    /// What it was made with; `None` where that is nonsense.
    pub(super) fn config(&self) -> Option<PoolConfig> {
        Some(PoolConfig {
            entries: self.entries.load(Ordering::Relaxed),
            page_bytes: self.page_bytes.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            frames_max: self.frames_max.load(Ordering::Relaxed),
            policy: Kind::from_bits(self.policy.load(Ordering::Relaxed))?,
            processes: self.seats.load(Ordering::Relaxed),
            sessions: self.threads.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            checksums: self.flags.load(Ordering::Relaxed) & CHECKSUMS != 0,
        })
    }
}

/// Of a pool of `size` bytes.
pub(super) fn identity(size: u64) -> Identity {
    let fingerprint = shm_core::fingerprint!(Head {
        header: Header,
        entries: AtomicU64,
        page_bytes: AtomicU32,
        frames: AtomicU32,
        policy: AtomicU32,
        seats: AtomicU32,
        threads: AtomicU32,
        files: AtomicU32,
        flags: AtomicU32,
        frames_max: AtomicU32,
        limit: AtomicU32,
        backed: AtomicU32,
        read: EventCount,
        spare: AtomicU32,
        reserved: Reserved<1>,
    });
    Identity::new("buffer-pool", LAYOUT_VERSION, fingerprint, size)
}

/// What a session counts, by itself alone: see `stats.rs`.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `counts` | the session that has the row, by loads and stores | who shows them | nothing: each is a number of its own |
///
/// A row's next user goes on counting. Two that had a row at once (a liar's doing) lose counts.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Counts {
    pub(super) counts: [AtomicU64; COUNTS],
}

/// So many there are.
pub(super) const COUNTS: usize = 16;

shm_sync!(Counts { counts });

const _: () = assert!(size_of::<Counts>() == 128);

impl Counts {
    pub(super) fn new() -> Counts {
        Counts { counts: [const { AtomicU64::new(0) }; COUNTS] }
    }
}

/// Where the parts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) table: u64,
    pub(super) hazards: u64,
    pub(super) counts: u64,
    pub(super) rows: u64,
    pub(super) policy: u64,
    pub(super) files: u64,
    pub(super) frames: u64,
    pub(super) pages: u64,
    pub(super) total: Option<u64>,
}

impl Parts {
    /// Of a pool whose configuration was checked.
    pub(super) fn of(config: &PoolConfig) -> Parts {
        let mut plan = Plan::new();
        let rows = u64::from(config.processes) * u64::from(config.sessions.min(SESSIONS_MAX));
        plan.add::<Head>();
        let table = plan.bytes(Table::bytes_for(config.processes), 128);
        let hazards = plan.bytes(Hazards::bytes_for(config.processes, config.sessions), 128);
        let counts = plan.array::<Counts>(rows);
        let policy_bytes = Policy::bytes_for(config.policy, config.frames_max).unwrap_or(u64::MAX);
        let policy = plan.bytes(policy_bytes, 128);
        let files = plan.bytes(Files::bytes_for(files_shape(config)), 128);
        let frames = plan.bytes(Frames::<Files>::bytes_for(config.frames_max), 64);
        let pages = plan.bytes(Pages::bytes_for(pages_shape(config)), 4096);
        let total = plan.total().ok();
        Parts { table, hazards, counts, rows, policy, files, frames, pages, total }
    }

    /// The bytes of these frames' pages.
    pub(super) fn pages_of(&self, frames: Range<u32>, page_bytes: u32) -> Range<u64> {
        let at = |frame: u32| self.pages + u64::from(frame) * u64::from(page_bytes);
        at(frames.start)..at(frames.end)
    }
}

pub(super) fn files_shape(config: &PoolConfig) -> FilesShape {
    FilesShape { files: config.files, entries: config.entries }
}

pub(super) fn pages_shape(config: &PoolConfig) -> PagesShape {
    PagesShape {
        frames: config.frames_max,
        seats: config.processes,
        threads: config.sessions,
        page_bytes: config.page_bytes,
    }
}
