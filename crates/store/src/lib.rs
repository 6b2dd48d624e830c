//! The key-value store: one interface with etcd's v3 meaning, and two implementations.
//!
//! [`Store`] is what the rest of the house sees: revisions, ranges, transactions, watches from a
//! revision, leases and compaction, each meaning what etcd 3.4 to 3.6 means by it. Values of the
//! requests are etcd's own (a `range_end` of `\0` is "to the end", a revision of 0 is "now"), so
//! that a gRPC face is a translation of types and a store over a real etcd is a second
//! implementation.
//!
//! [`EmbeddedStore`] keeps everything in one redb file, see [`embedded`]; [`EtcdStore`] asks a real etcd, see [`etcd`].
//!
//! ```
//! # use coracle_store::*;
//! # async fn example(dir: &std::path::Path) -> Result<(), StoreError> {
//! let store = EmbeddedStore::open(dir, Options::default())?;
//! let put = store.put(PutRequest::new("/units/web", "v1")).await?;
//! let mut watch = store.watch(WatchRequest::prefix("/units/").from(put.revision)).await?;
//! let seen = watch.next().await.expect("the stream lives as long as the store")?;
//! assert_eq!(seen.events[0].kv.key, "/units/web");
//! # Ok(()) }
//! ```

mod compare;
pub mod embedded;
mod error;
pub mod etcd;
mod store;
mod switch;
mod types;

pub use compare::{Difference, compare};
pub use coracle_sys::full;
pub use embedded::{EmbeddedStore, Options, Restored};
pub use error::{Code, StoreError};
pub use etcd::seed::{Recovered, Seeded, newest, recover};
pub use etcd::{EtcdOptions, EtcdStore};
pub use store::{
    BoxFuture, Store, StoreExt, WatchControl, WatchHandle, WatchNext, WatchStream, Watching,
};
pub use switch::{Frozen, Switch};
pub use types::*;
