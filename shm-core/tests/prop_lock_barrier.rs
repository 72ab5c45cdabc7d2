//! Any sequence of joins, arrivals, departures and deaths agrees with a plain model of a barrier.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::barrier::{Barrier, BarrierError, PARTIES_MAX, Party};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use std::sync::Arc;
use std::time::Instant;

const AT: u64 = 2048;
const ROWS: u32 = 4;
/// Nobody dies twice, and each death takes a seat's generation.
const SEATS: u32 = 16;

#[derive(Debug, Clone, Copy)]
enum Op {
    Join,
    Arrive(usize),
    Leave(usize),
    Die(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..ROWS as usize;
    prop_oneof![
        3 => Just(Op::Join),
        8 => who.clone().prop_map(Op::Arrive),
        1 => who.clone().prop_map(Op::Leave),
        1 => who.prop_map(Op::Die),
    ]
}

/// One that lives: its party, and what the model knows of it.
struct Lives {
    party: Party,
    phase: u32,
    arrived: bool,
}

/// What the barrier is: dead ones are known by name, and whether they had arrived in which phase.
#[derive(Default)]
struct Plain {
    phase: u32,
    joins: u32,
    dead: Vec<(ParticipantId, Option<u32>)>,
    /// Phases that ended broken, and whoever may be named.
    broken: Vec<(u32, Vec<ParticipantId>)>,
    elected: Vec<u32>,
}

impl Plain {
    /// The dead that are missing in this phase are taken out, by one who waits.
    fn buries(&mut self) {
        let phase = self.phase;
        let (missing, arrived) =
            self.dead.drain(..).partition::<Vec<_>, _>(|(_, came)| *came != Some(phase));
        self.dead = arrived;
        if missing.is_empty() {
            return;
        }
        let names = missing.into_iter().map(|(id, _)| id);
        match self.broken.iter_mut().find(|(of, _)| *of == phase) {
            Some((_, known)) => known.extend(names),
            None => self.broken.push((phase, names.collect())),
        }
    }

    fn ends_if_complete(&mut self, living: &[Lives], first: u32) {
        let dead_came = self.dead.iter().all(|(_, came)| *came == Some(self.phase));
        let all = living.iter().all(|one| one.arrived && one.phase == self.phase);
        let some = !(living.is_empty() && self.dead.is_empty());
        if some && all && dead_came && (self.phase > 0 || self.joins >= first) {
            self.phase += 1;
        }
    }
}

fn gone(table: &Table, me: Arc<Member>, party: Party) -> ParticipantId {
    let id = me.id();
    std::mem::forget(party);
    let _ = table;
    // SAFETY: the party, forgotten, keeps one count for ever; the seat is left as by a death.
    unsafe { Arc::decrement_strong_count(Arc::as_ptr(&me)) };
    drop(me);
    id
}

fn run(first: u32, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let barrier = unsafe { Barrier::create(&mapping, AT, ROWS, first) }.unwrap();
    let mut plain = Plain::default();
    let (mut living, mut members) = (Vec::<Lives>::new(), Vec::<Arc<Member>>::new());
    for op in ops {
        match op {
            Op::Join => {
                if living.len() + plain.dead.len() == ROWS as usize {
                    continue;
                }
                let me = table.join().unwrap();
                let party = barrier.join(&me).unwrap();
                prop_assert_eq!(party.phase(), plain.phase);
                plain.joins += 1;
                living.push(Lives { party, phase: plain.phase, arrived: false });
                members.push(me);
            }
            Op::Arrive(at) if at < living.len() => {
                let phase = living[at].phase;
                living[at].arrived = true;
                if phase == plain.phase {
                    plain.buries();
                    plain.ends_if_complete(&living, first);
                }
                let said = living[at].party.arrive_and_wait_until(Instant::now());
                if phase == plain.phase {
                    prop_assert_eq!(said, Err(BarrierError::TimedOut));
                    continue;
                }
                (living[at].phase, living[at].arrived) = (phase + 1, false);
                match plain.broken.iter().find(|(of, _)| *of == phase) {
                    Some((_, names)) => {
                        let Err(BarrierError::Died { by }) = said else {
                            return Err(TestCaseError::fail(format!("{said:?}")));
                        };
                        prop_assert!(names.contains(&by));
                    }
                    None => {
                        prop_assert_eq!(said, Ok(!plain.elected.contains(&phase)));
                        plain.elected.push(phase);
                    }
                }
            }
            Op::Leave(at) if at < living.len() => {
                living.swap_remove(at).party.leave().unwrap();
                members.swap_remove(at);
                plain.ends_if_complete(&living, first);
            }
            Op::Die(at) if at < living.len() => {
                let one = living.swap_remove(at);
                let id = gone(&table, members.swap_remove(at), one.party);
                plain.dead.push((id, one.arrived.then_some(one.phase)));
            }
            _ => (),
        }
        prop_assert_eq!(barrier.phase(), plain.phase);
        prop_assert_eq!(barrier.parties().len(), living.len() + plain.dead.len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        if std::env::var("SHM_DEEP").as_deref() == Ok("1") { 10_000 } else { 200 }
    ))]

    #[test]
    fn agrees_with_a_plain_barrier(
        first in 0..3_u32,
        ops in proptest::collection::vec(op(), 0..30),
    ) {
        // A table has so many seats.
        prop_assume!(ops.iter().filter(|op| matches!(op, Op::Join)).count() <= SEATS as usize);
        run(first, ops)?;
    }
}

#[test]
fn what_is_no_barrier_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(Barrier::attach(&mapping, 0).unwrap_err(), BarrierError::NotABarrier);
    assert!(matches!(Barrier::attach(&mapping, 4096), Err(BarrierError::BadPlace(_))));
    for (parties, first) in [(0, 0), (PARTIES_MAX + 1, 0), (1, 2)] {
        // SAFETY: nobody else has the mapping.
        let made = unsafe { Barrier::create(&mapping, 0, parties, first) };
        assert_eq!(made.unwrap_err(), BarrierError::Parties { parties, first });
    }
    // SAFETY: as above.
    assert!(matches!(
        unsafe { Barrier::create(&mapping, 8, 1, 0) },
        Err(BarrierError::BadPlace(_))
    ));
}
