//! See [`fuzz::all`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(all);
