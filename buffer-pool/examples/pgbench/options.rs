//! The command line.
use crate::format::PAGE_BYTES;
use buffer_pool::policy::{FRAMES_MAX, Kind};
use std::path::PathBuf;

/// The accounts of pgbench, and its -S lookups by several processes: which pages does a pool keep?
#[derive(Debug, clap::Parser)]
#[command(name = "pgbench", args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) run: Run,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What a process is that was started by another one.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Client(ClientOptions),
}

/// What is run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Run {
    /// So many times 100,000 accounts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) scale: u32,
    /// Processes that look accounts up
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) clients: u32,
    /// Lookups of each client
    #[arg(long, default_value_t = 1000)]
    pub(crate) transactions: u32,
    /// The size of the pool: a number of kB, MB or GB
    #[arg(long, value_name = "SIZE", default_value = "128MB", value_parser = frames)]
    pub(crate) pool: u32,
    /// Which pages stay: clock5 or probation
    #[arg(long, default_value = "clock5", value_parser = kind)]
    pub(crate) policy: Kind,
    /// Where the files are, and stay; without it, a temporary directory
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Other lookups
    // Of the seeds from 1 to 30 the one whose use counts are nearest to the mean of them all, at
    // 128 and 256 MB. Some are a tenth from it, in classes of less than a thousand pages.
    #[arg(long, default_value_t = 28)]
    pub(crate) seed: u64,
    /// What pages come through
    #[arg(long, value_enum, default_value_t = Through::Pool)]
    pub(crate) through: Through,
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What pages come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Through {
    /// A pool that all clients share
    Pool,
    /// The files: every page is read each time
    Files,
    /// The files, in one process, beside the policy alone: what a pool would keep
    Model,
}

impl Through {
    /// As the command line and reports call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Through::Pool => "pool",
            Through::Files => "files",
            Through::Model => "model",
        }
    }
}

/// What a client is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientOptions {
    #[arg(long)]
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) domain: Option<String>,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) number: u32,
    #[arg(long)]
    pub(crate) transactions: u32,
}

/// Pages that a pool of this size holds.
fn frames(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "kB" => Some(1 << 10),
        "MB" => Some(1 << 20),
        "GB" => Some(1u64 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    let frames = bytes.and_then(|bytes| u32::try_from(bytes / PAGE_BYTES as u64).ok());
    let frames = frames.filter(|frames| (16..=FRAMES_MAX).contains(frames));
    frames.ok_or_else(|| "give 128kB or more, such as 128MB or 1GB".to_owned())
}

fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| format!("give {}", Kind::ALL.map(Kind::name).join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn sizes_of_pools() {
        assert_eq!(["128kB", "128MB", "1GB"].map(frames), [Ok(16), Ok(16_384), Ok(131_072)]);
        for bad in ["", "MB", "0MB", "127kB", "128", "128mb", "-1MB", "1.5MB", "9999999999GB"] {
            assert!(frames(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_of_the_article() {
        let line = "pgbench --scale 50 --clients 8 --transactions 25000 --pool 128MB \
            --policy clock5 --json";
        let Arguments { run, role } = Arguments::parse_from(line.split_whitespace());
        assert!(role.is_none() && run.json && run.dir.is_none());
        assert_eq!((run.scale, run.clients, run.transactions), (50, 8, 25_000));
        assert_eq!((run.pool, run.policy), (16_384, Kind::Clock5));
    }
}
