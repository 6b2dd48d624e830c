//! What registries are asked without pulling: what stands behind a name, whether they know somebody, and what they have.

use reqwest::{StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::credentials::{Credentials, domain_of};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, CONFIG_MAX, Document, MANIFEST_MAX, Named};
use crate::reference::{Reference, registry_of};
use crate::registry::{Registry, RegistryError};
use crate::store::ImageStore;

/// Longest answer to a search or page of tags that is read, in bytes.
const LIST_MAX: u64 = 4 << 20;
/// More tags than these are not asked for.
const TAGS_MAX: usize = 100_000;
/// Bytes of all of them, at most.
const TAGS_BYTES: usize = 8 << 20;
/// Bytes of a tag, as the distribution specification bounds it; what is longer is none.
const TAG_MAX: usize = 128;

/// What stands behind a name in a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Media type of its manifest or index.
    pub media_type: String,
    /// Digest of that document.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The platforms it is for, as OCI's `platform` objects: of an index in its order, of a single image out of its config.
    pub platforms: Vec<Value>,
}

/// A repository that a search has found. What the registry leaves out, or says to be nothing (`null`), is empty, 0 or false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// Its name.
    #[serde(deserialize_with = "or_nothing")]
    pub name: String,
    /// What its owner says of it.
    #[serde(deserialize_with = "or_nothing")]
    pub description: String,
    /// How many people marked it.
    #[serde(deserialize_with = "or_nothing")]
    pub star_count: i64,
    /// Whether the registry's owners look after it.
    #[serde(deserialize_with = "or_nothing")]
    pub is_official: bool,
    /// Always false today; registries built images by themselves once.
    #[serde(deserialize_with = "or_nothing")]
    pub is_automated: bool,
}

fn or_nothing<'de, T, D>(value: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct SearchAnswer {
    #[serde(default, deserialize_with = "or_nothing")]
    results: Vec<SearchResult>,
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<Option<String>>>,
}

/// The tags of the pages so far.
#[derive(Default)]
struct Tags {
    names: Vec<String>,
    bytes: usize,
}

impl Tags {
    /// Takes a page's tags, up to the bounds; whether the next page may be asked for. A page without tags is the last one, or pages
    /// could be followed for ever.
    fn add(&mut self, list: TagList) -> bool {
        let before = self.names.len();
        let tags = list.tags.into_iter().flatten().flatten();
        for tag in tags.filter(|t| t.len() <= TAG_MAX) {
            if self.names.len() == TAGS_MAX || self.bytes + tag.len() > TAGS_BYTES {
                return false;
            }
            self.bytes += tag.len();
            self.names.push(tag);
        }
        self.names.len() > before
    }
}

