//! Two processes, each on a processor of its own, with a queue between them or one each way.
//!
//! ```text
//!  starts them        near: makes a queue, "there"       far
//!  starts far ------------------------------------------> comes to it, "there"
//!  tells near ------> begins                              begins
//!  reads  <---------- its figures, if it has any
//!  reads  <---------------------------------------------- its figures, if it has any; ends
//!  tells near ------> ends
//! ```
//!
//! The one who starts them sleeps meanwhile. Whoever takes too long is killed, and there are no
//! figures then.
use crate::clock::{tick_ns, ticks};
use crate::queue::{Kind, Payload};
use crate::stats::quantile;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No cell takes so long unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Messages that are published at a time, of those that are short.
const BATCH: u64 = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    /// Figures: nanoseconds one way, half a round trip: p50, p99, p99.9 and the longest.
    Latency,
    /// Figure: messages in a second.
    Throughput,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Group::Latency => "latency",
            Group::Throughput => "throughput",
        }
    }

    pub(crate) fn figures(self) -> &'static [&'static str] {
        match self {
            Group::Latency => &["p50", "p99", "p99.9", "max"],
            Group::Throughput => &["per_second"],
        }
    }
}

/// What is measured at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub(crate) group: Group,
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
}

impl Cell {
    /// One round. Without figures where it failed; what it says then goes to the standard error.
    pub(crate) fn measure(&self) -> Vec<f64> {
        let directory = Directory::new();
        let figures = self.figures_in(&directory.0);
        figures.unwrap_or_else(|| {
            eprintln!("no figures: {self:?}");
            vec![f64::NAN; self.group.figures().len()]
        })
    }

    fn figures_in(&self, directory: &Path) -> Option<Vec<f64>> {
        let mut near = Side::start("near", self, directory);
        near.hear()?;
        let mut far = Side::start("far", self, directory);
        far.hear()?;
        near.tell();
        let figures = format!("{} {}", near.hear()?, far.hear()?);
        far.end()?;
        near.tell();
        near.end()?;
        figures.split_whitespace().map(|figure| figure.parse().ok()).collect()
    }

    /// Round trips, or messages.
    fn count(&self) -> u64 {
        let bytes = self.bytes as u64;
        match self.group {
            Group::Latency => ((1 << 28) / bytes).clamp(5_000, 100_000),
            Group::Throughput => ((1 << 29) / bytes).clamp(8_192, 1 << 20),
        }
    }

    fn batch(&self) -> u64 {
        if self.bytes > 1024 { 1 } else { BATCH }
    }
}

/// Where the queues of a cell are: memory that has names.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = PathBuf::from(format!("/dev/shm/compare-{}-{count}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).expect("a directory");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process, as the one who started it sees it. It does not outlive this.
struct Side {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Side {
    fn start(side: &str, cell: &Cell, directory: &Path) -> Side {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--side", side, cell.group.name(), cell.kind.name()]);
        command.arg(cell.bytes.to_string()).arg(directory);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Side { child, stdin, lines }
    }

    fn hear(&self) -> Option<String> {
        self.lines.recv_timeout(LIMIT).ok()
    }

    fn tell(&mut self) {
        // If it has died, there is nothing to hear either.
        let _ = self.stdin.write_all(b"\n");
    }

    /// Waits until it has ended well.
    fn end(&mut self) -> Option<()> {
        // Its output ends with it.
        let closed = self.lines.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Disconnected);
        (closed && self.child.wait().ok()?.success()).then_some(())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Neither does anything where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What such a process does, as its arguments say.
pub(crate) fn side(args: &[String]) {
    // Nobody is left who polls for ever.
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a signal");
    let [side, group, kind, bytes, directory] = args else { panic!("five arguments: {args:?}") };
    let groups = [Group::Latency, Group::Throughput];
    let group = groups.into_iter().find(|one| one.name() == group).expect("a group");
    let bytes = bytes.parse().expect("a number");
    let cell = Cell { group, kind: Kind::of(kind), bytes };
    match side.as_str() {
        "near" => near(&cell, Path::new(directory)),
        _ => far(&cell, Path::new(directory)),
    }
}

fn say(figures: &[f64]) {
    println!("{}", figures.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
}

fn wait() {
    std::io::stdin().read_line(&mut String::new()).expect("it lives");
}

fn near(cell: &Cell, directory: &Path) {
    benches::pin(0);
    let mut payload = Payload::new(cell.bytes);
    let mut there = cell.kind.sender(&directory.join("there"), cell.bytes);
    say(&[]);
    wait();
    match cell.group {
        Group::Latency => {
            let mut back = cell.kind.receiver(&directory.join("back"), cell.bytes);
            let tick_ns = tick_ns();
            let mut trips = Vec::with_capacity(cell.count() as usize);
            let mut last = ticks();
            for number in 0..cell.count() {
                there.send(&mut payload, number..number + 1);
                back.recv(number..number + 1);
                let now = ticks();
                trips.push((now - last) as f64 * tick_ns / 2.0);
                last = now;
            }
            // The first ones find pages that nobody has touched.
            let trips = &mut trips[cell.count() as usize / 10..];
            say(&[0.5, 0.99, 0.999, 1.0].map(|part| quantile(trips, part)));
        }
        Group::Throughput => {
            for first in (0..cell.count()).step_by(cell.batch() as usize) {
                there.send(&mut payload, first..first + cell.batch());
            }
            say(&[]);
        }
    }
    // Until then it keeps what the other one still reads.
    wait();
}

fn far(cell: &Cell, directory: &Path) {
    benches::pin(1);
    let mut payload = Payload::new(cell.bytes);
    let mut there = cell.kind.receiver(&directory.join("there"), cell.bytes);
    match cell.group {
        Group::Latency => {
            let mut back = cell.kind.sender(&directory.join("back"), cell.bytes);
            say(&[]);
            for number in 0..cell.count() {
                there.recv(number..number + 1);
                back.send(&mut payload, number..number + 1);
            }
            say(&[]);
        }
        Group::Throughput => {
            say(&[]);
            // From then on the other one is on its way.
            let warm = cell.count() / 16 / cell.batch() * cell.batch();
            let mut start = Instant::now();
            for first in (0..cell.count()).step_by(cell.batch() as usize) {
                if first == warm {
                    start = Instant::now();
                }
                there.recv(first..first + cell.batch());
            }
            say(&[(cell.count() - warm) as f64 / start.elapsed().as_secs_f64()]);
        }
    }
}
