//! See [`fuzz::domain`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(domain);
