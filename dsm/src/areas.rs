//! Areas in a domain: they have a segment of their own, grow and shrink.
use crate::area::{Area, AreaConfig, AreaError, Memory, Support};
use crate::backend::{BackendError, Place, pages};
use crate::domain::{AttachError, CreateError, Domain};
use crate::growth::page_size;
use crate::handle::SegmentHandle;
use crate::segment::Segment;
use shm_core::mapping::Mapping;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How often threads of ours may attach and detach under us.
const ATTEMPTS_MAX: u32 = 1 << 10;

/// Why there is no area for the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenAreaError {
    /// It cannot be made so, or what is there is none.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// Its segment could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Its segment could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

impl Area {
    /// Makes an area in a segment of its own, which this process is attached to for as long as
    /// anything of the area is held here. Others [attach](Area::attach) by its handle. It goes when
    /// its last user does, unless its segment is pinned ([`Domain::find_mapping`],
    /// [`Segment::pin`](crate::Segment::pin)).
    ///
    /// It begins small and grows by chunks up to what `config` says; so much of the address space
    /// is reserved by each process, and no memory. Memory that is free goes back to the system:
    /// half of what is beyond [`AreaConfig::keep`] now and then, and all of it by
    /// [`Heap::trim`](crate::area::Heap::trim). Where the backend has no memory that comes and goes
    /// (`sysv`, `portable`), all of it is there from the beginning.
    ///
    /// What the dead have left is taken back by whoever finds no room, or asks for it
    /// ([`Area::reap_all`]).
    ///
    /// ```
    /// use dsm::area::{Area, AreaConfig};
    /// use dsm::{Domain, DomainConfig};
    /// use shm_core::mapping::Mapped;
    /// use shm_core::sync::AtomicU64;
    /// # let name = format!("doc-area-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let area = Area::create(&domain, &AreaConfig::new(1 << 30))?;
    /// assert!(area.stats().there < 1 << 20);
    ///
    /// // A block is made to a word in the area: the root, to begin with.
    /// let heap = area.heap(domain.member())?;
    /// heap.alloc_to(area.root(), 100_000, |_| ())?;
    /// println!("{} bytes are there", area.stats().there);
    /// heap.free_from(area.root())?;
    /// heap.trim();
    /// assert_eq!(area.stats().there, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenAreaError`]. Nothing is left behind.
    ///
    /// # If a process dies here
    /// As in [`Domain::create_segment`].
    pub fn create(domain: &Domain, config: &AreaConfig) -> Result<Area, OpenAreaError> {
        let (segment, config) = make_segment(domain, 0, config)?;
        // SAFETY: nobody knows of the segment yet, which is zero, and there as far as it has to be.
        Ok(unsafe { make_area(domain, &segment, 0, &config) }?)
    }

    /// The area with this handle; `None` where it is gone. What the dead have left in it is taken
    /// back.
    ///
    /// # Errors
    /// [`OpenAreaError`].
    ///
    /// # If a process dies here
    /// As in [`Domain::attach`].
    pub fn attach(domain: &Domain, handle: SegmentHandle) -> Result<Option<Area>, OpenAreaError> {
        let Some(segment) = domain.attach_or_find(handle)? else { return Ok(None) };
        Ok(Some(attach_area(domain, &segment, 0)?))
    }
}

/// A segment for an area at `offset` and what stands before it, and how to make the area in it.
pub(crate) fn make_segment(
    domain: &Domain,
    offset: u64,
    config: &AreaConfig,
) -> Result<(Segment, AreaConfig), OpenAreaError> {
    config.check()?;
    let len = offset.saturating_add(Area::bytes_for(config));
    let filled = offset + Area::bytes_fixed(config);
    let (segment, is_sparse) = domain.create_sparse_or_whole(filled, len)?;
    Ok((segment, if is_sparse { *config } else { config.fixed() }))
}

/// Makes the area in a segment that [`make_segment`] has made.
///
/// # Safety
/// Nobody else accesses these bytes.
pub(crate) unsafe fn make_area(
    domain: &Domain,
    segment: &Segment,
    offset: u64,
    config: &AreaConfig,
) -> Result<Area, AreaError> {
    // SAFETY: the caller's promise.
    unsafe { Area::create_over(segment.mapping(), offset, config, support(domain, segment)) }
}

/// The area in a segment.
pub(crate) fn attach_area(
    domain: &Domain,
    segment: &Segment,
    offset: u64,
) -> Result<Area, AreaError> {
    let area = Area::attach_over(segment.mapping(), offset, support(domain, segment))?;
    area.reap_all();
    Ok(area)
}

fn support(domain: &Domain, segment: &Segment) -> Support {
    let census = Some(domain.member().clone());
    Support { memory: Some(domain.memory_of(segment)), census, handle: Some(segment.handle()) }
}

impl Domain {
    /// The memory behind a segment that was made with little of it
    /// ([`NamedSpec::filled`](crate::NamedSpec::filled)).
    ///
    /// Who takes memory away from bytes has seen to it that nobody uses them.
    pub fn memory_of(&self, segment: &Segment) -> Arc<dyn Memory> {
        let (mapping, place) = (segment.mapping().clone(), self.place().clone());
        Arc::new(Sparse { mapping, place })
    }

    /// A segment of `len` bytes with memory behind the first `filled` of them, and in the last
    /// page; or behind all, where that is all the backend can do. Whether it is the former.
    pub(crate) fn create_sparse_or_whole(
        &self,
        filled: u64,
        len: u64,
    ) -> Result<(Segment, bool), CreateError> {
        match self.create_sparse(filled, len) {
            Err(CreateError::Backend(BackendError::Unsupported { .. })) => {
                Ok((self.create_segment(len)?, false))
            }
            made => Ok((made?, true)),
        }
    }

    /// The segment, attached here already or not; `None` where it is gone.
    pub(crate) fn attach_or_find(
        &self,
        handle: SegmentHandle,
    ) -> Result<Option<Segment>, AttachError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(segment) = self.find_mapping(handle) {
                return Ok(Some(segment));
            }
            match self.attach(handle) {
                // Another thread of ours was faster.
                Err(AttachError::AlreadyAttached(_)) => {}
                attached => return attached,
            }
        }
        Err(AttachError::AlreadyAttached(handle))
    }
}

/// What is behind the mapping of a sparse segment.
struct Sparse {
    mapping: Arc<Mapping>,
    place: Place,
}

impl Memory for Sparse {
    fn populate(&self, bytes: Range<u64>) -> bool {
        let (page, all) = (page_size(), self.mapping.len() as u64);
        let start = bytes.start / page * page;
        let end = bytes.end.next_multiple_of(page).min(all);
        let populated = pages::populate(&self.mapping, start..end, &self.place);
        populated.inspect_err(|error| tracing::warn!(%error, "an area cannot grow")).is_ok()
    }

    fn punch(&self, bytes: Range<u64>) -> bool {
        let page = page_size();
        let whole = bytes.start.next_multiple_of(page)..bytes.end / page * page;
        let punched = pages::punch(&self.mapping, whole, &self.place);
        punched.inspect_err(|error| tracing::warn!(%error, "an area cannot shrink")).is_ok()
    }
}

impl fmt::Debug for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sparse").field("mapping", &self.mapping).finish_non_exhaustive()
    }
}
