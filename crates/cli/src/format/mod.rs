//! What people see: tables, JSON, and Go templates.

pub mod template;
pub mod words;

use crate::error::{CliError, Result};
use serde_json::{Map, Value};
use std::io::Write;

/// Rows of one kind, with docker's names for the fields.
pub struct Table {
    /// Header and field of each column that is shown when nothing else is asked.
    pub columns: Vec<(&'static str, &'static str)>,
    /// Rows: every field that templates may name.
    pub rows: Vec<Map<String, Value>>,
}

/// Writes to stdout; a reader that has gone is no error.
pub fn out(text: &str) -> Result<()> {
    out_bytes(text.as_bytes())
}

/// As [`out`], of bytes that need be no text.
pub fn out_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::Exit(0)),
        other => Ok(other?),
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

impl Table {
    /// Prints it in the form asked for: `table`, `json` (an object a line), `table TEMPLATE` or `TEMPLATE`.
    pub fn print(&self, format: Option<&str>) -> Result<()> {
        out(&self.text(format)?)
    }

    /// As [`Self::print`], as text.
    pub fn text(&self, format: Option<&str>) -> Result<String> {
        match format.map(str::trim) {
            None | Some("" | "table") => {
                let header = self.columns.iter().map(|c| c.0.to_owned()).collect();
                let rows = self
                    .rows
                    .iter()
                    .map(|r| self.columns.iter().map(|c| cell(r.get(c.1))).collect());
                Ok(align(std::iter::once(header).chain(rows).collect()))
            }
            Some("json") => {
                let lines = self
                    .rows
                    .iter()
                    .map(|r| format!("{}\n", Value::Object(r.clone())));
                Ok(lines.collect())
            }
            Some(text) => {
                let (with_header, text) = text
                    .strip_prefix("table ")
                    .map_or((false, text), |t| (true, t));
                let template = template::Template::parse(text)?;
                let mut lines: Vec<Vec<String>> = Vec::new();
                if with_header {
                    let header: Map<String, Value> = self
                        .columns
                        .iter()
                        .map(|(h, f)| ((*f).to_owned(), Value::String((*h).to_owned())))
                        .collect();
                    let named = template
                        .fields()
                        .into_iter()
                        .map(|f| (f.clone(), Value::String(f.to_uppercase())));
                    let mut all: Map<String, Value> = named.collect();
                    all.extend(header);
                    lines.push(
                        template
                            .render(&Value::Object(all))?
                            .split('\t')
                            .map(str::to_owned)
                            .collect(),
                    );
                }
                for row in &self.rows {
                    let line = template.render(&Value::Object(row.clone()))?;
                    lines.push(line.split('\t').map(str::to_owned).collect());
                }
                if with_header {
                    return Ok(align(lines));
                }
                Ok(lines.iter().map(|l| l.join("\t") + "\n").collect())
            }
        }
    }
}

/// Columns as wide as their widest cell and three blanks, as docker has them.
pub fn align(rows: Vec<Vec<String>>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| {
        rows.iter()
            .filter_map(|r| r.get(n))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
            + 3
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (n, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if n + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[n] - cell.chars().count()));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Prints what `inspect` found: an indented list, a table of each one's fields, or each by a template.
pub fn inspected(found: &[Value], format: Option<&str>) -> Result<()> {
    match format.map(str::trim) {
        None | Some("" | "json") => out(&format!("{}\n", serde_json::to_string_pretty(found)?)),
        Some("table") => {
            let tables: Vec<String> = found.iter().map(fields).collect();
            out(&tables.join("\n"))
        }
        Some(text) => {
            let template = template::Template::parse(text)?;
            for value in found {
                out(&format!("{}\n", template.render(value)?))?;
            }
            Ok(())
        }
    }
}

/// Every field that holds something, by its path.
fn fields(value: &Value) -> String {
    fn walk(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| walk(&below(k), v, rows)),
            Value::Array(list) if list.iter().any(|v| v.is_object() || v.is_array()) => {
                for (n, value) in list.iter().enumerate() {
                    walk(&below(&n.to_string()), value, rows);
                }
            }
            Value::Array(list) => {
                let list: Vec<String> = list.iter().map(|v| cell(Some(v))).collect();
                if !list.is_empty() {
                    rows.push(vec![path.to_owned(), list.join(", ")]);
                }
            }
            Value::Null => {}
            value => match cell(Some(value)) {
                text if text.is_empty() => {}
                text => rows.push(vec![path.to_owned(), text]),
            },
        }
    }
    let mut rows = vec![vec!["FIELD".to_owned(), "VALUE".to_owned()]];
    walk("", value, &mut rows);
    align(rows)
}

/// A row of pairs.
pub fn row<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_what_is_inspected() {
        let value = json!({
            "Name": "web", "Empty": "", "None": null, "Cmd": ["a", "b"], "State": {"Pid": 7},
            "Mounts": [{"Source": "/x"}], "Labels": {},
        });
        assert_eq!(
            fields(&value),
            "FIELD             VALUE\nCmd               a, b\nMounts.0.Source   /x\nName              web\nState.Pid         7\n"
        );
    }

    #[test]
    fn the_forms() {
        let table = Table {
            columns: vec![("NAME", "Name"), ("CONTAINER ID", "ID")],
            rows: vec![
                row([("Name", json!("web")), ("ID", json!("abc"))]),
                row([("Name", json!("a-long-name")), ("ID", json!("d"))]),
            ],
        };
        assert_eq!(
            table.text(None).unwrap(),
            "NAME          CONTAINER ID\nweb           abc\na-long-name   d\n"
        );
        assert_eq!(
            table.text(Some("json")).unwrap().lines().next().unwrap(),
            r#"{"ID":"abc","Name":"web"}"#
        );
        assert_eq!(
            table.text(Some("{{.ID}}={{.Name}}")).unwrap(),
            "abc=web\nd=a-long-name\n"
        );
        assert_eq!(
            table.text(Some("table {{.ID}}\\t{{.Name}}")).unwrap(),
            "CONTAINER ID   NAME\nabc            web\nd              a-long-name\n"
        );
        assert!(table.text(Some("{{.Nope}}")).is_err());
    }
}
