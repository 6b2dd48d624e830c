//! From streams of layers and a config to an image that is here, whole. Blocking.

use std::fs::{self, File};
use std::io::{self, Read};

use rustix::fs::{CWD, RenameFlags};

use crate::content::{LayerFile, WorkDir};
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::image::{self, Image};
use crate::ingest::{Expected, Ingested, ingest};
use crate::manifest::{self, LayerOf};
use crate::reference::Reference;
use crate::store::{ImageStore, Pinned};
use crate::trash::count;

/// A layer that is in its place, kept from collection as long as this lives.
pub(crate) struct Placed {
    pub layer: Ingested,
    _pin: Pinned,
}

impl ImageStore {
    /// Reads a layer from `stream` and puts it in its place. `name` and `of` are what errors call it.
    pub(crate) fn take_layer(
        &self,
        stream: impl Read,
        expected: Expected,
        (name, of): (&str, &str),
        read: impl FnMut(u64),
    ) -> Result<Placed> {
        let (work, layer) = self.taken(stream, expected, (name, of), read)?;
        let pin = self.pin([layer.diff_id, layer.blob]);
        self.place_layer(&work, &layer)?;
        Ok(Placed { layer, _pin: pin })
    }

    /// As [`Self::take_layer`], without waiting for the disk: whoever makes an image of it does.
    pub(crate) fn take_layer_soon(
        &self,
        stream: impl Read,
        expected: Expected,
        (name, of): (&str, &str),
        read: impl FnMut(u64),
    ) -> Result<Placed> {
        let (work, layer) = self.taken(stream, expected, (name, of), read)?;
        let pin = self.pin([layer.diff_id, layer.blob]);
        self.unsettled().insert(layer.diff_id);
        self.place(&work, &layer, false)?;
        Ok(Placed { layer, _pin: pin })
    }

    fn taken(
        &self,
        stream: impl Read,
        expected: Expected,
        (name, of): (&str, &str),
        read: impl FnMut(u64),
    ) -> Result<(WorkDir, Ingested)> {
        let work = self.0.layout.work("layer")?;
        let layer = ingest(stream, expected, &self.0.config.limits, &work, read);
        let layer = layer.map_err(|source| ImageError::Layer {
            layer: name.to_owned(),
            image: of.to_owned(),
            source,
        })?;
        Ok((work, layer))
    }

    /// Puts a finished layer and its content where all can see them, on the disk.
    pub(crate) fn place_layer(&self, work: &WorkDir, layer: &Ingested) -> Result<()> {
        self.place(work, layer, true)?;
        for dir in [self.0.layout.blobs(), self.0.layout.layers()] {
            let synced = File::open(&dir).and_then(|d| d.sync_all());
            synced.map_err(ImageError::io("flush", &dir))?;
        }
        Ok(())
    }

    /// As [`Self::place_layer`]; if it need not be `durable`, without waiting for the disk.
    pub(crate) fn place(&self, work: &WorkDir, layer: &Ingested, durable: bool) -> Result<()> {
        let layout = &self.0.layout;
        let file = LayerFile {
            version: LayerFile::VERSION,
            diff_id: layer.diff_id,
            size: layer.unpacked.size,
            entries: layer.unpacked.entries,
            blob: layer.blob,
            blob_size: layer.blob_size,
            compression: layer.compression.name().to_owned(),
        };
        let from = work.path().join("layer");
        let json = serde_json::to_vec_pretty(&file).map_err(|source| ImageError::Damaged {
            path: from.clone(),
            source,
        })?;
        fs::write(from.join("layer.json"), json)
            .map_err(ImageError::io("write", from.join("layer.json")))?;
        if durable {
            // One flush for 80,000 files instead of one each, and before the names are there.
            let root = layout.root();
            self.0
                .syncer
                .sync()
                .map_err(ImageError::io("flush", root))?;
        }
        let (blob, kept) = (work.path().join("blob"), layout.blob(&layer.blob));
        match fs::rename(&blob, &kept) {
            // The stream came from the kept content itself, or there is none to keep.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && (kept.exists() || file.is_packed_when_asked()) => {}
            other => other.map_err(ImageError::io("keep", &kept))?,
        }
        let to = layout.layer(&layer.diff_id);
        match fs::rename(&from, &to) {
            // Somebody else was faster; what lies there was checked as ours was. If it was damaged since, ours takes its place.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let same = || Ok(count(&from.join("fs"))? == count(&to.join("fs"))?);
                if to.join("layer.json").is_file()
                    && same().map_err(ImageError::io("compare", &to))?
                {
                    return Ok(());
                }
                tracing::warn!(layer = %layer.diff_id, "a layer was damaged on the disk, and is made anew");
                rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE)
                    .map_err(|e| ImageError::io("place", &to)(e.into()))?;
                // Containers may run on what was there.
                layout.set_aside(&from, &layer.diff_id)
            }
            other => other.map_err(ImageError::io("place", &to)),
        }
    }

    /// Makes an image of a config and layers that are in their places; its manifest is written here.
    pub(crate) fn finish(
        &self,
        config: &[u8],
        layers: &[Ingested],
        names: &[Reference],
        of: &str,
    ) -> Result<Image> {
        let layer = |l: &Ingested| (l.blob, l.blob_size, l.compression.name());
        let layers: Vec<LayerOf<'_>> = layers.iter().map(layer).collect();
        self.finish_of(config, &layers, names, of)
    }

    /// As [`Self::finish`], of layers that may have been here before.
    pub(crate) fn finish_of(
        &self,
        config: &[u8],
        layers: &[LayerOf<'_>],
        names: &[Reference],
        of: &str,
    ) -> Result<Image> {
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let read = image::read_config(config).map_err(refused)?;
        read.check_layers(layers.len()).map_err(refused)?;
        let config_digest = Digest::of(config);
        let manifest = manifest::oci(config_digest, config.len(), layers.iter().copied());
        let manifest_digest = Digest::of(&manifest);
        let _pin = self.pin([config_digest, manifest_digest]);
        self.0.layout.put_blob(&config_digest, config)?;
        self.0.layout.put_blob(&manifest_digest, &manifest)?;
        let id = ImageId::from(config_digest);
        self.commit(
            id,
            &read,
            Some(manifest_digest),
            vec![manifest_digest],
            names,
        )
    }
}
