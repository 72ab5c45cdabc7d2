//! See [`fuzz::cursor_ops`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(cursor_ops);
