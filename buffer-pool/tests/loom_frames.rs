//! The frames in weak memory: who has pinned a page reads that page, as it was last written; each
//! page is in one frame; whoever dies where, the others go on, and no frame is lost.
//!
//! Frames are cells whose unordered accesses fail the model, and so is the file.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod frames_common;

use buffer_pool::frames::{Find, Frames, Free, Limit, PageId, Stock, User};
use frames_common::{Array, page};
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::ProcessId;
use shm_core::process::model::become_process;
use shm_core::sync::AtomicU32;
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

const SEATS: u32 = 3;
const FRAMES: u32 = 2;
const PAGES: u64 = 2;
/// What a page of this number holds at first, and once it was changed.
const CHANGED: u64 = 100;

/// Numbers in frames, or in the file.
struct Cells<const N: usize>([UnsafeCell<u64>; N]);
// SAFETY: loom checks that every access is ordered.
unsafe impl<const N: usize> Sync for Cells<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Send for Cells<N> {}

impl<const N: usize> Cells<N> {
    fn read(&self, at: u32) -> u64 {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0[at as usize].with(|cell| unsafe { *cell })
    }

    fn write(&self, at: u32, value: u64) {
        // SAFETY: loom checks that nobody reads meanwhile.
        self.0[at as usize].with_mut(|cell| unsafe { *cell = value });
    }
}

#[derive(Clone)]
struct World {
    table: Table,
    hazards: Hazards,
    mapping: Arc<Mapping>,
    entries: Array,
    bytes: Arc<Cells<2>>,
    file: Arc<Cells<2>>,
}

fn world() -> World {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    let hazards = hazards();
    let words = Mapping::heap(Frames::<Array>::entry_bytes_for(PAGES) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create_entries(&words, 0, PAGES) }.unwrap();
    let entries = Array(MappedSlice::new(&words, 0, PAGES).unwrap());
    let mapping = Mapping::heap(Frames::<Array>::bytes_for(FRAMES) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create(&mapping, 0, FRAMES) }.unwrap();
    let bytes = Arc::new(Cells([0, 0].map(UnsafeCell::new)));
    let file = Arc::new(Cells([0, 1].map(UnsafeCell::new)));
    World { table, hazards, mapping, entries, bytes, file }
}

fn hazards() -> Hazards {
    let mapping = Mapping::heap(Hazards::bytes_for(SEATS, 1) as usize);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Hazards::create(&mapping, 0, SEATS, 1) }.unwrap()
}

/// One process of the world, which has taken its row.
struct Process {
    world: World,
    user: User<Array>,
    process: ProcessId,
    table: Table,
}

impl World {
    /// Joined by the thread that makes the world: in the table in this order.
    fn join(&self, number: u32) -> Arc<Member> {
        become_process(number);
        let member = self.table.join().unwrap();
        become_process(1);
        member
    }

    fn enter(&self, member: &Arc<Member>) -> Process {
        Process {
            user: self.frames().users(member).unwrap().user().unwrap(),
            process: member.process(),
            table: self.table.clone(),
            world: self.clone(),
        }
    }

    fn frames(&self) -> Frames<Array> {
        let (entries, hazards) = (self.entries.clone(), self.hazards.clone());
        Frames::attach(&self.mapping, 0, FRAMES, entries, hazards).unwrap()
    }

    /// The page is read in, and changed: its file has the old one.
    fn is_changed(&self, number: u32) -> bool {
        self.file.read(number) != CHANGED + u64::from(number)
    }
}

