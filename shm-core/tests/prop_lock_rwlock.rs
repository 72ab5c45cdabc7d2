//! Any sequence of takings, givings-back, panics, repairs and clean-ups agrees with a plain model
//! of a lock whose dead writer is reported. A forked child takes nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
use proptest::prelude::*;
use shm_core::lock::rwlock::{LockError, ReadGuard, RwLock, RwLockError, WriteGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::depth::cases;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

const PEOPLE: usize = 3;
/// Who is cleaned up after does nothing more, and somebody from another seat comes in.
const SEATS: u32 = 16;
const TABLE_BYTES: u64 = 4096;

#[derive(Debug, Clone, Copy)]
enum Op {
    TryRead(usize),
    ReadUntilNow(usize),
    TryWrite(usize),
    WriteUntilNow(usize),
    EndOneRead(usize),
    EndWrite { panics: bool },
    Recover { who: usize, done: bool },
    CleanUp(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let who = 0..PEOPLE;
    prop_oneof![
        3 => who.clone().prop_map(Op::TryRead),
        2 => who.clone().prop_map(Op::ReadUntilNow),
        3 => who.clone().prop_map(Op::TryWrite),
        2 => who.clone().prop_map(Op::WriteUntilNow),
        4 => who.clone().prop_map(Op::EndOneRead),
        3 => (0..4).prop_map(|n| Op::EndWrite { panics: n == 0 }),
        2 => (who.clone(), any::<bool>()).prop_map(|(who, done)| Op::Recover { who, done }),
        1 => who.prop_map(Op::CleanUp),
    ]
}

/// What the lock is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    Free,
    Written,
    Abandoned(ParticipantId),
}

/// What a call comes to.
#[derive(Debug, PartialEq)]
enum Said {
    Mine,
    Busy,
    TimedOut,
    AbandonedBy(ParticipantId),
}

/// One in each seat. It takes a thread to be a member: they stay, from one case to the next.
static MEMBERS: LazyLock<Vec<Arc<Member>>> = LazyLock::new(|| {
    let (_, table) = lock_and_table();
    (0..SEATS).map(|_| table.join().unwrap()).collect()
});

/// A person: a seat, and what it has.
struct Person<'a> {
    me: &'static Arc<Member>,
    shares: Vec<ReadGuard<'a>>,
    right: Option<WriteGuard<'a>>,
}

impl Person<'_> {
    fn new(seat: usize) -> Self {
        Person { me: &MEMBERS[seat], shares: Vec::new(), right: None }
    }
}

