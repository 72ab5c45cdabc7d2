//! What a worker tells its leader, one message of its queue each.
use crate::agg::groups::{Groups, Shape};
use crate::agg::scan::{ChunkStats, ScanError};
use crate::agg::wire::{Corrupt, Input};

const DONE: u8 = 1;
const FAULT: u8 = 2;
const QUOTED: u8 = 3;
const COMMITTED: u8 = 4;
const UNSHARED: u8 = 5;

/// A message as it arrived.
#[derive(Debug)]
pub(super) enum Message {
    /// A chunk is done, and these are its groups. As one message: a chunk arrives whole or not at
    /// all.
    Done { chunk: u64, stats: ChunkStats, groups: Groups },
    /// A chunk cannot be done.
    Fault { chunk: u64, error: ScanError },
    /// Lines are not records in this file: see [`Scan::Quoted`](crate::agg::scan::Scan::Quoted).
    Quoted,
    /// A chunk is done and committed; its groups are in the shared hash. That it counts is for the
    /// cursor to say.
    Committed { chunk: u64, stats: ChunkStats },
    /// The worker cannot use the shared hash, for this reason: its groups come as messages.
    Unshared { why: String },
}

/// Writes a [`Message::Done`] over `out`.
pub(super) fn encode_done(chunk: u64, stats: &ChunkStats, groups: &Groups, out: &mut Vec<u8>) {
    encode_stats(DONE, chunk, stats, out);
    groups.encode_into(out);
}

/// Writes a [`Message::Committed`] over `out`.
pub(super) fn encode_committed(chunk: u64, stats: &ChunkStats, out: &mut Vec<u8>) {
    encode_stats(COMMITTED, chunk, stats, out);
}

fn encode_stats(tag: u8, chunk: u64, stats: &ChunkStats, out: &mut Vec<u8>) {
    out.clear();
    out.push(tag);
    for number in [chunk, stats.rows, stats.bytes, stats.next] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Writes a [`Message::Fault`] over `out`.
pub(super) fn encode_fault(chunk: u64, error: &ScanError, out: &mut Vec<u8>) {
    out.clear();
    out.push(FAULT);
    out.extend_from_slice(&chunk.to_le_bytes());
    // An enum of integers and strings has a JSON form, so this does not fail.
    out.extend(serde_json::to_vec(error).unwrap_or_default());
}

/// Writes a [`Message::Quoted`] over `out`.
pub(super) fn encode_quoted(out: &mut Vec<u8>) {
    out.clear();
    out.push(QUOTED);
}

/// Writes a [`Message::Unshared`] over `out`.
pub(super) fn encode_unshared(why: &str, out: &mut Vec<u8>) {
    out.clear();
    out.push(UNSHARED);
    out.extend(why.as_bytes());
}

impl Message {
    /// The message in `bytes`, which another process wrote.
    pub(super) fn decode(shape: Shape, bytes: &[u8]) -> Result<Message, Corrupt> {
        let mut input = Input(bytes);
        let [tag] = input.array()?;
        match tag {
            DONE => {
                let (chunk, stats) = decode_stats(&mut input)?;
                let groups = Groups::decode(shape, input.0)?;
                Ok(Message::Done { chunk, stats, groups })
            }
            FAULT => {
                let chunk = u64::from_le_bytes(input.array()?);
                let error = serde_json::from_slice(input.0);
                let error = error.map_err(|_| Corrupt("the fault of a chunk is not readable"))?;
                Ok(Message::Fault { chunk, error })
            }
            QUOTED => Ok(Message::Quoted),
            COMMITTED => {
                let (chunk, stats) = decode_stats(&mut input)?;
                Ok(Message::Committed { chunk, stats })
            }
            UNSHARED => {
                let why = String::from_utf8_lossy(input.0).into_owned();
                Ok(Message::Unshared { why })
            }
            _ => Err(Corrupt("its kind is unknown")),
        }
    }
}

fn decode_stats(input: &mut Input<'_>) -> Result<(u64, ChunkStats), Corrupt> {
    let mut number = || input.array().map(u64::from_le_bytes);
    let chunk = number()?;
    Ok((chunk, ChunkStats { rows: number()?, bytes: number()?, next: number()? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shm_testkit::depth::cases;

    #[test]
    fn faults_arrive_as_they_were() {
        let mut bytes = Vec::new();
        encode_fault(7, &ScanError::Changed, &mut bytes);
        let shape = Shape { keys: 1, tallies: 1 };
        match Message::decode(shape, &bytes) {
            Ok(Message::Fault { chunk: 7, error: ScanError::Changed }) => {}
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(cases(256)))]

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>, tag in 0..7u8) {
            let shape = Shape { keys: 1, tallies: 1 };
            let _ = Message::decode(shape, &bytes);
            let _ = Message::decode(shape, &[&[tag], &bytes[..]].concat());
        }
    }
}
