//! Whatever 64 bytes a header holds: it is opened as a plain model says, or refused with a reason.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::header::{Header, Identity, MAGIC, OpenError, Opened, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::process::ProcessId;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZE: u64 = 4096;
const IDENTITY: Identity = Identity::new("model", 3, 0xf1f1, SIZE);
const UNTOUCHED: u64 = 0;
const INITIALISING: u64 = 1;
const READY: u64 = 2;

/// The namespaces of those who open here.
const HOME: u64 = 4;

/// The header's words: state, magic, size, fingerprint, name hash, version, home, unused.
type Words = [u64; 8];

const VALID: Words = [
    READY,
    MAGIC,
    SIZE,
    IDENTITY.fingerprint,
    IDENTITY.name_hash,
    IDENTITY.version as u64,
    HOME,
    0,
];

fn mapping(words: &Words) -> Arc<Mapping> {
    let mapping = Mapping::heap(SIZE as usize);
    for (word, value) in at(&mapping).iter().zip(words) {
        word.store(*value, Relaxed);
    }
    mapping
}

fn at(mapping: &Mapping) -> &[AtomicU64] {
    mapping.region().share_slice(0, 8).unwrap()
}

fn header(mapping: &Arc<Mapping>) -> Mapped<Header> {
    Mapped::new(mapping, 0).unwrap()
}

/// Waits for nobody, and takes nobody for dead.
fn at_once() -> Opener {
    Opener { me: ProcessId::me(), home: HOME, is_dead: |_| false, deadline: Instant::now() }
}

/// Opens at once or not at all; whoever holds it is dead or not.
fn open(header: &Header, dead: bool) -> Result<Opened, OpenError> {
    let Opener { me, home, deadline, .. } = at_once();
    let opener = Opener { me, home, is_dead: |_| dead, deadline };
    header.open(&IDENTITY, &opener, || Ok::<(), Infallible>(()))
}

/// What opening must say.
fn expected(words: &Words, dead: bool) -> Result<Opened, OpenError> {
    let [state, magic, size, fingerprint, name_hash, version, home, _] = *words;
    let (version, pid) = (version as u32, (state >> 42) as u32);
    let fresh = magic == 0 || magic == MAGIC;
    let elsewhere = home != 0 && home != HOME;
    match state & 3 {
        UNTOUCHED if state == 0 && fresh && elsewhere => Err(OpenError::OtherNamespace),
        INITIALISING if pid != 0 && fresh && elsewhere => Err(OpenError::OtherNamespace),
        UNTOUCHED if state == 0 && fresh => Ok(Opened::Created),
        INITIALISING if pid != 0 && fresh && dead => Ok(Opened::Created),
        INITIALISING if pid != 0 && fresh => Err(OpenError::NotReady { pid }),
        _ if state == READY && magic == MAGIC => {
            let found = fingerprint;
            if version != IDENTITY.version {
                Err(OpenError::WrongVersion { found: version, expected: IDENTITY.version })
            } else if found != IDENTITY.fingerprint {
                Err(OpenError::WrongFingerprint { found, expected: IDENTITY.fingerprint })
            } else if name_hash != IDENTITY.name_hash {
                Err(OpenError::WrongName)
            } else if size > SIZE {
                Err(OpenError::Truncated { found: size, mapped: SIZE })
            } else if size < SIZE {
                Err(OpenError::WrongSize { found: size, mapped: SIZE })
            } else {
                Ok(Opened::Attached)
            }
        }
        _ => Err(OpenError::NotOurs),
    }
}

/// Any bytes; or a valid header with some words replaced, which gets further.
fn words() -> impl Strategy<Value = Words> {
    let word = prop_oneof![Just(0), 0..8u64, Just(MAGIC), any::<u64>()];
    let state =
        prop_oneof![Just(READY), 0..16u64, (77..80u64).prop_map(|pid| pid << 42 | 1), any::<u64>()];
    let changes = prop::collection::vec((1..8usize, word), 0..3);
    let nearly = (state, changes).prop_map(|(state, changes)| {
        let mut words = VALID;
        words[0] = state;
        for (at, word) in changes {
            words[at] = word;
        }
        words
    });
    prop_oneof![any::<Words>(), nearly]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(2000)))]

    #[test]
    fn any_bytes_are_opened_as_the_model_says(words in words(), dead: bool) {
        let mapping = mapping(&words);
        let opened = open(&header(&mapping), dead);
        prop_assert_eq!(opened, expected(&words, dead));
        if opened == Ok(Opened::Created) {
            let now: Vec<u64> = at(&mapping).iter().map(|word| word.load(Relaxed)).collect();
            prop_assert_eq!(&now[..5], &VALID[..5]);
            prop_assert_eq!(now[5] as u32, IDENTITY.version);
        } else {
            let mut words = words;
            if let Err(OpenError::NotReady { .. }) = opened {
                words[6] = HOME;
            }
            for (word, value) in at(&mapping).iter().zip(&words) {
                prop_assert_eq!(word.load(Relaxed), *value, "refusing writes nothing");
            }
        }
    }
}

