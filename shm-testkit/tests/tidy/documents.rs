//! The documents say what the sources say. Of each shared struct: every field, in order, and every
//! size and offset that the source asserts. And the tests they name are there.
use crate::source::{Finding, Source, part_of_word};
use std::collections::BTreeSet;

pub(crate) const LAYOUT: &str = "docs/layout.md";

/// A row of a section's table.
struct Row<'a> {
    line: usize,
    offset: u64,
    size: u64,
    field: &'a str,
}

pub(crate) fn undocumented_layouts(document: &Source, rust: &[Source]) -> Vec<Finding> {
    let is_shared = |source: &&Source| {
        let shares = source.lines.iter().any(|line| line.code.contains("shm_sync!("));
        source.path.contains("/src/") && shares && !source.path.ends_with("modelled.rs")
    };
    rust.iter().filter(is_shared).flat_map(|source| findings(document, source)).collect()
}

fn findings(document: &Source, source: &Source) -> Vec<Finding> {
    let lines = 0..source.lines.len();
    let structs = lines.filter_map(|i| Some((i, struct_name(source, i)?)));
    structs.flat_map(|(i, name)| section_findings(document, source, i, name)).collect()
}

fn section_findings(document: &Source, source: &Source, i: usize, name: &str) -> Vec<Finding> {
    let heading = format!("### `{name}` in `{}`, ", source.path);
    let Some(at) = document.lines.iter().position(|line| line.raw.starts_with(&heading)) else {
        return vec![source.finding(i, format!("{LAYOUT} has no section `{heading}N bytes`"))];
    };
    let size = document.lines[at].raw[heading.len()..].split(' ').next();
    let (size, rows) = (size.and_then(|size| size.parse().ok()), rows(document, at + 1));
    let listed: Vec<&str> = rows.iter().map(|row| row.field).collect();
    let mut all = Vec::new();
    if listed != fields(source, i) {
        all.push(document.finding(at, format!("the fields are {:?}", fields(source, i))));
    }
    let mut end = 0;
    for row in &rows {
        if row.offset != end {
            all.push(document.finding(row.line, format!("this should be at {end}")));
        }
        end = row.offset + row.size;
    }
    if size != Some(end) {
        all.push(document.finding(at, format!("its rows end at {end}")));
    }
    let offsets = rows.iter().map(|row| (row.field, row.offset));
    let offsets = offsets.map(|(field, at)| (format!("offset_of!({name}, {field})"), Some(at)));
    for (what, documented) in offsets.chain([(format!("size_of::<{name}>()"), size)]) {
        if let Some((i, asserted)) = asserted(source, &what)
            && documented != Some(asserted)
        {
            all.push(source.finding(i, format!("{LAYOUT} says another {what}")));
        }
    }
    all
}

/// The struct that begins at line `i`, if its layout is fixed.
fn struct_name(source: &Source, i: usize) -> Option<&str> {
    let code = source.lines[i].code.as_str();
    let name = code.split_once("struct ")?.1.strip_suffix(" {")?;
    let above = source.lines[..i].iter().rev();
    let mut attributes = above.take_while(|line| line.code.starts_with("#["));
    attributes.any(|line| line.code.starts_with("#[repr(C")).then_some(name)
}

fn fields(source: &Source, first: usize) -> Vec<&str> {
    let body = source.lines[first + 1..].iter().take_while(|line| line.code != "}");
    let names = body.filter_map(|line| line.code.split_once(": ")?.0.split(' ').next_back());
    names.collect()
}

fn rows(document: &Source, first: usize) -> Vec<Row<'_>> {
    let lines = document.lines.iter().enumerate().skip(first);
    let section = lines.take_while(|(_, line)| !line.raw.starts_with('#'));
    section.filter_map(|(i, line)| row(i, &line.raw)).collect()
}

fn row(line: usize, text: &str) -> Option<Row<'_>> {
    let mut cells = text.strip_prefix("| ")?.split(" | ");
    let (offset, size) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
    let field = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    Some(Row { line, offset, size, field })
}

