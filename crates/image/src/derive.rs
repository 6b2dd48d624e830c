//! An image made of another and one more layer: what a container has changed.

use std::io::Read;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::assemble::Placed;
use crate::content::LayerFile;
use crate::digest::Digest;
use crate::error::{ImageError, ManifestError, Result};
use crate::image::Image;
use crate::import::apply;
use crate::ingest::Expected;
use crate::manifest;
use crate::pack::{Tree, pack_dir};
use crate::reference::Reference;
use crate::store::{ImageStore, normalized_tag};

/// What the new image shall be.
#[derive(Clone, Debug, Default)]
pub struct DeriveOptions {
    /// Its name.
    pub reference: Option<Reference>,
    /// The object `config` of its config document.
    pub config: Map<String, Value>,
    /// Instructions as in a Dockerfile on top of that, as [`crate::ImportOptions::changes`].
    pub changes: Vec<String>,
    /// Who made it.
    pub author: Option<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// The command that made the layer, for its history.
    pub created_by: String,
}

impl ImageStore {
    /// Takes the tree below `upper`, an overlayfs layer, as one more layer on top of `base`. A layer without entries is left out.
    ///
    /// # Errors
    /// [`ImageError::Change`], [`ImageError::Missing`], [`ImageError::NoSpace`], and I/O errors.
    pub async fn derive(&self, base: Image, upper: &Path, options: DeriveOptions) -> Result<Image> {
        let mut options = options;
        // What cannot be read is refused before the layer is.
        for change in &options.changes {
            apply(&mut options.config, change)?;
        }
        let name = options.reference.as_ref().map(normalized_tag).transpose()?;
        let (store, upper) = (self.clone(), upper.to_owned());
        tokio::task::spawn_blocking(move || {
            let of = name
                .as_ref()
                .map_or_else(|| "the new image".to_owned(), Reference::familiar);
            let _pin = store.pin(base.layers.iter().copied());
            let placed = store.layer_of(&upper, &of)?;
            store.on_top(&base, &placed, &options, name, &of)
        })
        .await
        .map_err(|_| ImageError::Interrupted)?
    }

    fn layer_of(&self, upper: &Path, of: &str) -> Result<Placed> {
        let failed = |source| ImageError::Io {
            action: "read the layer",
            path: upper.to_owned(),
            source,
        };
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        std::thread::scope(|scope| {
            let packing = scope.spawn(move || pack_dir(upper, Tree::Layer, writer));
            let placed = self.take_layer(whole(reader), Expected::default(), ("layer", of), |_| {});
            let packed = packing
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")));
            match (packed, placed) {
                (Ok(_), placed) => placed,
                // The reader left, and says why.
                (Err(e), Err(error)) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(error),
                (Err(error), _) => Err(failed(error)),
            }
        })
    }

    /// Makes an image of a config document whose layers are all here. Blocking.
    ///
    /// # Errors
    /// [`ImageError::Missing`], [`ImageError::Manifest`], [`ImageError::NoSpace`], and I/O errors.
    pub fn compose(&self, config: &[u8], layers: &[Digest], names: &[Reference]) -> Result<Image> {
        let names = names
            .iter()
            .map(normalized_tag)
            .collect::<Result<Vec<_>>>()?;
        let of = names
            .first()
            .map_or_else(|| "the new image".to_owned(), Reference::familiar);
        let mut files = Vec::new();
        for diff_id in layers {
            let file = LayerFile::read(&self.0.layout, diff_id)?.ok_or(ImageError::Missing {
                image: of.clone(),
                digest: *diff_id,
            })?;
            files.push(file);
        }
        let all: Vec<manifest::LayerOf<'_>> = files
            .iter()
            .map(|l| (l.blob, l.blob_size, l.compression.as_str()))
            .collect();
        self.finish_of(config, &all, &names, &of)
    }

    fn on_top(
        &self,
        base: &Image,
        placed: &Placed,
        options: &DeriveOptions,
        name: Option<Reference>,
        of: &str,
    ) -> Result<Image> {
        let mut layers = Vec::new();
        for diff_id in &base.layers {
            let file = LayerFile::read(&self.0.layout, diff_id)?.ok_or(ImageError::Missing {
                image: base.id.to_string(),
                digest: *diff_id,
            })?;
            layers.push(file);
        }
        let unreadable = |source: serde_json::Error| ImageError::Manifest {
            image: base.id.to_string(),
            source: ManifestError::Json {
                what: "config",
                source,
            },
        };
        let mut document: Value = serde_json::from_slice(&base.raw_config).map_err(unreadable)?;
        let empty = placed.layer.unpacked.entries == 0;
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
        let mut history = json!({ "created": now, "created_by": options.created_by });
        for (key, value) in [("author", &options.author), ("comment", &options.message)] {
            if let Some(value) = value {
                history[key] = json!(value);
            }
        }
        document["created"] = json!(now);
        document["config"] = Value::Object(options.config.clone());
        if let Some(author) = &options.author {
            document["author"] = json!(author);
        }
        if let Some(document) = document.as_object_mut() {
            // Docker's, of the container that the base was made in.
            for key in [
                "container",
                "container_config",
                "docker_version",
                "id",
                "parent",
            ] {
                document.remove(key);
            }
        }
        if empty {
            history["empty_layer"] = json!(true);
        } else {
            let diff_id = json!(placed.layer.diff_id.to_string());
            match document["rootfs"]["diff_ids"].as_array_mut() {
                Some(list) => list.push(diff_id),
                None => document["rootfs"] = json!({ "type": "layers", "diff_ids": [diff_id] }),
            }
        }
        match document["history"].as_array_mut() {
            Some(list) => list.push(history),
            None => document["history"] = json!([history]),
        }
        let config = document.to_string().into_bytes();
        let names: Vec<Reference> = name.into_iter().collect();
        let below = layers
            .iter()
            .map(|l| (l.blob, l.blob_size, l.compression.as_str()));
        let top = (!empty).then_some(&placed.layer);
        let top = top.map(|l| (l.blob, l.blob_size, l.compression.name()));
        let all: Vec<manifest::LayerOf<'_>> = below.chain(top).collect();
        self.finish_of(&config, &all, &names, of)
    }
}

/// Reads as much as is asked for, which a pipe does not.
fn whole(inner: impl Read) -> impl Read {
    std::io::BufReader::with_capacity(256 << 10, inner)
}
