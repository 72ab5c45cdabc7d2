//! `shmctl pool list`, `summary`, `files`, `frames` and `stats`: what is in a pool, while others
//! use it.
//!
//! The JSON forms are one object each:
//!
//! ```json
//! {"domain": "bank", "pools": [{"pool": "pool", "bytes": 135266304, "processes": [17, 18],
//!   "frames": 16384, "page_bytes": 8192, "policy": "clock5", "files": 2, "problem": null}]}
//!
//! {"pool": "pool", "frames": 16384, "page_bytes": 8192, "policy": "clock5", "used": 16000,
//!   "unused": 384, "dirty": 7, "pinned": 1, "use_count_mean": 1.25,
//!   "use_counts": [{"use_count": 0, "pages": 4000, "dirty": 1, "pinned": 0}]}
//!
//! {"pool": "pool", "frames": 16384, "files": [{"id": 0, "fork": 0, "path": "data/accounts",
//!   "blocks": 81968, "buffers": 9093, "dirty": 0, "pinned": 0, "percent_of_pool": 55.5,
//!   "percent_of_file": 11.09, "use_counts": [4347, 4553, 151, 3, 0, 0], "probation": 0}]}
//!
//! {"pool": "pool", "frames": [{"frame": 0, "id": 0, "fork": 0, "block": 12, "dirty": false,
//!   "pinned": true, "pinned_by": [{"participant": "0.7", "pid": 17, "dead": false}],
//!   "latch": {"mode": "exclusive", "participant": "0.7", "pid": 17, "dead": false},
//!   "use_count": 5}]}
//!
//! {"pool": "pool", "hits": 1000, "reads": 100, "hit_ratio": 90.91, …}
//! ```
//!
//! A use count that is null is that of pages on probation. Frames without a page are left out. A
//! latch that is null nobody has, or some share it; its mode is `share-exclusive`, `exclusive` or
//! `torn`. Who looks at a pool cleans up after the dead first: what is shown of them is what they
//! left since, and the pages that they left torn; a pid that is null is that of one who has left.
use super::attach::{Attached, Found, Where};
use super::error::PoolError;
use super::print::{Out, percent, print, shown, table};
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::latch::Mode;
use buffer_pool::pool::{FileFrames, LatchInfo, Pool, UseClass, UserInfo};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};

/// Frames in the table, if not all are asked for.
const SHOWN_FRAMES: usize = 100;

/// Which pool's frames.
#[derive(Debug, clap::Args)]
pub struct Frames {
    /// Which pool
    #[command(flatten)]
    pub place: Where,
    /// Print all frames that have a page, not only the first 100
    #[arg(long)]
    pub all: bool,
}

#[derive(Serialize)]
struct Pools<'a> {
    domain: &'a str,
    pools: Vec<PoolRow>,
}

#[derive(Serialize)]
struct PoolRow {
    pool: String,
    bytes: u64,
    processes: Vec<u32>,
    frames: Option<u32>,
    page_bytes: Option<u32>,
    policy: Option<&'static str>,
    files: Option<usize>,
    /// Why nothing more is known of it.
    problem: Option<String>,
}

impl PoolRow {
    fn of(found: &Found) -> PoolRow {
        let pool = found.pool.as_ref().ok();
        let config = pool.map(Pool::config);
        PoolRow {
            pool: found.entry.name.clone(),
            bytes: found.entry.size,
            processes: found.entry.users.iter().map(|user| user.pid()).collect(),
            frames: pool.map(Pool::frames),
            page_bytes: config.map(|config| config.page_bytes),
            policy: config.map(|config| config.policy.name()),
            files: pool.map(|pool| pool.files().len()),
            problem: found.pool.as_ref().err().map(ToString::to_string),
        }
    }

    fn cells(&self) -> [String; 8] {
        let number = |number: Option<u32>| number.map(|number| number.to_string());
        let pids: Vec<_> = self.processes.iter().map(u32::to_string).collect();
        let files = self.files.map(|files| files.to_string());
        [
            shown(&self.pool),
            self.policy.unwrap_or_default().to_owned(),
            pids.join(" "),
            self.problem.clone().unwrap_or_default(),
            self.bytes.to_string(),
            number(self.frames).unwrap_or_default(),
            number(self.page_bytes).unwrap_or_default(),
            files.unwrap_or_default(),
        ]
    }
}

