//! Verbs on containers that are there.

use crate::client::{Client, escape, query};
use crate::error::{CliError, Result, each};
use crate::format::out;
use crate::terminal;
use hyper::Method;

/// Containers by name or id.
#[derive(Debug, clap::Args)]
pub struct Names {
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `stop` and `restart`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle stop -t 30 web")]
pub struct Stop {
    /// Signal instead of the container's own
    #[arg(short, long)]
    pub signal: Option<String>,
    /// Seconds until it is killed; -1 waits for ever
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    pub timeout: Option<i64>,
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `coracle start`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle start web")]
pub struct Start {
    /// Attach its output and send it our signals
    #[arg(short, long)]
    pub attach: bool,
    /// Attach stdin too
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave it
    #[arg(long, value_name = "KEYS", default_value = "")]
    pub detach_keys: String,
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `coracle kill`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle kill -s HUP web")]
pub struct Kill {
    /// Signal
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `coracle rm`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle rm -f web")]
pub struct Rm {
    /// Kill it if it runs
    #[arg(short, long)]
    pub force: bool,
    /// With volumes that have no name
    #[arg(short, long)]
    pub volumes: bool,
    /// A legacy link instead of a container
    #[arg(short, long, hide = true)]
    pub link: bool,
    /// Names or ids
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `coracle logs`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle logs -f --tail 20 web")]
pub struct Logs {
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(
        short = 'n',
        long,
        visible_alias = "lines",
        value_name = "N",
        default_value = "all"
    )]
    pub tail: String,
    /// Times before the lines
    #[arg(short, long)]
    pub timestamps: bool,
    /// From then on: RFC 3339, seconds since 1970, or an age such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// What the log options labels, env and tag added to each line
    #[arg(long)]
    pub details: bool,
    /// Name or id
    pub name: String,
}

pub async fn start(client: &Client, args: &Start) -> Result<()> {
    if args.attach || args.interactive {
        let [name] = args.names.as_slice() else {
            return Err(CliError::Usage(
                "you cannot start and attach multiple containers at once".into(),
            ));
        };
        return super::run::start_attached(client, name, args.interactive, &args.detach_keys).await;
    }
    each(&args.names, async |name| {
        client
            .post(&format!("/containers/{}/start", escape(&name)), None)
            .await?;
        out(&format!("{name}\n"))
    })
    .await
}

/// `stop`, `restart`: the verb is the path's.
pub async fn stop(client: &Client, args: &Stop, verb: &str) -> Result<()> {
    let asked = query(&[
        ("t", args.timeout.map(|t| t.to_string()).unwrap_or_default()),
        ("signal", args.signal.clone().unwrap_or_default()),
    ]);
    each(&args.names, async |name| {
        client
            .post(
                &format!("/containers/{}/{verb}{asked}", escape(&name)),
                None,
            )
            .await?;
        out(&format!("{name}\n"))
    })
    .await
}

pub async fn kill(client: &Client, args: &Kill) -> Result<()> {
    let asked = query(&[("signal", args.signal.clone())]);
    each(&args.names, async |name| {
        client
            .post(&format!("/containers/{}/kill{asked}", escape(&name)), None)
            .await?;
        out(&format!("{name}\n"))
    })
    .await
}

/// `pause`, `unpause`.
pub async fn plain(client: &Client, names: &[String], verb: &str) -> Result<()> {
    each(names, async |name| {
        client
            .post(&format!("/containers/{}/{verb}", escape(&name)), None)
            .await?;
        out(&format!("{name}\n"))
    })
    .await
}

pub async fn rm(client: &Client, args: &Rm) -> Result<()> {
    let flag = |on: bool| if on { "1".to_owned() } else { String::new() };
    let asked = query(&[
        ("force", flag(args.force)),
        ("v", flag(args.volumes)),
        ("link", flag(args.link)),
    ]);
    // All are asked at once; what is said about them keeps their order.
    let mut asking: Vec<_> = Vec::new();
    for name in &args.names {
        let client = client.clone();
        let path = format!("/containers/{}{asked}", escape(name));
        let task = async move { client.ask(Method::DELETE, &path, None).await.map(drop) };
        asking.push(tokio::spawn(task));
    }
    let mut asking = asking.into_iter();
    each(&args.names, |name| {
        let task = asking.next();
        let force = args.force;
        async move {
            let answer = match task {
                Some(task) => task.await.map_err(std::io::Error::other)?,
                None => return Ok(()),
            };
            match answer {
                Ok(()) => {}
                // Forced, what is not there is as wanted.
                Err(error) if force && error.is_not_found() => {
                    eprintln!("{error}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            out(&format!("{name}\n"))
        }
    })
    .await
}

pub async fn wait(client: &Client, names: &[String]) -> Result<()> {
    each(names, async |name| {
        let waited = client
            .json(
                Method::POST,
                &format!("/containers/{}/wait", escape(&name)),
                None,
            )
            .await?;
        out(&format!("{}\n", waited["StatusCode"]))
    })
    .await
}

pub async fn rename(client: &Client, from: &str, to: &str) -> Result<()> {
    let asked = query(&[("name", to.to_owned())]);
    client
        .post(&format!("/containers/{}/rename{asked}", escape(from)), None)
        .await
}

/// A moment as the API takes it: an age such as `10m` becomes seconds since 1970.
pub fn moment(text: &str) -> String {
    match crate::run_args::nanoseconds("since", text) {
        Ok(age) if text.ends_with(|c: char| c.is_ascii_alphabetic()) => {
            (chrono::Utc::now().timestamp() - age / 1_000_000_000).to_string()
        }
        _ => text.to_owned(),
    }
}

/// What a log request asks.
pub fn log_query(args: &Logs) -> String {
    let flag = |on: bool| if on { "1".to_owned() } else { String::new() };
    query(&[
        ("stdout", "1".into()),
        ("stderr", "1".into()),
        ("follow", flag(args.follow)),
        ("timestamps", flag(args.timestamps)),
        ("details", flag(args.details)),
        ("tail", args.tail.clone()),
        (
            "since",
            args.since.as_deref().map(moment).unwrap_or_default(),
        ),
        (
            "until",
            args.until.as_deref().map(moment).unwrap_or_default(),
        ),
    ])
}

pub async fn logs(client: &Client, args: &Logs) -> Result<()> {
    let name = escape(&args.name);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    let answer = client
        .ask(
            Method::GET,
            &format!("/containers/{name}/logs{}", log_query(args)),
            None,
        )
        .await?;
    show(answer, found["Config"]["Tty"] == true).await
}

/// Writes a log as it comes.
pub async fn show(answer: hyper::Response<hyper::body::Incoming>, terminal: bool) -> Result<()> {
    use http_body_util::BodyExt;
    let body = answer.into_body().map_err(std::io::Error::other);
    let stream = http_body_util::BodyStream::new(body);
    let stream = futures_util::StreamExt::filter_map(stream, |frame| {
        std::future::ready(frame.map(|f| f.into_data().ok()).transpose())
    });
    let mut reader = tokio_util::io::StreamReader::new(Box::pin(stream));
    terminal::output(&mut reader, terminal).await.map(drop)
}
