//! The end of a log in weak memory: what took its slot is in the file, once, where it was said to
//! be, and whole; what did not is nowhere; whoever dies where, the next one goes on.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use buffer_pool::tail::{Lsn, RECORD_HEADER, RecordError, Said, Shape, Tail, User, parse};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_testkit::depth::is_deep;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell, yield_now};
use std::ops::Range;
use std::sync::{Arc, Mutex};

const SEATS: u32 = 3;
/// The log's number.
const LOG: u64 = 5;
const START: Lsn = Lsn(8);
/// A record that says a number.
const RECORD: u64 = RECORD_HEADER as u64 + 8;

/// The log's file: one at a time writes into it, as the model checks.
struct File(UnsafeCell<Vec<u8>>);
// SAFETY: loom checks that every access is ordered.
unsafe impl Sync for File {}
// SAFETY: as above.
unsafe impl Send for File {}

impl File {
    fn write(&self, range: Range<Lsn>, bytes: &[u8]) {
        let [from, to] = [range.start, range.end].map(|lsn| (lsn.0 - START.0) as usize);
        assert_eq!(to - from, bytes.len(), "the range is another");
        // SAFETY: loom checks that nobody accesses it meanwhile.
        self.0.with_mut(|file| unsafe {
            let end = to.max((*file).len());
            (*file).resize(end, 0);
            (&mut *file)[from..to].copy_from_slice(bytes);
        });
    }

    /// What the records say, with where each begins.
    fn records(&self) -> Vec<(Lsn, u64)> {
        // SAFETY: as above.
        let bytes = self.0.with(|file| unsafe { (*file).clone() });
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let lsn = Lsn(START.0 + at as u64);
            let (said, space) = parse(LOG, lsn, &bytes[at..]).expect("a record is not whole");
            let Said::Something(said) = said else { panic!("a record is lost") };
            records.push((lsn, u64::from_ne_bytes(said.try_into().unwrap())));
            at += space as usize;
        }
        records
    }
}

struct World {
    table: Table,
    tail: Tail,
    file: File,
    members: Vec<Arc<Member>>,
}

/// Each of the processes 1, 2, 3 is seated; there are so many slots, and room for so many records
/// in a lane.
fn world(slots: u32, records: u64) -> Arc<World> {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    let lane_bytes = (records * RECORD) as u32;
    let shape = Shape { seats: SEATS, threads: 1, slots, lane_bytes };
    let mapping = Mapping::heap(Tail::bytes_for(shape) as usize);
    // SAFETY: as above.
    unsafe { Tail::create(&mapping, 0, shape, START) }.unwrap();
    let tail = Tail::attach(&mapping, 0, shape, LOG).unwrap();
    let join = |number| {
        become_process(number);
        table.join().unwrap()
    };
    let members = (1..=SEATS).map(join).collect();
    become_process(1);
    Arc::new(World { table, tail, file: File(UnsafeCell::new(Vec::new())), members })
}

impl World {
    fn member(&self, process: u32) -> &Arc<Member> {
        &self.members[process as usize - 1]
    }

    fn user(&self, process: u32) -> User {
        self.tail.user(self.member(process), 0).unwrap()
    }

    /// Writes out what is there; whether anything was.
    fn writes_out(&self, process: u32) -> bool {
        let mut writer = self.tail.writer(self.member(process), None).unwrap();
        let mut bytes = Vec::new();
        let range = writer.gather(usize::MAX, &mut bytes).unwrap();
        self.file.write(range.clone(), &bytes);
        writer.wrote();
        !range.is_empty()
    }

