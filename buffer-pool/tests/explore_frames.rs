//! The frames under the explorer: whoever of those who find, load, evict, give back, take over and
//! reap dies where, a pinned page stays where it is, each frame has one page, and none is lost once
//! the dead are reaped; nobody waits for anybody.
#![cfg(shm_explore)]
mod frames_common;

use buffer_pool::frames::{Find, Frames, Free, Loading, PageId, Pin, User};
use frames_common::{Array, page};
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::sync::Arc;

const PAGES: u32 = 2;
/// A dead one's, which is in no scenario.
const GHOST: u32 = 20;

struct World {
    table: Table,
    hazards: Hazards,
    frames: Frames<Array>,
    mapping: Arc<Mapping>,
    frames_at: u64,
    /// The words of the frames, of which every eighth is a claim.
    words: MappedSlice<AtomicU64>,
    entries: Array,
    /// A word for each frame's bytes.
    bytes: MappedSlice<AtomicU64>,
    /// A word for each page in the file.
    file: MappedSlice<AtomicU64>,
    /// What the pages hold, wherever they are.
    holds: [u64; PAGES as usize],
    members: Vec<Arc<Member>>,
}

/// With so many members, which are the first processes of the scenario, and one who checks. No page
/// is in any frame.
fn world(members: u32, frames: u32) -> World {
    let seats = members + 2;
    let hazards_at = Table::bytes_for(seats);
    let entries_at = hazards_at + Hazards::bytes_for(seats, 1);
    let bytes_at = entries_at + Frames::<Array>::entry_bytes_for(PAGES.into());
    let file_at = bytes_at + u64::from(frames) * 8;
    let frames_at = (file_at + u64::from(PAGES) * 8).next_multiple_of(64);
    let mapping = Mapping::heap((frames_at + Frames::<Array>::bytes_for(frames)) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let hazards = unsafe { Hazards::create(&mapping, hazards_at, seats, 1) }.unwrap();
    // SAFETY: as above, and the rows end before.
    unsafe { Frames::<Array>::create_entries(&mapping, entries_at, PAGES.into()) }.unwrap();
    // SAFETY: as above, and the words end before.
    unsafe { Frames::<Array>::create(&mapping, frames_at, frames) }.unwrap();
    let entries = Array(MappedSlice::new(&mapping, entries_at, PAGES.into()).unwrap());
    let bytes = MappedSlice::new(&mapping, bytes_at, frames.into()).unwrap();
    let file: MappedSlice<AtomicU64> = MappedSlice::new(&mapping, file_at, PAGES.into()).unwrap();
    let holds = [1, 2];
    file.iter().zip(holds).for_each(|(word, value)| word.store(value, Relaxed));
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members = (1..=members + 1).map(join).collect();
    let attached = Frames::attach(&mapping, frames_at, frames, entries.clone(), hazards.clone());
    let frames = attached.unwrap();
    let words = MappedSlice::new(&mapping, frames_at, u64::from(frames.count()) * 8).unwrap();
    World {
        table,
        hazards,
        frames,
        mapping,
        frames_at,
        words,
        entries,
        bytes,
        file,
        holds,
        members,
    }
}

impl World {
    /// Page 0 is in frame 0, and newer than its file.
    fn with_page_0(mut self) -> World {
        let last = self.members.len() - 1;
        kernel::become_process(last as u32 + 1);
        let user = self.frames.users(&self.members[last]).unwrap().user().unwrap();
        assert_eq!(self.read(&user, 0, &[0]), Some(1));
        drop(user);
        self.holds[0] = 100;
        self.bytes[0].store(100, Relaxed);
        self
    }

    /// One has died as it read page 0 into frame 0.
    fn with_a_dead_loader(self) -> World {
        kernel::become_process(GHOST);
        let member = self.table.join().unwrap();
        let user = self.frames.users(&member).unwrap().user().unwrap();
        let free = self.free(&user, &[0], |_| true).pop().unwrap();
        std::mem::forget(free.load(page(0)).unwrap().unwrap());
        std::mem::forget((user, member));
        kernel::end_process(GHOST);
        self
    }

    fn user(&self, me: &Me) -> Option<User<Array>> {
        let users = self.frames.users(&self.members[me.pid() as usize - 1]);
        assert!(users.is_ok() || is_after_a_lie(), "{users:?}");
        users.ok()?.user().ok()
    }

    /// Whether an entry of these says that its page is in the frame, or comes or goes.
    fn is_named(&self, frame: u32, mut entries: impl Iterator<Item = u64>) -> bool {
        entries.any(|entry| entry != 0 && entry >> 32 == u64::from(frame))
    }

    /// Frames of ours, from pages that nobody uses: these are written to the file, where `may_go`
    /// does not mind. No entry names them.
    fn free<'u>(
        &self,
        user: &'u User<Array>,
        candidates: &[u32],
        may_go: impl Fn(u32) -> bool,
    ) -> Vec<Free<'u, Array>> {
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        let write = |frame: u32, page: PageId| {
            let (number, value) = (page.block(), self.bytes[frame as usize].load(Relaxed));
            let is_its = self.holds.get(number as usize) == Some(&value);
            assert!(is_its || is_after_a_lie(), "page {number} is to go, and is not there");
            let goes = may_go(frame);
            if let Some(word) = self.file.get(number as usize).filter(|_| goes) {
                word.store(value, Relaxed);
            }
            goes
        };
        user.evict(candidates, &mut protected, &mut free, write).unwrap();
        for frame in &free {
            let entries = self.entries.0.iter().map(|entry| entry.load(Relaxed));
            let is_named = self.is_named(frame.frame(), entries);
            assert!(!is_named || is_after_a_lie(), "a page is in a free frame");
        }
        free
    }

    /// A pinned page is where its pin says, and has its bytes.
    fn look_at(&self, pin: &Pin<'_>, number: u32) -> u64 {
        let value = self.bytes[pin.frame() as usize].load(Relaxed);
        let is_its = value == self.holds[number as usize];
        assert!(is_its || is_after_a_lie(), "page {number} holds {value} under a pin");
        let entry = self.entries.0[number as usize].load(Relaxed);
        let is_here = entry & 2 != 0 && entry >> 32 == u64::from(pin.frame());
        assert!(is_here || is_after_a_lie(), "page {number} went under a pin: {entry:#x}");
        value
    }

    /// Page `number`, that we read in, into a frame of `candidates`, or for one who is dead.
    fn load<'u>(
        &self,
        user: &'u User<Array>,
        number: u32,
        candidates: &[u32],
    ) -> Option<Result<Pin<'u>, Loading<'u, Array>>> {
        let found = user.find(page(number));
        assert!(found.is_ok() || is_after_a_lie(), "{found:?}");
        match found.ok()? {
            Find::Pinned(pin) => Some(Ok(pin)),
            Find::Loading { frame } => {
                let loading = user.take_over(page(number), frame);
                assert!(loading.is_ok() || is_after_a_lie(), "{loading:?}");
                Some(Err(loading.ok()??))
            }
            Find::Absent => {
                let free = self.free(user, candidates, |_| true).pop()?;
                Some(Err(free.load(page(number)).unwrap().ok()?))
            }
        }
    }

    /// Reads page `number`, from where it is or from its file, as `load`.
    fn read(&self, user: &User<Array>, number: u32, candidates: &[u32]) -> Option<u64> {
        let pin = match self.load(user, number, candidates)? {
            Ok(pin) => pin,
            Err(loading) => {
                let value = self.file[number as usize].load(Relaxed);
                let bytes = &self.bytes[loading.frame() as usize];
                // They come one after the other.
                bytes.store(0, Relaxed);
                bytes.store(value, Relaxed);
                loading.publish().unwrap().ok()?
            }
        };
        Some(self.look_at(&pin, number))
    }

    fn reap(&self) {
        self.table.reap(|dead| self.frames.reap(dead));
    }

    /// Who comes last, and reaps: nobody has anything, every page is what it was last, and every
    /// frame can be had.
    fn is_whole(&self) {
        self.reap();
        let entries: Vec<u64> = self.entries.0.iter().map(|entry| entry.load(Relaxed)).collect();
        let at_rest = |entry: &u64| matches!(*entry as u32, 0 | 2);
        assert!(entries.iter().all(at_rest), "a page comes or goes for ever: {entries:x?}");
        assert!(entries[0] == 0 || entries[0] != entries[1], "two pages in one frame");
        let is_claimed = self.words.iter().step_by(8).any(|claim| claim.load(Relaxed) != 0);
        assert!(!is_claimed, "a claim is left");
        let last = self.members.last().unwrap();
        let user = self.frames.users(last).unwrap().user().unwrap();
        let all: Vec<u32> = (0..self.frames.count()).collect();
        for (number, holds) in (0..).zip(self.holds) {
            assert_eq!(self.read(&user, number, &all), Some(holds), "page {number} is lost");
        }
        let free = self.free(&user, &all, |_| true);
        assert_eq!(free.len(), all.len(), "a frame is lost");
    }
}

