//! Atomic relative pointers publish what stands behind them, and a tag sees through ABA, whichever
//! process dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use relptr::{AtomicRelPtr, AtomicTaggedRelPtr, Region, RelPtr, ShmSync, TaggedRelPtr};
use shm_testkit::model::{self, AtomicU32, Deaths, UnsafeCell};
use std::sync::Arc;

/// What the modelled processes share: a heap block that stands for a mapping.
struct Block<T>(Box<T>);

impl<T: ShmSync> Block<T> {
    fn region(&self) -> Region<'_> {
        // SAFETY: one allocation, borrowed for as long as the region lives; T is ShmSync.
        unsafe { Region::from_raw(NonNull::from(&*self.0).cast(), size_of::<T>()) }
    }
}

/// Runs `process` in a thread, which dies after `fuel` accesses; `None` where it did.
fn process<R: 'static>(
    fuel: u32,
    deaths: &Deaths,
    process: impl FnOnce() -> R + 'static,
) -> model::thread::JoinHandle<Option<R>> {
    let deaths = deaths.clone();
    model::thread::spawn(move || model::mortal(fuel, process).or_else(|| dead(&deaths)))
}

fn dead<R>(deaths: &Deaths) -> Option<R> {
    deaths.died();
    None
}

fn sweep(name: &str, scenario: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    let tried = model::every_death_bounded(Some(model::preemption_bound() + 1), scenario);
    println!("{name}: {tried:?}");
    assert!(tried.deaths > 0);
}

const FOR_EVER: u32 = u32::MAX;

/// A record and the pointer to it; the record is written plainly, so loom sees a race.
struct Published {
    newest: AtomicRelPtr<UnsafeCell<u64>>,
    record: UnsafeCell<u64>,
}
// SAFETY: the cell is reached through `newest` only, and loom checks that this orders its accesses.
unsafe impl ShmSync for Published {}
// SAFETY: as above.
unsafe impl Sync for Published {}

/// A writer that may die at any access; who finds the pointer finds the record whole.
fn publication(store: Ordering, load: Ordering, fuel: u32, deaths: &Deaths) {
    let shared = Arc::new(Block(Box::new(Published {
        newest: AtomicRelPtr::default(),
        record: UnsafeCell::new(0),
    })));
    let theirs = shared.clone();
    let writer = process(fuel, deaths, move || {
        let shared = &theirs.0;
        // SAFETY: not published yet.
        shared.record.with_mut(|record| unsafe { *record = 42 });
        let pointer = RelPtr::from_ref(theirs.region(), &shared.record).unwrap();
        shared.newest.store(pointer, store);
    });
    look(&shared, load);
    let acknowledged = writer.join().unwrap().is_some();
    assert!(!acknowledged || look(&shared, load), "what was published is lost");
}

/// Whether the pointer is there.
fn look(shared: &Block<Published>, load: Ordering) -> bool {
    let pointer = shared.0.newest.load(load);
    if pointer.is_null() {
        return false;
    }
    let record = pointer.resolve(shared.region()).unwrap();
    // SAFETY: resolved to the cell in this block, which lives.
    let record = unsafe { record.as_ref() };
    // SAFETY: published, and never written again.
    assert_eq!(record.with(|record| unsafe { *record }), 42);
    true
}

/// As a caller writes it: its orderings are met here.
fn published(fuel: u32, deaths: &Deaths) {
    publication(Release, Acquire, fuel, deaths);
}

#[test]
fn a_pointer_publishes_its_target() {
    sweep("publication", published);
}

/// Planted bugs: either half of the pair left out.
#[test]
fn finds_a_relaxed_publication() {
    for (store, load) in [(Relaxed, Acquire), (Release, Relaxed)] {
        model::finds("Causality violation", || {
            model::check(move || publication(store, load, FOR_EVER, &Deaths::default()));
        });
    }
}

/// A word that a free list can stand on.
trait Head: Default + Send + Sync + 'static {
    type Seen: Copy;
    fn seen(&self) -> Self::Seen;
    fn ptr(seen: Self::Seen) -> RelPtr<Node>;
    fn replace(&self, seen: Self::Seen, by: RelPtr<Node>) -> bool;
}

impl Head for AtomicTaggedRelPtr<Node> {
    type Seen = TaggedRelPtr<Node>;
    fn seen(&self) -> Self::Seen {
        self.load(Acquire)
    }
    fn ptr(seen: Self::Seen) -> RelPtr<Node> {
        seen.ptr()
    }
    fn replace(&self, seen: Self::Seen, by: RelPtr<Node>) -> bool {
        self.compare_exchange(seen, seen.advance(by).unwrap(), Release, Relaxed).is_ok()
    }
}

/// Planted bug: the same list without the tag.
impl Head for AtomicRelPtr<Node> {
    type Seen = RelPtr<Node>;
    fn seen(&self) -> Self::Seen {
        self.load(Acquire)
    }
    fn ptr(seen: Self::Seen) -> RelPtr<Node> {
        seen
    }
    fn replace(&self, seen: Self::Seen, by: RelPtr<Node>) -> bool {
        self.compare_exchange(seen, by, Release, Relaxed).is_ok()
    }
}

