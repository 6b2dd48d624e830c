//! As much of Go's templates as people write for docker: `{{.A.B}}`, `{{json .A}}`, `{{range .A}}…{{end}}`, `{{range $k, $v :=
//! .A}}…{{end}}`, `{{if .A}}…{{else}}…{{end}}`, `{{len .A}}`, `{{index .A "key" 0}}`, `{{upper .A}}`, `{{lower .A}}`, `{{join .A
//! ","}}`, `{{println .A}}`, `{{eq .A "x"}}`, `{{$k}}`. Anything else is an error that names it.

use crate::error::{CliError, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Vec<Word>),
    If(Vec<Word>, Vec<Node>, Vec<Node>),
    Range {
        key: Option<String>,
        value: Option<String>,
        over: Vec<Word>,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Word {
    Name(String),
    Path(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Group(Vec<Word>),
}

type Variables = BTreeMap<String, Value>;

fn bad(text: impl Into<String>) -> CliError {
    CliError::Template(text.into())
}

impl Template {
    /// Reads a template; `\t` and `\n` written out are taken for what they stand for.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut rest = text.as_str();
        let (nodes, end) = nodes(&mut rest)?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(bad(format!("{{{{{word}}}}} closes nothing"))),
        }
    }

    /// Fills it.
    pub fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        render(&self.0, value, value, &Variables::new(), &mut out)?;
        Ok(out)
    }

    /// The fields that are named at its top, for the header of a table.
    pub fn fields(&self) -> Vec<String> {
        let first = |words: &Vec<Word>| {
            words.iter().find_map(|w| match w {
                Word::Path(path) => path.first().cloned(),
                _ => None,
            })
        };
        self.0
            .iter()
            .filter_map(|n| {
                if let Node::Print(words) = n {
                    first(words)
                } else {
                    None
                }
            })
            .collect()
    }
}

/// Reads nodes up to the end or to `{{end}}`, `{{else}}`.
fn nodes(rest: &mut &str) -> Result<(Vec<Node>, Option<String>)> {
    let mut found = Vec::new();
    while let Some(open) = rest.find("{{") {
        found.push(Node::Text(rest[..open].to_owned()));
        let after = &rest[open + 2..];
        let close = after
            .find("}}")
            .ok_or_else(|| bad(format!("\"{{{{{after}\" is not closed")))?;
        let action = after[..close]
            .trim_matches(|c: char| c.is_whitespace() || c == '-')
            .to_owned();
        *rest = &after[close + 2..];
        match action.split_whitespace().next().unwrap_or_default() {
            "end" | "else" => return Ok((found, Some(action))),
            "if" => {
                let test = words(&action[2..])?;
                let (body, otherwise) = branches(rest, "if")?;
                found.push(Node::If(test, body, otherwise));
            }
            "range" => {
                let inside = action[5..].trim();
                let (names, over) = inside
                    .split_once(":=")
                    .map_or(("", inside), |(n, o)| (n, o));
                let mut names: Vec<String> = names
                    .split(',')
                    .map(|n| n.trim().trim_start_matches('$').to_owned())
                    .filter(|n| !n.is_empty())
                    .collect();
                let value = names.pop();
                let over = words(over)?;
                let (body, otherwise) = branches(rest, "range")?;
                found.push(Node::Range {
                    key: names.pop(),
                    value,
                    over,
                    body,
                    otherwise,
                });
            }
            "" => return Err(bad("{{}} says nothing")),
            _ => found.push(Node::Print(words(&action)?)),
        }
    }
    found.push(Node::Text((*rest).to_owned()));
    *rest = "";
    Ok((found, None))
}

fn branches(rest: &mut &str, of: &str) -> Result<(Vec<Node>, Vec<Node>)> {
    let (body, end) = nodes(rest)?;
    match end.as_deref() {
        Some("end") => Ok((body, Vec::new())),
        Some("else") => match nodes(rest)? {
            (otherwise, Some(end)) if end == "end" => Ok((body, otherwise)),
            _ => Err(bad(format!("{{{{{of}}}}} has no {{{{end}}}}"))),
        },
        _ => Err(bad(format!("{{{{{of}}}}} has no {{{{end}}}}"))),
    }
}

