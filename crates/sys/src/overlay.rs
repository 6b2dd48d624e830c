//! overlayfs through the new mount API.
