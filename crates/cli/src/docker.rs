//! The command line as it is typed: docker's habits, and being called by docker's name.
//!
//! A flag that is given twice counts as it was given last, a switch may be written `--rm=false`, and what cannot be read ends
//! with 125. Called as `docker` (a link of that name), the program has docker's verbs only and finds the daemon by DOCKER_HOST too.
//! Called as `fleetctl`, it has fleet's.

use crate::args::Cli;
use crate::lazy::whole;
use crate::quick;
use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches};
use std::ffi::OsString;
use std::path::Path;

/// Verbs that docker does not have.
const OURS: &[&str] = &[
    "client",
    "daemon",
    "unit",
    "fleetctl",
    "store",
    "machine",
    "os",
    "status",
    "completion",
    "man",
];
/// What docker says of a command line that it cannot read.
const UNREADABLE: i32 = 125;
/// What fleetctl says.
const UNREADABLE_BY_FLEET: i32 = 2;

/// Reads the process's command line, or ends the process: with 0 after help, with 125 after an error.
pub fn parse() -> Cli {
    let args: Vec<OsString> = std::env::args_os().collect();
    let docker = called(&args, "docker");
    let fleetctl = called(&args, "fleetctl");
    let line = match fleetctl {
        true => crate::commands::fleetctl::read(&args),
        false => read(&args, docker),
    };
    match line {
        Ok(mut cli) => {
            if docker && cli.globals.host.is_none() {
                cli.globals.host = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty());
            }
            cli
        }
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = error.print();
            std::process::exit(match error.use_stderr() {
                true if fleetctl => UNREADABLE_BY_FLEET,
                true => UNREADABLE,
                false => 0,
            });
        }
    }
}

fn called(args: &[OsString], name: &str) -> bool {
    args.first()
        .and_then(|a| Path::new(a).file_name())
        .is_some_and(|n| n == name)
}

/// Some switch is written with a value.
pub fn switches_with_values(args: &[OsString]) -> bool {
    args.iter()
        .filter_map(|a| a.to_str())
        .any(|a| a.starts_with("--") && (a.ends_with("=true") || a.ends_with("=false")))
}

fn read(args: &[OsString], docker: bool) -> Result<Cli, clap::Error> {
    let valued = switches_with_values(args);
    if let (false, false, Some(cli)) = (valued, docker, quick::read(args)) {
        return Ok(cli);
    }
    // Switches that take values are found among the flags of every verb.
    let mut command = if valued {
        with_values(whole(Cli::command))
    } else {
        Cli::command()
    }
    .args_override_self(true);
    if docker {
        command = OURS
            .iter()
            .fold(command.name("docker").bin_name("docker"), |c, name| {
                c.mut_subcommand(name, |s| s.hide(true))
            });
    }
    let matches = command.try_get_matches_from_mut(args)?;
    if let (true, Some(verb)) = (
        docker,
        matches.subcommand_name().filter(|v| OURS.contains(v)),
    ) {
        let text =
            format!("'{verb}' is not a docker command; call coracle by its own name for it\n");
        return Err(command.error(ErrorKind::InvalidSubcommand, text));
    }
    Cli::from_arg_matches(&matches)
}

/// Switches that take a value. Only where one is written so, as it would clutter the help.
pub fn with_values(command: Command) -> Command {
    let command = command.mut_args(with_value);
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    names
        .into_iter()
        .fold(command, |c, name| c.mut_subcommand(name, with_values))
}

fn with_value(arg: clap::Arg) -> clap::Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(BoolishValueParser::new()),
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Command as Verb;

    fn of(text: &str, docker: bool) -> Result<Cli, clap::Error> {
        read(
            &text.split(' ').map(OsString::from).collect::<Vec<_>>(),
            docker,
        )
    }

    #[test]
    fn the_name_tells() {
        for (name, docker) in [
            ("docker", true),
            ("/usr/bin/docker", true),
            ("coracle", false),
            ("/docker/coracle", false),
        ] {
            assert_eq!(called(&[name.into()], "docker"), docker, "{name}");
        }
        assert!(of("docker ps -a", true).is_ok());
        let error = of("docker unit list", true).unwrap_err().to_string();
        assert!(error.contains("unit"), "{error}");
        assert!(of("coracle unit list", false).is_ok());
    }

    #[test]
    fn switches_with_values_and_the_last_one_wins() {
        let Verb::Run(run) = of(
            "coracle run --rm=false -i --tty=true --name a --name b i x --rm=true",
            false,
        )
        .unwrap()
        .command
        else {
            panic!("another verb");
        };
        let container = &run.container;
        assert!(!container.rm && container.interactive && container.tty);
        assert_eq!(
            (container.name.as_deref(), container.image()),
            (Some("b"), "i")
        );
        assert_eq!(container.command(), ["x", "--rm=true"]);
    }

    #[test]
    fn the_help_stays_plain() {
        let mut command = whole(Cli::command);
        let run = command
            .find_subcommand_mut("run")
            .unwrap()
            .render_long_help()
            .to_string();
        assert!(run.contains("--rm") && !run.contains("--rm["), "{run}");
        with_values(whole(Cli::command)).debug_assert();
    }
}
