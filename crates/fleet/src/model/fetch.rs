//! Images that machines have before a deploy begins.

use super::Pinned;
use serde::{Deserialize, Serialize};

/// What a machine is to have: `fetch/<machine>/<service's uid>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRecord {
    /// [`super::VERSION`].
    pub version: u32,
    /// The number of the service's deploy.
    pub deploy: u64,
    /// The image.
    pub image: Pinned,
}

/// What it says of that: `images/<machine>/<service's uid>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HadRecord {
    /// [`super::VERSION`].
    pub version: u32,
    /// The number of the service's deploy.
    pub deploy: u64,
    /// Why it does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
