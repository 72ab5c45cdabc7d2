//! Names that nobody else uses, and the proof that a test leaves nothing behind.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DEV_SHM: &str = "/dev/shm";

/// A name that no other test, process or earlier run uses: `shmtest-PID-TIME-COUNTER-hint`.
///
/// It is made of `a-z`, `0-9` and `-`, good for a file, a POSIX segment or a socket. The first
/// 10,000 are of one length, so that what is done with them takes as many instructions.
///
/// ```
/// use shm_testkit::unique::name;
/// assert_ne!(name("ring"), name("ring"));
/// ```
pub fn name(hint: &str) -> String {
    // Process ids come back; the time tells this run from one that was killed years ago.
    static TIME: OnceLock<u128> = OnceLock::new();
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros());
    let (pid, time) = (std::process::id(), TIME.get_or_init(now) & 0xff_ffff);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let hint: String = hint.chars().take(40).map(clean).collect();
    format!("shmtest-{pid}-{time:06x}-{counter:04}-{hint}")
}

/// A directory of its own, removed with all that is in it when dropped.
///
/// ```
/// use shm_testkit::unique::TempDir;
///
/// let dir = TempDir::new("example");
/// std::fs::write(dir.path().join("file"), "text").unwrap();
/// let path = dir.path().to_owned();
/// drop(dir);
/// assert!(!path.exists());
/// ```
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// An empty directory below the system's directory for temporary files.
    ///
    /// # Panics
    /// Where it cannot be made.
    #[track_caller]
    pub fn new(hint: &str) -> TempDir {
        let path = std::env::temp_dir().join(name(hint));
        let made = fs::create_dir(&path);
        assert!(made.is_ok(), "{}: {made:?}", path.display());
        TempDir { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A System V segment, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysvSegment {
    /// The key it was made with; 0 for a private one.
    pub key: i32,
    /// The identifier that `shmat` takes.
    pub id: i32,
    /// Its size in bytes.
    pub size: u64,
    /// The process that made it.
    pub creator: u32,
    /// How many times it is attached.
    pub attached: u64,
}

/// Every System V segment of this machine (or container).
///
/// # Panics
/// Where the kernel's list cannot be read.
pub fn sysv_segments() -> Vec<SysvSegment> {
    let list = fs::read_to_string("/proc/sysvipc/shm");
    assert!(list.is_ok(), "/proc/sysvipc/shm: {list:?}");
    list.unwrap_or_default().lines().skip(1).filter_map(parse_sysv).collect()
}

/// One line: key shmid perms size cpid lpid nattch …
fn parse_sysv(line: &str) -> Option<SysvSegment> {
    let mut fields = line.split_whitespace();
    Some(SysvSegment {
        key: fields.next()?.parse().ok()?,
        id: fields.next()?.parse().ok()?,
        size: fields.nth(1)?.parse().ok()?,
        creator: fields.next()?.parse().ok()?,
        attached: fields.nth(1)?.parse().ok()?,
    })
}

/// One test's share of the machine: a unique name, and everything made under it.
///
/// What belongs to the test: files in `/dev/shm` and in each [`watch_directory`] whose names
/// contain [`name`], and System V segments (which have no names) made since by the processes of
/// [`watch_process`]. Dropping it runs what [`at_end`] registered, latest first, and then removes
/// whatever is left, also after a panic.
///
/// [`name`]: Unique::name()
/// [`at_end`]: Unique::at_end
/// [`watch_directory`]: Unique::watch_directory
/// [`watch_process`]: Unique::watch_process
///
/// ```
/// use shm_testkit::unique::Unique;
/// use std::time::Duration;
///
/// let test = Unique::new("example");
/// let path = format!("/dev/shm/{}.segment", test.name());
/// std::fs::write(&path, "bytes").unwrap();
/// assert_eq!(test.left(), [path.clone()]);
/// std::fs::remove_file(&path).unwrap();
/// test.assert_nothing_left(Duration::ZERO);
/// ```
pub struct Unique {
    name: String,
    directories: Vec<PathBuf>,
    processes: BTreeSet<u32>,
    sysv_before: BTreeSet<i32>,
    at_end: Vec<Box<dyn FnOnce() + Send>>,
}

impl Unique {
    /// A new name, for the test `hint`.
    ///
    /// # Panics
    /// Where the kernel's list of System V segments cannot be read.
    pub fn new(hint: &str) -> Unique {
        Unique {
            name: name(hint),
            directories: vec![PathBuf::from(DEV_SHM)],
            processes: BTreeSet::new(),
            sysv_before: sysv_segments().iter().map(|segment| segment.id).collect(),
            at_end: Vec::new(),
        }
    }

    /// The name that everything of this test is to contain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Also files in `directory` belong to this test, if their names contain its name.
    pub fn watch_directory(&mut self, directory: impl Into<PathBuf>) {
        self.directories.push(directory.into());
    }

    /// System V segments that `pid` makes belong to this test.
    ///
    /// The process of the test itself may be named if no other test of the binary makes any.
    pub fn watch_process(&mut self, pid: u32) {
        self.processes.insert(pid);
    }

    /// Runs `clean` when this is dropped.
    pub fn at_end(&mut self, clean: impl FnOnce() + Send + 'static) {
        self.at_end.push(Box::new(clean));
    }

    /// What is there now: paths, and `sysv:ID`.
    pub fn left(&self) -> Vec<String> {
        let paths = self.files().into_iter().map(|path| path.display().to_string());
        paths.chain(self.segments().into_iter().map(|id| format!("sysv:{id}"))).collect()
    }

    /// Nothing, as soon as nothing is left.
    ///
    /// # Panics
    /// Where something still is after `limit`: the message lists it.
    #[track_caller]
    pub fn assert_nothing_left(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = self.directories.iter().filter_map(|directory| fs::read_dir(directory).ok());
        let named = entries
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains(&self.name));
        named.map(|entry| entry.path()).collect()
    }

    fn segments(&self) -> Vec<i32> {
        let mine = |segment: &SysvSegment| {
            self.processes.contains(&segment.creator) && !self.sysv_before.contains(&segment.id)
        };
        sysv_segments().into_iter().filter(mine).map(|segment| segment.id).collect()
    }
}

impl Drop for Unique {
    fn drop(&mut self) {
        while let Some(clean) = self.at_end.pop() {
            clean();
        }
        for path in self.files() {
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        for id in self.segments() {
            // SAFETY: IPC_RMID reads no buffer.
            unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }
}

impl std::fmt::Debug for Unique {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unique").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;
    use std::sync::mpsc;

    #[test]
    fn names_differ_and_are_plain() {
        let (one, two) = (name("A Test/of:names"), name("A Test/of:names"));
        assert_ne!(one, two);
        assert!(one.ends_with("-a-test-of-names"), "{one}");
        assert!(one.len() < 100 && !one.contains('/'), "{one}");
    }

    #[test]
    fn what_is_left_is_reported_and_removed() {
        let dir = TempDir::new("left");
        let mut test = Unique::new("left");
        test.watch_directory(dir.path());
        let (mine, other) = (dir.path().join(test.name()), dir.path().join("other"));
        fs::write(&mine, "").unwrap();
        fs::write(&other, "").unwrap();
        assert_eq!(test.left(), [mine.display().to_string()]);
        let check = AssertUnwindSafe(|| test.assert_nothing_left(Duration::ZERO));
        let found = std::panic::catch_unwind(check);
        assert!(found.is_err());
        drop(test);
        assert!(!mine.exists() && other.exists());
    }

    #[test]
    fn sysv_segments_of_watched_processes_are_found_and_removed() {
        let (mut test, stranger) = (Unique::new("sysv"), Unique::new("stranger"));
        test.watch_process(std::process::id());
        // SAFETY: makes a new private segment.
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 4096, 0o600) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        assert_eq!(test.left(), [format!("sysv:{id}")]);
        assert_eq!(stranger.left(), [""; 0]);
        let listed = sysv_segments().into_iter().find(|segment| segment.id == id).unwrap();
        let expected =
            SysvSegment { key: 0, id, size: 4096, creator: std::process::id(), attached: 0 };
        assert_eq!(listed, expected);
        drop(test);
        assert!(sysv_segments().iter().all(|segment| segment.id != id));
    }

    #[test]
    fn cleaning_runs_latest_first() {
        let (order, seen) = mpsc::channel();
        let mut test = Unique::new("order");
        for step in 0..3 {
            let order = order.clone();
            test.at_end(move || order.send(step).unwrap());
        }
        drop((test, order));
        assert_eq!(seen.iter().collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn a_temporary_directory_goes_with_its_contents() {
        let dir = TempDir::new("temp");
        let path = dir.path().to_owned();
        fs::create_dir(path.join("inner")).unwrap();
        drop(dir);
        assert!(!path.exists());
    }
}
