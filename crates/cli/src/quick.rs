//! The verbs of every day are read without making the others: their names alone take longer than reading the line.
//!
//! Only a line that can be read is read here. Help, errors and all other verbs are left to the whole command.

use crate::args::{Cli, Command, Globals};
use crate::lazy::Lazy;
use clap::{Args, FromArgMatches};
use std::ffi::OsString;

/// Reads the line, if its verb is one of these.
pub fn read(line: &[OsString]) -> Option<Cli> {
    match verb(line)? {
        "run" => only("run", line, Command::Run),
        "exec" => only("exec", line, Command::Exec),
        "start" => only("start", line, Command::Start),
        "stop" => only("stop", line, Command::Stop),
        "rm" => only("rm", line, Command::Rm),
        "ps" => only("ps", line, Command::Ps),
        "logs" => only("logs", line, Command::Logs),
        _ => None,
    }
}

const VALUED: [&str; 3] = ["--run-dir=", "--host=", "--machine="];

/// The first word that is no flag of [`Globals`].
fn verb(line: &[OsString]) -> Option<&str> {
    let mut words = line.iter().skip(1);
    loop {
        match words.next()?.to_str()? {
            "--run-dir" | "--host" | "-H" | "--machine" => _ = words.next()?,
            word if VALUED.iter().any(|flag| word.starts_with(flag)) => {}
            word => return Some(word),
        }
    }
}

fn only<T: Args>(
    name: &'static str,
    line: &[OsString],
    make: fn(Lazy<T>) -> Command,
) -> Option<Cli> {
    let mut command = Globals::augment_args(clap::Command::new("coracle"))
        .subcommand(T::augment_args(clap::Command::new(name)))
        .args_override_self(true);
    let matches = command.try_get_matches_from_mut(line).ok()?;
    Some(Cli {
        globals: Globals::from_arg_matches(&matches).ok()?,
        command: make(Lazy(T::from_arg_matches(matches.subcommand()?.1).ok()?)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn as_the_whole_command_reads_it() {
        for line in [
            "coracle run --rm -it -e A=b -v a:/b -p 80:80 --name web nginx -g daemon --rm",
            "coracle --run-dir /x exec web ls -la",
            "coracle exec --run-dir=/x -u 1 -e A=b web sh -c true",
            "coracle -H unix:///a --host=unix:///b ps -a --format json",
            "coracle start -a web",
            "coracle stop -t 3 a b",
            "coracle rm -f a b",
            "coracle --run-dir=/x logs -f --tail 3 web",
            "coracle --machine web-2 ps --all-machines",
            "coracle exec --machine=4f3a web ls",
        ] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let quick = read(&line).unwrap();
            let whole = Cli::command()
                .args_override_self(true)
                .try_get_matches_from(&line)
                .and_then(|m| Cli::from_arg_matches(&m))
                .unwrap();
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_whole_command() {
        for line in [
            "coracle",
            "coracle --run-dir",
            "coracle --help",
            "coracle exec --help",
            "coracle exec",
            "coracle run --nope x",
            "coracle unit list",
            "coracle help run",
        ] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(read(&line).is_none(), "{line:?}");
        }
    }
}
