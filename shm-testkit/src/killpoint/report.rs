//! What a run tried, and what it found.
use super::trace::Trace;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Duration;

/// Findings that are shown.
const SHOWN: usize = 5;
/// Findings after which a run is given up: it has failed.
pub(super) const FINDINGS_MAX: usize = 20;
const LOG: &str = "SHM_CRASH_LOG";

/// What a run tried, in figures, and what it found.
#[derive(Debug)]
#[must_use = "a report that nobody asks has shown nothing"]
pub struct Report {
    pub(super) name: String,
    pub(super) mode: &'static str,
    pub(super) operations: &'static [&'static str],
    /// Why nothing was tried.
    pub(super) not_run: Option<String>,
    /// Instructions of the operation.
    pub(super) instructions: usize,
    /// Of them tried. (Of recoverers: instructions of theirs.)
    pub(super) points: usize,
    pub(super) depth: Depth,
    /// Different images of what is shared.
    pub(super) images: usize,
    /// How often a death begins to leave something else.
    pub(super) worlds: usize,
    pub(super) missed_max: usize,
    pub(super) drifted_max: usize,
    /// The most instructions that a bystander needed.
    pub(super) bystander: usize,
    pub(super) astray: Vec<Astray>,
    pub(super) findings: Vec<Finding>,
    pub(super) took: Duration,
}

/// Which points were tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    Nothing,
    /// Every instruction.
    All,
    /// Each at which a death leaves something else than at the one before; of a nested run, in
    /// operation and recovery. And some others.
    Worlds,
    /// Some of these.
    Sample,
    /// Some before and after system calls.
    Calls,
    /// As many as it took to find enough.
    GivenUp,
}

impl Depth {
    fn name(self) -> &'static str {
        match self {
            Depth::Nothing => "nothing",
            Depth::All => "all",
            Depth::Worlds => "worlds",
            Depth::Sample => "sample",
            Depth::Calls => "calls",
            Depth::GivenUp => "given up",
        }
    }
}

/// One death after which something was wrong.
#[derive(Debug)]
pub(super) struct Finding {
    /// Index of the instruction; none where no death was needed.
    pub(super) at: Option<(usize, u64)>,
    pub(super) what: String,
}

/// A point that was not come to as in the trace.
#[derive(Debug)]
pub(super) struct Astray {
    at: (usize, u64),
    how: How,
    /// Any other point between the same two worlds would have done as well.
    is_sample: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Missed,
    Drifted,
}

impl Report {
    /// Deaths, stops or forks that were tried.
    pub fn points(&self) -> usize {
        self.points
    }

    /// Instructions of the operation.
    pub fn instructions(&self) -> usize {
        self.instructions
    }

    /// Different states of the shared bytes that the operation goes through.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Asserts that nothing was found, and not more missed or drifted than was allowed. (Of points
    /// that are but a sample of what lies between two worlds, one in twenty may be so.) Where
    /// nothing could be run, that has been said, and this returns.
    ///
    /// # Panics
    /// With what was found.
    #[track_caller]
    pub fn passes(self) {
        if self.not_run.is_some() {
            return;
        }
        assert!(self.findings.is_empty(), "{self}");
        for (how, most) in [(How::Missed, self.missed_max), (How::Drifted, self.drifted_max)] {
            let samples = self.astray.iter().filter(|a| a.how == how && a.is_sample).count();
            let others = self.count(how) - samples;
            assert!(others <= most, "{how:?}, and no more than {most} may be: {self}");
            assert!(samples <= most.max(self.points / 20), "{how:?} too often: {self}");
        }
    }

    /// Asserts that a planted bug was found, for this reason: a part of what a check says.
    ///
    /// # Panics
    /// Where nothing was found, or only something else.
    #[track_caller]
    pub fn finds(self, reason: &str) {
        if self.not_run.is_some() {
            return;
        }
        let found = self.findings.iter().any(|finding| finding.what.contains(reason));
        assert!(found, "no finding says `{reason}`: {self}");
    }

    pub(super) fn missed(&self) -> usize {
        self.count(How::Missed)
    }

    pub(super) fn drifted(&self) -> usize {
        self.count(How::Drifted)
    }

    fn count(&self, how: How) -> usize {
        self.astray.iter().filter(|astray| astray.how == how).count()
    }

    pub(super) fn miss(&mut self, trace: &Trace, index: usize) {
        self.stray(trace, index, How::Missed);
    }

    /// Whether the shared bytes are those of the trace.
    pub(super) fn compare(&mut self, trace: &Trace, index: usize, found: u64) {
        if trace.steps[index].image != found {
            self.stray(trace, index, How::Drifted);
        }
    }

