//! Runs calls on memory that lies, and keeps the books.
use super::fault;
use super::lie::Liar;
use super::outside::Outside;
use crate::depth::is_deep;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Findings told one by one; the others are counted.
const FINDINGS_TOLD: usize = 10;

/// The trials of one structure: what was called, how often, and what came of it.
///
/// Each call runs on the calling thread, with its panic caught, and within a limit: a call that
/// takes longer aborts the process, with a message that names call and seed. See
/// [the module](super) for an example.
#[derive(Debug)]
pub struct Trials {
    name: &'static str,
    watch: Arc<Watch>,
    dog: Option<JoinHandle<()>>,
    calls: Cell<u64>,
    lies: Cell<u64>,
    seeds: Cell<u64>,
    findings: RefCell<Vec<String>>,
}

/// What the watchdog looks at.
#[derive(Debug, Default)]
struct Watch {
    now: Mutex<Now>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    call: Option<(Instant, &'static str, u64)>,
    is_over: bool,
}

impl Trials {
    /// How many times as much is tried with `SHM_DEEP=1`.
    pub const DEEP: u64 = 25;

    /// Trials of the structure `name`, no call of which takes longer than `limit` unless it hangs.
    ///
    /// # Panics
    /// Where no thread can be started.
    pub fn new(name: &'static str, limit: Duration) -> Trials {
        fault::report_faults();
        let watch = Arc::new(Watch::default());
        let theirs = watch.clone();
        let dog = thread::Builder::new().name("watchdog".into());
        let dog = dog.spawn(move || theirs.guard(name, limit)).expect("a thread to watch");
        Trials {
            name,
            watch,
            dog: Some(dog),
            calls: Cell::new(0),
            lies: Cell::new(0),
            seeds: Cell::new(0),
            findings: RefCell::default(),
        }
    }

    /// The seeds to try: `count` of them, or [`DEEP`](Trials::DEEP) times as many with `SHM_DEEP`
    /// set to 1, or only what `SHM_SEED` says.
    ///
    /// # Panics
    /// Where `SHM_SEED` is no number.
    pub fn seeds(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        let one = std::env::var("SHM_SEED").ok();
        let one = one.map(|seed| seed.parse::<u64>().expect("SHM_SEED is a number"));
        let count = if is_deep() { count * Trials::DEEP } else { count };
        let seeds = one.map_or(0..count, |seed| seed..seed + 1);
        self.seeds.set(self.seeds.get() + (seeds.end - seeds.start));
        seeds
    }

    /// Runs a call: its value, or `None` where it panicked, which is a finding.
    pub fn call<R>(&self, seed: u64, what: &'static str, call: impl FnOnce() -> R) -> Option<R> {
        self.calls.set(self.calls.get() + 1);
        self.watch.lock().call = Some((Instant::now(), what, seed));
        let before = fault::calling(Some((self.name, what, seed)));
        let end = catch_unwind(AssertUnwindSafe(call));
        fault::calling(before);
        self.watch.lock().call = None;
        end.map_err(|panic| self.find(seed, what, &format!("panicked: {}", text(&panic)))).ok()
    }

    /// Has `liar` tell `count` lies to `memory`.
    pub fn tell(&self, memory: &Outside, liar: &mut Liar, count: u64) {
        for _ in 0..count {
            liar.lie(memory);
        }
        self.add(count);
    }

    /// So many lies were told, by a [`Scribbler`](super::Scribbler) for one.
    pub fn add(&self, lies: u64) {
        self.lies.set(self.lies.get() + lies);
    }

    /// A finding: what `what` did with `seed` is wrong, and why.
    pub fn find(&self, seed: u64, what: &str, why: &str) {
        self.findings.borrow_mut().push(format!("{what}, SHM_SEED={seed}: {why}"));
    }

    /// A finding unless `holds`.
    pub fn check(&self, seed: u64, what: &str, holds: bool, why: &str) {
        if !holds {
            self.find(seed, what, why);
        }
    }

