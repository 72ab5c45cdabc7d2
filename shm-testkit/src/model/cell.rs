//! Payload, where the runtime has no cell of its own: an access is a turn of the schedule.
use super::runtime::sync::atomic::{AtomicBool, Ordering};
use core::cell;

/// Payload that models access plainly, with the interface of loom's cell.
///
/// One thread runs at a time, so nothing races. Two that have the same payload are found out by
/// what they read, as each access lets the others run first.
#[derive(Debug)]
pub struct UnsafeCell<T> {
    value: cell::UnsafeCell<T>,
    turn: AtomicBool,
}

impl<T> UnsafeCell<T> {
    /// A cell holding `value`.
    pub fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell { value: cell::UnsafeCell::new(value), turn: AtomicBool::new(false) }
    }

    /// Calls `look` with the address of the value, to read it.
    pub fn with<R>(&self, look: impl FnOnce(*const T) -> R) -> R {
        self.turn.load(Ordering::Acquire);
        look(self.value.get())
    }

    /// Calls `change` with the address of the value, to write it.
    pub fn with_mut<R>(&self, change: impl FnOnce(*mut T) -> R) -> R {
        self.turn.load(Ordering::Acquire);
        change(self.value.get())
    }
}
