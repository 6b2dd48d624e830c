//! What can go wrong with this machine's etcd.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_engine::EngineError;
use coracle_store::{Difference, StoreError};

/// An error of this machine's etcd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// A file operation failed.
    #[error("{doing} {path} failed")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file is not what is expected there.
    #[error(
        "{path} cannot be understood; it is written by the daemon alone: put a copy of it back, or join anew"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a release that this one does not know.
    #[error(
        "{path} has format version {found}, this release reads up to {known}: start the newer release"
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest known here.
        known: u64,
    },
    /// There is no etcd.
    #[error(
        "{name} is not there (looked at {looked}), and a cluster keeps its store in it: install the packages etcd-server and etcd-client (Debian's names), or give its path"
    )]
    NotFound {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        looked: String,
    },
    /// It is an image's, which is not here.
    #[error(
        "image {0}, which etcd is to be run of, is not here: pull or load it, or install the packages etcd-server and etcd-client (Debian's names) and say nothing of an image"
    )]
    Image(String),
    /// The image has no such program.
    #[error(
        "image {image} has no {name} (looked at {looked}): name one that has etcd and etcdctl, such as etcd's own"
    )]
    NotInImage {
        /// The program.
        name: &'static str,
        /// The image's name.
        image: String,
        /// Where it was looked for.
        looked: String,
    },
    /// The image has not all that its program needs.
    #[error("{program} is loaded by {loader}, which its image does not have: name a whole image")]
    Loader {
        /// The program.
        program: PathBuf,
        /// What it asks for.
        loader: String,
    },
    /// An etcd that cannot be used.
    #[error(
        "{path} is etcd {found}; 3.4 or a later 3 is needed: install a newer one, or give another path"
    )]
    Version {
        /// The program.
        path: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// What etcd had is gone.
    #[error(
        "etcd's data at {path} is gone, and it is not begun anew without: put it back, `coracle cluster recover` from a snapshot, or take this machine out of the cluster and join again"
    )]
    Gone {
        /// The directory.
        path: PathBuf,
    },
    /// A program could not be run, or failed.
    #[error("{program} failed: {said}")]
    Program {
        /// The program, and what it was asked.
        program: String,
        /// Its words, or why it did not run.
        said: String,
    },
    /// The engine could not run the process.
    #[error("etcd could not be run")]
    Engine(#[from] EngineError),
    /// The store, or etcd, did not do what was asked.
    #[error("the store could not be asked")]
    Store(#[from] StoreError),
    /// etcd does not answer.
    #[error("etcd did not {what} within {} s; its log is {log}", waited.as_secs())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        waited: Duration,
        /// Where it says why.
        log: PathBuf,
    },
    /// etcd refused a change of its members.
    #[error("etcd at {endpoint} does not {what}: {said}")]
    Refused {
        /// Who was asked.
        endpoint: String,
        /// What for.
        what: &'static str,
        /// Its words.
        said: String,
    },
    /// The copy is not the same.
    #[error(
        "the etcd that was made of the store does not hold the same ({0}); the store stays where it is, try again"
    )]
    Differs(Difference),
    /// The store is there already.
    #[error("the store is kept in etcd already")]
    Moved,
}

impl MemberError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }
}
