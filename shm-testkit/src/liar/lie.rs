//! What is written: an endless row of lies, the same for the same seed.
use super::outside::Outside;
use std::ops::Range;

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The row of numbers number `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next one.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// One below `limit`; 0 where that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.word() % limit as u64) as usize }
    }
}

/// One overwriting of shared memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lie {
    /// A bit turned over.
    Flip {
        /// Counted from the first byte's lowest.
        bit: usize,
    },
    /// A word replaced.
    Word {
        /// Its first byte.
        at: usize,
        /// What stands there now.
        value: u64,
    },
    /// Half a word replaced.
    Half {
        /// Its first byte.
        at: usize,
        /// What stands there now.
        value: u32,
    },
    /// Something added to a word.
    Add {
        /// Its first byte.
        at: usize,
        /// What was added.
        by: u64,
    },
    /// Two words exchanged.
    Swap {
        /// First byte of the one.
        one: usize,
        /// First byte of the other.
        other: usize,
    },
    /// Bytes as they were in an earlier image, which may be the valid one.
    Replay {
        /// The number of the image.
        image: usize,
        /// The bytes.
        bytes: Range<usize>,
    },
    /// Random bytes.
    Noise {
        /// The bytes.
        bytes: Range<usize>,
        /// Of the random numbers.
        seed: u64,
    },
}

/// Tells lies about a structure: about its words mostly, and with values that tell most.
///
/// ```
/// use shm_testkit::liar::Liar;
/// let (mut one, mut same) = (Liar::new(7, &[0; 64]), Liar::new(7, &[0; 64]));
/// assert_eq!(one.next_lie(), same.next_lie());
/// ```
#[derive(Clone, Debug)]
pub struct Liar {
    random: Random,
    /// The valid image first, then older ones.
    images: Vec<Vec<u8>>,
    ranges: Vec<Range<usize>>,
    values: Vec<u64>,
    restores: bool,
}

impl Liar {
    /// The liar number `seed`, about a structure whose bytes are `valid` when all is well.
    ///
    /// # Panics
    /// Where there are none.
    pub fn new(seed: u64, valid: &[u8]) -> Liar {
        assert!(!valid.is_empty(), "there is something to lie about");
        Liar {
            random: Random::new(seed),
            images: vec![valid.to_vec()],
            ranges: Vec::new(),
            values: Vec::new(),
            restores: false,
        }
    }

    /// Also replays parts of these, which the structure once was.
    #[must_use]
    pub fn with_images(mut self, images: &[Vec<u8>]) -> Liar {
        self.images.extend_from_slice(images);
        self
    }

    /// Lies about these bytes only, such as the words of one field.
    #[must_use]
    pub fn about(mut self, bytes: Range<usize>) -> Liar {
        self.ranges.push(bytes);
        self
    }

    /// Also uses these values: those with a meaning for the structure.
    #[must_use]
    pub fn with_values(mut self, values: &[u64]) -> Liar {
        self.values.extend_from_slice(values);
        self
    }

    /// Every now and then all is as it should be: for a scribbler, lest the first word that is
    /// checked hide all that follows.
    #[must_use]
    pub fn restoring(mut self) -> Liar {
        self.restores = true;
        self
    }

    /// The next lie.
    pub fn next_lie(&mut self) -> Lie {
        let len = self.images[0].len();
        let random = self.random.word();
        if self.restores && random.is_multiple_of(4) {
            return Lie::Replay { image: 0, bytes: 0..len };
        }
        let about = match self.ranges.len() {
            0 => 0..len,
            count => self.ranges[self.random.below(count)].clone(),
        };
        let at = about.start + self.random.below(about.len());
        let aligned = |unit: usize| at / unit * unit;
        match random >> 8 & 15 {
            0..=1 => Lie::Flip { bit: 8 * at + self.random.below(8) },
            2..=6 => Lie::Word { at: aligned(8), value: self.value() },
            7..=9 => Lie::Half { at: aligned(4), value: self.value() as u32 },
            10..=11 => Lie::Add { at: aligned(8), by: self.value() },
            12 => Lie::Swap { one: aligned(8), other: self.random.below(len) / 8 * 8 },
            13..=14 => {
                let image = self.random.below(self.images.len());
                Lie::Replay { image, bytes: self.part(at, &about) }
            }
            _ => Lie::Noise { bytes: self.part(at, &about), seed: self.random.word() },
        }
    }

