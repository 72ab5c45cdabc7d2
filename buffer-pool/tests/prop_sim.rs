//! Any sequence of what is done to two files of a disk that loses power agrees with a plain model:
//!
//! 1. What is read is what was written last, in each of two who have the disk.
//! 2. After a loss each byte and each length is one that was there since it was durable; where all
//!    of it was synced, the last one. Behind a length that was not durable there may be whatever
//!    was there before, and behind one that was zeroes up to the sector's end.
//! 3. A name leads to what it has led to since it was durable; a file that had a durable name, and
//!    was not removed or replaced since, has one name.
//! 4. Where nothing was lost all is as it was seen; and where all was, as it was synced.
//! 5. A disk that lies about syncs is found by the same checks.
#![cfg(not(any(shm_loom, shm_explore)))]

use buffer_pool::store::sim::{Loss, SimDisk, SimOptions};
use buffer_pool::store::{PageFile, Store};
use proptest::prelude::*;
use shm_testkit::depth::cases;
use std::collections::BTreeSet;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// More than three sectors.
const LEN_MAX: u64 = 2000;
const SECTOR: usize = 512;
const FILES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Write { file: usize, at: u64, len: u64, byte: u8 },
    Extend { file: usize, to: u64 },
    Truncate { file: usize, to: u64 },
    Sync { file: usize },
    Lose(Loss),
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        1 => Just(Loss::All),
        1 => Just(Loss::Nothing),
        4 => any::<u64>().prop_map(Loss::Some),
        2 => any::<u64>().prop_map(Loss::After),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..FILES;
    prop_oneof![
        8 => (file.clone(), 0..LEN_MAX, 0..1200_u64, any::<u8>()).prop_map(|(file, at, len, byte)| {
            Step::Write { file, at, len: len.min(LEN_MAX - at), byte }
        }),
        2 => (file.clone(), 0..=LEN_MAX).prop_map(|(file, to)| Step::Extend { file, to }),
        2 => (file.clone(), 0..=LEN_MAX).prop_map(|(file, to)| Step::Truncate { file, to }),
        3 => file.prop_map(|file| Step::Sync { file }),
        2 => loss().prop_map(Step::Lose),
    ]
}

/// Values that a byte may have.
#[derive(Clone, Copy, Debug)]
struct Values([u128; 2]);

impl Values {
    fn of(byte: u8) -> Values {
        let mut values = Values([0; 2]);
        values.insert(byte);
        values
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] & 1 << (byte & 127) != 0
    }
}

/// A file: what is seen, and what may be left.
#[derive(Clone, Debug)]
struct Plain {
    seen: Vec<u8>,
    lens: BTreeSet<u64>,
    /// Of each byte, up to the greatest length.
    bytes: Vec<Values>,
    durable: Vec<u8>,
}

impl Plain {
    fn new() -> Plain {
        let bytes = vec![Values::of(0); LEN_MAX as usize];
        Plain { seen: Vec::new(), lens: [0].into(), bytes, durable: Vec::new() }
    }

    fn resize(&mut self, len: u64) {
        self.seen.resize(len as usize, 0);
        self.note();
    }

    fn note(&mut self) {
        self.lens.insert(self.seen.len() as u64);
        // A sector behind the end is written with zeroes.
        let rest = self.seen.len().next_multiple_of(SECTOR) - self.seen.len();
        let seen = self.seen.iter().copied().chain(std::iter::repeat_n(0, rest));
        self.bytes.iter_mut().zip(seen).for_each(|(values, byte)| values.insert(byte));
    }

    fn sync(&mut self) {
        self.lens = [self.seen.len() as u64].into();
        for (values, byte) in self.bytes.iter_mut().zip(&self.seen) {
            *values = Values::of(*byte);
        }
        self.durable.clone_from(&self.seen);
    }

    fn may_be(&self, left: &[u8]) -> bool {
        let is_one = |(byte, values): (&u8, &Values)| values.contains(*byte);
        self.lens.contains(&(left.len() as u64)) && left.iter().zip(&self.bytes).all(is_one)
    }

    /// After a loss.
    fn is(&mut self, left: Vec<u8>) {
        self.seen = left;
        self.sync();
    }
}

struct World {
    _dir: tempfile::TempDir,
    /// Two who have it.
    disks: [SimDisk; 2],
    files: Vec<Arc<dyn PageFile>>,
    plain: [Plain; FILES],
}

fn path(file: usize) -> &'static Path {
    Path::new(["/first", "/second"][file])
}

