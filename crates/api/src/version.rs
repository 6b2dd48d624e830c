//! Versions of Docker's Engine API, which clients put before the path: `/v1.44/containers/json`.
//!
//! A path without one gets the latest. Versions that are not served are refused with docker's own words, by which clients know that
//! they may try with another.

use crate::error::ApiError;
use crate::{API_VERSION, MIN_API_VERSION};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// The version that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 of those served.
    pub major: u16,
    /// What counts up.
    pub minor: u16,
}

impl ApiVersion {
    /// Newest that is served.
    pub const LATEST: Self = Self::new(51);
    /// Oldest that is served: what docker's own engine served for ten years, and some clients still ask for.
    pub const OLDEST: Self = Self::new(24);

    /// Version 1.`minor`.
    pub const fn new(minor: u16) -> Self {
        Self { major: 1, minor }
    }

    /// Whether it is this 1.`minor` or newer.
    pub fn from(self, minor: u16) -> bool {
        self >= Self::new(minor)
    }

    /// Refuses one that is not served.
    ///
    /// # Errors
    /// 400 in docker's words.
    pub fn served(self) -> Result<(), ApiError> {
        let text = if self < Self::OLDEST {
            format!(
                "client version {self} is too old. Minimum supported API version is {MIN_API_VERSION}, \
                 please upgrade your client to a newer version"
            )
        } else if self > Self::LATEST {
            format!(
                "client version {self} is too new. Maximum supported API version is {API_VERSION}"
            )
        } else {
            return Ok(());
        };
        Err(ApiError::new(StatusCode::BAD_REQUEST, text))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(*parts.extensions.get::<Self>().unwrap_or(&Self::LATEST))
    }
}

impl FromStr for ApiVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.split_once('.').ok_or(())?;
        let number = |s: &str| {
            let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| s.parse().ok()).flatten().ok_or(())
        };
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

/// Takes `/v1.44` off a path; `/v1/…` is ours and stays.
pub fn split(uri: &Uri) -> Option<(ApiVersion, Uri)> {
    let path = uri.path_and_query()?.as_str();
    let (version, rest) = path.strip_prefix("/v")?.split_once('/')?;
    let version = version.parse().ok()?;
    Some((version, format!("/{rest}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_taken_off() {
        let split = |s: &str| split(&s.parse().unwrap()).map(|(v, u)| (v, u.to_string()));
        assert_eq!(
            split("/v1.44/containers/json?all=1").unwrap(),
            (ApiVersion::new(44), "/containers/json?all=1".to_owned())
        );
        for ours in [
            "/v1/units",
            "/containers/json",
            "/volumes/v1.2",
            "/vx.y/z",
            "/v1./z",
            "/v1.+4/z",
            "/v1.44",
        ] {
            assert_eq!(split(ours), None, "{ours}");
        }
    }

    #[test]
    fn what_is_served() {
        assert_eq!(ApiVersion::LATEST.to_string(), API_VERSION);
        assert_eq!(ApiVersion::OLDEST.to_string(), MIN_API_VERSION);
        for minor in 24..=51 {
            assert!(ApiVersion::new(minor).served().is_ok());
        }
        let told = |v: ApiVersion| v.served().unwrap_err().message().to_owned();
        assert!(told(ApiVersion::new(23)).starts_with("client version 1.23 is too old"));
        assert!(told(ApiVersion::new(52)).starts_with("client version 1.52 is too new"));
        let two = ApiVersion { major: 2, minor: 0 };
        assert!(two.served().is_err() && two.from(51));
    }
}
