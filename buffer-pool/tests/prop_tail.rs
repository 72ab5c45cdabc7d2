//! Any sequence of records, by several threads of several members, and of writings-out agrees with
//! a plain model of a log:
//!
//! 1. A record is refused exactly where it is longer than a lane, where its lane has no room, or
//!    where there is no slot; one that found no slot is taken in once there is one.
//! 2. What is taken in begins where the one taken in before ends, and says what it was told to.
//! 3. Who writes out gathers exactly what is not in the file, as much as it wants; what it does not
//!    say that it wrote is gathered again.
//! 4. Of each record of a row is known that it is in the log, and of the next that it is not.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::tail::{Lsn, RECORD_HEADER, Record, RecordError, Said, Shape, Tail, User, parse};
use proptest::prelude::*;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::depth::cases;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

const SEATS: u32 = 2;
const THREADS: u32 = 2;
const USERS: usize = (SEATS * THREADS) as usize;
const LOG: u64 = 0x0123_4567_89ab_cdef;

/// What one says: so many bytes.
#[derive(Debug, Clone, Copy)]
struct Says {
    by: usize,
    bytes: usize,
}

/// One who writes out does this, again and again.
#[derive(Debug, Clone)]
struct Round {
    most: usize,
    /// What others say between the gathering and the writing.
    meanwhile: Vec<Says>,
    /// Whether it says that it wrote what it gathered.
    wrote: bool,
}

#[derive(Debug, Clone)]
enum Op {
    /// Where there is no room, after all was written out.
    Say(Says),
    /// Makes a record, and does not take it in.
    Forgo(Says),
    /// Two make a record each; that of the second is taken in first.
    SayBoth(Says, Says),
    /// Has its row anew, as its successor does.
    Renew {
        by: usize,
    },
    WriteOut(Vec<Round>),
}

fn says() -> impl Strategy<Value = Says> {
    let bytes = prop_oneof![4 => 0..20_usize, 3 => 0..60_usize, 1 => 0..140_usize];
    (0..USERS, bytes).prop_map(|(by, bytes)| Says { by, bytes })
}

fn op() -> impl Strategy<Value = Op> {
    let most = prop_oneof![Just(0), 1..100_usize, Just(usize::MAX)];
    let meanwhile = proptest::collection::vec(says(), 0..4);
    let round = (most, meanwhile, any::<bool>());
    let round = round.prop_map(|(most, meanwhile, wrote)| Round { most, meanwhile, wrote });
    prop_oneof![
        6 => says().prop_map(Op::Say),
        1 => says().prop_map(Op::Forgo),
        3 => (says(), says()).prop_map(|(one, other)| Op::SayBoth(one, other)),
        2 => (0..USERS).prop_map(|by| Op::Renew { by }),
        3 => proptest::collection::vec(round, 1..4).prop_map(Op::WriteOut),
    ]
}

/// A record of a log by the book.
#[derive(Debug)]
struct Kept {
    by: usize,
    range: Range<u64>,
    said: Vec<u8>,
}

/// A log by the book.
struct Plain {
    start: u64,
    slots: usize,
    lane_bytes: usize,
    records: Vec<Kept>,
    /// So many are in the file.
    written: usize,
}

impl Plain {
    /// Why one cannot make a record.
    fn refuses(&self, Says { by, bytes }: Says) -> Option<RecordError> {
        let (bytes, most) = (RECORD_HEADER + bytes, self.lane_bytes);
        let mut used = bytes.next_multiple_of(8);
        for kept in self.records[self.written..].iter().filter(|kept| kept.by == by) {
            used += (kept.range.end - kept.range.start) as usize;
        }
        match () {
            () if bytes > most => Some(RecordError::TooLong { bytes, most }),
            () if used > most => Some(RecordError::Full),
            () => None,
        }
    }

    /// Of the next record of one.
    fn place(&self, by: usize) -> u64 {
        let its = self.records.iter().filter(|kept| kept.by == by);
        its.map(|kept| kept.range.end - kept.range.start).sum()
    }

    fn has_no_slot(&self) -> bool {
        self.records.len() - self.written == self.slots
    }

    fn end(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(self.start, |last| self.records[last].range.end)
    }

    /// The next record of all.
    fn keep(&mut self, by: usize, said: Vec<u8>) -> Range<Lsn> {
        let start = self.end(self.records.len());
        let end = start + (RECORD_HEADER + said.len()).next_multiple_of(8) as u64;
        self.records.push(Kept { by, range: start..end, said });
        Lsn(start)..Lsn(end)
    }

