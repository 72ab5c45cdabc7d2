//! The example that the README shows: that it is this one, and that it does what it says.
use shm_testkit::watchdog::within;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_readme_shows_the_example() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("../README.md")).unwrap();
    let example = std::fs::read_to_string(here.join("examples/1_hello.rs")).unwrap();
    assert!(readme.contains(&format!("```rust\n{example}```\n")), "copy examples/1_hello.rs there");
}

#[test]
fn the_example_says_hello_from_another_process() {
    // Cargo builds the examples with the tests, into the folder beside theirs.
    let test = std::env::current_exe().unwrap();
    let example = test.parent().unwrap().with_file_name("examples").join("1_hello");
    let mut command = Command::new(example);
    let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = within(LIMIT, || child.wait_with_output()).unwrap();
    assert!(output.status.success(), "{}", output.status);
    let said = String::from_utf8(output.stdout).unwrap();
    let other = said.trim().strip_prefix("hello from process ").expect("it says hello");
    assert_ne!(other.parse(), Ok(pid), "another process");
}
