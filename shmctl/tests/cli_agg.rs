//! `shmctl agg` as a user meets it: the built binary, its exit codes, and what it prints.
//!
//! Whatever is wrong, there is one line on standard error that names cause and remedy, nothing on
//! standard output, and exit code 2.

use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn shmctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmctl"));
    command.arg("agg").args(arguments).stdin(Stdio::null());
    command
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        text_of(path)
    }
}

fn text_of(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

/// The one line of complaint, without the `shmctl: ` that it begins with.
#[track_caller]
fn complaint(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {stderr}") };
    line.strip_prefix("shmctl: ").expect(line).to_owned()
}

#[track_caller]
fn refused(arguments: &[&str], cause: &str, remedy: &str) {
    let complaint = complaint(&shmctl(arguments).output().unwrap(), 2);
    assert!(complaint.contains(cause), "{complaint:?} does not name {cause:?}");
    assert!(complaint.contains(remedy), "{complaint:?} does not name {remedy:?}");
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = shmctl(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_missing_file_is_refused() {
    refused(&["/nowhere/x.csv", "--plain"], "/nowhere/x.csv: no such file", "check the path");
}

#[test]
fn an_empty_file_is_refused() {
    let files = Files::new();
    for text in ["", "\n\r\n", "\u{feff}"] {
        let file = files.write("x.csv", text);
        refused(&[&file, "--plain"], "is empty", "a line of column names");
    }
}

#[test]
fn a_directory_is_refused() {
    let files = Files::new();
    let path = text_of(files.path().to_owned());
    refused(&[&path, "--plain"], "is a directory", "name a CSV file");
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    refused(&["/dev/null", "--plain"], "not a regular file", "to a file first");
    let files = Files::new();
    let pipe = text_of(files.path().join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&[&pipe, "--plain"], "not a regular file", "to a file first");
}

#[test]
fn an_unreadable_file_is_refused() {
    const NOBODY: u32 = 65534;
    let files = Files::new();
    let file = files.write("x.csv", "a\n1\n");
    std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = shmctl(&[&file, "--plain"]);
    if rustix::process::geteuid().is_root() {
        // Root may read anything.
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    let Ok(output) = command.output() else {
        // Not captured, so that it is seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED an_unreadable_file_is_refused: run as root, and nobody may not run the binary"
        );
        return;
    };
    let complaint = complaint(&output, 2);
    assert!(complaint.contains("may not be read by this user; change its mode"), "{complaint}");
}

#[test]
fn a_file_that_is_not_utf8_is_refused() {
    let files = Files::new();
    let header = files.write("header.csv", b"a\xff\n1\n");
    refused(&[&header, "--plain"], "header line is not UTF-8", "iconv");
    let cell = files.write("cell.csv", b"a,b\nx,1\n\xff,2\n");
    refused(
        &[&cell, "--plain", "--group-by", "a", "--sum", "b"],
        "line 3: the cell in column \"a\" is not UTF-8",
        "iconv",
    );
}

#[test]
fn a_ragged_file_is_refused() {
    let files = Files::new();
    let file = files.write("x.csv", "a,b\n1,2\n\n1,2,3\n");
    refused(&[&file, "--plain"], "line 4: 3 cells where the header has 2", "quote");
}

#[test]
fn a_bad_number_is_refused_with_its_line() {
    let files = Files::new();
    let file = files.write("x.csv", "a,b\n1,2\n1,twelve\n");
    let words = "line 3: column \"b\" holds \"twelve\", which is not a number";
    refused(&[&file, "--plain", "--sum", "b"], words, "such as");
    let file = files.write("x.csv", "a,b\n1,2\n1,99999999999999999999\n");
    refused(&[&file, "--plain", "--max", "b"], "line 3: column \"b\"", "at most");
    // Far behind the first piece that is read, and the first stride.
    let text = "a,b\n".to_owned() + &"1,22222222\n".repeat(500_000) + "1,\u{7}\n";
    let file = files.write("x.csv", text);
    refused(&[&file, "--plain", "--avg", "b"], "line 500002: column \"b\" holds \"\\u{7}\"", "");
}

#[test]
fn an_unknown_column_is_refused() {
    let files = Files::new();
    let file = files.write("x.csv", "a,b\n1,2\n");
    refused(&[&file, "--plain", "--group-by", "c"], "no column \"c\"", "there are: a, b");
    refused(&[&file, "--plain", "--sum", "a,c"], "no column \"c\"", "there are: a, b");
    let file = files.write("x.csv", "a,a\n1,2\n");
    refused(&[&file, "--plain", "--sum", "a"], "several columns are named \"a\"", "rename");
}

#[test]
fn options_out_of_range_are_refused() {
    for workers in ["0", "65", "10000", "99999999999", "two"] {
        refused(&["--workers", workers], workers, "--workers");
    }
    refused(&["--workers", "10000"], "10000 is not in 1..=64", "");
    refused(&["--backend", "floppy"], "floppy", "posix, sysv, mmap, memfd");
    refused(&["--chunk-size", "0"], "'0'", "64K");
    refused(&["--scale", "0"], "0 is not in 1..=10000", "");
    refused(&["--delimiter", "\""], "--delimiter", "one ASCII character");
    refused(&["--nonsense"], "--nonsense", "");
    refused(&["x.csv", "--scale", "3"], "cannot be used with", "");
    let files = Files::new();
    let file = files.write("x.csv", "a\n".repeat(2_000_000));
    refused(&[&file, "--plain", "--chunk-size", "1"], "chunks are more than", "--chunk-size 4");
}

#[test]
fn a_data_directory_that_is_not_there_is_refused() {
    refused(&["--plain", "--data-dir", "/nowhere"], "/nowhere/shmkit-accounts-", "--data-dir");
}

#[test]
fn a_name_that_would_break_the_line_is_escaped() {
    refused(&["/nowhere/\n\u{1b}[31mx", "--plain"], "/nowhere/\\n\\u{1b}[31mx", "check the path");
}

#[test]
fn a_header_alone_is_an_empty_answer() {
    let files = Files::new();
    for text in ["a,b", "a,b\r\n", "\u{feff}a,b\n\n"] {
        let file = files.write("x.csv", text);
        let report = json(&[&file, "--plain", "--group-by", "a", "--sum", "b"]);
        assert_eq!((&report["rows"], &report["groups"]), (&0.into(), &0.into()));
        assert_eq!(report["result"], Value::Array(vec![]));
    }
}

#[test]
fn json_has_every_digit() {
    let files = Files::new();
    let text =
        "k,\"v, w\",x\nb,1.10,\na,18446744073709551615,\na,18446744073709551615,\nb,2.205,\n";
    let file = files.write("x.csv", text);
    let columns = "\"v, w\",x";
    let report = json(&[&file, "--plain", "--group-by", "k", "--sum", columns, "--avg", columns]);
    assert_eq!(report["verified"], Value::Null);
    assert_eq!(report["backend"], Value::Null);
    assert_eq!((&report["rows"], &report["workers"]), (&4.into(), &0.into()));
    assert_eq!(
        report["result"],
        serde_json::json!([
            {
                "group": {"k": "a"},
                "count": 2,
                "sum": {"v, w": "36893488147419103230", "x": null},
                "avg": {"v, w": "18446744073709551615.000000", "x": null},
            },
            {
                "group": {"k": "b"},
                "count": 2,
                "sum": {"v, w": "3.305", "x": null},
                "avg": {"v, w": "1.652500000", "x": null},
            },
        ])
    );
}

#[test]
fn the_table_shows_a_hundred_groups_or_all() {
    let files = Files::new();
    let rows: String = (0..150).map(|row| format!("{row};\u{1b}[31m\n")).collect();
    let file = files.write("x.csv", format!("k;x\n{rows}"));
    let arguments = [&file, "--plain", "--group-by", "k,x", "--delimiter", ";"];
    let few = shmctl(&arguments).output().unwrap();
    let text = String::from_utf8(few.stdout).unwrap();
    assert!(text.contains("and 50 more groups") && !text.contains("\n│ 100 "), "{text}");
    assert!(text.contains("\\u{1b}[31m") && !text.contains('\u{1b}'), "{text}");
    let all = shmctl(&arguments).arg("--all").output().unwrap();
    let text = String::from_utf8(all.stdout).unwrap();
    assert!(text.contains("\n│ 149 ") && !text.contains("more groups"), "{text}");
}

#[test]
fn accounts_are_generated_and_summed_by_branch() {
    let files = Files::new();
    let directory = text_of(files.path().to_owned());
    let report = json(&["--plain", "--data-dir", &directory, "--scale", "2"]);
    assert_eq!((&report["rows"], &report["groups"]), (&200_000.into(), &2.into()));
    let last = &report["result"][1];
    assert_eq!(last["group"]["bid"], "2");
    assert_eq!(last["count"], 100_000);
    // Generated from the account numbers alone: the same on every machine.
    assert_eq!(last["sum"]["abalance"], "-5362271");
    assert_eq!(last["min"]["abalance"], "-99998");
    assert_eq!(last["max"]["abalance"], "99992");
    assert_eq!(last["avg"]["abalance"], "-53.622710");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let files = Files::new();
    let rows: String = (0..50_000).map(|row| format!("{row}\n")).collect();
    let file = files.write("x.csv", format!("k\n{rows}"));
    let mut child = shmctl(&[&file, "--plain", "--group-by", "k", "--all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn an_interrupt_ends_with_130_and_leaves_nothing() {
    let files = Files::new();
    let directory = text_of(files.path().to_owned());
    // 1 GB of accounts: generating takes far longer than the signal, and stops at it.
    let child = shmctl(&["--plain", "--data-dir", &directory, "--scale", "100"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let is_empty = || std::fs::read_dir(files.path()).unwrap().next().is_none();
    while is_empty() {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(complaint(&output, 130), "interrupted");
    assert!(is_empty());
}
