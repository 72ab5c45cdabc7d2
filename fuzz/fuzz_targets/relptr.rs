//! See [`fuzz::relptr`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(relptr);
