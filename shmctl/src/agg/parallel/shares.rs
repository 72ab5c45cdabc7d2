//! What stands in the shared hash for one group: *shares*, each what one worker has counted of one
//! chunk.
//!
//! ```text
//!   value of a group:   settled | chunk 17 by worker 3.1 | chunk 18 by worker 4.2 | ...
//! ```
//!
//! A worker counts a chunk in private memory, then adds its share of that chunk to each group's
//! value, and then *commits* the chunk in the work cursor, by one compare-and-swap. So a chunk
//! counts from one moment on, in all its groups at once, and a share counts if, and only if, the
//! cursor says that its chunk is committed by its worker.
//!
//! | the cursor says of the share's chunk | the share |
//! | --- | --- |
//! | committed by the share's worker | counts, for good |
//! | claimed by the share's worker | may come to count, so it stays |
//! | anything else | never counts: that worker is dead and the chunk was given back, or the chunk's groups have gone as a message |
//!
//! The first and the last are for good: a commit is never undone, and the dead claim nothing. So
//! whoever writes a value next ([`fold`]) adds the shares that count to the settled one and leaves
//! out those that never will; a value has no more shares than there are workers, and one. A value
//! changes by `compare_update`, which compares its bytes; bytes that are the same mean the same.
//!
//! | death of a worker | leaves | what becomes of it |
//! | --- | --- | --- |
//! | counting | a claimed chunk | the leader gives it back |
//! | adding its shares | the same, and some shares | they never count; who writes to the group next leaves them out, and the leader at the end |
//! | after its commit | a chunk that counts | the leader learns of it by a message, or by asking the cursor when it hears of the death |
//!
//! A share is: a number (worker in its bits 32 to 63, chunk in the lower ones), then the group (rows,
//! tallies). The settled one has 0 for that number.
use crate::agg::groups::{Group, Shape};
use crate::agg::tally::ROWS_MAX;
use crate::agg::wire::{Corrupt, Input, push_number};
use bgworker::cursor::PieceState;
use shm_core::participants::ParticipantId;

/// Whose a share is: a worker, and one of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) worker: ParticipantId,
    /// Below 2^24, as a cursor's pieces are.
    pub(super) chunk: u64,
}

const SETTLED: u64 = 0;

impl Owner {
    fn to_bits(self) -> u64 {
        u64::from(self.worker.to_bits()) << 32 | self.chunk
    }

    fn from_bits(bits: u64) -> Option<Owner> {
        let worker = ParticipantId::from_bits((bits >> 32) as u32)?;
        Some(Owner { worker, chunk: bits & u64::from(u32::MAX) })
    }
}

/// What is to become of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Counts,
    Stays,
    Never,
}

impl Owner {
    fn fate(self, state: Option<PieceState>) -> Fate {
        match state {
            Some(PieceState::Committed(by)) if by == self.worker => Fate::Counts,
            Some(PieceState::Claimed(by)) if by == self.worker => Fate::Stays,
            _ => Fate::Never,
        }
    }
}

/// Writes over `out` the value that follows `had` where `mine` is `group`: `state` says how a chunk
/// stands. A share that is `mine` already is written anew.
///
/// # Errors
/// [`Corrupt`] for bytes that are no value of this shape.
pub(super) fn fold(
    shape: Shape,
    had: &[u8],
    state: impl Fn(u64) -> Option<PieceState>,
    (mine, group): (Owner, &Group),
    out: &mut Vec<u8>,
) -> Result<(), Corrupt> {
    let mut kept = Vec::new();
    let settled = settle(
        shape,
        had,
        |owner| match owner == mine {
            true => Fate::Never,
            false => owner.fate(state(owner.chunk)),
        },
        &mut kept,
    )?;
    out.clear();
    if let Some(settled) = settled {
        push(SETTLED, &settled, out);
    }
    out.extend(kept);
    push(mine.to_bits(), group, out);
    Ok(())
}

/// What counts of a value: none where nothing does.
///
/// # Errors
/// [`Corrupt`] for bytes that are no value of this shape.
pub(super) fn total(
    shape: Shape,
    value: &[u8],
    state: impl Fn(u64) -> Option<PieceState>,
) -> Result<Option<Group>, Corrupt> {
    settle(shape, value, |owner| owner.fate(state(owner.chunk)), &mut Vec::new())
}

/// The sum of what counts; what stays is appended to `kept`.
fn settle(
    shape: Shape,
    value: &[u8],
    fate: impl Fn(Owner) -> Fate,
    kept: &mut Vec<u8>,
) -> Result<Option<Group>, Corrupt> {
    let (mut input, mut sum) = (Input(value), None);
    while !input.0.is_empty() {
        let from = input.0;
        let bits = input.number_u64()?;
        let group = Group::decode(shape, &mut input)?;
        let fate = match bits {
            SETTLED => Fate::Counts,
            bits => fate(Owner::from_bits(bits).ok_or(Corrupt("a share is nobody's"))?),
        };
        match fate {
            Fate::Counts => add(&mut sum, group)?,
            Fate::Stays => kept.extend(&from[..from.len() - input.0.len()]),
            Fate::Never => {}
        }
    }
    Ok(sum)
}

fn add(sum: &mut Option<Group>, group: Group) -> Result<(), Corrupt> {
    let Some(sum) = sum else {
        *sum = Some(group);
        return Ok(());
    };
    // Neither is above ROWS_MAX, so this does not overflow.
    if sum.rows + group.rows > ROWS_MAX {
        return Err(Corrupt("a group has more rows than can be counted"));
    }
    sum.merge(&group);
    Ok(())
}

fn push(owner: u64, group: &Group, out: &mut Vec<u8>) {
    push_number(out, owner.into());
    group.encode_into(out);
}

#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