    /// Takes in a record that says `value`; writes out where there is no room.
    fn says(&self, user: &mut User, process: u32, value: u64) -> Lsn {
        loop {
            let record = match user.record(&[&value.to_ne_bytes()]) {
                Ok(record) => record,
                Err(RecordError::Full) => {
                    self.makes_room(process);
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            match record.take_in() {
                Ok(range) => {
                    assert_eq!(range.end.0 - range.start.0, RECORD);
                    return range.start;
                }
                Err((_, RecordError::Full)) => self.makes_room(process),
                Err((_, other)) => panic!("{other}"),
            }
        }
    }

    fn makes_room(&self, process: u32) {
        if !self.writes_out(process) {
            // Another one did, and what we saw was old.
            yield_now();
        }
    }

    /// The last one writes out all there is: exactly these records are in the file, and of the dead
    /// those whose slots they took.
    fn ends(self: Arc<World>, said: &[(Lsn, u64)], perhaps: &[(u32, u64)]) {
        become_process(1);
        self.writes_out(1);
        let records = self.file.records();
        for of in said {
            assert!(records.contains(of), "a record is lost, or elsewhere");
        }
        let mut count = said.len();
        for (process, value) in perhaps {
            let is_there = records.iter().any(|(_, said)| said == value);
            let row = self.member(*process).id().slot();
            assert_eq!(self.tail.has_taken(row, 0), is_there, "it is not known what became of it");
            count += usize::from(is_there);
        }
        assert_eq!(records.len(), count, "a record is there that nobody made, or twice");
        assert_eq!(self.tail.written(), Lsn(START.0 + count as u64 * RECORD));
        // Seats are not left: a model that ends has no kernel any more.
        std::mem::forget(self);
    }
}

/// Process `number` does it, and the kernel buries it if it dies of that.
fn does<R: 'static>(
    world: &Arc<World>,
    number: u32,
    life: Life,
    work: impl FnOnce(&World) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let world = world.clone();
    spawn(move || acts(&world, number, &life, work))
}

fn acts<R>(
    world: &Arc<World>,
    number: u32,
    life: &Life,
    work: impl FnOnce(&World) -> R,
) -> Option<R> {
    let process = become_process(number);
    let end = life.run(|| work(world));
    if end.is_none() {
        process_ends(&world.table, process);
    }
    end
}

/// Two take in a record each, into slots of which there are so many.
fn both_say(slots: u32) -> impl Fn([Life; 2]) + Copy {
    move |[one, other]| {
        let world = world(slots, 2);
        let say = |number: u32| {
            move |world: &World| {
                let mut user = world.user(number);
                let lsn = world.says(&mut user, number, u64::from(number));
                (lsn, u64::from(number))
            }
        };
        let thread = does(&world, 2, one, say(2));
        let ends = [(3, acts(&world, 3, &other, say(3))), (2, thread.join().unwrap())];
        let said: Vec<_> = ends.iter().filter_map(|(_, said)| *said).collect();
        let dead = ends.iter().filter(|(_, said)| said.is_none());
        let perhaps: Vec<_> = dead.map(|(number, _)| (*number, u64::from(*number))).collect();
        world.ends(&said, &perhaps);
    }
}

/// One takes in `count` records; another `others` of its own, or writes out where it has none.
fn one_says_beside(
    (slots, room): (u32, u64),
    count: u64,
    others: u64,
) -> impl Fn([Life; 2]) + Copy {
    move |[one, other]| {
        let world = world(slots, room);
        let notes = Arc::new(Mutex::new(Vec::new()));
        let says = |number: u32, values: Range<u64>| {
            let notes = notes.clone();
            move |world: &World| {
                let mut user = world.user(number);
                for value in values {
                    let lsn = world.says(&mut user, number, value);
                    notes.lock().unwrap().push((lsn, value));
                }
            }
        };
        let does_other = says(3, 10..10 + others);
        let thread = does(&world, 3, other, move |world| match others {
            0 => _ = world.writes_out(3),
            _ => does_other(world),
        });
        let lived = acts(&world, 2, &one, says(2, 1..count + 1)).is_some();
        let all_lived = thread.join().unwrap().is_some() && lived;
        become_process(1);
        world.writes_out(1);
        // Of a dead one the last record may be in the log, and nobody was told.
        let said = notes.lock().unwrap().clone();
        let mut all = world.file.records();
        assert!(said.iter().all(|of| all.contains(of)), "a record is lost, or elsewhere");
        assert!(all.len() <= said.len() + usize::from(!all_lived), "a record is there twice");
        all.dedup_by_key(|(_, value)| *value);
        world.ends(&all, &[]);
    }
}

/// One dies over a record; one writes out, and one makes a record.
fn one_dies_before([life]: [Life; 1]) {
    let world = world(2, 1);
    let first = acts(&world, 2, &life, |world| world.says(&mut world.user(2), 2, 2));
    let thread = does(&world, 3, Life::endless(), |world| world.writes_out(3));
    become_process(1);
    let has_taken = world.tail.has_taken(world.member(2).id().slot(), 0);
    let said = world.says(&mut world.user(1), 1, 1);
    thread.join().unwrap();
    let records = world.file.records();
    assert_eq!(records.iter().any(|(_, value)| *value == 2), has_taken, "what became of it");
    let said: Vec<_> = first.map(|lsn| (lsn, 2)).into_iter().chain([(said, 1)]).collect();
    let perhaps = if first.is_none() { &[(2, 2)][..] } else { &[] };
    world.ends(&said, perhaps);
}

/// One writes out a record; one looks whether it is in the file.
fn one_looks_at_the_file() {
    let world = world(2, 1);
    let lsn = world.says(&mut world.user(1), 1, 1);
    let thread = does(&world, 2, Life::endless(), |world| {
        let mut writer = world.tail.writer(world.member(2), None).unwrap();
        let mut bytes = Vec::new();
        let range = writer.gather(usize::MAX, &mut bytes).unwrap();
        world.file.write(range.clone(), &bytes);
        writer.wrote();
    });
    become_process(1);
    if world.tail.written() > lsn {
        assert_eq!(world.file.records(), [(lsn, 1)]);
    }
    thread.join().unwrap();
    world.ends(&[(lsn, 1)], &[]);
}

/// One has a record in the log, dies over the next, and is reaped; its successor in the seat goes
/// on.
fn one_succeeds(life: Life) {
    let world = world(2, 2);
    let first = acts(&world, 2, &life, |world| {
        let mut user = world.user(2);
        (1..=2).map(|value| (world.says(&mut user, 2, value), value)).collect::<Vec<_>>()
    });
    if first.is_none() {
        become_process(1);
        world.table.reap(|dead| world.tail.clean_up(dead));
        let process = become_process(4);
        let member = world.table.join().unwrap();
        assert_eq!(member.id().slot(), world.member(2).id().slot());
        let mut user = world.tail.user(&member, 0).unwrap();
        world.says_again(&mut user);
        std::mem::forget((user, member));
        let _ = process;
    }
    become_process(1);
    world.writes_out(1);
    let values: Vec<u64> = world.file.records().iter().map(|(_, value)| *value).collect();
    match first {
        Some(_) => assert_eq!(values, [1, 2]),
        None => assert!([&[7][..], &[1, 7], &[1, 2, 7]].contains(&&values[..]), "{values:?}"),
    }
    std::mem::forget(world);
}

impl World {
    fn says_again(&self, user: &mut User) {
        loop {
            let record = user.record(&[&7u64.to_ne_bytes()]);
            match record.and_then(|record| record.take_in().map_err(|(_, error)| error)) {
                Ok(_) => return,
                Err(RecordError::Full) => {
                    become_process(1);
                    self.writes_out(1);
                    become_process(4);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn what_two_say_is_in_the_log_whoever_dies() {
    model::check(|| both_say(2)([Life::endless(), Life::endless()]));
    model::every_death_of(if is_deep() { 2 } else { 1 }, both_say(2));
}

#[test]
fn what_is_said_is_written_out_meanwhile_whoever_dies() {
    lives(one_says_beside((2, 2), 1, 0));
    model::every_death_of(1, one_says_beside((2, 2), 1, 0));
}

/// A slot, and a lane, of one record.
#[test]
fn who_has_no_room_writes_out_whoever_dies() {
    let narrow = one_says_beside((1, 1), 2, 0);
    model::check_bounded(Some(1), move || narrow([Life::endless(), Life::endless()]));
    if is_deep() {
        lives(narrow);
        model::every_death_of(1, narrow);
    }
}

#[test]
fn who_goes_on_to_the_next_leads_nobody_astray() {
    lives(one_says_beside((4, 2), 2, 1));
    model::every_death_of(1, one_says_beside((4, 2), 2, 1));
}

#[test]
fn who_has_the_seat_next_goes_on_in_the_lane() {
    model::every_death_of(1, |[life]: [Life; 1]| one_succeeds(life));
}

#[test]
fn a_dead_one_leaves_a_record_or_none() {
    model::every_death_of(1, one_dies_before);
}

#[test]
fn what_is_written_out_is_seen_in_the_file() {
    model::check(one_looks_at_the_file);
}

fn lives(scenario: impl Fn([Life; 2]) + Copy + Send + Sync + 'static) {
    model::check(move || scenario([Life::endless(), Life::endless()]));
}

#[test]
fn every_ordering_of_the_tail_matters() {
    let found = model::every_ordering_matters(&["src/tail/"], || {
        model::check(one_looks_at_the_file);
        lives(both_say(2));
        lives(one_says_beside((4, 2), 2, 1));
        let narrow = one_says_beside((1, 1), 2, 0);
        model::check_bounded(Some(1), move || narrow([Life::endless(), Life::endless()]));
        model::every_death_of(1, one_dies_before);
    });
    // Those of slots, of `written` and of cursors, and what shows that a row was of another slot.
    assert_eq!(found, 11);
}
