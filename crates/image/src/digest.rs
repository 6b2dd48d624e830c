//! `sha256:…` digests and the image id made of one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Why a text is no digest that we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not of the form `algorithm:hex`.
    #[error("{0:?} is no digest: write algorithm:hex, as sha256:<64 lower-case hex digits>")]
    Format(String),
    /// An algorithm other than sha256.
    #[error("digest algorithm {0:?} is not supported: use sha256")]
    Unsupported(String),
    /// The hex part has the wrong length.
    #[error("digest {0:?} has the wrong length: sha256 takes 64 hex digits")]
    Length(String),
}

/// A SHA-256 content digest, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(Sha256::digest(data).into())
    }

    /// Takes the state of a hasher that has seen everything.
    #[must_use]
    pub fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The 64 hex digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hex digits, as docker shows them.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Reads 64 lower-case hex digits without an algorithm.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let lower = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !lower {
            return Err(DigestError::Format(text.to_owned()));
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| DigestError::Length(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex).map_err(|e| match e {
                DigestError::Length(_) => DigestError::Length(text.to_owned()),
                _ => DigestError::Format(text.to_owned()),
            }),
            Some((algorithm, _)) if !algorithm.is_empty() => {
                Err(DigestError::Unsupported(algorithm.to_owned()))
            }
            _ => Err(DigestError::Format(text.to_owned())),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An image's identity: the digest of its config, as docker counts it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(Digest);

impl ImageId {
    /// The config's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0
    }

    /// The 64 hex digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// The first 12 hex digits.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl From<Digest> for ImageId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.short(), "e3b0c44298fc");
        let json = serde_json::to_string(&ImageId::from(digest)).unwrap();
        assert_eq!(
            serde_json::from_str::<ImageId>(&json).unwrap().digest(),
            digest
        );
    }

    #[test]
    fn refuses_the_rest() {
        let long = "a".repeat(64);
        for (text, wanted) in [
            ("", DigestError::Format(String::new())),
            ("sha256", DigestError::Format("sha256".into())),
            ("sha256:ab", DigestError::Length("sha256:ab".into())),
            ("sha512:ab", DigestError::Unsupported("sha512".into())),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(wanted), "{text}");
        }
        assert!(
            format!("sha256:{}", long.to_uppercase())
                .parse::<Digest>()
                .is_err()
        );
    }
}
