//! The running system onto another disk, with a configuration.

use super::{Os, error::OsError, update::Tell};
use coracle_cloud_config::{NOBODYS, understand};
use coracle_os::RUNNING;
use std::{path::Path, sync::Arc};

impl Os {
    /// Writes the system that runs onto a disk; without a configuration with the one that this machine goes by.
    ///
    /// # Errors
    /// [`OsError`]. If it was begun, the disk starts nothing.
    pub async fn install(
        self: &Arc<Self>,
        disk: String,
        erase: bool,
        configuration: Option<String>,
        tell: Tell,
    ) -> Result<(), OsError> {
        let os = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _alone = os.busy.try_acquire().map_err(|_| OsError::Busy)?;
            let configuration = match configuration {
                Some(text) => checked(text)?,
                None => std::fs::read_to_string(RUNNING)
                    .map_err(|e| OsError::Read(RUNNING.to_owned(), e))?,
            };
            let disk = Path::new(&disk);
            coracle_os::install::install(&os.machine, disk, erase, &configuration, |l| tell(l))?;
            Ok(())
        });
        done.await.map_err(|_| OsError::Interrupted)?
    }
}

/// A configuration without mistakes: on a disk that was never started there is no former one to go by.
fn checked(text: String) -> Result<String, OsError> {
    let problems = understand(&text, NOBODYS).problems;
    if problems.is_empty() {
        return Ok(text);
    }
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Err(OsError::Configuration(problems.join("; ")))
}
