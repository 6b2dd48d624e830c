//! `cp`. What goes where is decided as docker's `pkg/archive` decides it (`PrepareArchiveCopy`).

use crate::client::{Client, check, empty, escape, query, stream};
use crate::error::{CliError, Result};
use crate::format::words::size;
use crate::terminal::is_terminal;
use base64::Engine as _;
use clap::Args;
use coracle_engine::full_error;
use coracle_image::pack::{Tree, pack};
use coracle_image::{CopyInto, Produced, copy_into, produced};
use http_body_util::BodyExt;
use hyper::{Method, Response, body::Incoming};
use serde_json::Value;
use std::error::Error as _;
use std::ffi::OsString;
use std::fs;
use std::io::{Error, Write};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio_util::io::SyncIoBridge;

/// `coracle cp`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coracle cp nginx.conf web:/etc/nginx/\n  coracle cp web:/var/log ./logs\n  coracle cp web:/data - | tar t"
)]
pub struct Cp {
    /// What is copied into a container belongs to the container's user
    #[arg(short, long)]
    pub archive: bool,
    /// Copy what a link leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing of what was copied
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on stdin
    #[arg(value_name = "FROM")]
    pub from: String,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on stdout
    #[arg(value_name = "TO")]
    pub to: String,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq)]
struct End {
    path: String,
    exists: bool,
    directory: bool,
    /// Name of the link that led here.
    called: Option<String>,
}

pub(super) fn usage(text: impl Into<String>) -> CliError {
    CliError::Usage(text.into())
}

/// `CONTAINER:PATH`, or a path of this machine.
fn split(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((name, path)) if !text.starts_with('/') && !name.starts_with('.') => {
            (Some(name), path)
        }
        _ => (None, text),
    }
}

/// Whether a path can only be a directory.
fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// Directory and last part, which is `.` if that is how the path ends, and `/` of the root.
fn parts(path: &str) -> (String, String) {
    if path == "." || path.ends_with("/.") {
        let dir = path.strip_suffix('.').unwrap_or(path);
        return (
            if dir.is_empty() {
                "./".into()
            } else {
                dir.into()
            },
            ".".into(),
        );
    }
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        _ if path.is_empty() => ("/".into(), "/".into()),
        Some(("", name)) => ("/".into(), name.into()),
        Some((dir, name)) => (dir.into(), name.into()),
        None => (".".into(), path.into()),
    }
}

/// The directory to copy into, and what the top of the archive becomes.
fn place(from: &End, to: &End) -> Result<(String, Option<(String, String)>)> {
    let (dir, name) = parts(&to.path);
    let old = parts(&from.path).1;
    match (to.exists, to.directory) {
        (true, true) => Ok((to.path.clone(), from.called.clone().map(|c| (old, c)))),
        (true, false) if from.directory => Err(usage(format!(
            "cannot copy directory {} to {}, which is none",
            from.path, to.path
        ))),
        (false, _) if !from.directory && asserts_directory(&to.path) => {
            Err(usage(format!("no such directory: {}", to.path)))
        }
        _ => Ok((dir, Some((old, name)))),
    }
}

pub async fn cp(client: &Client, args: &Cp) -> Result<()> {
    match (split(&args.from), split(&args.to)) {
        ((Some(_), _), (Some(_), _)) => Err(usage(
            "copying between containers is not supported; copy to this machine first, or pipe: cp A:PATH - | cp - B:DIR",
        )),
        ((None, _), (None, _)) => Err(usage(
            "must specify at least one container source, as CONTAINER:PATH",
        )),
        ((Some(name), path), (None, to)) => copy_out(client, args, name, path, to).await,
        ((None, from), (Some(name), path)) => copy_in(client, args, from, name, path).await,
    }
}

fn archive_path(name: &str, pairs: &[(&str, String)]) -> String {
    format!("/containers/{}/archive{}", escape(name), query(pairs))
}

/// What the daemon says of a path of a container.
fn stat(answer: &Response<Incoming>) -> Option<Value> {
    let text = answer.headers().get("x-docker-container-path-stat")?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    serde_json::from_slice(&decoded).ok()
}

async fn look(client: &Client, name: &str, path: &str) -> Result<Option<Value>> {
    let asked = archive_path(name, &[("path", path.to_owned())]);
    // An answer to HEAD has no body: what is wrong with anything but the path is asked for again.
    let answer = client.send(Method::HEAD, &asked, empty(), &[]).await?;
    if answer.status().is_success() {
        return Ok(stat(&answer));
    }
    client
        .get(&format!("/containers/{}/json", escape(name)))
        .await?;
    Ok(None)
}

fn mode(stat: &Value, bit: u32) -> bool {
    stat["mode"].as_u64().unwrap_or(0) & (1 << bit) != 0
}

fn is_directory(stat: &Value) -> bool {
    mode(stat, 31)
}

/// Where a link leads, if it is one.
fn target(stat: &Value) -> Option<&str> {
    mode(stat, 27).then(|| stat["linkTarget"].as_str().unwrap_or_default())
}