#[test]
fn a_stopped_creator_is_named_and_hangs_nobody() {
    let mut words = [0; 8];
    words[0] = (4711 << 40 | 99) << 2 | INITIALISING;
    let mapping = mapping(&words);
    let header = header(&mapping);
    let opener = Opener { deadline: Instant::now() + Duration::from_millis(20), ..at_once() };
    let opened = header.open(&IDENTITY, &opener, || Ok::<(), Infallible>(()));
    assert_eq!(opened, Err(OpenError::NotReady { pid: 4711 }));
    assert!(opened.unwrap_err().to_string().contains("process 4711"));
}

/// Its pid means nobody here, or somebody else.
#[test]
fn an_initialiser_of_another_namespace_is_never_taken_for_dead() {
    let mut words = [0; 8];
    words[0] = (4711 << 40 | 99) << 2 | INITIALISING;
    words[6] = HOME + 1;
    let mapping = mapping(&words);
    let Opener { me, home, deadline, .. } = at_once();
    let is_dead = |_| -> bool { unreachable!("nobody may ask") };
    let opener = Opener { me, home, is_dead, deadline };
    let init = || Ok::<(), Infallible>(());
    assert_eq!(header(&mapping).open(&IDENTITY, &opener, init), Err(OpenError::OtherNamespace));
}

#[test]
fn a_home_is_that_of_the_process_and_stays() {
    let mapping = mapping(&[0; 8]);
    let header = header(&mapping);
    let opener = Opener::this_process(Instant::now()).unwrap();
    assert_ne!(opener.home, 0);
    assert_eq!(header.open(&IDENTITY, &opener, || Err("planned")), Err(OpenError::Init("planned")));
    assert_eq!(header.home(), opener.home);
    let elsewhere = Opener { home: opener.home ^ 1, ..opener };
    let init = || Ok::<(), Infallible>(());
    assert_eq!(header.open(&IDENTITY, &elsewhere, init), Err(OpenError::OtherNamespace));
    assert_eq!(header.open(&IDENTITY, &opener, init), Ok(Opened::Created));
    assert_eq!(header.open(&IDENTITY, &elsewhere, init), Ok(Opened::Attached), "it is ready");
}

#[test]
fn a_panic_while_initialising_gives_the_claim_back() {
    let mapping = mapping(&[0; 8]);
    let panicking = header(&mapping);
    let thread = std::thread::spawn(move || {
        panicking.open::<Infallible>(&IDENTITY, &at_once(), || panic!("planned"))
    });
    assert!(thread.join().is_err());
    assert_eq!(open(&header(&mapping), false), Ok(Opened::Created));
}

#[test]
fn a_claim_overwritten_meanwhile_is_not_published() {
    let mapping = mapping(&[0; 8]);
    let opened = header(&mapping).open(&IDENTITY, &at_once(), || {
        at(&mapping)[0].store(0xbad0, Relaxed);
        Ok::<(), Infallible>(())
    });
    assert_eq!(opened, Err(OpenError::NotOurs));
    assert_eq!(at(&mapping)[0].load(Relaxed), 0xbad0);
}

#[test]
fn a_size_of_one_byte_more_or_less_is_refused() {
    for (found, error) in [
        (SIZE - 1, OpenError::WrongSize { found: SIZE - 1, mapped: SIZE }),
        (SIZE + 1, OpenError::Truncated { found: SIZE + 1, mapped: SIZE }),
    ] {
        let mut words = VALID;
        words[2] = found;
        assert_eq!(open(&header(&mapping(&words)), false), Err(error));
    }
}

#[test]
fn an_opener_takes_the_dead_for_dead_and_itself_for_alive() {
    let opener = Opener::this_process(Instant::now()).unwrap();
    assert_eq!(opener.me, ProcessId::me());
    assert!(!(opener.is_dead)(opener.me));
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let process = ProcessId::of(child.id()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((opener.is_dead)(process));
}

/// It looks once a nap: each takes a millisecond at least, and what is spun before is bounded.
#[test]
fn who_waits_for_an_initialiser_naps() {
    let mut words = [0; 8];
    words[0] = (4711 << 40 | 99) << 2 | INITIALISING;
    let mapping = mapping(&words);
    let looks = AtomicU64::new(0);
    let Opener { me, home, .. } = at_once();
    let is_dead = |_| {
        looks.fetch_add(1, Relaxed);
        false
    };
    let begun = Instant::now();
    let opener = Opener { me, home, is_dead, deadline: begun + Duration::from_millis(200) };
    let opened = header(&mapping).open(&IDENTITY, &opener, || Ok::<(), Infallible>(()));
    assert_eq!(opened, Err(OpenError::NotReady { pid: 4711 }));
    let naps_max = begun.elapsed().as_millis() as u64 + 1;
    assert!(looks.load(Relaxed) <= naps_max + 20, "{} looks", looks.load(Relaxed));
}
