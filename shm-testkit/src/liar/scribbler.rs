//! A thread that tells lies while calls run.
use super::lie::Liar;
use super::outside::Outside;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    quit: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Scribbler {
    /// Begins to tell `liar`'s lies to `memory`, and returns once the first is told.
    ///
    /// # Panics
    /// Where no thread can be started.
    pub fn start(memory: Outside, mut liar: Liar) -> Scribbler {
        let quit = Arc::new(AtomicBool::new(false));
        let (theirs, (begun, told)) = (quit.clone(), std::sync::mpsc::channel());
        let scribble = move || {
            let mut count = 0;
            while !theirs.load(Ordering::Relaxed) {
                liar.lie(&memory);
                count += 1;
                if count == 1 {
                    let _ = begun.send(());
                }
                if count % (LIES_IN_A_ROW * ROWS_A_NAP) == 0 {
                    thread::sleep(NAP);
                } else if count % LIES_IN_A_ROW == 0 {
                    thread::yield_now();
                }
            }
            count
        };
        let thread = thread::Builder::new().name("scribbler".into()).spawn(scribble);
        let thread = thread.expect("a thread for the scribbler");
        let _ = told.recv();
        Scribbler { quit, thread: Some(thread) }
    }

    /// Ends it: how many lies it told.
    pub fn stop(mut self) -> u64 {
        self.end()
    }

    fn end(&mut self) -> u64 {
        self.quit.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Scribbler {
    fn drop(&mut self) {
        self.end();
    }
}
