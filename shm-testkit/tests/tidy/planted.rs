//! Every rule finds what is planted for it, and lets the right form pass.
use crate::rules;
use crate::source::{Finding, Source};

/// The lines at which `rule` finds something.
fn found(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
}

const NONE: [usize; 0] = [];
const LIBRARY: &str = "shm-mq/src/stream/sender.rs";

fn body(lines: usize) -> String {
    format!("pub fn f(a: [u8; 2]) -> u8 {{\n{}}}\n", "    g();\n".repeat(lines))
}

#[test]
fn long_lines_are_found() {
    let text = format!("{}\n{}\n", "ä".repeat(100), "b".repeat(101));
    assert_eq!(found(rules::long_lines, LIBRARY, &text), [2]);
    let comments = format!("//! | field | {0} |\n    /// | {0} |\n/// {0}\n", "c".repeat(100));
    assert_eq!(found(rules::long_lines, LIBRARY, &comments), [3]);
}

#[test]
fn long_functions_are_found() {
    assert_eq!(found(rules::long_functions, LIBRARY, &body(67)), NONE);
    assert_eq!(found(rules::long_functions, LIBRARY, &format!("\n{}", body(68))), [2]);
    let declared = format!("trait T {{\n    fn f(a: [u8; 2]);\n}}\n{}", "\n".repeat(100));
    assert_eq!(found(rules::long_functions, LIBRARY, &declared), NONE);
    let braces =
        format!("{}fn next() {{}}\n{}", "fn f() { g('{', \"{\"); } // {\n", "\n".repeat(80));
    assert_eq!(found(rules::long_functions, LIBRARY, &braces), NONE);
}

#[test]
fn long_files_are_found() {
    assert_eq!(found(rules::long_files, LIBRARY, &"\n".repeat(700)), NONE);
    assert_eq!(found(rules::long_files, LIBRARY, &"\n".repeat(701)), [1]);
}

#[test]
fn unfinished_work_is_found() {
    let text =
        "todo!()\n// FIXME: later\nlet XXXL = 1;\n/* a\n TODO */\nlet s = \"TODO\";\ndbg!(x)";
    assert_eq!(found(rules::unfinished, LIBRARY, text), [1, 2, 5, 7]);
}

#[test]
fn unchecked_sharing_is_found() {
    let rule = rules::unchecked_sharing;
    let text = "unsafe impl ShmSync for A {}\nunsafe impl shm_core::ShmSync for B {}\n";
    assert_eq!(found(rule, LIBRARY, text), [1, 2]);
    assert_eq!(found(rule, "shm-mq/tests/loom_stream.rs", text), NONE);
    let checked = "unsafe impl<T> ShmSync for A<T> {}\nshm_sync!(B { word });\n";
    assert_eq!(found(rule, LIBRARY, checked), NONE);
}

#[test]
fn foreign_atomics_are_found() {
    let rule = rules::foreign_atomics;
    let text = "use core::sync::atomic::AtomicU32;\nuse std::sync::{Arc, atomic::AtomicU8};\n";
    assert_eq!(found(rule, LIBRARY, text), [1, 2]);
    assert_eq!(found(rule, "shm-core/src/sync/real.rs", text), NONE);
    assert_eq!(found(rule, "dsm/tests/proc_control.rs", text), NONE);
    assert_eq!(found(rule, LIBRARY, &format!("#[cfg(test)]\nmod tests {{\n{text}}}")), NONE);
    let private = "// private: a counter of this process\nuse std::sync::atomic::AtomicU64;\n";
    assert_eq!(found(rule, LIBRARY, private), NONE);
    assert_eq!(found(rule, LIBRARY, "//! Not `core::sync::atomic`.\nuse std::sync::Arc;\n"), NONE);
}

#[test]
fn sequential_consistency_is_found() {
    let rule = rules::sequential_consistency;
    let text = "fence(Ordering::SeqCst);\nx.load(SeqCst); // SeqCst\n// not SeqCst\n";
    assert_eq!(found(rule, "shm-core/src/event.rs", text), [2]);
    assert_eq!(found(rule, LIBRARY, text), [1, 2]);
}

