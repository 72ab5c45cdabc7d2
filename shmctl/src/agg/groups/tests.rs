use super::*;
use crate::agg::query::Kind;
use crate::agg::wire::push_signed;
use proptest::prelude::*;

const TWO_KEYS: Shape = Shape { keys: 2, tallies: 2 };

type Row = ([String; 2], [Option<String>; 2]);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let cell = "[ab1-3é]{0,2}";
    let number = proptest::option::of("-?[0-9]{1,19}(\\.[0-9]{1,18})?");
    proptest::collection::vec(([cell, cell], [number.clone(), number]), 0..40)
}

fn fill(rows: &[Row]) -> Groups {
    let mut groups = Groups::new(TWO_KEYS);
    for (cells, numbers) in rows {
        let key = join_key(&[&cells[0], &cells[1]]);
        let tallies = groups.add_record(&key).unwrap();
        for (tally, number) in tallies.iter_mut().zip(numbers) {
            if let Some(number) = number {
                let (number, scale) = Decimal::parse(number.as_bytes()).unwrap();
                tally.add(number, scale);
            }
        }
    }
    groups
}

fn encoded(groups: &Groups) -> Vec<u8> {
    let mut bytes = Vec::new();
    groups.encode_into(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn parts_merged_in_any_order_are_the_whole(rows in rows(), cut in 0usize..40) {
        let (first, second) = rows.split_at(cut.min(rows.len()));
        let (first, second, whole) = (fill(first), fill(second), fill(&rows));
        let mut merged = first.clone();
        merged.merge(second.clone()).unwrap();
        prop_assert_eq!(&merged, &whole);
        prop_assert_eq!(merged.first_difference(&whole), None);
        let mut merged = second;
        merged.merge(first).unwrap();
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn decoding_gives_back_what_was_encoded(rows in rows()) {
        let groups = fill(&rows);
        prop_assert_eq!(Groups::decode(TWO_KEYS, &encoded(&groups)), Ok(groups));
    }

    #[test]
    fn cut_off_bytes_are_refused(rows in rows(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&fill(&rows));
        prop_assert!(Groups::decode(TWO_KEYS, &bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn hostile_bytes_are_refused_or_as_good_as_ours(
        rows in rows(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        shape in (0usize..3, 0usize..3),
    ) {
        let mut bytes = encoded(&fill(&rows));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let shape = Shape { keys: shape.0, tallies: shape.1 };
        for shape in [TWO_KEYS, shape] {
            if let Ok(groups) = Groups::decode(shape, &bytes) {
                use_in_every_way(groups);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for shape in [TWO_KEYS, Shape { keys: 0, tallies: 0 }] {
            if let Ok(groups) = Groups::decode(shape, &bytes) {
                use_in_every_way(groups);
            }
        }
    }
}

/// What decoded must merge, sort and print without a panic or an overflow.
fn use_in_every_way(groups: Groups) {
    assert_eq!(Groups::decode(groups.shape, &encoded(&groups)).as_ref(), Ok(&groups));
    let mut twice = groups.clone();
    if twice.merge(groups).is_err() {
        return;
    }
    for (_, group) in twice.sorted() {
        for tally in &group.tallies {
            let _ = Kind::ALL.map(|kind| tally.result(kind));
        }
    }
}

/// One group, one tally: the extreme that a decoder accepts, merged until the rows are used up.
#[test]
fn extreme_partial_answers_do_not_overflow() {
    let shape = Shape { keys: 1, tallies: 1 };
    let rows = ROWS_MAX / 2;
    let most = i128::from(u64::MAX) * i128::from(rows);
    let atto = 999_999_999_999_999_999i64;
    let message = |whole: i128, decimals: i128| {
        let mut bytes = Vec::from(1u64.to_le_bytes());
        bytes.extend([1, b'k']);
        push_number(&mut bytes, rows.into());
        push_number(&mut bytes, rows.into());
        bytes.push(18);
        let least = [-i128::from(u64::MAX), -i128::from(atto)];
        for part in [whole, decimals].into_iter().chain(least).chain(least.map(|part| -part)) {
            push_signed(&mut bytes, part);
        }
        bytes
    };
    let decimals = i128::from(atto) * i128::from(rows);
    let part = Groups::decode(shape, &message(most, decimals)).unwrap();
    let mut whole = part.clone();
    whole.merge(part.clone()).unwrap();
    assert_eq!(whole.merge(part), Err(NotAdded::TooManyRows));
    let sorted = whole.sorted();
    let average = sorted[0].1.tallies[0].result(Kind::Avg).unwrap();
    assert_eq!(average, "18446744073709551615.999999999999999999000000");

    assert!(Groups::decode(shape, &message(most + 1, 0)).is_err());
    assert!(Groups::decode(shape, &message(0, -decimals - 1)).is_err());
}

#[test]
fn decimals_beyond_the_scale_are_refused() {
    let shape = Shape { keys: 1, tallies: 1 };
    let mut groups = Groups::new(shape);
    let (number, scale) = Decimal::parse(b"0.5").unwrap();
    groups.add_record(b"k").unwrap()[0].add(number, scale);
    let mut bytes = encoded(&groups);
    // Behind group count, key, rows, and the tally's count.
    let scale_at = 8 + 1 + 1 + 1 + 1;
    assert_eq!(bytes[scale_at], 1);
    for (scale, possible) in [(1, true), (0, false), (18, true), (19, false)] {
        bytes[scale_at] = scale;
        assert_eq!(Groups::decode(shape, &bytes).is_ok(), possible, "{scale}");
    }
}

#[test]
fn keys_sort_as_numbers_and_then_as_text() {
    let mut groups = Groups::new(Shape { keys: 1, tallies: 0 });
    for key in ["10", "9", "x", "", "-1", "1.0", "1", "X"] {
        groups.add_record(key.as_bytes()).unwrap();
    }
    let keys: Vec<_> = groups.sorted().into_iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, ["-1", "1", "1.0", "9", "10", "", "X", "x"]);
}

#[test]
fn keys_of_several_cells_are_not_mixed_up() {
    let mut groups = Groups::new(TWO_KEYS);
    groups.add_record(&join_key(&["a", "bc"])).unwrap();
    groups.add_record(&join_key(&["ab", "c"])).unwrap();
    assert_eq!(groups.len(), 2);
}

#[test]
fn a_key_that_is_not_text_names_its_column() {
    let mut groups = Groups::new(TWO_KEYS);
    let mut key = Vec::new();
    push_cell(&mut key, b"fine", false);
    push_cell(&mut key, b"\xff", true);
    assert_eq!(groups.add_record(&key), Err(NotAdded::NotUtf8(1)));
    assert!(groups.is_empty());
}

#[test]
fn a_difference_is_named_by_its_key() {
    let shape = Shape { keys: 1, tallies: 0 };
    let (mut one, mut two) = (Groups::new(shape), Groups::new(shape));
    one.add_record(b"same").unwrap();
    two.add_record(b"same").unwrap();
    assert_eq!(one.first_difference(&two), None);
    two.add_record(b"more").unwrap();
    assert_eq!(one.first_difference(&two).as_deref(), Some("more"));
    one.add_record(b"same").unwrap();
    assert_eq!(one.first_difference(&two).as_deref(), Some("same"));
}
