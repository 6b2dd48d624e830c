//! Asking a registry for manifests and blobs (OCI distribution specification 1.1): one [`Registry`] for one repository
//! of one host, with whatever authentication it turned out to want.

mod auth;
mod error;
mod tls;
mod upload;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Response, Url, header};

pub use error::RegistryError;

use crate::config::RegistryConfig;
use crate::credentials::Credentials;
pub(crate) use tls::client as client_for;

use crate::reference::DEFAULT_DOMAIN;
use auth::{Authorization, Challenge, TokenQuestion};

/// Where docker.io's API is.
const HUB_API: &str = "registry-1.docker.io";
/// Where docker.io is searched; its registry itself has no search.
const HUB_INDEX: &str = "index.docker.io";
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of an error's body, this much is read.
const ERROR_BODY: u64 = 64 << 10;

/// One repository at one registry or mirror.
pub(crate) struct Registry<'a> {
    config: &'a RegistryConfig,
    /// `https://host:port`.
    base: Url,
    client: reqwest::Client,
    /// Path of the repository.
    path: String,
    credentials: Option<&'a Credentials>,
    /// What a token is asked for: `pull`, or `pull,push`.
    actions: &'static str,
    authorization: Mutex<Option<Authorization>>,
    /// Whether it has said anything yet.
    answered: AtomicBool,
    /// Whether it stands for another one, which can be asked instead.
    mirror: bool,
}

impl<'a> Registry<'a> {
    /// Finds out whether the registry speaks TLS; nothing else is asked yet.
    pub async fn open(
        config: &'a RegistryConfig,
        authority: &str,
        path: &str,
        credentials: Option<&'a Credentials>,
    ) -> Result<Self, RegistryError> {
        let host = if authority == DEFAULT_DOMAIN {
            HUB_API
        } else {
            authority
        };
        Self::reach(config, (authority, host), path, credentials).await
    }

    /// As [`Self::open`], for searches.
    pub async fn index(
        config: &'a RegistryConfig,
        authority: &str,
        credentials: Option<&'a Credentials>,
    ) -> Result<Self, RegistryError> {
        let host = if authority == DEFAULT_DOMAIN {
            HUB_INDEX
        } else {
            authority
        };
        Self::reach(config, (authority, host), "", credentials).await
    }

    /// `host` is where the registry's API is.
    async fn reach(
        config: &'a RegistryConfig,
        (authority, host): (&str, &str),
        path: &str,
        credentials: Option<&'a Credentials>,
    ) -> Result<Self, RegistryError> {
        let https = address(&format!("https://{host}"))?;
        let registry = Self::at(config, https.clone(), path, credentials)?;
        if !config.is_insecure(authority) {
            return Ok(registry);
        }
        // As docker does: TLS where it is spoken, plain HTTP otherwise.
        let probe = registry.client.get(join(&https, "/v2/")).send().await;
        match probe {
            Ok(_) => Ok(registry),
            Err(_) => Self::at(
                config,
                address(&format!("http://{host}"))?,
                path,
                credentials,
            ),
        }
    }

