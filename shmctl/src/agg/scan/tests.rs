//! However a file is cut, the chunks together give what a trivial reader gives: `csv` record by
//! record, with big integers.

use super::*;
use crate::agg::decimal::SCALE_MAX;
use crate::agg::error::AggError;
use crate::agg::groups::Shape;
use crate::agg::interrupt::Interrupt;
use crate::agg::job::{Job, Source};
use crate::agg::plain;
use crate::agg::progress::Progress;
use crate::agg::query::{Kind, Request};
use num_bigint::{BigInt, Sign};
use proptest::prelude::*;
use shm_testkit::depth::cases;
use std::collections::BTreeMap;
use std::io::Write;

/// Keys, rows, and per tallied column sum, min, max and avg.
type Answer = BTreeMap<Vec<String>, (u64, Vec<Option<[String; 4]>>)>;

const GROUP_BY: [&str; 2] = ["k", "j"];
const TALLIED: [&str; 2] = ["v", "w"];

fn request(group_by: &[&str], tallied: &[&str]) -> Request {
    let aggregate = |name: &&str| Kind::ALL.map(|kind| (kind, (*name).to_owned()));
    Request {
        group_by: group_by.iter().map(|name| (*name).to_owned()).collect(),
        aggregates: tallied.iter().flat_map(aggregate).collect(),
    }
}

/// A file that goes when this does.
fn file(text: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    file
}

fn open(
    file: &tempfile::NamedTempFile,
    chunk_bytes: u64,
    request: &Request,
) -> Result<Job, AggError> {
    let source = Source { path: file.path().to_owned(), delimiter: b',', chunk_bytes };
    Job::open(&source, request)
}

fn plain_groups(job: &Job) -> Result<Groups, AggError> {
    plain::run(job, &Progress::hidden(), &Interrupt::never()).map(|outcome| outcome.groups)
}

/// What leader and workers do together, without the processes.
fn chunked_groups(mut job: Job) -> Result<Groups, AggError> {
    loop {
        let mut whole = job.no_groups();
        let mut scanner = job.scanner();
        let mut quoted = false;
        for chunk in job.chunks().iter() {
            let mut part = job.no_groups();
            match scanner.scan(chunk, &mut part).map_err(|error| job.scan_error(error))? {
                Scan::Done(stats) => assert_eq!(stats.rows, part.rows()),
                Scan::Quoted => quoted = true,
            }
            let mut message = Vec::new();
            part.encode_into(&mut message);
            whole.merge(Groups::decode(Shape::from(job.plan().query()), &message)?).unwrap();
        }
        if !quoted {
            return Ok(whole);
        }
        assert!(job.chunks().iter().all(|chunk| !chunk.exact), "exact chunks never give up");
        assert!(job.looks_quoted()?);
        job.cut_exactly(&Interrupt::never())?;
    }
}

fn answer(groups: &Groups, tallies: usize) -> Answer {
    let results = |tally: usize, group: &crate::agg::groups::Group| {
        let [sum, min, max, avg] = Kind::ALL.map(|kind| group.tallies[tally].result(kind));
        Some([sum?, min?, max?, avg?])
    };
    groups
        .sorted()
        .into_iter()
        .map(|(key, group)| {
            let key = key.into_iter().map(str::to_owned).collect();
            (key, (group.rows, (0..tallies).map(|tally| results(tally, group)).collect()))
        })
        .collect()
}

/// The trivial reader. `None` where the file is not one to aggregate.
fn model(text: &[u8], group_by: &[&str], tallied: &[&str]) -> Option<Answer> {
    let mut reader = csv::Reader::from_reader(text);
    let headers = reader.headers().ok()?.clone();
    let column = |name: &&str| headers.iter().position(|header| header == *name);
    let group_by: Vec<_> = group_by.iter().map(column).collect::<Option<_>>()?;
    let tallied: Vec<_> = tallied.iter().map(column).collect::<Option<_>>()?;
    let mut groups: BTreeMap<Vec<String>, Vec<Vec<String>>> = BTreeMap::new();
    for record in reader.records() {
        let record = record.ok()?;
        let key = group_by.iter().map(|column| record[*column].to_owned()).collect();
        let cells = tallied.iter().map(|column| record[*column].to_owned()).collect();
        groups.entry(key).or_default().push(cells);
    }
    let results = |rows: &Vec<Vec<String>>| {
        let column = |tally: usize| rows.iter().map(move |row| row[tally].as_str());
        (rows.len() as u64, (0..tallied.len()).map(|tally| model_results(column(tally))).collect())
    };
    Some(groups.iter().map(|(key, rows)| (key.clone(), results(rows))).collect())
}

