//! The command line of `shmctl pool simulate`.
use super::error::PoolError;
use buffer_pool::policy::{BATCH_MAX, FRAMES_MAX, Kind};
use buffer_pool::simulate::{Pattern, Trace};
use std::path::PathBuf;
use std::str::FromStr;

/// What is simulated.
#[derive(Debug, clap::Args)]
#[command(long_about = "Compares replacement policies on a trace of page accesses: those that \
    ship (clock5, probation), and plain models of LRU, PostgreSQL's clock and the optimum")]
pub struct Simulate {
    /// A .pgt trace
    #[arg(required_unless_present = "generate", conflicts_with = "generate")]
    pub trace: Option<PathBuf>,
    /// Makes a trace: uniform, zipf:EXPONENT, drift, or zipf-scans
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub generate: Option<Pattern>,
    /// Pages of the trace that is made
    #[arg(long, default_value_t = 100_000, requires = "generate")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub pages: u32,
    /// Accesses of the trace that is made
    #[arg(long, default_value_t = 1_000_000, requires = "generate")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub accesses: u32,
    /// Another trace of the same kind
    #[arg(long, default_value_t = 1, requires = "generate")]
    pub seed: u64,
    /// The size of the pool: N% of the trace's pages, or N frames
    #[arg(long, value_name = "N%|N", default_value = "10%")]
    pub pool: PoolSize,
    /// One policy of those that ship, instead of all
    #[arg(long, value_parser = kind)]
    pub policy: Option<Kind>,
    /// Victims that a process takes at a time
    #[arg(long, default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=BATCH_MAX as i64))]
    pub batch: u8,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// The size of the pool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PoolSize {
    /// In hundredths of the trace's pages.
    Percent(f64),
    /// In frames.
    Frames(u32),
}

impl PoolSize {
    /// Frames of a pool for this trace.
    ///
    /// # Errors
    /// [`PoolError::Usage`] where it is of no use: larger than all pages together.
    pub fn frames(self, trace: &Trace) -> Result<u32, PoolError> {
        match self {
            PoolSize::Percent(percent) => Ok(trace.frames(percent)),
            PoolSize::Frames(frames) if frames <= trace.distinct() => Ok(frames),
            PoolSize::Frames(frames) => Err(PoolError::Usage(format!(
                "--pool {frames}: the trace has only {} pages; choose fewer frames, or N%",
                trace.distinct()
            ))),
        }
    }
}

impl FromStr for PoolSize {
    type Err = String;

    fn from_str(text: &str) -> Result<PoolSize, String> {
        let size = match text.strip_suffix('%') {
            Some(number) => number
                .parse()
                .ok()
                .filter(|percent| *percent > 0.0 && *percent <= 100.0)
                .map(PoolSize::Percent),
            None => text
                .parse()
                .ok()
                .filter(|frames| (1..=FRAMES_MAX).contains(frames))
                .map(PoolSize::Frames),
        };
        size.ok_or_else(|| "give more than 0% up to 100%, or a number of frames".to_owned())
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let zipf = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
    match (text, zipf) {
        ("uniform", _) => Ok(Pattern::Uniform),
        ("drift", _) => Ok(Pattern::Drift),
        ("zipf-scans", _) => Ok(Pattern::ZipfScans),
        ("zipf", _) => Ok(Pattern::Zipf(0.99)),
        (_, Some(exponent)) if (0.0..=10.0).contains(&exponent) => Ok(Pattern::Zipf(exponent)),
        _ => Err("give uniform, zipf:EXPONENT (from 0 to 10), drift, or zipf-scans".to_owned()),
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| format!("give {}", Kind::ALL.map(Kind::name).join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pools() {
        let sizes = ["10%", "0.5%", "100%", "7"].map(|text| text.parse());
        let [tenth, half, all, seven] = sizes.map(|size: Result<PoolSize, String>| size.unwrap());
        assert_eq!((tenth, half), (PoolSize::Percent(10.0), PoolSize::Percent(0.5)));
        assert_eq!((all, seven), (PoolSize::Percent(100.0), PoolSize::Frames(7)));
        for bad in ["", "%", "0", "0%", "-1%", "101%", "nan%", "1.5", "4294967296", "ten"] {
            assert!(bad.parse::<PoolSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(pattern("zipf:1.2"), Ok(Pattern::Zipf(1.2)));
        assert_eq!(pattern("drift"), Ok(Pattern::Drift));
        for bad in ["", "zipf:", "zipf:-1", "zipf:nan", "zipf:11", "Uniform"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
