//! What can be counted about the style, over every Rust file of the workspace.
//!
//! Each rule is a function from a source text to findings; `tidy/planted.rs` shows that each one
//! finds what it is for. All findings are reported at once.
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/figures.rs"]
mod figures;
#[path = "tidy/operations.rs"]
mod operations;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use source::{Finding, Source};
use std::fs;
use std::path::{Path, PathBuf};

/// Kinds of text besides Rust that must not name the machine they were written on.
const OTHER_TEXTS: &[&str] = &["md", "toml", "sh", "run"];

#[test]
fn the_workspace_is_tidy() {
    let root = workspace_root();
    let (mut rust, mut others) = (Vec::new(), Vec::new());
    for path in files_below(&root) {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        let kind = name.rsplit(['.', '/']).next().unwrap_or_default();
        let texts = match kind {
            "rs" => &mut rust,
            other if OTHER_TEXTS.contains(&other) => &mut others,
            _ => continue,
        };
        texts.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
    }
    assert!(rust.len() > 10, "found only {} Rust files below {}", rust.len(), root.display());
    let mut findings: Vec<Finding> =
        rust.iter().flat_map(|source| rules::ALL.iter().flat_map(|rule| rule(source))).collect();
    findings.extend(others.iter().flat_map(rules::machine_paths));
    findings.extend(rules::unreachable_files(&rust));
    findings.extend(operations::never_killed(&rust));
    let document = others.iter().find(|text| text.path == documents::LAYOUT);
    let document = document.expect(documents::LAYOUT);
    findings.extend(documents::undocumented_layouts(document, &rust));
    let document = others.iter().find(|text| text.path == figures::DOCUMENT);
    findings.extend(figures::stale(document.expect(figures::DOCUMENT), &rust));
    findings.extend(others.iter().flat_map(|text| documents::lost_names(text, &rust)));
    findings.sort();
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
    println!("{} Rust files, {} other texts", rust.len(), others.len());
}

fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |dir: &&Path| {
        fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]\n"))
    };
    here.ancestors().find(is_root).expect("a workspace around this crate").to_owned()
}

/// All files but those of builds and of git.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_file() {
                files.push(entry.path());
            } else if !name.starts_with("target") && name != ".git" {
                directories.push(entry.path());
            }
        }
    }
    files
}
