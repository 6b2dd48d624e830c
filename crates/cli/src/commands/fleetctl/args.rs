//! fleetctl's command line, as `coracle fleetctl` and for those who call the program by that name.

use crate::args::{Cli, Command, Globals};
use crate::docker::{switches_with_values, with_values};
use crate::error::{CliError, Result};
use crate::lazy::{Lazy, whole};
use clap::{Args, FromArgMatches};
use std::ffi::{OsStr, OsString};

/// `coracle fleetctl`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  coracle fleetctl start hello.service\n  fleetctl list-units      (by a link of that name to coracle)"
)]
pub struct Fleetctl {
    /// Socket of the API, unix:///path [default: the daemon's]
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_ENDPOINT",
        value_name = "URL",
        hide_env = true
    )]
    pub endpoint: Option<String>,
    /// Refused: call fleetctl on the other machine by ssh
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_TUNNEL",
        value_name = "HOST",
        hide_env = true,
        hide = true
    )]
    pub tunnel: Option<String>,
    #[command(flatten)]
    pub ssh: SshFlags,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What is handed to ssh(1).
#[derive(Debug, clap::Args)]
pub struct SshFlags {
    /// User on the other machine [default: ssh's]
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_SSH_USERNAME",
        value_name = "USER",
        hide_env = true,
        hide = true
    )]
    pub ssh_username: Option<String>,
    /// Whether the other machine's key must be known
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_STRICT_HOST_KEY_CHECKING",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        hide_env = true,
        hide = true
    )]
    pub strict_host_key_checking: bool,
    /// File of known keys [default: ssh's]
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_KNOWN_HOSTS_FILE",
        value_name = "FILE",
        hide_env = true,
        hide = true
    )]
    pub known_hosts_file: Option<String>,
    /// Seconds until a connection is given up [default: ssh's]
    #[arg(
        long,
        global = true,
        env = "FLEETCTL_SSH_TIMEOUT",
        value_name = "SECONDS",
        hide_env = true,
        hide = true
    )]
    pub ssh_timeout: Option<f64>,
}

/// A verb of fleetctl.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Give units to the cluster without placing them
    #[command(after_help = "Example:\n  coracle fleetctl submit hello.service")]
    Submit(Files),
    /// Place units on machines without running them; files are submitted first
    #[command(after_help = "Example:\n  coracle fleetctl load hello.service")]
    Load(FilesAndWait),
    /// Run units; files are submitted first
    #[command(after_help = "Example:\n  coracle fleetctl start hello.service world@1.service")]
    Start(FilesAndWait),
    /// Stop units; they keep their machines
    #[command(after_help = "Example:\n  coracle fleetctl stop 'world@*'")]
    Stop(NamesAndWait),
    /// Stop units and run them again
    #[command(after_help = "Example:\n  coracle fleetctl restart hello.service")]
    Restart(NamesAndWait),
    /// Stop units and take them off their machines
    #[command(after_help = "Example:\n  coracle fleetctl unload hello.service")]
    Unload(NamesAndWait),
    /// Stop units and forget them
    #[command(after_help = "Example:\n  coracle fleetctl destroy hello.service")]
    Destroy {
        /// Return at once
        #[arg(long)]
        no_block: bool,
        /// Names or globs of names
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// The text of a unit
    #[command(after_help = "Example:\n  coracle fleetctl cat hello.service")]
    Cat {
        /// Name
        unit: String,
    },
    /// Where units stand, and their last output
    #[command(after_help = "Example:\n  coracle fleetctl status hello.service")]
    Status {
        /// Names or globs of names
        #[arg(required = true)]
        units: Vec<String>,
    },
    /// The output of a unit
    #[command(after_help = "Example:\n  coracle fleetctl journal -f hello.service")]
    Journal {
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
        lines: u32,
        /// Name
        unit: String,
    },
    /// A shell, or a command, on a machine or on the machine of a unit, by ssh(1)
    #[command(after_help = "Example:\n  coracle fleetctl ssh hello.service uptime")]
    Ssh(Ssh),
    /// List machines
    #[command(after_help = "Example:\n  coracle fleetctl list-machines -l")]
    ListMachines(List<Machines>),
    /// List where units stand that have a machine
    #[command(
        after_help = "Example:\n  coracle fleetctl list-units --fields unit,active --no-legend"
    )]
    ListUnits(List<Units>),
    /// List units, also those that have no machine
    #[command(after_help = "Example:\n  coracle fleetctl list-unit-files")]
    ListUnitFiles(List<UnitFiles>),
    /// Check unit files, without a daemon; tells every problem
    #[command(after_help = "Example:\n  coracle fleetctl verify *.service")]
    Verify {
        /// Files
        #[arg(required = true)]
        files: Vec<String>,
    },
    /// Version of this program
    #[command(after_help = "Example:\n  coracle fleetctl version")]
    Version,
}

