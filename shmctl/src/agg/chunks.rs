//! How a file is cut into chunks, numbered from 0, for workers to claim.

use super::plan::Plan;
use super::scan::Chunk;
use super::wire::Corrupt;

/// The chunks of a file. Together they are the file behind its header, without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// All of the same size but the last, wherever records begin.
    Even {
        /// Start of the first.
        start: u64,
        /// End of the last.
        end: u64,
        /// Size of each.
        bytes: u64,
    },
    /// From the start of one record to the start of another: the starts, then the end of the last.
    Exact(Vec<u64>),
}

impl Chunks {
    /// Chunks of the size that the plan says.
    pub fn even(plan: &Plan) -> Chunks {
        let (start, end) = (plan.header_end(), plan.file_bytes());
        Chunks::Even { start, end, bytes: plan.chunk_bytes() }
    }

    /// Chunks of about that size, each with whole records: `next_start` tells where the first
    /// record behind such a range begins.
    ///
    /// # Errors
    /// Those of `next_start`.
    pub fn exact<E>(
        plan: &Plan,
        mut next_start: impl FnMut(u64, u64) -> Result<u64, E>,
    ) -> Result<Chunks, E> {
        let mut edges = vec![plan.header_end()];
        let mut start = plan.header_end();
        while start < plan.file_bytes() {
            start = next_start(start, start.saturating_add(plan.chunk_bytes()))?;
            edges.push(start);
        }
        Ok(Chunks::Exact(edges))
    }

    /// Exact chunks from the edges that another process wrote.
    ///
    /// # Errors
    /// [`Corrupt`] where they do not part the file of the plan into chunks.
    pub fn from_edges(plan: &Plan, edges: Vec<u64>) -> Result<Chunks, Corrupt> {
        let whole =
            edges.first() == Some(&plan.header_end()) && edges.last() == Some(&plan.file_bytes());
        let parts = whole && edges.is_sorted_by(|a, b| a < b);
        if parts { Ok(Chunks::Exact(edges)) } else { Err(Corrupt("the chunks are no chunks")) }
    }

    /// How many chunks there are.
    pub fn count(&self) -> u64 {
        match self {
            Chunks::Even { start, end, bytes } => (end - start).div_ceil(*bytes),
            Chunks::Exact(edges) => edges.len() as u64 - 1,
        }
    }

    /// Chunk number `index`.
    pub fn get(&self, index: u64) -> Option<Chunk> {
        if index >= self.count() {
            return None;
        }
        Some(match self {
            Chunks::Even { start, end, bytes } => {
                let start = start + index * bytes;
                Chunk { start, end: start.saturating_add(*bytes).min(*end), exact: false }
            }
            Chunks::Exact(edges) => {
                let index = index as usize;
                Chunk { start: edges[index], end: edges[index + 1], exact: true }
            }
        })
    }

    /// The edges of exact chunks; none where the chunks are even.
    pub fn edges(&self) -> &[u64] {
        match self {
            Chunks::Even { .. } => &[],
            Chunks::Exact(edges) => edges,
        }
    }

    /// All chunks, in order.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> {
        (0..self.count()).filter_map(|index| self.get(index))
    }
}
