use super::*;
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const SECTOR: usize = 512;

fn path() -> &'static Path {
    Path::new("/file")
}

/// In memory.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn disk_with(dir: &TempDir, options: SimOptions) -> SimDisk {
    SimDisk::new(dir.path(), options).unwrap()
}

fn disk(dir: &TempDir) -> SimDisk {
    disk_with(dir, SimOptions::default())
}

fn failing(dir: &TempDir, call: Call, when: When, failure: Failure, in_part: bool) -> SimDisk {
    let faults = vec![Fault { call, when, failure, in_part }];
    disk_with(dir, SimOptions { faults, ..SimOptions::default() })
}

/// A file whose name is durable, and so many sectors of ones.
fn ones(disk: &SimDisk, sectors: usize) -> Arc<dyn PageFile> {
    let file = disk.open(path(), true).unwrap();
    disk.sync_name(path()).unwrap();
    file.write(0, &vec![1; sectors * SECTOR]).unwrap();
    file.sync().unwrap();
    file
}

fn read(file: &dyn PageFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; len];
    let into = std::ptr::NonNull::from(&mut bytes[..]).cast();
    // SAFETY: so many bytes, and nobody else has them.
    let read = unsafe { file.read(at, into, len) }?;
    bytes.truncate(read);
    Ok(bytes)
}

fn code(result: io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn what_was_written_is_seen_and_what_was_synced_is_left() {
    let dir = directory();
    let (one, other) = (disk(&dir), disk(&dir));
    let file = ones(&one, 2);
    file.write(500, &[2; 600]).unwrap();
    let seen = [vec![1; 500], vec![2; 600]].concat();
    let same = other.open(path(), false).unwrap();
    assert_eq!((read(&*same, 0, 2000).unwrap(), same.size().unwrap()), (seen.clone(), 1100));
    assert_eq!(one.bytes_of(path()).unwrap(), seen);
    one.lose_power(Loss::All).unwrap();
    assert_eq!(one.bytes_of(path()).unwrap(), [1; 2 * SECTOR]);
    assert_eq!(code(file.write(0, b"late")), Some(libc::ESTALE));
}

#[test]
fn what_was_not_synced_may_be_left() {
    let dir = directory();
    let disk = disk(&dir);
    let file = ones(&disk, 1);
    file.write(300, &[2; 1000]).unwrap();
    file.truncate(1200).unwrap();
    file.extend(1200, 1500).unwrap();
    let seen = [vec![1; 300], vec![2; 900], vec![0; 300]].concat();
    disk.lose_power(Loss::Nothing).unwrap();
    assert_eq!(disk.bytes_of(path()).unwrap(), seen);
}

#[test]
fn a_gap_is_zero_and_what_was_cut_off_stays_off() {
    let dir = directory();
    let disk = disk(&dir);
    let file = ones(&disk, 3);
    file.truncate(100).unwrap();
    file.sync().unwrap();
    file.write(1400, b"end").unwrap();
    file.sync().unwrap();
    disk.lose_power(Loss::All).unwrap();
    let left = [&[1; 100][..], &[0; 1300], b"end"].concat();
    assert_eq!(disk.bytes_of(path()).unwrap(), left);
}

#[test]
fn sectors_are_left_each_for_itself_and_a_length_without_its_bytes() {
    let (mut torn, mut stale, mut zero, mut short) = (0, 0, 0, 0);
    for seed in 0..200 {
        let dir = directory();
        let disk = disk(&dir);
        let file = ones(&disk, 4);
        file.truncate(2 * SECTOR as u64).unwrap();
        file.sync().unwrap();
        file.write(0, &[2; 6 * SECTOR]).unwrap();
        disk.lose_power(Loss::Some(seed)).unwrap();
        let bytes = disk.bytes_of(path()).unwrap();
        let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert!(
            [2, 6].contains(&sectors.len()) && sectors[..2].iter().all(|it| [1, 2].contains(it))
        );
        short += u32::from(sectors.len() == 2);
        torn += u32::from(sectors[0] != sectors[1]);
        if let [_, _, old @ .., _, new] = &sectors[..] {
            stale += u32::from(old[0] == 1);
            zero += u32::from(*new == 0);
        }
    }
    assert!(torn > 20 && stale > 10 && zero > 10 && short > 20, "{torn} {stale} {zero} {short}");
}

#[test]
fn the_same_loss_leaves_the_same() {
    for loss in [Loss::Some(7), Loss::Some(8), Loss::After(3), Loss::After(4)] {
        let [one, other] = [0, 1].map(|_| {
            let dir = directory();
            let disk = disk(&dir);
            let file = ones(&disk, 8);
            (0..8).for_each(|at| file.write(at * 700, &[at as u8; 900]).unwrap());
            disk.lose_power(loss).unwrap();
            disk.bytes_of(path()).unwrap()
        });
        assert_eq!(one, other);
    }
}

/// Of two files, what was written later is left only where what was written before is.
#[test]
fn a_moment_is_one_for_all_files() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let dir = directory();
        let disk = disk(&dir);
        let paths = [0, 1].map(|file| PathBuf::from(format!("/{file}")));
        let files = paths.each_ref().map(|path| {
            let file = disk.open(path, true).unwrap();
            disk.sync_name(path).unwrap();
            file.write(0, &[0]).unwrap();
            file.sync().unwrap();
            file
        });
        for step in 1..=6 {
            files[step % 2].write(0, &[step as u8]).unwrap();
        }
        disk.lose_power(Loss::After(seed)).unwrap();
        let left = paths.each_ref().map(|path| disk.bytes_of(path).unwrap()[0]);
        assert!(left[0].abs_diff(left[1]) <= 1, "{left:?}");
        seen.insert(left);
    }
    assert_eq!(seen.len(), 7);
}

