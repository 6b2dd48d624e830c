//! The daemon and the machine as a whole.

use super::prune::PruneSystem;
use super::units::unit_rows;
use super::usage::usage;
use crate::client::{Client, query};
use crate::error::Result;
use crate::format::template::Template;
use crate::format::words::binary;
use crate::format::{align, out};
use hyper::Method;
use serde_json::{Value, json};

/// `coracle system`
#[derive(Debug, clap::Subcommand)]
pub enum System {
    /// Space that images, containers and volumes take
    #[command(after_help = "Example:\n  coracle system df")]
    Df {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Every image, container, volume and piece of build cache
        #[arg(short, long, conflicts_with = "format")]
        verbose: bool,
    },
    /// Machine, units and containers at a glance
    #[command(after_help = "Example:\n  coracle system status")]
    Status {
        /// table or json
        #[arg(long)]
        format: Option<String>,
    },
    /// Stop everything, take down networks and rules, end the daemon; images, volumes and units stay
    #[command(after_help = "Example:\n  coracle system down -t 5")]
    Down {
        /// Seconds until containers are killed
        #[arg(short, long, value_name = "SECONDS")]
        timeout: Option<i64>,
    },
    /// Make room on the disk, as the daemon does by itself when it is fuller than the high mark
    #[command(after_help = "Example:\n  coracle system collect --high 70 --low 60 --min-age 1h")]
    Collect {
        /// Percent in use above which something is removed [default: the daemon's, 85]
        #[arg(long, value_name = "PERCENT")]
        high: Option<u8>,
        /// Percent in use at which nothing more is [default: the daemon's, 80]
        #[arg(long, value_name = "PERCENT")]
        low: Option<u8>,
        /// Leave what was used since [default: the daemon's, 24h]
        #[arg(long, value_name = "TIME")]
        min_age: Option<String>,
    },
    /// Remove what nobody uses: containers, networks, images, and volumes if asked
    Prune(PruneSystem),
    /// What happens, as it happens
    Events(super::list::Events),
    /// What the daemon is and has
    #[command(after_help = "Example:\n  coracle system info")]
    Info {
        /// table, json, or a template
        #[arg(short, long)]
        format: Option<String>,
    },
    /// Pass stdin on to the daemon, and to stdout what it answers: how docker's command reaches it by ssh
    #[command(after_help = "Example:\n  DOCKER_HOST=ssh://root@web1 docker ps")]
    DialStdio,
}

pub async fn system(client: &Client, command: &System) -> Result<()> {
    match command {
        System::Df { format, verbose } => usage(client, format.as_deref(), *verbose).await,
        System::Status { format } => status(client, format.as_deref()).await,
        System::Info { format } => info(client, format.as_deref()).await,
        System::Collect { high, low, min_age } => {
            let number = |n: &Option<u8>| n.map(|n| n.to_string()).unwrap_or_default();
            let asked = query(&[
                ("high", number(high)),
                ("low", number(low)),
                ("min_age", min_age.clone().unwrap_or_default()),
            ]);
            let path = format!("/v1/system/collect{asked}");
            let done = client.json(Method::POST, &path, None).await?;
            for name in done["removed"].as_array().into_iter().flatten() {
                out(&format!("{}\n", name.as_str().unwrap_or_default()))?;
            }
            out(&format!(
                "{} % in use before, {} % now\n",
                done["before"], done["after"]
            ))
        }
        System::Events(args) => super::list::events(client, args).await,
        System::Prune(args) => super::prune::system(client, args).await,
        System::DialStdio => {
            let connection = client.dial().await?;
            crate::terminal::pass_on(connection).await
        }
        System::Down { timeout } => {
            let asked = query(&[("t", timeout.map(|t| t.to_string()).unwrap_or_default())]);
            client.post(&format!("/v1/system/down{asked}"), None).await
        }
    }
}

/// `coracle status`.
pub async fn status(client: &Client, format: Option<&str>) -> Result<()> {
    let found = client.get("/v1/system/status").await?;
    if format == Some("json") {
        return out(&format!("{}\n", serde_json::to_string_pretty(&found)?));
    }
    let machine = &found["machine"];
    let running = &found["containers"];
    let id = machine["id"].as_str().unwrap_or_default();
    out(&format!(
        "machine {} ({}), Coracle {}, {} of {} containers running\n\n",
        machine["hostname"].as_str().unwrap_or_default(),
        id.get(..8).unwrap_or(id),
        found["version"].as_str().unwrap_or_default(),
        running["running"],
        running["total"],
    ))?;
    let units = found["units"].as_array().cloned().unwrap_or_default();
    if units.is_empty() {
        return out("no units; `coracle unit start FILE` runs one\n");
    }
    unit_rows(&units).print(format)
}

