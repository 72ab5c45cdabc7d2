//! Exact decimal numbers: what a cell may hold, and how a sum or an average is printed.
//!
//! A number is an optional sign, digits, and an optional point with digits: `12`, `-3.50`, `+7`,
//! `007`, `.5`, `5.`. There is no exponent, no thousands separator and no space. Its whole part is
//! at most 2^64 - 1 and it has at most 18 decimals; what does not fit is an error, never rounded.
//!
//! Whole part and decimals are kept, and summed, apart. So no sum of the numbers of one file can
//! overflow, and a sum is the same in whatever order its parts are added.

use std::fmt::Write;

/// The most decimals a number may have.
pub const SCALE_MAX: u8 = 18;

/// Units of the last possible decimal in one.
pub(crate) const ATTOS: i128 = 1_000_000_000_000_000_000;

/// Decimals that an average is given beyond those of its numbers.
const AVERAGE_EXTRA: u8 = 6;

/// Decimals computed of an average before rounding.
const AVERAGE_DIGITS: u8 = SCALE_MAX + AVERAGE_EXTRA;

/// One number: `whole + atto / 10^18`, both parts of the same sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal {
    whole: i128,
    atto: i64,
}

/// Why a text is no [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNumber {
    /// It is not written as a number.
    NotANumber,
    /// It is a number with a whole part beyond 2^64 - 1 or with more than 18 decimals.
    DoesNotFit,
}

impl Decimal {
    /// A number from its parts, if they are within bounds and agree in sign.
    pub fn from_parts(whole: i128, atto: i64) -> Option<Decimal> {
        let fits = whole.unsigned_abs() <= u128::from(u64::MAX)
            && i128::from(atto.unsigned_abs()) < ATTOS
            && whole.signum() * i128::from(atto).signum() >= 0;
        fits.then_some(Decimal { whole, atto })
    }

    /// The number that `text` writes, and how many decimals it is written with.
    ///
    /// # Errors
    /// [`BadNumber`] where it is none, or none that fits.
    ///
    /// ```
    /// use shmctl::agg::decimal::Decimal;
    /// let (number, scale) = Decimal::parse(b"-3.50").unwrap();
    /// assert_eq!((number.whole(), number.atto(), scale), (-3, -500_000_000_000_000_000, 2));
    /// ```
    #[inline]
    pub fn parse(text: &[u8]) -> Result<(Decimal, u8), BadNumber> {
        parse(text).ok_or_else(|| why_not(text))
    }

    /// The part before the point.
    pub fn whole(self) -> i128 {
        self.whole
    }

    /// The part behind the point, in units of 10^-18.
    pub fn atto(self) -> i64 {
        self.atto
    }
}

#[inline]
fn parse(text: &[u8]) -> Option<(Decimal, u8)> {
    let (negative, text) = split_sign(text);
    let (whole, digits) = leading_digits(text)?;
    let (decimals, scale) = match &text[digits..] {
        [] => (0, 0),
        [b'.', decimals @ ..] => decimal_part(decimals)?,
        _ => return None,
    };
    if digits + usize::from(scale) == 0 {
        return None;
    }
    let sign = if negative { -1 } else { 1 };
    let number = Decimal { whole: i128::from(whole) * i128::from(sign), atto: decimals * sign };
    Some((number, scale))
}

#[inline]
fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// The number that the digits at the front make, and how many they are; `None` if it is too large.
#[inline]
fn leading_digits(text: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, byte) in text.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Some((value, index));
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some((value, text.len()))
}

fn decimal_part(text: &[u8]) -> Option<(i64, u8)> {
    let scale = u8::try_from(text.len()).ok().filter(|scale| *scale <= SCALE_MAX)?;
    let (value, digits) = leading_digits(text)?;
    let atto = i64::try_from(value).ok()? * 10i64.pow(u32::from(SCALE_MAX - scale));
    (digits == text.len()).then_some((atto, scale))
}

