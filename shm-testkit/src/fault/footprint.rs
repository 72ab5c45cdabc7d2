//! What a process holds of the system, to compare before and after.
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A thread that was joined may be listed for a moment longer.
const SETTLING: Duration = Duration::from_secs(5);

/// Descriptors, shared mappings and threads of the calling process.
///
/// Private mappings are not counted: they are the allocator's and the C library's affair.
///
/// ```
/// use shm_testkit::fault::Footprint;
///
/// let before = Footprint::now();
/// let file = std::fs::File::open("/").unwrap();
/// assert!(before.changes().unwrap().contains("descriptor"));
/// drop(file);
/// before.assert_same();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// What each leads to.
    descriptors: BTreeMap<u32, String>,
    /// Bytes mapped of each file.
    shared: BTreeMap<String, u64>,
    threads: usize,
}

impl Footprint {
    /// What this process holds now.
    ///
    /// # Panics
    /// Where `/proc/self` cannot be read.
    #[track_caller]
    pub fn now() -> Footprint {
        Footprint { descriptors: descriptors(), shared: shared(), threads: threads() }
    }

    /// What is different now, in words; `None` where nothing is. Gives what goes away by itself
    /// (a thread that was joined) some time to do so.
    ///
    /// # Panics
    /// As [`now`](Footprint::now).
    #[track_caller]
    pub fn changes(&self) -> Option<String> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let now = Footprint::now();
            if now == *self {
                return None;
            }
            if now.threads == self.threads || Instant::now() > deadline {
                return Some(self.difference(&now));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Nothing, where this process holds what it held then.
    ///
    /// # Panics
    /// Where it does not: the message lists what came and what went. As [`now`](Footprint::now).
    #[track_caller]
    pub fn assert_same(&self) {
        if let Some(changes) = self.changes() {
            panic!("this process does not hold what it held before: {changes}");
        }
    }

    fn difference(&self, now: &Footprint) -> String {
        let mut changes = Vec::new();
        for (number, target) in &now.descriptors {
            if self.descriptors.get(number) != Some(target) {
                changes.push(format!("leaked descriptor {number} of {target}"));
            }
        }
        for (number, target) in &self.descriptors {
            if now.descriptors.get(number) != Some(target) {
                changes.push(format!("lost descriptor {number} of {target}"));
            }
        }
        let files: std::collections::BTreeSet<&String> =
            self.shared.keys().chain(now.shared.keys()).collect();
        for file in files {
            let bytes = |footprint: &Footprint| footprint.shared.get(file).copied().unwrap_or(0);
            let (before, after) = (bytes(self), bytes(now));
            if before != after {
                changes.push(format!("mapped of {file}: {before} bytes before, {after} now"));
            }
        }
        if self.threads != now.threads {
            changes.push(format!("threads: {} before, {} now", self.threads, now.threads));
        }
        changes.join("; ")
    }
}

#[track_caller]
fn descriptors() -> BTreeMap<u32, String> {
    let directory = fs::read_dir("/proc/self/fd");
    assert!(directory.is_ok(), "/proc/self/fd: {directory:?}");
    let entries = directory.into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned();
        // The descriptor by which we read the list.
        (!(target.starts_with("/proc/") && target.ends_with("/fd"))).then_some((number, target))
    });
    open.collect()
}

#[track_caller]
fn shared() -> BTreeMap<String, u64> {
    let maps = fs::read_to_string("/proc/self/maps");
    assert!(maps.is_ok(), "/proc/self/maps: {maps:?}");
    let mut bytes = BTreeMap::new();
    for line in maps.unwrap_or_default().lines() {
        if let Some((file, len)) = shared_mapping(line) {
            *bytes.entry(file).or_insert(0) += len;
        }
    }
    bytes
}

/// `FROM-TO rw-s OFFSET DEVICE INODE FILE`, the file perhaps marked as deleted.
fn shared_mapping(line: &str) -> Option<(String, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let is_shared = fields.next()?.ends_with('s');
    let number = |text| u64::from_str_radix(text, 16).ok();
    let file: Vec<&str> = fields.skip(3).filter(|word| *word != "(deleted)").collect();
    is_shared.then_some((file.join(" "), number(to)? - number(from)?))
}

#[track_caller]
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task");
    assert!(tasks.is_ok(), "/proc/self/task: {tasks:?}");
    tasks.into_iter().flatten().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_are_told_from_private_ones() {
        let shared = "7f0000000000-7f0000003000 rw-s 00000000 00:1 12 /dev/shm/a b (deleted)";
        assert_eq!(shared_mapping(shared), Some(("/dev/shm/a b".into(), 0x3000)));
        let private = "7f0000000000-7f0000003000 rw-p 00000000 00:00 0 ";
        assert_eq!(shared_mapping(private), None);
    }

    #[test]
    fn differences_are_named() {
        let mut before = Footprint::now();
        before.threads = 1;
        let mut after = before.clone();
        after.descriptors.insert(99, "/a".into());
        after.shared.insert("/b".into(), 4096);
        after.threads = 2;
        let named = "leaked descriptor 99 of /a; mapped of /b: 0 bytes before, 4096 now; \
                     threads: 1 before, 2 now";
        assert_eq!(before.difference(&after), named);
        let lost = "lost descriptor 99 of /a; mapped of /b: 4096 bytes before, 0 now; \
                    threads: 2 before, 1 now";
        assert_eq!(after.difference(&before), lost);
    }
}
