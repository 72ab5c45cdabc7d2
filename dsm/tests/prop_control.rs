//! Any sequence of creating, attaching, detaching, pinning and dying, by three participants, agrees
//! with a plain model, and removes each object once; nonsense in the memory does no harm.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects, PinError};
use proptest::prelude::*;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::cases;
use shm_testkit::plain::{Attached, Handle, Refused, Segments};
use std::cell::RefCell;
use std::collections::BTreeSet;

const SLOTS: u32 = 3;
/// Slots of the first piece, where there is another.
const PIECE: u32 = 64;
/// Has the slots that are not looked at: then those that are lie in two pieces.
const FILLER: u32 = 99 << 22 | 1;
/// One place in each word of a set, and one more.
const PLACES: [u32; 3] = [0, 65, 127];

/// The objects that exist.
#[derive(Default)]
struct System(RefCell<BTreeSet<SegmentHandle>>);

impl Objects for System {
    fn remove(&self, handle: SegmentHandle) -> bool {
        assert!(self.0.borrow_mut().remove(&handle), "{handle} is removed twice");
        true
    }

    fn remove_domain(&self) {
        panic!("somebody is always in the domain");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Create {
        who: usize,
    },
    Attach {
        who: usize,
        nth: usize,
    },
    Detach {
        who: usize,
        nth: usize,
    },
    Pin {
        nth: usize,
    },
    Unpin {
        who: usize,
        nth: usize,
    },
    /// Dies, and is reaped.
    Die {
        who: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (who, nth) = (|| 0..3usize, || 0..8usize);
    prop_oneof![
        who().prop_map(|who| Op::Create { who }),
        (who(), nth()).prop_map(|(who, nth)| Op::Attach { who, nth }),
        (who(), nth()).prop_map(|(who, nth)| Op::Detach { who, nth }),
        nth().prop_map(|nth| Op::Pin { nth }),
        (who(), nth()).prop_map(|(who, nth)| Op::Unpin { who, nth }),
        who().prop_map(|who| Op::Die { who }),
    ]
}

/// The table, the model of it, and the handles that both gave out.
struct Both {
    /// The table as each of the three has it: what a process knows of its pieces is its own.
    controls: [Control; 3],
    system: System,
    model: Segments,
    handles: Vec<(SegmentHandle, Handle)>,
    /// How often each place has died: the model wants another participant each time.
    lives: [u32; 3],
}

impl Both {
    /// Room for [`SLOTS`] segments, and for `more` that are there already.
    fn new(more: u32) -> Both {
        let slots = SLOTS + more;
        let mapping = Mapping::heap(Control::bytes_for(slots, 128) as usize);
        // SAFETY: nobody else has the mapping.
        let control = unsafe { Control::create(&mapping, 0, slots, 128, 5) }.unwrap();
        let (system, mut model) = (System::default(), Segments::new(slots as usize));
        let filler = ParticipantId::from_bits(FILLER).unwrap();
        assert!(control.actor(filler, &system).enter());
        let mut handles = Vec::new();
        for _ in 0..more {
            let (handle, plain) = (control.actor(filler, &system).claim(), model.create(FILLER));
            let (handle, plain) = (handle.unwrap(), plain.unwrap());
            system.0.borrow_mut().insert(handle);
            assert!(control.actor(filler, &system).publish(handle, u64::from(plain.generation)));
            handles.push((handle, plain));
        }
        let attach = || Control::attach(&mapping, 0, slots, 128).unwrap();
        let controls = std::array::from_fn(|_| attach());
        Both { controls, system, model, handles, lives: [1; 3] }
    }

    fn id(&self, who: usize) -> ParticipantId {
        ParticipantId::from_bits(PLACES[who] << 22 | self.lives[who]).unwrap()
    }

    fn actor(&self, who: usize) -> Actor<'_, System> {
        self.controls[who].actor(self.id(who), &self.system)
    }

    fn modelled(&self, who: usize) -> u32 {
        self.id(who).to_bits()
    }

    /// One of the last handles given out.
    fn handle(&self, nth: usize) -> Option<(SegmentHandle, Handle)> {
        self.handles.iter().rev().nth(nth).copied()
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Create { who } => self.create(who)?,
            Op::Attach { who, nth } => {
                let Some((handle, plain)) = self.handle(nth) else { return Ok(()) };
                let me = self.modelled(who);
                if self.model.attached(plain).contains(&me) {
                    // The domain refuses this before it comes to the table.
                    return Ok(());
                }
                let expected = match self.model.attach(me, plain) {
                    Attached::Now => Some(u64::from(plain.generation)),
                    _ => None,
                };
                prop_assert_eq!(self.actor(who).attach(handle), expected);
            }
            Op::Detach { who, nth } => {
                let Some((handle, plain)) = self.handle(nth) else { return Ok(()) };
                let me = self.modelled(who);
                if self.model.attached(plain).contains(&me) {
                    self.model.detach(me, plain).unwrap();
                    self.actor(who).detach(handle);
                }
            }
            Op::Pin { nth } => {
                let Some((handle, plain)) = self.handle(nth) else { return Ok(()) };
                let expected = self.model.pin(plain).map_err(|why| pin_error(why, handle));
                prop_assert_eq!(self.controls[nth % 3].pin(handle), expected);
            }
            Op::Unpin { who, nth } => {
                let Some((handle, plain)) = self.handle(nth) else { return Ok(()) };
                let expected = self.model.unpin(plain).map_err(|why| pin_error(why, handle));
                prop_assert_eq!(self.actor(who).unpin(handle), expected.map(drop));
            }
            Op::Die { who } => {
                self.model.die(self.modelled(who));
                self.model.reap();
                self.actor(who).clean_up();
                self.lives[who] += 1;
            }
        }
        self.controls.iter().try_for_each(|control| self.compare(control))
    }

