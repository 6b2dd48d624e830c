//! Archives of images, as `docker save`, skopeo and buildah write them: docker's (`manifest.json`) and OCI layouts
//! (`index.json`); many are both, then docker's part counts, as it has the names.
//!
//! What the manifest names may lie anywhere in the archive, and the manifest is its last. So what looks like a layer is taken as one
//! as it comes, and everything else is written to a work directory. A layer that turns out to be refused counts only if the manifest
//! names it; one that nothing names is taken away with the next collection.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use oci_spec::image::Descriptor;
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::assemble::Placed;
use crate::content::WorkDir;
use crate::digest::Digest;
use crate::error::{ArchiveError, ImageError, ManifestError, Result};
use crate::image::{self, Image};
use crate::ingest::Expected;
use crate::manifest::{self, CONFIG_MAX, Document, MANIFEST_MAX, Named};
use crate::platform::{self, Platform};
use crate::progress::{Progress, ProgressEvent, Status};
use crate::reference::Reference;
use crate::store::{ImageStore, normalized_tag};
use crate::unpack::{LayerError, TarReader};

/// From so many bytes on a member that does not begin as JSON is taken for a layer.
const LAYER: u64 = 256 << 10;
/// More members than any image has layers.
const MOST_MEMBERS: usize = 100_000;
/// Bytes of a member's name or of a link's target, at most; no file system takes longer ones.
const LONGEST_NAME: usize = 4096;
/// Bytes of all of them, at most.
const MOST_NAMES: usize = 32 << 20;

/// A member's bytes in the spooled archive.
enum Member {
    Bytes {
        offset: u64,
        size: u64,
    },
    Link(String),
    /// Taken already, or why not. The error is told once.
    Layer(Box<std::result::Result<Placed, Mutex<Option<ImageError>>>>),
}

