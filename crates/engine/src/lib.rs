//! A container's life.
//!
//! What is asked of a container is kept in Docker's own terms ([`model`]), stored with where the container stands
//! ([`record`]), and turned into an OCI runtime configuration ([`spec`]) when it starts.

pub mod client;
pub mod error;
pub mod events;
pub mod files;
pub mod id;
pub mod model;
pub mod mounts;
pub mod record;
pub mod spec;
pub mod volumes;

pub use error::{EngineError, Result};
pub use id::ContainerId;
