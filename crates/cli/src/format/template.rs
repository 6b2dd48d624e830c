//! As much of Go's templates as people write for docker: `{{.A.B}}`, `{{json .A}}`, `{{range .A}}…{{end}}`, `{{range $k, $v :=
//! .A}}…{{end}}`, `{{if .A}}…{{else}}…{{end}}`, `{{len .A}}`, `{{index .A "key" 0}}`, `{{upper .A}}`, `{{lower .A}}`, `{{join .A
//! ","}}`, `{{println .A}}`, `{{eq .A "x"}}`, `{{$k}}`, `{{with .A}}…{{end}}`, `{{(index .A 0).B}}`, `{{.A | json}}`, `{{printf "%s"
//! .A}}`, `{{- .A -}}`. Anything else is an error that names it. Functions are in [`functions`], words in [`words`].

mod functions;
mod words;

use crate::error::{CliError, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use words::{Pipeline, Word, pipeline};

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Set(String, Pipeline),
    Range {
        key: Option<String>,
        value: Option<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
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
        render(&self.0, value, value, &mut Variables::new(), &mut out)?;
        Ok(out)
    }

    /// The fields that are named at its top, for the header of a table.
    pub fn fields(&self) -> Vec<String> {
        let first = |all: &Pipeline| {
            all.iter().flatten().find_map(|w| match w {
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
        let after = &rest[open + 2..];
        let close = after
            .find("}}")
            .ok_or_else(|| bad(format!("\"{{{{{after}\" is not closed")))?;
        let (before, mut action) = (&rest[..open], &after[..close]);
        *rest = &after[close + 2..];
        // A dash takes the blanks beside it away.
        let trims = |a: &str| a.starts_with('-') && a[1..].starts_with(char::is_whitespace);
        let before = if trims(action) {
            action = &action[1..];
            before.trim_end()
        } else {
            before
        };
        if action.ends_with(" -") {
            action = &action[..action.len() - 2];
            *rest = rest.trim_start();
        }
        found.push(Node::Text(before.to_owned()));
        let action = action.trim();
        if action.starts_with("/*") && action.ends_with("*/") {
            continue;
        }
        let (word, inside) = first(action);
        match word {
            "end" | "else" => return Ok((found, Some(action.to_owned()))),
            "if" | "with" => {
                let test = inside.split_once(":=").filter(|(n, _)| n.starts_with('$'));
                let test = match test {
                    Some((name, value)) => {
                        let name = name[1..].trim().to_owned();
                        found.push(Node::Set(name.clone(), pipeline(value)?));
                        vec![vec![Word::Variable(name, Vec::new())]]
                    }
                    None => pipeline(inside)?,
                };
                let (body, otherwise) = branches(rest, word)?;
                found.push(if word == "if" {
                    Node::If(test, body, otherwise)
                } else {
                    Node::With(test, body, otherwise)
                });
            }
            "range" => found.push(range(inside.trim(), rest)?),
            "" => return Err(bad("{{}} says nothing")),
            _ => found.push(match action.split_once(":=") {
                Some((name, value)) if name.starts_with('$') => {
                    Node::Set(name[1..].trim().to_owned(), pipeline(value)?)
                }
                _ => Node::Print(pipeline(action)?),
            }),
        }
    }
    found.push(Node::Text((*rest).to_owned()));
    *rest = "";
    Ok((found, None))
}

/// A text's first word, and what follows it.
fn first(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn range(inside: &str, rest: &mut &str) -> Result<Node> {
    let (names, over) = inside
        .split_once(":=")
        .map_or(("", inside), |(n, o)| (n, o));
    let mut names: Vec<String> = names
        .split(',')
        .map(|n| n.trim().trim_start_matches('$').to_owned())
        .filter(|n| !n.is_empty())
        .collect();
    let value = names.pop();
    let (body, otherwise) = branches(rest, "range")?;
    Ok(Node::Range {
        key: names.pop(),
        value,
        over: pipeline(over)?,
        body,
        otherwise,
    })
}

fn branches(rest: &mut &str, of: &str) -> Result<(Vec<Node>, Vec<Node>)> {
    let unended = || bad(format!("{{{{{of}}}}} has no {{{{end}}}}"));
    let (body, end) = nodes(rest)?;
    let end = end.ok_or_else(unended)?;
    let (word, test) = first(&end);
    let otherwise = match (word, first(test)) {
        ("end", ("", _)) => Vec::new(),
        ("else", ("", _)) => match nodes(rest)? {
            (otherwise, Some(last)) if last == "end" => otherwise,
            _ => return Err(unended()),
        },
        // They share their end with the one before.
        ("else", ("if", test)) => {
            let (inner, otherwise) = branches(rest, "if")?;
            vec![Node::If(pipeline(test)?, inner, otherwise)]
        }
        ("else", ("with", test)) => {
            let (inner, otherwise) = branches(rest, "with")?;
            vec![Node::With(pipeline(test)?, inner, otherwise)]
        }
        _ => return Err(bad(format!("{{{{{end}}}}} is not understood"))),
    };
    Ok((body, otherwise))
}

fn render(
    nodes: &[Node],
    root: &Value,
    dot: &Value,
    variables: &mut Variables,
    out: &mut String,
) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(all) => out.push_str(&shown(&value(all, root, dot, variables)?)),
            Node::Set(name, all) => {
                let value = value(all, root, dot, variables)?;
                variables.insert(name.clone(), value);
            }
            Node::With(all, body, otherwise) => {
                let value = value(all, root, dot, variables)?;
                if truth(&value) {
                    render(body, root, &value, variables, out)?;
                } else {
                    render(otherwise, root, dot, variables, out)?;
                }
            }
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
                    render(body, root, &v, &mut inner, out)?;
                }
            }
        }
    }
    Ok(())
}

