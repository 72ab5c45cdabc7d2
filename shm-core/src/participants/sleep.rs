//! Sleeping on events and lives at once.
use super::watch::{Armed, Watch};
use crate::event::{EventCount, Ticket};
use crate::futex::{Futex, WAIT_WORDS_MAX, Wake, waitv_works};
use std::time::{Duration, Instant};

/// A sleep on life words lasts at most so long; then the sleeper asks the kernel about its peers.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The same for one who cannot sleep on life words, or not on all.
const BOUNDED_SLEEP_MAX: Duration = Duration::from_millis(100);
/// Where a peer is marked but not dead yet, or has no life word; doubles up to the bounded sleep.
const DOUBTFUL_SLEEP_MIN: Duration = Duration::from_millis(1);
/// Where there are more events than can be slept on at once, the sleeper looks at all this often.
const PARTIAL_SLEEP_MAX: Duration = Duration::from_millis(5);

/// Who sleeps on many events and peers, one sleep after the other.
///
/// As [`wait`](super::wait), but for any number of events, and in steps: announce yourself at each
/// event, look again at all that you wait for, [`lie_down`](Sleeper::lie_down), and then sleep, or
/// have a [bell](crate::bell) rung by the words of the [`Night`].
#[derive(Debug)]
pub struct Sleeper {
    doubtful_sleep: Duration,
}

/// What is to end one sleep.
#[derive(Debug)]
pub struct Night<'a> {
    words: Vec<(&'a Futex, u32)>,
    peers: &'a [&'a Watch],
    most: Option<Duration>,
}

impl Sleeper {
    /// One that has not slept yet.
    pub fn new() -> Sleeper {
        Sleeper { doubtful_sleep: DOUBTFUL_SLEEP_MIN }
    }

    /// What is to end a sleep on these events and peers; `None` where one of the peers is dead:
    /// look again.
    ///
    /// At most [`WAIT_WORDS_MAX`] words can be slept on at once, or one where the kernel has no
    /// `futex_waitv`. The events come first, in their order; of events that are left out the
    /// sleeper learns within 5 ms, of deaths within 100 ms.
    ///
    /// # If a process dies here
    /// It leaves a bit in events and in life words that says "somebody sleeps": a wake-up in vain.
    pub fn lie_down<'a>(
        &mut self,
        events: &[(&'a EventCount, Ticket)],
        peers: &'a [&'a Watch],
    ) -> Option<Night<'a>> {
        let many = waitv_works();
        let most_words = if many { WAIT_WORDS_MAX } else { 1 };
        let mut words = Vec::with_capacity(events.len() + peers.len());
        words.extend(events.iter().take(most_words).map(|(event, ticket)| event.word(*ticket)));
        let mut night = Night { words, peers, most: None };
        if events.len() > most_words {
            night.ends_within(PARTIAL_SLEEP_MAX);
        }
        let (mut is_doubtful, lives) = (false, many && peers.iter().all(|peer| peer.has_waitv()));
        for peer in peers {
            match peer.arm() {
                Armed::Gone => return None,
                Armed::Word(..) if !lives || night.words.len() >= most_words => {
                    night.ends_within(BOUNDED_SLEEP_MAX);
                }
                Armed::Word(futex, expected) => night.words.push((futex, expected)),
                Armed::Doubtful => is_doubtful = true,
            }
        }
        if is_doubtful {
            night.ends_within(self.doubtful_sleep);
            self.doubtful_sleep = longer(self.doubtful_sleep);
        } else {
            self.doubtful_sleep = DOUBTFUL_SLEEP_MIN;
        }
        // A model's kernel has no clock, and its double deaths are tried without this net.
        if !peers.is_empty() && !cfg!(any(shm_loom, shm_explore)) {
            night.ends_within(SLEEP_MAX);
        }
        Some(night)
    }
}

impl Default for Sleeper {
    fn default() -> Sleeper {
        Sleeper::new()
    }
}

