//! Ports, and how names ask for them: `_80._tcp.web`, `_http._tcp.web`.
//!
//! They stay the ranges that they are said as: a container that exposes all 65,535 costs what one that exposes 80 does.

/// Not [`crate::Protocol`], which knows what can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Reads its name in lower case.
    fn read(name: &str) -> Option<Self> {
        Some(match name {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            _ => return None,
        })
    }
}

/// Ports of one protocol, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    protocol: Protocol,
    first: u16,
    last: u16,
}

impl Range {
    /// Reads `80`, `80/tcp` and `8000-8002/udp`, as images and people write exposed ports.
    fn read(text: &str) -> Option<Self> {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let protocol = match protocol {
            "" => Protocol::Tcp,
            given => Protocol::read(&given.to_ascii_lowercase())?,
        };
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (0 < first && first <= last).then_some(Self {
            protocol,
            first,
            last,
        })
    }

    fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

/// The ports that a container says to listen on, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// In order; none of them touch.
    ranges: Vec<Range>,
}

impl Ports {
    /// Reads `80`, `80/tcp` and `8000-8002/udp`, as images and people write exposed ports. What is no port is left out.
    pub fn read<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let read = texts.into_iter().filter_map(|t| Range::read(t.as_ref()));
        let mut read: Vec<_> = read.collect();
        read.sort();
        let mut ranges: Vec<Range> = Vec::new();
        for next in read {
            match ranges.last_mut() {
                Some(last)
                    if last.protocol == next.protocol
                        && next.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(next.last);
                }
                _ => ranges.push(next),
            }
        }
        Self { ranges }
    }

    /// Whether a port is among them.
    pub fn has(&self, protocol: crate::Protocol, port: u16) -> bool {
        let same = |p: Protocol| match protocol {
            crate::Protocol::Tcp => p == Protocol::Tcp,
            crate::Protocol::Udp => p == Protocol::Udp,
        };
        let mut ranges = self.ranges.iter();
        ranges.any(|r| same(r.protocol) && (r.first..=r.last).contains(&port))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ranges.iter().map(|r| r.count()).sum()
    }

    /// The numbers one by one, by protocol, without the first `skip`. Those are not gone through.
    pub fn numbers(&self, mut skip: usize) -> impl Iterator<Item = u16> {
        self.ranges.iter().flat_map(move |range| {
            let here = skip.min(range.count());
            skip -= here;
            (range.first..=range.last).skip(here)
        })
    }

    /// Those that a name asks for.
    pub(super) fn only(&self, asked: &Asked) -> Self {
        let wanted = self.ranges.iter().filter_map(|r| asked.of(*r));
        Self {
            ranges: wanted.collect(),
        }
    }
}

/// What the first labels of a name say of ports (RFC 2782).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    protocol: Protocol,
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

impl Asked {
    /// Splits a name in lower case into what it says of ports and whose they are.
    pub(super) fn split(name: &str) -> Option<(Self, &str)> {
        let (first, rest) = label(name)?;
        if let Some(protocol) = Protocol::read(first) {
            let which = Which::Any;
            return Some((Self { protocol, which }, rest));
        }
        let (second, rest) = label(rest)?;
        let protocol = Protocol::read(second)?;
        let number = first.parse().ok().or_else(|| assigned(first));
        let which = number.map_or(Which::Nobody, Which::Number);
        Some((Self { protocol, which }, rest))
    }

    pub(super) fn is_for(&self, ports: &Ports) -> bool {
        ports.ranges.iter().any(|r| self.of(*r).is_some())
    }

    /// What is asked for of a range.
    fn of(&self, range: Range) -> Option<Range> {
        if range.protocol != self.protocol {
            return None;
        }
        match self.which {
            Which::Any => Some(range),
            Which::Number(n) => (range.first..=range.last).contains(&n).then_some(Range {
                first: n,
                last: n,
                ..range
            }),
            Which::Nobody => None,
        }
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
        let ports = Ports::read([text]);
        let shown = |r: &Range| format!("{}-{} {:?}", r.first, r.last, r.protocol);
        ports.ranges.iter().map(shown).collect()
    }

    #[test]
    fn ports_are_read_as_people_write_them() {
        assert_eq!(ports("80"), ["80-80 Tcp"]);
        assert_eq!(ports("80/"), ["80-80 Tcp"]);
        assert_eq!(ports("53/UDP"), ["53-53 Udp"]);
        assert_eq!(ports("1-65535/sctp"), ["1-65535 Sctp"]);
        for none in ["", "0", "0-9", "x/tcp", "80/icmp", "9-8", "65536", "-1"] {
            assert_eq!(ports(none), Vec::<String>::new(), "{none}");
        }
    }

    #[test]
    fn each_port_is_there_once_and_ranges_that_touch_are_one() {
        let ports = Ports::read([
            "82", "70-80", "81/tcp", "80/tcp", "9/udp", "90-91", "x", "75-76",
        ]);
        let said: Vec<_> = ports.ranges.iter().map(|r| (r.first, r.last)).collect();
        assert_eq!(said, [(70, 82), (90, 91), (9, 9)]);
        assert_eq!(ports.count(), 16);
        let numbers = |skip| ports.numbers(skip).collect::<Vec<_>>();
        assert_eq!(numbers(0).len(), 16);
        assert_eq!(numbers(12), [82, 90, 91, 9]);
        assert_eq!(numbers(13), [90, 91, 9]);
        assert_eq!(numbers(16), Vec::<u16>::new());
        // The last port has none after it.
        let high = Ports::read(["65535", "65530-65535"]);
        assert_eq!((high.count(), high.numbers(5).collect()), (6, vec![65_535]));
    }

    #[test]
    fn names_say_which_port_is_meant() {
        let one = |number: u16, protocol| Ports::read([format!("{number}/{protocol}")]);
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
            assert!(asked.is_for(&one(number, "tcp")), "{name}");
            assert_eq!(asked.is_for(&one(81, "tcp")), name == "_tcp.web", "{name}");
            assert!(!asked.is_for(&one(number, "udp")), "{name}");
            // Of a range it is the one.
            let wide = Ports::read(["1-65535/udp", "1-65535"]).only(&asked);
            let expected = match name {
                "_tcp.web" => Ports::read(["1-65535"]),
                _ => one(number, "tcp"),
            };
            assert_eq!(wide, expected, "{name}");
        }
        let nobody = Asked::split("_nobody._tcp.web");
        assert!(nobody.is_some_and(|(asked, _)| !asked.is_for(&one(80, "tcp"))));
        for other in ["web", "_web", "_web.x", "_80._icmp.web", "80._tcp.web"] {
            assert_eq!(Asked::split(other), None, "{other}");
        }
    }
}
