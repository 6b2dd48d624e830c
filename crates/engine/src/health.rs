//! Health: a container's own test, run inside it, or a probe from the host where an image is empty inside.
//!
//! The state is pure ([`Health::record`]):
//!
//! ```
//! # use coracle_engine::health::{Health, Probe};
//! # use chrono::Utc;
//! let mut health = Health::new(2);
//! let probe = |good: bool| Probe { start: Utc::now(), end: Utc::now(), exit_code: i32::from(!good), output: String::new() };
//! assert_eq!(health.status, "starting");
//! assert!(!health.record(probe(false), false));           // one failure is not enough
//! assert!(health.record(probe(false), false));            // two are
//! assert_eq!(health.status, "unhealthy");
//! assert!(health.record(probe(true), false));
//! assert_eq!(health.status, "healthy");
//! ```

use crate::container::Container;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::model::HealthConfig;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEPT: usize = 5;
const OUTPUT: usize = 4096;

/// One test's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Probe {
    /// When it began.
    pub start: DateTime<Utc>,
    /// When it ended.
    pub end: DateTime<Utc>,
    /// 0 is good.
    pub exit_code: i32,
    /// At most 4096 bytes.
    pub output: String,
}

/// Docker's `Health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: &'static str,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five tests.
    pub log: VecDeque<Probe>,
    #[serde(skip)]
    retries: u32,
}

impl Health {
    /// Before the first test.
    pub fn new(retries: u32) -> Self {
        Self {
            status: "starting",
            failing_streak: 0,
            log: VecDeque::new(),
            retries: retries.max(1),
        }
    }

    /// Takes a result; `starting` says whether failures do not count yet. Returns whether the status changed.
    pub fn record(&mut self, probe: Probe, starting: bool) -> bool {
        let before = self.status;
        if probe.exit_code == 0 {
            self.failing_streak = 0;
            self.status = "healthy";
        } else if !(starting && self.status == "starting") {
            self.failing_streak += 1;
            if self.failing_streak >= self.retries {
                self.status = "unhealthy";
            }
        }
        if self.log.len() == KEPT {
            self.log.pop_front();
        }
        self.log.push_back(probe);
        self.status != before
    }

    /// Whether it may be given to those who ask for its service.
    pub fn is_good(&self) -> bool {
        self.status == "healthy"
    }
}

fn nanos(value: i64, default: Duration) -> Duration {
    match u64::try_from(value) {
        Ok(0) | Err(_) => default,
        Ok(n) => Duration::from_nanos(n),
    }
}

/// Whether there is a test at all.
fn test(config: &HealthConfig) -> Option<(&str, &[String])> {
    let (kind, rest) = config.test.split_first()?;
    (kind != "NONE").then_some((kind.as_str(), rest))
}

impl Engine {
    /// Begins to test a container that has just started or was taken over.
    pub(crate) fn watch_health(&self, container: &Arc<Container>) {
        let config = container
            .read(|r| r.config.healthcheck.clone())
            .unwrap_or_default();
        if test(&config).is_none() {
            container.set_health(None);
            return;
        }
        let retries = u32::try_from(config.retries)
            .ok()
            .filter(|r| *r > 0)
            .unwrap_or(3);
        let taken_over = container.read(|r| r.state.healthy);
        container.set_health(Some(Health {
            status: if taken_over { "healthy" } else { "starting" },
            ..Health::new(retries)
        }));
        let (engine, watched) = (self.clone(), Arc::downgrade(container));
        let began = Instant::now();
        let task = tokio::spawn(async move {
            let interval = nanos(config.interval, Duration::from_secs(30));
            let start_period = nanos(config.start_period, Duration::ZERO);
            let start_interval = nanos(config.start_interval, Duration::from_secs(5)).min(interval);
            let mut at_once = taken_over;
            loop {
                let starting = began.elapsed() < start_period;
                let Some(container) = watched.upgrade() else {
                    return;
                };
                let early = starting && container.health().is_some_and(|h| h.status == "starting");
                drop(container);
                if !std::mem::take(&mut at_once) {
                    tokio::time::sleep(if early { start_interval } else { interval }).await;
                }
                let Some(container) = watched.upgrade() else {
                    return;
                };
                if container.read(|r| r.state.paused) {
                    continue;
                }
                let probe = engine.probe(&container, &config).await;
                let starting = began.elapsed() < start_period;
                let Some(mut health) = container.health() else {
                    return;
                };
                let changed = health.record(probe, starting);
                let status = health.status;
                container.set_health(Some(health));
                if changed {
                    container.happened(false, |r| r.state.healthy = status == "healthy");
                    engine.names_changed();
                    engine.tell(&container, &format!("health_status: {status}"), &[]);
                }
            }
        });
        container.set_health_task(Some(task.abort_handle()));
    }

