//! `prune` of everything.

use super::{confirmed, filters};
use crate::client::{Client, query};
use crate::error::{CliError, Result};
use crate::format::out;
use crate::format::words::size;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

/// `prune` of containers and networks.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only some: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// Without asking
    #[arg(short, long)]
    pub force: bool,
}

/// `prune` of images and volumes.
#[derive(Debug, Args)]
pub struct PruneAll {
    /// Those with names too
    #[arg(short, long)]
    pub all: bool,
    #[command(flatten)]
    pub some: Prune,
}

/// `coracle system prune`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coracle system prune -a --filter until=24h")]
pub struct PruneSystem {
    /// Volumes without a name, too
    #[arg(long)]
    pub volumes: bool,
    #[command(flatten)]
    pub all: PruneAll,
}

/// What is pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Those that do not run.
    Containers,
    /// Those that no container is to join.
    Networks,
    /// Those that no container uses; without `all` only those without a name.
    Volumes { all: bool },
    /// Those without a container; without `all` only those without a name.
    Images { all: bool },
    /// What builds have kept; without `all` only what no image shares.
    BuildCache { all: bool },
}

impl What {
    fn warning(self) -> &'static str {
        match self {
            Self::Containers => "all containers that do not run",
            Self::Networks => "all networks that no container is to join",
            Self::Volumes { all: true } => "all volumes that no container uses",
            Self::Volumes { all: false } => "all volumes without a name that no container uses",
            Self::Images { all: true } => "all images without a container",
            Self::Images { all: false } => "all images without a name",
            Self::BuildCache { all: true } => "all build cache",
            Self::BuildCache { all: false } => "all build cache that no image shares",
        }
    }

    /// Path, the answer's key, and the title of what was removed.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Containers => ("containers", "ContainersDeleted", "Deleted Containers"),
            Self::Networks => ("networks", "NetworksDeleted", "Deleted Networks"),
            Self::Volumes { .. } => ("volumes", "VolumesDeleted", "Deleted Volumes"),
            Self::Images { .. } => ("images", "ImagesDeleted", "Deleted Images"),
            Self::BuildCache { .. } => ("build", "CachesDeleted", "Deleted build cache objects"),
        }
    }

    /// Asks for it; what was removed as text, and the bytes that this gave back, where the daemon says so.
    async fn go(self, client: &Client, list: &[String]) -> Result<(String, Option<f64>)> {
        let text = filters(list)?;
        let mut asked: Value = if text.is_empty() {
            json!({})
        } else {
            serde_json::from_str(&text)?
        };
        match self {
            Self::Volumes { all: true } => asked["all"] = json!(["true"]),
            Self::Images { all } => asked["dangling"] = json!([(!all).to_string()]),
            _ => {}
        }
        let (path, key, title) = self.names();
        let all = matches!(self, Self::BuildCache { all: true });
        let mut pairs = vec![("filters", asked.to_string())];
        pairs.extend(all.then(|| ("all", "1".to_owned())));
        let path = format!("/{path}/prune{}", query(&pairs));
        let answer = client.json(Method::POST, &path, None).await?;
        let removed = answer[key].as_array().into_iter().flatten();
        let lines: Vec<String> = removed
            .map(|v| match v {
                Value::Object(map) => map
                    .iter()
                    .map(|(k, v)| {
                        format!("{}: {}", k.to_lowercase(), v.as_str().unwrap_or_default())
                    })
                    .collect(),
                other => other.as_str().unwrap_or_default().to_owned(),
            })
            .collect();
        let text = if lines.is_empty() {
            String::new()
        } else {
            format!("{title}:\n{}\n\n", lines.join("\n"))
        };
        Ok((text, answer["SpaceReclaimed"].as_f64()))
    }
}

/// Prunes one kind.
pub async fn prune(client: &Client, what: What, args: &Prune) -> Result<()> {
    if !confirmed(args.force, what.warning())? {
        return Ok(());
    }
    let (text, bytes) = what.go(client, &args.filter).await?;
    out(&text)?;
    match bytes {
        Some(bytes) => out(&format!("Total reclaimed space: {}\n", size(bytes))),
        None => Ok(()),
    }
}

/// Prunes all kinds, containers first.
pub async fn system(client: &Client, args: &PruneSystem) -> Result<()> {
    let (all, some) = (args.all.all, &args.all.some);
    if args.volumes && some.filter.iter().any(|f| f.starts_with("until=")) {
        return Err(CliError::Usage(
            "the \"until\" filter is not supported with \"--volumes\"; prune volumes apart".into(),
        ));
    }
    let mut kinds = vec![What::Containers, What::Networks];
    if args.volumes {
        kinds.push(What::Volumes { all: false });
    }
    kinds.push(What::Images { all });
    // Nothing of it has a label.
    if some.filter.iter().all(|f| f.starts_with("until=")) {
        kinds.push(What::BuildCache { all });
    }
    let warnings: Vec<&str> = kinds.iter().map(|k| k.warning()).collect();
    if !confirmed(some.force, &format!("\n  - {}", warnings.join("\n  - ")))? {
        return Ok(());
    }
    let mut total = 0.0;
    for kind in kinds {
        let (text, bytes) = kind.go(client, &some.filter).await?;
        out(&text)?;
        total += bytes.unwrap_or(0.0);
    }
    out(&format!("Total reclaimed space: {}\n", size(total)))
}
