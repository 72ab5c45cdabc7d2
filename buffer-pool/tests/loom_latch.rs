//! The latches in weak memory: who has a page exclusively is alone, who shares it or looks at it
//! sees it as it was last, and whole; who dies changing it leaves it torn, and nobody else does.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use buffer_pool::latch::{Change, LatchError, Latches, Shape, User};
use shm_core::ShmSync;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::is_deep;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

const FRAME: u32 = 0;

/// The frame's page: two counters that are equal whenever nobody changes them.
struct Page {
    /// For who has a latch: every unordered access fails the model.
    cells: [UnsafeCell<u64>; 2],
    /// The same, for who looks.
    words: Mapped<Words>,
}
// SAFETY: guarded by the latch, as the model checks.
unsafe impl Sync for Page {}
// SAFETY: as above.
unsafe impl Send for Page {}

struct Words([AtomicU64; 2]);
// SAFETY: modelled atomics.
unsafe impl ShmSync for Words {}

impl Page {
    fn new() -> Page {
        let words = Words([AtomicU64::new(0), AtomicU64::new(0)]);
        // SAFETY: nobody else has the mapping.
        let words = unsafe { Mapped::place(&Mapping::heap(4096), 0, words) }.unwrap();
        Page { cells: [0, 0].map(UnsafeCell::new), words }
    }

    fn cells(&self) -> [u64; 2] {
        // SAFETY: guarded by the latch, as the model checks.
        [0, 1].map(|at| self.cells[at].with(|cell: *const u64| unsafe { *cell }))
    }

    fn words(&self) -> [u64; 2] {
        [0, 1].map(|at| self.words.0[at].load(Relaxed))
    }

    fn write(&self, at: usize, value: u64) {
        self.words.0[at].store(value, Relaxed);
        // SAFETY: as above.
        self.cells[at].with_mut(|cell| unsafe { *cell = value });
    }

    fn is_whole(&self) -> u64 {
        let [one, other] = self.cells();
        assert_eq!(one, other, "half changed, and nobody said so");
        one
    }

    fn count(&self) {
        let one = self.is_whole();
        self.write(0, one + 1);
        self.write(1, one + 1);
    }
}

struct World<const N: usize> {
    table: Table,
    latches: Latches,
    page: Arc<Page>,
    members: [Arc<Member>; N],
}

/// A seat for each of the processes 1, 2, …
fn world<const N: usize>() -> Arc<World<N>> {
    world_with(N as u32)
}

