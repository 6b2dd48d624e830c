//! Why a layer is refused.

use std::io;

use crate::digest::Digest;

/// What is wrong with a whole layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// One entry of the archive is refused.
    #[error("entry {entry:?} is refused")]
    Entry {
        /// Its name in the archive; cut after 200 characters.
        entry: String,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// The archive breaks the tar format.
    #[error("the archive is damaged at byte {offset}: {reason}")]
    Format {
        /// Where, in bytes of the uncompressed archive.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The stream ends in the middle.
    #[error("the layer ends too early: it is truncated")]
    Truncated,
    /// The compressed stream cannot be read.
    #[error("the {compression} stream is damaged")]
    Compression {
        /// gzip or zstd.
        compression: &'static str,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// A compression that is not taken.
    #[error("{0} compression is not supported: use gzip, zstd or none")]
    Unsupported(&'static str),
    /// Content is not what its name says.
    #[error("the {what} digest is {actual}, not {expected} as declared: the content was changed")]
    WrongDigest {
        /// `compressed` or `uncompressed (diff id)`.
        what: &'static str,
        /// As declared.
        expected: Digest,
        /// As read.
        actual: Digest,
    },
    /// More or fewer compressed bytes than declared.
    #[error("the layer has {actual} bytes or more, but {declared} are declared")]
    WrongSize {
        /// As declared.
        declared: u64,
        /// As read; reading stops at the first byte too many.
        actual: u64,
    },
    /// More uncompressed bytes than allowed.
    #[error("the layer unpacks to more than {limit} bytes; raise the limit if it is to be trusted")]
    TooLarge {
        /// The bound in bytes.
        limit: u64,
    },
    /// More entries than allowed.
    #[error("the layer has more than {limit} entries; raise the limit if it is to be trusted")]
    TooMany {
        /// The bound.
        limit: u64,
    },
    /// The disk is full.
    #[error("no space is left on the disk; free some, or remove unused images")]
    NoSpace(#[source] io::Error),
    /// The file system failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The sender went away.
    #[error("the transfer was interrupted")]
    Interrupted,
}

impl LayerError {
    /// Sorts an I/O error: a full disk is told apart.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if is_no_space(&source) {
                Self::NoSpace(source)
            } else {
                Self::Io { action, source }
            }
        }
    }
}

/// What is wrong with one entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Starts with a slash.
    #[error("its name is absolute")]
    Absolute,
    /// Has a `..` component.
    #[error("its name contains \"..\"")]
    ParentDir,
    /// Has a NUL byte.
    #[error("its name contains a NUL byte")]
    Nul,
    /// Has no name.
    #[error("it has no name")]
    Nameless,
    /// A parent is a symbolic link that leads out of the layer, into the void or in circles.
    #[error("its parent is a symbolic link that leads outside the layer or nowhere")]
    SymlinkEscape,
    /// A parent is no directory.
    #[error("its parent is not a directory")]
    NotDirectory,
    /// The layer's root is something else than a directory, or is taken away.
    #[error("it would replace the root of the layer")]
    Root,
    /// A directory would become something else, which was not asked for.
    #[error("cannot overwrite a directory with something that is none")]
    DirectoryInTheWay,
    /// Something else would become a directory, which was not asked for.
    #[error("cannot overwrite something that is no directory with a directory")]
    FileInTheWay,
    /// `.wh.`, `.wh..`, `.wh...` or an opaque root.
    #[error("it is a whiteout of the root")]
    WhiteoutRoot,
    /// A whiteout name as a directory on the way.
    #[error("a directory of its path has a whiteout's name")]
    WhiteoutParent,
    /// A device other than the few harmless ones.
    #[error("device nodes are not allowed in layers ({kind} {major}:{minor})")]
    Device {
        /// `block` or `character`.
        kind: &'static str,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A hard link whose target is outside.
    #[error("it is a hard link to {target:?}, which lies outside the layer")]
    LinkOutside {
        /// As written.
        target: String,
        /// Why the target is not taken.
        #[source]
        source: Box<EntryError>,
    },
    /// A hard link whose target is not (yet) there.
    #[error("it is a hard link to {target:?}, which is no file of this layer")]
    LinkTarget {
        /// As written.
        target: String,
    },
    /// A symbolic link to nothing.
    #[error("it is a symbolic link without a target")]
    EmptyLink,
    /// An extended attribute that means something to overlayfs.
    #[error("extended attribute {0:?} is reserved for the overlay file system")]
    Xattr(String),
    /// A user or group id that Linux cannot hold.
    #[error("its owner {0} is out of range")]
    Owner(i64),
    /// A kind of entry that is not known.
    #[error("entries of type {0:?} are not known")]
    Kind(char),
    /// Sparse files in the pax formats.
    #[error("sparse files in pax format are not supported; write the archive in gnu format")]
    PaxSparse,
    /// The file system refused it.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl EntryError {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io {
            action,
            source: errno.into(),
        }
    }

    /// Gives the error the entry's name; a full disk is the disk's matter, not the entry's.
    pub(crate) fn of(self, entry: &[u8]) -> LayerError {
        match self {
            Self::Io { source, .. } if is_no_space(&source) => LayerError::NoSpace(source),
            source => LayerError::Entry {
                entry: shown(entry),
                source,
            },
        }
    }
}

/// A name from the archive for people, bounded.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// ENOSPC or EDQUOT.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
