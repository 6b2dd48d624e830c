//! `coracle client`: workstations that may use the API over TLS, and what a workstation has of its own.

use crate::client::{Client as Daemon, certificates, escape};
use crate::error::{CliError, Result, each};
use crate::format::{Table, out, row, words};
use chrono::{DateTime, SecondsFormat, Utc};
use coracle_cluster::clients::{
    PORT, Pair, Remote, SHA256, check_name, fingerprint_of, look, read_pin,
};
use coracle_cluster::pki::Fingerprint;
use coracle_engine::full_error;
use hyper::Method;
use serde_json::{Map, Value, json};
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `coracle client`
#[derive(Debug, clap::Subcommand)]
pub enum Client {
    /// Make a key and a certificate with which a workstation may use the API, here and on all machines of the cluster; asked of a voter
    #[command(
        after_help = "Writes ca.pem, cert.pem and key.pem, as docker names them. Whoever has key.pem has this machine: the API is the machine's root.\n\nExample:\n  coracle client create ann --valid 90d -o ann"
    )]
    Create {
        /// How long it is good: 12h, 365d
        #[arg(long, default_value = "365d", value_name = "TIME")]
        valid: String,
        /// Where the files are written [default: ./NAME]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Name of the client
        name: String,
    },
    /// Let in a workstation that has made its own key (`coracle client request`); asked of a voter
    #[command(after_help = "Example:\n  coracle client add ann sha256:9f86d0…")]
    Add {
        /// How long it is let in: 12h, 365d; never longer than its certificate is good
        #[arg(long, default_value = "365d", value_name = "TIME")]
        valid: String,
        /// Name of the client
        name: String,
        /// The fingerprint that `coracle client request` printed, or its cert.pem
        key: String,
    },
    /// On a workstation: make its own key and certificate, and print the line by which a machine lets it in
    #[command(
        after_help = "The line goes to `coracle client add` on a machine, or under `coracle: clients:` in the cloud-config of one that is not there yet. The key stays here.\n\nExample:\n  coracle client request ann"
    )]
    Request {
        /// How long the certificate is good: 12h, 365d
        #[arg(long, default_value = "365d", value_name = "TIME")]
        valid: String,
        /// Where the files are written [default: CORACLE_CERT_PATH, DOCKER_CERT_PATH, or ~/.coracle]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// Name of the client
        name: String,
    },
    /// On a workstation: trust a machine, by the fingerprint that its console and its log show; its CA is added to ca.pem
    #[command(
        after_help = "Without a machine, those of the cluster that is asked are trusted: machines that have joined since.\n\nExamples:\n  coracle client trust web1\n  coracle client trust 192.0.2.7:2376 --fingerprint sha256:9f86d0…\n  coracle --host tcp://web1 client trust"
    )]
    Trust {
        /// The fingerprint that it must have; without it, it is shown and asked
        #[arg(long, value_name = "FINGERPRINT", requires = "machine_address")]
        fingerprint: Option<String>,
        /// Where ca.pem is [default: CORACLE_CERT_PATH, DOCKER_CERT_PATH, or ~/.coracle]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// HOST or HOST:PORT
        #[arg(value_name = "HOST", id = "machine_address")]
        host: Option<String>,
    },
    /// List the clients that are let in
    #[command(visible_alias = "list", after_help = "Example:\n  coracle client ls")]
    Ls {
        /// table, json, or a template
        #[arg(long)]
        format: Option<String>,
        /// Names only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Let clients in no more: their connections are cut, on all machines of the cluster; asked of a voter
    #[command(
        visible_alias = "rm",
        after_help = "A machine that cannot ask the store learns of it when it can. Clients of a machine's configuration are taken out there.\n\nExample:\n  coracle client revoke ann"
    )]
    Revoke {
        /// Names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

pub async fn client(daemon: &Daemon, command: &Client) -> Result<()> {
    match command {
        Client::Create {
            valid,
            output,
            name,
        } => create(daemon, name, valid, output.as_deref()).await,
        Client::Add { valid, name, key } => add(daemon, name, key, valid).await,
        Client::Request {
            valid,
            output,
            name,
        } => request(name, valid, output.as_deref()),
        Client::Trust {
            fingerprint,
            output,
            host,
        } => {
            let dir = output.clone().unwrap_or_else(certificates);
            match host {
                Some(host) => trust(host, fingerprint.as_deref(), &dir).await,
                None => trust_all(daemon, &dir).await,
            }
        }
        Client::Ls { format, quiet } => list(daemon, format.as_deref(), *quiet).await,
        Client::Revoke { names } => {
            each(names, async |name| {
                let path = format!("/v1/clients/{}", escape(&name));
                daemon.json(Method::DELETE, &path, None).await?;
                out(&format!("{name}\n"))
            })
            .await
        }
    }
}

fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File {
        action,
        path: path.clone(),
        source,
    }
}

