//! A segment table of 65,536, filled by two processes at once: each slot is had once, each process
//! finds what the other one made, and nothing is lost. With `SHM_DEEP=1` a whole domain of that
//! size too, with an object behind each segment.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::{self, Backend, Object, Place};
use dsm::control::{Control, Objects};
use dsm::{CreateError, Domain, DomainConfig, SegmentHandle};
use shm_core::participants::ParticipantId;
use shm_testkit::child::{self, Child};
use shm_testkit::depth::is_deep;
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(100);
const SEGMENTS: u32 = 65_536;
const PARTICIPANTS: u32 = 64;
const NAME: &str = "table";

struct NoObjects;

impl Objects for NoObjects {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}
}

shm_testkit::children! { fills, fills_a_domain }

fn id(who: u32) -> ParticipantId {
    ParticipantId::from_bits(who << 22 | 1).unwrap()
}

/// The table as a process has it.
fn attach(object: &Object) -> Control {
    Control::attach(object.mapping(), 0, SEGMENTS, PARTICIPANTS).unwrap()
}

/// Makes segments until there is no slot any more; the size of each tells who made it.
fn fill(control: &Control, who: u32) -> u32 {
    let actor = control.actor(id(who), &NoObjects);
    let mut made = 0;
    loop {
        match actor.claim() {
            Some(handle) => assert!(actor.publish(handle, u64::from(who))),
            None if control.grow().unwrap() => continue,
            None => return made,
        }
        made += 1;
    }
}

/// Attaches to each segment of `whose`, which no other process knows it by, and detaches.
fn visit(control: &Control, who: u32, whose: u32) -> u32 {
    let actor = control.actor(id(who), &NoObjects);
    let theirs = control.segments().into_iter().filter(|info| info.size == u64::from(whose));
    theirs.fold(0, |count, info| {
        assert_eq!(info.attached, [whose]);
        assert_eq!(actor.attach(info.handle), Some(u64::from(whose)));
        actor.detach(info.handle);
        count + 1
    })
}

/// The other process: fills, says how many, and is killed once it has visited.
fn fills(args: &[String]) {
    let object = backend::open(&Place::mmap(&args[0]), NAME).unwrap().expect("it is there");
    let control = attach(&object);
    child::tell_parent("ready");
    child::parent_says();
    child::tell_parent(&fill(&control, 2).to_string());
    child::parent_says();
    child::tell_parent(&visit(&control, 2, 1).to_string());
    child::parent_says();
}

#[test]
fn two_processes_fill_a_table_of_65536() {
    within(LIMIT, || {
        let directory = TempDir::new("table");
        let bytes = Control::bytes_for(SEGMENTS, PARTICIPANTS);
        let object = backend::create(&Place::mmap(directory.path()), NAME, bytes).unwrap();
        // SAFETY: nobody else has the mapping yet.
        unsafe { Control::create(object.mapping(), 0, SEGMENTS, PARTICIPANTS, 1) }.unwrap();
        let control = attach(&object);
        assert!(control.actor(id(1), &NoObjects).enter());
        let mut other = Child::spawn("fills", &[directory.path().to_str().unwrap()]);
        assert_eq!(other.hear(LIMIT), "ready");
        other.say("go");
        let mine = fill(&control, 1);
        let theirs: u32 = other.hear(LIMIT).parse().unwrap();
        println!("{mine} by one and {theirs} by the other");
        assert_eq!(mine + theirs, SEGMENTS);
        let handles: BTreeSet<_> = control.segments().iter().map(|info| info.handle).collect();
        assert_eq!(handles.len(), SEGMENTS as usize);
        other.say("visit");
        assert_eq!(visit(&control, 1, 2), theirs);
        assert_eq!(other.hear(LIMIT), mine.to_string());
        other.kill();
        assert_eq!(other.wait(LIMIT).signal(), Some(9));
        control.actor(id(2), &NoObjects).clean_up();
        assert_eq!(control.segments().len(), mine as usize, "the dead one's are gone");
        assert_eq!(fill(&control, 1), theirs, "each of his slots can be had again");
        control.actor(id(1), &NoObjects).clean_up();
        assert!(control.leftovers().is_empty() && !control.is_open());
        assert!(object.remove_exact().unwrap());
    });
}

fn config(name: &str, directory: &Path) -> DomainConfig {
    DomainConfig {
        backend: Some(Backend::Posix),
        directory: Some(directory.to_owned()),
        participants_max: 4,
        ..DomainConfig::new(name)
    }
}

/// Pinned segments until the domain is full: they stay without a mapping, of which a process has
/// too few.
fn fill_domain(domain: &Domain) -> u32 {
    let mut made = 0;
    loop {
        match domain.create_segment(1) {
            Ok(segment) => segment.pin().unwrap(),
            Err(CreateError::Full { segments: SEGMENTS }) => return made,
            Err(error) => panic!("{error}"),
        }
        made += 1;
    }
}

fn fills_a_domain(args: &[String]) {
    let domain = Domain::open(config(&args[0], Path::new(&args[1]))).unwrap();
    child::tell_parent("ready");
    child::parent_says();
    child::tell_parent(&fill_domain(&domain).to_string());
}

/// Memory of 256 MiB, and some seconds.
#[test]
fn two_processes_fill_a_domain_of_65536() {
    if !is_deep() {
        return println!("not run: only with SHM_DEEP=1");
    }
    within(LIMIT, || {
        let (directory, mut unique) = (TempDir::new("full"), Unique::new("full"));
        let domain = Domain::open(config(unique.name(), directory.path())).unwrap();
        let args = [unique.name(), directory.path().to_str().unwrap()];
        let mut other = Child::spawn("fills_a_domain", &args);
        unique.watch_process(other.pid());
        assert_eq!(other.hear(LIMIT), "ready");
        other.say("go");
        let start = Instant::now();
        let mine = fill_domain(&domain);
        let theirs: u32 = other.hear(LIMIT).parse().unwrap();
        println!("{mine} by one and {theirs} by the other, in {:?}", start.elapsed());
        assert_eq!(mine + theirs, SEGMENTS);
        other.wait(LIMIT).assert_success();
        let all = domain.segments();
        assert_eq!(all.len(), SEGMENTS as usize);
        for info in all.iter().step_by(997) {
            assert!(domain.attach(info.handle).unwrap().is_some());
        }
        domain.destroy().unwrap();
        unique.assert_nothing_left(Duration::from_secs(5));
    });
}
