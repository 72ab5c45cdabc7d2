//! The files in weak memory: there is one registrar at a time; a block that was there is there, or
//! was cut; what is cut nobody loads, and what is loaded is not cut; whoever dies where, the next
//! registrar finishes it.
//!
//! The file itself is a cell a block, whose unordered accesses fail the model.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use buffer_pool::files::{
    Cut, ExtendError, FileKey, FileNumber, Files, Registrar, Shape, WaitError,
};
use buffer_pool::frames::Entries;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell, yield_now};
use std::path::Path;
use std::sync::Arc;

const SEATS: u32 = 3;
/// So many blocks a file has at most, and so many entries there are for each.
const BLOCKS: u32 = 2;
/// What an entry says, beside ABSENT, which is 0.
const LOADING: u64 = 1;
const RESIDENT: u64 = 2;

/// A file's blocks, each a number.
struct Disk([UnsafeCell<u64>; BLOCKS as usize]);
// SAFETY: loom checks that every access is ordered.
unsafe impl Sync for Disk {}
// SAFETY: as above.
unsafe impl Send for Disk {}

impl Disk {
    fn read(&self, block: u32) -> u64 {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0[block as usize].with(|cell| unsafe { *cell })
    }

    fn write(&self, block: u32, value: u64) {
        // SAFETY: loom checks that nobody reads meanwhile.
        self.0[block as usize].with_mut(|cell| unsafe { *cell = value });
    }
}

struct World {
    table: Table,
    files: Files,
    /// Those of whichever file there is: a block that is there is not 0.
    disk: Disk,
    /// A count of the registrar's: two at a time fail the model.
    registered: Disk,
    /// What the loader's frame says: 1 while it has claimed it for a page.
    frame: AtomicU64,
    members: Vec<Arc<Member>>,
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 1 }
}

fn path(id: u64) -> &'static Path {
    ["zero", "one", "twotwo"][id as usize].as_ref()
}

/// Each of the processes 1, 2, 3 is seated, and so many files fit.
fn world(files: u32) -> World {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    let shape = Shape { files, entries: u64::from(files * BLOCKS) };
    let mapping = Mapping::heap(Files::bytes_for(shape) as usize);
    // SAFETY: as above.
    unsafe { Files::create(&mapping, 0, shape) }.unwrap();
    let files = Files::attach(&mapping, 0).unwrap();
    let join = |number| {
        become_process(number);
        table.join().unwrap()
    };
    let members = (1..=SEATS).map(join).collect();
    become_process(1);
    let [disk, registered] = [0, 0].map(|zero| Disk([zero, zero].map(UnsafeCell::new)));
    let frame = AtomicU64::new(0);
    World { table, files, disk, registered, frame, members }
}

/// The same with one file of so many blocks, which are on the disk.
fn with_a_file(blocks: u32) -> (Arc<World>, FileNumber) {
    let world = world(1);
    (0..blocks).for_each(|block| world.disk.write(block, 1));
    let number = world.registrar(1).register(key(1), path(1), blocks, BLOCKS).unwrap().number;
    (Arc::new(world), number)
}

