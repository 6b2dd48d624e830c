//! Writes a directory tree as a tar archive: for `cp` and `export`, and for the layers of containers.
//!
//! Names come in byte order and nothing of the archive depends on the clock, so the same tree gives the same bytes.
//! Every name is opened relative to its directory's descriptor and no link is followed, so a tree that changes
//! meanwhile leads nowhere else. Format: POSIX.1-2001 (pax), times in whole seconds as Docker writes them.
//!
//! Worked example: a layer directory with `etc/motd` as overlayfs's whiteout (a character device 0:0) and `etc/passwd`
//! becomes `etc/`, `etc/.wh.motd`, `etc/passwd`.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// What the tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// All that shows, other mounts included.
    Whole,
    /// What is on the root's own mount. Of other mounts only their places, empty.
    OneMount,
    /// An overlayfs layer: its marks become `.wh.` names (OCI image specification, layer.md).
    Layer,
}

/// What an archive holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries.
    pub entries: u64,
    /// Bytes in regular files.
    pub size: u64,
    /// Sockets, which were left out.
    pub sockets: u64,
}

/// What is needed of `statx(2)`.
struct Facts {
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    seconds: i64,
    links: u32,
    inode: (u32, u32, u64),
    device: (u32, u32),
    mount: u64,
}

fn facts(dir: BorrowedFd<'_>, name: &CString) -> Result<Facts, Errno> {
    // Not all of rustix's flags know the mount's id.
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let here = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let s = statx(dir, name, here, wanted)?;
    Ok(Facts {
        kind: FileType::from_raw_mode(u32::from(s.stx_mode)),
        mode: u32::from(s.stx_mode) & 0o7777,
        owner: (s.stx_uid, s.stx_gid),
        size: s.stx_size,
        seconds: s.stx_mtime.tv_sec,
        links: s.stx_nlink,
        inode: (s.stx_dev_major, s.stx_dev_minor, s.stx_ino),
        device: (s.stx_rdev_major, s.stx_rdev_minor),
        mount: s.stx_mnt_id,
    })
}

/// Writes what is called `from` in `dir` under the name `to` in the archive, and all below it. An empty `from` is the
/// directory itself; an empty `to` leaves the top out, so that its entries stand at the archive's root. With `/` all names begin
/// so, as Docker's clients expect of a container's root.
///
/// # Errors
/// Those of reading the tree and of writing the archive.
pub fn pack(
    dir: impl AsFd,
    from: &OsStr,
    to: &[u8],
    tree: Tree,
    out: impl Write,
) -> io::Result<Packed> {
    let from = name(from.as_bytes())?;
    let top = facts(dir.as_fd(), &from)?;
    let mut packer = Packer::new(out, tree, top.mount, &|_| false);
    packer.entry(dir.as_fd(), &from, to.to_vec(), &top)?;
    packer.finish()
}

/// Writes what is in a directory as an archive without what is left out, and files of other origin before it. `skip` hears of
/// names relative to the directory, without slashes at their ends.
///
/// # Errors
/// As [`pack`]'s.
pub fn pack_some(
    dir: impl AsFd,
    skip: &dyn Fn(&[u8]) -> bool,
    more: &[(&str, &[u8])],
    out: impl Write,
) -> io::Result<Packed> {
    let top = facts(dir.as_fd(), &c"".to_owned())?;
    let mut packer = Packer::new(out, Tree::Whole, top.mount, skip);
    for (path, bytes) in more {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        packer.tar.append_data(&mut header, path, *bytes)?;
    }
    packer.entry(dir.as_fd(), &c"".to_owned(), Vec::new(), &top)?;
    packer.finish()
}

fn name(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::INVAL.into())
}

struct Packer<'s, W: Write> {
    tar: Builder<W>,
    skip: &'s dyn Fn(&[u8]) -> bool,
    tree: Tree,
    /// The top's own.
    mount: u64,
    /// Names of files that have more than one.
    links: HashMap<(u32, u32, u64), Vec<u8>>,
    buffer: Vec<u8>,
    packed: Packed,
}

impl<'s, W: Write> Packer<'s, W> {
    fn new(out: W, tree: Tree, mount: u64, skip: &'s dyn Fn(&[u8]) -> bool) -> Self {
        Self {
            tar: Builder::new(out),
            skip,
            tree,
            mount,
            links: HashMap::new(),
            buffer: vec![0; 256 << 10],
            packed: Packed::default(),
        }
    }

