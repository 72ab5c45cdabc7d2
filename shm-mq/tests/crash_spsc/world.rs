//! The world of the crash tests of `spsc`: a table and a queue that one may die at, and what the
//! test process then finds.
use crate::crash_common::{image, nothing_leaks, said, shared};
use crate::spsc_common::LIMIT;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::spsc::{Queue, Receiver, RecvError, SendError, Sender};
use shm_testkit::killpoint::{End, SharedMemory};
use shm_testkit::random::text;
use std::sync::Arc;
use std::time::Instant;

const SLOTS: u32 = 3;
/// Eight lines.
pub(crate) const RING_BYTES: u64 = 512;
/// Of 9, 16, 1, 8 and 32 words: record number 3 goes to the next line, number 4 to the beginning of
/// the ring, and then it is full.
const LENS: [usize; 5] = [64, 120, 0, 56, 248];
/// So many have been sent and received in each world: 33 words of 64.
pub(crate) const BASE: u64 = 3;

pub(crate) fn record(number: u64) -> Vec<u8> {
    text(number + 1, LENS[number as usize % LENS.len()])
}

/// A table and a queue in memory that children share; the test process is a member.
pub(crate) struct World {
    memory: SharedMemory,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) me: Arc<Member>,
    pub(crate) queue: Queue,
    pub(crate) sender: Option<Sender>,
    pub(crate) receiver: Option<Receiver>,
}

pub(crate) fn queue_at() -> u64 {
    Table::bytes_for(SLOTS).next_multiple_of(64)
}

impl World {
    /// A queue that `BASE` records went through, and that has `queued` more.
    pub(crate) fn new(queued: u64) -> World {
        let (memory, mapping) = shared(queue_at() + Queue::bytes_for(RING_BYTES));
        // SAFETY: nobody else has the mapping.
        let me = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap().join().unwrap();
        // SAFETY: as above, and the table ends before.
        let queue = unsafe { Queue::create(&mapping, queue_at(), RING_BYTES, 0) }.unwrap();
        let (mut sender, mut receiver) = (queue.sender(&me).unwrap(), queue.receiver(&me).unwrap());
        for number in 0..BASE + queued {
            assert!(sender.try_send(&record(number)).unwrap());
            if number < BASE {
                receiver.try_recv().unwrap().unwrap();
            }
        }
        World { memory, mapping, me, queue, sender: Some(sender), receiver: Some(receiver) }
    }

    /// As if none had come yet: to one that has left nobody would send.
    pub(crate) fn forget_the_receiver(&self) {
        let role: Mapped<AtomicU64> = Mapped::new(&self.mapping, queue_at() + 32).unwrap();
        role.store(0, Ordering::Relaxed);
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        image(&self.memory, SLOTS)
    }

    /// The half that the test process has learns of the end of the other.
    pub(crate) fn learns(&mut self, end: End) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        let is_death = if let Some(receiver) = &mut self.receiver {
            loop {
                let number = receiver.received();
                match receiver.recv_deadline(deadline) {
                    Ok(got) if *got == *record(number) => {}
                    Ok(got) => return Err(format!("no record {number}, but {got:?}")),
                    Err(RecvError::PeerDied) => break true,
                    Err(RecvError::Detached) => break false,
                    Err(error) => return Err(said(error)),
                }
            }
        } else {
            let sender = self.sender.as_mut().ok_or("nobody is there to learn of it")?;
            loop {
                let number = sender.sent();
                match sender.send_deadline(&record(number), deadline) {
                    Ok(()) if number < 100 => {}
                    Ok(()) => return Err("there is more room than a ring has".to_owned()),
                    Err(SendError::PeerDied) => break true,
                    Err(SendError::Detached) => break false,
                    Err(error) => return Err(said(error)),
                }
            }
        };
        if is_death && end == End::Finished {
            return Err("it is said to have died, and has left".to_owned());
        }
        Ok(())
    }

    /// Takes what roles are left.
    pub(crate) fn succeed(&mut self) -> Result<(), String> {
        if self.sender.is_none() {
            self.sender = Some(self.queue.sender(&self.me).map_err(said)?);
        }
        if self.receiver.is_none() {
            self.receiver = Some(self.queue.receiver(&self.me).map_err(said)?);
        }
        Ok(())
    }

    /// Receives what is there, goes around the ring a few times more, and counts.
    pub(crate) fn goes_on(&mut self) -> Result<(), String> {
        let (Some(sender), Some(receiver)) = (&mut self.sender, &mut self.receiver) else {
            return Err("has not taken the roles".to_owned());
        };
        let there = sender.sent();
        for number in receiver.received()..there + 12 {
            if number >= there && !sender.try_send(&record(number)).map_err(said)? {
                return Err(format!("no room for record {number}"));
            }
            match receiver.try_recv().map_err(said)? {
                Some(got) if *got == *record(number) => {}
                got => return Err(format!("of {there}, no record {number}, but {got:?}")),
            }
            if number + 1 >= there && receiver.try_recv().map_err(said)?.is_some() {
                return Err(format!("a record behind number {number}"));
            }
        }
        if (sender.sent(), receiver.received()) == (there + 12, there + 12) {
            return Ok(());
        }
        Err(format!("{sender:?} and {receiver:?} miscounted"))
    }

    pub(crate) fn nothing_leaks(&self, end: End) -> Result<(), String> {
        nothing_leaks(&self.me, SLOTS, end)
    }
}