impl Night<'_> {
    /// It is to last no longer.
    pub fn ends_within(&mut self, most: Duration) {
        self.most = Some(self.most.map_or(most, |had| had.min(most)));
    }

    /// The peers that it watches.
    pub fn peers(&self) -> &[&Watch] {
        self.peers
    }

    /// The words, and what each is until something happens.
    pub fn words(&self) -> &[(&Futex, u32)] {
        &self.words
    }

    /// How long it may last.
    pub fn most(&self) -> Option<Duration> {
        self.most
    }

    /// When it is over at the latest.
    pub fn end(&self, deadline: Option<Instant>) -> Option<Instant> {
        match self.most.and_then(|most| Instant::now().checked_add(most)) {
            None => deadline,
            Some(end) => Some(deadline.map_or(end, |deadline| deadline.min(end))),
        }
    }

    /// Sleeps until something happens, `deadline`, or the end of the night: look again. Where there
    /// is nothing to sleep on and no end, it returns at once.
    pub fn sleep(&self, deadline: Option<Instant>) {
        self.sleep_until(self.end(deadline));
    }

    fn sleep_until(&self, end: Option<Instant>) -> Wake {
        let mut wake = Wake::TimedOut;
        if !self.words.is_empty() {
            wake = Futex::wait_any(&self.words, end);
        } else if let Some(left) = end.and_then(|end| end.checked_duration_since(Instant::now())) {
            std::thread::sleep(left);
        }
        self.peers.iter().for_each(|peer| peer.pass_on());
        wake
    }
}

/// Why [`wait`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The event was notified, or a peer is dead, or for no reason: look again.
    Woken,
    /// The deadline passed.
    TimedOut,
}

/// Sleeps on an event and on peers' lives at once: the one way to wait for somebody.
///
/// [`EventCount::prepare`], look at the condition, ask each peer's [`Watch::is_dead`], then wait
/// with the ticket; after that look again.
///
/// ```
/// use shm_core::event::EventCount;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::{Outcome, Table, wait};
///
/// let mapping = Mapping::heap(Table::bytes_for(2) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// let (me, peer) = (table.join().unwrap(), table.join().unwrap());
/// let watch = me.watch(peer.id());
/// let event = EventCount::new();
/// let leaving = std::thread::spawn(move || drop(peer));
/// while !watch.is_dead() {
///     let ticket = event.prepare();
///     assert_eq!(wait(&event, ticket, &[&watch], None), Outcome::Woken);
/// }
/// leaving.join().unwrap();
/// ```
///
/// # If a process dies here
/// It leaves a bit in the event and in life words that says "somebody sleeps": a wake-up in vain.
pub fn wait(
    event: &EventCount,
    ticket: Ticket,
    peers: &[&Watch],
    deadline: Option<Instant>,
) -> Outcome {
    let (mut sleeper, events) = (Sleeper::new(), [(event, ticket)]);
    loop {
        let Some(night) = sleeper.lie_down(&events, peers) else { return Outcome::Woken };
        let end = night.end(deadline);
        if night.sleep_until(end) == Wake::Woken || peers.iter().any(|peer| peer.is_proved_dead()) {
            return Outcome::Woken;
        }
        // Where the sleep was to last until then, the clock need not be asked; a model has none.
        if end == deadline || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Outcome::TimedOut;
        }
    }
}