/// `shmctl pool list`.
pub(super) fn list(place: &Where) -> Result<(), PoolError> {
    let domain = place.domain()?;
    let found = place.pools(&domain)?;
    let report = Pools { domain: &place.domain, pools: found.iter().map(PoolRow::of).collect() };
    let header = ["pool", "policy", "processes", "problem", "bytes", "frames", "page", "files"];
    print(&report, place.json, |report, out| {
        let rows = report.pools.iter().map(PoolRow::cells).collect();
        writeln!(out, "{}", table(header, 4, rows))
    })
}

#[derive(Serialize)]
struct Summary {
    pool: String,
    frames: u32,
    page_bytes: u32,
    policy: &'static str,
    used: u32,
    unused: u32,
    dirty: u32,
    pinned: u32,
    use_count_mean: Option<f64>,
    use_counts: Vec<ClassRow>,
}

#[derive(Serialize)]
struct ClassRow {
    use_count: Option<u32>,
    pages: u32,
    dirty: u32,
    pinned: u32,
}

impl Summary {
    fn of(attached: &Attached) -> Result<Summary, PoolError> {
        let pool = &attached.pool;
        let (config, frames, classes) = (pool.config(), pool.frames(), pool.by_use_count()?);
        let sum = |of: fn(&UseClass) -> u32| classes.iter().map(of).sum::<u32>();
        let used = sum(|class| class.pages);
        let [counted @ .., _] = &classes;
        let uses = (0_u64..).zip(counted).map(|(count, class)| count * u64::from(class.pages));
        let (uses, pages) = (uses.sum::<u64>(), counted.iter().map(|class| class.pages).sum());
        let mean = |pages: u32| (uses as f64 * 100.0 / f64::from(pages)).round() / 100.0;
        let row = |(at, class): (u32, &UseClass)| {
            let UseClass { pages, dirty, pinned, .. } = *class;
            ClassRow { use_count: (at < 6).then_some(at), pages, dirty, pinned }
        };
        Ok(Summary {
            pool: attached.name.clone(),
            frames,
            page_bytes: config.page_bytes,
            policy: config.policy.name(),
            used,
            // A page that others use stays where a pool has become smaller.
            unused: frames.saturating_sub(used),
            dirty: sum(|class| class.dirty),
            pinned: sum(|class| class.pinned),
            use_count_mean: Some(pages).filter(|pages| *pages > 0).map(mean),
            use_counts: (0..).zip(&classes).map(row).collect(),
        })
    }

    fn write(&self, out: &mut Out) -> io::Result<()> {
        let Summary { pool, frames, page_bytes, policy, used, unused, dirty, pinned, .. } = self;
        let (pool, cells) = (shown(pool), |name: String, numbers: [&u32; 3]| {
            let [pages, dirty, pinned] = numbers.map(u32::to_string);
            [name, pages, dirty, pinned]
        });
        let class = |class: &ClassRow| {
            cells(used_name(class.use_count), [&class.pages, &class.dirty, &class.pinned])
        };
        let mut rows: Vec<_> = self.use_counts.iter().map(class).collect();
        rows.push(cells("all".to_owned(), [used, dirty, pinned]));
        writeln!(out, "{pool}: {frames} frames of {page_bytes} bytes, {policy}, {unused} unused")?;
        writeln!(out, "{}", table(["used", "pages", "dirty", "pinned"], 1, rows))?;
        match self.use_count_mean {
            Some(mean) => writeln!(out, "a page was used {mean:.2} times, as the policy counts"),
            None => Ok(()),
        }
    }
}

/// A use count, for people.
fn used_name(count: Option<u32>) -> String {
    count.map_or("probation".to_owned(), |count| count.to_string())
}

/// `shmctl pool summary`.
pub(super) fn summary(place: &Where) -> Result<(), PoolError> {
    print(&Summary::of(&place.attach()?)?, place.json, Summary::write)
}

#[derive(Serialize)]
struct Files {
    pool: String,
    frames: u32,
    files: Vec<FileRow>,
}

