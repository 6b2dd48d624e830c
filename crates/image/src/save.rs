//! Images into an archive that docker, skopeo, buildah and we ourselves load: an OCI layout that is docker's archive
//! too, as docker 25 and later write it.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::content::LayerFile;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::image::Image;
use crate::manifest::{self, media};
use crate::produced::{Produced, produced};
use crate::reference::Reference;
use crate::store::{ImageStore, Pinned};

/// Bytes of the archive that wait for a slow reader.
const WAITING: usize = 1 << 20;

/// What goes into an archive.
struct Part {
    config: Vec<u8>,
    manifest: Vec<u8>,
    /// Lowest first.
    layers: Vec<LayerFile>,
    tags: Vec<Reference>,
    image: Image,
    _pin: Pinned,
}

impl ImageStore {
    /// Writes images and the tags they were named by; of a name without a tag, all its tags. An image named by its id is written
    /// without a name.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] and [`ImageError::Missing`], before anything is sent. An error while the archive is being
    /// sent is its reader's.
    pub async fn save(&self, names: &[String]) -> Result<Produced> {
        let mut parts: Vec<Part> = Vec::new();
        for name in names {
            let named = self.0.index().named_to_save(name)?;
            for (id, tag) in named {
                let part = match parts.iter_mut().position(|p| p.image.id == id) {
                    Some(at) => &mut parts[at],
                    None => {
                        parts.push(self.part(self.image(id)?)?);
                        let last = parts.len() - 1;
                        &mut parts[last]
                    }
                };
                if let Some(tag) = tag.filter(|t| !part.tags.contains(t)) {
                    part.tags.push(tag);
                }
            }
        }
        let (reader, writer, ending) = produced(WAITING);
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            let written = store.write(&parts, writer);
            // A reader that left knows why.
            if let Err(error) = &written
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                tracing::warn!(%error, "an archive of images was not written to its end");
            }
            ending.tell(written);
        });
        Ok(reader)
    }

    fn part(&self, image: Image) -> Result<Part> {
        let layout = &self.0.layout;
        let id = image.id.to_string();
        let mut layers = Vec::new();
        for diff_id in &image.layers {
            let file = LayerFile::read(layout, diff_id)?.ok_or_else(|| ImageError::Missing {
                image: id.clone(),
                digest: *diff_id,
            })?;
            if !layout.has_blob(&file.blob) && !file.is_packed_when_asked() {
                return Err(ImageError::Missing {
                    image: id,
                    digest: file.blob,
                });
            }
            layers.push(file);
        }
        let manifest = manifest::oci(
            image.id.digest(),
            image.raw_config.len(),
            layers
                .iter()
                .map(|l| (l.blob, l.blob_size, l.compression.as_str())),
        );
        let blobs = layers.iter().map(|l| l.blob);
        Ok(Part {
            config: image.raw_config.clone(),
            manifest,
            _pin: self.pin(blobs.chain(image.layers.iter().copied())),
            layers,
            tags: Vec::new(),
            image,
        })
    }

    fn write(&self, parts: &[Part], writer: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(writer);
        let mut done = BTreeSet::new();
        let (mut docker, mut index) = (Vec::new(), Vec::new());
        put(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for part in parts {
            for layer in &part.layers {
                if done.insert(layer.blob) {
                    let mut content = self.content(layer)?;
                    put_stream(&mut tar, &name(&layer.blob), layer.blob_size, &mut content)?;
                    // What is wrong with it shows at its end.
                    content.read_to_end(&mut Vec::new())?;
                }
            }
            let manifest = Digest::of(&part.manifest);
            for (digest, bytes) in [
                (part.image.id.digest(), &part.config),
                (manifest, &part.manifest),
            ] {
                if done.insert(digest) {
                    put(&mut tar, &name(&digest), bytes)?;
                }
            }
            let tags: Vec<String> = part.tags.iter().map(Reference::familiar).collect();
            docker.push(json!({
                "Config": name(&part.image.id.digest()),
                "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
                "Layers": part.layers.iter().map(|l| name(&l.blob)).collect::<Vec<_>>(),
            }));
            let descriptor = json!({ "mediaType": media::OCI_MANIFEST, "digest": manifest.to_string(), "size": part.manifest.len() });
            if part.tags.is_empty() {
                index.push(descriptor.clone());
            }
            for tag in &part.tags {
                let mut named = descriptor.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": tag.to_string(),
                    "org.opencontainers.image.ref.name": tag.tag().unwrap_or_default(),
                });
                index.push(named);
            }
        }
        let index =
            json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": index });
        put(&mut tar, "index.json", index.to_string().as_bytes())?;
        put(
            &mut tar,
            "manifest.json",
            Value::Array(docker).to_string().as_bytes(),
        )?;
        tar.into_inner()?.flush()
    }
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn put(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    put_stream(tar, name, bytes.len() as u64, &mut &bytes[..])
}

fn put_stream(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    from: &mut dyn Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    // The same images give the same archive.
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, from.take(size))
}
