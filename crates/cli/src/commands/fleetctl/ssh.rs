//! A shell or a command on another machine: who that is is looked up, the rest is ssh(1)'s.

use super::api::{self, Machine};
use super::args::{Ssh, SshFlags};
use super::names::mangle;
use crate::client::Client;
use crate::error::{CliError, Result};
use std::os::unix::process::CommandExt as _;

/// Becomes ssh.
pub async fn ssh(client: &Client, flags: &SshFlags, args: &Ssh) -> Result<()> {
    let machines = api::machines(client).await?;
    let mut words = args.words.as_slice();
    let machine = match (&args.machine, &args.unit) {
        (Some(id), _) => by_id(&machines, id)?
            .ok_or_else(|| CliError::Usage(format!("machine {id} does not exist")))?,
        (None, Some(unit)) => by_unit(client, &machines, unit)
            .await?
            .ok_or_else(|| CliError::Usage(format!("unit {unit} does not exist")))?,
        (None, None) => {
            let Some((first, rest)) = words.split_first() else {
                return Err(CliError::Usage(
                    "one machine or unit must be provided".into(),
                ));
            };
            words = rest;
            let (machine, unit) = (
                by_id(&machines, first)?,
                by_unit(client, &machines, first).await?,
            );
            match (machine, unit) {
                (Some(_), Some(_)) => {
                    return Err(CliError::Usage(format!(
                        "ambiguous argument, both machine and unit found for {first}; say --machine or --unit"
                    )));
                }
                (Some(found), None) | (None, Some(found)) => found,
                (None, None) => {
                    return Err(CliError::Usage(format!(
                        "could not find matching unit or machine: {first}"
                    )));
                }
            }
        }
    };
    let line = line(machine, flags, args, words)?;
    let error = std::process::Command::new("ssh").args(line).exec();
    Err(CliError::File {
        action: "running",
        path: "ssh".into(),
        source: error,
    })
}

fn by_id<'a>(machines: &'a [Machine], id: &str) -> Result<Option<&'a Machine>> {
    let mut found = machines.iter().filter(|m| m.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(CliError::Usage(format!(
            "found more than one machine that begins with {id}; write more of it"
        ))),
        (found, _) => Ok(found),
    }
}

/// The machine of a unit; nothing without such a unit.
async fn by_unit<'a>(
    client: &Client,
    machines: &'a [Machine],
    word: &str,
) -> Result<Option<&'a Machine>> {
    let Some(unit) = api::unit(client, &mangle(word)).await? else {
        return Ok(None);
    };
    let name = &unit.name;
    if unit.is_global() {
        return Err(CliError::Usage(format!(
            "unit {name} is global and on several machines; choose one of `fleetctl list-units`"
        )));
    }
    if unit.machine.is_empty() {
        return Err(CliError::Usage(format!(
            "unit {name} is on no machine; start it first"
        )));
    }
    let found = machines.iter().find(|m| m.id == unit.machine);
    found.map(Some).ok_or_else(|| {
        CliError::Usage(format!(
            "unit {name}'s machine {} is not there",
            unit.machine
        ))
    })
}

/// What ssh is called with.
fn line(machine: &Machine, flags: &SshFlags, args: &Ssh, words: &[String]) -> Result<Vec<String>> {
    if machine.ip.is_empty() {
        return Err(CliError::Usage(format!(
            "machine {} has no address that is known; call ssh yourself, or reach a container with `coracle exec`",
            machine.id
        )));
    }
    let mut line = Vec::new();
    let mut option = |text: String| line.extend(["-o".to_owned(), text]);
    if !flags.strict_host_key_checking {
        option("StrictHostKeyChecking=no".into());
    }
    if let Some(file) = &flags.known_hosts_file {
        option(format!("UserKnownHostsFile={file}"));
    }
    if let Some(seconds) = flags.ssh_timeout {
        option(format!("ConnectTimeout={}", seconds.ceil().max(1.0)));
    }
    if let Some(port) = args.ssh_port {
        line.extend(["-p".to_owned(), port.to_string()]);
    }
    if args.forward_agent {
        line.push("-A".into());
    }
    if let Some(user) = &flags.ssh_username {
        line.extend(["-l".to_owned(), user.clone()]);
    }
    line.extend(["--".to_owned(), machine.ip.clone()]);
    let words = words.strip_prefix(&["--".to_owned()][..]).unwrap_or(words);
    line.extend_from_slice(words);
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::args::{Verb, read};
    use super::*;
    use crate::args::Command;
    use crate::lazy::Lazy;

    fn machine(id: &str, ip: &str) -> Machine {
        Machine {
            id: id.into(),
            ip: ip.into(),
            metadata: Default::default(),
        }
    }

    fn called(text: &str) -> String {
        let words: Vec<_> = text.split(' ').map(Into::into).collect();
        let Command::Fleetctl(Lazy(read)) = read(&words).unwrap().command else {
            panic!("another verb");
        };
        let Verb::Ssh(ssh) = &read.verb else {
            panic!("another verb");
        };
        let found = line(&machine("a1", "10.0.0.7"), &read.ssh, ssh, &ssh.words[1..]);
        found.unwrap().join(" ")
    }

    #[test]
    fn what_ssh_is_called_with() {
        assert_eq!(called("fleetctl ssh a1"), "-- 10.0.0.7");
        assert_eq!(
            called("fleetctl ssh a1 -- uptime -p"),
            "-- 10.0.0.7 uptime -p"
        );
        assert_eq!(
            called(
                "fleetctl --ssh-username core --strict-host-key-checking=false --ssh-timeout 2.5 ssh -A --ssh-port 2222 a1 ls"
            ),
            "-o StrictHostKeyChecking=no -o ConnectTimeout=3 -p 2222 -A -l core -- 10.0.0.7 ls"
        );
    }

    #[test]
    fn machines_by_how_they_begin() {
        let all = [machine("a1b2", "x"), machine("a1c3", "y")];
        assert_eq!(by_id(&all, "a1c").unwrap().unwrap().ip, "y");
        assert!(by_id(&all, "a1").is_err());
        assert!(by_id(&all, "b").unwrap().is_none());
    }
}