/// `365d`, or a duration as elsewhere.
fn lifetime(text: &str) -> Result<Duration> {
    const DAY: u64 = 24 * 3600;
    /// A certificate's years have four digits.
    const LONGEST: u64 = 100 * 365 * DAY;
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    let seconds = days.and_then(|days: u64| days.checked_mul(DAY));
    let seconds = seconds.or_else(|| {
        let found = coracle_image::duration::nanoseconds(text);
        found.and_then(|n| u64::try_from(n / 1_000_000_000).ok())
    });
    let found = seconds.filter(|seconds| (1..=LONGEST).contains(seconds));
    found.map(Duration::from_secs).ok_or_else(|| {
        CliError::Usage(format!(
            "--valid {text} is no time; write for example 12h or 365d, at most 36500d"
        ))
    })
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn day(until: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp(i64::try_from(until).unwrap_or(i64::MAX), 0);
    time.map_or_else(
        || "for ever".to_owned(),
        |t| t.format("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

fn make(name: &str, valid: &str) -> Result<(Pair, SystemTime)> {
    check_name(name).map_err(CliError::Usage)?;
    let now = SystemTime::now();
    let until = now + lifetime(valid)?;
    let pair = Pair::make(name, now, until).map_err(|e| CliError::Usage(full_error(&e)))?;
    Ok((pair, until))
}

/// Makes a directory for its owner alone, if it is not there.
fn private(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(file("making", dir))
}

fn fill(mut file: fs::File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes files that are not there yet; of those that are, none is touched.
fn write(dir: &Path, files: &[(&str, &str, u32)]) -> Result<()> {
    private(dir)?;
    for (name, _, _) in files {
        let path = dir.join(name);
        if path.exists() {
            return Err(CliError::Usage(format!(
                "{} is there already; give another directory with -o, or remove it if nobody uses it any more",
                path.display()
            )));
        }
    }
    for (name, text, mode) in files {
        let path = dir.join(name);
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(*mode).open(&path);
        made.and_then(|made| fill(made, text))
            .map_err(file("writing", &path))?;
    }
    Ok(())
}

async fn authorities(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let found = daemon.get("/v1/machine-cas").await?;
    let all = found["authorities"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all: Vec<_> = all
        .map(|a| (text(&a["hostname"]), text(&a["ca"])))
        .collect();
    match all.is_empty() {
        false => Ok(all),
        true => Err(CliError::Usage(
            "no machine here serves its API to workstations: set api_listen = \"0.0.0.0:2376\" in coracle.toml and restart the daemon".to_owned(),
        )),
    }
}

async fn create(daemon: &Daemon, name: &str, valid: &str, dir: Option<&Path>) -> Result<()> {
    let (pair, until) = make(name, valid)?;
    let machines = authorities(daemon).await?;
    let dir = dir.map_or_else(|| PathBuf::from(name), Path::to_owned);
    let ca: String = machines.iter().map(|(_, ca)| ca.as_str()).collect();
    let files = [
        ("key.pem", pair.key.as_str(), 0o600),
        ("cert.pem", &pair.certificate, 0o644),
        ("ca.pem", &ca, 0o644),
    ];
    write(&dir, &files)?;
    let entered = enter(daemon, name, &pair.fingerprint, &pair.serial, until).await;
    if entered.is_err() {
        // They are of no use to anybody.
        for (name, _, _) in files {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    entered?;
    let hosts: Vec<&str> = machines.iter().map(|(host, _)| host.as_str()).collect();
    out(&format!(
        "{name} may use the API until {}. Carry {} to the workstation, keep key.pem to its owner, and there:\n\n  export DOCKER_HOST=tcp://HOST:{PORT} DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={}\n\nHOST is one of {}; the port is that of its api_listen. `coracle client revoke {name}` takes it back.\n",
        day(seconds(until)),
        dir.display(),
        dir.display(),
        hosts.join(", "),
    ))
}

async fn enter(
    daemon: &Daemon,
    name: &str,
    key: &Fingerprint,
    serial: &str,
    until: SystemTime,
) -> Result<()> {
    let body = json!({
        "name": name,
        "key": format!("{SHA256}{key}"),
        "serial": serial,
        "until": seconds(until),
    });
    let sent = daemon.json(Method::POST, "/v1/clients", Some(&body)).await;
    sent.map(drop)
}

async fn add(daemon: &Daemon, name: &str, key: &str, valid: &str) -> Result<()> {
    check_name(name).map_err(CliError::Usage)?;
    let mut until = SystemTime::now() + lifetime(valid)?;
    let (key, serial) = match read_pin(key) {
        Ok((key, _)) => (key, String::new()),
        Err(error) if key.starts_with(SHA256) => return Err(CliError::Usage(error.to_string())),
        Err(_) => {
            let path = Path::new(key);
            let text = fs::read_to_string(path).map_err(file("reading", path))?;
            let read = fingerprint_of(&text);
            let (key, serial, ends) = read.map_err(|e| CliError::Usage(full_error(&e)))?;
            until = until.min(ends);
            (key, serial)
        }
    };
    enter(daemon, name, &key, &serial, until).await?;
    out(&format!(
        "{name} may use the API until {}.\n",
        day(seconds(until))
    ))
}

fn request(name: &str, valid: &str, dir: Option<&Path>) -> Result<()> {
    let (pair, until) = make(name, valid)?;
    let dir = dir.map_or_else(certificates, Path::to_owned);
    let files = [
        ("key.pem", pair.key.as_str(), 0o600),
        ("cert.pem", &pair.certificate, 0o644),
    ];
    write(&dir, &files)?;
    eprintln!(
        "key.pem and cert.pem are in {}, good until {}. A machine lets this workstation in by the following line: `coracle client add {name} sha256:…` there, or under `coracle: clients:` in its cloud-config. Then `coracle client trust HOST` here.",
        dir.display(),
        day(seconds(until)),
    );
    out(&format!("{SHA256}{} {name}\n", pair.fingerprint))
}

/// Adds CAs to `ca.pem`; answers how many were not there.
fn keep(dir: &Path, authorities: &[&str]) -> Result<usize> {
    private(dir)?;
    let path = dir.join("ca.pem");
    let mut text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(file("reading", &path)(e)),
    };
    // The lines' width is of no account.
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    let mut new = 0;
    for ca in authorities {
        if bare(&text).contains(&bare(ca)) {
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(ca);
        new += 1;
    }
    if new > 0 {
        let beside = dir.join(".ca.pem.new");
        let written = fs::File::create(&beside)
            .and_then(|made| fill(made, &text))
            .and_then(|()| fs::rename(&beside, &path));
        written.map_err(file("writing", &path))?;
    }
    Ok(new)
}

async fn trust(host: &str, expected: Option<&str>, dir: &Path) -> Result<()> {
    let remote = Remote::read(host.strip_prefix("tcp://").unwrap_or(host))?;
    let expected = expected.map(read_pin).transpose();
    let expected = expected.map_err(|e| CliError::Usage(e.to_string()))?;
    let shown = look(&remote).await?;
    if let Some(why) = &shown.unfit {
        return Err(CliError::Usage(format!(
            "what {host} shows is not for this name or address ({why}); use one that the machine has, or tell it with api_names in its coracle.toml, and compare the clocks of both"
        )));
    }
    match expected {
        Some((key, _)) if format!("{SHA256}{key}") == shown.fingerprint => {}
        Some(_) => {
            return Err(CliError::Usage(format!(
                "{host} is not the machine that is meant: it shows {}; somebody else answers there, or the machine was made anew",
                shown.fingerprint
            )));
        }
        None if io::stdin().is_terminal() => {
            print!(
                "{host} shows {}\nDoes its console (or STATE_DIR/api/fingerprint there) show the same? [y/N] ",
                shown.fingerprint
            );
            io::stdout().flush()?;
            let mut answer = String::new();
            io::stdin().read_line(&mut answer)?;
            if !matches!(answer.trim(), "y" | "Y" | "yes") {
                return Err(CliError::Usage(format!("{host} is not trusted")));
            }
        }
        None => {
            return Err(CliError::Usage(format!(
                "{host} shows {}; compare that with its console (or STATE_DIR/api/fingerprint there) and give it with --fingerprint",
                shown.fingerprint
            )));
        }
    }
    let path = dir.join("ca.pem");
    out(&match keep(dir, &[&shown.ca])? {
        0 => format!("{host} is trusted already, by {}.\n", path.display()),
        _ => format!("{host} is trusted from now on, by {}.\n", path.display()),
    })
}

async fn trust_all(daemon: &Daemon, dir: &Path) -> Result<()> {
    let machines = authorities(daemon).await?;
    let all: Vec<&str> = machines.iter().map(|(_, ca)| ca.as_str()).collect();
    let new = keep(dir, &all)?;
    let names: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
    out(&format!(
        "{} trusts {}, of which {new} new.\n",
        dir.join("ca.pem").display(),
        names.join(", "),
    ))
}

async fn list(daemon: &Daemon, format: Option<&str>, quiet: bool) -> Result<()> {
    let found = daemon.get("/v1/clients").await?;
    let clients = found["clients"].as_array().into_iter().flatten();
    if quiet {
        let names = clients.filter_map(|client| client["name"].as_str());
        return out(&names.map(|name| format!("{name}\n")).collect::<String>());
    }
    let columns = vec![
        ("NAME", "Name"),
        ("SERIAL", "Serial"),
        ("ADDED", "Added"),
        ("UNTIL", "Until"),
        ("BY", "By"),
        ("KEY", "ShortKey"),
    ];
    let rows = clients.map(shown).collect();
    Table { columns, rows }.print(format)
}

fn shown(client: &Value) -> Map<String, Value> {
    let time = |key: &str| {
        client[key]
            .as_i64()
            .and_then(|s| DateTime::<Utc>::from_timestamp(s, 0))
    };
    let stamp = |time: Option<DateTime<Utc>>| {
        json!(time.map_or_else(String::new, |t| {
            t.to_rfc3339_opts(SecondsFormat::Secs, true)
        }))
    };
    let (added, until) = (time("added"), time("until"));
    let ends = match until {
        None => "as its certificate".to_owned(),
        Some(end) if client["expired"] == true => format!("ran out {}", words::ago(end)),
        Some(end) => end.format("%Y-%m-%d %H:%M UTC").to_string(),
    };
    let key = client["key"].as_str().unwrap_or_default();
    let short = key.strip_prefix(SHA256).unwrap_or(key);
    row([
        ("Name", client["name"].clone()),
        ("Serial", client["serial"].clone()),
        ("Added", json!(added.map_or_else(String::new, words::ago))),
        ("AddedAt", stamp(added)),
        ("Until", json!(ends)),
        ("UntilAt", stamp(until)),
        ("Expired", client["expired"].clone()),
        ("By", client["who"].clone()),
        ("Key", json!(key)),
        ("ShortKey", json!(short.get(..12).unwrap_or(short))),
        ("Configured", client["configured"].clone()),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        for (text, seconds) in [
            ("365d", 31_536_000),
            ("1d", 86400),
            ("90m", 5400),
            ("1s", 1),
        ] {
            assert_eq!(lifetime(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in [
            "",
            "0d",
            "d",
            "-1d",
            "99999999d",
            "500ms",
            "x",
            "18446744073709551615d",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nobodys_key_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("key.pem", "a", 0o600)]).unwrap();
        let files = [("cert.pem", "b", 0o644), ("key.pem", "b", 0o600)];
        let error = write(dir.path(), &files).unwrap_err().to_string();
        assert!(error.contains("key.pem is there already"), "{error}");
        assert!(!dir.path().join("cert.pem").exists());
        assert_eq!(keep(dir.path(), &["AB\nCD\n", "EF\n"]).unwrap(), 2);
        assert_eq!(keep(dir.path(), &["ABCD\n", "GH\n"]).unwrap(), 1);
        let text = fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        assert_eq!(text, "AB\nCD\nEF\nGH\n");
    }
}
