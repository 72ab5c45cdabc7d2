//! Clients that are processes.
//!
//! A client says when it has connected, and waits for a word to begin; so none has begun when the
//! clock starts. In the end it writes what it has done, in one line.
use crate::error::Error;
use crate::lookups::{Client, Totals};
use crate::options::{ClientOptions, Run};
use crate::pages::{Counts, Pages};
use crate::pool::{self, Shared};
use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The life of a client.
pub(crate) fn serve(options: &ClientOptions) -> Result<(), Error> {
    let client = options.number;
    let told = |problem| Error::Client { client, problem };
    let mut pages = pool::attach(options)?;
    let mut lookups = Client::connect(&mut pages, options.seed, client)?;
    writeln!(io::stdout(), "connected").map_err(told)?;
    // Nothing comes if the parent has gone.
    if io::stdin().lines().next().transpose().map_err(told)?.is_none() {
        return Ok(());
    }
    for _ in 0..options.transactions {
        lookups.transact(&mut pages)?;
    }
    let Totals { transactions, balance, counts } = lookups.totals(pages.counts());
    writeln!(io::stdout(), "{transactions} {balance} {} {}", counts.accesses, counts.hits)
        .map_err(told)
}

/// Runs all clients, and says how long they took, and what they have done together.
pub(crate) fn run(pool: &Shared, options: &Run) -> Result<(Duration, Totals), Error> {
    let start = |number| Process::start(&pool.client(options, number));
    let mut processes: Vec<_> = (0..options.clients).map(start).collect::<Result<_, _>>()?;
    for process in &mut processes {
        process.line()?;
    }
    let start = Instant::now();
    for process in &mut processes {
        process.begin()?;
    }
    let mut totals = Totals::default();
    for process in &mut processes {
        totals.add(process.totals()?);
    }
    Ok((start.elapsed(), totals))
}

/// A client's process. It ends with this.
struct Process {
    number: u32,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    fn start(options: &ClientOptions) -> Result<Process, Error> {
        let number = options.number;
        let failed = |problem| Error::Client { client: number, problem };
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        command.arg("client").arg("--dir").arg(&options.dir);
        if let Some(domain) = &options.domain {
            command.arg("--domain").arg(domain);
        }
        command.arg("--number").arg(number.to_string());
        command.arg("--seed").arg(options.seed.to_string());
        command.arg("--transactions").arg(options.transactions.to_string());
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Ok(Process { number, child, to, from })
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.to.write_all(b"begin\n").map_err(|problem| self.failed(problem))
    }

    /// The next line that it writes.
    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => Err(Error::Lost { client: self.number }),
            Ok(_) => Ok(line),
            Err(problem) => Err(self.failed(problem)),
        }
    }

    /// What it has done. It has ended then.
    fn totals(&mut self) -> Result<Totals, Error> {
        let line = self.line()?;
        let status = self.child.wait().map_err(|problem| self.failed(problem))?;
        match totals(&line) {
            Some(totals) if status.success() => Ok(totals),
            _ => Err(Error::Lost { client: self.number }),
        }
    }

    fn failed(&self, problem: io::Error) -> Error {
        Error::Client { client: self.number, problem }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the last line of a client says.
fn totals(line: &str) -> Option<Totals> {
    let mut words = line.split_whitespace();
    let transactions = words.next()?.parse().ok()?;
    let balance = words.next()?.parse().ok()?;
    let counts =
        Counts { accesses: words.next()?.parse().ok()?, hits: words.next()?.parse().ok()? };
    words.next().is_none().then_some(Totals { transactions, balance, counts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_client() {
        let counts = Counts { accesses: 13, hits: 9 };
        let expected = Totals { transactions: 3, balance: -7, counts };
        assert_eq!(totals("3 -7 13 9\n"), Some(expected));
        for bad in ["", "3 -7 13", "3 -7 13 9 1", "3 -7 -13 9", "connected"] {
            assert_eq!(totals(bad), None, "{bad}");
        }
    }
}
