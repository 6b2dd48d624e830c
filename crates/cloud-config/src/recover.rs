//! Reading a document of which a part is no YAML: keys that stand beside it at the left margin are read all the same.
use crate::problem::{Mark, Problems};
use crate::tree::{Kind, Node, load};

/// What can be read of the document. Problems are told.
pub(crate) fn read(text: &str, out: &mut Problems) -> Option<Node> {
    let whole = match load(text, 1) {
        Ok(loaded) => {
            tell_second(loaded.second, out);
            return loaded.root;
        }
        Err(broken) => broken,
    };
    let (mut entries, mut told) = (Vec::new(), false);
    for (first, part) in parts(text) {
        match load(part, first) {
            Ok(loaded) => {
                if let Some(Node {
                    kind: Kind::Map(found),
                    ..
                }) = loaded.root
                {
                    entries.extend(found);
                }
                if loaded.second.is_some() {
                    tell_second(loaded.second, out);
                    break;
                }
            }
            Err(broken) => {
                out.add(broken.mark, "", broken.message);
                told = true;
            }
        }
    }
    if !told {
        out.add(whole.mark, "", whole.message);
    }
    Some(Node {
        mark: Mark::START,
        tag: String::new(),
        kind: Kind::Map(entries),
    })
}

fn tell_second(second: Option<Mark>, out: &mut Problems) {
    if let Some(mark) = second {
        out.add(mark, "", "a second document begins here, which is not read; remove the line or write two documents into one");
    }
}

/// Parts of the text that begin with a key at the left margin, each with its first line, counted from 1.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut from, mut first, mut offset) = (Vec::new(), 0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if begins_key(line) && offset > from {
            parts.push((first, &text[from..offset]));
            (from, first) = (offset, index + 1);
        }
        offset += line.len();
    }
    parts.push((first, &text[from..]));
    parts
}

fn begins_key(line: &str) -> bool {
    let (key, rest) = line.split_once(':').unwrap_or_default();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.trim_end().chars().all(known)
        && rest.starts_with(char::is_whitespace)
}
