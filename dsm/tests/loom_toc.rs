//! The table of contents: whoever dies where, a key has one value, and whoever finds it
//! finds the chunk's contents.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use dsm::toc::{Toc, TocError};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Life};
use std::sync::Arc;

const MAGIC: u64 = 7;
const KEY: u64 = 40;

/// The order in which an inserter takes its two steps.
#[derive(Clone, Copy)]
enum Order {
    WriteThenInsert,
    InsertThenWrite,
}

/// A chunk that holds its own offset once written.
fn chunk(toc: &Toc, mapping: &Arc<Mapping>) -> (u64, Mapped<AtomicU64>) {
    let offset = toc.allocate(size_of::<AtomicU64>() as u64).unwrap();
    // SAFETY: the chunk is ours alone until it is inserted.
    let word = unsafe { Mapped::place(mapping, offset, AtomicU64::new(0)) }.unwrap();
    (offset, word)
}

fn insert(toc: &Toc, key: u64, offset: u64, word: &AtomicU64, order: Order) -> bool {
    if let Order::WriteThenInsert = order {
        word.store(offset, Ordering::Relaxed);
    }
    let inserted = toc.insert(key, offset);
    if let Order::InsertThenWrite = order {
        word.store(offset, Ordering::Relaxed);
    }
    match inserted {
        Ok(()) => true,
        Err(TocError::Duplicate { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

/// What a reader finds under the key is complete.
fn look(toc: &Toc, mapping: &Arc<Mapping>) -> Option<u64> {
    let offset = toc.lookup(KEY).unwrap()?;
    let word = Mapped::<AtomicU64>::new(mapping, offset).unwrap();
    assert_eq!(word.load(Ordering::Relaxed), offset, "found before it was written");
    Some(offset)
}

/// Two insert the same key, a third looks.
fn one_key([one, other, reader]: [Life; 3], order: Order) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::create(&mapping, MAGIC, 2).unwrap();
    let chunks = [chunk(&toc, &mapping), chunk(&toc, &mapping)];
    let (theirs, (offset, word)) = (toc.clone(), chunks[0].clone());
    let other =
        model::thread::spawn(move || other.run(|| insert(&theirs, KEY, offset, &word, order)));
    let (theirs, memory) = (toc.clone(), mapping.clone());
    let reader = model::thread::spawn(move || reader.run(|| look(&theirs, &memory)));

    let (offset, word) = &chunks[1];
    let ours = one.run(|| insert(&toc, KEY, *offset, word, Order::WriteThenInsert));
    let (seen, theirs) = (reader.join().unwrap(), other.join().unwrap());

    let won = look(&toc, &mapping);
    assert!(won.is_some() || ours.or(theirs).is_none(), "somebody has inserted");
    let is_won = |seen: Option<u64>| seen.is_none() || seen == won;
    assert!(seen.is_none_or(is_won), "a key never changes its value");
    assert!(ours.is_none_or(|ours| ours == (won == Some(chunks[1].0))));
    assert!(theirs.is_none_or(|theirs| theirs == (won == Some(chunks[0].0))), "one of two wins");
    // Who comes later completes what was begun.
    let (offset, word) = chunk(&toc, &mapping);
    let late = insert(&toc, KEY, offset, &word, Order::WriteThenInsert);
    assert_eq!(late, won.is_none());
    let won = won.unwrap_or(offset);
    assert_eq!(toc.entries().unwrap(), [(KEY, won)], "a key stands in one place");
}

/// A table that is being made is whole, or is not there.
fn attaching([creator, attacher]: [Life; 2]) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::place(&mapping, 1).unwrap();
    let creator = model::thread::spawn(move || creator.run(|| toc.publish(MAGIC)));
    let free = attacher.run(|| Toc::attach(&mapping, MAGIC).and_then(|toc| toc.free_space()));
    match free {
        Some(Ok(free)) => assert!(free > 3000),
        Some(Err(TocError::Magic { found: 0, .. })) | None => {}
        Some(Err(other)) => panic!("{other}"),
    }
    creator.join().unwrap();
}

/// Two allocate at once: the chunks do not overlap, and a death costs one chunk at most.
fn allocating([one, other]: [Life; 2]) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::create(&mapping, MAGIC, 1).unwrap();
    let free = toc.free_space().unwrap();
    let theirs = toc.clone();
    let other = model::thread::spawn(move || other.run(|| theirs.allocate(64).unwrap()));
    let mine = one.run(|| toc.allocate(64).unwrap());
    let both = mine.into_iter().chain(other.join().unwrap()).collect::<Vec<_>>();
    assert!(both.len() < 2 || both[0].abs_diff(both[1]) >= 64, "chunks overlap");
    assert!(free - toc.free_space().unwrap() <= 128);
}

fn sweep<const N: usize>(name: &str, scenario: impl Fn([Life; N]) + Clone + Send + Sync + 'static) {
    let bound = model::preemption_bound();
    println!("toc, {name}, one death: {:?}", model::every_death_of(bound, scenario.clone()));
    println!("toc, {name}, two deaths: {:?}", model::every_two_deaths(bound - 1, scenario));
}

#[test]
fn an_inserter_may_die_anywhere() {
    sweep("insert", |all| one_key(all, Order::WriteThenInsert));
}

#[test]
fn a_creator_may_die_anywhere() {
    sweep("publish", attaching);
}

#[test]
fn one_of_two_that_allocate_may_die_anywhere() {
    sweep("allocate", allocating);
}

fn nobody_dies<const N: usize>() -> [Life; N] {
    std::array::from_fn(|_| Life::endless())
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["toc.rs"], || {
        model::check(|| attaching(nobody_dies()));
        model::check(|| one_key(nobody_dies(), Order::WriteThenInsert));
    });
    assert_eq!(found, 4);
}

/// Planted bug: the entry is published before its contents.
#[test]
fn finds_a_value_published_too_early() {
    model::finds("found before it was written", || {
        model::check(|| one_key(nobody_dies(), Order::InsertThenWrite));
    });
}

/// Planted bug: the inserter looks for its key first and then claims an entry of its own.
#[test]
fn finds_a_key_in_two_places() {
    fn blind_claim(words: &[Mapped<AtomicU64>], key: u64) {
        let held = words.iter().any(|word| word.load(Ordering::Relaxed) == key);
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        if !held {
            let _ = words.iter().find(|word| word.compare_exchange(0, key, ok, err).is_ok());
        }
    }
    model::finds("a key stands in one place", || {
        model::check(|| {
            let mapping = Mapping::heap(4096);
            let place = |offset| {
                // SAFETY: nobody else has the mapping yet.
                unsafe { Mapped::place(&mapping, offset, AtomicU64::new(0)) }.unwrap()
            };
            let words = [place(0), place(64)];
            let theirs = words.clone();
            let other = model::thread::spawn(move || blind_claim(&theirs, KEY));
            blind_claim(&words, KEY);
            other.join().unwrap();
            let places = words.iter().filter(|word| word.load(Ordering::Relaxed) == KEY).count();
            assert_eq!(places, 1, "a key stands in one place");
        });
    });
}
