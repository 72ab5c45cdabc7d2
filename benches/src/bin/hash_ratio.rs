//! The shared hash beside `dashmap`, `papaya` and `scc`, in one process: finds, insertions with
//! growth, the longest pause of an insertion, and two who find at once.
//!
//! ```sh
//! cargo build --release -p benches && target/release/hash_ratio [ROUNDS [ENTRIES...]]
//! ```
//!
//! All are given the same keys in the same order, round by round in turn, and each figure is the
//! median over the rounds. Keys and values are of eight bytes.
use benches::{median, processor_seconds};
use dsm::area::{Area, AreaConfig};
use dsm::hash::{Hash, HashConfig, MemberGround, Size};
use shm_core::hazard::Hazards;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Table;
use shm_core::sync::AtomicU64;
use std::hint::black_box;
use std::time::Instant;

/// A word that names a hash, and what so many threads stand on.
fn bench(threads: u32, bytes: u64) -> (Mapped<AtomicU64>, Vec<MemberGround>) {
    let area = AreaConfig::new(bytes);
    let hazards_at = Table::bytes_for(4).next_multiple_of(128);
    let name_at = (hazards_at + Hazards::bytes_for(4, 8)).next_multiple_of(128);
    let area_at = (name_at + 128).next_multiple_of(4096);
    let mapping = Mapping::heap((area_at + Area::bytes_for(&area)) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 4) }.expect("a table");
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, hazards_at, 4, 8) }.expect("rows");
    // SAFETY: as above.
    let area = unsafe { Area::create_in_place(&mapping, area_at, &area) }.expect("an area");
    let member = table.join().expect("a seat");
    let row = hazards.row(&member).expect("a row");
    let ground = |_| MemberGround::new(&area, &row).expect("a heap");
    (Mapped::new(&mapping, name_at).expect("inside"), (0..threads).map(ground).collect())
}

/// Bytes that so many entries take, with the tables that they grow through.
fn bytes(count: u64) -> u64 {
    count * 150 + (8 << 20)
}

fn config() -> HashConfig {
    HashConfig { threads: 4, ..HashConfig::new(Size::Fixed(8), Size::Fixed(8)) }
}

/// Keys that are in no order.
fn key(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Positions in an order that no cache knows.
fn order(count: u64) -> Vec<u64> {
    let mut all: Vec<u64> = (0..count).collect();
    let mut state = 88_172_645_463_325_252u64;
    for at in (1..count as usize).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.swap(at, (state % (at as u64 + 1)) as usize);
    }
    all
}

/// Nanoseconds for each of `count`, and the longest of them.
fn each(count: u64, mut with: impl FnMut(u64)) -> (f64, f64) {
    let (start, mut before, mut longest) = (processor_seconds(), processor_seconds(), 0f64);
    for index in 0..count {
        with(index);
        if index % 64 == 0 {
            let now = processor_seconds();
            longest = longest.max(now - before);
            before = now;
        }
    }
    ((processor_seconds() - start) * 1e9 / count as f64, longest * 1e6)
}

type Figures = Vec<(&'static str, f64, f64, f64)>;

fn round(count: u64, order: &[u64]) -> Figures {
    let repeats = (2_000_000 / count).max(1);
    let finds = |find: &mut dyn FnMut(u64) -> u64| {
        for index in order {
            black_box(find(key(*index)));
        }
        let start = processor_seconds();
        for _ in 0..repeats {
            for index in order {
                black_box(find(key(*index)));
            }
        }
        (processor_seconds() - start) * 1e9 / (count * repeats) as f64
    };
    let mut figures = Figures::new();
    {
        let (place, mut grounds) = bench(1, bytes(count));
        let ground = grounds.remove(0);
        let mut hash = Hash::create(ground, &place, &config()).expect("a hash");
        let (insert, pause) = each(count, |index| {
            hash.insert(&key(index).to_le_bytes(), &index.to_le_bytes()).expect("room");
        });
        hash.settle().expect("settled");
        let mut out = [0; 8];
        let find = finds(&mut |key| {
            hash.get(&key.to_le_bytes(), &mut out).expect("sound").expect("there");
            u64::from_le_bytes(out)
        });
        figures.push(("dsm::hash", insert, find, pause));
    }
    {
        let map = dashmap::DashMap::new();
        let (insert, pause) = each(count, |index| {
            map.insert(key(index), index);
        });
        let find = finds(&mut |key| *map.get(&key).expect("there"));
        figures.push(("dashmap", insert, find, pause));
    }
    {
        let map = papaya::HashMap::new();
        let (insert, pause) = each(count, |index| {
            map.pin().insert(key(index), index);
        });
        let find = finds(&mut |key| *map.pin().get(&key).expect("there"));
        figures.push(("papaya", insert, find, pause));
    }
    {
        let map = scc::HashMap::new();
        let (insert, pause) = each(count, |index| {
            map.insert_sync(key(index), index).expect("new");
        });
        let find = finds(&mut |key| map.read_sync(&key, |_, value| *value).expect("there"));
        figures.push(("scc", insert, find, pause));
    }
    figures
}

/// Finds a second by one, and by two at once.
fn two_at_once(count: u64) -> (f64, f64) {
    let (place, grounds) = bench(3, bytes(count));
    let mut grounds = grounds.into_iter();
    let mut hash = Hash::create(grounds.next().expect("three"), &place, &config()).expect("a hash");
    for index in 0..count {
        hash.insert(&key(index).to_le_bytes(), &index.to_le_bytes()).expect("room");
    }
    hash.settle().expect("settled");
    let name = hash.name();
    let order = order(count);
    let mut threads: Vec<_> =
        grounds.map(|ground| Hash::attach(ground, name, &config()).expect("attached")).collect();
    let work = |hash: &mut Hash<MemberGround>| {
        let (start, mut out, mut done) = (Instant::now(), [0; 8], 0u64);
        while start.elapsed().as_secs_f64() < 0.3 {
            for index in &order {
                hash.get(&key(*index).to_le_bytes(), &mut out).expect("sound").expect("there");
                black_box(out);
                done += 1;
            }
        }
        done as f64 / start.elapsed().as_secs_f64()
    };
    let one = work(&mut threads[0]);
    let both = std::thread::scope(|scope| {
        let all: Vec<_> = threads.iter_mut().map(|hash| scope.spawn(|| work(hash))).collect();
        all.into_iter().map(|thread| thread.join().expect("ended")).sum()
    });
    (one, both)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let rounds = args.next().unwrap_or(5);
    let mut sizes: Vec<u64> = args.collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 1_000_000];
    }
    for count in sizes {
        let order = order(count);
        let all: Vec<Figures> = (0..rounds).map(|_| round(count, &order)).collect();
        println!("{count} entries:   insert ns   find ns   longest pause of 64 µs");
        let mut found = Vec::new();
        for (at, (name, ..)) in all[0].iter().enumerate() {
            let of = |pick: fn(&(&str, f64, f64, f64)) -> f64| {
                median(all.iter().map(|figures| pick(&figures[at])).collect())
            };
            println!("  {name:<12} {:>9.1} {:>9.1} {:>9.0}", of(|f| f.1), of(|f| f.2), of(|f| f.3));
            found.push(of(|f| f.2));
        }
        let best = found[1..].iter().copied().fold(f64::INFINITY, f64::min);
        println!("  finds: {:.2} times the best (wanted: at most 1.3)", found[0] / best);
        let (one, both) = two_at_once(count.min(100_000));
        println!("  two at once: {:.2} times one (wanted: at least 1.9)", both / one);
    }
}
