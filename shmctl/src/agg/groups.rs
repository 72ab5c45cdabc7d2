//! Groups and their tallies: filled row by row, merged, and sent from process to process.
//!
//! A group is found by its key, the bytes of its key columns. With one column the key is that
//! cell; with several, each cell but the last is preceded by its length (u32, little endian).

use super::decimal::Decimal;
use super::query::Query;
use super::tally::{ROWS_MAX, Tally};
use super::wire::{Corrupt, Input, push_number};
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;

/// How many columns a key has, and how many tallies a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Columns in a key.
    pub keys: usize,
    /// Tallies in a group.
    pub tallies: usize,
}

impl From<&Query> for Shape {
    fn from(query: &Query) -> Shape {
        Shape { keys: query.group_by().len(), tallies: query.tallied().len() }
    }
}

/// A partial or whole answer: for each key, the rows counted and the numbers tallied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    shape: Shape,
    rows: u64,
    map: HashMap<Vec<u8>, Group>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Rows in the group.
    pub rows: u64,
    /// One tally per tallied column.
    pub tallies: Box<[Tally]>,
}

/// Why a row was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// The cell of this key column (its place in the key) is not UTF-8.
    NotUtf8(usize),
    /// There are [`ROWS_MAX`] rows already.
    TooManyRows,
}

impl Groups {
    /// No groups yet.
    pub fn new(shape: Shape) -> Groups {
        Groups { shape, rows: 0, map: HashMap::new() }
    }

    /// Rows in all groups.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Counts a row in the group of `key` and gives the group's tallies, to add its numbers to.
    /// A known key allocates nothing.
    ///
    /// # Errors
    /// [`NotAdded`] where a new key is not text, or no more rows can be counted.
    #[inline]
    pub fn add_record(&mut self, key: &[u8]) -> Result<&mut [Tally], NotAdded> {
        if self.rows >= ROWS_MAX {
            return Err(NotAdded::TooManyRows);
        }
        let group = match self.map.entry_ref(key) {
            EntryRef::Occupied(group) => group.into_mut(),
            EntryRef::Vacant(place) => {
                check_text(key, self.shape.keys)?;
                let tallies = vec![Tally::default(); self.shape.tallies].into_boxed_slice();
                place.insert(Group { rows: 0, tallies })
            }
        };
        group.rows += 1;
        self.rows += 1;
        Ok(&mut group.tallies)
    }

    /// Adds another answer to this one.
    ///
    /// # Errors
    /// [`NotAdded::TooManyRows`], and then nothing has been added.
    ///
    /// # Panics
    /// Where the two answers differ in shape.
    pub fn merge(&mut self, other: Groups) -> Result<(), NotAdded> {
        assert_eq!(self.shape, other.shape, "answers to the same question");
        // Neither is above ROWS_MAX, so this does not overflow; and a group has fewer than all.
        if self.rows + other.rows > ROWS_MAX {
            return Err(NotAdded::TooManyRows);
        }
        self.rows += other.rows;
        if self.map.is_empty() {
            self.map = other.map;
            return Ok(());
        }
        for (key, group) in other.map {
            match self.map.entry(key) {
                hashbrown::hash_map::Entry::Occupied(mine) => mine.into_mut().merge(&group),
                hashbrown::hash_map::Entry::Vacant(place) => {
                    place.insert(group);
                }
            }
        }
        Ok(())
    }

    /// Adds one group that another process has counted.
    ///
    /// # Errors
    /// [`NotAdded`], and then nothing has been added.
    ///
    /// # Panics
    /// Where it has another number of tallies.
    pub(crate) fn merge_group(&mut self, key: &[u8], group: Group) -> Result<(), NotAdded> {
        assert_eq!(self.shape.tallies, group.tallies.len(), "an answer to the same question");
        let rows = self.rows.checked_add(group.rows).filter(|rows| *rows <= ROWS_MAX);
        let rows = rows.ok_or(NotAdded::TooManyRows)?;
        match self.map.entry_ref(key) {
            EntryRef::Occupied(mine) => mine.into_mut().merge(&group),
            EntryRef::Vacant(place) => {
                check_text(key, self.shape.keys)?;
                place.insert(group);
            }
        }
        self.rows = rows;
        Ok(())
    }

