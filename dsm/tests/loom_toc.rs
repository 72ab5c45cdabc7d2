//! The table of contents: whichever inserter dies where, a key has one value, and whoever finds it
//! finds the chunk's contents.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use dsm::toc::{Toc, TocError};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Deaths};
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

/// Two insert the same key, one of them may die at any access, a third looks.
fn one_key(fuel: u32, deaths: &Deaths, order: Order) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::create(&mapping, MAGIC, 2).unwrap();
    let chunks = [chunk(&toc, &mapping), chunk(&toc, &mapping)];
    let (theirs, (offset, word), deaths) = (toc.clone(), chunks[0].clone(), deaths.clone());
    let mortal = model::thread::spawn(move || {
        let end = model::mortal(fuel, || insert(&theirs, KEY, offset, &word, order));
        if end.is_none() {
            deaths.died();
        }
        end
    });
    let (theirs, memory) = (toc.clone(), mapping.clone());
    let reader = model::thread::spawn(move || look(&theirs, &memory));

    let ours = insert(&toc, KEY, chunks[1].0, &chunks[1].1, Order::WriteThenInsert);
    let won = look(&toc, &mapping).expect("somebody has inserted");
    let seen = reader.join().unwrap();
    let theirs = mortal.join().unwrap();

    assert!(seen.is_none_or(|offset| offset == won), "a key never changes its value");
    assert_eq!(ours, won == chunks[1].0);
    assert!(theirs.is_none_or(|won| won != ours), "one of two inserters wins");
    assert_eq!(toc.entries().unwrap(), [(KEY, won)], "a key stands in one place");
}

/// A table that is being made is whole, or is not there, and its creator may die at any access.
fn attaching(fuel: u32, deaths: &Deaths) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::place(&mapping, 1).unwrap();
    let deaths = deaths.clone();
    let creator = model::thread::spawn(move || {
        if model::mortal(fuel, || toc.publish(MAGIC)).is_none() {
            deaths.died();
        }
    });
    match Toc::attach(&mapping, MAGIC) {
        Ok(toc) => assert!(toc.free_space().unwrap() > 3000),
        Err(TocError::Magic { found: 0, .. }) => {}
        Err(other) => panic!("{other}"),
    }
    creator.join().unwrap();
}

/// Two allocate at once, one of them may die at any access: the chunks do not overlap, and a death
/// costs one chunk at most.
fn allocating(fuel: u32, deaths: &Deaths) {
    let mapping = Mapping::heap(4096);
    let toc = Toc::create(&mapping, MAGIC, 1).unwrap();
    let free = toc.free_space().unwrap();
    let (theirs, deaths) = (toc.clone(), deaths.clone());
    let mortal = model::thread::spawn(move || {
        let end = model::mortal(fuel, || theirs.allocate(64).unwrap());
        if end.is_none() {
            deaths.died();
        }
        end
    });
    let mine = toc.allocate(64).unwrap();
    let theirs = mortal.join().unwrap();
    assert!(theirs.is_none_or(|offset| mine.abs_diff(offset) >= 64), "chunks overlap");
    assert!(free - toc.free_space().unwrap() <= 128);
}

fn sweep(name: &str, scenario: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    let tried = model::every_death(scenario);
    println!("toc, {name}: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn an_inserter_may_die_anywhere() {
    sweep("insert", |fuel, deaths| one_key(fuel, deaths, Order::WriteThenInsert));
}

#[test]
fn a_creator_may_die_anywhere() {
    sweep("publish", attaching);
}

#[test]
fn one_of_two_that_allocate_may_die_anywhere() {
    sweep("allocate", allocating);
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["toc.rs"], || {
        model::check(|| attaching(u32::MAX, &Deaths::default()));
        model::check(|| one_key(u32::MAX, &Deaths::default(), Order::WriteThenInsert));
    });
    assert_eq!(found, 4);
}

/// Planted bug: the entry is published before its contents.
#[test]
fn finds_a_value_published_too_early() {
    model::finds("found before it was written", || {
        model::check(|| one_key(u32::MAX, &Deaths::default(), Order::InsertThenWrite));
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