    async fn probe(&self, container: &Container, config: &HealthConfig) -> Probe {
        let start = Utc::now();
        let limit = nanos(config.timeout, Duration::from_secs(30));
        let before = self.execs_of(&container.id);
        let (exit_code, output) =
            match tokio::time::timeout(limit, self.run_test(container, config)).await {
                Ok((code, output)) => (code, output),
                Err(_) => {
                    // Only the test's own process: those that ran before it are a person's.
                    for exec in self
                        .execs_of(&container.id)
                        .iter()
                        .filter(|e| !before.contains(e))
                    {
                        if self.exec_get(exec).is_ok_and(|e| {
                            Some(&e.config.cmd) == command(container, config).as_ref()
                        }) {
                            let _ = self.exec_kill(container.id.as_str(), exec).await;
                        }
                    }
                    (-1, format!("Health check exceeded timeout ({limit:?})"))
                }
            };
        Probe {
            start,
            end: Utc::now(),
            exit_code,
            output,
        }
    }

    async fn run_test(&self, container: &Container, config: &HealthConfig) -> (i32, String) {
        let Some((kind, rest)) = test(config) else {
            return (0, String::new());
        };
        let target = rest.first().map_or("", String::as_str);
        let address = container.read(|r| r.state.endpoints.first().map(|e| e.ip));
        let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
        match kind {
            "TCP" => good(tcp(address, target).await.map(|_| String::new())),
            "HTTP" => good(http(address, target).await),
            _ => {
                let command = command(container, config).unwrap_or_default();
                match self
                    .exec_collect(container.id.as_str(), command, OUTPUT)
                    .await
                {
                    Ok(done) => done,
                    Err(EngineError::Start { code, message }) => (code, message),
                    Err(error) => (1, coracle_sys::full(&error)),
                }
            }
        }
    }
}

/// The command that is run inside.
fn command(container: &Container, config: &HealthConfig) -> Option<Vec<String>> {
    let (kind, rest) = test(config)?;
    match kind {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let shell = container.read(|r| r.config.shell.clone());
            let mut command = shell
                .filter(|s| !s.is_empty())
                .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            command.extend(rest.first().cloned());
            Some(command)
        }
        _ => None,
    }
}

fn good(result: std::io::Result<String>) -> (i32, String) {
    match result {
        Ok(output) => (0, output),
        Err(error) => (1, error.to_string()),
    }
}

/// Reads `[host]:port`; without a host the container's own address.
fn place(own: Ipv4Addr, text: &str) -> std::io::Result<(String, u16)> {
    let bad = || {
        std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("\"{text}\" is no place to probe; write :PORT or ADDRESS:PORT"),
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    let own_name = matches!(host, "" | "localhost" | "127.0.0.1");
    Ok((
        if own_name {
            own.to_string()
        } else {
            host.to_owned()
        },
        port,
    ))
}

async fn tcp(own: Ipv4Addr, target: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect(place(own, target)?).await
}

/// One GET by HTTP/1.1; a status from 200 to 399 is good.
async fn http(own: Ipv4Addr, target: &str) -> std::io::Result<String> {
    let rest = target.strip_prefix("http://").unwrap_or(target);
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let authority = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let (host, port) = place(own, &authority)?;
    let mut stream = TcpStream::connect((host.as_str(), port)).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: coracle\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(OUTPUT as u64).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..400) => Ok(line.to_owned()),
        _ => Err(std::io::Error::other(format!(
            "http://{host}:{port}{path} answered \"{line}\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let probe = |code| Probe {
            start: Utc::now(),
            end: Utc::now(),
            exit_code: code,
            output: String::new(),
        };
        let mut health = Health::new(1);
        for _ in 0..10 {
            assert!(!health.record(probe(1), true));
        }
        assert_eq!((health.status, health.log.len()), ("starting", KEPT));
        assert!(health.record(probe(0), true));
        assert!(
            health.record(probe(1), true),
            "once healthy, a failure counts"
        );
        assert_eq!(health.status, "unhealthy");
    }

    #[test]
    fn places() {
        let own = Ipv4Addr::new(10, 0, 0, 2);
        assert_eq!(place(own, ":80").unwrap(), ("10.0.0.2".into(), 80));
        assert_eq!(place(own, "localhost:81").unwrap(), ("10.0.0.2".into(), 81));
        assert_eq!(place(own, "10.1.1.1:82").unwrap(), ("10.1.1.1".into(), 82));
        assert!(place(own, "x").is_err());
    }

    #[tokio::test]
    async fn http_status_decides() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for status in ["200 OK", "500 Broken"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 512];
                let _ = stream.read(&mut buffer).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let target = format!("http://:{port}/x");
        assert!(
            http(Ipv4Addr::LOCALHOST, &target)
                .await
                .unwrap()
                .contains("200")
        );
        let error = http(Ipv4Addr::LOCALHOST, &target)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("500 Broken"), "{error}");
    }
}
