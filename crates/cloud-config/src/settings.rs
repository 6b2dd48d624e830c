//! The daemon's configuration file, `coracle.toml`.
use crate::model::{CloudConfig, RebootStrategy, Update, UpdateServer};
use toml::{Table, Value};

/// The text of `/etc/coracle/coracle.toml` for what the daemon is told: `advertise`, `api_…`, `[machine] labels`, `[[registry]]` and `[updates]`.
/// Empty if it is told nothing. The cluster to join is not part of it.
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
    let updates = updates(&config.update);
    if !updates.is_empty() {
        file.insert("updates".into(), Value::Table(updates));
    }
    file.to_string()
}

/// `[updates]`; nothing for what is as usual.
fn updates(update: &Update) -> Table {
    let mut table = Table::new();
    let mut insert = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            table.insert(key.into(), Value::String(value));
        }
    };
    let from = match &update.server {
        Some(UpdateServer::Repository(repository)) => Some(repository.clone()),
        Some(UpdateServer::Disabled) | None => None,
    };
    insert("from", from);
    insert("channel", update.group.clone());
    let reboot = match update.reboot_strategy {
        RebootStrategy::EtcdLock => None,
        RebootStrategy::Reboot => Some("reboot"),
        RebootStrategy::BestEffort => Some("best-effort"),
        RebootStrategy::Off => Some("off"),
    };
    insert("reboot", reboot.map(str::to_owned));
    insert("window_start", update.window.map(|w| w.start()));
    let length = update.window.map(|w| format!("{}m", w.length_minutes));
    insert("window_length", length);
    table
}
