//! What is in a pool, for people and for tests; pages thrown out, or marked, because these ask.
use super::session::{Reserve, Session};
use super::{PageError, Pool, SessionError, shared};
use crate::files::{FileInfo, FileNumber};
use crate::frames::{Find, PageId};
use crate::latch;
use shm_core::header::Header;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{ParticipantId, ParticipantInfo, Seat};
use shm_core::process::Liveness;
use std::sync::Arc;

/// So many frames give up their pages at a time: one look at all pins serves them all.
const BATCH: usize = 32;
/// Where pages on probation are counted, behind the use counts from 0 to 5.
const PROBATION: usize = 6;

/// A participant that is at a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct UserInfo {
    /// Which one.
    pub id: ParticipantId,
    /// Its process; `None` where it has left, or was cleaned up after.
    pub pid: Option<u32>,
    /// Whether it is certain that it has ended, or left.
    pub is_dead: bool,
}

/// Who has a frame's latch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct LatchInfo {
    /// How.
    pub mode: latch::Mode,
    /// Who; of a page that is torn, who left it so.
    pub owner: UserInfo,
}

/// What is in one frame, and who is at it. Others go on meanwhile: all of it is a hint.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FrameInfo {
    /// Which frame.
    pub frame: u32,
    /// The page, by its file and block; `None` where there is none.
    pub page: Option<(FileNumber, u32)>,
    /// Whether it differs from its file.
    pub is_dirty: bool,
    /// Whether somebody has it pinned.
    pub is_pinned: bool,
    /// Who has it pinned, however often.
    pub pinned_by: Vec<UserInfo>,
    /// Who has the frame's latch, whether or not there is a page: one who reads a page in has it.
    /// Shares are not told.
    pub latch: Option<LatchInfo>,
    /// How often it was used, as the policy counts; `None` where it is on probation.
    pub use_count: Option<u8>,
}

/// How much of a pool is in use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct PoolSummary {
    /// Frames that have a page.
    pub used: u32,
    /// And those that have none.
    pub unused: u32,
    /// Pages that differ from their files.
    pub dirty: u32,
    /// Pages that are pinned.
    pub pinned: u32,
    /// Pages by use counts; the last are those on probation.
    pub use_counts: [u32; 7],
}

/// How much of a pool is used equally often.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct UseClass {
    /// Its pages.
    pub pages: u32,
    /// Those that differ from their files.
    pub dirty: u32,
    /// Those that are pinned.
    pub pinned: u32,
}

/// How much of a pool one file has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileFrames {
    /// Which file.
    pub file: FileInfo,
    /// What it has.
    pub pages: PoolSummary,
}

/// What became of the pages that were to go.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Evicted {
    /// They are in no frame any more.
    pub evicted: u64,
    /// They were dirty, and written to their files.
    pub flushed: u64,
    /// They stay: somebody uses or moves them.
    pub skipped: u64,
}

/// What became of the pages that were to be dirty.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Marked {
    /// They are dirty now.
    pub dirtied: u64,
    /// They were before.
    pub already: u64,
    /// They are as they were: somebody changes them, or writes them out.
    pub skipped: u64,
}

/// Why nothing was done about a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// There is none of this number.
    #[error("there is no frame {frame}: the pool has {frames}, numbered from 0")]
    NoSuchFrame {
        /// The number.
        frame: u32,
        /// How many there are.
        frames: u32,
    },
    /// Its page could not be written, or marked.
    #[error(transparent)]
    Page(#[from] PageError),
}

impl UserInfo {
    /// The one of this name, among those who have a seat.
    fn of(id: ParticipantId, seats: &[ParticipantInfo]) -> UserInfo {
        // Where it is being reaped the seat names the reaper.
        let is_it = |seat: &&ParticipantInfo| seat.id == id && seat.seat != Seat::Reaping;
        let found = seats.iter().find(is_it);
        UserInfo {
            id,
            pid: found.map(|seat| seat.process.pid()),
            is_dead: found.is_none_or(|seat| seat.liveness == Liveness::Dead),
        }
    }
}

impl FrameInfo {
    /// Where its page is counted.
    fn class(&self) -> usize {
        self.use_count.map_or(PROBATION, |count| usize::from(count).min(PROBATION - 1))
    }
}

impl PoolSummary {
    /// The mean of the use counts, those on probation aside; `None` where there is no other page.
    pub fn use_count_mean(&self) -> Option<f64> {
        let counts = (0_u32..).zip(&self.use_counts[..PROBATION]);
        let (pages, uses) = counts.fold((0.0, 0.0), |(pages, uses), (count, &of)| {
            (pages + f64::from(of), uses + f64::from(count) * f64::from(of))
        });
        (pages > 0.0).then_some(uses / pages)
    }

    fn add(&mut self, info: &FrameInfo) {
        self.used += 1;
        self.dirty += u32::from(info.is_dirty);
        self.pinned += u32::from(info.is_pinned);
        self.use_counts[info.class()] += 1;
    }
}