    /// How many there are before the end of what one gathers from here on.
    fn gathers(&self, from: usize, most: usize) -> usize {
        let begin = self.end(from);
        let is_enough = |count: &usize| (self.end(*count) - begin) as usize >= most.max(1);
        (from..self.records.len()).find(is_enough).unwrap_or(self.records.len())
    }
}

/// One in each seat. It takes a thread to be a member: they stay, from one case to the next.
static MEMBERS: LazyLock<Vec<Arc<Member>>> = LazyLock::new(|| {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    (0..SEATS).map(|_| table.join().unwrap()).collect()
});

fn user(tail: &Tail, by: usize) -> User {
    let (seat, thread) = (by as u32 / THREADS, by as u32 % THREADS);
    let member = MEMBERS.iter().find(|member| member.id().slot() == seat).unwrap();
    tail.user(member, thread).unwrap()
}

struct World {
    tail: Tail,
    users: Vec<User>,
    plain: Plain,
    file: Vec<u8>,
    /// Of what is said next.
    count: u8,
}

/// Takes it in as the model does; gives it back where there is no slot.
fn take_in<'u>(
    record: Record<'u>,
    plain: &mut Plain,
    by: usize,
    said: &[u8],
) -> Result<(), Record<'u>> {
    match record.take_in() {
        Ok(range) => {
            assert!(!plain.has_no_slot(), "there was no slot");
            assert_eq!(range, plain.keep(by, said.to_vec()));
            Ok(())
        }
        Err((record, error)) => {
            assert_eq!((error, plain.has_no_slot()), (RecordError::Full, true));
            Err(record)
        }
    }
}

/// In three parts; `None` where it is refused, as in the model.
fn make<'u>(user: &'u mut User, plain: &Plain, says: Says, said: &[u8]) -> Option<Record<'u>> {
    let (one, rest) = said.split_at(said.len() / 3);
    let (two, three) = rest.split_at(rest.len() / 2);
    let made = user.record(&[one, two, three]);
    assert_eq!(made.as_ref().err().copied(), plain.refuses(says));
    let record = made.ok()?;
    assert_eq!(record.place(), plain.place(says.by));
    Some(record)
}

impl World {
    fn new(slots: u32, lane_bytes: u32, start: u64) -> World {
        let shape = Shape { seats: SEATS, threads: THREADS, slots, lane_bytes };
        let mapping = Mapping::heap(Tail::bytes_for(shape) as usize);
        // SAFETY: nobody else has the mapping.
        unsafe { Tail::create(&mapping, 0, shape, Lsn(start)) }.unwrap();
        let tail = Tail::attach(&mapping, 0, shape, LOG).unwrap();
        let users = (0..USERS).map(|by| user(&tail, by)).collect();
        let (slots, lane_bytes) = (slots as usize, lane_bytes as usize);
        let plain = Plain { start, slots, lane_bytes, records: Vec::new(), written: 0 };
        World { tail, users, plain, file: Vec::new(), count: 0 }
    }

    fn next_said(&mut self, bytes: usize) -> Vec<u8> {
        self.count = self.count.wrapping_add(1);
        (0..bytes).map(|at| self.count ^ (at as u8).rotate_left(4)).collect()
    }

    /// Whether it is in the log then.
    fn says(&mut self, says: Says) -> bool {
        let said = self.next_said(says.bytes);
        let (user, plain) = (&mut self.users[says.by], &mut self.plain);
        let record = make(user, plain, says, &said);
        record.is_some_and(|record| take_in(record, plain, says.by, &said).is_ok())
    }

    fn says_at_last(&mut self, says: Says) {
        let said = self.next_said(says.bytes);
        let (tail, file, plain) = (&self.tail, &mut self.file, &mut self.plain);
        let user = &mut self.users[says.by];
        if plain.refuses(says) == Some(RecordError::Full) {
            assert!(make(user, plain, says, &said).is_none());
            write_all_out(tail, plain, file);
        }
        let Some(record) = make(user, plain, says, &said) else { return };
        if let Err(record) = take_in(record, plain, says.by, &said) {
            write_all_out(tail, plain, file);
            take_in(record, plain, says.by, &said).unwrap();
        }
    }

