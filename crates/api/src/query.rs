//! Query strings, as Docker's clients write them.

use crate::error::{ApiError, Result};
use axum::extract::{FromRequestParts, Query as AxumQuery};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// The parameters of a request.
#[derive(Debug, Default)]
pub struct Query(HashMap<String, Vec<String>>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let pairs = AxumQuery::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let pairs = pairs.map_err(|e| ApiError::invalid(e.to_string()))?.0;
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for (key, value) in pairs {
            all.entry(key).or_default().push(value);
        }
        Ok(Self(all))
    }
}

impl Query {
    /// A parameter's text; empty is absent.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.last(key).filter(|v| !v.is_empty())
    }

    fn last(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.last()).map(String::as_str)
    }

    /// Every value of a parameter that may be given more than once.
    pub fn all(&self, key: &str) -> Vec<String> {
        let values = self.0.get(key).into_iter().flatten();
        values.filter(|v| !v.is_empty()).cloned().collect()
    }

    /// Every value of a parameter, also empty ones.
    pub fn given(&self, key: &str) -> Vec<String> {
        self.0.get(key).cloned().unwrap_or_default()
    }

    /// A switch: absent, empty, `0`, `false`, `no` and `none` are off, as Docker reads them.
    pub fn flag(&self, key: &str) -> bool {
        let value = self.last(key).map(|v| v.trim().to_ascii_lowercase());
        !matches!(
            value.as_deref(),
            None | Some("" | "0" | "no" | "false" | "none")
        )
    }

    /// As [`Self::flag`] with something else than off for absence.
    pub fn flag_or(&self, key: &str, absent: bool) -> bool {
        if self.0.contains_key(key) {
            self.flag(key)
        } else {
            absent
        }
    }

    /// A number.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                ApiError::invalid(format!(
                    "parameter {key}=\"{text}\" is not a number that fits"
                ))
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// Seconds until SIGKILL; negative waits forever.
    pub fn timeout(&self, key: &str) -> Result<Option<Duration>> {
        Ok(self
            .number::<i64>(key)?
            .map(|seconds| match u64::try_from(seconds) {
                Ok(seconds) => Duration::from_secs(seconds),
                Err(_) => Duration::MAX,
            }))
    }

    /// A moment: seconds since 1970, with a fraction or without, or RFC 3339.
    pub fn moment(&self, key: &str) -> Result<Option<DateTime<Utc>>> {
        let Some(text) = self.text(key).filter(|t| *t != "0") else {
            return Ok(None);
        };
        moment(text).map(Some).ok_or_else(|| {
            ApiError::invalid(format!(
                "parameter {key}=\"{text}\" is neither seconds since 1970 nor RFC 3339"
            ))
        })
    }
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    DateTime::from_timestamp(seconds.parse().ok()?, nanos.parse().ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("10.5").unwrap().timestamp_subsec_millis(), 500);
        assert_eq!(moment("10.000000001").unwrap().timestamp_subsec_nanos(), 1);
        assert_eq!(moment("1970-01-01T00:00:10Z").unwrap().timestamp(), 10);
        assert!(moment("yesterday").is_none());
    }

    #[test]
    fn switches() {
        let query = Query(
            [("a", "1"), ("b", "false"), ("c", "True"), ("d", "")]
                .map(|(k, v)| (k.into(), vec![v.into()]))
                .into(),
        );
        assert!(query.flag("a") && query.flag("c"));
        assert!(!query.flag("b") && !query.flag("d") && !query.flag("e"));
        assert!(query.flag_or("e", true) && !query.flag_or("b", true));
    }
}
