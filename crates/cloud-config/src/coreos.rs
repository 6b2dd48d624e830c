//! `coreos`: the keys of CoreOS's own.
use crate::address::ipv4;
use crate::fields::{At, Keys};
use crate::model::CloudConfig;
use crate::problem::{Mark, Problems, quoted};
use crate::{units, update, window};
use std::collections::BTreeMap;

const OWN_STORE: &str =
    "Coracle runs the store itself; remove it, and name the cluster to join with coracle.join";

const KEYS: Keys = Keys {
    known: &["units", "fleet", "update", "locksmith"],
    refused: &[
        ("etcd etcd2", OWN_STORE),
        (
            "flannel",
            "Coracle makes the network between machines itself, for all that have joined (see coracle.join); remove it",
        ),
        ("oem", "the image says what it is; remove it"),
    ],
};
const FLEET: Keys = Keys {
    known: &["metadata", "public_ip"],
    refused: &[
        (
            "etcd_servers etcd_key_prefix etcd_cafile etcd_certfile etcd_keyfile etcd_username etcd_password etcd_request_timeout",
            OWN_STORE,
        ),
        (
            "agent_ttl engine_reconcile_interval token_limit disable_engine disable_watches enable_grpc verbosity verify_units authorized_keys_file",
            "fleet had this, Coracle does without; remove it",
        ),
    ],
};

/// A label and where it was written.
pub(crate) type Labels = BTreeMap<String, (String, Mark)>;

/// What fleet was told, to which `coracle` may say the same.
#[derive(Default)]
pub(crate) struct Fleet<'n> {
    pub labels: Labels,
    /// The address and its place.
    pub public_ip: Option<(String, At<'n>)>,
}

pub(crate) fn read<'n>(at: &At<'n>, config: &mut CloudConfig, out: &mut Problems) -> Fleet<'n> {
    let Some(fields) = at.fields(&KEYS, out) else {
        return Fleet::default();
    };
    if let Some(at) = fields.get("update") {
        config.update = update::read(at, out);
    }
    if let Some(at) = fields.get("locksmith") {
        config.update.window = window::read(at, out);
    }
    if let Some(at) = fields.get("units") {
        config.units = units::read(at, config.hostname.as_deref(), out);
    }
    let fleet = fields.get("fleet").and_then(|at| at.fields(&FLEET, out));
    let Some(fields) = fleet else {
        return Fleet::default();
    };
    let mut labels = Labels::new();
    if let Some(at) = fields.get("metadata") {
        metadata(at, &mut labels, out);
    }
    let address = fields.get("public_ip");
    let public_ip = address.and_then(|at| Some((at.read(out, ipv4)?.to_string(), at.clone())));
    Fleet { labels, public_ip }
}

/// `region=us-west,disk=ssd`
fn metadata(at: &At<'_>, labels: &mut Labels, out: &mut Problems) {
    let Some(text) = at.text(out) else {
        return;
    };
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.split_once('=') {
            Some((key, value)) => put(labels, (key.trim(), value.trim()), at, at.node.mark, out),
            None => at.fail(
                out,
                format!(
                    "{} has no =; write for example region=us-west,disk=ssd",
                    quoted(part)
                ),
            ),
        }
    }
}

/// Adds a label that can be written in a unit's `MachineMetadata=`. One that is there already with another value stays.
pub(crate) fn put(
    labels: &mut Labels,
    (key, value): (&str, &str),
    at: &At<'_>,
    mark: Mark,
    out: &mut Problems,
) {
    let plain = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let wrong = match () {
        () if key.is_empty() => Some("its key is empty"),
        () if value.is_empty() => Some("its value is empty"),
        () if !plain(key) || !plain(value) => Some("it has a space in it"),
        () if key.contains(['=', '"', '\'']) => Some("its key has a quote or = in it"),
        () if key.ends_with('-') => Some("its key ends with a dash"),
        () => None,
    };
    let shown = quoted(&format!("{key}={value}"));
    if let Some(why) = wrong {
        out.add(
            mark,
            &at.path,
            format!("{shown} is no label: {why}; write for example region=us-west"),
        );
        return;
    }
    match labels.get(key) {
        Some((other, first)) if other != value => out.add(
            mark,
            &at.path,
            format!(
                "{shown} contradicts {} on line {}, which stays; write the same or one of both",
                quoted(&format!("{key}={other}")),
                first.line
            ),
        ),
        _ => drop(labels.insert(key.to_owned(), (value.to_owned(), mark))),
    }
}
