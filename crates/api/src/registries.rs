//! Questions to registries: `GET /distribution/{name}/json`, `GET /images/search`, `POST /auth`.

use crate::App;
use crate::containers::body;
use crate::error::{ApiError, Result};
use crate::filters::Filters;
use crate::query::Query;
use crate::transfer::credentials;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use base64::{DecodeError, Engine as _};
use coracle_image::{Credentials, ErrorKind, Reference, SearchResult};
use serde::Deserialize;
use serde_json::{Value, json};

/// Results of a search when no number is asked for.
const RESULTS: u32 = 25;
/// Most that may be asked for.
const MOST: u32 = 100;

/// What stands behind a name in its registry. The path is `{name}/json`, and a name has slashes.
pub async fn distribution(
    State(app): State<App>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    let name = rest.strip_suffix("/json").ok_or_else(|| {
        ApiError::not_found(format!(
            "/distribution/{rest}: page not found, or not served by this release"
        ))
    })?;
    let reference = Reference::parse_normalized(name)?;
    let credentials = credentials(&headers)?;
    let images = app.engine.images();
    let found = images.describe(&reference, credentials.as_ref()).await;
    let found = found.map_err(refused_as_docker_does)?;
    Ok(Json(json!({
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest.to_string(),
            "size": found.size,
        },
        "Platforms": found.platforms,
    })))
}

/// A registry that says no is 401 here: clients then ask for a login.
fn refused_as_docker_does(error: coracle_image::ImageError) -> ApiError {
    match error.kind() {
        ErrorKind::Unauthorized => {
            ApiError::new(StatusCode::UNAUTHORIZED, coracle_engine::full_error(&error))
        }
        _ => error.into(),
    }
}

pub async fn search(
    State(app): State<App>,
    query: Query,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    let filters = Filters::read(
        query.text("filters"),
        &["is-official", "is-automated", "stars"],
    )?;
    let term = query
        .text("term")
        .ok_or_else(|| ApiError::invalid("parameter term is missing: what to search for"))?;
    let limit = query.number::<u32>("limit")?.filter(|n| *n > 0);
    let limit = limit.unwrap_or(RESULTS);
    if limit > MOST {
        return Err(ApiError::invalid(format!(
            "limit {limit} is outside the range of [1, {MOST}]"
        )));
    }
    let stars = filters.of("stars").first().map(|text| {
        text.parse::<i64>()
            .map_err(|_| ApiError::invalid(format!("filter stars=\"{text}\" is not a number")))
    });
    let stars = stars.transpose()?.unwrap_or(0);
    let (official, automated) = (
        filters.switch("is-official"),
        filters.switch("is-automated"),
    );
    let credentials = credentials(&headers)?;
    let images = app.engine.images();
    let found = images.search(term, limit, credentials.as_ref()).await;
    let fits = |r: &SearchResult| {
        official.is_none_or(|o| o == r.is_official)
            && automated.is_none_or(|a| a == r.is_automated)
            && r.star_count >= stars
    };
    let found = found.map_err(refused_as_docker_does)?;
    let rows = found.into_iter().filter(fits).map(|r| {
        json!({
            "name": r.name, "description": r.description, "star_count": r.star_count,
            "is_official": r.is_official, "is_automated": r.is_automated,
        })
    });
    Ok(Json(rows.collect()))
}

/// Credentials as clients send them. Clients leave out what is empty, or write `null`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Auth {
    username: Option<String>,
    password: Option<String>,
    /// Both, as base64 of `name:password`.
    auth: Option<String>,
    serveraddress: Option<String>,
    identitytoken: Option<String>,
}

/// Reads base64 of either alphabet, with or without its padding.
pub fn decoded(text: &str) -> std::result::Result<Vec<u8>, DecodeError> {
    let text = text.trim_end_matches('=');
    URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD_NO_PAD.decode(text))
}

impl Auth {
    /// What it says; nothing if it says nothing.
    ///
    /// # Errors
    /// Why `auth` cannot be read.
    pub fn credentials(self) -> std::result::Result<Option<Credentials>, String> {
        let (mut username, mut password) = (
            self.username.unwrap_or_default(),
            self.password.unwrap_or_default(),
        );
        let auth = self.auth.filter(|a| !a.is_empty() && username.is_empty());
        if let Some(auth) = auth {
            let bad = |why: String| format!("auth is no base64 of name:password: {why}");
            let bytes = decoded(&auth).map_err(|e| bad(e.to_string()))?;
            let pair = String::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
            if let Some((name, secret)) = pair.split_once(':') {
                (username, password) = (name.into(), secret.into());
            }
        }
        let identity_token = self.identitytoken.filter(|t| !t.is_empty());
        let says = !username.is_empty() || identity_token.is_some();
        Ok(says.then_some(Credentials {
            username,
            password,
            identity_token,
        }))
    }
}

/// Has the registry look at credentials before a client keeps them.
pub async fn auth(State(app): State<App>, bytes: bytes::Bytes) -> Result<Json<Value>> {
    let asked: Auth = body(&bytes)?;
    let server = asked.serveraddress.clone().unwrap_or_default();
    let credentials = asked.credentials().map_err(ApiError::invalid)?;
    let credentials = credentials.ok_or_else(|| {
        ApiError::invalid("username and password are missing: there is nothing to log in with")
    })?;
    let images = app.engine.images();
    let told = images.log_in(&server, &credentials).await;
    told.map_err(refused_as_docker_does)?;
    Ok(Json(
        json!({ "Status": "Login Succeeded", "IdentityToken": "" }),
    ))
}
