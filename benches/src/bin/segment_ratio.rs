//! Segments of a domain beside those of the `shared_memory` crate: creating and destroying one, and
//! attaching to one and detaching, with no others alive and with 10,000.
//!
//! ```sh
//! cargo build --release -p benches && target/release/segment_ratio [ROUNDS [OTHERS...]]
//! ```
//!
//! All do the same in turn, round by round, in one process, and each figure is the median over the
//! rounds of nanoseconds of this thread's processor time, the kernel's share included. Whoever
//! creates finds a zero in the first word, and writes to it. The two do not promise the same: ours
//! has its memory when it is made, is known by its handle to the whole domain, and is cleaned up
//! after whoever dies; theirs is a file of that length.
use benches::{median, processor_seconds};
use dsm::{Domain, DomainConfig, Segment, SegmentHandle};
use shared_memory::{Shmem, ShmemConf};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use std::error::Error;
use std::sync::Arc;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: usize = 4096;
/// What is asked of a segment of one page, in nanoseconds.
const CREATE_NS_MAX: f64 = 200.0;
const ATTACH_NS_MAX: f64 = 40.0;
/// Uses of one round.
const TIMES: u32 = 2000;

const WAYS: [&str; 6] = [
    "create + destroy, dsm, one page",
    "create + destroy, dsm, two pages",
    "create + destroy, shared_memory, one page",
    "attach + detach, dsm, mapped here",
    "attach + detach, dsm",
    "attach + detach, shared_memory",
];
const CREATE: usize = 0;
const CREATE_THEIRS: usize = 2;
const ATTACH_MAPPED: usize = 3;
const ATTACH: usize = 4;
const ATTACH_THEIRS: usize = 5;

/// What both have before the first round.
struct Bench {
    domain: Domain,
    /// Another seat in the domain, which has mapped nothing.
    visitor: Domain,
    /// Mapped here, but not attached.
    mapped: (SegmentHandle, Arc<Mapping>),
    theirs: Shmem,
    /// Names of their others.
    names: Vec<String>,
}

fn their_name(what: &str, nth: u32) -> String {
    format!("segment_ratio_{}_{what}_{nth}", std::process::id())
}

fn create_theirs(name: &str) -> Outcome<Shmem> {
    Ok(ShmemConf::new().size(PAGE).os_id(name).create()?)
}

fn open_theirs(name: &str) -> Outcome<Shmem> {
    Ok(ShmemConf::new().os_id(name).open()?)
}

impl Bench {
    fn new(others: u32) -> Outcome<Bench> {
        let name = format!("segment_ratio_{}", std::process::id());
        let config = DomainConfig::new(name);
        let (domain, visitor) = (Domain::open(config.clone())?, Domain::open(config)?);
        let mut names = Vec::new();
        for nth in 0..others {
            // Both stay without a mapping, of which a process has too few.
            domain.create_segment(PAGE as u64)?.pin()?;
            names.push(their_name("other", nth));
            create_theirs(&names[nth as usize])?.set_owner(false);
        }
        let segment = domain.create_segment(PAGE as u64)?;
        let mapped = (segment.handle(), segment.mapping().clone());
        let theirs = create_theirs(&their_name("one", 0))?;
        Ok(Bench { domain, visitor, mapped, theirs, names })
    }

    fn round(&self) -> Outcome<[f64; WAYS.len()]> {
        let (handle, page) = (self.mapped.0, PAGE as u64);
        let name = their_name("new", 0);
        Ok([
            each(|| use_ours(&self.domain.create_segment(page)?))?,
            each(|| use_ours(&self.domain.create_segment(2 * page)?))?,
            each(|| use_theirs(&create_theirs(&name)?))?,
            each(|| there(self.domain.attach(handle)?))?,
            each(|| there(self.visitor.attach(handle)?))?,
            each(|| open_theirs(self.theirs.get_os_id()).map(drop))?,
        ])
    }

    fn end(self) -> Outcome<()> {
        for name in self.names {
            open_theirs(&name)?.set_owner(true);
        }
        drop((self.mapped, self.visitor));
        Ok(self.domain.destroy()?)
    }
}

fn use_ours(segment: &Segment) -> Outcome<()> {
    use_word(segment.region().share::<AtomicU64>(0).map_err(|error| error.to_string())?)
}

#[expect(clippy::cast_ptr_alignment, reason = "it begins a page")]
fn use_theirs(shmem: &Shmem) -> Outcome<()> {
    // SAFETY: a page of this process's own, aligned, for as long as `shmem` is there.
    use_word(unsafe { &*shmem.as_ptr().cast::<AtomicU64>() })
}

fn use_word(word: &AtomicU64) -> Outcome<()> {
    match word.swap(1, Ordering::Relaxed) {
        0 => Ok(()),
        other => Err(format!("new memory holds {other:x}").into()),
    }
}

fn there(segment: Option<Segment>) -> Outcome<()> {
    segment.map(drop).ok_or_else(|| "the segment is gone".into())
}

/// Nanoseconds for one, the first ones left out.
fn each(mut with: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    (0..TIMES / 10).try_for_each(|_| with())?;
    let start = processor_seconds();
    (0..TIMES).try_for_each(|_| with())?;
    Ok((processor_seconds() - start) * 1e9 / f64::from(TIMES))
}

/// The medians, in the order of [`WAYS`].
fn measure(rounds: u32, others: u32) -> Outcome<Vec<f64>> {
    let bench = Bench::new(others)?;
    let all: Vec<_> = (0..rounds).map(|_| bench.round()).collect::<Outcome<_>>()?;
    bench.end()?;
    Ok((0..WAYS.len()).map(|way| median(all.iter().map(|round| round[way]).collect())).collect())
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let rounds = args.next().map_or(Ok(7), |arg| arg.parse())?;
    let mut counts: Vec<u32> = args.map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if counts.is_empty() {
        counts = vec![0, 10_000];
    }
    for others in counts {
        let of = measure(rounds, others)?;
        println!("{others} others alive:");
        for (way, nanoseconds) in WAYS.iter().zip(&of) {
            println!("  {way:<42} {nanoseconds:>9.0} ns");
        }
        let (create, attach) = (of[CREATE], of[ATTACH_MAPPED]);
        println!("  create + destroy: {create:.0} ns (wanted: at most {CREATE_NS_MAX})");
        println!("  attach + detach, mapped: {attach:.0} ns (wanted: at most {ATTACH_NS_MAX})");
        let (create, attach) = (create / of[CREATE_THEIRS], of[ATTACH] / of[ATTACH_THEIRS]);
        println!("  of shared_memory's time: {create:.2} to create, {attach:.2} to attach");
    }
    Ok(())
}
