//! The files under the explorer: whoever of those who register, extend, shorten, drop, load and
//! reap dies where, there is one registrar at a time, no block is lost or cut under a loader, and
//! the next registrar finishes what is left. Nobody waits but for the registrar.
#![cfg(shm_explore)]
use buffer_pool::files::{Cut, FileKey, FileNumber, Files, Registrar, Shape};
use buffer_pool::frames::Entries;
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::path::Path;
use std::sync::Arc;

/// So many blocks a file has at most.
const BLOCKS: u32 = 3;
/// What an entry says, beside ABSENT, which is 0.
const LOADING: u64 = 1;
const RESIDENT: u64 = 2;

struct World {
    table: Table,
    files: Files,
    /// Of the one file: whether a block is there.
    disk: MappedSlice<AtomicU64>,
    /// Who is the registrar: its process.
    registers: MappedSlice<AtomicU64>,
    number: FileNumber,
    members: Vec<Arc<Member>>,
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 1 }
}

fn path(id: u64) -> &'static Path {
    let all = ["", "one", "two", "three"];
    all.get(id as usize).copied().unwrap_or("of a lie").as_ref()
}

/// With so many members, which are the first processes of the scenario, and one who checks. There
/// is a file of two blocks.
fn world(members: u32) -> World {
    let (seats, shape) = (members + 1, Shape { files: 2, entries: 2 * u64::from(BLOCKS) });
    let files_at = Table::bytes_for(seats).next_multiple_of(64);
    let disk_at = files_at + Files::bytes_for(shape);
    let mapping = Mapping::heap((disk_at + 8 * u64::from(BLOCKS) + 8) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    unsafe { Files::create(&mapping, files_at, shape) }.unwrap();
    let files = Files::attach(&mapping, files_at).unwrap();
    let disk: MappedSlice<AtomicU64> = MappedSlice::new(&mapping, disk_at, BLOCKS.into()).unwrap();
    let registers = MappedSlice::new(&mapping, disk_at + 8 * u64::from(BLOCKS), 1).unwrap();
    (0..2).for_each(|block| disk[block].store(1, Relaxed));
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members: Vec<_> = (1..=seats).map(join).collect();
    let mut registrar = files.registrar(&members[0], None).unwrap();
    let number = registrar.register(key(1), path(1), 2, BLOCKS).unwrap().number;
    drop(registrar);
    World { table, files, disk, registers, number, members }
}

impl World {
    fn member(&self, pid: u32) -> &Member {
        &self.members[pid as usize - 1]
    }

    /// As the registrar, who is alone.
    fn as_registrar(&self, pid: u32, work: impl FnOnce(&mut Registrar<'_>)) {
        let Ok(mut registrar) = self.files.registrar(self.member(pid), None) else {
            assert!(is_after_a_lie(), "no registrar");
            return;
        };
        self.registers[0].store(pid.into(), Relaxed);
        work(&mut registrar);
        let is_alone = self.registers[0].load(Relaxed) == u64::from(pid);
        assert!(is_alone || is_after_a_lie(), "two are the registrar");
    }

    fn entry(&self, block: u32) -> Option<&AtomicU64> {
        self.files.entry(self.number.page(block).unwrap())
    }

    /// Evicts the pages that go, where nobody loads one, and ends the cut; else it is left. Only
    /// the last one has waited until all loaders are gone.
    fn finish(&self, cut: Cut<'_>, is_last: bool) {
        for block in cut.blocks() {
            let Some(entry) = self.entry(block) else { continue };
            if entry.load(Relaxed) == LOADING && !is_last {
                return;
            }
            entry.store(0, Relaxed);
            self.disk[block as usize].store(0, Relaxed);
        }
        let done = cut.done();
        assert!(done.is_ok() || is_after_a_lie(), "{done:?}");
    }

    /// Loads a page, if it is there; fills it, if it is new.
    fn load(&self, block: u32, is_new: bool) {
        let Some(entry) = self.entry(block) else { return };
        if entry.compare_exchange(0, LOADING, Relaxed, Relaxed).is_err() {
            return;
        }
        let is_there = self.files.admits(self.number.page(block).unwrap());
        if is_there && is_new {
            self.disk[block as usize].store(1, Relaxed);
        }
        if is_there {
            let is_whole = self.disk[block as usize].load(Relaxed) == 1;
            assert!(is_whole || is_after_a_lie(), "a block was cut that is being loaded");
        }
        let to = if is_there { RESIDENT } else { 0 };
        let _ = entry.compare_exchange(LOADING, to, Relaxed, Relaxed);
    }

    /// Who comes last: it finishes what is left, and there are the files that `expected` says, each
    /// whole; every row can be had.
    fn is_whole(&self, expected: impl FnOnce(&[u64]) -> bool) {
        self.as_registrar(self.members.len() as u32, |registrar| {
            registrar.unfinished().into_iter().for_each(|cut| self.finish(cut, true));
            let files = self.files.list();
            let ids: Vec<u64> = files.iter().map(|file| file.key.id).collect();
            assert!(expected(&ids), "there are files {ids:?}");
            for file in &files {
                assert_eq!((file.path.as_path(), file.blocks_max), (path(file.key.id), BLOCKS));
            }
            if let Ok(length) = self.files.length(self.number) {
                for block in 0..BLOCKS {
                    let is_here = self.entry(block).unwrap().load(Relaxed) == RESIDENT;
                    let is_there = self.disk[block as usize].load(Relaxed) == 1;
                    // One that has died as it loads leaves what the frames put right.
                    assert!(!is_here || is_there && block < length, "a page of no block");
                }
            }
            for file in files {
                self.finish(registrar.drop_file(file.number).unwrap(), true);
            }
            for id in 2..4 {
                assert!(registrar.register(key(id), path(id), 0, BLOCKS).is_ok(), "a row is lost");
            }
        });
    }
}

fn registers(world: &World) -> Process<'_> {
    Process::new("registers", |me: &Me| {
        world.as_registrar(me.pid(), |registrar| {
            let registered = registrar.register(key(2), path(2), 0, BLOCKS);
            assert!(registered.is_ok() || is_after_a_lie(), "{registered:?}");
        });
        me.say(1);
    })
    .mortal()
}

fn cuts(world: &World, to: Option<u32>) -> Process<'_> {
    Process::new("cuts", move |me: &Me| {
        world.as_registrar(me.pid(), |registrar| {
            let cut = match to {
                Some(blocks) => registrar.shrink(world.number, blocks),
                None => registrar.drop_file(world.number),
            };
            match cut {
                Ok(cut) => world.finish(cut, false),
                Err(error) => assert!(is_after_a_lie(), "{error}"),
            }
        });
        me.say(1);
    })
    .mortal()
}

