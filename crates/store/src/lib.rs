//! The key-value store: one interface, the embedded implementation.
