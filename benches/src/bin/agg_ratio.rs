//! How `shmctl agg` scales: two workers against one, and one against the plain pass.
//!
//! ```sh
//! cargo build --release -p shmctl -p benches && target/release/agg_ratio [ROUNDS [SCALE]]
//! ```
//!
//! The three are run in turn, round by round, so that whatever else the machine does meets them
//! alike, and each figure is the median over the rounds of the ratio *within* a round. The time of
//! a run is from before the domain is opened until the workers have ended, so it includes starting
//! and ending their processes.
use benches::median;
use std::io;
use std::path::Path;
use std::process::Command;

const WAYS: [(&str, &[&str]); 3] = [
    ("plain pass", &["--plain"]),
    ("1 worker", &["--workers", "1"]),
    ("2 workers", &["--workers", "2"]),
];

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().map_or(Ok(15), |n| n.parse()).map_err(io::Error::other)?;
    let scale = args.next().unwrap_or_else(|| "10".to_owned());
    let shmctl = std::env::current_exe()?.with_file_name("shmctl");
    let mut seconds = [const { Vec::new() }; WAYS.len()];
    for round in 0..=rounds {
        for (way, times) in WAYS.iter().zip(&mut seconds) {
            let time = run(&shmctl, way.1, &scale)?;
            // The first round makes the file and fills the caches.
            if round > 0 {
                times.push(time);
            }
        }
    }
    for (way, times) in WAYS.iter().zip(&seconds) {
        println!("{:<12} {:>8.1} ms", way.0, median(times.clone()) * 1e3);
    }
    let [plain, one, two] = &seconds;
    let ratio = |a: &[f64], b: &[f64]| median(a.iter().zip(b).map(|(a, b)| a / b).collect());
    println!("2 workers are {:.2} times as fast as 1 (wanted: at least 1.8)", ratio(one, two));
    println!("1 worker takes {:.2} times the plain pass (wanted: at most 1.15)", ratio(one, plain));
    Ok(())
}

fn run(shmctl: &Path, way: &[&str], scale: &str) -> io::Result<f64> {
    let output = Command::new(shmctl)
        .args(["agg", "--json", "--quiet", "--scale", scale])
        .args(way)
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("{} {way:?}: {text}", shmctl.display())));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    report["seconds"].as_f64().ok_or_else(|| io::Error::other("the report has no seconds"))
}
