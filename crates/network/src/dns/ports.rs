//! Ports, and how names ask for them: `_80._tcp.web`, `_http._tcp.web`.

/// A port that a container says to listen on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

impl Port {
    /// Reads `80`, `80/tcp` and `8000-8002/udp`, as images and people write exposed ports. What is no port gives none.
    pub fn read(text: &str) -> impl Iterator<Item = Self> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let protocol = match protocol {
            "" => "tcp".to_owned(),
            given => given.to_ascii_lowercase(),
        };
        let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        let range = range.filter(|(first, _)| *first > 0 && is_protocol(&protocol));
        let numbers = range.into_iter().flat_map(|(first, last)| first..=last);
        numbers.map(move |number| Self {
            number,
            protocol: protocol.clone(),
        })
    }
}

fn is_protocol(name: &str) -> bool {
    matches!(name, "tcp" | "udp" | "sctp")
}

/// What the first labels of a name say of ports (RFC 2782).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    protocol: &'a str,
    which: Which,
}

#[derive(Debug, PartialEq, Eq)]
enum Which {
    /// `_tcp.web`: whatever is below it.
    Any,
    Number(u16),
    /// A name that is nobody's.
    Nobody,
}

impl<'a> Asked<'a> {
    /// Splits a name in lower case into what it says of ports and whose they are.
    pub(super) fn split(name: &'a str) -> Option<(Self, &'a str)> {
        let (first, rest) = label(name)?;
        if is_protocol(first) {
            let which = Which::Any;
            let protocol = first;
            return Some((Self { protocol, which }, rest));
        }
        let (protocol, rest) = label(rest).filter(|(second, _)| is_protocol(second))?;
        let number = first.parse().ok().or_else(|| assigned(first));
        let which = number.map_or(Which::Nobody, Which::Number);
        Some((Self { protocol, which }, rest))
    }

    pub(super) fn is_for(&self, port: &Port) -> bool {
        let number = match self.which {
            Which::Any => true,
            Which::Number(number) => number == port.number,
            Which::Nobody => false,
        };
        number && port.protocol == self.protocol
    }
}

/// The first label without its underscore, and what follows.
fn label(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix('_')?.split_once('.')
}

/// IANA's ports of the names that clients ask for. A machine's own `/etc/services` would make answers differ from
/// machine to machine, and small systems have none.
fn assigned(name: &str) -> Option<u16> {
    Some(match name {
        "ftp" => 21,
        "ssh" => 22,
        "smtp" => 25,
        "domain" => 53,
        "http" => 80,
        "pop3" => 110,
        "ntp" => 123,
        "imap" => 143,
        "ldap" => 389,
        "https" => 443,
        "submission" => 587,
        "ldaps" => 636,
        "imaps" => 993,
        "pop3s" => 995,
        "mqtt" => 1883,
        "nfs" => 2049,
        "etcd-client" => 2379,
        "etcd-server" => 2380,
        "mysql" => 3306,
        "sip" => 5060,
        "sips" => 5061,
        "xmpp-client" => 5222,
        "xmpp-server" => 5269,
        "postgresql" => 5432,
        "amqps" => 5671,
        "amqp" => 5672,
        "redis" => 6379,
        "http-alt" => 8080,
        "secure-mqtt" => 8883,
        "memcache" => 11211,
        "mongodb" => 27017,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<String> {
        let shown = |p: Port| format!("{}/{}", p.number, p.protocol);
        Port::read(text).map(shown).collect()
    }

    #[test]
    fn ports_are_read_as_people_write_them() {
        assert_eq!(ports("80"), ["80/tcp"]);
        assert_eq!(ports("53/UDP"), ["53/udp"]);
        assert_eq!(ports("65534-65535/sctp"), ["65534/sctp", "65535/sctp"]);
        for none in ["", "0", "x/tcp", "80/icmp", "9-8", "65536", "-1"] {
            assert_eq!(ports(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn names_say_which_port_is_meant() {
        let tcp = |number| Port {
            number,
            protocol: "tcp".into(),
        };
        for (name, number, whose) in [
            ("_80._tcp.web", 80, "web"),
            ("_http._tcp.tasks.web", 80, "tasks.web"),
            ("_postgresql._tcp.db.back", 5432, "db.back"),
            ("_tcp.web", 7, "web"),
        ] {
            let Some((asked, rest)) = Asked::split(name) else {
                unreachable!("{name} asks for a port")
            };
            assert_eq!(rest, whose);
            assert!(asked.is_for(&tcp(number)), "{name}");
            assert_eq!(asked.is_for(&tcp(81)), name == "_tcp.web", "{name}");
            let udp = Port {
                protocol: "udp".into(),
                ..tcp(number)
            };
            assert!(!asked.is_for(&udp), "{name}");
        }
        let nobody = Asked::split("_nobody._tcp.web");
        assert!(nobody.is_some_and(|(asked, _)| !asked.is_for(&tcp(80))));
        for other in ["web", "_web", "_web.x", "_80._icmp.web", "80._tcp.web"] {
            assert_eq!(Asked::split(other), None, "{other}");
        }
    }
}
