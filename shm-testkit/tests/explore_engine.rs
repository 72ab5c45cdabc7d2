//! The explorer itself, on toys: each kind of edge, and each kind of finding.
#![cfg(shm_explore)]
use shm_testkit::explore::kernel::{self, FUTEX_OWNER_DIED, FUTEX_WAITERS, Slept};
use shm_testkit::explore::{
    Arena, AtomicU32, AtomicU64, Process, Scenario, finds, is_deep, yield_now,
};
use std::sync::atomic::Ordering::Relaxed;

/// Words that the toys share.
struct Words {
    arena: Arena,
}

impl Words {
    fn new(count: usize) -> Words {
        Words { arena: Arena::new(8 * count) }
    }

    fn address(&self, index: usize) -> *mut u64 {
        // SAFETY: inside of the arena.
        unsafe { self.arena.base().cast::<u64>().add(index).as_ptr() }
    }

    fn long(&self, index: usize) -> &AtomicU64 {
        // SAFETY: inside of the arena, aligned, and borrowed from it.
        unsafe { AtomicU64::from_ptr(self.address(index)) }
    }

    fn short(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the lower half of a word that nobody uses as a whole.
        unsafe { AtomicU32::from_ptr(self.address(index).cast()) }
    }
}

#[test]
fn each_state_is_visited_once() {
    let words = Words::new(2);
    let store = |index: usize| {
        let words = &words;
        Process::new("stores", move |_| {
            words.long(index).store(1, Relaxed);
            words.long(index).store(2, Relaxed);
        })
    };
    let explored = Scenario::new("toy", "two store").process(store(0)).process(store(1)).explore();
    assert_eq!((explored.states, explored.steps, explored.ends), (9, 12, 1), "3 × 3 positions");
}

#[test]
fn a_lost_update_is_found() {
    let words = Words::new(1);
    let count = words.long(0);
    let add = || {
        Process::new("adds", move |_| {
            let seen = count.load(Relaxed);
            count.store(seen + 1, Relaxed);
        })
    };
    let both = Scenario::new("toy", "lost").process(add()).process(add());
    finds("panics: assertion `left == right` failed: lost", || {
        both.check(|_| assert_eq!(count.load(Relaxed), 2, "lost")).explore();
    });
}

#[test]
fn destructors_of_a_stopped_process_have_no_effect() {
    struct Undo<'w>(&'w AtomicU64);
    impl Drop for Undo<'_> {
        fn drop(&mut self) {
            self.0.store(0, Relaxed);
        }
    }
    let words = Words::new(2);
    let (held, done) = (words.long(0), words.long(1));
    let explored = Scenario::new("toy", "undo")
        .process(
            Process::new("holds", |_| {
                held.store(1, Relaxed);
                let _undo = Undo(held);
                done.store(1, Relaxed);
            })
            .mortal(),
        )
        .deaths(1)
        .check(|end| {
            let left = u64::from(end.is_dead(0) && !end.has_finished(0));
            let begun = held.load(Relaxed) == 1 || done.load(Relaxed) == 1;
            assert!(!begun || held.load(Relaxed) == left, "only the living tidy up");
        })
        .explore();
    assert_eq!(explored.deaths, 4, "before each of three accesses, and after the last");
}

#[test]
fn what_was_said_survives_a_death() {
    let words = Words::new(1);
    let word = words.long(0);
    Scenario::new("toy", "said")
        .process(
            Process::new("says", |me| {
                word.store(1, Relaxed);
                me.say(1);
            })
            .then(|me| {
                assert_eq!(me.said(), [1]);
                word.store(2, Relaxed);
                me.say(2);
            })
            .mortal(),
        )
        .deaths(1)
        .check(|end| assert_eq!(end.said(0).len() as u64, word.load(Relaxed)))
        .explore();
}

#[test]
fn a_lost_wake_up_is_found_and_a_mended_one_is_not() {
    let words = Words::new(1);
    let word = words.short(0);
    let wakes = || {
        Process::new("wakes", move |_| {
            word.store(1, Relaxed);
            kernel::wake(word, 1);
        })
    };
    let compares = Process::new("sleeps", |_| {
        while word.load(Relaxed) == 0 {
            kernel::sleep(&[(word, 0)], false);
        }
    });
    Scenario::new("toy", "compares").process(wakes()).process(compares).explore();
    let trusts = Process::new("sleeps", |_| {
        if word.load(Relaxed) == 0 {
            // What it compares with is what stands there now.
            let now = word.load(Relaxed);
            kernel::sleep(&[(word, now)], false);
        }
    });
    finds("everybody waits: sleeps", || {
        Scenario::new("toy", "trusts").process(wakes()).process(trusts).explore();
    });
}

