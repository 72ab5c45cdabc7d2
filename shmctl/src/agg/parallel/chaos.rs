//! Killing workers while they work.
use bgworker::{Supervisor, WorkerId};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// A kill comes at most this long after the progress that it was due at.
const DELAY_MAX: Duration = Duration::from_millis(2);

/// How long to wait where all workers are dead already.
const RETRY: Duration = Duration::from_millis(1);

/// Kills workers at random moments, spread over the job.
#[derive(Debug)]
pub(super) struct Chaos {
    /// Chunks done at which a kill is due; the next one last.
    due: Vec<u64>,
    orders: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    killed: Arc<Mutex<Vec<WorkerId>>>,
}

impl Chaos {
    /// So many kills, spread over the first four fifths of `chunks`.
    pub(super) fn start(
        kills: u64,
        chunks: u64,
        supervisor: &Arc<Supervisor>,
        workers: &Arc<Mutex<Vec<WorkerId>>>,
    ) -> std::io::Result<Chaos> {
        let mut due: Vec<u64> = (0..kills).map(|_| random_below(chunks * 4 / 5 + 1)).collect();
        due.sort_unstable_by(|a, b| b.cmp(a));
        let killed = Arc::new(Mutex::new(Vec::new()));
        let (orders, come) = mpsc::channel();
        let (supervisor, workers, list) = (supervisor.clone(), workers.clone(), killed.clone());
        let thread = std::thread::Builder::new().name("chaos".to_owned()).spawn(move || {
            let mut open = 0_u64;
            loop {
                // Asked too where a kill found nobody: to learn of more, or of the end.
                let order = match open {
                    0 => come.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                    _ => come.recv_timeout(RETRY),
                };
                match order {
                    Ok(()) => open += 1,
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                std::thread::sleep(random_time_below(DELAY_MAX));
                open -= u64::from(kill_one(&supervisor, &workers, &list));
            }
        })?;
        Ok(Chaos { due, orders: Some(orders), thread: Some(thread), killed })
    }

    /// So many chunks are done: kills what is due.
    pub(super) fn at(&mut self, chunks_done: u64) {
        while self.due.last().is_some_and(|due| *due <= chunks_done) {
            self.due.pop();
            if let Some(orders) = &self.orders {
                let _ = orders.send(());
            }
        }
    }

    /// Whether this worker was killed here.
    pub(super) fn has_killed(&self, worker: WorkerId) -> bool {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).contains(&worker)
    }

    /// No more kills from now on.
    pub(super) fn end(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, it kills no more either.
            let _ = thread.join();
        }
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.end();
    }
}

/// Kills a random worker among those alive; `false` where there is none.
fn kill_one(
    supervisor: &Supervisor,
    workers: &Mutex<Vec<WorkerId>>,
    killed: &Mutex<Vec<WorkerId>>,
) -> bool {
    let mut left = workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while !left.is_empty() {
        let worker = left.swap_remove(random_below(left.len() as u64) as usize);
        // Before the kill: its end may be seen at once.
        let mut list = killed.lock().unwrap_or_else(PoisonError::into_inner);
        if !list.contains(&worker) && supervisor.kill(worker) {
            list.push(worker);
            return true;
        }
    }
    false
}

/// A random number below `limit`, which is not 0.
fn random_below(limit: u64) -> u64 {
    // Each `RandomState` has keys of its own.
    RandomState::new().hash_one(0) % limit
}

fn random_time_below(limit: Duration) -> Duration {
    Duration::from_nanos(random_below(limit.as_nanos() as u64))
}
