//! Sleeping on many events and many lives at once.
use super::member::Waiting;
use super::watch::{Armed, BOUNDED_SLEEP_MAX, DOUBTFUL_SLEEP_MIN, SLEEP_MAX, Watch, longer};
use crate::event::{EventCount, Ticket};
use crate::futex::{Futex, WAIT_WORDS_MAX, Wake, waitv_works};
use std::time::{Duration, Instant};

/// Where there are more events than can be slept on at once, the sleeper looks at all this often.
const PARTIAL_SLEEP_MAX: Duration = Duration::from_millis(5);

/// Who sleeps on many events and peers, one sleep after the other.
///
/// As [`wait`](super::wait), but for any number of events, and in steps: announce yourself at each
/// event, look again at all that you wait for, [`lie_down`](Sleeper::lie_down), and then sleep, or
/// have a bell ([`shm_core::bell`](crate)) rung by the words of the [`Night`].
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

    /// After a sleep by other means than [`Night::sleep`]: the kernel wakes one sleeper for a
    /// death, and that may have been us. Wakes the others.
    pub fn wake_others(&self, peers: &[&Watch]) {
        peers.iter().for_each(|peer| peer.pass_on());
    }
}

impl Default for Sleeper {
    fn default() -> Sleeper {
        Sleeper::new()
    }
}

impl Watch {
    fn has_waitv(&self) -> bool {
        self.waiting == Waiting::Waitv
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
        let end = self.end(deadline);
        if !self.words.is_empty() {
            let _: Wake = Futex::wait_any(&self.words, end);
        } else if let Some(left) = end.and_then(|end| end.checked_duration_since(Instant::now())) {
            std::thread::sleep(left);
        }
        self.peers.iter().for_each(|peer| peer.pass_on());
    }
}