async fn copy_out(client: &Client, args: &Cp, name: &str, path: &str, to: &str) -> Result<()> {
    let mut from = End {
        path: path.to_owned(),
        exists: true,
        directory: false,
        called: None,
    };
    if args.follow_link
        && let Some(found) = look(client, name, path).await?
        && let Some(target) = target(&found)
    {
        target.clone_into(&mut from.path);
        from.called = Some(parts(path).1);
    }
    let asked = archive_path(name, &[("path", from.path.clone())]);
    let answer = check(client.send(Method::GET, &asked, empty(), &[]).await?).await?;
    from.directory = stat(&answer).is_some_and(|s| is_directory(&s));
    if to == "-" {
        if is_terminal(std::io::stdout()) {
            return Err(usage(
                "cowardly refusing to copy to a terminal; redirect it",
            ));
        }
        return download(answer, &mut std::io::stdout().lock()).await;
    }
    let (dir, rename) = place(&from, &local(to)?)?;
    let copied = unpack(answer, Path::new(&dir), rename).await?;
    told(args, copied, to);
    Ok(())
}

/// The end of a copy on this machine; a link is followed.
fn local(path: &str) -> Result<End> {
    if path.is_empty() {
        return Err(usage("the path on this machine is empty"));
    }
    let found = fs::metadata(path);
    let directory = found.as_ref().is_ok_and(fs::Metadata::is_dir);
    Ok(End {
        path: path.to_owned(),
        exists: found.is_ok(),
        directory,
        called: None,
    })
}

pub(super) fn file_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::File {
        action,
        path,
        source,
    }
}

pub(super) async fn download(answer: Response<Incoming>, to: &mut impl Write) -> Result<()> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            to.write_all(&data)?;
        }
    }
    Ok(to.flush()?)
}

/// Writes an answer to stdout, or into a file, which is there whole or not at all.
pub(super) async fn download_to(answer: Response<Incoming>, output: Option<&Path>) -> Result<()> {
    let Some(path) = output else {
        return download(answer, &mut std::io::stdout().lock()).await;
    };
    let make = file_error("making", path);
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        // A device or a pipe is written to.
        return download(answer, &mut fs::File::create(path).map_err(make)?).await;
    }
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = target.parent().filter(|p| !p.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".coracle-")
        // The process's mask takes away of it.
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(dir.unwrap_or(Path::new(".")))
        .map_err(make)?;
    download(answer, &mut file).await?;
    let kept = file.persist(&target);
    kept.map_err(|e| file_error("making", path)(e.error))?;
    Ok(())
}

/// Unpacks an archive below a directory of this machine; gives the bytes of it.
async fn unpack(
    answer: Response<Incoming>,
    dir: &Path,
    rename: Option<(String, String)>,
) -> Result<u64> {
    let directory = fs::canonicalize(dir).map_err(file_error("opening", dir))?;
    let root = fs::File::open("/").map_err(file_error("opening", Path::new("/")))?;
    let (reader, mut writer) = tokio::io::duplex(1 << 20);
    let reader = SyncIoBridge::new(reader);
    let shown = dir.display().to_string();
    let copying = tokio::task::spawn_blocking(move || {
        let into = CopyInto {
            root: root.into(),
            directory,
            replace: false,
            // As docker's client: what comes out belongs to who asked.
            owner: Some((
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            )),
            rename: rename.map(|(old, new)| (old.into_bytes(), new.into_bytes())),
        };
        copy_into(into, reader)
    });
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes += data.len() as u64;
            // The other side says why it left.
            if writer.write_all(&data).await.is_err() {
                break;
            }
        }
    }
    drop(writer);
    match copying.await {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(error)) => Err(usage(format!("copying to {shown}: {}", full_error(&error)))),
        Err(error) => Err(usage(format!("copying to {shown}: {error}"))),
    }
}

async fn copy_in(client: &Client, args: &Cp, from: &str, name: &str, path: &str) -> Result<()> {
    let mut end = End {
        path: path.to_owned(),
        exists: false,
        directory: false,
        called: None,
    };
    let mut found = look(client, name, path).await?;
    if let Some(target) = found.as_ref().and_then(target).map(str::to_owned) {
        found = look(client, name, &target).await?;
        end.path = target;
    }
    if let Some(found) = &found {
        (end.exists, end.directory) = (true, is_directory(found));
    }
    let (dir, body) = if from == "-" {
        if !end.directory {
            return Err(usage(format!(
                "destination \"{name}:{path}\" must be a directory"
            )));
        }
        (end.path, stream(tokio::io::stdin()))
    } else {
        let (source, start) = source(from, args.follow_link)?;
        let (dir, rename) = place(&start, &end)?;
        let to = rename.map_or_else(|| parts(&start.path).1, |(_, new)| new);
        (dir, stream(packed(from.to_owned(), source, to)))
    };
    let flag = |on: bool| if on { "true" } else { "" }.to_owned();
    let asked = archive_path(
        name,
        &[
            ("path", dir),
            ("noOverwriteDirNonDir", flag(true)),
            ("copyUIDGID", flag(args.archive)),
        ],
    );
    let answer = client.send(Method::PUT, &asked, body, &[]).await;
    check(answer.map_err(of_body)?).await?;
    told(args, local_size(from), &format!("{name}:{path}"));
    Ok(())
}

