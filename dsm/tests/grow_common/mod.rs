//! A segment table of two slots, which begins with memory for one, as each of several processes has
//! it: for the models and the explorer.
use dsm::SegmentHandle;
use dsm::control::{Control, Objects};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use std::sync::Arc;

pub(crate) const SEGMENTS: u32 = 2;
const PARTICIPANTS: u32 = 4;

/// The objects are not looked at here.
pub(crate) struct NoObjects;

impl Objects for NoObjects {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}
}

pub(crate) fn table() -> Arc<Mapping> {
    let mapping = Mapping::heap(Control::bytes_for(SEGMENTS, PARTICIPANTS) as usize);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, 1) }.unwrap();
    mapping
}

/// The table as one process has it: what it knows of it is its own.
pub(crate) fn attach(mapping: &Arc<Mapping>) -> Control {
    Control::attach(mapping, 0, SEGMENTS, PARTICIPANTS).unwrap()
}

pub(crate) fn id(who: u32) -> ParticipantId {
    ParticipantId::from_bits(who << 22 | 1).unwrap()
}

pub(crate) fn enter(control: &Control, who: u32) -> bool {
    control.actor(id(who), &NoObjects).enter()
}

/// Makes a segment, in a piece more if need be; `None` where all slots are taken.
pub(crate) fn create(control: &Control, who: u32) -> Option<SegmentHandle> {
    let actor = control.actor(id(who), &NoObjects);
    let handle = loop {
        match actor.claim() {
            Some(handle) => break handle,
            None if control.grow().unwrap() => {}
            None => return None,
        }
    };
    assert!(actor.publish(handle, 1));
    Some(handle)
}

/// Leaves, or is cleaned up after.
pub(crate) fn clean_up(control: &Control, who: u32) {
    control.actor(id(who), &NoObjects).clean_up();
}

/// Nobody has a segment any more: every slot can be had, each once.
pub(crate) fn assert_all_free(control: &Control, who: u32) {
    assert!(control.leftovers().is_empty(), "a slot is left over");
    let all: Vec<_> = std::iter::from_fn(|| create(control, who)).collect();
    assert_eq!(all.len(), SEGMENTS as usize, "slots are lost: {all:?}");
    assert_ne!(all[0].to_bits() % 2, all[1].to_bits() % 2, "a slot is given out twice");
}
