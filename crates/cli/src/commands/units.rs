//! Units.

use super::containers::{Logs, log_query, show};
use crate::client::{Client, escape};
use crate::error::{CliError, Result, each};
use crate::format::template::Template;
use crate::format::words::ago;
use crate::format::{Table, out, row};
use chrono::DateTime;
use coracle_unit::{SpecifierContext, UnitName, expand_ranges, load};
use hyper::Method;
use serde_json::{Value, json};
use std::path::Path;

/// `coracle unit`
#[derive(Debug, clap::Subcommand)]
pub enum Unit {
    /// Give units to the daemon without starting them
    #[command(after_help = "Example:\n  coracle unit submit web.container")]
    Submit {
        /// Files; NAME.d/*.conf beside them are drop-ins
        #[arg(required = true)]
        files: Vec<String>,
    },
    /// Start units; files are submitted first
    #[command(after_help = "Example:\n  coracle unit start 'guestbook@{1..3}'")]
    Start {
        /// Return at once
        #[arg(long)]
        no_block: bool,
        /// Names, ranges such as web@{1..3}, or files
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// Stop units and those that need them
    #[command(after_help = "Example:\n  coracle unit stop redis")]
    Stop {
        /// Return at once
        #[arg(long)]
        no_block: bool,
        /// Names or ranges
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// Stop units and start them with their present text
    #[command(after_help = "Example:\n  coracle unit restart redis")]
    Restart {
        /// Return at once
        #[arg(long)]
        no_block: bool,
        /// Names or ranges
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// Run the ExecReload= of services
    #[command(after_help = "Example:\n  coracle unit reload proxy.service")]
    Reload {
        /// Names or ranges
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// Where units stand, and why
    #[command(after_help = "Example:\n  coracle unit status redis")]
    Status {
        /// table or json
        #[arg(long)]
        format: Option<String>,
        /// Names or ranges; all if none is given
        units: Vec<String>,
    },
    /// Why a unit is where it is, or is nowhere
    #[command(after_help = "Example:\n  coracle unit explain redis")]
    Explain {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Name
        unit: String,
    },
    /// The text of units
    #[command(after_help = "Example:\n  coracle unit cat redis")]
    Cat {
        /// Names or ranges
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// List units
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  coracle unit list --format json"
    )]
    List {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Output of a unit
    #[command(after_help = "Example:\n  coracle unit logs -f redis")]
    Logs(Logs),
    /// Stop units and forget them; volumes stay
    #[command(after_help = "Example:\n  coracle unit destroy 'guestbook@{1..3}'")]
    Destroy {
        /// Names or ranges
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// Check unit files, without a daemon; tells every problem
    #[command(after_help = "Example:\n  coracle unit verify *.container")]
    Verify {
        /// Files
        #[arg(required = true)]
        files: Vec<String>,
    },
}

/// Names with their ranges written out.
fn names(list: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for name in list {
        all.extend(expand_ranges(name).map_err(|e| CliError::Usage(e.to_string()))?);
    }
    Ok(all)
}

/// A unit's file with its drop-ins: names and texts.
pub struct File {
    pub name: String,
    pub text: String,
    pub dropins: Vec<(String, String)>,
}

/// Reads a file, and NAME.d/*.conf beside it.
pub fn read(path: &str) -> Result<File> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::File {
            action: "reading",
            path,
            source,
        }
    };
    let file = Path::new(path);
    let text = std::fs::read_to_string(file).map_err(failed(file))?;
    let name = file
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or(path)
        .to_owned();
    let dir = file.with_file_name(format!("{name}.d"));
    let mut dropins = Vec::new();
    if let Ok(entries) = std::fs::read_dir(&dir) {
        let mut paths: Vec<_> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "conf"))
            .collect();
        paths.sort();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default()
                .to_owned();
            dropins.push((name, text));
        }
    }
    Ok(File {
        name,
        text,
        dropins,
    })
}

async fn submit(client: &Client, path: &str) -> Result<String> {
    let file = read(path)?;
    put(client, path, &file).await?;
    Ok(file.name)
}