impl Process {
    /// Frames of ours, from pages that nobody uses; what is older in the file is written first.
    fn free(&self, candidates: &[u32]) -> Vec<Free<'_, Array>> {
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        let world = &self.world;
        let write = |frame: u32, page: PageId| {
            let value = world.bytes.read(frame);
            assert_eq!(value % CHANGED, u64::from(page.block()), "another page");
            if world.is_changed(page.block()) {
                world.file.write(page.block(), value);
            }
            true
        };
        self.user.evict(candidates, &mut protected, &mut free, write).unwrap();
        free
    }

    /// Reads page `number`, from where it is or from its file into a frame of `candidates`, where
    /// one can be had. What is read.
    fn read(&self, number: u32, candidates: &[u32]) -> Option<u64> {
        let loading = match self.user.find(page(number)).unwrap() {
            Find::Pinned(pin) => {
                let value = self.world.bytes.read(pin.frame());
                assert_eq!(value % CHANGED, u64::from(number), "another page");
                return Some(value);
            }
            Find::Loading { frame } => self.user.take_over(page(number), frame).unwrap()?,
            Find::Absent => {
                let free = self.free(candidates).pop()?;
                free.load(page(number)).unwrap().ok()?
            }
        };
        let value = self.world.file.read(number);
        self.world.bytes.write(loading.frame(), value);
        let pin = loading.publish().unwrap().ok()?;
        Some(self.world.bytes.read(pin.frame()))
    }

    /// Runs `work` in a process that may die of it; whether it has lived.
    fn live<R>(self, life: Life, work: impl FnOnce(&Process) -> R) -> Option<R> {
        let end = life.run(|| work(&self));
        if end.is_none() {
            process_ends(&self.table, self.process);
            std::mem::forget(self);
        }
        end
    }
}

/// Page 0 is in frame 0, changed.
fn with_page_0(world: &World, member: &Arc<Member>) {
    let process = world.enter(member);
    assert_eq!(process.read(0, &[0]), Some(0));
    world.bytes.write(0, CHANGED);
}

/// The last one, who reaps: every frame can be had, every page is what it was last.
fn end(world: &World, member: &Arc<Member>, page_0: u64) {
    let frames = world.frames();
    world.table.reap(|dead| frames.reap(dead));
    let process = world.enter(member);
    assert_eq!(process.read(0, &[0, 1]), Some(page_0));
    assert_eq!(process.read(1, &[0, 1]), Some(1));
    assert_eq!(process.free(&[0, 1]).len(), 2, "a frame is lost");
}

/// One takes frame 0 from page 0 and reads page 1 into it; one reads page 0, where it is, or into
/// frame 1.
fn evicts_and_finds([one, other]: [Life; 2]) {
    let world = world();
    let last = world.join(1);
    with_page_0(&world, &last);
    let members = [world.join(2), world.join(3)];
    let (theirs, member) = (world.clone(), members[0].clone());
    let evictor = model::thread::spawn(move || {
        become_process(2);
        let read = theirs.enter(&member).live(one, |me| me.read(1, &[0]));
        std::mem::forget(member);
        read
    });
    let (theirs, member) = (world.clone(), members[1].clone());
    let reader = model::thread::spawn(move || {
        become_process(3);
        let read = theirs.enter(&member).live(other, |me| me.read(0, &[1]));
        std::mem::forget(member);
        read
    });
    evictor.join().unwrap();
    if let Some(read) = reader.join().unwrap() {
        assert_eq!(read, Some(CHANGED), "page 0 as it was before, or not at all");
    }
    end(&world, &last, CHANGED);
    std::mem::forget(members);
}

/// Two read one page that is in no frame.
fn both_load([one, other]: [Life; 2]) {
    let world = world();
    let last = world.join(1);
    let members = [world.join(2), world.join(3)];
    let threads = [(one, 2, 0), (other, 3, 1)].map(|(life, number, frame)| {
        let (theirs, member) = (world.clone(), members[number as usize - 2].clone());
        model::thread::spawn(move || {
            become_process(number);
            let read = theirs.enter(&member).live(life, |me| me.read(1, &[frame]));
            std::mem::forget(member);
            read
        })
    });
    let read = threads.map(|thread| thread.join().unwrap());
    assert!(read.iter().flatten().flatten().all(|read| *read == 1));
    let nobody = read.iter().all(|read| *read == Some(None));
    assert!(!nobody, "both live, and none has it");
    end(&world, &last, 0);
    std::mem::forget(members);
}

