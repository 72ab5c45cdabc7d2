//! Guarded memory that holds an image and the fuzzer's lies about it.
use arbitrary::Arbitrary;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::{Edge, Guarded, Outside};
use std::sync::{Arc, LazyLock};

/// The block as a mapping, which keeps it.
pub(crate) fn mapping(block: &Guarded) -> Arc<Mapping> {
    let kept = block.clone();
    // SAFETY: the block is aligned to 64 bytes, lives as long as `kept`, and no reference leads to
    // it; those who lie to it have a mapping of their own.
    unsafe { Mapping::from_raw(block.base(), block.len(), Box::new(|_, _| drop(kept))) }
}

/// A block that holds `image`, with `lies` laid over it; flush with the page before or behind.
pub(crate) fn guarded(image: &[u8], lies: &[u8], before: bool) -> (Guarded, Arc<Mapping>) {
    let edge = if before { Edge::Left } else { Edge::Right };
    let block = Guarded::holding(&overlaid(image, lies), edge);
    let mapping = mapping(&block);
    (block, mapping)
}

/// Each byte of `image` with the byte of `lies` at its place, by exclusive-or.
pub(crate) fn overlaid(image: &[u8], lies: &[u8]) -> Vec<u8> {
    let lies = lies.iter().copied().chain(std::iter::repeat(0));
    image.iter().zip(lies).map(|(byte, lie)| byte ^ lie).collect()
}

/// What `make` leaves in `len` zero bytes.
pub(crate) fn image(len: usize, make: impl FnOnce(&Arc<Mapping>)) -> Vec<u8> {
    let block = Guarded::new(len, Edge::Right);
    make(&mapping(&block));
    block.outside().read()
}

/// The first byte, for choices, and the rest.
pub(crate) fn split(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

/// A word overwritten while operations go on.
#[derive(Clone, Copy, Arbitrary, Debug)]
pub(crate) struct Lie {
    at: u16,
    value: Value,
}

/// What it is overwritten by.
#[derive(Clone, Copy, Arbitrary, Debug)]
enum Value {
    Any(u64),
    Flip(u8),
    Add(i8),
    Zero,
    Ones,
    /// What stands in another word.
    Copy(u16),
}

impl Lie {
    pub(crate) fn tell(self, memory: &Outside) {
        let words = memory.len() / 8;
        let at = usize::from(self.at) % words * 8;
        let old = memory.word(at);
        let new = match self.value {
            Value::Any(word) => word,
            Value::Flip(bit) => old ^ 1 << (bit % 64),
            Value::Add(by) => old.wrapping_add_signed(i64::from(by)),
            Value::Zero => 0,
            Value::Ones => u64::MAX,
            Value::Copy(from) => memory.word(usize::from(from) % words * 8),
        };
        memory.write(at, &new.to_le_bytes());
    }
}

/// Three seats of this process, in a table that is honest.
pub(crate) fn member(n: usize) -> &'static Arc<Member> {
    static MEMBERS: LazyLock<[Arc<Member>; 3]> = LazyLock::new(|| {
        let mapping = Mapping::heap(Table::bytes_for(3) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 3) }.expect("a table");
        std::array::from_fn(|_| table.join().expect("a seat"))
    });
    &MEMBERS[n % 3]
}
