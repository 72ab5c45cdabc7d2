//! Shared memory that this process cannot write: mapped so, and of a type that says so.
use super::{BackendError, Identity, Place};
use bytemuck::AnyBitPattern;
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{BadPtr, Region};
use std::marker::PhantomData;
use std::sync::Arc;

/// A piece of shared memory that this process has read-only, for as long as this lives.
#[derive(Debug)]
pub struct ReadOnly {
    /// Not to come into safe hands: writing there sends SIGSEGV.
    pub(super) mapping: Arc<Mapping>,
    pub(super) identity: Identity,
    pub(super) place: Place,
    pub(super) name: String,
}

impl ReadOnly {
    /// Its bytes.
    pub fn view(&self) -> ReadView<'_> {
        ReadView::new(&self.mapping)
    }

    /// Which object it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The name it was found under; for `memfd` a mere label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was found, with the rights that it has.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// Bytes that others may write and this process only reads: copies, and loads of single words.
/// Each is checked against the bounds, so that an offset which another process wrote may be passed
/// as it is.
///
/// There is no door to a reference, through which one could store:
///
/// ```compile_fail
/// # fn f(view: dsm::backend::ReadView<'_>) {
/// view.share::<std::sync::atomic::AtomicU64>(0);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReadView<'a> {
    /// Never handed out, and never stored through.
    region: Region<'a>,
    memory: PhantomData<&'a Mapping>,
}

impl<'a> ReadView<'a> {
    pub(crate) fn new(mapping: &'a Mapping) -> ReadView<'a> {
        ReadView { region: mapping.region(), memory: PhantomData }
    }

    /// The bytes from `start` on, as many as there are of `len`.
    pub(crate) fn sub(self, start: u64, len: u64) -> ReadView<'a> {
        let (start, end) = (start.min(self.len()), start.saturating_add(len).min(self.len()));
        let region = self.region.sub(start, end - start);
        ReadView { region: region.unwrap_or(self.region), ..self }
    }

    pub(crate) fn region(&self) -> Region<'a> {
        self.region
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.region.len() as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty()
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.region.base().as_ptr()
    }

    /// A copy of the `T` at `offset`, which need not be aligned. Where another process is writing
    /// it, *some* `T`, part old and part new.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`].
    pub fn read<T: AnyBitPattern>(&self, offset: u64) -> Result<T, BadPtr> {
        self.region.read(offset)
    }

    /// Copies the bytes from `offset` on into `to`; part old and part new, as
    /// [`read`](ReadView::read).
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], and nothing is copied.
    pub fn copy_to(&self, offset: u64, to: &mut [u8]) -> Result<(), BadPtr> {
        const CHUNK: usize = 64;
        self.region.range(offset, to.len() as u64)?;
        let mut at = offset;
        let (chunks, rest) = to.as_chunks_mut::<CHUNK>();
        for chunk in chunks {
            *chunk = self.region.read(at)?;
            at += CHUNK as u64;
        }
        for byte in rest {
            *byte = self.region.read(at)?;
            at += 1;
        }
        Ok(())
    }

    /// The word at `offset`, loaded with [`Acquire`](Ordering::Acquire): what its writer published
    /// with it can be read afterwards.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn load_u64(&self, offset: u64) -> Result<u64, BadPtr> {
        // Pairs with whatever Release the word's writer stores with.
        Ok(self.region.share::<AtomicU64>(offset)?.load(Ordering::Acquire))
    }

    /// As [`load_u64`](ReadView::load_u64).
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn load_u32(&self, offset: u64) -> Result<u32, BadPtr> {
        // Pairs with whatever Release the word's writer stores with.
        Ok(self.region.share::<AtomicU32>(offset)?.load(Ordering::Acquire))
    }
}

/// The object `name`, mapped read-only; `None` where there is none.
///
/// # Errors
/// As [`open`](super::open).
///
/// ```
/// use dsm::backend::{self, Backend, Place};
/// let place = Place::new(Backend::Posix);
/// let name = format!("doc-read-{}", std::process::id());
/// let made = backend::create(&place, &name, 4096)?;
/// let theirs = backend::open_read_only(&place, &name)?.expect("it is there");
/// assert_eq!(theirs.view().load_u64(8)?, 0);
/// assert!(theirs.view().load_u64(theirs.view().len()).is_err());
/// made.remove_exact()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open_read_only(place: &Place, name: &str) -> Result<Option<ReadOnly>, BackendError> {
    use super::{Backend, file, memfd, none, portable, sysv};
    super::check_name(name)?;
    match place.backend {
        Backend::Posix | Backend::Mmap => file::open_read_only(place, name),
        Backend::Sysv => sysv::open_read_only(place, name),
        Backend::Memfd => memfd::open(place, name).map(|_| None),
        Backend::Portable => portable::open_read_only(place, name),
        Backend::None => none::open_read_only(place, name),
    }
}
