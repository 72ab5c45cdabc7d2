//! The newest record alone: a value that one process sets, and all others read.
use super::Broadcast;
use super::cells::Place;
use super::shared::Mark;
use crate::stream::OneMapping;
use shm_core::trust::Crashing;
use std::fmt;

/// So often a read begins anew, each time because the publisher was faster.
const ROUNDS_MAX: u32 = if cfg!(any(shm_loom, shm_explore)) { 3 } else { 1 << 12 };

/// Why the newest value was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The value was written over during each of thousands of reads; or the broadcast has one cell,
    /// and its publisher stands still, or has died, amid a value.
    #[error("the value changes all the time")]
    Restless,
    /// Another process wrote nonsense into shared memory.
    #[error("the broadcast is corrupt")]
    Corrupt,
}

/// Reads the newest record of a lossy [`Broadcast`], as often as it likes: for settings, prices,
/// positions, of which the last one counts. It takes no row, writes nothing, and so needs no seat
/// and leaves nothing when its process dies.
///
/// Of two cells one keeps the value whatever happens to the publisher; more let a reader be slower.
pub struct Latest<T: OneMapping = Crashing> {
    broadcast: Broadcast<T>,
    copy: Vec<u8>,
}

impl<T: OneMapping> Latest<T> {
    pub(super) fn new(broadcast: Broadcast<T>) -> Latest<T> {
        Latest { broadcast, copy: Vec::new() }
    }

    /// Records that were published: another figure says that the value is another.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`].
    pub fn version(&self) -> Result<u64, ReadError> {
        self.broadcast.published().ok_or(ReadError::Corrupt)
    }

    /// The newest record and its number; `None` where there never was one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&mut self) -> Result<Option<(u64, &[u8])>, ReadError> {
        let cells = &self.broadcast.cells;
        for _ in 0..ROUNDS_MAX {
            let Some(number) = self.version()?.checked_sub(1) else { return Ok(None) };
            let at = Place::of(number, cells.count());
            if cells.look(at) == Mark::there(number) {
                let len = cells.len(at);
                if let Some(len) = len {
                    cells.copy(at, len, &mut self.copy);
                }
                if cells.is_still_there(at) {
                    let len = len.ok_or(ReadError::Corrupt)?;
                    return Ok(Some((number, &self.copy[..len])));
                }
            }
        }
        Err(ReadError::Restless)
    }
}

impl<T: OneMapping> fmt::Debug for Latest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").field("version", &self.version()).finish_non_exhaustive()
    }
}