/// Maps whose keys nobody knows beforehand: one that is missing is no mistake.
const MAPS: [&str; 9] = [
    "Labels",
    "Options",
    "Networks",
    "Ports",
    "PortBindings",
    "ExposedPorts",
    "Volumes",
    "Sysctls",
    "Annotations",
];

/// What Go has for a field that answers leave out when it is empty.
fn absent(name: &str) -> Option<Value> {
    Some(match name {
        "Entrypoint" | "Cmd" | "Env" | "OnBuild" | "Shell" | "ExecIDs" => Value::Array(Vec::new()),
        "Labels" | "Volumes" | "ExposedPorts" => Value::Object(serde_json::Map::new()),
        "User" | "WorkingDir" | "StopSignal" | "Author" | "Comment" | "Variant" => "".into(),
        "Health" | "Healthcheck" | "StopTimeout" => Value::Null,
        _ => return None,
    })
}

fn field(from: &Value, path: &[String]) -> Result<Value> {
    let mut at = from.clone();
    let mut of = "";
    for name in path {
        at = match at {
            Value::Object(mut map) => match map.remove(name) {
                Some(value) => value,
                None if MAPS.contains(&of) => Value::Null,
                None if absent(name).is_some() => absent(name).unwrap_or_default(),
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
        of = name;
    }
    Ok(at)
}

/// What a pipeline gives: each command gets what the one before it gave as its last argument.
fn value(all: &Pipeline, root: &Value, dot: &Value, variables: &Variables) -> Result<Value> {
    let mut last = None;
    for words in all {
        last = Some(command(words, last, root, dot, variables)?);
    }
    last.ok_or_else(|| bad("an action says nothing"))
}

fn command(
    words: &[Word],
    last: Option<Value>,
    root: &Value,
    dot: &Value,
    variables: &Variables,
) -> Result<Value> {
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
            Word::Group(all, path) => field(&value(all, root, dot, variables)?, path),
            Word::Name(name) => Err(bad(format!("\"{name}\" is not understood"))),
        }
    };
    let (first, rest) = words
        .split_first()
        .ok_or_else(|| bad("an action says nothing"))?;
    let Word::Name(name) = first else {
        return if rest.is_empty() && last.is_none() {
            one(first)
        } else {
            Err(bad("more than one value in an action"))
        };
    };
    if matches!(name.as_str(), "and" | "or") && (last.is_some() || !rest.is_empty()) {
        // What comes after the word that decides may be wrong.
        let mut value = Value::Null;
        for word in rest {
            value = one(word)?;
            if truth(&value) == (name == "or") {
                return Ok(value);
            }
        }
        return Ok(last.unwrap_or(value));
    }
    let mut values = rest.iter().map(one).collect::<Result<Vec<_>>>()?;
    values.extend(last);
    functions::call(name, &values)
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
            "Ports": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] },
            "None": null,
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
            ("{{(index .Mounts 1).Name}}", "b"),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{.State | json}}", r#"{"Pid":7,"Running":true}"#),
            ("{{.State.Pid | printf \"%d %s%%\" 3}}", "3 7%"),
            (
                "{{printf \"%.3s|%5v|%-3v|%q\" \"abcdef\" 1 2 \"x\"}}",
                "abc|    1|2  |\"x\"",
            ),
            (
                "{{with .State}}{{.Pid}}{{end}}{{with .None}}x{{else}}y{{end}}",
                "7y",
            ),
            (
                "{{$p := .State.Pid}}{{range .Mounts}}{{$p}}{{.Name}}{{end}}",
                "7a7b",
            ),
            ("a {{- /* nothing */ -}} b {{- .State.Pid}}", "ab7"),
            (
                "{{if .None}}a{{else if gt .State.Pid 3}}b{{else}}c{{end}}",
                "b",
            ),
            ("{{if and .None (index .None 0)}}x{{else}}y{{end}}", "y"),
            ("{{with .None}}a{{else  with .State}}{{.Pid}}{{end}}", "7"),
            ("{{.State.Pid | and true}}{{.None | or false 2}}", "72"),
            ("{{or .None \"z\"}}", "z"),
            (
                "{{.Config.Entrypoint}}{{if .State.Health}}x{{else}}-{{end}}",
                "[]-",
            ),
            (
                "{{with $m := .Mounts}}{{len $m}}{{end}}{{if $p := .State.Pid}}{{$p}}{{end}}",
                "27",
            ),
            (
                "{{.Config.Labels.none}}{{index .Config.Labels \"none\"}}",
                "<no value>",
            ),
            (
                "{{join (split \"a,b\" \",\") \"-\"}}{{truncate \"abc\" 2}}{{pad \"x\" 1 2}}.",
                "a-bab x  .",
            ),
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
