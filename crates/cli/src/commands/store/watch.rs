//! `watch`: changes as they come, through the ends of daemons.

use super::api::{Stream, is_lost, stream};
use super::kv::Keys;
use super::model::{Watched, base64};
use super::show::Output;
use crate::client::Client;
use crate::error::{CliError, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `watch`.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// Key
    key: OsString,
    /// End of a range, not part of it
    #[arg(conflicts_with = "prefix")]
    range_end: Option<OsString>,
    /// All keys that begin so
    #[arg(long)]
    prefix: bool,
    /// Begin with the changes of this revision
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    rev: i64,
    /// Show keys as they were before, too
    #[arg(long)]
    prev_kv: bool,
    #[command(flatten)]
    output: Output,
}

/// How long to leave a daemon that has gone alone.
const AGAIN: Duration = Duration::from_millis(200);
/// What a shell says of a command that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

pub async fn watch(client: &Client, args: Watch) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = follow(client, args) => ended,
        _ = interrupt.recv() => Err(CliError::Exit(INTERRUPTED)),
    }
}

async fn follow(client: &Client, args: Watch) -> Result<()> {
    let keys = Keys {
        key: args.key,
        range_end: args.range_end,
        prefix: args.prefix,
        from_key: false,
    };
    let (key, range_end) = keys.range();
    let mut create = json!({
        "key": base64(&key), "range_end": base64(&range_end), "prev_kv": args.prev_kv,
        // So that a watch of keys that rest is not overtaken by compaction when it must begin anew.
        "progress_notify": true,
    });
    let mut next = args.rev;
    let mut begun = false;
    loop {
        create["start_revision"] = next.to_string().into();
        let error = match begin(client, &create).await {
            Ok(mut answers) => loop {
                match answers.next::<Watched>().await {
                    Ok(Some(told)) => {
                        begun = true;
                        next = tell(&told, next, &args.output)?;
                    }
                    // The daemon leaves.
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        match error {
            Some(error) if !(begun && is_lost(&error)) => return Err(error),
            _ => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn begin(client: &Client, create: &Value) -> Result<Stream> {
    stream(client, "watch", &json!({ "create_request": create })).await
}

/// Writes an answer; gives the revision to go on from.
fn tell(told: &Watched, next: i64, output: &Output) -> Result<i64> {
    if told.canceled {
        let why = match (told.compact_revision, &*told.cancel_reason) {
            (0, "") => "the store gave no reason".to_owned(),
            (0, reason) => reason.to_owned(),
            (oldest, _) => format!(
                "etcdserver: mvcc: required revision has been compacted; the oldest kept is {oldest}: get the keys, then watch from there"
            ),
        };
        return Err(CliError::Daemon {
            status: 400,
            message: format!("watch was canceled ({why})"),
            diagnostics: Value::Null,
        });
    }
    if !told.events.is_empty() {
        output.show(told, |s| s.watched(told), |s| s.watched_fields(told))?;
    }
    let last = told.events.last().map(|event| event.kv.mod_revision);
    Ok(match last {
        // All changes of one revision come in one answer.
        Some(last) => last + 1,
        // One that begins now, or nothing up to there.
        None if !told.created || next == 0 => next.max(told.header.revision + 1),
        None => next,
    })
}
