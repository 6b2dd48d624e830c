//! The flags of `run` and `create`; [`request`] makes of them what the daemon is asked.

mod more;
mod request;
pub(crate) mod values;

pub use more::MoreArgs;
pub use request::restart_policy;
pub use values::{bytes, env_file, environment, nanoseconds, pairs, ulimit};

/// Flags that `run` and `create` share; names and meanings are docker's.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ContainerArgs {
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Allocate a pseudo-terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// Set a variable: NAME=value, or NAME to take ours
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// Mount a volume or directory: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "SPEC")]
    pub volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC")]
    pub mount: Vec<String>,
    /// Mount memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "SPEC")]
    pub tmpfs: Vec<String>,
    /// Publish a port: [[ADDRESS:]HOST:]CONTAINER[/udp]
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,
    /// Publish every exposed port to a free one
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Expose a port
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// Network: a name, host, none or container:NAME
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Further name on the network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// IPv4 address on the network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Domain name inside
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Line of /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// User, by name or number: USER[:GROUP]
    #[arg(short, long)]
    pub user: Option<String>,
    /// Supplementary group
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Program instead of the image's; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Label: key=value
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<String>,
    /// Memory limit, such as 512m
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 is unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES")]
    pub memory_reservation: Option<String>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// Relative weight of processor time
    #[arg(short, long, value_name = "WEIGHT")]
    pub cpu_shares: Option<i64>,
    /// Processors allowed: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Processes at most
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Resource limit: name=soft[:hard]
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Root filesystem read-only
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Every capability and device
    #[arg(long)]
    pub privileged: bool,
    /// no-new-privileges, seccomp=unconfined|FILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Give a device of the host: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// Kernel parameter: name=value
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// A small init as process 1
    #[arg(long)]
    pub init: bool,
    /// no, always, unless-stopped or on-failure[:MAX]
    #[arg(long, value_name = "POLICY")]
    pub restart: Option<String>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds until it is killed
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub stop_timeout: Option<i64>,
    /// Health test, run by a shell inside
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between tests
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,
    /// Time that one test may take
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    pub health_retries: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME")]
    pub health_start_period: Option<String>,
    /// No health test, not even the image's
    #[arg(long)]
    pub no_healthcheck: bool,
    /// json-file or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// max-size=…, max-file=…
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// host: processes of the machine
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// private, host or none
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// host: host name of the machine
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// private or host
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// host: users of the machine
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// Parent of its control group
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Switch the OOM killer off
    #[arg(long)]
    pub oom_kill_disable: bool,
    /// -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i64>,
    /// always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub pull: String,
    /// Platform of the image, such as linux/amd64
    #[arg(long)]
    pub platform: Option<String>,
    /// Write the container's id to a file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<String>,
    #[command(flatten)]
    pub more: MoreArgs,
    /// Image, then the command and arguments instead of the image's
    // One list: after the image nothing is a flag of ours, even if it looks like one.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND] [ARG...]"
    )]
    pub rest: Vec<String>,
}
