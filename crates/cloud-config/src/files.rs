//! `write_files`, as cloud-init has it.
use crate::content::Encoding;
use crate::fields::{At, Keys};
use crate::model::WriteFile;
use crate::problem::{Problems, quoted};
use crate::tree::Scalar;
use std::collections::BTreeMap;

/// Bytes of all files together, decoded.
pub const FILES_MAX: usize = 32 << 20;
/// Bytes of a path and of one part of it (limits.h of Linux).
const PATH_MAX: usize = 4095;
const PART_MAX: usize = 255;
const MODE: u32 = 0o644;

const KEYS: Keys = Keys {
    known: &["path", "content", "encoding", "owner", "permissions"],
    refused: &[
        (
            "append",
            "files are written as a whole; write all of it as content and remove append",
        ),
        (
            "defer",
            "all files are written before units start; remove it",
        ),
        (
            "source",
            "content is not fetched from elsewhere; write it as content",
        ),
    ],
};

/// The files that are good.
pub(crate) fn read(list: &At<'_>, out: &mut Problems) -> Vec<WriteFile> {
    let (mut files, mut left) = (Vec::new(), FILES_MAX);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for at in list.items(out) {
        let Some((path, file)) = one(&at, &mut left, out) else {
            continue;
        };
        if let Some((other, line)) = in_the_way(&seen, &file.path) {
            path.fail(out, match other == file.path {
                true => format!("{other} is written on line {line} already, and only that is done; make one of both"),
                false => format!("cannot be beside {other} (line {line}), since one of them would have to be a directory; change one of the paths"),
            });
            continue;
        }
        seen.insert(file.path.clone(), path.node.mark.line);
        files.push(file);
    }
    files
}

/// A file that cannot be beside one of this path, and its line.
fn in_the_way(seen: &BTreeMap<String, usize>, path: &str) -> Option<(String, usize)> {
    let ends = path
        .match_indices('/')
        .map(|(end, _)| end)
        .chain([path.len()]);
    let above = ends.filter_map(|end| seen.get_key_value(&path[..end]));
    let below = seen.range(format!("{path}/")..).take(1);
    let below =
        below.filter(|(other, _)| other.starts_with(path) && other[path.len()..].starts_with('/'));
    above
        .chain(below)
        .next()
        .map(|(other, line)| (other.clone(), *line))
}

fn one<'n>(at: &At<'n>, left: &mut usize, out: &mut Problems) -> Option<(At<'n>, WriteFile)> {
    let fields = at.fields(&KEYS, out)?;
    let path = fields.need("path", "/etc/motd", out).cloned();
    let text = path.as_ref().and_then(|at| at.read(out, checked_path));
    // Each is looked at even if one before is wrong, so that all problems are told.
    let encoding = fields
        .get("encoding")
        .map(|at| at.read(out, Encoding::parse));
    let owner = fields.get("owner").map(|at| at.read(out, owner));
    let mode = fields.get("permissions").map(|at| permissions(at, out));
    let encoding = encoding.unwrap_or_else(|| Some(Encoding::default()));
    let content = match fields.get("content").filter(|at| !at.node.is_null()) {
        None => Some(Vec::new()),
        Some(at) => encoding.and_then(|encoding| content(at, encoding, left, out)),
    };
    let (uid, gid) = owner.unwrap_or(Some((0, 0)))?;
    let mode = mode.unwrap_or(Some(MODE))?;
    let file = WriteFile {
        path: text?,
        content: content?,
        mode,
        uid,
        gid,
    };
    Some((path?, file))
}

fn content(
    at: &At<'_>,
    encoding: Encoding,
    left: &mut usize,
    out: &mut Problems,
) -> Option<Vec<u8>> {
    let scalar = at.scalar(&["!!str", "!!binary"], out)?;
    let bytes = match encoding.decode(scalar, at.node.tag == "!!binary") {
        Ok(bytes) => bytes,
        Err(why) => {
            at.fail(out, why);
            return None;
        }
    };
    match left.checked_sub(bytes.len()) {
        Some(rest) => *left = rest,
        None => {
            at.fail(
                out,
                format!(
                    "with this, files are larger than {} MiB together; put some into an image",
                    FILES_MAX >> 20
                ),
            );
            return None;
        }
    }
    Some(bytes)
}

fn checked_path(path: &str) -> Result<String, String> {
    let bad = |why: &str| Err(format!("{} {why}", quoted(path)));
    let Some(parts) = path.strip_prefix('/') else {
        return bad("is no absolute path; begin it with /etc/ or /var/");
    };
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return bad(
            "has an empty part, . or .. in it, or ends with /; write the path of the file itself",
        );
    }
    if path.contains(char::is_control) {
        return bad("has a control character in it; remove it");
    }
    if path.len() > PATH_MAX || parts.split('/').any(|part| part.len() > PART_MAX) {
        return bad("is longer than a path can be; write a shorter one");
    }
    let below = |dir: &str| {
        path.strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(own) = ["/etc/coracle", "/var/lib/coracle"]
        .into_iter()
        .find(|dir| below(dir))
    {
        return bad(&format!(
            "is below {own}, which is Coracle's own; use the keys of `coracle`"
        ));
    }
    if !path.starts_with("/etc/") && !path.starts_with("/var/") {
        return bad(
            "is where nothing can be written, since the root is read-only; write below /etc/ or /var/",
        );
    }
    Ok(path.to_owned())
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    // The highest number means "unchanged" to chown(2).
    let id = |part: &str| match part {
        "root" => Some(0),
        _ if part.starts_with('+') => None,
        _ => part.parse().ok().filter(|id| *id != u32::MAX),
    };
    let found = match text.split_once(':') {
        Some((user, group)) => id(user).zip(id(group)),
        None => (text == "root").then_some((0, 0)),
    };
    found.ok_or_else(|| {
        format!("{} is no owner; there are no users but root, so write root:root, or numbers such as 1000:1000", quoted(text))
    })
}

fn permissions(at: &At<'_>, out: &mut Problems) -> Option<u32> {
    let scalar = at.scalar(&["!!str", "!!int"], out)?;
    mode(scalar).map_err(|why| at.fail(out, why)).ok()
}

/// Octal. cloud-init reads a plain number without a leading zero as a decimal one, CoreOS as an octal one, so that is neither.
fn mode(scalar: &Scalar) -> Result<u32, String> {
    let text = &*scalar.text;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let found = u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| octal && *mode <= 0o7777);
    let decimal =
        scalar.plain && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if decimal {
        let shown = quoted(text);
        return Err(format!(
            "{shown} without quotes is a decimal number for some and an octal one for others; write for example \"0644\""
        ));
    }
    found.ok_or_else(|| {
        format!(
            "{} are no permissions; write them in octal, for example \"0644\"",
            quoted(text)
        )
    })
}
