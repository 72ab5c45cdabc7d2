//! The pages in weak memory: a change is seen wholly or not at all, whoever dies in it or mends it;
//! a page that is not dirty is in its file; and an intent has one owner, whose image nobody else
//! reads or writes.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use buffer_pool::pages::{Exclusive, Pages, Shape, ShareExclusive, User, UserError, WriteError};
use shm_core::bytes::Word;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::{AtomicU64, Ordering::Relaxed, yield_now};
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life};
use std::sync::Arc;

/// The frame that it is about, and one that nobody else wants.
const FRAME: u32 = 0;
const OTHER: u32 = 1;
const PAGE_BYTES: u32 = 16;
/// So many accesses somebody makes who dies in the midst of a change of both words: of its intent
/// two ranges, two words and the head; the state; two of the version; one word of the page.
const HALF: u32 = 9;

/// A page is two counters that are equal; its file has one.
struct World<const N: usize> {
    table: Table,
    pages: Pages,
    file: Mapped<Word>,
    members: [Arc<Member>; N],
}

/// A seat for each of the processes 1, 2, …
fn world<const N: usize>() -> Arc<World<N>> {
    let mapping = Mapping::heap(Table::bytes_for(N as u32) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, N as u32) }.unwrap();
    let shape = Shape { frames: 2, seats: N as u32, threads: 1, page_bytes: PAGE_BYTES };
    let mapping = Mapping::heap(Pages::bytes_for(shape) as usize);
    // SAFETY: as above.
    unsafe { Pages::create(&mapping, 0, shape) }.unwrap();
    let pages = Pages::attach(&mapping, 0, shape).unwrap();
    // SAFETY: as above.
    let file = unsafe { Mapped::place(&Mapping::heap(4096), 0, Word::new()) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    Arc::new(World { table, pages, file, members })
}

#[derive(Clone, Copy, Debug)]
enum Does {
    Read,
    Share,
    WriteOut,
    TryWriteOut,
    Change,
    Mend,
    CleanUp,
}

fn counters(copy_out: impl FnOnce(&mut [u8])) -> [u64; 2] {
    let mut bytes = [0; PAGE_BYTES as usize];
    copy_out(&mut bytes);
    let (words, _) = bytes.as_chunks();
    [words[0], words[1]].map(u64::from_ne_bytes)
}

fn is_whole([one, other]: [u64; 2]) -> u64 {
    assert_eq!(one, other, "half changed");
    one
}

fn write(page: &mut Exclusive<'_>, value: u64) {
    let bytes = value.to_ne_bytes();
    page.write(&[(0, &bytes), (8, &bytes)]).unwrap();
}

fn count(mut page: Exclusive<'_>) {
    let one = is_whole(counters(|out| page.copy_out(0, out)));
    write(&mut page, one + 1);
}

impl<const N: usize> World<N> {
    fn user(&self, at: usize) -> User {
        self.pages.user(&self.members[at], 0).unwrap()
    }

    fn does(&self, user: &User, what: Does) {
        match what {
            Does::Read => {
                is_whole(counters(|out| user.read(FRAME, 0, out, None).unwrap()));
            }
            Does::Share => {
                let page = user.share(FRAME, None).unwrap();
                is_whole(counters(|out| page.copy_out(0, out)));
            }
            Does::WriteOut => self.write_out(user.share_exclusive(FRAME, None).unwrap()),
            Does::TryWriteOut => {
                user.try_share_exclusive(FRAME)
                    .unwrap()
                    .into_iter()
                    .for_each(|it| self.write_out(it));
            }
            Does::Change => count(user.exclusive(FRAME, None).unwrap()),
            Does::Mend => _ = user.mend(FRAME).unwrap(),
            Does::CleanUp => {
                let dead = self.members[0].id();
                assert_eq!(self.table.liveness(dead), Liveness::Dead);
                user.clean_up(dead);
            }
        }
    }

    fn write_out(&self, mut page: ShareExclusive<'_>) {
        let one = is_whole(counters(|out| page.copy_out(0, out)));
        // SAFETY: guarded by the latch, as the model checks.
        unsafe { self.file.set(one) };
        page.mark_clean().unwrap();
    }

    /// Process `at + 1`, whose user this is, does it once, and the kernel buries it if it dies of
    /// that.
    fn take(&self, at: usize, user: &User, what: Does, life: &Life) -> bool {
        let process = become_process(at as u32 + 1);
        let lived = life.run(|| self.does(user, what));
        if lived.is_none() {
            process_ends(&self.table, process);
        }
        lived.is_some()
    }

    /// Process 1 dies in the midst of a change of the page, from 0 to 7.
    fn die_in_a_change(&self, process: ProcessId, user: User) {
        if let Ok(mut page) = user.exclusive(FRAME, None) {
            assert!(model::mortal(HALF, || write(&mut page, 7)).is_none());
            std::mem::forget(page);
        }
        std::mem::forget(user);
        process_ends(&self.table, process);
    }

