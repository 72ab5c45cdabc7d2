//! Who uses, admits or looks for victims may die at any instruction: afterwards all frames are
//! found, once each.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use buffer_pool::policy::{Batch, Kind, Policy};
use crash_common::{shared, words_from};
use shm_core::mapping::Mapping;
use shm_testkit::killpoint::{End, Notes, Run, Scenario};
use std::collections::BTreeSet;
use std::sync::Arc;

const FRAMES: u32 = 20;

struct Use(Kind);

impl Scenario for Use {
    type World = Arc<Mapping>;
    type Doomed = Policy;

    fn name(&self) -> String {
        format!("replacement policy {}, use, admit, victims", self.0.name())
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "buffer_pool::policy::Policy::hit",
            "buffer_pool::policy::Policy::admit",
            "buffer_pool::policy::Policy::keep",
            "buffer_pool::policy::Policy::victims",
        ]
    }

    fn world(&self) -> Arc<Mapping> {
        let (_, mapping) = shared(Policy::bytes_for(self.0, FRAMES).unwrap());
        // SAFETY: nobody else has the mapping.
        let policy = unsafe { Policy::create(&mapping, 0, self.0, FRAMES) }.unwrap();
        (0..FRAMES).for_each(|frame| policy.admit(frame, frame.into()));
        (0..FRAMES).step_by(3).for_each(|frame| policy.hit(frame));
        mapping
    }

    fn prepare(&self, world: &Arc<Mapping>, _: &Notes) -> Policy {
        Policy::attach(world, 0).unwrap()
    }

    fn operate(&self, _: &Arc<Mapping>, policy: &mut Policy, _: &Notes) {
        let mut batch = Batch::new(3);
        policy.victims(&mut batch, |frame| Some(frame.into())).unwrap();
        for frame in batch.frames() {
            policy.admit(*frame, 100);
            policy.hit(*frame);
        }
        policy.keep(1);
    }

    fn image(&self, world: &Arc<Mapping>) -> Vec<u8> {
        words_from(world, 0)
    }

    fn check(&self, world: Arc<Mapping>, _: &Notes, _: End) -> Result<(), String> {
        let mut policy = Policy::attach(&world, 0).map_err(|error| error.to_string())?;
        let (mut found, mut batch) = (BTreeSet::new(), Batch::new(3));
        while policy
            .victims(&mut batch, |frame| found.insert(frame).then_some(u64::from(frame)))
            .is_ok()
        {}
        match found.len() as u32 {
            FRAMES => Ok(()),
            count => Err(format!("of {FRAMES} frames {count} are found")),
        }
    }
}

#[test]
fn who_uses_a_clock_may_die_anywhere() {
    Run::new(&Use(Kind::Clock5)).kill().passes();
}

#[test]
fn who_uses_a_ring_may_die_anywhere() {
    Run::new(&Use(Kind::Probation)).kill().passes();
}
