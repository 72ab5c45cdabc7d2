//! The policies as they ship, over frames that hold nothing.
use super::{Outcome, Trace};
use crate::policy::{Batch, Kind, Policy, PolicyError};
use shm_core::mapping::Mapping;

const NONE: u32 = u32::MAX;

/// Runs a policy over the trace, with victims taken so many at a time.
///
/// # Errors
/// [`PolicyError::BadFrames`].
pub fn shipping(
    trace: &Trace,
    kind: Kind,
    frames: u32,
    batch: usize,
) -> Result<Outcome, PolicyError> {
    victims_of(trace, kind, frames, batch, |_| {})
}

/// The same, and says each victim's frame to `evicted`.
///
/// # Errors
/// [`PolicyError::BadFrames`].
pub fn victims_of(
    trace: &Trace,
    kind: Kind,
    frames: u32,
    batch: usize,
    mut evicted: impl FnMut(u32),
) -> Result<Outcome, PolicyError> {
    let bytes = Policy::bytes_for(kind, frames)?;
    let bytes = usize::try_from(bytes).map_err(|_| PolicyError::BadFrames { frames })?;
    // SAFETY: nobody else has the mapping.
    let policy = unsafe { Policy::create(&Mapping::heap(bytes), 0, kind, frames) }?;
    let mut pool = Pool {
        policy,
        batch: Batch::new(batch),
        stock: (0..frames).rev().collect(),
        frame_of: vec![NONE; trace.distinct() as usize],
        page_of: vec![NONE; frames as usize],
    };
    Ok(Outcome::of(trace.accesses(), |page| pool.access(page, &mut evicted)))
}

/// A pool of frames, all of which may always be evicted.
struct Pool {
    policy: Policy,
    batch: Batch,
    /// Frames without a page, the next one last.
    stock: Vec<u32>,
    frame_of: Vec<u32>,
    page_of: Vec<u32>,
}

impl Pool {
    fn access(&mut self, page: u32, evicted: &mut impl FnMut(u32)) -> bool {
        let frame = self.frame_of[page as usize];
        if frame != NONE {
            self.policy.hit(frame);
            return true;
        }
        if self.stock.is_empty() {
            self.restock(evicted);
        }
        let frame = self.stock.pop().expect("nothing is ever refused, but what the stock has");
        self.frame_of[page as usize] = frame;
        self.page_of[frame as usize] = page;
        self.policy.admit(frame, u64::from(page));
        false
    }

    fn restock(&mut self, evicted: &mut impl FnMut(u32)) {
        let (page_of, frame_of) = (&mut self.page_of, &mut self.frame_of);
        let victims = self.policy.victims(&mut self.batch, |frame| {
            let page = std::mem::replace(&mut page_of[frame as usize], NONE);
            // A frame without a page is in the batch already.
            (page != NONE).then(|| {
                frame_of[page as usize] = NONE;
                evicted(frame);
                u64::from(page)
            })
        });
        // None at all leaves the stock empty.
        if victims.is_ok() {
            self.stock.extend(self.batch.frames().iter().rev());
        }
    }
}
