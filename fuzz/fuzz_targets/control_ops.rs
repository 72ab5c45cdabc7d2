//! See [`fuzz::control_ops`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(control_ops);
