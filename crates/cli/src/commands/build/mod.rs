//! `build`: the context goes to the daemon as an archive, what the build says comes back.

mod context;
mod told;

use super::copy::{file_error, usage};
use super::{confirmed, filters};
use crate::client::{Client, JsonLines, check, escape, query};
use crate::error::{CliError, Result};
use crate::format::out;
use crate::format::words::size;
use crate::run_args::{bytes, ulimit};
use clap::{Args, Subcommand};
use context::{Sent, sent};
use hyper::{Method, header};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use told::{credentials, secrets};

/// `coracle build`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle build -t app:1 .\n  coracle build --secret id=token,src=token.txt --target test .\n  coracle build -t tool - < Dockerfile"
)]
pub struct Build {
    /// Name of the image; may be given more than once
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Dockerfile [default: PATH/Dockerfile]; - for stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Build argument; without a value, that of the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Do every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Ask for base images again, also if they are here
    #[arg(long)]
    pub pull: bool,
    /// Platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Say only the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// File for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub secret: Vec<String>,
    /// Network of RUN: default, none, host, or a network's name
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// Line for /etc/hosts of RUN
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Memory of RUN, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Memory and swap of RUN; -1 for no limit of swap
    #[arg(long, value_name = "SIZE")]
    pub memory_swap: Option<String>,
    /// Weight of RUN's processor time
    #[arg(long, value_name = "WEIGHT")]
    pub cpu_shares: Option<i64>,
    /// Length of a scheduler period in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_period: Option<i64>,
    /// Time in a period in microseconds
    #[arg(long, value_name = "TIME")]
    pub cpu_quota: Option<i64>,
    /// Processors of RUN, such as 0-2,4
    #[arg(long, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes of RUN
    #[arg(long, value_name = "NODES")]
    pub cpuset_mems: Option<String>,
    /// Size of /dev/shm of RUN
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Resource limit of RUN
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// For docker's sake: containers of RUN are always removed
    #[arg(long)]
    pub rm: bool,
    /// As --rm
    #[arg(long)]
    pub force_rm: bool,
    /// For docker's sake: the cache is keyed by content
    #[arg(long, value_name = "IMAGE")]
    pub cache_from: Vec<String>,
    /// For docker's sake: images are known by their digests
    #[arg(long)]
    pub disable_content_trust: bool,
    /// For docker's sake: the socket is on this machine
    #[arg(long)]
    pub compress: bool,
    #[arg(long, hide = true)]
    pub squash: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    pub isolation: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    #[arg(long, hide = true, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// For docker's sake: progress is always lines
    #[arg(long, value_name = "auto|plain|tty", hide = true)]
    pub progress: Option<String>,
    /// Directory; address of an archive or Dockerfile; - for an archive or Dockerfile on stdin
    #[arg(value_name = "PATH | URL | -")]
    pub context: String,
}

/// `coracle builder`
#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Box<Build>),
    /// Remove what builds have kept and no image has
    #[command(after_help = "Example:\n  coracle builder prune -f --filter until=24h")]
    Prune(PruneCache),
}

/// `coracle builder prune`
#[derive(Debug, Args)]
pub struct PruneCache {
    /// What images have as well, and directories of RUN --mount=type=cache
    #[arg(short, long)]
    pub all: bool,
    /// Only some: until=TIME (not used for so long)
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Without asking
    #[arg(short, long)]
    pub force: bool,
    /// Keep so much of what was used last
    #[arg(long, value_name = "SIZE")]
    pub keep_storage: Option<String>,
}

/// Verbs of `builder`.
pub async fn builder(client: &Client, command: &BuilderCommand) -> Result<()> {
    match command {
        BuilderCommand::Build(args) => build(client, args).await,
        BuilderCommand::Prune(args) => prune(client, args).await,
    }
}

async fn prune(client: &Client, args: &PruneCache) -> Result<()> {
    let warning = if args.all {
        "everything that builds have kept"
    } else {
        "what builds have kept and no image has"
    };
    if !confirmed(args.force, warning)? {
        return Ok(());
    }
    let keep = args.keep_storage.as_ref().map(|t| bytes("keep-storage", t));
    let asked = query(&[
        ("all", if args.all { "1".into() } else { String::new() }),
        ("filters", filters(&args.filter)?),
        (
            "keep-storage",
            keep.transpose()?
                .map_or_else(String::new, |k| k.to_string()),
        ),
    ]);
    let answer = client
        .json(Method::POST, &format!("/build/prune{asked}"), None)
        .await?;
    let gone: Vec<&str> = answer["CachesDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !gone.is_empty() {
        out(&format!(
            "Deleted build cache objects:\n{}\n\n",
            gone.join("\n")
        ))?;
    }
    let bytes = answer["SpaceReclaimed"].as_f64().unwrap_or(0.0);
    out(&format!("Total reclaimed space: {}\n", size(bytes)))
}

