//! The accounts of pgbench, and its `-S` lookups by several processes: which pages does a pool
//! keep?
//!
//! ```text
//! cargo run --release -p buffer-pool --example pgbench -- \
//!     --scale 50 --clients 8 --transactions 25000 --pool 128MB --policy clock5 --json
//! ```
//!
//! A scale is 100,000 accounts: a heap of 61 rows to a page of 8 KiB, and the B-tree over it, both
//! as large as PostgreSQL's. Each client is a process. A transaction looks for an account that is
//! as likely as any other, and uses four pages for it, as PostgreSQL does: the root, an inner page
//! and a leaf of the index, and a page of the heap. Every row that comes is checked.
//!
//! The page that says where the root is (`_bt_getroot`) is used once for each client, not for each
//! lookup: PostgreSQL, too, keeps what it says with the connection. Each page is pinned once. So 8
//! clients with 1000 lookups each use 24,008 pages of the index and 8000 of the heap, here and by
//! `pg_statio_user_tables`.
//!
//! Use counts after 200,000 lookups at scale 50, in PostgreSQL 15 by `pg_buffercache`, and by
//! `--through model`, the mean of 30 seeds:
//!
//! | pool | file | | % of pool | % of file | 0 | 1 | 2 | 3 | 4 | 5 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | 128 MB | accounts | PostgreSQL | 55.3 | 11.1 | 4353 | 4548 | 157 | 5 | 0 | 0 |
//! | | | model | 56.0 | 11.2 | 4448 | 4579 | 138 | 4 | 0 | 0 |
//! | | pkey | PostgreSQL | 43.7 | 52.3 | 2763 | 3398 | 769 | 155 | 27 | 54 |
//! | | | model | 44.0 | 52.6 | 2770 | 3442 | 780 | 144 | 26 | 53 |
//! | 256 MB | accounts | PostgreSQL | 62.1 | 24.8 | 9430 | 10116 | 755 | 43 | 4 | 0 |
//! | | | model | 62.4 | 24.9 | 9406 | 10183 | 799 | 49 | 2 | 0 |
//! | | pkey | PostgreSQL | 37.4 | 89.4 | 1870 | 3504 | 2667 | 2161 | 1454 | 609 |
//! | | | model | 37.6 | 89.9 | 1876 | 3465 | 2780 | 2061 | 1506 | 641 |
//!
//! PostgreSQL's pool holds some 150 pages of its catalogs, too.
//!
//! Modules, lowest first; each uses only those above it, but for what errors name.
#![cfg_attr(any(shm_loom, shm_explore), no_main)]
#![cfg(not(any(shm_loom, shm_explore)))]

// What can go wrong, in one line each.
mod error;

// Numbers by chance.
mod random;

// Numbers in pages, and the head that all pages have.
mod format;

// Rows, and the pages they are in.
mod heap;

// The B-tree: its pages, how a key is found, how it is built.
mod index;

// Pages of the two files, and who gives them.
mod pages;

// One client: its lookups.
mod lookups;

// The two files: built, or found.
mod data;

// The command line.
mod options;

// Where the pool comes in.
mod pool;

// Clients that are processes.
mod clients;

// What the policy alone would keep.
mod model;

// What came of it, for people and for programs.
mod report;

use clap::Parser;
use error::Error;
use options::{Arguments, Role, Run, Through};
use report::Report;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let end = match &arguments.role {
        Some(Role::Client(options)) => clients::serve(options),
        None => lead(&arguments.run),
    };
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgbench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lead(options: &Run) -> Result<(), Error> {
    // Removed with what is in it when this returns.
    let temporary;
    let directory = match &options.dir {
        Some(directory) => directory.as_path(),
        None => {
            temporary = tempfile::tempdir().map_err(Error::NoDirectory)?;
            temporary.path()
        }
    };
    let data = data::ensure(directory, options.scale)?;
    let (seconds, totals, residents) = match options.through {
        Through::Pool | Through::Files => {
            let pool = pool::open_pool(&data, options)?;
            let (time, totals) = clients::run(&pool, options)?;
            (time.as_secs_f64(), totals, pool.residency()?)
        }
        Through::Model => {
            let start = Instant::now();
            let (totals, residents) = model::run(&data, options)?;
            (start.elapsed().as_secs_f64(), totals, residents)
        }
    };
    Report { options, data: &data, seconds, totals, residents: &residents }.print()
}
