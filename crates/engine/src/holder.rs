//! Finding the holder, or starting one.

use crate::client::Holder;
use crate::engine::EngineOptions;
use crate::error::{EngineError, Result};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Name of the holder's program.
pub const PROGRAM: &str = "coracle-holder";
/// Name of the program that is process 1 with `--init`; it lies beside the holder.
const INIT: &str = "coracle-init";
const PATIENCE: Duration = Duration::from_secs(10);

fn program(options: &EngineOptions) -> Result<PathBuf> {
    if let Some(program) = &options.holder {
        return Ok(program.clone());
    }
    let own = std::env::current_exe()
        .map_err(EngineError::file("finding this program", "/proc/self/exe"))?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(PROGRAM))
        .find(|p| p.is_file());
    // Installed apart: libexec holds what people do not call themselves.
    Ok(beside.unwrap_or_else(|| {
        own.parent()
            .and_then(|bin| bin.parent())
            .unwrap_or(&own)
            .join("libexec/coracle")
            .join(PROGRAM)
    }))
}

/// The program that is process 1 with `--init`.
///
/// # Errors
/// [`EngineError::Invalid`] naming the place where it is not.
pub(crate) fn init_program(options: &EngineOptions) -> Result<PathBuf> {
    let path = program(options)?.with_file_name(INIT);
    if path.is_file() {
        return Ok(path);
    }
    Err(EngineError::Invalid(format!(
        "--init needs {}, which is not there; install it again, or leave --init out",
        path.display()
    )))
}

/// The holder of this run directory, started if none listens.
///
/// # Errors
/// [`EngineError::File`] naming the program that could not be run, [`EngineError::Shim`] when it does not answer.
pub(crate) async fn find_or_start(options: &EngineOptions) -> Result<Holder> {
    let holder = Holder::new(&options.run_dir);
    if holder.hello().await.is_ok() {
        return Ok(holder);
    }
    let program = program(options)?;
    let log = options.run_dir.join("holder.log");
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(EngineError::file("opening", &log))?;
    let mut child = tokio::process::Command::new(&program)
        .arg("--run-dir")
        .arg(&options.run_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        // A signal for the daemon's terminal is none for the holder.
        .process_group(0)
        .spawn()
        .map_err(EngineError::file("running", &program))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match holder.hello().await {
            Ok(_) => break,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        // Its socket is the condition; there is nothing to be woken by before it exists.
        tokio::time::sleep(Duration::from_millis(2)).await;
        if let Ok(Some(status)) = child.try_wait() {
            // Another one may have been quicker.
            if holder.hello().await.is_ok() {
                return Ok(holder);
            }
            return Err(EngineError::Refused {
                whom: program.display().to_string(),
                message: format!(
                    "ended at once ({status}); its reason is in {}",
                    log.display()
                ),
            });
        }
    }
    // Reaped when it leaves, however long that takes.
    tokio::spawn(async move { child.wait().await });
    Ok(holder)
}