fn model_results<'a>(cells: impl Iterator<Item = &'a str>) -> Option<[String; 4]> {
    let (mut numbers, mut scale) = (Vec::new(), 0);
    for cell in cells.filter(|cell| !cell.is_empty()) {
        let decimals = cell.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let digits: BigInt = cell.replace('.', "").parse().unwrap();
        numbers.push(digits * BigInt::from(10).pow((usize::from(SCALE_MAX) - decimals) as u32));
        scale = scale.max(decimals);
    }
    let sum: BigInt = numbers.iter().sum();
    let unit = BigInt::from(10).pow((usize::from(SCALE_MAX) - scale) as u32);
    let text = |number: &BigInt| model_text(&(number / &unit), scale);
    let sums = [text(&sum), text(numbers.iter().min()?), text(numbers.iter().max()?)];
    // Twice the average in units of its last decimal, rounded down, then half to even.
    let (count, million) = (BigInt::from(numbers.len()), BigInt::from(1_000_000));
    let (dividend, divisor): (BigInt, BigInt) = (sum.magnitude().clone().into(), count * &unit);
    let whole = &dividend * &million / &divisor;
    let rest = (&dividend * &million % &divisor) * 2;
    let up = rest > divisor || (rest == divisor && whole.magnitude().bit(0));
    let average = whole + i32::from(up);
    let average = if sum.sign() == Sign::Minus { -average } else { average };
    let [sum, min, max] = sums;
    Some([sum, min, max, model_text(&average, scale + 6)])
}

fn model_text(number: &BigInt, scale: usize) -> String {
    let digits = format!("{:0>width$}", number.magnitude().to_string(), width = scale + 1);
    let (whole, decimals) = digits.split_at(digits.len() - scale);
    let sign = if number.sign() == Sign::Minus { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{decimals}") }
}

#[derive(Clone, Copy, Debug)]
enum Quotes {
    Never,
    WhereNeeded,
    Always,
}

fn csv_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        1 => Just(String::new()),
        5 => "-?[0-9]{1,4}(\\.[0-9]{1,3})?",
        1 => "-?[0-9]{1,19}(\\.[0-9]{1,18})?",
    ];
    let row = ("[ab]{0,2}|[\"\n\r,aé]{0,3}|\u{feff}", "[0-9]{0,2}", number.clone(), number);
    let quotes = prop_oneof![Just(Quotes::Never), Just(Quotes::WhereNeeded), Just(Quotes::Always)];
    let line_end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    let odds = (any::<bool>(), any::<bool>(), 0usize..7);
    (proptest::collection::vec(row, 0..7), quotes, line_end, odds).prop_map(
        |(rows, quotes, line_end, (mark, last_line_end, blank))| {
            let mut text = if mark { "\u{feff}".to_owned() } else { String::new() };
            text.push_str("k,v,j,w");
            for (index, (key, other, first, second)) in rows.iter().enumerate() {
                text.push_str(line_end);
                if index == blank {
                    text.push_str(line_end);
                }
                let cells = [key, first, other, second].map(|cell| quoted(cell, quotes));
                text.push_str(&cells.join(","));
            }
            text.push_str(if last_line_end { line_end } else { "" });
            text
        },
    )
}

fn quoted(cell: &str, quotes: Quotes) -> String {
    let needed = cell.contains(['"', ',', '\n', '\r']);
    match quotes {
        Quotes::Never => cell.replace(['"', ',', '\n', '\r'], "-"),
        Quotes::WhereNeeded if !needed => cell.to_owned(),
        _ => format!("\"{}\"", cell.replace('"', "\"\"")),
    }
}

