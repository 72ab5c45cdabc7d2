//! Sleeping until something may have changed, without a lost wake-up and without a system call
//! when nobody sleeps.
use crate::futex::{Futex, Wake};
use crate::sync::{AtomicU64, Ordering, fence};
use relptr::shm_sync;
use std::time::Instant;

/// Set by a sleeper before it looks for the last time; cleared by whoever wakes it.
const SLEEPER: u32 = 1;
/// Set by a waker before it wakes, cleared after. Left behind, it says: perhaps nobody was woken.
const WAKING: u32 = 2;
/// The rest of the word counts wake-ups.
const ONE: u32 = 4;

/// Rounds in which the word may change under a waker. Among honest processes each is a sleeper's or
/// another waker's success; one that overwrites the word without end shall not hold us up so long.
const ROUNDS_MAX: u32 = 1 << 20;

/// A place to sleep until somebody says that something changed. 4 bytes in production.
///
/// The sleeper: [`prepare`](EventCount::prepare), look again, then [`wait`](EventCount::wait).
/// The other side: change something, then [`notify`](EventCount::notify).
///
/// | sleeper | notifier |
/// | --- | --- |
/// | (A) sets `SLEEPER` | (C) changes the condition |
/// | fence | fence |
/// | (B) looks at the condition | (D) looks at `SLEEPER` |
///
/// Of two fences one comes first: either (B) sees the change and the sleeper does not sleep, or
/// (D) sees the sleeper; and from (A) on a sleeper that has not slept yet will not, for the word
/// has moved. A waker that is killed or stopped before it has woken anybody leaves `WAKING`, so
/// that the next one wakes in its place. Eventcounts: D. Vyukov; the same pairing as in folly's
/// `EventCount.h`.
///
/// # If a process dies here
/// A sleeper leaves the `SLEEPER` bit behind: the next notifier makes one system call in vain. A
/// notifier that dies between (C) and its wake-up leaves the sleeper asleep: a sleeper waits for
/// its peer's life word too ([`wait_any`](EventCount::wait_any)).
#[derive(Debug)]
#[repr(transparent)]
pub struct EventCount {
    futex: Futex,
}

shm_sync!(EventCount { futex });

/// What the word was when the sleeper announced itself.
#[derive(Clone, Copy, Debug)]
#[must_use = "look at the condition again, then wait with it"]
pub struct Ticket(u32);

impl EventCount {
    /// Nobody sleeps.
    #[cfg(not(shm_loom))]
    pub const fn new() -> EventCount {
        EventCount { futex: Futex::new(0) }
    }

    /// Nobody sleeps.
    #[cfg(shm_loom)]
    pub fn new() -> EventCount {
        EventCount { futex: Futex::new(0) }
    }

    /// Announces a sleeper. Look at the condition once more after this.
    #[inline]
    pub fn prepare(&self) -> Ticket {
        let word = self.futex.word().fetch_or(SLEEPER, Ordering::Relaxed) | SLEEPER;
        // Pairs with the fence in `notify`: the sleeper bit before the condition.
        fence(Ordering::SeqCst);
        Ticket(word)
    }

    /// Sleeps until a [`notify`](EventCount::notify) that came after `ticket`, or `deadline`.
    pub fn wait(&self, ticket: Ticket, deadline: Option<Instant>) -> Wake {
        self.futex.wait(ticket.0, deadline)
    }

    /// As [`wait`](EventCount::wait), and also until one of `others` is no longer as expected.
    pub fn wait_any(
        &self,
        ticket: Ticket,
        others: &[(&Futex, u32)],
        deadline: Option<Instant>,
    ) -> Wake {
        let mut words = Vec::with_capacity(1 + others.len());
        words.push((&self.futex, ticket.0));
        words.extend_from_slice(others);
        Futex::wait_any(&words, deadline)
    }

    /// The word, and what it is until somebody notifies who has `ticket`: for who sleeps on many.
    pub(crate) fn word(&self, ticket: Ticket) -> (&Futex, u32) {
        (&self.futex, ticket.0)
    }

    /// Wakes whoever announced itself before the caller's change became visible.
    ///
    /// Costs a fence and a load where nobody sleeps.
    #[inline]
    pub fn notify(&self) {
        // Pairs with the fence in `prepare`: the condition before the sleeper bit.
        fence(Ordering::SeqCst);
        if self.futex.word().load(Ordering::Relaxed) & (SLEEPER | WAKING) != 0 {
            self.wake();
        }
    }

    /// As [`notify`](EventCount::notify), for a load where nobody sleeps. Who announces itself at
    /// this moment may be missed: it sleeps for a bounded time, or is notified later.
    #[inline]
    pub fn notify_seen(&self) {
        if self.futex.word().load(Ordering::Relaxed) & (SLEEPER | WAKING) != 0 {
            self.wake();
        }
    }

