//! Every public operation that changes shared state is killed by some crash test.
//!
//! Such an operation says in its documentation what happens if a process dies in it; a crash test
//! names what it covers. This holds the two lists against each other.
use crate::source::{Finding, Source, part_of_word};

/// The heading of that section.
const SECTION: &str = "/// # If a process dies here";

/// The crates whose operations are killed at every instruction, by their directories.
const KILLED: [&str; 4] = ["relptr", "shm-core", "dsm", "shm-mq"];

/// A function with that section.
struct Operation {
    line: usize,
    /// `type::function`, or the function alone outside of an `impl`.
    name: String,
}

pub(crate) fn never_killed(rust: &[Source]) -> Vec<Finding> {
    let tests: Vec<&Source> = rust.iter().filter(|source| is_crash_test(&source.path)).collect();
    let shipped = rust.iter().filter(|source| source.path.contains("/src/"));
    let of_killed = shipped.filter(|source| KILLED.contains(&directory(source)));
    of_killed.flat_map(|source| never_killed_in(source, &tests)).collect()
}

fn never_killed_in(source: &Source, tests: &[&Source]) -> Vec<Finding> {
    let from = format!("\"{}::", directory(source).replace('-', "_"));
    let operations = (0..source.lines.len()).filter_map(|at| operation(source, at));
    let missing = operations.filter(|operation| {
        let to = format!("{}\"", operation.name);
        !tests.iter().any(|test| test.lines.iter().any(|line| names(&line.raw, &from, &to)))
    });
    let say = |operation: Operation| {
        let name = operation.name;
        let what = format!("no crash test (tests/crash_*.rs) names {from}…{name}\"");
        source.finding(operation.line, what)
    };
    missing.map(say).collect()
}

/// Whether a string in `line` begins with `from` and ends with `to`, at the start of a word.
fn names(line: &str, from: &str, to: &str) -> bool {
    line.match_indices(from).any(|(at, _)| {
        let text = &line[at + 1..];
        let end = text.find('"').map_or(text.len(), |end| end + 1);
        let before = text[..end].strip_suffix(to);
        before.is_some_and(|before| !before.ends_with(part_of_word))
    })
}

fn is_crash_test(path: &str) -> bool {
    path.split_once("/tests/").is_some_and(|(_, file)| file.starts_with("crash_"))
}

fn directory(source: &Source) -> &str {
    source.path.split('/').next().unwrap_or_default()
}

/// The function that the section on line `at` documents, if it is a function's.
fn operation(source: &Source, at: usize) -> Option<Operation> {
    if source.lines[at].raw.trim() != SECTION {
        return None;
    }
    let item = source.lines[at..].iter().find(|line| {
        let code = line.code.trim();
        !code.is_empty() && !code.starts_with("#[")
    })?;
    let function = item.code.split_once("fn ")?.1;
    let function = function.split(|c| !part_of_word(c)).next()?;
    let name = match implemented(source, at) {
        Some(of) => format!("{of}::{function}"),
        None => function.to_owned(),
    };
    Some(Operation { line: at, name })
}

/// The type of the `impl` around line `at`; a macro's parameter is any type.
fn implemented(source: &Source, at: usize) -> Option<&str> {
    let above = source.lines[..at].iter().rev();
    let mut ends = above.filter(|line| !line.code.is_empty() && !line.code.starts_with([' ', ')']));
    let start = ends.find(|line| !line.code.starts_with(['#', '/']))?.code.strip_prefix("impl")?;
    let of = start.rsplit_once(" for ").map_or(start, |(_, of)| of);
    let of = if of.starts_with('<') { of.split_once("> ")?.1 } else { of };
    of.trim_start().split(|c| !part_of_word(c)).next()
}

const PLANTED: &str = "
impl<'a, O: Objects> Actor<'a, O> {
    /// Takes it.
    ///
    /// # If a process dies here
    /// Nothing.
    #[inline]
    pub fn claim(&self) {}
}
impl Drop for Member {
    /// # If a process dies here
    /// Nothing.
    fn drop(&mut self) {}
}
/// Waits.
///
/// # If a process dies here
/// Nothing.
pub fn wait(
    word: u32,
) {
}
/// # If a process dies here
/// It depends.
pub struct Sender {}
";

#[test]
fn operations_that_are_never_killed_are_found() {
    let found = |test: &str| {
        let library = Source::new("shm-core/src/a.rs", PLANTED);
        let test = Source::new("shm-mq/tests/crash_a.rs", test);
        let found = never_killed(&[library, test]).into_iter();
        found.map(|finding| finding.line).collect::<Vec<_>>()
    };
    let all = "[\"shm_core::a::Actor::claim\", \"shm_core::Member::drop\", \"shm_core::wait\"]";
    assert_eq!(found(all), [0; 0]);
    assert_eq!(found(""), [5, 11, 17]);
    assert_eq!(found(&all.replace("Actor", "Factor")), [5], "another type");
    assert_eq!(found(&all.replace("shm_core::wait", "dsm::wait")), [17], "another crate");
    assert_eq!(found(&all.replace("::wait", "::await")), [17], "another function");
}