fn words(text: &str) -> Result<Vec<Word>> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix(['"', '`']) {
            let quote = rest.chars().next().unwrap_or('"');
            let end = quoted
                .find(quote)
                .ok_or_else(|| bad(format!("{text}: a text is not closed")))?;
            all.push(Word::Literal(Value::String(quoted[..end].to_owned())));
            rest = quoted[end + 1..].trim_start();
            continue;
        }
        if let Some(inside) = rest.strip_prefix('(') {
            let end = inside
                .find(')')
                .ok_or_else(|| bad(format!("{text}: a bracket is not closed")))?;
            all.push(Word::Group(words(&inside[..end])?));
            rest = inside[end + 1..].trim_start();
            continue;
        }
        let end = rest
            .find(|c: char| c.is_whitespace() || c == '(')
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let path = |p: &str| {
            p.split('.')
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        all.push(match word {
            "|" => {
                return Err(bad(format!(
                    "{text}: pipes are not understood; write for example {{{{json .Field}}}}"
                )));
            }
            w if w.starts_with('.') => Word::Path(path(w)),
            w if w.starts_with('$') => {
                let (name, fields) = w[1..].split_once('.').unwrap_or((&w[1..], ""));
                Word::Variable(name.to_owned(), path(fields))
            }
            w if w.parse::<i64>().is_ok() => {
                Word::Literal(Value::from(w.parse::<i64>().unwrap_or_default()))
            }
            "true" | "false" => Word::Literal(Value::Bool(word == "true")),
            w => Word::Name(w.to_owned()),
        });
        rest = after.trim_start();
    }
    Ok(all)
}

fn render(
    nodes: &[Node],
    root: &Value,
    dot: &Value,
    variables: &Variables,
    out: &mut String,
) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(words) => out.push_str(&shown(&value(words, root, dot, variables)?)),
            Node::If(test, body, otherwise) => {
                let branch = if truth(&value(test, root, dot, variables)?) {
                    body
                } else {
                    otherwise
                };
                render(branch, root, dot, variables, out)?;
            }
            Node::Range {
                key,
                value: name,
                over,
                body,
                otherwise,
            } => {
                let over = value(over, root, dot, variables)?;
                let items: Vec<(Value, Value)> = match over {
                    Value::Array(list) => list
                        .into_iter()
                        .enumerate()
                        .map(|(n, v)| (Value::from(n), v))
                        .collect(),
                    Value::Object(map) => map
                        .into_iter()
                        .map(|(k, v)| (Value::String(k), v))
                        .collect(),
                    Value::Null => Vec::new(),
                    other => return Err(bad(format!("range cannot go over {other}"))),
                };
                if items.is_empty() {
                    render(otherwise, root, dot, variables, out)?;
                }
                for (k, v) in items {
                    let mut inner = variables.clone();
                    if let Some(key) = key {
                        inner.insert(key.clone(), k);
                    }
                    if let Some(name) = name {
                        inner.insert(name.clone(), v.clone());
                    }
                    render(body, root, &v, &inner, out)?;
                }
            }
        }
    }
    Ok(())
}

fn field(from: &Value, path: &[String]) -> Result<Value> {
    let mut at = from.clone();
    for name in path {
        at = match at {
            Value::Object(mut map) => match map.remove(name) {
                Some(value) => value,
                None => {
                    return Err(bad(format!(
                        "there is no field {name}; `--format json` shows those that are"
                    )));
                }
            },
            Value::Null => return Ok(Value::Null),
            _ => {
                return Err(bad(format!(
                    "{name} is asked of something that has no fields"
                )));
            }
        };
    }
    Ok(at)
}

