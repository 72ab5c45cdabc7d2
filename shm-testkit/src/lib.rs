//! For tests of shared-memory programs: child processes, unique names, watchdogs, plain models.
