//! What every backend promises. Each promise is one function; `promises!` makes a test of it for
//! every backend that gives it, so `posix::a_name_in_use_is_refused` is a fact about one of them.
//!
//! At its end each test proves that nothing is left of what it made.
#[path = "conformance/read_only.rs"]
mod read_only;
#[path = "conformance/rights.rs"]
mod rights;

use dsm::backend::{self, Backend, BackendError, Identity, Object, Place};
use read_only::{a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read};
use rights::{
    a_foreign_owner_is_refused, a_group_is_given_access_whatever_the_umask,
    a_mode_open_to_others_is_refused, another_group_or_more_is_refused, only_this_user_has_access,
};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGE: u64 = 4096;

/// One test of one backend: its place, and the names it uses.
struct Case {
    place: Place,
    unique: Unique,
    names: RefCell<Vec<String>>,
    // Removed last.
    directory: TempDir,
}

impl Case {
    fn new(backend: Backend, promise: &str) -> Case {
        let directory = TempDir::new(promise);
        let mut unique = Unique::new(promise);
        unique.watch_directory(directory.path());
        let place = Place { directory: directory.path().to_owned(), ..Place::new(backend) };
        Case { place, unique, names: RefCell::default(), directory }
    }

    fn name(&self, suffix: &str) -> String {
        let name = format!("{}.{suffix}", self.unique.name());
        self.names.borrow_mut().push(name.clone());
        name
    }

    fn create(&self, name: &str, size: u64) -> Object {
        backend::create(&self.place, name, size).unwrap()
    }

    fn open(&self, name: &str) -> Option<Object> {
        backend::open(&self.place, name).unwrap()
    }

    fn remove(&self, name: &str) -> bool {
        backend::remove(&self.place, name).unwrap()
    }

    /// The same object, reached as another process would.
    fn again(&self, object: &Object) -> Object {
        match object.fd() {
            Some(fd) => backend::memfd::open_fd(fd.try_clone_to_owned().unwrap()).unwrap(),
            None => self.open(object.name()).unwrap(),
        }
    }

