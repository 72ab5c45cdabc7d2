//! Atomic relative pointers under the explorer: a free list that any process may die in hands
//! nothing out twice and loses only what the dead had in hand; what is published is whole.
#![cfg(shm_explore)]
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use relptr::{AtomicRelPtr, AtomicTaggedRelPtr, Region, RelPtr, ShmSync, TaggedRelPtr};
use shm_testkit::explore::{Arena, AtomicU64, End, Me, Process, Scenario, finds, is_deep};

const NODES: usize = 3;

#[repr(C)]
struct Node {
    next: AtomicRelPtr<Node>,
    /// Who has it; 0 in the list.
    owner: AtomicU64,
}

/// All zero at first.
#[repr(C)]
struct Shared {
    tagged: AtomicTaggedRelPtr<Node>,
    untagged: AtomicRelPtr<Node>,
    nodes: [Node; NODES],
}
// SAFETY: atomics only.
unsafe impl ShmSync for Node {}
// SAFETY: atomics only.
unsafe impl ShmSync for Shared {}

/// A word that a free list can stand on.
trait Head {
    type Seen: Copy;
    fn seen(&self) -> Self::Seen;
    fn ptr(seen: Self::Seen) -> RelPtr<Node>;
    fn replace(&self, seen: Self::Seen, by: RelPtr<Node>) -> bool;
    fn take_all(&self) -> RelPtr<Node>;
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
        // A lie may be too far for a tagged pointer.
        seen.advance(by).is_ok_and(|new| self.compare_exchange(seen, new, Release, Relaxed).is_ok())
    }
    fn take_all(&self) -> RelPtr<Node> {
        // Nobody has a tag so high that this one could be met again.
        let none = TaggedRelPtr::new(RelPtr::NULL, 1 << 15).unwrap();
        self.swap(none, Acquire).ptr()
    }
}

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
    fn take_all(&self) -> RelPtr<Node> {
        self.swap(RelPtr::NULL, Acquire)
    }
}

/// A free list of all nodes, over one of the two heads.
struct List<'a, H> {
    region: Region<'a>,
    head: &'a H,
}

/// A list is not longer than this, whatever stands in it.
const ROUNDS_MAX: usize = 50;

impl<'a, H: Head> List<'a, H> {
    fn new(arena: &'a Arena, head: impl Fn(&'a Shared) -> &'a H) -> List<'a, H> {
        // SAFETY: the arena's bytes, for as long as it lives.
        let region = unsafe { Region::from_raw(arena.base(), size_of::<Shared>()) };
        let shared = region.share::<Shared>(0).unwrap();
        let list = List { region, head: head(shared) };
        shared.nodes.iter().for_each(|node| list.push(node));
        list
    }

    fn push(&self, node: &Node) {
        let pointer = RelPtr::from_ref(self.region, node).unwrap();
        for _ in 0..ROUNDS_MAX {
            let seen = self.head.seen();
            node.next.store(H::ptr(seen), Relaxed);
            if self.head.replace(seen, pointer) {
                return;
            }
        }
    }

    fn pop(&self) -> Option<&'a Node> {
        for _ in 0..ROUNDS_MAX {
            let seen = self.head.seen();
            // Null, or nonsense.
            let node = H::ptr(seen).share(self.region).ok()?;
            let next = node.next.load(Relaxed);
            if self.head.replace(seen, next) {
                return Some(node);
            }
        }
        None
    }

    /// Takes a node, or all, has it for a moment, and gives it back.
    fn use_one(&self, me: &Me) {
        let Some(node) = self.pop() else { return };
        let before = node.owner.swap(me.pid().into(), Relaxed);
        assert_eq!(before, 0, "handed out twice");
        self.give_back(node);
    }

    fn give_back(&self, node: &Node) {
        node.owner.store(0, Relaxed);
        self.push(node);
    }

    /// What is in it, which nobody has in hand.
    fn drain(&self) -> usize {
        let mut count = 0;
        let mut pointer = self.head.take_all();
        while let Ok(node) = pointer.share(self.region) {
            count += 1;
            assert!(count <= NODES, "it goes in a circle");
            assert_eq!(node.owner.load(Relaxed), 0, "in the list, and in somebody's hand");
            pointer = node.next.load(Relaxed);
        }
        count
    }
}

/// The living have given back what they had; a dead one may have had one node.
fn check<H: Head>(list: &List<'_, H>, end: &End<'_>) {
    let left = list.drain();
    assert!(left <= NODES && left + end.deaths() as usize >= NODES, "{left} nodes are left");
}