/// The same, and as many more seats as make `seats`.
fn world_with<const N: usize>(seats: u32) -> Arc<World<N>> {
    let mapping = Mapping::heap(Table::bytes_for(seats) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    let shape = Shape { frames: 1, seats, threads: 1 };
    let mapping = Mapping::heap(Latches::bytes_for(shape) as usize);
    // SAFETY: as above.
    unsafe { Latches::create(&mapping, 0, shape) }.unwrap();
    let latches = Latches::attach(&mapping, 0, shape).unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    Arc::new(World { table, latches, page: Arc::new(Page::new()), members })
}

#[derive(Clone, Copy)]
enum Does {
    Look,
    Share,
    WriteOut,
    Change,
    Upgrade,
    TryShare,
    TryChange,
    TryUpgrade,
    Repair,
}

impl<const N: usize> World<N> {
    fn user(&self, at: usize) -> User {
        self.latches.user(&self.members[at], 0).unwrap()
    }

    /// Makes whole what a dead one left; nothing where somebody else is at it, or was.
    fn repair(&self, user: &User) {
        if let Some(change) = user.repair(FRAME).unwrap() {
            let [one, _] = self.page.cells();
            self.page.write(0, one);
            self.page.write(1, one);
            drop(change.done().unwrap());
        }
    }

    fn change(&self, change: Change<'_>) {
        self.page.count();
        drop(change.done().unwrap());
    }

    fn tries(&self, user: &User, what: Does) -> Result<(), LatchError> {
        match what {
            Does::Look => {
                let [one, other] = user.read(FRAME, None, || self.page.words())?;
                assert_eq!(one, other, "read while it was changed");
            }
            Does::Share => {
                let _share = user.share(FRAME, None)?;
                self.page.is_whole();
            }
            Does::TryShare => {
                let share = user.try_share(FRAME)?;
                share.is_some().then(|| self.page.is_whole());
            }
            Does::WriteOut => {
                let _latch = user.share_exclusive(FRAME, None)?;
                self.page.is_whole();
            }
            Does::Change => self.change(user.exclusive(FRAME, None)?.change().unwrap()),
            Does::Upgrade => {
                let latch = user.share_exclusive(FRAME, None)?.upgrade(None);
                self.change(latch.map_err(|(_, why)| why)?.change().unwrap());
            }
            Does::TryChange => {
                if let Some(latch) = user.try_exclusive(FRAME)? {
                    self.change(latch.change().unwrap());
                }
            }
            Does::Repair => self.repair(user),
            Does::TryUpgrade => {
                if let Some(Ok(latch)) = user.try_share_exclusive(FRAME)?.map(|it| it.try_upgrade())
                {
                    self.change(latch.change().unwrap());
                }
            }
        }
        Ok(())
    }

    fn does(&self, user: &User, what: Does) {
        loop {
            match self.tries(user, what) {
                Ok(()) => return,
                Err(LatchError::Torn { .. }) => self.repair(user),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Process `at + 1` does it once, and the kernel buries it if it dies of that.
    fn take(&self, at: usize, what: Does, life: &Life) -> bool {
        let process = become_process(at as u32 + 1);
        let lived = life.run(|| self.does(&self.user(at), what));
        if lived.is_none() {
            process_ends(&self.table, process);
        }
        lived.is_some()
    }
}

fn taker<const N: usize>(
    world: &Arc<World<N>>,
    at: usize,
    what: Does,
    life: Life,
) -> JoinHandle<bool> {
    let world = world.clone();
    spawn(move || world.take(at, what, &life))
}

/// Seats are not left: a model that ends has no kernel any more.
fn end<const N: usize>(world: Arc<World<N>>) {
    std::mem::forget(world);
}

/// Two use the page, each once; who lives must get it. Whoever is left then changes it.
fn two_use(what: [Does; 2]) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<2>();
        let thread = taker(&world, 1, what[1], other);
        let lived = world.take(0, what[0], &one);
        let other_lived = thread.join().unwrap();
        if lived || other_lived {
            let at = usize::from(!lived);
            become_process(at as u32 + 1);
            world.does(&world.user(at), Does::Change);
            assert!(world.page.is_whole() > 0);
        }
        end(world);
    }
}

/// One has the page already, and dies or gives it back; the other one waits for it.
fn one_waits(holds: Does) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[holder, waiter]| {
        let world = world::<2>();
        let user = world.user(0);
        let (mut share, mut write_out, mut change) = (None, None, None);
        match holds {
            Does::Share => share = Some(user.share(FRAME, None).unwrap()),
            Does::WriteOut => write_out = Some(user.share_exclusive(FRAME, None).unwrap()),
            _ => change = Some(user.exclusive(FRAME, None).unwrap()),
        }
        let thread = taker(&world, 1, Does::Upgrade, waiter);
        let process = become_process(1);
        if holder.run(|| drop((share, write_out, change))).is_none() {
            process_ends(&world.table, process);
        }
        thread.join().unwrap();
        std::mem::forget(user);
        end(world);
    }
}

/// One dies with a share, or as it changes the page. Another one cleans up after it and repairs the
/// page, and may die of that, while a third one uses it, who may learn of the death from what the
/// second one wrote.
fn one_cleans_up(held: Does, third: Does) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[cleaner, other]| {
        let world = world::<3>();
        let thread = taker(&world, 2, third, other);
        let process = become_process(1);
        let user = world.user(0);
        if let Does::Share = held {
            let share = user.share(FRAME, None);
            if share.is_ok() {
                world.page.is_whole();
            }
            std::mem::forget(share);
        } else if let Ok(latch) = user.exclusive(FRAME, None) {
            let change = latch.change().unwrap();
            world.page.write(0, 7);
            std::mem::forget(change);
        }
        process_ends(&world.table, process);
        let process = become_process(2);
        let cleans_up = || {
            world.table.reap(|dead| world.latches.clean_up(dead));
            world.repair(&world.user(1));
        };
        if cleaner.run(cleans_up).is_none() {
            process_ends(&world.table, process);
        }
        thread.join().unwrap();
        std::mem::forget(user);
        end(world);
    }
}

