//! `login` and `logout`: docker's `config.json`, which docker itself and other tools read too.

use super::copy::file_error;
use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use crate::terminal::is_terminal;
use base64::Engine;
use coracle_image::Credentials;
use coracle_image::credentials::{self, CredentialsError, forget, helper_of, keep, key_of};
use hyper::Method;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};

/// `coracle login`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  coracle login -u ann --password-stdin registry.example < password"
)]
pub struct Login {
    /// Name of the user
    #[arg(short, long)]
    pub username: Option<String>,
    /// Password; others may see it in the list of processes
    #[arg(short, long)]
    pub password: Option<String>,
    /// Take the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Registry; docker.io if none is named
    pub server: Option<String>,
}

/// `coracle logout`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  coracle logout registry.example")]
pub struct Logout {
    /// Registry; docker.io if none is named
    pub server: Option<String>,
}

fn config_path() -> Result<PathBuf> {
    credentials::config_path().ok_or_else(|| {
        CliError::Usage("neither DOCKER_CONFIG nor HOME says where credentials are kept".into())
    })
}

/// Reads the file, changes it, and puts the new one in its place; what else stands in it stays.
fn change(path: &Path, act: impl FnOnce(&mut Value)) -> Result<()> {
    let mut config: Value = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| CliError::Usage(format!("{} cannot be read: {e}", path.display())))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(e) => return Err(file_error("reading", path)(e)),
    };
    if !config.is_object() {
        return Err(CliError::Usage(format!(
            "{} is no JSON object",
            path.display()
        )));
    }
    act(&mut config);
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(file_error("making the directory of", path))?;
    let temporary = dir.join(format!(".config.json.{}", std::process::id()));
    let write = || {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(serde_json::to_string_pretty(&config)?.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(file_error("writing", path))
}

/// Nothing that is typed is shown as long as this lives.
struct Silent(Termios);

impl Silent {
    /// Switches the echo of stdin's terminal off; nothing if it is none.
    fn on() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent).ok()?;
        Some(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn prompt(text: &str, secret: bool) -> Result<String> {
    out(text)?;
    std::io::stdout().flush()?;
    let silent = if secret { Silent::on() } else { None };
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if silent.is_some() {
        out("\n")?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Has the daemon look at the credentials, then keeps them.
///
/// # Errors
/// [`CliError`] naming the flag or the file.
pub async fn login(client: &Client, args: Login) -> Result<()> {
    let terminal = is_terminal(std::io::stdin());
    if args.password_stdin && args.username.is_none() {
        return Err(CliError::Usage(
            "Must provide --username with --password-stdin".into(),
        ));
    }
    if args.password_stdin && args.password.is_some() {
        return Err(CliError::Usage(
            "--password and --password-stdin are mutually exclusive".into(),
        ));
    }
    let username = match args.username {
        Some(name) => name,
        None if terminal => prompt("Username: ", false)?,
        None => return Err(CliError::Usage("Error: Cannot perform an interactive login from a non TTY device; give --username and --password-stdin".into())),
    };
    let password = match args.password {
        Some(password) => {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password
        }
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if terminal => prompt("Password: ", true)?,
        None => return Err(CliError::Usage("Error: Cannot perform an interactive login from a non TTY device; give --password-stdin".into())),
    };
    if username.is_empty() || password.is_empty() {
        return Err(CliError::Usage(
            "username and password must not be empty".into(),
        ));
    }
    let key = key_of(args.server.as_deref().unwrap_or_default());
    let body = json!({ "username": username, "password": password, "serveraddress": key });
    let answer = client.json(Method::POST, "/auth", Some(&body)).await?;
    let path = config_path()?;
    let token = answer["IdentityToken"].as_str().filter(|t| !t.is_empty());
    let credentials = Credentials {
        username,
        password,
        identity_token: token.map(str::to_owned),
    };
    if let Some(helper) = helper_of(None, key).map_err(unkept)? {
        keep(&helper, key, &credentials).map_err(unkept)?;
        // As docker has it: the file says for whom there is something, the helper what.
        change(&path, |config| config["auths"][key] = json!({}))?;
    } else {
        change(&path, |config| {
            config["auths"][key] = entry(&credentials);
        })?;
        eprintln!(
            "WARNING! Your credentials are stored unencrypted in '{}'.",
            path.display()
        );
    }
    out(&format!(
        "{}\n",
        answer["Status"].as_str().unwrap_or("Login Succeeded")
    ))
}

fn unkept(error: CredentialsError) -> CliError {
    CliError::Usage(coracle_engine::full_error(&error))
}

/// What the file keeps itself.
fn entry(credentials: &Credentials) -> Value {
    let encoded = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let name = &credentials.username;
    match &credentials.identity_token {
        Some(token) => json!({ "auth": encoded(format!("{name}:")), "identitytoken": token }),
        None => json!({ "auth": encoded(format!("{name}:{}", credentials.password)) }),
    }
}

/// Forgets credentials; none to forget is no error.
///
/// # Errors
/// [`CliError::File`].
pub fn logout(args: &Logout) -> Result<()> {
    let key = key_of(args.server.as_deref().unwrap_or_default());
    let path = config_path()?;
    if let Some(helper) = helper_of(None, key).map_err(unkept)? {
        forget(&helper, key).map_err(unkept)?;
    }
    let mut known = false;
    change(&path, |config| {
        known = config["auths"]
            .as_object_mut()
            .is_some_and(|a| a.remove(key).is_some())
    })?;
    out(&if known {
        format!("Removing login credentials for {key}\n")
    } else {
        format!("Not logged in to {key}\n")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_else_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new").join("config.json");
        change(&path, |c| c["auths"]["a"] = json!({ "auth": "x" })).unwrap();
        change(&path, |c| c["psFormat"] = json!("y")).unwrap();
        let read: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            read,
            json!({ "auths": { "a": { "auth": "x" } }, "psFormat": "y" })
        );
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::write(&path, "[]").unwrap();
        assert!(
            change(&path, |_| ())
                .unwrap_err()
                .to_string()
                .contains("config.json")
        );
    }
}
