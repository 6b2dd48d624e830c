//! Finding etcd's programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::MemberConfig;
use super::{MemberError, unpacked};

/// Where they are looked for before `PATH`.
const PLACES: [&str; 2] = ["/usr/bin", "/usr/local/bin"];
/// How long a program may take that only says its version.
const MOMENT: Duration = Duration::from_secs(30);
/// How long the making of a data directory may take.
const RESTORE: Duration = Duration::from_secs(600);

/// Which etcd is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// One of the host's.
    Host {
        /// Its path; without, it is looked for.
        path: Option<PathBuf>,
    },
    /// One out of an image, by the image's name; see [`super::unpacked`].
    Image(String),
}

/// etcd's programs on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The server.
    pub etcd: PathBuf,
    /// What restores snapshots: `etcdutl` where there is one, else `etcdctl`.
    pub tool: PathBuf,
    /// What stands before both to run them; nothing but for those of an image.
    pub loader: Vec<String>,
    /// The server's version: major, minor, patch.
    pub version: (u32, u32, u32),
}

impl Program {
    /// Looks for the programs on the host, and asks the server for its version. Those of an image are found by
    /// [`Found::in_image`].
    ///
    /// # Errors
    /// `NotFound`, `Image`, `Version`, `Program`; each says the way out.
    pub async fn find(&self) -> Result<Found, MemberError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.find_in(&PLACES.map(PathBuf::from), &path).await
    }

    /// Whether the programs are on the host, without running any: the version is not known.
    pub fn is_on_host(&self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        self.look_in(&PLACES.map(PathBuf::from), &path).is_ok()
    }

    async fn find_in(&self, places: &[PathBuf], path: &OsStr) -> Result<Found, MemberError> {
        let (etcd, tool) = self.look_in(places, path)?;
        Ok(Found {
            version: version_of(&[], &etcd).await?,
            etcd,
            tool,
            loader: Vec::new(),
        })
    }

    /// The server, and what restores snapshots.
    fn look_in(&self, places: &[PathBuf], path: &OsStr) -> Result<(PathBuf, PathBuf), MemberError> {
        let configured = match self {
            Self::Host { path } => path.as_deref(),
            Self::Image(image) => return Err(MemberError::Image(image.clone())),
        };
        let mut places = places.to_vec();
        places.extend(std::env::split_paths(path));
        let etcd = match configured {
            Some(path) if is_program(path) => path.to_owned(),
            Some(path) => {
                return Err(MemberError::NotFound {
                    name: "etcd",
                    looked: path.display().to_string(),
                });
            }
            None => look("etcd", &places)?,
        };
        if let Some(beside) = configured.and_then(Path::parent) {
            // One that was unpacked somewhere has its tools with it.
            places.insert(0, beside.to_owned());
        }
        let tool = look("etcdutl", &places).or_else(|_| look("etcdctl", &places))?;
        Ok((etcd, tool))
    }
}

async fn version_of(loader: &[String], etcd: &Path) -> Result<(u32, u32, u32), MemberError> {
    let said = run(loader, etcd, &["--version".into()], MOMENT).await?;
    let version = version(&said).filter(|(major, minor, _)| *major == 3 && *minor >= 4);
    version.ok_or_else(|| MemberError::Version {
        path: etcd.to_owned(),
        found: said.lines().next().unwrap_or("of no version").to_owned(),
    })
}

impl Found {
    /// The programs of an image that was unpacked at `root`.
    ///
    /// # Errors
    /// `NotInImage`, `Loader`, `Version`, `Program`; each says the way out.
    pub async fn in_image(image: &str, root: &Path) -> Result<Self, MemberError> {
        let program = |name: &'static str| {
            unpacked::program(root, name).ok_or_else(|| MemberError::NotInImage {
                name,
                image: image.to_owned(),
                looked: unpacked::looked(),
            })
        };
        let etcd = program("etcd")?;
        let tool = program("etcdutl").or_else(|_| program("etcdctl"))?;
        let loader = unpacked::loader(root, &etcd)?;
        Ok(Self {
            version: version_of(&loader, &etcd).await?,
            etcd,
            tool,
            loader,
        })
    }

    /// The server's program and what stands before it.
    pub fn command(&self) -> Vec<String> {
        let mut command = self.loader.clone();
        command.push(self.etcd.display().to_string());
        command
    }

    /// Makes the member's data directory, which must not be there, of a snapshot's file.
    ///
    /// # Errors
    /// `Program` with the tool's words.
    pub async fn restore(&self, file: &Path, config: &MemberConfig) -> Result<(), MemberError> {
        let mut arguments = vec!["snapshot".to_owned(), "restore".to_owned()];
        arguments.push(file.display().to_string());
        arguments.extend(config.identity());
        run(&self.loader, &self.tool, &arguments, RESTORE)
            .await
            .map(drop)
    }
}

pub(super) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn look(name: &'static str, places: &[PathBuf]) -> Result<PathBuf, MemberError> {
    let mut candidates = places.iter().map(|place| place.join(name));
    candidates
        .find(|path| is_program(path))
        .ok_or_else(|| MemberError::NotFound {
            name,
            looked: places
                .iter()
                .map(|place| place.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Runs a program to its end; answers what it printed.
async fn run(
    loader: &[String],
    program: &Path,
    arguments: &[String],
    limit: Duration,
) -> Result<String, MemberError> {
    let shown = program;
    let failed = |said: String| MemberError::Program {
        program: format!("{} {}", shown.display(), arguments.join(" ")),
        said,
    };
    let program = program.display().to_string();
    let mut command = loader.iter().chain([&program]);
    let output = tokio::process::Command::new(command.next().unwrap_or(&program))
        .args(command)
        .args(arguments)
        // etcdctl before 3.4 speaks another language without it.
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(limit, output).await {
        Ok(output) => output.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("it took longer than {} s", limit.as_secs()))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or_default();
        return Err(failed(format!("{} ({last})", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Of `etcd Version: 3.4.23`.
fn version(said: &str) -> Option<(u32, u32, u32)> {
    let text = said
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "))?;
    let plain = text.trim().split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(
            version("etcd Version: 3.4.23\nGit SHA: x\n"),
            Some((3, 4, 23))
        );
        assert_eq!(version("etcd Version: 3.6.0-rc.1\n"), Some((3, 6, 0)));
        assert_eq!(version("etcd, the game\n"), None);
    }

    #[tokio::test]
    async fn it_is_found_or_the_way_out_is_said() {
        let found = Program::Host { path: None }.find().await.unwrap();
        assert!(found.version >= (3, 4, 0), "{found:?}");
        assert!(Program::Host { path: None }.is_on_host());
        let nowhere = |path: Option<&str>| Program::Host {
            path: path.map(PathBuf::from),
        };
        let error = nowhere(None)
            .find_in(&[], OsStr::new("/nowhere"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
        assert!(error.to_string().contains("etcd-server"), "{error}");
        let error = nowhere(Some("/nowhere/etcd")).find().await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/etcd"), "{error}");
        assert!(!nowhere(Some("/nowhere/etcd")).is_on_host());
        let error = nowhere(Some("/bin/true")).find().await.unwrap_err();
        assert!(matches!(error, MemberError::Version { .. }), "{error}");
        let error = Program::Image("example/etcd".into())
            .find()
            .await
            .unwrap_err();
        assert!(matches!(error, MemberError::Image(_)), "{error}");
    }
}