/// A process comes, and another thread of it than the one that took the seat uses the page; one who
/// finds its name in its way knows of the seat by that alone.
fn one_thread_comes_and_another_uses_it(what: [Does; 2]) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = world_with::<1>(2);
        if let Does::Repair = what[1] {
            let user = world.user(0);
            drop(user.exclusive(FRAME, None).unwrap().change());
        }
        let theirs = world.clone();
        let comes = spawn(move || {
            become_process(2);
            let member = theirs.table.join().unwrap();
            let (uses, user) = (theirs.clone(), theirs.latches.user(&member, 0).unwrap());
            let using = spawn(move || {
                become_process(2);
                uses.does(&user, what[1]);
                std::mem::forget(user);
            });
            using.join().unwrap();
            std::mem::forget(member);
        });
        become_process(1);
        world.does(&world.user(0), what[0]);
        comes.join().unwrap();
        end(world);
    }
}

/// What the one does who was there, and the one who comes.
const COMES: [[Does; 2]; 3] =
    [[Does::Change, Does::Change], [Does::Change, Does::Share], [Does::Repair, Does::Repair]];

#[test]
fn who_has_just_come_lives() {
    for what in COMES {
        let told =
            model::without_shadow(|| model::check(one_thread_comes_and_another_uses_it(what)));
        println!("latch, one has just come: {told:?}");
    }
}

/// One dies before the first byte of its change, and another one says that the page is torn; a
/// third one repairs it, as somebody looks at it who knows nothing of all that.
///
/// Without shadows: a word's shadow is changed by all who access the word, one after the other, and
/// so hands on what was before an earlier one's fence.
fn one_repairs_and_one_looks() {
    let world = world::<3>();
    let theirs = world.clone();
    let looker = spawn(move || theirs.latches.look(FRAME, || theirs.page.words()).unwrap());
    let theirs = world.clone();
    let repairer = spawn(move || {
        become_process(3);
        let user = theirs.user(2);
        if let Some(change) = user.repair(FRAME).unwrap() {
            theirs.page.write(0, 7);
            theirs.page.write(1, 7);
            drop(change.done().unwrap());
        }
        std::mem::forget(user);
    });
    let (process, user) = (become_process(1), world.user(0));
    if let Ok(latch) = user.exclusive(FRAME, None) {
        std::mem::forget(latch.change());
    }
    process_ends(&world.table, process);
    become_process(2);
    world.latches.clean_up(world.members[0].id());
    if let Some([one, other]) = looker.join().unwrap() {
        assert_eq!(one, other, "read while it was repaired");
    }
    repairer.join().unwrap();
    std::mem::forget(user);
    end(world);
}

#[test]
fn who_looks_sees_no_half_of_a_repair() {
    println!(
        "latch, one repairs and one looks: {:?}",
        model::without_shadow(|| model::check(one_repairs_and_one_looks))
    );
}

/// What a dead one had, and what a third one does.
const CLEANED_UP: [(Does, Does); 3] =
    [(Does::Share, Does::Change), (Does::Change, Does::Change), (Does::Change, Does::Look)];

#[test]
fn who_cleans_up_may_die_anywhere() {
    let bound = model::preemption_bound();
    for (held, third) in CLEANED_UP {
        let told = model::every_death_of(bound - 1, one_cleans_up(held, third));
        println!("latch, one cleans up: {told:?}");
    }
}

#[test]
fn who_shares_and_who_changes_may_die_anywhere() {
    let bound = model::preemption_bound();
    let told = model::every_death_of(bound, two_use([Does::Share, Does::Change]));
    println!("latch, one shares and one changes, one death: {told:?}");
    // Two deaths are many runs: no preemption, and with `SHM_DEEP=1` one less than elsewhere.
    let bound = if is_deep() { bound - 1 } else { 0 };
    let told = model::every_two_deaths(bound, two_use([Does::Share, Does::Change]));
    println!("latch, one shares and one changes, two deaths: {told:?}");
}

