//! What is published by a relative pointer outlives who publishes it, and a free list outlives
//! whoever dies at it: nobody finds half a record, and no record is on the list twice.
#![cfg(not(any(shm_loom, shm_explore)))]
use relptr::{AtomicRelPtr, AtomicTaggedRelPtr, BadPtr, Region, RelPtr, ShmSync};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::sync::atomic::{AtomicU64, Ordering};

const RECORDS: usize = 4;
const WHOLE: u64 = 0xfeed;
/// In the notes: a record was taken; it was published; one was given back.
const TAKEN: usize = 0;
const PUBLISHED: usize = 1;
const RETURNED: usize = 2;

#[repr(C)]
struct Record {
    next: AtomicRelPtr<Record>,
    value: AtomicU64,
}

#[repr(C)]
struct Shared {
    free: AtomicTaggedRelPtr<Record>,
    newest: AtomicRelPtr<Record>,
    records: [Record; RECORDS],
}

// SAFETY: atomics only.
unsafe impl ShmSync for Record {}
// SAFETY: atomics only.
unsafe impl ShmSync for Shared {}

struct World {
    memory: SharedMemory,
}

impl World {
    fn new() -> World {
        let world = World { memory: SharedMemory::new(size_of::<Shared>()) };
        for record in world.shared().records.iter().rev() {
            world.push(record).unwrap();
        }
        world
    }

    fn region(&self) -> Region<'_> {
        // SAFETY: whole pages of shared memory, mapped as long as self; only atomics refer to it.
        unsafe { Region::from_raw(self.memory.base(), self.memory.len()) }
    }

    fn shared(&self) -> &Shared {
        self.region().share(0).unwrap()
    }

    fn push(&self, record: &Record) -> Result<(), BadPtr> {
        let free = &self.shared().free;
        let mut head = free.load(Ordering::Relaxed);
        loop {
            record.next.store(head.ptr(), Ordering::Relaxed);
            let new = head.advance(RelPtr::from_ref(self.region(), record)?)?;
            match free.compare_exchange(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self) -> Result<Option<&Record>, BadPtr> {
        let free = &self.shared().free;
        let mut head = free.load(Ordering::Acquire);
        while head.ptr() != RelPtr::NULL {
            let first = head.ptr().share(self.region())?;
            let new = head.advance(first.next.load(Ordering::Relaxed))?;
            match free.compare_exchange(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Ok(Some(first)),
                Err(now) => head = now,
            }
        }
        Ok(None)
    }

    /// What is published; it must be whole.
    fn newest(&self) -> Result<Option<&Record>, String> {
        let newest = self.shared().newest.load(Ordering::Acquire);
        if newest == RelPtr::NULL {
            return Ok(None);
        }
        let record = newest.share(self.region()).map_err(|error| error.to_string())?;
        match record.value.load(Ordering::Relaxed) {
            WHOLE => Ok(Some(record)),
            half => Err(format!("half a record is published: {half:#x}")),
        }
    }
}

/// Takes a record, fills it, publishes it; takes another and gives it back.
struct Publish {
    /// Planted: the record is published before it is filled.
    is_hasty: bool,
}

impl Scenario for Publish {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("relative pointers, publish and free list, hasty: {}", self.is_hasty)
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "relptr::AtomicRelPtr::store",
            "relptr::AtomicRelPtr::load",
            "relptr::AtomicTaggedRelPtr::compare_exchange",
        ]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        let record = world.pop().unwrap().unwrap();
        notes.set(TAKEN, 1);
        let pointer = RelPtr::from_ref(world.region(), record).unwrap();
        if self.is_hasty {
            world.shared().newest.store(pointer, Ordering::Release);
        }
        record.value.store(WHOLE, Ordering::Relaxed);
        world.shared().newest.store(pointer, Ordering::Release);
        notes.set(PUBLISHED, 1);
        let other = world.pop().unwrap().unwrap();
        world.push(other).unwrap();
        notes.set(RETURNED, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let newest = world.newest()?;
        if newest.is_none() && notes.get(PUBLISHED) == 1 {
            return Err("it was told that its record is published".into());
        }
        let mut free: Vec<*const Record> = newest.map(std::ptr::from_ref).into_iter().collect();
        while let Some(record) = world.pop().map_err(|error| error.to_string())? {
            if free.contains(&std::ptr::from_ref(record)) {
                return Err("a record is free twice, or free and published".into());
            }
            free.push(record);
        }
        // Who dies with a record in hand takes it along: one.
        let least = if notes.get(RETURNED) == 1 { RECORDS } else { RECORDS - 1 };
        let count = free.len();
        if count < least { Err(format!("of {RECORDS} records there are {count}")) } else { Ok(()) }
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let record = world.pop().map_err(|error| error.to_string())?.ok_or("nothing free")?;
            world.push(record).map_err(|error| error.to_string())
        }))
    }
}

#[test]
fn who_publishes_may_die_anywhere() {
    Run::new(&Publish { is_hasty: false }).points(600).kill().passes();
}

#[test]
fn who_stands_still_hinders_nobody() {
    Run::new(&Publish { is_hasty: false }).points(200).stop().passes();
}

#[test]
fn a_record_published_before_it_is_filled_is_found() {
    Run::new(&Publish { is_hasty: true }).points(600).kill().finds("half a record is published");
}