impl ImageStore {
    /// Asks for what a name stands for: mirrors first, then its registry. No layer is fetched.
    ///
    /// # Errors
    /// [`ImageError::Pull`] with what the registry said, [`ImageError::Manifest`] for what is no manifest.
    pub async fn describe(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Described> {
        let reference = &Reference::parse_normalized(&reference.to_string())?;
        let config = &self.0.config;
        let of = reference.familiar();
        let failed = |source| ImageError::Pull {
            image: of.clone(),
            source,
        };
        for mirror in config.mirrors_of(reference.domain()) {
            let registry = Registry::mirror(config, mirror, reference.path()).map_err(failed)?;
            match described(&registry, reference, &of).await {
                Err(error) => tracing::info!(mirror, image = of, %error, "the mirror does not say"),
                found => return found,
            }
        }
        let registry = Registry::open(config, reference.domain(), reference.path(), credentials)
            .await
            .map_err(failed)?;
        described(&registry, reference, &of).await
    }

    /// The tags of a repository, as its registry lists them.
    ///
    /// # Errors
    /// [`ImageError::Pull`] with what the registry said.
    pub async fn tags(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<String>> {
        let reference = &Reference::parse_normalized(&reference.to_string())?;
        let ask = async || -> Result<Vec<String>, RegistryError> {
            let (host, path) = (reference.domain(), reference.path());
            let registry = Registry::open(&self.0.config, host, path, credentials).await?;
            registry.tags(path).await
        };
        ask().await.map_err(|source| ImageError::Pull {
            image: reference.familiar_name(),
            source,
        })
    }

    /// Asks a registry whether it lets somebody in. `server` is its name, or an address as docker's clients keep them
    /// (`https://index.docker.io/v1/`).
    ///
    /// # Errors
    /// [`ImageError::Ask`]: of the kind Unauthorized if the registry says no.
    pub async fn log_in(&self, server: &str, credentials: &Credentials) -> Result<()> {
        let host = domain_of(server);
        let ask = async || -> Result<(), RegistryError> {
            let registry = Registry::open(&self.0.config, host, "", Some(credentials)).await?;
            registry.enter().await
        };
        ask().await.map_err(|source| ImageError::Ask {
            registry: host.to_owned(),
            source,
        })
    }

    /// Searches a registry for repositories: `term` is `[registry/]words`, docker.io if there is no registry. At most `limit`
    /// results. Docker's index protocol, version 1; few other registries have it. Mirrors are not asked, as docker does not either:
    /// they have images, not the index.
    ///
    /// # Errors
    /// [`ImageError::Ask`].
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<SearchResult>> {
        let (host, words) = registry_of(term);
        let ask = async || -> Result<SearchAnswer, RegistryError> {
            let registry = Registry::index(&self.0.config, host, credentials).await?;
            let mut url = registry.at_path("/v1/search");
            let query = [("q", words), ("n", &limit.to_string())];
            url.query_pairs_mut().extend_pairs(query);
            let (bytes, _) = registry.page(url.clone(), LIST_MAX).await?;
            list(&url, &bytes, "repositories")
        };
        let answer = ask().await.map_err(|source| ImageError::Ask {
            registry: host.to_owned(),
            source,
        })?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(answer.results.into_iter().take(most).collect())
    }
}

async fn described(registry: &Registry<'_>, reference: &Reference, of: &str) -> Result<Described> {
    let asked = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
    };
    let failed = |source| ImageError::Pull {
        image: of.to_owned(),
        source,
    };
    let refused = |source| ImageError::Manifest {
        image: of.to_owned(),
        source,
    };
    let got = registry.manifest(&asked, MANIFEST_MAX).await;
    let (bytes, kind) = got.map_err(failed)?;
    let document = manifest::read(&bytes, kind.as_deref()).map_err(refused)?;
    let platforms = match document {
        Document::Index(entries) => entries
            .iter()
            .filter_map(|e| serde_json::to_value(e.platform().as_ref()?).ok())
            .collect(),
        Document::Image(image) => vec![platform_of(registry, image.config).await.map_err(failed)?],
    };
    Ok(Described {
        media_type: manifest::media_type(&bytes),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        platforms,
    })
}

/// What an image's config says that it is for; what it leaves out stays out.
async fn platform_of(registry: &Registry<'_>, config: Named) -> Result<Value, RegistryError> {
    let digest = config.digest.to_string();
    let bytes = registry.small_blob(&digest, CONFIG_MAX).await?;
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut platform = serde_json::Map::new();
    for key in ["architecture", "os", "os.version", "os.features", "variant"] {
        if let Some(value) = config.get(key).filter(|v| !v.is_null()) {
            platform.insert(key.to_owned(), value.clone());
        }
    }
    Ok(Value::Object(platform))
}

impl Registry<'_> {
    /// Knocks: succeeds if the registry lets us in as who we are.
    async fn enter(&self) -> Result<(), RegistryError> {
        self.page(self.at_path("/v2/"), LIST_MAX).await.map(drop)
    }

    /// Every tag of a repository, page by page.
    async fn tags(&self, path: &str) -> Result<Vec<String>, RegistryError> {
        let mut url = self.at_path(&format!("/v2/{path}/tags/list"));
        let mut all = Tags::default();
        loop {
            let (bytes, next) = self.page(url.clone(), LIST_MAX).await?;
            let more = all.add(list(&url, &bytes, "tags")?);
            match next {
                Some(next) if more => url = next,
                _ => return Ok(all.names),
            }
        }
    }
}

/// Reads the list that stands at an address.
fn list<T: DeserializeOwned>(url: &Url, bytes: &[u8], of: &str) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|error| RegistryError::Status {
        url: url.to_string(),
        status: StatusCode::OK.as_u16(),
        message: format!("its answer is no list of {of}: {error}"),
        retry_after: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nothing_is_no_error() {
        let text = r#"{"results":[{"name":"a","description":null,"star_count":null,"is_official":null},{"name":"b","star_count":3}]}"#;
        let found: SearchAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(
            (
                &found.results[0].name[..],
                &found.results[0].description[..]
            ),
            ("a", "")
        );
        assert_eq!(found.results[1].star_count, 3);
        let found: SearchAnswer = serde_json::from_str(r#"{"results":null}"#).unwrap();
        assert!(found.results.is_empty());
    }

    #[test]
    fn tags_are_bounded() {
        let page = |tags: Vec<String>| TagList {
            tags: Some(tags.into_iter().map(Some).collect()),
        };
        let mut all = Tags::default();
        assert!(all.add(page(vec!["1".into(), "x".repeat(129), "2".into()])));
        assert_eq!(all.names, ["1", "2"]);
        assert!(
            !all.add(page(vec!["x".repeat(129)])),
            "a page without tags is the last"
        );
        let long = |count: usize| page(vec!["x".repeat(128); count]);
        let asked = (0..20).take_while(|_| all.add(long(10_000))).count();
        assert!(asked < 20, "pages are asked for without end");
        assert!(all.bytes <= TAGS_BYTES && all.names.len() > TAGS_BYTES / 128 - 2);
        let mut all = Tags::default();
        let asked = (0..20).take_while(|_| all.add(page(vec!["1".into(); 30_000])));
        assert_eq!(asked.count(), 3);
        assert_eq!(all.names.len(), TAGS_MAX);
    }
}