    fn stray(&mut self, trace: &Trace, index: usize, how: How) {
        let is_all = !matches!(self.depth, Depth::Worlds | Depth::Sample);
        let is_sample = !is_all && !trace.steps[index].is_new_world;
        self.astray.push(Astray { at: trace.at(index), how, is_sample });
    }

    /// Says what was tried, and writes it to the log that CI reads.
    pub(super) fn publish(&self) {
        match &self.not_run {
            Some(why) => println!("killpoint: {}, {}: not run: {why}", self.name, self.mode),
            None => println!("killpoint: {self}"),
        }
        let Some(path) = std::env::var_os(LOG) else { return };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(self.log_line().as_bytes()));
        assert!(written.is_ok(), "{LOG}={}: {written:?}", path.display());
    }

    /// One line, by one write: tests of several processes append to one log.
    fn log_line(&self) -> String {
        let mut line = format!("{}\t{}", self.name, self.mode);
        let depth = if self.not_run.is_some() { "not run" } else { self.depth.name() };
        let figures = [
            self.instructions,
            self.points,
            self.worlds,
            self.images,
            self.missed(),
            self.drifted(),
            self.findings.len(),
            self.bystander,
            self.took.as_millis() as usize,
        ];
        let _ = write!(line, "\t{depth}");
        for figure in figures {
            let _ = write!(line, "\t{figure}");
        }
        let _ = writeln!(line, "\t{}", self.operations.join(","));
        line
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, mode, instructions, points, worlds, images, .. } = self;
        let (missed, drifted, depth) = (self.missed(), self.drifted(), self.depth.name());
        write!(
            f,
            "{name}, {mode}: {instructions} instructions, {points} points ({depth}), {worlds} \
             worlds, {images} images, {missed} missed, {drifted} drifted, "
        )?;
        if self.bystander > 0 {
            write!(f, "bystander at most {} instructions, ", self.bystander)?;
        }
        write!(f, "{} findings, {:.1} s", self.findings.len(), self.took.as_secs_f64())?;
        for finding in self.findings.iter().take(SHOWN) {
            match finding.at {
                Some(at) => write!(f, "\n  at {}: {}", Place(at), finding.what)?,
                None => write!(f, "\n  {}", finding.what)?,
            }
        }
        for astray in self.astray.iter().take(SHOWN) {
            let how = if astray.how == How::Missed { "missed" } else { "drifted" };
            write!(f, "\n  at {}: {how}", Place(astray.at))?;
        }
        let more = self.findings.len().saturating_sub(SHOWN);
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}

/// An instruction: its index, the file that its address was mapped from and the offset there, for
/// `addr2line -e`, and the exported symbol if there is one.
struct Place((usize, u64));

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place((index, address)) = *self;
        write!(f, "instruction {index}, ")?;
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: `info` is ours; any address may be asked about.
        let found = unsafe { libc::dladdr(address as *const libc::c_void, info.as_mut_ptr()) } != 0;
        // SAFETY: all zero is valid for its pointers, and it has been filled in if found.
        let info = unsafe { info.assume_init() };
        if !found || info.dli_fname.is_null() {
            return write!(f, "{address:#x}");
        }
        // SAFETY: a string of the dynamic linker's, of a file that stays loaded.
        let file = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) }.to_string_lossy();
        let file = file.rsplit('/').next().unwrap_or_default();
        write!(f, "{file}+{:#x}", address - info.dli_fbase as u64)?;
        if info.dli_sname.is_null() {
            return Ok(());
        }
        // SAFETY: as above.
        let symbol = unsafe { std::ffi::CStr::from_ptr(info.dli_sname) }.to_string_lossy();
        write!(f, " ({symbol}+{:#x})", address - info.dli_saddr as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(samples: usize, others: usize, how: How) -> Report {
        let astray = |is_sample| Astray { at: (0, 0), how, is_sample };
        Report {
            name: String::new(),
            mode: "kill",
            operations: &[],
            not_run: None,
            instructions: 10_000,
            points: 100,
            depth: Depth::Worlds,
            images: 1,
            worlds: 1,
            missed_max: 1,
            drifted_max: 1,
            bystander: 0,
            astray: (0..samples + others).map(|nth| astray(nth < samples)).collect(),
            findings: Vec::new(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn of_a_sample_one_in_twenty_may_stray_and_of_what_matters_as_many_as_allowed() {
        for how in [How::Missed, How::Drifted] {
            for (samples, others, passes) in [(5, 1, true), (6, 0, false), (0, 2, false)] {
                let passed = std::panic::catch_unwind(|| report(samples, others, how).passes());
                assert_eq!(passed.is_ok(), passes, "{samples} {others} {how:?}");
            }
        }
    }
}
