//! Command lines of [Service]: prefixes, argv, and `$VAR` at run time (systemd.service(5)).
use serde::Serialize;
use std::collections::BTreeMap;

/// One command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// `-`: a failure counts as success.
    pub ignore_failure: bool,
    /// `@`: the second word was given as argv\[0\].
    pub argv0: Option<String>,
    /// `:`: no variables are replaced.
    pub literal: bool,
    /// `+` or `!`: run with full privileges, User= and Group= set aside.
    pub privileged: bool,
}

impl Command {
    /// Takes the prefixes off a split command line.
    pub fn from_words(mut words: Vec<String>) -> Result<Command, &'static str> {
        let mut command = Command::default();
        let mut at = false;
        let first = words.first().ok_or("the command is empty")?;
        let program = first.trim_start_matches(['-', '@', ':', '+', '!']);
        for prefix in first[..first.len() - program.len()].chars() {
            match prefix {
                '-' => command.ignore_failure = true,
                '@' => at = true,
                ':' => command.literal = true,
                _ => command.privileged = true,
            }
        }
        if program.is_empty() {
            return Err("the program is missing after the prefix");
        }
        words[0] = program.to_owned();
        if at {
            if words.len() < 2 {
                return Err("'@' needs the name to run under as the second word");
            }
            command.argv0 = Some(words.remove(1));
        }
        command.argv = words;
        Ok(command)
    }
}

/// Replaces variables in the arguments (not in the program). `${VAR}` is replaced within a word,
/// `$VAR` as a whole word is split at blanks into words of its own, `$$` is `$`; unset is empty.
pub fn expand_env(argv: &[String], env: &BTreeMap<String, String>) -> Vec<String> {
    let mut out: Vec<String> = argv.iter().take(1).cloned().collect();
    for word in argv.iter().skip(1) {
        let name = word.strip_prefix('$').unwrap_or("");
        if is_variable(name) {
            let value = env.get(name).map_or("", String::as_str);
            // A value with broken quotes is split at its blanks instead of being lost.
            let words = crate::words::split_words(value)
                .unwrap_or_else(|_| value.split_whitespace().map(str::to_owned).collect());
            out.extend(words);
        } else {
            out.push(inner(word, env));
        }
    }
    out
}

fn is_variable(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn inner(word: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|t| t.split_once('}'));
        rest = match braced {
            Some((name, tail)) if is_variable(name) => {
                out.push_str(env.get(name).map_or("", String::as_str));
                tail
            }
            _ => {
                out.push('$');
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    out + rest
}
