//! What is kept of one column in one group: count, sum, least and greatest.

use super::decimal::{self, ATTOS, Decimal, SCALE_MAX};
use super::query::Kind;
use super::wire::{Corrupt, Input, push_number, push_signed};

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

    /// Appends it in the form that [`decode`](Self::decode) reads: at least a byte. Decimals are
    /// counted in units of the last one that is written.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        push_number(out, self.count.into());
        if self.count == 0 {
            return;
        }
        out.push(self.scale);
        let unit = unit(self.scale);
        push_signed(out, self.whole);
        push_signed(out, self.atto / unit);
        for number in [self.least, self.greatest] {
            push_signed(out, number.whole());
            push_signed(out, i128::from(number.atto()) / unit);
        }
    }

    /// The tally of a group of `rows` rows. Its parts are held to what `rows` numbers can sum to,
    /// so that merging it overflows no more than adding them would.
    pub(crate) fn decode(input: &mut Input<'_>, rows: u64) -> Result<Tally, Corrupt> {
        const TOO_FINE: Corrupt = Corrupt("a number is out of bounds");
        let count = input.number_u64()?;
        if count == 0 {
            return Ok(Tally::default());
        }
        let [scale] = input.array()?;
        if scale > SCALE_MAX {
            return Err(TOO_FINE);
        }
        let attos = |units: i128| units.checked_mul(unit(scale)).ok_or(TOO_FINE);
        let (whole, atto) = (input.signed()?, attos(input.signed()?)?);
        let mut number = || {
            let (whole, atto) = (input.signed()?, attos(input.signed()?)?);
            let atto = i64::try_from(atto).map_err(|_| TOO_FINE)?;
            Decimal::from_parts(whole, atto).ok_or(TOO_FINE)
        };
        let (least, greatest) = (number()?, number()?);
        let tally = Tally { count, whole, atto, scale, least, greatest };
        if tally.is_possible(rows) { Ok(tally) } else { Err(Corrupt("a sum is out of bounds")) }
    }

    /// Whether so many rows, of at most [`SCALE_MAX`] decimals, can have it.
    fn is_possible(&self, rows: u64) -> bool {
        let count = u128::from(self.count);
        rows <= ROWS_MAX
            && self.count <= rows
            && self.whole.unsigned_abs() <= count * u128::from(u64::MAX)
            && self.atto.unsigned_abs() <= count * (ATTOS - 1).unsigned_abs()
            && self.least <= self.greatest
    }
}

/// The last of `scale` decimals, which are at most [`SCALE_MAX`], in attos.
fn unit(scale: u8) -> i128 {
    10_i128.pow(u32::from(SCALE_MAX.saturating_sub(scale)))
}
