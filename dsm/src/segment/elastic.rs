//! The local half of a growable segment: its head, its pages, and views of what is there.
use super::{ReadOnlySegment, Segment};
use crate::backend::{BackendError, Place, pages};
use crate::growth::{GrowError, Growth, Pages, page_size};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use std::ops::Range;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::{Duration, Instant};

/// How long to wait for another process that is at it, before it is told who.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever knows which members have left.
pub(crate) trait Peers: Send + Sync {
    /// This process's seat.
    fn me(&self) -> ParticipantId;
    /// Whether this one has left, or died and been cleaned up after.
    fn has_left(&self, id: ParticipantId) -> bool;
    /// Cleans up after the dead.
    fn reap(&self);
}

pub(crate) struct Elastic {
    growth: Growth,
    /// The head, all that can ever be there, and the attachment.
    whole: Arc<Mapping>,
    place: Place,
    peers: Arc<dyn Peers>,
    /// The threads of this process are one participant. What it guards is the latest view.
    latest: Mutex<Weak<Mapping>>,
}

/// How many pages fit behind the head.
pub(crate) fn pages_max(whole: &Mapping) -> u32 {
    u32::try_from(whole.len() as u64 / page_size()).unwrap_or(u32::MAX).saturating_sub(1)
}

/// The first `count` pages behind the head, which keep all of it mapped.
fn view(elastic: &Arc<Elastic>, count: u32) -> Arc<Mapping> {
    let kept = elastic.clone();
    let len = (u64::from(count) * page_size()) as usize;
    let base = kept.whole.region().range(page_size(), len as u64);
    let base = base.expect("no more pages than the mapping has");
    // SAFETY: a range of a mapping that lives as long as `kept`, aligned to a page. Views of it
    // overlap as those of other processes do: what is handed out is only what may be shared.
    unsafe { Mapping::from_raw(base, len, Box::new(move |_, _| drop(kept))) }
}

impl Elastic {
    pub(crate) fn new(
        growth: Growth,
        whole: Arc<Mapping>,
        place: Place,
        peers: Arc<dyn Peers>,
    ) -> Elastic {
        Elastic { growth, whole, place, peers, latest: Mutex::default() }
    }

    /// What is there now. One page always is.
    pub(super) fn current(self: &Arc<Self>) -> Result<Arc<Mapping>, GrowError> {
        let len = u64::from(self.growth.pages()?) * page_size();
        let Ok(mut latest) = self.latest.try_lock() else {
            return Ok(view(self, (len / page_size()) as u32));
        };
        if let Some(latest) = latest.upgrade().filter(|latest| latest.len() as u64 == len) {
            return Ok(latest);
        }
        let new = view(self, (len / page_size()) as u32);
        *latest = Arc::downgrade(&new);
        Ok(new)
    }

    /// As `current`; a single page where the head says nonsense.
    pub(crate) fn first_view(self: &Arc<Self>) -> Arc<Mapping> {
        self.current().unwrap_or_else(|_corrupt| view(self, 1))
    }

    fn change(
        &self,
        bytes: u64,
        change: impl Fn(&Growth, u32, &Extent<'_>) -> Result<u32, GrowError>,
    ) -> Result<u64, GrowError> {
        let max = u64::from(self.growth.pages_max()) * page_size();
        let pages = u32::try_from(bytes.div_ceil(page_size())).unwrap_or(u32::MAX);
        if bytes == 0 || bytes > max {
            return Err(GrowError::Length { bytes, max });
        }
        let extent = Extent { whole: &self.whole, place: &self.place };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let changed = match self.latest.try_lock() {
                Err(TryLockError::WouldBlock) => Err(GrowError::Busy { by: self.peers.me() }),
                Err(TryLockError::Poisoned(_)) | Ok(_) => change(&self.growth, pages, &extent),
            };
            match changed {
                Err(GrowError::Busy { .. }) if Instant::now() < deadline => {
                    self.peers.reap();
                    std::thread::sleep(Duration::from_millis(1));
                }
                changed => return changed.map(|pages| u64::from(pages) * page_size()),
            }
        }
    }
}