/// Builds and shows how it goes.
pub async fn build(client: &Client, args: &Build) -> Result<()> {
    let sent = sent(args)?;
    let build_args = build_args(&args.build_arg);
    let mut headers = vec![(header::CONTENT_TYPE, "application/x-tar".to_owned())];
    headers.extend(credentials(sent.text.as_deref(), &build_args)?);
    headers.extend(secrets(&args.secret)?);
    let path = format!("/build{}", asked(args, &sent, &build_args)?);
    let answer = client
        .send(Method::POST, &path, sent.body, &headers)
        .await?;
    let mut lines = JsonLines::new(check(answer).await?);
    let mut id = None;
    while let Some(line) = lines.next().await? {
        if let Some(error) = line["error"].as_str() {
            std::io::stdout().flush()?;
            // Without docker's words before it: the message begins with file and line.
            return Err(CliError::Usage(error.to_owned()));
        }
        if let Some(found) = line["aux"]["ID"].as_str() {
            id = Some(found.to_owned());
        }
        if let Some(text) = line["stream"].as_str() {
            out(text)?;
        }
    }
    let id = id.ok_or_else(|| usage("the daemon ended the build without an image; see its log"))?;
    if let Some(path) = &args.iidfile {
        fs::write(path, id).map_err(file_error("writing", path))?;
    }
    Ok(())
}

fn build_args(list: &[String]) -> BTreeMap<String, Option<String>> {
    let one = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.clone(), std::env::var(text).ok()),
    };
    let mut all: BTreeMap<String, Option<String>> = list.iter().map(one).collect();
    // Whoever has it in the environment wants the same bytes every time, as buildx takes it.
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        all.entry("SOURCE_DATE_EPOCH".into()).or_insert(Some(epoch));
    }
    all
}

fn asked(
    args: &Build,
    sent: &Sent,
    build_args: &BTreeMap<String, Option<String>>,
) -> Result<String> {
    let flag = |on: bool| if on { "1" } else { "" }.to_owned();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let number = |n: Option<i64>| n.map_or_else(String::new, |n| n.to_string());
    let amount = |name: &str, t: &Option<String>| match t {
        Some(text) => bytes(name, text).map(|n| n.to_string()),
        None => Ok(String::new()),
    };
    let mut labels = Map::new();
    for label in &args.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), json!(value));
    }
    let ulimits: Vec<Value> = args
        .ulimit
        .iter()
        .map(|u| ulimit(u))
        .collect::<Result<_>>()?;
    let some = |v: Value, empty: bool| if empty { String::new() } else { v.to_string() };
    let mut asked = query(&[
        ("dockerfile", sent.dockerfile.clone()),
        ("remote", text(&sent.remote)),
        ("buildargs", some(json!(build_args), build_args.is_empty())),
        ("labels", some(json!(labels), labels.is_empty())),
        ("target", text(&args.target)),
        ("nocache", flag(args.no_cache)),
        ("pull", flag(args.pull)),
        ("platform", text(&args.platform)),
        ("q", flag(args.quiet)),
        ("networkmode", text(&args.network)),
        ("memory", amount("memory", &args.memory)?),
        ("memswap", amount("memory-swap", &args.memory_swap)?),
        ("cpushares", number(args.cpu_shares)),
        ("cpuperiod", number(args.cpu_period)),
        ("cpuquota", number(args.cpu_quota)),
        ("cpusetcpus", text(&args.cpuset_cpus)),
        ("cpusetmems", text(&args.cpuset_mems)),
        ("shmsize", amount("shm-size", &args.shm_size)?),
        ("extrahosts", args.add_host.join(",")),
        ("squash", flag(args.squash)),
        ("isolation", text(&args.isolation)),
        ("cgroupparent", text(&args.cgroup_parent)),
        ("securityopt", args.security_opt.join(",")),
        ("ulimits", some(json!(ulimits), ulimits.is_empty())),
    ]);
    for tag in &args.tag {
        asked.push(if asked.is_empty() { '?' } else { '&' });
        asked.push_str(&format!("t={}", escape(tag)));
    }
    Ok(asked)
}
