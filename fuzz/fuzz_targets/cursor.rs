//! See [`fuzz::cursor`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(cursor);
