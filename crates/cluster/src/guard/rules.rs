//! Which keys a machine may read and write. Pure.
//!
//! | keys below `/coracle/v1/` | a machine reads | a machine writes |
//! | --- | --- | --- |
//! | `machines/<id>`, `alive/<id>`, `actual/<id>/…`, `images/<id>/…`, `subnets/<id>`, `leaving/<id>` | all | with its own id |
//! | `apps/…`, what its apps see and what it announces of them; `locks/reboot` and `os/…`, by which machines take turns | all | all |
//! | `secrets/…`, `tokens/…` | none | none |
//! | all others (`members/…`, `clients/…`, `units/…`, `desired/…`, `leader`, …) | all | none |
//!
//! Keys elsewhere it neither reads nor writes. Voters read and write everything.

use std::ops::Bound;

use coracle_store::prefix_end;

use crate::MachineId;

/// All of the cluster's keys.
const ALL: &str = "/coracle/v1/";
/// Below [`ALL`]: one key, and what is below it, for each machine.
const OWN: [&str; 6] = [
    "actual", "alive", "images", "leaving", "machines", "subnets",
];
/// What every machine writes: below it.
const SHARED: [&str; 2] = ["/coracle/v1/apps/", "/coracle/v1/os/"];
/// One key more.
const TURNS: &str = "/coracle/v1/locks/reboot";
/// What voters alone see.
const HIDDEN: [&str; 2] = ["/coracle/v1/secrets/", "/coracle/v1/tokens/"];

/// Keys from one on (it included) to another (it not).
#[derive(Clone, Debug)]
struct Span(Vec<u8>, Vec<u8>);

impl Span {
    fn below(prefix: &str) -> Self {
        Self(
            prefix.as_bytes().to_vec(),
            prefix_end(prefix.as_bytes()).to_vec(),
        )
    }

    fn one(key: &str) -> Self {
        Self(key.as_bytes().to_vec(), [key.as_bytes(), b"\0"].concat())
    }

    fn holds(&self, key: &[u8], end: Bound<&[u8]>) -> bool {
        let first = &self.0[..] <= key && key < &self.1[..];
        let last = match end {
            Bound::Unbounded => false,
            Bound::Excluded(end) => end <= &self.1[..],
            Bound::Included(last) => last < &self.1[..],
        };
        first && last
    }
}

/// What one machine may do.
#[derive(Clone, Debug)]
pub struct Rules {
    readable: Vec<Span>,
    writable: Vec<Span>,
}

impl Rules {
    /// That machine's.
    pub fn of(machine: &MachineId) -> Self {
        let mut readable = Vec::new();
        let mut from = ALL.as_bytes().to_vec();
        // In order, so that what lies between them is what may be read.
        for hidden in HIDDEN.map(Span::below) {
            readable.push(Span(from, hidden.0));
            from = hidden.1;
        }
        readable.push(Span(from, prefix_end(ALL.as_bytes()).to_vec()));
        let own = OWN.iter().flat_map(|family| {
            let key = format!("{ALL}{family}/{machine}");
            [Span::one(&key), Span::below(&format!("{key}/"))]
        });
        Self {
            readable,
            writable: own
                .chain(SHARED.map(Span::below))
                .chain([Span::one(TURNS)])
                .collect(),
        }
    }

    /// Whether all keys of a range may be read; `range_end` as etcd has it.
    pub fn may_read(&self, key: &[u8], range_end: &[u8]) -> bool {
        holds(&self.readable, key, range_end)
    }

    /// Whether all keys of a range may be written or deleted.
    pub fn may_write(&self, key: &[u8], range_end: &[u8]) -> bool {
        holds(&self.writable, key, range_end)
    }
}

fn holds(spans: &[Span], key: &[u8], range_end: &[u8]) -> bool {
    let end = match range_end {
        b"" => Bound::Included(key),
        b"\0" => Bound::Unbounded,
        end => Bound::Excluded(end),
    };
    spans.iter().any(|span| span.holds(key, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef";

    fn rules() -> Rules {
        Rules::of(&A.parse().unwrap())
    }

    fn key(rest: &str) -> Vec<u8> {
        format!("/coracle/v1/{}", rest.replace("<a>", A)).into_bytes()
    }

    #[test]
    fn one_key() {
        let b = "f".repeat(32);
        for (rest, read, write) in [
            ("machines/<a>", true, true),
            ("machines/<a>/x", true, true),
            // Not its own, though it begins so.
            ("machines/<a>0", true, false),
            (&format!("machines/{b}"), true, false),
            ("alive/<a>", true, true),
            ("actual/<a>/u/0/1", true, true),
            ("actual/", true, false),
            ("images/<a>/u", true, true),
            ("fetch/<a>/u", true, false),
            ("services/web", true, false),
            ("subnets/<a>", true, true),
            (&format!("subnets/{b}"), true, false),
            ("apps/x", true, true),
            ("os/releases/0.2.0", true, true),
            ("locks/reboot", true, true),
            ("locks/reboot2", true, false),
            ("locks/other", true, false),
            ("apps/discovery/web/1", true, true),
            ("apps", true, false),
            ("desired/<a>/u/0/1", true, false),
            ("members/<a>", true, false),
            ("clients/ann", true, false),
            ("leader", true, false),
            ("units/web", true, false),
            ("secrets/x", false, false),
            ("secrets/", false, false),
            ("tokens/x", false, false),
        ] {
            let key = key(rest);
            assert_eq!(rules().may_read(&key, b""), read, "{rest}");
            assert_eq!(rules().may_write(&key, b""), write, "{rest}");
        }
        for elsewhere in [
            &b"x"[..],
            b"/coracle/v2/machines/x",
            b"",
            b"\0",
            b"/coracle/v1",
        ] {
            assert!(!rules().may_read(elsewhere, b""), "{elsewhere:?}");
            assert!(!rules().may_write(elsewhere, b""), "{elsewhere:?}");
        }
    }

    #[test]
    fn ranges() {
        let below = |rest: &str| (key(rest), prefix_end(&key(rest)).to_vec());
        for (range, read, write) in [
            (below("machines/"), true, false),
            (below("actual/<a>/"), true, true),
            (below("actual/<a>"), true, false),
            (below("apps/"), true, true),
            (below("tokens/"), false, false),
            (below("secrets/"), false, false),
            // With what is hidden in it.
            (below(""), false, false),
            ((key("revisions/"), key("units/")), false, false),
            ((key("apps/a"), key("apps0")), true, true),
            ((key("apps/a"), key("apps0x")), true, false),
            // To the end of all keys.
            ((key("units/"), b"\0".to_vec()), false, false),
            ((b"\0".to_vec(), b"\0".to_vec()), false, false),
            // Up to the one beside.
            ((key("tokens0"), key("units/")), true, false),
            ((key("tokens/zzz"), key("units/")), false, false),
        ] {
            let (from, to) = &range;
            let text = (String::from_utf8_lossy(from), String::from_utf8_lossy(to));
            assert_eq!(rules().may_read(from, to), read, "{text:?}");
            assert_eq!(rules().may_write(from, to), write, "{text:?}");
        }
    }
}
