//! `shmctl pool simulate` as a user meets it: what it prints, and that bad input is one line of
//! complaint and exit code 2.
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shmctl"));
    command.args(["pool", "simulate"]).args(arguments).output().unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ratio(said: &Value, policy: &str) -> f64 {
    let rows = said["policies"].as_array().unwrap();
    rows.iter().find(|row| row["policy"] == policy).unwrap()["hit_ratio"].as_f64().unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], cause: &str, remedy: &str) {
    let output = simulate(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains(cause) && said.contains(remedy), "{said}");
}

#[test]
fn policies_stand_side_by_side() {
    let small = ["--generate", "zipf:0.99", "--pages", "2000", "--accesses", "20000"];
    let said = json(&small);
    assert_eq!(said["accesses"], 20_000);
    assert_eq!(ratio(&said, "clock5"), ratio(&said, "clock5, exactly"));
    assert!(ratio(&said, "optimum") > ratio(&said, "probation"));
    let table = String::from_utf8(simulate(&small).stdout).unwrap();
    for name in ["LRU", "clock5, exactly", "probation", "optimum"] {
        assert!(table.contains(name), "{table}");
    }
    let one =
        json(&[&small[..], &["--policy", "clock5", "--pool", "50", "--batch", "64"]].concat());
    assert_eq!((&one["frames"], one["policies"].as_array().unwrap().len()), (&50.into(), 4));
}

#[test]
fn bad_input_is_a_line_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.pgt");
    let path = file.to_str().unwrap();
    refused(&[path], "No such file", "cannot be read");
    std::fs::write(&file, "a,b\n1,2\n1,2\n1,2\n1,2\n").unwrap();
    refused(&[path], "is no .pgt trace", "--generate");
    std::fs::write(&file, b"PGT1\x05\0\0\0\x05\0\0\0\0\0\0\0nonsense").unwrap();
    refused(&[path], "damaged", "record it again");
    refused(&[], "required", "TRACE");
    refused(&["--generate", "zap"], "zap", "give uniform");
    refused(&["--generate", "drift", "--pool", "0%"], "0%", "give more than 0%");
    refused(&["--generate", "drift", "--policy", "lru"], "lru", "give clock5 or probation");
    let small = ["--generate", "uniform", "--pages", "10", "--accesses", "100", "--pool", "11"];
    refused(&small, "only 10 pages", "choose fewer frames");
}

/// The recorded traces stand in the folder that `SHM_TRACES` names.
#[test]
fn recorded_traces_are_served_as_they_should_be() {
    let Some(folder) = std::env::var_os("SHM_TRACES") else {
        println!("not run: SHM_TRACES names no folder of traces");
        return;
    };
    for (name, lru, clock) in [("select_uniform", 58.32, 58.34), ("tpcb", 91.14, 90.96)] {
        let file = Path::new(&folder).join(format!("{name}.pgt"));
        for batch in ["1", "64"] {
            let said = json(&[file.to_str().unwrap(), "--batch", batch]);
            println!("{name}: {said}");
            assert_eq!((ratio(&said, "LRU"), ratio(&said, "clock5, exactly")), (lru, clock));
            assert!((ratio(&said, "clock5") - clock).abs() <= 0.5);
            assert!(ratio(&said, "probation") > lru.max(clock));
        }
    }
}
