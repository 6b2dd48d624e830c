//! `update`.

use crate::client::{Client, escape};
use crate::error::{CliError, Result, each};
use crate::format::out;
use crate::run_args::{bytes, restart_policy};
use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

/// `coracle update`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle update --memory 1g --cpus 2 web\n  coracle update --restart unless-stopped web"
)]
pub struct Update {
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Microseconds of a period of processor time
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<i64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Relative weight of processor time
    #[arg(short, long, value_name = "WEIGHT")]
    pub cpu_shares: Option<i64>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// Processors allowed: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes allowed: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Memory limit, such as 512m
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 is unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processes at most; -1 is unlimited
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// no, always, unless-stopped or on-failure[:MAX]
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

impl Update {
    fn asked(&self) -> Result<Map<String, Value>> {
        let size = |flag: &str, text: &Option<String>| -> Result<Option<i64>> {
            text.as_deref().map(|t| bytes(flag, t)).transpose()
        };
        let all = [
            ("BlkioWeight", self.blkio_weight.map(|n| json!(n))),
            ("CpuPeriod", self.cpu_period.map(|n| json!(n))),
            ("CpuQuota", self.cpu_quota.map(|n| json!(n))),
            ("CpuShares", self.cpu_shares.map(|n| json!(n))),
            // A processor is counted in billionths.
            (
                "NanoCpus",
                self.cpus.map(|c| json!((c * 1e9).round() as i64)),
            ),
            ("CpusetCpus", self.cpuset_cpus.as_ref().map(|t| json!(t))),
            ("CpusetMems", self.cpuset_mems.as_ref().map(|t| json!(t))),
            ("Memory", size("memory", &self.memory)?.map(|n| json!(n))),
            (
                "MemoryReservation",
                size("memory-reservation", &self.memory_reservation)?.map(|n| json!(n)),
            ),
            (
                "MemorySwap",
                size("memory-swap", &self.memory_swap)?.map(|n| json!(n)),
            ),
            ("PidsLimit", self.pids_limit.map(|n| json!(n))),
            (
                "RestartPolicy",
                self.restart
                    .as_deref()
                    .map(|t| restart_policy(Some(t)))
                    .transpose()?,
            ),
        ];
        let said = all
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), v?)));
        Ok(said.collect())
    }
}

pub async fn update(client: &Client, args: &Update) -> Result<()> {
    let asked = args.asked()?;
    if asked.is_empty() {
        return Err(CliError::Usage(
            "you must provide one or more flags when using this command".into(),
        ));
    }
    let asked = Value::Object(asked);
    each(&args.names, async |name| {
        let path = format!("/containers/{}/update", escape(&name));
        client.json(Method::POST, &path, Some(&asked)).await?;
        out(&format!("{name}\n"))
    })
    .await
}