    /// What process `at + 1` finds at the end, which is in the file or dirty.
    fn ends(&self, at: usize) -> u64 {
        become_process(at as u32 + 1);
        let user = self.user(at);
        let page = user.share_exclusive(FRAME, None).unwrap();
        let one = is_whole(counters(|out| page.copy_out(0, out)));
        // SAFETY: as above.
        let in_file = page.is_dirty() || unsafe { self.file.get() } == one;
        assert!(in_file, "changed, and not to be written out");
        one
    }
}

fn taker<const N: usize>(
    world: &Arc<World<N>>,
    at: usize,
    what: Does,
    life: Life,
) -> JoinHandle<bool> {
    become_process(at as u32 + 1);
    let (world, user) = (world.clone(), world.user(at));
    spawn(move || {
        let lived = world.take(at, &user, what, &life);
        // The intent of a dead one is its own.
        if lived {
            drop(user)
        } else {
            std::mem::forget(user)
        }
        lived
    })
}

/// Seats are not left: a model that ends has no kernel any more.
fn end<const N: usize>(world: Arc<World<N>>) {
    std::mem::forget(Arc::into_inner(world).expect("the threads have ended").members);
}

/// Two use the page, each once; who lives must get it. Whoever is left then looks at it: what was
/// changed and told is there.
fn two_use(what: [Does; 2]) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<2>();
        let thread = taker(&world, 1, what[1], other);
        become_process(1);
        let user = world.user(0);
        let lived = world.take(0, &user, what[0], &one);
        if lived {
            drop(user)
        } else {
            std::mem::forget(user)
        }
        let other_lived = thread.join().unwrap();
        if lived || other_lived {
            let changes = |at: usize, lived| u64::from(lived && matches!(what[at], Does::Change));
            let told = changes(0, lived) + changes(1, other_lived);
            assert!(world.ends(usize::from(!lived)) >= told, "told, and not there");
        }
        end(world);
    }
}

/// One has died in the midst of a change. Two others use the page, mend it or clean up, and may die
/// of that; then it is changed.
fn two_mend(what: [Does; 2]) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<3>();
        let user = world.user(0);
        world.die_in_a_change(become_process(1), user);
        let thread = taker(&world, 2, what[1], other);
        become_process(2);
        let user = world.user(1);
        let lived = world.take(1, &user, what[0], &one);
        if lived {
            drop(user)
        } else {
            std::mem::forget(user)
        }
        if thread.join().unwrap() || lived {
            let value = world.ends(if lived { 1 } else { 2 });
            assert!(value >= 7, "mended, and the change is lost: {value}");
        }
        end(world);
    }
}

/// One has died in the midst of a change, and another process mends the page. One of its threads is
/// short of an intent: that of the dead one it has once nobody needs it any more.
fn one_is_short_of_an_intent(mends: Does) -> impl Fn() + Send + Sync + 'static {
    move || {
        let world = world::<2>();
        let user = world.user(0);
        world.die_in_a_change(become_process(1), user);
        become_process(2);
        let mender = world.user(1);
        let theirs = world.clone();
        let writer = spawn(move || {
            become_process(2);
            match theirs.pages.user(&theirs.members[1], 0) {
                Ok(user) => write(&mut user.exclusive(OTHER, None).unwrap(), 1),
                Err(error) => assert_eq!(error, UserError::NoIntent(2)),
            }
        });
        world.does(&mender, mends);
        std::mem::forget(mender);
        writer.join().unwrap();
        assert!(world.ends(1) >= 7);
        end(world);
    }
}

/// One gives its intent back, in which it has written what it did not come to say: what it says is
/// behind the fence of a change. Another one has it then.
fn one_gives_its_intent_back() {
    let world = world::<2>();
    let (user, other) = (world.user(0), world.user(0));
    // They take turns by a word that orders nothing: who ends, or waits for an end, has a fence.
    let turn = Arc::new(AtomicU64::new(0));
    let waits = |turn: &AtomicU64, mine| {
        while turn.load(Relaxed) != mine {
            yield_now()
        }
    };
    let (theirs, its) = (world.clone(), turn.clone());
    let writes = spawn(move || {
        become_process(2);
        waits(&its, 1);
        if let Ok(user) = theirs.pages.user(&theirs.members[1], 0) {
            write(&mut user.exclusive(OTHER, None).unwrap(), 1);
        }
        its.store(2, Relaxed);
    });
    become_process(1);
    let mut page = user.exclusive(FRAME, None).unwrap();
    let refused = page.write(&[(0, &[1; 8]), (PAGE_BYTES as usize, &[1])]);
    assert!(matches!(refused, Err(WriteError::OutsideThePage { .. })));
    // Not given back: that has a fence, too.
    std::mem::forget(page);
    drop(user);
    turn.store(1, Relaxed);
    waits(&turn, 2);
    writes.join().unwrap();
    drop(other);
    end(world);
}

