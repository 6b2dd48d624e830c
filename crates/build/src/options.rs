//! What is asked of a build.

use coracle_engine::model::HostConfig;
use coracle_image::credentials::domain_of;
use coracle_image::{Credentials, Platform, Reference};
use std::collections::BTreeMap;

/// A build, as asked for.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Path of the Dockerfile in the context; `Dockerfile` if empty.
    pub dockerfile: String,
    /// Names that the image gets.
    pub tags: Vec<Reference>,
    /// Build arguments. One without a value takes none away and gives none.
    pub args: BTreeMap<String, Option<String>>,
    /// Labels on top of the Dockerfile's.
    pub labels: BTreeMap<String, String>,
    /// The stage that is wanted, by name or number; the last if empty.
    pub target: String,
    /// Every step is done anew.
    pub no_cache: bool,
    /// Base images are asked for again, also if they are here.
    pub pull: bool,
    /// What the image is for; this machine if none.
    pub platform: Option<Platform>,
    /// What holds for the containers of RUN: network mode, limits, extra hosts.
    pub host: HostConfig,
    /// Files for `RUN --mount=type=secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Who one is to registries, by host as docker's configuration names them.
    pub credentials: BTreeMap<String, Credentials>,
}

impl BuildOptions {
    /// The Dockerfile's path in the context.
    #[must_use]
    pub fn dockerfile(&self) -> &str {
        if self.dockerfile.is_empty() {
            "Dockerfile"
        } else {
            &self.dockerfile
        }
    }

    /// Credentials for a registry.
    #[must_use]
    pub fn credentials_for(&self, reference: &Reference) -> Option<&Credentials> {
        let mut all = self.credentials.iter();
        all.find(|(key, _)| domain_of(key) == reference.domain())
            .map(|(_, credentials)| credentials)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_of_credentials() {
        let mut options = BuildOptions::default();
        for key in [
            "https://reg.example/v2/",
            "127.0.0.1:5000",
            "https://index.docker.io/v1/",
        ] {
            let credentials = Credentials {
                username: key.into(),
                ..Credentials::default()
            };
            options.credentials.insert(key.into(), credentials);
        }
        for (image, key) in [
            ("reg.example/a/b:1", Some("https://reg.example/v2/")),
            ("127.0.0.1:5000/x", Some("127.0.0.1:5000")),
            ("debian", Some("https://index.docker.io/v1/")),
            ("other.example/a", None),
        ] {
            let image = Reference::parse_normalized(image).unwrap();
            let found = options.credentials_for(&image);
            assert_eq!(found.map(|c| c.username.as_str()), key, "{image}");
        }
    }
}