/// Gives a unit to the daemon. Its problems are told as those of `path`.
pub async fn put(client: &Client, path: &str, file: &File) -> Result<()> {
    let dropins: Vec<Value> = file
        .dropins
        .iter()
        .map(|(f, t)| json!({ "file": f, "text": t }))
        .collect();
    let body = json!({ "text": file.text, "dropins": dropins });
    match client
        .json(
            Method::PUT,
            &format!("/v1/units/{}", escape(&file.name)),
            Some(&body),
        )
        .await
    {
        Ok(_) => Ok(()),
        // The problems speak for themselves.
        Err(CliError::Daemon {
            message,
            diagnostics,
            ..
        }) if diagnostics.is_array() => {
            Err(CliError::Usage(format!("{path} is refused:\n{message}")))
        }
        Err(error) => Err(error),
    }
}

/// Whether a file is meant, and no name.
pub fn is_file(text: &str) -> bool {
    text.contains('/') || Path::new(text).is_file()
}

async fn start(client: &Client, units: &[String], block: bool) -> Result<()> {
    let mut wanted = Vec::new();
    // All files first: units of one app name each other.
    for unit in units {
        if is_file(unit) {
            let name = submit(client, unit).await?;
            let parsed = UnitName::new(&name).map_err(|e| CliError::Usage(e.to_string()))?;
            if parsed.is_template() {
                out(&format!(
                    "{name} submitted; start an instance of it, such as {}\n",
                    parsed
                        .instantiate("1")
                        .map_or(name.clone(), |n| n.to_string())
                ))?;
            } else {
                wanted.push(name);
            }
        } else {
            wanted.extend(names(std::slice::from_ref(unit))?);
        }
    }
    act(client, &wanted, "start", block).await
}

async fn act(client: &Client, names: &[String], verb: &str, block: bool) -> Result<()> {
    each(names, async |name| {
        let path = format!("/v1/units/{}/{verb}?block={block}", escape(&name));
        let view = client.json(Method::POST, &path, None).await?;
        let text = |key: &str| view[key].as_str().unwrap_or_default().to_owned();
        out(&format!(
            "{}: {} ({})\n",
            text("name"),
            text("active"),
            text("reason")
        ))
    })
    .await
}

/// The table of units.
pub fn unit_rows(units: &[Value]) -> Table {
    let rows = units.iter().map(|u| {
        let text = |key: &str| u[key].as_str().unwrap_or_default().to_owned();
        let since = u["since"]
            .as_str()
            .and_then(|t| DateTime::parse_from_rfc3339(t).ok());
        let ports: Vec<&str> = u["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let (active, sub) = if u["template"] == true {
            ("template".to_owned(), String::new())
        } else {
            (text("active"), text("sub"))
        };
        row([
            ("Unit", json!(text("name"))),
            ("Active", json!(active)),
            ("Sub", json!(sub)),
            ("Health", json!(text("health"))),
            (
                "Since",
                json!(since.map(|t| ago(t.to_utc())).unwrap_or_default()),
            ),
            ("Ports", json!(ports.join(", "))),
            ("Desired", json!(text("desired"))),
            ("Reason", json!(text("reason"))),
            ("Description", json!(text("description"))),
            ("Container", json!(text("container"))),
            ("Machine", json!(text("machine"))),
            ("Restarts", u["restarts"].clone()),
        ])
    });
    let columns = vec![
        ("UNIT", "Unit"),
        ("ACTIVE", "Active"),
        ("SUB", "Sub"),
        ("HEALTH", "Health"),
        ("SINCE", "Since"),
        ("PORTS", "Ports"),
    ];
    Table {
        columns,
        rows: rows.collect(),
    }
}

