//! Nodes as BuildKit's own tests print them.

use crate::error::DockerfileError;
use crate::lines::Lines;
use crate::node::{self, Node};

/// Takes a file apart and prints its nodes as s-expressions, one a line; nothing is checked that needs a meaning.
///
/// # Errors
/// [`DockerfileError`].
pub fn sexpr(text: &str) -> Result<String, DockerfileError> {
    let mut out = String::new();
    for node in node::read(Lines::of_file(text))?.nodes {
        out.push('(');
        print(&node, &mut out);
        out.push_str(")\n");
    }
    Ok(out.trim_end().to_owned())
}

fn print(node: &Node, out: &mut String) {
    out.push_str(&node.keyword.to_lowercase());
    if !node.flags.is_empty() {
        out.push_str(" [");
        for (n, flag) in node.flags.iter().enumerate() {
            if n > 0 {
                out.push(' ');
            }
            quote(flag, out);
        }
        out.push(']');
    }
    if let Some(child) = &node.child {
        out.push_str(" (");
        print(child, out);
        out.push(')');
    }
    for value in &node.values {
        out.push(' ');
        quote(value, out);
    }
}

/// As Go's `strconv.Quote` writes a text.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
