//! A bell rings when a word changes, by whichever means; it costs nothing when it is gone, and a
//! forked child has none.
#![cfg(not(any(shm_loom, shm_explore)))]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm_core::bell::{Bell, BellError};
use shm_core::futex::{Futex, WAIT_WORDS_MAX};
use shm_core::sync::Ordering;
use shm_testkit::child::Child;
use shm_testkit::fault::{Footprint, forbid};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// So long nobody rings.
const SHORT: Duration = Duration::from_millis(30);

/// Whether it becomes readable in this time.
fn is_heard(bell: &Bell, within: Duration) -> bool {
    let timeout = Timespec::try_from(within).unwrap();
    poll(&mut [PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn is_rung(bell: &mut Bell) -> bool {
    is_heard(bell, LIMIT) && bell.take().unwrap()
}

fn bells() -> [Bell; 2] {
    let best = Bell::new().unwrap();
    println!("a bell is immediate here: {}", best.is_immediate());
    [best, Bell::by_timer().unwrap()]
}

fn change(word: &Futex) {
    word.word().fetch_add(1, Ordering::Relaxed);
    word.wake_all();
}

#[test]
fn rings_when_one_of_its_words_is_woken() {
    for mut bell in bells() {
        let words: Vec<Futex> = (0..WAIT_WORDS_MAX).map(|_| Futex::new(7)).collect();
        let expected: Vec<(&Futex, u32)> = words.iter().map(|word| (word, 7)).collect();
        for number in [0, 77, WAIT_WORDS_MAX - 1] {
            bell.arm(&expected, None).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(SHORT);
                    change(&words[number]);
                });
                assert!(is_rung(&mut bell));
            });
            assert!(!bell.take().unwrap(), "it says so once");
            words[number].word().store(7, Ordering::Relaxed);
        }
    }
}

#[test]
fn rings_at_once_for_a_word_that_has_changed() {
    for mut bell in bells() {
        let (still, changed) = (Futex::new(1), Futex::new(2));
        bell.arm(&[(&still, 1), (&changed, 1)], None).unwrap();
        assert!(is_rung(&mut bell));
    }
}

#[test]
fn rings_after_the_time_it_was_given() {
    for mut bell in bells() {
        let word = Futex::new(1);
        let one: &[(&Futex, u32)] = &[(&word, 1)];
        for words in [one, &[]] {
            bell.arm(words, Some(SHORT)).unwrap();
            assert!(is_rung(&mut bell));
            // And can be armed again, though nothing changed.
            bell.arm(words, Some(Duration::ZERO)).unwrap();
            assert!(is_rung(&mut bell));
        }
    }
}

#[test]
fn what_it_was_armed_with_before_is_forgotten() {
    let mut bell = Bell::new().unwrap();
    if !bell.is_immediate() {
        return println!("not run: a bell that goes by a timer rings all the same");
    }
    let (before, word) = (Futex::new(1), Futex::new(1));
    for _ in 0..100 {
        bell.arm(&[(&before, 1)], Some(LIMIT)).unwrap();
    }
    bell.arm(&[(&word, 1)], None).unwrap();
    change(&before);
    assert!(!bell.take().unwrap());
    change(&word);
    assert!(is_rung(&mut bell));
}

