//! A process is killed at each instruction of making records and of writing them out: what it was
//! told is in the log is in the file, once, where it was told, and of its last record the row tells
//! what became of it; whoever comes next goes on. One that is stopped holds up nobody who makes
//! records.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use buffer_pool::tail::{
    Lsn, RECORD_HEADER, RecordError, Said, Shape, Tail, User, WriterError, parse,
};
use crash_common::{said, shared, without, words_from};
use shm_core::bytes::{Word, relaxed};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOG: u64 = 3;
const START: Lsn = Lsn(8);
/// A record says a number, and some more.
const RECORD: u64 = RECORD_HEADER as u64 + 8;
/// The doomed one's seat: the test has the one before.
const SEAT: u32 = 1;
/// Room for two records in a lane, or three, and for six in the slots.
const SHAPE: Shape = Shape { seats: 4, threads: 1, slots: 6, lane_bytes: 3 * RECORD as u32 };
const TAIL_AT: u64 = Table::bytes_for(SHAPE.seats).next_multiple_of(64);
/// Where the number of the thread lies in the mutex behind the head, counted from `TAIL_AT`.
const THREAD: Range<usize> = 128 + 9..128 + 12;
/// The log's file.
const FILE_AT: u64 = (TAIL_AT + Tail::bytes_for(SHAPE)).next_multiple_of(8);
const FILE_BYTES: u64 = 40 * RECORD;
/// What the doomed one says is from here on, one after the other.
const ITS: u64 = 100;
/// In the notes: where its records were told to be, one after the other.
const TOLD: Range<usize> = 0..8;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    tail: Tail,
    member: Arc<Member>,
}

/// Of a record that says `value`: its length is odd, mostly.
fn more(value: u64) -> Vec<u8> {
    vec![value as u8; (value % 7) as usize]
}

/// What that record takes.
fn space(value: u64) -> u64 {
    (RECORD + value % 7).next_multiple_of(8)
}

/// One who uses the log.
struct Writer {
    member: Arc<Member>,
    user: User,
}

impl World {
    fn new() -> World {
        let (_, mapping) = shared(FILE_AT + FILE_BYTES);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SHAPE.seats) }.unwrap();
        // SAFETY: as above, and the table ends before.
        unsafe { Tail::create(&mapping, TAIL_AT, SHAPE, START) }.unwrap();
        let tail = Tail::attach(&mapping, TAIL_AT, SHAPE, LOG).unwrap();
        let member = table.join().unwrap();
        // The first sum in a process asks what the processor can do.
        let mut bytes = [0; 24];
        bytes[8] = 24;
        assert_eq!(parse(LOG, Lsn(0), &bytes), None);
        World { mapping, table, tail, member }
    }

    fn member(&self) -> Result<Arc<Member>, String> {
        let joined = self.table.join_with(Default::default(), |dead| self.tail.clean_up(dead));
        joined.map_err(said)
    }

    fn sit(&self) -> Result<Writer, String> {
        let member = self.member()?;
        Ok(Writer { user: self.tail.user(&member, 0).map_err(said)?, member })
    }

    fn file(&self) -> &[Word] {
        self.mapping.region().share_slice(FILE_AT, FILE_BYTES / 8).unwrap()
    }

    /// Writes out what there is.
    fn writes_out(&self, member: &Member, deadline: Option<Instant>) -> Result<(), WriterError> {
        let (mut writer, mut bytes) = (self.tail.writer(member, deadline)?, Vec::new());
        let range = writer.gather(usize::MAX, &mut bytes).map_err(|_| WriterError::Corrupt)?;
        relaxed::copy_in(self.file(), (range.start.0 - START.0) as usize, &bytes);
        writer.wrote();
        Ok(())
    }

    /// Makes a record; writes out where there is no room.
    fn says(&self, by: &mut Writer, value: u64) -> Result<Lsn, String> {
        loop {
            let made = by.user.record(&[&value.to_ne_bytes(), &more(value)]);
            match made.and_then(|record| record.take_in().map_err(|(_, error)| error)) {
                Ok(range) => return Ok(range.start),
                Err(RecordError::Full) => self.writes_out(&by.member, None).map_err(said)?,
                Err(error) => return Err(said(error)),
            }
        }
    }

    /// What is in the file, and where.
    fn records(&self) -> Result<Vec<(Lsn, u64)>, String> {
        let mut bytes = vec![0; (self.tail.written().0 - START.0) as usize];
        relaxed::copy_out(self.file(), 0, &mut bytes);
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let lsn = Lsn(START.0 + at as u64);
            match parse(LOG, lsn, &bytes[at..]) {
                Some((Said::Something(said), space)) => {
                    let (value, rest) = said.split_first_chunk().ok_or("a record says nothing")?;
                    let value = u64::from_ne_bytes(*value);
                    if rest != more(value) {
                        return Err(format!("at {lsn} a record says {value}, and {rest:?}"));
                    }
                    records.push((lsn, value));
                    at += space as usize;
                }
                other => return Err(format!("at {lsn} the file has {other:?}")),
            }
        }
        Ok(records)
    }

    /// Another one has the doomed one's lane, and makes more records than it has room for.
    fn follows(&self) -> Result<Vec<(Lsn, u64)>, String> {
        self.table.reap(|dead| self.tail.clean_up(dead));
        let mut next = self.sit()?;
        if next.member.id().slot() != SEAT {
            return Err("its seat is somebody's".to_owned());
        }
        (30..34).map(|value| Ok((self.says(&mut next, value)?, value))).collect()
    }

    /// A participant that makes records, and ends without a word.
    fn die(&self, ends: fn(&World, Writer)) {
        assert!(in_a_fork(|| {
            ends(self, self.sit().unwrap());
            true
        }));
    }
}