/// Finishes what others have left.
fn finishes(world: &World) -> Process<'_> {
    Process::new("finishes", |me: &Me| {
        world.as_registrar(me.pid(), |registrar| {
            registrar.unfinished().into_iter().for_each(|cut| world.finish(cut, false));
        });
    })
    .mortal()
}

fn extends(world: &World) -> Process<'_> {
    Process::new("extends", |me: &Me| {
        let Ok(from) = world.files.end(world.number) else { return };
        let block = from.blocks;
        if block < BLOCKS && world.files.extend(world.number, from, block + 1).is_ok() {
            me.say(block.into());
            world.load(block, true);
        }
    })
    .mortal()
    .never_waits()
}

fn loads(world: &World) -> Process<'_> {
    Process::new("loads", |_| world.load(1, false)).mortal().never_waits()
}

/// Drops the file, and registers another one in its place.
fn replaces(world: &World) -> Process<'_> {
    Process::new("replaces", |me: &Me| {
        world.as_registrar(me.pid(), |registrar| {
            world.finish(registrar.drop_file(world.number).unwrap(), false);
            let other = registrar.register(key(2), path(2), 0, BLOCKS).unwrap();
            assert_eq!(other.number.to_bits() ^ world.number.to_bits(), 1, "in another place");
        });
    })
    .mortal()
}

