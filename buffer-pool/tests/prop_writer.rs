//! The background writer of a pool:
//!
//! 1. While it works, hardly anybody who wants a frame has to write a page first; without it most
//!    do.
//! 2. It writes no page that is pinned, or was used of late, and no more than it may.
//! 3. Where nobody wants frames it comes to rest, and is woken by the next page that is read in.
//! 4. However long it would rest, it ends at once where it is told to.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::policy::Kind;
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolStats, Session, Writer, WriterOptions};
use pool_common::{Memory, pool_of, small};
use shm_core::event::EventCount;
use shm_testkit::random;
use shm_testkit::watchdog::within;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Shorter than its rests would be, but for one of twelve seconds.
const LIMIT: Duration = Duration::from_secs(60);
const FRAMES: u32 = 256;
const BLOCKS: u32 = 1000;
const KINDS: [Kind; 2] = Kind::ALL;

fn pool(policy: Kind) -> Pool {
    let config =
        PoolConfig { frames: FRAMES, frames_max: FRAMES, policy, entries: 1 << 12, ..small() };
    pool_of(&config, Arc::new(Memory::default()))
}

fn file(session: &Session) -> FileNumber {
    let options = FileOptions { create: true, blocks_max: Some(BLOCKS) };
    let file = session.register(FileKey { id: 1, fork: 0 }, Path::new("/file"), &options).unwrap();
    session.extend(file, BLOCKS).unwrap();
    file
}

fn change(session: &Session, file: FileNumber, block: u32) {
    let page = session.page(file, block).unwrap();
    page.exclusive().unwrap().write(&[(HEADER_BYTES, &block.to_le_bytes())]).unwrap();
}

/// Changes pages by chance; a writer, if there is one, has a round now and then.
fn changes(policy: Kind, mut writer: Option<Writer>) -> PoolStats {
    let pool = pool(policy);
    let session = pool.session().unwrap();
    let (file, mut state) = (file(&session), 7);
    for nth in 0..20_000 {
        change(&session, file, (random::next(&mut state) % u64::from(BLOCKS)) as u32);
        if let Some(writer) = writer.as_mut().filter(|_| nth % 50 == 0) {
            writer.round(&session).unwrap();
        }
    }
    pool.stats()
}

#[test]
fn pages_are_written_before_their_frames_are_wanted() {
    for policy in KINDS {
        let without = changes(policy, None);
        assert_eq!(without.cleaned, 0);
        assert!(without.writes > without.evictions * 9 / 10, "{policy:?}: {without:?}");
        let with = changes(policy, Some(Writer::new(WriterOptions::default())));
        let by_others = with.writes - with.cleaned;
        assert!(by_others < with.writes / 4, "{policy:?}: {with:?}");
        assert!(with.writes < without.writes * 3 / 2, "{policy:?}: {with:?}, {without:?}");
    }
}

#[test]
fn no_more_is_written_than_may_be() {
    for policy in KINDS {
        let options = WriterOptions { pages_max: 3, multiplier: 10.0, ..WriterOptions::default() };
        let pool = pool(policy);
        let session = pool.session().unwrap();
        let (file, mut writer) = (file(&session), Writer::new(options));
        for block in 0..BLOCKS {
            change(&session, file, block);
            if block % 20 == 0 {
                assert!(writer.round(&session).unwrap().written <= 3);
            }
        }
        assert!(pool.stats().cleaned_enough > 0, "{policy:?}");
        let mut none = Writer::new(WriterOptions { pages_max: 0, ..options });
        assert_eq!(none.round(&session).unwrap().written, 0);
    }
}

#[test]
fn what_is_pinned_stays_dirty() {
    let pool = pool(Kind::Clock5);
    let session = pool.session().unwrap();
    let file = file(&session);
    (0..FRAMES).for_each(|block| change(&session, file, block));
    let page = session.page(file, 7).unwrap();
    let frame = page.frame();
    let mut writer = Writer::new(WriterOptions { multiplier: 10.0, ..WriterOptions::default() });
    for block in FRAMES..BLOCKS {
        change(&session, file, block);
        writer.round(&session).unwrap();
        assert!(pool.frame_infos().unwrap()[frame as usize].is_dirty);
    }
}

/// A writer that has come to rest: for ten minutes, and for twelve seconds until then.
fn at_rest(session: &Session) -> Writer {
    let delay = Duration::from_secs(12);
    let mut writer = Writer::new(WriterOptions { delay, ..WriterOptions::default() });
    let rounds = (0..10_000).take_while(|_| !writer.round(session).unwrap().is_idle).count();
    assert!(rounds < 10_000, "it never comes to rest");
    assert!(writer.round(session).unwrap().is_idle);
    writer
}

#[test]
fn it_rests_until_somebody_reads() {
    let pool = pool(Kind::Probation);
    let session = pool.session().unwrap();
    let file = file(&session);
    let (writer, over) = (at_rest(&session), EventCount::new());
    let rests: [&dyn Fn(); 2] =
        [&|| writer.rest(&pool), &|| writer.rest_unless(&pool, &over, || false)];
    for rest in rests {
        let ended = AtomicBool::new(false);
        within(LIMIT, || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let session = pool.session().unwrap();
                    for block in (0..BLOCKS).cycle().take_while(|_| !ended.load(Relaxed)) {
                        change(&session, file, block);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
                rest();
                ended.store(true, Relaxed);
            });
        });
    }
}

#[test]
fn a_rest_ends_when_it_is_told_to() {
    let pool = pool(Kind::Probation);
    let session = pool.session().unwrap();
    let hour = Duration::from_secs(3600);
    let busy = Writer::new(WriterOptions { delay: hour, ..WriterOptions::default() });
    let for_ever = Writer::new(WriterOptions { delay: Duration::MAX, ..WriterOptions::default() });
    for writer in [at_rest(&session), busy, for_ever] {
        for takes_ms in [0, 1, 50] {
            let (over, event) = (AtomicBool::new(false), EventCount::new());
            within(LIMIT, || {
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        std::thread::sleep(Duration::from_millis(takes_ms));
                        over.store(true, Relaxed);
                        event.notify();
                    });
                    while !over.load(Relaxed) {
                        writer.rest_unless(&pool, &event, || over.load(Relaxed));
                    }
                });
                // Nobody notifies it any more.
                writer.rest_unless(&pool, &event, || true);
            });
        }
    }
}
