//! One process, several seats: what a domain answers.
use super::*;
use crate::backend::{self, BackendError, Place};
use crate::control::Objects;
use crate::segment::Segment;
use shm_core::header;
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::sync::mpsc;
use std::time::Duration;

mod read_only;

/// A domain on `mmap` in a directory of its own.
struct Bench {
    config: DomainConfig,
    directory: TempDir,
}

impl Bench {
    fn new(hint: &str) -> Bench {
        let directory = TempDir::new(hint);
        let path = Some(directory.path().to_owned());
        let config = DomainConfig {
            backend: Some(Backend::Mmap),
            directory: path,
            ready_max: 0,
            ..DomainConfig::new(hint)
        };
        Bench { config, directory }
    }

    fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.directory.path()).unwrap().count()
    }

    fn control_path(&self) -> std::path::PathBuf {
        self.directory.path().join(system::control_name(&self.config.name))
    }

    fn open_error(&self) -> OpenError {
        Domain::open(self.config.clone()).unwrap_err()
    }
}

/// This process may be in another of the name.
fn as_in_another_process(domain: &Domain) {
    domain.presence.ticket.lock().unwrap().take();
}

fn is_attached(domain: &Domain, segment: SegmentHandle) -> bool {
    domain.segments().iter().any(|info| info.handle == segment)
}

#[test]
fn attaching_twice_is_refused_and_finding_is_not() {
    let bench = Bench::new("twice");
    let domain = bench.open();
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    assert!(matches!(domain.attach(handle), Err(AttachError::AlreadyAttached(h)) if h == handle));
    let found = domain.find_mapping(handle).unwrap();
    drop(segment);
    assert!(is_attached(&domain, handle));
    drop(found);
    assert!(domain.find_mapping(handle).is_none());
    assert!(domain.attach(handle).unwrap().is_none());
    drop(domain);
    assert_eq!(bench.files(), 0);
}

#[test]
fn a_stale_handle_finds_nothing_in_its_old_slot() {
    let bench = Bench::new("stale");
    let config = DomainConfig { segments_max: Some(1), ..bench.config.clone() };
    let (domain, other) = (Domain::open(config).unwrap(), bench.open());
    let old = domain.create_segment(1).unwrap().handle();
    let new = domain.create_segment(1).unwrap();
    assert_eq!((old.slot(), new.handle().slot()), (0, 0));
    assert!(domain.attach(old).unwrap().is_none());
    assert!(other.attach(old).unwrap().is_none());
    assert!(domain.find_mapping(old).is_none());
    assert!(other.attach(new.handle()).unwrap().is_some());
    assert_eq!(domain.unpin(old), Err(PinError::Unknown(old)));
}

#[test]
fn of_two_threads_that_attach_again_one_does() {
    let bench = Bench::new("again");
    let domain = bench.open();
    for _ in 0..500 {
        let segment = domain.create_segment(1).unwrap();
        let (handle, _memory) = (segment.handle(), segment.mapping().clone());
        drop(segment);
        let go = std::sync::Barrier::new(2);
        let attach = || {
            go.wait();
            let attached = domain.attach(handle);
            go.wait();
            attached
        };
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(attach);
            [attach(), other.join().unwrap()]
        });
        assert_eq!(both.iter().filter(|attached| attached.is_ok()).count(), 1);
    }
}

#[test]
fn what_uses_the_memory_keeps_the_segment() {
    let bench = Bench::new("views");
    let domain = bench.open();
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    let view = Mapped::<AtomicU64>::new(segment.mapping(), 0).unwrap();
    drop(segment);
    view.store(1, Ordering::Relaxed);
    assert!(is_attached(&domain, handle));
    let again = domain.attach(handle).unwrap().expect("mapped still");
    drop((again, domain));
    assert_eq!(bench.files(), 2, "the process is in the domain as long as it maps anything");
    drop(view);
    assert_eq!(bench.files(), 0);
}

