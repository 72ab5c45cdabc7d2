//! This process in a domain: its seat, what it is attached to, and its leaving.
use super::config::DomainConfig;
use super::error::{AttachError, CreateError, OpenError};
use super::held::{Held, Kind, Mine};
use super::names::Ticket;
use super::shared::{Parts, Sizes};
use super::system::System;
use crate::backend::{self, Backend, BackendError, HugePages, Object, ReadOnly, memfd, pages};
use crate::control::{Actor, Control, Objects, PinError};
use crate::growth::{Growth, page_size};
use crate::handle::SegmentHandle;
use crate::segment::elastic::{self, Elastic, Peers};
use crate::segment::{Attachment, Home, ReadOnlySegment, Segment, SegmentOptions};
use shm_core::mapping::Mapping;
use shm_core::participants::{JoinOptions, Member, ParticipantId, Table};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Names to try for a new segment, should some be taken.
const NAMES_MAX: u32 = 16;

/// Lives as long as the domain's handle, and as any segment is mapped here.
pub(super) struct Presence {
    pub(super) system: System,
    pub(super) table: Table,
    pub(super) member: Arc<Member>,
    pub(super) home: Arc<Home>,
    segments_max: u32,
    /// This process's own, for what it creates and attaches to.
    huge_pages: HugePages,
    prefault: bool,
    /// The threads of this process share one bit in each set, so one at a time sets and clears it.
    mine: Mutex<Mine>,
    /// Something has been mapped or unmapped.
    settled: Condvar,
    /// Gone before we leave: the name then may lead elsewhere.
    pub(super) ticket: Mutex<Option<Ticket>>,
}

impl Peers for Presence {
    fn me(&self) -> ParticipantId {
        self.member.id()
    }

    fn has_left(&self, id: ParticipantId) -> bool {
        self.table.has_left(id)
    }

    fn reap(&self) {
        Presence::reap(self);
    }
}

/// What came of an attempt to be present.
pub(super) enum Arrival {
    In(Box<Presence>),
    /// The last one out has closed it, and may have died before he removed it.
    Closed(Box<System>),
}

impl Presence {
    /// Takes a seat in the domain whose control segment, ready, is `object`.
    pub(super) fn arrive(object: Object, config: &DomainConfig) -> Result<Arrival, OpenError> {
        let name = || config.name.clone();
        let Parts { sizes, control, registry, table, pages } =
            Sizes::read(&config.name, object.mapping())?;
        let (place, nonce) = (object.place().clone(), sizes.nonce);
        let domain = name();
        let system = System { place, domain, nonce, object, control, registry, pages };
        // Before joining, which may be refused (no seat, another namespace): it would stay.
        if !system.control.is_open() {
            return Ok(Arrival::Closed(Box::new(system)));
        }
        let options = JoinOptions { waiting: config.waiting };
        let member = table.join_with(options, |dead| system.clean_up(dead)).map_err(|source| {
            // We may have made it only just now.
            if system.control.close_if_empty() {
                system.remove_domain();
            }
            OpenError::Join { name: name(), source }
        })?;
        if !system.control.actor(member.id(), &system).enter() {
            return Ok(Arrival::Closed(Box::new(system)));
        }
        let home = Arc::new(Home::new(system.control.clone()));
        let (mine, settled) = (Mutex::default(), Condvar::new());
        let segments_max = sizes.segments;
        let ticket = Mutex::new(Some(Ticket::new(&system)));
        let (huge_pages, prefault) = (config.huge_pages, config.prefault);
        let presence = Presence {
            system,
            table,
            member,
            home,
            segments_max,
            huge_pages,
            prefault,
            mine,
            settled,
            ticket,
        };
        presence.reap();
        Ok(Arrival::In(Box::new(presence)))
    }

    /// What this process chose for all of its segments.
    pub(super) fn options(&self) -> SegmentOptions {
        let (huge_pages, prefault) = (self.huge_pages, self.prefault);
        SegmentOptions { huge_pages, prefault, ..SegmentOptions::default() }
    }

    pub(super) fn control(&self) -> &Control {
        &self.system.control
    }

