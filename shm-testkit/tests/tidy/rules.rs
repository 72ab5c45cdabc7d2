//! The rules. Each says in its finding what to do.
use crate::source::{Finding, Source, has_word};
use std::collections::BTreeSet;

/// Every rule that looks at one file alone.
pub(crate) const ALL: &[fn(&Source) -> Vec<Finding>] = &[
    long_lines,
    long_functions,
    long_files,
    unfinished,
    foreign_atomics,
    sequential_consistency,
    unpaired_orderings,
    modules_without_a_line,
    machine_paths,
    unchecked_sharing,
    own_depths,
];

const WIDTH_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 69;
const FILE_LINES_MAX: usize = 700;
/// How far above an ordering its comment may stand.
const PAIRING_LINES: usize = 8;
const SHIM: &str = "shm-core/src/sync/";
/// What runs orderings, but has none of its own.
const ENGINES: &[&str] = &[SHIM, "shm-testkit/src/model/"];

pub(crate) fn long_lines(source: &Source) -> Vec<Finding> {
    source.find_lines(|_, line| {
        let width = line.raw.chars().count();
        // A row of a table cannot be broken.
        let is_row = line.comment.trim_start_matches(['/', '!', ' ']).starts_with('|');
        (width > WIDTH_MAX && !is_row).then(|| format!("{width} columns, at most {WIDTH_MAX}"))
    })
}

pub(crate) fn long_files(source: &Source) -> Vec<Finding> {
    let count = source.lines.len();
    let what = format!("{count} lines, at most {FILE_LINES_MAX}: split the file");
    (count > FILE_LINES_MAX).then(|| source.finding(0, what)).into_iter().collect()
}

pub(crate) fn long_functions(source: &Source) -> Vec<Finding> {
    source.find_lines(|first, line| {
        let name = function_name(&line.code)?;
        let lines = function_end(source, first)? - first + 1;
        (lines > FUNCTION_LINES_MAX)
            .then(|| format!("fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"))
    })
}

/// The name of the function that begins on this line.
fn function_name(code: &str) -> Option<&str> {
    let (before, rest) = code.split_once("fn ")?;
    let is_word = before.is_empty() || before.ends_with([' ', '(']);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (is_word && end > 0).then(|| &rest[..end])
}

/// The last line of the body that follows line `first`; none for a declaration.
fn function_end(source: &Source, first: usize) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (index, line) in source.lines.iter().enumerate().skip(first) {
        let start = if index == first { line.code.find("fn ")? } else { 0 };
        for c in line.code[start..].chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                '{' => braces += 1,
                '}' => braces -= 1,
                ';' if braces == 0 && brackets == 0 => return None,
                _ => continue,
            }
            if c == '}' && braces == 0 {
                return Some(index);
            }
        }
    }
    None
}

pub(crate) fn unfinished(source: &Source) -> Vec<Finding> {
    source.find_lines(|_, line| {
        let marks = ["TODO", "FIXME", "XXX"];
        let mark = marks.iter().find(|m| has_word(&line.code, m) || has_word(&line.comment, m));
        let macros = ["todo!", "unimplemented!", "dbg!"];
        let found = mark.or_else(|| macros.iter().find(|m| line.code.contains(**m)))?;
        Some(format!("`{found}`: finish it, or write an issue"))
    })
}

pub(crate) fn foreign_atomics(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    if path.starts_with(SHIM)
        || path.starts_with("shm-testkit/")
        || path.starts_with("benches/")
        || path == "relptr/src/atomic.rs"
        || path == "relptr/src/region.rs"
        || path == CHECKED_SHARING
    {
        return Vec::new();
    }
    source.find_lines(|i, line| {
        let code = line.code.as_str();
        let named = ["core::", "std::", "loom::"].iter().any(|root| {
            code.contains(&format!("{root}sync::atomic"))
                || code.contains(&format!("{root}sync::{{")) && has_word(code, "atomic")
        });
        let private = source.comment_near(i, 1, "private:");
        (named && !private && !source.is_test(i)).then(|| {
            "atomics come from shm_core::sync; where no other process sees them, say `// private:`"
                .to_owned()
        })
    })
}

