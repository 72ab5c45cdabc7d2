//! Real threads make records of all lengths for a fixed time, and two write out: what each has made
//! is in the file, where it was told, in its order, and nothing else is.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::tail::{Lsn, RecordError, Said, Shape, Tail, parse};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::random;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const TIME: Duration = Duration::from_millis(700);
const LOG: u64 = 11;
const START: Lsn = Lsn(1 << 20);
const MAKERS: u32 = 4;
const SHAPE: Shape = Shape { seats: 8, threads: 1, slots: 13, lane_bytes: 2048 };

/// Where a record is, and its length; it says the maker, a count, and the rest of the length.
type Told = Vec<(Lsn, usize)>;

/// Writes out what there is into `file`; whether there was anything.
fn writes_out(tail: &Tail, member: &Member, file: &Mutex<Vec<u8>>) -> bool {
    let (mut writer, mut bytes) = (tail.writer(member, None).unwrap(), Vec::new());
    let range = writer.gather(4096, &mut bytes).unwrap();
    let mut file = file.lock().unwrap();
    assert_eq!((range.start.0 - START.0) as usize, file.len(), "something is left out");
    file.extend_from_slice(&bytes);
    writer.wrote();
    !range.is_empty()
}

fn make(tail: &Tail, member: &Arc<Member>, seed: u64, end: Instant, file: &Mutex<Vec<u8>>) -> Told {
    let mut user = tail.user(member, 0).unwrap();
    let (mut state, mut told) = (seed | 1, Told::new());
    let maker = member.id().slot();
    while Instant::now() < end {
        let mut said = vec![maker as u8; 12 + (random::next(&mut state) % 300) as usize];
        said[..4].copy_from_slice(&maker.to_le_bytes());
        said[4..12].copy_from_slice(&(told.len() as u64).to_le_bytes());
        loop {
            let made = user.record(&[&said[..5], &said[5..]]);
            match made.and_then(|record| record.take_in().map_err(|(_, error)| error)) {
                Ok(range) => break told.push((range.start, said.len())),
                Err(RecordError::Full) => _ = writes_out(tail, member, file),
                Err(error) => panic!("{error}"),
            }
        }
    }
    told
}

#[test]
fn what_each_has_made_is_in_the_file() {
    let seed = random::seed();
    let mapping = Mapping::heap(Table::bytes_for(SHAPE.seats) as usize);
    // SAFETY: nobody else has the mapping, here and below.
    let table = unsafe { Table::create(&mapping, 0, SHAPE.seats) }.unwrap();
    let mapping = Mapping::heap(Tail::bytes_for(SHAPE) as usize);
    // SAFETY: as above.
    unsafe { Tail::create(&mapping, 0, SHAPE, START) }.unwrap();
    let tail = Tail::attach(&mapping, 0, SHAPE, LOG).unwrap();
    let members: Vec<_> = (0..MAKERS + 2).map(|_| table.join().unwrap()).collect();
    let (file, end) = (Mutex::new(Vec::new()), Instant::now() + TIME);
    let mut told: Vec<Told> = std::thread::scope(|scope| {
        let (makers, writers) = members.split_at(MAKERS as usize);
        for member in writers {
            let (tail, file) = (&tail, &file);
            scope.spawn(move || {
                while Instant::now() < end {
                    writes_out(tail, member, file);
                }
            });
        }
        let make = |(member, number): (_, u64)| {
            let (tail, file) = (&tail, &file);
            scope.spawn(move || make(tail, member, seed.wrapping_add(number << 40), end, file))
        };
        let makers: Vec<_> = makers.iter().zip(1..).map(make).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    while writes_out(&tail, &members[0], &file) {}

    let (file, mut at, mut count) = (file.into_inner().unwrap(), 0, 0);
    told.iter_mut().for_each(|told| told.reverse());
    while at < file.len() {
        let lsn = Lsn(START.0 + at as u64);
        let (said, space) = parse(LOG, lsn, &file[at..]).expect("a record is not whole");
        let Said::Something(said) = said else { panic!("a record is lost") };
        let maker = u32::from_le_bytes(said[..4].try_into().unwrap());
        assert_eq!(told[maker as usize].pop(), Some((lsn, said.len())), "seed {seed}");
        assert!(said[12..].iter().all(|byte| *byte == maker as u8));
        (at, count) = (at + space as usize, count + 1);
    }
    assert!(told.iter().all(|told| told.is_empty()), "a record is lost, seed {seed}");
    println!("{count} records, {} bytes", file.len());
}