#[test]
fn unpaired_orderings_are_found() {
    let rule = rules::unpaired_orderings;
    let load = "    x.load(Ordering::Acquire);\n";
    let paired = format!("// Pairs with the Release in f.\n{}{load}", "\n".repeat(7));
    assert_eq!(found(rule, LIBRARY, &paired), NONE);
    assert_eq!(found(rule, LIBRARY, &format!("{paired}{load}")), [10]);
    assert_eq!(found(rule, LIBRARY, "x.store(1, Release); // pairs with f\n"), NONE);
    assert_eq!(found(rule, LIBRARY, "x.swap(1, AcqRel)\n"), [1]);
    assert_eq!(
        found(rule, LIBRARY, "use sync::Ordering::Acquire;\nlet k = Kind::Release;\n"),
        NONE
    );
    assert_eq!(found(rule, "shm-mq/tests/stress_stream.rs", load), NONE);
    assert_eq!(found(rule, "shm-core/src/process/modelled.rs", load), NONE);
    assert_eq!(found(rule, "shm-core/src/sync/model.rs", load), NONE);
}

#[test]
fn modules_without_a_line_are_found() {
    let text = "/// Told.\n#[cfg(unix)]\npub mod a;\npub mod b;\nmod c;\n";
    assert_eq!(found(rules::modules_without_a_line, "dsm/src/lib.rs", text), [4]);
}

#[test]
fn machine_paths_are_found() {
    let text = format!("let a = \"/{}/x\";\n// shm-mq/src/{0}/mod.rs\n/// `/{}/x`", "work", "root");
    assert_eq!(found(rules::machine_paths, LIBRARY, &text), [1, 3]);
}

#[test]
fn unreachable_files_are_found() {
    let files = [
        ("a/src/lib.rs", "/// One.\npub mod one;\n#[cfg(x)]\n#[path = \"other.rs\"]\nmod real;\n"),
        ("a/src/one/mod.rs", "pub(crate) mod two;\n// mod comment;\n"),
        (
            "a/src/one/two.rs",
            "mod three;\n#[cfg_attr(m, path = \"m.rs\")]\n\
             #[cfg_attr(n, path = \"n.rs\")]\nmod four;",
        ),
        ("a/src/one/two/three.rs", ""),
        ("a/src/one/two/four.rs", ""),
        ("a/src/one/m.rs", ""),
        ("a/src/one/n.rs", ""),
        ("a/src/other.rs", ""),
        ("a/src/real.rs", ""),
        ("a/src/one/comment.rs", ""),
        ("a/src/bin/tool.rs", ""),
        ("a/tests/test.rs", ""),
    ];
    let sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let lost = rules::unreachable_files(&sources);
    let lost: Vec<&str> = lost.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(lost, ["a/src/real.rs", "a/src/one/comment.rs"]);
}

#[test]
fn code_comments_and_strings_are_told_apart() {
    let text = r####"a("//", 'x', '\'', b"\"", r#"" //"#, 'life) // one /* two
/* three /* nested */ still */ code "over
lines" r#type br"\" b'"' end // four"####;
    let source = Source::new(LIBRARY, text);
    let code: Vec<&str> = source.lines.iter().map(|line| line.code.as_str()).collect();
    let expected = [r#"a("", ", ", b"", "", 'life) "#, r#" code ""#, r#"" r#type b"" b" end "#];
    assert_eq!(code, expected);
    let comments: Vec<&str> = source.lines.iter().map(|line| line.comment.trim()).collect();
    assert_eq!(comments[0], "one /* two");
    assert_eq!(comments[2], "four");
}

#[test]
fn depths_of_their_own_are_found() {
    let rule = rules::own_depths;
    let text = "if std::env::var(\"SHM_DEEP\").is_ok() {}\n// SHM_DEEP=1\n";
    assert_eq!(found(rule, LIBRARY, text), [1]);
    assert_eq!(found(rule, "shm-testkit/src/depth.rs", text), NONE);
    let properties = |config| format!("proptest! {{\n    #![proptest_config({config})]\n}}\n");
    assert_eq!(found(rule, LIBRARY, "proptest! {\n    #[test]\n"), [1]);
    assert_eq!(found(rule, LIBRARY, &properties("ProptestConfig::with_cases(100)")), [1]);
    assert_eq!(found(rule, LIBRARY, &properties("ProptestConfig::with_cases(cases(100))")), NONE);
}
