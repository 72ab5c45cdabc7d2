//! See [`fuzz::toc_ops`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(toc_ops);
