//! `[updates]` of coracle.toml.

use coracle_cloud_config::{RebootStrategy, Window};
use coracle_image::Reference;
use serde::Deserialize;
use std::time::Duration;

const CHANNEL: &str = "stable";
/// How often the channel is looked at.
const EVERY: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(5);

/// As it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatesOf {
    /// The OCI repository, without a tag.
    from: Option<String>,
    /// The tag: `stable`.
    channel: Option<String>,
    /// `etcd-lock`, `reboot`, `best-effort` or `off`.
    reboot: Option<String>,
    /// `23:00` or `Thu 23:00`, UTC.
    window_start: Option<String>,
    /// `1h30m`.
    window_length: Option<String>,
    /// Time between two looks: `1h`.
    every: Option<String>,
}

/// How a machine keeps itself up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updates {
    /// The OCI repository; without one nobody looks for updates.
    pub from: Option<String>,
    /// The tag in it.
    pub channel: String,
    /// When the machine restarts into an update.
    pub reboot: RebootStrategy,
    /// When it may do so; always where nothing is given.
    pub window: Option<Window>,
    /// Time between two looks.
    pub every: Duration,
}

impl UpdatesOf {
    /// What it comes to.
    ///
    /// # Errors
    /// The key, what is wrong, and the way out.
    pub fn read(self) -> Result<Updates, String> {
        let channel = self.channel.unwrap_or_else(|| CHANNEL.to_owned());
        if let Some(from) = &self.from {
            reference(from, &channel).map_err(|error| {
                format!("updates: from = \"{from}\", channel = \"{channel}\": {error}; write a repository such as registry.example.com/coracle/os and a tag such as {CHANNEL}")
            })?;
        }
        let reboot = match self.reboot.as_deref() {
            None | Some("etcd-lock") => RebootStrategy::EtcdLock,
            Some("reboot") => RebootStrategy::Reboot,
            Some("best-effort") => RebootStrategy::BestEffort,
            Some("off") => RebootStrategy::Off,
            Some(other) => {
                return Err(format!(
                    "updates: reboot = \"{other}\" is no strategy; write reboot, etcd-lock, best-effort or off"
                ));
            }
        };
        let window = match (&self.window_start, &self.window_length) {
            (None, None) => None,
            (Some(start), Some(length)) => {
                Some(Window::parse(start, length).map_err(|why| format!("updates: {why}"))?)
            }
            _ => {
                return Err(
                    "updates: window_start and window_length go together; write for example \"Thu 04:00\" and \"1h\""
                        .to_owned(),
                );
            }
        };
        let every = match self.every {
            Some(text) => crate::settings::duration("updates: every", &text)?.max(SHORTEST),
            None => EVERY,
        };
        Ok(Updates {
            from: self.from,
            channel,
            reboot,
            window,
            every,
        })
    }
}

/// The image that a channel of a repository is.
///
/// # Errors
/// That one of them cannot be part of a reference.
pub fn reference(from: &str, channel: &str) -> Result<Reference, coracle_image::ReferenceError> {
    Reference::parse_normalized(&format!("{from}:{channel}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Updates, String> {
        toml::from_str::<UpdatesOf>(text).unwrap().read()
    }

    #[test]
    fn what_is_not_said_is_as_usual() {
        let usual = read("").unwrap();
        assert_eq!(
            (usual.channel.as_str(), usual.reboot, usual.every),
            ("stable", RebootStrategy::EtcdLock, EVERY)
        );
        let all = "from = \"10.0.0.1:5000/os\"\nchannel = \"beta\"\nreboot = \"off\"\n\
            window_start = \"Thu 04:00\"\nwindow_length = \"90m\"\nevery = \"10m\"";
        let all = read(all).unwrap();
        assert_eq!(all.window.unwrap().start(), "Thu 04:00");
        assert_eq!(all.every, Duration::from_secs(600));
    }

    #[test]
    fn mistakes_are_told_with_their_key() {
        for (text, word) in [
            ("from = \"a.example/Os\"", "from"),
            ("from = \"a.example/os\"\nchannel = \"a b\"", "channel"),
            ("reboot = \"soon\"", "best-effort"),
            ("window_start = \"4:00\"", "window_length"),
            ("window_start = \"25:00\"\nwindow_length = \"1h\"", "25:00"),
            ("every = \"often\"", "every"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
