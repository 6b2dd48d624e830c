//! Reading a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::page::{BRANCH, HEADER, Header, IS_BUCKET, LEAF, Meta, number, small};
use super::write::sum;
use crate::error::StoreError;

/// Floors of a tree; more are a circle.
const FLOORS: usize = 64;
/// The largest page size that a kernel has.
const LARGEST: u32 = 1 << 20;

/// A file that nobody writes to.
pub struct Bolt {
    file: File,
    path: PathBuf,
    meta: Meta,
}

impl Bolt {
    /// Opens a file; of one with a snapshot's SHA-256 behind its pages, all is read and held against it.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let io = |e| StoreError::io("reading", path, e);
        let mut file = File::open(path).map_err(|e| StoreError::io("opening", path, e))?;
        let length = file.metadata().map_err(io)?.len();
        // etcd tells by this, too.
        if length % 512 == 32 {
            let mut told = [0; 32];
            file.read_exact_at(&mut told, length - 32).map_err(io)?;
            if sum(&mut file, length - 32).map_err(io)? != told {
                return Err(damaged(path, "its SHA-256 is another"));
            }
        }
        let meta = metas(&file)
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.transaction)
            .ok_or_else(|| damaged(path, "no meta page of a bbolt file is whole"))?;
        let size = u64::from(meta.page_size);
        let fits = (512..=LARGEST).contains(&meta.page_size)
            && meta
                .high_water
                .checked_mul(size)
                .is_some_and(|end| end <= length);
        if !fits {
            return Err(damaged(path, "it is shorter than its pages"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            meta,
        })
    }

    /// The names of its buckets, in order.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn buckets(&self) -> Result<Vec<Bytes>, StoreError> {
        let entries = self.root().entries().map(|e| e.map(|(name, _)| name));
        entries.collect()
    }

    /// A bucket by its name.
    ///
    /// # Errors
    /// `Io`, `Corrupt`.
    pub fn bucket(&self, name: impl AsRef<[u8]>) -> Result<Option<Bucket<'_>>, StoreError> {
        for entry in self.root().entries() {
            let (found, value) = entry?;
            if found != name.as_ref() {
                continue;
            }
            let root = number(&value, 0).ok_or_else(|| self.damaged("a bucket has no root"))?;
            let root = match root {
                // A small one's only page lies in the entry itself.
                0 => Root::Inline(value.slice(16.min(value.len())..)),
                page => Root::Page(page),
            };
            return Ok(Some(Bucket { bolt: self, root }));
        }
        Ok(None)
    }

    fn root(&self) -> Bucket<'_> {
        Bucket {
            bolt: self,
            root: Root::Page(self.meta.root),
        }
    }

    pub(crate) fn damaged(&self, what: &'static str) -> StoreError {
        damaged(&self.path, what)
    }

    fn page(&self, id: u64) -> Result<Page, StoreError> {
        let size = u64::from(self.meta.page_size);
        let read = |pages: u64| {
            let mut bytes = vec![0; (pages * size) as usize];
            self.file
                .read_exact_at(&mut bytes, id * size)
                .map_err(|e| StoreError::io("reading", &self.path, e))?;
            Ok::<_, StoreError>(bytes)
        };
        if id < 2 || id >= self.meta.high_water {
            return Err(self.damaged("a page is named that it does not have"));
        }
        let mut bytes = read(1)?;
        let header = Header::decode(&bytes).ok_or_else(|| self.damaged("a page has no header"))?;
        if header.id != id || id + u64::from(header.overflow) >= self.meta.high_water {
            return Err(self.damaged("a page is not the one that it should be"));
        }
        if header.overflow > 0 {
            bytes = read(1 + u64::from(header.overflow))?;
        }
        self.parse(bytes.into())
    }

    fn parse(&self, bytes: Bytes) -> Result<Page, StoreError> {
        let header = Header::decode(&bytes).ok_or_else(|| self.damaged("a page has no header"))?;
        let branch = match header.flags {
            BRANCH => true,
            LEAF => false,
            _ => return Err(self.damaged("a page is neither a leaf nor a branch")),
        };
        Ok(Page {
            bytes,
            branch,
            count: header.count.into(),
            at: 0,
        })
    }
}

fn metas(file: &File) -> [Option<Meta>; 2] {
    let at = |position: u64| {
        let mut bytes = [0; 96];
        file.read_exact_at(&mut bytes, position).ok()?;
        Meta::decode(&bytes[HEADER..])
    };
    let first = at(0);
    if let Some(first) = first {
        return [Some(first), at(first.page_size.into())];
    }
    // Where the second one is, it must be known without the first: any page size.
    let second = (9..=20).map(|bits| 1_u64 << bits).find_map(|size| {
        let meta = at(size)?;
        (u64::from(meta.page_size) == size).then_some(meta)
    });
    [None, second]
}

fn damaged(path: &Path, what: &'static str) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        what,
        source: None,
    }
}

#[derive(Clone)]
enum Root {
    Page(u64),
    Inline(Bytes),
}

/// A bucket's entries.
pub struct Bucket<'b> {
    bolt: &'b Bolt,
    root: Root,
}

impl<'b> Bucket<'b> {
    /// All of them, in order; one page of each floor is in memory. It ends after an error.
    pub fn entries(&self) -> Entries<'b> {
        Entries {
            bolt: self.bolt,
            begin: Some(self.root.clone()),
            pages: Vec::new(),
            last: None,
        }
    }
}

struct Page {
    bytes: Bytes,
    branch: bool,
    count: usize,
    /// The next entry.
    at: usize,
}

/// See [`Bucket::entries`].
pub struct Entries<'b> {
    bolt: &'b Bolt,
    begin: Option<Root>,
    pages: Vec<Page>,
    last: Option<Bytes>,
}

impl Entries<'_> {
    fn step(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        match self.begin.take() {
            Some(Root::Page(id)) => self.pages.push(self.bolt.page(id)?),
            Some(Root::Inline(bytes)) => self.pages.push(self.bolt.parse(bytes)?),
            None => {}
        }
        loop {
            let Some(page) = self.pages.last_mut() else {
                return Ok(None);
            };
            if page.at == page.count {
                self.pages.pop();
                continue;
            }
            let entry = HEADER + page.at * HEADER;
            page.at += 1;
            let outside = || self.bolt.damaged("an entry lies outside of its page");
            if page.branch {
                let child = number(&page.bytes, entry + 8).ok_or_else(outside)?;
                if self.pages.len() >= FLOORS {
                    return Err(self.bolt.damaged("its pages lead in a circle"));
                }
                self.pages.push(self.bolt.page(child)?);
                continue;
            }
            let item = leaf(&page.bytes, entry).ok_or_else(outside)?;
            let key = item.0.clone();
            // Pages that lead back to others would go on for ever.
            if self.last.replace(key).is_some_and(|last| last >= item.0) {
                return Err(self.bolt.damaged("its keys are out of order"));
            }
            return Ok(Some(item));
        }
    }
}

fn leaf(bytes: &Bytes, entry: usize) -> Option<(Bytes, Bytes)> {
    let flags = small(bytes, entry)?;
    let field = |at| Some(small(bytes, entry + at)? as usize);
    let key = entry.checked_add(field(4)?)?;
    let value = key.checked_add(field(8)?)?;
    let end = value.checked_add(field(12)?)?;
    let known = flags & !IS_BUCKET == 0;
    (known && end <= bytes.len()).then(|| (bytes.slice(key..value), bytes.slice(value..end)))
}

impl Iterator for Entries<'_> {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.pages.clear();
        }
        step.transpose()
    }
}
