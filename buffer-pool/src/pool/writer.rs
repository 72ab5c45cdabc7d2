//! Writing pages out before their frames are wanted: the background writer.
//!
//! It is PostgreSQL's (`BgBufferSync` in `bufmgr.c`). The writer walks ahead of the hand of the
//! clock and writes what is dirty and unused there, as far as it expects frames to be wanted until
//! it comes by again: as many as lately, by a moving average that follows at once upwards and
//! slowly downwards, times a factor. How many frames it has to pass for each that can be had is a
//! moving average, too. Where little is wanted it still passes the whole pool in two minutes. After
//! two rounds in which it had nothing to do it rests for long, and is woken by the next page that
//! is read in.
//!
//! What is read into the [rings](super::Bulk) of sessions is none of its business: their owners
//! write what they want again.
//!
//! With a probation ring the next victims stand at the ring's head: it looks at as many of those.
//!
//! What it knows is private. It has nothing that another one needs: several may run, and one that
//! dies is replaced by the next.
use super::session::Session;
use super::stats::Count;
use super::{PageError, Pool, later};
use crate::files::FileNumber;
use crate::frames::{Find, PageId, Pinned};
use crate::policy::Hand;
use shm_core::event::EventCount;
use shm_core::futex::waitv_works;
use shm_core::participants::Sleeper;
use std::time::Duration;

/// How a [`Writer`] works. These are PostgreSQL's settings of the same names.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WriterOptions {
    /// From one round to the next (`bgwriter_delay`).
    pub delay: Duration,
    /// Pages that a round writes at most (`bgwriter_lru_maxpages`); 0: none at all.
    pub pages_max: u32,
    /// So many times as many frames as were wanted of late are expected to be wanted
    /// (`bgwriter_lru_multiplier`).
    pub multiplier: f64,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions { delay: Duration::from_millis(200), pages_max: 100, multiplier: 2.0 }
    }
}

/// What a round did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Round {
    /// Pages written.
    pub written: u32,
    /// Frames looked at.
    pub looked_at: u32,
    /// Whether it stopped because it had written as many as it may.
    pub had_enough: bool,
    /// Whether there was nothing to do, and nobody wanted frames.
    pub is_idle: bool,
}

/// The background writer of a pool: what it has learnt.
///
/// ```no_run
/// use buffer_pool::pool::{Pool, Writer, WriterOptions};
/// # fn is_over() -> bool { true }
/// # fn works(pool: &Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let session = pool.session()?;
/// let mut writer = Writer::new(WriterOptions::default());
/// while !is_over() {
///     writer.round(&session)?;
///     writer.rest(pool);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer {
    options: WriterOptions,
    estimate: Estimate,
    /// Of the last round: where the hand was, and how many pages had been read in.
    before: Option<(u64, u64)>,
    /// The frame that is looked at next, as the hand counts: over all passes.
    next: u64,
    idle_rounds: u32,
    pinned: Pinned,
}

/// So many samples the averages are over.
const SAMPLES: f64 = 16.0;
/// The whole pool is passed in this time, where nobody wants frames.
const PASS: Duration = Duration::from_secs(120);
/// After so many idle rounds it rests for so many delays.
const IDLE_ROUNDS: u32 = 2;
const LONG_REST: u32 = 50;

/// What is to be expected.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Estimate {
    /// Frames passed for each that could be had.
    density: f64,
    /// Frames wanted in a round.
    wanted: f64,
}

impl Estimate {
    const fn new() -> Estimate {
        Estimate { density: 10.0, wanted: 0.0 }
    }

    /// So many frames were passed, and so many of them could be had.
    fn passed(&mut self, frames: u64, had: u64) {
        if frames > 0 && had > 0 {
            self.density += (frames as f64 / had as f64 - self.density) / SAMPLES;
        }
    }

    /// So many were wanted since the last round; how many will be until the next.
    fn want(&mut self, frames: u64, multiplier: f64) -> f64 {
        let frames = frames as f64;
        if frames >= self.wanted {
            self.wanted = frames;
        } else {
            self.wanted += (frames - self.wanted) / SAMPLES;
        }
        let expected = self.wanted * multiplier;
        // What is less than one is forgotten, or it would never be nothing.
        if expected < 1.0 {
            self.wanted = 0.0;
        }
        expected.floor()
    }
}

/// What was found of one frame.
enum Found {
    /// It can be had without a write.
    Clean,
    /// It can be had now.
    Written,
    InUse,
}

impl Writer {
    /// One that knows nothing yet.
    pub fn new(options: WriterOptions) -> Writer {
        Writer {
            options,
            estimate: Estimate::new(),
            before: None,
            next: 0,
            idle_rounds: 0,
            pinned: Pinned::default(),
        }
    }

    /// Writes what should be written now.
    ///
    /// # Errors
    /// [`PageError`] of a page that could not be written, which stays dirty.
    ///
    /// # If a process dies here
    /// Some pages are written.
    pub fn round(&mut self, session: &Session) -> Result<Round, PageError> {
        let frames = u64::from(session.policy.limit());
        let Hand { frame, passes } = session.policy.hand();
        let hand = passes.wrapping_mul(frames).wrapping_add(frame.into());
        let stats = session.pool().stats();
        // A frame that a ring takes again is not taken from the clock.
        let read = stats.reads.saturating_sub(stats.recycled);
        let (hand_before, read_before) = self.before.replace((hand, read)).unwrap_or((hand, read));
        let wanted = read.saturating_sub(read_before);
        self.estimate.passed(hand.saturating_sub(hand_before), wanted);
        // It is behind the hand, more than a pass ahead, or the pool has another size.
        if self.next.wrapping_sub(hand) > frames {
            self.next = hand;
        }
        let ahead = self.next.wrapping_sub(hand);
        let to_lap = frames - ahead;
        let ready = ahead as f64 / self.estimate.density;
        let expected = self.estimate.want(wanted, self.options.multiplier);
        let at_least = frames as f64 * self.options.delay.as_secs_f64() / PASS.as_secs_f64();
        let round = self.look(session, ready, expected, at_least.max(1.0) + ready, to_lap)?;
        let is_idle = to_lap == 0 && wanted == 0;
        self.idle_rounds = if is_idle { self.idle_rounds + 1 } else { 0 };
        Ok(Round { is_idle, ..round })
    }

