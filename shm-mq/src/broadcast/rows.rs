//! The rows of the subscribers: taking one, giving it back, and how far the slowest is.
//!
//! A lossless publisher looks at the rows only when it has used up what it found the last time. So
//! who comes in between, and wants records that are still there, has to agree with it on where he
//! begins. Both change one word, `horizon`:
//!
//! | subscriber | publisher, before it goes up to h |
//! | --- | --- |
//! | (A) its position, then its row is open | (C) swaps `horizon` for h |
//! | (B) looks at `horizon`, by a read-modify-write | (D) looks at the rows |
//! | begins at `horizon` less the cells, or after | goes up to h, or to the slowest plus the cells |
//!
//! Of (B) and (C) one comes first. If (B), then (C) has read what it wrote, and (D) sees the row.
//! If (C), then (B) finds h, and the subscriber begins where h harms nothing. Up to there it may
//! stand in its row too far back: then (D) finds no room, or what is less than h.
use super::shared::{Claim, NUMBER_MAX, Row, Shared};
use super::{Broadcast, Start, SubscribeError};
use crate::stream::OneMapping;
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Liveness;
use shm_core::sync::{Ordering, fence};

/// So many records on from where it is, a lossless publisher says that it will go before it looks
/// at the rows again: by so many, at most, late joiners find less than the ring holds.
pub(super) const fn stride(cells: u64) -> u64 {
    if cells < 16 { 1 } else { cells / 8 }
}

/// Moves a row from one claim to another; whether it was as said.
fn change(row: &Row, from: Claim, to: Claim) -> bool {
    // Pairs with the Acquires in `look_at_rows` and `reap_rows`: the position, the owner's seat,
    // and its last look at a record.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    row.claim.compare_exchange(from.to_bits(), to.to_bits(), ok, err).is_ok()
}

/// A free row, from now on that of `me`, who says its position next.
fn claim_row(rows: &[Row], me: ParticipantId) -> Option<usize> {
    let is_taken = |row: &Row| {
        let bits = row.claim.load(Ordering::Relaxed);
        if Claim::from_bits(bits) != Claim::Free {
            return false;
        }
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        row.claim.compare_exchange(bits, Claim::Joining(me).to_bits(), ok, err).is_ok()
    };
    let index = rows.iter().position(is_taken)?;
    // Pairs with the Release in `change`: the last owner wrote its position before ours.
    fence(Ordering::Acquire);
    Some(index)
}

/// Frees the rows of the dead: how many.
pub(super) fn reap_rows(rows: &[Row], me: &Member) -> usize {
    let is_reaped = |row: &&Row| {
        // Relaxed: the proof of the death orders what the dead one did.
        let claim = Claim::from_bits(row.claim.load(Ordering::Relaxed));
        let is_dead = |owner| me.table().liveness(owner) == Liveness::Dead;
        claim.owner().is_some_and(is_dead) && change(row, claim, Claim::Free)
    };
    rows.iter().filter(is_reaped).count()
}

/// Whether the row is still open for its owner.
pub(super) fn is_open(row: &Row, me: ParticipantId) -> bool {
    row.claim.load(Ordering::Relaxed) == Claim::Open(me).to_bits()
}

/// Gives a row back.
pub(super) fn leave_row(shared: &Shared, row: &Row, me: ParticipantId) {
    let all = [Claim::Open(me), Claim::Joining(me), Claim::Struck(me)];
    let _ = all.into_iter().any(|claim| change(row, claim, Claim::Free));
    shared.left.notify();
}

