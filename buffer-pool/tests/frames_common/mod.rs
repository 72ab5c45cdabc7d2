//! What the tests of the frames share: one file, whose entries are an array.
use buffer_pool::frames::{Entries, PageId};
use shm_core::mapping::MappedSlice;
use shm_core::sync::AtomicU64;

#[derive(Clone, Debug)]
pub(crate) struct Array(pub(crate) MappedSlice<AtomicU64>);

impl Entries for Array {
    fn entry(&self, page: PageId) -> Option<&AtomicU64> {
        self.0.get(page.block() as usize)
    }
}

pub(crate) fn page(number: u32) -> PageId {
    PageId::new(0, number).unwrap()
}