fn value(words: &[Word], root: &Value, dot: &Value, variables: &Variables) -> Result<Value> {
    let one = |word: &Word| -> Result<Value> {
        match word {
            Word::Path(path) => field(dot, path),
            Word::Variable(name, path) if name.is_empty() => field(root, path),
            Word::Variable(name, path) => {
                let known = variables
                    .get(name)
                    .ok_or_else(|| bad(format!("${name} is not known")))?;
                field(known, path)
            }
            Word::Literal(value) => Ok(value.clone()),
            Word::Group(words) => value(words, root, dot, variables),
            Word::Name(name) => Err(bad(format!("\"{name}\" is not understood"))),
        }
    };
    let (first, rest) = words
        .split_first()
        .ok_or_else(|| bad("an action says nothing"))?;
    let Word::Name(name) = first else {
        return if rest.is_empty() {
            one(first)
        } else {
            Err(bad("more than one value in an action"))
        };
    };
    let values = rest.iter().map(one).collect::<Result<Vec<_>>>()?;
    let text = |n: usize| values.get(n).map(shown).unwrap_or_default();
    Ok(match (name.as_str(), values.as_slice()) {
        ("json", [v]) => Value::String(v.to_string()),
        ("upper", [_]) => Value::String(text(0).to_uppercase()),
        ("lower", [_]) => Value::String(text(0).to_lowercase()),
        ("title", [_]) => {
            let text = text(0);
            let mut chars = text.chars();
            Value::String(
                chars
                    .next()
                    .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect()),
            )
        }
        ("println", _) => {
            Value::String(values.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n")
        }
        ("print", _) => Value::String(values.iter().map(shown).collect::<String>()),
        ("join", [Value::Array(list), _]) => {
            Value::String(list.iter().map(shown).collect::<Vec<_>>().join(&text(1)))
        }
        ("split", [_, _]) => Value::Array(
            text(0)
                .split(&text(1))
                .map(|s| Value::String(s.to_owned()))
                .collect(),
        ),
        ("len", [v]) => Value::from(match v {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            _ => 0,
        }),
        ("eq", [a, b]) => Value::Bool(a == b || shown(a) == shown(b)),
        ("ne", [a, b]) => Value::Bool(a != b && shown(a) != shown(b)),
        ("not", [v]) => Value::Bool(!truth(v)),
        ("and", [a, b]) => {
            if truth(a) {
                b.clone()
            } else {
                a.clone()
            }
        }
        ("or", [a, b]) => {
            if truth(a) {
                a.clone()
            } else {
                b.clone()
            }
        }
        ("index", [from, keys @ ..]) => {
            keys.iter().fold(from.clone(), |at, key| match (&at, key) {
                (Value::Array(list), Value::Number(n)) => n
                    .as_u64()
                    .and_then(|n| list.get(usize::try_from(n).ok()?))
                    .cloned()
                    .unwrap_or_default(),
                (Value::Object(map), Value::String(key)) => {
                    map.get(key).cloned().unwrap_or_default()
                }
                _ => Value::Null,
            })
        }
        _ => {
            return Err(bad(format!(
                "\"{name}\" with {} values is not understood",
                values.len()
            )));
        }
    })
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}:{}", shown(v)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_people_write() {
        let value = json!({
            "State": { "Running": true, "Pid": 7 },
            "NetworkSettings": { "Networks": { "back": { "IPAddress": "10.0.0.2" }, "front": { "IPAddress": "10.0.1.2" } } },
            "Mounts": [{ "Name": "a" }, { "Name": "b" }],
            "Config": { "Labels": { "x.y": "z" } },
        });
        for (template, text) in [
            ("{{.State.Pid}}", "7"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true}"#),
            ("{{range .Mounts}}{{.Name}} {{end}}", "a b "),
            (
                "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}};{{end}}",
                "back=10.0.0.2;front=10.0.1.2;",
            ),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{len .Mounts}}", "2"),
            ("{{(index .Mounts 1)}}", "map[Name:b]"),
            ("a\\tb {{ upper \"x\" }}", "a\tb X"),
            ("{{if eq .State.Pid 7}}seven{{end}}", "seven"),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().render(&value).unwrap(),
                text,
                "{template}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (template, word) in [
            ("{{.Nope}}", "Nope"),
            ("{{if .A}}", "if"),
            ("{{end}}", "end"),
            ("{{x", "x"),
            ("{{what .}}", "what"),
            ("{{}}", "nothing"),
        ] {
            let error = Template::parse(template)
                .and_then(|t| t.render(&json!({})))
                .unwrap_err()
                .to_string();
            assert!(error.contains(word), "{template}: {error}");
        }
    }
}
