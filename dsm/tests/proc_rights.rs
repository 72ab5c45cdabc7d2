//! Several users in one domain: a group shares it, whoever is not in the group is kept out, and a
//! member that dies is cleaned up after by one of another user.
//!
//! Only root can become several users: without him these tests are not run, and say so.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend::{Mmap, Posix, Sysv};
use dsm::backend::{Backend, BackendError};
use dsm::{Domain, DomainConfig, OpenError, Segment};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const SIZE: u64 = 10_000;
/// Users and groups that no system gives to anybody.
const ALICE: u32 = 2_000_000_001;
const BOB: u32 = 2_000_000_002;
const MALLORY: u32 = 2_000_000_003;
const GROUP: u32 = 2_000_000_101;
const OTHER_GROUP: u32 = 2_000_000_102;
const NAMED: [Backend; 3] = [Posix, Mmap, Sysv];

shm_testkit::children! { works, is_refused }

/// A domain's name and place, where members of the group may make files.
struct Bench {
    unique: Unique,
    backend: Backend,
    directory: TempDir,
}

impl Bench {
    fn new(backend: Backend, hint: &str) -> Bench {
        let (directory, mut unique) = (TempDir::new(hint), Unique::new(hint));
        unique.watch_directory(directory.path());
        chown(directory.path(), None, Some(GROUP)).unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o775)).unwrap();
        Bench { unique, backend, directory }
    }

    /// `user`, with the group if `in_group`, in a domain that is to have `mode` and `group`.
    fn spawn(&mut self, function: &str, user: u32, groups: &[u32], mode: u32, group: u32) -> Child {
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        let child = Child::spawn(
            function,
            &[
                &user.to_string(),
                &groups.join(","),
                &format!("{mode:o}"),
                &group.to_string(),
                self.backend.name(),
                self.directory.path().to_str().unwrap(),
                self.unique.name(),
            ],
        );
        self.unique.watch_process(child.pid());
        child
    }

    fn member(&mut self, user: u32) -> Child {
        self.spawn("works", user, &[GROUP], 0o660, GROUP)
    }

    fn refused(&mut self, user: u32, groups: &[u32], mode: u32, group: u32) -> String {
        let mut child = self.spawn("is_refused", user, groups, mode, group);
        let error = child.hear(LIMIT);
        child.wait(LIMIT).assert_success();
        error
    }

    fn assert_nothing_left(&self) {
        self.unique.assert_nothing_left(Duration::from_secs(5));
    }
}

fn for_each(hint: &str, test: impl Fn(Bench)) {
    if !rustix::process::geteuid().is_root() {
        return println!("not run: only root can become other users");
    }
    for backend in NAMED {
        within(LIMIT * 2, || test(Bench::new(backend, hint)));
    }
}

/// Becomes the user whom the arguments name, with a umask that leaves nothing, for good.
fn become_user(args: &[String]) -> DomainConfig {
    let user = args[0].parse().unwrap();
    let groups: Vec<u32> = args[1].split(',').filter_map(|group| group.parse().ok()).collect();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
    // SAFETY: a list of that length.
    assert_eq!(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }, 0);
    // As the effective group, one that nothing is for.
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::setgid(user) }, 0);
    // SAFETY: takes a number.
    assert_eq!(unsafe { libc::setuid(user) }, 0);
    DomainConfig {
        mode: u32::from_str_radix(&args[2], 8).unwrap(),
        group: Some(args[3].parse().unwrap()),
        backend: Some(args[4].parse().unwrap()),
        directory: Some(args[5].clone().into()),
        participants_max: 4,
        segments_max: Some(4),
        ready_max: 0,
        ..DomainConfig::new(&args[6])
    }
}

/// Opens the domain and does what it is told.
fn works(args: &[String]) {
    let domain = Domain::open(become_user(args)).unwrap();
    let mut segments: Vec<Segment> = Vec::new();
    child::tell_parent("in");
    loop {
        let line = child::parent_says();
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("create", _) => {
                segments.push(domain.create_segment(SIZE).unwrap());
                segments.last().unwrap().handle().to_string()
            }
            ("attach", handle) => {
                let found = domain.attach(handle.parse().unwrap()).unwrap().expect("it is there");
                segments.push(found);
                "attached".into()
            }
            ("add", _) => {
                let word = Mapped::<AtomicU64>::new(segments[0].mapping(), 0).unwrap();
                (word.fetch_add(1, Ordering::Relaxed) + 1).to_string()
            }
            ("detach", _) => {
                segments.clear();
                domain.segments().len().to_string()
            }
            ("reap", _) => domain.reap().to_string(),
            ("count", _) => domain.participants().len().to_string(),
            // How many of its four slots are free.
            ("fill", _) => {
                let made = [(); 4].map(|()| domain.create_segment(SIZE));
                made.iter().filter(|made| made.is_ok()).count().to_string()
            }
            ("leave", _) => break,
            other => panic!("{other:?}"),
        };
        child::tell_parent(&answer);
    }
}

