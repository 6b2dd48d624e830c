//! Who may come in: the list in the store, with what the configuration says, and its copy on disk.
//!
//! It stands at `/coracle/v1/clients/<name>`, which voters alone write and all machines read. While the store is away the last list that was
//! known counts, from `clients.json` after a restart: who was let in yesterday has to reach the machine that day of all days. So a revocation
//! holds where the store's word comes, and nobody comes in whom the store never named.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_store::{DeleteRangeRequest, KeyValue, PutRequest, Store, StoreError, StoreExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pki::{Fingerprint, PkiError, put};

/// Where clients stand in the store.
const PREFIX: &str = "/coracle/v1/clients/";
/// The version of a client's value, and of the copy.
const VERSION: u32 = 1;
/// The list's copy.
const FILE: &str = "clients.json";
/// Pause before the copy is written again that could not be.
const AGAIN: Duration = Duration::from_secs(5);
/// Characters of a name.
const LONGEST: usize = 63;

/// A client as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The version of this value.
    pub version: u32,
    /// The hash of its key, which certificates must be for.
    pub key: Fingerprint,
    /// The serial number of the certificate that was made with it, in hexadecimal; empty where that is not known.
    #[serde(default)]
    pub serial: String,
    /// When it was added, in seconds since 1970.
    pub added: u64,
    /// From then on it is not let in any more, whatever its certificate says.
    pub until: u64,
    /// Who added it.
    #[serde(default)]
    pub who: String,
}

impl Client {
    /// One that counts from `now` until `until`.
    pub fn new(key: Fingerprint, serial: &str, now: u64, until: u64, who: &str) -> Self {
        Self {
            version: VERSION,
            key,
            serial: serial.to_owned(),
            added: now,
            until,
            who: who.to_owned(),
        }
    }
}

/// Whether clients may be called so.
///
/// # Errors
/// What is wrong, and the way out.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = !name.is_empty()
        && name.len() <= LONGEST
        && name.chars().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-');
    match fits {
        true => Ok(()),
        false => Err(format!(
            "\"{name}\" is no name for a client; write small letters, digits and dashes between them, at most {LONGEST}, for example ann-laptop"
        )),
    }
}

/// Somebody who is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Its name.
    pub name: String,
    /// Until then; none for one of the configuration, which counts as long as its certificate.
    pub until: Option<SystemTime>,
}

/// Who may come in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<HashMap<Fingerprint, Allowed>>);

impl Clients {
    /// Those of the store, and of the configuration with what they are called there.
    pub fn of(stored: &BTreeMap<String, Client>, pinned: &[(Fingerprint, String)]) -> Self {
        let stored = stored.iter().map(|(name, client)| {
            let until = UNIX_EPOCH.checked_add(Duration::from_secs(client.until));
            let allowed = Allowed {
                name: name.clone(),
                until: Some(until.unwrap_or(UNIX_EPOCH)),
            };
            (client.key, allowed)
        });
        let pinned = pinned.iter().map(|(key, name)| {
            let allowed = Allowed {
                name: name.clone(),
                until: None,
            };
            (*key, allowed)
        });
        Self(Arc::new(stored.chain(pinned).collect()))
    }

    /// Who has that key, if it is somebody who may come in; also one whose time is over.
    pub fn get(&self, key: &Fingerprint) -> Option<&Allowed> {
        self.0.get(key)
    }
}

fn key(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn json<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|source| StoreError::Json {
        key: key.to_owned(),
        source: Arc::new(source),
    })
}

/// How an addition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now.
    Done,
    /// Somebody has that name.
    NameTaken,
}

/// Enters a client, unless there is one of that name.
///
/// # Errors
/// The store's.
pub async fn add(store: &dyn Store, name: &str, client: &Client) -> Result<Change, StoreError> {
    let key = key(name);
    let put = PutRequest::new(key.clone(), json(&key, client)?);
    Ok(match store.create(put).await?.0 {
        true => Change::Done,
        false => Change::NameTaken,
    })
}

/// All that are listed, by name. What cannot be read lets nobody in and is left out.
///
/// # Errors
/// The store's.
pub async fn list(store: &dyn Store) -> Result<BTreeMap<String, Client>, StoreError> {
    let found = store.list(PREFIX).await?;
    Ok(found.kvs.iter().filter_map(read).collect())
}

/// Strikes a client off; with the next word of the store each machine cuts it off. Answers whether it was there.
///
/// # Errors
/// The store's.
pub async fn revoke(store: &dyn Store, name: &str) -> Result<bool, StoreError> {
    let request = DeleteRangeRequest::key(key(name));
    Ok(store.delete_range(request).await?.deleted > 0)
}

fn name_of(kv: &KeyValue) -> Option<String> {
    let name = kv.key.strip_prefix(PREFIX.as_bytes())?;
    String::from_utf8(name.to_vec()).ok()
}