    /// Finishes what the dead left, and what we, or they, could not remove.
    pub(super) fn reap(&self) -> usize {
        let dead = self.table.reap(|dead| self.system.clean_up(dead));
        let _mine = self.lock();
        self.actor().retry(|owner| self.table.has_left(owner));
        self.actor().empty_unused(1);
        dead
    }

    fn actor(&self) -> Actor<'_, System> {
        self.control().actor(self.member.id(), &self.system)
    }

    fn lock(&self) -> MutexGuard<'_, Mine> {
        // It is consistent between any two statements below.
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn create(
        self: &Arc<Self>,
        size: u64,
        options: SegmentOptions,
    ) -> Result<Segment, CreateError> {
        self.member.check_fork()?;
        if options.fit_a_page(size)
            && let Some(segment) = self.create_ready()
        {
            return Ok(segment);
        }
        let segment = self.create_as(|name, made| self.make(name, size, options, made))?;
        segment.set_up(options.huge_pages, options.prefault);
        Ok(segment)
    }

    /// A segment of `len` bytes with memory behind the first `size` and in the last page, and a
    /// hole. What is zero and there its users have to know; nobody makes it there unasked. (The
    /// last page tells whether the segment was cut off.)
    pub(super) fn create_sparse(
        self: &Arc<Self>,
        size: u64,
        len: u64,
    ) -> Result<Segment, CreateError> {
        self.create_as(|name, _| {
            self.system.check_holes()?;
            let object = backend::create_sparse(&self.system.place, name, size, len)?;
            let end = object.len();
            pages::populate(object.mapping(), end - page_size()..end, &self.system.place)?;
            Ok((object, Kind::Sparse))
        })
    }

    fn create_as(
        self: &Arc<Self>,
        make: impl Fn(&str, &dyn Fn(u64)) -> Result<(Object, Kind), BackendError>,
    ) -> Result<Segment, CreateError> {
        self.member.check_fork()?;
        for _ in 0..NAMES_MAX {
            let handle = self.claim()?;
            let name = self.system.segment_name(handle);
            let made = |size| self.actor().made(handle, size);
            match make(&name, &made) {
                Ok((object, kind)) => return self.publish(handle, object, kind),
                // A System V key is a hash, which another name may share.
                Err(BackendError::AlreadyExists { .. }) => self.abandon(handle),
                Err(error) => {
                    self.give_up(handle);
                    return Err(error.into());
                }
            }
        }
        let name = self.system.domain.clone();
        Err(BackendError::AlreadyExists { name }.into())
    }

    /// A segment in a page of the control segment; `None` where there is none to be had.
    fn create_ready(self: &Arc<Self>) -> Option<Segment> {
        let mut mine = self.lock();
        let actor = self.actor();
        let handle = actor.claim_ready()?;
        let page = self.system.page(handle)?;
        // SAFETY: the page of a slot that is ours, inside the mapping, with memory behind it; what
        // was in it before is gone, and nobody else refers to it.
        unsafe { page.write_bytes(0, page_size() as usize) };
        // It fails where another process has overwritten our claim.
        actor.publish(handle, Kind::Ready.note(page_size())).then_some(())?;
        Some(self.hold_ready(&mut mine, handle, page))
    }

    /// As `hold`, a page of the control segment; without waiting, so without letting go of the
    /// lock.
    fn hold_ready(
        self: &Arc<Self>,
        mine: &mut Mine,
        handle: SegmentHandle,
        page: NonNull<u8>,
    ) -> Segment {
        let presence = self.clone();
        let unmap = Box::new(move |_, _| presence.detach(handle));
        // SAFETY: inside the control segment, which `presence` keeps mapped; for as long as the
        // attachment lasts it is this segment's.
        let mapping = unsafe { Mapping::from_raw(page, page_size() as usize, unmap) };
        self.first_segment(mine, handle, mapping, Kind::Ready)
    }

    fn make(
        &self,
        name: &str,
        size: u64,
        options: SegmentOptions,
        made: impl FnOnce(u64),
    ) -> Result<(Object, Kind), BackendError> {
        let place = &self.system.place;
        let Some(max) = options.max_bytes else {
            if options.huge_pages == HugePages::Pool
                && let Some(object) = backend::create_huge(place, name, size)
            {
                return Ok((object, Kind::Fixed));
            }
            return Ok((backend::create_noting(place, name, size, made)?, Kind::Fixed));
        };
        let page = page_size();
        if size == 0 || size > max || max.div_ceil(page) >= u64::from(u32::MAX) {
            return Err(BackendError::BadSize { size });
        }
        self.system.check_holes()?;
        let object = backend::create_sparse(place, name, size + page, max + page)?;
        let pages = size.div_ceil(page) as u32;
        let mapping = object.mapping();
        // SAFETY: nobody attaches before the segment is published.
        let head = unsafe { Growth::create(mapping, 0, pages, elastic::pages_max(mapping)) };
        head.map_err(|_| BackendError::BadSize { size })?;
        Ok((object, Kind::Growable))
    }

    fn claim(&self) -> Result<SegmentHandle, CreateError> {
        let claim = || {
            let mut mine = self.lock();
            let handle = self.actor().claim()?;
            mine.held.insert(handle.slot(), Held::nothing_yet(handle));
            Some(handle)
        };
        if let Some(handle) = claim() {
            return Ok(handle);
        }
        self.reap();
        loop {
            if let Some(handle) = claim() {
                return Ok(handle);
            }
            // Each round the table has a piece more.
            match self.control().grow() {
                Ok(true) => {}
                Ok(false) => return Err(CreateError::Full { segments: self.segments_max }),
                Err(error) => return Err(self.system.cannot_grow(error).into()),
            }
        }
    }

    fn abandon(&self, handle: SegmentHandle) {
        let mut mine = self.lock();
        self.actor().abandon(handle);
        self.let_go(&mut mine, handle);
    }

    fn give_up(&self, handle: SegmentHandle) {
        let mut mine = self.lock();
        self.actor().give_up(handle);
        self.let_go(&mut mine, handle);
    }

    fn let_go(&self, mine: &mut Mine, handle: SegmentHandle) {
        mine.held.remove(&handle.slot());
        self.settle(mine);
    }

    /// Wakes who waits: waking nobody would be a call of the system all the same.
    fn settle(&self, mine: &Mine) {
        if mine.waiting > 0 {
            self.settled.notify_all();
        }
    }

    fn wait<'a>(&self, mut mine: MutexGuard<'a, Mine>) -> MutexGuard<'a, Mine> {
        mine.waiting += 1;
        let mut mine = self.settled.wait(mine).unwrap_or_else(PoisonError::into_inner);
        mine.waiting -= 1;
        mine
    }

    fn publish(
        self: &Arc<Self>,
        handle: SegmentHandle,
        object: Object,
        kind: Kind,
    ) -> Result<Segment, CreateError> {
        let actor = self.actor();
        let published = {
            let _mine = self.lock();
            actor.publish(handle, kind.note(object.len()))
        };
        if !published {
            // Not by our name: the slot is somebody else's now.
            let _ = object.remove_exact();
            self.let_go(&mut self.lock(), handle);
            return Err(CreateError::Corrupt(handle));
        }
        Ok(self.hold(handle, object, kind))
    }

    pub(super) fn attach(
        self: &Arc<Self>,
        handle: SegmentHandle,
    ) -> Result<Option<Segment>, AttachError> {
        self.member.check_fork()?;
        let mut mine = self.lock();
        while let Some(held) = mine.held.get_mut(&handle.slot()) {
            if held.handle != handle {
                // Another segment is in the slot, so this one is gone.
                return Ok(None);
            }
            if held.is_attached() {
                return Err(AttachError::AlreadyAttached(handle));
            }
            if held.read_only.strong_count() > 0 {
                return Err(AttachError::AttachedReadOnly(handle));
            }
            if let Some(mapping) = held.mapping.upgrade() {
                return Ok(Some(self.segment(held, mapping)));
            }
            // Another thread of ours is at it; it calls no code but ours and the system's.
            mine = self.wait(mine);
        }
        let Some(size) = self.actor().attach(handle) else {
            mine.sweep(self.control());
            return Ok(None);
        };
        if Kind::of(size) == Kind::Ready
            && let Some(page) = self.system.page(handle)
        {
            return Ok(Some(self.hold_ready(&mut mine, handle, page)));
        }
        mine.held.insert(handle.slot(), Held::nothing_yet(handle));
        drop(mine);
        match self.open(handle, size) {
            Ok(object) => {
                let kind = Kind::of(size);
                let segment = self.hold(handle, object, kind);
                if kind != Kind::Sparse {
                    segment.set_up(self.huge_pages, self.prefault);
                }
                Ok(Some(segment))
            }
            Err(error) => {
                self.detach(handle);
                Err(error)
            }
        }
    }

    pub(super) fn attach_read_only(
        self: &Arc<Self>,
        handle: SegmentHandle,
    ) -> Result<Option<ReadOnlySegment>, AttachError> {
        self.member.check_fork()?;
        let mut mine = self.lock();
        while let Some(held) = mine.held.get(&handle.slot()) {
            if held.handle != handle {
                return Ok(None);
            }
            if held.read_only.strong_count() > 0 {
                return Err(AttachError::AttachedReadOnly(handle));
            }
            if held.mapping.strong_count() > 0 {
                return Err(AttachError::AlreadyAttached(handle));
            }
            // As in `attach`.
            mine = self.wait(mine);
        }
        let Some(size) = self.actor().attach(handle) else {
            mine.sweep(self.control());
            return Ok(None);
        };
        mine.held.insert(handle.slot(), Held::nothing_yet(handle));
        drop(mine);
        let kind = Kind::of(size);
        let opened = match kind {
            Kind::Ready => self.open_page_read_only(handle),
            Kind::Fixed | Kind::Growable | Kind::Sparse => self.open_read_only(handle, size),
        };
        match opened {
            Ok(object) => Ok(Some(self.hold_read_only(handle, &object, kind))),
            Err(error) => {
                self.detach(handle);
                Err(error)
            }
        }
    }

    fn open_read_only(
        &self,
        handle: SegmentHandle,
        expected: u64,
    ) -> Result<ReadOnly, AttachError> {
        let object = if self.system.place.backend == Backend::Memfd {
            let fd = self.descriptor(handle)?.ok_or(AttachError::NoDescriptor(handle))?;
            memfd::open_fd_read_only(fd)?
        } else {
            let name = self.system.segment_name(handle);
            let object = backend::open_read_only(&self.system.place, &name)?;
            object.ok_or(AttachError::Missing(handle))?
        };
        Kind::of(expected).check(handle, object.mapping(), expected)?;
        Ok(object)
    }

    /// The control segment, mapped once more, without the right to write it.
    fn open_page_read_only(&self, handle: SegmentHandle) -> Result<ReadOnly, AttachError> {
        let control = &self.system.object;
        let object = match control.fd() {
            Some(fd) => {
                let copy = fd.try_clone_to_owned();
                let name = control.name().to_owned();
                let copy = copy.map_err(|source| BackendError::Os { call: "fcntl", name, source });
                memfd::open_fd_read_only(copy?)?
            }
            None => backend::open_read_only(&self.system.place, control.name())?
                .ok_or(AttachError::Missing(handle))?,
        };
        // The name may lead to another domain's by now.
        let is_ours = object.identity() == control.identity();
        if is_ours { Ok(object) } else { Err(AttachError::Missing(handle)) }
    }

    /// As `hold`, and nothing leads from it to a [`Segment`].
    fn hold_read_only(
        self: &Arc<Self>,
        handle: SegmentHandle,
        object: &ReadOnly,
        kind: Kind,
    ) -> ReadOnlySegment {
        let range = match kind {
            Kind::Ready => self.system.page_range(handle),
            Kind::Fixed | Kind::Growable | Kind::Sparse => 0..object.mapping().len() as u64,
        };
        let mapping = self.attached(handle, object.mapping().clone(), range);
        let mut held = Held::nothing_yet(handle);
        held.read_only = Arc::downgrade(&mapping);
        let mut mine = self.lock();
        mine.held.insert(handle.slot(), held);
        self.settle(&mine);
        drop(mine);
        let growth = kind.growth(&mapping);
        ReadOnlySegment::new(handle, mapping, growth)
    }

    /// The object behind a segment that we are attached to.
    fn open(&self, handle: SegmentHandle, expected: u64) -> Result<Object, AttachError> {
        let object = if self.system.place.backend == Backend::Memfd {
            let fd = self.descriptor(handle)?.ok_or(AttachError::NoDescriptor(handle))?;
            memfd::open_fd(fd)?
        } else {
            let name = self.system.segment_name(handle);
            let object = backend::open(&self.system.place, &name)?;
            object.ok_or(AttachError::Missing(handle))?
        };
        Kind::of(expected).check(handle, object.mapping(), expected)?;
        Ok(object)
    }

    /// Makes the attachment, whose bit is set, one with the mapping: it ends when that is unmapped.
    fn hold(self: &Arc<Self>, handle: SegmentHandle, object: Object, kind: Kind) -> Segment {
        if let Some(fd) = object.fd() {
            match fd.try_clone_to_owned() {
                Ok(fd) => self.learn(handle, fd),
                Err(error) => tracing::warn!(%handle, %error, "segment cannot be handed over"),
            }
        }
        let all = 0..object.len();
        let mapping = self.attached(handle, object.mapping().clone(), all);
        let mut mine = self.lock();
        let segment = self.first_segment(&mut mine, handle, mapping, kind);
        self.settle(&mine);
        segment
    }

    /// The same memory, that range of it; unmapping it ends the attachment.
    fn attached(
        self: &Arc<Self>,
        handle: SegmentHandle,
        memory: Arc<Mapping>,
        range: Range<u64>,
    ) -> Arc<Mapping> {
        let whole = memory.region();
        let part = whole.sub(range.start, range.end - range.start).unwrap_or(whole);
        let (base, len) = (part.base(), part.len());
        let presence = self.clone();
        let unmap = Box::new(move |_, _| {
            drop(memory);
            presence.detach(handle);
        });
        // SAFETY: the range is the backend's mapping, which nobody but `unmap` refers to. One that
        // is only readable goes into a `ReadOnlySegment`, which gives views of it.
        unsafe { Mapping::from_raw(base, len, unmap) }
    }

    /// The first attachment of a mapping.
    fn first_segment(
        self: &Arc<Self>,
        mine: &mut Mine,
        handle: SegmentHandle,
        mapping: Arc<Mapping>,
        kind: Kind,
    ) -> Segment {
        let mut held = Held::nothing_yet(handle);
        (held.mapping, held.kind) = (Arc::downgrade(&mapping), kind);
        let segment = self.segment(&mut held, mapping);
        mine.held.insert(handle.slot(), held);
        segment
    }

    /// A `Segment` of what is mapped, under the lock: of the attachment that is there, or of a new
    /// one. Nothing is dropped here that may come to `detach`, which takes the lock.
    fn segment(self: &Arc<Self>, held: &mut Held, mapping: Arc<Mapping>) -> Segment {
        if held.kind == Kind::Growable {
            return self.growable_segment(held, mapping);
        }
        let there = held.attachment.as_ref().filter(|it| it.join() || it.begin_again());
        let attachment = there.cloned().unwrap_or_else(|| {
            let new = Arc::new(Attachment::new(held.handle, self.home.clone(), None));
            held.attachment.insert(new).clone()
        });
        Segment::new(attachment, mapping)
    }

    #[cold]
    fn growable_segment(self: &Arc<Self>, held: &mut Held, whole: Arc<Mapping>) -> Segment {
        if let Some(there) = &held.attachment
            && let Some(view) = there.first_view()
            && there.join()
        {
            return Segment::new(there.clone(), view);
        }
        let made = held.kind.growth(&whole).map(|growth| {
            let place = self.system.place.clone();
            let elastic = Arc::new(Elastic::new(growth, whole.clone(), place, self.clone()));
            let view = elastic.first_view();
            (elastic, view)
        });
        let parts = made.as_ref().map(|(elastic, view)| (elastic, view));
        let attachment = Arc::new(Attachment::new(held.handle, self.home.clone(), parts));
        held.attachment = Some(attachment.clone());
        Segment::new(attachment, made.map_or(whole, |(_, view)| view))
    }

    fn detach(&self, handle: SegmentHandle) {
        // A forked child holds nothing, and must not wait for a lock that its parent had.
        if self.member.check_fork().is_err() {
            return;
        }
        let mut mine = self.lock();
        self.actor().detach(handle);
        self.let_go(&mut mine, handle);
        mine.sweep(self.control());
    }

    pub(super) fn unpin(&self, handle: SegmentHandle) -> Result<(), PinError> {
        self.member.check_fork()?;
        let _mine = self.lock();
        self.actor().unpin(handle)
    }

    pub(super) fn find(self: &Arc<Self>, handle: SegmentHandle) -> Option<Segment> {
        self.member.check_fork().ok()?;
        let mut mine = self.lock();
        let held = mine.held.get_mut(&handle.slot()).filter(|held| held.handle == handle)?;
        let mapping = held.mapping.upgrade()?;
        Some(self.segment(held, mapping))
    }

    /// Keeps the descriptor of a memfd segment, for attaching and for handing it on. One that we
    /// have stays: it may be in use, and of the other we know only what its sender says.
    pub(super) fn learn(&self, handle: SegmentHandle, fd: OwnedFd) {
        self.lock().descriptors.entry(handle).or_insert(fd);
    }

    /// A copy of the descriptor of a memfd segment, if we have it. That of a ready one is the
    /// control segment's.
    pub(super) fn descriptor(
        &self,
        handle: SegmentHandle,
    ) -> Result<Option<OwnedFd>, BackendError> {
        let mine = self.lock();
        let copy = match mine.descriptors.get(&handle) {
            Some(fd) => Some(fd.try_clone()),
            None if self.control().is_ready(handle) => {
                self.system.object.fd().map(|fd| fd.try_clone_to_owned())
            }
            None => None,
        };
        let copy = copy.transpose();
        let name = handle.to_string();
        copy.map_err(|source| BackendError::Os { call: "fcntl", name, source })
    }

    /// Copies of all descriptors of segments that are alive.
    pub(super) fn descriptors(&self) -> std::io::Result<Vec<(SegmentHandle, OwnedFd)>> {
        let mut mine = self.lock();
        mine.sweep(self.control());
        mine.descriptors.iter().map(|(handle, fd)| Ok((*handle, fd.try_clone()?))).collect()
    }
}

