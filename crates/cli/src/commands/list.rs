//! `ps`, `inspect`, `top`, `port`, `events`.

use super::filters;
use crate::client::{Client, JsonLines, escape, query};
use crate::error::{CliError, Result};
use crate::format::words::{ago, cut, short, size};
use crate::format::{Table, align, inspected, out, row};
use chrono::DateTime;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// `coracle ps`
#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "Example:\n  coracle ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'"
)]
pub struct Ps {
    /// Those that do not run too
    #[arg(short, long)]
    pub all: bool,
    /// Narrow the list: key=value
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The last so many
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "-1",
        allow_hyphen_values = true
    )]
    pub last: i64,
    /// The newest
    #[arg(short, long)]
    pub latest: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Sizes too
    #[arg(short, long)]
    pub size: bool,
    /// Those of every machine of the cluster
    #[arg(long)]
    pub all_machines: bool,
}

/// `coracle inspect`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle inspect --format '{{.State.Status}}' web")]
pub struct Inspect {
    /// table, json, or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Sizes of containers, too
    #[arg(short, long)]
    pub size: bool,
    /// container, image, network or volume
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

pub(super) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// An address before a port: one of IPv6 in brackets.
fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

/// Published and exposed ports as docker shows them.
pub fn ports(list: &Value) -> String {
    let mut all: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            let inside = format!("{}/{}", p["PrivatePort"], text(p, "Type"));
            match p["PublicPort"].as_u64() {
                Some(outside) => format!("{}:{outside}->{inside}", bracketed(&text(p, "IP"))),
                None => inside,
            }
        })
        .collect();
    all.sort();
    all.join(", ")
}

pub(super) const COLUMNS: [(&str, &str); 7] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

/// The path of what is listed; `slim` leaves out what no table shows.
pub(super) fn asked(args: &Ps, slim: bool) -> Result<String> {
    let limit = Some(if args.latest { 1 } else { args.last }).filter(|n| *n > 0);
    let flag = |on: bool| if on { "1" } else { "" }.to_owned();
    let asked = query(&[
        ("all", flag(args.all)),
        ("limit", limit.map(|n| n.to_string()).unwrap_or_default()),
        ("size", flag(args.size && !slim)),
        ("slim", flag(slim)),
        ("filters", filters(&args.filter)?),
    ]);
    Ok(format!("/containers/json{asked}"))
}

pub async fn ps(client: &Client, args: &Ps) -> Result<()> {
    if args.all_machines {
        return super::everywhere::ps(client, args).await;
    }
    // What no table shows need not be made, sent and read.
    let slim = args.quiet || (args.format.is_none() && !args.size);
    let path = asked(args, slim)?;
    if slim {
        let list: Vec<Line> = client.get_as(&path).await?;
        return out(&plain(&list, args));
    }
    let found = client.get(&path).await?;
    let list = found.as_array().cloned().unwrap_or_default();
    let mut columns = COLUMNS.to_vec();
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    let rows = list
        .iter()
        .map(|c| container_row(c, args.no_trunc))
        .collect();
    Table { columns, rows }.print(args.format.as_deref())
}

/// A container with what the table for people has.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    id: String,
    names: Vec<String>,
    image: String,
    command: String,
    created: i64,
    #[serde(default)]
    ports: Value,
    status: String,
}

/// The table without a format of its own, or the ids alone.
fn plain(list: &[Line], args: &Ps) -> String {
    let id = |c: &Line| {
        if args.no_trunc {
            c.id.clone()
        } else {
            short(&c.id)
        }
    };
    if args.quiet {
        return list.iter().map(|c| id(c) + "\n").collect();
    }
    let header = COLUMNS.iter().map(|(header, _)| (*header).to_owned());
    let rows = list.iter().map(|c| {
        let names: Vec<&str> = c.names.iter().map(|n| n.trim_start_matches('/')).collect();
        let created = DateTime::from_timestamp(c.created, 0).unwrap_or_default();
        vec![
            id(c),
            image_shown(&c.image, args.no_trunc),
            command_shown(&c.command, args.no_trunc),
            ago(created),
            c.status.clone(),
            ports(&c.ports),
            names.join(","),
        ]
    });
    align(std::iter::once(header.collect()).chain(rows).collect())
}

