//! `GET /containers/{id}/stats`: one answer, or one a second.

use crate::App;
use crate::containers::json_stream;
use crate::error::Result;
use crate::inspect::moment;
use crate::query::Query;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use coracle_engine::stats::Sample;
use coracle_engine::{Engine, EngineError};
use futures_util::stream::unfold;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

pub async fn stats(State(app): State<App>, Path(id): Path<String>, query: Query) -> Result {
    let engine = app.engine;
    let record = engine.get(&id)?.record;
    let id = record.id.to_string();
    let name = format!("/{}", record.name);
    let first = engine.sample(&id)?;
    if !query.flag_or("stream", true) {
        let (before, now) = if query.flag("one-shot") {
            (Sample::default(), first)
        } else {
            // Usage is the difference of two looks.
            tokio::time::sleep(INTERVAL).await;
            (first, engine.sample(&id)?)
        };
        return Ok(Json(answer(&id, &name, &before, &now)).into_response());
    }
    let start = (engine, id, name, Sample::default(), Some(first));
    let stream = unfold(start, |(engine, id, name, before, next)| async move {
        let now = match next {
            Some(now) => now,
            None => {
                tokio::time::sleep(INTERVAL).await;
                look(&engine, &id)?
            }
        };
        let line = format!("{}\n", answer(&id, &name, &before, &now));
        Some((Ok::<_, Infallible>(line), (engine, id, name, now, None)))
    });
    Ok(json_stream(Body::from_stream(stream)))
}

/// The stream ends when the container is gone.
fn look(engine: &Engine, id: &str) -> Option<Sample> {
    match engine.sample(id) {
        Ok(sample) => Some(sample),
        Err(EngineError::NotFound { .. }) => None,
        Err(error) => {
            tracing::debug!(%error, "no figures");
            Some(Sample::default())
        }
    }
}

fn cpu(sample: &Sample) -> Value {
    let s = &sample.cgroup;
    json!({
        "cpu_usage": {
            "total_usage": s.cpu_total_ns,
            "usage_in_kernelmode": s.cpu_system_ns,
            "usage_in_usermode": s.cpu_user_ns,
        },
        "system_cpu_usage": sample.system_cpu_ns,
        "online_cpus": sample.online_cpus,
        "throttling_data": {
            "periods": s.periods,
            "throttled_periods": s.throttled_periods,
            "throttled_time": s.throttled_ns,
        },
    })
}

fn answer(id: &str, name: &str, before: &Sample, now: &Sample) -> Value {
    let s = &now.cgroup;
    let networks: serde_json::Map<String, Value> = now
        .networks
        .iter()
        .map(|(name, i)| {
            let counters = json!({
                "rx_bytes": i.rx_bytes, "rx_packets": i.rx_packets, "rx_errors": i.rx_errors, "rx_dropped": i.rx_dropped,
                "tx_bytes": i.tx_bytes, "tx_packets": i.tx_packets, "tx_errors": i.tx_errors, "tx_dropped": i.tx_dropped,
            });
            (name.clone(), counters)
        })
        .collect();
    let mut answer = json!({
        "id": id,
        "name": name,
        "read": moment(now.read),
        "preread": moment(before.read),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": { "current": s.pids_current, "limit": s.pids_limit },
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": {
            "usage": s.memory_usage,
            "max_usage": s.memory_peak,
            "failcnt": s.memory_failures,
            "limit": s.memory_limit.unwrap_or(now.machine_memory),
            // Clients take the name that their kind of control groups has off the usage.
            "stats": {
                "cache": s.memory_cache,
                "total_inactive_file": s.memory_inactive_file,
                "inactive_file": s.memory_inactive_file,
            },
        },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                { "major": 0, "minor": 0, "op": "Read", "value": s.io_read_bytes },
                { "major": 0, "minor": 0, "op": "Write", "value": s.io_write_bytes },
            ],
            // Only old schedulers count these.
            "io_serviced_recursive": null,
            "io_queue_recursive": null,
            "io_service_time_recursive": null,
            "io_wait_time_recursive": null,
            "io_merged_recursive": null,
            "io_time_recursive": null,
            "sectors_recursive": null,
        },
    });
    if !networks.is_empty() {
        answer["networks"] = Value::Object(networks);
    }
    answer
}
