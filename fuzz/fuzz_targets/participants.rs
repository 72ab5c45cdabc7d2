//! See [`fuzz::participants`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(participants);