    /// A mirror, given as a URL.
    pub fn mirror(
        config: &'a RegistryConfig,
        url: &str,
        path: &str,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            mirror: true,
            ..Self::at(config, address(url)?, path, None)?
        })
    }

    fn at(
        config: &'a RegistryConfig,
        base: Url,
        path: &str,
        credentials: Option<&'a Credentials>,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            client: tls::client(config, &base)?,
            config,
            base,
            path: path.to_owned(),
            credentials,
            actions: "pull",
            authorization: Mutex::default(),
            answered: AtomicBool::new(false),
            mirror: false,
        })
    }

    /// For one who wants to write there, too.
    pub fn writing(self) -> Self {
        Self {
            actions: "pull,push",
            ..self
        }
    }

    /// How often something is tried.
    pub fn attempts(&self) -> u32 {
        self.config.attempts
    }

    /// Its host, for people.
    pub fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// A manifest or index, with the media type that the registry gives it.
    pub async fn manifest(
        &self,
        reference: &str,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let url = join(
            &self.base,
            &format!("/v2/{}/manifests/{reference}", self.path),
        );
        let accept = crate::manifest::media::ACCEPT.join(", ");
        let once = || async {
            let response = self.get(url.clone(), &[(header::ACCEPT, &accept)]).await?;
            let kind = response.headers().get(header::CONTENT_TYPE);
            let kind = kind.and_then(|k| k.to_str().ok()).map(str::to_owned);
            Ok((body(response, limit).await?, kind))
        };
        if self.mirror {
            // The next one is asked sooner than this one is waited for.
            return once().await;
        }
        self.trying(once).await
    }

    /// A small blob, whole.
    pub async fn small_blob(&self, digest: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        self.trying(|| async { body(self.blob(digest, 0).await?, limit).await })
            .await
    }

    /// The address of a path at this registry.
    pub fn at_path(&self, path: &str) -> Url {
        join(&self.base, path)
    }

    /// What stands at an address, whole, and the address of the next page if the answer names one (RFC 8288).
    pub async fn page(
        &self,
        url: Url,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<Url>), RegistryError> {
        self.trying(|| async {
            let response = self.get(url.clone(), &[]).await?;
            let link = response.headers().get(header::LINK);
            let next = link.and_then(|l| next(l.to_str().ok()?));
            let next = next.and_then(|n| url.join(n).ok());
            Ok((body(response, limit).await?, next))
        })
        .await
    }

    /// A blob's bytes from `offset` on, as one try; a registry that ignores ranges sends all of it (status 200).
    pub async fn blob(&self, digest: &str, offset: u64) -> Result<Response, RegistryError> {
        let url = join(&self.base, &format!("/v2/{}/blobs/{digest}", self.path));
        let range = format!("bytes={offset}-");
        let headers: &[(header::HeaderName, &str)] = if offset > 0 {
            &[(header::RANGE, &range)]
        } else {
            &[]
        };
        self.get(url, headers).await
    }

    /// Tries again what may succeed then.
    async fn trying<T, F: Future<Output = Result<T, RegistryError>>>(
        &self,
        mut once: impl FnMut() -> F,
    ) -> Result<T, RegistryError> {
        let mut tries = 1;
        loop {
            match once().await {
                Err(error) if self.may_go(&error) && tries < self.config.attempts => {
                    tokio::time::sleep(self.pause(tries, &error)).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    /// Whether trying again may help. One that cannot be reached and has never been is most likely not there at all.
    pub fn may_go(&self, error: &RegistryError) -> bool {
        error.is_transient() && (!error.is_unreachable() || self.answered.load(Ordering::Relaxed))
    }

    /// How long to wait before a further try: as the registry asks, or twice as long each time.
    pub fn pause(&self, tries: u32, error: &RegistryError) -> Duration {
        if let RegistryError::Status {
            retry_after: Some(seconds),
            ..
        } = error
        {
            return Duration::from_secs(*seconds).min(LONGEST_PAUSE);
        }
        self.config
            .backoff
            .saturating_mul(1 << tries.saturating_sub(1).min(10))
            .min(LONGEST_PAUSE)
    }

    async fn get(
        &self,
        url: Url,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<Response, RegistryError> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.clone(), (*value).to_owned()))
            .collect();
        self.exchange(reqwest::Method::GET, url, &headers, || Ok(None))
            .await
    }

    fn authorization(&self) -> Option<Authorization> {
        self.authorization
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    async fn authorize(&self, response: &Response) -> Result<(), RegistryError> {
        let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenge = auth::challenge(headers.iter().filter_map(|h| h.to_str().ok()));
        let authorization = match challenge {
            Some(Challenge::Basic) => match self.credentials {
                Some(credentials) => auth::basic(credentials),
                None => {
                    return Err(RegistryError::Unauthorized {
                        host: self.host(),
                        message: "it wants a name and a password".into(),
                    });
                }
            },
            Some(Challenge::Bearer { realm, service }) => {
                let scope = format!("repository:{}:{}", self.path, self.actions);
                let question = TokenQuestion {
                    realm: &realm,
                    service: service.as_deref(),
                    scope: Some(scope.as_str()).filter(|_| !self.path.is_empty()),
                    credentials: self.credentials,
                    over_tls: self.base.scheme() == "https",
                };
                auth::token(&question, |url| tls::client(self.config, url)).await?
            }
            None => {
                let header = response.headers().get(header::WWW_AUTHENTICATE);
                let challenge = header
                    .and_then(|h| h.to_str().ok())
                    .unwrap_or("none")
                    .to_owned();
                return Err(RegistryError::Challenge {
                    host: self.host(),
                    challenge,
                });
            }
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    async fn refusal(&self, url: Url, response: Response) -> RegistryError {
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let text = body(response, ERROR_BODY).await.unwrap_or_default();
        let message = message(&text);
        match status {
            401 | 403 => RegistryError::Unauthorized {
                host: self.host(),
                message,
            },
            404 if !self.path.is_empty() => RegistryError::NotFound {
                what: format!("{}/{}", self.host(), self.path),
                message,
            },
            _ => RegistryError::Status {
                url: url.to_string(),
                status,
                message,
                retry_after,
            },
        }
    }
}

fn address(text: &str) -> Result<Url, RegistryError> {
    let url = Url::parse(text).map_err(|_| RegistryError::Address(text.to_owned()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(RegistryError::Address(text.to_owned()));
    }
    Ok(url)
}

/// A path below a base that may have one itself.
fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// The target of a `Link` header's `rel="next"`.
fn next(link: &str) -> Option<&str> {
    link.split(',').find_map(|one| {
        let (target, parameters) = one.trim().strip_prefix('<')?.split_once('>')?;
        let mut words = parameters.split(';').map(|p| p.trim().replace('"', ""));
        words.any(|p| p == "rel=next").then_some(target)
    })
}

/// Reads a whole body up to `limit` bytes.
pub(crate) async fn body(mut response: Response, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let url = response.url().to_string();
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(bytes),
            Ok(Some(chunk)) => {
                bytes.extend_from_slice(&chunk);
                if bytes.len() as u64 > limit {
                    return Err(RegistryError::TooLarge { url, limit });
                }
            }
            Err(source) => return Err(RegistryError::Transport { url, source }),
        }
    }
}

/// Seconds that the registry asks to wait.
pub(crate) fn retry_after(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What a registry's error says: the messages of its JSON, or the beginning of its text.
pub(crate) fn message(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = json["errors"].as_array().into_iter().flatten();
    let messages: Vec<&str> = errors
        .filter_map(|e| {
            e["message"]
                .as_str()
                .filter(|m| !m.is_empty())
                .or(e["code"].as_str())
        })
        .collect();
    if !messages.is_empty() {
        return messages.join("; ");
    }
    let text = String::from_utf8_lossy(body);
    let line: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    if line.is_empty() {
        "no reason given".into()
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(
            message(br#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#),
            "no; X"
        );
        assert_eq!(message(b"<html>\nx"), "<html>");
        assert_eq!(message(b""), "no reason given");
    }

    #[test]
    fn next_pages() {
        let link = r#"</v2/a/tags/list?last=x&n=2>; rel="next""#;
        assert_eq!(next(link), Some("/v2/a/tags/list?last=x&n=2"));
        assert_eq!(next("<a>; rel=prev, <b>; rel=next"), Some("b"));
        assert_eq!(next("<a>; rel=prev"), None);
        assert_eq!(next("nonsense"), None);
    }

    #[test]
    fn addresses() {
        let mirror = address("http://127.0.0.1:5000/prefix/").unwrap();
        assert_eq!(
            join(&mirror, "/v2/").as_str(),
            "http://127.0.0.1:5000/prefix/v2/"
        );
        for bad in ["", "ftp://x", "127.0.0.1:5000", "http://"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
