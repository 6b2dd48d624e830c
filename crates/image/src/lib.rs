//! References, registries, the content store, layers and snapshots.

mod archive;
mod assemble;
pub mod config;
mod content;
pub mod credentials;
pub mod digest;
pub mod duration;
pub mod error;
pub mod image;
mod import;
mod index;
mod ingest;
mod manifest;
pub mod platform;
pub mod progress;
mod pull;
pub mod reference;
mod registry;
mod remove;
mod save;
mod store;
mod trash;
mod unpack;

pub use config::RegistryConfig;
pub use credentials::Credentials;
pub use digest::{Digest, DigestError, ImageId};
pub use error::{ErrorKind, ImageError};
pub use image::{Image, ImageSummary};
pub use import::ImportOptions;
pub use platform::Platform;
pub use progress::{Progress, ProgressEvent, Silent, Status};
pub use reference::{Reference, ReferenceError};
pub use registry::RegistryError;
pub use remove::{InUse, Removed};
pub use store::ImageStore;
pub use unpack::Limits;