#[derive(Serialize)]
struct FileRow {
    id: u64,
    fork: u8,
    path: String,
    blocks: u32,
    buffers: u32,
    dirty: u32,
    pinned: u32,
    percent_of_pool: f64,
    percent_of_file: f64,
    use_counts: [u32; 6],
    probation: u32,
}

impl FileRow {
    fn of(frames: u32, FileFrames { file, pages, .. }: FileFrames) -> FileRow {
        let [zero, one, two, three, four, five, probation] = pages.use_counts;
        FileRow {
            id: file.key.id,
            fork: file.key.fork,
            path: file.path.display().to_string(),
            blocks: file.blocks,
            buffers: pages.used,
            dirty: pages.dirty,
            pinned: pages.pinned,
            percent_of_pool: percent(pages.used.into(), frames.into()),
            percent_of_file: percent(pages.used.into(), file.blocks.into()),
            use_counts: [zero, one, two, three, four, five],
            probation,
        }
    }

    fn cells(&self) -> [String; 13] {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let [zero, one, two, three, four, five] = self.use_counts.map(|count| count.to_string());
        [
            format!("{},{}", self.id, self.fork),
            shown(name),
            self.blocks.to_string(),
            self.buffers.to_string(),
            format!("{:.1}", self.percent_of_pool),
            format!("{:.1}", self.percent_of_file),
            zero,
            one,
            two,
            three,
            four,
            five,
            self.probation.to_string(),
        ]
    }
}

/// `shmctl pool files`.
pub(super) fn files(place: &Where) -> Result<(), PoolError> {
    let Attached { name, pool, .. } = &place.attach()?;
    let (mut by_file, frames) = (pool.by_file()?, pool.frames());
    by_file.sort_unstable_by_key(|of| of.file.key);
    let files = by_file.into_iter().map(|of| FileRow::of(frames, of)).collect();
    let header = [
        "key",
        "file",
        "blocks",
        "buffers",
        "% of pool",
        "% of file",
        "used 0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "probation",
    ];
    print(&Files { pool: name.clone(), frames, files }, place.json, |report, out| {
        let rows = report.files.iter().map(FileRow::cells).collect();
        writeln!(out, "{}: {} frames", shown(&report.pool), report.frames)?;
        writeln!(out, "{}", table(header, 2, rows))
    })
}

#[derive(Serialize)]
struct FrameRows {
    pool: String,
    frames: Vec<FrameRow>,
}

#[derive(Serialize)]
struct FrameRow {
    frame: u32,
    id: u64,
    fork: u8,
    block: u32,
    dirty: bool,
    pinned: bool,
    pinned_by: Vec<UserRow>,
    latch: Option<LatchRow>,
    use_count: Option<u8>,
}

#[derive(Serialize)]
struct UserRow {
    participant: String,
    pid: Option<u32>,
    dead: bool,
}

#[derive(Serialize)]
struct LatchRow {
    mode: &'static str,
    #[serde(flatten)]
    owner: UserRow,
}

impl UserRow {
    fn of(user: &UserInfo) -> UserRow {
        UserRow { participant: user.id.to_string(), pid: user.pid, dead: user.is_dead }
    }

    /// By its pid, where that is known.
    fn cell(&self) -> String {
        let name = self.pid.map_or_else(|| self.participant.clone(), |pid| pid.to_string());
        if self.dead { name + " (dead)" } else { name }
    }
}

impl LatchRow {
    fn of(latch: &LatchInfo) -> LatchRow {
        let mode = match latch.mode {
            Mode::ShareExclusive => "share-exclusive",
            Mode::Exclusive => "exclusive",
            Mode::Torn => "torn",
        };
        LatchRow { mode, owner: UserRow::of(&latch.owner) }
    }
}

impl FrameRow {
    fn cells(&self) -> [String; 7] {
        let dirty = if self.dirty { "dirty" } else { "" };
        let pinned_by: Vec<_> = self.pinned_by.iter().map(UserRow::cell).collect();
        let latch = self.latch.as_ref();
        let latch = latch.map(|latch| format!("{} by {}", latch.mode, latch.owner.cell()));
        [
            dirty.to_owned(),
            pinned_by.join(", "),
            latch.unwrap_or_default(),
            self.frame.to_string(),
            format!("{},{}", self.id, self.fork),
            self.block.to_string(),
            used_name(self.use_count.map(u32::from)),
        ]
    }
}

