//! Credentials of registries, and docker's places for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::DEFAULT_DOMAIN;

/// The key under which docker keeps the default registry's credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The name under which helpers keep tokens.
const TOKEN: &str = "<token>";

/// Who we are to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name; may be empty with a token.
    pub username: String,
    /// Password or personal token.
    pub password: String,
    /// An OAuth2 refresh token ("identity token"); used instead of the password.
    pub identity_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why credentials could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what docker writes.
    #[error("{path} is not docker's config.json; log in again")]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The entry's `auth` is not base64 of `user:password`.
    #[error("the credentials of {registry} in {path} cannot be read; log in again")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry.
        registry: String,
    },
    /// The helper cannot be run.
    #[error(
        "cannot run credential helper {helper}; install it or remove it from docker's config.json"
    )]
    Helper {
        /// The program.
        helper: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The helper failed.
    #[error("credential helper {helper} failed: {message}")]
    HelperFailed {
        /// The program.
        helper: String,
        /// What it said.
        message: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FromHelper {
    username: String,
    secret: String,
}

/// Looks the registry up in docker's `config.json` in `dir` (default: `$DOCKER_CONFIG` or `~/.docker`):
/// `credHelpers`, then `credsStore` (programs `docker-credential-<name>`), then `auths`. Blocks while a
/// helper runs. `registry` is a reference's domain, such as `docker.io`.
///
/// # Errors
/// When the file or a helper's answer cannot be read. A registry that is not there is `None`.
pub fn docker_credentials(
    dir: Option<&Path>,
    registry: &str,
) -> Result<Option<Credentials>, CredentialsError> {
    let Some((path, file)) = read(dir)? else {
        return Ok(None);
    };
    let key = key_of(registry);
    if let Some(helper) = file.helper_of(key)
        && let Some(found) = ask_helper(&helper, key)?
    {
        return Ok(Some(found));
    }
    let named_otherwise = || {
        let mut all = file.auths.iter();
        all.find(|(name, _)| domain_of(name) == domain_of(registry))
            .map(|(_, entry)| entry)
    };
    let Some(entry) = file.auths.get(key).or_else(named_otherwise) else {
        return Ok(None);
    };
    let bad = || CredentialsError::Entry {
        path: path.clone(),
        registry: registry.to_owned(),
    };
    let mut found = Credentials {
        username: entry.username.clone(),
        password: entry.password.clone(),
        identity_token: Some(entry.identitytoken.clone()).filter(|t| !t.is_empty()),
    };
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(&entry.auth).map_err(|_| bad())?;
        let text = String::from_utf8(decoded).map_err(|_| bad())?;
        let (username, password) = text.split_once(':').ok_or_else(bad)?;
        found.username = username.to_owned();
        found.password = password.trim_end_matches('\0').to_owned();
    }
    let empty = found == Credentials::default();
    Ok((!empty).then_some(found))
}

/// Where docker's `config.json` is: in `$DOCKER_CONFIG` or `~/.docker`.
#[must_use]
pub fn config_path() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    Some(dir.or_else(home)?.join("config.json"))
}

/// docker's `config.json`, if there is one.
fn read(dir: Option<&Path>) -> Result<Option<(PathBuf, ConfigFile)>, CredentialsError> {
    let path = dir.map(|dir| dir.join("config.json"));
    let Some(path) = path.or_else(config_path) else {
        return Ok(None);
    };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CredentialsError::Io { path, source }),
    };
    let file: ConfigFile =
        serde_json::from_slice(&bytes).map_err(|source| CredentialsError::Json {
            path: path.clone(),
            source,
        })?;
    Ok(Some((path, file)))
}

/// Registries of which docker's `config.json`, or the helper that it names, has credentials, by their domains. Blocks while a helper
/// runs; one that fails is taken to have none.
///
/// # Errors
/// When the file cannot be read.
pub fn docker_registries(dir: Option<&Path>) -> Result<BTreeSet<String>, CredentialsError> {
    let Some((_, file)) = read(dir)? else {
        return Ok(BTreeSet::new());
    };
    let mut keys: Vec<String> = file.auths.into_keys().collect();
    keys.extend(file.cred_helpers.into_keys());
    if !file.creds_store.is_empty() {
        let helper = format!("docker-credential-{}", file.creds_store);
        let list = run_helper(&helper, "list", "").ok();
        let list = list.and_then(|l| serde_json::from_str::<BTreeMap<String, String>>(&l).ok());
        keys.extend(list.unwrap_or_default().into_keys());
    }
    Ok(keys.iter().map(|k| domain_of(k).to_owned()).collect())
}

/// The registry that an address means, or a key of docker's, which once were whole addresses; docker.io if it means none.
#[must_use]
pub fn domain_of(address: &str) -> &str {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        domain => domain,
    }
}

/// The key under which docker keeps a registry's credentials.
#[must_use]
pub fn key_of(address: &str) -> &str {
    match domain_of(address) {
        DEFAULT_DOMAIN => HUB_KEY,
        domain => domain,
    }
}

