//! A file from the web, for ADD and for contexts that are addresses.

use std::path::Path;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use reqwest::{Response, Url, header};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::digest::Digest;
use crate::registry::client_for;
use crate::store::ImageStore;

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is no address of the web.
    #[error("it is no http or https address")]
    Address,
    /// The server said no.
    #[error("the server answered {0}")]
    Status(u16),
    /// More came than a layer may hold.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// The file could not be written.
    #[error("it cannot be kept")]
    Keep(#[source] std::io::Error),
    /// The way there.
    #[error("{0}")]
    Http(String),
}

/// What came.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Last part of the path that was asked for, whatever the server says; empty if there is none.
    pub name: String,
    /// When it was changed last, in seconds since 1970, if the server says.
    pub modified: Option<i64>,
    /// Digest of its content.
    pub digest: Digest,
    /// Its media type, if the server says.
    pub media_type: Option<String>,
}

impl ImageStore {
    /// Fetches what is at `url` into a new file.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch_url(&self, url: &str, to: &Path) -> Result<Fetched, FetchError> {
        let (url, answer) = self.answer(url).await?;
        let text = |name: header::HeaderName| {
            let value = answer.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let modified = text(header::LAST_MODIFIED).and_then(|t| {
            let time = chrono::DateTime::parse_from_rfc2822(&t).ok()?;
            Some(time.timestamp())
        });
        let media_type = text(header::CONTENT_TYPE);
        let limit = self.0.config.limits.bytes;
        let mut file = tokio::fs::File::create_new(to)
            .await
            .map_err(FetchError::Keep)?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        let mut stream = answer.bytes_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(broken)?;
            length += piece.len() as u64;
            if length > limit {
                return Err(FetchError::TooLarge(limit));
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(FetchError::Keep)?;
        }
        file.flush().await.map_err(FetchError::Keep)?;
        let time = modified.and_then(|t| u64::try_from(t).ok());
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.unwrap_or(0));
        let file = file.into_std().await;
        file.set_modified(time).map_err(FetchError::Keep)?;
        Ok(Fetched {
            name: name(&url),
            modified,
            digest: Digest::finish(hasher),
            media_type,
        })
    }

    /// What is at `url`, as it comes. Without a scheme http is meant, as docker has it.
    ///
    /// # Errors
    /// [`FetchError`]; what breaks later is an error of reading.
    pub async fn open_url(
        &self,
        url: &str,
    ) -> Result<impl tokio::io::AsyncRead + Send + Unpin + use<>, FetchError> {
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let (_, answer) = self.answer(&url).await?;
        let stream = answer
            .bytes_stream()
            .map(|b| b.map_err(std::io::Error::other));
        Ok(tokio_util::io::StreamReader::new(Box::pin(stream)))
    }

    /// Asks for what is at an address of the web: that address, and the answer, which is a success.
    async fn answer(&self, url: &str) -> Result<(Url, Response), FetchError> {
        let url: Url = url.parse().map_err(|_| FetchError::Address)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Address);
        }
        let client = client_for(&self.0.config, &url)
            .map_err(|e| FetchError::Http(coracle_sys::full(&e)))?;
        let answer = client.get(url.clone()).send().await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        Ok((url, answer))
    }
}

/// Who asked says for which address.
fn broken(error: reqwest::Error) -> FetchError {
    FetchError::Http(coracle_sys::full(&error.without_url()))
}

/// The name of a file at an address, without percent signs. One that is no plain name is none.
fn name(url: &Url) -> String {
    let path = url.path().trim_end_matches('/');
    let mut bytes = path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .as_bytes()
        .iter();
    let mut name = Vec::new();
    while let Some(&byte) = bytes.next() {
        let pair = bytes.as_slice().get(..2).filter(|_| byte == b'%');
        match pair.and_then(|p| hex::decode(p).ok()).as_deref() {
            Some([byte]) => {
                name.push(*byte);
                bytes.nth(1);
            }
            _ => name.push(byte),
        }
    }
    let name = String::from_utf8(name).unwrap_or_default();
    if matches!(name.as_str(), "." | "..") || name.contains(['/', '\0']) {
        return String::new();
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    #[test]
    fn names_of_files() {
        let name = |text: &str| super::name(&text.parse().unwrap());
        assert_eq!(name("http://h/a/b.txt?x=/c#d"), "b.txt");
        assert_eq!(name("http://h/a%20b%c3%a4"), "a bä");
        assert_eq!(name("http://h/dir/"), "dir");
        assert_eq!(name("http://h/100%"), "100%");
        for none in [
            "http://h",
            "http://h/",
            "http://h/a%2fb",
            "http://h/%00",
            "http://h/%ff",
        ] {
            assert_eq!(name(none), "", "{none}");
        }
    }
}
