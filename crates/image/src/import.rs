//! A root filesystem becomes an image of one layer.

use crate::duration::nanoseconds;
use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::error::{ImageError, Result};
use crate::image::Image;
use crate::ingest::Expected;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{ImageStore, normalized_tag};

/// What an imported image shall be.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Its name.
    pub reference: Option<Reference>,
    /// Instructions as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL,
    /// USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// What it is for; this machine's platform if absent.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Reads a tar archive of a root filesystem, plain or compressed with gzip, zstd, xz or bzip2.
    ///
    /// # Errors
    /// [`ImageError::Layer`] for an archive that is refused, [`ImageError::Change`], [`ImageError::NoSpace`], and I/O errors.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        options: ImportOptions,
    ) -> Result<Image> {
        // What cannot be read is refused before the archive is.
        let mut config = Map::new();
        for change in &options.changes {
            apply(&mut config, change)?;
        }
        let name = options.reference.as_ref().map(normalized_tag).transpose()?;
        let store = self.clone();
        let archive = SyncIoBridge::new(archive);
        tokio::task::spawn_blocking(move || {
            let of = name.as_ref().map_or_else(|| "the import".to_owned(), Reference::familiar);
            let placed = store.take_layer(crate::old::as_layer(archive), Expected::default(), ("archive", &of), |_| {})?;
            let platform = options.platform.unwrap_or_else(Platform::host);
            let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
            let mut document = json!({
                "created": now,
                "architecture": platform.architecture,
                "os": platform.os,
                "config": config,
                "rootfs": { "type": "layers", "diff_ids": [placed.layer.diff_id.to_string()] },
                "history": [{ "created": now, "comment": options.message.unwrap_or_else(|| "imported".into()) }],
            });
            if let Some(variant) = platform.variant {
                document["variant"] = json!(variant);
            }
            let names: Vec<Reference> = name.into_iter().collect();
            store.finish(document.to_string().as_bytes(), &[placed.layer], &names, &of)
        })
        .await
        .map_err(|_| ImageError::Interrupted)?
    }
}

fn list<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let slot = config.entry(key).or_insert_with(|| json!([]));
    if !slot.is_array() {
        *slot = json!([]);
    }
    match slot {
        Value::Array(list) => list,
        // It was made an array just now.
        _ => unreachable!("an array"),
    }
}

/// Applies one instruction of a Dockerfile to a config.
pub(crate) fn apply(config: &mut Map<String, Value>, change: &str) -> Result<()> {
    let bad = |reason| ImageError::Change {
        change: change.to_owned(),
        reason,
    };
    let (word, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .ok_or_else(|| bad("it has no value"))?;
    let rest = rest.trim();
    let set = |config: &mut Map<String, Value>, key: &str, value: Value| {
        config.insert(key.to_owned(), value);
    };
    match word.to_ascii_uppercase().as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(rest)),
        "SHELL" => {
            let list: Vec<String> = serde_json::from_str(rest)
                .map_err(|_| bad("write a JSON list, as [\"/bin/sh\", \"-c\"]"))?;
            set(config, "Shell", json!(list));
        }
        "ENV" => {
            for (name, value) in pairs(rest).ok_or_else(|| bad("write NAME=value"))? {
                let start = format!("{name}=");
                let env = list(config, "Env");
                env.retain(|e| !e.as_str().is_some_and(|e| e.starts_with(&start)));
                env.push(json!(format!("{name}={value}")));
            }
        }
        "LABEL" => {
            let found = pairs(rest).ok_or_else(|| bad("write name=value"))?;
            let labels = config.entry("Labels").or_insert_with(|| json!({}));
            for (name, value) in found {
                labels[name] = json!(value);
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                if number.parse::<u16>().is_err() || !matches!(protocol, "tcp" | "udp" | "sctp") {
                    return Err(bad("write ports as 80 or 53/udp"));
                }
                config.entry("ExposedPorts").or_insert_with(|| json!({}))
                    [format!("{number}/{protocol}")] = json!({});
            }
        }
        "VOLUME" => {
            let paths: Vec<String> = serde_json::from_str(rest)
                .unwrap_or_else(|_| rest.split_whitespace().map(Into::into).collect());
            for path in paths {
                config.entry("Volumes").or_insert_with(|| json!({}))[path] = json!({});
            }
        }
        "USER" => set(config, "User", json!(rest)),
        "WORKDIR" => set(config, "WorkingDir", json!(rest)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "ONBUILD" => list(config, "OnBuild").push(json!(rest)),
        "HEALTHCHECK" => set(
            config,
            "Healthcheck",
            health(rest).ok_or_else(|| bad("write NONE or [--interval=…] CMD command"))?,
        ),
        _ => {
            return Err(bad(
                "only CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR are understood",
            ));
        }
    }
    Ok(())
}

