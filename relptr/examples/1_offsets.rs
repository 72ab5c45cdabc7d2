//! A list whose links are offsets: copied to another address, it is still the same list.
//!
//! Two buffers stand for one segment that two processes have mapped at different places.
//! Run: `cargo run -p relptr --example 1_offsets`
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use relptr::{AtomicRelPtr, BadPtr, Region, RelPtr, ShmSync};

#[repr(C)]
struct Node {
    value: AtomicU64,
    next: AtomicRelPtr<Node>,
}
// SAFETY: two atomic words.
unsafe impl ShmSync for Node {}

type Segment = [u64; 32];

fn region(segment: &mut Segment) -> Region<'_> {
    // SAFETY: the whole segment, borrowed for as long as the region lives.
    unsafe { Region::from_raw(NonNull::from(&mut *segment).cast(), size_of::<Segment>()) }
}

/// Builds the list 1, 2, 3 and leaves its head at the base.
fn build(region: Region<'_>) -> Result<(), BadPtr> {
    let mut carver = region.carve();
    let head: &AtomicRelPtr<Node> = carver.share()?;
    for value in [3, 2, 1] {
        let node: &Node = carver.share()?;
        node.value.store(value, Ordering::Relaxed);
        node.next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(RelPtr::from_ref(region, node)?, Ordering::Release);
    }
    Ok(())
}

/// Follows the list, at most `limit` nodes far: links are claims of another process.
fn values(region: Region<'_>, limit: usize) -> Result<Vec<u64>, BadPtr> {
    let mut values = Vec::new();
    let mut next = region.share::<AtomicRelPtr<Node>>(0)?.load(Ordering::Acquire);
    while !next.is_null() && values.len() < limit {
        let node = next.share(region)?;
        values.push(node.value.load(Ordering::Relaxed));
        next = node.next.load(Ordering::Acquire);
    }
    Ok(values)
}

fn main() -> Result<(), BadPtr> {
    let mut here: Segment = [0; 32];
    build(region(&mut here))?;

    let mut elsewhere: Segment = here;
    assert_ne!(here.as_ptr(), elsewhere.as_ptr());
    let seen = values(region(&mut elsewhere), 10)?;
    println!("at another address: {seen:?}");
    assert_eq!(seen, [1, 2, 3]);

    let head: &AtomicRelPtr<Node> = region(&mut elsewhere).share(0)?;
    head.store(RelPtr::from_offset(1 << 40), Ordering::Relaxed);
    let error = values(region(&mut elsewhere), 10).unwrap_err();
    println!("a wild link: {error}");
    Ok(())
}