fn image_shown(image: &str, whole: bool) -> String {
    if image.starts_with("sha256:") && !whole {
        short(image)
    } else {
        image.to_owned()
    }
}

fn command_shown(command: &str, whole: bool) -> String {
    if whole {
        format!("\"{command}\"")
    } else {
        format!("\"{}\"", cut(command, 20))
    }
}

pub(super) fn container_row(c: &Value, whole: bool) -> Map<String, Value> {
    let (id, command) = (text(c, "Id"), text(c, "Command"));
    let names: Vec<&str> = c["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|n| n.trim_start_matches('/'))
        .collect();
    let created = c["Created"]
        .as_i64()
        .and_then(|s| DateTime::from_timestamp(s, 0))
        .unwrap_or_default();
    let labels = c["Labels"].as_object().cloned().unwrap_or_default();
    let labels: Vec<String> = labels
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    let networks: Vec<String> = c["NetworkSettings"]["Networks"]
        .as_object()
        .map(|n| n.keys().cloned().collect())
        .unwrap_or_default();
    let mounts: Vec<String> = c["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| {
            m["Name"]
                .as_str()
                .or(m["Source"].as_str())
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    let image = image_shown(&text(c, "Image"), whole);
    let sizes = c["SizeRw"].as_f64().map_or_else(
        || "0B".into(),
        |own| {
            format!(
                "{} (virtual {})",
                size(own),
                size(c["SizeRootFs"].as_f64().unwrap_or(0.0))
            )
        },
    );
    row([
        ("ID", json!(if whole { id } else { short(&id) })),
        ("Image", json!(image)),
        ("Command", json!(command_shown(&command, whole))),
        (
            "CreatedAt",
            json!(created.format("%Y-%m-%d %H:%M:%S %z UTC").to_string()),
        ),
        ("RunningFor", json!(ago(created))),
        ("Status", c["Status"].clone()),
        ("State", c["State"].clone()),
        ("Ports", json!(ports(&c["Ports"]))),
        ("Names", json!(names.join(","))),
        ("Labels", json!(labels.join(","))),
        ("Networks", json!(networks.join(","))),
        ("Mounts", json!(mounts.join(","))),
        ("LocalVolumes", json!(mounts.len().to_string())),
        ("Size", json!(sizes)),
    ])
}

/// Looks for the name among containers, images, networks and volumes, in this order.
pub async fn inspect(client: &Client, args: &Inspect) -> Result<()> {
    let kinds: &[(&str, &str, &str)] = &[
        ("container", "/containers/", "/json"),
        ("image", "/images/", "/json"),
        ("network", "/networks/", ""),
        ("volume", "/volumes/", ""),
    ];
    let (mut found, mut missing) = (Vec::new(), false);
    for name in &args.names {
        let mut hit = None;
        for (kind, before, after) in kinds {
            if args.kind.as_deref().is_some_and(|k| k != *kind) {
                continue;
            }
            // Names of images keep their slashes.
            let name = if *kind == "image" {
                name.clone()
            } else {
                escape(name)
            };
            let sized = if args.size && *kind == "container" {
                "?size=1"
            } else {
                ""
            };
            match client.get(&format!("{before}{name}{after}{sized}")).await {
                Ok(value) => {
                    hit = Some(value);
                    break;
                }
                Err(error)
                    if error.is_not_found()
                        || matches!(error, CliError::Daemon { status: 400, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match hit {
            Some(value) => found.push(value),
            None => {
                eprintln!(
                    "Error: No such {}: {name}",
                    args.kind.as_deref().unwrap_or("object")
                );
                missing = true;
            }
        }
    }
    inspected(&found, args.format.as_deref())?;
    if missing {
        Err(CliError::Exit(1))
    } else {
        Ok(())
    }
}

pub async fn top(client: &Client, name: &str, ps: &[String]) -> Result<()> {
    let asked = query(&[("ps_args", ps.join(" "))]);
    let answer = client
        .get(&format!("/containers/{}/top{asked}", escape(name)))
        .await?;
    let line = |v: &Value| {
        v.as_array()
            .into_iter()
            .flatten()
            .map(|c| c.as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let mut rows = vec![line(&answer["Titles"])];
    rows.extend(
        answer["Processes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(line),
    );
    out(&align(rows))
}

pub async fn port(client: &Client, name: &str, wanted: Option<&str>) -> Result<()> {
    let found = client
        .get(&format!("/containers/{}/json", escape(name)))
        .await?;
    let wanted = wanted.map(|w| {
        if w.contains('/') {
            w.to_owned()
        } else {
            format!("{w}/tcp")
        }
    });
    let mut lines = String::new();
    for (port, bindings) in found["NetworkSettings"]["Ports"]
        .as_object()
        .into_iter()
        .flatten()
    {
        for b in bindings.as_array().into_iter().flatten() {
            let place = format!("{}:{}", bracketed(&text(b, "HostIp")), text(b, "HostPort"));
            match &wanted {
                Some(w) if w == port => lines.push_str(&format!("{place}\n")),
                Some(_) => {}
                None => lines.push_str(&format!("{port} -> {place}\n")),
            }
        }
    }
    if let (Some(wanted), true) = (&wanted, lines.is_empty()) {
        return Err(CliError::Usage(format!(
            "No public port '{wanted}' published for {name}"
        )));
    }
    out(&lines)
}

/// `coracle events`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle events --filter event=die --format json")]
pub struct Events {
    /// From then on
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Narrow: key=value
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

pub async fn events(client: &Client, args: &Events) -> Result<()> {
    let asked = query(&[
        (
            "since",
            args.since
                .as_deref()
                .map(super::containers::moment)
                .unwrap_or_default(),
        ),
        (
            "until",
            args.until
                .as_deref()
                .map(super::containers::moment)
                .unwrap_or_default(),
        ),
        ("filters", filters(&args.filter)?),
    ]);
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(crate::format::template::Template::parse(text)?),
    };
    let mut lines = JsonLines::new(
        client
            .ask(Method::GET, &format!("/events{asked}"), None)
            .await?,
    );
    while let Some(event) = lines.next().await? {
        let line = match (&template, args.format.as_deref()) {
            (Some(template), _) => template.render(&event)?,
            (None, Some(_)) => event.to_string(),
            (None, None) => {
                let time = event["timeNano"]
                    .as_i64()
                    .map(DateTime::from_timestamp_nanos)
                    .unwrap_or_default();
                let actor = &event["Actor"];
                let attributes: Vec<String> = actor["Attributes"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .collect();
                format!(
                    "{} {} {} {} ({})",
                    time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true),
                    text(&event, "Type"),
                    text(&event, "Action"),
                    text(actor, "ID"),
                    attributes.join(", ")
                )
            }
        };
        out(&format!("{line}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_plain_table_is_the_table_of_all_fields() {
        let port = json!({"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"});
        let found = json!([
            {
                "Id": "0123456789abcdef", "Names": ["/web"], "Image": "nginx", "Command": "nginx -g daemon off; and more",
                "Created": 1_700_000_000, "Ports": [port], "Status": "Up 2 hours",
            },
            {
                "Id": "fedcba9876543210", "Names": ["/a", "/b"], "Image": "sha256:aaaaaaaaaaaabbbb", "Command": "sh",
                "Created": 1_700_000_000, "Ports": [], "Status": "Created",
            },
        ]);
        let lines: Vec<Line> = serde_json::from_value(found.clone()).unwrap();
        for no_trunc in [false, true] {
            let args = Ps {
                no_trunc,
                ..Ps::default()
            };
            let rows = found.as_array().unwrap().iter();
            let rows = rows.map(|c| container_row(c, no_trunc)).collect();
            let table = Table {
                columns: COLUMNS.to_vec(),
                rows,
            };
            assert_eq!(plain(&lines, &args), table.text(None).unwrap());
        }
    }
}