impl Pool {
    /// Whether somebody has made a pool at the beginning of `mapping`, of this release or of
    /// another. Whatever is there is only looked at: [`attach`](Pool::attach) takes what is all
    /// zero for a pool that is to be made, and says so in it.
    pub fn is_in(mapping: &Arc<Mapping>) -> bool {
        let header = Mapped::<Header>::new(mapping, 0);
        header.is_ok_and(|header| header.has_name_of(&shared::identity(0)))
    }

    /// What is in each frame: one after the other, while others go on.
    ///
    /// # Errors
    /// [`SessionError::Corrupt`].
    pub fn frame_infos(&self) -> Result<Vec<FrameInfo>, SessionError> {
        let inner = &self.inner;
        let policy = inner.policy().ok_or(SessionError::Corrupt)?;
        let frames = 0..inner.backed();
        let owners: Vec<_> =
            frames.clone().map(|frame| inner.pages.latches().owner(frame)).collect();
        let pins = inner.frames.pins();
        // Behind the names: who is not there any more has left.
        let seats = inner.table.snapshot();
        let info = |(frame, owner): (u32, Option<(latch::Mode, ParticipantId)>)| {
            let page = inner.frames.resident_in(frame);
            let first = pins.partition_point(|(at, _)| *at < frame);
            let here = pins[first..].iter().take_while(|(at, _)| *at == frame && page.is_some());
            let pinned_by: Vec<_> = here.map(|(_, who)| UserInfo::of(*who, &seats)).collect();
            FrameInfo {
                frame,
                page: page.map(|page| (FileNumber::of(page), page.block())),
                is_dirty: page.is_some() && inner.pages.is_dirty(frame),
                is_pinned: !pinned_by.is_empty(),
                pinned_by,
                latch: owner
                    .map(|(mode, who)| LatchInfo { mode, owner: UserInfo::of(who, &seats) }),
                use_count: policy.use_count(frame),
            }
        };
        Ok(frames.zip(owners).map(info).collect())
    }

    /// How much of it is in use.
    ///
    /// # Errors
    /// [`SessionError::Corrupt`].
    pub fn summary(&self) -> Result<PoolSummary, SessionError> {
        let mut summary = PoolSummary::default();
        for info in self.frame_infos()? {
            match info.page {
                Some(_) => summary.add(&info),
                None => summary.unused += 1,
            }
        }
        Ok(summary)
    }

    /// How many pages were used equally often, from 0 times to 5; the last are those on probation.
    ///
    /// # Errors
    /// [`SessionError::Corrupt`].
    pub fn by_use_count(&self) -> Result<[UseClass; 7], SessionError> {
        let mut classes = [UseClass::default(); PROBATION + 1];
        for info in self.frame_infos()?.iter().filter(|info| info.page.is_some()) {
            let class = &mut classes[info.class()];
            class.pages += 1;
            class.dirty += u32::from(info.is_dirty);
            class.pinned += u32::from(info.is_pinned);
        }
        Ok(classes)
    }

    /// How much of it each file has.
    ///
    /// # Errors
    /// [`SessionError::Corrupt`].
    pub fn by_file(&self) -> Result<Vec<FileFrames>, SessionError> {
        let files = self.files().into_iter();
        let mut by_file: Vec<FileFrames> =
            files.map(|file| FileFrames { file, pages: PoolSummary::default() }).collect();
        for info in self.frame_infos()? {
            let Some((number, _)) = info.page else { continue };
            let of_file = by_file.iter_mut().find(|of| of.file.number == number);
            // Registered since.
            let Some(of_file) = of_file else { continue };
            of_file.pages.add(&info);
        }
        Ok(by_file)
    }
}

impl Session {
    /// Has the page in `frame` leave the pool, where nobody uses it; nobody is waited for. Where it
    /// is dirty it is written to its file first. A frame without a page counts as nothing.
    ///
    /// # Errors
    /// [`FrameError`]: the page stays.
    ///
    /// # If a process dies here
    /// The page is where it was, or in no frame; the frame is free once it was reaped.
    pub fn evict_frame(&self, frame: u32) -> Result<Evicted, FrameError> {
        self.check_frame(frame)?;
        Ok(self.evict_of(&[frame], |_| true)?)
    }

    /// As [`evict_frame`](Session::evict_frame), for all pages of a file.
    ///
    /// # Errors
    /// [`PageError`] where some page could not be written, which stays; the others were tried.
    ///
    /// # If a process dies here
    /// As in [`evict_frame`](Session::evict_frame), for each page.
    pub fn evict_file(&self, file: FileNumber) -> Result<Evicted, PageError> {
        self.check_file(file)?;
        self.evict_of(&self.all_frames(), |page| FileNumber::of(page) == file)
    }

    /// As [`evict_frame`](Session::evict_frame), for all pages: what a pool is like when it was
    /// just made.
    ///
    /// # Errors
    /// As in [`evict_file`](Session::evict_file).
    ///
    /// # If a process dies here
    /// As in [`evict_file`](Session::evict_file).
    pub fn evict_all(&self) -> Result<Evicted, PageError> {
        self.evict_of(&self.all_frames(), |_| true)
    }

