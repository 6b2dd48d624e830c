//! The machine's addresses in place of `$private_ipv4` and `$public_ipv4`, as coreos-cloudinit put them (`initialize/env.go` there).
use std::net::Ipv4Addr;

/// A document asks for an address that the machine has not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: ${name} stands for an address of this machine that is not known; write the address itself, or \\${name} where the word itself is meant"
)]
pub struct MissingAddress {
    /// Line where it does so first, counted from 1.
    pub line: usize,
    /// `private_ipv4` or `public_ipv4`.
    pub name: &'static str,
}

const NAMES: [&str; 2] = ["private_ipv4", "public_ipv4"];

/// A place where an address is asked for.
struct Found {
    /// Bytes from here...
    start: usize,
    /// ...to here are replaced.
    end: usize,
    name: &'static str,
    /// After a backslash: the word itself is meant, without the backslash.
    escaped: bool,
}

/// Puts addresses where the text, which is not looked at otherwise, has `$private_ipv4`, `${private_ipv4}`, `$public_ipv4` or
/// `${public_ipv4}`. After a backslash, the word stays and the backslash goes.
///
/// # Errors
/// [`MissingAddress`] if an address is asked for that was not given.
pub fn substitute(
    text: &str,
    private: Option<Ipv4Addr>,
    public: Option<Ipv4Addr>,
) -> Result<String, MissingAddress> {
    let mut replaced = String::with_capacity(text.len());
    let mut from = 0;
    for found in places(text) {
        replaced.push_str(&text[from..found.start]);
        let address = if found.name == NAMES[0] {
            private
        } else {
            public
        };
        match address {
            _ if found.escaped => replaced.push_str(&text[found.start + 1..found.end]),
            Some(address) => replaced.push_str(&address.to_string()),
            None => {
                let line = text[..found.start].matches('\n').count() + 1;
                let name = found.name;
                return Err(MissingAddress { line, name });
            }
        }
        from = found.end;
    }
    replaced.push_str(&text[from..]);
    Ok(replaced)
}

/// Whether [`substitute`] needs an address for this text.
pub fn needs_address(text: &str) -> bool {
    places(text).any(|found| !found.escaped)
}

fn places(text: &str) -> impl Iterator<Item = Found> {
    text.match_indices('$').filter_map(|(dollar, _)| {
        let after = &text[dollar + 1..];
        let forms = |name: &&str| {
            let braced = after
                .strip_prefix('{')
                .and_then(|rest| rest.strip_prefix(*name));
            let braced = braced.is_some_and(|rest| rest.starts_with('}'));
            braced || after.starts_with(*name)
        };
        let name = NAMES.into_iter().find(forms)?;
        let braces = if after.starts_with('{') { 2 } else { 0 };
        let escaped = text[..dollar].ends_with('\\');
        Some(Found {
            start: dollar - usize::from(escaped),
            end: dollar + 1 + name.len() + braces,
            name,
            escaped,
        })
    })
}
