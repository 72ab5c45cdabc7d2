//! See [`fuzz::header`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(header);