/// The plain pass, and chunks of every size up to 32 and of some beyond, against the model.
fn agrees(text: &[u8], group_by: &[&str], tallied: &[&str]) -> Result<(), TestCaseError> {
    let expected = model(text, group_by, tallied);
    let request = request(group_by, tallied);
    let file = file(text);
    let found = |groups: Result<Groups, AggError>| {
        groups.map(|groups| answer(&groups, tallied.len())).map_err(|error| error.to_string())
    };
    let plain = open(&file, 1, &request).and_then(|job| plain_groups(&job));
    let plain = found(plain);
    prop_assert_eq!(plain.as_ref().ok(), expected.as_ref(), "{:?}", plain);
    let sizes = 1..=text.len() as u64 + 1;
    for chunk_bytes in sizes.filter(|bytes| *bytes <= 32 || bytes.is_multiple_of(7)) {
        let chunked = found(open(&file, chunk_bytes, &request).and_then(chunked_groups));
        prop_assert_eq!(chunked.as_ref().ok(), expected.as_ref(), "{} {:?}", chunk_bytes, chunked);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn chunks_of_any_size_give_what_a_trivial_reader_gives(text in csv_text()) {
        agrees(text.as_bytes(), &GROUP_BY, &TALLIED)?;
    }

    /// What is no proper CSV is read, or refused, as `csv` does.
    #[test]
    fn any_text_is_read_as_csv_reads_it(text in "[ab\",\n\r\u{feff}]{0,24}", two in any::<bool>()) {
        let header = if two { "k,x\n" } else { "k\n" };
        agrees((header.to_owned() + &text).as_bytes(), &["k"], &[])?;
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..60)) {
        let text = [b"k,v\n", text.as_slice()].concat();
        let file = file(&text);
        for request in [request(&["k"], &["v"]), request(&["v"], &[])] {
            for chunk_bytes in [1, 7, 100] {
                let _ = open(&file, chunk_bytes, &request).and_then(chunked_groups);
            }
        }
    }

    #[test]
    fn exact_chunks_hold_all_records_and_no_part_of_one(text in csv_text(), bytes in 1u64..50) {
        let file = file(text.as_bytes());
        let mut job = open(&file, bytes, &request(&[], &[])).unwrap();
        job.cut_exactly(&Interrupt::never()).unwrap();
        let mut scanner = job.scanner();
        let (mut position, mut rows) = (job.plan().header_end(), 0);
        for chunk in job.chunks().iter() {
            prop_assert_eq!(chunk.start, position);
            let Scan::Done(stats) = scanner.scan(chunk, &mut job.no_groups()).unwrap() else {
                return Err(TestCaseError::fail("exact chunks never give up"));
            };
            // Blank lines may be counted to either side.
            let beyond = &text.as_bytes()[chunk.end as usize..stats.next as usize];
            prop_assert!(beyond.iter().all(|byte| b"\r\n".contains(byte)), "{:?}", chunk);
            position = chunk.end;
            rows += stats.rows;
        }
        prop_assert_eq!(position, text.len() as u64);
        prop_assert_eq!(rows, csv::Reader::from_reader(text.as_bytes()).records().count() as u64);
    }
}

fn plain_and_chunked_errors(text: &[u8]) -> [String; 2] {
    let file = file(text);
    let request = request(&["k"], &["v"]);
    let message = |result: Result<Groups, AggError>| match result.unwrap_err() {
        AggError::Scan { error, .. } => error.to_string(),
        other => panic!("{other}"),
    };
    let plain = message(open(&file, 1, &request).and_then(|job| plain_groups(&job)));
    [plain, message(open(&file, 3, &request).and_then(chunked_groups))]
}