/// Where store-then-load is ordered, on both sides.
const FENCES: &[&str] = &[
    "shm-core/src/event.rs",
    "shm-core/src/hazard/fence.rs",
    "shm-core/src/hazard/fence_modelled.rs",
];

/// Where shuttle's words are, which know no other ordering.
const SAMPLED: &str = "shm-testkit/src/model/";

pub(crate) fn sequential_consistency(source: &Source) -> Vec<Finding> {
    if source.path.starts_with(SAMPLED) {
        return Vec::new();
    }
    source.find_lines(|_, line| {
        let fenced = FENCES.contains(&source.path.as_str())
            && line.code.contains("fence(Ordering::SeqCst)")
            && line.code.matches("SeqCst").count() == 1;
        (has_word(&line.code, "SeqCst") && !fenced)
            .then(|| format!("SeqCst: only as a fence, in {}", FENCES.join(", ")))
    })
}

pub(crate) fn unpaired_orderings(source: &Source) -> Vec<Finding> {
    let is_engine = ENGINES.iter().any(|path| source.path.starts_with(path));
    if !source.path.contains("/src/") || is_engine {
        return Vec::new();
    }
    source.find_lines(|i, line| {
        let order = ["Acquire", "Release", "AcqRel"].into_iter().find(|o| orders(&line.code, o))?;
        if line.code.trim_start().starts_with("use ") || source.is_test(i) {
            return None;
        }
        let told = source.comment_near(i, PAIRING_LINES, "airs with");
        let private = source.comment_near(i, 1, "private:");
        (!told && !private).then(|| {
            format!("{order}: `// Pairs with …` on this line or the {PAIRING_LINES} above it")
        })
    })
}

/// Whether `order` stands in `code` alone or as `Ordering::order`, not as a member of another type.
fn orders(code: &str, order: &str) -> bool {
    let foreign = |at: usize| code[..at].ends_with("::") && !code[..at].ends_with("Ordering::");
    has_word(code, order) && code.match_indices(order).any(|(at, _)| !foreign(at))
}

pub(crate) fn modules_without_a_line(source: &Source) -> Vec<Finding> {
    if !source.path.ends_with("src/lib.rs") {
        return Vec::new();
    }
    source.find_lines(|i, line| {
        if !line.code.starts_with("pub mod ") {
            return None;
        }
        let above = source.lines[..i].iter().rev().find(|line| !line.code.starts_with("#["));
        let told = above.is_some_and(|line| line.raw.starts_with("//"));
        (!told).then(|| "a public module needs a line of purpose above".to_owned())
    })
}

pub(crate) fn machine_paths(source: &Source) -> Vec<Finding> {
    // Not whole, or this file would be found.
    let roots = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    let inside_path = |c: char| c.is_alphanumeric() || "._-*})/".contains(c);
    source.find_lines(|_, line| {
        let absolute = |root: &&&str| {
            line.raw.match_indices(**root).any(|(at, _)| !line.raw[..at].ends_with(inside_path))
        };
        let root = roots.iter().find(absolute)?;
        Some(format!("`{root}` is a path of one machine"))
    })
}

/// Where `shm_sync!` is, which checks what it implements `ShmSync` for.
const CHECKED_SHARING: &str = "relptr/src/share.rs";
/// A word of payload, which is no atomic.
const PAYLOAD: &str = "shm-core/src/bytes/";

