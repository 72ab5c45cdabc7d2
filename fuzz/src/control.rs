//! Any segment table, and any use of one by three participants.
use crate::block::{Lie, guarded, image, split};
use arbitrary::{Arbitrary, Unstructured};
use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::participants::ParticipantId;
use shm_testkit::plain::{Attached, Handle, Segments};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const SEGMENTS: u32 = 3;
const PARTICIPANTS: u32 = 128;
/// One place in each word of a set, and one more.
const PLACES: [u32; 3] = [0, 65, 127];

/// The objects that exist.
#[derive(Default)]
struct System(RefCell<BTreeSet<SegmentHandle>>);

impl Objects for System {
    fn remove(&self, handle: SegmentHandle) -> bool {
        self.0.borrow_mut().remove(&handle);
        true
    }

    fn remove_domain(&self) {}
}

fn bytes_needed() -> usize {
    Control::bytes_for(SEGMENTS, PARTICIPANTS) as usize
}

fn participant(who: usize, life: u32) -> ParticipantId {
    ParticipantId::from_bits(PLACES[who % 3] << 22 | life).expect("a generation")
}

/// A table with a segment that is alive, and one half made.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    image(bytes_needed(), |mapping| {
        // SAFETY: nobody else has the mapping.
        let control = unsafe { Control::create(mapping, 0, SEGMENTS, PARTICIPANTS, 5) };
        let (control, system) = (control.expect("a table"), System::default());
        let actor = control.actor(participant(0, 1), &system);
        assert!(actor.enter());
        let handle = actor.claim().expect("a slot");
        assert!(actor.publish(handle, 4096));
        control.pin(handle).expect("alive");
        actor.claim().expect("another slot");
    })
});

/// Every call on a table that is valid but for the input's lies.
pub fn control(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let (block, mapping) = guarded(&IMAGE, bytes, how & 1 == 1);
    let control = Control::attach(&mapping, 0, SEGMENTS, PARTICIPANTS).expect("it fits");
    let system = System::default();
    let actors = [0, 2].map(|who| control.actor(participant(who, 1), &system));
    for actor in &actors {
        act(&control, actor);
    }
    for info in control.segments() {
        assert!(info.attached.iter().all(|place| *place < PARTICIPANTS));
    }
    let _ = (control.is_open(), control.present());
    actors.iter().for_each(Actor::clean_up);
    control.close_if_empty();
    assert!(block.is_intact());
}

fn act(control: &Control, actor: &Actor<'_, System>) {
    actor.enter();
    let left = control.leftovers();
    assert!(left.len() <= SEGMENTS as usize);
    let others = ["5000000", "5000003", "5ffffff"].map(|text| text.parse().expect("a handle"));
    for handle in left.into_iter().chain(others) {
        control.is_alive(handle);
        let _ = (actor.attach(handle), control.pin(handle));
        actor.detach(handle);
        let _ = actor.unpin(handle);
    }
    if let Some(handle) = actor.claim() {
        actor.publish(handle, 4096);
        actor.abandon(handle);
    }
    actor.retry(|_| true);
}

#[derive(Arbitrary, Debug)]
enum Op {
    Create {
        who: u8,
    },
    Attach {
        who: u8,
        nth: u8,
    },
    Detach {
        who: u8,
        nth: u8,
    },
    Pin {
        nth: u8,
    },
    Unpin {
        who: u8,
        nth: u8,
    },
    /// Dies between two calls, and is reaped.
    Die {
        who: u8,
    },
    /// Dies creating: its slot is claimed and no more.
    DieCreating {
        who: u8,
    },
    Lie(Lie),
}

/// The table, and the model of it until the first lie.
struct Both {
    control: Control,
    system: System,
    model: Segments,
    handles: Vec<(SegmentHandle, Handle)>,
    lives: [u32; 3],
    honest: bool,
}

/// What three participants do agrees with a plain model, until the first lie.
pub fn control_ops(bytes: &[u8]) {
    let (block, mapping) = guarded(&vec![0; bytes_needed()], &[], false);
    // SAFETY: nobody else has the mapping.
    let control = unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, 5) };
    let (control, system) = (control.expect("a table"), System::default());
    let somebody = ParticipantId::from_bits(99 << 22 | 1).expect("a generation");
    assert!(control.actor(somebody, &system).enter());
    let model = Segments::new(SEGMENTS as usize);
    let mut both =
        Both { control, system, model, handles: Vec::new(), lives: [1; 3], honest: true };
    for op in Unstructured::new(bytes).arbitrary_iter::<Op>().into_iter().flatten() {
        let Ok(op) = op else { break };
        if let Op::Lie(lie) = op {
            lie.tell(&block.outside());
            both.honest = false;
            continue;
        }
        both.step(&op);
        both.compare();
    }
    assert!(block.is_intact());
}

