//! COPY, ADD and WORKDIR: layers that are made without running anything.

use crate::error::{BuildError, Result, file, invalid};
use crate::key::Key;
use crate::place::{Change, Placer, mode_change};
use crate::plan::Base;
use crate::report::Event;
use crate::source::{Item, Place, Search};
use crate::stage::{Stage, clean};
use crate::tree;
use coracle_dockerfile::{Copy, Heredoc, Ignore, expand_raw};
use coracle_engine::spec::user;
use coracle_image::{CacheRecord, Digest, Pin};
use coracle_sys::overlay::open_overlay;
use coracle_sys::view::{self, Parts};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a COPY or ADD does, with its variables replaced.
struct Job {
    /// `COPY` or `ADD`.
    command: &'static str,
    sources: Vec<String>,
    /// Files that were made for it: here-documents and downloads.
    files: Vec<PathBuf>,
    root: Arc<OwnedFd>,
    /// Keeps what the files are of, if they are of an image.
    _pin: Option<Pin>,
    /// The stage or image, as it is written; none of the context.
    from: Option<String>,
    /// Absolute, links not followed yet.
    target: PathBuf,
    into: bool,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    unpack: bool,
    /// Whether what came from the web is unpacked as well.
    unpack_web: bool,
    parents: bool,
    stamp: i64,
    epoch: Option<i64>,
}

