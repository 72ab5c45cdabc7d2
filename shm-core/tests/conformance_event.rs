//! What a sleeper on an `EventCount` is promised, in both ways to sleep: on the event alone
//! (`futex`), and on another word too (`futex_waitv`). Threads and processes, some of them killed.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Board, Child, WATCHDOG, shared_mapping};
use rustix::process::{Signal, set_parent_process_death_signal};
use shm_core::event::{EventCount, Ticket};
use shm_core::futex::{Futex, Wake, waitv_works};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Words of the board: what is waited for, and how many have announced themselves.
const CHANGED: usize = 0;
const ANNOUNCED: usize = 1;

type Sleep = fn(&EventCount, Ticket, Option<Instant>) -> Wake;

fn alone(event: &EventCount, ticket: Ticket, deadline: Option<Instant>) -> Wake {
    event.wait(ticket, deadline)
}

fn with_another(event: &EventCount, ticket: Ticket, deadline: Option<Instant>) -> Wake {
    event.wait_any(ticket, &[(&Futex::new(7), 7)], deadline)
}

/// Each promise is a function; this makes a test of it for both ways to sleep.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod futex { $(
            #[test]
            fn $promise() {
                super::within(super::WATCHDOG, || super::$promise(super::alone));
            }
        )* }
        mod futex_waitv { $(
            #[test]
            fn $promise() {
                if super::waitv_works() {
                    super::within(super::WATCHDOG, || super::$promise(super::with_another));
                } else {
                    println!("not run: no futex_waitv here");
                }
            }
        )* }
    };
}

promises! {
    a_notify_before_the_sleep_is_not_lost, a_notify_wakes_a_thread, a_notify_wakes_a_process,
    one_notify_wakes_all, deadlines_are_kept, a_killed_sleeper_costs_one_notify,
    a_killed_sleeper_hangs_nobody, a_sleep_whose_time_runs_out_says_so,
}

fn board() -> (Arc<Mapping>, Mapped<Board>) {
    let mapping = shared_mapping(4096);
    let board = Mapped::new(&mapping, 0).unwrap(); // all zero is a fine Board
    (mapping, board)
}

/// The word behind the event, which stands first on the board.
fn word_of_the_event(mapping: &Mapping) -> u32 {
    mapping.region().share::<AtomicU32>(0).unwrap().load(Ordering::Relaxed)
}

/// Sleeps until the board has changed, counting itself before the first sleep.
fn sleep_until_changed(board: &Board, sleep: Sleep) {
    let mut ticket = board.event.prepare();
    board.words[ANNOUNCED].fetch_add(1, Ordering::Relaxed);
    while board.words[CHANGED].load(Ordering::Acquire) == 0 {
        assert_eq!(sleep(&board.event, ticket, None), Wake::Woken);
        ticket = board.event.prepare();
    }
}

/// A process that sleeps until the board has changed, and does not outlive the watchdog's bite.
fn sleeping_process(board: &Board, sleep: Sleep) -> Child {
    Child::fork(|| {
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        sleep_until_changed(board, sleep);
    })
}

fn await_announced(board: &Board, count: u32) {
    while board.words[ANNOUNCED].load(Ordering::Relaxed) < count {
        thread::sleep(Duration::from_millis(1));
    }
    // Most of them are asleep by now; whether or not, one notify must do.
    thread::sleep(Duration::from_millis(20));
}

fn change(board: &Board) {
    board.words[CHANGED].store(1, Ordering::Release);
    board.event.notify();
}

fn all_wake(sleep: Sleep, threads: u32, processes: u32) {
    let (_, board) = board();
    let mut children: Vec<Child> =
        (0..processes).map(|_| sleeping_process(&board, sleep)).collect();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| sleep_until_changed(&board, sleep));
        }
        await_announced(&board, threads + processes);
        change(&board);
    });
    assert!(children.iter_mut().all(|child| child.wait() == 0));
}

