//! Header handshake: it is initialised exactly once, whoever dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::header::{Header, Identity, OpenError, Opened, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::process::model::{become_process, buried};
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::{AtomicU64, Ordering, yield_now};
use shm_testkit::model::UnsafeCell;
use shm_testkit::model::thread::JoinHandle;
use shm_testkit::model::{self, Life};
use std::time::{Duration, Instant};

// The model's main thread is process 1 and another 2; both may die. Others are 3 and 4.
const IDENTITY: Identity = Identity::new("model", 3, 0xf1f1, 4096);

struct Shared {
    header: Header,
    /// What lies behind the header: written plainly, so loom sees every race for it.
    inside: UnsafeCell<u32>,
    /// The state word of the broken copy below.
    word: AtomicU64,
}
// SAFETY: modelled atomics; loom checks that the header orders accesses to the cell.
unsafe impl shm_core::ShmSync for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

fn shared() -> Mapped<Shared> {
    let mapping = Mapping::heap(4096);
    let value =
        Shared { header: Header::new(), inside: UnsafeCell::new(0), word: AtomicU64::new(0) };
    // SAFETY: nobody else has the mapping yet.
    unsafe { Mapped::place(&mapping, 0, value) }.unwrap()
}

impl Shared {
    fn write_inside(&self, process: u32) {
        // SAFETY: the caller initialises, or loom reports it.
        self.inside.with_mut(|inside| unsafe { *inside = process });
    }

    fn read_inside(&self) -> u32 {
        // SAFETY: published and constant, or loom reports it.
        self.inside.with(|inside| unsafe { *inside })
    }

    /// Opens it; what that did, and which process had initialised what we see.
    fn open(&self, init: Result<(), Failed>) -> Result<Seen, OpenError<Failed>> {
        self.open_as(&Opener::this_process(late()).unwrap(), init)
    }

    fn open_as(
        &self,
        opener: &Opener,
        init: Result<(), Failed>,
    ) -> Result<Seen, OpenError<Failed>> {
        let opened = self.header.open(&IDENTITY, opener, || {
            self.write_inside(opener.me.pid());
            init
        })?;
        Ok(Seen { opened, creator: self.read_inside() })
    }
}

/// Later than any model ends.
fn late() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Seen {
    opened: Opened,
    creator: u32,
}

#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("planned")]
struct Failed;

/// Two processes, 1 and 2.
type Two = [Life; 2];

/// Runs `body` as process 2; the kernel buries it if it dies.
fn process<R: 'static>(
    shared: &Mapped<Shared>,
    life: &Life,
    body: impl FnOnce(&Shared) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let (shared, life) = (shared.clone(), life.clone());
    model::thread::spawn(move || {
        become_process(2);
        live(&shared, &life, body)
    })
}

fn live<R>(shared: &Shared, life: &Life, body: impl FnOnce(&Shared) -> R) -> Option<R> {
    let end = life.run(|| body(shared));
    if end.is_none() {
        buried(ProcessId::me());
    }
    end
}

/// Whoever comes last finds it ready, or makes it.
fn last(shared: &Shared) -> Seen {
    become_process(4);
    shared.open(Ok(())).unwrap()
}

/// All that returned saw the same initialisation, and it is the one that somebody made.
fn agree(seen: &[Seen]) {
    let creators: Vec<u32> = seen.iter().map(|s| s.creator).collect();
    assert!(creators.iter().all(|&c| c == creators[0] && c != 0), "{seen:?}");
    let created = seen.iter().filter(|s| s.opened == Opened::Created).count();
    assert!(created <= 1, "{seen:?}");
}

/// Two processes open.
fn two_open(two: Two) {
    two_open_on(&shared(), &two);
}

fn two_open_on(shared: &Mapped<Shared>, two: &Two) {
    let other = process(shared, &two[1], |shared| shared.open(Ok(())).unwrap());
    let mine = live(shared, &two[0], |shared| shared.open(Ok(())).unwrap());
    let other = other.join().unwrap();
    agree(&mine.into_iter().chain(other).chain([last(shared)]).collect::<Vec<_>>());
}

/// A claimer is dead already; two are its heirs.
fn two_inherit(two: Two) {
    let shared = shared();
    let third = become_process(3);
    // Fuel for the state, the magic, the home and the claim.
    assert_eq!(model::mortal(4, || shared.open(Ok(()))), None);
    assert_eq!(shared.read_inside(), 3, "it died inside its claim");
    buried(third);
    become_process(1);
    two_open_on(&shared, &two);
}

