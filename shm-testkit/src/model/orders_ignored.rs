//! Where memory is sequentially consistent whatever the code says, there is nothing to weaken.
use core::panic::Location;
use core::sync::atomic::Ordering;

pub(super) fn order(_: &'static Location<'static>, _: u8, order: Ordering) -> Ordering {
    order
}

pub(super) fn fence_order(_: &'static Location<'static>, order: Ordering) -> Option<Ordering> {
    Some(order)
}
