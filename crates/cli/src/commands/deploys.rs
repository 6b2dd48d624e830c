//! Deploys: `deploy`, `plan`, `rollback`, `resume`, `abort`, and what `pause`, `history` and `diff` say of services.

use super::units::{File, is_file, put, read};
use crate::client::{Client, escape};
use crate::error::{CliError, Result, each};
use crate::format::words::ago;
use crate::format::{Table, out, row};
use chrono::DateTime;
use coracle_unit::{UnitKind, UnitName};
use hyper::Method;
use serde_json::{Value, json};
use similar::TextDiff;
use std::time::{Duration, Instant};

/// How often is asked how far a deploy is.
const LOOK: Duration = Duration::from_millis(100);
/// How long a leader is waited for that takes over.
const PATIENCE: Duration = Duration::from_secs(60);

/// `coracle deploy`, `coracle plan`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coracle deploy web@.container --scale 3\n  coracle deploy web --set Image=web:2 --message 'faster start'\n  coracle plan web --scale 5"
)]
pub struct Deploy {
    /// Files, or names of units that are there
    #[arg(required = true, value_name = "FILE|NAME")]
    units: Vec<String>,
    /// Instances of a template
    #[arg(long, value_name = "N")]
    scale: Option<u32>,
    /// Set a key over the file: [SECTION.]KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Replace so many, then wait for `coracle resume`
    #[arg(long, value_name = "N")]
    canary: Option<u32>,
    /// start-first or stop-first [default: Strategy= of the unit, or what it allows]
    #[arg(long)]
    strategy: Option<String>,
    /// Seconds that a batch may take to be healthy
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    how: How,
}

/// Flags of all that replaces what runs.
#[derive(Debug, clap::Args)]
struct How {
    /// Units that are replaced at a time [default: Batch= of the unit, or 1]
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// Why, for the history
    #[arg(short, long, default_value = "")]
    message: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Return once the deploy is written down
    #[arg(long)]
    no_block: bool,
}

/// `coracle rollback`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  coracle rollback web\n  coracle rollback web 3")]
pub struct Rollback {
    /// Service
    name: String,
    /// Revision [default: the one that ran before]
    revision: Option<u64>,
    #[command(flatten)]
    how: How,
}

/// Names of services.
#[derive(Debug, clap::Args)]
pub struct Services {
    /// Services
    #[arg(required = true)]
    names: Vec<String>,
}

