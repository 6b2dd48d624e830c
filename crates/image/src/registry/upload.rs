//! Giving a registry blobs and manifests (OCI distribution specification 1.1, "Pushing Blobs" and "Pushing Manifests").
//!
//! The states of one blob: *asked for* (is it there already?), *begun* (the registry has named an address), *sent* piece by piece,
//! each to the address that the answer to the former one named, *closed* with its digest. A connection that breaks is made
//! again: the registry is asked how far it got, and the upload goes on there, or begins anew if it has forgotten it.

use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::TryStreamExt;
use reqwest::{Body, Method, Response, StatusCode, Url, header};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{Registry, RegistryError, join};
use crate::digest::Digest;

/// Bytes of one piece. One must be through before the registry's silence counts as an end.
const PIECE: u64 = 16 << 20;

/// An upload that the registry has begun.
struct Begun {
    address: Url,
    /// Bytes that it has.
    offset: u64,
}

impl Registry<'_> {
    /// Whether the registry has the blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = join(&self.base, &format!("/v2/{}/blobs/{digest}", self.path));
        let asked = self.trying(|| self.exchange(Method::HEAD, url.clone(), &[], || Ok(None)));
        match asked.await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a blob out of a file. `sent` counts its bytes.
    pub async fn upload(
        &self,
        digest: &Digest,
        file: &Path,
        size: u64,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), RegistryError> {
        let (mut begun, mut tries) = (None, 1);
        loop {
            let before = begun.as_ref().map_or(0, |b: &Begun| b.offset);
            let error = match self.go_on(&mut begun, digest, (file, size), sent).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let after = begun.as_ref().map_or(0, |b| b.offset);
            if after > before {
                // It got further: the registry lives.
                tries = 1;
            }
            if !self.may_go(&error) || tries >= self.attempts() {
                return Err(error);
            }
            tracing::info!(layer = %digest, %error, "an upload broke and is tried again");
            tokio::time::sleep(self.pause(tries, &error)).await;
            tries += 1;
            // It may have got the last bytes, and only its answer was lost.
            if matches!(self.has_blob(digest).await, Ok(true)) {
                return Ok(());
            }
            if let Some(known) = begun.take() {
                begun = self.how_far(known.address).await.ok();
            }
        }
    }

    async fn go_on(
        &self,
        begun: &mut Option<Begun>,
        digest: &Digest,
        (file, size): (&Path, u64),
        sent: &Arc<AtomicU64>,
    ) -> Result<(), RegistryError> {
        let mut at = match begun.take() {
            Some(at) => at,
            None => {
                let url = join(&self.base, &format!("/v2/{}/blobs/uploads/", self.path));
                let empty = [(header::CONTENT_LENGTH, "0".to_owned())];
                let answer = self
                    .exchange(Method::POST, url, &empty, || Ok(None))
                    .await?;
                Begun {
                    address: self.location(&answer)?,
                    offset: 0,
                }
            }
        };
        while at.offset < size {
            let length = PIECE.min(size - at.offset);
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
                (
                    header::CONTENT_RANGE,
                    format!("{}-{}", at.offset, at.offset + length - 1),
                ),
            ];
            sent.store(at.offset, Ordering::Relaxed);
            let piece = || piece(file, at.offset, length, sent).map(Some);
            let done = self
                .exchange(Method::PATCH, at.address.clone(), &headers, piece)
                .await
                .and_then(|answer| self.location(&answer));
            match done {
                Ok(address) => {
                    at = Begun {
                        address,
                        offset: at.offset + length,
                    };
                }
                Err(error) => {
                    *begun = Some(at);
                    return Err(error);
                }
            }
        }
        let mut url = at.address.clone();
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let empty = [(header::CONTENT_LENGTH, "0".to_owned())];
        let closed = self.exchange(Method::PUT, url, &empty, || Ok(None)).await;
        if closed.is_err() {
            *begun = Some(at);
        }
        closed.map(drop)
    }

    /// Asks how much of an upload has arrived.
    async fn how_far(&self, address: Url) -> Result<Begun, RegistryError> {
        let answer = self
            .exchange(Method::GET, address, &[], || Ok(None))
            .await?;
        let range = answer.headers().get(header::RANGE);
        let last = range
            .and_then(|r| r.to_str().ok()?.split_once('-')?.1.trim().parse().ok())
            .map_or(0, |last: u64| last + u64::from(last > 0));
        Ok(Begun {
            address: self.location(&answer)?,
            offset: last,
        })
    }

    /// Names a manifest.
    pub async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let url = join(
            &self.base,
            &format!("/v2/{}/manifests/{reference}", self.path),
        );
        let headers = [(header::CONTENT_TYPE, media_type.to_owned())];
        let body = || Ok(Some(Body::from(bytes.to_vec())));
        self.trying(|| self.exchange(Method::PUT, url.clone(), &headers, body))
            .await
            .map(drop)
    }

    /// Where an answer says to go on.
    fn location(&self, answer: &Response) -> Result<Url, RegistryError> {
        let place = answer.headers().get(header::LOCATION);
        let place = place.and_then(|l| l.to_str().ok()).unwrap_or_default();
        answer
            .url()
            .join(place)
            .ok()
            .filter(|_| !place.is_empty())
            .ok_or_else(|| RegistryError::Status {
                url: answer.url().to_string(),
                status: answer.status().as_u16(),
                message: format!("it names no place to send to (Location: {place:?})"),
                retry_after: None,
            })
    }

    /// One request; it is repeated once with the authorization that the registry asks for.
    pub(super) async fn exchange(
        &self,
        method: Method,
        url: Url,
        headers: &[(header::HeaderName, String)],
        body: impl Fn() -> Result<Option<Body>, RegistryError>,
    ) -> Result<Response, RegistryError> {
        let mut asked = false;
        loop {
            let mut request = self.client.request(method.clone(), url.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            // Secrets are for the registry alone, wherever it sends us.
            let own = url.origin() == self.base.origin();
            if let Some(authorization) = self.authorization().filter(|_| own) {
                request = request.header(header::AUTHORIZATION, authorization.0);
            }
            if let Some(body) = body()? {
                request = request.body(body);
            }
            let response = request
                .send()
                .await
                .map_err(|source| RegistryError::Transport {
                    url: url.to_string(),
                    source,
                })?;
            self.answered.store(true, Ordering::Relaxed);
            // Whoever we were sent on to does not get to know who we are.
            let own = response.url().origin() == self.base.origin();
            match response.status() {
                StatusCode::UNAUTHORIZED if !asked && own => {
                    asked = true;
                    self.authorize(&response).await?;
                }
                status if status.is_success() => return Ok(response),
                _ => return Err(self.refusal(url, response).await),
            }
        }
    }
}

/// A part of a file as a request's body.
fn piece(
    path: &Path,
    offset: u64,
    length: u64,
    sent: &Arc<AtomicU64>,
) -> Result<Body, RegistryError> {
    let open = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    };
    let file = open().map_err(|source| RegistryError::File {
        path: path.to_owned(),
        source,
    })?;
    let sent = sent.clone();
    let part = tokio::fs::File::from_std(file).take(length);
    let stream = ReaderStream::with_capacity(part, 256 << 10).inspect_ok(move |bytes| {
        sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    Ok(Body::wrap_stream(stream))
}
