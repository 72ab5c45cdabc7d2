//! The header's handshake under the explorer: it is initialised, by one at a time, and who is told
//! that it is ready sees what one of them made, whoever dies where.
#![cfg(shm_explore)]
use shm_core::header::{Header, Identity, OpenError, Opened, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::process::ProcessId;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep};
use std::time::{Duration, Instant};

const IDENTITY: Identity = Identity::new("explored", 3, 0xf1f1, 4096);

/// A header, and what lies behind it: two words that one initialiser writes.
#[repr(C)]
struct Shared {
    header: Header,
    inside: [AtomicU64; 2],
}
// SAFETY: atomics only.
unsafe impl shm_core::ShmSync for Shared {}

/// All zero, as it arrives.
fn shared() -> Mapped<Shared> {
    Mapped::new(&Mapping::heap(size_of::<Shared>()), 0).unwrap()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("planned")]
struct Failed;

/// Opens as `home` says, and initialises if need be, in vain where `fails`.
fn open(shared: &Shared, me: &Me, home: u64, fails: bool) -> Result<Opened, OpenError<Failed>> {
    // Nobody waits so long: there is no clock here.
    let late = Instant::now() + Duration::from_secs(3600);
    let opener = Opener { home, ..Opener::this_process(late).unwrap() };
    shared.header.open(&IDENTITY, &opener, || {
        for word in &shared.inside {
            word.store(me.pid().into(), Relaxed);
        }
        if fails { Err(Failed) } else { Ok(()) }
    })
}

/// Says whose initialisation it sees.
fn seen(shared: &Shared, me: &Me, end: Result<Opened, OpenError<Failed>>) {
    let creators = shared.inside.each_ref().map(|word| word.load(Relaxed));
    match end {
        Ok(_) => {
            assert_eq!(creators[0], creators[1], "ready, and somebody initialises it");
            me.say(creators[0]);
        }
        Err(OpenError::Init(Failed)) => {}
        Err(other) => panic!("{other}"),
    }
}

fn opener(shared: &Shared, fails: bool) -> Process<'_> {
    Process::new("opener", move |me| seen(shared, me, open(shared, me, 1, fails))).mortal()
}

/// A fresh process opens it too. All have seen the same, and at most one has made it.
fn all_agree(shared: &Shared, count: usize, end: &End<'_>) {
    let late = Instant::now() + Duration::from_secs(3600);
    let opener = Opener { home: 1, ..Opener::this_process(late).unwrap() };
    let init = || {
        shared.inside.iter().for_each(|word| word.store(99, Relaxed));
        Ok::<_, Failed>(())
    };
    let opened = shared.header.open(&IDENTITY, &opener, init).expect("it can be opened");
    let creators = shared.inside.each_ref().map(|word| word.load(Relaxed));
    assert_eq!(creators[0], creators[1], "half of it is another one's");
    let creators = (0..count).flat_map(|p| end.said(p)).chain([&creators[0]]);
    let creators: Vec<u64> = creators.copied().collect();
    assert!(creators.iter().all(|c| *c == creators[0] && *c != 0), "{creators:?}");
    let finished = (0..count).any(|p| end.has_finished(p) && !end.said(p).is_empty());
    assert!(opened == Opened::Attached || !finished, "it was made twice");
}

#[test]
fn openers_may_die_anywhere() {
    let shared = shared();
    // How many open it, how many of them die, and how often one is interrupted.
    let cases = if is_deep() { [(2, 2, 2), (3, 3, 2)] } else { [(2, 2, 2), (3, 1, 1)] };
    for (count, deaths, preemptions) in cases {
        let name = format!("{count} open, {deaths} deaths");
        let mut scenario = Scenario::new("header", &name).deaths(deaths);
        for _ in 0..count {
            scenario = scenario.process(opener(&shared, false));
        }
        let scenario = scenario.check(|end| all_agree(&shared, count, end));
        scenario.preemptions_at_most(preemptions).explore();
    }
}

#[test]
fn an_initialiser_may_fail() {
    let shared = shared();
    let scenario = Scenario::new("header", "one fails").deaths(1);
    let scenario = scenario.process(opener(&shared, true)).process(opener(&shared, false));
    let scenario =
        if is_deep() { scenario.deaths(2).process(opener(&shared, true)) } else { scenario };
    let count = if is_deep() { 3 } else { 2 };
    scenario.check(|end| all_agree(&shared, count, end)).explore();
}

/// Two processes from other namespaces, each of which would take the other for dead.
#[test]
fn one_namespace_initialises_it() {
    let shared = shared();
    let at = |home: u64| {
        let shared = &shared;
        Process::new("opener", move |me| match open(shared, me, home, false) {
            Err(OpenError::OtherNamespace) => {}
            end => seen(shared, me, end),
        })
        .mortal()
    };
    Scenario::new("header", "two homes")
        .process(at(1))
        .process(at(2))
        .deaths(2)
        .check(|end| {
            if shared.header.home() < 2 {
                all_agree(&shared, 2, end);
            }
        })
        .explore();
}

#[test]
fn a_lie_does_no_harm() {
    let shared = shared();
    let opener = || {
        Process::new("opener", |me| {
            let _ = open(&shared, me, 1, false);
        })
    };
    let lies = if is_deep() { 2 } else { 1 };
    let scenario = Scenario::new("header", &format!("{lies} lies")).lies(lies);
    scenario.process(opener()).process(opener()).explore();
}

/// The handshake in short, whose claim may be without a name.
#[test]
fn finds_a_claim_without_a_name() {
    let shared = shared();
    let word = &shared.inside[0];
    let open = |named: bool| {
        Process::new("opener", move |me| {
            let mine = if named { u64::from(me.pid()) } else { 1000 };
            while let Err(found) = word.compare_exchange(0, mine, Relaxed, Relaxed) {
                let dead = ProcessId::of(found as u32)
                    .is_ok_and(|owner| owner.liveness() == shm_core::process::Liveness::Dead);
                if dead && word.compare_exchange(found, mine, Relaxed, Relaxed).is_ok() {
                    break;
                }
                shm_core::sync::yield_now();
            }
            word.store(0, Relaxed);
        })
        .mortal()
    };
    let both = |named| {
        Scenario::new("header", "in short").process(open(named)).process(open(named)).deaths(1)
    };
    both(true).explore();
    finds("everybody waits: opener", || both(false).explore());
}
