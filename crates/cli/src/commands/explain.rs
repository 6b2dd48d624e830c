//! `coracle unit explain`: why a unit is where it is, or is nowhere.

use crate::client::{Client, escape};
use crate::error::Result;
use crate::format::out;
use crate::format::template::Template;
use serde_json::Value;

pub async fn explain(client: &Client, name: &str, format: Option<&str>) -> Result<()> {
    let path = format!("/v1/units/{}/explain", escape(name));
    let found = client.get(&path).await?;
    match format {
        None | Some("table") => out(&in_words(&found)),
        Some("json") => out(&format!("{}\n", serde_json::to_string_pretty(&found)?)),
        Some(text) => out(&format!("{}\n", Template::parse(text)?.render(&found)?)),
    }
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

fn list<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of[key].as_array().into_iter().flatten()
}

fn in_words(found: &Value) -> String {
    let mut lines = vec![format!(
        "{}: {} ({}), asked to be {}",
        text(found, "unit"),
        text(found, "active"),
        text(found, "sub"),
        text(found, "desired")
    )];
    for placement in list(found, "placements") {
        let leaves = match placement["leaving"] == true {
            true => ", and leaves it",
            false => "",
        };
        let reason = placement["reason"]
            .as_str()
            .unwrap_or("it was placed before this leader began, which does not know why");
        lines.push(format!(
            "  is on {}{leaves}: {reason}",
            text(placement, "hostname")
        ));
    }
    if let Some(waits) = found["waits"].as_str() {
        lines.push(format!("  waits: {waits}"));
    } else if list(found, "placements").next().is_none() {
        let why = match text(found, "desired") {
            "inactive" => "it is not asked to run",
            _ => "its turn comes",
        };
        lines.push(format!("  is on no machine: {why}"));
    }
    let machines: Vec<&Value> = list(found, "machines").collect();
    if !machines.is_empty() {
        lines.push("  machines:".into());
    }
    for machine in machines {
        let reasons: Vec<&str> = list(machine, "reasons").filter_map(Value::as_str).collect();
        let verdict = match (machine["here"] == true, machine["fits"] == true) {
            (true, _) => "it is here".to_owned(),
            (_, true) => "it would fit".to_owned(),
            _ => reasons.join("; "),
        };
        lines.push(format!("    {}: {verdict}", text(machine, "hostname")));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words() {
        let mut found = json!({
            "unit": "web.container", "desired": "active", "active": "active", "sub": "running",
            "placements": [
                { "machine": "4f", "hostname": "web-1", "incarnation": 1, "leaving": true, "reason": null },
                { "machine": "5a", "hostname": "web-2", "incarnation": 2, "leaving": false, "reason": "it fits" },
            ],
            "waits": null,
            "machines": [
                { "machine": "4f", "hostname": "web-1", "here": false, "fits": false, "reasons": ["a", "b"] },
                { "machine": "5a", "hostname": "web-2", "here": true, "fits": false, "reasons": [] },
            ],
        });
        assert_eq!(
            in_words(&found),
            "web.container: active (running), asked to be active\n\
             \x20 is on web-1, and leaves it: it was placed before this leader began, which does not know why\n\
             \x20 is on web-2: it fits\n\
             \x20 machines:\n\
             \x20   web-1: a; b\n\
             \x20   web-2: it is here\n"
        );
        found["placements"] = json!([]);
        found["machines"] = json!([]);
        found["desired"] = json!("inactive");
        assert!(in_words(&found).ends_with("on no machine: it is not asked to run\n"));
        found["waits"] = json!("for rain");
        assert!(in_words(&found).ends_with("waits: for rain\n"));
    }
}