#[test]
fn a_pin_keeps_a_segment_that_nobody_has() {
    let bench = Bench::new("pins");
    let (domain, other) = (bench.open(), bench.open());
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    assert_eq!(other.unpin(handle), Err(PinError::NotPinned(handle)));
    segment.pin().unwrap();
    assert_eq!(segment.pin(), Err(PinError::AlreadyPinned(handle)));
    drop(segment);
    assert!(is_attached(&other, handle));
    other.unpin(handle).unwrap();
    assert_eq!(other.unpin(handle), Err(PinError::Unknown(handle)));
    assert!(!is_attached(&other, handle));
}

#[test]
fn a_pinned_mapping_goes_with_the_domain_newest_first() {
    let bench = Bench::new("kept");
    let domain = bench.open();
    let (log, order) = mpsc::channel();
    let keep = |number: u32| {
        let (segment, log) = (domain.create_segment(1).unwrap(), log.clone());
        segment.on_detach(move |_| log.send(number).unwrap());
        segment.pin_mapping();
        segment.pin_mapping();
        segment
    };
    let (one, _two, three) = (keep(1), keep(2), keep(3));
    three.unpin_mapping();
    drop(three);
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [3]);
    drop((one, _two));
    assert_eq!(domain.segments().len(), 2);
    drop(domain);
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [2, 1]);
    assert_eq!(bench.files(), 0);
}

#[test]
fn callbacks_run_once_newest_first_whatever_the_others_do() {
    let bench = Bench::new("calls");
    let domain = bench.open();
    let (log, order) = mpsc::channel();
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    let says = |segment: &Segment, number: u32| {
        let log = log.clone();
        segment.on_detach(move |on| {
            assert_eq!(on, handle);
            log.send(number).unwrap();
        })
    };
    says(&segment, 1);
    let cancelled = says(&segment, 2);
    segment.on_detach(|_| std::panic::resume_unwind(Box::new("a callback may panic")));
    says(&segment, 4);
    assert!(segment.cancel_on_detach(cancelled));
    assert!(!segment.cancel_on_detach(cancelled));
    drop(segment);
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [4, 1]);
    assert!(!is_attached(&domain, handle), "it is detached all the same");

    let segment = domain.create_segment(1).unwrap();
    says(&segment, 5);
    segment.reset_on_detach();
    drop(segment);
    assert_eq!(order.try_iter().count(), 0);
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let bench = Bench::new("fails");
    let domain = bench.open();
    let error = domain.create_segment(u64::MAX).unwrap_err();
    assert!(matches!(error, CreateError::Backend(BackendError::BadSize { .. })), "{error}");
    let error = domain.create_segment(1 << 60).unwrap_err();
    assert!(matches!(error, CreateError::Backend(_)), "{error}");
    assert_eq!(bench.files(), 1);
    assert!(domain.presence.control().leftovers().is_empty());
    domain.create_segment(1).unwrap();
}

#[test]
fn a_segment_removed_or_cut_off_by_hand_is_an_error() {
    let bench = Bench::new("missing");
    let (domain, other) = (bench.open(), bench.open());
    let segment = domain.create_segment(8192).unwrap();
    let handle = segment.handle();
    let name = domain.presence.system.segment_name(handle);
    let path = bench.directory.path().join(&name);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let cut = other.attach(handle).unwrap_err();
    assert!(matches!(cut, AttachError::Truncated { len: 4096, expected: 8192, .. }), "{cut}");
    std::fs::remove_file(path).unwrap();
    let error = other.attach(handle).unwrap_err();
    assert!(matches!(error, AttachError::Missing(h) if h == handle), "{error}");
    assert_eq!(domain.segments()[0].attached.len(), 1, "a failed attachment is taken back");
}

