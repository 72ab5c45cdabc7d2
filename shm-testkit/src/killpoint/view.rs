//! What of a process outlives it: the memory that it shares, and what the kernel does at its death.
//!
//! A death between two instructions leaves what was stored to shared memory, what system calls have
//! done, and what the kernel writes into the words that robust lists name. So two neighbouring
//! instructions are as good as one, where no system call lies between them and neither shared
//! memory nor a robust list differs. [`View`] compares these, all of them, after each step.
use std::fs;
use std::ops::Range;
use std::sync::OnceLock;

/// Entries of a robust list that are followed.
const LIST_MAX: usize = 64;
/// A list's head: the first entry, where the futex of an entry is, and what is pending.
const HEAD_BYTES: usize = 24;

/// What survives of one stopped process, as it was when last looked at.
pub(super) struct View {
    pid: i32,
    /// Address and length: of its writable shared mappings, and of the heads of robust lists.
    ranges: Vec<(usize, usize)>,
    heads: Vec<u64>,
    /// A robust list names words, which may be anywhere.
    has_entries: bool,
    /// What was there; and behind it the entries of the lists.
    bytes: Vec<u8>,
    fresh: Vec<u8>,
}

impl View {
    pub(super) fn new(pid: i32) -> View {
        let (ranges, heads) = (Vec::new(), Vec::new());
        let (bytes, fresh) = (Vec::new(), Vec::new());
        let mut view = View { pid, ranges, heads, has_entries: false, bytes, fresh };
        view.look_anew();
        view
    }

    /// After a system call: it may have other mappings and other threads now.
    pub(super) fn look_anew(&mut self) {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        self.ranges = maps.lines().filter_map(shared_range).collect();
        self.heads = tasks(self.pid).into_iter().filter_map(list_head).collect();
        self.ranges.extend(self.heads.iter().map(|head| (*head as usize, HEAD_BYTES)));
        self.has_changed();
    }

    /// Whether a store to one of these addresses may change what it looks at.
    pub(super) fn overlaps(&self, stored: &Range<u64>) -> bool {
        let is_hit = |(start, len): &(usize, usize)| {
            stored.start < (*start + *len) as u64 && (*start as u64) < stored.end
        };
        self.has_entries || self.ranges.iter().any(is_hit)
    }

    /// Whether anything differs from when this was last asked.
    pub(super) fn has_changed(&mut self) -> bool {
        self.fresh.resize(self.ranges.iter().map(|(_, len)| len).sum(), 0);
        read(self.pid, &self.ranges, &mut self.fresh);
        let lists_at = self.fresh.len() - self.heads.len() * HEAD_BYTES;
        self.has_entries = false;
        for (nth, head) in self.heads.iter().enumerate() {
            let at = lists_at + nth * HEAD_BYTES;
            // That it is empty, which it nearly always is, has just been read.
            if self.fresh[at..at + 8] != head.to_ne_bytes() {
                self.has_entries = true;
                let list = follow(*head, |address| peek_word(self.pid, address).unwrap_or(0));
                self.fresh.extend(list.iter().flat_map(|word| word.to_ne_bytes()));
            }
        }
        let changed = self.fresh != self.bytes;
        std::mem::swap(&mut self.fresh, &mut self.bytes);
        changed
    }
}

/// Fills `to` with what stands there, in as few calls as it can.
fn read(pid: i32, ranges: &[(usize, usize)], to: &mut [u8]) {
    let piece = |(address, len): &(usize, usize)| libc::iovec {
        iov_base: *address as *mut libc::c_void,
        iov_len: *len,
    };
    let remote: Vec<libc::iovec> = ranges.iter().map(piece).collect();
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let count = remote.len() as libc::c_ulong;
    // SAFETY: writes to `to` only, as far as that goes.
    let got = unsafe { libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), count, 0) };
    if usize::try_from(got) == Ok(to.len()) {
        return;
    }
    let mut rest = to;
    for (address, len) in ranges {
        let (here, behind) = rest.split_at_mut(*len);
        // What is behind the end of a file cannot be read, nor written by anybody.
        let got = peek(pid, *address, here);
        here[got..].fill(0);
        rest = behind;
    }
}

/// Of a line of `/proc/PID/maps`.
fn shared_range(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access) = (fields.next()?, fields.next()?.as_bytes());
    if access.get(1) != Some(&b'w') || access.get(3) != Some(&b's') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    Some((start, usize::from_str_radix(end, 16).ok()? - start))
}