fn ask_helper(helper: &str, key: &str) -> Result<Option<Credentials>, CredentialsError> {
    let text = match run_helper(helper, "get", key) {
        Err(CredentialsError::HelperFailed { message, .. })
            if message.contains("credentials not found") =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let answer: FromHelper =
        serde_json::from_str(&text).map_err(|e| CredentialsError::HelperFailed {
            helper: helper.to_owned(),
            message: e.to_string(),
        })?;
    if answer.username == TOKEN {
        let identity_token = Some(answer.secret);
        return Ok(Some(Credentials {
            identity_token,
            ..Credentials::default()
        }));
    }
    Ok(Some(Credentials {
        username: answer.username,
        password: answer.secret,
        identity_token: None,
    }))
}

/// Runs a credential helper with something to read, and gives what it says.
fn run_helper(helper: &str, verb: &str, input: &str) -> Result<String, CredentialsError> {
    let failed = |source| CredentialsError::Helper {
        helper: helper.to_owned(),
        source,
    };
    let mut child = Command::new(helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its question answers nonetheless.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(CredentialsError::HelperFailed {
        helper: helper.to_owned(),
        message: text.trim().to_owned(),
    })
}

impl ConfigFile {
    /// The program that keeps what is under a key; `None` if the file itself does.
    fn helper_of(&self, key: &str) -> Option<String> {
        let named = self.cred_helpers.get(key);
        // docker.io is known by two names.
        let named = named.or_else(|| self.cred_helpers.get(domain_of(key)));
        // An empty name says that the file keeps it.
        let named = named.unwrap_or(&self.creds_store);
        (!named.is_empty()).then(|| format!("docker-credential-{named}"))
    }
}

/// The helper that keeps a registry's credentials by docker's `config.json` in `dir`, found as [`docker_credentials`] does, as
/// program name; `None` if the file itself does. `key` is as [`key_of`] gives it.
///
/// # Errors
/// When the file cannot be read.
pub fn helper_of(dir: Option<&Path>, key: &str) -> Result<Option<String>, CredentialsError> {
    Ok(read(dir)?.and_then(|(_, file)| file.helper_of(key)))
}

/// Has a helper keep credentials.
///
/// # Errors
/// [`CredentialsError::Helper`], [`CredentialsError::HelperFailed`].
pub fn keep(helper: &str, key: &str, credentials: &Credentials) -> Result<(), CredentialsError> {
    let (name, secret) = match &credentials.identity_token {
        Some(token) => (TOKEN, token),
        None => (credentials.username.as_str(), &credentials.password),
    };
    let told = serde_json::json!({ "ServerURL": key, "Username": name, "Secret": secret });
    run_helper(helper, "store", &told.to_string()).map(drop)
}

/// Has a helper forget credentials; none to forget is no error.
///
/// # Errors
/// [`CredentialsError::Helper`], [`CredentialsError::HelperFailed`].
pub fn forget(helper: &str, key: &str) -> Result<(), CredentialsError> {
    match run_helper(helper, "erase", key) {
        Err(CredentialsError::HelperFailed { message, .. })
            if message.contains("credentials not found") =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn registries_that_docker_knows() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"auths": {"https://index.docker.io/v1/": {}, "https://reg.example/v2/": {"auth": "bWU6cA=="}, "127.0.0.1:5000": {}},
            "credHelpers": {"gcr.example": "none-of-that-name"}, "credsStore": "none-of-that-name-either"}"#;
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let known = docker_registries(Some(dir.path())).unwrap();
        let wanted = ["127.0.0.1:5000", "docker.io", "gcr.example", "reg.example"];
        assert!(known.iter().map(String::as_str).eq(wanted), "{known:?}");
    }

    #[test]
    fn names_of_registries() {
        for hub in ["", "docker.io", "https://index.docker.io/v1/"] {
            assert_eq!((domain_of(hub), key_of(hub)), (DEFAULT_DOMAIN, HUB_KEY));
        }
        assert_eq!(key_of("https://r.example/"), "r.example");
        assert_eq!(key_of("https://r.example:5000/v2/"), "r.example:5000");
    }

    #[test]
    fn a_helper_for_all_who_ask() {
        let dir = tempfile::tempdir().unwrap();
        let hello = STANDARD.encode("me:hello");
        for (helpers, store, hub, other) in [
            (r#"{"docker.io": "a"}"#, "s", Some("a"), Some("s")),
            (
                r#"{"docker.io": "a", "https://index.docker.io/v1/": "b"}"#,
                "",
                Some("b"),
                None,
            ),
            (r#"{"docker.io": "", "r.example": ""}"#, "s", None, None),
            ("{}", "", None, None),
        ] {
            let text = format!(
                r#"{{"credHelpers": {helpers}, "credsStore": "{store}", "auths": {{
                "docker.io": {{"auth": "bm9ib2R5Og=="}}, "{HUB_KEY}": {{"auth": "{hello}"}}, "http://r.example/v1": {{"auth": "{hello}"}}}}}}"#
            );
            std::fs::write(dir.path().join("config.json"), text).unwrap();
            for (registry, wanted) in [(DEFAULT_DOMAIN, hub), ("r.example", other)] {
                let helper = helper_of(Some(dir.path()), key_of(registry)).unwrap();
                let wanted = wanted.map(|w| format!("docker-credential-{w}"));
                assert_eq!(helper, wanted, "{registry}: {helpers} {store}");
                match (docker_credentials(Some(dir.path()), registry), helper) {
                    // No helper of that name is here.
                    (Err(CredentialsError::Helper { helper, .. }), Some(asked)) => {
                        assert_eq!(helper, asked);
                    }
                    (Ok(Some(found)), None) => assert_eq!(found.password, "hello"),
                    (found, _) => panic!("{registry}: {helpers} {store}: {found:?}"),
                }
            }
        }
    }
}