fn path(name: &str, verb: &str) -> String {
    format!("/v1/services/{}{verb}", escape(name))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Who asks, for the history: `ann@laptop`.
fn who() -> String {
    let user = ["SUDO_USER", "USER", "LOGNAME"];
    let user = user.into_iter().find_map(|key| std::env::var(key).ok());
    let user = user.filter(|u| !u.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{user}@{}", host.trim())
}

/// Section, key and value of what is set over a file.
fn set(kind: UnitKind, asked: &str) -> Result<(String, String, String)> {
    let bad = |why: &str| {
        CliError::Usage(format!(
            "--set {asked}: {why}; write KEY=VALUE or SECTION.KEY=VALUE"
        ))
    };
    let (key, value) = asked.split_once('=').ok_or_else(|| bad("there is no ="))?;
    if value.contains('\n') || key.contains('\n') {
        return Err(bad("a value is one line"));
    }
    let (section, key) = match key.rsplit_once('.') {
        Some((section, key)) => (section.to_owned(), key),
        None => {
            let section = coracle_unit::section_of(kind, key);
            let section = section.ok_or_else(|| bad("no section of the unit has that key"))?;
            (section.to_owned(), key)
        }
    };
    Ok((section, key.to_owned(), value.to_owned()))
}

fn body(args: &Deploy, kind: UnitKind, file: Option<&File>) -> Result<Value> {
    let set = args.set.iter().map(|s| set(kind, s));
    let set = set.collect::<Result<Vec<_>>>()?;
    let mut body = json!({
        "set": set, "scale": args.scale, "batch": args.how.batch, "canary": args.canary,
        "strategy": args.strategy, "timeout": args.timeout, "who": who(),
        "message": args.how.message, "dry_run": args.how.dry_run,
    });
    if let Some(file) = file {
        let dropins = file.dropins.iter();
        let dropins: Vec<_> = dropins
            .map(|(f, t)| json!({ "file": f, "text": t }))
            .collect();
        body["text"] = json!(file.text);
        body["dropins"] = json!(dropins);
    }
    Ok(body)
}

/// Deploys one unit after the other. What follows one that fails is not begun.
pub async fn deploy(client: &Client, args: &Deploy, dry_run: bool) -> Result<()> {
    let dry_run = dry_run || args.how.dry_run;
    let mut units = Vec::new();
    // Files that others name come first.
    for unit in &args.units {
        if !is_file(unit) {
            // Which sections it has is known of what is there.
            let there = client.get(&format!("/v1/units/{}", escape(unit))).await;
            let name = there
                .ok()
                .and_then(|u| UnitName::new(u["name"].as_str()?).ok());
            let kind = name.map_or(UnitKind::Container, |n| n.kind());
            units.push((unit.clone(), kind, None));
            continue;
        }
        let file = read(unit)?;
        let name = UnitName::new(&file.name).map_err(|e| CliError::Usage(e.to_string()))?;
        if matches!(name.kind(), UnitKind::Volume | UnitKind::Network) {
            if !dry_run {
                put(client, unit, &file).await?;
                out(&format!("{name} submitted\n"))?;
            }
            continue;
        }
        units.push((file.name.clone(), name.kind(), Some((unit, file))));
    }
    let all: Vec<String> = units.iter().map(|(name, _, _)| name.clone()).collect();
    for (at, (name, kind, file)) in units.into_iter().enumerate() {
        let kind = UnitName::new(&name).map_or(kind, |n| n.kind());
        let mut body = body(args, kind, file.as_ref().map(|(_, file)| file))?;
        body["dry_run"] = json!(dry_run);
        let done = one(client, &name, "/deploy", &body, !args.how.no_block).await;
        let done = done.map_err(|error| match (error, &file) {
            (
                CliError::Daemon {
                    message,
                    diagnostics,
                    ..
                },
                Some((path, _)),
            ) if diagnostics.is_array() => {
                CliError::Usage(format!("{path} is refused:\n{message}"))
            }
            (error, _) => error,
        });
        if let Err(error) = done {
            let rest = all.get(at + 1..).unwrap_or_default();
            if !rest.is_empty() {
                eprintln!("not begun: {}", rest.join(", "));
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Goes back.
pub async fn rollback(client: &Client, args: &Rollback) -> Result<()> {
    let body = json!({
        "revision": args.revision, "batch": args.how.batch, "who": who(),
        "message": args.how.message, "dry_run": args.how.dry_run,
    });
    one(client, &args.name, "/rollback", &body, !args.how.no_block).await
}

async fn one(client: &Client, name: &str, verb: &str, body: &Value, block: bool) -> Result<()> {
    let planned = client
        .json(Method::POST, &path(name, verb), Some(body))
        .await?;
    let unit = text(&planned, "unit").to_owned();
    let number = planned["deploy"].as_u64();
    if body["dry_run"] == true {
        return show_plan(&planned);
    }
    let Some(number) = number else {
        return out(&format!(
            "{unit}: nothing to do, revision {} runs\n",
            planned["revision"]
        ));
    };
    out(&format!(
        "{unit}: deploy {number}, revision {}\n",
        planned["revision"]
    ))?;
    if !block {
        return Ok(());
    }
    tokio::select! {
        done = follow(client, &unit, number) => done,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("the deploy goes on; `coracle history {unit}` says how far it is, `coracle abort {unit}` takes it back");
            Err(CliError::Exit(130))
        }
    }
}

fn show_plan(planned: &Value) -> Result<()> {
    let whole = |text: &Value| {
        let mut all = text["text"].as_str().unwrap_or_default().to_owned();
        for dropin in text["dropins"].as_array().into_iter().flatten() {
            let (file, text) = (&dropin["file"], &dropin["text"]);
            all += &format!(
                "\n# {}\n{}",
                file.as_str().unwrap_or_default(),
                text.as_str().unwrap_or_default()
            );
        }
        all
    };
    let unit = text(planned, "unit");
    let (before, after) = (&planned["before"], &planned["after"]);
    let name = |side: &Value| match side["revision"].as_u64() {
        Some(number) => format!("{unit} revision {number}"),
        None => "nothing".to_owned(),
    };
    let mut lines = String::new();
    if let Some(image) = planned["image"].as_str() {
        lines += &format!("{unit}: Image= stands for {image}\n");
    }
    let diff = between(&name(before), &whole(before), &name(after), &whole(after));
    lines += if diff.is_empty() {
        "the text is the same\n"
    } else {
        &diff
    };
    for step in planned["steps"].as_array().into_iter().flatten() {
        lines += &format!("  {}\n", step.as_str().unwrap_or_default());
    }
    out(&lines)
}

/// What differs, in diff's unified form.
fn between(from: &str, before: &str, to: &str, after: &str) -> String {
    let diff = TextDiff::from_lines(before, after);
    diff.unified_diff().header(from, to).to_string()
}

async fn follow(client: &Client, unit: &str, number: u64) -> Result<()> {
    let mut told = 0;
    loop {
        let deploy = look(client, unit).await?;
        if deploy["number"].as_u64() != Some(number) {
            return Err(CliError::Usage(format!(
                "{unit}: deploy {} has followed; `coracle history {unit}` says what became of deploy {number}",
                deploy["number"]
            )));
        }
        let lines = deploy["log"].as_array().into_iter().flatten();
        for line in lines {
            let number = line["number"].as_u64().unwrap_or_default();
            if number > told {
                out(&format!("  {}\n", text(line, "text")))?;
                told = number;
            }
        }
        match text(&deploy, "stage") {
            "done" => return Ok(()),
            // That is what was asked.
            "restored" if deploy["report"]["step"] == "abort" => return Ok(()),
            "restored" => return Err(failed(unit, &deploy)),
            _ => {}
        }
        if let Some(why) = deploy["paused"].as_str() {
            return out(&format!(
                "{unit}: paused ({why}); `coracle resume {unit}` goes on, `coracle abort {unit}` goes back\n"
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look(client: &Client, unit: &str) -> Result<Value> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match client.get(&path(unit, "")).await {
            Err(CliError::Daemon { status: 503, .. }) if Instant::now() < give_up => {
                tokio::time::sleep(LOOK).await;
            }
            answer => return answer,
        }
    }
}

/// The report of a deploy that went back.
fn failed(unit: &str, deploy: &Value) -> CliError {
    let report = &deploy["report"];
    let mut lines = format!(
        "{unit}: deploy {} failed: {}\n  step:   {}\n  unit:   {}\n  reason: {}\n",
        deploy["number"],
        deploy["log"]
            .as_array()
            .and_then(|l| l.last())
            .map_or("", |last| text(last, "text")),
        text(report, "step"),
        text(report, "unit"),
        text(report, "reason")
    );
    if let Some(code) = report["code"].as_i64() {
        lines += &format!("  code:   {code}\n");
    }
    let said: Vec<&str> = report["last_lines"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !said.is_empty() {
        lines += "  its last lines:\n";
        said.iter()
            .for_each(|line| lines += &format!("    {line}\n"));
    }
    eprint!("{lines}");
    CliError::Exit(1)
}

/// Goes on, or back.
pub async fn tell(client: &Client, args: &Services, verb: &str) -> Result<()> {
    let told = std::cell::RefCell::new(Vec::new());
    // All are told before one is followed; who refuses is not followed.
    let asked = each(&args.names, async |name| {
        let deploy = tell_one(client, &name, verb).await?;
        let number = deploy["number"].as_u64().unwrap_or_default();
        let unit = text(&deploy, "unit").to_owned();
        let line = format!("{unit}: deploy {number}\n");
        told.borrow_mut().push((unit, number));
        out(&line)
    })
    .await;
    let mut failed = asked;
    for (unit, number) in told.into_inner() {
        let followed = follow(client, &unit, number).await;
        failed = failed.and(followed);
    }
    failed
}

async fn tell_one(client: &Client, name: &str, verb: &str) -> Result<Value> {
    let body = json!({ "who": who() });
    client
        .json(Method::POST, &path(name, &format!("/{verb}")), Some(&body))
        .await
}

/// Pauses services that are being deployed, and freezes containers.
pub async fn pause(client: &Client, names: &[String]) -> Result<()> {
    each(names, async |name| {
        let deploy = match client.get(&path(&name, "")).await {
            Ok(deploy) => Some(deploy),
            Err(CliError::Daemon { status, .. }) if status < 500 => None,
            Err(error) => return Err(error),
        };
        let open = deploy.filter(|d| matches!(text(d, "stage"), "forward" | "back"));
        let Some(open) = open else {
            return super::containers::plain(client, std::slice::from_ref(&name), "pause").await;
        };
        let container = format!("/containers/{}/json", escape(&name));
        let found = client.get(&container).await.unwrap_or_default();
        let of = found["Config"]["Labels"]["coracle.unit"].as_str();
        if !found.is_null() && of != open["unit"].as_str() {
            return Err(CliError::Usage(format!(
                "{name} is a container, and a service that is being deployed; write {} for the deploy, or the container's id",
                text(&open, "unit")
            )));
        }
        let told = tell_one(client, &name, "pause").await?;
        out(&format!(
            "{}: deploy {} is paused; `coracle resume {name}` goes on\n",
            text(&told, "unit"),
            told["number"]
        ))
    })
    .await
}

/// An image's name with the beginning of its digest.
fn short(image: &str) -> String {
    match image.rsplit_once("sha256:") {
        Some((name, digest)) => {
            let digest = digest.get(..12).unwrap_or(digest);
            format!("{name}{digest}")
        }
        None => image.to_owned(),
    }
}

/// What of a service was deployed.
pub async fn history(client: &Client, name: &str, format: Option<&str>) -> Result<()> {
    let found = client.get(&path(name, "/history")).await?;
    if format == Some("json") {
        return out(&format!("{}\n", serde_json::to_string_pretty(&found)?));
    }
    let rows = found["revisions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| {
            let created = DateTime::parse_from_rfc3339(text(r, "created")).ok();
            row([
                ("Revision", r["revision"].clone()),
                (
                    "Created",
                    json!(created.map(|t| ago(t.to_utc())).unwrap_or_default()),
                ),
                ("Who", r["who"].clone()),
                ("Image", r["image"].clone()),
                ("ShortImage", json!(short(text(r, "image")))),
                ("Outcome", r["outcome"].clone()),
                ("Message", r["message"].clone()),
            ])
        });
    let columns = vec![
        ("REVISION", "Revision"),
        ("CREATED", "Created"),
        ("WHO", "Who"),
        ("IMAGE", "ShortImage"),
        ("OUTCOME", "Outcome"),
        ("MESSAGE", "Message"),
    ];
    Table {
        columns,
        rows: rows.collect(),
    }
    .print(format)
}

/// What differs between two revisions of a service; the second is the present one if only one is given.
pub async fn diff(client: &Client, name: &str, revisions: &[u64]) -> Result<()> {
    let (from, to) = match revisions {
        [from, to] => (*from, *to),
        [from] => {
            let history = client.get(&path(name, "/history")).await?;
            (*from, history["present"].as_u64().unwrap_or_default())
        }
        _ => return Ok(()),
    };
    let read = async |number: u64| {
        let found = client
            .get(&path(name, &format!("/revisions/{number}")))
            .await?;
        let mut all = text(&found, "text").to_owned();
        for dropin in found["dropins"].as_array().into_iter().flatten() {
            all += &format!("\n# {}\n{}", text(dropin, "file"), text(dropin, "text"));
        }
        Ok::<_, CliError>(all)
    };
    let label = |number: u64| format!("{name} revision {number}");
    let (before, after) = (read(from).await?, read(to).await?);
    out(&between(&label(from), &before, &label(to), &after))
}
