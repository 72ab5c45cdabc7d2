//! Whoever has changed a file is told that the system lost some of it. The system itself tells each
//! who had it open by then, and each once.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, Page, PageError, Pool, PoolConfig, PoolOptions, Session};
use pool_common::{Memory, small};
use shm_core::mapping::Mapping;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A pool, as two processes have it, and a file whose pages are in it.
struct World {
    store: Arc<Memory>,
    one: Pool,
    other: Pool,
    file: FileNumber,
}

fn register(session: &Session) -> FileNumber {
    let options = FileOptions { create: true, blocks_max: Some(8) };
    session.register(FileKey { id: 1, fork: 0 }, Path::new("/file"), &options).unwrap()
}

impl World {
    fn new() -> World {
        let store = Arc::new(Memory::default());
        let config = PoolConfig { sessions: 4, ..small() };
        let mapping = Mapping::heap(Pool::bytes_for(&config).unwrap() as usize);
        let options = || PoolOptions { store: store.clone(), ..PoolOptions::default() };
        let one = Pool::open(&mapping, &config, options()).unwrap();
        let other = Pool::attach(&mapping, options()).unwrap();
        let session = one.session().unwrap();
        let file = register(&session);
        session.extend(file, 8).unwrap();
        (0..8).for_each(|block| drop(session.page(file, block).unwrap()));
        World { store, one, other, file }
    }

    /// All is written out by the one, and lost; which is told.
    fn lose(&self) {
        let session = self.one.session().unwrap();
        session.evict_all().unwrap();
        self.store.faults.losses.fetch_add(1, Relaxed);
        is_told(&session, self.file);
        session.sync(self.file).unwrap();
    }
}

fn write(page: &Page<'_>) {
    page.exclusive().unwrap().write(&[(HEADER_BYTES, b"changed")]).unwrap();
}

#[track_caller]
fn is_told(session: &Session, file: FileNumber) {
    let synced = session.sync(file);
    assert!(matches!(synced, Err(PageError::File { what: "sync", .. })), "{synced:?}");
}

#[test]
fn who_has_changed_a_page_that_was_there_is_told() {
    let world = World::new();
    let session = world.other.session().unwrap();
    write(&session.page(world.file, 3).unwrap());
    world.lose();
    is_told(&session, world.file);
    session.sync(world.file).unwrap();
}

#[test]
fn who_has_cleaned_a_page_up_is_told() {
    for waits in [false, true] {
        let world = World::new();
        let session = world.other.session().unwrap();
        let page = session.page(world.file, 3).unwrap();
        let mut page = if waits { page.cleanup() } else { page.try_cleanup().map(Result::unwrap) };
        page.as_mut().unwrap().write(&[(HEADER_BYTES, b"changed")]).unwrap();
        drop(page);
        world.lose();
        is_told(&session, world.file);
        session.sync(world.file).unwrap();
    }
}

#[test]
fn who_has_overwritten_a_page_is_told() {
    let world = World::new();
    let session = world.other.session().unwrap();
    session.overwrite(world.file, 3, &[7; 1024 - HEADER_BYTES]).unwrap();
    world.lose();
    is_told(&session, world.file);
}

#[test]
fn who_registers_the_file_again_is_told() {
    let world = World::new();
    let session = world.other.session().unwrap();
    write(&session.page(world.file, 3).unwrap());
    world.lose();
    assert_eq!(register(&world.other.session().unwrap()), world.file);
    is_told(&session, world.file);
}

/// The system tells the first of them.
#[test]
fn each_thread_that_has_changed_the_file_is_told() {
    let world = World::new();
    let [first, second] = [0, 1].map(|_| world.other.session().unwrap());
    let bystander = world.other.session().unwrap();
    write(&first.page(world.file, 3).unwrap());
    write(&second.page(world.file, 4).unwrap());
    world.lose();
    for session in [first, second] {
        is_told(&session, world.file);
        session.sync(world.file).unwrap();
    }
    bystander.sync(world.file).unwrap();
}
