//! Any table of contents, and any use of one.
use crate::block::{Lie, guarded, image, split};
use arbitrary::{Arbitrary, Unstructured};
use dsm::toc::{Toc, TocError};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const MAGIC: u64 = 0x50;
const LEN: usize = 1024;
const ENTRIES: u64 = 6;

/// A table with half its keys.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    image(LEN, |mapping| {
        let toc = Toc::create(mapping, MAGIC, ENTRIES).expect("a table");
        for key in 0..ENTRIES / 2 {
            let chunk = toc.allocate(64).expect("room");
            toc.insert(key, chunk).expect("a new key");
        }
    })
});

/// Every call on a table that is valid but for the input's lies.
pub fn toc(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let (block, mapping) = guarded(&IMAGE, bytes, how & 1 == 1);
    let Ok(toc) = Toc::attach(&mapping, MAGIC) else { return };
    let inside = |at: u64, size: u64| at.checked_add(size).is_some_and(|end| end <= LEN as u64);
    for size in [1, 64, 100, LEN as u64, u64::MAX] {
        if let Ok(at) = toc.allocate_aligned(size, 64 << (how >> 5)) {
            assert!(inside(at, size));
            let _ = toc.insert(u64::from(how), at);
        }
    }
    for key in [0, 2, 4, u64::from(how), u64::MAX - 1, u64::MAX] {
        assert!(!matches!(toc.lookup(key), Ok(Some(at)) if !inside(at, 1)));
        let _ = toc.insert(key, LEN as u64 - 64);
    }
    let _ = toc.free_space();
    assert!(
        toc.entries().is_ok_and(|all| all.iter().all(|(_, at)| inside(*at, 1)))
            || toc.entries().is_err()
    );
    assert!(block.is_intact());
}

#[derive(Arbitrary, Debug)]
enum Op {
    Allocate {
        size: u16,
        align: u8,
    },
    /// Files the last chunk.
    Insert {
        key: u8,
    },
    Lookup {
        key: u8,
    },
    /// From here on another attaches anew.
    Attach,
    Lie(Lie),
}

/// Uses a table as a map, until the first lie.
pub fn toc_ops(bytes: &[u8]) {
    let (block, mapping) = guarded(&[0; LEN], &[], false);
    let mut toc = Toc::create(&mapping, MAGIC, ENTRIES).expect("a table");
    let (mut plain, mut honest) = (BTreeMap::new(), true);
    let mut chunks: Vec<(u64, u64)> = Vec::new();
    for op in Unstructured::new(bytes).arbitrary_iter::<Op>().into_iter().flatten() {
        let Ok(op) = op else { break };
        match op {
            Op::Allocate { size, align } => {
                let size = u64::from(size);
                if let Ok(at) = toc.allocate_aligned(size, 1 << (align % 14)) {
                    assert!(at + size <= LEN as u64);
                    let apart =
                        |&(other, len): &(u64, u64)| at + size <= other || other + len <= at;
                    assert!(!honest || chunks.iter().all(apart));
                    chunks.push((at, size));
                }
            }
            Op::Insert { key } => {
                let Some((at, _)) = chunks.last() else { continue };
                let done = toc.insert(u64::from(key), *at);
                if honest {
                    let known = plain.contains_key(&key);
                    match done {
                        Ok(()) => assert!(!known && plain.insert(key, *at).is_none()),
                        Err(TocError::Duplicate { .. }) => assert!(known),
                        Err(error) => {
                            assert!(matches!(error, TocError::EntriesFull { .. }));
                            assert_eq!(plain.len() as u64, ENTRIES);
                        }
                    }
                }
            }
            Op::Lookup { key } => {
                let found = toc.lookup(u64::from(key));
                assert!(!honest || found == Ok(plain.get(&key).copied()));
            }
            Op::Attach => match Toc::attach(&mapping, MAGIC) {
                Ok(again) => toc = again,
                Err(error) => assert!(!honest, "{error}"),
            },
            Op::Lie(lie) => {
                lie.tell(&block.outside());
                honest = false;
            }
        }
    }
    assert!(block.is_intact());
}
