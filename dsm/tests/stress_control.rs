//! Real threads create, pass on, attach and leave segments for a fixed time: a segment that is
//! acknowledged has its object, and in the end there is none left.
#![cfg(not(shm_loom))]
use dsm::SegmentHandle;
use dsm::control::{Control, Objects};
use shm_core::mapping::Mapping;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_secs(2);
const SLOTS: u32 = 2;
const THREADS: u32 = 4;

#[derive(Default)]
struct System(Mutex<BTreeSet<SegmentHandle>>);

impl Objects for System {
    fn remove(&self, handle: SegmentHandle) {
        assert!(self.0.lock().unwrap().remove(&handle), "{handle} is removed twice");
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
