//! Taking an instruction's arguments apart, before anything has a meaning.

use serde_json::Value;

/// What separates arguments. Other blanks that Unicode has are characters like any other.
pub(crate) const BLANKS: [char; 5] = [' ', '\t', '\u{b}', '\u{c}', '\r'];

/// The first word and what follows it.
pub(crate) fn first(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(BLANKS).unwrap_or((text, ""));
    (word, rest.trim_start_matches(BLANKS))
}

/// At blanks, whatever the quotes.
pub(crate) fn blanks(text: &str) -> Vec<String> {
    let words = text.split(BLANKS).filter(|w| !w.is_empty());
    words.map(str::to_owned).collect()
}

/// At blanks outside quotes. Quotes and escapes stay as they are written.
pub(crate) fn words(text: &str, escape: char) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c != escape || quote == Some('\'') {
            word.push(c);
        } else if let Some(next) = chars.next() {
            // Nothing is left of one at the very end.
            word.extend([c, next]);
        }
    }
    if !word.is_empty() {
        all.push(word);
    }
    all
}

/// What a text is as JSON.
#[derive(Debug)]
pub(crate) enum Json {
    /// A list of strings.
    List(Vec<String>),
    /// A list, but not of strings alone: a mistake.
    Mixed,
    /// No list, or no JSON at all: a text for the shell.
    Text,
}

/// Reads a list.
pub(crate) fn json(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::Text;
    }
    let Ok(Value::Array(list)) = serde_json::from_str::<Value>(text) else {
        return Json::Text;
    };
    let strings = list.into_iter().map(|value| match value {
        Value::String(text) => Some(text),
        _ => None,
    });
    strings
        .collect::<Option<_>>()
        .map_or(Json::Mixed, Json::List)
}
