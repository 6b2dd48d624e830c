//! An image as the engine sees it: its config and docker's extensions of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest::{Digest, ImageId};
use crate::error::ManifestError;
use crate::manifest::without_nulls;
use crate::platform::Platform;

/// An image that is here, whole.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Image {
    /// The digest of its config.
    pub id: ImageId,
    /// Its config, as far as the OCI image specification goes.
    pub config: ImageConfiguration,
    /// The config byte by byte.
    pub raw_config: Vec<u8>,
    /// Diff ids of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes in regular files of all layers.
    pub size: u64,
    /// Names with tags, as docker shows them.
    pub repo_tags: Vec<String>,
    /// Names with digests, as docker shows them.
    pub repo_digests: Vec<String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// When it came here.
    pub added: DateTime<Utc>,
    /// docker's extension: how to tell whether a container is healthy.
    pub healthcheck: Option<Healthcheck>,
    /// docker's extension: the shell of the shell forms.
    pub shell: Option<Vec<String>>,
    /// docker's extension: instructions for images built from this one.
    pub on_build: Vec<String>,
}

impl Image {
    /// What it runs on; this machine's where its config says nothing.
    #[must_use]
    pub fn platform(&self) -> Platform {
        platform(&self.config)
    }
}

fn platform(config: &ImageConfiguration) -> Platform {
    let variant = config.variant().clone().filter(|v| !v.is_empty());
    Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant,
    }
}

/// A line of the list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// The image's id.
    pub id: ImageId,
    /// Names with tags, as docker shows them.
    pub repo_tags: Vec<String>,
    /// Names with digests, as docker shows them.
    pub repo_digests: Vec<String>,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// When it came here.
    pub added: DateTime<Utc>,
    /// When a container was made of it last.
    pub last_used: Option<DateTime<Utc>>,
    /// Bytes in regular files of all layers.
    pub size: u64,
    /// Labels of its config, sorted.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// docker's health check, as written in image configs. Zero durations mean "inherit the default".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", argv…]` or `["CMD-SHELL", command]`; empty inherits.
    pub test: Vec<String>,
    /// Time between two checks.
    pub interval: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// How long failures do not count after a start.
    pub start_period: Duration,
    /// Time between two checks during the start period.
    pub start_interval: Duration,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
}

/// What a config says, checked.
#[derive(Clone, Debug)]
pub(crate) struct ReadConfig {
    pub config: ImageConfiguration,
    pub diff_ids: Vec<Digest>,
    pub platform: Platform,
    pub created: Option<DateTime<Utc>>,
    pub healthcheck: Option<Healthcheck>,
    pub shell: Option<Vec<String>>,
    pub on_build: Vec<String>,
}

impl ReadConfig {
    /// Refuses a manifest with more or fewer layers than the config knows.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<(), ManifestError> {
        let diff_ids = self.diff_ids.len();
        if layers == diff_ids {
            return Ok(());
        }
        Err(ManifestError::Layers { layers, diff_ids })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Extensions {
    healthcheck: Option<RawHealthcheck>,
    shell: Option<Vec<String>>,
    on_build: Vec<String>,
}

/// Durations are nanoseconds, as Go writes them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawHealthcheck {
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// Reads an image config.
pub(crate) fn read_config(bytes: &[u8]) -> Result<ReadConfig, ManifestError> {
    let json = |source| ManifestError::Json {
        what: "config",
        source,
    };
    let mut value = without_nulls(serde_json::from_slice(bytes).map_err(json)?);
    let host = Platform::host();
    if let Value::Object(map) = &mut value {
        // Tools that make images of data leave these out.
        map.entry("architecture")
            .or_insert_with(|| json!(host.architecture));
        map.entry("os").or_insert_with(|| json!(host.os));
        for (key, empty) in [("architecture", &host.architecture), ("os", &host.os)] {
            if map.get(key).is_some_and(|v| v == "") {
                map.insert(key.into(), json!(empty));
            }
        }
    }
    let extensions = value.get("config").cloned().unwrap_or_default();
    let extensions = match extensions {
        Value::Null => Extensions::default(),
        other => serde_json::from_value(other).map_err(json)?,
    };
    let config: ImageConfiguration = serde_json::from_value(value).map_err(json)?;
    let diff_ids = config.rootfs().diff_ids().iter().map(|d| d.parse());
    let diff_ids = diff_ids
        .collect::<Result<_, _>>()
        .map_err(|source| ManifestError::Digest {
            what: "config",
            source,
        })?;
    let created = config
        .created()
        .as_deref()
        .and_then(|t| DateTime::parse_from_rfc3339(t).ok());
    Ok(ReadConfig {
        platform: platform(&config),
        created: created.map(|t| t.to_utc()),
        healthcheck: extensions.healthcheck.map(Healthcheck::from),
        shell: extensions.shell,
        on_build: extensions.on_build,
        diff_ids,
        config,
    })
}

impl From<RawHealthcheck> for Healthcheck {
    fn from(raw: RawHealthcheck) -> Self {
        let nanos = |n: i64| Duration::from_nanos(n.max(0).unsigned_abs());
        Self {
            test: raw.test,
            interval: nanos(raw.interval),
            timeout: nanos(raw.timeout),
            start_period: nanos(raw.start_period),
            start_interval: nanos(raw.start_interval),
            retries: u32::try_from(raw.retries.max(0)).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_config_as_docker_writes_it() {
        let read = read_config(
            br#"{"architecture":"amd64","os":"linux","created":"2024-05-01T10:00:00.123456789Z",
            "config":{"Env":["A=b"],"Cmd":null,"Volumes":null,"ExposedPorts":{"80/tcp":{}},"Labels":null,
              "OnBuild":null,"Shell":["/bin/bash","-c"],
              "Healthcheck":{"Test":["CMD","true"],"Interval":5000000000,"Retries":3}},
            "history":null,"rootfs":{"type":"layers","diff_ids":[
              "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
        )
        .unwrap();
        assert_eq!(read.diff_ids.len(), 1);
        let health = read.healthcheck.unwrap();
        assert_eq!(
            (health.interval, health.retries),
            (Duration::from_secs(5), 3)
        );
        assert_eq!(read.shell.unwrap(), ["/bin/bash", "-c"]);
        let config = read.config.config().as_ref().unwrap();
        assert_eq!(config.exposed_ports().as_ref().unwrap(), &["80/tcp"]);
        assert_eq!(read.created.unwrap().timestamp(), 1_714_557_600);
    }

    #[test]
    fn a_config_with_nothing_in_it() {
        let read = read_config(br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap();
        assert_eq!(
            read.platform,
            Platform {
                variant: None,
                ..Platform::host()
            }
        );
        let text = br#"{"os":"","variant":"","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert_eq!(read_config(text).unwrap().platform, read.platform);
        assert!(read_config(b"[]").is_err());
        assert!(read_config(br#"{"rootfs":{"type":"layers","diff_ids":["x"]}}"#).is_err());
    }
}