#[test]
fn errors_name_line_column_and_cell() {
    for (text, expected) in [
        ("k,v\na,1\nb,x\n", "line 3: column \"v\" holds \"x\", which is not a number"),
        ("k,v\r\na,1\r\n\r\nb,1e5", "line 4: column \"v\" holds \"1e5\", which is not a number"),
        ("k,v\na,1\nb,1,2\n", "line 3: 3 cells where the header has 2"),
        ("k,v\na,1\nb\n", "line 3: 1 cells where the header has 2"),
        (
            "k,v\na,1\nb,99999999999999999999\n",
            "line 3: column \"v\" holds \"99999999999999999999\", which does not fit",
        ),
        ("k,v\n\"a\nb\",1\n\nc,x\n", "line 5: column \"v\" holds \"x\", which is not a number"),
        (
            "\"k\nk\",v,k\n\"a\nb\",1,z\n\nc,x,z\n",
            "line 6: column \"v\" holds \"x\", which is not a number",
        ),
        ("k,v\n\"a\nb\",1\nc,1,\"\n\"\n", "line 4: 3 cells where the header has 2"),
        (
            "k,v\na,\u{1b}[31m\n",
            "line 2: column \"v\" holds \"\\u{1b}[31m\", which is not a number",
        ),
    ] {
        for message in plain_and_chunked_errors(text.as_bytes()) {
            assert!(message.starts_with(expected), "{message:?} is not {expected:?}");
        }
    }
}

#[test]
fn cells_that_are_not_text_are_named_only_in_columns_that_are_used() {
    for text in [&b"k,v\na,1\n\xff,2\n"[..], b"k,v\na,1\nb,\xff\n", b"k,v\n\"a\",1\n\"\xff\",2\n"] {
        for message in plain_and_chunked_errors(text) {
            assert!(message.starts_with("line 3: the cell in column"), "{message}");
        }
    }
    let unused = file(b"k,x\na,\xff\n");
    let job = open(&unused, 1, &request(&["k"], &[])).unwrap();
    assert_eq!(plain_groups(&job).unwrap().rows(), 1);
}

#[test]
fn a_record_without_end_is_refused() {
    let long = "y".repeat(3 * RECORD_BYTES_MAX);
    for text in [format!("k,v\na,1\n{long}"), format!("k,v\na,1\n\"{long}\n")] {
        for message in plain_and_chunked_errors(text.as_bytes()) {
            assert!(message.starts_with("line 3: a record of more than"), "{message}");
        }
    }
}

/// By line, the second chunk would see a row that is not there.
#[test]
fn an_error_seen_through_quotes_is_not_reported() {
    let text = format!("k,v\n\"{}\",1\n", "no number\n".repeat(20));
    agrees(text.as_bytes(), &["k"], &["v"]).unwrap();
    let file = file(text.as_bytes());
    let job = open(&file, 20, &request(&["k"], &["v"])).unwrap();
    let chunk = job.chunks().get(3).unwrap();
    let scan = job.scanner().scan(chunk, &mut job.no_groups());
    assert_eq!(scan, Ok(Scan::Quoted));
}

#[test]
fn a_file_that_is_cut_short_meanwhile_is_an_error() {
    let file = file("k,v\n".repeat(100).as_bytes());
    let job = open(&file, 10, &request(&["k"], &[])).unwrap();
    file.as_file().set_len(200).unwrap();
    let scan = job.scanner().scan(job.chunks().get(30).unwrap(), &mut job.no_groups());
    assert_eq!(scan, Err(ScanError::Changed));
    assert!(plain_groups(&job).is_err());
    assert!(matches!(
        Job::attach(&job.plan().encode(), None),
        Err(AggError::Scan { error: ScanError::Changed, .. })
    ));
}

#[test]
fn a_worker_sees_the_job_that_the_leader_planned() {
    let file = file(b"k,v\n\"a\nb\",1\nb,2\n");
    let mut job = open(&file, 4, &request(&["k"], &["v"])).unwrap();
    job.cut_exactly(&Interrupt::never()).unwrap();
    let edges: Vec<_> =
        job.chunks().iter().map(|chunk| chunk.start).chain([job.plan().file_bytes()]).collect();
    let worker = Job::attach(&job.plan().encode(), Some(edges.clone())).unwrap();
    assert_eq!(worker.chunks(), job.chunks());
    assert_eq!(plain_groups(&worker).unwrap(), plain_groups(&job).unwrap());
    for wrong in [vec![], vec![4], edges[1..].to_vec(), [&edges[..], &edges[..]].concat()] {
        assert!(Job::attach(&job.plan().encode(), Some(wrong)).is_err());
    }
}
