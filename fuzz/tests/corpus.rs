//! Replays, without a fuzzer, what fuzzers found worth keeping: `corpus/TARGET/`.
use fuzz::{INPUT_BYTES_MAX, TARGETS};
use shm_testkit::liar::Trials;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let entries = fs::read_dir(&directory);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn the_corpus_does_no_harm() {
    for (target, run) in TARGETS {
        let trials = Trials::new(target, LIMIT);
        let inputs = files(&format!("corpus/{target}"));
        assert!(inputs.len() >= 5, "{target} has {} inputs", inputs.len());
        for path in inputs.iter() {
            let bytes = fs::read(path).unwrap();
            assert!(bytes.len() <= INPUT_BYTES_MAX, "{} is too long", path.display());
            println!("{}", path.display());
            trials.call(0, "the input named last", || run(&bytes));
        }
        trials.finish();
    }
}

/// One kind of name for three things.
#[test]
fn every_target_has_a_binary_and_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let binaries: BTreeSet<_> = files("fuzz_targets").iter().map(|path| name(path)).collect();
    let corpora: BTreeSet<_> = files("corpus").iter().map(|path| name(path)).collect();
    assert_eq!(targets, binaries);
    assert_eq!(targets, corpora);
}