    /// Looks at the frames of the ring that are expected to be wanted, and then at others until so
    /// many are ready, and `at_least` so many.
    fn look(
        &mut self,
        session: &Session,
        ready: f64,
        expected: f64,
        at_least: f64,
        to_lap: u64,
    ) -> Result<Round, PageError> {
        let (mut round, mut had) = (Round::default(), 0);
        session.user.frames().pinned(&mut self.pinned);
        let ring = session.policy.next_of_ring().take(expected as usize);
        let frames = u64::from(session.policy.limit());
        let clock = (0..to_lap).map(|nth| (self.next.wrapping_add(nth) % frames) as u32);
        let (mut passed, mut failed) = (0, None);
        for (frame, is_of_clock) in
            ring.map(|frame| (frame, false)).chain(clock.map(|frame| (frame, true)))
        {
            round.had_enough = round.written >= self.options.pages_max;
            let is_ready = is_of_clock && ready + had as f64 >= expected.max(at_least);
            if round.had_enough || is_ready {
                break;
            }
            round.looked_at += 1;
            passed += u64::from(is_of_clock);
            match session.clean(frame, &self.pinned, is_of_clock) {
                Ok(Found::InUse) => {}
                Ok(Found::Clean) => had += u64::from(is_of_clock),
                Ok(Found::Written) => {
                    round.written += 1;
                    had += u64::from(is_of_clock);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.next = self.next.wrapping_add(passed);
        self.estimate.passed(passed, had);
        session.tally.add(Count::Cleaned, round.written.into());
        session.tally.add(Count::CleanedEnough, round.had_enough.into());
        failed.map_or(Ok(round), Err)
    }

    /// Rests until the next round: for long after some idle ones, and then no longer than until the
    /// next page is read in.
    pub fn rest(&self, pool: &Pool) {
        self.rest_unless(pool, &EventCount::new(), || false);
    }

    /// As [`rest`](Writer::rest), but it ends when `over` is notified, and at once where `is_over`.
    ///
    /// It does not rest for long where the kernel cannot sleep on two words (`futex_waitv`, Linux
    /// 5.16).
    pub fn rest_unless(&self, pool: &Pool, over: &EventCount, is_over: impl Fn() -> bool) {
        let read = &pool.inner.head.read;
        let is_long = self.idle_rounds >= IDLE_ROUNDS && waitv_works();
        let end = later(self.options.delay.saturating_mul(if is_long { LONG_REST } else { 1 }));
        let mut events = vec![(over, over.prepare())];
        if is_long {
            events.push((read, read.prepare()));
        }
        if is_over() {
            return;
        }
        if let Some(night) = Sleeper::new().lie_down(&events, &[]) {
            night.sleep(end);
        }
    }
}

impl Session {
    /// Writes the page in `frame`, where it is dirty and nobody has used it of late.
    fn clean(&self, frame: u32, pinned: &Pinned, is_of_clock: bool) -> Result<Found, PageError> {
        let frames = self.user.frames();
        let is_used = is_of_clock && self.policy.use_count(frame) != Some(0);
        if is_used || pinned.has(frame) || frames.is_claimed(frame) {
            return Ok(Found::InUse);
        }
        if !self.inner.pages.is_dirty(frame) {
            return Ok(Found::Clean);
        }
        let Some(page) = frames.resident_in(frame) else { return Ok(Found::InUse) };
        self.write_if_free(page)
    }

    fn write_if_free(&self, page: PageId) -> Result<Found, PageError> {
        let Find::Pinned(pin) = self.find(page)? else { return Ok(Found::InUse) };
        let Some(held) = self.pages.try_share_exclusive(pin.frame())? else {
            return Ok(Found::InUse);
        };
        if !self.write_out(held, page, &mut self.reserve().page)? {
            return Ok(Found::Clean);
        }
        let at = u64::from(page.block()) * u64::from(self.inner.config.page_bytes);
        if let Ok(file) = self.inner.open_file(FileNumber::of(page)) {
            file.write_back(at, self.inner.config.page_bytes.into());
        }
        Ok(Found::Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_rises_at_once_and_falls_slowly() {
        let mut estimate = Estimate::new();
        assert_eq!(estimate.want(100, 2.0), 200.0);
        assert_eq!(estimate.want(20, 2.0), 190.0);
        assert_eq!(estimate.want(150, 2.0), 300.0);
        let rounds = (0..1000).take_while(|_| estimate.want(0, 2.0) > 0.0).count();
        assert!((50..200).contains(&rounds), "{rounds}");
        assert_eq!(estimate.wanted, 0.0);
    }

    #[test]
    fn the_density_is_a_moving_average() {
        let mut estimate = Estimate::new();
        estimate.passed(0, 5);
        estimate.passed(5, 0);
        assert_eq!(estimate.density, 10.0);
        estimate.passed(26, 1);
        assert_eq!(estimate.density, 11.0);
        (0..500).for_each(|_| estimate.passed(3, 1));
        assert!((estimate.density - 3.0).abs() < 0.01);
    }
}