struct Node {
    next: AtomicRelPtr<Node>,
    /// Times it is out: more than one means handed out twice.
    out: AtomicU32,
    /// Its taker's own: written plainly, so loom sees two at it.
    inside: UnsafeCell<u64>,
}
// SAFETY: modelled atomics; loom checks that the list orders accesses to the cell.
unsafe impl ShmSync for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

struct FreeList<H> {
    head: H,
    nodes: [Node; 2],
}
// SAFETY: modelled atomics.
unsafe impl<H: Head> ShmSync for FreeList<H> {}

impl<H: Head> Block<FreeList<H>> {
    /// A list of all nodes.
    fn full() -> Arc<Self> {
        let node = || Node {
            next: AtomicRelPtr::default(),
            out: AtomicU32::new(1),
            inside: UnsafeCell::new(0),
        };
        let list =
            Arc::new(Block(Box::new(FreeList { head: H::default(), nodes: [node(), node()] })));
        for index in [1, 0] {
            list.push(list.node(index));
        }
        list
    }

    fn node(&self, index: usize) -> RelPtr<Node> {
        RelPtr::from_ref(self.region(), &self.0.nodes[index]).unwrap()
    }

    fn push(&self, node: RelPtr<Node>) {
        let target = node.share(self.region()).unwrap();
        target.out.fetch_sub(1, Relaxed);
        loop {
            let seen = self.0.head.seen();
            target.next.store(H::ptr(seen), Relaxed);
            if self.0.head.replace(seen, node) {
                return;
            }
        }
    }

    fn pop(&self) -> Option<RelPtr<Node>> {
        loop {
            let seen = self.0.head.seen();
            let node = H::ptr(seen);
            if node.is_null() {
                return None;
            }
            let target = node.share(self.region()).unwrap();
            let next = target.next.load(Relaxed);
            if self.0.head.replace(seen, next) {
                assert_eq!(target.out.fetch_add(1, Relaxed), 0, "handed out twice");
                // SAFETY: taken, and nobody else's, or loom reports it.
                target.inside.with_mut(|inside| unsafe { *inside += 1 });
                return Some(node);
            }
        }
    }
}

/// Which of two processes may die.
#[derive(Clone, Copy, PartialEq)]
enum Mortal {
    Popper,
    Pusher,
}

/// One process pops; another pops two and pushes the first back: the head is as it was, its
/// successor is out. A death costs what the dead one had in hand.
fn free_list<H: Head>(mortal: Mortal, fuel: u32, deaths: &Deaths) {
    let fuel_of = |who| if who == mortal { fuel } else { FOR_EVER };
    let list = Block::<FreeList<H>>::full();
    let theirs = list.clone();
    let pusher = process(fuel_of(Mortal::Pusher), deaths, move || {
        let first = theirs.pop();
        let second = theirs.pop();
        if let (Some(first), Some(_)) = (first, second) {
            theirs.push(first);
            return 1;
        }
        first.iter().chain(&second).count()
    });
    let theirs = list.clone();
    let popped = match mortal {
        Mortal::Pusher => Some(list.pop().is_some()),
        Mortal::Popper => model::mortal(fuel, || theirs.pop().is_some()).or_else(|| dead(deaths)),
    };
    let held = pusher.join().unwrap();
    let mut left = 0;
    while list.pop().is_some() {
        left += 1;
    }
    // A popper has one node in hand at most, a pusher may have both.
    let lost = 2 - left - held.unwrap_or_default() - usize::from(popped.unwrap_or_default());
    let in_hand = usize::from(popped.is_none()) + 2 * usize::from(held.is_none());
    assert!(lost <= in_hand, "{lost} nodes are lost");
}

fn tagged(fuel: u32, deaths: &Deaths) {
    free_list::<AtomicTaggedRelPtr<Node>>(Mortal::Pusher, fuel, deaths);
}

#[test]
fn who_pops_and_pushes_may_die_anywhere() {
    sweep("free list, pusher", tagged);
}

#[test]
fn who_pops_may_die_anywhere() {
    sweep("free list, popper", |fuel, deaths| {
        free_list::<AtomicTaggedRelPtr<Node>>(Mortal::Popper, fuel, deaths);
    });
}

/// Whoever takes the head for the one it saw works on a node that another one may still have.
#[test]
fn finds_the_untagged_head() {
    model::finds("Concurrent write accesses", || {
        let nobody = Deaths::default();
        model::check(move || {
            free_list::<AtomicRelPtr<Node>>(Mortal::Pusher, FOR_EVER, &nobody);
        });
    });
}

/// The orderings are the caller's, so they stand in this file.
#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["relptr/tests/loom_atomic.rs"], || {
        model::check(|| published(FOR_EVER, &Deaths::default()));
        model::check(|| tagged(FOR_EVER, &Deaths::default()));
    });
    assert_eq!(found, 4, "the publication's two, and the head's");
}