/// The line and the number N of `what == N`.
fn asserted(source: &Source, what: &str) -> Option<(usize, u64)> {
    source.lines.iter().enumerate().find_map(|(i, line)| {
        let number = line.code.split_once(what)?.1.strip_prefix(" == ")?;
        let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        Some((i, number[..end].parse().ok()?))
    })
}

/// Names of tests and of test files that a document in `docs/` gives and that are not there.
pub(crate) fn lost_names(document: &Source, rust: &[Source]) -> Vec<Finding> {
    if !document.path.starts_with("docs/") {
        return Vec::new();
    }
    let known: BTreeSet<&str> = rust.iter().flat_map(names_in).collect();
    let mut all = Vec::new();
    for (i, line) in document.lines.iter().enumerate() {
        let quoted = line.raw.split('`').skip(1).step_by(2).flat_map(|text| text.split("::"));
        // Three words at least: shorter ones are fields and modules.
        let names = quoted.filter(|name| name.matches('_').count() > 1);
        let names = names.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        let lost = names.filter(|name| !known.contains(name));
        all.extend(lost.map(|name| document.finding(i, format!("there is no test `{name}`"))));
    }
    all
}

/// The functions of a file, and the file.
fn names_in(source: &Source) -> impl Iterator<Item = &str> {
    let after = source.lines.iter().flat_map(|line| line.code.split("fn ").skip(1));
    let functions = after.filter_map(|rest| rest.split(|c| !part_of_word(c)).next());
    functions.chain(source.path.rsplit('/').next().and_then(|file| file.strip_suffix(".rs")))
}

#[test]
fn lost_names_are_found() {
    let known = Source::new("a/tests/proc_a_b.rs", "fn it_is_there() {}\n");
    let lost =
        |text| lost_names(&Source::new("docs/a.md", text), std::slice::from_ref(&known)).len();
    assert_eq!(
        lost("`proc_a_b::it_is_there`, `::it_is_there`, `proc_a_b`, `a_field`, it_is_not"),
        0
    );
    assert_eq!(lost("`proc_a_b::it_is_not`\n`it_was_there`"), 2);
}

const SHARED: &str = "
#[repr(C, align(16))]
pub(super) struct Word {
    /// Why.
    pub(super) state: AtomicU64,
    owner: AtomicU32,
    reserved: AtomicU32,
}
const _: () = {
    assert!(size_of::<Word>() == 16);
    assert!(offset_of!(Word, state) == 0 && offset_of!(Word, owner) == 8);
};
shm_sync!(Word { state, owner });
";

const SECTION: &str = "
### `Word` in `a/src/shared.rs`, 16 bytes

| offset | size | field | meaning |
| --- | --- | --- | --- |
| 0 | 8 | `state` | |
| 8 | 4 | `owner` | |
| 12 | 4 | `reserved` | |
";

fn findings_of(document: &str, shared: &str) -> usize {
    let shared = Source::new("a/src/shared.rs", shared);
    undocumented_layouts(&Source::new(LAYOUT, document), &[shared]).len()
}

#[test]
fn undocumented_layouts_are_found() {
    assert_eq!(findings_of(SECTION, SHARED), 0);
    assert_eq!(findings_of("", SHARED), 1, "no section");
    for (from, to) in
        [("owner:", "holder:"), ("state) == 0", "state) == 4"), (">() == 16", ">() == 24")]
    {
        let changed = SHARED.replace(from, to);
        assert!(changed != SHARED && findings_of(SECTION, &changed) == 1, "{from} to {to}");
    }
    for (from, to) in [("| 8 | 4 |", "| 8 | 2 |"), ("| 12 | 4 |", "| 12 | 8 |")] {
        let changed = SECTION.replace(from, to);
        assert!(changed != SECTION && findings_of(&changed, SHARED) == 1, "{from} to {to}");
    }
}
