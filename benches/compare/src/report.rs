//! What is made of the figures: a table of medians, and ratios beside what they are to be.
use crate::pair::{Cell, Group};
use crate::queue::Kind;
use crate::stats::median;
use serde_json::{Value, json};

/// A bare line takes less than this one way where the two processors share a core.
const TOGETHER_NS: f64 = 90.0;

/// Which of the machine's states a bare line's nanoseconds tell of.
pub(crate) fn state(line_ns: f64) -> &'static str {
    if line_ns < TOGETHER_NS { "together, on one core" } else { "apart, on two cores" }
}

/// The figures of all cells, round by round.
pub(crate) struct Figures(pub(crate) Vec<(Cell, Vec<Vec<f64>>)>);

/// A figure of a cell.
#[derive(Clone, Copy)]
struct Figure {
    cell: Cell,
    figure: usize,
}

fn latency(kind: Kind, bytes: usize, figure: usize) -> Figure {
    Figure { cell: Cell { group: Group::Latency, kind, bytes }, figure }
}

fn throughput(kind: Kind, bytes: usize) -> Figure {
    Figure { cell: Cell { group: Group::Throughput, kind, bytes }, figure: 0 }
}

impl Figure {
    fn name(&self) -> String {
        let Cell { group, kind, bytes } = self.cell;
        let figure = if group == Group::Latency { group.figures()[self.figure] } else { "rate" };
        format!("{} {figure}, {}", kind.name(), size(bytes))
    }
}

/// A figure over another, and what it is to be at most, or at least.
struct Claim {
    of: Figure,
    over: Figure,
    most: f64,
    least: f64,
}

fn at_most(most: f64, of: Figure, over: Figure) -> Claim {
    Claim { of, over, most, least: 0.0 }
}

fn at_least(least: f64, of: Figure, over: Figure) -> Claim {
    Claim { of, over, most: f64::INFINITY, least }
}

fn claims() -> Vec<Claim> {
    use Kind::{BareLines, BareRing, Iceoryx2, InPlace, Ringfire, Seqpacket, Shaq, Spsc};
    let mut all = Vec::new();
    for bytes in [8, 56, 120, 248] {
        let p50 = |kind| latency(kind, bytes, 0);
        all.push(at_most(1.15, p50(Spsc), p50(BareLines)));
        all.push(at_most(2.0, latency(Spsc, bytes, 2), latency(BareLines, bytes, 2)));
        all.push(at_most(0.25, p50(Spsc), p50(Iceoryx2)));
    }
    all.push(at_least(10.0, throughput(Spsc, 64), throughput(Iceoryx2, 64)));
    all.push(at_least(0.9, throughput(Spsc, 64), throughput(BareRing, 64)));
    all.push(at_least(1.5, throughput(Spsc, 1 << 16), throughput(Seqpacket, 1 << 16)));
    for other in [Shaq, Ringfire] {
        for bytes in LATENCY_BYTES {
            all.push(at_most(1.0, latency(Spsc, bytes, 0), latency(other, bytes, 0)));
        }
        for bytes in THROUGHPUT_BYTES {
            all.push(at_least(1.0, throughput(Spsc, bytes), throughput(other, bytes)));
        }
    }
    for bytes in IN_PLACE_BYTES {
        // "As for 8 B": within what a bare line is held to.
        all.push(at_most(1.15, latency(InPlace, bytes, 0), latency(Spsc, 8, 0)));
    }
    all
}

pub(crate) const LATENCY_BYTES: [usize; 6] = [8, 56, 120, 248, 1 << 10, 1 << 16];
pub(crate) const THROUGHPUT_BYTES: [usize; 4] = [8, 64, 1 << 10, 1 << 16];
pub(crate) const IN_PLACE_BYTES: [usize; 2] = [1 << 16, 1 << 20];

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

impl Figures {
    /// A figure of each round.
    fn rounds(&self, of: Figure) -> Vec<f64> {
        let found = self.0.iter().find(|(cell, _)| *cell == of.cell);
        found
            .map(|(_, rounds)| rounds.iter().map(|round| round[of.figure]).collect())
            .unwrap_or_default()
    }

    fn medians(&self, cell: Cell) -> Vec<f64> {
        let figures = 0..cell.group.figures().len();
        figures.map(|figure| median(self.rounds(Figure { cell, figure }))).collect()
    }

    /// The median of the ratios of each round: the machine may be another between two rounds.
    fn ratio(&self, claim: &Claim) -> f64 {
        let pairs = self.rounds(claim.of).into_iter().zip(self.rounds(claim.over));
        median(pairs.map(|(of, over)| of / over))
    }

    /// Of what was measured.
    fn claims(&self) -> impl Iterator<Item = Claim> {
        let is_there = |of| !self.rounds(of).is_empty();
        claims().into_iter().filter(move |claim| is_there(claim.of) && is_there(claim.over))
    }

    pub(crate) fn print(&self) {
        let mut of = None;
        for (cell, _) in &self.0 {
            if of.replace((cell.group, cell.bytes)) != Some((cell.group, cell.bytes)) {
                let columns = match cell.group {
                    Group::Latency => "one way, ns:     p50       p99     p99.9       max",
                    Group::Throughput => "in a second:     M/s      GB/s",
                };
                println!("\n{:<10} {columns}", size(cell.bytes));
            }
            let figures = self.medians(*cell);
            let shown = match cell.group {
                Group::Latency => figures.iter().map(|ns| format!("{ns:>10.0}")).collect(),
                Group::Throughput => {
                    let bytes = figures[0] * cell.bytes as f64;
                    format!("{:>10.3}{:>10.2}", figures[0] / 1e6, bytes / 1e9)
                }
            };
            println!("  {:<17}{shown}", cell.kind.name());
        }
        println!("\nratios, medians of those of each round");
        for claim in self.claims() {
            let ratio = self.ratio(&claim);
            let (sign, bound) = claim.bound();
            let verdict = if claim.holds(ratio) { "holds" } else { "FAILS" };
            let (of, over) = (claim.of.name(), claim.over.name());
            println!("  {of:<28} / {over:<26} {ratio:>7.2}  {sign} {bound:<5} {verdict}");
        }
        let rounds = self.rounds(latency(Kind::BareLines, 8, 0));
        println!("\nthe processors in each round, by a bare line:");
        rounds.iter().for_each(|ns| println!("  {ns:>5.0} ns: {}", state(*ns)));
    }

    pub(crate) fn json(&self) -> Value {
        let cells = self.0.iter().map(|(cell, rounds)| {
            json!({
                "group": cell.group.name(),
                "queue": cell.kind.name(),
                "bytes": cell.bytes,
                "figures": cell.group.figures(),
                "rounds": rounds,
                "medians": self.medians(*cell),
            })
        });
        let ratios = self.claims().map(|claim| {
            let ratio = self.ratio(&claim);
            let (sign, bound) = claim.bound();
            json!({
                "of": claim.of.name(),
                "over": claim.over.name(),
                "ratio": ratio,
                "bound": format!("{sign} {bound}"),
                "holds": claim.holds(ratio),
            })
        });
        json!({ "cells": cells.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>() })
    }
}

impl Claim {
    /// What is not there does not hold.
    fn holds(&self, ratio: f64) -> bool {
        (self.least..=self.most).contains(&ratio)
    }

    fn bound(&self) -> (&'static str, f64) {
        if self.most.is_finite() { ("<=", self.most) } else { (">=", self.least) }
    }
}
