//! A pool over a file in memory, each block of which says its number.
use super::{Faults, Memory, pool_of, small};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::policy::Kind;
use buffer_pool::pool::{
    FileOptions, Page, PageError, Pool, PoolConfig, PoolStats, Session, StreamOptions,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 1024;

/// A pool over a file of so many blocks, none of which is in a frame: each says its number.
pub(crate) struct World {
    pub(crate) store: Arc<Memory>,
    pub(crate) pool: Pool,
    pub(crate) session: Session,
    pub(crate) file: FileNumber,
    pub(crate) blocks: u32,
}

/// For 4 sessions: each may read 16 pages at once in 64 frames.
pub(crate) fn config(policy: Kind, frames: u32) -> PoolConfig {
    PoolConfig {
        policy,
        frames,
        frames_max: frames,
        processes: 1,
        sessions: 4,
        entries: 1 << 13,
        ..small()
    }
}

pub(crate) fn path() -> &'static Path {
    Path::new("/file")
}

impl World {
    pub(crate) fn new(policy: Kind, frames: u32, blocks: u32) -> World {
        let store = Arc::new(Memory::default());
        let pool = pool_of(&config(policy, frames), store.clone());
        let session = pool.session().unwrap();
        let (key, options) = (
            FileKey { id: 1, fork: 0 },
            FileOptions { create: true, blocks_max: Some(blocks + 100) },
        );
        let register = || session.register(key, path(), &options).unwrap();
        let file = register();
        session.extend(file, blocks).unwrap();
        for block in 0..blocks {
            write(&session.page(file, block).unwrap(), block.into());
        }
        session.flush(file).unwrap();
        session.forget(file).unwrap();
        let file = register();
        store.faults.count.store(0, Relaxed);
        World { store, pool, session, file, blocks }
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.store.faults
    }

    /// The file is read from a block on, until it ends; `Err`: that block could not be read.
    pub(crate) fn scan(&self, from: u32, options: StreamOptions) -> Vec<Result<u64, PageError>> {
        let pages = self.session.stream(self.file, from..self.blocks, options);
        pages.map(|page| page.map(|page| value(&page))).collect()
    }

    /// All frames can have other pages.
    pub(crate) fn check_frames(&self) {
        assert_eq!(self.pool.summary().unwrap().pinned, 0);
        let frames = self.pool.frames();
        let others = [(); 3].map(|()| self.pool.session().ok());
        let sessions: Vec<_> = others.iter().flatten().chain([&self.session]).collect();
        let of = |block: u32| sessions[block as usize % sessions.len()];
        // One of these may have 8 pins.
        let pins = frames.min(8 * sessions.len() as u32);
        // The last frame is sometimes passed over: the hand of a session leaps where another one
        // has taken a part of its way.
        let page = |block: u32| {
            let mut tries = (0..8).map(|_| of(block).page(self.file, block));
            tries.find(Result::is_ok).expect("a frame that is lost")
        };
        let pages: Vec<_> = (0..pins).map(|block| page(block).unwrap()).collect();
        assert!(pages.iter().zip(0..).all(|(page, block)| value(page) == block));
    }
}

pub(crate) fn value(page: &Page<'_>) -> u64 {
    page.read(|view| view.u64(HEADER_BYTES).unwrap()).unwrap()
}

pub(crate) fn write(page: &Page<'_>, value: u64) {
    page.exclusive().unwrap().write(&[(HEADER_BYTES, &value.to_le_bytes())]).unwrap();
}

/// What was counted since `before`.
pub(crate) fn since(now: PoolStats, before: PoolStats) -> (u64, u64, u64) {
    (now.hits - before.hits, now.reads - before.reads, now.read_calls - before.read_calls)
}

pub(crate) fn full() -> StreamOptions {
    StreamOptions { begins_ahead: true, ..StreamOptions::default() }
}