#[cold]
fn why_not(text: &[u8]) -> BadNumber {
    let (_, text) = split_sign(text);
    let mut digits = 0;
    let mut points = 0;
    for byte in text {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'.' => points += 1,
            _ => return BadNumber::NotANumber,
        }
    }
    if digits > 0 && points <= 1 { BadNumber::DoesNotFit } else { BadNumber::NotANumber }
}

/// `whole + atto / 10^18` with `scale` decimals. The parts may differ in sign, and `atto` may be
/// more than a whole; decimals beyond `scale` are zero, as `scale` is the largest that was added.
pub(crate) fn to_text(whole: i128, atto: i128, scale: u8) -> String {
    let (negative, whole, atto) = normalise(whole, atto);
    digits_to_text(negative, whole, atto / 10u128.pow(u32::from(SCALE_MAX - scale)), scale)
}

/// `(whole + atto / 10^18) / count`, rounded half to even at six decimals more than `scale`.
///
/// `count` is at least 1 and at most 2^62, so no product below leaves 128 bits.
pub(crate) fn average_to_text(whole: i128, atto: i128, scale: u8, count: u64) -> String {
    let (negative, whole, atto) = normalise(whole, atto);
    let count = u128::from(count);
    let rest = whole % count * ATTOS.unsigned_abs() + atto;
    let extra = 10u128.pow(u32::from(AVERAGE_EXTRA));
    let decimals = rest / count * extra + rest % count * extra / count;
    let remainder = rest % count * extra % count;

    let scale = scale + AVERAGE_EXTRA;
    let unit = 10u128.pow(u32::from(AVERAGE_DIGITS - scale));
    // Twice what is cut off, against one unit of what is kept. The remainder counts only where the
    // computed decimals are exactly half, or where all of them are kept.
    let cut = match (decimals % unit * 2).cmp(&unit) {
        order if unit > 1 => order.then(remainder.cmp(&0)),
        _ => (remainder * 2).cmp(&count),
    };
    let kept = decimals / unit;
    let up = cut.is_gt() || (cut.is_eq() && kept % 2 == 1);
    let kept = kept + u128::from(up);
    let one = 10u128.pow(u32::from(scale));
    digits_to_text(negative, whole / count + kept / one, kept % one, scale)
}

/// Sign, whole part and less than one whole of attos.
fn normalise(whole: i128, atto: i128) -> (bool, u128, u128) {
    let mut whole = whole + atto / ATTOS;
    let mut atto = atto % ATTOS;
    if whole > 0 && atto < 0 {
        whole -= 1;
        atto += ATTOS;
    } else if whole < 0 && atto > 0 {
        whole += 1;
        atto -= ATTOS;
    }
    (whole < 0 || atto < 0, whole.unsigned_abs(), atto.unsigned_abs())
}

