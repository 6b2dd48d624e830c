//! etcd's messages: read from the gateway's JSON (64-bit numbers as strings), written as etcdctl's `-w json` has them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::str::FromStr;

/// Bytes, in base64.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// Bytes as a request has them.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn number<'de, D: Deserializer<'de>, T: FromStr>(deserializer: D) -> Result<T, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let bad = || D::Error::custom(format!("\"{text}\" is no number"));
    text.parse().map_err(|_| bad())
}

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What every answer begins with.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub cluster_id: u64,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub member_id: u64,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub revision: i64,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub raft_term: u64,
}

/// A key at a revision.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyValue {
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    pub key: Bytes,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub create_revision: i64,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub mod_revision: i64,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub version: i64,
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    pub value: Bytes,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub lease: i64,
}

/// The answer to `range`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    pub header: Header,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kvs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "zero")]
    pub more: bool,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub count: i64,
}

/// The answer to `put`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Put {
    pub header: Header,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

/// The answer to `deleterange`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Delete {
    pub header: Header,
    #[serde(deserialize_with = "number", skip_serializing_if = "zero")]
    pub deleted: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prev_kvs: Vec<KeyValue>,
}

/// The answer to `txn`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Txn {
    pub header: Header,
    #[serde(skip_serializing_if = "zero")]
    pub succeeded: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "steps")]
    pub responses: Vec<Step>,
}

/// The answer to one step of a transaction.
#[derive(Debug, Serialize, Deserialize)]
pub enum Step {
    #[serde(rename(deserialize = "response_range", serialize = "ResponseRange"))]
    Range(Range),
    #[serde(rename(deserialize = "response_put", serialize = "ResponsePut"))]
    Put(Put),
    #[serde(rename(
        deserialize = "response_delete_range",
        serialize = "ResponseDeleteRange"
    ))]
    Delete(Delete),
}

fn steps<S: Serializer>(steps: &[Step], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Wrapped<'a> {
        #[serde(rename = "Response")]
        response: &'a Step,
    }
    serializer.collect_seq(steps.iter().map(|response| Wrapped { response }))
}

/// What a watch tells at once.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all(serialize = "PascalCase"))]
pub struct Watched {
    pub header: Header,
    pub events: Vec<Event>,
    #[serde(deserialize_with = "number")]
    pub compact_revision: i64,
    pub canceled: bool,
    pub created: bool,
    #[serde(skip_serializing)]
    pub cancel_reason: String,
}

/// A change of a key.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    #[serde(
        rename = "type",
        deserialize_with = "is_delete",
        serialize_with = "delete_number",
        skip_serializing_if = "zero"
    )]
    pub deleted: bool,
    pub kv: KeyValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_kv: Option<KeyValue>,
}

fn is_delete<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(deserializer)? == "DELETE")
}

fn delete_number<S: Serializer>(deleted: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(u8::from(*deleted))
}

/// The answer to whatever is asked of leases.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Lease {
    pub header: Header,
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
    #[serde(rename = "TTL", deserialize_with = "number")]
    pub ttl: i64,
    #[serde(rename = "grantedTTL", deserialize_with = "number")]
    pub granted_ttl: i64,
    pub keys: Vec<Bytes>,
}

/// The answer to `leases`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Leases {
    pub header: Header,
    pub leases: Vec<LeaseId>,
}

/// A lease in a list.
#[derive(Debug, Deserialize)]
pub struct LeaseId {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
}

/// The answer to `status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    pub header: Header,
    #[serde(rename = "dbSize", deserialize_with = "number")]
    pub size: u64,
    #[serde(rename = "dbSizeInUse", deserialize_with = "number")]
    pub in_use: u64,
    #[serde(rename = "dbSizeQuota", deserialize_with = "number")]
    pub quota: u64,
    pub errors: Vec<String>,
}

/// The answer to `hash`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hash {
    #[serde(deserialize_with = "number")]
    pub compact_revision: i64,
}

/// A piece of a snapshot.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Piece {
    pub blob: Bytes,
}
