//! `coracle store`: the key-value store, in etcdctl's words.

mod api;
mod kv;
mod lease;
mod model;
mod show;
mod snapshot;
mod txn;
mod watch;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::format::out;
use api::call;
use serde::Serialize;
use serde_json::json;
use show::{Output, quoted};
use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt as _;

/// `coracle store`
#[derive(Debug, clap::Subcommand)]
pub enum Store {
    /// Show a key, or a range of keys
    #[command(after_help = "Example:\n  coracle store get --prefix /app/ --keys-only")]
    Get {
        #[command(flatten)]
        get: kv::Get,
        #[command(flatten)]
        output: Output,
    },
    /// Set a key
    #[command(after_help = "Example:\n  coracle store put /app/colour blue --prev-kv")]
    Put {
        #[command(flatten)]
        put: kv::Put,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a key, or a range of keys
    #[command(after_help = "Example:\n  coracle store del --prefix /app/")]
    Del {
        #[command(flatten)]
        del: kv::Del,
        #[command(flatten)]
        output: Output,
    },
    /// Show changes as they come
    #[command(after_help = "Example:\n  coracle store watch --prefix /app/")]
    Watch(watch::Watch),
    /// Compare and act, all at once, as stdin says
    #[command(
        after_help = "Example:\n  printf 'value(\"a\") = \"1\"\\n\\nput a 2\\n\\nget a\\n\\n' | coracle store txn"
    )]
    Txn {
        #[command(flatten)]
        output: Output,
    },
    /// Leases: keys that go unless somebody keeps them
    #[command(subcommand)]
    Lease(lease::Lease),
    /// How the store stands
    #[command(after_help = "Example:\n  coracle store status")]
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// Forget history before a revision
    #[command(after_help = "Example:\n  coracle store compact 1000")]
    Compact {
        /// The oldest revision to keep [default: the newest there is]
        revision: Option<i64>,
        /// For etcdctl's sake: space is free for what comes next either way
        #[arg(long)]
        physical: bool,
    },
    /// Copies of the whole store
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
}

pub async fn store(client: &Client, command: Store) -> Result<()> {
    match command {
        Store::Get { get, output } => {
            if get.print_value_only && output.form() != show::Form::Simple {
                return Err(CliError::Usage(
                    "--print-value-only is for simple output; leave one of it and -w out".into(),
                ));
            }
            let found: model::Range = call(client, "kv/range", &get.request()).await?;
            output.show(
                &found,
                |s| match get.count_only {
                    true => s.line(found.count),
                    false => s.range(&found, get.print_value_only),
                },
                |s| s.range_fields(&found),
            )
        }
        Store::Put { mut put, output } => {
            if put.value.is_none() && !put.ignore_value {
                put.value = Some(from_stdin()?);
            }
            let done: model::Put =
                call(client, "kv/put", &put.request().unwrap_or_default()).await?;
            output.show(&done, |s| s.put(&done), |s| s.put_fields(&done))
        }
        Store::Del { del, output } => {
            let done: model::Delete = call(client, "kv/deleterange", &del.request()).await?;
            output.show(&done, |s| s.delete(&done), |s| s.delete_fields(&done))
        }
        Store::Watch(args) => watch::watch(client, args).await,
        Store::Txn { output } => {
            let text = std::io::read_to_string(std::io::stdin())?;
            let done: model::Txn = call(client, "kv/txn", &txn::request(&text)?).await?;
            output.show(&done, |s| s.txn(&done), |s| s.txn_fields(&done))
        }
        Store::Lease(command) => lease::lease(client, &command).await,
        Store::Status { output } => status(client, &output).await,
        Store::Compact { revision, physical } => {
            let revision = match revision {
                Some(revision) => revision,
                None => {
                    let now: model::Status = call(client, "maintenance/status", &json!({})).await?;
                    now.header.revision
                }
            };
            let body = json!({ "revision": revision.to_string(), "physical": physical });
            let _: serde_json::Value = call(client, "kv/compaction", &body).await?;
            out(&format!("compacted revision {revision}\n"))
        }
        Store::Snapshot(command) => snapshot::snapshot(client, command).await,
    }
}

/// The value that was not among the arguments.
fn from_stdin() -> Result<OsString> {
    let mut value = Vec::new();
    let mut stdin = std::io::stdin();
    if !stdin.is_terminal() {
        stdin.read_to_end(&mut value)?;
    }
    if value.is_empty() {
        return Err(CliError::Usage(
            "put needs a value, after the key or in stdin; an empty one is written ''".into(),
        ));
    }
    Ok(OsString::from_vec(value))
}

async fn status(client: &Client, output: &Output) -> Result<()> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown<'a> {
        header: &'a model::Header,
        compact_revision: i64,
        db_size: u64,
        db_size_in_use: u64,
        db_size_quota: u64,
        leases: usize,
        errors: &'a [String],
    }
    let nothing = json!({});
    let found: model::Status = call(client, "maintenance/status", &nothing).await?;
    // Of all answers this one tells how far history is forgotten.
    let hash: model::Hash = call(client, "maintenance/hash", &nothing).await?;
    let leases: model::Leases = call(client, "lease/leases", &nothing).await?;
    let shown = Shown {
        header: &found.header,
        compact_revision: hash.compact_revision,
        db_size: found.size,
        db_size_in_use: found.in_use,
        db_size_quota: found.quota,
        leases: leases.leases.len(),
        errors: &found.errors,
    };
    output.show(
        &shown,
        |s| {
            let size = |bytes: u64| crate::format::words::binary(bytes as f64);
            s.line(format_args!("Revision:  {}", shown.header.revision));
            s.line(format_args!("Compacted: {}", shown.compact_revision));
            s.line(format_args!("In use:    {}", size(shown.db_size_in_use)));
            s.line(format_args!("On disk:   {}", size(shown.db_size)));
            s.line(format_args!("Quota:     {}", size(shown.db_size_quota)));
            s.line(format_args!("Leases:    {}", shown.leases));
            let alarm = match shown.errors {
                [] => "none".to_owned(),
                errors => errors.join(", "),
            };
            s.line(format_args!("Alarm:     {}", alarm.trim_end()));
        },
        |s| {
            s.header(shown.header);
            s.field("CompactRevision", shown.compact_revision);
            s.field("DBSize", shown.db_size);
            s.field("DBSizeInUse", shown.db_size_in_use);
            s.field("DBSizeQuota", shown.db_size_quota);
            s.field("Leases", shown.leases);
            let errors: Vec<_> = shown.errors.iter().map(|e| quoted(e.as_bytes())).collect();
            s.field("Errors", format_args!("[{}]", errors.join(" ")));
        },
    )
}