#[test]
fn names_are_durable_when_their_directory_was_synced() {
    let dir = directory();
    let disk = disk(&dir);
    let [one, other] = ["/a/file", "/b/file"].map(Path::new);
    for path in [one, other] {
        disk.open(path, true).unwrap().write(0, b"x").unwrap();
        disk.open(path, true).unwrap().sync().unwrap();
    }
    disk.sync_name(Path::new("/a/any")).unwrap();
    assert_eq!(disk.list(Path::new("/b")).unwrap(), ["file"]);
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(disk.bytes_of(one).unwrap(), b"x");
    assert_eq!(disk.open(other, false).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(disk.list(Path::new("/b")).unwrap().is_empty());
    disk.remove(one).unwrap();
    assert_eq!(disk.remove(one).unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(disk.list(Path::new("/a")).unwrap(), ["file"]);
    disk.remove(one).unwrap();
    disk.sync_name(one).unwrap();
    disk.lose_power(Loss::All).unwrap();
    assert!(disk.list(Path::new("/a")).unwrap().is_empty());
}

/// Either one, also where a name's file was made since; never neither, and never half of it.
#[test]
fn a_renamed_file_is_the_old_one_or_the_new_one() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let dir = directory();
        let disk = disk(&dir);
        let [control, new] = ["/control", "/control.new"].map(Path::new);
        for (path, byte) in [(control, b"1"), (new, b"2")] {
            let file = disk.open(path, true).unwrap();
            file.write(0, byte).unwrap();
            file.sync().unwrap();
            if path == control {
                disk.sync_name(path).unwrap();
            }
        }
        disk.rename(new, control).unwrap();
        disk.lose_power(Loss::Some(seed)).unwrap();
        seen.insert((disk.bytes_of(control).unwrap(), disk.bytes_of(new).ok()));
    }
    let [old, new] = [b"1", b"2"].map(|byte| byte.to_vec());
    let states = [(old.clone(), None), (old, Some(new.clone())), (new, None)];
    assert_eq!(seen, states.into());
}

/// A rename between directories is durable as a whole, with what it stands on.
#[test]
fn a_name_is_synced_with_those_that_it_stands_on() {
    let dir = directory();
    let disk = disk(&dir);
    let [from, to] = ["/a/file", "/b/file"].map(Path::new);
    disk.open(from, true).unwrap();
    disk.rename(from, to).unwrap();
    disk.sync_name(to).unwrap();
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(disk.list(Path::new("/b")).unwrap(), ["file"]);
    assert!(disk.list(Path::new("/a")).unwrap().is_empty());
}

#[test]
fn who_has_a_removed_file_open_has_it_still() {
    let dir = directory();
    let disk = disk(&dir);
    let file = ones(&disk, 1);
    disk.remove(path()).unwrap();
    assert_eq!(read(&*file, 0, 3).unwrap(), [1; 3]);
    disk.open(path(), true).unwrap();
    assert_eq!((disk.bytes_of(path()).unwrap().len(), file.size().unwrap()), (0, 512));
}

