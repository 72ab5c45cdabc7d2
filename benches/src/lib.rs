//! What the measurements share: two processors, and medians of rounds.
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// A mapping with a table, a seat in it, and where the `bytes` behind it begin, which nobody has.
pub fn memory(bytes: u64) -> (Arc<Mapping>, Arc<Member>, u64) {
    let at = Table::bytes_for(4).next_multiple_of(128);
    let mapping = Mapping::heap((at + bytes) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.expect("a table");
    let me = table.join().expect("a seat");
    (mapping, me, at)
}

/// Pins the calling thread to the `nth` of the processors that the process may use.
pub fn pin(nth: usize) {
    static ALLOWED: LazyLock<Vec<usize>> = LazyLock::new(|| {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
    });
    let Some(cpu) = ALLOWED.get(nth % ALLOWED.len().max(1)) else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(*cpu);
    // Where it is not allowed, the figures say less.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Both at once, each pinned: seconds until both have ended.
pub fn two(first: impl FnOnce() + Send, second: impl FnOnce() + Send) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            second();
        });
        pin(0);
        first();
    });
    start.elapsed().as_secs_f64()
}

/// So many who produce on one processor and one who consumes on the other: millions in a second.
pub fn many(
    producers: u64,
    count: u64,
    produce: impl Fn(u64) + Sync,
    consume: impl FnOnce() + Send,
) -> f64 {
    let seconds = two(
        || {
            std::thread::scope(|scope| {
                for _ in 0..producers {
                    scope.spawn(|| produce(count / producers));
                }
            });
        },
        consume,
    );
    count as f64 / seconds / 1e6
}

/// Measures all, round by round in turn (as many rounds as the first argument says, or 5), and
/// prints the medians. A second argument is a part of the name that begins a group: only that is
/// measured.
pub fn print(all: &[(&str, &dyn Fn() -> f64)]) {
    let rounds = std::env::args().nth(1).map_or(5, |arg| arg.parse().expect("a number"));
    let group = std::env::args().nth(2).unwrap_or_default();
    let mut is_in = false;
    let wanted = |(name, _): &&(&str, _)| {
        is_in = if name.starts_with(' ') { is_in } else { name.contains(&group) };
        is_in
    };
    let all: Vec<_> = all.iter().filter(wanted).collect();
    let mut figures = vec![Vec::new(); all.len()];
    for _ in 0..rounds {
        for (figures, (_, measure)) in figures.iter_mut().zip(&all) {
            figures.push(measure());
        }
    }
    for ((name, _), mut figures) in all.iter().zip(figures) {
        figures.sort_by(f64::total_cmp);
        println!("{name:<44} {:>9.1}", figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN));
    }
}

/// The value in the middle; no number where there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this thread: what else the machine does counts less.
pub fn processor_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