/// Process 2 fails to initialise, and gives its claim back.
fn one_fails(two: Two) {
    let shared = shared();
    let failing = process(&shared, &two[1], |shared| shared.open(Err(Failed)));
    let mine = live(&shared, &two[0], |shared| shared.open(Ok(())));
    let made = Ok(Seen { opened: Opened::Created, creator: 1 });
    assert!(mine.is_none_or(|mine| mine == made), "the other makes nothing");
    match failing.join().unwrap() {
        Some(Ok(seen)) => assert_eq!(seen, Seen { opened: Opened::Attached, creator: 1 }),
        Some(Err(error)) => assert_eq!(error, OpenError::Init(Failed)),
        None => {}
    }
    assert_ne!(last(&shared).creator, 2, "it failed");
}

/// Who opens in the namespaces `home`, where all pids of the others mean nobody.
fn stranger(home: u64) -> Opener {
    Opener { home, is_dead: |_| true, ..Opener::this_process(late()).unwrap() }
}

/// Two processes open, in namespaces of their own.
fn two_open_at(homes: [u64; 2], two: Two) {
    let shared = shared();
    let open = |home| move |shared: &Shared| shared.open_as(&stranger(home), Ok(()));
    let other = process(&shared, &two[1], open(homes[1]));
    let both = [live(&shared, &two[0], open(homes[0])), other.join().unwrap()];
    let refused = |end: &&Result<Seen, _>| **end == Err(OpenError::OtherNamespace);
    assert!(both.iter().flatten().filter(refused).count() <= 1, "one of them is at home");
    agree(&both.into_iter().flatten().flatten().collect::<Vec<_>>());
}

fn two_homes(two: Two) {
    two_open_at([8, 9], two);
}

fn sweep(name: &str, scenario: fn(Two)) {
    let bound = model::preemption_bound();
    println!("header, {name}, one death: {:?}", model::every_death_of(bound, scenario));
    println!("header, {name}, two deaths: {:?}", model::every_two_deaths(bound - 1, scenario));
}

#[test]
fn a_creator_may_die_anywhere() {
    sweep("two open", two_open);
}

#[test]
fn the_heir_of_a_claim_may_die_too() {
    sweep("two inherit", two_inherit);
}

#[test]
fn of_two_namespaces_one_initialises() {
    sweep("two homes", two_homes);
}

#[test]
fn finds_that_who_asks_about_pids_of_another_namespace_spoils_it() {
    model::finds("Causality violation", || {
        model::check(|| two_open_at([8, 8], [Life::endless(), Life::endless()]));
    });
}

#[test]
fn a_failed_initialisation_is_made_again() {
    sweep("one fails", one_fails);
}

#[test]
fn every_ordering_of_the_header_matters() {
    let found = model::every_ordering_matters(&["src/header.rs"], || {
        model::check(|| one_fails([Life::endless(), Life::endless()]));
    });
    assert_eq!(found, 3, "state, take, leave");
}

/// What the copy of the handshake below does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    PublishRelaxed,
    NamelessClaim,
}

const INITIALISING: u64 = 1;
const READY: u64 = 2;

/// The handshake in short, with a planted bug.
fn open_with(bug: Bug, shared: &Shared) -> u32 {
    let me = ProcessId::me();
    loop {
        let seen = shared.word.load(Ordering::Acquire);
        if seen == READY {
            return shared.read_inside();
        }
        // A claim without a name may be anybody's: even that of process 3, which is dead.
        let owner = ProcessId::from_bits(seen >> 2).or(ProcessId::of(3).ok());
        if seen != 0 && owner.is_some_and(|owner| owner.liveness() != Liveness::Dead) {
            yield_now();
            continue;
        }
        let name = if bug == Bug::NamelessClaim { 0 } else { me.to_bits() };
        let mine = name << 2 | INITIALISING;
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        if shared.word.compare_exchange(seen, mine, ok, err).is_err() {
            continue;
        }
        shared.write_inside(me.pid());
        let order = if bug == Bug::PublishRelaxed { Ordering::Relaxed } else { Ordering::Release };
        shared.word.store(READY, order);
        return me.pid();
    }
}

fn two_open_with(bug: Bug) {
    model::check(move || {
        let shared = shared();
        buried(ProcessId::of(3).unwrap());
        let other = process(&shared, &Life::endless(), move |shared| open_with(bug, shared));
        let mine = open_with(bug, &shared);
        assert_eq!(Some(mine), other.join().unwrap());
    });
}

#[test]
fn finds_a_relaxed_publication_and_a_claim_without_a_name() {
    two_open_with(Bug::None);
    model::finds("Causality violation", || two_open_with(Bug::PublishRelaxed));
    model::finds("Causality violation", || two_open_with(Bug::NamelessClaim));
}