/// What a process does with a log.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    before: fn(&World),
    /// Whether another one had the doomed one's lane before.
    is_second: bool,
    /// Whether another one has it afterwards, before anybody writes out.
    is_followed: bool,
    operate: fn(&World, &mut Writer, &Notes),
}

/// Makes a record of the doomed one's, and notes where it is told to be.
fn says(world: &World, doomed: &mut Writer, notes: &Notes) {
    let at = notes.all().take(TOLD.end).filter(|told| *told != 0).count();
    let lsn = world.says(doomed, ITS + at as u64).unwrap();
    notes.set(at, lsn.0);
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Writer;

    fn name(&self) -> String {
        format!("log's end, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        (self.before)(&world);
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Writer {
        let doomed = world.sit().unwrap();
        assert_eq!(doomed.member.id().slot(), SEAT);
        doomed
    }

    fn operate(&self, world: &World, doomed: &mut Writer, notes: &Notes) {
        (self.operate)(world, doomed, notes);
    }

    /// Without the table, which names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        without(words_from(&world.mapping, TAIL_AT), &[THREAD])
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        // Asked before anybody has its row.
        let before = if self.is_second { space(20) } else { 0 };
        let place = |at: usize| before + (ITS..ITS + at as u64).map(space).sum::<u64>();
        let taken: Vec<_> = TOLD.map(|at| world.tail.has_taken(SEAT, place(at))).collect();
        // Who held the mutex all the while gives it up.
        world.tail.clean_up(world.member.id());
        let mut last = if self.is_followed { world.follows()? } else { Vec::new() };
        world.writes_out(&world.member, None).map_err(said)?;
        let user = world.tail.user(&world.member, 0).map_err(said)?;
        let mut me = Writer { member: world.member.clone(), user };
        last.push((world.says(&mut me, 1)?, 1));
        world.writes_out(&world.member, None).map_err(said)?;
        let records = world.records()?;
        let told = notes.all().take(TOLD.end).filter(|told| *told != 0);
        let told: Vec<_> = told.zip(ITS..).map(|(lsn, value)| (Lsn(lsn), value)).collect();
        let its = records.iter().copied().filter(|(_, value)| *value >= ITS);
        let its: Vec<_> = its.collect();
        if !its.starts_with(&told) || its.len() > told.len() + 1 {
            return Err(format!("{told:?} was told, and {its:?} is in the file"));
        }
        if !records.ends_with(&last) {
            return Err(format!("{last:?} is not at the end of {records:?}"));
        }
        // Each of them, and none behind the last.
        if (0..).zip(&taken).all(|(at, is_taken)| *is_taken == (at < its.len())) {
            return Ok(());
        }
        Err(format!("{its:?} is in the file, and known is {taken:?}"))
    }

    /// Another participant makes records, and writes out if nobody does.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let mut other = world.sit()?;
            for value in [2, 3] {
                let record = other.user.record(&[&u64::to_ne_bytes(value), &more(value)]);
                let record = record.map_err(said)?;
                record.take_in().map_err(|(_, error)| said(error))?;
            }
            match world.writes_out(&other.member, Some(Instant::now())) {
                Ok(()) | Err(WriterError::TimedOut) => Ok(()),
                Err(error) => Err(said(error)),
            }
        }))
    }

    /// Another participant cleans up, and writes out.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let member = world.table.join().map_err(said)?;
            world.writes_out(&member, None).map_err(said)
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Writer) -> Result<(), String> {
        let is_refused = matches!(doomed.user.record(&[b"x"]), Err(RecordError::Forked(_)))
            && world.tail.user(&doomed.member, 0).is_err();
        let writes = world.writes_out(&doomed.member, None);
        let is_refused = is_refused && matches!(writes, Err(WriterError::Forked(_)));
        if is_refused { Ok(()) } else { Err("goes on in its parent's name".to_owned()) }
    }
}

