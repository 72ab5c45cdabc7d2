//! The queues of `shm-mq` beside those of others, between two processes, in one run.
//!
//! ```sh
//! cd benches/compare && cargo build --release && target/release/compare [--json] [ROUNDS [QUEUE]]
//! ```
//!
//! Two processes, each pinned to a processor of its own. Each message is written whole by its
//! sender and read whole by its receiver, who is sure of its number and of its words; `spsc in
//! place` alone leaves its records untouched but for the number. All rings have room for as many
//! messages, all are polled but those of the kernel and `stream`, whose receivers sleep where they
//! have to. Cell by cell in turn, round by round (5 unless the argument says otherwise): a table of
//! medians over the rounds, and of the ratios of each round; with `--json` the same and the rounds,
//! for programs. A second argument is part of the queue's name: only those are measured. Figures
//! beside other load on the machine say nothing.
//!
//! Latency is half of a round trip over two queues, one message at a time. The limit is a bare word
//! and as many bytes behind it, in one place each way, so as many cache lines as `spsc` has.
//! Throughput is of messages published up to 32 at a time (by one, where they are longer than
//! 1 KiB) where the queue can do so. Its limit is a bare ring.
//!
//! Versions stand in `Cargo.toml`. Of `shaq` it is 4.3.0: later ones need a compiler newer than
//! 1.95. `iceoryx2` needs 1.89.
mod bare;
mod clock;
mod iceoryx;
mod kernel;
mod ours;
mod pair;
mod queue;
mod report;
mod ringfire;
mod shaq;
mod stats;

use pair::{Cell, Group};
use queue::Kind;
use report::{Figures, IN_PLACE_BYTES, LATENCY_BYTES, THROUGHPUT_BYTES, state};

fn cells() -> Vec<Cell> {
    use Kind::{
        BareLines, BareRing, Iceoryx2, InPlace, Pipe, Ringfire, Seqpacket, Shaq, Spsc, Stream,
    };
    let of = |group, kinds: &[Kind], sizes: &[usize]| {
        let size =
            |bytes: &usize| kinds.iter().map(move |kind| (*kind, *bytes)).collect::<Vec<_>>();
        let cells = sizes.iter().flat_map(size);
        cells.map(|(kind, bytes)| Cell { group, kind, bytes }).collect::<Vec<_>>()
    };
    let polled = [BareLines, Spsc, Iceoryx2, Shaq, Ringfire];
    let all = [BareRing, Spsc, Stream, Iceoryx2, Shaq, Ringfire, Seqpacket, Pipe];
    [
        of(Group::Latency, &polled, &LATENCY_BYTES),
        of(Group::Latency, &[InPlace], &IN_PLACE_BYTES),
        of(Group::Throughput, &all, &THROUGHPUT_BYTES),
    ]
    .concat()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--side", args)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return pair::side(args);
    }
    let is_json = args.iter().any(|arg| arg == "--json");
    let mut args = args.iter().filter(|arg| *arg != "--json");
    let rounds: usize = args.next().map_or(5, |arg| arg.parse().expect("a number of rounds"));
    let queue = args.next().map_or("", String::as_str);
    let line = Cell { group: Group::Latency, kind: Kind::BareLines, bytes: 8 };
    let line_ns = line.measure()[0];
    eprintln!("a bare line, one way: {line_ns:.0} ns: the processors are {}", state(line_ns));
    let cells = cells().into_iter().filter(|cell| cell.kind.name().contains(queue));
    let mut figures = Figures(cells.map(|cell| (cell, Vec::new())).collect());
    for _ in 0..rounds {
        for (cell, rounds) in &mut figures.0 {
            rounds.push(cell.measure());
        }
    }
    if is_json {
        println!("{:#}", figures.json());
    } else {
        figures.print();
    }
}
