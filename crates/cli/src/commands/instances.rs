//! Instances of templates, as `unit status` and `unit destroy` tell of them.

use crate::client::Client;
use crate::error::Result;
use coracle_unit::UnitName;
use serde_json::Value;

/// Units that are instances of a template.
async fn of(client: &Client, template: &UnitName) -> Result<Vec<Value>> {
    let all = client.get("/v1/units").await?;
    let is_one = |unit: &&Value| {
        let name = unit["name"].as_str().and_then(|n| UnitName::new(n).ok());
        name.is_some_and(|n| !n.is_template() && n.template().as_ref() == Some(template))
    };
    let units = all.as_array().into_iter().flatten();
    Ok(units.filter(is_one).cloned().collect())
}

/// A line for each instance: how it is, and where.
pub async fn lines(client: &Client, template: &str) -> Result<Vec<String>> {
    let Ok(template) = UnitName::new(template) else {
        return Ok(Vec::new());
    };
    let line = |unit: &Value| {
        let text = |key: &str| unit[key].as_str().unwrap_or_default().to_owned();
        let ports = unit["ports"].as_array().into_iter().flatten();
        let ports: Vec<&str> = ports.filter_map(Value::as_str).collect();
        let more = [text("health"), ports.join(", ")];
        let more: Vec<String> = more.into_iter().filter(|m| !m.is_empty()).collect();
        let (name, active, sub) = (text("name"), text("active"), text("sub"));
        let line = format!("  Instance:  {name} {active} ({sub}) {}", more.join(" "));
        line.trim_end().to_owned()
    };
    Ok(of(client, &template).await?.iter().map(line).collect())
}

/// Says which instances run on without the template that was destroyed.
pub async fn left(client: &Client, destroyed: &str) -> Result<()> {
    // As people write it.
    let name =
        UnitName::new(destroyed).or_else(|_| UnitName::new(&format!("{destroyed}.container")));
    let Some(template) = name.ok().filter(UnitName::is_template) else {
        return Ok(());
    };
    let left = of(client, &template).await?;
    let left: Vec<&str> = left.iter().filter_map(|u| u["name"].as_str()).collect();
    if !left.is_empty() {
        eprintln!(
            "its instances stay as they are, and cannot be deployed without it: {}; `coracle unit destroy` takes them away, `coracle unit submit` brings the template back",
            left.join(", ")
        );
    }
    Ok(())
}