impl Both {
    fn id(&self, who: u8) -> ParticipantId {
        participant(who.into(), self.lives[usize::from(who % 3)])
    }

    /// One of the last handles given out.
    fn handle(&self, nth: u8) -> Option<(SegmentHandle, Handle)> {
        self.handles.iter().rev().nth(usize::from(nth % 8)).copied()
    }

    fn step(&mut self, op: &Op) {
        let nth = match op {
            Op::Attach { nth, .. } | Op::Detach { nth, .. } => self.handle(*nth),
            Op::Pin { nth } | Op::Unpin { nth, .. } => self.handle(*nth),
            _ => None,
        };
        match (op, nth) {
            (Op::Create { who }, _) => self.create(*who),
            (Op::Die { who }, _) => self.die(*who),
            (Op::DieCreating { who }, _) => {
                self.control.actor(self.id(*who), &self.system).claim();
                self.die(*who);
            }
            (Op::Attach { who, .. }, Some((handle, plain))) => self.attach(*who, handle, plain),
            (Op::Detach { who, .. }, Some((handle, plain))) => {
                let me = self.id(*who);
                if !self.honest || self.model.attached(plain).contains(&me.to_bits()) {
                    let _ = self.model.detach(me.to_bits(), plain);
                    self.control.actor(me, &self.system).detach(handle);
                }
            }
            (Op::Pin { .. }, Some((handle, plain))) => {
                let (expected, got) = (self.model.pin(plain), self.control.pin(handle));
                assert!(!self.honest || expected.is_ok() == got.is_ok(), "{expected:?}, {got:?}");
            }
            (Op::Unpin { who, .. }, Some((handle, plain))) => {
                let got = self.control.actor(self.id(*who), &self.system).unpin(handle);
                let expected = self.model.unpin(plain);
                assert!(!self.honest || expected.is_ok() == got.is_ok(), "{expected:?}, {got:?}");
            }
            _ => {}
        }
    }

    fn create(&mut self, who: u8) {
        let me = self.id(who);
        let (expected, claimed) =
            (self.model.create(me.to_bits()), self.control.actor(me, &self.system).claim());
        assert!(!self.honest || expected.is_ok() == claimed.is_some(), "{expected:?}, {claimed:?}");
        let Some(handle) = claimed else { return };
        self.system.0.borrow_mut().insert(handle);
        let shown = self.control.actor(me, &self.system).publish(handle, 4096);
        assert!(!self.honest || shown);
        if let Ok(plain) = expected {
            self.handles.push((handle, plain));
        }
    }

    fn attach(&mut self, who: u8, handle: SegmentHandle, plain: Handle) {
        let me = self.id(who);
        if self.honest && self.model.attached(plain).contains(&me.to_bits()) {
            // The domain refuses this before it comes to the table.
            return;
        }
        let expected = self.model.attach(me.to_bits(), plain) == Attached::Now;
        let attached = self.control.actor(me, &self.system).attach(handle);
        assert!(!self.honest || attached.is_some() == expected);
    }

    fn die(&mut self, who: u8) {
        let me = self.id(who);
        self.model.die(me.to_bits());
        self.model.reap();
        self.control.actor(me, &self.system).clean_up();
        self.lives[usize::from(who % 3)] += 1;
    }

    fn compare(&self) {
        let seen = self.control.segments();
        assert!(seen.len() <= SEGMENTS as usize);
        if !self.honest {
            return;
        }
        assert_eq!(seen.len(), self.model.alive().len());
        for info in seen {
            let known = self.handles.iter().find(|(handle, _)| *handle == info.handle);
            let (_, plain) = known.expect("one that was given out");
            assert_eq!(info.attached.len(), self.model.attached(*plain).len());
            assert!(self.system.0.borrow().contains(&info.handle));
        }
        assert_eq!(self.system.0.borrow().len(), self.model.alive().len());
    }
}