pub async fn info(client: &Client, format: Option<&str>) -> Result<()> {
    let found = client.get("/info").await?;
    match format {
        Some("json") => out(&format!("{found}\n")),
        Some(text) if text != "table" => {
            out(&format!("{}\n", Template::parse(text)?.render(&found)?))
        }
        _ => {
            let text = |key: &str| {
                found[key]
                    .as_str()
                    .map_or_else(|| found[key].to_string(), str::to_owned)
            };
            let overlay = client.get("/v1/overlay").await?;
            let mut lines = vec![
                (
                    "Containers",
                    format!(
                        "{} ({} running, {} paused, {} stopped)",
                        found["Containers"],
                        found["ContainersRunning"],
                        found["ContainersPaused"],
                        found["ContainersStopped"]
                    ),
                ),
                ("Images", text("Images")),
                ("Version", text("ServerVersion")),
                ("Cgroup version", text("CgroupVersion")),
                ("Kernel", text("KernelVersion")),
                ("Operating system", text("OperatingSystem")),
                ("CPUs", text("NCPU")),
                ("Memory", binary(found["MemTotal"].as_f64().unwrap_or(0.0))),
                ("Name", text("Name")),
                ("State directory", text("DockerRootDir")),
            ];
            lines.extend(between_machines(&overlay).map(|line| ("Between machines", line)));
            out(&align(
                lines
                    .into_iter()
                    .map(|(k, v)| vec![format!("{k}:"), v])
                    .collect(),
            ))?;
            let warnings = [&found["Warnings"], &overlay["problems"]].into_iter();
            let warnings = warnings.filter_map(Value::as_array).flatten();
            for warning in warnings.chain([&overlay["caution"]]) {
                if let Some(warning) = warning.as_str() {
                    eprintln!("WARNING: {warning}");
                }
            }
            Ok(())
        }
    }
}

/// The network between machines in one line, if there is one.
fn between_machines(overlay: &Value) -> Option<String> {
    let kind = overlay["kind"].as_str()?;
    let peers = overlay["peers"].as_array().map_or(&[][..], Vec::as_slice);
    let reached = peers.iter().filter(|p| p["routed"] == true).count();
    Some(format!(
        "{kind} {} on port {}/udp, IPv4 only, subnet {}, {reached} of {} machines routed, packets of {} bytes",
        overlay["vni"],
        overlay["port"],
        overlay["subnet"].as_str().unwrap_or_default(),
        peers.len(),
        overlay["mtu"]
            .as_u64()
            .map_or_else(|| "unknown".to_owned(), |mtu| mtu.to_string()),
    ))
}

pub async fn version(client: &Client, format: Option<&str>) -> Result<()> {
    let server = client.get("/version").await.ok();
    let own = env!("CARGO_PKG_VERSION");
    let all = json!({
        "Client": { "Version": own, "ApiVersion": coracle_api::API_VERSION },
        "Server": server,
    });
    match format {
        Some("json") => out(&format!("{all}\n")),
        Some(text) if text != "table" => {
            out(&format!("{}\n", Template::parse(text)?.render(&all)?))
        }
        _ => {
            out(&format!(
                "Client: Coracle {own} (API {})\n",
                coracle_api::API_VERSION
            ))?;
            match server {
                Some(s) => out(&format!(
                    "Server: Coracle {} (API {})\n",
                    s["Version"].as_str().unwrap_or_default(),
                    s["ApiVersion"].as_str().unwrap_or_default()
                )),
                None => out("Server: not reached\n"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_between_machines_in_a_line() {
        assert_eq!(between_machines(&Value::Null), None);
        let overlay = json!({
            "kind": "vxlan", "vni": 7373, "port": 7373, "subnet": "10.212.0.0/22", "mtu": 1450,
            "peers": [{"machine": "b", "routed": true}, {"machine": "c", "routed": false}],
        });
        assert_eq!(
            between_machines(&overlay).as_deref(),
            Some(
                "vxlan 7373 on port 7373/udp, IPv4 only, subnet 10.212.0.0/22, 1 of 2 machines routed, packets of 1450 bytes"
            )
        );
    }
}
