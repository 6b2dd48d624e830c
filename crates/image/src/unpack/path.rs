//! Names from archives, cleaned or refused before the file system sees them.

use super::error::EntryError;

/// What an entry's last name means to a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The layer's root directory itself.
    Root,
    /// An ordinary name in a directory (empty: the root).
    Plain { parent: &'a [u8], name: &'a [u8] },
    /// `.wh.name`: the name is taken away from the layers below.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// `.wh..wh..opq`: the directory hides what the layers below have in it.
    Opaque { parent: &'a [u8] },
    /// Bookkeeping of aufs (`.wh..wh.*`), which has no meaning here.
    Ignored,
}

/// Writes the name into `out` without empty and `.` components.
pub(crate) fn clean(raw: &[u8], out: &mut Vec<u8>) -> Result<(), EntryError> {
    out.clear();
    if raw.is_empty() {
        return Err(EntryError::Nameless);
    }
    if raw.contains(&0) {
        return Err(EntryError::Nul);
    }
    if raw[0] == b'/' {
        return Err(EntryError::Absolute);
    }
    for component in raw.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(EntryError::ParentDir),
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(component);
            }
        }
    }
    Ok(())
}

/// Splits a clean path into directory and name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Reads the whiteout convention of the OCI image specification ("Whiteouts") from a clean path.
pub(crate) fn meaning(path: &[u8]) -> Result<Meaning<'_>, EntryError> {
    if path.is_empty() {
        return Ok(Meaning::Root);
    }
    let (parent, name) = split(path);
    for component in parent.split(|b| *b == b'/') {
        if component.starts_with(b".wh..wh.") {
            return Ok(Meaning::Ignored);
        }
        if component.starts_with(b".wh.") {
            return Err(EntryError::WhiteoutParent);
        }
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Meaning::Plain { parent, name }),
        Some(b".wh..opq") if parent.is_empty() => Err(EntryError::WhiteoutRoot),
        Some(b".wh..opq") => Ok(Meaning::Opaque { parent }),
        Some(b"" | b"." | b"..") => Err(EntryError::WhiteoutRoot),
        Some(rest) if rest.starts_with(b".wh.") => Ok(Meaning::Ignored),
        Some(name) => Ok(Meaning::Whiteout { parent, name }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cleaning() {
        let mut out = Vec::new();
        for (raw, wanted) in [
            ("a", "a"),
            ("./a//b/", "a/b"),
            ("./", ""),
            (".", ""),
            ("a/./b", "a/b"),
            ("..a", "..a"),
        ] {
            clean(raw.as_bytes(), &mut out).unwrap();
            assert_eq!(out, wanted.as_bytes(), "{raw}");
        }
        assert!(matches!(clean(b"/a", &mut out), Err(EntryError::Absolute)));
        assert!(matches!(
            clean(b"a/../b", &mut out),
            Err(EntryError::ParentDir)
        ));
        assert!(matches!(clean(b"..", &mut out), Err(EntryError::ParentDir)));
        assert!(matches!(clean(b"a\0b", &mut out), Err(EntryError::Nul)));
        assert!(matches!(clean(b"", &mut out), Err(EntryError::Nameless)));
    }

    #[test]
    fn whiteouts() {
        let plain = Meaning::Plain {
            parent: b"a/b",
            name: b"c",
        };
        assert_eq!(meaning(b"a/b/c").unwrap(), plain);
        assert_eq!(
            meaning(b".wh.x").unwrap(),
            Meaning::Whiteout {
                parent: b"",
                name: b"x"
            }
        );
        assert_eq!(
            meaning(b"a/.wh..wh..opq").unwrap(),
            Meaning::Opaque { parent: b"a" }
        );
        assert_eq!(meaning(b".wh..wh.plnk/1").unwrap(), Meaning::Ignored);
        for root in [
            &b".wh."[..],
            b".wh..",
            b".wh...",
            b"a/.wh..",
            b".wh..wh..opq",
        ] {
            assert!(
                matches!(meaning(root), Err(EntryError::WhiteoutRoot)),
                "{}",
                root.escape_ascii()
            );
        }
        assert!(matches!(
            meaning(b".wh.a/b"),
            Err(EntryError::WhiteoutParent)
        ));
    }
}
