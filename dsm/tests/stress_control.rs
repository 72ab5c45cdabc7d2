//! Real threads create, pass on, attach and leave segments for a fixed time: a segment that is
//! acknowledged has its object, and in the end there is none left. Once on the table alone, each
//! thread a participant; once in a domain, where the threads of a process share a seat.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend;
use dsm::control::{Control, Objects};
use dsm::{AttachError, Domain, DomainConfig, PinError, Segment, SegmentHandle};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::unique::Unique;
use shm_testkit::watchdog::within;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const SLOTS: u32 = 2;
const THREADS: u32 = 4;

#[derive(Default)]
struct System(Mutex<BTreeSet<SegmentHandle>>);

impl Objects for System {
    fn remove(&self, handle: SegmentHandle) -> bool {
        assert!(self.0.lock().unwrap().remove(&handle), "{handle} is removed twice");
        true
    }

    fn remove_domain(&self) {
        panic!("nobody has been in the domain, so nobody leaves it");
    }
}

#[test]
fn what_is_attached_exists() {
    let mapping = Mapping::heap(Control::bytes_for(SLOTS, 64 * THREADS) as usize);
    // SAFETY: nobody else has the mapping yet.
    let control = unsafe { Control::create(&mapping, 0, SLOTS, 64 * THREADS, 1) }.unwrap();
    let (system, last, counts) =
        (System::default(), AtomicU64::new(0), [(); 3].map(|()| AtomicU64::new(0)));
    let count = |what: usize| counts[what].fetch_add(1, Ordering::Relaxed);
    let end = Instant::now() + TIME;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (control, system, last) = (&control, &system, &last);
            // Each in a word of its own.
            let me = ParticipantId::from_bits((thread * 64) << 22 | 1).unwrap();
            let actor = control.actor(me, system);
            scope.spawn(move || {
                let exists = |handle| system.0.lock().unwrap().contains(&handle);
                while Instant::now() < end {
                    if let Some(handle) = actor.claim() {
                        system.0.lock().unwrap().insert(handle);
                        assert!(actor.publish(handle, handle.to_bits()));
                        last.store(handle.to_bits(), Ordering::Relaxed);
                        count(0);
                        assert!(exists(handle));
                        actor.detach(handle);
                    }
                    for _ in 0..3 {
                        let handle = SegmentHandle::from_bits(last.load(Ordering::Relaxed));
                        let Some(handle) = handle else { continue };
                        let Some(size) = actor.attach(handle) else {
                            count(2);
                            continue;
                        };
                        assert_eq!(size, handle.to_bits());
                        assert!(exists(handle));
                        count(1);
                        actor.detach(handle);
                    }
                }
            });
        }
    });
    let [created, attached, gone] = counts.map(|count| count.load(Ordering::Relaxed));
    println!("{created} created, {attached} attached, {gone} came too late");
    assert!(created > 0 && attached > 0 && gone > 0);
    assert!(system.0.lock().unwrap().is_empty());
    assert!(control.segments().is_empty());
}

/// One thread's dice.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end
    }
}

/// The first word of a segment says which it is, or nothing yet.
fn check(segment: &Segment) {
    let word = Mapped::<AtomicU64>::new(segment.mapping(), 0).unwrap();
    let (seen, bits) = (word.load(Ordering::Relaxed), segment.handle().to_bits());
    assert!(seen == 0 || seen == bits, "another segment's memory");
    word.store(bits, Ordering::Relaxed);
}

/// What one thread does to a domain that it shares with others.
fn play(domain: &Domain, handles: &Mutex<Vec<SegmentHandle>>, mut dice: Dice, end: Instant) -> u64 {
    let (mut mine, mut attached) = (Vec::new(), 0);
    while Instant::now() < end {
        let known = {
            let handles = handles.lock().unwrap();
            let nth = dice.below(handles.len().max(1) as u64) as usize;
            handles.get(nth).copied()
        };
        match (dice.below(8), known) {
            (0, _) => {
                if let Ok(segment) = domain.create_segment(1) {
                    let mut handles = handles.lock().unwrap();
                    handles.push(segment.handle());
                    if handles.len() > 8 {
                        handles.remove(0);
                    }
                    mine.push(segment);
                }
            }
            (1 | 2, Some(handle)) => match domain.attach(handle) {
                Ok(segment) => {
                    attached += u64::from(segment.is_some());
                    mine.extend(segment);
                }
                Err(AttachError::AlreadyAttached(_)) => {}
                Err(other) => panic!("{other}"),
            },
            (3, Some(handle)) => mine.extend(domain.find_mapping(handle)),
            (4, Some(handle)) => match domain.unpin(handle) {
                Ok(()) | Err(PinError::NotPinned(_) | PinError::Unknown(_)) => {}
                Err(other) => panic!("{other}"),
            },
            (5, _) => mine.iter().last().into_iter().for_each(|segment| {
                let _ = segment.pin();
            }),
            _ if !mine.is_empty() => {
                let segment = mine.swap_remove(dice.below(mine.len() as u64) as usize);
                check(&segment);
                let (one, other) = (segment.clone(), segment.mapping().clone());
                drop((segment, one));
                drop(other);
            }
            _ => {}
        }
        mine.iter().for_each(check);
    }
    attached
}

#[test]
fn the_threads_of_a_process_share_a_seat() {
    let unique = Unique::new("threads");
    let config = DomainConfig { backend: Some(Backend::Posix), ..DomainConfig::new(unique.name()) };
    let domains = [(); 2].map(|()| Domain::open(config.clone()).unwrap());
    let (handles, end) = (Mutex::new(Vec::new()), Instant::now() + TIME);
    let attached: u64 = within(10 * TIME, || {
        std::thread::scope(|scope| {
            let threads = (0..6).map(|thread| {
                let (domain, handles) = (&domains[thread % 2], &handles);
                scope.spawn(move || play(domain, handles, Dice(thread as u64), end))
            });
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    });
    println!("{attached} attached");
    assert!(attached > 0);
    for left in domains[0].segments() {
        assert!(left.pinned && left.attached.is_empty(), "left over: {left:?}");
    }
    let [one, other] = domains;
    drop(one);
    other.destroy().unwrap();
    unique.assert_nothing_left(Duration::ZERO);
}
