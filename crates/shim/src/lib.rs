//! Holder and shims: one small process per container.
