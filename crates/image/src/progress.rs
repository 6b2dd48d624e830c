//! What a pull, load or import tells while it works: docker's statuses, layer by layer.

/// Where one layer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The layer is known and about to be fetched ("Pulling fs layer").
    Pulling,
    /// It waits for a free slot ("Waiting").
    Waiting,
    /// Compressed bytes so far, of how many (0: not known).
    Downloading {
        /// Bytes received.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The connection broke and is tried again ("Retrying in N seconds").
    Retrying {
        /// Seconds until then, rounded up.
        seconds: u64,
    },
    /// All bytes are there and are checked against the digest ("Verifying Checksum").
    Verifying,
    /// "Download complete".
    DownloadComplete,
    /// Compressed bytes unpacked so far, of how many (0: not known).
    Extracting {
        /// Compressed bytes unpacked.
        current: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// "Pull complete".
    PullComplete,
    /// "Already exists".
    AlreadyExists,
    /// The layer is about to be pushed ("Preparing").
    Preparing,
    /// Compressed bytes sent so far, of how many ("Pushing").
    Uploading {
        /// Bytes sent.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// "Pushed".
    Pushed,
}

/// One step of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressEvent {
    /// The layer's short id: 12 hex digits.
    pub id: String,
    /// Where it stands.
    pub status: Status,
}

/// Takes progress events; called from several threads, and must not block.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: ProgressEvent);
}

/// Takes events and does nothing with them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: ProgressEvent) {}
}

impl<F: Fn(ProgressEvent) + Send + Sync> Progress for F {
    fn event(&self, event: ProgressEvent) {
        self(event);
    }
}
