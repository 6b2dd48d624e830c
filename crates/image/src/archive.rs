//! Archives of images, as `docker save`, skopeo and buildah write them: docker's (`manifest.json`) and OCI layouts
//! (`index.json`); many are both, then docker's part counts, as it has the names.
//!
//! The archive is written to a work directory first: what the manifest names may lie anywhere in it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::content::WorkDir;
use crate::digest::Digest;
use crate::error::{ArchiveError, ImageError, ManifestError, Result};
use crate::image::{self, Image};
use crate::ingest::{Compression, Expected};
use crate::manifest::{self, CONFIG_MAX, Document, MANIFEST_MAX, Named};
use crate::platform::{self, Platform};
use crate::progress::{Progress, ProgressEvent, Status};
use crate::reference::Reference;
use crate::store::{ImageStore, normalized_tag};
use crate::unpack::LayerError;

/// More members than any image has layers.
const MOST_MEMBERS: usize = 100_000;

/// A member's bytes in the spooled archive.
#[derive(Clone, Debug)]
enum Member {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

struct Archive {
    path: PathBuf,
    members: HashMap<String, Member>,
    _work: WorkDir,
}

/// One image of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl ImageStore {
    /// Loads every image of an archive, plain or compressed.
    ///
    /// # Errors
    /// [`ImageError::Archive`] for what is no archive of images, [`ImageError::Layer`] and [`ImageError::Manifest`] for
    /// what is refused in it; images before the refused one stay.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: impl Progress + 'static,
    ) -> Result<Vec<Image>> {
        let store = self.clone();
        let stream = SyncIoBridge::new(archive);
        tokio::task::spawn_blocking(move || {
            let archive = spool(&store, stream)?;
            if archive.members.contains_key("manifest.json") {
                store.load_docker(&archive, &progress)
            } else if archive.members.contains_key("index.json") {
                store.load_layout(&archive, &progress)
            } else {
                Err(ImageError::Archive(ArchiveError::NoManifest))
            }
        })
        .await
        .map_err(|_| ImageError::Interrupted)?
    }

    fn load_docker(&self, archive: &Archive, progress: &dyn Progress) -> Result<Vec<Image>> {
        let bytes = archive.small("manifest.json", MANIFEST_MAX)?;
        let images: Vec<DockerImage> =
            serde_json::from_slice(&bytes).map_err(|source| ImageError::Manifest {
                image: "the archive".into(),
                source: ManifestError::Json {
                    what: "manifest",
                    source,
                },
            })?;
        let mut loaded = Vec::new();
        for one in images {
            let tags = one.repo_tags.unwrap_or_default();
            let of = tags.first().cloned().unwrap_or_else(|| one.config.clone());
            let config = archive.small(&one.config, CONFIG_MAX)?;
            let names = tags
                .iter()
                .map(|t| normalized_tag(&Reference::parse_normalized(t)?))
                .collect::<Result<Vec<_>>>()?;
            let layers: Vec<(String, Option<Named>)> = one
                .layers
                .unwrap_or_default()
                .into_iter()
                .map(|l| (l, None))
                .collect();
            loaded.push(self.load_one(archive, &config, &layers, &names, &of, progress)?);
        }
        Ok(loaded)
    }

    fn load_layout(&self, archive: &Archive, progress: &dyn Progress) -> Result<Vec<Image>> {
        let refused = |source| ImageError::Manifest {
            image: "the archive".into(),
            source,
        };
        let bytes = archive.small("index.json", MANIFEST_MAX)?;
        let Document::Index(entries) =
            manifest::read(&bytes, Some(manifest::media::OCI_INDEX)).map_err(refused)?
        else {
            return Err(refused(ManifestError::MediaType("index.json".into())));
        };
        let mut loaded = Vec::new();
        for entry in &entries {
            let names: Vec<Reference> = name_of(entry).into_iter().collect();
            let of = names
                .first()
                .map_or_else(|| entry.digest().to_string(), Reference::familiar);
            let refused = |source| ImageError::Manifest {
                image: of.clone(),
                source,
            };
            let mut entry = Named::of("index", entry).map_err(refused)?;
            let mut depth = 0;
            let manifest = loop {
                let bytes = archive.checked(&entry, MANIFEST_MAX)?;
                match manifest::read(&bytes, None).map_err(refused)? {
                    Document::Image(manifest) => break manifest,
                    Document::Index(_) if depth == 4 => return Err(refused(ManifestError::Nested)),
                    Document::Index(inner) => {
                        let wanted = Platform::host();
                        let chosen = platform::choose(&inner, &wanted).ok_or_else(|| {
                            refused(ManifestError::Platform {
                                wanted: wanted.to_string(),
                                offered: platform::offered(&inner),
                            })
                        })?;
                        entry = Named::of("manifest", chosen).map_err(refused)?;
                        depth += 1;
                    }
                }
            };
            let config = archive.checked(&manifest.config, CONFIG_MAX)?;
            let layers: Vec<_> = manifest
                .layers
                .iter()
                .map(|l| (blob_name(&l.digest), Some(*l)))
                .collect();
            loaded.push(self.load_one(archive, &config, &layers, &names, &of, progress)?);
        }
        Ok(loaded)
    }

    fn load_one(
        &self,
        archive: &Archive,
        config: &[u8],
        layers: &[(String, Option<Named>)],
        names: &[Reference],
        of: &str,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let refused = |source| ImageError::Manifest {
            image: of.to_owned(),
            source,
        };
        let read = image::read_config(config).map_err(refused)?;
        read.check_layers(layers.len()).map_err(refused)?;
        let mut placed = Vec::new();
        for ((member, named), diff_id) in layers.iter().zip(&read.diff_ids) {
            let id = diff_id.short();
            let (stream, total) = archive.open(member)?;
            let expected = Expected {
                blob: named.map(|n| n.digest),
                blob_size: named.map(|n| n.size),
                diff_id: Some(*diff_id),
            };
            let tell = |current| {
                progress.event(ProgressEvent {
                    id: id.clone(),
                    status: Status::Extracting { current, total },
                })
            };
            placed.push(self.take_layer(stream, expected, (member, of), tell)?);
            progress.event(ProgressEvent {
                id: id.clone(),
                status: Status::PullComplete,
            });
        }
        let layers: Vec<_> = placed.iter().map(|p| p.layer).collect();
        self.finish(config, &layers, names, of)
    }
}

