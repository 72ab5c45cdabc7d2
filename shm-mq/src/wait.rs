//! Waiting for another process: why it does nothing, and sleeping until it does something.
use crate::waitset::Source;
use shm_core::backoff::Backoff;
use shm_core::event::{EventCount, Ticket};
use shm_core::participants;
use shm_core::sealed::Doorbell;
use std::time::Instant;

/// Why the other side does nothing any more, or not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    TimedOut,
    Detached,
    Died,
}

/// In an `impl Source`: sleeps as this field does.
macro_rules! sleeps_by {
    ($($link:ident).+) => {
        fn bed(&self) -> Option<&shm_core::event::EventCount> {
            self.$($link).+.bed()
        }

        fn peers<'s>(&'s self, to: &mut Vec<&'s shm_core::participants::Watch>) {
            self.$($link).+.peers(to);
        }

        fn sleep_max(&self) -> Option<std::time::Duration> {
            self.$($link).+.sleep_max()
        }

        fn announce(&mut self) {
            self.$($link).+.announce();
        }

        fn doorbells<'s>(&'s self, to: &mut Vec<&'s shm_core::sealed::Doorbell>) {
            self.$($link).+.doorbells(to);
        }

        fn woken(&mut self) {
            self.$($link).+.woken();
        }
    };
}
pub(crate) use sleeps_by;

/// Looks again and again until there is something: spins, has `source` announce the sleep, looks
/// once more, and sleeps. `None` where nothing is there after `deadline`.
///
/// `look` is told whether this look is the last before a sleep, or after the deadline. What is not
/// there when it has been announced has not come yet, and who brings it wakes us.
pub(crate) fn look_until<W, S: Source, R>(
    waiter: &mut W,
    source: impl Fn(&mut W) -> &mut S,
    deadline: Option<Instant>,
    mut look: impl FnMut(&mut W, bool) -> Option<R>,
) -> Option<R> {
    let (mut backoff, mut announced, mut is_over) = (Backoff::new(), None, false);
    loop {
        let found = look(waiter, announced.is_some() || is_over);
        if found.is_some() || is_over {
            return found;
        }
        if let Some(ticket) = announced.take() {
            sleep(source(waiter), ticket, deadline);
            is_over = has_passed(deadline);
            backoff.reset();
        } else if !backoff.snooze() {
            announced = Some(announce(source(waiter)));
        }
    }
}

/// Says that we are about to sleep: to be followed by a look.
pub(crate) fn announce<S: Source + ?Sized>(source: &mut S) -> Option<Ticket> {
    source.announce();
    source.bed().map(EventCount::prepare)
}

/// Sleeps, once, until `source` may be ready, or `deadline`.
pub(crate) fn sleep<S: Source>(source: &mut S, ticket: Option<Ticket>, deadline: Option<Instant>) {
    let mut peers = Vec::new();
    source.peers(&mut peers);
    // After the peers: where one is not among them, for it is dead, there is a limit by now.
    let soon = source.sleep_max().and_then(|most| Instant::now().checked_add(most));
    let until = soon.into_iter().chain(deadline).min();
    if let Some((bed, ticket)) = source.bed().zip(ticket) {
        participants::wait(bed, ticket, &peers, until);
    } else {
        let mut bells = Vec::new();
        source.doorbells(&mut bells);
        let is_silent = bells.is_empty();
        let heard = if is_silent { Vec::new() } else { Doorbell::wait_any(&bells, until) };
        for (which, heard) in heard.into_iter().enumerate() {
            if let Some(heard) = heard {
                source.heard(which, heard);
            }
        }
    }
    source.woken();
}

/// Whether there is a deadline that is over.
pub(crate) fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(5);

    /// What happens to it, in order; each of its sleeps lasts a while.
    #[derive(Default)]
    struct Diary {
        bed: EventCount,
        lines: Vec<&'static str>,
    }

    impl Source for Diary {
        fn is_ready(&mut self) -> bool {
            false
        }

        fn bed(&self) -> Option<&EventCount> {
            Some(&self.bed)
        }

        fn sleep_max(&self) -> Option<Duration> {
            Some(SHORT)
        }

        fn announce(&mut self) {
            self.lines.push("announced");
        }

        fn woken(&mut self) {
            self.lines.push("woken");
        }
    }

    #[test]
    fn the_last_look_before_a_sleep_comes_after_the_announcement() {
        let (mut diary, mut sleeps) = (Diary::default(), 0);
        let found = look_until(
            &mut diary,
            |diary| diary,
            None,
            |diary, is_last| {
                assert_eq!(is_last, diary.lines.last() == Some(&"announced"));
                sleeps = diary.lines.iter().filter(|line| **line == "woken").count();
                (is_last && sleeps == 2).then_some("found")
            },
        );
        assert_eq!(found, Some("found"));
        assert_eq!(diary.lines, ["announced", "woken", "announced", "woken", "announced"]);
    }

    #[test]
    fn what_comes_while_the_deadline_passes_is_found() {
        for comes in [false, true] {
            let mut diary = Diary::default();
            let found = look_until(
                &mut diary,
                |diary| diary,
                Some(Instant::now()),
                |diary, _| (comes && diary.lines.last() == Some(&"woken")).then_some(()),
            );
            assert_eq!(found.is_some(), comes);
            assert_eq!(diary.lines, ["announced", "woken"]);
        }
    }
}