    /// Prints the figures.
    ///
    /// # Panics
    /// Where there are findings, or nothing was tried.
    pub fn finish(self) {
        let Trials { name, calls, lies, seeds, findings, .. } = &self;
        let (calls, lies, seeds) = (calls.get(), lies.get(), seeds.get());
        let findings = findings.borrow();
        println!(
            "hostile {name}: {seeds} seeds, {lies} lies, {calls} calls, {} findings",
            findings.len()
        );
        let told = findings.iter().take(FINDINGS_TOLD).cloned().collect::<Vec<_>>().join("\n");
        assert!(findings.is_empty(), "{} findings about {name}:\n{told}", findings.len());
        assert!(calls > 0, "nothing was called");
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        self.watch.lock().is_over = true;
        self.watch.over.notify_all();
        if let Some(dog) = self.dog.take() {
            let _ = dog.join();
        }
    }
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks now and then whether the same call is still running.
    fn guard(&self, name: &str, limit: Duration) {
        let mut now = self.lock();
        while !now.is_over {
            if let Some((since, what, seed)) = now.call
                && since.elapsed() > limit
            {
                let message = format!(
                    "\nwatchdog: hostile {name}: `{what}` with SHM_SEED={seed} did not end in \
                     {limit:?}\n"
                );
                // The handle, not eprintln: the test harness captures that.
                let _ = std::io::stderr().write_all(message.as_bytes());
                std::process::abort();
            }
            let waited = self.over.wait_timeout(now, limit / 4);
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn text(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

#[cfg(test)]
mod tests {
    use super::super::{Edge, Guarded, Scribbler};
    use super::*;
    use crate::child::Child;

    const LONG: Duration = Duration::from_secs(60);

    /// A bounds check that is not one: believes the length that stands in the block.
    fn believes(_: &[String]) {
        let trials = Trials::new("believer", LONG);
        let mut valid = [0; 128];
        valid[0] = 100;
        for seed in trials.seeds(1000) {
            let block = Guarded::holding(&valid, Edge::Right);
            trials.tell(&block.outside(), &mut Liar::new(seed, &valid), 2);
            trials.call(seed, "sum", || {
                // SAFETY: inside the block.
                let len = unsafe { block.base().cast::<u64>().read_volatile() };
                let at = |at| block.base().as_ptr().wrapping_add(at as usize);
                // SAFETY: not at all.
                (8..len).fold(0u8, |sum, i| sum.wrapping_add(unsafe { at(i).read_volatile() }))
            });
        }
        trials.finish();
    }

    fn oversleeps(_: &[String]) {
        let trials = Trials::new("sleeper", Duration::from_millis(50));
        trials.call(9, "sleep", || thread::sleep(LONG));
    }
    crate::children! { believes, oversleeps }

    #[test]
    fn a_missing_bounds_check_is_found_and_named() {
        let exit = Child::spawn("believes", &[]).wait(LONG);
        assert_eq!(exit.signal(), Some(libc::SIGSEGV), "{exit:?}");
        assert!(exit.stderr.contains("liar: believer: `sum` with SHM_SEED="), "{exit:?}");
        assert!(exit.stderr.contains("0 bytes behind the block of 128 bytes"), "{exit:?}");
    }

    #[test]
    fn a_call_that_hangs_is_named() {
        let exit = Child::spawn("oversleeps", &[]).wait(LONG);
        assert_eq!(exit.signal(), Some(libc::SIGABRT), "{exit:?}");
        assert!(exit.stderr.contains("`sleep` with SHM_SEED=9 did not end in 50ms"), "{exit:?}");
    }

    #[test]
    fn a_panic_is_a_finding_with_its_seed() {
        let trials = Trials::new("panicker", LONG);
        assert_eq!(trials.call(3, "fine", || 1), Some(1));
        let panics = || std::panic::resume_unwind(Box::new("planted"));
        assert_eq!(trials.call(4, "panics", panics), None::<()>);
        let finish = AssertUnwindSafe(|| trials.finish());
        let end = catch_unwind(finish).expect_err("findings");
        assert!(text(&end).contains("panics, SHM_SEED=4: panicked: planted"), "{}", text(&end));
    }

    #[test]
    fn a_scribbler_changes_what_others_read() {
        let block = Guarded::new(64, Edge::Left);
        let scribbler = Scribbler::start(block.outside(), Liar::new(1, &[0; 64]));
        let first = block.outside().read();
        while block.outside().read() == first {
            thread::yield_now();
        }
        assert!(scribbler.stop() > 1);
        let still = block.outside().read();
        assert_eq!(block.outside().read(), still, "it has stopped");
    }
}
