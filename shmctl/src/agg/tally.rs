//! What is kept of one column in one group: count, sum, least and greatest.

use super::decimal::{self, ATTOS, Decimal, SCALE_MAX};
use super::query::Kind;
use super::wire::{Corrupt, Input};

/// The most rows that can be counted: far more than a file can have, and few enough that no sum of
/// so many numbers leaves its 128 bits.
pub const ROWS_MAX: u64 = 1 << 62;

/// Count, sum, least and greatest of the numbers of one column; empty cells are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    count: u64,
    whole: i128,
    atto: i128,
    /// Most decimals seen: what results are printed with.
    scale: u8,
    least: Decimal,
    greatest: Decimal,
}

impl Tally {
    /// Adds a number that is written with `scale` decimals.
    ///
    /// The caller sees to it that a group has at most [`ROWS_MAX`] rows: then nothing overflows.
    #[inline]
    pub fn add(&mut self, number: Decimal, scale: u8) {
        if self.count == 0 {
            (self.least, self.greatest) = (number, number);
        }
        self.count += 1;
        self.whole += number.whole();
        self.atto += i128::from(number.atto());
        self.scale = self.scale.max(scale);
        self.least = self.least.min(number);
        self.greatest = self.greatest.max(number);
    }

    /// Adds what `other` has counted. The caller sees to [`ROWS_MAX`], as for [`add`](Self::add).
    pub fn merge(&mut self, other: &Tally) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            (self.least, self.greatest) = (other.least, other.greatest);
        }
        self.count += other.count;
        self.whole += other.whole;
        self.atto += other.atto;
        self.scale = self.scale.max(other.scale);
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// The result of one kind as text; `None` if there was no number.
    ///
    /// Sum, least and greatest have as many decimals as the most precise number of the group; an
    /// average has six more, and is rounded half to even there.
    pub fn result(&self, kind: Kind) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let one = |number: Decimal| {
            decimal::to_text(number.whole(), i128::from(number.atto()), self.scale)
        };
        Some(match kind {
            Kind::Sum => decimal::to_text(self.whole, self.atto, self.scale),
            Kind::Min => one(self.least),
            Kind::Max => one(self.greatest),
            Kind::Avg => decimal::average_to_text(self.whole, self.atto, self.scale, self.count),
        })
    }

    /// Bytes that [`encode_into`](Self::encode_into) appends.
    pub(crate) const ENCODED_BYTES: usize = 8 + 16 + 16 + 1 + 2 * (16 + 8);

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend(self.count.to_le_bytes());
        out.extend(self.whole.to_le_bytes());
        out.extend(self.atto.to_le_bytes());
        out.push(self.scale);
        for number in [self.least, self.greatest] {
            out.extend(number.whole().to_le_bytes());
            out.extend(number.atto().to_le_bytes());
        }
    }

    /// The tally of a group of `rows` rows. Its parts are held to what `rows` numbers can sum to,
    /// so that merging it overflows no more than adding them would.
    pub(crate) fn decode(input: &mut Input<'_>, rows: u64) -> Result<Tally, Corrupt> {
        let count = u64::from_le_bytes(input.array()?);
        let whole = i128::from_le_bytes(input.array()?);
        let atto = i128::from_le_bytes(input.array()?);
        let [scale] = input.array()?;
        let mut number = || {
            let whole = i128::from_le_bytes(input.array()?);
            let atto = i64::from_le_bytes(input.array()?);
            Decimal::from_parts(whole, atto).ok_or(Corrupt("a number is out of bounds"))
        };
        let (least, greatest) = (number()?, number()?);
        let tally = Tally { count, whole, atto, scale, least, greatest };
        if tally.is_possible(rows) { Ok(tally) } else { Err(Corrupt("a sum is out of bounds")) }
    }

    fn is_possible(&self, rows: u64) -> bool {
        let count = u128::from(self.count);
        let finest = if self.scale <= SCALE_MAX {
            10i128.pow(u32::from(SCALE_MAX - self.scale))
        } else {
            return false;
        };
        let attos = [self.atto, self.least.atto().into(), self.greatest.atto().into()];
        rows <= ROWS_MAX
            && self.count <= rows
            && (self.count > 0 || *self == Tally::default())
            && self.whole.unsigned_abs() <= count * u128::from(u64::MAX)
            && self.atto.unsigned_abs() <= count * (ATTOS - 1).unsigned_abs()
            && self.least <= self.greatest
            && attos.iter().all(|atto| atto % finest == 0)
    }
}