/// How far a publisher that is at record `number` may go: to `horizon`, or as far as the slowest
/// subscriber lets it, and whose row that is.
pub(super) fn look_at_rows(
    rows: &[Row],
    number: u64,
    horizon: u64,
    cells: u64,
) -> (u64, Option<ParticipantId>) {
    let (mut limit, mut slowest) = (horizon, None);
    for row in rows {
        // Pairs with the Release in `change`: its position; of who left, the last look at a record.
        let claim = Claim::from_bits(row.claim.load(Ordering::Acquire));
        let Claim::Open(owner) = claim else { continue };
        // Pairs with the Release in `Cursor::release`: the last look at the records before.
        let position = row.position.load(Ordering::Acquire);
        if position > number {
            // No record is there yet that it can have read: a lie, and nobody waits for a liar.
            change(row, claim, Claim::Struck(owner));
            continue;
        }
        // Who is too far back is about to say where he begins, or lies: there is no room.
        let end = position.max(number.saturating_sub(cells)) + cells;
        if end < limit {
            (limit, slowest) = (end, Some(owner));
        }
    }
    (limit, slowest)
}

/// Frees the rows of a dead one that held the publisher back.
pub(super) fn free_dead(rows: &[Row], dead: ParticipantId) {
    for row in rows.iter().filter(|row| is_open(row, dead)) {
        change(row, Claim::Open(dead), Claim::Free);
    }
}

/// Nobody is to wait for the owner of this row, which reads no more.
pub(super) fn strike_row(shared: &Shared, row: &Row, me: ParticipantId) {
    if change(row, Claim::Open(me), Claim::Struck(me)) {
        shared.left.notify();
    }
}

/// Takes a row for `me`, from the record on that `start` says: which row, which record.
pub(super) fn take_row<T: OneMapping>(
    broadcast: &Broadcast<T>,
    me: &Member,
    start: Start,
) -> Result<(usize, u64), SubscribeError> {
    let (rows, shared) = (&broadcast.rows, &broadcast.shared);
    let index = claim_row(rows, me.id()).or_else(|| {
        broadcast.reap(me);
        claim_row(rows, me.id())
    });
    let index = index.ok_or(SubscribeError::Full { rows: rows.len() as u32 })?;
    match open_row(broadcast, &rows[index], me.id(), start) {
        Some(number) => Ok((index, number)),
        None => {
            leave_row(shared, &rows[index], me.id());
            Err(SubscribeError::Corrupt)
        }
    }
}

/// Agrees with the publisher on where a new subscriber begins; `None` where there is nonsense.
fn open_row<T: OneMapping>(
    broadcast: &Broadcast<T>,
    row: &Row,
    me: ParticipantId,
    start: Start,
) -> Option<u64> {
    let (shared, cells) = (&broadcast.shared, broadcast.cells.count());
    let published = broadcast.published()?;
    let mut number = match start {
        Start::Next => published,
        Start::Newest => published.saturating_sub(1),
        Start::Oldest => broadcast.cells.oldest(published),
    };
    row.missed.store(0, Ordering::Relaxed);
    row.position.store(number, Ordering::Relaxed);
    if !change(row, Claim::Joining(me), Claim::Open(me)) {
        return None;
    }
    if !broadcast.cells.is_lossy() {
        // Pairs with the Acquire in `look_for_room`, which then sees our row; and with the fence in
        // `notify` before it: what was published.
        let horizon = shared.horizon.fetch_add(0, Ordering::AcqRel);
        let safe = horizon.saturating_sub(cells);
        if safe > number {
            let is_sane = horizon <= NUMBER_MAX && broadcast.published()? >= safe;
            number = is_sane.then_some(safe)?;
            // We have looked at nothing before it. The publisher may have seen us too far back.
            row.position.store(number, Ordering::Relaxed);
            shared.left.notify();
        }
    }
    Some(number)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_dead_one_that_has_many_rows_is_looked_past_once() {
        let [dead, other] = [1, 2].map(|bits| ParticipantId::from_bits(bits).unwrap());
        let row = |claim: Claim| {
            let row = Row::new();
            row.claim.store(claim.to_bits(), Ordering::Relaxed);
            row
        };
        let rows = [dead, dead, other, dead].map(|id| row(Claim::Open(id)));
        assert_eq!(look_at_rows(&rows, 2, 3, 2), (2, Some(dead)));
        free_dead(&rows, dead);
        assert_eq!(look_at_rows(&rows, 2, 3, 2), (2, Some(other)));
    }
}
