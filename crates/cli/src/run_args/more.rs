//! Flags of `run` and `create` that few need. What the daemon cannot honour it refuses by name.

use super::values::{bytes, pairs};
use crate::error::{CliError, Result};
use serde_json::{Map, Value, json};

/// As docker names them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MoreArgs {
    /// Remark for the runtime: key=value
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Join only these: stdin, stdout, stderr
    #[arg(short, long, value_name = "STREAM", value_parser = stream)]
    pub attach: Vec<String>,
    /// Say nothing of a pull
    #[arg(short, long)]
    pub quiet: bool,
    /// Resolver option
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Time between tests in the start period
    #[arg(long, value_name = "TIME")]
    pub health_start_interval: Option<String>,
    /// Hardware address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// Length of a scheduler period in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_period: Option<i64>,
    /// Time in a period in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Memory nodes allowed
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// How readily memory is swapped out: 0 to 100
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub memory_swappiness: Option<i64>,
    /// Weight of block I/O: 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Rule of the device control group, such as "c 13:* rwm"
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
    /// Driver of volumes without a name; only local
    #[arg(long, value_name = "DRIVER")]
    pub volume_driver: Option<String>,
    /// For docker's sake: images are known by their digests
    #[arg(long)]
    pub disable_content_trust: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    runtime: Option<String>,
    #[arg(long, hide = true, value_name = "DEVICES")]
    gpus: Option<String>,
    #[arg(long, hide = true, value_name = "DEVICE:WEIGHT")]
    blkio_weight_device: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE:RATE")]
    device_read_bps: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE:RATE")]
    device_write_bps: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE:RATE")]
    device_read_iops: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE:RATE")]
    device_write_iops: Vec<String>,
    #[arg(long, hide = true, value_name = "TIME")]
    cpu_rt_period: Option<i64>,
    #[arg(long, hide = true, value_name = "TIME")]
    cpu_rt_runtime: Option<i64>,
    #[arg(long, hide = true, value_name = "N")]
    cpu_count: Option<i64>,
    #[arg(long, hide = true, value_name = "PERCENT")]
    cpu_percent: Option<i64>,
    #[arg(long, hide = true, value_name = "BYTES")]
    io_maxbandwidth: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    io_maxiops: Option<u64>,
    #[arg(long, hide = true, value_name = "NAME")]
    isolation: Option<String>,
    #[arg(long, hide = true, value_name = "BYTES")]
    kernel_memory: Option<String>,
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    storage_opt: Vec<String>,
    /// Further address that holds on the network's link alone
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// IPv6 address on the network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    #[arg(long, hide = true, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Every mount of another container, too
    #[arg(long, value_name = "CONTAINER[:ro|rw]")]
    pub volumes_from: Vec<String>,
    #[arg(long, hide = true)]
    use_api_socket: bool,
}

fn stream(text: &str) -> std::result::Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        known @ ("stdin" | "stdout" | "stderr") => Ok(known.to_owned()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
    }
}

impl MoreArgs {
    /// Whether a stream is joined; all are if none is named.
    pub fn joins(&self, stream: &str) -> bool {
        self.attach.is_empty() || self.attach.iter().any(|s| s == stream)
    }

    /// Adds what was given to the request's `HostConfig`.
    pub fn host(&self, host: &mut Map<String, Value>) -> Result<()> {
        if self.use_api_socket {
            return Err(CliError::Usage(
                "--use-api-socket is not supported; mount the socket with -v".into(),
            ));
        }
        let devices = |list: &[String]| -> Vec<Value> {
            let one = |text: &String| {
                let (path, rate) = text.split_once(':').unwrap_or((text, "0"));
                json!({ "Path": path, "Rate": bytes("device", rate).unwrap_or(0) })
            };
            list.iter().map(one).collect()
        };
        let size =
            |flag: &str, text: &Option<String>| text.as_ref().map_or(Ok(0), |t| bytes(flag, t));
        let gpus = self
            .gpus
            .iter()
            .map(|g| json!({ "Driver": g, "Count": -1 }));
        for (key, value) in [
            ("Annotations", json!(pairs(&self.annotation))),
            ("DnsOptions", json!(self.dns_option)),
            ("CpuPeriod", json!(self.cpu_period)),
            ("CpuQuota", json!(self.cpu_quota)),
            ("CpusetMems", json!(self.cpuset_mems)),
            ("MemorySwappiness", json!(self.memory_swappiness)),
            ("BlkioWeight", json!(self.blkio_weight)),
            ("DeviceCgroupRules", json!(self.device_cgroup_rule)),
            ("VolumeDriver", json!(self.volume_driver)),
            ("Runtime", json!(self.runtime)),
            ("DeviceRequests", json!(gpus.collect::<Vec<_>>())),
            (
                "BlkioWeightDevice",
                json!(devices(&self.blkio_weight_device)),
            ),
            ("BlkioDeviceReadBps", json!(devices(&self.device_read_bps))),
            (
                "BlkioDeviceWriteBps",
                json!(devices(&self.device_write_bps)),
            ),
            (
                "BlkioDeviceReadIOps",
                json!(devices(&self.device_read_iops)),
            ),
            (
                "BlkioDeviceWriteIOps",
                json!(devices(&self.device_write_iops)),
            ),
            ("CpuRealtimePeriod", json!(self.cpu_rt_period)),
            ("CpuRealtimeRuntime", json!(self.cpu_rt_runtime)),
            ("CpuCount", json!(self.cpu_count)),
            ("CpuPercent", json!(self.cpu_percent)),
            (
                "IOMaximumBandwidth",
                json!(size("io-maxbandwidth", &self.io_maxbandwidth)?),
            ),
            ("IOMaximumIOps", json!(self.io_maxiops)),
            ("Isolation", json!(self.isolation)),
            (
                "KernelMemory",
                json!(size("kernel-memory", &self.kernel_memory)?),
            ),
            ("StorageOpt", json!(pairs(&self.storage_opt))),
            ("Links", json!(self.link)),
            ("VolumesFrom", json!(self.volumes_from)),
        ] {
            let empty = match &value {
                Value::Null => true,
                Value::Number(n) => n.as_i64() == Some(0),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                _ => false,
            };
            if !empty {
                host.insert(key.into(), value);
            }
        }
        Ok(())
    }

    /// Adds what was given to the first network's settings.
    pub fn endpoint(&self, endpoint: &mut Value) {
        if let Some(mac) = &self.mac_address {
            endpoint["MacAddress"] = json!(mac);
        }
        if let Some(ip) = &self.ip6 {
            endpoint["IPAMConfig"]["IPv6Address"] = json!(ip);
        }
        if !self.link_local_ip.is_empty() {
            endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(self.link_local_ip);
        }
    }
}
