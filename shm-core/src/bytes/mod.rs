//! Payload bytes in shared memory: the copies, and the view that needs none.
//!
//! The copies are plain ones (`memcpy`), because the protocol of the structure that uses them
//! gives the mover sole ownership of the bytes it moves: what a sender has not published nobody
//! reads, what a receiver has not given back nobody writes. That holds among peers that may crash
//! at any instruction. A peer that writes bytes it does not own turns a plain copy into a data
//! race: against such peers the same words move by [`relaxed`] copies. Which of the two a
//! structure uses is said by its level of [`trust`](crate::trust).
//!
//! Under `--cfg shm_loom` each `Word` is a cell of loom's: a copy that overlaps another process's
//! access without an ordering between them fails the model, and each word copied is one access at
//! which the process may die. Under `--cfg shm_explore` each is a step of the explorer's.

#[cfg(not(any(shm_loom, shm_explore)))]
mod real;
#[cfg(not(any(shm_loom, shm_explore)))]
pub use real::*;

#[cfg(shm_loom)]
mod modelled;
#[cfg(shm_loom)]
pub use modelled::*;

#[cfg(shm_explore)]
mod explored;
#[cfg(shm_explore)]
pub use explored::*;

#[cfg(any(shm_loom, shm_explore))]
mod drafted;
#[cfg(any(shm_loom, shm_explore))]
pub use drafted::Draft;

/// Copies for bytes that a peer may be writing.
pub mod relaxed;

/// Payload bytes in one [`Word`].
pub const WORD_BYTES: usize = 8;

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_in_at_any_offset_comes_out_again() {
        let words: Vec<Word> = (0..4).map(|_| Word::new()).collect();
        for at in 0..32 {
            for len in 0..=32 - at {
                let bytes: Vec<u8> = (0..len).map(|i| (at * 37 + i) as u8).collect();
                let mut out = vec![0; len];
                // SAFETY: the words are this test's alone.
                unsafe { copy_in(&words, at, &bytes) };
                // SAFETY: as above.
                unsafe { copy_out(&words, at, &mut out) };
                assert_eq!(out, bytes);
                // SAFETY: as above, and nobody writes them while the view lives.
                let view = unsafe { View::new(&words, at, len) };
                assert_eq!(*view, bytes[..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside the words")]
    fn a_copy_past_the_end_panics() {
        let words = [Word::new()];
        // SAFETY: the words are this test's alone.
        unsafe { copy_in(&words, 4, &[0; 5]) };
    }
}
