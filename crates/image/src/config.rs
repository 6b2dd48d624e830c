//! Settings of the store and its registry client.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::unpack::Limits;

/// How registries are reached and what layers may claim.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// URLs of mirrors by registry (`docker.io`, `ghcr.io`), tried in order before it, as dockerd's `--registry-mirror`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries without TLS or with certificates that nobody vouches for: `host`, `host:port` or an address
    /// range as `10.0.0.0/8`. Loopback registries count as listed.
    pub insecure: Vec<String>,
    /// Where CAs and client certificates of single registries lie, as docker keeps them:
    /// `<dir>/<host[:port]>/{*.crt,*.cert,*.key}`.
    pub certs_dir: PathBuf,
    /// Layers fetched at once.
    pub downloads: usize,
    /// How often a request is tried before it fails.
    pub attempts: u32,
    /// Pause before the second try; doubles with each further one, up to 30 s.
    pub backoff: Duration,
    /// How long a connection may be silent.
    pub silence: Duration,
    /// How long another machine of the cluster may be silent before the next source is asked; a registry that does not answer within half of
    /// it is passed over if another machine knows the name.
    pub peer_patience: Duration,
    /// What a layer may claim.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            certs_dir: PathBuf::from("/etc/docker/certs.d"),
            downloads: 3,
            attempts: 6,
            backoff: Duration::from_millis(500),
            silence: Duration::from_secs(60),
            peer_patience: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

impl RegistryConfig {
    /// Mirrors of a registry.
    #[must_use]
    pub fn mirrors_of(&self, registry: &str) -> &[String] {
        self.mirrors.get(registry).map_or(&[], Vec::as_slice)
    }

    /// Whether the registry may be spoken to without verified TLS.
    pub(crate) fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        is_loopback(host)
            || self
                .insecure
                .iter()
                .any(|listed| listed == authority || listed == host || in_range(listed, address))
    }
}

/// The host of `host[:port]`.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(at) if !authority.ends_with(']') => &authority[..at],
        _ => authority,
    }
}

/// 127.0.0.0/8, ::1 or localhost.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|a| a.is_loopback())
}

fn in_range(range: &str, address: Option<IpAddr>) -> bool {
    let Some((base, bits)) = range.split_once('/') else {
        return false;
    };
    let Ok(bits) = bits.parse::<u32>() else {
        return false;
    };
    match (base.parse(), address) {
        (Ok(IpAddr::V4(base)), Some(IpAddr::V4(address))) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(base)), Some(IpAddr::V6(address))) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_go_without_tls() {
        let insecure = [
            "reg.example:5000",
            "plain.example",
            "10.0.0.0/8",
            "fd00::/16",
        ];
        let config = RegistryConfig {
            insecure: insecure.map(str::to_owned).to_vec(),
            ..RegistryConfig::default()
        };
        for yes in [
            "localhost:5000",
            "127.3.2.1",
            "[::1]:5000",
            "reg.example:5000",
            "plain.example:1",
            "10.2.3.4:5000",
            "[fd00::7]:80",
        ] {
            assert!(config.is_insecure(yes), "{yes}");
        }
        for no in [
            "docker.io",
            "reg.example",
            "11.2.3.4",
            "[fd01::7]:80",
            "128.0.0.1",
            "localhost.evil",
        ] {
            assert!(!config.is_insecure(no), "{no}");
        }
    }
}
