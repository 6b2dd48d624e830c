//! Platforms (`os/architecture[/variant]`) and the choice of a manifest for one.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Descriptor;

use crate::reference::ReferenceError;

/// An operating system, an architecture in Go's names, and perhaps its variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Whether what was made for `offered` runs where `self` is wanted.
    #[must_use]
    pub fn runs(&self, offered: &Self) -> bool {
        self.fit(offered).is_some()
    }

    /// How well something made for `offered` runs where `self` is wanted: higher is better, `None` is
    /// not at all. An ARM machine of a later variant runs what was made for an earlier one.
    fn fit(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let number = |v: &Option<String>| {
            v.as_deref()
                .and_then(|v| v.trim_start_matches('v').split('.').next()?.parse().ok())
        };
        let default = if self.architecture == "arm" {
            7
        } else {
            u32::from(self.architecture == "arm64") * 8
        };
        let wanted: u32 = number(&self.variant).unwrap_or(default);
        let has: u32 =
            number(&offered.variant).unwrap_or(if wanted > 0 && self.architecture != "arm" {
                default
            } else {
                wanted.min(default)
            });
        (has <= wanted).then_some(1 + has)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = ReferenceError;

    /// Reads `os/architecture[/variant]` or an architecture alone; `x86_64` and `aarch64` are understood.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Format(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(bad()),
        };
        let word = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !word(os) || !word(architecture) || variant.is_some_and(|v| !word(v)) {
            return Err(bad());
        }
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            other => other,
        };
        Ok(Self {
            os: os.to_lowercase(),
            architecture: architecture.to_lowercase(),
            variant: variant.map(str::to_lowercase),
        })
    }
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let p = descriptor.platform().as_ref()?;
    Some(Platform {
        os: p.os().to_string(),
        architecture: p.architecture().to_string(),
        variant: p.variant().clone(),
    })
}

/// The best entry of an index for a platform; entries without a platform count when nothing else fits.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in entries {
        let fit = match platform_of(entry) {
            Some(platform) => wanted.fit(&platform),
            None => Some(0),
        };
        // Among equals the first wins, as registries put the preferred one first.
        if let Some(fit) = fit.filter(|fit| best.is_none_or(|(known, _)| *fit > known)) {
            best = Some((fit, entry));
        }
    }
    best.map(|(_, entry)| entry)
}

/// The platforms of an index for people.
pub(crate) fn offered(entries: &[Descriptor]) -> String {
    let mut all: Vec<String> = entries
        .iter()
        .filter_map(platform_of)
        .map(|p| p.to_string())
        .collect();
    all.dedup();
    if all.is_empty() {
        "nothing".into()
    } else {
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(platform: &str, digit: char) -> Descriptor {
        let p: Platform = platform.parse().unwrap();
        let json = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
            "digest": format!("sha256:{}", digit.to_string().repeat(64)),
            "platform": {"os": p.os, "architecture": p.architecture, "variant": p.variant},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_nearest_variant() {
        let arms = [
            entry("linux/arm/v5", '5'),
            entry("linux/arm/v7", '7'),
            entry("linux/arm64/v8", '8'),
        ];
        for (wanted, digit) in [
            ("linux/arm/v7", "7"),
            ("linux/arm/v6", "5"),
            ("arm", "7"),
            ("arm64", "8"),
            ("linux/arm64/v8", "8"),
            ("aarch64", "8"),
        ] {
            let chosen = choose(&arms, &wanted.parse().unwrap()).unwrap();
            assert!(
                chosen.digest().digest().starts_with(digit),
                "{wanted}: {}",
                chosen.digest()
            );
        }
        assert!(choose(&arms, &"amd64".parse().unwrap()).is_none());
        assert_eq!(offered(&arms), "linux/arm/v5, linux/arm/v7, linux/arm64/v8");
    }

    #[test]
    fn refuses_what_is_no_platform() {
        for bad in ["", "a/b/c/d", "/", "linux/", "a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        assert_eq!(
            "linux/x86_64".parse::<Platform>().unwrap().to_string(),
            "linux/amd64"
        );
    }
}