impl Drop for Presence {
    /// Leaves: nothing of the domain is mapped here any more but the control segment. The last one
    /// out removes it; the dead are none, so they are reaped first.
    fn drop(&mut self) {
        if self.member.check_fork().is_ok() {
            self.ticket.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            self.reap();
            self.system.clean_up(self.member.id());
        }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use crate::domain::Domain;
    use std::thread;
    use std::time::Duration;

    fn domain(name: &str) -> Domain {
        let backend = Some(Backend::Memfd);
        Domain::open(DomainConfig { backend, ..DomainConfig::new(name) }).unwrap()
    }

    /// What another thread's `attach` answers that came before `settle`.
    fn attach_before(
        domain: &Domain,
        handle: SegmentHandle,
        settle: impl FnOnce(),
    ) -> Result<Option<Segment>, AttachError> {
        thread::scope(|scope| {
            let attach = scope.spawn(|| domain.attach(handle));
            thread::sleep(Duration::from_millis(50));
            assert!(!attach.is_finished(), "it does not wait");
            settle();
            attach.join().unwrap()
        })
    }

    #[test]
    fn attaching_waits_while_it_is_being_mapped() {
        let domain = domain("being_mapped");
        let presence = &domain.presence;
        let handle = presence.claim().unwrap();
        let name = presence.system.segment_name(handle);
        let object = backend::create(&presence.system.place, &name, 1).unwrap();
        let mut segment = None;
        let answer = attach_before(&domain, handle, || {
            segment = Some(presence.publish(handle, object, Kind::Fixed).unwrap());
        });
        assert!(matches!(answer, Err(AttachError::AlreadyAttached(_))));
        assert!(domain.find_mapping(handle).is_some());
    }

    #[test]
    fn attaching_waits_while_it_is_being_unmapped() {
        let domain = domain("being_unmapped");
        let segment = domain.create_segment(1).unwrap();
        let handle = segment.handle();
        segment.pin().unwrap();
        // As the first half of `unmap`.
        let held = Held::nothing_yet(handle);
        let held = domain.presence.lock().held.insert(handle.slot(), held);
        let answer = attach_before(&domain, handle, || drop((segment, held)));
        assert!(answer.unwrap().is_some(), "attached anew");
        domain.destroy().unwrap();
    }
}
