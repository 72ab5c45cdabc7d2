//! Fuzz targets: plain functions over bytes, which panic where something is wrong.
//!
//! Those that are called after a structure take the bytes for its memory: they are laid over a
//! valid image by exclusive-or, so that all zero is the truth and each bit that is set is a lie.
//! Those that end in `_ops` take them for operations of several participants, with deaths and lies
//! among them, and compare what comes of them with a plain model, until the first lie.
//!
//! `cargo +nightly fuzz run TARGET` looks for more; `cargo test -p fuzz` replays what is in
//! `corpus/TARGET/`; `cargo run -p fuzz --bin TARGET FILE…` replays a reproducer.
//!
//! Modules, lowest first; each uses only those above it.

// A valid image in a guarded block, with the bytes of the fuzzer laid over it.
mod block;

mod control;
mod cursor;
mod domain;
mod header;
mod participants;
mod relptr;
mod stream;
mod toc;

pub use control::{control, control_ops};
pub use cursor::{cursor, cursor_ops};
pub use domain::domain;
pub use header::header;
pub use participants::participants;
pub use relptr::relptr;
pub use stream::{stream, stream_ops};
pub use toc::{toc, toc_ops};

/// A target: panics, or touches what it must not, where something is wrong.
pub type Target = fn(&[u8]);

/// Every target, by the name of its binary and of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("relptr", relptr),
    ("header", header),
    ("participants", participants),
    ("control", control),
    ("control_ops", control_ops),
    ("toc", toc),
    ("toc_ops", toc_ops),
    ("stream", stream),
    ("stream_ops", stream_ops),
    ("cursor", cursor),
    ("cursor_ops", cursor_ops),
    ("domain", domain),
];

/// Longest input that is of any use, in bytes.
pub const INPUT_BYTES_MAX: usize = 4096;

/// The main function of the binary of a target: for libFuzzer, or one that replays files.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$name(bytes));
        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($crate::$name)
        }
    };
}

/// Runs `target` on the files that the arguments name.
///
/// # Errors
/// Where one cannot be read.
pub fn replay(target: Target) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        println!("{}", path.display());
        target(&std::fs::read(path)?);
    }
    Ok(())
}
