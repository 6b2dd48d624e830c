//! What an operator carries from a member to a machine that is to join.
//!
//! A token is text without spaces, to be copied as one word: `coracle_1_` and 103 characters of base32. They hold
//!
//! | bytes | what |
//! | --- | --- |
//! | 32 | SHA-256 of the CA's key, so that the joining machine knows whom it talks to before it says anything |
//! | 8 | the token's id, by which the store knows it |
//! | 20 | a secret, of which the store has only the hash |
//! | 4 | the first of the SHA-256 of the others, to tell a slip of copying from a token that is refused |
//!
//! # A token's life, worked through
//! `coracle cluster token --ttl 1h` writes `/coracle/v1/tokens/9f…` with one use left ([`issue`]). Machine B shows it: in one
//! transaction the token goes and `/coracle/v1/members/B` comes ([`redeem`]), which keeps the token's id and hash. The answer
//! is lost on its way. B asks again with the same key: there is no such token, but member B came with it, so B is answered
//! again, until the hour is over. Machine C finds it and shows it too: there is no such token, and no member C. A removed B
//! is no member either, so its token does not bring it back.

mod book;

pub use book::{PREFIX, Redeem, RedeemError, TokenView, issue, list, redeem, revoke};

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, DecodeError};
use sha2::{Digest as _, Sha256};

use crate::pki::Fingerprint;

const WORD: &str = "coracle_";
const VERSION: &str = "1";
const LENGTH: usize = 32 + 8 + 20 + 4;

/// A token's secret; not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 20]);

impl Secret {
    /// What the store keeps of it. The secret is random and long enough that a hash without salt tells nothing.
    pub fn hash(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }

    /// As text, for a message.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// From that text.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn from_hex(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| TokenError::Malformed)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// See the module. `Display` gives the text with the secret in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The hash of the CA's key.
    pub pin: Fingerprint,
    /// Its name in the store: 16 hexadecimal digits.
    pub id: String,
    /// What proves that it was given to who shows it.
    pub secret: Secret,
}

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error(
        "this is no token: one begins with coracle_1_; `coracle cluster token` on a member makes one"
    )]
    Malformed,
    /// A letter is wrong, or the end is missing.
    #[error(
        "the token was not copied as it is: a part is missing or a letter is wrong; copy it again"
    )]
    Typo,
    /// Of a release to come.
    #[error(
        "the token has version {0}, this release reads version 1: install the release that the cluster has"
    )]
    Newer(String),
}

impl Token {
    /// A new one for the CA with that pin.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random(pin: Fingerprint) -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; 8], [0; 20]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self {
            pin,
            id: hex::encode(id),
            secret: Secret(secret),
        })
    }
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = Fingerprint(Sha256::digest(bytes).into()).0;
    [a, b, c, d]
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = hex::decode(&self.id).map_err(|_| fmt::Error)?;
        let mut bytes = [&self.pin.0[..], &id, &self.secret.0].concat();
        bytes.extend(sum(&bytes));
        let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        write!(f, "{WORD}{VERSION}_{text}")
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Spaces and line breaks, which copying brings in, do not matter.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text: String = text.split_whitespace().collect();
        let rest = text.strip_prefix(WORD).ok_or(TokenError::Malformed)?;
        let (version, rest) = rest.split_once('_').ok_or(TokenError::Typo)?;
        if version != VERSION {
            return Err(match version.parse::<u32>() {
                Ok(_) => TokenError::Newer(version.to_owned()),
                Err(_) => TokenError::Malformed,
            });
        }
        let decoded = BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes());
        let bytes = decoded.map_err(|_: DecodeError| TokenError::Typo)?;
        let bytes: [u8; LENGTH] = bytes.try_into().map_err(|_| TokenError::Typo)?;
        let (content, check) = bytes.split_at(LENGTH - 4);
        if sum(content) != check {
            return Err(TokenError::Typo);
        }
        let part = |from: usize, to: usize| content.get(from..to).unwrap_or_default();
        Ok(Self {
            pin: Fingerprint(part(0, 32).try_into().map_err(|_| TokenError::Typo)?),
            id: hex::encode(part(32, 40)),
            secret: Secret(part(40, 60).try_into().map_err(|_| TokenError::Typo)?),
        })
    }
}