impl Stage {
    pub async fn copy(&mut self, copy: &Copy, add: bool, source: &str) -> Result<()> {
        let command = if add { "ADD" } else { "COPY" };
        let mut job = self.job(copy, command).await?;
        let mut sources = Vec::new();
        for text in &copy.sources {
            let text = self.text(text)?;
            if add && is_git(&text) {
                return Err(invalid(format!(
                    "ADD {text}: git repositories are not fetched by this release; clone it first and COPY it"
                )));
            }
            if add && (text.starts_with("http://") || text.starts_with("https://")) {
                job.files.push(self.download(&text, copy, &job).await?);
            } else if copy.checksum.is_some() {
                return Err(invalid(
                    "checksum can't be specified for non-HTTP(S) sources; leave --checksum out",
                ));
            } else {
                sources.push(text);
            }
        }
        job.sources = sources;
        for document in &copy.inline {
            job.files.push(self.inline(document)?);
        }
        if job.sources.len() + job.files.len() > 1 && !job.into {
            return Err(invalid(format!(
                "When using {command} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        let job = Arc::new(job);
        let (items, part) = {
            let job = job.clone();
            crate::within(&self.shared.work, move || job.find()).await?
        };
        let key = Key::new("copy 1")
            .add(self.state.chain().to_string())
            .add(part.to_string())
            .finish();
        if let Some((record, pin)) = self.shared.cached(&key) {
            self.voice.say(Event::Cached);
            self.state.layer(source, record.layer, record.created, pin);
            return Ok(());
        }
        self.place(key, source, move |root| job.put(root, &items))
            .await
    }

    async fn job(&mut self, copy: &Copy, command: &'static str) -> Result<Job> {
        let wanted = self.text(&copy.destination)?;
        if wanted.is_empty() {
            return Err(invalid(format!("{command} with an empty destination")));
        }
        let target = clean(&Path::new(self.state.workdir()).join(&wanted));
        let text = |t: &Option<String>| t.as_ref().map(|t| self.text(t)).transpose();
        let (chown, chmod) = (text(&copy.chown)?, text(&copy.chmod)?);
        if let Some(mode) = &chmod
            && mode_change(mode).is_none()
        {
            return Err(invalid(format!(
                "invalid --chmod={mode}; write octal digits as 755, or changes as u=rwX,go=rX"
            )));
        }
        let (root, pin) = self.root_of(copy.from.as_deref()).await?;
        let exclude = copy
            .exclude
            .iter()
            .map(|e| self.text(e))
            .collect::<Result<_>>()?;
        Ok(Job {
            command,
            sources: Vec::new(),
            files: Vec::new(),
            root: Arc::new(root),
            _pin: pin,
            from: copy.from.clone(),
            into: wanted.ends_with('/')
                || matches!(wanted.as_str(), "." | "..")
                || wanted.ends_with("/.")
                || copy.parents,
            target: target.into(),
            chown: chown.filter(|c| !c.is_empty()),
            chmod,
            exclude,
            unpack: copy.unpack.unwrap_or(command == "ADD"),
            unpack_web: copy.unpack == Some(true),
            parents: copy.parents,
            stamp: self.state.stamp,
            epoch: self.shared.epoch.map(|e| e.timestamp()),
        })
    }

    /// The files of a stage or an image, or of the context, for reading, and what keeps them from being removed meanwhile.
    pub async fn root_of(&self, from: Option<&str>) -> Result<(OwnedFd, Option<Pin>)> {
        let Some(from) = from else {
            let root = self.shared.context.root.try_clone();
            return Ok((root.map_err(BuildError::Copy)?, None));
        };
        let (layers, pin) = self.layers_of(from).await?;
        Ok((self.open(&layers)?, Some(pin)))
    }

    /// Layers of a stage or an image, lowest first, and what keeps them from being removed: a step that lost some of them on its way
    /// would be remembered as if it had seen all. One that went before says so when it is opened.
    pub async fn layers_of(&self, from: &str) -> Result<(Vec<Digest>, Pin)> {
        let layers = match self.from(from) {
            Base::Scratch => Vec::new(),
            Base::Stage(number) => self.shared.stage(number).await?.layers.clone(),
            Base::Image(name) => self.image(&name, None).await?.layers,
        };
        let pin = self.shared.engine.images().hold(&layers);
        Ok((layers, pin))
    }

    /// A view of layers, for reading.
    pub fn open(&self, layers: &[Digest]) -> Result<OwnedFd> {
        Ok(open_overlay(&self.lower(layers)?)?)
    }

    /// Directories of layers, topmost first; an empty one of none.
    pub fn lower(&self, layers: &[Digest]) -> Result<Vec<PathBuf>> {
        let mut dirs = self.shared.engine.images().dirs_of(layers)?;
        if dirs.is_empty() {
            dirs.push(self.shared.work.directory("nothing")?);
        }
        Ok(dirs)
    }

    async fn download(&self, url: &str, copy: &Copy, job: &Job) -> Result<PathBuf> {
        let dir = self.shared.work.directory("download")?;
        let failed = |why: String| BuildError::Fetch {
            url: url.to_owned(),
            why,
        };
        let fetched = self
            .shared
            .engine
            .images()
            .fetch_url(url, &dir.join("file"))
            .await
            .map_err(|e| failed(coracle_engine::full_error(&e)))?;
        if let Some(wanted) = &copy.checksum {
            let wanted = self.text(wanted)?;
            let wanted: Digest = wanted
                .parse()
                .map_err(|e| invalid(format!("--checksum={wanted}: {e}")))?;
            if wanted != fetched.digest {
                return Err(failed(format!(
                    "its digest is {}, and --checksum says {wanted}",
                    fetched.digest
                )));
            }
        }
        let name = match fetched.name {
            name if !name.is_empty() => name,
            _ if job.into => {
                return Err(failed(
                    "the address names no file; give the destination a name".into(),
                ));
            }
            // As BuildKit calls it, should the destination turn out to be a directory.
            _ => "__unnamed__".into(),
        };
        // Of its own, since the file may be called as anything else here.
        let path = self.shared.work.directory("named")?.join(&name);
        fs::rename(dir.join("file"), &path).map_err(file("renaming", &path))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, private).map_err(file("setting the mode of", &path))?;
        Ok(path)
    }

    fn inline(&self, document: &Heredoc) -> Result<PathBuf> {
        let variable = |name: &str| self.state.variable(name);
        let content = if document.expand {
            expand_raw(&document.content, self.shared.file.escape, &variable)
                .map_err(|e| invalid(e.to_string()))?
        } else {
            document.content.clone()
        };
        let dir = self.shared.work.directory("document")?;
        let path = dir.join(document.name.rsplit('/').next().unwrap_or("document"));
        fs::write(&path, content).map_err(file("writing", &path))?;
        let open = fs::File::options()
            .write(true)
            .open(&path)
            .map_err(file("opening", &path))?;
        rustix::fs::fchmod(&open, Mode::from_raw_mode(0o644))
            .and_then(|()| rustix::fs::futimens(&open, &tree::at_second(self.state.stamp)))
            .map_err(|e| file("writing", &path)(e.into()))?;
        Ok(path)
    }

    /// Makes a layer of what `put` does to the files of the image in the making.
    async fn place(
        &mut self,
        key: Digest,
        created_by: &str,
        put: impl FnOnce(BorrowedFd<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let parts = Parts {
            lower: self.lower(&self.state.layers)?,
            upper: self.shared.work.directory("layer")?,
            work: self.shared.work.directory("overlay")?,
            binds: Vec::new(),
        };
        let images = self.shared.engine.images().clone();
        let newest = self.shared.epoch;
        let made = crate::within(&self.shared.work, move || {
            view::inside(&parts, put)??;
            Ok(images.adopt(&parts.upper, newest)?)
        });
        let adopted = made.await?;
        let mut record = CacheRecord::new(key, adopted.diff_id, created_by.to_owned());
        record.created = self.shared.now();
        self.state.layer(
            created_by,
            adopted.diff_id,
            record.created,
            Some(adopted.pin),
        );
        self.shared.remember(record);
        Ok(())
    }

    pub async fn make_workdir(&mut self, path: &str) -> Result<()> {
        let line = format!("WORKDIR {path}");
        let root = self.open(&self.state.layers)?;
        let there =
            tree::stat(root.as_fd(), Path::new(path)).map_err(|e| BuildError::Copy(e.into()))?;
        match there.as_ref().map(tree::kind) {
            Some(FileType::Directory) => {
                self.state.line(line);
                return Ok(());
            }
            Some(_) => return Err(invalid(format!("{path} is no directory in the image"))),
            None => {}
        }
        let key = Key::new("workdir 1")
            .add(self.state.chain().to_string())
            .add(path)
            .finish();
        if let Some((record, pin)) = self.shared.cached(&key) {
            self.voice.say(Event::Cached);
            self.state.layer(line, record.layer, record.created, pin);
            return Ok(());
        }
        let (path, stamp) = (PathBuf::from(path), self.state.stamp);
        let epoch = self.shared.epoch.map(|e| e.timestamp());
        self.place(key, &line, move |root| {
            let real = tree::resolve(root, &path).map_err(|e| BuildError::Copy(e.into()))?;
            let mut placer = Placer::new(root, None);
            placer.directory(&real)?;
            placer.finish(stamp, epoch)
        })
        .await
    }
}

impl Job {
    /// Finds what is copied, and a digest of that and of how. Blocking.
    fn find(&self) -> Result<(Vec<Item>, Digest)> {
        let exclude = self.patterns()?;
        let excluded = |p: &Path| exclude.as_ref().is_some_and(|e| leaves_out(e, p));
        let mut items = Vec::new();
        let search = Search {
            command: self.command,
            root: &self.root,
            place: self.from.as_deref().map_or(Place::Context, Place::From),
            unpack: self.unpack,
            parents: self.parents,
            excluded: &excluded,
        };
        for source in &self.sources {
            items.extend(search.find(source)?);
        }
        for path in &self.files {
            let dir = path.parent().unwrap_or(Path::new("/"));
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(dir, flags, Mode::empty())
                .map_err(|e| file("opening", dir)(e.into()))?;
            let search = Search {
                root: &Arc::new(root),
                place: Place::Context,
                parents: false,
                // What came from the web is kept as it is, unless it is asked for.
                unpack: self.unpack_web,
                ..search
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            items.extend(search.find(&name.replace(['*', '?', '[', '\\'], "?"))?);
        }
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let mut key = Key::new("job 1")
            .add(self.command)
            .add(self.target.as_os_str().as_encoded_bytes())
            .add([u8::from(self.into), u8::from(self.parents)])
            .add(text(&self.chown))
            .add(text(&self.chmod))
            .add(self.epoch.map(|e| e.to_string()).unwrap_or_default())
            .all(&self.exclude);
        for item in &items {
            key.put(item.name.as_encoded_bytes());
            key.put([u8::from(item.directory), u8::from(item.unpack)]);
            let parents = item.parents.as_deref().unwrap_or(Path::new(""));
            key.put(parents.as_os_str().as_encoded_bytes());
            key.put(item.hash);
        }
        Ok((items, key.finish()))
    }

    fn patterns(&self) -> Result<Option<Ignore>> {
        if self.exclude.is_empty() {
            return Ok(None);
        }
        let read = Ignore::new(&self.exclude);
        read.map(Some)
            .map_err(|e| invalid(format!("--exclude: {e}")))
    }

    /// Copies. Blocking.
    fn put(&self, root: BorrowedFd<'_>, items: &[Item]) -> Result<()> {
        let owner = self.chown.as_deref().map(|c| owner(root, c)).transpose()?;
        let exclude = self.patterns()?;
        let mode = self.chmod.as_deref().and_then(mode_change);
        let change = Change {
            owner,
            mode: mode.as_ref().map(|m| {
                let m: &(dyn Fn(u32, bool) -> u32 + Sync) = &**m;
                m
            }),
            excluded: &|p: &Path| exclude.as_ref().is_some_and(|e| leaves_out(e, p)),
        };
        let target = tree::resolve(root, &self.target).map_err(|e| BuildError::Copy(e.into()))?;
        if items.len() > 1 && !self.into {
            let there = tree::stat(root, &target).map_err(|e| BuildError::Copy(e.into()))?;
            if there.as_ref().map(tree::kind) != Some(FileType::Directory) {
                return Err(invalid(format!(
                    "When using {} with more than one source file, the destination must be a directory and end with a /",
                    self.command
                )));
            }
        }
        let mut placer = Placer::new(root, owner);
        placer.copy(items, &target, self.into, &change)?;
        placer.finish(self.stamp, self.epoch)
    }
}

fn leaves_out(patterns: &Ignore, path: &Path) -> bool {
    path.to_str()
        .is_some_and(|p| !p.is_empty() && patterns.excludes(p) && !patterns.may_hold_exceptions(p))
}

fn is_git(text: &str) -> bool {
    let web = text.starts_with("http://") || text.starts_with("https://");
    let path = text.split(['#', '?']).next().unwrap_or(text);
    (web && path.ends_with(".git"))
        || text.starts_with("git://")
        || text.starts_with("git@")
        || text.starts_with("ssh://")
}

/// Reads `--chown` by the image's own users: a number alone is user and group.
fn owner(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32)> {
    if let Ok(id) = text.parse::<u32>() {
        return Ok((id, id));
    }
    let read = |path: &str| {
        let mut text = String::new();
        let fd = tree::open(root, Path::new(path), OFlags::RDONLY).ok();
        if let Some(fd) = fd {
            let mut bytes = Vec::new();
            let _ = fs::File::from(fd).take(16 << 20).read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        text
    };
    let found = user::resolve(text, &[], &read("etc/passwd"), &read("etc/group"))
        .map_err(|e| invalid(format!("--chown={text}: {e}")))?;
    Ok((found.uid, found.gid))
}