    fn finish(self) -> io::Result<Packed> {
        self.tar.into_inner()?.flush()?;
        Ok(self.packed)
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: Vec<u8>,
        facts: &Facts,
    ) -> io::Result<()> {
        let elsewhere = self.tree != Tree::Whole && facts.mount != self.mount;
        match facts.kind {
            FileType::Directory => self.directory(dir, name, path, facts, elsewhere),
            FileType::RegularFile if elsewhere => {
                self.put(EntryType::Regular, &path, &[], facts, 0, &[])
            }
            FileType::RegularFile => self.file(dir, name, path, facts),
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())?;
                self.put(EntryType::Symlink, &path, target.as_bytes(), facts, 0, &[])
            }
            FileType::CharacterDevice if self.tree == Tree::Layer && facts.device == (0, 0) => {
                let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                let (parent, name) = path.split_at(at);
                self.put(
                    EntryType::Regular,
                    &[parent, b".wh.", name].concat(),
                    &[],
                    facts,
                    0,
                    &[],
                )
            }
            FileType::CharacterDevice => self.put(EntryType::Char, &path, &[], facts, 0, &[]),
            FileType::BlockDevice => self.put(EntryType::Block, &path, &[], facts, 0, &[]),
            FileType::Fifo => self.put(EntryType::Fifo, &path, &[], facts, 0, &[]),
            // A socket lives with its process; tar has no kind for it.
            FileType::Socket => {
                self.packed.sockets += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        mut path: Vec<u8>,
        facts: &Facts,
        elsewhere: bool,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let here = if name.is_empty() {
            c"."
        } else {
            name.as_c_str()
        };
        let dir = openat(parent, here, flags, Mode::empty());
        let dir = dir.map_err(|e| reading(&path, e.into()))?;
        if !path.is_empty() {
            if !path.ends_with(b"/") {
                path.push(b'/');
            }
            let attributes = attributes(&dir, self.tree).map_err(|e| reading(&path, e))?;
            self.put(EntryType::Directory, &path, &[], facts, 0, &attributes)?;
        }
        if elsewhere {
            return Ok(());
        }
        if self.tree == Tree::Layer && is_opaque(&dir) {
            let mark = [&path[..], b".wh..wh..opq"].concat();
            self.put(EntryType::Regular, &mark, &[], facts, 0, &[])?;
        }
        let prefix = path;
        for name in names(&dir).map_err(|e| reading(&prefix, e))? {
            match self::facts(dir.as_fd(), &name) {
                Ok(facts) => {
                    let path = [&prefix[..], name.as_bytes()].concat();
                    if (self.skip)(&path) {
                        continue;
                    }
                    match self.entry(dir.as_fd(), &name, path, &facts) {
                        // Gone meanwhile, or another kind of thing by now.
                        Err(e) if missing(&e) => {}
                        other => other?,
                    }
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        path: Vec<u8>,
        facts: &Facts,
    ) -> io::Result<()> {
        if facts.links > 1 {
            if let Some(first) = self.links.get(&facts.inode) {
                let first = first.clone();
                return self.put(EntryType::Link, &path, &first, facts, 0, &[]);
            }
            self.links.insert(facts.inode, path.clone());
        }
        // Not blocking: it may have become a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(dir, name, flags, Mode::empty());
        let mut file = std::fs::File::from(file.map_err(|e| reading(&path, e.into()))?);
        let attributes = attributes(&file, self.tree).map_err(|e| reading(&path, e))?;
        self.put(
            EntryType::Regular,
            &path,
            &[],
            facts,
            facts.size,
            &attributes,
        )?;
        let out = self.tar.get_mut();
        let mut left = facts.size;
        while left > 0 {
            let most =
                usize::try_from(left).map_or(self.buffer.len(), |l| l.min(self.buffer.len()));
            let read = file.read(&mut self.buffer[..most]);
            let mut read = read.map_err(|e| reading(&path, e))?;
            if read == 0 {
                // It became shorter while it was read. Its length has been said already, so zeros follow, as GNU tar does.
                self.buffer[..most].fill(0);
                read = most;
            }
            out.write_all(&self.buffer[..read])?;
            left -= read as u64;
        }
        let over = (facts.size % 512) as usize;
        if over > 0 {
            out.write_all(&[0; 512][over..])?;
        }
        Ok(())
    }

    /// Writes an entry's header. Data, if it has any, follows.
    fn put(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        facts: &Facts,
        size: u64,
        attributes: &[(Vec<u8>, Vec<u8>)],
    ) -> io::Result<()> {
        self.packed.entries += 1;
        self.packed.size += size;
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(facts.mode);
        header.set_mtime(u64::try_from(facts.seconds).unwrap_or(0));
        let mut records: Vec<(&[u8], Vec<u8>)> = Vec::new();
        if !fits(path, &mut header.as_old_mut().name) {
            records.push((b"path", path.to_vec()));
        }
        if !fits(link, &mut header.as_old_mut().linkname) {
            records.push((b"linkpath", link.to_vec()));
        }
        for (key, number, most) in [
            (&b"uid"[..], u64::from(facts.owner.0), 0o7_777_777),
            (b"gid", u64::from(facts.owner.1), 0o7_777_777),
            (b"size", size, 0o77_777_777_777),
        ] {
            let shown = if number > most { 0 } else { number };
            match key {
                b"uid" => header.set_uid(shown),
                b"gid" => header.set_gid(shown),
                _ => header.set_size(shown),
            }
            if number > most {
                records.push((key, number.to_string().into_bytes()));
            }
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(facts.device.0)?;
            header.set_device_minor(facts.device.1)?;
        }
        let names: Vec<Vec<u8>> = attributes
            .iter()
            .map(|(n, _)| [b"SCHILY.xattr.", &n[..]].concat())
            .collect();
        let attributes = names
            .iter()
            .zip(attributes)
            .map(|(n, (_, v))| (&n[..], v.clone()));
        records.extend(attributes);
        if !records.is_empty() {
            self.pax(&records)?;
        }
        header.set_cksum();
        self.tar.get_mut().write_all(header.as_bytes())
    }

    fn pax(&mut self, records: &[(&[u8], Vec<u8>)]) -> io::Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            data.extend(record(key, value));
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        let _ = fits(b"PaxHeaders/entry", &mut header.as_old_mut().name);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        let out = self.tar.get_mut();
        out.write_all(header.as_bytes())?;
        data.resize(data.len().next_multiple_of(512), 0);
        out.write_all(&data)
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Writes text into a header's field; whether all of it is there.
fn fits(text: &[u8], field: &mut [u8; 100]) -> bool {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    // A reader of pax takes other bytes as they are, too, but the format says UTF-8 in records.
    length == text.len()
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Names what cannot be read as the archive calls it; that something is gone stays what it is.
fn reading(path: &[u8], error: io::Error) -> io::Error {
    if path.is_empty() || missing(&error) {
        return error;
    }
    let path = String::from_utf8_lossy(path);
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn missing(error: &io::Error) -> bool {
    let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO];
    error
        .raw_os_error()
        .is_some_and(|e| gone.iter().any(|g| g.raw_os_error() == e))
}

/// Extended attributes, by name, that containers have a use for elsewhere: file capabilities, and the user's own.
///
/// # Errors
/// Those of reading them.
pub fn attributes(file: impl AsFd, tree: Tree) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 4096];
    let length = loop {
        match rustix::fs::flistxattr(&file, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < 1 << 20 => list.resize(list.len() * 4, 0),
            Err(Errno::NOTSUP) => break 0,
            Err(e) => return Err(e.into()),
        }
    };
    let mut found = Vec::new();
    for key in list[..length].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        let wanted = key == b"security.capability" || key.starts_with(b"user.");
        if !wanted || (tree == Tree::Layer && key.starts_with(b"user.overlay.")) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::fgetxattr(&file, key, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.push((key.to_vec(), value));
            }
            // Taken away meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    found.sort();
    Ok(found)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 8];
    matches!(rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]), Ok(1) if value[0] == b'y')
}

/// Writes the tree below a directory of the host as an archive.
///
/// # Errors
/// As [`pack`]'s.
pub fn pack_dir(dir: &Path, tree: Tree, out: impl Write) -> io::Result<Packed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    pack(dir, OsStr::new(""), b"", tree, out)
}

#[cfg(test)]
mod tests;
