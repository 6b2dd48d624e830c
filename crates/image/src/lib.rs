//! References, registries, the content store, layers and snapshots.
