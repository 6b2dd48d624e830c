//! The daemon's configuration file, `coracle.toml`.
use crate::model::CloudConfig;
use toml::{Table, Value};

/// The text of `/etc/coracle/coracle.toml` for what the daemon is told: `advertise`, `api_…`, `[machine] labels` and `[[registry]]`. Empty if it is
/// told nothing. The cluster to join is not part of it.
pub fn render_settings(config: &CloudConfig) -> String {
    let mut file = Table::new();
    let text = |text: &str| Value::String(text.to_owned());
    if let Some(address) = &config.advertise {
        file.insert("advertise".into(), text(address));
    }
    if let Some(address) = &config.api_listen {
        file.insert("api_listen".into(), text(address));
    }
    let lists = [
        ("api_names", &config.api_names),
        ("api_clients", &config.clients),
    ];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        let list = list.iter().map(|item| text(item)).collect();
        file.insert(key.into(), Value::Array(list));
    }
    if !config.labels.is_empty() {
        let labels = config
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), text(value)));
        let machine = Table::from_iter([("labels".to_owned(), Value::Table(labels.collect()))]);
        file.insert("machine".into(), Value::Table(machine));
    }
    let registries = config.registries.iter().map(|registry| {
        let mut table = Table::new();
        table.insert("host".into(), text(&registry.host));
        if registry.plain_http {
            table.insert("plain_http".into(), Value::Boolean(true));
        }
        if let Some(of) = &registry.mirror_of {
            table.insert("mirror_of".into(), text(of));
        }
        Value::Table(table)
    });
    let registries: Vec<_> = registries.collect();
    if !registries.is_empty() {
        file.insert("registry".into(), Value::Array(registries));
    }
    file.to_string()
}
