//! `stats`.

use super::list::text;
use crate::client::{Client, escape};
use crate::error::Result;
use crate::format::words::{binary, short, size};
use crate::format::{Table, out, row};
use serde_json::{Map, Value, json};

/// `coracle stats`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle stats --no-stream")]
pub struct Stats {
    /// Those that do not run, too
    #[arg(short, long)]
    pub all: bool,
    /// Once, not on and on
    #[arg(long)]
    pub no_stream: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Containers; all that run if none is named
    pub names: Vec<String>,
}

fn stats_row(s: &Value, whole: bool) -> Map<String, Value> {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let (now, before) = (&s["cpu_stats"], &s["precpu_stats"]);
    let used =
        number(&now["cpu_usage"]["total_usage"]) - number(&before["cpu_usage"]["total_usage"]);
    let whole_machine = number(&now["system_cpu_usage"]) - number(&before["system_cpu_usage"]);
    let cpu = if whole_machine > 0.0 && used > 0.0 {
        used / whole_machine * number(&now["online_cpus"]) * 100.0
    } else {
        0.0
    };
    let memory = &s["memory_stats"];
    let usage = (number(&memory["usage"]) - number(&memory["stats"]["inactive_file"])).max(0.0);
    let limit = number(&memory["limit"]);
    let sum = |key: &str| {
        s["networks"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, n)| number(&n[key]))
            .sum::<f64>()
    };
    let block = |op: &str| {
        let list = s["blkio_stats"]["io_service_bytes_recursive"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.iter()
            .filter(|e| e["op"] == op)
            .map(|e| number(&e["value"]))
            .sum::<f64>()
    };
    let id = text(s, "id");
    let name = text(s, "name").trim_start_matches('/').to_owned();
    row([
        ("Container", json!(name)),
        ("ID", json!(if whole { id } else { short(&id) })),
        ("Name", json!(name)),
        ("CPUPerc", json!(format!("{cpu:.2}%"))),
        (
            "MemUsage",
            json!(format!("{} / {}", binary(usage), binary(limit))),
        ),
        (
            "MemPerc",
            json!(format!(
                "{:.2}%",
                if limit > 0.0 {
                    usage / limit * 100.0
                } else {
                    0.0
                }
            )),
        ),
        (
            "NetIO",
            json!(format!(
                "{} / {}",
                size(sum("rx_bytes")),
                size(sum("tx_bytes"))
            )),
        ),
        (
            "BlockIO",
            json!(format!(
                "{} / {}",
                size(block("Read")),
                size(block("Write"))
            )),
        ),
        ("PIDs", json!(s["pids_stats"]["current"].to_string())),
    ])
}

pub async fn stats(client: &Client, args: &Stats) -> Result<()> {
    let columns = vec![
        ("CONTAINER ID", "ID"),
        ("NAME", "Name"),
        ("CPU %", "CPUPerc"),
        ("MEM USAGE / LIMIT", "MemUsage"),
        ("MEM %", "MemPerc"),
        ("NET I/O", "NetIO"),
        ("BLOCK I/O", "BlockIO"),
        ("PIDS", "PIDs"),
    ];
    loop {
        let names = if args.names.is_empty() {
            let all = client
                .get(if args.all {
                    "/containers/json?all=1"
                } else {
                    "/containers/json"
                })
                .await?;
            all.as_array()
                .into_iter()
                .flatten()
                .map(|c| text(c, "Id"))
                .collect()
        } else {
            args.names.clone()
        };
        let mut asked = tokio::task::JoinSet::new();
        for (number, name) in names.into_iter().enumerate() {
            let client = client.clone();
            asked.spawn(async move {
                let found = client
                    .get(&format!("/containers/{}/stats?stream=0", escape(&name)))
                    .await;
                (number, found)
            });
        }
        let mut rows = Vec::new();
        while let Some(Ok((number, found))) = asked.join_next().await {
            match found {
                Ok(sample) => rows.push((number, stats_row(&sample, args.no_trunc))),
                Err(error) if error.is_not_found() && args.names.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        rows.sort_by_key(|(number, _)| *number);
        let table = Table {
            columns: columns.clone(),
            rows: rows.into_iter().map(|(_, r)| r).collect(),
        };
        if args.no_stream {
            return table.print(args.format.as_deref());
        }
        // To the top left, over what stood there.
        out(&format!(
            "\x1b[H\x1b[2J{}",
            table.text(args.format.as_deref())?
        ))?;
    }
}