#[test]
fn who_looks_and_who_changes_may_die_anywhere() {
    let bound = model::preemption_bound();
    let told = model::every_death_of(bound - 1, two_use([Does::Look, Does::Change]));
    println!("latch, one looks and one changes: {told:?}");
}

#[test]
fn who_changes_may_die_anywhere() {
    let bound = model::preemption_bound();
    for what in [Does::Change, Does::Upgrade] {
        let told = model::every_death_of(bound - 1, two_use([what, Does::Change]));
        println!("latch, two change: {told:?}");
    }
    let told = model::every_death_of(bound - 1, two_use([Does::WriteOut, Does::Upgrade]));
    println!("latch, one writes out and one goes on to change: {told:?}");
}

#[test]
fn who_goes_on_to_change_is_alone() {
    let bound = model::preemption_bound();
    let told = model::every_death_of(bound - 1, two_use([Does::Share, Does::Upgrade]));
    println!("latch, one shares and one goes on to change: {told:?}");
}

#[test]
fn who_does_not_wait_may_die_anywhere() {
    let bound = model::preemption_bound();
    for what in [
        [Does::TryShare, Does::Change],
        [Does::Share, Does::TryChange],
        [Does::Share, Does::TryUpgrade],
    ] {
        println!("latch, one tries: {:?}", model::every_death_of(bound - 1, two_use(what)));
    }
}

#[test]
fn whoever_waits_is_woken() {
    let bound = model::preemption_bound();
    for holds in [Does::Share, Does::WriteOut, Does::Change] {
        println!("latch, one waits: {:?}", model::every_death_of(bound - 1, one_waits(holds)));
    }
}

#[test]
fn every_ordering_of_the_latches_matters() {
    // What a dead one read under shares that it gave back itself. Without it that would be seen
    // between its store and the fence of its notification; loom does not switch, nor does anybody
    // die, there.
    let not_here = ["clean_up: let _ = user.compare_exchange"];
    let found = model::every_ordering_matters_but(&["src/latch/"], &not_here, || {
        let check = |what| model::check(move || two_use(what)([Life::endless(), Life::endless()]));
        check([Does::Share, Does::Change]);
        check([Does::Look, Does::Change]);
        check([Does::WriteOut, Does::Change]);
        check([Does::Share, Does::TryChange]);
        for (held, third) in CLEANED_UP {
            model::check(move || one_cleans_up(held, third)([Life::endless(), Life::endless()]));
        }
        model::every_death_of(1, two_use([Does::Share, Does::Change]));
    });
    // Four Acquires and six Releases of words, a fence each way of who looks and who changes, and
    // the pair of who shares and who scans, in three places and two ways.
    assert_eq!(found, 19);
}

/// Planted bug: one changes the page and does not say so.
#[test]
fn finds_a_change_that_who_looks_is_not_told_of() {
    model::finds("read while it was changed", || {
        model::check(|| {
            let world = world::<2>();
            let thread = taker(&world, 1, Does::Look, Life::endless());
            become_process(1);
            let user = world.user(0);
            let latch = user.exclusive(FRAME, None).unwrap();
            world.page.count();
            drop(latch);
            thread.join().unwrap();
            std::mem::forget(user);
            end(world);
        });
    });
}

/// Planted bug: one is taken for dead that is slow, and goes on to change the page.
#[test]
fn finds_a_verdict_that_was_guessed() {
    model::finds("half changed", || {
        model::check(|| {
            let world = world::<2>();
            let thread = taker(&world, 1, Does::Change, Life::endless());
            become_process(1);
            world.latches.clean_up(world.members[1].id());
            let user = world.user(0);
            if let Ok(latch) = user.exclusive(FRAME, None) {
                world.page.write(0, 7);
                drop(latch);
            }
            thread.join().unwrap();
            std::mem::forget(user);
            end(world);
        });
    });
}
