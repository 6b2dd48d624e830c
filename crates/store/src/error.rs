//! What can go wrong, with etcd's code and text for each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::{LeaseId, Revision};

/// The gRPC status codes that the store's errors map to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unavailable = 14,
    DataLoss = 15,
}

impl Code {
    fn of(code: i32) -> Self {
        let all = [
            Self::InvalidArgument,
            Self::NotFound,
            Self::PermissionDenied,
            Self::ResourceExhausted,
            Self::FailedPrecondition,
            Self::OutOfRange,
            Self::Unavailable,
            Self::DataLoss,
        ];
        let found = all.into_iter().find(|known| *known as i32 == code);
        found.unwrap_or(Self::Unknown)
    }
}

/// An error of the store. Cheap to clone: every waiter of a failed batch gets one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// History at the revision is gone.
    #[error(
        "revision {requested} is compacted (the oldest kept is {compacted}); read the present state, then watch from there"
    )]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision kept.
        compacted: Revision,
    },
    /// The revision is not there yet.
    #[error("revision {requested} is in the future (the store is at {current})")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// No such lease, or it has expired.
    #[error("lease {0:x} is not there: it expired, was revoked or never granted; grant a new one")]
    LeaseNotFound(LeaseId),
    /// The name is taken.
    #[error("lease {0:x} exists already; keep it alive or choose another id")]
    LeaseExists(LeaseId),
    /// More than 9,000,000,000 seconds.
    #[error("a time to live of {0} s is too large for a lease (at most 9,000,000,000 s)")]
    LeaseTtlTooLarge(i64),
    /// The quota or the disk is used up.
    #[error(
        "the store at {path} has no space left ({used} of {quota} bytes in use): delete keys, compact, free the disk or raise the quota"
    )]
    NoSpace {
        /// The store's directory.
        path: PathBuf,
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        quota: u64,
    },
    /// One transaction changes a key twice.
    #[error("key {:?} is changed twice in one transaction", String::from_utf8_lossy(.0))]
    DuplicateKey(bytes::Bytes),
    /// Too many steps or compares.
    #[error("{count} operations in one transaction (at most {max})")]
    TooManyOps {
        /// How many there are.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// A request without a key.
    #[error("the key is empty")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    #[error("key {:?} is not there, so its value or lease cannot be kept", String::from_utf8_lossy(.0))]
    KeyNotFound(bytes::Bytes),
    /// `ignore_value` with a value.
    #[error("a value is given together with ignore_value")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("a lease is given together with ignore_lease")]
    LeaseProvided,
    /// Bigger than one request may be.
    #[error("a request of {size} bytes is too large (at most {max})")]
    RequestTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most allowed.
        max: usize,
    },
    /// Another process has the store.
    #[error(
        "the store at {path} is in use by another daemon; stop that one or give this one its own --state-dir"
    )]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// Written by a release that this one does not know.
    #[error(
        "the store at {path} has format version {found}, this release reads up to {known}: start the newer release, or restore a snapshot of this one"
    )]
    UnknownFormat {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest known here.
        known: u64,
    },
    /// What is on disk makes no sense.
    #[error("the store at {path} is damaged ({what}): move it away and restore a snapshot")]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// What the database said, where it did.
        #[source]
        source: Option<Arc<redb::Error>>,
    },
    /// Something else was given to be restored.
    #[error(
        "this is no snapshot that this release can restore; give a file of `coracle store snapshot save`, of this release or an older one"
    )]
    NoSnapshot {
        /// What does not fit.
        #[source]
        source: Arc<Self>,
    },
    /// The database failed; whether the write of this request is kept is unknown.
    #[error(
        "the store at {path} could not be read or written; look at the disk, the next request tries again"
    )]
    Database {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Arc<redb::Error>,
    },
    /// A file operation failed.
    #[error("{doing} {path} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The value of a key is not the JSON that is expected there.
    #[error("the value of key {key:?} is not what is expected there")]
    Json {
        /// The key.
        key: String,
        /// What does not fit.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// Keys that whoever asks may read only.
    #[error("keys below {0} are read-only: the machines write them")]
    ReadOnly(&'static str),
    /// What is not for the machine that asks.
    #[error("machine {machine} may not {doing} {what}, which {way_out}")]
    Forbidden {
        /// The machine.
        machine: String,
        /// What it wanted to do.
        doing: &'static str,
        /// With which key or thing.
        what: String,
        /// Who may, or what else is to be known.
        way_out: &'static str,
    },
    /// An address of etcd's, or a certificate for it, makes no sense.
    #[error(
        "the endpoint {endpoint:?} cannot be used: {why}; write for example http://127.0.0.1:2379"
    )]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// No member of etcd's cluster answers.
    #[error(
        "etcd does not answer ({why}){}",
        if *sent { "; whether it was done is not known: look before it is asked again" } else { "" }
    )]
    Unreachable {
        /// The member asked last and what happened.
        why: String,
        /// The request was sent, and may have been done.
        sent: bool,
    },
    /// etcd said no, in its own words.
    #[error("etcd at {endpoint} refused: {text}")]
    Refused {
        /// The member.
        endpoint: String,
        /// The gRPC status code.
        code: i32,
        /// Its words.
        text: String,
    },
    /// A store is to take the place of another one, and does not hold the same.
    #[error(
        "the new store is at revision {given} and the one in use at {stands}: it was not copied whole, or written to; make it anew"
    )]
    Unlike {
        /// The revision of the store in use.
        stands: Revision,
        /// The other one's.
        given: Revision,
    },
    /// The store is shutting down.
    #[error("the store at {path} is closed")]
    Closed {
        /// The store's directory.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn database(path: &Path, source: impl Into<redb::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source {
            redb::Error::Corrupted(_) => Self::Corrupt {
                path,
                what: "redb",
                source: Some(Arc::new(source)),
            },
            _ => Self::Database {
                path,
                source: Arc::new(source),
            },
        }
    }

    /// The gRPC status code that etcd answers with.
    pub fn code(&self) -> Code {
        match self {
            Self::Compacted { .. } | Self::FutureRevision { .. } | Self::LeaseTtlTooLarge(_) => {
                Code::OutOfRange
            }
            Self::LeaseNotFound(_) => Code::NotFound,
            Self::LeaseExists(_) | Self::Unlike { .. } => Code::FailedPrecondition,
            Self::ReadOnly(_) | Self::Forbidden { .. } => Code::PermissionDenied,
            Self::NoSpace { .. } => Code::ResourceExhausted,
            Self::DuplicateKey(_)
            | Self::TooManyOps { .. }
            | Self::EmptyKey
            | Self::KeyNotFound(_)
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::RequestTooLarge { .. } => Code::InvalidArgument,
            Self::Corrupt { .. } => Code::DataLoss,
            Self::UnknownFormat { .. } | Self::NoSnapshot { .. } | Self::Json { .. } => {
                Code::Unknown
            }
            Self::Refused { code, .. } => Code::of(*code),
            Self::Endpoint { .. } | Self::Unreachable { .. } => Code::Unavailable,
            Self::Locked { .. } | Self::Database { .. } | Self::Io { .. } | Self::Closed { .. } => {
                Code::Unavailable
            }
        }
    }

    /// The text that etcd answers with, which clients match on; ours where etcd has none.
    pub fn etcd_text(&self) -> String {
        let text = match self {
            Self::Compacted { .. } => "etcdserver: mvcc: required revision has been compacted",
            Self::FutureRevision { .. } => {
                "etcdserver: mvcc: required revision is a future revision"
            }
            Self::LeaseNotFound(_) => "etcdserver: requested lease not found",
            Self::LeaseExists(_) => "etcdserver: lease already exists",
            Self::LeaseTtlTooLarge(_) => "etcdserver: too large lease TTL",
            Self::NoSpace { .. } => "etcdserver: mvcc: database space exceeded",
            Self::DuplicateKey(_) => "etcdserver: duplicate key given in txn request",
            Self::TooManyOps { .. } => "etcdserver: too many operations in txn request",
            Self::EmptyKey => "etcdserver: key is not provided",
            Self::KeyNotFound(_) => "etcdserver: key not found",
            Self::ValueProvided => "etcdserver: value is provided",
            Self::LeaseProvided => "etcdserver: lease is provided",
            Self::RequestTooLarge { .. } => "etcdserver: request is too large",
            Self::Corrupt { .. } => "etcdserver: corrupt cluster",
            Self::Closed { .. } => "etcdserver: server stopped",
            Self::Refused { text, .. } => text,
            // etcd's word for what was surely not done, so that clients ask elsewhere.
            Self::Unreachable { sent: false, .. } => {
                return format!("{self}: etcdserver: no leader");
            }
            Self::ReadOnly(_) | Self::Forbidden { .. } => {
                return format!("etcdserver: permission denied: {self}");
            }
            other => return other.to_string(),
        };
        text.to_owned()
    }
}