    fn create(&mut self, who: usize) -> Result<(), TestCaseError> {
        let expected = self.model.create(self.modelled(who));
        let mut claimed = self.actor(who).claim();
        while claimed.is_none() && self.controls[who].grow().unwrap() {
            claimed = self.actor(who).claim();
        }
        match (expected, claimed) {
            (Ok(plain), Some(handle)) => {
                self.system.0.borrow_mut().insert(handle);
                // The size is checked too: it tells this segment from the slot's earlier ones.
                prop_assert!(self.actor(who).publish(handle, u64::from(plain.generation)));
                let known = self.handles.iter().any(|(old, _)| *old == handle);
                prop_assert!(!known, "a handle names one segment only");
                self.handles.push((handle, plain));
                Ok(())
            }
            (Err(Refused::Full), None) => Ok(()),
            (expected, claimed) => {
                Err(TestCaseError::fail(format!("{expected:?} but {claimed:?}")))
            }
        }
    }

    fn compare(&self, control: &Control) -> Result<(), TestCaseError> {
        let seen = control.segments();
        prop_assert_eq!(seen.len(), self.model.alive().len());
        for info in seen {
            let known = self.handles.iter().find(|(handle, _)| *handle == info.handle);
            let (_, plain) = known.expect("one that was given out");
            let expected = self.model.attached(*plain);
            let mut expected: Vec<u32> = expected.iter().map(|who| who >> 22).collect();
            expected.sort_unstable();
            prop_assert_eq!(&info.attached, &expected);
            prop_assert!(self.system.0.borrow().contains(&info.handle));
        }
        prop_assert_eq!(self.system.0.borrow().len(), self.model.alive().len());
        Ok(())
    }
}

fn pin_error(why: Refused, handle: SegmentHandle) -> PinError {
    match why {
        Refused::Pinned => PinError::AlreadyPinned(handle),
        Refused::NotPinned => PinError::NotPinned(handle),
        _ => PinError::Unknown(handle),
    }
}

struct Anything;

