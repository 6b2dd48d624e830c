//! Writing a file from sorted entries.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::page::{BRANCH, FREE_LIST, HEADER, Header, IS_BUCKET, LEAF, META, Meta, PAGE};
use crate::error::StoreError;

/// Where the free list is; what comes after it is free to be chosen.
const FREE_LIST_AT: u64 = 2;

/// Writes one file. Buckets and their entries come in order of their names and keys.
///
/// ```
/// # use coracle_store::etcd::bolt::{Bolt, Writer};
/// # fn example(path: &std::path::Path) -> Result<(), coracle_store::StoreError> {
/// let mut file = Writer::create(path)?;
/// file.bucket("fruit")?;
/// file.put("apple", "green")?;
/// file.put("pear", "yellow")?;
/// file.finish()?;
/// let file = Bolt::open(path)?;
/// let bucket = file.bucket("fruit")?.expect("written above");
/// assert_eq!(bucket.entries().count(), 2);
/// # Ok(()) }
/// # let dir = tempfile::tempdir().unwrap();
/// # example(&dir.path().join("db")).unwrap();
/// ```
pub struct Writer {
    path: PathBuf,
    pages: Pages,
    buckets: Vec<(Bytes, u64)>,
    open: Option<(Bytes, Tree)>,
}

impl Writer {
    /// Makes the file, for this user alone. There must be none yet.
    ///
    /// # Errors
    /// `Io`.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| StoreError::io("making", path, e))?;
        let mut pages = Pages {
            out: BufWriter::with_capacity(1 << 18, file),
            next: 0,
        };
        let free_list = Header {
            id: FREE_LIST_AT,
            flags: FREE_LIST,
            count: 0,
            overflow: 0,
        };
        // The metas get their bytes at the end.
        let begun = pages.skip().and_then(|()| pages.skip()).and_then(|()| {
            let mut page = Vec::with_capacity(PAGE);
            free_list.encode(&mut page);
            pages.write(page)
        });
        begun.map_err(|e| StoreError::io("writing", path, e))?;
        Ok(Self {
            path: path.to_owned(),
            pages,
            buckets: Vec::new(),
            open: None,
        })
    }

    /// Begins a bucket, which ends the one before.
    ///
    /// # Errors
    /// `Io`.
    pub fn bucket(&mut self, name: impl Into<Bytes>) -> Result<(), StoreError> {
        self.close()
            .map_err(|e| StoreError::io("writing", &self.path, e))?;
        self.open = Some((name.into(), Tree::default()));
        Ok(())
    }

    /// Adds an entry to the bucket begun last; its key comes after those before it.
    ///
    /// # Errors
    /// `Io`, also for a key that is out of order or without a bucket.
    pub fn put(
        &mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<(), StoreError> {
        let added = match &mut self.open {
            Some((_, tree)) => tree.add(&mut self.pages, key.into(), value.into(), 0),
            None => Err(wrong("an entry comes before the first bucket")),
        };
        added.map_err(|e| StoreError::io("writing", &self.path, e))
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((name, tree)) = self.open.take() else {
            return Ok(());
        };
        let root = tree.finish(&mut self.pages)?;
        self.buckets.push((name, root));
        Ok(())
    }

    /// Ends the file, with the SHA-256 of a snapshot behind its pages, and brings it to the disk (its name is the
    /// caller's to sync).
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.end().map_err(|e| StoreError::io("writing", &path, e))
    }

    fn end(&mut self) -> io::Result<()> {
        self.close()?;
        let mut buckets = Tree::default();
        for (name, root) in self.buckets.drain(..) {
            let value = [root.to_le_bytes(), 0_u64.to_le_bytes()].concat();
            buckets.add(&mut self.pages, name, value.into(), IS_BUCKET)?;
        }
        let root = buckets.finish(&mut self.pages)?;
        self.pages.out.flush()?;
        let file = self.pages.out.get_mut();
        for id in 0..2 {
            let mut page = Vec::with_capacity(PAGE);
            let header = Header {
                id,
                flags: META,
                count: 0,
                overflow: 0,
            };
            header.encode(&mut page);
            let meta = Meta {
                page_size: PAGE as u32,
                root,
                free_list: FREE_LIST_AT,
                high_water: self.pages.next,
                transaction: id,
            };
            page.extend(meta.encode());
            file.write_all_at(&page, id * PAGE as u64)?;
        }
        let sum = sum(file, self.pages.next * PAGE as u64)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(&sum)?;
        file.sync_all()
    }
}