impl FrameRows {
    fn write(&self, all: bool, out: &mut Out) -> io::Result<()> {
        let count = self.frames.len();
        let most = if all { count } else { count.min(SHOWN_FRAMES) };
        let rows = self.frames[..most].iter().map(FrameRow::cells).collect();
        let header = ["", "pinned by", "latch", "frame", "file", "block", "used"];
        writeln!(out, "{}", table(header, 3, rows))?;
        match count - most {
            0 => Ok(()),
            more => writeln!(out, "and {more} more frames; --all shows them"),
        }
    }
}

/// `shmctl pool frames`.
pub(super) fn frames(options: &Frames) -> Result<(), PoolError> {
    let Attached { name, pool, .. } = &options.place.attach()?;
    let infos = pool.frame_infos()?;
    let files = pool.files().into_iter();
    let keys: HashMap<FileNumber, FileKey> = files.map(|file| (file.number, file.key)).collect();
    let frames = infos.into_iter().filter_map(|info| {
        let (number, block) = info.page?;
        // Of a file that has gone since there is no page either.
        let FileKey { id, fork } = *keys.get(&number)?;
        Some(FrameRow {
            frame: info.frame,
            id,
            fork,
            block,
            dirty: info.is_dirty,
            pinned: info.is_pinned,
            pinned_by: info.pinned_by.iter().map(UserRow::of).collect(),
            latch: info.latch.as_ref().map(LatchRow::of),
            use_count: info.use_count,
        })
    });
    let report = FrameRows { pool: name.clone(), frames: frames.collect() };
    print(&report, options.place.json, |report, out| report.write(options.all, out))
}

#[derive(Serialize)]
struct Stats {
    pool: String,
    hits: u64,
    reads: u64,
    hit_ratio: f64,
    read_errors: u64,
    writes: u64,
    write_errors: u64,
    evictions: u64,
    extended: u64,
    syncs: u64,
    taken_over: u64,
    waits: u64,
    read_calls: u64,
    hints: u64,
    recycled: u64,
}

impl Stats {
    fn write(&self, out: &mut Out) -> io::Result<()> {
        let rows = [
            ("pages found in the pool", self.hits.to_string()),
            ("pages read in", self.reads.to_string()),
            ("hit ratio %", format!("{:.2}", self.hit_ratio)),
            ("pages that could not be read", self.read_errors.to_string()),
            ("pages written", self.writes.to_string()),
            ("pages that could not be written", self.write_errors.to_string()),
            ("pages that gave way to others", self.evictions.to_string()),
            ("blocks by which files were lengthened", self.extended.to_string()),
            ("syncs", self.syncs.to_string()),
            ("readings taken over from the dead", self.taken_over.to_string()),
            ("waits for another's reading", self.waits.to_string()),
            ("reads of files, for one page or for neighbours", self.read_calls.to_string()),
            ("times the system was told what would be read", self.hints.to_string()),
            ("pages that gave way to others of a ring", self.recycled.to_string()),
        ];
        let rows = rows.map(|(name, number)| [name.to_owned(), number]).into();
        writeln!(out, "{}", table([&shown(&self.pool), ""], 1, rows))
    }
}

/// `shmctl pool stats`.
pub(super) fn stats(place: &Where) -> Result<(), PoolError> {
    let attached = place.attach()?;
    let stats = attached.pool.stats();
    let report = Stats {
        pool: attached.name.clone(),
        hits: stats.hits,
        reads: stats.reads,
        hit_ratio: percent(stats.hits, stats.hits.saturating_add(stats.reads)),
        read_errors: stats.read_errors,
        writes: stats.writes,
        write_errors: stats.write_errors,
        evictions: stats.evictions,
        extended: stats.extended,
        syncs: stats.syncs,
        taken_over: stats.taken_over,
        waits: stats.waits,
        read_calls: stats.read_calls,
        hints: stats.hints,
        recycled: stats.recycled,
    };
    print(&report, place.json, Stats::write)
}
