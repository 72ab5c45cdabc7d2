//! Any sequence of takings, givings-back, changes, panics, repairs and clean-ups agrees with a
//! plain model of latches:
//!
//! 1. Who may have what beside whom is as the table of the module says.
//! 2. A page is torn where a change of it ended without being done, and nowhere else.
//! 3. Who looks is told exactly of pages that are not in change and not torn.
//! 4. Who has a latch, and how, is told of each.
//!
//! A forked child has and takes nothing.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::latch::{
    Change, Exclusive, LatchError, Latches, Mode, Shape, Share, ShareExclusive, User, UserError,
};
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::child::in_a_fork;
use shm_testkit::depth::cases;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

const PEOPLE: usize = 3;
const FRAMES: u32 = 2;
/// Who is cleaned up after does nothing more, and somebody from another seat comes in.
const SEATS: u32 = 12;
/// As many as one thread has.
const SHARES_MAX: usize = 8;

/// With `tries`, without waiting; else until a deadline that has passed.
#[derive(Debug, Clone, Copy)]
enum Op {
    Share {
        tries: bool,
    },
    Read,
    ShareExclusive {
        tries: bool,
    },
    Exclusive {
        tries: bool,
    },
    Upgrade {
        tries: bool,
    },
    Change,
    Done,
    EndShare,
    /// Gives back what it has alone; by a panic, in the midst of its work.
    End {
        panics: bool,
    },
    Repair,
    CleanUp,
}

fn op() -> impl Strategy<Value = (usize, u32, Op)> {
    let tries = any::<bool>;
    let op = prop_oneof![
        4 => tries().prop_map(|tries| Op::Share { tries }),
        2 => Just(Op::Read),
        3 => tries().prop_map(|tries| Op::ShareExclusive { tries }),
        3 => tries().prop_map(|tries| Op::Exclusive { tries }),
        3 => tries().prop_map(|tries| Op::Upgrade { tries }),
        4 => Just(Op::Change),
        4 => Just(Op::Done),
        5 => Just(Op::EndShare),
        4 => tries().prop_map(|panics| Op::End { panics }),
        3 => Just(Op::Repair),
        1 => Just(Op::CleanUp),
    ];
    (0..PEOPLE, 0..FRAMES, op)
}

/// What a call comes to.
#[derive(Debug, PartialEq)]
enum Said {
    Mine,
    NotNow,
    TornBy(ParticipantId),
}

