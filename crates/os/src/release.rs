//! A release: what an update brings, and who vouches for it.
//!
//! `release.json` names the files by their size and digest; `release.json.minisig` is minisign's signature of it. So one signature holds
//! for all, whichever way the files come, and nothing is written before it was checked.

use crate::root::Root;
use minisign_verify::{PublicKey, Signature};
use semver::Version;
use serde::{Deserialize, Serialize};

/// The format of `release.json` that this release writes and reads.
pub const FORMAT: u32 = 1;
/// Bytes that `release.json` and its signature may have.
pub const SMALL: u64 = 64 << 10;

/// A file of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// What `release.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Format of this file.
    pub format: u32,
    /// The release.
    pub version: Version,
    /// The oldest release that a machine may go back to from this one.
    pub floor: Version,
    /// The machine's kind: `x86_64`.
    pub architecture: String,
    /// The kernel image, `coracle.efi`.
    pub kernel: Part,
    /// The root with its tree of hashes, `root.img`.
    pub root: Part,
    /// The root of the tree.
    pub root_hash: String,
    /// Blocks of data before the tree.
    pub root_blocks: u64,
    /// The minor release of etcd: `3.4`.
    pub etcd: String,
}

/// Why a release is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// There is nobody who could vouch for it.
    #[error("no key is pinned that updates could be signed with")]
    NoKeys,
    /// A key is none.
    #[error("the pinned key {0} is none of minisign's")]
    Key(String, #[source] minisign_verify::Error),
    /// The signature is none.
    #[error("release.json.minisig is no signature of minisign")]
    Signature(#[source] minisign_verify::Error),
    /// None of the keys has signed it.
    #[error("release.json is signed by none of the pinned keys, or was changed since")]
    Unsigned,
    /// It is signed and still cannot be read.
    #[error("release.json")]
    Malformed(#[source] serde_json::Error),
    /// It is of a format that came later.
    #[error(
        "release.json has format {0}, this release reads {FORMAT}: update to a release in between first"
    )]
    Format(u32),
    /// It is for other machines.
    #[error("the release is for {0} machines, this is {arch}", arch = std::env::consts::ARCH)]
    Architecture(String),
    /// It is older than may be gone back to.
    #[error(
        "{version} is older than {floor}, the oldest release that this machine may go back to; --allow-downgrade takes it all the same"
    )]
    Downgrade {
        /// The release's.
        version: Version,
        /// The machine's.
        floor: Version,
    },
    /// Root and tree do not have the size that they must have.
    #[error("root.img of {size} bytes is not {blocks} blocks with their tree")]
    Root {
        /// As told.
        size: u64,
        /// As told.
        blocks: u64,
    },
}

impl Release {
    /// Reads a release that one of the keys (minisign's base64 text) has signed, and that is for this machine.
    ///
    /// # Errors
    /// Every [`ReleaseError`] but [`ReleaseError::Downgrade`].
    pub fn read(json: &[u8], signature: &str, keys: &[String]) -> Result<Self, ReleaseError> {
        if keys.is_empty() {
            return Err(ReleaseError::NoKeys);
        }
        let signature = Signature::decode(signature).map_err(ReleaseError::Signature)?;
        let mut signed = false;
        for key in keys {
            let read = PublicKey::from_base64(key.trim());
            let read = read.map_err(|e| ReleaseError::Key(key.clone(), e))?;
            // Signatures of the older kind take the whole file instead of its digest; it is small.
            signed |= read.verify(json, &signature, true).is_ok();
        }
        if !signed {
            return Err(ReleaseError::Unsigned);
        }
        Self::of(json)
    }

    /// Reads a release that is known to be good: the one that runs.
    ///
    /// # Errors
    /// [`ReleaseError::Malformed`], [`ReleaseError::Format`], [`ReleaseError::Architecture`] and [`ReleaseError::Root`].
    pub fn of(json: &[u8]) -> Result<Self, ReleaseError> {
        /// The format is read before all else, of which a later one may know nothing.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_slice(json).map_err(ReleaseError::Malformed)?;
        if format != FORMAT {
            return Err(ReleaseError::Format(format));
        }
        let release: Self = serde_json::from_slice(json).map_err(ReleaseError::Malformed)?;
        if release.architecture != std::env::consts::ARCH {
            return Err(ReleaseError::Architecture(release.architecture));
        }
        let (size, blocks) = (release.root.size, release.root_blocks);
        if release.content().size() != size {
            return Err(ReleaseError::Root { size, blocks });
        }
        Ok(release)
    }

    /// What its slot holds.
    pub fn content(&self) -> Root {
        Root {
            hash: self.root_hash.clone(),
            blocks: self.root_blocks,
        }
    }

    /// Checks that the machine may go to it.
    ///
    /// # Errors
    /// [`ReleaseError::Downgrade`].
    pub fn not_below(&self, floor: &Version) -> Result<(), ReleaseError> {
        if self.version < *floor {
            return Err(ReleaseError::Downgrade {
                version: self.version.clone(),
                floor: floor.clone(),
            });
        }
        Ok(())
    }
}

/// The keys in a text of minisign's `.pub` files: each line that is no comment.
pub fn keys(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|l| !l.is_empty() && !l.starts_with("untrusted comment:") && !l.starts_with('#'))
        .map(str::to_owned)
        .collect()
}
