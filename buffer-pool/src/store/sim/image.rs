//! One file: what can be seen, what is on the disk, and the journal between them.
use super::chance::Chance;
use crate::store::disk::OnDisk;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The beginning of a journal. It is written by one call of the system that does not end half-way.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// Bytes of the file, as can be seen.
    len: u64,
    /// And on the disk.
    durable: u64,
    /// Bytes of records.
    end: u64,
    /// Of them so many can be seen.
    shown: u64,
}

/// What was done: `data` sectors from `first` on, whose bytes follow, and `zeroes` more, which have
/// none; the file was `len` bytes long then.
#[derive(Clone, Copy, Debug)]
struct Record {
    serial: u64,
    first: u64,
    data: u64,
    zeroes: u64,
    len: u64,
}

const HEAD: u64 = 32;
const RECORD: u64 = 40;

/// What a sector was since it was durable: the serials, and where in the journal the bytes are; or
/// that they are zeroes.
type Versions = (Vec<u64>, Vec<Option<u64>>);

/// A file of the disk. All is done under the lock, in steps:
///
/// | step | where its process dies here |
/// |---|---|
/// | 1. a change: the record is written behind `end` | nothing was done; the next one overwrites it |
/// | 2. `end`, and `len` | it is done: whoever comes next makes it seen first |
/// | 3. the sectors are made seen, and the length | the same: it is made seen once more |
/// | 4. `shown` | done |
/// | 1. a sync: the sectors are written to the disk, each as it is now | some are durable, as chance might have it |
/// | 2. `durable`, and no records | done; who comes next writes over the records |
///
/// What is on the disk behind `durable` is what was there before the file was cut off: a length
/// that is left without its sectors shows it.
#[derive(Debug)]
pub(super) struct Image {
    shown: OnDisk,
    disk: File,
    journal: File,
    sector: u64,
}

fn path(dir: &Path, file: u64, kind: &str) -> PathBuf {
    dir.join(format!("{file}.{kind}"))
}

fn numbers<const N: usize>(file: &File, at: u64) -> io::Result<[u64; N]> {
    let mut bytes = [[0; 8]; N];
    file.read_exact_at(bytes.as_flattened_mut(), at)?;
    Ok(bytes.map(u64::from_le_bytes))
}

/// Bytes of a file, and zeroes behind its end.
fn padded(file: &File, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let (mut bytes, mut have) = (vec![0; len as usize], 0);
    loop {
        match file.read_at(&mut bytes[have..], at + have as u64)? {
            0 => return Ok(bytes),
            more => have += more,
        }
    }
}

impl Image {
    pub(super) fn make(dir: &Path, file: u64) -> io::Result<()> {
        for kind in ["shown", "disk"] {
            File::create(path(dir, file, kind))?;
        }
        fs::write(path(dir, file, "journal"), [0; HEAD as usize])
    }

    pub(super) fn open(dir: &Path, file: u64, sector: u64) -> io::Result<Image> {
        let open = |kind| File::options().read(true).write(true).open(path(dir, file, kind));
        let shown = OnDisk { file: open("shown")?, is_read_only: false };
        Ok(Image { shown, disk: open("disk")?, journal: open("journal")?, sector })
    }

