//! Leases.

use super::api::{call, is_lost, stream};
use super::model::{Header, Lease as Answer, Leases};
use super::show::{Form, Output, quoted};
use crate::client::Client;
use crate::error::{CliError, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// `coracle store lease`
#[derive(Debug, clap::Subcommand)]
pub enum Lease {
    /// Make a lease of so many seconds
    #[command(after_help = "Example:\n  coracle store lease grant 60")]
    Grant {
        /// Seconds
        #[arg(allow_negative_numbers = true)]
        ttl: i64,
        #[command(flatten)]
        output: Output,
    },
    /// End a lease and delete its keys
    #[command(after_help = "Example:\n  coracle store lease revoke 694d77aa9e38260f")]
    Revoke {
        /// Lease, in hexadecimal
        #[arg(value_parser = id)]
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// How long a lease lasts
    #[command(after_help = "Example:\n  coracle store lease timetolive 694d77aa9e38260f --keys")]
    Timetolive {
        /// Lease, in hexadecimal
        #[arg(value_parser = id)]
        id: i64,
        /// Show its keys
        #[arg(long)]
        keys: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List leases
    #[command(after_help = "Example:\n  coracle store lease list")]
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Give a lease its full time, again and again
    #[command(after_help = "Example:\n  coracle store lease keep-alive --once 694d77aa9e38260f")]
    KeepAlive {
        /// Once only
        #[arg(long)]
        once: bool,
        /// Lease, in hexadecimal
        #[arg(value_parser = id)]
        id: i64,
        #[command(flatten)]
        output: Output,
    },
}

/// How long to wait for a daemon that has gone.
const AGAIN: Duration = Duration::from_millis(200);

/// Reads a lease's id.
pub fn id(text: &str) -> std::result::Result<i64, String> {
    i64::from_str_radix(text, 16)
        .map_err(|_| format!("\"{text}\" is no lease; write its id in hexadecimal"))
}

#[derive(Serialize)]
struct Granted<'a> {
    #[serde(flatten)]
    header: &'a Header,
    #[serde(rename = "ID")]
    id: i64,
    #[serde(rename = "TTL")]
    ttl: i64,
    #[serde(rename = "Error", skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

pub async fn lease(client: &Client, command: &Lease) -> Result<()> {
    match command {
        Lease::Grant { ttl, output } => {
            let body = json!({ "TTL": ttl.to_string(), "ID": "0" });
            let granted: Answer = call(client, "lease/grant", &body).await?;
            let (id, ttl) = (granted.id, granted.ttl);
            let shown = Granted {
                header: &granted.header,
                id,
                ttl,
                error: Some(""),
            };
            output.show(
                &shown,
                |s| s.line(format_args!("lease {id:016x} granted with TTL({ttl}s)")),
                |s| {
                    s.header(&granted.header);
                    s.field("ID", id);
                    s.field("TTL", ttl);
                },
            )
        }
        Lease::Revoke { id, output } => {
            let body = json!({ "ID": id.to_string() });
            let done: Answer = call(client, "lease/revoke", &body).await?;
            output.show(
                &json!({ "header": done.header }),
                |s| s.line(format_args!("lease {id:016x} revoked")),
                |s| s.header(&done.header),
            )
        }
        Lease::Timetolive { id, keys, output } => {
            let body = json!({ "ID": id.to_string(), "keys": keys });
            let found: Answer = call(client, "lease/timetolive", &body).await?;
            left(&found, *id, *keys, output)
        }
        Lease::List { output } => list(client, output).await,
        Lease::KeepAlive { once, id, output } => keep_alive(client, *id, *once, output).await,
    }
}

fn left(found: &Answer, id: i64, keys: bool, output: &Output) -> Result<()> {
    #[derive(Serialize)]
    struct Left<'a> {
        #[serde(flatten)]
        header: &'a Header,
        id: i64,
        ttl: i64,
        #[serde(rename = "granted-ttl")]
        granted_ttl: i64,
        keys: Value,
    }
    let (ttl, granted) = (found.ttl, found.granted_ttl);
    let shown = Left {
        header: &found.header,
        id,
        ttl,
        granted_ttl: granted,
        keys: match found.keys.is_empty() {
            true => Value::Null,
            false => json!(found.keys),
        },
    };
    output.show(
        &shown,
        |s| {
            if granted == 0 && ttl == -1 {
                return s.line(format_args!("lease {id:016x} already expired"));
            }
            let mut text =
                format!("lease {id:016x} granted with TTL({granted}s), remaining({ttl}s)");
            if keys {
                let keys = found.keys.iter().map(|key| String::from_utf8_lossy(&key.0));
                let keys = keys.collect::<Vec<_>>().join(" ");
                text.push_str(&format!(", attached keys([{keys}])"));
            }
            s.line(text);
        },
        |s| {
            s.header(&found.header);
            s.field("ID", id);
            s.field("TTL", ttl);
            s.field("GrantedTTL", granted);
            for key in &found.keys {
                s.field("Key", quoted(&key.0));
            }
        },
    )
}

async fn list(client: &Client, output: &Output) -> Result<()> {
    #[derive(Serialize)]
    struct List<'a> {
        #[serde(flatten)]
        header: &'a Header,
        leases: Vec<Value>,
    }
    let found: Leases = call(client, "lease/leases", &json!({})).await?;
    let ids = || found.leases.iter().map(|lease| lease.id);
    let shown = List {
        header: &found.header,
        leases: ids().map(|id| json!({ "id": id })).collect(),
    };
    output.show(
        &shown,
        |s| {
            s.line(format_args!("found {} leases", found.leases.len()));
            ids().for_each(|id| s.line(format_args!("{id:016x}")));
        },
        |s| {
            s.header(&found.header);
            ids().for_each(|id| s.field("ID", id));
        },
    )
}

async fn renew(client: &Client, id: i64) -> Result<Answer> {
    let body = json!({ "ID": id.to_string() });
    let mut answers = stream(client, "lease/keepalive", &body).await?;
    // A daemon that leaves ends the stream.
    let answer = answers.next().await?;
    answer.ok_or_else(|| CliError::Daemon {
        status: 503,
        message: "the daemon left before it answered".into(),
        diagnostics: Value::Null,
    })
}

async fn keep_alive(client: &Client, id: i64, once: bool, output: &Output) -> Result<()> {
    let mut ends = None;
    loop {
        let asked = Instant::now();
        let answer = match renew(client, id).await {
            // As long as the lease may still be there.
            Err(error) if is_lost(&error) && ends.is_some_and(|ends| asked < ends) => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            answer => answer?,
        };
        let ttl = answer.ttl;
        if ttl <= 0 {
            if once {
                return Err(CliError::Daemon {
                    status: 404,
                    message: "etcdserver: requested lease not found".into(),
                    diagnostics: Value::Null,
                });
            }
            // etcdctl says it in this form only, and takes it for no error.
            if output.form() == Form::Simple {
                let mut sheet = output.sheet();
                sheet.line(format_args!("lease {id:016x} expired or revoked."));
                return sheet.print();
            }
            return Ok(());
        }
        let shown = Granted {
            header: &answer.header,
            id,
            ttl,
            error: None,
        };
        output.show(
            &shown,
            |s| s.line(format_args!("lease {id:016x} keepalived with TTL({ttl})")),
            |s| {
                s.header(&answer.header);
                s.field("ID", id);
                s.field("TTL", ttl);
            },
        )?;
        if once {
            return Ok(());
        }
        let time = Duration::from_secs(ttl.unsigned_abs());
        ends = asked.checked_add(time);
        tokio::time::sleep(time / 3).await;
    }
}