    /// Some bytes from `at` on, mostly few.
    fn part(&mut self, at: usize, about: &Range<usize>) -> Range<usize> {
        let most = if self.random.below(4) == 0 { about.len() } else { 32 };
        at..(at + 1 + self.random.below(most)).min(about.end)
    }

    /// A value that is likely to be at an edge of what is checked.
    fn value(&mut self) -> u64 {
        let (random, len) = (self.random.word(), self.images[0].len() as u64);
        let power = 1u64 << (random >> 8 & 63);
        match random & 15 {
            0 => 0,
            1 => u64::MAX,
            2 => power,
            3 => power - 1,
            4 => power.wrapping_neg(),
            5 => len,
            6 => len.wrapping_add(random >> 32 & 31).wrapping_sub(16),
            7 => random >> 32 & 15,
            8 => i64::MAX as u64,
            9 | 10 if !self.values.is_empty() => self.values[self.random.below(self.values.len())],
            9..=12 => {
                let at = self.random.below(self.images[0].len()) / 8 * 8;
                word_of(&self.images[0], at)
            }
            _ => self.random.word(),
        }
    }

    /// Thinks of the next lie and writes it to `memory`.
    pub fn lie(&mut self, memory: &Outside) -> Lie {
        let lie = self.next_lie();
        self.tell(&lie, memory);
        lie
    }

    /// Writes `lie`, which this liar thought of, to `memory`.
    pub fn tell(&self, lie: &Lie, memory: &Outside) {
        let put = |at: usize, word: u64| memory.write(at, &word.to_le_bytes());
        match lie {
            Lie::Flip { bit } => {
                let at = bit / 64 * 8;
                put(at, memory.word(at) ^ 1 << (bit % 64));
            }
            Lie::Word { at, value } => put(*at, *value),
            Lie::Half { at, value } => memory.write(*at, &value.to_le_bytes()),
            Lie::Add { at, by } => put(*at, memory.word(*at).wrapping_add(*by)),
            Lie::Swap { one, other } => {
                let (first, second) = (memory.word(*one), memory.word(*other));
                put(*one, second);
                put(*other, first);
            }
            Lie::Replay { image, bytes } => {
                let image = &self.images[*image];
                let end = bytes.end.min(image.len());
                memory.write(bytes.start, image.get(bytes.start..end).unwrap_or_default());
            }
            Lie::Noise { bytes, seed } => {
                let mut random = Random::new(*seed);
                let noise: Vec<u8> = bytes.clone().map(|_| random.word() as u8).collect();
                memory.write(bytes.start, &noise);
            }
        }
    }
}

/// The word at byte `at`, its missing bytes zero.
fn word_of(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    let part = bytes.get(at..).unwrap_or_default();
    let len = part.len().min(8);
    word[..len].copy_from_slice(&part[..len]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::super::{Edge, Guarded};
    use super::*;

    #[test]
    fn every_kind_of_lie_is_told_and_stays_inside() {
        let valid: Vec<u8> = (0..100).collect();
        let block = Guarded::holding(&valid, Edge::Right);
        let mut liar = Liar::new(1, &valid).with_images(&[vec![7; 100]]).with_values(&[42]);
        let mut kinds = std::collections::BTreeSet::new();
        for _ in 0..10_000 {
            let lie = liar.lie(&block.outside());
            kinds.insert(format!("{lie:?}").split(' ').next().unwrap().to_owned());
        }
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        assert!(block.is_intact());
    }

    #[test]
    fn lies_about_a_field_leave_the_rest() {
        let valid = vec![0; 128];
        let block = Guarded::holding(&valid, Edge::Left);
        let mut liar = Liar::new(3, &valid).about(64..72);
        for _ in 0..1000 {
            // Which words are exchanged with a field is not up to the field.
            let lie = liar.next_lie();
            if !matches!(lie, Lie::Swap { .. }) {
                liar.tell(&lie, &block.outside());
            }
        }
        let bytes = block.outside().read();
        assert!(bytes[..64].iter().chain(&bytes[72..]).all(|byte| *byte == 0), "{bytes:?}");
    }

    #[test]
    fn a_restoring_liar_comes_back_to_the_truth() {
        let valid: Vec<u8> = (0..64).collect();
        let block = Guarded::holding(&valid, Edge::Left);
        let mut liar = Liar::new(5, &valid).restoring();
        let outside = block.outside();
        let honest = (0..1000).filter(|_| {
            liar.lie(&outside);
            outside.read() == valid
        });
        assert!(honest.count() > 100);
    }
}
