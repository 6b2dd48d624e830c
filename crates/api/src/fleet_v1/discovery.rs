//! The API described for programs, in the form of Google's discovery documents, which fleet's clients are made from.

use axum::Json;
use axum::http::HeaderMap;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What the types have: name, and each field with its type. A capital is another type, `[]` a list, `{}` a map to strings.
const TYPES: &[(&str, &[(&str, &str)])] = &[
    (
        "Machine",
        &[
            ("id", "string"),
            ("primaryIP", "string"),
            ("metadata", "{}"),
        ],
    ),
    (
        "MachinePage",
        &[("machines", "[]Machine"), ("nextPageToken", "string")],
    ),
    (
        "UnitOption",
        &[
            ("section", "string"),
            ("name", "string"),
            ("value", "string"),
        ],
    ),
    (
        "Unit",
        &[
            ("name", "string"),
            ("options", "[]UnitOption"),
            ("desiredState", "stage"),
            ("currentState", "stage"),
            ("machineID", "string"),
        ],
    ),
    (
        "UnitPage",
        &[("units", "[]Unit"), ("nextPageToken", "string")],
    ),
    (
        "UnitState",
        &[
            ("name", "string"),
            ("hash", "string"),
            ("machineID", "string"),
            ("systemdLoadState", "string"),
            ("systemdActiveState", "string"),
            ("systemdSubState", "string"),
        ],
    ),
    (
        "UnitStatePage",
        &[("states", "[]UnitState"), ("nextPageToken", "string")],
    ),
];

/// A method: its group and name, id, HTTP method, path, and what it does; parameters of the query; types it takes and gives.
struct Method {
    group: &'static str,
    name: &'static str,
    id: &'static str,
    http: &'static str,
    path: &'static str,
    does: &'static str,
    query: &'static [&'static str],
    takes: Option<&'static str>,
    gives: Option<&'static str>,
}

const METHODS: &[Method] = &[
    Method {
        group: "Machines",
        name: "List",
        id: "fleet.Machine.List",
        http: "GET",
        path: "machines",
        does: "A page of the machines that are there.",
        query: &["nextPageToken"],
        takes: None,
        gives: Some("MachinePage"),
    },
    Method {
        group: "Units",
        name: "List",
        id: "fleet.Unit.List",
        http: "GET",
        path: "units",
        does: "A page of units.",
        query: &["nextPageToken"],
        takes: None,
        gives: Some("UnitPage"),
    },
    Method {
        group: "Units",
        name: "Get",
        id: "fleet.Unit.Get",
        http: "GET",
        path: "units/{unitName}",
        does: "One unit.",
        query: &[],
        takes: None,
        gives: Some("Unit"),
    },
    Method {
        group: "Units",
        name: "Set",
        id: "fleet.Unit.Set",
        http: "PUT",
        path: "units/{unitName}",
        does: "Makes a unit, gives it another text, or says what it is to be.",
        query: &[],
        takes: Some("Unit"),
        gives: None,
    },
    Method {
        group: "Units",
        name: "Delete",
        id: "fleet.Unit.Delete",
        http: "DELETE",
        path: "units/{unitName}",
        does: "Stops a unit and forgets it.",
        query: &[],
        takes: None,
        gives: None,
    },
    Method {
        group: "UnitState",
        name: "List",
        id: "fleet.UnitState.List",
        http: "GET",
        path: "state",
        does: "A page of where units stand, of all of them, of one, or on one machine.",
        query: &["nextPageToken", "unitName", "machineID"],
        takes: None,
        gives: Some("UnitStatePage"),
    },
    Method {
        group: "UnitState",
        name: "Get",
        id: "fleet.UnitState.Get",
        http: "GET",
        path: "state/{unitName}",
        does: "Where one unit stands.",
        query: &[],
        takes: None,
        gives: Some("UnitState"),
    },
];

fn kind(text: &str) -> Value {
    match text {
        "{}" => {
            json!({ "type": "object", "properties": {}, "additionalProperties": { "type": "string" } })
        }
        "stage" => json!({ "type": "string", "enum": ["inactive", "loaded", "launched"] }),
        "string" => json!({ "type": "string" }),
        other => match other.strip_prefix("[]") {
            Some(of) => json!({ "type": "array", "items": { "$ref": of } }),
            None => json!({ "$ref": other }),
        },
    }
}

fn schemas() -> Map<String, Value> {
    let one = |(name, fields): &(&str, &[(&str, &str)])| {
        let fields: Map<String, Value> = fields
            .iter()
            .map(|(field, text)| ((*field).to_owned(), kind(text)))
            .collect();
        let schema = json!({ "id": name, "type": "object", "properties": fields });
        ((*name).to_owned(), schema)
    };
    TYPES.iter().map(one).collect()
}

fn method(of: &Method) -> Value {
    let parameter = |place: &str| json!({ "type": "string", "location": place });
    let mut parameters = Map::new();
    for name in of.query {
        parameters.insert((*name).to_owned(), parameter("query"));
    }
    let mut made = json!({
        "id": of.id, "description": of.does, "httpMethod": of.http, "path": of.path,
    });
    if of.path.ends_with("{unitName}") {
        let mut name = parameter("path");
        name["required"] = json!(true);
        parameters.insert("unitName".into(), name);
        made["parameterOrder"] = json!(["unitName"]);
    }
    if !parameters.is_empty() {
        made["parameters"] = Value::Object(parameters);
    }
    for (key, reference) in [("request", of.takes), ("response", of.gives)] {
        if let Some(reference) = reference {
            made[key] = json!({ "$ref": reference });
        }
    }
    made
}

fn resources() -> Value {
    let mut all = json!({});
    for of in METHODS {
        all[of.group]["methods"][of.name] = method(of);
    }
    all
}

/// The document. Its address is the one that it was asked at, if the client said so.
fn described(host: &str) -> Value {
    let root = format!("http://{host}/");
    json!({
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "version": "v1",
        "title": "fleet API",
        "description": "Units and machines of Coracle, in fleet's words.",
        "protocol": "rest",
        "rootUrl": root,
        "servicePath": "fleet/v1/",
        "baseUrl": format!("{root}fleet/v1/"),
        "basePath": "/fleet/v1/",
        "batchPath": "batch",
        "labels": [],
        "parameters": {},
        "auth": {},
        "schemas": schemas(),
        "resources": resources(),
    })
}

pub async fn document(headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    Json(described(host.unwrap_or("localhost"))).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Whatever the document refers to is in it.
    #[test]
    fn nothing_is_missing() {
        let text = described("here").to_string();
        let found = described("here");
        let schemas = found["schemas"].as_object().unwrap();
        let references: Vec<&str> = text
            .split("\"$ref\":\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        assert!(references.len() > 8, "{references:?}");
        for reference in references {
            assert!(schemas.contains_key(reference), "{reference}");
        }
        let methods = found["resources"].as_object().unwrap().values();
        let count: usize = methods
            .map(|r| r["methods"].as_object().unwrap().len())
            .sum();
        assert_eq!(count, METHODS.len());
    }
}
