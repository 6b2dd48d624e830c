//! Log options, by docker's names, and what of them is not honoured.

use crate::error::{EngineError, Result};
use crate::model::{ContainerConfig, LogConfig};
use std::collections::BTreeMap;

/// Words of a `tag` that stand for something.
const WORDS: [&str; 6] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
];

/// Checks driver and options. `local` is docker's other driver for files; its format is nobody's but the engine's, so that here both
/// are one.
///
/// # Errors
/// [`EngineError::Invalid`] naming the option.
pub fn check(config: &LogConfig) -> Result<()> {
    let kind = config.kind.as_str();
    if !matches!(kind, "" | "json-file" | "local" | "none") {
        return Err(refuse(
            &format!("log driver \"{kind}\""),
            "use json-file, local (both with max-size and max-file) or none",
        ));
    }
    for (key, value) in &config.config {
        let bad = |why: &str| {
            EngineError::Invalid(format!("invalid log option {key}=\"{value}\": {why}"))
        };
        match key.as_str() {
            _ if kind == "none" => {
                return Err(bad("log driver none takes no options; leave it out"));
            }
            "max-size" | "max-buffer-size" => _ = super::size(key, value)?,
            "max-file" => {
                let number = value.parse::<u32>().ok().filter(|n| *n > 0);
                number.ok_or_else(|| bad("write a number of files, 1 to 4294967295"))?;
            }
            // A container never waits for its log here, so both modes are the same.
            "mode" if matches!(value.as_str(), "blocking" | "non-blocking") => {}
            "mode" => return Err(bad("use blocking or non-blocking")),
            "compress" if value == "false" => {}
            "compress" if value != "true" => return Err(bad("use false")),
            "compress" => {
                return Err(refuse(
                    "log option \"compress\"",
                    "leave it out; max-size and max-file bound the space",
                ));
            }
            "labels" | "env" if kind != "local" => {}
            "tag" if kind != "local" => _ = tag(value, |word| Some(word.to_owned()))?,
            _ => {
                return Err(refuse(
                    &format!("log option \"{key}\""),
                    "use max-size, max-file, labels, env, tag or mode",
                ));
            }
        }
    }
    Ok(())
}

fn refuse(what: &str, way_out: &str) -> EngineError {
    EngineError::Invalid(format!(
        "{what} is not supported by this release; {way_out}"
    ))
}

/// Replaces `{{.Word}}` by what `word` says.
fn tag(text: &str, word: impl Fn(&str) -> Option<String>) -> Result<String> {
    let bad = || {
        EngineError::Invalid(format!(
            "invalid log option tag=\"{text}\": use {{{{.Word}}}} with {}",
            WORDS.join(", ")
        ))
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or_else(bad)?;
        let name = inside.trim().strip_prefix('.').ok_or_else(bad)?;
        let known = WORDS.contains(&name).then(|| word(name)).flatten();
        out.push_str(before);
        out.push_str(&known.ok_or_else(bad)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What a container's options add to each line of its log. `word` says what a word of the tag stands for.
///
/// # Errors
/// [`EngineError::Invalid`] for a tag that cannot be read.
pub fn attributes(
    log: &LogConfig,
    config: &ContainerConfig,
    word: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let names = |key: &str| {
        let text = log.config.get(key).map_or("", String::as_str);
        let names = text.split(',').map(str::trim).filter(|n| !n.is_empty());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in names("labels") {
        if let Some(value) = config.labels.get(&name) {
            found.insert(name, value.clone());
        }
    }
    for name in names("env") {
        let value = config.env.iter().find_map(|e| {
            let (key, value) = e.split_once('=')?;
            (key == name).then(|| value.to_owned())
        });
        if let Some(value) = value {
            found.insert(name, value);
        }
    }
    if let Some(text) = log.config.get("tag") {
        found.insert("tag".to_owned(), tag(text, word)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn log(kind: &str, pairs: &[(&str, &str)]) -> LogConfig {
        LogConfig {
            kind: kind.into(),
            config: pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        }
    }

    #[test]
    fn what_is_taken() {
        for (kind, pairs) in [
            ("", vec![]),
            (
                "local",
                vec![("max-size", "1m"), ("max-file", "2"), ("compress", "false")],
            ),
            (
                "json-file",
                vec![
                    ("labels", "a,b"),
                    ("env", "C"),
                    ("tag", "{{.Name}}/{{ .ID }}"),
                ],
            ),
            (
                "json-file",
                vec![("mode", "non-blocking"), ("max-buffer-size", "4m")],
            ),
            ("none", vec![]),
        ] {
            check(&log(kind, &pairs)).unwrap();
        }
        for (kind, key, value) in [
            ("syslog", "max-size", "1m"),
            ("none", "max-size", "1m"),
            ("", "max-size", "big"),
            ("", "max-file", "0"),
            ("", "mode", "sideways"),
            ("", "max-size", "0"),
            ("", "max-size", "99999999999g"),
            ("", "max-file", "4294967296"),
            ("", "max-buffer-size", "-1"),
            ("", "compress", "true"),
            ("", "compress", "perhaps"),
            ("local", "tag", "x"),
            ("", "tag", "{{.Nope}}"),
            ("", "tag", "{{.Name"),
            ("", "labels-regex", ".*"),
        ] {
            let error = check(&log(kind, &[(key, value)])).unwrap_err().to_string();
            let told =
                error.contains(key) && (error.contains(value) || error.contains("not supported"));
            assert!(told || kind == "syslog" && error.contains(kind), "{error}");
        }
    }

    #[test]
    fn what_is_added() {
        let mut config = ContainerConfig {
            env: vec!["C=d".into(), "E=f".into()],
            ..ContainerConfig::default()
        };
        config.labels.insert("a".into(), "b".into());
        let options = log(
            "",
            &[("labels", "a, x"), ("env", "C,N"), ("tag", "t-{{.Name}}")],
        );
        let found = attributes(&options, &config, |w| Some(w.to_lowercase())).unwrap();
        let found: Vec<String> = found.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(found, ["C=d", "a=b", "tag=t-name"]);
    }
}
