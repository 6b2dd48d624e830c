//! `ssh_authorized_keys`: lines of OpenSSH's authorized_keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"), as far as the image's server takes them.
use crate::fields::At;
use crate::problem::{Problems, quoted};
use crate::ssh_options;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Types of keys, and how many strings the key itself has (RFC 4253, 6.6; RFC 5656; OpenSSH's PROTOCOL.u2f).
const TYPES: &[(&str, usize)] = &[
    ("ssh-ed25519", 2),
    ("ssh-rsa", 3),
    ("ecdsa-sha2-nistp256", 3),
    ("ecdsa-sha2-nistp384", 3),
    ("ecdsa-sha2-nistp521", 3),
    ("sk-ssh-ed25519@openssh.com", 3),
    ("sk-ecdsa-sha2-nistp256@openssh.com", 4),
];

/// Bytes of a line. dropbear 2022.83 passes over lines of more than 4200.
const LINE_MAX: usize = 4000;

/// The keys that are good.
pub(crate) fn read(list: &At<'_>, out: &mut Problems) -> Vec<String> {
    let items = list.items(out);
    items.iter().filter_map(|at| at.read(out, line)).collect()
}

fn line(text: &str) -> Result<String, String> {
    let text = text.trim();
    // Never quoted: it is a secret.
    if text.contains("PRIVATE KEY-----") || text.starts_with("PuTTY-User-Key-File") {
        return Err("is a private key, which belongs on no other machine; write the public one (the file ending in .pub), and make a new pair if others have read this".into());
    }
    if text.contains("SSH2 PUBLIC KEY") {
        return Err("is a public key in the format of RFC 4716; write what `ssh-keygen -i -f FILE` makes of it".into());
    }
    if text.contains(['\n', '\r']) {
        return Err("has several lines; write each key as an item of its own".into());
    }
    if text.is_empty()
        || text.starts_with('#')
        || text.contains(|c: char| c.is_control() && c != '\t')
    {
        return Err("is no key; write a line as in authorized_keys, or remove the item".into());
    }
    if text.len() > LINE_MAX {
        return Err(format!(
            "is longer than {LINE_MAX} bytes, which the server does not read; write a shorter command or remark"
        ));
    }
    let (kind, rest) = word(text);
    let (options, kind, rest) = match strings(kind) {
        Some(_) => ("", kind, rest),
        None => {
            let end = options_end(text).unwrap_or(text.len());
            let (kind, rest) = word(&text[end..]);
            (&text[..end], kind, rest)
        }
    };
    let Some(wanted) = strings(kind) else {
        return Err(no_type(text));
    };
    let (encoded, remark) = word(rest);
    // An empty one is not whole either.
    let blob = STANDARD.decode(encoded).unwrap_or_default();
    match split(&blob).filter(|found| !found.is_empty()) {
        None => Err(format!(
            "the {kind} key is not whole: what follows its type is no key in base64; copy it again, in one line"
        )),
        Some(found) if found.first().is_none_or(|name| *name != kind.as_bytes()) => Err(format!(
            "is called {kind}, but the key itself is of another type; copy the whole line again"
        )),
        Some(found) if found.len() != wanted => Err(format!(
            "the {kind} key is not whole; copy it again, in one line"
        )),
        Some(_) => {
            ssh_options::check(options)?;
            // The server takes one blank between these.
            let words = [options, kind, encoded, remark.trim_start()];
            let words: Vec<_> = words.into_iter().filter(|w| !w.is_empty()).collect();
            Ok(words.join(" "))
        }
    }
}

fn strings(kind: &str) -> Option<usize> {
    TYPES
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, count)| *count)
}

fn no_type(text: &str) -> String {
    let (first, _) = word(text);
    if first == "ssh-dss" {
        return "is a DSA key, which OpenSSH takes no more; make one with `ssh-keygen -t ed25519`"
            .into();
    }
    let known: Vec<_> = TYPES.iter().map(|(name, _)| *name).collect();
    format!(
        "{} is no public key of OpenSSH: it has none of the types {}; write the line of a .pub file",
        quoted(text),
        known.join(", ")
    )
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_once([' ', '\t']).unwrap_or((text, ""))
}

/// Where the options end, in whose quotes there may be blanks.
fn options_end(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            ' ' | '\t' if !quoted => return Some(index),
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\';
    }
    None
}

/// The strings of a key, each after its length (RFC 4251, 5).
fn split(mut blob: &[u8]) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while !blob.is_empty() {
        let (length, rest) = blob.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        strings.push(string);
        blob = rest;
    }
    Some(strings)
}
