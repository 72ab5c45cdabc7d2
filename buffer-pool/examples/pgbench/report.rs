//! What came of it, for people and for programs.
//!
//! The JSON form is one object:
//!
//! ```json
//! {
//!   "scale": 50, "clients": 8, "transactions": 200000, "pool": 16384, "policy": "clock5",
//!   "through": "model", "seconds": 1.5, "tps": 133333.33, "hit_ratio": 63.34, "balance": 12345,
//!   "files": [{
//!     "file": "accounts", "blocks": 81968, "buffers": 9093, "percent_of_pool": 55.5,
//!     "percent_of_file": 11.09, "usage_counts": [4347, 4553, 151, 3, 0, 0]
//!   }]
//! }
//! ```
//!
//! `transactions` are those of all clients, `pool` is in pages, `hit_ratio` in hundredths, and
//! `balance` the sum of all balances that were found: it is the same for the same seed.
use crate::data::Data;
use crate::error::Error;
use crate::lookups::Totals;
use crate::options::Run;
use crate::pages::File;
use crate::pool::Resident;
use serde_json::{Value, json};
use std::io::{self, Write};

/// A run, and what came of it.
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Run,
    pub(crate) data: &'a Data,
    pub(crate) seconds: f64,
    pub(crate) totals: Totals,
    pub(crate) residents: &'a [Resident],
}

/// How much of the pool a file has.
#[derive(Debug, PartialEq)]
struct Share {
    file: File,
    blocks: u32,
    buffers: u32,
    percent_of_pool: f64,
    percent_of_file: f64,
    usage_counts: [u32; 6],
}

impl Report<'_> {
    /// Prints it as the options say.
    pub(crate) fn print(&self) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        let written = match self.options.json {
            true => writeln!(out, "{:#}", self.json()),
            false => self.write_table(&mut out),
        };
        written.and_then(|()| out.flush()).map_err(Error::Output)
    }

    fn json(&self) -> Value {
        let Report { options, totals, .. } = self;
        let files = File::ALL.map(|file| {
            let share = self.share(file);
            json!({
                "file": file.name(),
                "blocks": share.blocks,
                "buffers": share.buffers,
                "percent_of_pool": share.percent_of_pool,
                "percent_of_file": share.percent_of_file,
                "usage_counts": share.usage_counts,
            })
        });
        json!({
            "scale": options.scale,
            "clients": options.clients,
            "transactions": totals.transactions,
            "pool": options.pool,
            "policy": options.policy.name(),
            "through": options.through.name(),
            "seconds": self.seconds,
            "tps": self.tps(),
            "hit_ratio": self.hit_ratio(),
            "balance": totals.balance,
            "files": files,
        })
    }

    fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        let Run { scale, clients, pool, policy, through, .. } = self.options;
        let (policy, through) = (policy.name(), through.name());
        let Totals { transactions, balance, .. } = self.totals;
        writeln!(out, "scale {scale}, {clients} clients, through: {through}")?;
        writeln!(out, "a pool of {pool} pages, {policy}, hit ratio {:.2} %", self.hit_ratio())?;
        writeln!(out, "{transactions} transactions, {:.0} a second", self.tps())?;
        writeln!(out, "every row is as it was loaded; the balances are {balance} in all")?;
        writeln!(out)?;
        write!(out, "{:<14}{:>9}{:>11}{:>11}", "", "buffers", "% of pool", "% of file")?;
        writeln!(out, "{:>9}{:>7}{:>7}{:>7}{:>7}{:>7}", "used 0", 1, 2, 3, 4, 5)?;
        for share in File::ALL.map(|file| self.share(file)) {
            let [zero, more @ ..] = share.usage_counts;
            write!(out, "{:<14}{:>9}", share.file.name(), share.buffers)?;
            write!(out, "{:>11.1}{:>11.1}", share.percent_of_pool, share.percent_of_file)?;
            write!(out, "{zero:>9}")?;
            more.iter().try_for_each(|count| write!(out, "{count:>7}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn share(&self, file: File) -> Share {
        let mut usage_counts = [0; 6];
        for resident in self.residents.iter().filter(|resident| resident.page.file == file) {
            usage_counts[usize::from(resident.usage_count.min(5))] += 1;
        }
        let (blocks, buffers) = (self.data.blocks[file.index()], usage_counts.iter().sum());
        Share {
            file,
            blocks,
            buffers,
            percent_of_pool: percent(buffers.into(), self.options.pool.into()),
            percent_of_file: percent(buffers.into(), blocks.into()),
            usage_counts,
        }
    }

    fn tps(&self) -> f64 {
        self.totals.transactions as f64 / self.seconds.max(1e-9)
    }

    fn hit_ratio(&self) -> f64 {
        percent(self.totals.counts.hits, self.totals.counts.accesses)
    }
}

/// In hundredths, and hundredths of these.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 10_000.0 / whole as f64).round() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Arguments;
    use crate::pages::{Counts, PageId};
    use clap::Parser;

    fn report(words: &[&str], see: impl FnOnce(&Report)) {
        let Arguments { run, .. } = Arguments::parse_from(words);
        let data = Data { directory: ".".into(), blocks: [200, 50] };
        let resident = |file, usage_count| {
            let page = PageId { file, block: u32::from(usage_count) };
            Resident { page, usage_count }
        };
        let accounts = [0, 0, 3].map(|count| resident(File::Accounts, count));
        let residents = [&accounts[..], &[resident(File::Pkey, 5)]].concat();
        let totals =
            Totals { transactions: 10, balance: -7, counts: Counts { accesses: 30, hits: 20 } };
        let (options, data, residents) = (&run, &data, &residents[..]);
        see(&Report { options, data, seconds: 0.5, totals, residents });
    }

    #[test]
    fn json_tells_the_share_of_each_file() {
        report(&["pgbench", "--pool", "128kB"], |report| {
            let json = report.json();
            assert_eq!((&json["tps"], &json["hit_ratio"]), (&json!(20.0), &json!(66.67)));
            let accounts = json!({
                "file": "accounts", "blocks": 200, "buffers": 3, "percent_of_pool": 18.75,
                "percent_of_file": 1.5, "usage_counts": [2, 0, 0, 1, 0, 0],
            });
            assert_eq!(json["files"][0], accounts);
            assert_eq!(json["files"][1]["usage_counts"], json!([0, 0, 0, 0, 0, 1]));
        });
    }

    #[test]
    fn the_table_has_a_row_for_each_file() {
        report(&["pgbench", "--pool", "128kB"], |report| {
            let mut table = Vec::new();
            report.write_table(&mut table).unwrap();
            let table = String::from_utf8(table).unwrap();
            let rows: Vec<Vec<_>> =
                table.lines().map(|line| line.split_whitespace().collect()).collect();
            let accounts = ["accounts", "3", "18.8", "1.5", "2", "0", "0", "1", "0", "0"];
            let pkey = ["accounts_pkey", "1", "6.2", "2.0", "0", "0", "0", "0", "0", "1"];
            assert_eq!(rows[rows.len() - 2..], [accounts, pkey]);
        });
    }
}