/// The name that a layout's index gives: containerd's whole name, or OCI's when it is one.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    let annotations = entry.annotations().as_ref()?;
    let whole = annotations
        .get("io.containerd.image.name")
        .and_then(|n| Reference::parse_normalized(n).ok());
    let short = || {
        let name = annotations.get("org.opencontainers.image.ref.name")?;
        // A tag alone names nothing.
        name.contains([':', '/'])
            .then(|| Reference::parse_normalized(name).ok())?
    };
    whole.or_else(short).and_then(|r| normalized_tag(&r).ok())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes the archive down, uncompressed, and finds its members.
fn spool(store: &ImageStore, stream: impl Read + Send) -> Result<Archive> {
    let work = store.0.layout.work("load")?;
    let path = work.path().join("archive");
    let tar = |source| ImageError::Archive(ArchiveError::Tar(source));
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let mut start = Vec::new();
    (&mut stream)
        .take(6)
        .read_to_end(&mut start)
        .map_err(|e| tar(LayerError::io("read the archive")(e)))?;
    let compression = Compression::of(&start).map_err(tar)?;
    let whole = io::Cursor::new(start).chain(stream);
    let reader = compression
        .reader(BufReader::new(whole))
        .map_err(|e| tar(LayerError::io("read the archive")(e)))?;
    let limit = store.0.config.limits.bytes;
    let mut file = BufWriter::with_capacity(
        256 << 10,
        File::create_new(&path).map_err(ImageError::io("make", &path))?,
    );
    // A stream that cannot be read is the archive's fault, a file that cannot be written the disk's.
    let mut reader = reader.take(limit.saturating_add(1));
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        let got = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(tar(LayerError::io("read the archive")(e))),
        };
        file.write_all(&buffer[..got])
            .map_err(ImageError::io("write", &path))?;
        copied += got as u64;
    }
    if copied > limit {
        return Err(tar(LayerError::TooLarge { limit }));
    }
    let file = file
        .into_inner()
        .map_err(|e| ImageError::io("write", &path)(e.into_error()))?;
    let members = members(&file, &path)?;
    Ok(Archive {
        path,
        members,
        _work: work,
    })
}

fn members(mut file: &File, path: &Path) -> Result<HashMap<String, Member>> {
    let broken = |source: io::Error| {
        ImageError::Archive(ArchiveError::Tar(LayerError::io("read the archive")(
            source,
        )))
    };
    file.seek(SeekFrom::Start(0))
        .map_err(ImageError::io("read", path))?;
    let mut archive = tar::Archive::new(file);
    let mut members = HashMap::new();
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if members.len() == MOST_MEMBERS {
            return Err(ImageError::Archive(ArchiveError::TooMany {
                limit: MOST_MEMBERS,
            }));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes())
            .trim_start_matches("./")
            .to_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(
                name,
                Member::Bytes {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                },
            );
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Old archives share layers so.
            if let Some(target) = entry.link_name_bytes() {
                let target = String::from_utf8_lossy(&target).into_owned();
                let target = if kind.is_hard_link() {
                    target
                } else {
                    beside(&name, &target)
                };
                members.insert(name, Member::Link(target));
            }
        }
    }
    Ok(members)
}

/// A link's target, seen from the archive's root.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

impl Archive {
    fn open(&self, name: &str) -> Result<(Take<BufReader<File>>, u64)> {
        let missing = || ImageError::Archive(ArchiveError::Missing(name.to_owned()));
        let mut at = name.trim_start_matches("./");
        for _ in 0..8 {
            match self.members.get(at).ok_or_else(missing)? {
                Member::Link(target) => at = target,
                Member::Bytes { offset, size } => {
                    let mut file =
                        File::open(&self.path).map_err(ImageError::io("open", &self.path))?;
                    file.seek(SeekFrom::Start(*offset))
                        .map_err(ImageError::io("read", &self.path))?;
                    return Ok((BufReader::new(file).take(*size), *size));
                }
            }
        }
        Err(missing())
    }

    fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (mut stream, size) = self.open(name)?;
        if size > limit {
            return Err(ImageError::Manifest {
                image: "the archive".into(),
                source: ManifestError::TooLarge {
                    what: "manifest or config",
                    size,
                    limit,
                },
            });
        }
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("read", &self.path))?;
        Ok(bytes)
    }

    fn checked(&self, named: &Named, limit: u64) -> Result<Vec<u8>> {
        let name = blob_name(&named.digest);
        let bytes = self.small(&name, limit)?;
        let actual = Digest::of(&bytes);
        if actual != named.digest {
            return Err(ImageError::Archive(ArchiveError::WrongDigest {
                name,
                expected: named.digest,
                actual,
            }));
        }
        Ok(bytes)
    }
}