impl World {
    fn registrar(&self, process: u32) -> Registrar<'_> {
        self.files.registrar(self.member(process), None).unwrap()
    }

    fn member(&self, process: u32) -> &Arc<Member> {
        &self.members[process as usize - 1]
    }

    fn entry(&self, number: FileNumber, block: u32) -> &AtomicU64 {
        self.files.entry(number.page(block).unwrap()).expect("its file has entries")
    }

    /// Evicts the pages that go, and makes the file as short as it says.
    fn finish(&self, cut: Cut<'_>, loader: Option<u32>) {
        for block in cut.blocks() {
            self.evict(self.entry(cut.number(), block), loader);
            self.disk.write(block, 0);
        }
        cut.done().unwrap();
    }

    /// Waits until the page is in no frame; takes it from a loader that is dead.
    fn evict(&self, entry: &AtomicU64, loader: Option<u32>) {
        loop {
            // Acquire: what was read of the file.
            match entry.load(Ordering::Acquire) {
                0 => return,
                LOADING if !loader.is_some_and(|loader| self.is_dead(loader)) => yield_now(),
                // Nobody else changes it now.
                _ => entry.store(0, Ordering::Relaxed),
            }
        }
    }

    fn is_dead(&self, process: u32) -> bool {
        self.member(1).watch(self.member(process).id()).is_dead()
    }

    /// Does something to a block, as who loads its page, if it is there; whether it was.
    fn load(&self, number: FileNumber, block: u32, work: impl FnOnce(&Disk)) -> bool {
        let page = number.page(block).unwrap();
        // It was dropped.
        let Some(entry) = self.files.entry(page) else { return false };
        if entry.compare_exchange(0, LOADING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let is_there = self.files.admits(page);
        if is_there {
            work(&self.disk);
        }
        let to = if is_there { RESIDENT } else { 0 };
        let _ = entry.compare_exchange(LOADING, to, Ordering::Release, Ordering::Relaxed);
        is_there
    }

    /// Has `lengthen` done and extends the file; again where somebody cuts it. False where nobody
    /// finishes that.
    fn extend(&self, number: FileNumber, lengthen: impl Fn()) -> bool {
        loop {
            let from = self.files.end(number).unwrap();
            lengthen();
            match self.files.extend(number, from, BLOCKS) {
                Ok(()) => return true,
                Err(ExtendError::End { .. }) => continue,
                Err(ExtendError::Shrinking { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            match self.files.wait_shrinking(number, self.member(2), None) {
                Ok(()) => {}
                Err(WaitError::Unfinished) => return false,
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Finishes what is unfinished, as the last one, once all others are done; how many blocks were
    /// cut.
    fn end(&self, loader: Option<u32>) -> u32 {
        become_process(1);
        let (mut registrar, mut count) = (self.registrar(1), 0);
        for cut in registrar.unfinished() {
            count += cut.blocks().len() as u32;
            self.finish(cut, loader);
        }
        assert!(registrar.unfinished().is_empty());
        count
    }
}

/// Process `number` does it, and the kernel buries it if it dies of that.
fn does<R: 'static>(
    world: &Arc<World>,
    number: u32,
    life: Life,
    work: impl FnOnce(&World) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let world = world.clone();
    spawn(move || acts(&world, number, &life, work))
}

fn acts<R>(
    world: &Arc<World>,
    number: u32,
    life: &Life,
    work: impl FnOnce(&World) -> R,
) -> Option<R> {
    let process = become_process(number);
    let end = life.run(|| work(world));
    if end.is_none() {
        process_ends(&world.table, process);
    }
    end
}

/// Seats are not left: a model that ends has no kernel any more.
fn forget(world: Arc<World>) {
    std::mem::forget(world);
}

/// Two register a file each. Of two there is one registrar at a time; whoever lives has its file.
fn both_register([one, other]: [Life; 2]) {
    let world = Arc::new(world(2));
    let registers = |id: u64| {
        move |world: &World| {
            let mut registrar = world.registrar(id as u32 + 1);
            let count = world.registered.read(0);
            world.registered.write(0, count + 1);
            let registered = registrar.register(key(id), path(id), 1, BLOCKS).unwrap();
            assert!(!registered.found);
        }
    };
    let thread = does(&world, 2, one, registers(1));
    let lived = [acts(&world, 3, &other, registers(2)), thread.join().unwrap()];
    assert_eq!(world.end(None), 0);
    let files = world.files.list();
    let has = |id| files.iter().any(|file| file.key == key(id) && file.path == path(id));
    assert!(lived[0].is_none() || has(2), "a file is lost");
    assert!(lived[1].is_none() || has(1), "a file is lost");
    if let [one, other] = &files[..] {
        let entries = [one, other].map(|file| std::ptr::from_ref(world.entry(file.number, 0)));
        assert!(entries[0] != entries[1], "two files have the same entries");
    }
    forget(world);
}

/// One is the registrar; one cleans up after it, if it is dead; one would be registrar.
fn one_reaps(life: Life) {
    let world = Arc::new(world(2));
    let first = move |world: &World| {
        let mut registrar = world.registrar(2);
        world.registered.write(0, 1);
        registrar.register(key(1), path(1), 1, BLOCKS).unwrap();
    };
    let thread = does(&world, 2, Life::endless(), move |world| {
        let lived = life.run(|| first(world));
        if lived.is_none() {
            process_ends(&world.table, world.member(2).process());
            become_process(1);
            world.table.reap(|dead| world.files.reap(dead));
        }
    });
    become_process(3);
    let mut registrar = world.registrar(3);
    world.registered.read(0);
    world.registered.write(0, 2);
    registrar.register(key(2), path(2), 1, BLOCKS).unwrap();
    drop(registrar);
    thread.join().unwrap();
    world.end(None);
    assert!(world.files.find(key(2)).is_some(), "a file is lost");
    forget(world);
}

/// One extends the file and fills the block; again where somebody cuts it. One cuts it.
fn extends_and_cuts([one, other]: [Life; 2]) {
    let (world, number) = with_a_file(1);
    let thread = does(&world, 2, one, move |world| {
        if !world.extend(number, || ()) {
            return None;
        }
        Some(world.load(number, 1, |disk| disk.write(1, 1)))
    });
    let cut = acts(&world, 3, &other, |world| {
        let mut registrar = world.registrar(3);
        let cut = registrar.shrink(number, 1).unwrap();
        let count = cut.blocks().len() as u32;
        world.finish(cut, Some(2));
        count
    });
    let filled = thread.join().unwrap().flatten();
    let is_cut = world.end(Some(2)) + cut.unwrap_or(0) > 0;
    let length = world.files.length(number).unwrap();
    if let (Some(filled), Some(_)) = (filled, cut) {
        assert!((length == BLOCKS) != is_cut, "an extension is lost");
        assert!(filled || is_cut, "a block could not be filled");
    }
    if filled == Some(true) && length == BLOCKS {
        assert_eq!(world.disk.read(1), 1, "what was filled is lost");
    }
    forget(world);
}

/// One makes the file on the disk longer, and then extends it; one cuts both off where the file
/// ends already.
fn lengthens_and_cuts([one, other]: [Life; 2]) {
    let (world, number) = with_a_file(1);
    let cut_off = |world: &World, cut: Cut<'_>| {
        world.frame.store(1, Ordering::Relaxed);
        cut.done().unwrap();
    };
    let thread = does(&world, 2, one, move |world| {
        world.extend(number, || world.frame.store(BLOCKS.into(), Ordering::Relaxed))
    });
    acts(&world, 3, &other, |world| {
        let mut registrar = world.registrar(3);
        cut_off(world, registrar.shrink(number, 1).unwrap());
    });
    thread.join().unwrap();
    become_process(1);
    world.registrar(1).unfinished().into_iter().for_each(|cut| cut_off(&world, cut));
    let length = world.files.length(number).unwrap();
    assert!(world.frame.load(Ordering::Relaxed) >= length.into(), "it is short on the disk");
    forget(world);
}

/// One waits until the file is short; one makes it so, and gives its right up only after that, or
/// at once.
fn waits_for_the_cut(holds: bool) {
    let (world, number) = with_a_file(BLOCKS);
    let thread = does(&world, 2, Life::endless(), move |world| {
        // Whoever cuts it finishes.
        world.files.wait_shrinking(number, world.member(2), None).unwrap();
        world.frame.store(1, Ordering::Relaxed);
    });
    become_process(3);
    let mut registrar = world.registrar(3);
    world.finish(registrar.shrink(number, 1).unwrap(), None);
    while holds && world.frame.load(Ordering::Relaxed) == 0 {
        yield_now();
    }
    drop(registrar);
    thread.join().unwrap();
    forget(world);
}

/// One extends a file, and writes the block afterwards; one has cut it.
fn extends_first() {
    let (world, number) = with_a_file(BLOCKS);
    let thread = does(&world, 2, Life::endless(), move |world| {
        let from = world.files.end(number).unwrap();
        if from.blocks < BLOCKS && world.files.extend(number, from, BLOCKS).is_ok() {
            world.disk.write(1, 1);
        }
    });
    become_process(3);
    world.finish(world.registrar(3).shrink(number, 1).unwrap(), None);
    thread.join().unwrap();
    forget(world);
}

/// One writes the second block, and extends the file; one reads it, if it is there.
fn sees_the_length() {
    let (world, number) = with_a_file(1);
    let thread = does(&world, 2, Life::endless(), move |world| {
        world.disk.write(1, 1);
        world.files.extend(number, world.files.end(number).unwrap(), BLOCKS).unwrap();
    });
    if world.files.length(number) == Ok(BLOCKS) {
        assert_eq!(world.disk.read(1), 1);
    }
    thread.join().unwrap();
    forget(world);
}

/// One loads the second page; one cuts it off, or dies of that, and then another does.
fn loads_and_cuts(to_drop: bool) -> impl Fn([Life; 2]) + Clone + Send + Sync + 'static {
    move |[one, other]| {
        let (world, number) = with_a_file(BLOCKS);
        let thread = does(&world, 2, one, move |world| {
            world.load(number, 1, |disk| {
                assert_eq!(disk.read(1), 1, "a block was cut that is being loaded");
            });
        });
        let cut = acts(&world, 3, &other, |world| {
            let mut registrar = world.registrar(3);
            let cut =
                if to_drop { registrar.drop_file(number) } else { registrar.shrink(number, 1) };
            world.finish(cut.unwrap(), Some(2));
        });
        let is_cut = world.end(Some(2)) > 0 || cut.is_some();
        thread.join().unwrap();
        let length = world.files.length(number).ok();
        let is_short = length == (!to_drop).then_some(1);
        assert!(is_short || !is_cut && length == Some(BLOCKS), "{length:?}");
        forget(world);
    }
}

/// One loads a page, and dies of it perhaps. One drops the file and registers another one in its
/// place, having looked at the frames or not.
fn loads_and_replaced(looks: bool) -> impl Fn([Life; 1]) + Clone + Send + Sync + 'static {
    move |[life]| {
        let (world, number) = with_a_file(BLOCKS);
        let thread = does(&world, 2, life, move |world| {
            world.frame.store(1, Ordering::Relaxed);
            if world.files.admits(number.page(1).unwrap()) {
                world.load(number, 1, |_| ());
            }
            world.frame.store(0, Ordering::Release);
        });
        become_process(3);
        let mut registrar = world.registrar(3);
        let cut = registrar.drop_file(number).unwrap();
        while looks && world.frame.load(Ordering::Acquire) != 0 && !world.is_dead(2) {
            yield_now();
        }
        world.finish(cut, Some(2));
        registrar.register(key(2), path(2), 0, BLOCKS).unwrap();
        drop(registrar);
        thread.join().unwrap();
        let other = world.files.find(key(2)).unwrap();
        let is_absent = |block| world.entry(other, block).load(Ordering::Relaxed) == 0;
        assert!((0..BLOCKS).all(is_absent), "another file's page is loaded for ever");
        forget(world);
    }
}

/// One drops a file, and registers another one in its place; one looks at both.
fn replaced(looks: impl Fn(&World, FileNumber) + Copy + Send + Sync + 'static) {
    let (world, number) = with_a_file(1);
    let thread = does(&world, 2, Life::endless(), move |world| {
        let mut registrar = world.registrar(2);
        // The page is in no frame.
        registrar.drop_file(number).unwrap().done().unwrap();
        drop(registrar);
    });
    let second = does(&world, 3, Life::endless(), move |world| {
        let mut registrar = world.registrar(3);
        if world.files.length(number).is_err() && registrar.unfinished().is_empty() {
            let registered = registrar.register(key(2), path(2), 2, BLOCKS).unwrap();
            world.entry(registered.number, 0).store(RESIDENT, Ordering::Release);
        }
        drop(registrar);
    });
    become_process(1);
    looks(&world, number);
    thread.join().unwrap();
    second.join().unwrap();
    forget(world);
}

/// Who finds a file, or has its number, sees it whole.
fn is_whole(world: &World, number: FileNumber) {
    for number in [Some(number), world.files.find(key(2))].into_iter().flatten() {
        let Some(info) = world.files.info(number) else { continue };
        let is_one = (info.key.id, info.blocks) == (1, 1);
        let is_other = (info.key.id, info.blocks) == (2, 2);
        assert!(is_one || is_other, "a file is half another one: {info:?}");
        assert_eq!(info.path, path(info.key.id), "a file has another one's path");
        assert_eq!(info.blocks_max, BLOCKS);
        if is_other {
            world.entry(number, 1);
        }
    }
}

/// Who has a number that is nobody's any more finds no page by it.
fn finds_no_other(world: &World, number: FileNumber) {
    let page = number.page(0).unwrap();
    let Some(entry) = world.files.entry(page) else { return };
    if entry.load(Ordering::Acquire) == RESIDENT {
        assert!(!world.files.contains(page), "another file's page was found");
    }
}

/// Nor by what it has kept of it; and of the file that has come it finds what is there.
fn finds_no_other_by_what_it_kept(world: &World, number: FileNumber) {
    let finder = world.files.finder();
    let finds = |number, block| {
        let spot = finder.spot(number, block)?;
        let seen = spot.entry().load(Ordering::Acquire);
        spot.is_there().then_some(seen)
    };
    for _ in 0..2 {
        assert_ne!(finds(number, 0), Some(RESIDENT), "another file's page was found");
    }
    let Some(other) = world.files.find(key(2)) else { return };
    let there = finds(other, 1);
    assert_eq!(there, Some(0), "there are two blocks, and the page of the other is in no frame");
}

#[test]
fn who_registers_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("files, register: {:?}", model::every_death_of(bound, both_register));
    println!("files, two deaths: {:?}", model::every_two_deaths(bound - 1, both_register));
}

#[test]
fn who_is_reaped_may_die_anywhere() {
    let tried = model::every_death_of(model::preemption_bound(), |[life]| one_reaps(life));
    println!("files, reap: {tried:?}");
}

#[test]
fn who_extends_and_who_cuts_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("files, extend and cut: {:?}", model::every_death_of(bound, extends_and_cuts));
    println!("files, lengthen and cut: {:?}", model::every_death_of(bound, lengthens_and_cuts));
}

