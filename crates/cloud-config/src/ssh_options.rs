//! Options of a line of `authorized_keys`: those that the image's server takes, which is dropbear 2022.83 (dropbear(8), "Authorized Keys").
//!
//! It refuses a key with an option that it does not know, so nothing that limits a key is ever lost. Such a key would lock somebody out, and is told
//! here by the option's name.
use crate::problem::quoted;

/// Options without a value. `no-touch-required` and `verify-required` are for keys in hardware.
const FLAGS: &[&str] = &[
    "restrict",
    "no-pty",
    "no-port-forwarding",
    "no-agent-forwarding",
    "no-x11-forwarding",
    "no-touch-required",
    "verify-required",
];
/// Options with one.
const VALUES: &[&str] = &["command", "permitopen"];

/// Options of OpenSSH's that are not taken, and the way out.
const OTHERS: &[(&str, &str)] = &[
    (
        "from",
        "limits by address are not there: remove it, and keep port 22 from others by the network's firewall",
    ),
    (
        "cert-authority principals",
        "certificates are not taken: write each key by itself",
    ),
    (
        "environment",
        "write command=\"NAME=value program\" instead",
    ),
    (
        "expiry-time",
        "remove it, and remove the key from the configuration when its time is over",
    ),
    (
        "pty port-forwarding agent-forwarding x11-forwarding user-rc",
        "instead of restrict write what is not to be: no-pty, no-port-forwarding, no-agent-forwarding, no-X11-forwarding",
    ),
    (
        "no-user-rc permitlisten tunnel",
        "the server has nothing that it would limit: remove it",
    ),
];

/// Whether all of a line's options are taken.
///
/// # Errors
/// The first one that is not, by its name.
pub(crate) fn check(options: &str) -> Result<(), String> {
    if options.is_empty() {
        return Ok(());
    }
    separate(options).into_iter().try_for_each(option)
}

fn option(text: &str) -> Result<(), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let lower = name.to_ascii_lowercase();
    let is = |list: &[&str]| list.contains(&&*lower);
    let Some(value) = value else {
        return match () {
            () if is(FLAGS) => Ok(()),
            () if is(VALUES) => Err(format!("the option {name} needs a value: {name}=\"…\"")),
            () => Err(unknown(name, &lower)),
        };
    };
    if is(FLAGS) {
        return Err(format!("the option {name} has no value: write {name}"));
    }
    if !is(VALUES) {
        return Err(unknown(name, &lower));
    }
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    match inner {
        None | Some("") => Err(format!(
            "the value of {name} has to be in quotes: {name}=\"…\""
        )),
        // It takes the quote for the end, and the key for a broken one.
        Some(inner) if inner.contains('"') || inner.ends_with('\\') => Err(format!(
            "the value of {name} has \\\" in it, which the server does not take; write ' instead, or put the command into a program"
        )),
        Some(inner) if lower == "permitopen" && !is_destination(inner) => Err(format!(
            "permitopen has {}; write permitopen=\"HOST:PORT\"",
            quoted(inner)
        )),
        Some(_) => Ok(()),
    }
}

fn is_destination(text: &str) -> bool {
    let port = |p: &str| p == "*" || p.parse::<u16>().is_ok_and(|p| p > 0);
    text.rsplit_once(':')
        .is_some_and(|(host, p)| !host.is_empty() && port(p))
}

fn unknown(name: &str, lower: &str) -> String {
    let other = OTHERS
        .iter()
        .find(|(names, _)| names.split(' ').any(|n| n == lower));
    let way = match other {
        Some((_, way)) => (*way).to_owned(),
        None => format!(
            "there are {} and command=\"…\", permitopen=\"…\"",
            FLAGS.join(", ")
        ),
    };
    format!(
        "has the option {}, with which the server refuses a key; {way}",
        quoted(name)
    )
}

/// The options, at commas outside of quotes.
fn separate(options: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    options
        .split(|c| {
            if c == '"' && !escaped {
                quoted = !quoted;
            }
            escaped = c == '\\';
            c == ',' && !quoted
        })
        .collect()
}