    /// Where the file of `name` is.
    fn path(&self, name: &str) -> PathBuf {
        match self.place.backend {
            Backend::Mmap => self.directory.path().join(name),
            _ => Path::new(backend::POSIX_DIRECTORY).join(name),
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let left = |name: &String| !matches!(backend::remove(&self.place, name), Ok(false));
        let names: Vec<String> = self.names.borrow().iter().filter(|n| left(n)).cloned().collect();
        if !std::thread::panicking() && self.place.backend != Backend::None {
            assert_eq!(names, [""; 0], "left behind");
            self.unique.assert_nothing_left(Duration::ZERO);
        }
    }
}

fn bytes(object: &Object) -> &[AtomicU8] {
    object.mapping().region().share_slice(0, object.len()).unwrap()
}

fn put(object: &Object, at: u64, value: u8) {
    bytes(object)[at as usize].store(value, Ordering::Relaxed);
}

fn get(object: &Object, at: u64) -> u8 {
    bytes(object)[at as usize].load(Ordering::Relaxed)
}

macro_rules! promises {
    ($($module:ident = $backend:ident: { $($promise:ident),* $(,)? })*) => { $(
        mod $module {
            $(
                #[test]
                fn $promise() {
                    let case = super::Case::new(super::Backend::$backend, stringify!($promise));
                    super::within(super::LIMIT, || super::$promise(&case));
                }
            )*
        }
    )* };
}

promises! {
    posix = Posix: {
        new_memory_is_zero, sizes_are_whole_pages, every_byte_can_be_written,
        a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read,
        two_mappings_at_two_addresses_share_bytes, impossible_names_and_sizes_are_refused,
        too_much_is_refused_at_once, memory_is_there_before_it_is_touched,
        a_name_in_use_is_refused, an_absent_name_is_not_found, of_many_creators_one_wins,
        a_removed_name_is_free_again, bytes_survive_removal_while_mapped,
        an_object_is_removed_once, a_successor_of_the_same_name_is_left_alone,
        only_this_user_has_access, a_group_is_given_access_whatever_the_umask,
        another_group_or_more_is_refused,
        open_or_create_makes_then_finds, many_open_or_create_get_one_object,
        what_a_killed_creator_left_is_continued, names_are_listed_by_prefix,
        a_symbolic_link_is_refused, what_is_no_file_is_refused, an_empty_file_is_truncated,
        a_foreign_owner_is_refused, a_mode_open_to_others_is_refused,
        a_stopped_remover_makes_others_give_up,
    }
    mmap = Mmap: {
        new_memory_is_zero, sizes_are_whole_pages, every_byte_can_be_written,
        a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read,
        two_mappings_at_two_addresses_share_bytes, impossible_names_and_sizes_are_refused,
        too_much_is_refused_at_once, memory_is_there_before_it_is_touched,
        a_name_in_use_is_refused, an_absent_name_is_not_found, of_many_creators_one_wins,
        a_removed_name_is_free_again, bytes_survive_removal_while_mapped,
        an_object_is_removed_once, a_successor_of_the_same_name_is_left_alone,
        only_this_user_has_access, a_group_is_given_access_whatever_the_umask,
        another_group_or_more_is_refused,
        open_or_create_makes_then_finds, many_open_or_create_get_one_object,
        what_a_killed_creator_left_is_continued, names_are_listed_by_prefix,
        a_symbolic_link_is_refused, what_is_no_file_is_refused, an_empty_file_is_truncated,
        a_foreign_owner_is_refused, a_mode_open_to_others_is_refused,
        a_stopped_remover_makes_others_give_up, an_unusable_directory_is_named,
    }
    sysv = Sysv: {
        new_memory_is_zero, sizes_are_whole_pages, every_byte_can_be_written,
        a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read,
        two_mappings_at_two_addresses_share_bytes, impossible_names_and_sizes_are_refused,
        too_much_is_refused_at_once, memory_is_there_before_it_is_touched,
        a_name_in_use_is_refused, an_absent_name_is_not_found, of_many_creators_one_wins,
        a_removed_name_is_free_again, bytes_survive_removal_while_mapped,
        an_object_is_removed_once, a_successor_of_the_same_name_is_left_alone,
        only_this_user_has_access, a_group_is_given_access_whatever_the_umask,
        another_group_or_more_is_refused,
        open_or_create_makes_then_finds, many_open_or_create_get_one_object,
        no_names_are_listed, a_foreign_owner_is_refused, a_mode_open_to_others_is_refused,
        a_shorter_segment_is_truncated, unattached_segments_are_removed_if_known,
    }
    memfd = Memfd: {
        new_memory_is_zero, sizes_are_whole_pages, every_byte_can_be_written,
        a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read,
        two_mappings_at_two_addresses_share_bytes, impossible_names_and_sizes_are_refused,
        too_much_is_refused_at_once, memory_is_there_before_it_is_touched,
        no_names_are_listed, nothing_is_found_by_name, it_cannot_be_cut_off,
        what_could_be_cut_off_is_not_mapped,
    }
    none = None: { every_verb_says_that_it_is_switched_off, no_names_are_listed }
}

#[cfg(feature = "portable")]
promises! {
    portable = Portable: {
        new_memory_is_zero, sizes_are_whole_pages, every_byte_can_be_written,
        a_reader_sees_what_is_written_and_cannot_write, what_is_not_there_is_not_read,
        two_mappings_at_two_addresses_share_bytes, impossible_names_and_sizes_are_refused,
        a_name_in_use_is_refused, an_absent_name_is_not_found, of_many_creators_one_wins,
        a_removed_name_is_free_again, bytes_survive_removal_while_mapped,
        an_object_is_removed_once, only_this_user_has_access, open_or_create_makes_then_finds,
        no_names_are_listed,
    }
}

#[cfg(not(feature = "portable"))]
#[test]
fn without_its_feature_portable_says_how_to_get_it() {
    let refused = backend::create(&Place::new(Backend::Portable), "any", PAGE).unwrap_err();
    assert!(matches!(refused, BackendError::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("feature `portable`"), "{refused}");
}

fn new_memory_is_zero(case: &Case) {
    let name = case.name("zero");
    // The second one gets, as like as not, the pages that the first one soiled.
    for _ in 0..2 {
        let object = case.create(&name, 1 << 20);
        assert!(bytes(&object).iter().all(|byte| byte.load(Ordering::Relaxed) == 0));
        bytes(&object).iter().for_each(|byte| byte.store(0xff, Ordering::Relaxed));
        case.remove(&name);
    }
}

fn sizes_are_whole_pages(case: &Case) {
    for (size, len) in
        [(1, PAGE), (PAGE - 1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE), (1 << 20, 1 << 20)]
    {
        let name = case.name(&size.to_string());
        let object = case.create(&name, size);
        assert_eq!((object.len(), case.again(&object).len()), (len, len), "{size}");
        case.remove(&name);
    }
}

fn every_byte_can_be_written(case: &Case) {
    let name = case.name("bytes");
    let object = case.create(&name, 3 * PAGE + 1);
    for (i, byte) in bytes(&object).iter().enumerate() {
        byte.store((i % 251) as u8, Ordering::Relaxed);
    }
    let other = case.again(&object);
    assert!((0..other.len()).all(|i| u64::from(get(&other, i)) == i % 251));
    case.remove(&name);
}

fn two_mappings_at_two_addresses_share_bytes(case: &Case) {
    let name = case.name("shared");
    let one = case.create(&name, PAGE);
    let two = case.again(&one);
    assert_ne!(one.mapping().region().base(), two.mapping().region().base());
    assert_eq!(one.identity(), two.identity());
    put(&one, 7, 1);
    put(&two, 4000, 2);
    assert_eq!((get(&two, 7), get(&one, 4000)), (1, 2));
    drop(one);
    assert_eq!(get(&two, 7), 1);
    case.remove(&name);
}

fn impossible_names_and_sizes_are_refused(case: &Case) {
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "sp ace", "nul\0", &"n".repeat(201)] {
        let made = backend::create(&case.place, name, PAGE);
        assert!(matches!(made, Err(BackendError::BadName { .. })), "{name:?}");
        let found = backend::open(&case.place, name);
        assert!(matches!(found, Err(BackendError::BadName { .. })), "{name:?}");
        let removed = backend::remove(&case.place, name);
        assert!(matches!(removed, Err(BackendError::BadName { .. })), "{name:?}");
    }
    let name = case.name("size");
    for size in [0, isize::MAX as u64 + 1, u64::MAX] {
        let made = backend::create(&case.place, &name, size);
        assert!(matches!(made, Err(BackendError::BadSize { .. })), "{size}");
        let made = backend::open_or_create(&case.place, &name, size);
        assert!(matches!(made, Err(BackendError::BadSize { .. })), "{size}");
    }
}

fn too_much_is_refused_at_once(case: &Case) {
    let name = case.name("much");
    for size in [1 << 44, 1 << 50, (isize::MAX as u64) & !(PAGE - 1)] {
        for verb in [backend::create, backend::open_or_create] {
            let refused = verb(&case.place, &name, size).unwrap_err();
            let told =
                matches!(refused, BackendError::NoSpace { .. } | BackendError::LimitReached { .. });
            assert!(told, "{size}: {refused}");
        }
    }
}

fn memory_is_there_before_it_is_touched(case: &Case) {
    let (name, size) = (case.name("there"), 2 << 20);
    let object = case.create(&name, size);
    let reserved = match object.identity() {
        Identity::Sysv { id } => sysv_row(id)[14..].iter().sum::<i64>() as u64,
        _ => match object.fd() {
            Some(fd) => rustix::fs::fstat(fd).unwrap().st_blocks as u64 * 512,
            None => fs::metadata(case.path(&name)).unwrap().blocks() * 512,
        },
    };
    assert!(reserved >= size, "{reserved} of {size}");
    case.remove(&name);
}

fn a_name_in_use_is_refused(case: &Case) {
    let name = case.name("used");
    let object = case.create(&name, PAGE);
    put(&object, 0, 9);
    for size in [1, PAGE, 4 * PAGE] {
        let refused = backend::create(&case.place, &name, size);
        assert!(matches!(refused, Err(BackendError::AlreadyExists { .. })), "{refused:?}");
    }
    let same = case.open(&name).unwrap();
    assert_eq!((get(&same, 0), same.len()), (9, PAGE));
    assert!(case.remove(&name));
}

fn an_absent_name_is_not_found(case: &Case) {
    let name = case.name("absent");
    assert!(case.open(&name).is_none());
    assert!(!case.remove(&name));
}

fn of_many_creators_one_wins(case: &Case) {
    let name = case.name("race");
    for _ in 0..50 {
        let made = at_once(case, |place| match backend::create(place, &name, PAGE) {
            Ok(_) => 1,
            Err(BackendError::AlreadyExists { .. }) => 0,
            Err(error) => panic!("{error}"),
        });
        assert_eq!(made.iter().sum::<u32>(), 1);
        assert!(case.remove(&name));
    }
}

fn a_removed_name_is_free_again(case: &Case) {
    let name = case.name("free");
    for round in 0..3 {
        let object = case.create(&name, PAGE);
        assert_eq!(get(&object, 0), 0);
        put(&object, 0, round + 1);
        assert!(case.remove(&name));
        assert!(case.open(&name).is_none());
        assert!(!case.remove(&name));
    }
}

fn bytes_survive_removal_while_mapped(case: &Case) {
    let name = case.name("survives");
    let (one, two) = (case.create(&name, PAGE), case.open(&name).unwrap());
    assert!(case.remove(&name));
    put(&one, 1, 5);
    assert_eq!(get(&two, 1), 5);
    drop(one);
    assert_eq!(get(&two, 1), 5);
}

fn an_object_is_removed_once(case: &Case) {
    let name = case.name("once");
    let (one, two) = (case.create(&name, PAGE), case.open(&name).unwrap());
    assert!(one.remove_exact().unwrap());
    assert!(!one.remove_exact().unwrap());
    assert!(!two.remove_exact().unwrap());
    assert!(case.open(&name).is_none());
}

fn a_successor_of_the_same_name_is_left_alone(case: &Case) {
    let name = case.name("successor");
    let first = case.create(&name, PAGE);
    assert!(case.remove(&name));
    let second = case.create(&name, PAGE);
    assert_ne!(first.identity(), second.identity());
    assert!(!first.remove_exact().unwrap());
    assert_eq!(case.open(&name).unwrap().identity(), second.identity());
    assert!(second.remove_exact().unwrap());
}

fn open_or_create_makes_then_finds(case: &Case) {
    let name = case.name("bring-up");
    let made = backend::open_or_create(&case.place, &name, 2 * PAGE).unwrap();
    assert_eq!((made.len(), get(&made, 0)), (2 * PAGE, 0));
    put(&made, 0, 3);
    for size in [1, 2 * PAGE] {
        let found = backend::open_or_create(&case.place, &name, size).unwrap();
        assert_eq!((found.identity(), found.len()), (made.identity(), 2 * PAGE));
        assert_eq!(get(&found, 0), 3);
    }
    assert!(made.remove_exact().unwrap());
}

fn many_open_or_create_get_one_object(case: &Case) {
    let name = case.name("bring-up");
    for _ in 0..50 {
        let got = at_once(case, |place| backend::open_or_create(place, &name, PAGE).unwrap());
        assert!(got.iter().all(|object| object.identity() == got[0].identity()));
        assert!(got[0].remove_exact().unwrap());
    }
}

/// An empty and a short file, as a creator on a file system without nameless files may leave it.
fn what_a_killed_creator_left_is_continued(case: &Case) {
    for (suffix, left) in [("empty", &b""[..]), ("short", &[7; 5000][..])] {
        let name = case.name(suffix);
        fs::write(case.path(&name), left).unwrap();
        fs::set_permissions(case.path(&name), fs::Permissions::from_mode(0o600)).unwrap();
        let object = backend::open_or_create(&case.place, &name, 4 * PAGE).unwrap();
        assert_eq!(object.len(), 4 * PAGE);
        let expected = |i: usize| *left.get(i).unwrap_or(&0);
        let kept = |(i, b): (usize, &AtomicU8)| b.load(Ordering::Relaxed) == expected(i);
        assert!(bytes(&object).iter().enumerate().all(kept));
        assert_eq!(case.open(&name).unwrap().identity(), object.identity());
        assert!(object.remove_exact().unwrap());
    }
}

fn names_are_listed_by_prefix(case: &Case) {
    let names = ["b", "a", "c"].map(|suffix| case.name(suffix));
    names.iter().for_each(|name| drop(case.create(name, PAGE)));
    let prefix = format!("{}.", case.unique.name());
    let listed = backend::list(&case.place, &prefix).unwrap();
    assert_eq!(listed, ["a", "b", "c"].map(|suffix| format!("{prefix}{suffix}")));
    assert_eq!(backend::list(&case.place, &names[0]).unwrap(), [names[0].clone()]);
    names.iter().for_each(|name| assert!(case.remove(name)));
    assert_eq!(backend::list(&case.place, &prefix).unwrap(), [""; 0]);
}

fn no_names_are_listed(case: &Case) {
    assert_eq!(backend::list(&case.place, "").unwrap(), [""; 0]);
}

/// Every way to `name` fails as `expected`; to create it finds it taken.
fn assert_refused(case: &Case, name: &str, expected: impl Fn(&BackendError) -> bool) {
    let errors = [
        backend::open(&case.place, name).unwrap_err(),
        backend::open_or_create(&case.place, name, PAGE).unwrap_err(),
    ];
    for error in errors {
        assert!(expected(&error), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let created = backend::create(&case.place, name, PAGE);
    assert!(matches!(created, Err(BackendError::AlreadyExists { .. })), "{created:?}");
}

fn a_symbolic_link_is_refused(case: &Case) {
    let (name, target) = (case.name("link"), case.name("target"));
    let object = case.create(&target, PAGE);
    for to in [case.path(&target), case.path("nowhere")] {
        symlink(to, case.path(&name)).unwrap();
        let is_link = |error: &BackendError| matches!(error, BackendError::Symlink { .. });
        assert_refused(case, &name, is_link);
        assert!(is_link(&backend::remove(&case.place, &name).unwrap_err()));
        fs::remove_file(case.path(&name)).unwrap();
    }
    assert!(object.remove_exact().unwrap());
}

fn what_is_no_file_is_refused(case: &Case) {
    let is_none = |error: &BackendError| matches!(error, BackendError::NotAFile { .. });
    let (directory, fifo) = (case.name("directory"), case.name("fifo"));
    fs::create_dir(case.path(&directory)).unwrap();
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, case.path(&fifo), kind, 0o600.into(), 0).unwrap();
    for name in [&directory, &fifo] {
        assert_refused(case, name, is_none);
        assert!(is_none(&backend::remove(&case.place, name).unwrap_err()));
    }
    fs::remove_dir(case.path(&directory)).unwrap();
    fs::remove_file(case.path(&fifo)).unwrap();
}

fn an_empty_file_is_truncated(case: &Case) {
    let name = case.name("empty");
    let object = case.create(&name, PAGE);
    fs::File::options().write(true).open(case.path(&name)).unwrap().set_len(0).unwrap();
    let found = backend::open(&case.place, &name).unwrap_err();
    assert!(matches!(found, BackendError::Truncated { len: 0, .. }), "{found}");
    assert!(object.remove_exact().unwrap());
}

fn a_stopped_remover_makes_others_give_up(case: &Case) {
    let name = case.name("busy");
    let object = case.create(&name, PAGE);
    let stopped = fs::File::open(case.path(&name)).unwrap();
    rustix::fs::flock(&stopped, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let busy = object.remove_exact().unwrap_err();
    assert!(matches!(busy, BackendError::Busy { .. }), "{busy}");
    assert!(case.open(&name).is_some(), "who opens needs no lock");
    assert!(backend::open_or_create(&case.place, &name, PAGE).is_ok());
    // The lock dies with its holder.
    drop(stopped);
    assert!(object.remove_exact().unwrap());
}

fn an_unusable_directory_is_named(case: &Case) {
    let (missing, file) =
        (case.directory.path().join("missing"), case.directory.path().join("file"));
    fs::write(&file, "").unwrap();
    for (directory, reason) in [(missing, "does not exist"), (file, "is not a directory")] {
        let place = Place::mmap(&directory);
        let errors = [
            backend::create(&place, "any", PAGE).unwrap_err(),
            backend::open_or_create(&place, "any", PAGE).unwrap_err(),
            backend::open(&place, "any").unwrap_err(),
            backend::remove(&place, "any").unwrap_err(),
            backend::list(&place, "any").unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, BackendError::BadDirectory { .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains(reason) && text.contains(&*directory.to_string_lossy()),
                "{text}"
            );
        }
    }
}

fn a_shorter_segment_is_truncated(case: &Case) {
    let name = case.name("short");
    let object = case.create(&name, PAGE);
    match backend::open_or_create(&case.place, &name, 2 * PAGE).unwrap_err() {
        BackendError::Truncated { len, expected, .. } => {
            assert_eq!((len, expected), (PAGE, 2 * PAGE))
        }
        other => panic!("{other}"),
    }
    assert!(object.remove_exact().unwrap());
}

fn unattached_segments_are_removed_if_known(case: &Case) {
    let (mine, used, other) = (case.name("mine"), case.name("used"), case.name("other"));
    let mark = std::process::id() as u8 | 1;
    let marked = |name: &str, second: u8| {
        let object = case.create(name, PAGE);
        put(&object, 100, mark);
        put(&object, 101, second);
        object
    };
    let in_use = marked(&used, 77);
    drop((marked(&mine, 77), marked(&other, 78)));
    let is_ours = |mapping: &shm_core::mapping::Mapping| {
        let region = mapping.region();
        [(100, mark), (101, 77)].into_iter().all(|(at, value)| {
            let byte = region.share::<AtomicU8>(at);
            byte.is_ok_and(|byte| byte.load(Ordering::Relaxed) == value)
        })
    };
    // Others who clean up may be looking at it just now.
    while backend::sysv::remove_unattached(is_ours).unwrap() == 0 {}
    assert!(case.open(&mine).is_none());
    assert!(in_use.remove_exact().unwrap());
    assert!(case.remove(&other));
}

fn nothing_is_found_by_name(case: &Case) {
    let object = case.create("label", PAGE);
    let found = backend::open(&case.place, "label").unwrap_err();
    assert!(matches!(found, BackendError::Unsupported { .. }), "{found}");
    assert!(!case.remove("label"));
    assert!(!object.remove_exact().unwrap());
    let other = backend::open_or_create(&case.place, "label", PAGE).unwrap();
    assert_ne!(other.identity(), object.identity());
}

fn it_cannot_be_cut_off(case: &Case) {
    let object = case.create("sealed", PAGE);
    let fd = object.fd().unwrap();
    for len in [0, 1, PAGE - 1, PAGE + 1] {
        assert_eq!(rustix::fs::ftruncate(fd, len), Err(rustix::io::Errno::PERM));
    }
}

fn what_could_be_cut_off_is_not_mapped(_case: &Case) {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let shrinkable = memfd_create("shrinkable", flags).unwrap();
    ftruncate(&shrinkable, PAGE).unwrap();
    fcntl_add_seals(&shrinkable, SealFlags::GROW).unwrap();
    let empty = memfd_create("empty", flags).unwrap();
    fcntl_add_seals(&empty, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).unwrap();
    let file = fs::File::open("/proc/self/exe").unwrap();
    for fd in [shrinkable, file.into()] {
        let refused = backend::memfd::open_fd(fd).unwrap_err();
        assert!(matches!(refused, BackendError::Unsealed), "{refused}");
    }
    let refused = backend::memfd::open_fd(empty).unwrap_err();
    assert!(matches!(refused, BackendError::Truncated { len: 0, .. }), "{refused}");
}

fn every_verb_says_that_it_is_switched_off(case: &Case) {
    let errors = [
        backend::create(&case.place, "any", PAGE).unwrap_err(),
        backend::open_or_create(&case.place, "any", PAGE).unwrap_err(),
        backend::open(&case.place, "any").unwrap_err(),
        backend::open_read_only(&case.place, "any").unwrap_err(),
        backend::remove(&case.place, "any").unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, BackendError::Disabled), "{error}");
        assert!(error.to_string().contains("DYNAMIC_SHARED_MEMORY_TYPE"), "{error}");
    }
}

/// What `work` returns to each of several threads that do it at once.
fn at_once<R: Send>(case: &Case, work: impl Fn(&Place) -> R + Sync) -> Vec<R> {
    let place = &case.place;
    let start = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        let run = || {
            start.wait();
            work(place)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The numbers of a segment's line: key, id, mode (octal digits), size, ..., resident, swapped.
fn sysv_row(id: i32) -> Vec<i64> {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let rows =
        table.lines().skip(1).map(|line| line.split_whitespace().map(|c| c.parse().unwrap()));
    rows.map(Iterator::collect::<Vec<i64>>).find(|row| row[1] == i64::from(id)).unwrap()
}