const USES: Uses = Uses {
    name: "",
    operations: &[],
    before: |_| (),
    is_second: false,
    is_followed: false,
    operate: |_, _, _| (),
};

/// At every instruction: killed, stopped, and forked; and killed as it helps after a death.
fn passes(scenario: &Uses) {
    Run::new(scenario).points(400).kill().passes();
    Run::new(scenario).points(100).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(scenario).points(100).fork().passes();
    Run::new(scenario).points(20).deep_at_most(1000).nested().passes();
}

/// Two that are not written out are another one's.
fn others_said(world: &World) {
    let mut other =
        Writer { user: world.tail.user(&world.member, 0).unwrap(), member: world.member.clone() };
    for value in [10, 11] {
        world.says(&mut other, value).unwrap();
    }
}

#[test]
fn who_makes_records_may_die_anywhere() {
    passes(&Uses {
        name: "record",
        operations: &["buffer_pool::tail::User::record", "buffer_pool::tail::Record::take_in"],
        before: others_said,
        operate: |world, doomed, notes| (0..2).for_each(|_| says(world, doomed, notes)),
        ..USES
    });
}

#[test]
fn who_has_no_room_may_die_anywhere() {
    passes(&Uses {
        name: "record, no room",
        operations: &["buffer_pool::tail::User::record"],
        operate: |world, doomed, notes| (0..5).for_each(|_| says(world, doomed, notes)),
        ..USES
    });
}

#[test]
fn who_writes_out_may_die_anywhere() {
    passes(&Uses {
        name: "write out",
        operations: &[
            "buffer_pool::tail::Tail::writer",
            "buffer_pool::tail::Writer::gather",
            "buffer_pool::tail::Writer::wrote",
        ],
        before: others_said,
        operate: |world, doomed, notes| {
            says(world, doomed, notes);
            world.writes_out(&doomed.member, None).unwrap();
        },
        ..USES
    });
}

#[test]
fn who_writes_out_after_a_death_may_die_anywhere() {
    passes(&Uses {
        name: "write out, after a death",
        operations: &["buffer_pool::tail::Tail::writer"],
        before: |world| {
            world.die(|world, mut writer| {
                world.says(&mut writer, 20).unwrap();
                let mut out = world.tail.writer(&writer.member, None).unwrap();
                out.gather(usize::MAX, &mut Vec::new()).unwrap();
                std::mem::forget(out);
                std::mem::forget(writer);
            });
            world.table.reap(|dead| world.tail.clean_up(dead));
        },
        is_second: true,
        operate: |world, doomed, _| world.writes_out(&doomed.member, None).unwrap(),
        ..USES
    });
}

/// The one before took a slot, which is not written out.
#[test]
fn who_has_a_lane_after_another_may_die_anywhere() {
    passes(&Uses {
        name: "begin",
        operations: &["buffer_pool::tail::Tail::user"],
        before: |world| {
            world.die(|world, mut writer| {
                assert_eq!(writer.member.id().slot(), SEAT);
                world.says(&mut writer, 20).unwrap();
                std::mem::forget(writer);
            });
            world.table.reap(|dead| world.tail.clean_up(dead));
        },
        is_second: true,
        operate: |world, doomed, notes| {
            let (user, member) = (world.tail.user(&doomed.member, 0), doomed.member.clone());
            let mut again = std::mem::ManuallyDrop::new(Writer { user: user.unwrap(), member });
            says(world, &mut again, notes);
        },
        ..USES
    });
}

