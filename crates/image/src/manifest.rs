//! Manifests and indexes, of OCI and of docker's schema 2.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::error::ManifestError;

/// Media types (OCI image specification, docker's distribution specification v2).
pub(crate) mod media {
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";
    /// What we ask a registry for.
    pub const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
}

/// Larger manifests are refused; registries refuse them too.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// Larger configs are refused.
pub(crate) const CONFIG_MAX: u64 = 16 << 20;

/// Something with a digest and a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub digest: Digest,
    pub size: u64,
}

impl Named {
    pub fn of(what: &'static str, descriptor: &Descriptor) -> Result<Self, ManifestError> {
        let digest = descriptor.digest().as_ref().parse();
        let digest = digest.map_err(|source| ManifestError::Digest { what, source })?;
        Ok(Self {
            digest,
            size: descriptor.size(),
        })
    }
}

/// One image's manifest: what we need of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub config: Named,
    /// Lowest first.
    pub layers: Vec<Named>,
}

/// What a manifest document turns out to be.
#[derive(Debug)]
pub(crate) enum Document {
    Image(Manifest),
    Index(Vec<Descriptor>),
}

/// Reads a manifest or index. The registry's media type counts first, then the document's own, then its shape.
pub(crate) fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ManifestError> {
    let json = |what| move |source| ManifestError::Json { what, source };
    let value: Value = serde_json::from_slice(bytes).map_err(json("manifest"))?;
    let known = |t: &&str| media::ACCEPT.contains(t) || t.starts_with(media::DOCKER_SCHEMA1);
    let declared = content_type
        .map(|t| t.split(';').next().unwrap_or(t).trim())
        .filter(known);
    let own = value.get("mediaType").and_then(Value::as_str);
    if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return Err(ManifestError::Schema1);
    }
    let by_shape = if value.get("manifests").is_some() {
        media::OCI_INDEX
    } else if value.get("layers").is_some() {
        media::OCI_MANIFEST
    } else {
        own.or(content_type).unwrap_or("")
    };
    match declared.or(own).unwrap_or(by_shape) {
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => {
            let manifest: ImageManifest =
                serde_json::from_value(without_nulls(value)).map_err(json("manifest"))?;
            image(&manifest).map(Document::Image)
        }
        media::OCI_INDEX | media::DOCKER_LIST => {
            let index: ImageIndex =
                serde_json::from_value(without_nulls(value)).map_err(json("index"))?;
            Ok(Document::Index(index.manifests().clone()))
        }
        schema1 if schema1.starts_with(media::DOCKER_SCHEMA1) => Err(ManifestError::Schema1),
        other => Err(ManifestError::MediaType(other.to_owned())),
    }
}

/// What kind of manifest it is: what it says, or what OCI's is called.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let own = value["mediaType"].as_str();
    own.unwrap_or(media::OCI_MANIFEST).to_owned()
}

fn image(manifest: &ImageManifest) -> Result<Manifest, ManifestError> {
    let layers = manifest.layers().iter().map(|l| Named::of("layer", l));
    Ok(Manifest {
        config: Named::of("config", manifest.config())?,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// Go writes `null` for what is empty; optional fields are simply left out for us.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// A layer's blob: its digest, its bytes, and `none`, `gzip` or `zstd`.
pub(crate) type LayerOf<'a> = (Digest, u64, &'a str);

/// The manifest of an image of ours.
pub(crate) fn oci<'a>(
    config: Digest,
    config_size: usize,
    layers: impl Iterator<Item = LayerOf<'a>>,
) -> Vec<u8> {
    let layer = |(digest, size, compression): LayerOf<'_>| {
        let kind = match compression {
            "none" => media::OCI_LAYER.to_owned(),
            other => format!("{}+{other}", media::OCI_LAYER),
        };
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": size })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {
            "mediaType": media::OCI_CONFIG,
            "digest": config.to_string(),
            "size": config_size,
        },
        "layers": layers.map(layer).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn doc(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","annotations":null,
            "config":{{"mediaType":"x/y","size":3,"digest":"{DIGEST}"}},
            "layers":[{{"mediaType":"x/z","size":4,"digest":"{DIGEST}"}}]}}"#
        )
    }

    #[test]
    fn kinds() {
        for own in [media::OCI_MANIFEST, media::DOCKER_MANIFEST] {
            let Document::Image(m) = read(doc(own).as_bytes(), Some("text/plain")).unwrap() else {
                panic!("no image")
            };
            assert_eq!((m.config.size, m.layers[0].size), (3, 4));
        }
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","size":3,"digest":"{DIGEST}"}}]}}"#,
            media::OCI_MANIFEST
        );
        assert!(
            matches!(read(index.as_bytes(), None).unwrap(), Document::Index(all) if all.len() == 1)
        );
        let schema1 = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(matches!(read(schema1, None), Err(ManifestError::Schema1)));
        assert!(matches!(
            read(doc("helm/chart").as_bytes(), None),
            Err(ManifestError::MediaType(_))
        ));
        assert!(matches!(read(b"{", None), Err(ManifestError::Json { .. })));
    }
}
