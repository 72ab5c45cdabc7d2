//! Processes of models: they never fork, and have one thread each.

/// As the system's.
pub fn generation() -> u64 {
    1
}

/// As the system's.
pub fn thread() -> u32 {
    1
}

/// As the system's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark;

impl Mark {
    pub(super) fn new() -> Mark {
        Mark
    }

    pub(super) fn is_ours(&self) -> bool {
        true
    }
}
