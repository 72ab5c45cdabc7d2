//! Worker processes: started, watched, restarted, and told when their leader dies.

/// Work in numbered pieces, each done once, whoever dies.
pub mod cursor;
