//! Shared-memory domains from the command line.

use bgworker::Worker;
use clap::Parser;
use shmctl::{agg, pool};
use std::io::Write;
use std::process::ExitCode;

/// Look at, exercise and clean up shared-memory domains
#[derive(Parser)]
#[command(name = "shmctl", version, arg_required_else_help = true)]
enum Command {
    Agg(Box<agg::Options>),
    #[command(subcommand)]
    Pool(pool::Command),
}

fn main() -> ExitCode {
    match Worker::from_env() {
        Ok(None) => lead(),
        Ok(Some(worker)) => exit_code(agg::parallel::work(&worker), worker.name()),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(2)
        }
    }
}

fn lead() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    match command {
        Command::Agg(options) => exit_code(agg::run(&options), ""),
        Command::Pool(command) => match pool::run(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(2)
            }
        },
    }
}

/// The exit code for how it ended; an error goes to standard error, behind who met it.
fn exit_code(end: Result<(), agg::AggError>, who: &str) -> ExitCode {
    let Err(error) = end else { return ExitCode::SUCCESS };
    match who {
        "" => complain(&error.to_string()),
        who => complain(&format!("{who}: {error}")),
    }
    ExitCode::from(error.exit_code())
}

/// Help and version as they are; any other error in one line, without clap's hints.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr()
        || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        // A reader that has gone away is no reason to fail.
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    complain(&first.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}

/// One line on standard error, whatever file names and cells hold.
fn complain(text: &str) {
    let escape = |char: char| {
        let escaped = char.is_control().then(|| char.escape_default().to_string());
        escaped.unwrap_or_else(|| char.to_string())
    };
    let line: String = text.chars().map(escape).collect();
    let _ = writeln!(std::io::stderr(), "shmctl: {line}");
}
