//! Any sequence of joins, arrivals, departures and deaths agrees with a plain list of parties.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::barrier::{Barrier, BarrierError, PARTIES_MAX, Party};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::depth::cases;
use std::sync::Arc;
use std::time::Instant;

const SEATS: usize = 4;
const PARTIES: u32 = 3;
const AT: u64 = 1024;

#[derive(Debug, Clone, Copy)]
enum Op {
    Join(usize),
    /// Arrives if it has not, and looks whether the phase is over.
    Arrive(usize),
    Leave(usize),
    ArriveAndLeave(usize),
    /// Without arriving, and is cleaned up after.
    Die(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0..SEATS;
    prop_oneof![
        3 => who().prop_map(Op::Join),
        5 => who().prop_map(Op::Arrive),
        1 => who().prop_map(Op::Leave),
        1 => who().prop_map(Op::ArriveAndLeave),
        1 => who().prop_map(Op::Die),
    ]
}

/// A party as the model has it.
#[derive(Clone, Copy, Default, Debug)]
struct Plain {
    /// The phase that it is in, and whether it has arrived there.
    phase: u32,
    arrived: bool,
}

/// The barrier, and what is known of it.
struct Both {
    table: Table,
    barrier: Barrier,
    members: Vec<Arc<Member>>,
    parties: [Option<Party>; SEATS],
    plain: [Option<Plain>; SEATS],
    phase: u32,
    /// Of each phase: whether a missing one died in it; who was elected.
    broken: Vec<bool>,
    elected: Vec<bool>,
    first: u32,
    joins: u32,
}

impl Both {
    fn new(first: u32) -> Both {
        let mapping = Mapping::heap(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS as u32) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let barrier = unsafe { Barrier::create(&mapping, AT, PARTIES, first) }.unwrap();
        let members = (0..SEATS).map(|_| table.join().unwrap()).collect();
        Both {
            table,
            barrier,
            members,
            parties: Default::default(),
            plain: Default::default(),
            phase: 0,
            broken: vec![false],
            elected: vec![false],
            first,
            joins: 0,
        }
    }

    /// Ends the phase if everybody has arrived. Where the last one left without arriving it stays
    /// as it is.
    fn settle(&mut self) {
        let waits = self.phase == 0 && self.joins < self.first;
        let mut there = self.plain.iter().flatten().filter(|plain| plain.phase == self.phase);
        let count = self.plain.iter().flatten().count();
        if !waits && count > 0 && there.clone().count() == count && there.all(|it| it.arrived) {
            self.end_phase();
        }
    }

    fn end_phase(&mut self) {
        self.phase += 1;
        self.broken.push(false);
        self.elected.push(false);
    }

    fn elect(&mut self, phase: u32) -> bool {
        !std::mem::replace(&mut self.elected[phase as usize], true)
    }

    /// Parties that wait for an end that has come learn of it first: they cannot do anything else.
    fn learn(&mut self, at: usize) -> Result<(), TestCaseError> {
        let is_late = |plain: &Plain| plain.arrived && plain.phase < self.phase;
        if self.plain[at].as_ref().is_some_and(is_late) {
            self.arrive(at)?;
        }
        Ok(())
    }

    fn arrive(&mut self, at: usize) -> Result<(), TestCaseError> {
        let Some(mut plain) = self.plain[at] else { return Ok(()) };
        plain.arrived = true;
        self.plain[at] = Some(plain);
        self.settle();
        let party = self.parties[at].as_mut().expect("as in the model");
        let came = party.arrive_and_wait_until(Instant::now());
        if self.phase == plain.phase {
            prop_assert_eq!(came, Err(BarrierError::TimedOut));
            return Ok(());
        }
        if self.broken[plain.phase as usize] {
            prop_assert!(matches!(came, Err(BarrierError::Died { .. })), "{:?}", came);
        } else {
            prop_assert_eq!(came, Ok(self.elect(plain.phase)));
        }
        self.plain[at] = Some(Plain { phase: plain.phase + 1, arrived: false });
        Ok(())
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Join(at) if self.plain[at].is_none() => {
                let joined = self.barrier.join(&self.members[at]);
                if self.plain.iter().flatten().count() == PARTIES as usize {
                    let full = BarrierError::Full { parties: PARTIES };
                    prop_assert_eq!(joined.map(|party| party.phase()), Err(full));
                    return Ok(());
                }
                self.joins += 1;
                let party = joined.unwrap();
                prop_assert_eq!(party.phase(), self.phase);
                self.parties[at] = Some(party);
                self.plain[at] = Some(Plain { phase: self.phase, arrived: false });
                self.settle();
            }
            Op::Join(_) => {}
            Op::Arrive(at) => self.arrive(at)?,
            Op::Leave(at) | Op::ArriveAndLeave(at) => {
                self.learn(at)?;
                let (Some(party), Some(plain)) = (self.parties[at].take(), self.plain[at].take())
                else {
                    return Ok(());
                };
                // Where the first phase waits for more it does not end.
                let waits = self.phase == 0 && self.joins < self.first;
                let was_last = !waits && self.plain.iter().flatten().count() == 0;
                if matches!(op, Op::Leave(_)) {
                    prop_assert_eq!(party.leave(), Ok(()));
                } else {
                    let last = party.arrive_and_leave();
                    prop_assert_eq!(last, Ok(was_last && self.elect(plain.phase)));
                    if was_last && plain.phase == self.phase {
                        self.end_phase();
                    }
                }
                self.settle();
            }
            Op::Die(at) => {
                self.learn(at)?;
                let Some(plain) = self.plain[at] else { return Ok(()) };
                if plain.arrived {
                    return Ok(());
                }
                self.plain[at] = None;
                self.barrier.clean_up(self.members[at].id());
                // One that was taken out has nothing to leave.
                drop(self.parties[at].take());
                self.broken[plain.phase as usize] = true;
                drop(self.members.remove(at));
                // Who waits ends the phase when it looks.
                self.members.insert(at, self.table.join().unwrap());
            }
        }
        prop_assert_eq!(self.barrier.phase(), self.phase);
        prop_assert_eq!(self.barrier.parties().len(), self.plain.iter().flatten().count());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    #[test]
    fn agrees_with_a_list(
        first in 0..=PARTIES,
        ops in proptest::collection::vec(op(), 0..40),
    ) {
        let mut both = Both::new(first);
        for op in ops {
            both.step(op)?;
        }
    }
}

#[test]
fn what_is_no_barrier_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(Barrier::attach(&mapping, 0).unwrap_err(), BarrierError::NotABarrier);
    assert!(matches!(Barrier::attach(&mapping, 4096), Err(BarrierError::BadPlace(_))));
    for (parties, first) in [(0, 0), (2, 3), (PARTIES_MAX + 1, 0)] {
        // SAFETY: nobody else has the mapping.
        let made = unsafe { Barrier::create(&mapping, 0, parties, first) };
        assert_eq!(made.unwrap_err(), BarrierError::Parties { parties, first });
    }
    // SAFETY: nobody else has the mapping.
    let made = unsafe { Barrier::create(&mapping, 8, 1, 0) };
    assert!(matches!(made, Err(BarrierError::BadPlace(_))));
    assert_ne!(Barrier::FINGERPRINT, 0);
}
