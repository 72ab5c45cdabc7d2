//! Message queues between processes that survive the death of either side.
