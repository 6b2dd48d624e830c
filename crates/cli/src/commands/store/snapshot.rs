//! Snapshots: a copy of the whole store and its SHA-256 in one file.

use super::api::stream;
use super::model::Piece;
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use crate::server::{DaemonArgs, STATE_DIR};
use crate::settings;
use coracle_store::{EmbeddedStore, Restored};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::{Path, PathBuf};

/// `coracle store snapshot`
#[derive(Debug, clap::Subcommand)]
pub enum Snapshot {
    /// Copy the whole store to a file
    #[command(after_help = "Example:\n  coracle store snapshot save /backup/store.db")]
    Save {
        /// File
        file: PathBuf,
    },
    /// Put a snapshot in the store's place, while the daemon is stopped
    #[command(after_help = "Example:\n  coracle store snapshot restore /backup/store.db")]
    Restore {
        /// Where the daemon keeps its state [default: /var/lib/coracle]
        #[arg(long, env = "CORACLE_STATE_DIR", value_name = "DIR", hide_env = true)]
        state_dir: Option<PathBuf>,
        /// The daemon's configuration file [default: /etc/coracle/coracle.toml, if there is one]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// File of `snapshot save`
        file: PathBuf,
    },
}

/// Bytes of the checksum.
const SUM: u64 = 32;
/// The database consists of these; what is more is the checksum.
const BLOCK: u64 = 512;

pub async fn snapshot(client: &Client, command: Snapshot) -> Result<()> {
    match command {
        Snapshot::Save { file } => save(client, &file).await,
        Snapshot::Restore {
            state_dir,
            config,
            file,
        } => restore(state_dir, config, &file),
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File {
        action,
        path: path.clone(),
        source,
    }
}

/// Why a file's end does not fit what is before it.
fn damaged(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

async fn save(client: &Client, path: &Path) -> Result<()> {
    let failed = failed("saving a snapshot to", path);
    let parent = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    // Of mode 0600, and gone again if this ends early.
    let mut file = tempfile::Builder::new()
        .prefix(".coracle-snapshot-")
        .tempfile_in(parent)
        .map_err(&failed)?;
    let mut pieces = stream(client, "maintenance/snapshot", &json!({})).await?;
    let mut end = Ending::default();
    while let Some(Piece { blob }) = pieces.next().await? {
        file.write_all(&blob.0).map_err(&failed)?;
        end.add(&blob.0);
    }
    end.check().map_err(&failed)?;
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(&failed)?;
    out(&format!("Snapshot saved at {}\n", path.display()))
}

/// Keeps the last 32 bytes of a stream apart and adds up those before.
#[derive(Default)]
struct Ending {
    sum: Sha256,
    last: Vec<u8>,
    length: u64,
}

impl Ending {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.last.extend_from_slice(bytes);
        let before = self.last.len().saturating_sub(SUM as usize);
        self.sum.update(&self.last[..before]);
        self.last.drain(..before);
    }

    fn check(self) -> io::Result<()> {
        if self.length % BLOCK != SUM {
            return Err(damaged("it ends early: its checksum is missing"));
        }
        if self.sum.finalize()[..] != self.last[..] {
            return Err(damaged("its checksum does not fit its content"));
        }
        Ok(())
    }
}

/// Reads a snapshot without its checksum, which must fit at the end.
struct Checked {
    file: File,
    /// Bytes of the database that are left.
    left: u64,
    sum: Sha256,
}

impl Checked {
    fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        if length % BLOCK != SUM {
            return Err(damaged(
                "this is no snapshot, or half of one: it has no checksum at its end",
            ));
        }
        Ok(Self {
            file,
            left: length - SUM,
            sum: Sha256::new(),
        })
    }
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut sum = [0; SUM as usize];
            self.file.read_exact(&mut sum)?;
            if self.sum.clone().finalize()[..] != sum {
                return Err(damaged("the snapshot's checksum does not fit its content"));
            }
            // The sum is asked for once more where somebody reads on.
            io::Seek::seek_relative(&mut self.file, -(SUM as i64))?;
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = buffer.len().min(most);
        let got = self.file.read(&mut buffer[..most])?;
        if got == 0 && most > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.sum.update(&buffer[..got]);
        self.left -= got as u64;
        Ok(got)
    }
}

fn restore(state_dir: Option<PathBuf>, config: Option<PathBuf>, path: &Path) -> Result<()> {
    let state_dir = match state_dir {
        Some(dir) => dir,
        None => {
            let args = DaemonArgs {
                config,
                ..DaemonArgs::default()
            };
            let configured = settings::read_config(&args)?.state_dir;
            configured.unwrap_or_else(|| STATE_DIR.into())
        }
    };
    let file = File::open(path).map_err(failed("opening", path))?;
    let mut snapshot = Checked::new(file).map_err(failed("reading the snapshot", path))?;
    let restored = EmbeddedStore::restore(&mut snapshot, &state_dir.join("store"));
    let Restored {
        revision,
        aside,
        previous,
    } = restored.map_err(|e| failed("restoring the snapshot", path)(io::Error::other(e)))?;
    let mut text = String::new();
    if let Some(aside) = aside {
        let revision = previous.map_or("which cannot be read".to_owned(), |revision| {
            format!("at revision {revision}")
        });
        text = format!(
            "The store that was there, {revision}, is at {}\n",
            aside.display()
        );
    }
    let store = state_dir.join("store");
    out(&format!(
        "{text}Snapshot restored to {}, at revision {revision}\n",
        store.display()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_end_is_told_from_the_rest_however_it_comes() {
        let mut bytes = vec![5; 1024];
        bytes.extend_from_slice(&Sha256::digest(&bytes));
        for size in [1, 31, 33, 1000, 5000] {
            let mut end = Ending::default();
            bytes.chunks(size).for_each(|chunk| end.add(chunk));
            end.check().unwrap();
            let mut end = Ending::default();
            bytes[..1024].chunks(size).for_each(|chunk| end.add(chunk));
            assert!(end.check().is_err());
        }
        bytes[3] ^= 1;
        let mut end = Ending::default();
        end.add(&bytes);
        assert!(end.check().is_err());
    }
}