pub(crate) fn unchecked_sharing(source: &Source) -> Vec<Finding> {
    let path = source.path.as_str();
    if !path.contains("/src/") || path == CHECKED_SHARING || path.starts_with(PAYLOAD) {
        return Vec::new();
    }
    source.find_lines(|_, line| {
        let code = line.code.trim_start();
        let by_hand = code.starts_with("unsafe impl ") && code.contains("ShmSync for ");
        // The macro cannot name the fields of a generic struct.
        let generic = code.starts_with("unsafe impl<");
        (by_hand && !generic).then(|| "`shm_sync!` checks that there is no padding".to_owned())
    })
}

/// Files below a `src` directory to which no `mod` leads.
pub(crate) fn unreachable_files(sources: &[Source]) -> Vec<Finding> {
    let in_src = |source: &&Source| source.path.contains("/src/");
    let is_start = |path: &str| {
        let (_, name) = path.split_once("/src/").unwrap_or_default();
        name == "lib.rs" || name == "main.rs" || name.starts_with("bin/")
    };
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> =
        sources.iter().map(|s| s.path.clone()).filter(|path| is_start(path)).collect();
    while let Some(path) = next.pop() {
        let Some(source) = sources.iter().find(|source| source.path == path) else { continue };
        if reached.insert(path) {
            next.extend(modules_of(source));
        }
    }
    let lost = sources.iter().filter(in_src).filter(|source| !reached.contains(&source.path));
    lost.map(|source| source.finding(0, "no `mod` leads here: nobody compiles it")).collect()
}

/// Where the files of the modules that `source` declares may be.
fn modules_of(source: &Source) -> Vec<String> {
    let (directory, file) = source.path.rsplit_once('/').unwrap_or_default();
    let own = match file {
        "lib.rs" | "main.rs" | "mod.rs" => directory.to_owned(),
        _ => source.path.trim_end_matches(".rs").to_owned(),
    };
    let mut paths = Vec::new();
    for (i, line) in source.lines.iter().enumerate() {
        let Some(name) = declared_module(&line.code) else { continue };
        let attributes = source.lines[..i].iter().rev().take_while(|l| l.code.starts_with("#["));
        let with_path = attributes.filter(|l| l.raw.contains("path = \"")).collect::<Vec<_>>();
        // Under a `cfg_attr` all these files are the module, each in its build.
        paths.extend(with_path.iter().filter_map(|l| {
            Some(format!("{directory}/{}", l.raw.split("path = \"").nth(1)?.split('"').next()?))
        }));
        if with_path.iter().all(|l| l.code.contains("cfg_attr")) {
            paths.extend([format!("{own}/{name}.rs"), format!("{own}/{name}/mod.rs")]);
        }
    }
    paths
}

/// `name` in `mod name;`, whatever its visibility.
fn declared_module(code: &str) -> Option<&str> {
    let (before, rest) = code.trim().split_once("mod ")?;
    let visible = before.is_empty() || before.starts_with("pub");
    rest.strip_suffix(';').filter(|_| visible)
}

/// Where it is said how much a deep run tries.
const DEPTH: &str = "shm-testkit/src/depth.rs";
/// So far below the beginning of properties stands how many cases of each are tried.
const CONFIG_LINES: usize = 3;

/// Properties and others that say for themselves how deep a run is.
pub(crate) fn own_depths(source: &Source) -> Vec<Finding> {
    if source.path == DEPTH || source.path.starts_with("shm-testkit/tests/tidy/") {
        return Vec::new();
    }
    source.find_lines(|at, line| {
        if line.raw.contains("\"SHM_DEEP\"") {
            return Some("ask `shm_testkit::depth::is_deep`".to_owned());
        }
        let config = source.lines.iter().skip(at).take(CONFIG_LINES + 1);
        let asks = |code: &str| code.contains("(cases(") || code.contains(": cases(");
        let is_told = config.map(|line| line.code.as_str()).any(asks);
        (line.code.trim_start().starts_with("proptest! {") && !is_told)
            .then(|| "properties try `shm_testkit::depth::cases` of so many cases".to_owned())
    })
}
