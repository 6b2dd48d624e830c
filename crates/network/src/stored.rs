//! Files that say the version of their format.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::NetworkError;

/// What a file says, if it is there. Of another `version` nothing is read.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    version: u64,
) -> Result<Option<T>, NetworkError> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| NetworkError::State {
            path: path.into(),
            source,
        })?,
    };
    let damaged = |source| NetworkError::Damaged {
        path: path.into(),
        source,
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let said = value.get("version").and_then(serde_json::Value::as_u64);
    match said.unwrap_or(0) {
        said if said == version => serde_json::from_value(value).map(Some).map_err(damaged),
        said => Err(NetworkError::Version {
            path: path.into(),
            version: said,
        }),
    }
}