/// Two read a page each, into the same frame, one after the other or only one of them.
fn share_a_frame(lives: [Life; 2]) {
    let world = world();
    let last = world.join(1);
    let members = [world.join(2), world.join(3)];
    let mut numbers = 0..;
    let threads = lives.map(|life| {
        let number: u32 = numbers.next().unwrap();
        let (theirs, member) = (world.clone(), members[number as usize].clone());
        model::thread::spawn(move || {
            become_process(number + 2);
            let read = theirs.enter(&member).live(life, |me| me.read(number, &[0]));
            std::mem::forget(member);
            read
        })
    });
    for (number, thread) in (0..).zip(threads) {
        assert!(thread.join().unwrap().flatten().is_none_or(|read| read == number));
    }
    end(&world, &last, 0);
    std::mem::forget(members);
}

/// One reads a page in, and would have the frame again, but may not; one finds the page meanwhile.
/// Who finds it does not fence.
fn found_while_leaving() {
    let mut world = world();
    world.hazards = world.hazards.unfenced();
    let members = [world.join(2), world.join(3)];
    let (theirs, member) = (world.clone(), members[0].clone());
    let evictor = model::thread::spawn(move || {
        become_process(2);
        let process = theirs.enter(&member);
        assert_eq!(process.read(1, &[0]), Some(1));
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        process.user.evict(&[0], &mut protected, &mut free, |_, _| false).unwrap();
        assert!(free.is_empty());
        drop(free);
        std::mem::forget((process, member));
    });
    become_process(3);
    let process = world.enter(&members[1]);
    if let Find::Pinned(pin) = process.user.find(page(1)).unwrap() {
        assert_eq!(world.bytes.read(pin.frame()), 1);
    }
    evictor.join().unwrap();
    std::mem::forget((process, members));
}

/// One looks at what is in a frame, and lets the page stay; one takes the frame.
fn given_back() {
    let world = world();
    let last = world.join(1);
    with_page_0(&world, &last);
    let members = [world.join(2), world.join(3)];
    let (theirs, member) = (world.clone(), members[0].clone());
    let first = model::thread::spawn(move || {
        become_process(2);
        let process = theirs.enter(&member);
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        let looks = |frame, _| theirs.bytes.read(frame) != CHANGED;
        process.user.evict(&[0], &mut protected, &mut free, looks).unwrap();
        drop(free);
        std::mem::forget((process, member));
    });
    become_process(3);
    let process = world.enter(&members[1]);
    process.read(1, &[0]);
    first.join().unwrap();
    std::mem::forget((process, members));
}

/// What is in a frame whose memory was taken away.
const GONE: u64 = 7777;

/// One lowers the limit to one frame, and takes the memory of the other away, if it can have that
/// frame; one reads a page into it, if it may.
fn lowered([one, other]: [Life; 2]) {
    let world = world();
    let last = world.join(1);
    let word = Mapping::heap(size_of::<AtomicU32>());
    // SAFETY: nobody else has the mapping yet.
    let word = unsafe { Mapped::place(&word, 0, AtomicU32::new(FRAMES)) }.unwrap();
    let limit = Limit::new(word, FRAMES);
    let members = [world.join(2), world.join(3)];
    let (theirs, member, limits) = (world.clone(), members[0].clone(), limit.clone());
    let reader = model::thread::spawn(move || {
        become_process(2);
        let reads = |me: &Process| {
            let free = me.free(&[1]).pop().filter(|free| limits.admits(free))?;
            let loading = free.load(page(1)).unwrap().ok()?;
            me.world.bytes.write(1, me.world.file.read(1));
            let pin = loading.publish().unwrap().ok()?;
            Some(me.world.bytes.read(pin.frame()))
        };
        let read = theirs.enter(&member).live(one, reads);
        std::mem::forget(member);
        read
    });
    become_process(3);
    let shrinks = |me: &Process| {
        limit.set(1);
        let free = me.free(&[1]).pop();
        if free.is_some() {
            me.world.bytes.write(1, GONE);
        }
        free.is_some()
    };
    let shrunk = world.enter(&members[1]).live(other, shrinks);
    let read = reader.join().unwrap();
    assert!(read.flatten().is_none_or(|read| read == 1));
    become_process(1);
    if shrunk == Some(true) {
        assert_eq!(world.bytes.read(1), GONE, "written behind the limit");
        assert_eq!(world.frames().resident_in(1), None);
    }
    end(&world, &last, 0);
    std::mem::forget(members);
}