fn read(kv: &KeyValue) -> Option<(String, Client)> {
    let name = name_of(kv)?;
    match serde_json::from_slice::<Client>(&kv.value) {
        Ok(client) if client.version <= VERSION => Some((name, client)),
        Ok(client) => {
            tracing::warn!(
                name,
                version = client.version,
                "a client of a newer release is not let in here"
            );
            None
        }
        Err(error) => {
            tracing::warn!(name, %error, "a client that cannot be read is not let in");
            None
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Copy {
    version: u32,
    /// The number of the store that it is of: the list of a cluster that this machine has left lets nobody in.
    store: u64,
    clients: BTreeMap<String, Client>,
}

/// The list's copy on disk.
#[derive(Clone, Debug)]
pub struct Kept {
    dir: PathBuf,
    store: u64,
}

impl Kept {
    /// In that directory, of the store with that number.
    pub fn new(dir: &Path, store: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            store,
        }
    }

    /// The list as it was known last; empty where there is none, or one of another store.
    pub fn load(&self) -> BTreeMap<String, Client> {
        let path = self.dir.join(FILE);
        let read = std::fs::read(&path)
            .and_then(|bytes| serde_json::from_slice::<Copy>(&bytes).map_err(io::Error::other));
        match read {
            Ok(copy) if copy.version <= VERSION && copy.store == self.store => copy.clients,
            Ok(_) => BTreeMap::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the list of clients is not read; the store has it too");
                BTreeMap::new()
            }
        }
    }

    /// To be there after a power cut.
    fn save(&self, clients: &BTreeMap<String, Client>) -> Result<(), PkiError> {
        let copy = Copy {
            version: VERSION,
            store: self.store,
            clients: clients.clone(),
        };
        let path = self.dir.join(FILE);
        let text = serde_json::to_vec_pretty(&copy).map_err(io::Error::other);
        let text = text.map_err(|e| PkiError::io("writing", &path, e))?;
        put(&path, &text, 0o600)
    }
}

/// Keeps `known` as the store and the configuration have it, and the copy, until `stop` is cancelled. What is in the copy counts until the
/// store has answered, and whenever it is away.
pub async fn follow(
    store: Arc<dyn Store>,
    kept: Kept,
    pinned: Vec<(Fingerprint, String)>,
    known: watch::Sender<Clients>,
    stop: CancellationToken,
) {
    let (wanted, writing) = watch::channel(BTreeMap::new());
    let writing = write(kept, writing, stop.clone());
    // It owns `wanted`: with its end there is no more to write.
    let following = async move {
        let mut last = None;
        let tell = |now: &BTreeMap<String, Client>| {
            if last.as_ref() == Some(now) {
                return;
            }
            known.send_replace(Clients::of(now, &pinned));
            wanted.send_replace(now.clone());
            last = Some(now.clone());
        };
        let read = |kv: &KeyValue| {
            let name = name_of(kv)?;
            let client = read(kv).map(|(_, client)| client);
            Some((name, client))
        };
        crate::follow::follow(&*store, PREFIX, "clients", read, tell, stop).await;
    };
    tokio::join!(following, writing);
}

/// Writes down each list that is wanted; again where that fails, so that nobody who was struck off is let in after a restart.
async fn write(
    kept: Kept,
    mut wanted: watch::Receiver<BTreeMap<String, Client>>,
    stop: CancellationToken,
) {
    while wanted.changed().await.is_ok() {
        loop {
            let now = wanted.borrow_and_update().clone();
            let Err(error) = kept.save(&now) else { break };
            tracing::warn!(%error, "the list of clients could not be written down");
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::{EmbeddedStore, Options};

    use super::*;

    fn client(byte: u8) -> Client {
        Client::new(Fingerprint([byte; 32]), "0a", 1, u64::MAX, "a test")
    }

    async fn until(known: &mut watch::Receiver<Clients>, is: impl Fn(&Clients) -> bool) {
        let found = tokio::time::timeout(Duration::from_secs(30), known.wait_for(is)).await;
        found.unwrap().unwrap();
    }

    #[test]
    fn names() {
        for name in ["a", "ann", "ann-laptop-2", &"a".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "Ann", "a.b", "-a", "a-", "a/b", "a b", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_list_is_followed_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("store"), Options::default()).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let (ann, bob) = (client(1), client(2));
        assert_eq!(add(&*store, "ann", &ann).await.unwrap(), Change::Done);
        assert_eq!(add(&*store, "ann", &bob).await.unwrap(), Change::NameTaken);
        assert_eq!(list(&*store).await.unwrap()["ann"], ann);
        // What nobody here can read, or a newer release wrote, lets nobody in.
        let newer = Client {
            version: VERSION + 1,
            ..client(3)
        };
        add(&*store, "newer", &newer).await.unwrap();
        let put = PutRequest::new(key("odd"), b"{".to_vec());
        store.put(put).await.unwrap();

        let kept = Kept::new(dir.path(), 7);
        assert!(kept.load().is_empty());
        let stop = CancellationToken::new();
        let (known, mut seen) = watch::channel(Clients::default());
        let pinned = vec![(Fingerprint([9; 32]), "home".to_owned())];
        let following = follow(store.clone(), kept.clone(), pinned, known, stop.clone());
        let following = tokio::spawn(following);
        until(&mut seen, |all| all.get(&ann.key).is_some()).await;
        assert_eq!(
            seen.borrow().get(&Fingerprint([9; 32])).unwrap().name,
            "home"
        );
        for nobody in [bob.key, newer.key] {
            assert!(seen.borrow().get(&nobody).is_none());
        }
        add(&*store, "bob", &bob).await.unwrap();
        until(&mut seen, |all| all.get(&bob.key).is_some()).await;
        assert!(revoke(&*store, "ann").await.unwrap());
        assert!(!revoke(&*store, "ann").await.unwrap());
        until(&mut seen, |all| all.get(&ann.key).is_none()).await;
        stop.cancel();
        following.await.unwrap();

        // Whoever comes up without the store goes by that; of another store it is not.
        let last: Vec<_> = kept.load().into_keys().collect();
        assert_eq!(last, ["bob"]);
        assert!(Kept::new(dir.path(), 8).load().is_empty());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(kept.load().is_empty());
    }
}
