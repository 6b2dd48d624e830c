//! Names that servers tell, checked: they end up in files and in the kernel.

/// Longest name in bytes, without the dot at its end (RFC 1035).
const NAME_MAX: usize = 253;
/// Most pointers that one name may follow.
const HOPS_MAX: usize = 16;

/// Whether `text` is a name: labels of 1 to 63 letters, digits, `-` and `_`, no `-` first or last, with dots between.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

/// The name in an option of text (RFC 2132, 3.14 and 3.17). There may be NULs at its end, a dot, and, against the RFC but in use,
/// further names after a blank, which are left out.
pub(crate) fn from_text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let first = text
        .trim_end_matches('\0')
        .split_ascii_whitespace()
        .next()?;
    let name = first.strip_suffix('.').unwrap_or(first);
    is_name(name).then(|| name.to_owned())
}

/// The names of a search list (RFC 3397: names of RFC 1035 one after the other, compressed within the whole). Nothing if it cannot be
/// read; names that no file can have are left out.
pub(crate) fn from_search(data: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let (name, next) = compressed(data, at)?;
        if is_name(&name) && !names.contains(&name) {
            names.push(name);
        }
        at = next;
    }
    Some(names)
}

/// The name that begins at `start`, and where the next one does.
fn compressed(data: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut earliest, mut hops, mut next) = (start, start, 0, None);
    loop {
        let length = usize::from(*data.get(at)?);
        match length {
            0 => return Some((name, next.unwrap_or(at + 1))),
            1..=0x3f => {
                let label = std::str::from_utf8(data.get(at + 1..at + 1 + length)?).ok()?;
                // A dot within a label would make two of it.
                if label.contains('.') || name.len() + length >= NAME_MAX {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                at += 1 + length;
            }
            0xc0..=0xff => {
                let target = (length & 0x3f) << 8 | usize::from(*data.get(at + 1)?);
                hops += 1;
                // Back only, so that no name goes round.
                if target >= earliest || hops > HOPS_MAX {
                    return None;
                }
                next.get_or_insert(at + 2);
                (at, earliest) = (target, target);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        for (bytes, name) in [
            (&b"lab.example"[..], Some("lab.example")),
            (b"lab.example.\0\0", Some("lab.example")),
            (b"a.example b.example", Some("a.example")),
            (b"_x.a-b.example", Some("_x.a-b.example")),
            (b"", None),
            (b"\0", None),
            (b".", None),
            (b"a..b", None),
            (b"-a", None),
            (b"a;reboot", None),
            (b"a\nnameserver", Some("a")),
            (b"\xff", None),
            (&[b'a'; 64], None),
        ] {
            assert_eq!(from_text(bytes).as_deref(), name, "{bytes:?}");
        }
        assert!(is_name(&format!("{}b", "a.".repeat(126))));
        assert!(!is_name(&format!("{}bc", "a.".repeat(126))));
    }

    /// The example of RFC 3397, section 3.
    #[test]
    fn search_lists() {
        let list = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        assert_eq!(
            from_search(list).unwrap(),
            ["eng.apple.com", "marketing.apple.com"]
        );
        assert_eq!(from_search(b"").unwrap(), [""; 0]);
        assert_eq!(
            from_search(b"\x00\x03a b\x00\x01c\x00\x01c\x00").unwrap(),
            ["c"]
        );
        for broken in [
            &b"\x03en"[..],
            b"\x03eng",
            b"\xc0",
            b"\xc0\x00",
            b"\xc0\x02\xc0\x00",
            b"\x01a\xc0\x00",
            b"\x40a",
            b"\x03a.b\x00",
        ] {
            assert_eq!(from_search(broken), None, "{broken:?}");
        }
        let mut chain = b"\x01a\x00".to_vec();
        for hop in 0..=HOPS_MAX {
            let before = if hop == 0 { 0 } else { 1 + 2 * hop };
            chain.extend([0xc0, u8::try_from(before).unwrap()]);
        }
        assert_eq!(from_search(&chain), None);
    }
}
