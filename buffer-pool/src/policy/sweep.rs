//! The hand of the clock.
use super::shared::{Place, Use};
use super::{Batch, Policy};
use shm_core::sync::Ordering;

/// The hand is moved by so many frames at a time: one shared addition for a cache line of use
/// bytes.
pub(super) const CLAIM: u32 = 64;

/// What a process has taken of the hand's way and not yet looked at. It is private: who dies with
/// it has left some frames out of one pass.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Claim {
    next: u64,
    left: u32,
}

/// What the hand did to a frame.
enum Met {
    /// It may be evicted if its user lets go.
    Unused,
    /// It is one use nearer to that.
    TakenDown,
    /// It changed under the hand.
    Busy,
}

impl Policy {
    /// Sweeps until `batch` is full, or a pass after the first victim, or until there can be none:
    /// after a whole pass of refusals, with nothing changed.
    pub(super) fn sweep(
        &mut self,
        batch: &mut Batch,
        may_evict: &mut impl FnMut(u32) -> Option<u64>,
    ) {
        let frames = u64::from(self.limit());
        let (mut refusals, mut end) = (0, frames.saturating_mul(self.passes_max()));
        let (mut steps, mut found) = (0, false);
        while batch.room_left() > 0 && steps < end && refusals < frames {
            steps += 1;
            let frame = self.next_frame();
            match self.meet(frame) {
                Met::TakenDown => refusals = 0,
                Met::Busy => {}
                Met::Unused if batch.contains(frame) || may_evict(frame).is_none() => refusals += 1,
                Met::Unused => {
                    batch.push(frame);
                    refusals = 0;
                    if !found {
                        (found, end) = (true, end.min(steps + frames - 1));
                    }
                }
            }
        }
    }

    /// The next frame on the hand's way.
    fn next_frame(&mut self) -> u32 {
        if self.claim.left == 0 {
            // What the hand has passed is nobody's secret: the number alone counts.
            let next = self.shared.hand.fetch_add(u64::from(CLAIM), Ordering::Relaxed);
            self.claim = Claim { next, left: CLAIM };
        }
        let at = self.claim.next;
        self.claim = Claim { next: at.wrapping_add(1), left: self.claim.left - 1 };
        // Smaller than the limit, whatever the hand said.
        (at % u64::from(self.limit())) as u32
    }

    fn meet(&self, frame: u32) -> Met {
        let count_max = self.kind.count_max();
        let is_clock = self.ring.is_none();
        let was = self.uses.change(frame, |byte| match byte.place() {
            Place::Young | Place::Old if !is_clock => Some(byte.met()),
            _ => match byte.count().min(count_max) {
                0 => None,
                count => Some(Use::main(count - 1)),
            },
        });
        match was {
            None => Met::Busy,
            Some(byte) if byte.place() != Place::Main && !is_clock => Met::TakenDown,
            Some(byte) if byte.count() == 0 => Met::Unused,
            Some(_) => Met::TakenDown,
        }
    }
}