/// One changes the page, another one puts another page into its frame as soon as it can, and a
/// third one looks.
///
/// Without shadows, as in `loom_latch::who_looks_sees_no_half_of_a_repair`.
fn one_loads_and_one_looks() {
    let world = world::<3>();
    let [user, loader, looker] = [0, 1, 2].map(|at| {
        become_process(at as u32 + 1);
        world.user(at)
    });
    let loads = spawn(move || {
        become_process(2);
        if let Some(mut page) = loader.load(FRAME).unwrap() {
            page.copy_in(0, &[7; PAGE_BYTES as usize]);
            page.done().unwrap();
        }
    });
    let theirs = world.clone();
    let looks = spawn(move || {
        become_process(3);
        theirs.does(&looker, Does::Read);
    });
    become_process(1);
    write(&mut user.exclusive(FRAME, None).unwrap(), 1);
    loads.join().unwrap();
    looks.join().unwrap();
    drop(user);
    end(world);
}

#[test]
fn who_changes_may_die_anywhere() {
    let bound = model::preemption_bound();
    for what in [Does::Change, Does::Share, Does::Read] {
        let told = model::every_death_of(bound - 1, two_use([what, Does::Change]));
        println!("pages, one changes, {what:?} beside it: {told:?}");
    }
}

#[test]
fn what_is_not_in_its_file_is_dirty_whoever_dies() {
    let bound = model::preemption_bound();
    for what in [Does::WriteOut, Does::TryWriteOut] {
        let told = model::every_death_of(bound - 1, two_use([what, Does::Change]));
        println!("pages, one changes, {what:?} beside it: {told:?}");
    }
}

/// What the two do.
const MEND: [[Does; 2]; 4] = [
    [Does::Mend, Does::Read],
    [Does::CleanUp, Does::Change],
    [Does::CleanUp, Does::CleanUp],
    [Does::Share, Does::WriteOut],
];

#[test]
fn who_mends_may_die_anywhere() {
    let bound = model::preemption_bound();
    for what in MEND {
        let told = model::every_death_of(bound - 2, two_mend(what));
        println!("pages, {what:?} of a torn page: {told:?}");
    }
}

#[test]
fn who_is_short_of_an_intent_has_that_of_a_dead_one() {
    let bound = Some(model::preemption_bound() - 1);
    for mends in [Does::Mend, Does::Change, Does::CleanUp] {
        let told = model::check_bounded(bound, one_is_short_of_an_intent(mends));
        println!("pages, an intent of the dead, {mends:?}: {told:?}");
    }
    let told = model::check_bounded(bound, one_gives_its_intent_back);
    println!("pages, an intent of the living: {told:?}");
}

#[test]
fn who_looks_sees_nothing_of_a_page_that_is_loaded() {
    let bound = Some(model::preemption_bound() - 1);
    let told = model::without_shadow(|| model::check_bounded(bound, one_loads_and_one_looks));
    println!("pages, one loads and one looks: {told:?}");
}

#[test]
fn every_ordering_of_the_pages_matters() {
    // What was read to mend a page. Who mended it has a fence in its wake-up, and who gets the
    // intent one in taking the page that it writes by it, which in a model come one after the
    // other: loom does not switch, nor does anybody die, before the former.
    let not_here =
        ["needs: let state = State::from_bits", "sweep: let _ = intent.owner.compare_exchange"];
    let files = ["src/pages/", "src/latch/reclaim"];
    let found = model::every_ordering_matters_but(&files, &not_here, || {
        model::check_bounded(Some(1), one_gives_its_intent_back);
        model::check_bounded(Some(1), one_is_short_of_an_intent(Does::Mend));
        model::without_shadow(|| model::check_bounded(Some(1), one_loads_and_one_looks));
    });
    // An intent that its owner gives back; a frame that is reclaimed.
    assert_eq!(found, 2);
}

/// Planted bug: one is taken for dead that is slow, and another one has its intent, too.
#[test]
fn finds_a_verdict_that_was_guessed() {
    model::finds("Causality violation", || {
        model::check(|| {
            let world = world::<2>();
            let thread = taker(&world, 1, Does::Change, Life::endless());
            become_process(1);
            world.pages.clean_up(world.members[1].id());
            let user = world.user(0);
            write(&mut user.exclusive(OTHER, None).unwrap(), 1);
            drop(user);
            thread.join().unwrap();
            end(world);
        });
    });
}

/// Planted bug: a page is written to its file, and marked, by one who only shares it.
#[test]
fn finds_a_mark_that_comes_too_late() {
    model::finds("changed, and not to be written out", || {
        model::check(|| {
            let world = world::<2>();
            let thread = taker(&world, 1, Does::Change, Life::endless());
            become_process(1);
            let user = world.user(0);
            world.does(&user, Does::Read);
            let late = user.share_exclusive(FRAME, None).map(|mut page| page.mark_clean());
            assert!(late.is_ok());
            drop(user);
            thread.join().unwrap();
            world.ends(0);
            end(world);
        });
    });
}
