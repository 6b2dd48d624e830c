//! Platforms that clients ask for: an image here is for one.

use crate::error::{ApiError, Result};
use coracle_engine::Engine;
use coracle_image::Platform;
use serde_json::Value;

/// Refuses an image that is not for the platform asked: `linux/arm64`, or JSON as of version 1.48.
pub fn check_platform(engine: &Engine, name: &str, asked: Option<&str>) -> Result<()> {
    let Some(text) = asked else { return Ok(()) };
    let bad = || {
        ApiError::invalid(format!(
            "invalid platform \"{text}\"; write for example linux/amd64 or {{\"os\":\"linux\",\"architecture\":\"amd64\"}}"
        ))
    };
    let platform: Platform = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(o)) => {
            let word = |key: &str| o.get(key).and_then(Value::as_str).unwrap_or_default();
            let text = format!(
                "{}/{}/{}",
                word("os"),
                word("architecture"),
                word("variant")
            );
            text.trim_end_matches('/').parse().map_err(|_| bad())?
        }
        _ => text.parse().map_err(|_| bad())?,
    };
    let of = engine.images().get(name)?.platform();
    let fits = platform.os == of.os
        && platform.architecture == of.architecture
        && (platform.variant.is_none() || of.variant.is_none() || platform.variant == of.variant);
    if fits {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "image with reference {name} was found but its platform ({}/{}) does not match the specified platform ({platform})",
        of.os, of.architecture
    )))
}