#[test]
fn who_waits_for_a_cut_is_woken() {
    model::check(|| waits_for_the_cut(true));
    model::check(|| waits_for_the_cut(false));
}

#[test]
fn who_loads_and_who_cuts_may_die_anywhere() {
    let bound = model::preemption_bound();
    for to_drop in [false, true] {
        let tried = model::every_death_of(bound, loads_and_cuts(to_drop));
        println!("files, load and cut: {tried:?}");
        let tried = model::every_two_deaths(bound - 1, loads_and_cuts(to_drop));
        println!("files, two deaths: {tried:?}");
    }
}

#[test]
fn who_loads_late_may_die_anywhere() {
    let tried = model::every_death_of(model::preemption_bound(), loads_and_replaced(true));
    println!("files, load late: {tried:?}");
}

/// Planted bug: a row is freed while somebody is about to load a page of its file.
#[test]
fn finds_a_drop_that_looks_at_no_frame() {
    model::finds("loaded for ever", || {
        model::every_death_of(model::preemption_bound(), loads_and_replaced(false));
    });
}

#[test]
fn a_number_is_one_files() {
    model::check(|| replaced(is_whole));
    model::check(|| replaced(finds_no_other));
    model::check(|| replaced(finds_no_other_by_what_it_kept));
}

#[test]
fn every_ordering_of_the_files_matters() {
    let found = model::every_ordering_matters(&["src/files/"], || {
        let endless = || [Life::endless(), Life::endless()];
        model::check(move || both_register(endless()));
        model::check(move || extends_and_cuts(endless()));
        model::check(|| waits_for_the_cut(false));
        model::check(extends_first);
        model::check(sees_the_length);
        model::check(move || loads_and_cuts(false)(endless()));
        model::check(|| replaced(is_whole));
    });
    // Two fences against entries, each weakened in two ways; two around the rest of a row; three
    // Acquires, and five Releases.
    assert_eq!(found, 14);
}

/// Planted bug: who loads a page looks at the length before it says so.
#[test]
fn finds_a_loader_that_asks_too_early() {
    model::finds("Causality violation", || {
        model::check(|| {
            let (world, number) = with_a_file(BLOCKS);
            let thread = does(&world, 2, Life::endless(), move |world| {
                if world.files.contains(number.page(1).unwrap()) {
                    world.entry(number, 1).store(LOADING, Ordering::Relaxed);
                    world.disk.read(1);
                    world.entry(number, 1).store(0, Ordering::Release);
                }
            });
            become_process(3);
            world.finish(world.registrar(3).shrink(number, 1).unwrap(), Some(2));
            thread.join().unwrap();
            forget(world);
        });
    });
}

/// Planted bug: the right of one that only seems dead is taken away.
#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("Causality violation", || {
        model::check(|| {
            let world = Arc::new(world(2));
            let thread = does(&world, 2, Life::endless(), |world| {
                let registrar = world.registrar(2);
                world.registered.write(0, 1);
                drop(registrar);
            });
            become_process(3);
            world.files.reap(world.member(2).id());
            let registrar = world.registrar(3);
            world.registered.write(0, 1);
            drop(registrar);
            thread.join().unwrap();
            forget(world);
        });
    });
}