    /// Has the page in `frame` be written to its file once more, whether it differs or not: marks
    /// it dirty, unless somebody changes it or writes it out; nobody is waited for. A frame without
    /// a page counts as nothing.
    ///
    /// # Errors
    /// [`FrameError`]; [`PageError::ReadOnly`] where it could never be written.
    ///
    /// # If a process dies here
    /// It is dirty, or as it was.
    pub fn mark_frame_dirty(&self, frame: u32) -> Result<Marked, FrameError> {
        self.check_frame(frame)?;
        Ok(self.mark_of(&[frame], |_| true)?)
    }

    /// As [`mark_frame_dirty`](Session::mark_frame_dirty), for all pages of a file.
    ///
    /// # Errors
    /// [`PageError`] where some page could not be marked; the others were tried.
    ///
    /// # If a process dies here
    /// As in [`mark_frame_dirty`](Session::mark_frame_dirty), for each page.
    pub fn mark_file_dirty(&self, file: FileNumber) -> Result<Marked, PageError> {
        self.check_file(file)?;
        self.mark_of(&self.all_frames(), |page| FileNumber::of(page) == file)
    }

    /// As [`mark_frame_dirty`](Session::mark_frame_dirty), for all pages.
    ///
    /// # Errors
    /// As in [`mark_file_dirty`](Session::mark_file_dirty).
    ///
    /// # If a process dies here
    /// As in [`mark_file_dirty`](Session::mark_file_dirty).
    pub fn mark_all_dirty(&self) -> Result<Marked, PageError> {
        self.mark_of(&self.all_frames(), |_| true)
    }

    fn check_frame(&self, frame: u32) -> Result<(), FrameError> {
        let frames = self.inner.backed();
        if frame < frames { Ok(()) } else { Err(FrameError::NoSuchFrame { frame, frames }) }
    }

    fn check_file(&self, file: FileNumber) -> Result<(), PageError> {
        self.inner.files.length(file).map(drop).map_err(|_| PageError::NoSuchFile(file))
    }

    fn all_frames(&self) -> Vec<u32> {
        (0..self.inner.backed()).collect()
    }

    fn evict_of(
        &self,
        frames: &[u32],
        is_asked: impl Fn(PageId) -> bool,
    ) -> Result<Evicted, PageError> {
        let has_it = |frame: &&u32| self.user.frames().resident_in(**frame).is_some_and(&is_asked);
        let frames: Vec<u32> = frames.iter().filter(has_it).copied().collect();
        let (mut sum, mut failed, before) = (Evicted::default(), None, self.stats().writes);
        // Others find frames meanwhile.
        let batch = BATCH.min(self.share_of_frames() as usize);
        for batch in frames.chunks(batch) {
            self.evict_batch(batch, &is_asked, &mut sum, &mut failed)?;
        }
        // Wrapping: others can write the count.
        sum.flushed = self.stats().writes.wrapping_sub(before);
        failed.map_or(Ok(sum), Err)
    }

    fn evict_batch(
        &self,
        batch: &[u32],
        is_asked: impl Fn(PageId) -> bool,
        sum: &mut Evicted,
        failed: &mut Option<PageError>,
    ) -> Result<(), PageError> {
        let mut reserve = self.reserve();
        let Reserve { protected, page: buffer, .. } = &mut *reserve;
        let (mut free, mut had_page) = (Vec::with_capacity(batch.len()), Vec::new());
        self.user.evict(batch, protected, &mut free, |frame, page| {
            had_page.push(frame);
            is_asked(page) && self.is_written(frame, page, buffer, failed)
        })?;
        // What has become empty by itself counts as nothing.
        sum.skipped += (batch.len() - free.len()) as u64;
        for free in free {
            sum.evicted += u64::from(had_page.contains(&free.frame()));
            self.give_back(free);
        }
        Ok(())
    }

    fn mark_of(
        &self,
        frames: &[u32],
        is_asked: impl Fn(PageId) -> bool,
    ) -> Result<Marked, PageError> {
        let (mut sum, mut failed) = (Marked::default(), None);
        let pages = frames.iter().filter_map(|frame| self.user.frames().resident_in(*frame));
        for page in pages.filter(|page| is_asked(*page)) {
            match self.mark(page, &mut sum) {
                // It is gone since.
                Ok(()) | Err(PageError::NoSuchFile(_)) => {}
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(sum), Err)
    }

    fn mark(&self, page: PageId, sum: &mut Marked) -> Result<(), PageError> {
        let Find::Pinned(pin) = self.find(page)? else { return Ok(()) };
        let file = FileNumber::of(page);
        if self.inner.open_file(file)?.is_read_only() {
            return Err(PageError::ReadOnly(self.path_of(file)));
        }
        match self.pages.try_share_exclusive(pin.frame())? {
            None => sum.skipped += 1,
            Some(held) if held.is_dirty() => sum.already += 1,
            Some(mut held) => {
                held.mark_dirty()?;
                sum.dirtied += 1;
            }
        }
        Ok(())
    }
}