/// What it had in the lane stays until it is written out.
#[test]
fn who_has_the_lane_of_one_that_died_anywhere_goes_on() {
    let scenario = Uses {
        name: "record, then another one",
        operations: &["buffer_pool::tail::User::record", "buffer_pool::tail::Record::take_in"],
        before: others_said,
        is_followed: true,
        operate: |world, doomed, notes| (0..3).for_each(|_| says(world, doomed, notes)),
        ..USES
    };
    Run::new(&scenario).points(300).kill().passes();
    let scenario = Uses {
        name: "write out, then another one",
        operations: &["buffer_pool::tail::Writer::gather", "buffer_pool::tail::Writer::wrote"],
        operate: writes_in_parts,
        ..scenario
    };
    Run::new(&scenario).points(300).kill().passes();
}

/// Makes records, and writes out what there is, one at a time.
fn writes_in_parts(world: &World, doomed: &mut Writer, notes: &Notes) {
    (0..2).for_each(|_| says(world, doomed, notes));
    let mut writer = world.tail.writer(&doomed.member, None).unwrap();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        let range = writer.gather(1, &mut bytes).unwrap();
        relaxed::copy_in(world.file(), (range.start.0 - START.0) as usize, &bytes);
        writer.wrote();
    }
}

#[test]
fn who_writes_out_in_parts_may_die_anywhere() {
    passes(&Uses {
        name: "write out, in parts",
        operations: &["buffer_pool::tail::Writer::gather", "buffer_pool::tail::Writer::wrote"],
        before: others_said,
        operate: writes_in_parts,
        ..USES
    });
}

/// After one in the seat behind the doomed one's that died writing out.
#[test]
fn who_cleans_up_may_die_anywhere() {
    let scenario = Uses {
        name: "clean up",
        operations: &["buffer_pool::tail::Tail::clean_up"],
        before: |world| {
            world.die(|world, first| {
                let mut second = world.sit().unwrap();
                drop(first);
                world.says(&mut second, 20).unwrap();
                std::mem::forget(world.tail.writer(&second.member, None).unwrap());
                std::mem::forget(second);
            });
        },
        operate: |world, _, _| {
            // The first user of the seat.
            world.tail.clean_up(ParticipantId::from_bits((SEAT + 1) << 22 | 1).unwrap());
        },
        ..USES
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).nested().passes();
}

#[test]
fn who_waits_to_write_out_may_die_asleep() {
    let scenario = Uses {
        name: "write out, asleep",
        operations: &["buffer_pool::tail::Tail::writer"],
        before: |world| std::mem::forget(world.tail.writer(&world.member, None).unwrap()),
        operate: |world, doomed, notes| {
            says(world, doomed, notes);
            let writes = world.writes_out(&doomed.member, Some(Instant::now() + NAP));
            assert_eq!(writes, Err(WriterError::TimedOut));
        },
        ..USES
    };
    Run::new(&scenario).asleep().passes();
}

/// Planted bug: one notes that its record is in the log before it is.
#[test]
fn finds_a_record_that_was_told_too_early() {
    let scenario = Uses {
        name: "planted promise",
        operate: |world, doomed, notes| {
            notes.set(0, START.0);
            world.says(doomed, ITS).unwrap();
        },
        ..USES
    };
    Run::new(&scenario).points(200).kill().finds("was told");
}

/// Planted bug: one says that records are in the file, and writes them there afterwards.
#[test]
fn finds_a_writer_that_is_ahead_of_the_file() {
    let scenario = Uses {
        name: "planted haste",
        before: others_said,
        operate: |world, doomed, _| {
            let mut writer = world.tail.writer(&doomed.member, None).unwrap();
            let mut bytes = Vec::new();
            let range = writer.gather(usize::MAX, &mut bytes).unwrap();
            writer.wrote();
            relaxed::copy_in(world.file(), (range.start.0 - START.0) as usize, &bytes);
        },
        ..USES
    };
    Run::new(&scenario).points(200).kill().finds("the file has");
}
