//! See [`fuzz::stream_ops`].
#![cfg_attr(fuzzing, no_main)]
fuzz::target!(stream_ops);
