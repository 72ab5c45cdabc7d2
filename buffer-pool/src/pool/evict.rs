//! A frame for a page that is to be read in.
use super::PageError;
use super::session::{Reserve, Session};
use super::stats::Count;
use super::strategy::Ring;
use crate::files::Files;
use crate::frames::{Free, PageId};
use crate::policy::NoUnpinned;
use shm_core::hazard::Protected;
use shm_core::process::Forked;
use std::time::{Duration, Instant};

/// After so many batches of frames that others use there is none for us.
const BATCHES_MAX: u32 = 1 << 10;

impl Session {
    /// A frame that has no page, and is ours.
    ///
    /// Where a page is dirty it is written to its file first; where that fails, another frame is
    /// taken, and the error is the caller's only if there is none.
    pub(super) fn free_frame(&self) -> Result<Free<'_, Files>, PageError> {
        let mut reserve = self.reserve();
        if let Some(free) = self.ready_frame(&mut reserve)? {
            return Ok(free);
        }
        let (mut failed, deadline) = (None, self.inner.deadline());
        for batch in 0..BATCHES_MAX {
            // The first batch is taken blindly: pages that are pinned are rarely due.
            match self.choose(&mut reserve, batch > 0) {
                Ok(()) => {}
                Err(NoUnpinned) if self.pool().reap() > 0 => continue,
                // What others have claimed they may be about to give back.
                Err(NoUnpinned) if self.is_any_claimed() && self.has_moments_left(deadline) => {
                    continue;
                }
                Err(NoUnpinned) => break,
            }
            match self.evict(&mut reserve, &mut failed)? {
                Some(free) if self.inner.limit.admits(&free) => return Ok(free),
                _ => {}
            }
        }
        Err(failed.unwrap_or(PageError::NoUnpinned))
    }

    /// As [`free_frame`](Session::free_frame), of the ring first; and `more` of them at most, as
    /// far as they are easily had.
    pub(super) fn free_frames(
        &self,
        more: u32,
        ring: Option<&Ring>,
    ) -> Result<(Free<'_, Files>, Vec<Free<'_, Files>>), PageError> {
        let mut frames = ring.map_or(Ok(Vec::new()), |ring| self.recycle(ring, 1 + more))?;
        let first = if frames.is_empty() { self.free_frame()? } else { frames.remove(0) };
        while frames.len() < more as usize
            && let Some(free) = self.spare_frame()?
        {
            frames.push(free);
        }
        Ok((first, frames))
    }

    /// A frame for a page that need not be read now.
    fn spare_frame(&self) -> Result<Option<Free<'_, Files>>, PageError> {
        let mut reserve = self.reserve();
        if let Some(free) = self.ready_frame(&mut reserve)? {
            return Ok(Some(free));
        }
        if self.choose(&mut reserve, false).is_err() {
            return Ok(None);
        }
        // What hinders the writing is told to who needs the frame.
        let free = self.evict(&mut reserve, &mut None)?;
        Ok(free.filter(|free| self.inner.limit.admits(free)))
    }

    /// A frame that was put by, or had no page.
    fn ready_frame(&self, reserve: &mut Reserve) -> Result<Option<Free<'_, Files>>, PageError> {
        while let Some(free) = self.user.take_from(&mut reserve.stock) {
            if self.inner.limit.admits(&free) {
                return Ok(Some(free));
            }
        }
        // Others may say of frames for ever that they are vacant.
        for _ in 0..self.user.frames().count() {
            let Some(frame) = self.policy.vacant() else { break };
            // Where it has a page, that one stays.
            match self.take_frame(frame, |_, _| false)? {
                Some(free) if self.inner.limit.admits(&free) => return Ok(Some(free)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn is_any_claimed(&self) -> bool {
        (0..self.inner.limit.get()).any(|frame| self.user.frames().is_claimed(frame))
    }

    /// This frame, without its page where `let_go` lets that go; `None` where others have it.
    pub(super) fn take_frame(
        &self,
        frame: u32,
        let_go: impl FnMut(u32, PageId) -> bool,
    ) -> Result<Option<Free<'_, Files>>, Forked> {
        let mut free = Vec::new();
        self.user.evict(&[frame], &mut Protected::default(), &mut free, let_go)?;
        Ok(free.pop())
    }

    /// Reaps, and waits a moment for those who use what should go: whether there is time left.
    pub(super) fn has_moments_left(&self, deadline: Option<Instant>) -> bool {
        if deadline.is_some_and(|end| Instant::now() >= end) {
            return false;
        }
        self.pool().reap();
        std::thread::sleep(Duration::from_micros(100));
        true
    }

    /// Gives a frame back that has no page.
    pub(super) fn give_back(&self, free: Free<'_, Files>) {
        let frame = free.frame();
        drop(free);
        self.policy.vacate(frame);
    }

    /// Fills the batch with frames whose pages should go; `careful`: and which nobody uses now.
    fn choose(&self, reserve: &mut Reserve, careful: bool) -> Result<(), NoUnpinned> {
        let Reserve { policy, batch, pinned, .. } = reserve;
        let frames = self.user.frames();
        if careful {
            frames.pinned(pinned);
        }
        let limit = self.inner.limit.get();
        // Who resizes may have died between the two.
        if policy.limit() != limit {
            policy.set_limit(limit);
        }
        policy.victims(batch, |frame| {
            let may_go =
                frame < limit && !frames.is_claimed(frame) && !(careful && pinned.has(frame));
            may_go.then(|| frames.page_in(frame).map_or(u64::MAX, PageId::to_bits))
        })
    }

    /// Has the batch's pages leave; one of their frames, and the rest is put by.
    fn evict(
        &self,
        reserve: &mut Reserve,
        failed: &mut Option<PageError>,
    ) -> Result<Option<Free<'_, Files>>, PageError> {
        let Reserve { policy, batch, protected, stock, page: buffer, .. } = reserve;
        let mut free = Vec::with_capacity(batch.frames().len());
        self.user.evict(batch.frames(), protected, &mut free, |frame, page| {
            self.is_written(frame, page, buffer, failed)
        })?;
        self.tally.add(Count::Evictions, free.len() as u64);
        for &frame in batch.frames() {
            if !free.iter().any(|free| free.frame() == frame) {
                policy.keep(frame);
            }
        }
        // The first is the one that was due first.
        let first = (!free.is_empty()).then(|| free.remove(0));
        for free in free.into_iter().rev() {
            self.user.put_by(stock, free);
        }
        Ok(first)
    }
}
