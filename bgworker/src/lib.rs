//! Worker processes: started, watched, restarted, and told when their leader dies.
