//! Forking, pidfds, reaping.
