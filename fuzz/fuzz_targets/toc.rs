//! See [`fuzz::toc`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(toc);