fn a_notify_before_the_sleep_is_not_lost(sleep: Sleep) {
    let (_, board) = board();
    for _ in 0..1000 {
        let ticket = board.event.prepare();
        board.event.notify();
        assert_eq!(sleep(&board.event, ticket, None), Wake::Woken);
    }
}

fn a_notify_wakes_a_thread(sleep: Sleep) {
    all_wake(sleep, 1, 0);
}

fn a_notify_wakes_a_process(sleep: Sleep) {
    all_wake(sleep, 0, 1);
}

fn one_notify_wakes_all(sleep: Sleep) {
    all_wake(sleep, 8, 4);
}

/// Never early; how late is not judged. From 900 ms on, most cross a full second of the clock,
/// and the last one always does.
fn deadlines_are_kept(sleep: Sleep) {
    let (_, board) = board();
    thread::scope(|scope| {
        for milliseconds in [0, 1, 100, 900, 1100] {
            let board = &board;
            scope.spawn(move || {
                let deadline = Instant::now() + Duration::from_millis(milliseconds);
                let sleeps = (1..)
                    .find(|_| {
                        let ticket = board.event.prepare();
                        sleep(&board.event, ticket, Some(deadline)) == Wake::TimedOut
                    })
                    .unwrap();
                assert!(Instant::now() >= deadline, "{milliseconds} ms ended early");
                assert!(sleeps < 10, "{milliseconds} ms took {sleeps} sleeps");
            });
        }
    });
}

/// The bit that it leaves behind is cleared by the next notify, and the one after writes nothing.
fn a_killed_sleeper_costs_one_notify(sleep: Sleep) {
    let (mapping, board) = board();
    let mut child = sleeping_process(&board, sleep);
    await_announced(&board, 1);
    child.kill();
    let left = word_of_the_event(&mapping);
    board.event.notify();
    let cleared = word_of_the_event(&mapping);
    assert_ne!(cleared, left);
    board.event.notify();
    assert_eq!(word_of_the_event(&mapping), cleared);
}

/// A condition variable of glibc fails here (seen with 2.36): it waits for the dead one to leave.
fn a_killed_sleeper_hangs_nobody(sleep: Sleep) {
    let (_, board) = board();
    for _ in 0..20 {
        board.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let mut victim = sleeping_process(&board, sleep);
        let mut other = sleeping_process(&board, sleep);
        await_announced(&board, 2);
        victim.kill();
        change(&board);
        assert_eq!(other.wait(), 0);
    }
}

#[test]
fn a_notify_without_sleepers_writes_nothing() {
    let (mapping, board) = board();
    board.event.notify();
    assert_eq!(word_of_the_event(&mapping), 0);
}

/// On an event that has been notified before, whose word is no small number any more.
fn a_sleep_whose_time_runs_out_says_so(sleep: Sleep) {
    let (_, board) = board();
    let _ = board.event.prepare();
    board.event.notify();
    let said = (0..10).any(|_| {
        let ticket = board.event.prepare();
        let deadline = Instant::now() + Duration::from_millis(20);
        sleep(&board.event, ticket, Some(deadline)) == Wake::TimedOut
    });
    assert!(said, "ten sleeps, and none of them ended by its deadline");
}

#[test]
fn one_wake_up_ends_a_sleep_though_the_word_stays() {
    within(WATCHDOG, || {
        let futex = Arc::new(Futex::new(0));
        let theirs = futex.clone();
        let sleeper = thread::spawn(move || theirs.wait(0, None));
        while !sleeper.is_finished() {
            futex.wake_one();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(sleeper.join().unwrap(), Wake::Woken);
    });
}

/// A system without the call refuses at once; one that has it sleeps until the deadline.
#[test]
fn whether_two_words_can_be_slept_on_is_said_truly() {
    let (one, two) = (Futex::new(1), Futex::new(1));
    let slept = (0..10).any(|_| {
        let deadline = Instant::now() + Duration::from_millis(20);
        Futex::wait_any(&[(&one, 1), (&two, 1)], Some(deadline)) == Wake::TimedOut
    });
    assert!(slept || !waitv_works());
    assert!(waitv_works() || !slept);
}
