//! Holds answers against the definition of a version.

use crate::definition::Definition;
use serde_json::Value;
use std::collections::BTreeSet;

/// What was looked at and what is wrong with it.
pub struct Checker<'a> {
    definition: &'a Definition,
    /// Properties that were there, by the schema's name: `ContainerState.Pid`.
    pub sent: BTreeSet<String>,
    /// Properties that the objects seen may have.
    pub known: BTreeSet<String>,
    /// Properties that were there and that the definition does not know.
    pub unknown: BTreeSet<String>,
    /// Places where null stood and may not, by the definition.
    pub nulls: BTreeSet<String>,
    /// Everything else.
    pub wrong: BTreeSet<String>,
}

impl<'a> Checker<'a> {
    pub fn new(definition: &'a Definition) -> Self {
        Self {
            definition,
            sent: BTreeSet::new(),
            known: BTreeSet::new(),
            unknown: BTreeSet::new(),
            nulls: BTreeSet::new(),
            wrong: BTreeSet::new(),
        }
    }

    /// Looks at a value; `place` names it where the schema has no name.
    pub fn check(&mut self, place: &str, schema: &Value, value: &Value) {
        let place = name_of(schema).unwrap_or(place).to_owned();
        let schema = self.definition.flat(schema);
        if value.is_null() {
            if schema["x-nullable"] != true && schema.get("type").is_some() {
                self.nulls.insert(place);
            }
            return;
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            self.wrong
                .insert(format!("{place}: {value} is none of {allowed:?}"));
        }
        let kind = schema["type"].as_str().unwrap_or_default();
        let fits = match kind {
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if !fits {
            self.wrong.insert(format!("{place}: {value} is no {kind}"));
            return;
        }
        self.format(&place, &schema, value);
        for item in value.as_array().into_iter().flatten() {
            if schema["items"].is_object() {
                self.check(&format!("{place}[]"), &schema["items"], item);
            }
        }
        if value.is_object() {
            self.object(&place, &schema, value);
        }
    }

    fn object(&mut self, place: &str, schema: &Value, value: &Value) {
        let value = value.as_object().unwrap();
        let properties = schema["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            if !value.contains_key(name) {
                self.wrong
                    .insert(format!("{place}: no {name}, which is required"));
            }
        }
        for name in properties.keys() {
            self.known.insert(format!("{place}.{name}"));
        }
        let more = &schema["additionalProperties"];
        for (name, inner) in value {
            let path = format!("{place}.{name}");
            if let Some(property) = properties.get(name) {
                self.sent.insert(path.clone());
                self.check(&path, property, inner);
            } else if more.is_object() {
                self.check(&format!("{place}{{}}"), more, inner);
            } else if more.as_bool() != Some(true) && !properties.is_empty() {
                self.unknown.insert(path);
            }
        }
    }

    fn format(&mut self, place: &str, schema: &Value, value: &Value) {
        let fits = match (schema["format"].as_str().unwrap_or_default(), value) {
            ("date-time" | "dateTime", Value::String(text)) => {
                chrono::DateTime::parse_from_rfc3339(text).is_ok()
            }
            ("uint16", n) => n.as_u64().is_some_and(|n| n <= u64::from(u16::MAX)),
            ("uint32", n) => n.as_u64().is_some_and(|n| n <= u64::from(u32::MAX)),
            ("uint64", n) => n.is_u64(),
            ("int64", n) => n.is_i64(),
            _ => true,
        };
        if !fits {
            let format = &schema["format"];
            self.wrong
                .insert(format!("{place}: {value} is no {format}"));
        }
        let bound = |key: &str| schema[key].as_f64();
        let number = value.as_f64();
        let low = number.zip(bound("minimum")).is_some_and(|(n, m)| n < m);
        let high = number.zip(bound("maximum")).is_some_and(|(n, m)| n > m);
        if low || high {
            self.wrong
                .insert(format!("{place}: {value} is out of its bounds"));
        }
    }
}

/// The name of what a schema refers to.
fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix("#/definitions/")
}
