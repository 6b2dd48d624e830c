//! Authentication: the challenge a registry sends, and tokens got for it (distribution specification,
//! "Token Authentication").
//!
//! Worked example: `GET /v2/` answers 401 with `WWW-Authenticate: Bearer realm="https://auth.example/token",
//! service="registry.example"`. We ask `https://auth.example/token?service=registry.example&
//! scope=repository:app:pull`, with name and password if we have them, and send the token it gives with
//! every further request to that registry. The scope is always the one that we need, never what the challenge says.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::RegistryError;
use crate::credentials::Credentials;

/// How a registry wants us to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// Reads the values of all WWW-Authenticate headers; bearer tokens come before passwords.
pub(crate) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, parameters) in schemes(header) {
            let get = |key: &str| {
                parameters
                    .iter()
                    .find(|(k, _)| k.eq_ignore_ascii_case(key))
                    .map(|(_, v)| v.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: get("service"),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// `Scheme key="value", key=value, Scheme …` (RFC 9110, 11.6.1).
fn schemes(header: &str) -> Vec<(String, Parameters)> {
    let mut all: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after_blank = after.trim_start();
        match (after_blank.strip_prefix('='), all.last_mut()) {
            (Some(value), Some((_, parameters))) if !word.is_empty() => {
                let (value, after) = value_of(value.trim_start());
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (None, _) if !word.is_empty() => {
                all.push((word.to_owned(), Vec::new()));
                rest = after;
            }
            // Nothing that we can read; what came before stands.
            _ => return all,
        }
        rest = rest.trim_start_matches([' ', ',']);
    }
    all
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// A value of the Authorization header.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authorization(pub String);

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// Name and password as RFC 7617 writes them.
pub(crate) fn basic(credentials: &Credentials) -> Authorization {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    Authorization(format!("Basic {}", STANDARD.encode(pair)))
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// What to ask a token server.
pub(crate) struct TokenQuestion<'a> {
    pub realm: &'a str,
    pub service: Option<&'a str>,
    /// `repository:<path>:<actions>`; absent where only who we are is asked.
    pub scope: Option<&'a str>,
    pub credentials: Option<&'a Credentials>,
    /// Whether the registry itself was reached over TLS; then secrets do not go to a server without.
    pub over_tls: bool,
}

/// Gets a token. `client` gives the HTTP client for a URL.
pub(crate) async fn token(
    question: &TokenQuestion<'_>,
    client: impl FnOnce(&reqwest::Url) -> Result<reqwest::Client, RegistryError>,
) -> Result<Authorization, RegistryError> {
    let realm = question.realm;
    let bad = |reason: String| RegistryError::Token {
        realm: realm.to_owned(),
        reason,
    };
    let mut url = reqwest::Url::parse(realm).map_err(|e| bad(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("its address is neither http nor https".into()));
    }
    if question.over_tls && url.scheme() == "http" && question.credentials.is_some() {
        return Err(bad("it has no TLS, so it is not told the password".into()));
    }
    let client = client(&url)?;
    let refresh = question
        .credentials
        .and_then(|c| c.identity_token.as_deref());
    let request = if let Some(refresh) = refresh {
        let mut form = reqwest::Url::parse("form:").map_err(|e| bad(e.to_string()))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", "coracle")
            .append_pair("service", question.service.unwrap_or(""))
            .append_pair("scope", question.scope.unwrap_or(""))
            .append_pair("refresh_token", refresh);
        client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or("").to_owned())
    } else {
        if let Some(service) = question.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        if let Some(scope) = question.scope {
            url.query_pairs_mut().append_pair("scope", scope);
        }
        let named = question.credentials.filter(|c| !c.username.is_empty());
        if let Some(credentials) = named {
            url.query_pairs_mut()
                .append_pair("account", &credentials.username);
        }
        let request = client.get(url);
        match named {
            Some(credentials) => request.header("authorization", basic(credentials).0),
            None => request,
        }
    };
    let response = request
        .send()
        .await
        .map_err(|source| RegistryError::Transport {
            url: realm.to_owned(),
            source,
        })?;
    let status = response.status();
    let retry_after = super::retry_after(&response);
    let body = super::body(response, 1 << 20).await?;
    if !status.is_success() {
        let message = super::message(&body);
        return Err(match status.as_u16() {
            401 | 403 => RegistryError::Unauthorized {
                host: realm.to_owned(),
                message,
            },
            status => RegistryError::Status {
                url: realm.to_owned(),
                status,
                message,
                retry_after,
            },
        });
    }
    let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))?;
    let token = if answer.token.is_empty() {
        answer.access_token
    } else {
        answer.token
    };
    if token.is_empty() || !token.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Err(bad("there is no token in it".into()));
    }
    Ok(Authorization(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let read = |header: &str| challenge([header].into_iter());
        assert_eq!(read(r#"Basic realm="x""#), Some(Challenge::Basic));
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(str::to_owned),
            })
        };
        assert_eq!(
            read(r#"Bearer realm="https://a/t",service="s, \"q\"",scope="repository:x:pull,push""#),
            bearer("https://a/t", Some("s, \"q\""))
        );
        assert_eq!(
            read(r#"Basic realm="x", bearer Realm=https://a"#),
            bearer("https://a", None)
        );
        assert_eq!(
            challenge([r"Negotiate", r#"Bearer realm="r""#].into_iter()),
            bearer("r", None)
        );
        for none in ["", ",,", "=", "Bearer", "Bearer service=x", "a=b"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