    /// All groups with their keys, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Group)> {
        self.map.iter().map(|(key, group)| (&**key, group))
    }

    /// All groups by key: numbers first, in their order, then texts by their bytes.
    pub fn sorted(&self) -> Vec<(Vec<&str>, &Group)> {
        let mut groups: Vec<_> = self
            .map
            .iter()
            .map(|(key, group)| {
                let cells = cells(key, self.shape.keys).map(text).collect::<Vec<_>>();
                let order = cells.iter().map(|cell| SortKey::of(cell)).collect::<Vec<_>>();
                (order, cells, group)
            })
            .collect();
        groups.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        groups.into_iter().map(|(_, cells, group)| (cells, group)).collect()
    }

    /// The first key whose group is not the same in both answers, as text for a message.
    pub fn first_difference(&self, other: &Groups) -> Option<String> {
        let (mine, theirs) = (self.sorted(), other.sorted());
        let differs = |(key, group): &&(Vec<&str>, &Group), map: &Groups| {
            map.map.get(&join_key(key)) != Some(*group)
        };
        let missing = theirs.iter().find(|group| differs(group, self));
        mine.iter().find(|group| differs(group, other)).or(missing).map(|(key, _)| key.join(", "))
    }

    /// Appends this answer in the form that [`decode`](Self::decode) reads.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend((self.map.len() as u64).to_le_bytes());
        for (key, group) in &self.map {
            push_number(out, key.len() as u128);
            out.extend(&**key);
            group.encode_into(out);
        }
    }

    /// Reads an answer that another process wrote.
    ///
    /// # Errors
    /// [`Corrupt`] for bytes that no `encode_into` of this shape writes. Work and memory are
    /// bounded by the length of `bytes`, whatever they say.
    pub fn decode(shape: Shape, bytes: &[u8]) -> Result<Groups, Corrupt> {
        let mut input = Input(bytes);
        let count = u64::from_le_bytes(input.array()?);
        // The key's length, the rows, and each tally have at least a byte.
        let least_bytes = 1 + 1 + shape.tallies;
        if count > (input.0.len() / least_bytes) as u64 {
            return Err(Corrupt("it counts more groups than it has"));
        }
        let mut groups = Groups::new(shape);
        groups.map.reserve(count as usize);
        for _ in 0..count {
            groups.decode_group(&mut input)?;
        }
        if input.0.is_empty() { Ok(groups) } else { Err(Corrupt("bytes follow its end")) }
    }

    fn decode_group(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let key_len = input.number_u64()?;
        let key = input.take(usize::try_from(key_len).unwrap_or(usize::MAX))?;
        check_text(key, self.shape.keys).map_err(|_| Corrupt("a key is not text"))?;
        let group = Group::decode(self.shape, input)?;
        let all_rows = self.rows.checked_add(group.rows).filter(|all| *all <= ROWS_MAX);
        self.rows = all_rows.ok_or(TOO_MANY_ROWS)?;
        match self.map.insert(key.to_vec(), group) {
            None => Ok(()),
            Some(_) => Err(Corrupt("a key comes twice")),
        }
    }
}

const TOO_MANY_ROWS: Corrupt = Corrupt("a row count is out of bounds");

impl Group {
    /// Adds what `other` has counted. The caller sees to [`ROWS_MAX`].
    pub(crate) fn merge(&mut self, other: &Group) {
        self.rows += other.rows;
        for (mine, theirs) in self.tallies.iter_mut().zip(&other.tallies) {
            mine.merge(theirs);
        }
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        push_number(out, self.rows.into());
        for tally in &self.tallies {
            tally.encode_into(out);
        }
    }

    /// A group of this shape that another process wrote: of 1 to [`ROWS_MAX`] rows.
    pub(crate) fn decode(shape: Shape, input: &mut Input<'_>) -> Result<Group, Corrupt> {
        let rows = input.number_u64()?;
        if !(1..=ROWS_MAX).contains(&rows) {
            return Err(TOO_MANY_ROWS);
        }
        let tallies = (0..shape.tallies).map(|_| Tally::decode(input, rows));
        Ok(Group { rows, tallies: tallies.collect::<Result<_, Corrupt>>()? })
    }
}

/// Appends one cell to a key; `last` says whether it is the last one.
#[inline]
pub(crate) fn push_cell(key: &mut Vec<u8>, cell: &[u8], last: bool) {
    if !last {
        // A record, and so a cell, is far shorter than 4 GiB (`scan::RECORD_BYTES_MAX`).
        key.extend((cell.len() as u32).to_le_bytes());
    }
    key.extend(cell);
}

fn join_key(cells: &[&str]) -> Vec<u8> {
    let mut key = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        push_cell(&mut key, cell.as_bytes(), index + 1 == cells.len());
    }
    key
}

/// The cells of a key of this process, or of one that was checked.
fn cells(key: &[u8], keys: usize) -> impl Iterator<Item = &[u8]> {
    split_key(key, keys).map(|cell| cell.unwrap_or_default())
}

/// The cells of any bytes as a key; an error, then nothing sensible, where they are none.
fn split_key(key: &[u8], keys: usize) -> impl Iterator<Item = Result<&[u8], Corrupt>> {
    let mut input = Input(key);
    (0..keys).map(move |index| {
        if index + 1 == keys {
            return input.take(input.0.len());
        }
        let len = u32::from_le_bytes(input.array()?);
        input.take(len as usize)
    })
}

/// Whether a new key is made of `keys` cells of UTF-8.
#[cold]
fn check_text(key: &[u8], keys: usize) -> Result<(), NotAdded> {
    if keys == 0 && !key.is_empty() {
        return Err(NotAdded::NotUtf8(0));
    }
    for (index, cell) in split_key(key, keys).enumerate() {
        let is_text = cell.is_ok_and(|cell| std::str::from_utf8(cell).is_ok());
        if !is_text {
            return Err(NotAdded::NotUtf8(index));
        }
    }
    Ok(())
}

/// A cell of a key in the map: `check_text` has passed it.
fn text(cell: &[u8]) -> &str {
    std::str::from_utf8(cell).unwrap_or_default()
}

/// Numbers before texts; equal numbers (`1`, `1.0`) by their text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey<'a> {
    Number(Decimal, &'a str),
    Text(&'a str),
}

impl SortKey<'_> {
    fn of(cell: &str) -> SortKey<'_> {
        match Decimal::parse(cell.as_bytes()) {
            Ok((number, _)) => SortKey::Number(number, cell),
            Err(_) => SortKey::Text(cell),
        }
    }
}

#[cfg(test)]
mod tests;
