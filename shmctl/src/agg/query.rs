//! What is asked: the columns to group by and the aggregates of others, found in a header.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The question in column names, as the user puts it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Columns to group by, in order; none makes one group of all rows.
    pub group_by: Vec<String>,
    /// Aggregates and the columns they are taken of.
    pub aggregates: Vec<(Kind, String)>,
}

/// A kind of aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The exact sum.
    Sum,
    /// The least number.
    Min,
    /// The greatest number.
    Max,
    /// The mean, rounded half to even at six decimals more than the numbers have.
    Avg,
}

impl Kind {
    /// All kinds, in the order of their results.
    pub const ALL: [Kind; 4] = [Kind::Sum, Kind::Min, Kind::Max, Kind::Avg];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Sum => "sum",
            Kind::Min => "min",
            Kind::Max => "max",
            Kind::Avg => "avg",
        })
    }
}

/// One result column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// What is computed.
    pub kind: Kind,
    /// Of which tally: an index into [`Query::tallied`].
    pub tally: usize,
}

/// The question resolved against the header of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    columns: Vec<String>,
    group_by: Vec<usize>,
    tallied: Vec<usize>,
    aggregates: Vec<Aggregate>,
}

/// A column of the request that the header does not settle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadColumn {
    /// There is no such column.
    #[error("no column {name:?}; there are: {}", list(.columns))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        columns: Vec<String>,
    },
    /// Several columns have this name.
    #[error("several columns are named {name:?}; rename all but one in the header line")]
    Ambiguous {
        /// The name asked for.
        name: String,
    },
}

/// A list for people, cut short where a file has hundreds of columns.
fn list(columns: &[String]) -> String {
    const SHOWN: usize = 40;
    let shown = columns[..columns.len().min(SHOWN)].join(", ");
    match columns.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Query {
    /// Finds the columns of a request among `columns`. What is asked for twice is answered once.
    ///
    /// # Errors
    /// [`BadColumn`] where a column is missing or named twice.
    pub fn resolve(columns: Vec<String>, request: &Request) -> Result<Query, BadColumn> {
        let mut group_by = Vec::new();
        for name in &request.group_by {
            push_once(&mut group_by, find(&columns, name)?);
        }
        let mut tallied = Vec::new();
        let mut aggregates = Vec::new();
        for (kind, name) in &request.aggregates {
            let tally = push_once(&mut tallied, find(&columns, name)?);
            push_once(&mut aggregates, Aggregate { kind: *kind, tally });
        }
        Ok(Query { columns, group_by, tallied, aggregates })
    }

    /// The names in the header.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The columns to group by.
    pub fn group_by(&self) -> &[usize] {
        &self.group_by
    }

    /// The columns whose numbers are tallied, each once.
    pub fn tallied(&self) -> &[usize] {
        &self.tallied
    }

    /// The result columns.
    pub fn aggregates(&self) -> &[Aggregate] {
        &self.aggregates
    }

    /// Name of the column that a tally is of.
    pub fn tallied_name(&self, tally: usize) -> &str {
        &self.columns[self.tallied[tally]]
    }

    /// Whether all indices are within bounds: asked of a query that another process wrote.
    pub(crate) fn is_possible(&self) -> bool {
        let columns = self.columns.len();
        self.group_by.iter().chain(&self.tallied).all(|column| *column < columns)
            && self.aggregates.iter().all(|aggregate| aggregate.tally < self.tallied.len())
    }
}

fn find(columns: &[String], name: &str) -> Result<usize, BadColumn> {
    let mut found = (0..columns.len()).filter(|index| columns[*index] == name);
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        (None, _) => Err(BadColumn::Unknown { name: name.to_owned(), columns: columns.to_vec() }),
        (Some(_), Some(_)) => Err(BadColumn::Ambiguous { name: name.to_owned() }),
    }
}

/// Where `item` is in `list`, at its end if it was not there.
fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|present| *present == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(group_by: &[&str], aggregates: &[(Kind, &str)]) -> Result<Query, BadColumn> {
        let request = Request {
            group_by: group_by.iter().map(|name| (*name).to_owned()).collect(),
            aggregates: aggregates.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect(),
        };
        Query::resolve(["a", "b", "c", "b"].map(str::to_owned).to_vec(), &request)
    }

    #[test]
    fn a_column_is_tallied_once_for_all_its_aggregates() {
        let query =
            resolve(&["c", "c"], &[(Kind::Sum, "a"), (Kind::Avg, "a"), (Kind::Sum, "a")]).unwrap();
        assert_eq!((query.group_by(), query.tallied()), (&[2][..], &[0][..]));
        assert_eq!(query.aggregates().len(), 2);
        assert!(query.is_possible());
    }

    #[test]
    fn an_unknown_column_is_told_with_those_there_are() {
        let error = resolve(&["z"], &[]).unwrap_err().to_string();
        assert_eq!(error, "no column \"z\"; there are: a, b, c, b");
    }

    #[test]
    fn a_name_that_two_columns_have_is_refused() {
        assert_eq!(
            resolve(&[], &[(Kind::Min, "b")]),
            Err(BadColumn::Ambiguous { name: "b".to_owned() })
        );
    }
}