#[test]
fn rings_when_a_descriptor_can_be_read_or_has_hung_up() {
    // More than a ring has room for, in both directions.
    let (ours, mut theirs): (Vec<_>, Vec<_>) = (0..60).map(|_| UnixStream::pair().unwrap()).unzip();
    let fds: Vec<_> = ours.iter().map(AsFd::as_fd).collect();
    for mut bell in bells() {
        let word = Futex::new(1);
        let one: &[(&Futex, u32)] = &[(&word, 1)];
        for (number, words) in [(0, one), (35, &[]), (59, one)] {
            bell.arm_beside(words, &fds, None).unwrap();
            assert!(!bell.is_immediate() || !bell.take().unwrap(), "nothing has come");
            theirs[number].write_all(b"1").unwrap();
            assert!(is_rung(&mut bell));
            (&ours[number]).read_exact(&mut [0]).unwrap();
        }
        // All at once, of which each has an answer.
        theirs.iter_mut().for_each(|fd| fd.write_all(b"1").unwrap());
        bell.arm_beside(&[], &fds, None).unwrap();
        assert!(is_rung(&mut bell));
        ours.iter().for_each(|mut fd| fd.read_exact(&mut [0]).unwrap());
        bell.arm_beside(one, &fds, None).unwrap();
        assert!(!bell.is_immediate() || !bell.take().unwrap(), "those are forgotten");
        change(&word);
        assert!(is_rung(&mut bell));
    }
    let mut bell = Bell::new().unwrap();
    bell.arm_beside(&[], &fds[..1], Some(SHORT)).unwrap();
    assert!(is_rung(&mut bell), "a time, and no word");
    bell.arm_beside(&[], &fds[..1], None).unwrap();
    theirs.clear();
    assert!(is_rung(&mut bell), "hung up");
}

#[test]
fn a_silent_one_does_not_ring() {
    for mut bell in bells() {
        let word = Futex::new(1);
        bell.arm(&[(&word, 1)], None).unwrap();
        bell.silence().unwrap();
        let _ = bell.take().unwrap();
        change(&word);
        // What was cancelled may be heard, but is no ring.
        std::thread::sleep(SHORT);
        assert!(!bell.take().unwrap());
    }
}

/// Who armed it may end: then it rings, or rings later all the same.
#[test]
fn outlives_the_thread_that_armed_it() {
    for mut bell in bells() {
        let word = Futex::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| bell.arm(&[(&word, 1)], None).unwrap());
        });
        change(&word);
        assert!(is_rung(&mut bell));
    }
}

shm_testkit::children! { leaves_nothing, is_without, forks }

/// Armed and dropped, its words before it or after.
fn leaves_nothing(_: &[String]) {
    let before = Footprint::now();
    for _ in 0..50 {
        for mut bell in bells() {
            let word = Box::new(Futex::new(1));
            bell.arm(&[(&word, 1)], Some(LIMIT)).unwrap();
            drop(word);
        }
    }
    // The kernel takes rings apart a little later, where nobody sees it.
    before.assert_same();
}

/// Where io_uring is refused.
fn is_without(_: &[String]) {
    match forbid(&[libc::SYS_io_uring_setup], libc::EPERM) {
        Err(not_run) => return eprintln!("{not_run}"),
        Ok(()) => assert!(!Bell::new().unwrap().is_immediate()),
    }
    let (mut bell, word) = (Bell::new().unwrap(), Futex::new(1));
    bell.arm(&[(&word, 1)], None).unwrap();
    change(&word);
    assert!(is_rung(&mut bell));
}

/// The child may do nothing with it, and its end is not that of the bell.
fn forks(_: &[String]) {
    for mut bell in bells() {
        let word = Futex::new(1);
        bell.arm(&[(&word, 1)], None).unwrap();
        // SAFETY: one thread, and the child only does what follows.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let forked = |end| matches!(end, Err(BellError::Forked(_)));
            let refused = forked(bell.take().map(drop)) && forked(bell.silence());
            drop(bell);
            let own = Bell::new().is_ok_and(|mut own| own.arm(&[(&word, 0)], None).is_ok());
            // SAFETY: ends the process.
            unsafe { libc::_exit(if refused && own { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: our child, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the bell is its parent's");
        change(&word);
        assert!(is_rung(&mut bell));
    }
}

#[test]
fn nothing_of_it_is_left_behind() {
    Child::spawn("leaves_nothing", &[]).wait(LIMIT).assert_success();
}

#[test]
fn a_sandbox_without_io_uring_gets_a_timer() {
    Child::spawn("is_without", &[]).wait(LIMIT).assert_success();
}

#[test]
fn a_forked_child_has_none() {
    Child::spawn("forks", &[]).wait(LIMIT).assert_success();
}