/// Reads a page, as [`World::read`].
fn visitor<'a>(world: &'a World, number: u32, candidates: &'a [u32]) -> Process<'a> {
    Process::new("visitor", move |me| {
        let Some(user) = world.user(me) else { return };
        me.say(world.read(&user, number, candidates).unwrap_or(0));
    })
    .mortal()
    .never_waits()
}

/// Reads both pages, one after the other, into frame 0.
fn reads_both(world: &World) -> Process<'_> {
    Process::new("reads both", |me| {
        let Some(user) = world.user(me) else { return };
        world.read(&user, 0, &[0]);
        world.read(&user, 1, &[0]);
    })
    .mortal()
    .never_waits()
}

/// Would have frame 0, and lets its page stay; or gives it back.
fn gives_back(world: &World) -> Process<'_> {
    Process::new("gives back", |me| {
        let Some(user) = world.user(me) else { return };
        drop(world.free(&user, &[0], |_| false));
    })
    .mortal()
    .never_waits()
}

/// Reads page 1, or would: its file cannot be read.
fn fails(world: &World) -> Process<'_> {
    Process::new("fails", |me| {
        let Some(user) = world.user(me) else { return };
        drop(world.load(&user, 1, &[0]));
    })
    .mortal()
    .never_waits()
}

fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |_| world.reap()).mortal().never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("frames", name).states_at_most(250_000)
}

