//! `coracle`: what CoreOS had no keys for.
use crate::address::{advertised, host, host_port};
use crate::coreos::{Fleet, put};
use crate::fields::{At, Keys, truth_of};
use crate::model::{CloudConfig, Join, Registry};
use crate::network;
use crate::problem::{Problems, quoted};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const KEYS: Keys = Keys {
    known: &[
        "join",
        "labels",
        "advertise",
        "api_listen",
        "api_names",
        "clients",
        "registries",
        "network",
        "update_keys",
    ],
    refused: &[(
        "api",
        "is written api_listen: true, or with an address, api_listen: 0.0.0.0:2376",
    )],
};
const JOIN: Keys = Keys {
    known: &["address", "token"],
    refused: &[],
};
const REGISTRY: Keys = Keys {
    known: &["host", "plain_http", "mirror_of"],
    refused: &[],
};
/// The API's port for workstations where none is given: docker's for TLS.
const API_PORT: u16 = 2376;
/// Bytes of a public key of minisign: algorithm, id and key of Ed25519.
const UPDATE_KEY: usize = 2 + 8 + 32;

pub(crate) fn read(
    at: Option<&At<'_>>,
    fleet: Fleet<'_>,
    config: &mut CloudConfig,
    out: &mut Problems,
) {
    let mut labels = fleet.labels;
    let fields = at.and_then(|at| at.fields(&KEYS, out));
    let get = |key| fields.as_ref().and_then(|fields| fields.get(key));
    config.join = get("join").and_then(|at| join(at, out));
    if let Some(at) = get("labels") {
        for (key, mark, at) in at.pairs(out) {
            if let Some(value) = at.text(out) {
                put(&mut labels, (&key, value), &at, mark, out);
            }
        }
    }
    config.labels = labels
        .into_iter()
        .map(|(key, (value, _))| (key, value))
        .collect();
    config.advertise = get("advertise").and_then(|at| at.read(out, advertised));
    if let Some((address, at)) = fleet.public_ip {
        match &config.advertise {
            Some(own) if own.split(':').next() != Some(&address) => at.fail(
                out,
                format!("{address} contradicts coracle.advertise, {own}, which stays; remove one of both"),
            ),
            Some(_) => {}
            None => config.advertise = Some(address),
        }
    }
    config.api_listen = get("api_listen")
        .and_then(|at| at.read(out, listen))
        .flatten();
    let names = get("api_names").map(|at| at.items(out)).unwrap_or_default();
    config.api_names = names.iter().filter_map(|at| at.read(out, host)).collect();
    let clients = get("clients").map(|at| at.items(out)).unwrap_or_default();
    config.clients = clients
        .iter()
        .filter_map(|at| at.read(out, client))
        .collect();
    if let Some(at) = get("clients").filter(|_| !config.clients.is_empty())
        && get("api_listen").is_none()
    {
        at.fail(
            out,
            "lets nobody in, since the API is not served; write api_listen: true beside it",
        );
    }
    config.registries = get("registries")
        .map(|at| registries(at, out))
        .unwrap_or_default();
    config.network = get("network")
        .map(|at| network::read(at, out))
        .unwrap_or_default();
    let keys = get("update_keys")
        .map(|at| at.items(out))
        .unwrap_or_default();
    config.update_keys = keys
        .iter()
        .filter_map(|at| at.read(out, update_key))
        .collect();
}

/// Where the API is served: `true` for docker's port at every address, `false` for nowhere.
fn listen(text: &str) -> Result<Option<String>, String> {
    match truth_of(text) {
        Some(true) => return Ok(Some(format!("0.0.0.0:{API_PORT}"))),
        Some(false) => return Ok(None),
        None if text.eq_ignore_ascii_case("none") => return Ok(None),
        None => {}
    }
    let at = text.parse::<SocketAddr>().ok();
    let alone = || text.parse().ok().map(|ip| SocketAddr::new(ip, API_PORT));
    let at = at.or_else(alone).filter(|at| at.port() != 0);
    at.map(|at| Some(at.to_string())).ok_or_else(|| {
        format!(
            "{} is no address of the machine; write true, or for example 0.0.0.0:{API_PORT}",
            quoted(text)
        )
    })
}

/// The line that `coracle client request` prints.
fn client(text: &str) -> Result<String, String> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let bad = |why: &str| {
        Err(format!(
            "{} {why}; write the line that `coracle client request NAME` prints: sha256:, 64 hexadecimal digits, and a name if you like",
            quoted(&text)
        ))
    };
    if text.contains("PRIVATE KEY") {
        return Err("is a private key, which belongs to its owner alone; make another with `coracle client request NAME` and write the line that it prints".to_owned());
    }
    if text.contains("BEGIN CERTIFICATE") {
        return bad("is a certificate");
    }
    let digits = text
        .strip_prefix("sha256:")
        .map(|rest| rest.split(' ').next());
    match digits.flatten() {
        Some(digits) if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(text)
        }
        Some(_) => bad("has no 64 hexadecimal digits"),
        None => bad("is no fingerprint of a key"),
    }
}

fn join(at: &At<'_>, out: &mut Problems) -> Option<Join> {
    let fields = at.fields(&JOIN, out)?;
    if at.node.is_null() {
        return None;
    }
    let address = fields.need("address", "10.0.0.2", out);
    let address = address.and_then(|at| at.read(out, host_port));
    let token = fields.need("token", "what `coracle cluster token` printed", out);
    let token = token.and_then(|at| {
        // Copying brings in line breaks, which do not matter.
        let text: String = at.text(out)?.split_whitespace().collect();
        if text.is_empty() {
            at.fail(out, "is empty; write what `coracle cluster token` printed");
        }
        (!text.is_empty()).then_some(text)
    });
    Some(Join {
        address: address?,
        token: token?,
    })
}

fn registries(list: &At<'_>, out: &mut Problems) -> Vec<Registry> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for at in list.items(out) {
        let Some(fields) = at.fields(&REGISTRY, out) else {
            continue;
        };
        let host = fields.need("host", "10.0.2.2:5000", out);
        let host = host.and_then(|at| at.read(out, host_port));
        let plain_http = fields.truth("plain_http", false, out);
        let mirror = fields.get("mirror_of").map(|at| at.read(out, host_port));
        let mirror = mirror.map_or(Some(None), |mirror| mirror.map(Some));
        let (Some(host), Some(mirror_of)) = (host, mirror) else {
            continue;
        };
        if !seen.insert((host.clone(), mirror_of.clone())) {
            at.fail(
                out,
                format!("{host} is here twice, and only the first is read; make one of both"),
            );
            continue;
        }
        found.push(Registry {
            host,
            plain_http,
            mirror_of,
        });
    }
    found
}

/// The second line of a file that minisign makes for a public key.
fn update_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bad = |why: &str| {
        Err(format!(
            "{} {why}; write the last line of the .pub file of minisign, 56 characters that begin with RW",
            quoted(text)
        ))
    };
    if text.starts_with("untrusted comment:") {
        return bad("is the whole file");
    }
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() != UPDATE_KEY => bad("is not as long as a key"),
        Ok(bytes) if !bytes.starts_with(b"Ed") => bad("is a key of another kind"),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => bad("is no base64"),
    }
}
