//! Functions of templates: Go's own and docker's.

use super::{bad, shown, truth};
use crate::error::Result;
use serde_json::Value;
use std::cmp::Ordering;

/// Calls a function by name.
pub fn call(name: &str, values: &[Value]) -> Result<Value> {
    let text = |n: usize| values.get(n).map(shown).unwrap_or_default();
    let size = |n: usize| {
        let number = values.get(n).and_then(Value::as_u64).unwrap_or(0);
        usize::try_from(number).unwrap_or(usize::MAX)
    };
    let all = || values.iter().map(shown);
    Ok(match (name, values) {
        ("json", [v]) => Value::String(v.to_string()),
        ("upper", [_]) => Value::String(text(0).to_uppercase()),
        ("lower", [_]) => Value::String(text(0).to_lowercase()),
        ("title", [_]) => {
            let text = text(0);
            let mut chars = text.chars();
            let first = chars.next();
            let first = first.map(|c| c.to_uppercase().chain(chars).collect());
            Value::String(first.unwrap_or_default())
        }
        ("println", _) => Value::String(all().collect::<Vec<_>>().join(" ") + "\n"),
        ("print", _) => Value::String(all().collect()),
        ("printf", [Value::String(form), rest @ ..]) => Value::String(printf(form, rest)),
        ("join", [Value::Array(list), _]) => {
            Value::String(list.iter().map(shown).collect::<Vec<_>>().join(&text(1)))
        }
        ("join", [Value::Null, _]) => Value::String(String::new()),
        ("split", [_, _]) => {
            let (text, by) = (text(0), text(1));
            text.split(&by)
                .map(|s| Value::String(s.to_owned()))
                .collect()
        }
        ("truncate", [_, _]) => Value::String(text(0).chars().take(size(1)).collect()),
        ("pad", [_, _, _]) => {
            let blanks = |n: usize| " ".repeat(n.min(1000));
            Value::String(format!("{}{}{}", blanks(size(1)), text(0), blanks(size(2))))
        }
        ("len", [v]) => Value::from(match v {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }),
        // With more than two, any of the others.
        ("eq", [a, rest @ ..]) if !rest.is_empty() => {
            Value::Bool(rest.iter().any(|b| a == b || shown(a) == shown(b)))
        }
        ("ne", [a, b]) => Value::Bool(a != b && shown(a) != shown(b)),
        ("lt", [a, b]) => Value::Bool(compare(a, b) == Ordering::Less),
        ("le", [a, b]) => Value::Bool(compare(a, b) != Ordering::Greater),
        ("gt", [a, b]) => Value::Bool(compare(a, b) == Ordering::Greater),
        ("ge", [a, b]) => Value::Bool(compare(a, b) != Ordering::Less),
        ("not", [v]) => Value::Bool(!truth(v)),
        ("index", [from, keys @ ..]) => keys.iter().try_fold(from.clone(), index)?,
        _ => {
            return Err(bad(format!(
                "\"{name}\" with {} values is not understood",
                values.len()
            )));
        }
    })
}

fn index(from: Value, key: &Value) -> Result<Value> {
    match (&from, key) {
        (Value::Array(list), Value::Number(n)) => {
            let at = n.as_u64().and_then(|n| usize::try_from(n).ok());
            let found = at.and_then(|n| list.get(n)).cloned();
            found.ok_or_else(|| bad(format!("index {n}: there are {}", list.len())))
        }
        // Of texts, mostly: what is missing is an empty one.
        (Value::Object(map), Value::String(key)) => {
            Ok(map.get(key).cloned().unwrap_or_else(|| "".into()))
        }
        (Value::Null, _) => Err(bad("index of nothing")),
        _ => Err(bad(format!("index {}: of {}", shown(key), shown(&from)))),
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => shown(a).cmp(&shown(b)),
    }
}

/// Go's `Sprintf`, as far as `%s`, `%v`, `%d`, `%q`, `%t` and `%%` go, with width and precision.
fn printf(form: &str, values: &[Value]) -> String {
    let mut values = values.iter();
    let mut out = String::new();
    let mut chars = form.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.')) {
            flags.push(c);
        }
        let verb = chars.next().unwrap_or('%');
        if verb == '%' {
            out.push('%');
            continue;
        }
        let text = values.next().map_or("%!(MISSING)".to_owned(), shown);
        let (width, most) = flags.split_once('.').unwrap_or((&flags, ""));
        let text = match most.parse::<usize>() {
            Ok(most) => text.chars().take(most).collect(),
            Err(_) => text,
        };
        let text = if verb == 'q' {
            format!("{text:?}")
        } else {
            text
        };
        let wide = width.trim_start_matches('-').parse::<usize>().unwrap_or(0);
        let blanks = " ".repeat(wide.min(1000).saturating_sub(text.chars().count()));
        if width.starts_with('-') {
            out.push_str(&text);
            out.push_str(&blanks);
        } else {
            out.push_str(&blanks);
            out.push_str(&text);
        }
    }
    out
}