/// One has page 0 leave frame 0, puts the frame by, and would have it back; one takes it.
fn put_by([one, other]: [Life; 2]) {
    let world = world();
    let last = world.join(1);
    with_page_0(&world, &last);
    let members = [world.join(2), world.join(3)];
    let (theirs, member) = (world.clone(), members[0].clone());
    let owner = model::thread::spawn(move || {
        become_process(2);
        let puts_by = |me: &Process| {
            let mut stock = Stock::default();
            for free in me.free(&[0]) {
                me.user.put_by(&mut stock, free);
            }
            let free = me.user.take_from(&mut stock);
            if let Some(free) = &free {
                me.world.bytes.write(free.frame(), GONE);
            }
        };
        theirs.enter(&member).live(one, puts_by);
        std::mem::forget(member);
    });
    let (theirs, member) = (world.clone(), members[1].clone());
    let thief = model::thread::spawn(move || {
        become_process(3);
        let read = theirs.enter(&member).live(other, |me| me.read(1, &[0]));
        std::mem::forget(member);
        read
    });
    owner.join().unwrap();
    assert!(thief.join().unwrap().flatten().is_none_or(|read| read == 1));
    end(&world, &last, CHANGED);
    std::mem::forget(members);
}

#[test]
fn who_lowers_the_limit_and_who_has_put_by_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("frames, lowered: {:?}", model::every_death_of(bound - 1, lowered));
    println!("frames, put by: {:?}", model::every_death_of(bound - 1, put_by));
}

#[test]
fn who_evicts_and_who_finds_may_die_anywhere() {
    let bound = model::preemption_bound();
    // One preemption with one death, and none with two; with `SHM_DEEP=1` as many as elsewhere.
    let [one, two] = if is_deep() { [bound, bound - 1] } else { [1, 0] };
    println!("frames, evict and find: {:?}", model::every_death_of(one, evicts_and_finds));
    println!("frames, two deaths: {:?}", model::every_two_deaths(two, evicts_and_finds));
}

#[test]
fn who_loads_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("frames, both load: {:?}", model::every_death_of(bound - 1, both_load));
    println!("frames, one frame: {:?}", model::every_death_of(bound - 1, share_a_frame));
}

#[test]
fn every_ordering_of_the_frames_matters() {
    // What is lost without it would be seen between the store and the fence of the notification
    // that follows; loom does not switch to another thread there.
    let not_here = ["give_up: if claim.compare_exchange"];
    let found = model::every_ordering_matters_but(&["src/frames/"], &not_here, || {
        model::check(|| evicts_and_finds([Life::endless(), Life::endless()]));
        model::check(|| share_a_frame([Life::endless(), Life::endless()]));
        model::check(found_while_leaving);
        model::check(given_back);
        model::check(|| put_by([Life::endless(), Life::endless()]));
    });
    // Four Acquires, three Releases.
    assert_eq!(found, 7);
}

/// Planted bug: who would have a frame does not look who uses it.
#[test]
fn finds_a_frame_that_is_taken_from_under_a_pin() {
    model::finds("Causality violation", || {
        model::check(|| {
            let world = world();
            let last = world.join(1);
            with_page_0(&world, &last);
            let blind = World { hazards: hazards(), ..world.clone() };
            let members = [world.join(2), world.join(3)];
            let (theirs, member) = (blind, members[0].clone());
            let evictor = model::thread::spawn(move || {
                become_process(2);
                let process = theirs.enter(&member);
                process.read(1, &[0]);
                std::mem::forget((process, member));
            });
            become_process(3);
            let process = world.enter(&members[1]);
            process.read(0, &[1]);
            evictor.join().unwrap();
            std::mem::forget((process, members));
        });
    });
}
