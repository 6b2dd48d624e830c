//! Options of the bridge driver, by docker's names.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::error::NetworkError;

/// What a network's options say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Driven {
    /// Largest packet of its links in bytes.
    pub mtu: Option<u32>,
    /// Name of its bridge.
    pub bridge: Option<String>,
    /// Whether its containers reach each other.
    pub together: bool,
    /// Whether its containers have the machine's address outside.
    pub masquerade: bool,
    /// Where ports are published that name no address.
    pub host: Ipv4Addr,
}

impl Default for Driven {
    fn default() -> Self {
        Self {
            mtu: None,
            bridge: None,
            together: true,
            masquerade: true,
            host: Ipv4Addr::UNSPECIFIED,
        }
    }
}

/// Reads options, all of which must be known.
///
/// # Errors
/// [`NetworkError::Option`] naming the first that is not, or whose value means nothing.
pub(crate) fn read(options: &BTreeMap<String, String>) -> Result<Driven, NetworkError> {
    let mut found = Driven::default();
    for (key, value) in options {
        let bad = |why: &'static str| NetworkError::Option {
            key: key.clone(),
            value: value.clone(),
            why,
        };
        let on = || match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(bad("write true or false")),
        };
        match key.as_str() {
            "com.docker.network.driver.mtu" => {
                // Below, the kernel takes IPv6 off a link altogether.
                let mtu = value.parse().ok().filter(|m| (1280..=65_535).contains(m));
                // 0 leaves it to the driver.
                if value != "0" {
                    found.mtu = Some(mtu.ok_or_else(|| bad("write bytes, 1280 to 65535"))?);
                }
            }
            "com.docker.network.bridge.name" => {
                // Other signs mean something to the kernel (`%d`) or to the firewall (`*`).
                let valid = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
                let dots = matches!(value.as_str(), "." | "..");
                if value.is_empty() || value.len() > 15 || dots || !value.bytes().all(valid) {
                    return Err(bad(
                        "write the name of a link: at most 15 letters, digits and _.-",
                    ));
                }
                found.bridge = Some(value.clone());
            }
            "com.docker.network.bridge.enable_icc" => found.together = on()?,
            "com.docker.network.bridge.enable_ip_masquerade" => found.masquerade = on()?,
            "com.docker.network.bridge.host_binding_ipv4" => {
                found.host = value
                    .parse()
                    .map_err(|_| bad("write an IPv4 address of this machine"))?;
            }
            // Others' remarks say nothing to docker's driver, nor to ours.
            key if !key.starts_with("com.docker.network.") => {}
            _ => {
                return Err(bad(
                    "it is not supported by this release; com.docker.network.driver.mtu and \
                     com.docker.network.bridge.name, enable_icc, enable_ip_masquerade, host_binding_ipv4 are",
                ));
            }
        }
    }
    Ok(found)
}

/// What the options of a network that is there say; those of an older release may have been kept without meaning anything.
pub(crate) fn of(options: &BTreeMap<String, String>) -> Driven {
    let mut known = options.clone();
    known.retain(|key, value| read(&[(key.clone(), value.clone())].into()).is_ok());
    read(&known).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        [(format!("com.docker.network.{key}"), value.to_owned())].into()
    }

    #[test]
    fn what_is_known() {
        assert_eq!(read(&BTreeMap::new()).unwrap(), Driven::default());
        assert_eq!(read(&one("driver.mtu", "1400")).unwrap().mtu, Some(1400));
        assert!(!read(&one("bridge.enable_icc", "false")).unwrap().together);
        let bound = read(&one("bridge.host_binding_ipv4", "127.0.0.1")).unwrap();
        assert_eq!(bound.host, Ipv4Addr::LOCALHOST);
        for (key, value) in [
            ("driver.mtu", "many"),
            ("driver.mtu", "1"),
            ("bridge.name", "e*"),
            ("bridge.name", "br%d"),
            ("bridge.name", "much-too-long-a-name"),
            ("bridge.name", "a/b"),
            ("bridge.enable_icc", "perhaps"),
            ("bridge.host_binding_ipv4", "::1"),
            ("bridge.inhibit_ipv4", "true"),
        ] {
            let error = read(&one(key, value)).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut old = one("driver.mtu", "1400");
        old.insert("anything".into(), "else".into());
        assert_eq!(of(&old).mtu, Some(1400));
    }
}
