//! Real processes: a death is noticed at once, nothing else is taken for one.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::participants::{
    JoinError, JoinOptions, Member, Outcome, Table, Waiting, Watch, wait,
};
use shm_core::process::{Forked, Liveness, Namespaces, OpenError, ProcessHandle, ProcessId};
use shm_core::sync::Ordering;
use shm_testkit::fault::becomes_single_threaded;
use std::sync::Arc;
use std::time::{Duration, Instant};

const METHODS: [Waiting; 2] = [Waiting::Waitv, Waiting::Bounded];

fn join_with(table: &Table, waiting: Waiting) -> Arc<Member> {
    let options = JoinOptions { waiting: Some(waiting) };
    let member = table.join_with(options, |_| ()).unwrap();
    if waiting == Waiting::Bounded || shm_core::futex::waitv_works() {
        assert_eq!(member.waiting(), waiting);
    }
    member
}

/// Sleeps until the peer is dead; when that was.
fn await_death(world: &World, watch: &Watch) -> Instant {
    let end = Instant::now() + WATCHDOG;
    loop {
        let ticket = world.board.event.prepare();
        if watch.is_dead() {
            return Instant::now();
        }
        let outcome = wait(&world.board.event, ticket, &[watch], Some(end));
        assert_eq!(outcome, Outcome::Woken, "the death of {} went unnoticed", watch.peer());
    }
}

#[test]
fn a_killed_peer_wakes_who_sleeps() {
    for method in METHODS {
        let world = world(4);
        let me = join_with(&world.table, method);
        let mut delays = Vec::new();
        for round in 0..10 {
            let (mut child, id) = world.member_child(round);
            let watch = me.watch(id);
            assert!(!watch.is_dead());
            let noticed = std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| await_death(&world, &watch));
                std::thread::sleep(Duration::from_millis(30));
                let killed = Instant::now();
                child.signal(libc::SIGKILL);
                sleeper.join().unwrap() - killed
            });
            assert_eq!(world.table.liveness(id), Liveness::Dead);
            child.wait();
            assert_eq!(world.table.liveness(id), Liveness::Dead);
            assert_eq!(world.table.reap(|dead| assert_eq!(dead, id)), 1);
            delays.push(noticed);
        }
        delays.sort();
        println!("{method:?}: noticed after {:?} (median), {:?} (worst)", delays[5], delays[9]);
    }
}

#[test]
fn a_stopped_peer_is_not_dead() {
    for method in METHODS {
        let world = world(4);
        let me = join_with(&world.table, method);
        let (child, id) = world.member_child(0);
        let watch = me.watch(id);
        child.signal(libc::SIGSTOP);
        let end = Instant::now() + Duration::from_millis(1200);
        loop {
            let ticket = world.board.event.prepare();
            if wait(&world.board.event, ticket, &[&watch], Some(end)) == Outcome::TimedOut {
                break;
            }
            assert!(!watch.is_dead());
        }
        assert!(!watch.is_dead());
        assert_eq!(world.table.liveness(id), Liveness::Alive);
        assert_eq!(world.table.reap(|_| panic!("nobody died")), 0);
        child.signal(libc::SIGCONT);
    }
}

#[test]
fn leaving_is_seen_by_who_sleeps() {
    for method in METHODS {
        let world = world(4);
        let me = join_with(&world.table, method);
        let mut child = Child::fork(|| {
            let member = world.table.join().unwrap();
            world.set(0, member.id().to_bits());
            world.await_word(1, |word| word == 1);
        });
        let id = world.await_word(0, |word| word != 0);
        let id = shm_core::participants::ParticipantId::from_bits(id).unwrap();
        let watch = me.watch(id);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| await_death(&world, &watch));
            std::thread::sleep(Duration::from_millis(30));
            world.set(1, 1);
            sleeper.join().unwrap();
        });
        assert_eq!(child.wait(), 0);
        assert_eq!(world.table.reap(|_| panic!("it cleaned up itself")), 0);
        assert_eq!(world.table.snapshot().len(), 1);
    }
}

