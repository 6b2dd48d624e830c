//! One place to run containers: the command and the daemon.

mod server;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Run the daemon
    Daemon(server::DaemonArgs),
}

fn main() -> std::process::ExitCode {
    let Command::Daemon(args) = Command::parse();
    match server::run(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle: {}", coracle_engine::full_error(&error));
            std::process::ExitCode::FAILURE
        }
    }
}
