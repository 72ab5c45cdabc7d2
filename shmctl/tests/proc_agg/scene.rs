//! What the tests share: a domain of one's own, runs in it, and their processes.

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value;
use shm_testkit::depth::is_deep;
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) const BACKENDS: [&str; 4] = ["posix", "sysv", "mmap", "memfd"];

/// Those that find what dead processes left.
pub(crate) const NAMED: [&str; 3] = ["posix", "sysv", "mmap"];

/// For what costs much and has little to do with where the memory comes from: one of them, or with
/// `SHM_DEEP=1` each.
pub(crate) fn backends_of_the_dear() -> &'static [&'static str] {
    if is_deep() { &BACKENDS } else { &BACKENDS[..1] }
}

/// A watchdog's limit: far more than anything takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(2);

/// A domain and a directory that nobody else uses.
pub(crate) struct Scene {
    pub(crate) backend: &'static str,
    pub(crate) unique: Unique,
    files: TempDir,
}

impl Scene {
    pub(crate) fn new(backend: &'static str) -> Scene {
        let mut unique = Unique::new("agg");
        let files = TempDir::new("agg");
        fs::create_dir(files.path().join("mmap")).unwrap();
        unique.watch_directory(files.path().join("mmap"));
        Scene { backend, unique, files }
    }

    /// Where `name` is, or is to be.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The accounts of pgbench, generated.
    pub(crate) fn accounts(&self) -> String {
        format!("--scale 1 --data-dir {}", self.files.path().display())
    }

    /// `k,v` with `rows` rows: seven groups, decimals of both signs.
    pub(crate) fn table(&self, rows: u32) -> String {
        let path = self.write("table.csv", table(rows));
        format!("{} --group-by k --sum v --min v --max v --avg v", path.display())
    }

    /// `shmctl agg` in this domain; `words` are its further arguments.
    pub(crate) fn agg(&self, words: &str) -> Command {
        let mut command = self.bare(words);
        command.args(["--domain", self.unique.name(), "--backend", self.backend, "--directory"]);
        command.arg(self.path("mmap"));
        command
    }

    /// `shmctl agg`, with no word of the domain.
    pub(crate) fn bare(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shmctl"));
        command.arg("agg").args(words.split_whitespace()).args(["--json", "--quiet"]);
        command.env_remove("DYNAMIC_SHARED_MEMORY_TYPE").stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&mut self, words: &str) -> Leader {
        let command = self.agg(words);
        self.start_command(command)
    }

    pub(crate) fn start_command(&mut self, mut command: Command) -> Leader {
        let names = ["out", "err"].map(shm_testkit::unique::name);
        let [out, err] = names.map(|name| self.path(&name));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let leader = Leader::start(command, out, err);
        self.unique.watch_process(leader.child.id());
        leader
    }

    #[track_caller]
    pub(crate) fn run(&mut self, words: &str) -> Ended {
        self.start(words).wait()
    }

    /// The answer of a plain pass.
    #[track_caller]
    pub(crate) fn plain(&mut self, words: &str) -> Ended {
        let command = self.bare(&format!("{words} --plain"));
        self.start_command(command).wait()
    }

    /// Living workers of this domain, whoever their parent is now.
    pub(crate) fn workers(&self) -> Vec<Process> {
        let wanted = format!("SHM_DOMAIN={}", self.unique.name());
        let ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(ours).filter_map(Process::find).collect()
    }

    /// Waits until so many workers are at work.
    #[track_caller]
    pub(crate) fn await_workers(&self, leader: &mut Leader, count: usize) -> Vec<Process> {
        within(LIMIT, || {
            loop {
                let workers = self.workers();
                if workers.len() == count {
                    return workers;
                }
                assert!(leader.lives(), "the job ended before {count} workers were seen");
                sleep(LOOK);
            }
        })
    }

    /// No worker and no shared memory is left, or soon is.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.workers().is_empty() {
            assert!(Instant::now() < deadline, "left: {:?}", self.workers());
            sleep(LOOK);
        }
        self.unique.assert_nothing_left(Duration::ZERO);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for worker in self.workers() {
            worker.signal(Signal::KILL);
        }
    }
}

/// `k,v`, and `rows` rows.
pub(crate) fn table(rows: u32) -> String {
    let row =
        |row: u32| format!("{},{}.{:02}\n", row % 7, i64::from(row * 37 % 2001) - 1000, row % 100);
    "k,v\n".to_owned() + &(0..rows).map(row).collect::<String>()
}

/// A process that may no longer be there; not another one with its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    pid: Pid,
    start: u64,
}

impl Process {
    fn find(pid: i32) -> Option<Process> {
        let (state, start) = state(pid)?;
        let process = Process { pid: Pid::from_raw(pid)?, start };
        (!matches!(state, 'Z' | 'X')).then_some(process)
    }

    pub(crate) fn lives(&self) -> bool {
        Process::find(self.pid.as_raw_nonzero().get()) == Some(*self)
    }

    /// Asleep, not running or stopped.
    pub(crate) fn sleeps(&self) -> bool {
        state(self.pid.as_raw_nonzero().get()).is_some_and(|(state, _)| state == 'S')
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if self.lives() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Stops it, and waits until it has stopped.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let stopped =
            || state(self.pid.as_raw_nonzero().get()).is_none_or(|(state, _)| state != 'T');
        within(LIMIT, || {
            while self.lives() && stopped() {
                sleep(LOOK);
            }
        });
    }
}

/// State and start time of a process, as `/proc` shows them.
fn state(pid: i32) -> Option<(char, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let mut fields = line[line.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

/// Waits until all are dead; how long that took.
#[track_caller]
pub(crate) fn await_end(processes: &[Process]) -> Duration {
    let began = Instant::now();
    within(LIMIT, || {
        while processes.iter().any(Process::lives) {
            sleep(LOOK);
        }
    });
    began.elapsed()
}

/// A run of `shmctl agg`. Killed when dropped, or when its test's thread ends.
pub(crate) struct Leader {
    pub(crate) child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Leader {
    fn start(mut command: Command, out: PathBuf, err: PathBuf) -> Leader {
        let die_with_us = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: the closure makes a system call and nothing else: it takes no lock, no memory.
        unsafe { command.pre_exec(die_with_us) };
        Leader { child: command.spawn().unwrap(), out, err }
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not reaped yet, so the number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let status = within(LIMIT, || self.child.wait()).unwrap();
        let read = |path| String::from_utf8(fs::read(path).unwrap()).unwrap();
        Ended { status, stdout: read(&self.out), stderr: read(&self.err) }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it reported, where it succeeded.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.stderr, "");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The same rows, groups and result.
    #[track_caller]
    pub(crate) fn assert_agrees(&self, other: &Ended) {
        let (one, other) = (self.report(), other.report());
        for what in ["rows", "groups", "result"] {
            assert_eq!(one[what], other[what], "{what}");
        }
    }

    /// Its one line of complaint.
    #[track_caller]
    pub(crate) fn complaint(&self, code: i32) -> &str {
        assert_eq!((self.status.code(), &*self.stdout), (Some(code), ""), "{self:?}");
        let line = self.stderr.strip_prefix("shmctl: ").and_then(|line| line.strip_suffix('\n'));
        let line = line.unwrap_or_else(|| panic!("no complaint: {self:?}"));
        assert!(!line.contains('\n'), "not one line: {line}");
        line
    }

    #[track_caller]
    pub(crate) fn assert_refused(&self, words: &[&str]) {
        let complaint = self.complaint(2);
        for word in words {
            assert!(complaint.contains(word), "{complaint:?} does not say {word:?}");
        }
    }

    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}
