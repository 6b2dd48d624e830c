//! `get`, `put` and `del`: their flags, and the requests they become. A transaction's steps have the same.

use super::lease::id;
use super::model::base64;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

/// Which keys.
#[derive(Debug, clap::Args)]
pub struct Keys {
    /// Key
    pub key: OsString,
    /// End of a range, not part of it
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    pub range_end: Option<OsString>,
    /// All keys that begin so
    #[arg(long, conflicts_with = "from_key")]
    pub prefix: bool,
    /// This key and all after it
    #[arg(long)]
    pub from_key: bool,
}

/// Order of a list.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Order {
    Ascend,
    Descend,
}

/// What a list is in the order of.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum SortBy {
    Create,
    Key,
    Modify,
    Value,
    Version,
}

/// Flags of `get` that go into its request.
#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    pub keys: Keys,
    /// At this revision
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub rev: i64,
    /// At most so many keys
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub limit: i64,
    /// Order of the keys
    #[arg(long, ignore_case = true)]
    pub order: Option<Order>,
    /// What the order is of
    #[arg(long, ignore_case = true)]
    pub sort_by: Option<SortBy>,
    /// Keys without values
    #[arg(long)]
    pub keys_only: bool,
    /// How many there are, only
    #[arg(long)]
    pub count_only: bool,
    /// Values without keys, in simple output
    #[arg(long)]
    pub print_value_only: bool,
}

/// Flags of `put`.
#[derive(Debug, clap::Args)]
pub struct Put {
    /// Key
    pub key: OsString,
    /// Value; what stdin has when missing
    #[arg(conflicts_with = "ignore_value")]
    pub value: Option<OsString>,
    /// Lease that the key goes with, in hexadecimal
    #[arg(long, value_name = "ID", value_parser = id)]
    pub lease: Option<i64>,
    /// Show the key as it was before
    #[arg(long)]
    pub prev_kv: bool,
    /// Keep the value
    #[arg(long)]
    pub ignore_value: bool,
    /// Keep the lease
    #[arg(long)]
    pub ignore_lease: bool,
}

/// Flags of `del`.
#[derive(Debug, clap::Args)]
pub struct Del {
    #[command(flatten)]
    pub keys: Keys,
    /// Show the keys as they were before
    #[arg(long)]
    pub prev_kv: bool,
}

/// The first key that is after all with this prefix; 0 for no end.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let Some(last) = prefix.iter().rposition(|b| *b != u8::MAX) else {
        return vec![0];
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

impl Keys {
    /// Key and end of the range as etcd has them.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let key = self.key.as_bytes().to_vec();
        match &self.range_end {
            _ if (self.prefix || self.from_key) && key.is_empty() => (vec![0], vec![0]),
            _ if self.prefix => (key.clone(), prefix_end(&key)),
            _ if self.from_key => (key, vec![0]),
            Some(end) => (key, end.as_bytes().to_vec()),
            None => (key, Vec::new()),
        }
    }

    fn request(&self) -> Value {
        let (key, end) = self.range();
        json!({ "key": base64(&key), "range_end": base64(&end) })
    }
}

impl Get {
    pub fn request(&self) -> Value {
        let mut request = self.keys.request();
        request["revision"] = self.rev.to_string().into();
        request["limit"] = self.limit.to_string().into();
        request["sort_order"] = match self.order {
            None => "NONE",
            Some(Order::Ascend) => "ASCEND",
            Some(Order::Descend) => "DESCEND",
        }
        .into();
        request["sort_target"] = match self.sort_by {
            None | Some(SortBy::Key) => "KEY",
            Some(SortBy::Create) => "CREATE",
            Some(SortBy::Modify) => "MOD",
            Some(SortBy::Value) => "VALUE",
            Some(SortBy::Version) => "VERSION",
        }
        .into();
        request["keys_only"] = self.keys_only.into();
        request["count_only"] = self.count_only.into();
        request
    }
}

impl Put {
    /// The request, if it has its value.
    pub fn request(&self) -> Option<Value> {
        let value = match &self.value {
            Some(value) => value.as_bytes(),
            None if self.ignore_value => b"",
            None => return None,
        };
        Some(json!({
            "key": base64(self.key.as_bytes()), "value": base64(value),
            "lease": self.lease.unwrap_or(0).to_string(), "prev_kv": self.prev_kv,
            "ignore_value": self.ignore_value, "ignore_lease": self.ignore_lease,
        }))
    }
}

impl Del {
    pub fn request(&self) -> Value {
        let mut request = self.keys.request();
        request["prev_kv"] = self.prev_kv.into();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(prefix_end(b"a/"), b"a0");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
    }
}