/// What is submitted.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Give a unit that is there the text of the file
    #[arg(long)]
    pub replace: bool,
    /// Files, names, or instances of templates
    #[arg(required = true)]
    pub units: Vec<String>,
}

/// How long is waited.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Wait {
    /// Return at once
    #[arg(long)]
    pub no_block: bool,
    /// Wait N half seconds at most; 0 for as long as it takes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub block_attempts: u32,
}

/// What is submitted, if it is not there yet, and waited for.
#[derive(Debug, clap::Args)]
pub struct FilesAndWait {
    #[command(flatten)]
    pub wait: Wait,
    #[command(flatten)]
    pub files: Files,
}

/// What is there, and waited for.
#[derive(Debug, clap::Args)]
pub struct NamesAndWait {
    #[command(flatten)]
    pub wait: Wait,
    /// Names or globs of names
    #[arg(required = true)]
    pub units: Vec<String>,
}

/// `fleetctl ssh`
#[derive(Debug, clap::Args)]
pub struct Ssh {
    /// Lend the keys of one's agent to the other machine
    #[arg(short = 'A', long)]
    pub forward_agent: bool,
    /// Port of the other machine [default: ssh's]
    #[arg(long, value_name = "PORT")]
    pub ssh_port: Option<u16>,
    /// To a machine, by how its id begins
    #[arg(long, value_name = "MACHINE", conflicts_with = "unit")]
    pub machine: Option<String>,
    /// To the machine of a unit
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// Machine or unit, unless a flag says it; then the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Columns of a list.
pub trait Columns: std::fmt::Debug + Send + Sync + 'static {
    /// Those that are shown if none are named.
    const SHOWN: &str;
    /// All.
    const ALL: &str;
}

/// `list-machines`
#[derive(Debug)]
pub struct Machines;

impl Columns for Machines {
    const SHOWN: &str = "machine,ip,metadata";
    const ALL: &str = "ip,machine,metadata";
}

/// `list-units`
#[derive(Debug)]
pub struct Units;

impl Columns for Units {
    const SHOWN: &str = "unit,machine,active,sub";
    const ALL: &str = "active,hash,load,machine,sub,unit";
}

/// `list-unit-files`
#[derive(Debug)]
pub struct UnitFiles;

impl Columns for UnitFiles {
    const SHOWN: &str = "unit,hash,dstate,state,target";
    const ALL: &str = "desc,dstate,global,hash,state,target,unit";
}

/// A list's flags.
#[derive(Debug, clap::Args)]
pub struct List<C: Columns> {
    /// Whole ids and hashes
    #[arg(short = 'l', long)]
    pub full: bool,
    /// Without the line of names above
    #[arg(long)]
    pub no_legend: bool,
    /// Columns, comma-separated
    #[arg(long, value_name = "FIELDS", default_value = C::SHOWN, help = fields_help::<C>())]
    pub fields: String,
    #[arg(skip)]
    pub columns: std::marker::PhantomData<C>,
}

fn fields_help<C: Columns>() -> String {
    format!("Columns, comma-separated, of {}", C::ALL)
}

impl Fleetctl {
    /// The socket that is asked for, as [`Globals::host`] has it.
    ///
    /// # Errors
    /// An address that is no socket.
    pub fn host(&self) -> Result<Option<String>> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(None);
        };
        let path = ["unix://", "file://"]
            .iter()
            .find_map(|s| endpoint.strip_prefix(s));
        match path.filter(|p| p.starts_with('/')) {
            Some(path) => Ok(Some(format!("unix://{path}"))),
            None => Err(CliError::Usage(format!(
                "endpoint \"{endpoint}\" is not supported; write unix:///path, of the machine's own daemon"
            ))),
        }
    }
}