/// For cases of three: as many deaths, and interruptions, as can be gone through whole.
fn of_three<'a>(name: &str) -> Scenario<'a> {
    let deaths = if is_deep() { 2 } else { 1 };
    let case = scenario(&format!("{name}, deaths: {deaths}")).deaths(deaths);
    case.preemptions_at_most(1)
}

#[test]
fn who_evicts_and_who_finds_may_die_anywhere() {
    let world = world(2, 2).with_page_0();
    // Nobody else wants what it needs.
    let check = |end: &End<'_>| {
        assert!(!end.has_finished(1) || end.said(1) == [100], "page 0 was not to be had");
        world.is_whole();
    };
    let case = scenario("one evicts, one finds, two deaths").deaths(2);
    let case = case.process(visitor(&world, 1, &[0])).process(visitor(&world, 0, &[1]));
    case.check(check).explore();
    let case = of_three("one evicts, one finds, a reaper");
    let case = case.process(visitor(&world, 1, &[0])).process(visitor(&world, 0, &[1]));
    case.process(reaper(&world)).check(check).explore();
}

#[test]
fn who_loads_may_die_anywhere() {
    let world = world(2, 2);
    let case = of_three("two load a page, a reaper");
    let case = case.process(visitor(&world, 1, &[0])).process(visitor(&world, 1, &[1]));
    case.process(reaper(&world)).check(|_| world.is_whole()).explore();
    let case = of_three("one cannot read, one loads, a reaper");
    let case = case.process(fails(&world)).process(visitor(&world, 1, &[1]));
    case.process(reaper(&world)).check(|_| world.is_whole()).explore();
}

#[test]
fn a_frame_has_one_taker() {
    let world = world(3, 1);
    let case = of_three("two pages, one frame, a reaper");
    let case = case.process(visitor(&world, 0, &[0])).process(visitor(&world, 1, &[0]));
    case.process(reaper(&world)).check(|_| world.is_whole()).explore();
}

/// The frame has changed hands, and its page again, since it was found to be loading.
#[test]
fn who_takes_over_late_puts_right_what_is_there() {
    let world = world(2, 1);
    let case = scenario("one reads both pages, one takes over, a death").deaths(1);
    let case = case.process(reads_both(&world)).process(visitor(&world, 0, &[0]));
    case.check(|_| world.is_whole()).explore();
}

