//! The world of the crash tests of `fan_in`: a table and a fan-in that one may die at, and what the
//! test process then finds.
use crate::crash_common::{image, nothing_leaks, said, shared};
use crate::spsc_common::LIMIT;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_mq::fan_in::{Event, FanIn, FanInConfig, LaneState, Receiver, Sender, Why};
use shm_testkit::killpoint::{End, SharedMemory};
use shm_testkit::random::text;
use std::sync::Arc;
use std::time::Instant;

const SLOTS: u32 = 4;
pub(crate) const LANES: u32 = 2;
/// Eight lines a lane.
pub(crate) const CONFIG: FanInConfig = FanInConfig::new(LANES, 512);
/// Of 1, 3, 1, 2 and 4 lines: record number 4 does not fit before the end of the ring.
const LENS: [usize; 5] = [64, 120, 0, 56, 248];

pub(crate) fn record(number: u64) -> Vec<u8> {
    text(number + 1, LENS[number as usize % LENS.len()])
}

/// What came of one sender: how many records, and how it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Came {
    /// The number of the first one that came.
    pub(crate) first: Option<u64>,
    pub(crate) records: u64,
    pub(crate) ends: u64,
    pub(crate) why: Option<Why>,
}

/// A table and a fan-in in memory that children share; the test process is a member.
pub(crate) struct World {
    memory: SharedMemory,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) me: Arc<Member>,
    pub(crate) fan_in: FanIn,
    pub(crate) sender: Option<Sender>,
    pub(crate) receiver: Option<Receiver>,
}

pub(crate) fn fan_in_at() -> u64 {
    Table::bytes_for(SLOTS).next_multiple_of(64)
}

impl World {
    /// Whose fan-in is new.
    pub(crate) fn new() -> World {
        let (memory, mapping) = shared(fan_in_at() + FanIn::bytes_for(&CONFIG));
        // SAFETY: nobody else has the mapping.
        let me = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap().join().unwrap();
        // SAFETY: as above, and the table ends before.
        let fan_in = unsafe { FanIn::create(&mapping, fan_in_at(), &CONFIG) }.unwrap();
        World { memory, mapping, me, fan_in, sender: None, receiver: None }
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        image(&self.memory, SLOTS)
    }

    pub(crate) fn receiver(&mut self) -> Result<&mut Receiver, String> {
        if self.receiver.is_none() {
            self.receiver = Some(self.fan_in.receiver(&self.me).map_err(said)?);
        }
        Ok(self.receiver.as_mut().expect("has just been made"))
    }

    /// Whether somebody has a lane who is not this process.
    fn is_anybody_there(&self) -> bool {
        self.fan_in.status().iter().any(|lane| match lane.state {
            LaneState::Free => false,
            LaneState::Given(id) | LaneState::Open(id) => id != self.me.id(),
            LaneState::Left(_) | LaneState::Dropped(_) => true,
        })
    }

    /// Receives until nobody is there but the sender of this process, and nothing is in its lane:
    /// what came of that one, and of the others.
    pub(crate) fn receive_all(&mut self) -> Result<(Came, Came), String> {
        let (me, mut ours, mut theirs) = (self.me.id(), Came::default(), Came::default());
        while self.is_anybody_there() {
            let event = self.receiver()?.recv_deadline(Instant::now() + LIMIT);
            count(&event.map_err(said)?, me, &mut ours, &mut theirs)?;
        }
        while let Some(event) = self.receiver()?.try_recv().map_err(said)? {
            count(&event, me, &mut ours, &mut theirs)?;
        }
        Ok((ours, theirs))
    }

    /// All lanes are free and go around their rings.
    pub(crate) fn goes_on(&mut self) -> Result<(), String> {
        self.sender = None;
        self.receive_all()?;
        let join = |_| self.fan_in.sender(&self.me).map_err(said);
        let mut senders = (0..LANES).map(join).collect::<Result<Vec<_>, _>>()?;
        for number in 0..10 {
            for sender in &mut senders {
                if sender.sent() != number || !sender.try_send(&record(number)).map_err(said)? {
                    return Err(format!("no room for record {number}: {sender:?}"));
                }
            }
            for _ in &senders {
                match self.receiver()?.try_recv().map_err(said)? {
                    Some(Event::Record(got)) if got.number() == number => {}
                    got => return Err(format!("no record {number}, but {got:?}")),
                }
            }
        }
        drop(senders);
        let (ours, theirs) = self.receive_all()?;
        if ours.ends == LANES.into() && ours.records == 0 && theirs == Came::default() {
            return Ok(());
        }
        Err(format!("{ours:?} and {theirs:?} came"))
    }

    pub(crate) fn nothing_leaks(mut self, end: End) -> Result<(), String> {
        (self.sender, self.receiver) = (None, None);
        nothing_leaks(&self.me, SLOTS, end)
    }
}

fn count(
    event: &Event<'_>,
    me: ParticipantId,
    ours: &mut Came,
    theirs: &mut Came,
) -> Result<(), String> {
    let came = if event.sender() == me { ours } else { theirs };
    match event {
        Event::Record(got) if **got != *record(got.number()) => {
            return Err(format!("no record {}, but {got:?}", got.number()));
        }
        Event::Record(got) => {
            let first = *came.first.get_or_insert(got.number());
            if got.number() != first + came.records || came.ends > 0 {
                return Err(format!("record {} after {came:?}", got.number()));
            }
            came.records += 1;
        }
        Event::End(end) => {
            (came.ends, came.why) = (came.ends + 1, Some(end.why()));
        }
    }
    Ok(())
}
