//! The holder: forks one shim per container and keeps listening sockets while daemons come and go.

use coracle_shim::{
    error::{ShimError, chain},
    holder,
};
use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "usage: coracle-holder --run-dir DIR";

fn main() -> ExitCode {
    let mut run_dir = None;
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--run-dir") => run_dir = args.next().map(PathBuf::from),
            Some("--version") => {
                println!("coracle-holder {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            Some("--help") => {
                println!("{USAGE}\n\nStarted by `coracle daemon`; forks one shim per container.");
                return ExitCode::SUCCESS;
            }
            _ => run_dir = None,
        }
    }
    let Some(run_dir) = run_dir else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match holder::run(&run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ShimError::Taken { .. }) => {
            eprintln!("coracle-holder: {error}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("coracle-holder: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
