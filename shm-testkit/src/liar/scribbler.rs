//! A thread that tells lies while calls run.
use super::lie::Liar;
use super::outside::Outside;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// So many lies in a row; then it lets others have the processor.
const LIES_IN_A_ROW: u64 = 64;
/// As often it sleeps, so that sleepers are lied to in their sleep and not only kept awake.
const ROWS_A_NAP: u64 = 64;
const NAP: Duration = Duration::from_micros(200);

/// Overwrites memory until it is stopped or dropped.
#[derive(Debug)]
pub struct Scribbler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    quit: AtomicBool,
    told: AtomicU64,
}

impl Scribbler {
    /// Begins to tell `liar`'s lies to `memory`, and returns once the first is told.
    ///
    /// # Panics
    /// Where no thread can be started.
    pub fn start(memory: Outside, mut liar: Liar) -> Scribbler {
        let shared = Arc::new(Shared::default());
        let (theirs, (begun, told)) = (shared.clone(), std::sync::mpsc::channel());
        let scribble = move || {
            for count in 1u64.. {
                liar.lie(&memory);
                theirs.told.store(count, Ordering::Relaxed);
                if count == 1 {
                    let _ = begun.send(());
                }
                if theirs.quit.load(Ordering::Relaxed) {
                    return;
                }
                if count.is_multiple_of(LIES_IN_A_ROW * ROWS_A_NAP) {
                    thread::sleep(NAP);
                } else if count.is_multiple_of(LIES_IN_A_ROW) {
                    thread::yield_now();
                }
            }
        };
        let thread = thread::Builder::new().name("scribbler".into()).spawn(scribble);
        let thread = thread.expect("a thread for the scribbler");
        let _ = told.recv();
        Scribbler { shared, thread: Some(thread) }
    }

    /// How many lies it has told so far.
    pub fn told(&self) -> u64 {
        self.shared.told.load(Ordering::Relaxed)
    }

    /// Does `work` again and again, once at least, until `lies` more have been told: on a busy
    /// machine the scribbler may not get its turn for long.
    pub fn meanwhile(&self, lies: u64, mut work: impl FnMut()) {
        let enough = self.told() + lies;
        loop {
            work();
            if self.told() >= enough {
                return;
            }
            thread::yield_now();
        }
    }

    /// Ends it: how many lies it told.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.told()
    }

    fn end(&mut self) {
        self.shared.quit.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Scribbler {
    fn drop(&mut self) {
        self.end();
    }
}