#[test]
fn an_event_wakes_a_sleeper_whose_peer_lives() {
    for method in METHODS {
        let world = world(4);
        let me = join_with(&world.table, method);
        let (_child, id) = world.member_child(0);
        let watch = me.watch(id);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let end = Instant::now() + WATCHDOG;
                loop {
                    let ticket = world.board.event.prepare();
                    if world.word(1) == 1 {
                        break;
                    }
                    let outcome = wait(&world.board.event, ticket, &[&watch], Some(end));
                    assert_eq!(outcome, Outcome::Woken);
                }
            });
            std::thread::sleep(Duration::from_millis(30));
            world.set(1, 1);
        });
    }
}

#[test]
fn many_sleepers_on_one_peer_all_wake() {
    for method in METHODS {
        let world = world(32);
        let (mut victim, id) = world.member_child(0);
        let mut sleepers: Vec<Child> = (1..=8)
            .map(|sleeper| {
                Child::fork(|| {
                    let watch = join_with(&world.table, method).watch(id);
                    world.set(sleeper, 1);
                    std::thread::scope(|scope| {
                        for _ in 0..4 {
                            scope.spawn(|| await_death(&world, &watch));
                        }
                    });
                })
            })
            .collect();
        for sleeper in 1..=8 {
            world.await_word(sleeper, |word| word == 1);
        }
        std::thread::sleep(Duration::from_millis(50));
        let killed = Instant::now();
        victim.kill();
        for sleeper in &mut sleepers {
            assert_eq!(sleeper.wait(), 0);
        }
        println!("{method:?}: 32 sleepers in 8 processes ended after {:?}", killed.elapsed());
    }
}

#[test]
fn a_forked_child_is_nobody_and_may_join_anew() {
    let world = world(4);
    let member = world.table.join().unwrap();
    let id = member.id();
    let mut inherited = Some(member.clone());
    let mut child = Child::fork(|| {
        assert_eq!(member.check_fork(), Err(Forked));
        let left = inherited.take().unwrap();
        left.on_leave(|_| panic!("not ours to clean up"));
        assert_eq!(world.table.liveness(id), Liveness::Alive);
        // The last reference that a child has must be dropped without effect.
        // SAFETY: both references are this child's own copies, neither is used again.
        unsafe { drop(std::ptr::read(&raw const left)) };
        // SAFETY: as above.
        unsafe { drop(std::ptr::read(&raw const member)) };
        std::mem::forget(left);
        assert_eq!(world.table.liveness(id), Liveness::Alive);
        let own = world.table.join().unwrap();
        assert_ne!(own.id(), id);
        assert!(own.check_fork().is_ok());
        assert_eq!(own.process().pid(), std::process::id());
        std::mem::forget(own);
    });
    assert_eq!(child.wait(), 0);
    assert!(member.check_fork().is_ok());
    assert_eq!(world.table.liveness(id), Liveness::Alive);
    assert_eq!(world.table.reap(|dead| assert_ne!(dead, id)), 1, "the child's own seat");
}

#[test]
fn the_slot_of_a_dead_one_is_cleaned_up_once_and_used_again() {
    let world = world(2);
    let me = world.table.join().unwrap();
    let (mut child, old) = world.member_child(0);
    let error = world.table.join().unwrap_err();
    assert!(matches!(error, JoinError::Full { slots: 2 }), "{error}");
    child.kill();
    let mut cleaned = Vec::new();
    let new = world.table.join_with(JoinOptions::default(), |dead| cleaned.push(dead)).unwrap();
    assert_eq!(cleaned, [old]);
    assert_eq!((new.id().slot(), new.id().generation()), (old.slot(), old.generation() + 1));
    assert_eq!(world.table.liveness(old), Liveness::Dead);
    assert_eq!(world.table.liveness(new.id()), Liveness::Alive);
    assert!(me.watch(old).is_dead());
    assert!(!me.watch(new.id()).is_dead());
    assert!(world.table.snapshot().iter().all(|info| info.held));
    drop((me, new));
    assert!(world.table.is_empty());
}

#[test]
fn a_cleanup_that_panics_keeps_the_slot_until_its_process_ends() {
    let world = world(2);
    let (mut child, id) = world.member_child(0);
    child.kill();
    let mut reaper = Child::fork(|| {
        let reap = || world.table.reap(|_| std::panic::resume_unwind(Box::new("half-way")));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(reap)).is_err());
        assert_eq!(world.table.reap(|_| ()), 0, "half cleaned up, and still ours");
    });
    assert_eq!(reaper.wait(), 0);
    assert_eq!(world.table.reap(|dead| assert_eq!(dead, id)), 1);
}

