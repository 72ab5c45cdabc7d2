//! What happened to the workers, kept until the leader asks.
use super::WorkerId;
use crate::child::Exit;
use crate::spawn::SpawnError;
use shm_core::process::ProcessId;
use std::collections::VecDeque;
use std::time::Duration;

/// What happened to a worker.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A process runs for it.
    Started {
        /// The worker.
        worker: WorkerId,
        /// Its process.
        process: ProcessId,
        /// 1 for its first process.
        attempt: u32,
    },
    /// Its process is dead: from now on it changes nothing, in shared memory or elsewhere.
    Ended {
        /// The worker.
        worker: WorkerId,
        /// Its process.
        process: ProcessId,
        /// How it ended.
        how: Exit,
        /// When the next attempt comes; `None`: never.
        will_restart_in: Option<Duration>,
    },
    /// It should have been restarted, and the system refused.
    SpawnFailed {
        /// The worker.
        worker: WorkerId,
        /// Why.
        error: SpawnError,
        /// When the next attempt comes; `None`: never.
        retry_in: Option<Duration>,
    },
    /// It should have been restarted, but has been too often.
    GaveUp {
        /// The worker.
        worker: WorkerId,
        /// How often in a row.
        restarts: u32,
    },
    /// Nobody asked for so long that the oldest events were thrown away.
    Missed {
        /// How many.
        events: u64,
    },
}

#[derive(Debug)]
pub(super) struct Events {
    kept: VecDeque<Event>,
    kept_max: usize,
    missed: u64,
}

impl Events {
    pub(super) fn new(kept_max: usize) -> Events {
        Events { kept: VecDeque::new(), kept_max, missed: 0 }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.kept.push_back(event);
        if self.kept.len() > self.kept_max {
            self.kept.pop_front();
            self.missed += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        match std::mem::take(&mut self.missed) {
            0 => self.kept.pop_front(),
            events => Some(Event::Missed { events }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gave_up(restarts: u32) -> Event {
        Event::GaveUp { worker: WorkerId(1), restarts }
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let mut events = Events::new(2);
        (0..5).for_each(|restarts| events.push(gave_up(restarts)));
        assert!(matches!(events.pop(), Some(Event::Missed { events: 3 })));
        assert!(matches!(events.pop(), Some(Event::GaveUp { restarts: 3, .. })));
        assert!(matches!(events.pop(), Some(Event::GaveUp { restarts: 4, .. })));
        assert!(events.pop().is_none());
    }

    #[test]
    fn with_room_for_none_all_are_missed() {
        let mut events = Events::new(0);
        events.push(gave_up(0));
        assert!(matches!(events.pop(), Some(Event::Missed { events: 1 })));
        assert!(events.pop().is_none());
    }
}