fn arena() -> Arena {
    Arena::new(size_of::<Shared>())
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("relptr", name)
}

fn user<'a, H: Head>(list: &'a List<'a, H>, times: u32) -> Process<'a> {
    let first = Process::new("user", |me| list.use_one(me)).mortal().never_waits();
    (1..times).fold(first, |user, _| user.then(|me| list.use_one(me)))
}

#[test]
fn a_tagged_free_list_hands_nothing_out_twice() {
    let arena = arena();
    let list = List::new(&arena, |shared| &shared.tagged);
    let scenario = scenario("three users of a free list").deaths(if is_deep() { 2 } else { 1 });
    let scenario = scenario.process(user(&list, 1)).process(user(&list, 1));
    let scenario = scenario.process(user(&list, 1)).check(|end| check(&list, end));
    scenario.preemptions_at_most(if is_deep() { 4 } else { 3 }).explore();
}

#[test]
fn a_tagged_free_list_sees_through_a_node_that_comes_back() {
    let arena = arena();
    let list = List::new(&arena, |shared| &shared.tagged);
    let takes_two = Process::new("takes two", |me| {
        let two = [list.pop(), list.pop()];
        for node in two.into_iter().flatten() {
            assert_eq!(node.owner.swap(me.pid().into(), Relaxed), 0, "handed out twice");
        }
        two.into_iter().flatten().for_each(|node| list.give_back(node));
    });
    let scenario = scenario("one takes two").process(takes_two).process(user(&list, 2)).deaths(1);
    scenario.check(|end| check(&list, end)).explore();
}

/// Planted bug: the same list without the tag.
#[test]
fn finds_the_untagged_head() {
    let arena = arena();
    let list = List::new(&arena, |shared| &shared.untagged);
    let keeps_one = Process::new("keeps one", |me| {
        let (first, second) = (list.pop(), list.pop());
        for node in first.iter().chain(&second) {
            assert_eq!(node.owner.swap(me.pid().into(), Relaxed), 0, "handed out twice");
        }
        // The first comes back, and what follows it is another one than before.
        first.into_iter().for_each(|node| list.give_back(node));
    });
    let scenario = scenario("untagged").process(keeps_one).process(user(&list, 1));
    let scenario = scenario.check(|_| assert_eq!(list.drain(), NODES - 1));
    finds("in the list, and in somebody's hand", || scenario.explore());
}

/// A record is written before its pointer is published, by whoever comes first.
#[test]
fn a_published_record_is_whole() {
    let arena = arena();
    // SAFETY: the arena's bytes, for as long as it lives.
    let region = unsafe { Region::from_raw(arena.base(), size_of::<Shared>()) };
    let shared = region.share::<Shared>(0).unwrap();
    let publishes = |index: usize| {
        let record = &shared.nodes[index];
        Process::new("publishes", move |me| {
            record.owner.store(me.pid().into(), Relaxed);
            let pointer = RelPtr::from_ref(region, record).unwrap();
            match shared.untagged.compare_exchange(RelPtr::NULL, pointer, Release, Relaxed) {
                Ok(_) => me.say(0),
                Err(theirs) => {
                    assert_ne!(theirs, pointer);
                    shared.untagged.store(pointer, Release);
                }
            }
        })
        .mortal()
        .never_waits()
    };
    let reads = || {
        Process::new("reads", |_| {
            for _ in 0..2 {
                if let Ok(record) = shared.untagged.load(Acquire).share(region) {
                    assert_ne!(record.owner.load(Relaxed), 0, "published, and not written");
                }
            }
        })
        .never_waits()
    };
    let scenario = scenario("two publish, two read").deaths(2);
    let scenario = scenario.process(publishes(0)).process(publishes(1));
    let first = |end: &End<'_>| {
        let firsts = (0..2).flat_map(|p| end.said(p)).count();
        assert!(firsts <= 1, "both were first");
        assert!(end.deaths() > 0 || firsts == 1, "nobody was");
    };
    scenario.process(reads()).process(reads()).check(first).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let arena = arena();
    let list = List::new(&arena, |shared| &shared.tagged);
    let uses = || {
        Process::new("user", |_| {
            if let Some(node) = list.pop() {
                list.push(node);
            }
        })
        .never_waits()
    };
    let lies = if is_deep() { 3 } else { 2 };
    let scenario = scenario(&format!("{lies} lies")).lies(lies);
    scenario.process(uses()).process(uses()).explore();
}
