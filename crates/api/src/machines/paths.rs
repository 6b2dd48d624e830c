//! What requests are about, by their paths. Pure.

use axum::http::Uri;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A container that may be elsewhere.
    Container(String),
    /// A unit whose output may be elsewhere.
    Unit(String),
    /// A further process in a container.
    Process(String),
}

/// Requests about a container that are passed on by its name alone. What removes or renames it is not among them: that is asked
/// of a machine.
const VERBS: &[&str] = &[
    "archive",
    "attach",
    "attach/ws",
    "changes",
    "exec",
    "export",
    "json",
    "kill",
    "logs",
    "pause",
    "resize",
    "restart",
    "start",
    "stats",
    "stop",
    "top",
    "unpause",
    "wait",
];

/// What the path names, if it may be elsewhere.
pub(super) fn named(path: &str) -> Option<Named> {
    let (kind, rest) = split(path)?;
    let (name, verb) = rest.split_once('/')?;
    let name = || plain(name);
    match kind {
        "/containers/" | "/v1/containers/" if VERBS.contains(&verb) => {
            Some(Named::Container(name()?))
        }
        "/v1/units/" if verb == "logs" => Some(Named::Unit(name()?)),
        "/exec/" => Some(Named::Process(name()?)),
        _ => None,
    }
}

fn split(path: &str) -> Option<(&str, &str)> {
    let kinds = ["/containers/", "/v1/containers/", "/v1/units/", "/exec/"];
    kinds
        .into_iter()
        .find_map(|kind| Some((kind, path.strip_prefix(kind)?)))
}

/// The same request about another container.
pub(super) fn with_container(uri: &Uri, container: &str) -> Option<Uri> {
    let (kind, rest) = split(uri.path())?;
    let (_, verb) = rest.split_once('/')?;
    let query = uri.query().map_or_else(String::new, |q| format!("?{q}"));
    format!("{kind}{container}/{verb}{query}").parse().ok()
}

/// The parameter `machine`.
pub(super) fn machine(uri: &Uri) -> Option<String> {
    let value = uri
        .query()?
        .split('&')
        .find_map(|p| p.strip_prefix("machine="))?;
    plain(&value.replace('+', " "))
}

/// The same request without that parameter, if it has it.
pub(super) fn without_machine(uri: &Uri) -> Option<Uri> {
    machine(uri)?;
    let kept: Vec<&str> = uri
        .query()?
        .split('&')
        .filter(|p| !p.starts_with("machine="))
        .collect();
    let query = if kept.is_empty() {
        String::new()
    } else {
        format!("?{}", kept.join("&"))
    };
    format!("{}{query}", uri.path()).parse().ok()
}

/// Without percent signs; none if that is no text.
fn plain(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_paths_name() {
        let container = |name: &str| Some(Named::Container(name.into()));
        assert_eq!(named("/containers/web/logs"), container("web"));
        assert_eq!(named("/containers/a%20b%2ec/json"), container("a b.c"));
        assert_eq!(named("/v1/containers/web/exec"), container("web"));
        assert_eq!(named("/containers/web/attach/ws"), container("web"));
        assert_eq!(
            named("/exec/9c1e/start"),
            Some(Named::Process("9c1e".into()))
        );
        let unit = Some(Named::Unit("web@1.container".into()));
        assert_eq!(named("/v1/units/web%401.container/logs"), unit);
        for local in [
            "/containers/json",
            "/containers/create",
            "/containers/prune",
            "/containers/web",
            "/containers/web/rename",
            "/containers/web/update",
            "/v1/units/web/start",
            "/v1/units",
            "/images/web/json",
            "/containers/%zz/logs",
            "/_ping",
            "/networks/web/connect",
        ] {
            assert_eq!(named(local), None, "{local}");
        }
    }

    #[test]
    fn what_is_changed() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let there = with_container(&uri("/containers/web/logs?follow=1"), "4f3a").unwrap();
        assert_eq!(there, "/containers/4f3a/logs?follow=1");
        let asked = uri("/containers/json?all=1&machine=web%2D2&size=1");
        assert_eq!(machine(&asked).unwrap(), "web-2");
        assert_eq!(
            without_machine(&asked).unwrap(),
            "/containers/json?all=1&size=1"
        );
        assert_eq!(without_machine(&uri("/info?machine=a")).unwrap(), "/info");
        assert!(without_machine(&uri("/info?all=1")).is_none());
    }
}