/// How long to sleep after a doubtful sleep in vain.
fn longer(doubtful_sleep: Duration) -> Duration {
    (doubtful_sleep * 2).min(BOUNDED_SLEEP_MAX)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::super::Waiting;
    use super::super::watch::tests::{join, table, watch_of_the_dead};
    use super::*;
    use crate::sync::Ordering;
    use shm_testkit::watchdog::within;
    use std::sync::atomic::AtomicBool;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_sleeper_asks_the_kernel_though_the_life_word_is_not_marked() {
        for waiting in [Waiting::Waitv, Waiting::Bounded] {
            let (table, event) = (table(), EventCount::new());
            let watch = watch_of_the_dead(&table, waiting);
            let sleep = || wait(&event, event.prepare(), &[&watch], None);
            assert_eq!(within(LIMIT, sleep), Outcome::Woken);
        }
    }

    /// What one who sleeps until `deadline` returns, while its living peer's life word is woken
    /// again and again.
    fn woken_by_the_life_word(waiting: Waiting, timeout: Duration) -> Outcome {
        let (table, event, ended) = (table(), EventCount::new(), AtomicBool::new(false));
        let (me, peer) = (join(&table, waiting), table.join().unwrap());
        let watch = me.watch(peer.id());
        let Armed::Word(life, _) = watch.arm() else { panic!("it lives, and is held") };
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let deadline = Some(Instant::now() + timeout);
                let outcome = wait(&event, event.prepare(), &[&watch], deadline);
                ended.store(true, Ordering::Relaxed);
                outcome
            });
            while !ended.load(Ordering::Relaxed) {
                life.wake_all();
                std::thread::sleep(Duration::from_millis(1));
            }
            sleeper.join().unwrap()
        })
    }

    #[test]
    fn a_life_word_wakes_who_sleeps_on_all_words() {
        let sleeps = if waitv_works() { Outcome::Woken } else { Outcome::TimedOut };
        assert_eq!(woken_by_the_life_word(Waiting::Waitv, LIMIT), sleeps);
        let timeout = Duration::from_millis(200);
        assert_eq!(woken_by_the_life_word(Waiting::Bounded, timeout), Outcome::TimedOut);
    }

    #[test]
    fn a_slice_of_a_sleep_is_not_the_end_of_it() {
        let (table, event) = (table(), EventCount::new());
        let (me, peer) = (join(&table, Waiting::Bounded), table.join().unwrap());
        let watch = me.watch(peer.id());
        let deadline = Instant::now() + 5 * BOUNDED_SLEEP_MAX / 2;
        let outcome = wait(&event, event.prepare(), &[&watch], Some(deadline));
        assert_eq!(outcome, Outcome::TimedOut);
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn more_peers_than_the_kernel_takes_are_waited_for_all_the_same() {
        let (table, event) = (table(), EventCount::new());
        let (me, peer) = (join(&table, Waiting::Waitv), table.join().unwrap());
        let watch = me.watch(peer.id());
        for count in [WAIT_WORDS_MAX - 1, WAIT_WORDS_MAX, WAIT_WORDS_MAX + 1] {
            let deadline = Instant::now() + DOUBTFUL_SLEEP_MIN;
            let outcome = wait(&event, event.prepare(), &vec![&watch; count], Some(deadline));
            assert_eq!(outcome, Outcome::TimedOut, "{count} peers");
        }
    }

    #[test]
    fn doubtful_sleeps_grow_to_bounded_ones() {
        let mut sleep = DOUBTFUL_SLEEP_MIN;
        for milliseconds in [1, 2, 4, 8, 16, 32, 64, 100, 100] {
            assert_eq!(sleep, Duration::from_millis(milliseconds));
            sleep = longer(sleep);
        }
    }

    #[test]
    fn only_who_has_peers_sleeps_in_slices() {
        let (table, event) = (table(), EventCount::new());
        let (me, peer) = (table.join().unwrap(), table.join().unwrap());
        let (watch, events) = (me.watch(peer.id()), [(&event, event.prepare())]);
        let (before, hour) = (Instant::now(), Duration::from_secs(3600));
        let alone = Sleeper::new().lie_down(&events, &[]).unwrap();
        for deadline in [None, Some(before), Some(before + hour)] {
            assert_eq!(alone.end(deadline), deadline);
        }
        let peers = [&watch];
        let night = Sleeper::new().lie_down(&events, &peers).unwrap();
        let most = if waitv_works() { SLEEP_MAX } else { BOUNDED_SLEEP_MAX };
        for deadline in [None, Some(before + hour)] {
            let end = night.end(deadline).unwrap();
            assert!((before + most..=Instant::now() + most).contains(&end));
        }
        assert_eq!(night.end(Some(before)), Some(before));
    }
}
