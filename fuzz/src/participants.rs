//! Any table of participants, joined and looked at.
use crate::block::{guarded, image, split};
use shm_core::event::EventCount;
use shm_core::participants::{ParticipantId, Table, wait};
use std::sync::LazyLock;
use std::time::Instant;

const SLOTS: u32 = 3;
const BYTES: usize = Table::bytes_for(SLOTS) as usize;

/// A table that one has joined.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::new();
    let _ = image(BYTES, |mapping| {
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(mapping, 0, SLOTS) }.expect("a table");
        let member = table.join().expect("a seat");
        bytes = (0..BYTES as u64 / 8)
            .flat_map(|word| mapping.region().read::<[u8; 8]>(8 * word).expect("inside"))
            .collect();
        drop(member);
    });
    bytes
});

/// Every call on a table, and for some inputs on a member of it.
pub fn participants(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let (block, mapping) = guarded(&IMAGE, bytes, how & 1 == 1);
    let Ok(table) = Table::attach(&mapping, 0) else { return };
    assert!(table.capacity() <= SLOTS);
    let ids = (0..=SLOTS).filter_map(|slot| ParticipantId::from_bits(slot << 22 | 1));
    let ids: Vec<_> = ids.collect();
    for id in &ids {
        table.liveness(*id);
    }
    assert!(table.snapshot().len() <= SLOTS as usize);
    let mut cleaned = 0;
    let reaped = table.reap(|_| cleaned += 1);
    assert!(reaped == cleaned && reaped <= SLOTS as usize);
    table.is_empty();
    // A seat costs a thread: for some only.
    if how & 6 == 0
        && let Ok(member) = table.join()
    {
        let event = EventCount::new();
        let watches: Vec<_> = ids.iter().map(|id| member.watch(*id)).collect();
        let all: Vec<_> = watches.iter().collect();
        all.iter().for_each(|watch| _ = watch.is_dead());
        wait(&event, event.prepare(), &all, Some(Instant::now()));
    }
    assert!(block.is_intact());
}