/// The command by that name.
pub fn command() -> clap::Command {
    let command = clap::Command::new("fleetctl").version(env!("CARGO_PKG_VERSION"));
    Globals::augment_args(Fleetctl::augment_args(command))
        .about("fleet's command, for units and machines of Coracle")
}

/// Reads the line of one who called the program `fleetctl`.
///
/// # Errors
/// What clap says, also for help.
pub fn read(line: &[OsString]) -> std::result::Result<Cli, clap::Error> {
    let line = with_two_dashes(line);
    let mut all = match switches_with_values(&line) {
        true => with_values(whole(command)),
        false => command(),
    }
    .args_override_self(true);
    let matches = all.try_get_matches_from_mut(&line)?;
    Ok(Cli {
        globals: Globals::from_arg_matches(&matches)?,
        command: Command::Fleetctl(Lazy(Box::new(Fleetctl::from_arg_matches(&matches)?))),
    })
}

/// fleetctl's long flags could be written with one dash, `-no-legend`, and scripts do.
fn with_two_dashes(line: &[OsString]) -> Vec<OsString> {
    let mut ended = false;
    let mut all = Vec::with_capacity(line.len());
    for word in line {
        // What follows is a command of the other machine.
        ended |= word == "--" || word == "ssh";
        let long = word.to_str().and_then(|w| w.strip_prefix('-')).filter(|w| {
            let name = w.split('=').next().unwrap_or(w);
            name.len() > 1 && name.starts_with(|c: char| c.is_ascii_lowercase())
        });
        // `-n5` and `-n=5` are short ones with their value.
        let long = long.filter(|w| w[1..].starts_with(|c: char| c.is_ascii_lowercase()));
        all.push(match long {
            Some(long) if !ended => {
                let mut whole = OsString::from("--");
                whole.push(OsStr::new(long));
                whole
            }
            _ => word.clone(),
        });
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(text: &str) -> std::result::Result<Fleetctl, clap::Error> {
        let line: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        let Command::Fleetctl(Lazy(read)) = read(&line)?.command else {
            panic!("another verb");
        };
        Ok(*read)
    }

    #[test]
    fn flags_with_one_dash_or_two() {
        for text in [
            "fleetctl list-units --no-legend --full --fields=unit,sub",
            "fleetctl list-units -no-legend -full -fields unit,sub",
            "fleetctl list-units -no-legend=true -l -fields=unit,sub",
        ] {
            let Verb::ListUnits(list) = of(text).unwrap().verb else {
                panic!("another verb");
            };
            assert!(list.no_legend && list.full, "{text}");
            assert_eq!(list.fields, "unit,sub");
        }
        let Verb::ListUnits(list) = of("fleetctl list-units -no-legend=false").unwrap().verb else {
            panic!("another verb");
        };
        assert!(!list.no_legend && !list.full);
        assert_eq!(list.fields, Units::SHOWN);
        let Verb::Journal { lines, follow, .. } = of("fleetctl journal -f -n5 a").unwrap().verb
        else {
            panic!("another verb");
        };
        assert!(follow && lines == 5);
    }

    /// A command for the other machine is its own affair.
    #[test]
    fn the_command_of_ssh_stays_as_it_is() {
        let read =
            of("fleetctl -strict-host-key-checking=false ssh -A a1b2 ls -la --full").unwrap();
        assert!(!read.ssh.strict_host_key_checking);
        let Verb::Ssh(ssh) = read.verb else {
            panic!("another verb");
        };
        assert!(ssh.forward_agent);
        assert_eq!(ssh.words, ["a1b2", "ls", "-la", "--full"]);
    }

    #[test]
    fn endpoints() {
        let host = |text: &str| of(text).unwrap().host();
        assert_eq!(host("fleetctl list-units").unwrap(), None);
        for text in [
            "fleetctl --endpoint unix:///x/y list-units",
            "fleetctl list-units -endpoint=file:///x/y",
        ] {
            assert_eq!(host(text).unwrap().unwrap(), "unix:///x/y");
        }
        for text in [
            "fleetctl --endpoint http://10.0.0.1:2379 list-units",
            "fleetctl --endpoint unix://x/y list-units",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read() {
        assert!(of("fleetctl").is_err());
        assert!(of("fleetctl fly").is_err());
        assert!(of("fleetctl start").is_err());
        assert!(of("fleetctl ssh --unit a --machine b").is_err());
    }
}