#[test]
fn leaving_cleans_up_last_first_while_the_seat_is_taken() {
    let world = world(2);
    let member = world.table.join().unwrap();
    let (sender, order) = std::sync::mpsc::channel();
    for step in 0..3 {
        let (sender, table) = (sender.clone(), world.table.clone());
        member.on_leave(move |id| sender.send((step, table.liveness(id))).unwrap());
    }
    drop((member, sender));
    let alive = Liveness::Alive;
    assert_eq!(order.iter().collect::<Vec<_>>(), [(2, alive), (1, alive), (0, alive)]);
}

/// Somebody writes to a dead one's life word, or the kernel forgot to mark it.
#[test]
fn who_only_asks_sees_a_death_without_a_mark() {
    let world = world(2);
    let me = world.table.join().unwrap();
    let (mut child, id) = world.member_child(0);
    let watch = me.watch(id);
    assert!(!watch.is_dead());
    child.kill();
    world.life(id).store(4711, Ordering::Relaxed);
    let killed = Instant::now();
    while !watch.is_dead() {
        assert!(killed.elapsed() < WATCHDOG, "it looks held, and is believed");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("a death without a mark was seen after {:?}", killed.elapsed());
}

/// By the keeper's robust list: nobody else writes to a dead one's life word.
#[test]
fn a_killed_process_has_its_life_word_marked() {
    let world = world(2);
    let (mut child, id) = world.member_child(0);
    let held = world.life(id).load(Ordering::Relaxed);
    assert!(held != 0 && held & libc::FUTEX_OWNER_DIED == 0, "{held:x}");
    child.kill();
    assert_eq!(world.life(id).load(Ordering::Relaxed), libc::FUTEX_OWNER_DIED);
}

#[test]
fn a_member_that_has_left_leaves_no_thread_and_no_memory_behind() {
    let world = world(2);
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let shared_mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("rw-s")).count()
    };
    // In a child, where no other test's members come and go.
    let mut child = Child::fork(|| {
        let mappings = shared_mappings();
        let member = world.table.join().unwrap();
        assert_eq!(threads(), 2);
        assert_eq!(shared_mappings(), mappings + 1);
        drop(member);
        assert!(becomes_single_threaded(WATCHDOG));
        assert_eq!(shared_mappings(), mappings);
    });
    assert_eq!(child.wait(), 0);
}

#[test]
fn who_joins_takes_signals_as_before_and_its_keeper_takes_none() {
    let world = world(2);
    let blocked = |thread: &str| {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let me = rustix::thread::gettid().as_raw_nonzero().get().to_string();
    let before = blocked(&me);
    let member = world.table.join().unwrap();
    assert_eq!(blocked(&me), before);
    let keeper = world.life(member.id()).load(Ordering::Relaxed).to_string();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGCHLD] {
        assert_ne!(blocked(&keeper) & 1 << (signal - 1), 0, "signal {signal}");
    }
}

/// The kernel, short of memory, may drop the private pages of a process it kills.
#[test]
fn the_list_that_marks_a_death_is_not_in_private_memory() {
    let world = world(1);
    let _member = world.table.join().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).unwrap_or_default().trim() != "shm-keeper" {
            continue;
        }
        let thread: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let (mut head, mut len) = (0usize, 0usize);
        // SAFETY: two places for the answers.
        let got = unsafe {
            libc::syscall(libc::SYS_get_robust_list, thread, &raw mut head, &raw mut len)
        };
        if got == 0 && head != 0 {
            let line = maps.lines().find(|line| is_in(head, line));
            // A keeper of another test may have ended meanwhile, or begun.
            assert!(line.is_none_or(|line| line.contains("rw-s")), "{line:?}");
        }
    }
}

fn is_in(address: usize, line: &str) -> bool {
    let range = line.split(' ').next().and_then(|range| range.split_once('-'));
    let number = |text| usize::from_str_radix(text, 16).unwrap();
    range.is_some_and(|(from, to)| (number(from)..number(to)).contains(&address))
}