    /// After a change: whether anybody who announced itself before it may still sleep, or is owed a
    /// wake-up by one who died or stands still.
    pub(crate) fn has_sleepers(&self) -> bool {
        // Pairs with the fence in `prepare`: the condition before the sleeper bit.
        fence(Ordering::SeqCst);
        self.futex.word().load(Ordering::Relaxed) & (SLEEPER | WAKING) != 0
    }

    #[cold]
    fn wake(&self) {
        let waking = self.change(|word| (word & !SLEEPER | WAKING).wrapping_add(ONE));
        self.futex.wake_all();
        if let Some(waking) = waking {
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            // Nobody announced itself since: nobody sleeps.
            let _ = self.futex.word().compare_exchange(waking, waking & !WAKING, ok, err);
        }
    }

    /// Makes the word move (a sleeper that compares now must not sleep) and lose the bit: what it
    /// is then, or `None` where others moved it all the time, and then it has moved just as well.
    fn change(&self, next: impl Fn(u32) -> u32) -> Option<u32> {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let mut word = self.futex.word().load(Ordering::Relaxed);
        for _ in 0..ROUNDS_MAX {
            let next = next(word);
            match self.futex.word().compare_exchange(word, next, ok, err) {
                Ok(_) => return Some(next),
                Err(now) => word = now,
            }
        }
        None
    }
}

impl Default for EventCount {
    fn default() -> EventCount {
        EventCount::new()
    }
}

/// An event's word where one side alone can write it: "I sleep, for the n-th time". 8 bytes.
///
/// For two processes that share no word that both may write. The sleeper announces a number that
/// it has not used before, looks again, and sleeps on a bell; the other side changes something,
/// looks at the number, and rings the bell, once for each number. The two fences do what those of
/// an [`EventCount`] do.
///
/// # If a process dies here
/// A sleeper leaves its number: the other side rings in vain, once.
#[derive(Debug)]
#[repr(transparent)]
pub struct Announcement {
    number: AtomicU64,
}

shm_sync!(Announcement { number });

impl Announcement {
    /// Nobody sleeps.
    pub fn new() -> Announcement {
        Announcement { number: AtomicU64::new(0) }
    }

    /// Announces sleep number `number`, not 0. Look at the condition once more after this.
    #[inline]
    pub fn announce(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
        // Pairs with the fence in `announced`: the number before the condition.
        fence(Ordering::SeqCst);
    }

    /// Says that the sleeper is awake.
    #[inline]
    pub fn withdraw(&self) {
        self.number.store(0, Ordering::Relaxed);
    }

    /// The other side, after it changed something: the number of the sleep to end, 0 for none. A
    /// claim: any number, at any time.
    #[inline]
    pub fn announced(&self) -> u64 {
        // Pairs with the fence in `announce`: the condition before the number.
        fence(Ordering::SeqCst);
        self.look()
    }

    /// The same behind one fence for many, that of the free function [`announced`].
    #[inline]
    pub fn look(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }
}

impl Default for Announcement {
    fn default() -> Announcement {
        Announcement::new()
    }
}

/// The fence of a pair, for who announces itself in words of its own: announce, fence, look at what
/// the other side announced. Of two such fences one comes first, so one of the two sides sees the
/// other.
#[inline]
#[track_caller]
pub fn announced() {
    // Pairs with itself, on the other side.
    fence(Ordering::SeqCst);
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_leaves_a_count_and_no_flag() {
        let event = EventCount::new();
        let _ = event.prepare();
        event.notify();
        assert_eq!(event.futex.load(Ordering::Relaxed), ONE);
    }

    #[test]
    fn no_wake_up_gives_the_ticket_of_an_earlier_one() {
        let event = EventCount::new();
        let tickets = [(); 4].map(|()| {
            let Ticket(word) = event.prepare();
            event.notify();
            word
        });
        assert_eq!(tickets, [0, 1, 2, 3].map(|count| (count * ONE) | SLEEPER));
    }

    #[test]
    fn an_announced_sleep_is_seen_until_it_is_withdrawn() {
        let word = Announcement::new();
        assert_eq!(word.announced(), 0);
        for number in [7, 8] {
            word.announce(number);
            assert_eq!(word.announced(), number);
        }
        word.withdraw();
        assert_eq!(word.announced(), 0);
    }

    #[test]
    fn a_word_that_never_stays_is_given_up() {
        let event = EventCount::new();
        let ticket = event.prepare();
        let changed = event.change(|word| {
            event.futex.word().store(word.wrapping_add(ONE), Ordering::Relaxed);
            word | WAKING
        });
        assert_eq!(changed, None);
        event.wait(ticket, None); // it has moved, so nobody sleeps on what it was
        assert_eq!(event.change(|word| word | WAKING), Some(event.futex.load(Ordering::Relaxed)));
    }
}