#[test]
fn one_wake_up_wakes_either_sleeper() {
    let words = Words::new(3);
    let sleeps = |mark: usize| {
        let words = &words;
        Process::new("sleeps", move |_| {
            kernel::sleep(&[(words.short(0), 0)], false);
            words.long(mark).store(1, Relaxed);
        })
    };
    let wakes = Process::new("wakes", |_| {
        kernel::wake(words.short(0), 1);
        // Whoever it was wakes the other, who may not sleep yet.
        while words.long(1).load(Relaxed) + words.long(2).load(Relaxed) < 2 {
            words.short(0).store(1, Relaxed);
            kernel::wake(words.short(0), 1);
            yield_now();
        }
    });
    let first_of_two = std::cell::Cell::new([false; 2]);
    Scenario::new("toy", "either")
        .process(sleeps(1))
        .process(sleeps(2))
        .process(wakes)
        .process(Process::new("looks", |me| {
            me.say(words.long(1).load(Relaxed));
            me.say(words.long(2).load(Relaxed));
        }))
        .check(|end| {
            let mut seen = first_of_two.get();
            match end.said(3) {
                [1, 0] => seen[0] = true,
                [0, 1] => seen[1] = true,
                _ => {}
            }
            first_of_two.set(seen);
        })
        .explore();
    assert_eq!(first_of_two.get(), [true, true]);
}

#[test]
fn a_death_marks_the_life_word_before_it_is_certain() {
    let words = Words::new(1);
    let life = words.short(0);
    let lives = || {
        Process::new("lives", move |me| {
            kernel::hold(life);
            life.store(me.pid(), Relaxed);
            life.load(Relaxed);
        })
        .mortal()
    };
    let watches = || {
        Process::new("watches", move |me| {
            let marked = life.load(Relaxed) & FUTEX_OWNER_DIED != 0;
            me.say(u64::from(marked) + 2 * u64::from(kernel::is_dead(1)));
        })
    };
    let seen = std::cell::Cell::new(0u8);
    Scenario::new("toy", "marked")
        .process(lives())
        .process(watches())
        .deaths(1)
        .check(|end| seen.set(seen.get() | 1 << end.said(1)[0]))
        .explore();
    assert_eq!(seen.get(), 0b1111, "neither, marked, dead before it held the word, and both");
    // Who sleeps on a word that says so is woken by its mark.
    let sleeps = Process::new("sleeps", |_| {
        let held = 1 | FUTEX_WAITERS;
        if life.compare_exchange(1, held, Relaxed, Relaxed).is_ok() {
            while life.load(Relaxed) & FUTEX_OWNER_DIED == 0 {
                kernel::sleep(&[(life, held)], false);
            }
        }
    });
    let dies = Process::new("dies", |_| {
        kernel::hold(life);
        life.store(1, Relaxed);
        kernel::sleep_until_dead(2, true);
    });
    finds("everybody waits: sleeps", || {
        Scenario::new("toy", "lives on").process(dies).process(sleeps).explore();
    });
}

#[test]
fn who_lingers_acts_after_its_life_word_was_marked() {
    let words = Words::new(2);
    let (life, word) = (words.short(0), words.long(1));
    kernel::become_process(1);
    kernel::hold(life);
    life.store(1, Relaxed);
    let acts = || Process::new("acts", move |_| word.store(1, Relaxed)).mortal();
    let looks = || {
        Process::new("looks", move |me| {
            if life.load(Relaxed) & FUTEX_OWNER_DIED != 0 {
                me.say(word.load(Relaxed));
                me.say(word.load(Relaxed));
            }
        })
    };
    let scenario = || Scenario::new("toy", "lingers").process(acts()).process(looks()).deaths(1);
    scenario().check(|end| assert_ne!(end.said(1), [0, 1], "it acted later")).explore();
    finds("it acted later", || {
        let scenario = scenario().lingering();
        scenario.check(|end| assert_ne!(end.said(1), [0, 1], "it acted later")).explore();
    });
}

#[test]
fn who_waits_for_a_death_wakes_when_it_is_certain() {
    let dies = Process::new("dies", |_| {
        kernel::sleep_until_dead(2, true);
    });
    let waits = || {
        Process::new("waits", |_| {
            while !kernel::is_dead(1) {
                kernel::sleep_until_dead(1, false);
            }
        })
    };
    let _words = Words::new(1);
    finds("everybody waits: waits", || {
        Scenario::new("toy", "nobody dies").process(dies).process(waits()).explore();
    });
    kernel::end_process(1);
    assert!(kernel::is_dead(1));
}