/// `exec` ends the keeper thread, so the kernel marks the life word of a process that lives.
#[test]
fn the_mark_of_a_process_that_execs_is_not_believed_and_not_spun_on() {
    let world = world(4);
    let me = join_with(&world.table, Waiting::Waitv);
    let mut child = Child::fork(|| {
        let member = world.table.join().unwrap();
        world.set(0, member.id().to_bits());
        let (program, minute) = (c"/bin/sleep", c"60");
        let arguments = [program.as_ptr(), minute.as_ptr(), std::ptr::null()];
        // SAFETY: strings that live, and a null at the end.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
    });
    let id = world.await_word(0, |word| word != 0);
    let id = shm_core::participants::ParticipantId::from_bits(id).unwrap();
    let watch = me.watch(id);
    let end = Instant::now() + WATCHDOG;
    while world.table.snapshot().iter().any(|info| info.id == id && info.held) {
        assert!(Instant::now() < end, "exec ends the other threads, and the kernel marks");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (busy, end) = (thread_cpu_time(), Instant::now() + Duration::from_millis(500));
    loop {
        let ticket = world.board.event.prepare();
        assert!(!watch.is_dead());
        if wait(&world.board.event, ticket, &[&watch], Some(end)) == Outcome::TimedOut {
            break;
        }
    }
    let busy = thread_cpu_time() - busy;
    println!("waiting 500 ms for a peer that had called exec took {busy:?} of processor time");
    assert!(busy < Duration::from_millis(250), "it spins");
    assert_eq!(world.table.reap(|_| panic!("it lives")), 0);
    child.signal(libc::SIGKILL);
    await_death(&world, &watch);
    child.wait();
    assert_eq!(world.table.reap(|dead| assert_eq!(dead, id)), 1);
}

fn thread_cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_pid_that_belongs_to_another_one_now_is_dead() {
    let me = ProcessId::me();
    assert_eq!(me, ProcessId::of(me.pid()).unwrap());
    let earlier = ProcessId::new(me.pid(), me.start_ticks() - 1).unwrap();
    assert_eq!(earlier.liveness(), Liveness::Dead);
    assert!(matches!(ProcessHandle::open(earlier), Err(OpenError::Dead(who)) if who == earlier));
    let unknown = ProcessId::new(me.pid(), 0).unwrap();
    assert_eq!(unknown.liveness(), Liveness::Unknown, "never guessed");
}

#[test]
fn a_zombie_is_dead_and_a_handle_sees_it_die() {
    let mut child = Child::fork(|| {
        std::thread::sleep(WATCHDOG);
    });
    let process = ProcessId::of(child.pid).unwrap();
    let handle = ProcessHandle::open(process).unwrap();
    assert!(!handle.wait_dead(Some(Instant::now() + Duration::from_millis(20))));
    child.signal(libc::SIGKILL);
    assert!(handle.wait_dead(Some(Instant::now() + WATCHDOG)));
    assert_eq!(process.liveness(), Liveness::Dead);
    child.wait();
    assert!(handle.is_dead());
    assert_eq!(process.liveness(), Liveness::Dead);
}

/// A thread's number is no process's: whoever had it as a pid is gone.
#[test]
fn a_pid_that_is_a_thread_now_is_dead() {
    std::thread::spawn(|| {
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let stranger = ProcessId::new(thread, 5).unwrap();
        assert_eq!(stranger.liveness(), Liveness::Dead);
    })
    .join()
    .unwrap();
}

#[test]
fn another_pid_namespace_is_refused_and_reaps_nothing() {
    let world = world(4);
    let member = world.table.join().unwrap();
    let (mut dead, dead_id) = world.member_child(0);
    dead.kill();
    let mut child = Child::fork(|| {
        // SAFETY: moves this child (its children, as for pids) only.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } != 0 {
            println!("no new namespaces here: {}", std::io::Error::last_os_error());
            return;
        }
        let mut foreigner = Child::fork(|| {
            assert!(Namespaces::mine().is_err(), "/proc is still the parent namespace's");
            assert!(matches!(world.table.join(), Err(JoinError::Proc(_))));
            assert_eq!(world.table.reap(|_| panic!("cannot know")), 0);
            assert_eq!(world.table.liveness(member.id()), Liveness::Unknown);
            assert_eq!(world.table.liveness(dead_id), Liveness::Unknown);
        });
        assert_eq!(foreigner.wait(), 0);
    });
    assert_eq!(child.wait(), 0);
    assert_eq!(world.table.reap(|id| assert_eq!(id, dead_id)), 1);
}