impl Segment {
    /// Makes a growable segment at least `bytes` long, rounded up to whole pages; as long as it is
    /// then. Others see it by [`current`](Segment::current). The new pages are zero, and really
    /// there.
    ///
    /// Waits for another process that is at it, but no longer than a second.
    ///
    /// ```
    /// use dsm::{Domain, DomainConfig, SegmentOptions};
    /// # let name = format!("doc-grow-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let segment = domain.create_segment_with(4096, SegmentOptions::growable(1 << 30))?;
    /// assert_eq!(segment.grow(1 << 20)?, 1 << 20);
    /// assert_eq!((segment.len(), segment.current()?.len()), (4096, 1 << 20));
    /// segment.shrink(4096)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GrowError`], and it is as long as before.
    ///
    /// # If a process dies here
    /// As in [`Growth::grow`].
    pub fn grow(&self, bytes: u64) -> Result<u64, GrowError> {
        let elastic = self.elastic()?;
        elastic.change(bytes, |growth, pages, memory| {
            let peers = &elastic.peers;
            growth.grow(peers.me(), pages, |id| peers.has_left(id), memory)
        })
    }

    /// Makes a growable segment at most `bytes` long, rounded up to whole pages, one at least; as
    /// long as it is then. The memory behind that end goes back to the system.
    ///
    /// Nobody may use it any more: who still has a longer view reads zeroes there, and what he
    /// writes there may find no memory (SIGBUS), and is lost.
    ///
    /// # Errors
    /// [`GrowError`].
    ///
    /// # If a process dies here
    /// As in [`Growth::shrink`].
    pub fn shrink(&self, bytes: u64) -> Result<u64, GrowError> {
        let elastic = self.elastic()?;
        elastic.change(bytes, |growth, pages, memory| {
            let peers = &elastic.peers;
            growth.shrink(peers.me(), pages, |id| peers.has_left(id), memory)
        })
    }

    /// The memory, as long as it is now, at the address where it has been. Whoever holds it keeps
    /// the segment attached. For one that does not grow, [`mapping`](Segment::mapping).
    ///
    /// # Errors
    /// [`GrowError::Corrupt`].
    pub fn current(&self) -> Result<Arc<Mapping>, GrowError> {
        match &self.attachment.elastic() {
            Some(elastic) => elastic.current(),
            None => Ok(self.mapping.clone()),
        }
    }

    /// The most bytes it can have.
    pub fn max_len(&self) -> u64 {
        let growing =
            self.attachment.elastic().map(|it| u64::from(it.growth.pages_max()) * page_size());
        growing.unwrap_or(self.len())
    }

    fn elastic(&self) -> Result<Arc<Elastic>, GrowError> {
        self.attachment.home.guard.check()?;
        self.attachment.elastic().ok_or(GrowError::Fixed)
    }
}

impl ReadOnlySegment {
    /// Where the bytes begin, and how many there are now; none where the head says nonsense.
    pub(super) fn extent(&self) -> (u64, u64) {
        match &self.growth {
            Some(growth) => {
                (page_size(), growth.pages().map_or(0, |pages| u64::from(pages) * page_size()))
            }
            None => (0, self.mapping.len() as u64),
        }
    }
}

/// The pages behind the head, as the system sees them.
pub(crate) struct Extent<'a> {
    whole: &'a Mapping,
    place: &'a Place,
}

impl Extent<'_> {
    /// Where they lie in the mapping.
    fn bytes(&self, of: Range<u32>) -> Range<u64> {
        let at = |page: u32| (u64::from(page) + 1) * page_size();
        at(of.start)..at(of.end)
    }
}

impl Pages for Extent<'_> {
    fn reserve(&self, of: Range<u32>) -> Result<(), BackendError> {
        pages::populate(self.whole, self.bytes(of), self.place)
    }

    fn release(&self, of: Range<u32>) -> Result<(), BackendError> {
        pages::punch(self.whole, self.bytes(of), self.place)
    }
}