/// A member, links followed.
enum Found<'a> {
    Bytes(Take<BufReader<File>>, u64),
    Layer(&'a std::result::Result<Placed, Mutex<Option<ImageError>>>),
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
            let loaded = store.load_all(stream, &progress);
            if loaded.is_err() {
                // Layers were taken before anything named them.
                store.collect_after_failure();
            }
            loaded
        })
        .await
        .map_err(|_| ImageError::Interrupted)?
    }

    fn load_all(&self, stream: impl Read + Send, progress: &dyn Progress) -> Result<Vec<Image>> {
        let archive = spool(self, stream)?;
        if archive.members.contains_key("manifest.json") {
            self.load_docker(&archive, progress)
        } else if archive.members.contains_key("index.json") {
            self.load_layout(&archive, progress)
        } else {
            Err(ImageError::Archive(ArchiveError::NoManifest))
        }
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
        // Those that are only taken now are kept from collection until the image is there.
        let mut placed = Vec::new();
        let mut layers_here = Vec::new();
        for ((member, named), diff_id) in layers.iter().zip(&read.diff_ids) {
            let id = diff_id.short();
            let (stream, total) = match archive.find(member)? {
                Found::Bytes(stream, total) => (stream, total),
                Found::Layer(Ok(taken)) => {
                    let found = taken.layer.diff_id;
                    if found != *diff_id {
                        return Err(ImageError::Layer {
                            layer: member.clone(),
                            image: of.to_owned(),
                            source: LayerError::WrongDigest {
                                what: "uncompressed (diff id)",
                                expected: *diff_id,
                                actual: found,
                            },
                        });
                    }
                    layers_here.push(taken.layer);
                    progress.event(ProgressEvent {
                        id,
                        status: Status::PullComplete,
                    });
                    continue;
                }
                Found::Layer(Err(refused)) => {
                    let error = refused.lock().ok().and_then(|mut e| e.take());
                    return Err(error.unwrap_or(ImageError::Interrupted));
                }
            };
            let expected = Expected {
                blob: named.map(|n| n.digest),
                blob_size: named.map(|n| n.size),
                diff_id: Some(*diff_id),
                verbatim: false,
            };
            let tell = |current| {
                progress.event(ProgressEvent {
                    id: id.clone(),
                    status: Status::Extracting { current, total },
                })
            };
            let taken = self.take_layer_soon(stream, expected, (member, of), tell)?;
            layers_here.push(taken.layer);
            placed.push(taken);
            progress.event(ProgressEvent {
                id: id.clone(),
                status: Status::PullComplete,
            });
        }
        self.finish(config, &layers_here, names, of)
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

/// Takes the archive apart: layers are taken as they come, the rest is written down.
fn spool(store: &ImageStore, stream: impl Read + Send) -> Result<Archive> {
    let work = store.0.layout.work("load")?;
    let path = work.path().join("archive");
    let tar = |source| ImageError::Archive(ArchiveError::Tar(source));
    let broken = |e: io::Error| tar(LayerError::io("read the archive")(e));
    let of_archive = |error| match error {
        LayerError::Io { source, .. } => broken(source),
        other => tar(other),
    };
    let stream = BufReader::with_capacity(256 << 10, stream);
    let reader = crate::ingest::plain(stream).map_err(tar)?;
    let limit = store.0.config.limits.bytes;
    let mut rest = Rest {
        file: BufWriter::with_capacity(
            256 << 10,
            File::create_new(&path).map_err(ImageError::io("make", &path))?,
        ),
        path: path.clone(),
        length: 0,
    };
    // The decoder is not to be moved between threads; a pipe's end is.
    let reader = BufReader::with_capacity(256 << 10, reader.take(limit.saturating_add(1)));
    let mut archive = TarReader::new(reader, None);
    let mut members = HashMap::new();
    let mut named = 0;
    while let Some(entry) = archive.next().map_err(of_archive)? {
        if members.len() == MOST_MEMBERS {
            return Err(ImageError::Archive(ArchiveError::TooMany {
                limit: MOST_MEMBERS,
            }));
        }
        named += entry.path.len() + entry.link.len();
        if entry.path.len().max(entry.link.len()) > LONGEST_NAME {
            return Err(tar(archive.damaged("a member's name is too long")));
        }
        if named > MOST_NAMES {
            return Err(tar(
                archive.damaged("the members' names are too long together")
            ));
        }
        let name = String::from_utf8_lossy(&entry.path)
            .trim_start_matches("./")
            .to_owned();
        let size = entry.size;
        if size > limit {
            return Err(tar(LayerError::TooLarge { limit }));
        }
        if entry.kind == b'0' {
            let mut data = archive.rest();
            let mut first = [0];
            let length = if size >= LAYER {
                data.read(&mut first).map_err(broken)?
            } else {
                0
            };
            let whole = io::Cursor::new(first[..length].to_vec()).chain(data);
            let json = matches!(first, [b'{' | b'[' | b' ' | b'\n']);
            let member = if length == 1 && !json {
                take(store, &name, size, whole)
            } else {
                rest.keep(whole, broken)?
            };
            members.insert(name, member);
        } else if matches!(entry.kind, b'1' | b'2') {
            // Old archives share layers so.
            let target = String::from_utf8_lossy(&entry.link).into_owned();
            let target = if entry.kind == b'1' {
                target
            } else {
                beside(&name, &target)
            };
            members.insert(name, Member::Link(target));
        }
    }
    rest.file.flush().map_err(ImageError::io("write", &path))?;
    Ok(Archive {
        path,
        members,
        _work: work,
    })
}

/// Takes a member as a layer.
fn take(store: &ImageStore, name: &str, size: u64, stream: impl Read) -> Member {
    let digest = name
        .strip_prefix("blobs/sha256/")
        .and_then(|h| Digest::from_hex(h).ok());
    let expected = Expected {
        blob: digest,
        blob_size: Some(size),
        diff_id: None,
        verbatim: false,
    };
    let taken = store.take_layer_soon(stream, expected, (name, "the archive"), |_| {});
    Member::Layer(Box::new(taken.map_err(|e| Mutex::new(Some(e)))))
}

/// What is no layer, written down one after the other.
struct Rest {
    file: BufWriter<File>,
    path: PathBuf,
    length: u64,
}

impl Rest {
    fn keep(
        &mut self,
        mut stream: impl Read,
        broken: impl Fn(io::Error) -> ImageError,
    ) -> Result<Member> {
        let offset = self.length;
        let mut buffer = vec![0; 128 << 10];
        loop {
            // A stream that cannot be read is the archive's fault, a file that cannot be written the disk's.
            let got = match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(e)),
            };
            self.file
                .write_all(&buffer[..got])
                .map_err(ImageError::io("write", &self.path))?;
            self.length += got as u64;
        }
        Ok(Member::Bytes {
            offset,
            size: self.length - offset,
        })
    }
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
    fn find(&self, name: &str) -> Result<Found<'_>> {
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
                    return Ok(Found::Bytes(BufReader::new(file).take(*size), *size));
                }
                Member::Layer(taken) => return Ok(Found::Layer(taken)),
            }
        }
        Err(missing())
    }

    fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let Found::Bytes(mut stream, size) = self.find(name)? else {
            return Err(ImageError::Archive(ArchiveError::Missing(name.to_owned())));
        };
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