#[test]
fn reads_and_names_fail_as_told() {
    use Call::{List, Open, Read, Remove, Rename, SyncName};
    for call in [Open, Remove, Rename, List, SyncName, Read] {
        let dir = directory();
        ones(&disk(&dir), 1);
        let failing = failing(&dir, call, When::From(0), Failure::Io, true);
        let done = match call {
            Open => failing.open(path(), true).map(drop),
            Remove => failing.remove(path()),
            Rename => failing.rename(path(), Path::new("/other")),
            List => failing.list(Path::new("/")).map(drop),
            SyncName => failing.sync_name(path()),
            _ => read(&*failing.open(path(), false).unwrap(), 0, 100).map(drop),
        };
        assert_eq!(code(done), Some(libc::EIO), "{call:?}");
        assert_eq!(failing.bytes_of(path()).unwrap().len(), SECTOR);
    }
}

#[test]
fn a_write_fails_after_a_part() {
    let mut parts = BTreeSet::new();
    for at in 1..30 {
        let dir = directory();
        let failing = failing(&dir, Call::Write, When::At(at), Failure::NoSpace, true);
        let file = ones(&failing, 2);
        (1..at).for_each(|_| file.write(0, &[2; 1]).unwrap());
        assert_eq!(code(file.write(1, &[3; 2000])), Some(libc::ENOSPC));
        file.write(0, &[4; 1]).unwrap();
        let bytes = failing.bytes_of(path()).unwrap();
        let part = bytes.iter().filter(|byte| **byte == 3).count();
        assert!(part < 2000 && bytes[1..=part].iter().all(|byte| *byte == 3));
        parts.insert(part);
    }
    assert!(parts.len() > 5 && parts.iter().any(|part| part % SECTOR != 0));
}

#[test]
fn a_file_is_made_longer_in_part() {
    let dir = directory();
    let failing = failing(&dir, Call::Extend, When::At(1), Failure::NoSpace, true);
    let file = ones(&failing, 1);
    file.extend(512, 600).unwrap();
    assert_eq!(code(file.extend(600, 6000)), Some(libc::ENOSPC));
    let size = file.size().unwrap();
    assert!((601..6000).contains(&size), "{size}");
    file.truncate(600).unwrap();
    assert_eq!(failing.bytes_of(path()).unwrap(), [vec![1; 512], vec![0; 88]].concat());
}

#[test]
fn a_fault_by_chance_is_the_same_one_each_time() {
    let run = |seed| {
        let dir = directory();
        let when = When::OneIn { calls: 4, seed };
        let failing = failing(&dir, Call::Write, when, Failure::Io, false);
        let file = failing.open(path(), true).unwrap();
        (0..64).map(|_| file.write(0, b"x").is_err()).collect::<Vec<_>>()
    };
    let failed = run(1).iter().filter(|failed| **failed).count();
    assert!((8..=24).contains(&failed), "{failed}");
    assert!(run(1) == run(1) && run(1) != run(2));
}

/// What it should have made durable is lost, whatever is synced later; but what is written again.
#[test]
fn what_a_failed_sync_left_is_lost_though_later_ones_succeed() {
    let dir = directory();
    let failing = failing(&dir, Call::Sync, When::At(1), Failure::Io, false);
    let file = ones(&failing, 4);
    file.write(0, &[2; 3 * SECTOR]).unwrap();
    assert_eq!(code(file.sync()), Some(libc::EIO));
    file.write(SECTOR as u64 + 7, &[3]).unwrap();
    file.sync().unwrap();
    assert_eq!(failing.bytes_of(path()).unwrap()[..SECTOR], [2; SECTOR]);
    failing.lose_power(Loss::Nothing).unwrap();
    let bytes = failing.bytes_of(path()).unwrap();
    assert_eq!((bytes[0], bytes[2 * SECTOR]), (1, 1));
    let again = &bytes[SECTOR..2 * SECTOR];
    assert_eq!((again[6], again[7], again[8]), (2, 3, 2), "a sector is written as a whole");
}

#[test]
fn a_failed_sync_may_have_made_some_durable() {
    let dir = directory();
    let failing = failing(&dir, Call::Sync, When::At(1), Failure::Io, true);
    let file = ones(&failing, 32);
    file.write(0, &[2; 32 * SECTOR]).unwrap();
    assert_eq!(code(file.sync()), Some(libc::EIO));
    failing.lose_power(Loss::Nothing).unwrap();
    let bytes = failing.bytes_of(path()).unwrap();
    let some = bytes.iter().filter(|byte| **byte == 2).count() / SECTOR;
    assert!((1..32).contains(&some), "{some}");
}

