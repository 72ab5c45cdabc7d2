//! A model has no clock: its kernel forgets no mark.

#[derive(Clone, Debug)]
pub(crate) struct Recheck;

impl Recheck {
    pub(crate) fn new() -> Recheck {
        Recheck
    }

    pub(crate) fn is_due(&self) -> bool {
        false
    }
}
