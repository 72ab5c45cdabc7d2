//! Atomic relative pointers publish what stands behind them, and a tag sees through ABA.
#![cfg(shm_loom)]
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use relptr::{AtomicRelPtr, AtomicTaggedRelPtr, Region, RelPtr, ShmSync, TaggedRelPtr};

/// What the modelled processes share: a heap block that stands for a mapping.
struct Block<T>(Box<T>);

impl<T: ShmSync> Block<T> {
    fn region(&self) -> Region<'_> {
        // SAFETY: one allocation, borrowed for as long as the region lives; T is ShmSync.
        unsafe { Region::from_raw(NonNull::from(&*self.0).cast(), size_of::<T>()) }
    }
}

/// Explores `scenario` and says why it failed; "" where it did not.
fn failure(scenario: impl Fn() + Send + Sync + 'static) -> String {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    let model = std::panic::AssertUnwindSafe(move || builder.check(scenario));
    match std::panic::catch_unwind(model) {
        Ok(()) => String::new(),
        Err(why) => why.downcast_ref::<String>().cloned().unwrap_or_else(|| {
            why.downcast_ref::<&str>().map_or("no message", |message| message).to_string()
        }),
    }
}

/// A record and the pointer to it; the record is written plainly, so loom sees a race.
struct Published {
    newest: AtomicRelPtr<UnsafeCell<u64>>,
    record: UnsafeCell<u64>,
}
// SAFETY: the cell is reached through `newest` only, and loom checks that this orders its accesses.
unsafe impl ShmSync for Published {}
// SAFETY: as above.
unsafe impl Sync for Published {}

fn publication(store: Ordering, load: Ordering) {
    let shared = Arc::new(Block(Box::new(Published {
        newest: AtomicRelPtr::default(),
        record: UnsafeCell::new(0),
    })));
    let theirs = shared.clone();
    let writer = loom::thread::spawn(move || {
        let shared = &theirs.0;
        // SAFETY: not published yet.
        shared.record.with_mut(|record| unsafe { *record = 42 });
        let pointer = RelPtr::from_ref(theirs.region(), &shared.record).unwrap();
        shared.newest.store(pointer, store);
    });
    let pointer = shared.0.newest.load(load);
    if !pointer.is_null() {
        let record = pointer.resolve(shared.region()).unwrap();
        // SAFETY: resolved to the cell in this block, which lives.
        let record = unsafe { record.as_ref() };
        // SAFETY: published, and never written again.
        assert_eq!(record.with(|record| unsafe { *record }), 42);
    }
    writer.join().unwrap();
}

#[test]
fn a_pointer_publishes_its_target() {
    assert_eq!(failure(|| publication(Release, Acquire)), "");
}

/// Planted bugs: either half of the pair left out.
#[test]
fn finds_a_relaxed_publication() {
    for (store, load) in [(Relaxed, Acquire), (Release, Relaxed)] {
        let why = failure(move || publication(store, load));
        assert!(why.contains("Causality"), "{why}");
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

#[derive(Default)]
struct Node {
    next: AtomicRelPtr<Node>,
    /// Times it is out: more than one means handed out twice.
    out: AtomicU32,
}
// SAFETY: modelled atomics.
unsafe impl ShmSync for Node {}

struct FreeList<H> {
    head: H,
    nodes: [Node; 2],
}
// SAFETY: modelled atomics.
unsafe impl<H: Head> ShmSync for FreeList<H> {}

impl<H: Head> Block<FreeList<H>> {
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
                return Some(node);
            }
        }
    }
}

/// One process pops; another pops two and pushes the first back: the head is as it was, its
/// successor is out.
fn free_list<H: Head>() {
    let list =
        Arc::new(Block(Box::new(FreeList { head: H::default(), nodes: Default::default() })));
    for index in [1, 0] {
        list.0.nodes[index].out.store(1, Relaxed);
        list.push(list.node(index));
    }
    let theirs = list.clone();
    let other = loom::thread::spawn(move || {
        let first = theirs.pop();
        let second = theirs.pop();
        if let (Some(first), Some(_)) = (first, second) {
            theirs.push(first);
        }
    });
    list.pop();
    other.join().unwrap();
    while list.pop().is_some() {}
}

#[test]
fn a_tagged_head_is_not_fooled() {
    assert_eq!(failure(free_list::<AtomicTaggedRelPtr<Node>>), "");
}

#[test]
fn finds_the_untagged_head() {
    let why = failure(free_list::<AtomicRelPtr<Node>>);
    assert!(why.contains("handed out twice"), "{why}");
}
