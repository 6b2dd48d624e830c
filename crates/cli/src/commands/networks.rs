//! Networks.

use super::filters;
use super::prune::{Prune, What, prune};
use crate::client::{Client, escape, query};
use crate::error::{CliError, Result, each};
use crate::format::words::short;
use crate::format::{Table, inspected, out, row};
use crate::run_args::pairs;
use hyper::Method;
use serde_json::{Value, json};

/// `coracle network`
#[derive(Debug, clap::Subcommand)]
pub enum Network {
    /// List networks
    #[command(visible_alias = "list", after_help = "Example:\n  coracle network ls")]
    Ls {
        /// Narrow the list
        #[arg(short, long)]
        filter: Vec<String>,
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
        /// Whole ids
        #[arg(long)]
        no_trunc: bool,
    },
    /// Make a bridge network
    #[command(after_help = "Example:\n  coracle network create --subnet 10.9.0.0/24 back")]
    Create {
        /// bridge
        #[arg(short, long, default_value = "bridge")]
        driver: String,
        /// Subnet, such as 10.9.0.0/24
        #[arg(long, default_value = "")]
        subnet: String,
        /// The bridge's own address
        #[arg(long, default_value = "")]
        gateway: String,
        /// Part of the subnet that addresses are taken from
        #[arg(long, default_value = "")]
        ip_range: String,
        /// No way in or out
        #[arg(long)]
        internal: bool,
        /// Option of the driver: key=value
        #[arg(short, long, value_name = "KEY=VALUE")]
        opt: Vec<String>,
        /// Label: key=value
        #[arg(long)]
        label: Vec<String>,
        /// For docker's sake: containers may always join by hand
        #[arg(long)]
        attachable: bool,
        #[arg(long, hide = true)]
        ipv6: bool,
        #[arg(long, hide = true, default_value = "")]
        ipam_driver: String,
        #[arg(long, hide = true, default_value = "")]
        scope: String,
        /// Name
        name: String,
    },
    /// Show networks
    #[command(after_help = "Example:\n  coracle network inspect bridge")]
    Inspect {
        /// table, json, or a template
        #[arg(short, long)]
        format: Option<String>,
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks
    #[command(
        visible_alias = "remove",
        after_help = "Example:\n  coracle network rm back"
    )]
    Rm {
        /// Missing ones are no error
        #[arg(short, long)]
        force: bool,
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Let a container join a network
    #[command(after_help = "Example:\n  coracle network connect --alias db back redis")]
    Connect {
        /// Further name there
        #[arg(long)]
        alias: Vec<String>,
        /// IPv4 address there
        #[arg(long)]
        ip: Option<String>,
        /// Network
        network: String,
        /// Container
        container: String,
    },
    /// Take a container off a network
    #[command(after_help = "Example:\n  coracle network disconnect back redis")]
    Disconnect {
        /// Also if it is not there
        #[arg(short, long)]
        force: bool,
        /// Network
        network: String,
        /// Container
        container: String,
    },
    /// Remove networks that no container is to join
    #[command(after_help = "Example:\n  coracle network prune -f")]
    Prune(Prune),
}

pub async fn network(client: &Client, command: &Network) -> Result<()> {
    match command {
        Network::Ls {
            filter,
            format,
            quiet,
            no_trunc,
        } => {
            let found = client
                .get(&format!(
                    "/networks{}",
                    query(&[("filters", filters(filter)?)])
                ))
                .await?;
            let list = found.as_array().cloned().unwrap_or_default();
            let id = |n: &Value| {
                let id = n["Id"].as_str().unwrap_or_default();
                if *no_trunc { id.to_owned() } else { short(id) }
            };
            if *quiet {
                return out(&list.iter().map(|n| id(n) + "\n").collect::<String>());
            }
            let rows = list.iter().map(|n| {
                row([
                    ("ID", json!(id(n))),
                    ("Name", n["Name"].clone()),
                    ("Driver", n["Driver"].clone()),
                    ("Scope", n["Scope"].clone()),
                    ("Internal", n["Internal"].clone()),
                    ("Subnet", n["IPAM"]["Config"][0]["Subnet"].clone()),
                ])
            });
            let columns = vec![
                ("NETWORK ID", "ID"),
                ("NAME", "Name"),
                ("DRIVER", "Driver"),
                ("SCOPE", "Scope"),
            ];
            Table {
                columns,
                rows: rows.collect(),
            }
            .print(format.as_deref())
        }
        Network::Create {
            driver,
            subnet,
            gateway,
            ip_range,
            internal,
            opt,
            label,
            attachable: _,
            ipv6,
            ipam_driver,
            scope,
            name,
        } => {
            if !matches!(ipam_driver.as_str(), "" | "default") {
                return Err(CliError::Usage(format!(
                    "--ipam-driver {ipam_driver} is not supported; leave it out"
                )));
            }
            if !matches!(scope.as_str(), "" | "local") {
                return Err(CliError::Usage(format!(
                    "--scope {scope} is not supported; leave it out"
                )));
            }
            let config = [
                ("Subnet", subnet),
                ("Gateway", gateway),
                ("IPRange", ip_range),
            ];
            let config: serde_json::Map<String, Value> = config
                .into_iter()
                .filter(|(_, v)| !v.is_empty())
                .map(|(k, v)| (k.to_owned(), json!(v)))
                .collect();
            let configs = if config.is_empty() {
                json!([])
            } else {
                json!([config])
            };
            let body = json!({ "Name": name, "Driver": driver, "Internal": internal, "EnableIPv6": ipv6, "Options": pairs(opt), "Labels": pairs(label), "IPAM": { "Config": configs } });
            let made = client
                .json(Method::POST, "/networks/create", Some(&body))
                .await?;
            out(&format!("{}\n", made["Id"].as_str().unwrap_or_default()))
        }
        Network::Inspect { format, names } => {
            let mut found = Vec::new();
            for name in names {
                found.push(client.get(&format!("/networks/{}", escape(name))).await?);
            }
            inspected(&found, format.as_deref())
        }
        Network::Rm { force, names } => {
            each(names, async |name| {
                let path = format!("/networks/{}", escape(&name));
                match client.ask(Method::DELETE, &path, None).await {
                    Err(error) if *force && error.is_not_found() => return Ok(()),
                    answer => drop(answer?),
                }
                out(&format!("{name}\n"))
            })
            .await
        }
        Network::Connect {
            alias,
            ip,
            network,
            container,
        } => {
            let mut endpoint = json!({ "Aliases": alias });
            if let Some(ip) = ip {
                endpoint["IPAMConfig"] = json!({ "IPv4Address": ip });
            }
            let body = json!({ "Container": container, "EndpointConfig": endpoint });
            client
                .post(
                    &format!("/networks/{}/connect", escape(network)),
                    Some(&body),
                )
                .await
        }
        Network::Disconnect {
            force,
            network,
            container,
        } => {
            let body = json!({ "Container": container, "Force": force });
            client
                .post(
                    &format!("/networks/{}/disconnect", escape(network)),
                    Some(&body),
                )
                .await
        }
        Network::Prune(args) => prune(client, What::Networks, args).await,
    }
}