/// What one has alone.
#[derive(Debug)]
enum Alone<'u> {
    ShareExclusive(ShareExclusive<'u>),
    Exclusive(Exclusive<'u>),
    Change(Change<'u>),
}

/// One frame by the book.
#[derive(Default)]
struct Plain<'u> {
    shares: Vec<(usize, Share<'u>)>,
    alone: Option<(usize, Alone<'u>)>,
    torn: Option<ParticipantId>,
}

/// One in each seat. It takes a thread to be a member: they stay, from one case to the next.
static MEMBERS: LazyLock<Vec<Arc<Member>>> = LazyLock::new(|| {
    let table = table(SEATS);
    (0..SEATS).map(|_| table.join().unwrap()).collect()
});

fn table(seats: u32) -> Table {
    let mapping = Mapping::heap(Table::bytes_for(seats) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Table::create(&mapping, 0, seats) }.unwrap()
}

fn latches() -> Latches {
    let shape = Shape { frames: FRAMES, seats: SEATS, threads: 1 };
    let mapping = Mapping::heap(Latches::bytes_for(shape) as usize);
    // SAFETY: nobody else has the mapping.
    unsafe { Latches::create(&mapping, 0, shape) }.unwrap();
    Latches::attach(&mapping, 0, shape).unwrap()
}

/// What was said, and the guard if there is one.
fn said<G>(taken: Result<Option<G>, LatchError>) -> (Said, Option<G>) {
    match taken {
        Ok(Some(guard)) => (Said::Mine, Some(guard)),
        Ok(None) | Err(LatchError::TimedOut) => (Said::NotNow, None),
        Err(LatchError::Torn { by }) => (Said::TornBy(by), None),
        Err(other) => panic!("{other}"),
    }
}

fn now() -> Option<Instant> {
    Some(Instant::now())
}

impl<'u> Plain<'u> {
    fn by_the_book(&self, is_taken: bool) -> Said {
        match self.torn {
            Some(by) => Said::TornBy(by),
            None if is_taken => Said::NotNow,
            None => Said::Mine,
        }
    }

    fn owner(&self) -> Option<(Mode, ParticipantId)> {
        let of_alone = |(who, alone): &(usize, Alone<'_>)| match alone {
            Alone::ShareExclusive(_) => (Mode::ShareExclusive, MEMBERS[*who].id()),
            Alone::Exclusive(_) | Alone::Change(_) => (Mode::Exclusive, MEMBERS[*who].id()),
        };
        let of_torn = || self.torn.map(|by| (Mode::Torn, by));
        self.alone.as_ref().map(of_alone).or_else(of_torn)
    }

    fn keeps_readers_out(&self) -> bool {
        matches!(self.alone, Some((_, Alone::Exclusive(_) | Alone::Change(_))))
    }

    fn is_in_change(&self) -> bool {
        self.torn.is_some() || matches!(self.alone, Some((_, Alone::Change(_))))
    }

    fn takes(&mut self, who: usize, user: &'u User, frame: u32, op: Op) {
        let alone = match op {
            Op::Share { tries } => {
                let book = self.by_the_book(self.keeps_readers_out());
                let (said, share) = said(match tries {
                    true => user.try_share(frame),
                    false => user.share(frame, now()).map(Some),
                });
                assert_eq!(said, book);
                self.shares.extend(share.map(|share| (who, share)));
                return;
            }
            Op::ShareExclusive { tries } => {
                let book = self.by_the_book(self.alone.is_some());
                let (said, latch) = said(match tries {
                    true => user.try_share_exclusive(frame),
                    false => user.share_exclusive(frame, now()).map(Some),
                });
                assert_eq!(said, book);
                latch.map(Alone::ShareExclusive)
            }
            _ => {
                let book = self.by_the_book(self.alone.is_some() || !self.shares.is_empty());
                let (said, latch) = said(match op {
                    Op::Exclusive { tries: true } => user.try_exclusive(frame),
                    _ => user.exclusive(frame, now()).map(Some),
                });
                assert_eq!(said, book);
                latch.map(Alone::Exclusive)
            }
        };
        if let Some(alone) = alone {
            self.alone = Some((who, alone));
        }
    }

    fn upgrades(&mut self, who: usize, latch: ShareExclusive<'u>, tries: bool) {
        let upgraded = match tries {
            true => latch.try_upgrade(),
            false => latch.upgrade(now()).map_err(|(latch, why)| {
                assert_eq!(why, LatchError::TimedOut);
                latch
            }),
        };
        assert_eq!(upgraded.is_ok(), self.shares.is_empty());
        let alone = upgraded.map_or_else(Alone::ShareExclusive, Alone::Exclusive);
        self.alone = Some((who, alone));
    }

    /// Gives it back, or panics.
    fn ends(&mut self, alone: Alone<'u>, panics: bool) {
        if let Alone::Change(change) = &alone {
            self.torn = Some(change.by());
        }
        let work = || {
            let _alone = alone;
            if panics {
                std::panic::resume_unwind(Box::new("in between"));
            }
        };
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
        assert_eq!(panicked, panics);
    }

    /// It is `who`'s turn.
    fn does(&mut self, who: usize, user: &'u User, frame: u32, op: Op) {
        match (op, self.alone.take()) {
            (Op::Upgrade { tries }, Some((holder, Alone::ShareExclusive(latch)))) => {
                self.upgrades(holder, latch, tries);
            }
            (Op::Change, Some((holder, Alone::Exclusive(latch)))) => {
                self.alone = Some((holder, Alone::Change(latch.change().unwrap())));
            }
            (Op::Done, Some((holder, Alone::Change(change)))) => {
                self.alone = Some((holder, Alone::Exclusive(change.done().unwrap())));
            }
            (Op::End { panics }, Some((_, alone))) => self.ends(alone, panics),
            (Op::EndShare, alone) => {
                drop(self.shares.pop());
                self.alone = alone;
            }
            (Op::Repair, alone) => {
                self.alone = alone;
                let change = user.repair(frame).unwrap();
                assert_eq!(change.as_ref().map(Change::by), self.torn.take());
                if let Some(change) = change {
                    self.alone = Some((who, Alone::Change(change)));
                }
            }
            (Op::Read, alone) => {
                self.alone = alone;
                let book = self.by_the_book(self.is_in_change());
                assert_eq!(said(user.read(frame, now(), || ()).map(Some)).0, book);
            }
            (Op::Share { .. } | Op::ShareExclusive { .. } | Op::Exclusive { .. }, alone) => {
                self.alone = alone;
                self.takes(who, user, frame, op);
            }
            (_, alone) => self.alone = alone,
        }
        let looks = user.latches().look(frame, || ()).unwrap();
        assert_eq!(looks.is_none(), self.is_in_change());
    }

    /// `who` is gone, and with it all that it had.
    fn loses(&mut self, who: usize, id: ParticipantId) {
        self.shares.extract_if(.., |(sharer, _)| *sharer == who).for_each(std::mem::forget);
        if let Some((_, alone)) = self.alone.take_if(|(holder, _)| *holder == who) {
            if let Alone::Change(_) = alone {
                self.torn = Some(id);
            }
            std::mem::forget(alone);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_plain_model(ops in prop::collection::vec(op(), 0..60)) {
        let latches = latches();
        let users: Vec<_> = MEMBERS.iter().map(|it| latches.user(it, 0).unwrap()).collect();
        let mut frames: [Plain<'_>; FRAMES as usize] = Default::default();
        let (mut people, mut came) = ([0, 1, 2], PEOPLE);
        for (n, frame, op) in ops {
            let who = people[n];
            let shares = frames.iter().flat_map(|plain| &plain.shares);
            let is_full = shares.filter(|(sharer, _)| *sharer == who).count() >= SHARES_MAX - 1;
            match op {
                Op::Share { .. } if is_full => {}
                Op::CleanUp if came == users.len() => {}
                Op::CleanUp => {
                    (people[n], came) = (came, came + 1);
                    let id = MEMBERS[who].id();
                    frames.iter_mut().for_each(|plain| plain.loses(who, id));
                    latches.clean_up(id);
                }
                op => frames[frame as usize].does(who, &users[who], frame, op),
            }
            for (frame, plain) in (0..).zip(&frames) {
                prop_assert_eq!(latches.owner(frame), plain.owner());
            }
        }
    }
}

#[test]
fn a_thread_shares_as_much_as_its_row_holds() {
    let latches = latches();
    let user = latches.user(&MEMBERS[0], 0).unwrap();
    let mut shares: Vec<_> = (0..SHARES_MAX).map(|_| user.share(0, None).unwrap()).collect();
    assert_eq!(user.share(1, None).unwrap_err(), LatchError::TooManyShares);
    shares.pop();
    drop(user.share(1, None).unwrap());
}

#[test]
fn what_is_not_there_is_refused() {
    let shape = Shape { frames: 2, seats: 1, threads: 2 };
    assert_eq!(Latches::bytes_for(shape), 2 * 64 + 2 * 64 + 8);
    let mapping = Mapping::heap(Latches::bytes_for(shape) as usize);
    assert!(Latches::attach(&mapping, 64, shape).is_err());
    // SAFETY: nobody else has the mapping.
    assert!(unsafe { Latches::create(&mapping, 64, shape) }.is_err());
    // SAFETY: as above.
    unsafe { Latches::create(&mapping, 0, shape) }.unwrap();
    let latches = Latches::attach(&mapping, 0, shape).unwrap();
    let no_row = |seat, thread| UserError::NoRow { seat, thread, seats: 1, threads: 2 };
    assert_eq!(latches.user(&MEMBERS[0], 2).unwrap_err(), no_row(0, 2));
    assert_eq!(latches.user(&MEMBERS[1], 0).unwrap_err(), no_row(1, 0));
    let user = latches.user(&MEMBERS[0], 1).unwrap();
    let outside = LatchError::NoSuchFrame(2);
    assert_eq!(user.share(2, None).unwrap_err(), outside);
    assert_eq!(user.exclusive(2, None).unwrap_err(), outside);
    assert_eq!(user.repair(2).unwrap_err(), outside);
    assert_eq!(latches.look(2, || ()).unwrap_err(), outside);
    assert_eq!(latches.owner(2), None);
}

#[test]
fn a_forked_child_takes_nothing_and_gives_nothing_back() {
    let latches = latches();
    let user = latches.user(&table(1).join().unwrap(), 0).unwrap();
    let (share, change) = (user.share(0, None).unwrap(), user.exclusive(1, None).unwrap());
    let change = change.change().unwrap();
    let held = std::mem::ManuallyDrop::new((share, change));
    assert!(in_a_fork(|| {
        let forked = |error| matches!(error, Some(LatchError::Forked(_)));
        let refused = forked(user.share(0, None).err())
            && forked(user.try_share(0).err())
            && forked(user.share_exclusive(0, None).err())
            && forked(user.exclusive(0, None).err())
            && forked(user.repair(0).err());
        // SAFETY: the parent's copy is another one.
        let (share, change) = unsafe { std::ptr::read(&*held) };
        drop(share);
        refused && change.done().is_err()
    }));
    assert!(user.try_exclusive(0).unwrap().is_none(), "the child gave the share back");
    assert_eq!(latches.look(1, || ()), Ok(None), "the child ended the change");
    let (share, change) = std::mem::ManuallyDrop::into_inner(held);
    drop((share, change.done().unwrap()));
    assert!(user.try_exclusive(0).unwrap().is_some());
    assert_eq!(latches.look(1, || ()), Ok(Some(())));
}