#[test]
fn a_bit_is_turned_over_where_it_is_on_the_disk() {
    let dir = directory();
    let disk = disk(&dir);
    let file = ones(&disk, 2);
    file.write(0, &[2]).unwrap();
    disk.flip(path(), 9, 1).unwrap();
    disk.flip(path(), 600, 7).unwrap();
    let seen = disk.bytes_of(path()).unwrap();
    assert_eq!((seen[9], seen[600]), (1, 129));
    assert_eq!(kind(disk.flip(path(), 1024, 0)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.flip(path(), 0, 8)), io::ErrorKind::InvalidInput);
    disk.lose_power(Loss::All).unwrap();
    let left = disk.bytes_of(path()).unwrap();
    assert_eq!((left[0], left[9], left[600]), (1, 3, 129));
}

fn kind(result: io::Result<()>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn the_world_stops_at_each_change_and_for_all() {
    let works = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.open(path(), true)?;
        disk.sync_name(path())?;
        file.write(0, b"first")?;
        file.sync()?;
        file.extend(5, 9)?;
        file.truncate(2)?;
        disk.rename(path(), Path::new("/other"))?;
        disk.remove(Path::new("/other"))
    };
    for at in 0..8 {
        let dir = directory();
        let stops = disk_with(&dir, SimOptions { stop_at: Some(at), ..SimOptions::default() });
        assert!(Stopped::is(&works(&stops).unwrap_err()), "{at}");
        let other = disk(&dir);
        assert_eq!(other.changes().unwrap(), at);
        assert!(Stopped::is(&other.list(Path::new("/")).unwrap_err()));
        other.lose_power(Loss::Nothing).unwrap();
        assert_eq!((other.changes().unwrap(), other.calls(Call::List).unwrap()), (0, 0));
        assert_eq!(other.list(Path::new("/")).unwrap().len(), usize::from(at > 0));
    }
    let dir = directory();
    let goes_on = disk_with(&dir, SimOptions { stop_at: Some(8), ..SimOptions::default() });
    works(&goes_on).unwrap();
}

#[test]
fn what_a_liar_has_synced_is_lost() {
    let dir = directory();
    let liar = disk_with(&dir, SimOptions { lies: true, ..SimOptions::default() });
    ones(&liar, 1);
    liar.lose_power(Loss::All).unwrap();
    assert!(liar.list(Path::new("/")).unwrap().is_empty());
}

/// One that died between writing a record and making it seen; and one that died before it counted.
#[test]
fn what_one_who_died_has_written_is_seen_or_was_not_written() {
    let dir = directory();
    let disk = disk(&dir);
    let file = ones(&disk, 1);
    file.write(0, &[2; 3]).unwrap();
    let journal = fs::File::options().write(true).open(dir.path().join("1.journal")).unwrap();
    journal.write_all_at(&0_u64.to_le_bytes(), 24).unwrap();
    let shown = fs::File::options().write(true).open(dir.path().join("1.shown")).unwrap();
    shown.write_all_at(&[1; 512], 0).unwrap();
    shown.set_len(700).unwrap();
    assert_eq!(read(&*file, 0, 9).unwrap(), [2, 2, 2, 1, 1, 1, 1, 1, 1]);
    assert_eq!(file.size().unwrap(), 512);
    let len = journal.metadata().unwrap().len();
    journal.write_all_at(&[9; 100], len).unwrap();
    file.write(3, &[3]).unwrap();
    file.sync().unwrap();
    fs::write(dir.path().join("9.journal"), b"").unwrap();
    fs::write(dir.path().join("names.new"), b"half").unwrap();
    disk.lose_power(Loss::All).unwrap();
    assert_eq!(disk.bytes_of(path()).unwrap()[..5], [2, 2, 2, 3, 1]);
    assert!(!dir.path().join("9.journal").exists());
}

#[test]
fn sectors_are_of_one_size() {
    let dir = directory();
    disk(&dir);
    for sector_bytes in [4096, 0, 513] {
        let options = SimOptions { sector_bytes, ..SimOptions::default() };
        let error = SimDisk::new(dir.path(), options).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let file = disk(&dir).open(path(), true).unwrap();
    assert_eq!(code(file.write(u64::MAX, b"x")), Some(libc::EFBIG));
    assert_eq!(code(file.extend(0, 1 << 33)), Some(libc::EFBIG));
}
