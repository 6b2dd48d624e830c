//! The context: a directory without what is ignored, an address, or what comes on stdin.

use super::Build;
use crate::client::{Body, empty, stream};
use crate::commands::copy::{file_error, usage};
use crate::error::Result;
use coracle_dockerfile::Ignore;
use coracle_image::pack::pack_some;
use coracle_image::produced;
use std::fs;
use std::io::{Error, Read};
use std::path::{Path, PathBuf};

/// What is sent, and what is known of the Dockerfile.
pub(super) struct Sent {
    pub body: Body,
    /// Its name in the context.
    pub dockerfile: String,
    pub text: Option<String>,
    pub remote: Option<String>,
}

/// The context as it is sent.
pub(super) fn sent(args: &Build) -> Result<Sent> {
    if args.context.starts_with("http://") || args.context.starts_with("https://") {
        return Ok(Sent {
            body: empty(),
            dockerfile: args.file.clone().unwrap_or_default(),
            text: None,
            remote: Some(args.context.clone()),
        });
    }
    if args.context == "-" {
        return from_stdin(args);
    }
    let dir = Path::new(&args.context);
    if !dir.is_dir() {
        return Err(usage(format!(
            "unable to prepare context: path \"{}\" not found, or no directory",
            args.context
        )));
    }
    let dir = fs::canonicalize(dir).map_err(file_error("opening", dir))?;
    // A Dockerfile from elsewhere goes along under a name that nothing else has.
    let (dockerfile, text, more) = match args.file.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            (format!(".dockerfile.{}", std::process::id()), text, true)
        }
        given => {
            let path = given.map_or_else(|| dir.join("Dockerfile"), PathBuf::from);
            // As docker does: a name that is not here may be one in the context.
            let path = if path.exists() || path.is_absolute() {
                path
            } else {
                dir.join(path)
            };
            let text = fs::read_to_string(&path).map_err(|source| {
                usage(format!(
                    "unable to prepare context: the Dockerfile {} cannot be read: {source}",
                    path.display()
                ))
            })?;
            let real = fs::canonicalize(&path).map_err(file_error("opening", &path))?;
            match real.strip_prefix(&dir) {
                Ok(inside) => (inside.to_string_lossy().into_owned(), text, false),
                Err(_) => (format!(".dockerfile.{}", std::process::id()), text, true),
            }
        }
    };
    let own = dir.join(format!("{dockerfile}.dockerignore"));
    let ignored =
        fs::read_to_string(&own).or_else(|_| fs::read_to_string(dir.join(".dockerignore")));
    let patterns = ignored.map(|t| Ignore::read(&t)).unwrap_or_default();
    let ignore = Ignore::new(&patterns).map_err(|e| usage(format!(".dockerignore: {e}")))?;
    let (reader, writer, ending) = produced(1 << 20);
    let extra = more.then(|| (dockerfile.clone(), text.clone()));
    let always = [
        dockerfile.clone(),
        ".dockerignore".to_owned(),
        format!("{dockerfile}.dockerignore"),
    ];
    tokio::task::spawn_blocking(move || {
        let skip = |path: &[u8]| {
            let Ok(path) = std::str::from_utf8(path) else {
                return false;
            };
            // The daemon needs these, and takes them away where they are not to be copied.
            let needed = always
                .iter()
                .any(|a| a == path || a.starts_with(&format!("{path}/")));
            !needed && ignore.excludes(path) && !ignore.may_hold_exceptions(path)
        };
        let more: Vec<(&str, &[u8])> = extra
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_bytes()))
            .collect();
        let packed = fs::File::open(&dir).and_then(|d| pack_some(d, &skip, &more, writer));
        // A build of less than the context would look like one of all of it: the request breaks off.
        let named = |e: Error| Error::new(e.kind(), format!("reading the context: {e}"));
        let packed = packed.map(drop).map_err(named);
        // The daemon's answer has begun, and only breaks off as well. If the daemon left, it says why.
        if let Err(error) = &packed
            && error.kind() != std::io::ErrorKind::BrokenPipe
        {
            eprintln!("coracle: {error}");
        }
        ending.tell(packed);
    });
    Ok(Sent {
        body: stream(reader),
        dockerfile,
        text: Some(text),
        remote: None,
    })
}

/// An archive, or a Dockerfile that needs no files.
fn from_stdin(args: &Build) -> Result<Sent> {
    let mut start = vec![0; 512];
    let mut length = 0;
    let mut stdin = std::io::stdin().lock();
    while length < start.len() {
        match stdin.read(&mut start[length..])? {
            0 => break,
            n => length += n,
        }
    }
    start.truncate(length);
    drop(stdin);
    let compressed = matches!(
        start[..],
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0xfd, b'7', b'z', ..]
            | [b'B', b'Z', b'h', ..]
    );
    if compressed || coracle_image::is_tar(&start[..]) {
        return Ok(Sent {
            body: stream(tokio::io::AsyncReadExt::chain(
                std::io::Cursor::new(start),
                tokio::io::stdin(),
            )),
            dockerfile: args.file.clone().unwrap_or_default(),
            text: None,
            remote: None,
        });
    }
    let mut bytes = start;
    std::io::stdin().read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| usage("what is on stdin is neither an archive nor a Dockerfile"))?;
    let nothing = std::env::temp_dir();
    let dir = fs::File::open(&nothing).map_err(file_error("opening", &nothing))?;
    let mut archive = Vec::new();
    pack_some(
        dir,
        &|_| true,
        &[("Dockerfile", text.as_bytes())],
        &mut archive,
    )?;
    Ok(Sent {
        body: stream(std::io::Cursor::new(archive)),
        dockerfile: String::new(),
        text: Some(text),
        remote: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;
    use http_body_util::BodyExt;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        build: Build,
    }

    async fn packed(words: &[&str]) -> std::io::Result<usize> {
        let words = std::iter::once("build").chain(words.iter().copied());
        let line = Line::parse_from(words);
        let body = sent(&line.build).unwrap().body;
        body.collect().await.map(|all| all.to_bytes().len())
    }

    #[tokio::test]
    async fn a_context_that_cannot_be_read_breaks_the_request_off() {
        let dir = tempfile::tempdir().unwrap();
        let dockerfile = dir.path().join("Dockerfile");
        fs::write(&dockerfile, "FROM scratch\n").unwrap();
        let dockerfile = dockerfile.to_str().unwrap();
        assert!(packed(&[dir.path().to_str().unwrap()]).await.unwrap() > 1024);
        // Nobody can read what the kernel only lets write, root neither.
        let error = packed(&["-f", dockerfile, "/sys/bus/platform"]).await;
        let error = error.unwrap_err().to_string();
        let named = error.starts_with("reading the context: drivers")
            && error.ends_with(": Permission denied (os error 13)");
        assert!(named, "{error}");
    }
}