fn digits_to_text(negative: bool, whole: u128, decimals: u128, scale: u8) -> String {
    let sign = if negative && (whole, decimals) != (0, 0) { "-" } else { "" };
    let mut text = format!("{sign}{whole}");
    if scale > 0 {
        // Writing to a string does not fail.
        let _ = write!(text, ".{decimals:0width$}", width = usize::from(scale));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigInt;
    use proptest::prelude::*;
    use shm_testkit::depth::cases;

    fn round_trip(text: &str) -> String {
        let (number, scale) = Decimal::parse(text.as_bytes()).unwrap();
        to_text(number.whole(), i128::from(number.atto()), scale)
    }

    #[test]
    fn numbers_keep_their_digits() {
        for text in ["0", "12", "-3.50", "18446744073709551615", "-18446744073709551615"] {
            assert_eq!(round_trip(text), text);
        }
        let finest = "0.000000000000000001";
        assert_eq!(round_trip(finest), finest);
        for (text, same) in [("+7", "7"), ("007", "7"), (".5", "0.5"), ("5.", "5"), ("-0", "0")] {
            assert_eq!(round_trip(text), same);
        }
        let zeros = "0".repeat(300) + "9";
        assert_eq!(round_trip(&zeros), "9");
    }

    #[test]
    fn what_is_no_number_is_told_from_what_does_not_fit() {
        for text in ["", "-", ".", "+.", "1e5", "1,000", " 1", "1 ", "1.2.3", "--1", "x", "1-"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Err(BadNumber::NotANumber), "{text:?}");
        }
        for text in ["18446744073709551616", "-99999999999999999999999", "0.1234567890123456789"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Err(BadNumber::DoesNotFit), "{text:?}");
        }
        let long = b"99999999999999999999999999x";
        assert_eq!(Decimal::parse(long), Err(BadNumber::NotANumber));
    }

    #[test]
    fn order_is_the_order_of_the_numbers() {
        let texts = ["-2", "-1.5", "-1.2", "-0.5", "0", "0.25", "0.5", "1", "1.000000000000000001"];
        let numbers = texts.map(|text| Decimal::parse(text.as_bytes()).unwrap().0);
        assert!(numbers.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn averages_are_rounded_half_to_even() {
        assert_eq!(average_to_text(1, 0, 0, 3), "0.333333");
        assert_eq!(average_to_text(2, 0, 0, 3), "0.666667");
        assert_eq!(average_to_text(-2, 0, 0, 3), "-0.666667");
        // Exactly half a unit of the sixth decimal: to the even neighbour.
        assert_eq!(average_to_text(1, 0, 0, 2_000_000), "0.000000");
        assert_eq!(average_to_text(3, 0, 0, 2_000_000), "0.000002");
        // A hair more than half.
        assert_eq!(average_to_text(1, 0, 0, 1_999_999), "0.000001");
        assert_eq!(average_to_text(-1, 0, 0, 2_000_001), "0.000000");
        // A hair that shows only in the remainder, behind all computed decimals.
        assert_eq!(average_to_text(10i128.pow(12), 0, 0, 2 * 10u64.pow(18) - 1), "0.000001");
        // Rounding may carry through all decimals.
        assert_eq!(average_to_text(19_999_999, 0, 0, 10_000_000), "2.000000");
        assert_eq!(average_to_text(0, 1, 18, 2), "0.000000000000000000500000");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn sums_and_averages_agree_with_big_integers(
            whole in -(1i128 << 126)..(1i128 << 126),
            atto in -(1i128 << 122)..(1i128 << 122),
            scale in 0u8..=18,
            count in 1u64..=1 << 62,
        ) {
            let unit = 10i128.pow(u32::from(SCALE_MAX - scale));
            let atto = atto / unit * unit;
            let exact = BigInt::from(whole) * ATTOS + atto;
            prop_assert_eq!(big(&to_text(whole, atto, scale)) * unit, exact.clone());

            let text = average_to_text(whole, atto, scale, count);
            prop_assert_eq!(text.split_once('.').unwrap().1.len(), usize::from(scale) + 6);
            // The error is at most half a unit of the last place, and half only if that is even.
            let unit = BigInt::from(10).pow(u32::from(AVERAGE_DIGITS - scale - AVERAGE_EXTRA));
            let shown = big(&text);
            let error = shown.clone() * &unit * count - exact * BigInt::from(1_000_000);
            let (twice, limit) = (BigInt::from(error.magnitude().clone()) * 2, unit * count);
            prop_assert!(twice < limit || (twice == limit && !shown.magnitude().bit(0)));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Decimal::parse(&text);
        }

        #[test]
        fn text_of_a_number_is_itself(text in "(0|-?[1-9][0-9]{0,18})(\\.[0-9]{1,18})?") {
            prop_assert_eq!(round_trip(&text), text);
        }
    }

    /// All digits of a decimal text as one integer.
    fn big(text: &str) -> BigInt {
        text.replace('.', "").parse().unwrap()
    }
}