    /// The journal last: by it files are found.
    pub(super) fn remove(dir: &Path, file: u64) -> io::Result<()> {
        for kind in ["shown", "disk", "journal"] {
            match fs::remove_file(path(dir, file, kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// What can be seen, by who has [caught up](Image::catch_up).
    pub(super) fn shown(&self) -> &OnDisk {
        &self.shown
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.head()?.len)
    }

    pub(super) fn bytes(&self) -> io::Result<Vec<u8>> {
        let len = self.size()?;
        padded(&self.shown.file, 0, len)
    }

    /// Makes seen what one who died has not.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        self.head().map(drop)
    }

    pub(super) fn write(&self, serial: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.lengthen(serial, at)?;
        let end = at + bytes.len() as u64;
        let (first, last) = (at / self.sector, end.div_ceil(self.sector));
        let mut data = self.seen(first..last)?;
        let from = (at - first * self.sector) as usize;
        data[from..from + bytes.len()].copy_from_slice(bytes);
        let len = self.size()?.max(end);
        self.append(Record { serial, first, data: last - first, zeroes: 0, len }, &data)
    }

    /// With zeroes; where it is shorter.
    pub(super) fn lengthen(&self, serial: u64, len: u64) -> io::Result<()> {
        let old = self.size()?;
        if old >= len {
            return Ok(());
        }
        let (first, last) = (old / self.sector, len.div_ceil(self.sector));
        // What is behind the end of a sector on the disk is not known to be zero.
        let data = u64::from(!old.is_multiple_of(self.sector));
        let record = Record { serial, first, data, zeroes: last - first - data, len };
        self.append(record, &self.seen(first..first + data)?)
    }

    /// Where it is longer.
    pub(super) fn shorten(&self, serial: u64, len: u64) -> io::Result<()> {
        if self.size()? <= len {
            return Ok(());
        }
        let first = len / self.sector;
        let data = u64::from(!len.is_multiple_of(self.sector));
        let mut bytes = self.seen(first..first + data)?;
        if data > 0 {
            bytes[(len - first * self.sector) as usize..].fill(0);
        }
        self.append(Record { serial, first, data, zeroes: 0, len }, &bytes)
    }

    /// Makes all durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let len = self.size()?;
        self.settle(&mut Chance::Kept)?;
        self.put_head(Head { len, durable: len, ..Head::default() })
    }

    /// Has on the disk what chance will have, and the rest nowhere but where it can be seen.
    pub(super) fn settle(&self, chance: &mut Chance) -> io::Result<()> {
        let head = self.head()?;
        let (serials, lengths): (Vec<u64>, Vec<u64>) =
            self.records(0)?.iter().map(|(record, _)| (record.serial, record.len)).unzip();
        for (sector, (serials, places)) in self.versions()? {
            if let Some(version) = chance.pick(&serials).checked_sub(1) {
                let bytes = match places[version] {
                    Some(at) => padded(&self.journal, at, self.sector)?,
                    None => vec![0; self.sector as usize],
                };
                self.disk.write_all_at(&bytes, sector * self.sector)?;
            }
        }
        let length = chance.pick(&serials).checked_sub(1);
        let durable = length.map_or(head.durable, |version| lengths[version]);
        self.put_head(Head { len: head.len, durable, ..Head::default() })?;
        self.journal.set_len(HEAD)
    }

    /// What is on the disk is what can be seen.
    pub(super) fn show_disk(&self) -> io::Result<()> {
        let durable = self.head()?.durable;
        let bytes = padded(&self.disk, 0, durable)?;
        self.shown.file.write_all_at(&bytes, 0)?;
        self.shown.file.set_len(durable)?;
        self.put_head(Head { len: durable, durable, ..Head::default() })
    }

    pub(super) fn flip(&self, at: u64, bit: u32) -> io::Result<()> {
        let head = self.head()?;
        if at >= head.durable || bit > 7 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let is_on_disk = at < head.len && !self.versions()?.contains_key(&(at / self.sector));
        let turn = |file: &File| file.write_all_at(&[padded(file, at, 1)?[0] ^ 1 << bit], at);
        turn(&self.disk)?;
        if is_on_disk { turn(&self.shown.file) } else { Ok(()) }
    }

    /// The serials of what is not durable.
    pub(super) fn pending(&self) -> io::Result<Vec<u64>> {
        Ok(self.records(0)?.iter().map(|(record, _)| record.serial).collect())
    }

    /// The head, when all that was done can be seen.
    fn head(&self) -> io::Result<Head> {
        let [len, durable, end, shown] = numbers(&self.journal, 0)?;
        let mut head = Head { len, durable, end, shown };
        if shown < end {
            for (record, at) in self.records(shown)? {
                self.show(record, &padded(&self.journal, at, record.data * self.sector)?)?;
            }
            head.shown = end;
            self.put_head(head)?;
        }
        Ok(head)
    }

    fn put_head(&self, head: Head) -> io::Result<()> {
        let words = [head.len, head.durable, head.end, head.shown];
        self.journal.write_all_at(words.map(u64::to_le_bytes).as_flattened(), 0)
    }

    /// Those from byte `from` of all on, each with where its bytes are.
    fn records(&self, from: u64) -> io::Result<Vec<(Record, u64)>> {
        let [_, _, end, _] = numbers(&self.journal, 0)?;
        let (mut at, mut records) = (HEAD + from, Vec::new());
        while at < HEAD + end {
            let [serial, first, data, zeroes, len] = numbers(&self.journal, at)?;
            records.push((Record { serial, first, data, zeroes, len }, at + RECORD));
            at += RECORD + data * self.sector;
        }
        Ok(records)
    }

    fn versions(&self) -> io::Result<BTreeMap<u64, Versions>> {
        let mut versions = BTreeMap::<u64, Versions>::new();
        for (record, at) in self.records(0)? {
            for index in 0..record.data + record.zeroes {
                let place = (index < record.data).then(|| at + index * self.sector);
                let (serials, places) = versions.entry(record.first + index).or_default();
                serials.push(record.serial);
                places.push(place);
            }
        }
        Ok(versions)
    }

    fn append(&self, record: Record, data: &[u8]) -> io::Result<()> {
        let mut head = self.head()?;
        let Record { serial, first, data: sectors, zeroes, len } = record;
        let words = [serial, first, sectors, zeroes, len].map(u64::to_le_bytes);
        let bytes = [words.as_flattened(), data].concat();
        self.journal.write_all_at(&bytes, HEAD + head.end)?;
        head.end += bytes.len() as u64;
        head.len = len;
        self.put_head(head)?;
        self.show(record, data)?;
        head.shown = head.end;
        self.put_head(head)
    }

    fn show(&self, record: Record, data: &[u8]) -> io::Result<()> {
        self.shown.file.write_all_at(data, record.first * self.sector)?;
        self.shown.file.set_len(record.len)
    }

    /// Sectors, as can be seen.
    fn seen(&self, sectors: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let len = (sectors.end - sectors.start) * self.sector;
        padded(&self.shown.file, sectors.start * self.sector, len)
    }
}
