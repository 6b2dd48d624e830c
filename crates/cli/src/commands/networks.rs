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
    #[command(
        after_help = "Examples:\n  coracle network create --subnet 10.9.0.0/24 back\n  \
                      coracle network create --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 both"
    )]
    Create {
        /// bridge
        #[arg(short, long, default_value = "bridge")]
        driver: String,
        /// Subnet, such as 10.9.0.0/24; one of each family
        #[arg(long)]
        subnet: Vec<String>,
        /// The bridge's own address; one of each family
        #[arg(long)]
        gateway: Vec<String>,
        /// Part of the subnet that addresses are taken from; one of each family
        #[arg(long)]
        ip_range: Vec<String>,
        /// Address that no container gets, such as router=10.9.0.2
        #[arg(long, value_name = "NAME=ADDRESS")]
        aux_address: Vec<String>,
        /// IPv6 addresses too; without a subnet one is chosen from the machine's own range
        #[arg(long)]
        ipv6: bool,
        #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        ipv4: Option<bool>,
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
        #[command(flatten)]
        addresses: Addresses,
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

/// A container's addresses on a network.
#[derive(Debug, clap::Args)]
pub struct Addresses {
    /// IPv4 address there
    #[arg(long)]
    ip: Option<String>,
    /// IPv6 address there
    #[arg(long, value_name = "IP")]
    ip6: Option<String>,
    /// Further address that holds on this link alone
    #[arg(long, value_name = "IP")]
    link_local_ip: Vec<String>,
    /// The network of the highest priority has the default route
    #[arg(long, value_name = "N", default_value_t, allow_hyphen_values = true)]
    gw_priority: i64,
}

impl Addresses {
    fn fill(&self, endpoint: &mut Value) {
        for (key, ip) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if let Some(ip) = ip {
                endpoint["IPAMConfig"][key] = json!(ip);
            }
        }
        if !self.link_local_ip.is_empty() {
            endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(self.link_local_ip);
        }
        if self.gw_priority != 0 {
            endpoint["GwPriority"] = json!(self.gw_priority);
        }
    }
}

/// Docker's `IPAMConfig`s: one a subnet, each with what is of its family. The daemon says what does not fit.
fn ipam(
    subnets: &[String],
    gateways: &[String],
    ranges: &[String],
    reserved: &[String],
) -> Result<Vec<Value>> {
    let mut configs: Vec<(bool, Value)> = Vec::new();
    let is_ipv6 = |text: &str| text.contains(':');
    for (key, texts) in [
        ("Subnet", subnets),
        ("Gateway", gateways),
        ("IPRange", ranges),
    ] {
        for text in texts {
            let v6 = is_ipv6(text);
            let vacant =
                |(family, config): &&mut (bool, Value)| *family == v6 && config[key].is_null();
            match configs.iter_mut().find(vacant) {
                Some((_, config)) => config[key] = json!(text),
                None => configs.push((v6, json!({ key: text }))),
            }
        }
    }
    for text in reserved {
        let Some((name, ip)) = text.split_once('=') else {
            return Err(CliError::Usage(format!(
                "invalid value \"{text}\" for --aux-address: write NAME=ADDRESS"
            )));
        };
        let v6 = is_ipv6(ip);
        let at = configs.iter().position(|c| c.0 == v6).unwrap_or_else(|| {
            configs.push((v6, json!({})));
            configs.len() - 1
        });
        configs[at].1["AuxiliaryAddresses"][name] = json!(ip);
    }
    Ok(configs.into_iter().map(|c| c.1).collect())
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
                    ("IPv4", n["EnableIPv4"].clone()),
                    ("IPv6", n["EnableIPv6"].clone()),
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
            aux_address,
            internal,
            opt,
            label,
            attachable: _,
            ipv6,
            ipv4,
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
            let configs = ipam(subnet, gateway, ip_range, aux_address)?;
            let body = json!({ "Name": name, "Driver": driver, "Internal": internal, "EnableIPv4": ipv4, "EnableIPv6": ipv6.then_some(true), "Options": pairs(opt), "Labels": pairs(label), "IPAM": { "Config": configs } });
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
            addresses,
            network,
            container,
        } => {
            let mut endpoint = json!({ "Aliases": alias });
            addresses.fill(&mut endpoint);
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