fn looks(world: &World) -> Process<'_> {
    Process::new("looks", |_| {
        for file in world.files.list() {
            let is_whole = file.path == path(file.key.id) && file.blocks_max == BLOCKS;
            assert!(is_whole || is_after_a_lie(), "a file is half another one: {file:?}");
        }
    })
    .never_waits()
}

fn reaper(world: &World) -> Process<'_> {
    let reap = |_: &Me| _ = world.table.reap(|dead| world.files.reap(dead));
    Process::new("reaper", reap).mortal().never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("files", name).states_at_most(250_000)
}

/// For cases of three: as many deaths, and interruptions, as can be gone through whole.
fn of_three<'a>(name: &str) -> Scenario<'a> {
    let deaths = if is_deep() { 2 } else { 1 };
    let case = scenario(&format!("{name}, deaths: {deaths}")).deaths(deaths);
    case.preemptions_at_most(1)
}

#[test]
fn who_registers_and_who_drops_may_die_anywhere() {
    let world = world(2);
    let check = |end: &End<'_>| {
        let (has_registered, has_dropped) = (end.has_finished(0), end.has_finished(1));
        world.is_whole(|ids| {
            (!has_registered || ids.contains(&2)) && !(has_dropped && ids.contains(&1))
        });
    };
    let case = scenario("one registers, one drops, two deaths").deaths(2).preemptions_at_most(2);
    let case = case.process(registers(&world)).process(cuts(&world, None));
    case.check(check).explore();
}

#[test]
fn who_looks_sees_a_file_whole() {
    let world = world(2);
    let case = scenario("one replaces a file, one looks, a death").deaths(1);
    let case = case.process(replaces(&world)).process(looks(&world));
    case.check(|_| world.is_whole(|ids| ids.len() < 2)).explore();
}

#[test]
fn who_reaps_may_die_anywhere() {
    let world = world(1);
    let case = scenario("one registers, a reaper, two deaths").deaths(2);
    let case = case.process(registers(&world)).process(reaper(&world));
    case.check(|_| world.is_whole(|_| true)).explore();
}

#[test]
fn who_cuts_and_who_loads_may_die_anywhere() {
    let world = world(3);
    for (to, what) in [(Some(1), "shortens"), (None, "drops")] {
        let case = scenario(&format!("one {what}, one loads, two deaths")).deaths(2);
        let case = case.process(cuts(&world, to)).process(loads(&world));
        case.check(|_| world.is_whole(|_| true)).explore();
    }
    let case = of_three("one shortens, one loads, one finishes").process(cuts(&world, Some(1)));
    let case = case.process(loads(&world)).process(finishes(&world));
    case.check(|_| world.is_whole(|_| true)).explore();
}

#[test]
fn who_cuts_and_who_extends_may_die_anywhere() {
    let world = world(2);
    let case = scenario("one shortens, one extends, two deaths").deaths(2);
    let case = case.process(cuts(&world, Some(1))).process(extends(&world));
    case.check(|_| world.is_whole(|ids| ids == [1])).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(3);
    let case = scenario("a lie").lies(1).preemptions_at_most(1).process(registers(&world));
    case.process(cuts(&world, Some(1))).process(looks(&world)).explore();
}

/// Planted bug: the right of one that only seems dead is taken away.
#[test]
fn finds_a_death_that_was_guessed() {
    let world = world(2);
    let guesses = Process::new("guesses", |me: &Me| {
        world.files.reap(world.member(1).id());
        world.as_registrar(me.pid(), |_| ());
    });
    let case = scenario("guesses").process(registers(&world)).process(guesses);
    finds("two are the registrar", || case.explore());
}

/// Planted bug: who loads a page looks at the length before it says so.
#[test]
fn finds_a_loader_that_asks_too_early() {
    let world = world(2);
    let hasty = Process::new("hasty", |_| {
        if world.files.contains(world.number.page(1).unwrap())
            && let Some(entry) = world.entry(1)
        {
            entry.store(LOADING, Relaxed);
            assert_eq!(world.disk[1].load(Relaxed), 1, "cut under a loader");
        }
    });
    let case = scenario("asks too early").process(cuts(&world, Some(1))).process(hasty);
    finds("cut under a loader", || case.explore());
}
