//! Numbers by chance, and what chance leaves.

/// What is left of what was not durable when power is lost. A seed is for one outcome of many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Nothing.
    All,
    /// All of it.
    Nothing,
    /// Of each sector, each length and each name what it was at some time since it was durable. So
    /// a file may be longer than what was written to it: what was there before is there then, or
    /// zeroes. And a sector in which a file ended has zeroes behind that end, under any length.
    Some(u64),
    /// What was done before some moment.
    After(u64),
}

/// A number by chance: number `index` of a seed's.
pub(super) fn mix(seed: u64, index: u64) -> u64 {
    // As in splitmix64.
    let mut mixed = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// What is left of one file, or of the names.
#[derive(Debug)]
pub(super) enum Chance {
    Gone,
    Kept,
    /// What has a lower serial.
    Before(u64),
    /// By chance, each for itself.
    Each {
        seed: u64,
        drawn: u64,
    },
}

impl Chance {
    /// For file number `file`, or for the names; `pending` are the serials of all that is not
    /// durable, in order.
    pub(super) fn new(loss: Loss, file: u64, pending: &[u64]) -> Chance {
        match loss {
            Loss::All => Chance::Gone,
            Loss::Nothing => Chance::Kept,
            Loss::Some(seed) => Chance::of_file(mix(seed, file)),
            Loss::After(seed) => {
                let moment = mix(seed, 0) % (pending.len() as u64 + 1);
                Chance::Before(pending.get(moment as usize).copied().unwrap_or(u64::MAX))
            }
        }
    }

    /// Often a file is as it was, or as it became: so what is wrong between files is found.
    pub(super) fn of_file(seed: u64) -> Chance {
        match mix(seed, 0) % 4 {
            0 => Chance::Gone,
            1 => Chance::Kept,
            _ => Chance::Each { seed, drawn: 0 },
        }
    }

    /// Which of a thing's states is left, that were there since it was durable, with these serials:
    /// 0 is the durable one.
    pub(super) fn pick(&mut self, serials: &[u64]) -> usize {
        match self {
            Chance::Gone => 0,
            Chance::Kept => serials.len(),
            Chance::Before(moment) => serials.partition_point(|serial| serial < moment),
            Chance::Each { seed, drawn } => {
                *drawn += 1;
                (mix(*seed, *drawn) % (serials.len() as u64 + 1)) as usize
            }
        }
    }
}