/// Where the code is that the kernel lends to processes: in this one and in its children.
pub(super) fn vdso() -> &'static Range<u64> {
    static VDSO: OnceLock<Range<u64>> = OnceLock::new();
    VDSO.get_or_init(|| {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap_or_default();
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        range.map_or(0..0, |(start, end)| number(start)..number(end))
    })
}

/// Copies memory of the process; how many bytes could be read.
fn peek(pid: i32, address: usize, to: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: writes to `to` only, as far as that goes.
    let got = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    usize::try_from(got).unwrap_or(0)
}

fn peek_word(pid: i32, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (peek(pid, address as usize, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
}

/// Where the robust list of a thread begins, if it has one.
fn list_head(task: i32) -> Option<u64> {
    let (mut head, mut len) = (0_u64, 0_usize);
    // SAFETY: fills in two words of ours.
    let asked =
        unsafe { libc::syscall(libc::SYS_get_robust_list, task, &raw mut head, &raw mut len) };
    (asked == 0 && head != 0).then_some(head)
}

/// Its head, and of each entry the address and the word that the kernel would write to, in memory
/// that `word` reads.
fn follow(head: u64, word: impl Fn(u64) -> u64) -> Vec<u64> {
    let [next, offset, pending] = [head, head + 8, head + 16].map(&word);
    let futex = |entry: u64| word((entry & !1).wrapping_add(offset) & !7);
    let mut list = vec![head, next, offset, pending];
    let mut entry = next;
    while entry & !1 != head && entry & !1 != 0 && list.len() < LIST_MAX {
        list.extend([entry, futex(entry)]);
        entry = word(entry & !1);
    }
    if pending != 0 {
        list.push(futex(pending));
    }
    list
}

/// Ids of its threads.
fn tasks(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What a thread does, in one letter of `/proc`; `None`: it is gone.
pub(super) fn state(pid: i32, task: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{task}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether all its threads but this one sleep, or have ended.
pub(super) fn others_sleep(pid: i32, but: i32) -> bool {
    let mut others = tasks(pid).into_iter().filter(|task| *task != but);
    others.all(|task| matches!(state(pid, task), Some('S' | 'Z' | 'X') | None))
}

#[cfg(test)]
mod tests {
    use super::super::SharedMemory;
    use super::*;

    #[test]
    fn only_what_is_shared_and_written_to_is_looked_at() {
        let line = "7f00a000-7f00c000 rw-s 00000000 00:01 77   /dev/zero (deleted)";
        assert_eq!(shared_range(line), Some((0x7f00_a000, 0x2000)));
        for access in ["rw-p", "r--s", "---s", "r-xp"] {
            assert_eq!(shared_range(&line.replace("rw-s", access)), None, "{access}");
        }
        assert_eq!(shared_range(""), None);
    }

    #[test]
    fn a_list_is_followed_to_its_words_and_one_without_an_end_is_cut() {
        let memory = |words: &[u64], address: u64| words[(address / 8) as usize];
        // From the head, at 8, over an entry at 48 whose futex stands 8 bytes on; one is pending.
        let mut words = [0, 48, 8, 64, 0, 0, 8, 77, 0, 99];
        assert_eq!(follow(8, |at| memory(&words, at)), [8, 48, 8, 64, 48, 77, 99]);
        words[6] = 48;
        assert!((LIST_MAX..LIST_MAX + 3).contains(&follow(8, |at| memory(&words, at)).len()));
        // An empty one, with nothing pending.
        assert_eq!(follow(8, |at| memory(&[0, 8, 0, 0], at)), [8, 8, 0, 0]);
    }

    #[test]
    fn a_store_to_what_is_shared_is_seen_and_one_to_what_is_not_is_not() {
        let (shared, mut private) = (SharedMemory::new(1), [0_u64; 8]);
        let mut view = View::new(std::process::id() as i32);
        private[3] = std::hint::black_box(1);
        let word = shared.base().cast::<std::sync::atomic::AtomicU64>();
        // Other tests store to theirs meanwhile: only this mapping counts.
        view.ranges.retain(|(start, _)| *start == shared.base().as_ptr() as usize);
        view.heads.clear();
        view.has_changed();
        assert!(!view.has_changed(), "{private:?}");
        // SAFETY: a word of our page, mapped as long as `shared`.
        unsafe { word.as_ref() }.store(1, std::sync::atomic::Ordering::Relaxed);
        assert!(view.has_changed());
        assert!(!view.has_changed());
    }
}