fn read(file: &dyn PageFile) -> Vec<u8> {
    let mut bytes = vec![0_u8; LEN_MAX as usize + 1];
    let into = NonNull::from(&mut bytes[..]).cast();
    // SAFETY: so many bytes, and nobody else has them.
    let read = unsafe { file.read(0, into, bytes.len()) }.unwrap();
    bytes.truncate(read);
    bytes
}

impl World {
    fn new(lies: bool) -> World {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let disks = [0, 1].map(|_| {
            let honest = SimDisk::new(dir.path(), SimOptions::default()).unwrap();
            (0..FILES).for_each(|file| drop(honest.open(path(file), true).unwrap()));
            honest.sync_name(path(0)).unwrap();
            SimDisk::new(dir.path(), SimOptions { lies, ..SimOptions::default() }).unwrap()
        });
        let plain = [0; FILES].map(|_| Plain::new());
        let mut world = World { _dir: dir, disks, files: Vec::new(), plain };
        world.open();
        world
    }

    fn open(&mut self) {
        let open = |file: usize| self.disks[file].open(path(file), false).unwrap();
        self.files = (0..FILES).map(open).collect();
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Write { file, at, len, byte } => {
                // No two bytes in a row are the same.
                let bytes: Vec<u8> = (0..len).map(|at| byte ^ at as u8).collect();
                self.files[file].write(at, &bytes).unwrap();
                let plain = &mut self.plain[file];
                if len > 0 {
                    // First a gap is filled with zeroes.
                    let old = plain.seen.len() as u64;
                    plain.resize(old.max(at));
                    plain.seen.resize(old.max(at + len) as usize, 0);
                    plain.seen[at as usize..(at + len) as usize].copy_from_slice(&bytes);
                    plain.note();
                }
            }
            Step::Extend { file, to } => {
                let from = self.files[file].size().unwrap();
                self.files[file].extend(from, to).unwrap();
                self.plain[file].resize(to.max(from));
            }
            Step::Truncate { file, to } => {
                self.files[file].truncate(to).unwrap();
                let plain = &mut self.plain[file];
                let old = plain.seen.len() as u64;
                plain.resize(to.min(old));
            }
            Step::Sync { file } => {
                self.files[file].sync().unwrap();
                self.plain[file].sync();
            }
            Step::Lose(loss) => self.lose(loss)?,
        }
        for (file, plain) in self.plain.iter().enumerate() {
            assert!(read(&*self.files[file]) == plain.seen, "what is seen of {file}");
            assert!(self.disks[1 - file].bytes_of(path(file)).unwrap() == plain.seen);
        }
        Ok(())
    }

    fn lose(&mut self, loss: Loss) -> Result<(), String> {
        self.disks[0].lose_power(loss).unwrap();
        for (file, plain) in self.plain.iter_mut().enumerate() {
            let left = self.disks[1].bytes_of(path(file)).unwrap();
            let is_right = match loss {
                Loss::All => left == plain.durable,
                Loss::Nothing => left == plain.seen,
                _ => plain.may_be(&left),
            };
            if !is_right {
                return Err(format!("{loss:?} leaves what was not there in file {file}"));
            }
            plain.is(left);
        }
        self.open();
        Ok(())
    }
}

fn run(steps: &[Step], lies: bool) -> Result<(), String> {
    let mut world = World::new(lies);
    steps.iter().try_for_each(|step| world.step(step))
}

/// What is done to names, of which there are three in each of two directories.
#[derive(Clone, Debug)]
enum Naming {
    Make(usize),
    Rename(usize, usize),
    Remove(usize),
    Sync(usize),
    Lose(Loss),
}

const NAMES: [&str; 6] = ["/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/b/3"];

fn naming() -> impl Strategy<Value = Naming> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => name.clone().prop_map(Naming::Make),
        4 => (name.clone(), name.clone()).prop_map(|(from, to)| Naming::Rename(from, to)),
        2 => name.clone().prop_map(Naming::Remove),
        2 => name.prop_map(Naming::Sync),
        2 => loss().prop_map(Naming::Lose),
    ]
}

/// A name leads to a file, which says who it is; or to none.
type Leads = Option<u64>;

struct Names {
    disk: SimDisk,
    seen: [Leads; 6],
    /// What each may be after a loss.
    may_be: [BTreeSet<Leads>; 6],
    /// Those that have a durable name, and were neither removed nor replaced since.
    safe: BTreeSet<u64>,
    made: u64,
}