fn lock_and_table() -> (RwLock, Table) {
    let mapping = Mapping::heap((TABLE_BYTES + RwLock::bytes_for(SEATS)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let lock = unsafe { RwLock::create(&mapping, TABLE_BYTES, SEATS) }.unwrap();
    (lock, table)
}

/// What was said, and the guard if there is one.
fn said<G>(taken: Result<Option<G>, LockError>) -> (Said, Option<G>) {
    match taken {
        Ok(Some(guard)) => (Said::Mine, Some(guard)),
        Ok(None) => (Said::Busy, None),
        Err(LockError::TimedOut) => (Said::TimedOut, None),
        Err(LockError::Abandoned { by }) => (Said::AbandonedBy(by), None),
        Err(other) => panic!("{other}"),
    }
}

/// The same by the book, where one has to wait while `is_taken`.
fn by_the_book(plain: Plain, is_taken: bool, waits: Said) -> Said {
    match plain {
        Plain::Abandoned(by) => Said::AbandonedBy(by),
        Plain::Written => waits,
        Plain::Free if is_taken => waits,
        Plain::Free => Said::Mine,
    }
}

/// What one is told who would have to wait.
fn waits(tries: bool) -> Said {
    if tries { Said::Busy } else { Said::TimedOut }
}

/// Gives it back, or panics; whether it did.
fn panicked(right: Option<WriteGuard<'_>>, panics: bool) -> bool {
    let work = || {
        let _right = right;
        if panics {
            std::panic::resume_unwind(Box::new("in between"));
        }
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_lock(ops in proptest::collection::vec(op(), 0..40)) {
        let (lock, _) = lock_and_table();
        let mut people: Vec<_> = (0..PEOPLE).map(Person::new).collect();
        let (mut plain, mut came) = (Plain::Free, PEOPLE);
        for op in ops {
            let is_read = people.iter().any(|person| !person.shares.is_empty());
            match op {
                Op::TryRead(n) | Op::ReadUntilNow(n) => {
                    let tries = matches!(op, Op::TryRead(_));
                    let me = people[n].me;
                    let (said, share) = said(match tries {
                        true => lock.try_read(me),
                        false => lock.read_until(me, Instant::now()).map(Some),
                    });
                    people[n].shares.extend(share);
                    prop_assert_eq!(said, by_the_book(plain, false, waits(tries)));
                }
                Op::TryWrite(n) | Op::WriteUntilNow(n) => {
                    let tries = matches!(op, Op::TryWrite(_));
                    let me = people[n].me;
                    let (said, right) = said(match tries {
                        true => lock.try_write(me),
                        false => lock.write_until(me, Instant::now()).map(Some),
                    });
                    let book = by_the_book(plain, is_read, waits(tries));
                    if right.is_some() {
                        (people[n].right, plain) = (right, Plain::Written);
                    }
                    prop_assert_eq!(said, book);
                }
                Op::EndOneRead(n) => drop(people[n].shares.pop()),
                Op::EndWrite { panics } => {
                    let mut writers = people.iter_mut().filter(|person| person.right.is_some());
                    let Some(person) = writers.next() else { continue };
                    prop_assert_eq!(panicked(person.right.take(), panics), panics);
                    plain = if panics { Plain::Abandoned(person.me.id()) } else { Plain::Free };
                }
                Op::Recover { who, done } => {
                    let recovery = lock.recover(people[who].me).unwrap();
                    match (recovery, plain) {
                        (Some(recovery), Plain::Abandoned(by)) => {
                            prop_assert_eq!(recovery.by(), by);
                            if done {
                                people[who].right = Some(recovery.done());
                                plain = Plain::Written;
                            }
                        }
                        (None, Plain::Free | Plain::Written) => (),
                        (recovery, plain) => prop_assert!(false, "{recovery:?} of {plain:?}"),
                    }
                }
                Op::CleanUp(n) => {
                    if came == MEMBERS.len() {
                        continue;
                    }
                    let gone = std::mem::replace(&mut people[n], Person::new(came));
                    came += 1;
                    if gone.right.is_some() {
                        plain = Plain::Abandoned(gone.me.id());
                    }
                    std::mem::forget((gone.shares, gone.right));
                    lock.clean_up(gone.me.id());
                }
            }
        }
    }
}

#[test]
fn what_is_no_lock_is_refused() {
    let mapping = Mapping::heap(4096);
    assert_eq!(RwLock::attach(&mapping, 0).unwrap_err(), RwLockError::NotALock);
    assert!(matches!(RwLock::attach(&mapping, 4096), Err(RwLockError::BadPlace(_))));
    for (offset, seats) in [(64, 1), (0, 32), (4096, 1)] {
        // SAFETY: nobody else has the mapping.
        let made = unsafe { RwLock::create(&mapping, offset, seats) };
        assert!(matches!(made, Err(RwLockError::BadPlace(_))), "{offset} {seats}");
    }
    // SAFETY: as above.
    assert_eq!(unsafe { RwLock::create(&mapping, 0, 0) }.unwrap_err(), RwLockError::Seats(0));
    assert_eq!(RwLock::bytes_for(3), 512);
}

#[test]
fn one_of_a_larger_table_is_refused() {
    let (_, table) = lock_and_table();
    let mapping = Mapping::heap(256);
    // SAFETY: nobody else has the mapping.
    let lock = unsafe { RwLock::create(&mapping, 0, 1) }.unwrap();
    let (one, other) = (table.join().unwrap(), table.join().unwrap());
    drop(lock.read(&one).unwrap());
    assert_eq!(lock.read(&other).unwrap_err(), LockError::NoRow { seat: 1, seats: 1 });
    assert_eq!(lock.write(&other).unwrap_err(), LockError::NoRow { seat: 1, seats: 1 });
}

#[test]
fn a_forked_child_takes_nothing() {
    let (lock, table) = lock_and_table();
    let me = table.join().unwrap();
    let held = std::mem::ManuallyDrop::new(lock.write(&me).unwrap());
    // SAFETY: the child makes two calls, which take no lock, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = matches!(lock.read(&me), Err(LockError::Forked(_)));
        drop(std::mem::ManuallyDrop::into_inner(held));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = -1;
    // SAFETY: our child, and a status of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(lock.try_read(&me).unwrap().is_none(), "the child gave it back");
    drop(std::mem::ManuallyDrop::into_inner(held));
    assert!(lock.try_read(&me).unwrap().is_some());
}