/// Makes a segment of `domain` and destroys it, but for the object, which will not go until the
/// directory returned, which has taken the place of its file, is gone.
fn destroy_in_vain(bench: &Bench, domain: &Domain) -> std::path::PathBuf {
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    let path = bench.directory.path().join(domain.presence.system.segment_name(handle));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    drop(segment);
    assert_eq!(domain.presence.control().leftovers(), [handle]);
    path
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_its_slot_until_it_can() {
    let bench = Bench::new("stuck");
    let config = DomainConfig { segments_max: Some(1), ..bench.config.clone() };
    let domain = Domain::open(config).unwrap();
    let path = destroy_in_vain(&bench, &domain);
    assert!(matches!(domain.create_segment(1), Err(CreateError::Full { .. })));
    std::fs::remove_dir(path).unwrap();
    let path = destroy_in_vain(&bench, &domain);
    std::fs::remove_dir(path).unwrap();
    domain.reap();
    assert!(domain.presence.control().leftovers().is_empty());
}

#[test]
fn what_one_that_left_could_not_remove_is_removed_by_others() {
    let bench = Bench::new("legacy");
    let domain = bench.open();
    let leftovers = || domain.presence.control().leftovers().len();
    let leaver = bench.open();
    let path = destroy_in_vain(&bench, &leaver);
    domain.reap();
    assert_eq!(leftovers(), 1, "its executor is there, and tries again itself");
    drop(leaver);
    domain.reap();
    assert_eq!(leftovers(), 1, "the object will not go");
    std::fs::remove_dir(path).unwrap();
    domain.reap();
    assert_eq!(leftovers(), 0);

    let leaver = bench.open();
    let path = destroy_in_vain(&bench, &leaver);
    drop(leaver);
    std::fs::remove_dir(path).unwrap();
    let _newcomer = bench.open();
    assert_eq!(leftovers(), 0, "who comes looks too");
}

/// A killed creator's, where files cannot be nameless.
#[test]
fn what_bears_a_domains_name_goes_with_it() {
    let bench = Bench::new("strays");
    let domain = bench.open();
    let name = domain.presence.system.segment_name(domain.create_segment(1).unwrap().handle());
    let place = Place::mmap(bench.directory.path());
    for stray in [name.clone(), format!("{name}.4711-0")] {
        backend::create(&place, &stray, 1).unwrap();
    }
    drop(domain);
    assert_eq!(bench.files(), 0);
}

#[test]
fn only_plain_names_and_possible_sizes() {
    let good = DomainConfig { backend: Some(Backend::Memfd), ..DomainConfig::new("ok_1-A") };
    Domain::open(good.clone()).unwrap();
    for name in ["", "a.b", "a/b", "ä", "a b", &"n".repeat(NAME_LEN_MAX + 1)] {
        let config = DomainConfig { name: name.into(), ..good.clone() };
        assert!(matches!(Domain::open(config), Err(OpenError::Name { .. })), "{name}");
    }
    for asked in [0, 1025] {
        let config = DomainConfig { participants_max: asked, ..good.clone() };
        assert!(matches!(Domain::open(config), Err(OpenError::Participants { .. })), "{asked}");
    }
    for asked in [0, SEGMENTS_MAX + 1] {
        let config = DomainConfig { segments_max: Some(asked), ..good.clone() };
        assert!(matches!(Domain::open(config), Err(OpenError::Segments { .. })), "{asked}");
    }
    let config = DomainConfig { backend: Some(Backend::None), ..good };
    let disabled = Domain::open(config).unwrap_err();
    assert!(matches!(disabled, OpenError::Backend(BackendError::Disabled)), "{disabled}");
}

#[test]
fn a_relative_directory_is_where_it_was_when_opened() {
    let here = std::env::current_dir().unwrap();
    let config = DomainConfig { directory: Some("relative".into()), ..Bench::new("cwd").config };
    assert_eq!(config.place().unwrap().directory, here.join("relative"));
}

#[test]
fn the_creators_sizes_hold_for_all() {
    let bench = Bench::new("sizes");
    let open = |participants_max, segments_max| {
        let sizes = DomainConfig { participants_max, segments_max, ..bench.config.clone() };
        Domain::open(sizes)
    };
    let first = open(2, Some(1)).unwrap();
    let second = open(500, Some(5000)).unwrap();
    let full = open(500, None).unwrap_err();
    assert!(matches!(full, OpenError::Join { .. }), "{full}");
    drop(first);
    let _segment = second.create_segment(1).unwrap();
    let full = second.create_segment(1).unwrap_err();
    assert!(matches!(full, CreateError::Full { segments: 1 }), "{full}");
}

#[test]
fn what_is_no_domain_is_refused_and_left_alone() {
    let bench = Bench::new("foreign");
    let path = bench.control_path();
    let header = |bench: &Bench| match bench.open_error() {
        OpenError::Header { source, .. } => source,
        other => panic!("{other}"),
    };

    std::fs::write(&path, [7; 8192]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(matches!(header(&bench), header::OpenError::NotOurs));
    std::fs::remove_file(&path).unwrap();

    let domain = bench.open();
    let len = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(len + 4096).unwrap();
    assert!(matches!(header(&bench), header::OpenError::WrongSize { .. }));
    file.set_len(len - 4096).unwrap();
    assert!(matches!(header(&bench), header::OpenError::Truncated { .. }));
    file.set_len(0).unwrap();
    let empty = bench.open_error();
    assert!(matches!(empty, OpenError::Backend(BackendError::Truncated { .. })), "{empty}");
    std::mem::forget(domain);
    std::fs::remove_file(&path).unwrap();

    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    let link = bench.open_error();
    assert!(matches!(link, OpenError::Backend(BackendError::Symlink { .. })), "{link}");
}

#[test]
fn another_version_or_name_is_refused() {
    let bench = Bench::new("version");
    let domain = bench.open();
    let control = domain.presence.system.object.mapping().clone();
    let version = Mapped::<AtomicU32>::new(&control, 40).unwrap();
    version.fetch_add(1, Ordering::Relaxed);
    let other = bench.open_error();
    let OpenError::Header { source, .. } = other else { panic!("{other}") };
    assert!(matches!(source, header::OpenError::WrongVersion { .. }), "{source}");
    version.fetch_sub(1, Ordering::Relaxed);

    let renamed = Bench::new("renamed");
    std::fs::copy(bench.control_path(), renamed.control_path()).unwrap();
    let other = renamed.open_error();
    let OpenError::Header { source, .. } = other else { panic!("{other}") };
    assert!(matches!(source, header::OpenError::WrongName), "{source}");
}

/// Arbitrary sizes in the settings of a domain that says it is ready.
#[test]
fn a_control_segment_that_contradicts_itself_is_refused() {
    let bench = Bench::new("corrupt");
    let domain = bench.open();
    let control = domain.presence.system.object.mapping().clone();
    let sizes = Mapped::<AtomicU64>::new(&control, 64 + 8).unwrap();
    let good = sizes.load(Ordering::Relaxed);
    let table = good >> 32 << 32;
    for bad in [0, u64::MAX, 1024 << 32 | 1024, table, table | 1025, table | 1, table | 1024] {
        sizes.store(bad, Ordering::Relaxed);
        let error = bench.open_error();
        let refused = matches!(error, OpenError::Corrupt { .. } | OpenError::Table { .. });
        assert!(refused, "{bad:#x}: {error}");
    }
    sizes.store(good, Ordering::Relaxed);
    bench.open();
}

#[test]
fn orphans_of_a_lost_domain_are_removed_by_the_next() {
    let bench = Bench::new("orphans");
    let lost = bench.open();
    let segment = lost.create_segment(1).unwrap();
    std::fs::remove_file(bench.control_path()).unwrap();
    as_in_another_process(&lost);
    let place = Place::mmap(bench.directory.path());
    let (other, near) = ("shm.orphans2.control", "shm.orphan.0.1");
    let _strangers = [other, near].map(|name| backend::create(&place, name, 1).unwrap());
    let domain = bench.open();
    assert_eq!(bench.files(), 3, "two strangers' and the new control segment");
    Mapped::<AtomicU64>::new(segment.mapping(), 0).unwrap().store(1, Ordering::Relaxed);
    drop(domain);
    drop((segment, lost));
}

/// A creator whose control segment is removed by hand before he cleans up.
#[test]
fn who_lost_the_name_removes_nothing_of_his_successors() {
    let bench = Bench::new("successor");
    let lost = bench.open();
    std::fs::remove_file(bench.control_path()).unwrap();
    as_in_another_process(&lost);
    lost.presence.system.remove_orphans().unwrap();
    let successor = bench.open();
    let segment = successor.create_segment(1).unwrap();
    lost.presence.system.remove_orphans().unwrap();
    assert_eq!(bench.files(), 2);
    drop((segment, successor, lost));
    assert_eq!(bench.files(), 0);
}

/// The last one out, killed after it has closed the domain and before it removes anything.
struct Killed;

impl Objects for Killed {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }
    fn remove_domain(&self) {}
}

#[test]
fn a_closed_domain_is_removed_by_the_next() {
    let bench = Bench::new("closed");
    let closed = bench.open();
    let (control, me) = (closed.presence.control(), closed.member().id());
    let handle = control.actor(me, &Killed).claim().unwrap();
    let half_made = closed.presence.system.segment_name(handle);
    let place = Place::mmap(bench.directory.path());
    let _object = backend::create(&place, &half_made, 1).unwrap();
    control.actor(me, &Killed).clean_up();
    as_in_another_process(&closed);
    assert_eq!(bench.files(), 2);

    assert!(Domain::open_existing(bench.config.clone()).unwrap().is_none());
    assert!(!bench.control_path().exists());
    let domain = bench.open();
    assert_ne!(domain.presence.system.nonce, closed.presence.system.nonce);
    assert_eq!(bench.files(), 1, "the segment half made has gone too");
    drop(closed);
    domain.create_segment(1).unwrap();
}

#[test]
fn an_existing_domain_is_entered_and_none_is_made() {
    let bench = Bench::new("existing");
    assert!(Domain::open_existing(bench.config.clone()).unwrap().is_none());
    let domain = bench.open();
    let again = Domain::open_existing(bench.config.clone()).unwrap().expect("it is there");
    assert_eq!(again.participants().len(), 2);
    drop((domain, again));
    assert!(Domain::open_existing(bench.config.clone()).unwrap().is_none());

    // An untouched control segment: its creator was killed before it began.
    let place = Place::mmap(bench.directory.path());
    backend::create(&place, &system::control_name("existing"), 8192).unwrap();
    assert!(Domain::open_existing(bench.config.clone()).unwrap().is_none());
}

/// It has the lock of a closed control segment, between two system calls.
#[test]
fn a_stopped_remover_is_waited_for_no_longer_than_asked() {
    let bench = Bench::new("stopped");
    let domain = bench.open();
    let stopped = std::fs::File::open(bench.control_path()).unwrap();
    stopped.lock().unwrap();
    drop(domain);
    assert_eq!(bench.files(), 1, "closed, and not removed");
    let open_timeout = Duration::from_millis(1);
    let config = DomainConfig { open_timeout, ..bench.config.clone() };
    let refused = within(Duration::from_secs(30), || Domain::open(config).unwrap_err());
    assert!(matches!(refused, OpenError::Busy { .. }), "{refused}");
    drop(stopped);
    bench.open();
}

/// Its seats are still taken: by who keeps his member, or by processes of another pid namespace.
#[test]
fn a_closed_domain_without_a_seat_is_removed() {
    let bench = Bench::new("closed");
    let config = DomainConfig { participants_max: 1, ..bench.config.clone() };
    let domain = Domain::open(config.clone()).unwrap();
    let (seat, kept) = (domain.member().clone(), bench.directory.path().join("kept"));
    std::fs::hard_link(bench.control_path(), &kept).unwrap();
    drop(domain);
    // As if the last one out had been killed before he removed it.
    std::fs::rename(kept, bench.control_path()).unwrap();
    Domain::open(config).unwrap();
    assert_eq!(bench.files(), 0);
    drop(seat);
}

/// Killed when its control segment had its name, and nothing in it.
#[test]
fn a_killed_creator_of_a_smaller_domain_leaves_room_for_one() {
    let bench = Bench::new("smaller");
    let place = Place::mmap(bench.directory.path());
    for pages in [1, 2, 5] {
        let name = system::control_name(&bench.config.name);
        backend::create(&place, &name, pages * 4096).unwrap();
        let domain = bench.open();
        let capacity = domain.member().table().capacity();
        assert_eq!(capacity < bench.config.participants_max, pages < 5, "{pages}: {capacity}");
        domain.create_segment(1).unwrap();
    }
    assert_eq!(bench.files(), 0);
}

#[test]
fn a_control_segment_of_a_killed_creator_is_really_there() {
    let unique = Unique::new("half");
    let config = DomainConfig {
        backend: Some(Backend::Sysv),
        participants_max: 1,
        segments_max: Some(1),
        ready_max: 0,
        ..DomainConfig::new(unique.name())
    };
    let resident = backend::sysv::half_made(&system::control_name(unique.name()), 1 << 20);
    assert_eq!(resident(), 0);
    let _domain = Domain::open(config).unwrap();
    assert_eq!(resident(), 4096, "what such a domain needs at first");
}

#[test]
fn waiting_for_ever_is_possible() {
    let bench = Bench::new("for_ever");
    let config = DomainConfig { open_timeout: Duration::MAX, ..bench.config.clone() };
    Domain::open(config).unwrap();
}

#[test]
fn what_is_received_replaces_no_descriptor() {
    let config = DomainConfig {
        backend: Some(Backend::Memfd),
        ready_max: 0,
        ..DomainConfig::new("receives")
    };
    let domain = Domain::open(config).unwrap();
    let segment = domain.create_segment(1).unwrap();
    let handle = segment.handle();
    let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut send = |handle: SegmentHandle, object: &backend::Object| {
        std::io::Write::write_all(&mut theirs, &handle.to_bits().to_le_bytes()).unwrap();
        backend::memfd::send_fd(&theirs, object).unwrap();
    };
    let known = || {
        let fd = domain.presence.descriptor(handle).unwrap().unwrap();
        backend::memfd::open_fd(fd).unwrap().identity()
    };
    let (before, other) = (known(), backend::create(&Place::new(Backend::Memfd), "x", 1).unwrap());
    send(handle, &other);
    assert_eq!(domain.receive(&ours).unwrap(), handle);
    assert_eq!(known(), before);
}

#[test]
fn the_environment_says_which_domain() {
    let missing = Domain::from_env().unwrap_err();
    let set = matches!(missing, OpenError::Environment { problem: "is not set", .. });
    assert!(set, "{missing}");
}

#[test]
fn memory_is_private_to_its_user() {
    let unique = Unique::new("mode");
    let posix = Some(Backend::Posix);
    let domain = Domain::open(DomainConfig {
        backend: posix,
        ready_max: 0,
        ..DomainConfig::new(unique.name())
    })
    .unwrap();
    let _segment = domain.create_segment(1).unwrap();
    let left = unique.left();
    assert_eq!(left.len(), 2);
    for path in left {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
    drop((_segment, domain));
    unique.assert_nothing_left(Duration::ZERO);
}

/// A System V segment that bears the name of one whose creator has not said that he made it.
#[test]
fn only_what_a_dead_creator_left_is_removed_in_his_place() {
    let unique = Unique::new("stranger");
    let config = DomainConfig { backend: Some(Backend::Sysv), ..DomainConfig::new(unique.name()) };
    let domain = Domain::open(config).unwrap();
    let presence = &domain.presence;
    let place = Place::new(Backend::Sysv);
    let left = |of_the_dead: bool, is_mapped: bool| {
        let handle = presence.control().actor(domain.member().id(), &Killed).claim().unwrap();
        let name = presence.system.segment_name(handle);
        let make = || drop(backend::sysv::half_made(&name, 4096));
        if of_the_dead {
            in_a_child(make)
        } else {
            make()
        }
        if is_mapped {
            drop(backend::open(&place, &name).unwrap());
        }
        assert!(presence.system.remove(handle), "nothing of ours is there");
        backend::remove(&place, &name).unwrap()
    };
    assert!(!left(true, false), "what a killed creator left");
    assert!(left(false, false), "a stranger's, who lives");
    assert!(left(true, true), "a stranger's, which somebody has used");
}

/// Runs `work` in a process that ends with it.
fn in_a_child(work: impl FnOnce()) {
    // SAFETY: the child makes system calls, allocates, and ends by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        work();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
}