fn name(name: usize) -> &'static Path {
    Path::new(NAMES[name])
}

impl Names {
    fn step(&mut self, step: &Naming) {
        match *step {
            Naming::Make(at) if self.seen[at].is_none() => {
                self.made += 1;
                let file = self.disk.open(name(at), true).unwrap();
                file.write(0, &self.made.to_le_bytes()).unwrap();
                file.sync().unwrap();
                self.seen[at] = Some(self.made);
            }
            Naming::Make(at) => drop(self.disk.open(name(at), true).unwrap()),
            Naming::Rename(from, to) => {
                let renamed = self.disk.rename(name(from), name(to));
                assert_eq!(renamed.is_ok(), self.seen[from].is_some());
                if renamed.is_ok() && from != to {
                    let moved = self.seen[from].take();
                    let replaced = std::mem::replace(&mut self.seen[to], moved);
                    self.safe.retain(|file| replaced != Some(*file));
                }
            }
            Naming::Remove(at) => {
                let removed = self.disk.remove(name(at));
                assert_eq!(removed.is_ok(), self.seen[at].is_some());
                let gone = self.seen[at].take();
                self.safe.retain(|file| Some(*file) != gone);
            }
            Naming::Sync(at) => {
                self.disk.sync_name(name(at)).unwrap();
                for at in (0..6).filter(|other| name(*other).parent() == name(at).parent()) {
                    self.may_be[at].clear();
                    self.safe.extend(self.seen[at]);
                }
            }
            Naming::Lose(loss) => self.lose(loss),
        }
        assert_eq!(self.look(), self.seen);
        self.may_be.iter_mut().zip(self.seen).for_each(|(may_be, seen)| _ = may_be.insert(seen));
    }

    fn lose(&mut self, loss: Loss) {
        self.disk.lose_power(loss).unwrap();
        let left = self.look();
        for (at, leads) in left.iter().enumerate() {
            assert!(self.may_be[at].contains(leads), "{} leads to {leads:?}", NAMES[at]);
        }
        let there: Vec<u64> = left.iter().copied().flatten().collect();
        let is_once = |file: &u64| there.iter().filter(|other| *other == file).count() == 1;
        assert!(self.safe.iter().all(is_once) && there.iter().all(is_once), "{left:?}");
        assert!(loss != Loss::Nothing || left == self.seen);
        self.seen = left;
        self.may_be = left.map(|leads| [leads].into());
        self.safe = there.into_iter().collect();
    }

    fn look(&self) -> [Leads; 6] {
        let listed = ["/a", "/b"].map(|dir| self.disk.list(Path::new(dir)).unwrap().len());
        let found = [0, 1, 2, 3, 4, 5].map(|at| {
            let bytes = self.disk.bytes_of(name(at)).ok()?;
            Some(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
        });
        let count = |half: &[Leads]| half.iter().flatten().count();
        assert_eq!(listed, [count(&found[..3]), count(&found[3..])]);
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(200)))]

    #[test]
    fn what_is_left_was_there(steps in prop::collection::vec(step(), 1..40)) {
        prop_assert_eq!(run(&steps, false), Ok(()));
    }

    #[test]
    fn what_names_lead_to_they_have_led_to(steps in prop::collection::vec(naming(), 1..30)) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = SimDisk::new(dir.path(), SimOptions::default()).unwrap();
        let may_be = [0; 6].map(|_| [None].into());
        let mut names = Names { disk, seen: [None; 6], may_be, safe: BTreeSet::new(), made: 0 };
        steps.iter().for_each(|step| names.step(step));
    }

    /// Bounded sequences between syncs, and every moment.
    #[test]
    fn every_moment_was_there(steps in prop::collection::vec(step(), 1..4)) {
        for seed in 0..8 {
            for loss in [Loss::After(seed), Loss::Some(seed)] {
                let steps = [&steps[..], &[Step::Lose(loss)]].concat();
                prop_assert_eq!(run(&steps, false), Ok(()));
            }
        }
    }
}

#[test]
fn a_lying_disk_is_found() {
    let write = |byte| Step::Write { file: 0, at: 0, len: 1500, byte };
    let steps = [write(1), Step::Sync { file: 0 }, write(2)];
    let found = (0..50).filter(|seed| {
        let steps = [&steps[..], &[Step::Lose(Loss::Some(*seed))]].concat();
        assert_eq!(run(&steps, false), Ok(()));
        run(&steps, true).is_err()
    });
    let found = found.count();
    assert!(found > 20, "{found} of 50");
}