    fn both_say(&mut self, [one, other]: [Says; 2]) {
        let said = [one, other].map(|says| self.next_said(says.bytes));
        let Ok([first, second]) = self.users.get_disjoint_mut([one.by, other.by]) else {
            return;
        };
        let plain = &mut self.plain;
        let records = [make(first, plain, one, &said[0]), make(second, plain, other, &said[1])];
        for ((record, says), said) in records.into_iter().zip([one, other]).zip(said).rev() {
            record.map(|record| take_in(record, plain, says.by, &said).is_ok());
        }
    }

    fn writes_out(&mut self, rounds: Vec<Round>) {
        let tail = self.tail.clone();
        let mut writer = tail.writer(&MEMBERS[0], None).unwrap();
        let mut gathered = self.plain.written;
        for round in rounds {
            // Behind what is there.
            let mut bytes = vec![7];
            let range = writer.gather(round.most, &mut bytes).unwrap();
            let begin = gathered;
            gathered = self.plain.gathers(gathered, round.most);
            assert_eq!(range, Lsn(self.plain.end(begin))..Lsn(self.plain.end(gathered)));
            put(&mut self.file, self.plain.start, range, &bytes[1..]);
            for says in round.meanwhile {
                self.says(says);
            }
            if round.wrote {
                writer.wrote();
                self.plain.written = gathered;
            }
            assert_eq!(writer.written(), Lsn(self.plain.end(self.plain.written)));
        }
    }

    fn does(&mut self, op: Op) {
        match op {
            Op::Say(says) => self.says_at_last(says),
            Op::Forgo(says) => {
                let said = self.next_said(says.bytes);
                let _ = make(&mut self.users[says.by], &self.plain, says, &said);
            }
            Op::SayBoth(one, other) => self.both_say([one, other]),
            Op::Renew { by } => self.users[by] = user(&self.tail, by),
            Op::WriteOut(rounds) => self.writes_out(rounds),
        }
        assert_eq!(self.tail.written(), Lsn(self.plain.end(self.plain.written)));
        for (by, user) in self.users.iter().enumerate() {
            let (tail, mut place) = (&self.tail, 0);
            for kept in self.plain.records.iter().filter(|kept| kept.by == by) {
                assert!(tail.has_taken(user.row(), place), "of row {} at {place}", user.row());
                place += kept.range.end - kept.range.start;
            }
            assert!(!tail.has_taken(user.row(), place), "of row {} at {place}", user.row());
        }
    }

    /// The file has all that the model has.
    fn ends(mut self) {
        write_all_out(&self.tail, &mut self.plain, &mut self.file);
        let mut rest = &self.file[..];
        for kept in &self.plain.records {
            let (record, space) = parse(LOG, Lsn(kept.range.start), rest).unwrap();
            assert_eq!(record, Said::Something(&kept.said));
            assert_eq!(space, kept.range.end - kept.range.start);
            let (record, behind) = rest.split_at(space as usize);
            let zeroes = &record[RECORD_HEADER + kept.said.len()..];
            assert!(zeroes.iter().all(|byte| *byte == 0), "something else behind it");
            rest = behind;
        }
        assert!(rest.is_empty());
    }
}

fn put(file: &mut Vec<u8>, start: u64, range: Range<Lsn>, bytes: &[u8]) {
    assert_eq!(range.end.0 - range.start.0, bytes.len() as u64);
    file.truncate((range.start.0 - start) as usize);
    assert_eq!(start + file.len() as u64, range.start.0, "something is left out");
    file.extend(bytes);
}

fn write_all_out(tail: &Tail, plain: &mut Plain, file: &mut Vec<u8>) {
    let (mut bytes, mut writer) = (Vec::new(), tail.writer(&MEMBERS[1], None).unwrap());
    let range = writer.gather(usize::MAX, &mut bytes).unwrap();
    let all = plain.records.len();
    assert_eq!(range, Lsn(plain.end(plain.written))..Lsn(plain.end(all)));
    put(file, plain.start, range, &bytes);
    writer.wrote();
    plain.written = all;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(500)))]

    #[test]
    fn a_log_is_as_the_book_says(
        slots in 1..7_u32,
        lane_words in 8..17_u32,
        start in prop_oneof![Just(0), (0..1_u64 << 50).prop_map(|words| words * 8)],
        ops in proptest::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(slots, lane_words * 8, start);
        ops.into_iter().for_each(|op| world.does(op));
        world.ends();
    }
}