#[test]
fn who_lets_a_page_stay_may_die_anywhere() {
    let world = world(3, 2).with_page_0();
    let case = of_three("one gives back, one evicts, one finds");
    let case = case.process(gives_back(&world)).process(visitor(&world, 1, &[0]));
    case.process(visitor(&world, 0, &[1])).check(|_| world.is_whole()).explore();
}

/// One has died as it read page 0. Another takes over, and wants the frame for page 1, while the
/// dead one is reaped, or while one more would take over.
#[test]
fn a_reaper_that_comes_late_takes_nothing_away() {
    let world = world(2, 1).with_a_dead_loader();
    let case = scenario("one takes over, a reaper, two deaths").deaths(2);
    let case = case.process(reads_both(&world)).process(reaper(&world));
    case.check(|_| world.is_whole()).explore();
    let case = scenario("two take over, a death").deaths(1);
    let case = case.process(visitor(&world, 0, &[0])).process(reads_both(&world));
    case.check(|_| world.is_whole()).explore();
}

/// One stands still for ever: as it would have a frame, with one, as it reads, with a pin.
#[test]
fn who_stands_still_keeps_its_own_frame_only() {
    type Stays<'a> = dyn Fn(&Me, &User<Array>) + 'a;
    let world = world(2, 2).with_page_0();
    let stays: [(&str, &Stays<'_>); 4] = [
        ("leaving", &|me, user| {
            world.free(user, &[0], |_| {
                me.stay();
                true
            });
        }),
        ("free", &|me, user| {
            let _free = world.free(user, &[0], |_| true);
            me.stay();
        }),
        ("loading", &|me, user| {
            let _loading = world.load(user, 1, &[0]);
            me.stay();
        }),
        ("pinned", &|me, user| {
            let _page = world.load(user, 0, &[0]);
            me.stay();
        }),
    ];
    for (what, stays) in stays {
        let stands = Process::new("stands still", |me| {
            if let Some(user) = world.user(me) {
                stays(me, &user);
            }
        });
        let case = scenario(&format!("one stands still, {what}, a death")).deaths(1);
        let case = case.process(stands.mortal().never_waits());
        let case = case.process(visitor(&world, 0, &[1]));
        let check = |end: &End<'_>| {
            assert!(!end.has_finished(1) || end.said(1) == [100], "page 0 was not to be had");
            if end.is_dead(0) {
                return world.is_whole();
            }
            world.reap();
            let last = world.members.last().unwrap();
            let user = world.frames.users(last).unwrap().user().unwrap();
            assert_eq!(world.read(&user, 0, &[0, 1]), Some(100), "page 0 was not to be had");
            let free = world.free(&user, &[0, 1], |_| true);
            assert!(!free.is_empty(), "it keeps them all");
        };
        case.check(check).explore();
    }
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2, 2).with_page_0();
    let case = scenario("a lie").lies(1);
    let case = case.process(visitor(&world, 1, &[0])).process(visitor(&world, 0, &[1]));
    case.process(reaper(&world)).preemptions_at_most(1).explore();
}

/// Planted bug: who would have a frame does not look who uses it.
#[test]
fn finds_an_evictor_that_does_not_scan() {
    let world = world(2, 2).with_page_0();
    let rows = Mapping::heap(Hazards::bytes_for(world.hazards.seats(), 1) as usize);
    // SAFETY: nobody else has the mapping yet.
    let others = unsafe { Hazards::create(&rows, 0, world.hazards.seats(), 1) }.unwrap();
    let (entries, count) = (world.entries.clone(), world.frames.count());
    let blind = Frames::attach(&world.mapping, world.frames_at, count, entries, others).unwrap();
    let hasty = Process::new("hasty", |me| {
        let user = blind.users(&world.members[me.pid() as usize - 1]).unwrap().user().unwrap();
        world.free(&user, &[0], |_| true);
    });
    let case = scenario("does not scan").process(visitor(&world, 0, &[1])).process(hasty);
    finds("under a pin", || case.explore());
}

/// Planted bug: the claim of one that only seems dead is taken away, and the frame used.
#[test]
fn finds_a_death_that_was_guessed() {
    let world = world(2, 1);
    let guesses = Process::new("guesses", |me| {
        world.frames.reap(world.members[0].id());
        let Some(user) = world.user(me) else { return };
        world.read(&user, 0, &[0]);
    });
    let case = scenario("guesses").process(visitor(&world, 1, &[0])).process(guesses);
    finds("under a pin", || case.explore());
}