/// The SHA-256 of the first bytes.
pub(super) fn sum(file: &mut File, length: u64) -> io::Result<[u8; 32]> {
    file.seek(SeekFrom::Start(0))?;
    let mut rest = file.take(length);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Pages go out one after the other.
struct Pages {
    out: BufWriter<File>,
    next: u64,
}

impl Pages {
    fn skip(&mut self) -> io::Result<()> {
        self.write(Vec::new())
    }

    /// The bytes of a page, or of one that goes on over several.
    fn write(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        let pages = bytes.len().div_ceil(PAGE).max(1);
        bytes.resize(pages * PAGE, 0);
        self.out.write_all(&bytes)?;
        self.next += pages as u64;
        Ok(())
    }
}

/// An entry of a leaf, or of a branch.
struct Item {
    key: Bytes,
    value: Bytes,
    /// In a branch the page that the key leads to, in a leaf its flags.
    number: u64,
}

impl Item {
    fn size(&self) -> usize {
        HEADER + self.key.len() + self.value.len()
    }
}

/// One floor of a tree: a full page that waits, and the one that fills.
///
/// bbolt takes no branch with one child, so the last page of a floor may need an entry of the one before it.
#[derive(Default)]
struct Floor {
    full: Vec<Item>,
    items: Vec<Item>,
    size: usize,
    /// Pages were written.
    written: bool,
}

#[derive(Default)]
struct Tree {
    floors: Vec<Floor>,
    last: Option<Bytes>,
}

impl Tree {
    fn add(&mut self, pages: &mut Pages, key: Bytes, value: Bytes, flags: u32) -> io::Result<()> {
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(wrong("an entry is out of order"));
        }
        self.last = Some(key.clone());
        let item = Item {
            key,
            value,
            number: flags.into(),
        };
        self.push(pages, 0, item)
    }

    fn push(&mut self, pages: &mut Pages, at: usize, item: Item) -> io::Result<()> {
        if at == self.floors.len() {
            self.floors.push(Floor::default());
        }
        let floor = &mut self.floors[at];
        // A branch of less than two is none.
        let least = 1 + usize::from(at > 0);
        if floor.items.len() >= least && HEADER + floor.size + item.size() > PAGE {
            floor.size = 0;
            let filled = std::mem::take(&mut floor.items);
            let full = std::mem::replace(&mut floor.full, filled);
            if !full.is_empty() {
                self.write(pages, at, full)?;
            }
        }
        let floor = &mut self.floors[at];
        floor.size += item.size();
        floor.items.push(item);
        Ok(())
    }

    /// Writes a page, and tells the floor above.
    fn write(&mut self, pages: &mut Pages, at: usize, items: Vec<Item>) -> io::Result<()> {
        self.floors[at].written = true;
        let key = items.first().map(|item| item.key.clone());
        let number = page(pages, at > 0, &items)?;
        let item = Item {
            key: key.unwrap_or_default(),
            value: Bytes::new(),
            number,
        };
        self.push(pages, at + 1, item)
    }

    /// Writes what is left; answers the page of the root.
    fn finish(mut self, pages: &mut Pages) -> io::Result<u64> {
        if self.floors.is_empty() {
            return page(pages, false, &[]);
        }
        let mut at = 0;
        loop {
            let floor = &mut self.floors[at];
            if at > 0 && floor.items.len() == 1 && !floor.full.is_empty() {
                // Neither page is to be left with one.
                let rest = if floor.full.len() > 2 {
                    floor.full.len() - 1
                } else {
                    0
                };
                let mut items = floor.full.split_off(rest);
                items.append(&mut floor.items);
                floor.items = items;
            }
            let (full, items) = (
                std::mem::take(&mut floor.full),
                std::mem::take(&mut floor.items),
            );
            if full.is_empty() && !floor.written {
                return match &items[..] {
                    // Nothing but a way to the floor below.
                    [only] if at > 0 => Ok(only.number),
                    _ => page(pages, at > 0, &items),
                };
            }
            for items in [full, items] {
                if !items.is_empty() {
                    self.write(pages, at, items)?;
                }
            }
            at += 1;
        }
    }
}

/// Writes a leaf or a branch; answers its number.
fn page(pages: &mut Pages, branch: bool, items: &[Item]) -> io::Result<u64> {
    let id = pages.next;
    let size = HEADER + items.iter().map(Item::size).sum::<usize>();
    let overflow =
        u32::try_from(size.div_ceil(PAGE) - 1).map_err(|_| wrong("an entry is too large"))?;
    let mut out = Vec::with_capacity(size);
    let header = Header {
        id,
        flags: if branch { BRANCH } else { LEAF },
        // No page has more entries than bytes.
        count: items.len() as u16,
        overflow,
    };
    header.encode(&mut out);
    let mut data = HEADER * items.len();
    for item in items {
        // Counted from the entry itself.
        let position = data as u32;
        let key = item.key.len() as u32;
        if branch {
            out.extend_from_slice(&position.to_le_bytes());
            out.extend_from_slice(&key.to_le_bytes());
            out.extend_from_slice(&item.number.to_le_bytes());
        } else {
            for n in [item.number as u32, position, key, item.value.len() as u32] {
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
        data = data + item.key.len() + item.value.len() - HEADER;
    }
    for item in items {
        out.extend_from_slice(&item.key);
        out.extend_from_slice(&item.value);
    }
    pages.write(out)?;
    Ok(id)
}