async fn status(client: &Client, units: &[String], format: Option<&str>) -> Result<()> {
    if units.is_empty() {
        return super::system::status(client, format).await;
    }
    each(&names(units)?, async |name| {
        let unit = client.get(&format!("/v1/units/{}", escape(&name))).await?;
        match format {
            None | Some("table") => {}
            Some("json") => {
                return out(&format!("{}\n", serde_json::to_string_pretty(&unit)?));
            }
            Some(text) => {
                return out(&format!("{}\n", Template::parse(text)?.render(&unit)?));
            }
        }
        let text = |key: &str| unit[key].as_str().unwrap_or_default().to_owned();
        let since = unit["since"].as_str().unwrap_or("never");
        let mut lines = vec![
            format!("{} - {}", text("name"), text("description")),
            format!(
                "  Active:    {} ({}) since {since}",
                text("active"),
                text("sub")
            ),
            format!("  Asked:     {}", text("desired")),
            format!("  Reason:    {}", text("reason")),
        ];
        if !text("container").is_empty() {
            lines.push(format!("  Container: {}", text("container")));
        }
        if !text("health").is_empty() {
            lines.push(format!("  Health:    {}", text("health")));
        }
        if !text("address").is_empty() {
            lines.push(format!(
                "  Address:   {} ({})",
                text("address"),
                text("service")
            ));
        }
        for port in unit["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            lines.push(format!("  Port:      {port}"));
        }
        if unit["template"] == true {
            lines.extend(super::instances::lines(client, &text("name")).await?);
        }
        if unit["outdated"] == true {
            lines.push(format!(
                "  Note:      a newer text was submitted; `coracle unit restart {}` runs it",
                text("name")
            ));
        }
        out(&format!("{}\n", lines.join("\n")))
    })
    .await
}

/// Every problem of every file.
pub fn verify(files: &[String]) -> Result<()> {
    let mut wrong = 0;
    for path in files {
        let file = read(path)?;
        let name = match UnitName::new(&file.name) {
            Ok(name) => name,
            Err(error) => {
                eprintln!("{path}: {error}");
                wrong += 1;
                continue;
            }
        };
        if let Err(problems) = load(
            &name,
            &file.text,
            &file.dropins,
            &SpecifierContext::default(),
        ) {
            for mut problem in problems.0 {
                if problem.file == file.name {
                    problem.file.clone_from(path);
                }
                eprintln!("{problem}");
                wrong += 1;
            }
        }
    }
    match wrong {
        0 => Ok(()),
        _ => Err(CliError::Exit(1)),
    }
}

pub async fn unit(client: &Client, command: &Unit) -> Result<()> {
    match command {
        Unit::Submit { files } => {
            each(files, async |file| {
                let name = submit(client, &file).await?;
                out(&format!("{name} submitted\n"))
            })
            .await
        }
        Unit::Start { no_block, units } => start(client, units, !no_block).await,
        Unit::Stop { no_block, units } => act(client, &names(units)?, "stop", !no_block).await,
        Unit::Restart { no_block, units } => {
            act(client, &names(units)?, "restart", !no_block).await
        }
        Unit::Reload { units } => act(client, &names(units)?, "reload", true).await,
        Unit::Status { format, units } => status(client, units, format.as_deref()).await,
        Unit::Explain { format, unit } => {
            super::explain::explain(client, unit, format.as_deref()).await
        }
        Unit::Cat { units } => {
            each(&names(units)?, async |name| {
                let unit = client.get(&format!("/v1/units/{}", escape(&name))).await?;
                out(&format!(
                    "# {}\n{}",
                    unit["name"].as_str().unwrap_or_default(),
                    unit["text"].as_str().unwrap_or_default()
                ))?;
                for dropin in unit["dropins"].as_array().into_iter().flatten() {
                    out(&format!(
                        "\n# {}\n{}",
                        dropin["file"].as_str().unwrap_or_default(),
                        dropin["text"].as_str().unwrap_or_default()
                    ))?;
                }
                Ok(())
            })
            .await
        }
        Unit::List { format, quiet } => {
            let found = client.get("/v1/units").await?;
            let list = found.as_array().cloned().unwrap_or_default();
            if *quiet {
                return out(&list
                    .iter()
                    .map(|u| format!("{}\n", u["name"].as_str().unwrap_or_default()))
                    .collect::<String>());
            }
            unit_rows(&list).print(format.as_deref())
        }
        Unit::Logs(args) => {
            let answer = client
                .ask(
                    Method::GET,
                    &format!("/v1/units/{}/logs{}", escape(&args.name), log_query(args)),
                    None,
                )
                .await?;
            show(answer, false).await
        }
        Unit::Destroy { units } => {
            each(&names(units)?, async |name| {
                client
                    .ask(
                        Method::DELETE,
                        &format!("/v1/units/{}", escape(&name)),
                        None,
                    )
                    .await?;
                out(&format!("{name} destroyed\n"))?;
                super::instances::left(client, &name).await
            })
            .await
        }
        Unit::Verify { files } => verify(files),
    }
}
