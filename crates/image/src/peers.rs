//! Images from other machines of the cluster, by digest.
//!
//! Whoever has content serves it, and whoever needs it asks all who are near before the registry. Nothing is believed: each document,
//! config and layer is checked by its digest as those of a registry are. Three questions, answered by [`ImageStore::held`],
//! [`ImageStore::here`] and [`ImageStore::open_content`], and put as HTTP by whoever serves them:
//!
//! | question | answer |
//! | --- | --- |
//! | `GET /v1/images?reference=NAME` | [`Held`], or 404: what this machine has under a name |
//! | `GET /v1/content?digests=HEX,HEX` | [`Here`]: which of these are here |
//! | `GET /v1/content/sha256:HEX` | the bytes, with `Range: bytes=N-` from there on (206); 404 if they are not here |
//!
//! A layer is served under two digests: that of its archive as it is kept, and that of the plain archive (its diff id), which every
//! machine that has the layer can make. A machine that has it from another source is of use so, too.
//!
//! Worked example: `localhost/app` was built on `a`, and a unit of it starts on `b`. No registry has it, so `b` asks all machines for
//! the name and takes the newest image, by the digest of its manifest. It asks which of them have that manifest: `a`, and `c`, which ran the unit
//! before. The config comes from `a`, two layers from `a` and from `c`. `c` dies in the midst of its layer: `b` goes on at that byte with
//! `a`. Had `a` sent other bytes than `c`, the digest would be wrong at the end; both are then asked no more for this image, and
//! the layer is begun anew elsewhere, at last at the registry, if there is one.

mod ask;
mod error;
mod give;

use std::io;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use error::PeerError;
pub use give::Content;

pub(crate) use ask::Crowd;

use crate::digest::{Digest, ImageId};

/// Format version of [`Held`] and [`Here`].
pub const VERSION: u32 = 1;

/// How other machines are reached.
pub trait Peers: Send + Sync + 'static {
    /// The other machines that live, the ones to ask first before the others. Names are for [`Self::get`] and [`Self::called`].
    fn machines(&self) -> Vec<String>;

    /// What people call one of these.
    fn called(&self, machine: &str) -> String {
        machine.to_owned()
    }

    /// Asks a machine for a path; with `from` for its bytes from there on (`Range: bytes=N-`). Fails if the machine cannot be reached;
    /// what it says is the answer, whatever its status.
    fn get<'a>(
        &'a self,
        machine: &'a str,
        path: &'a str,
        from: u64,
    ) -> BoxFuture<'a, io::Result<PeerAnswer>>;
}

/// What a machine answers.
pub struct PeerAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body as it comes.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

/// What a machine has under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// [`VERSION`].
    pub version: u32,
    /// The image's id.
    pub id: ImageId,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// When it came there.
    pub added: DateTime<Utc>,
}

/// Which content a machine has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// [`VERSION`].
    pub version: u32,
    /// Of what was asked for.
    pub here: Vec<Digest>,
}

/// Path of a name's question.
#[must_use]
pub fn name_path(reference: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b':');
    let escaped: String = reference
        .bytes()
        .map(|b| match plain(b) {
            true => char::from(b).to_string(),
            false => format!("%{b:02X}"),
        })
        .collect();
    format!("/v1/images?reference={escaped}")
}

/// Path of the question which of these are there.
#[must_use]
pub fn here_path(digests: &[Digest]) -> String {
    let all: Vec<String> = digests.iter().map(Digest::hex).collect();
    format!("/v1/content?digests={}", all.join(","))
}

/// Path of a digest's content.
#[must_use]
pub fn content_path(digest: &Digest) -> String {
    format!("/v1/content/{digest}")
}
