//! What the tests of `rpc` share.
use shm_core::participants::Member;
use std::sync::Arc;

/// The member is gone, as after its death, whatever handles of its were forgotten.
pub(crate) fn vanishes(member: Arc<Member>) {
    let references = Arc::strong_count(&member);
    let member = Arc::into_raw(member);
    for _ in 0..references {
        // SAFETY: each reference is this one, or in a handle that was forgotten.
        unsafe { Arc::decrement_strong_count(member) };
    }
}