#[test]
fn a_sleep_with_a_limit_ends_once_for_each_change() {
    let words = Words::new(1);
    let word = words.short(0);
    let polls = Process::new("polls", |me| {
        let mut rounds = 0;
        while word.load(Relaxed) == 0 {
            if kernel::sleep(&[(word, 0)], true) == Slept::TimedOut {
                rounds += 1;
            }
        }
        me.say(rounds);
    });
    let stores = Process::new("stores", |_| word.store(1, Relaxed));
    Scenario::new("toy", "polls")
        .process(polls)
        .process(stores)
        .check(|end| assert!(end.said(0)[0] <= 2))
        .explore();
}

#[test]
fn a_spinner_goes_on_when_something_changes() {
    let words = Words::new(1);
    let word = words.long(0);
    let spins = || {
        Process::new("spins", move |_| {
            while word.load(Relaxed) < 2 {
                yield_now();
            }
        })
    };
    let stores = Process::new("stores", |_| {
        word.store(1, Relaxed);
        word.store(2, Relaxed);
    });
    Scenario::new("toy", "spins").process(spins()).process(stores).explore();
    finds("everybody waits: spins", || {
        Scenario::new("toy", "in vain").process(spins()).explore();
    });
}

#[test]
fn who_cannot_end_alone_is_found() {
    let words = Words::new(1);
    let word = words.long(0);
    let locks = || {
        Process::new("locks", move |_| {
            while word.compare_exchange(0, 1, Relaxed, Relaxed).is_err() {}
            word.store(0, Relaxed);
        })
    };
    finds("cannot end alone within 100 accesses", || {
        let both = Scenario::new("toy", "lock").process(locks()).process(locks());
        both.alone_at_most(100).explore();
    });
    let polite = || {
        Process::new("locks", move |_| {
            while word.compare_exchange(0, 1, Relaxed, Relaxed).is_err() {
                yield_now();
            }
            word.store(0, Relaxed);
        })
    };
    let both = || Scenario::new("toy", "polite").process(polite());
    both().process(polite()).explore();
    finds("cannot end alone: it waits for somebody", || {
        both().process(polite().never_waits()).explore();
    });
}

#[test]
fn a_lie_that_is_believed_is_found() {
    let words = Words::new(2);
    let index = words.long(0);
    let table = [10, 20];
    let believes = |checks: bool| {
        Process::new("believes", move |_| {
            let at = index.load(Relaxed) as usize;
            assert!(checks || at < table.len(), "index {at}");
            let _ = table.get(at);
        })
    };
    finds("panics: index", || {
        Scenario::new("toy", "believes").process(believes(false)).lies(1).explore();
    });
    let explored = Scenario::new("toy", "checks").process(believes(true)).lies(1).explore();
    assert_eq!(explored.lies, 3, "all ones, 1, and the sign; 0 and the next word are the truth");
}

#[test]
fn an_access_outside_is_found() {
    let words = Words::new(1);
    let outside = AtomicU64::new(0);
    finds("accesses what is no part of the memory", || {
        let process = Process::new("strays", |_| {
            words.long(0).load(Relaxed);
            outside.load(Relaxed);
        });
        Scenario::new("toy", "strays").process(process).explore();
    });
}

#[test]
fn a_cap_stops_it() {
    let words = Words::new(1);
    let stores = Process::new("stores", |_| {
        for value in 0..100 {
            words.long(0).store(value, Relaxed);
        }
    });
    let explored = Scenario::new("toy", "cap").process(stores).states_at_most(10).explore();
    assert!(explored.capped && explored.states == 10, "{explored}");
}

#[test]
fn a_bound_on_interruptions_leaves_out_what_needs_more() {
    let words = Words::new(1);
    let word = words.long(0);
    // It is seen at 2 and at 4: one interruption is not enough.
    let counts = || {
        Process::new("counts", move |_| {
            for value in 1..=5 {
                word.store(value, Relaxed);
            }
        })
    };
    let looks = || {
        Process::new("looks", move |me| {
            me.say(word.load(Relaxed));
            me.say(word.load(Relaxed));
        })
    };
    let never = |end: &shm_testkit::explore::End<'_>| assert_ne!(end.said(1), [2, 4], "seen");
    let scenario = || Scenario::new("toy", "interrupted").process(counts()).process(looks());
    if !is_deep() {
        scenario().preemptions_at_most(1).check(never).explore();
    }
    finds("seen", || scenario().preemptions_at_most(3).check(never).explore());
}

/// Who has got on may wait anew, though nobody else did anything.
#[test]
fn who_got_on_may_wait_anew() {
    let explore = |gets_on: bool| {
        let waits = Process::new("waits", move |me| {
            yield_now();
            if gets_on {
                me.got_on();
            }
            yield_now();
        });
        Scenario::new("toy", "waits twice").process(waits).explore()
    };
    explore(true);
    finds("everybody waits", || explore(false));
}