/// What is copied, as an archive in which it is called `to`. If it cannot be read the request breaks off: the rest must not pass for
/// the whole.
fn packed(shown: String, (base, parent): (OsString, PathBuf), to: String) -> Produced {
    let (reader, writer, ending) = produced(1 << 20);
    tokio::task::spawn_blocking(move || {
        let packed = fs::File::open(&parent)
            .and_then(|dir| pack(dir, &base, to.as_bytes(), Tree::Whole, writer));
        let named = |e: Error| Error::new(e.kind(), format!("reading {shown}: {e}"));
        ending.tell(packed.map(drop).map_err(named));
    });
    reader
}

/// Of a request that broke off, what became of its body; not that the connection broke, which it did for that.
fn of_body(error: CliError) -> CliError {
    let CliError::Http(inner) = &error else {
        return error;
    };
    match inner.source() {
        Some(source) if inner.is_user() => usage(source.to_string()),
        _ => error,
    }
}

/// Name and directory of what is copied, and what it is.
fn source(from: &str, follow: bool) -> Result<((OsString, PathBuf), End)> {
    let mut path = PathBuf::from(from);
    let failed = |e| file_error("opening", Path::new(from))(e);
    let plain = fs::symlink_metadata(&path).map_err(failed)?;
    if plain.is_symlink() && (follow || asserts_directory(from)) {
        path = fs::canonicalize(&path).map_err(failed)?;
    }
    let directory = fs::symlink_metadata(&path).map_err(failed)?.is_dir();
    if asserts_directory(from) && !directory {
        return Err(usage(format!("not a directory: {from}")));
    }
    let end = End {
        path: from.to_owned(),
        exists: true,
        directory,
        called: None,
    };
    let whole = fs::canonicalize(
        path.parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
    .map_err(failed)?;
    let found = match path.file_name() {
        Some(name) if !asserts_directory(from) || !directory => (name.to_owned(), whole),
        _ => (OsString::new(), path),
    };
    Ok((found, end))
}

/// Bytes of files, roughly: only for telling.
fn local_size(path: &str) -> u64 {
    fn walk(path: &Path) -> u64 {
        let below = || fs::read_dir(path).into_iter().flatten().flatten();
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => below().map(|e| walk(&e.path())).sum(),
            found => found.map_or(0, |meta| meta.len()),
        }
    }
    match path {
        "-" => 0,
        path => walk(Path::new(path)),
    }
}

fn told(args: &Cp, bytes: u64, to: &str) {
    if !args.quiet && args.from != "-" {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let bytes = size(bytes as f64);
        eprintln!("Successfully copied {bytes} to {to}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(split("web:/etc"), (Some("web"), "/etc"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("plain"), (None, "plain"));
        for (path, dir, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("a/.", "a/", "."),
            (".", "./", "."),
            ("/", "/", "/"),
            ("x", ".", "x"),
        ] {
            assert_eq!(parts(path), (dir.to_owned(), name.to_owned()), "{path}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_breaks_the_request_off() {
        use tokio::io::AsyncReadExt;
        let read = async |from: &str| {
            let (source, _) = source(from, false).unwrap();
            let mut bytes = Vec::new();
            let mut reader = packed(from.to_owned(), source, "new".into());
            reader.read_to_end(&mut bytes).await.map(|_| bytes.len())
        };
        assert_eq!(
            read("/sys/bus/platform/drivers_autoprobe").await.unwrap() % 512,
            0
        );
        // Nobody can read what the kernel only lets write, root neither.
        let from = "/sys/bus/platform/drivers_probe";
        let error = read(from).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("reading {from}: new: ")),
            "{error}"
        );
    }

    #[test]
    fn where_it_goes() {
        let end = |path: &str, exists, directory| End {
            path: path.to_owned(),
            exists,
            directory,
            called: None,
        };
        let dir = end("/src/d", true, true);
        let file = end("/src/f", true, false);
        let placed = |from: &End, to: End| place(from, &to).map_err(|e| e.to_string());
        assert_eq!(placed(&dir, end("/x", true, true)), Ok(("/x".into(), None)));
        assert_eq!(
            placed(&dir, end("/x", false, false)),
            Ok(("/".into(), Some(("d".into(), "x".into()))))
        );
        assert_eq!(
            placed(&file, end("/y/x", true, false)),
            Ok(("/y".into(), Some(("f".into(), "x".into()))))
        );
        assert!(
            placed(&dir, end("/x", true, false))
                .unwrap_err()
                .contains("cannot copy directory")
        );
        assert!(
            placed(&file, end("/x/", false, false))
                .unwrap_err()
                .contains("no such directory")
        );
    }
}
