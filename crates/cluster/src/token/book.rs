//! Tokens in the store.

use std::sync::Arc;
use std::time::Duration;

use coracle_store::{
    Compare, DeleteRangeRequest, PutRequest, Store, StoreError, StoreExt as _, TxnOp, own_lease,
};
use serde::{Deserialize, Serialize};

use super::{Secret, Token};
use crate::MachineId;
use crate::members::{self, Member, Redeemed};
use crate::pki::Fingerprint;

/// Where tokens stand in the store.
pub const PREFIX: &str = "/coracle/v1/tokens/";
/// The version of a token's value.
const VERSION: u32 = 1;
/// How long a token that has run out is kept, so that who shows it is told why it is refused.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    secret: Fingerprint,
    issued: u64,
    expires: u64,
    uses: u32,
    who: String,
}

/// A token as far as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Its id.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it runs out.
    pub expires: u64,
    /// How many machines may still come with it.
    pub uses: u32,
    /// Who made it.
    pub who: String,
}

/// What a joining machine shows.
#[derive(Clone, Debug)]
pub struct Redeem {
    /// The token's id.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
    /// The machine that wants to join.
    pub machine: MachineId,
    /// The hash of the key that its certificate will be for.
    pub key: Fingerprint,
}

/// Why a token does not let a machine in.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// There is no such token, or it was used up.
    #[error(
        "this token is not known here: it was used already, was revoked, or ran out long ago; `coracle cluster token` on a member makes a new one"
    )]
    Unknown,
    /// Its time is over.
    #[error("this token ran out; `coracle cluster token` on a member makes a new one")]
    Expired,
    /// Another machine has this id, or this one lost its key.
    #[error(
        "machine {0} is a member already, with another key: if it is to be a new one there, have it removed first (`coracle machine remove {0}`); if its disk was copied from a member, give it a machine id of its own"
    )]
    OtherKey(MachineId),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn json(id: &str, record: &Record) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|source| StoreError::Json {
        key: key(id),
        source: Arc::new(source),
    })
}

/// Enters `token` into the store: it lets in `uses` machines within `ttl` (rounded up to seconds).
///
/// # Errors
/// The store's.
pub async fn issue(
    store: &dyn Store,
    token: &Token,
    ttl: Duration,
    uses: u32,
    who: &str,
    now: u64,
) -> Result<(), StoreError> {
    let ttl = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let record = Record {
        version: VERSION,
        secret: token.secret.hash(),
        issued: now,
        expires: now.saturating_add(ttl),
        uses,
        who: who.to_owned(),
    };
    let kept = ttl.saturating_add(REMEMBERED.as_secs());
    let kept = i64::try_from(kept).unwrap_or(i64::MAX);
    let lease = store.lease_grant(kept, own_lease()).await?.id;
    let put = PutRequest::new(key(&token.id), json(&token.id, &record)?).with_lease(lease);
    store.put(put).await.map(drop)
}

/// The tokens that there are, those that ran out lately too.
///
/// # Errors
/// The store's; `Json`, naming the key, for a value that is none.
pub async fn list(store: &dyn Store) -> Result<Vec<TokenView>, StoreError> {
    let found = store.list(PREFIX).await?;
    let view = |kv: coracle_store::KeyValue| {
        let at = String::from_utf8_lossy(&kv.key).into_owned();
        let record: Record = serde_json::from_slice(&kv.value).map_err(|e| StoreError::Json {
            key: at.clone(),
            source: Arc::new(e),
        })?;
        Ok(TokenView {
            id: at.strip_prefix(PREFIX).unwrap_or(&at).to_owned(),
            issued: record.issued,
            expires: record.expires,
            uses: record.uses,
            who: record.who,
        })
    };
    found.kvs.into_iter().map(view).collect()
}

/// Makes a token useless; answers whether there was one.
///
/// # Errors
/// The store's.
pub async fn revoke(store: &dyn Store, id: &str) -> Result<bool, StoreError> {
    let request = DeleteRangeRequest::key(key(id));
    Ok(store.delete_range(request).await?.deleted > 0)
}

/// Takes one use of the token and makes the machine a member, in one transaction; the same machine with the same key may ask again
/// until the token would have run out.
///
/// # Errors
/// See [`RedeemError`]. Nothing is changed then, unless the store says that it does not know.
pub async fn redeem(store: &dyn Store, shown: &Redeem, now: u64) -> Result<Member, RedeemError> {
    loop {
        let known = members::get(store, &shown.machine).await?;
        if let Some((member, _)) = &known {
            if !member.key.is(&shown.key) {
                // Who knows no token learns nothing of who is a member.
                look(store, shown, now).await?;
                return Err(RedeemError::OtherKey(shown.machine.clone()));
            }
            if let Some(token) = &member.token
                && token.id == shown.id
                && token.secret.is(&shown.secret.hash())
            {
                return match now < token.expires {
                    true => Ok(member.clone()),
                    false => Err(RedeemError::Expired),
                };
            }
        }
        let (record, revision) = look(store, shown, now).await?;
        let seen = known.as_ref().map_or(0, |(_, revision)| *revision);
        let mut member = known.map_or_else(|| Member::new(shown.key, now), |(known, _)| known);
        member.token = Some(Redeemed {
            id: shown.id.clone(),
            secret: record.secret,
            expires: record.expires,
        });
        let step = match record.uses {
            0 | 1 => TxnOp::Delete(DeleteRangeRequest::key(key(&shown.id))),
            uses => {
                let left = Record {
                    uses: uses - 1,
                    ..record
                };
                let mut put = PutRequest::new(key(&shown.id), json(&shown.id, &left)?);
                put.ignore_lease = true;
                TxnOp::Put(put)
            }
        };
        let unchanged = Compare::unchanged(key(&shown.id), revision);
        let txn = members::write(&shown.machine, &member, seen, (unchanged, step))?;
        if store.txn(txn).await?.succeeded {
            return Ok(member);
        }
        // Somebody was faster, with this token or for this machine: what holds now is looked at anew.
    }
}

/// The token's record and the revision that wrote it, if it lets anybody in.
async fn look(store: &dyn Store, shown: &Redeem, now: u64) -> Result<(Record, i64), RedeemError> {
    let well_formed = shown.id.len() == 16 && shown.id.bytes().all(|b| b.is_ascii_hexdigit());
    if !well_formed {
        return Err(RedeemError::Unknown);
    }
    let found = store.get_json::<Record>(&key(&shown.id)).await?;
    let (record, revision) = found.ok_or(RedeemError::Unknown)?;
    if !record.secret.is(&shown.secret.hash()) {
        return Err(RedeemError::Unknown);
    }
    if now >= record.expires {
        return Err(RedeemError::Expired);
    }
    Ok((record, revision))
}