impl Objects for Anything {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 0..80)) {
        let mut both = Both::new(0);
        for op in ops {
            both.step(op)?;
        }
    }

    /// One of the three slots lies in the first piece, or two; the others in one that each learns
    /// of for himself.
    #[test]
    fn agrees_with_the_model_over_two_pieces(
        ops in prop::collection::vec(op(), 0..40),
        left in 0..3u32,
    ) {
        let mut both = Both::new(PIECE - left);
        for op in ops {
            both.step(op)?;
        }
    }

    /// As [`nonsense_does_no_harm`], in a table of two pieces, and in what it says of them.
    #[test]
    fn nonsense_in_two_pieces_does_no_harm(
        words in prop::collection::vec((0..10_000u64, any::<u64>()), 1..60),
        pieces: u64,
    ) {
        let slots = PIECE + SLOTS;
        let mapping = Mapping::heap(Control::bytes_for(slots, 128) as usize);
        // SAFETY: nobody else has the mapping.
        unsafe { Control::create(&mapping, 0, slots, 128, 5) }.unwrap();
        let store = |at: u64, word| {
            Mapped::<AtomicU64>::new(&mapping, at).unwrap().store(word, Ordering::Relaxed);
        };
        words.iter().for_each(|(at, word)| store(at % (mapping.len() as u64 / 8) * 8, *word));
        store(8, pieces);
        let control = Control::attach(&mapping, 0, slots, 128).unwrap();
        let [me, dead] = [0, 2].map(|bits| ParticipantId::from_bits(bits << 22 | 1).unwrap());
        let actor = control.actor(me, &Anything);
        prop_assert!(control.segments().len() <= slots as usize);
        for handle in control.leftovers() {
            let _ = (actor.attach(handle), control.pin(handle), actor.unpin(handle));
            actor.detach(handle);
        }
        let _ = (actor.claim(), control.grow(), actor.claim());
        control.actor(dead, &Anything).clean_up();
    }

    /// A creator that dies before it shows its segment leaves a free slot and no object.
    #[test]
    fn a_segment_half_made_is_taken_back(made: bool, abandoned: bool) {
        let both = Both::new(0);
        let handle = both.actor(0).claim().unwrap();
        if made {
            both.system.0.borrow_mut().insert(handle);
        }
        let forgiving = Forgiving(&both.system);
        match abandoned {
            true => {
                forgiving.remove(handle);
                both.actor(0).abandon(handle);
            }
            false => both.controls[0].actor(both.id(0), &forgiving).clean_up(),
        }
        prop_assert!(both.system.0.borrow().is_empty());
        prop_assert!(!both.actor(0).publish(handle, 1), "it is no longer ours");
        let next: Vec<_> = (0..SLOTS).map(|_| both.actor(0).claim()).collect();
        prop_assert!(next.iter().all(|next| next.is_some_and(|next| next != handle)));
    }

    /// Arbitrary words in the table: no panic, no access outside it, an end.
    #[test]
    fn nonsense_does_no_harm(words in prop::collection::vec(any::<u64>(), 20), at in 0..3u64) {
        let mapping = Mapping::heap(Control::bytes_for(SLOTS, 128) as usize);
        // SAFETY: nobody else has the mapping.
        let control = unsafe { Control::create(&mapping, 0, SLOTS, 128, 5) }.unwrap();
        for (word, offset) in words.iter().zip((0..mapping.len() as u64).step_by(8).skip(8)) {
            Mapped::<AtomicU64>::new(&mapping, offset).unwrap().store(*word, Ordering::Relaxed);
        }
        Mapped::<AtomicU64>::new(&mapping, 0).unwrap().store(words[0], Ordering::Relaxed);
        let [me, dead] = [0, 2].map(|bits| ParticipantId::from_bits(bits << 22 | 1).unwrap());
        let actor = control.actor(me, &Anything);
        let _ = control.segments();
        for bits in words.iter().copied().chain([(words[at as usize] >> 3) << 24 | at]) {
            let Some(handle) = SegmentHandle::from_bits(bits) else { continue };
            let _ = actor.attach(handle);
            let _ = (control.pin(handle), actor.unpin(handle));
            actor.detach(handle);
            let _ = actor.publish(handle, 1);
            actor.abandon(handle);
        }
        let _ = actor.claim();
        control.actor(dead, &Anything).clean_up();
    }
}

#[test]
fn a_domain_is_closed_by_who_has_no_seat_only_if_nobody_has() {
    let mapping = Mapping::heap(Control::bytes_for(SLOTS, 128) as usize);
    // SAFETY: nobody else has the mapping.
    let control = unsafe { Control::create(&mapping, 0, SLOTS, 128, 5) }.unwrap();
    let somebody = control.actor(ParticipantId::from_bits(1).unwrap(), &Anything);
    assert!(somebody.enter());
    assert!(!control.close_if_empty());
    let handle = somebody.claim().unwrap();
    assert!(somebody.publish(handle, 1));
    control.pin(handle).unwrap();
    somebody.clean_up();
    assert!(!control.close_if_empty(), "a pinned segment keeps it");
    somebody.unpin(handle).unwrap();
    assert!(control.close_if_empty());
    assert!(!control.close_if_empty() && !somebody.enter());
}

/// Objects that may be gone already, as after a death.
struct Forgiving<'a>(&'a System);

impl Objects for Forgiving<'_> {
    fn remove(&self, handle: SegmentHandle) -> bool {
        self.0.0.borrow_mut().remove(&handle);
        true
    }

    fn remove_domain(&self) {
        panic!("somebody is always in the domain");
    }
}