/// The exec form, `["a", "b"]`, or the shell form.
fn command(text: &str) -> Value {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => json!(words),
        Err(_) => json!(["/bin/sh", "-c", text]),
    }
}

/// `a=b "c d"=e f="g h"`, or the old `name the whole rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if words.iter().all(|w| w.contains('=')) {
        return words
            .iter()
            .map(|w| w.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())))
            .collect();
    }
    let (name, value) = text.split_once(char::is_whitespace)?;
    (!name.contains('=')).then(|| vec![(name.to_owned(), value.trim().to_owned())])
}

/// Splits at blanks outside quotes; quotes and backslashes are taken off.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut all, mut word, mut quote, mut inside) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => (quote, inside) = (Some(c), true),
            (None | Some('"'), '\\') => {
                word.push(chars.next()?);
                inside = true;
            }
            (None, c) if c.is_whitespace() => {
                if inside {
                    all.push(std::mem::take(&mut word));
                    inside = false;
                }
            }
            (_, c) => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        all.push(word);
    }
    quote.is_none().then_some(all)
}

/// `NONE`, or options and `CMD` with a command in either form.
fn health(text: &str) -> Option<Value> {
    if text.eq_ignore_ascii_case("none") {
        return Some(json!({ "Test": ["NONE"] }));
    }
    let mut check = Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (pair, more) = option.split_once(char::is_whitespace)?;
        rest = more.trim_start();
        let (key, value) = pair.split_once('=')?;
        match key {
            "retries" => check.insert("Retries".into(), json!(value.parse::<u32>().ok()?)),
            "interval" => check.insert("Interval".into(), json!(nanoseconds(value)?)),
            "timeout" => check.insert("Timeout".into(), json!(nanoseconds(value)?)),
            "start-period" => check.insert("StartPeriod".into(), json!(nanoseconds(value)?)),
            "start-interval" => check.insert("StartInterval".into(), json!(nanoseconds(value)?)),
            _ => return None,
        };
    }
    let command = rest.strip_prefix("CMD")?.trim();
    let test = match serde_json::from_str::<Vec<String>>(command) {
        Ok(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
        Err(_) => vec!["CMD-SHELL".to_owned(), command.to_owned()],
    };
    check.insert("Test".into(), json!(test));
    Some(Value::Object(check))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(changes: &[&str]) -> Value {
        let mut config = Map::new();
        for change in changes {
            apply(&mut config, change).unwrap();
        }
        Value::Object(config)
    }

    #[test]
    fn instructions() {
        let config = with(&[
            r#"CMD ["a", "b"]"#,
            "entrypoint run it",
            r#"ENV A=1 B="two words" A=3"#,
            "ENV OLD the rest",
            "LABEL a.b=c",
            "EXPOSE 80 53/udp",
            r#"VOLUME ["/data"]"#,
            "VOLUME /x /y",
            "USER web",
            "WORKDIR /srv",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD redis-cli ping",
        ]);
        assert_eq!(config["Cmd"], json!(["a", "b"]));
        assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "run it"]));
        assert_eq!(config["Env"], json!(["B=two words", "A=3", "OLD=the rest"]));
        assert_eq!(config["Labels"]["a.b"], "c");
        assert_eq!(
            config["ExposedPorts"],
            json!({ "80/tcp": {}, "53/udp": {} })
        );
        assert_eq!(
            config["Volumes"],
            json!({ "/data": {}, "/x": {}, "/y": {} })
        );
        assert_eq!(config["Healthcheck"]["Interval"], json!(90_000_000_000_i64));
        assert_eq!(
            config["Healthcheck"]["Test"],
            json!(["CMD-SHELL", "redis-cli ping"])
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for bad in [
            "",
            "CMD",
            "RUN x",
            "EXPOSE x",
            "ENV x",
            "ENV a=\"b",
            "SHELL x",
            "HEALTHCHECK x",
            "HEALTHCHECK --interval=x CMD y",
        ] {
            let error = apply(&mut Map::new(), bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
