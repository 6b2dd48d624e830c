//! Identifiers and names of containers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A container's full id: 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// A new random id, never all digits in its short form, so that it cannot be taken for a number.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        loop {
            let id = random_hex()?;
            if !id[..12].bytes().all(|b| b.is_ascii_digit()) {
                return Ok(Self(id));
            }
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as lists show them.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }

    /// Takes a string that is known to be an id, as a directory's name is.
    pub fn from_known(id: String) -> Option<Self> {
        (id.len() == 64
            && id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .then_some(Self(id))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 64 random hexadecimal digits.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Whether a name may be given to a container or volume: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, as Docker has it.
pub fn is_valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() > 1
        && name.len() <= 255
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

const ADJECTIVES: &[&str] = &[
    "amber", "bold", "brave", "brisk", "calm", "clear", "coastal", "cool", "deep", "eager",
    "early", "fair", "fast", "fleet", "fresh", "gentle", "glad", "green", "keen", "kind", "light",
    "lively", "lucky", "merry", "mild", "neat", "nimble", "open", "proud", "quick", "quiet",
    "ready", "sharp", "silver", "sleek", "smart", "smooth", "steady", "still", "stout", "strong",
    "sunny", "swift", "tidal", "trim", "true", "warm", "wise",
];
const NOUNS: &[&str] = &[
    "anchor", "bay", "beacon", "boat", "bow", "breeze", "buoy", "canoe", "cape", "coral", "cove",
    "current", "deck", "delta", "dock", "estuary", "ferry", "gull", "harbour", "heron", "hull",
    "island", "jetty", "kayak", "keel", "lagoon", "lantern", "mast", "oar", "otter", "paddle",
    "pier", "pilot", "puffin", "quay", "raft", "reef", "rudder", "sail", "seal", "shore", "skiff",
    "sloop", "tern", "tide", "wave", "wharf", "willow",
];

/// A readable name for a container that was given none; `attempt` above 3 adds digits.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn readable_name(attempt: u32) -> Result<String, getrandom::Error> {
    let mut b = [0u8; 6];
    getrandom::fill(&mut b)?;
    let adjective = ADJECTIVES[usize::from(u16::from_le_bytes([b[0], b[1]])) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(u16::from_le_bytes([b[2], b[3]])) % NOUNS.len()];
    Ok(if attempt > 3 {
        format!("{adjective}_{noun}{}", u16::from_le_bytes([b[4], b[5]]))
    } else {
        format!("{adjective}_{noun}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "web-1", "a.b_c", "9lives"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "a", "-ab", "a b", "a/b", "é1", &"x".repeat(256)] {
            assert!(!is_valid_name(bad), "{bad}");
        }
        assert!(is_valid_name(&readable_name(0).unwrap()));
        assert!(is_valid_name(&readable_name(9).unwrap()));
    }

    #[test]
    fn ids() {
        let id = ContainerId::random().unwrap();
        assert_eq!(ContainerId::from_known(id.to_string()), Some(id.clone()));
        assert_eq!(id.short().len(), 12);
        assert_eq!(ContainerId::from_known("ABC".into()), None);
    }
}
