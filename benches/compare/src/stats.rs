//! What figures come to: quantiles of a round, medians of rounds.

/// The value that this part of all are not above. Sorts them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Of those that are there: a cell that failed left none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut there: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    quantile(&mut there, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_their_place() {
        let mut values: Vec<f64> = (0..=1000).rev().map(f64::from).collect();
        assert_eq!(
            [0.5, 0.99, 0.999, 1.0].map(|part| quantile(&mut values, part)),
            [500.0, 990.0, 999.0, 1000.0]
        );
    }

    #[test]
    fn a_median_leaves_out_what_is_not_there() {
        assert_eq!(median([3.0, f64::NAN, 1.0, 2.0]), 2.0);
        assert!(median([f64::NAN]).is_nan());
    }
}
