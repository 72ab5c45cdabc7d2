//! Where memory is sequentially consistent whatever the code says, there is nothing to weaken.
use core::panic::Location;
use core::sync::atomic::Ordering;

pub(super) fn order(_: &'static Location<'static>, _: u8, _: Ordering) -> Ordering {
    Ordering::SeqCst
}

pub(super) fn fence_order(_: &'static Location<'static>, _: Ordering) -> Option<Ordering> {
    Some(Ordering::SeqCst)
}