fn is_refused(args: &[String]) {
    let config = become_user(args);
    let name = config.name.clone();
    let error = match Domain::open(config) {
        Err(OpenError::Backend(
            error @ BackendError::Denied { call: "unlink" | "shmctl(IPC_RMID)", .. },
        )) => {
            assert!(error.to_string().contains(&name), "{error}");
            "cannot remove"
        }
        Err(OpenError::Backend(BackendError::Denied { .. })) => "denied",
        Err(OpenError::Backend(BackendError::ForeignOwner { uid: ALICE, .. })) => "foreign owner",
        Err(OpenError::Backend(BackendError::OpenToOthers { gid: GROUP, .. })) => "open to others",
        other => panic!("{other:?}"),
    };
    child::tell_parent(error);
}

fn ask(child: &mut Child, what: &str) -> String {
    child.say(what);
    child.hear(LIMIT)
}

fn leave(mut child: Child) {
    child.say("leave");
    child.wait(LIMIT).assert_success();
}

#[test]
fn members_of_a_group_share_a_domain() {
    for_each("group", |mut bench| {
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        let hers = ask(&mut alice, "create");
        let mut bob = bench.member(BOB);
        assert_eq!(bob.hear(LIMIT), "in");
        assert_eq!(ask(&mut bob, &format!("attach {hers}")), "attached");
        assert_eq!((&*ask(&mut alice, "add"), &*ask(&mut bob, "add")), ("1", "2"));
        let his = ask(&mut bob, "create");
        assert_eq!(ask(&mut alice, &format!("attach {his}")), "attached");
        assert_eq!(ask(&mut alice, "detach"), "2");
        leave(bob);
        assert_eq!(ask(&mut alice, "reap"), "0");
        assert_eq!(ask(&mut alice, "fill"), "4");
        leave(alice);
        bench.assert_nothing_left();
    });
}

#[test]
fn who_is_not_in_the_group_is_kept_out() {
    for_each("outside", |mut bench| {
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        // Files answer before they are opened, System V when it looks.
        let outside = bench.refused(MALLORY, &[OTHER_GROUP], 0o660, GROUP);
        assert_eq!(outside, "denied");
        for (groups, mode, group) in
            [(&[GROUP][..], 0o600, GROUP), (&[GROUP, OTHER_GROUP], 0o660, OTHER_GROUP)]
        {
            assert_eq!(bench.refused(MALLORY, groups, mode, group), "foreign owner");
        }
        assert_eq!(bench.refused(ALICE, &[GROUP], 0o600, GROUP), "open to others");
        leave(alice);
        bench.assert_nothing_left();
    });
}

#[test]
fn a_dead_member_of_another_user_is_cleaned_up_after() {
    for_each("dead", |mut bench| {
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        let mut bob = bench.member(BOB);
        assert_eq!(bob.hear(LIMIT), "in");
        let hers = ask(&mut alice, "create");
        assert_eq!(ask(&mut bob, &format!("attach {hers}")), "attached");
        bob.kill();
        assert_eq!(bob.wait(LIMIT).signal(), Some(9));
        assert_eq!((&*ask(&mut alice, "reap"), &*ask(&mut alice, "count")), ("1", "1"));
        assert_eq!(ask(&mut alice, "detach"), "0");
        leave(alice);
        bench.assert_nothing_left();
    });
}

/// Its last one out was not the one who made it.
#[test]
fn a_closed_domain_waits_for_who_can_remove_it() {
    for_each("closed", |mut bench| {
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        let mut bob = bench.member(BOB);
        assert_eq!(bob.hear(LIMIT), "in");
        leave(alice);
        leave(bob);
        if bench.backend != Mmap {
            assert_eq!(bench.refused(BOB, &[GROUP], 0o660, GROUP), "cannot remove");
        }
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        assert_eq!(ask(&mut alice, "count"), "1");
        leave(alice);
        bench.assert_nothing_left();
    });
}

/// In `/dev/shm`, which is sticky, and of System V, only an owner can remove what is his: it waits
/// for him. In a directory of the group's own, anybody of it can.
#[test]
fn what_only_its_owner_can_remove_he_removes() {
    for_each("owner", |mut bench| {
        let mut alice = bench.member(ALICE);
        assert_eq!(alice.hear(LIMIT), "in");
        let mut bob = bench.member(BOB);
        assert_eq!(bob.hear(LIMIT), "in");
        let hers = ask(&mut alice, "create");
        assert_eq!(ask(&mut bob, &format!("attach {hers}")), "attached");
        assert_eq!(ask(&mut alice, "detach"), "1");
        assert_eq!(ask(&mut bob, "detach"), "0");
        let free = ask(&mut bob, "fill");
        assert_eq!(free, if bench.backend == Mmap { "4" } else { "3" }, "{}", bench.backend);
        leave(bob);
        assert_eq!(ask(&mut alice, "reap"), "0");
        assert_eq!(ask(&mut alice, "fill"), "4");
        leave(alice);
        bench.assert_nothing_left();
    });
}
