//! `run`, `create`, `exec`, `attach`, `start -a`.

use crate::client::{Client, escape, query};
use crate::error::{CliError, Result};
use crate::format::out;
use crate::run_args::{ContainerArgs, env_file, environment};
use crate::terminal::{self, Raw};
use hyper::Method;
use serde_json::{Value, json};
use std::io;

/// `coracle run`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle run -d --name web -p 8080:80 nginx")]
pub struct Run {
    /// Leave it in the background and print its id
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave an attached terminal
    #[arg(long, value_name = "KEYS", default_value = "")]
    pub detach_keys: String,
    /// Do not send our signals to it
    #[arg(long = "sig-proxy", value_name = "BOOL", default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    #[command(flatten)]
    pub container: ContainerArgs,
}

/// `coracle exec`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle exec -it web sh")]
pub struct Exec {
    /// Leave it in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Allocate a pseudo-terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Set variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// User instead of the container's
    #[arg(short, long)]
    pub user: Option<String>,
    /// Directory instead of the container's
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// With every capability
    #[arg(long)]
    pub privileged: bool,
    /// Keys that leave it
    #[arg(long, value_name = "KEYS", default_value = "")]
    pub detach_keys: String,
    /// Container
    pub container: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// `coracle attach`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle attach web")]
pub struct Attach {
    /// Do not attach stdin
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that leave it
    #[arg(long, value_name = "KEYS", default_value = "")]
    pub detach_keys: String,
    /// Pass our signals on
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub sig_proxy: bool,
    /// Container
    pub container: String,
}

/// Makes a container, pulling its image if that is missing and may be pulled.
pub async fn create(client: &Client, args: &ContainerArgs, attached: bool) -> Result<String> {
    let body = args.request(attached)?;
    let platform = args.platform.clone().unwrap_or_default();
    let told = if args.more.quiet {
        super::registries::Told::Errors
    } else {
        super::registries::Told::Stderr
    };
    match args.pull.as_str() {
        "always" => super::registries::pull_image(client, args.image(), &platform, told).await?,
        "missing" | "never" => {}
        other => {
            return Err(CliError::Usage(format!(
                "invalid value \"{other}\" for --pull: write always, missing or never"
            )));
        }
    }
    let name = args.name.clone().unwrap_or_default();
    let path = format!(
        "/containers/create{}",
        query(&[("name", name), ("platform", platform.clone())])
    );
    let made = match client.json(Method::POST, &path, Some(&body)).await {
        Err(CliError::Daemon {
            status: 404,
            message,
            ..
        }) if args.pull == "missing" && message.contains("image") => {
            if !args.more.quiet {
                eprintln!("Unable to find image '{}' locally", args.image());
            }
            super::registries::pull_image(client, args.image(), &platform, told).await?;
            client.json(Method::POST, &path, Some(&body)).await?
        }
        other => other?,
    };
    for warning in made["Warnings"].as_array().into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    let id = made["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(file) = &args.cidfile {
        std::fs::write(file, &id).map_err(|source| CliError::File {
            action: "writing",
            path: file.into(),
            source,
        })?;
    }
    Ok(id)
}

pub async fn run(client: &Client, args: &Run) -> Result<()> {
    let container = &args.container;
    if container.rm && container.restart.as_deref().is_some_and(|r| r != "no") {
        return Err(CliError::Usage(
            "--rm and --restart contradict each other".into(),
        ));
    }
    if container.tty && container.interactive && !args.detach && !terminal::is_terminal(io::stdin())
    {
        return Err(CliError::Usage("the input device is not a TTY".into()));
    }
    if args.detach && !container.more.attach.is_empty() {
        return Err(CliError::Usage("Conflicting options: -a and -d".into()));
    }
    let id = create(client, container, !args.detach).await?;
    if args.detach {
        client
            .post(&format!("/containers/{id}/start"), None)
            .await?;
        return out(&format!("{id}\n"));
    }
    let until = if container.rm { "removed" } else { "next-exit" };
    let joins = |stream| container.more.joins(stream);
    let code = follow(
        client,
        &id,
        [container.takes_input(), joins("stdout"), joins("stderr")],
        container.tty,
        &args.detach_keys,
        args.sig_proxy,
        Some(until),
    )
    .await?;
    if code == 0 {
        Ok(())
    } else {
        Err(CliError::Exit(code))
    }
}

/// Attaches, starts (if `until` says how to wait), carries stdio and gives the exit code.
async fn follow(
    client: &Client,
    id: &str,
    [stdin, stdout, stderr]: [bool; 3],
    tty: bool,
    keys: &str,
    signals: bool,
    start: Option<&str>,
) -> Result<i32> {
    let path = |stdin: bool| {
        let asked = query(&[
            ("stream", "1".into()),
            ("stdin", if stdin { "1" } else { "" }.into()),
            ("stdout", if stdout { "1" } else { "" }.into()),
            ("stderr", if stderr { "1" } else { "" }.into()),
            ("detachKeys", keys.into()),
        ]);
        format!("/containers/{id}/attach{asked}")
    };
    let until = start.unwrap_or("not-running");
    let exit = (!tty).then_some(until);
    let joined = client.hijack(&path(stdin), None, exit).await?;
    let tells = joined.tells;
    let wait = |until: String| {
        let path = format!("/containers/{id}/wait?condition={until}");
        async move { client.ask(Method::POST, &path, None).await }
    };
    // The wait begins before the start, so that the shortest run is not missed.
    let waiting = if tells {
        None
    } else {
        Some(wait(until.to_owned()).await?)
    };
    if start.is_some() {
        client
            .post(&format!("/containers/{id}/start"), None)
            .await?;
    }
    let raw = if tty && stdin { Raw::on() } else { None };
    let sizes =
        tty.then(|| terminal::follow_size(client.clone(), format!("/containers/{id}/resize")));
    let signals = if signals && !tty {
        terminal::proxy_signals(client.clone(), id.to_owned())
    } else {
        Vec::new()
    };
    let running = || async {
        let state = client.get(&format!("/containers/{id}/json")).await?;
        Ok::<_, CliError>(state["State"]["Running"] == true)
    };
    let carried = terminal::carry(joined.connection, stdin, tty).await;
    drop(raw);
    let mut told = carried?;
    // The end of the stream without a word means that the daemon went away. The next one is asked for the rest; what it
    // should pass in may have been lost with the former.
    while told.is_none() && tells {
        let input = if stdin {
            ", and it gets no more input"
        } else {
            ""
        };
        eprintln!(
            "coracle: the daemon was restarted: what {id} said meanwhile is in its log (coracle logs){input}"
        );
        let until = if until == "removed" {
            until
        } else {
            "not-running"
        };
        let again = client.hijack(&path(false), None, Some(until)).await?;
        told = terminal::carry(again.connection, false, tty).await?;
    }
    let code = match (told, waiting) {
        (Some(told), _) => exit_code(&told),
        (None, None) => 125,
        (None, Some(waiting)) => {
            let mut waiting = crate::client::JsonLines::new(waiting);
            tokio::select! {
                waited = waiting.next() => match waited {
                    Ok(Some(waited)) => exit_code(&waited),
                    _ => cut_off(client, id, running().await).await?,
                },
                // Output ends with the container, or because somebody left it with the detach keys.
                () = left(running()) => 0,
            }
        }
    };
    if let Some(task) = sizes {
        task.abort();
    }
    signals.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(code)
}

/// Returns only if a terminal was left while its container runs on.
async fn left(running: impl Future<Output = Result<bool>>) {
    if matches!(running.await, Ok(true)) {
        return;
    }
    std::future::pending().await
}

/// How a container ended whose terminal was cut off with the daemon, if it has.
async fn cut_off(client: &Client, id: &str, running: Result<bool>) -> Result<i32> {
    if matches!(running, Ok(true)) {
        return Err(CliError::Usage(format!(
            "the daemon was restarted, and {id} runs on: coracle attach {id} goes back to it"
        )));
    }
    let path = format!("/containers/{id}/wait?condition=not-running");
    let waited = client.ask(Method::POST, &path, None).await?;
    let waited = crate::client::JsonLines::new(waited).next().await?;
    Ok(waited.map_or(125, |w| exit_code(&w)))
}

fn exit_code(waited: &Value) -> i32 {
    waited["StatusCode"].as_i64().map_or(125, narrow)
}

fn narrow(code: i64) -> i32 {
    i32::try_from(code).unwrap_or(125)
}

pub async fn attach(client: &Client, args: &Attach) -> Result<()> {
    let name = escape(&args.container);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    if found["State"]["Running"] != true {
        return Err(CliError::Usage(
            "You cannot attach to a stopped container, start it first".into(),
        ));
    }
    let (tty, open) = (
        found["Config"]["Tty"] == true,
        found["Config"]["OpenStdin"] == true,
    );
    let code = follow(
        client,
        &name,
        [open && !args.no_stdin, true, true],
        tty,
        &args.detach_keys,
        args.sig_proxy,
        None,
    )
    .await?;
    if code == 0 {
        Ok(())
    } else {
        Err(CliError::Exit(code))
    }
}

/// `start -a`.
pub async fn start_attached(client: &Client, name: &str, stdin: bool, keys: &str) -> Result<()> {
    let name = escape(name);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    let tty = found["Config"]["Tty"] == true;
    let code = follow(
        client,
        &name,
        [stdin && found["Config"]["OpenStdin"] == true, true, true],
        tty,
        keys,
        true,
        Some("next-exit"),
    )
    .await?;
    if code == 0 {
        Ok(())
    } else {
        Err(CliError::Exit(code))
    }
}

pub async fn exec(client: &Client, args: &Exec) -> Result<()> {
    if args.tty && args.interactive && !args.detach && !terminal::is_terminal(io::stdin()) {
        return Err(CliError::Usage("the input device is not a TTY".into()));
    }
    let size = terminal::size().filter(|_| args.tty);
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(env_file(file)?);
    }
    env.extend(environment(&args.env));
    let body = json!({
        "AttachStdin": args.interactive && !args.detach,
        "AttachStdout": !args.detach,
        "AttachStderr": !args.detach,
        "DetachKeys": args.detach_keys,
        "Tty": args.tty,
        "Env": env,
        "Cmd": args.command,
        "Privileged": args.privileged,
        "User": args.user.clone().unwrap_or_default(),
        "WorkingDir": args.workdir.clone().unwrap_or_default(),
        "ConsoleSize": size.map(|(r, c)| [r, c]),
    });
    let name = escape(&args.container);
    if args.detach {
        let path = format!("/containers/{name}/exec");
        let made = client.json(Method::POST, &path, Some(&body)).await?;
        let id = made["Id"].as_str().unwrap_or_default();
        let start = json!({ "Detach": true, "Tty": args.tty });
        let path = format!("/exec/{id}/start");
        return client.post(&path, Some(&start)).await;
    }
    let exit = (!args.tty).then_some("exited");
    let path = format!("/v1/containers/{name}/exec");
    let joined = client.hijack(&path, Some(&body), exit).await?;
    let id = joined.exec.unwrap_or_default();
    let raw = if args.tty && args.interactive {
        Raw::on()
    } else {
        None
    };
    let sizes = args
        .tty
        .then(|| terminal::follow_size(client.clone(), format!("/exec/{id}/resize")));
    let carried = terminal::carry(joined.connection, args.interactive, args.tty).await;
    drop(raw);
    if let Some(task) = sizes {
        task.abort();
    }
    let code = match carried? {
        Some(told) => exit_code(&told),
        None => {
            let ended = client.get(&format!("/exec/{id}/json")).await?;
            // One that was left runs on and has none.
            ended["ExitCode"].as_i64().map_or(0, narrow)
        }
    };
    match code {
        0 => Ok(()),
        code => Err(CliError::Exit(code)),
    }
}
