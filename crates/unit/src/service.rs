//! `[Service]` of `.service` and `.container`.
use crate::exec::Command;
use crate::reader::Reader;
use crate::value::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// A file of `NAME=value` lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentFile {
    /// Path as written.
    pub path: String,
    /// `-`: may be missing.
    pub optional: bool,
}

impl EnvironmentFile {
    pub(crate) fn read(r: &mut Reader<'_>) -> Vec<EnvironmentFile> {
        r.parse_list("EnvironmentFile", |v| {
            let path = v.strip_prefix('-').unwrap_or(v);
            if path.starts_with('/') {
                Ok(EnvironmentFile {
                    path: path.to_owned(),
                    optional: v.starts_with('-'),
                })
            } else {
                Err(format!("{path:?} is not an absolute path"))
            }
        })
    }
}

/// Everything of [Service]. Times not given have systemd's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(
    missing_docs,
    reason = "each field is the key of its name, see systemd.service(5)"
)]
pub struct ServiceSection {
    /// `simple`, `exec` or `oneshot`.
    pub service_type: String,
    pub remain_after_exit: bool,
    pub exec_condition: Vec<Command>,
    pub exec_start_pre: Vec<Command>,
    pub exec_start: Vec<Command>,
    pub exec_start_post: Vec<Command>,
    pub exec_reload: Vec<Command>,
    pub exec_stop: Vec<Command>,
    pub exec_stop_post: Vec<Command>,
    /// One of systemd's values; `no` by default.
    pub restart: String,
    pub restart_sec: TimeSpan,
    /// From [Unit] or the legacy place.
    pub start_limit_interval: TimeSpan,
    pub start_limit_burst: u32,
    pub timeout_start: TimeSpan,
    pub timeout_stop: TimeSpan,
    pub environment: BTreeMap<String, String>,
    pub environment_files: Vec<EnvironmentFile>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub working_directory: Option<String>,
    pub kill_signal: String,
    pub kill_mode: String,
    /// Exit codes or signal names.
    pub success_exit_status: Vec<String>,
    pub umask: Option<u32>,
    /// Key and value of the Limit…= keys as written.
    pub limits: BTreeMap<String, String>,
    /// Bytes.
    pub memory_max: Option<Limit>,
    /// Thousandths of a processor.
    pub cpu_quota: Option<u64>,
    pub tasks_max: Option<Limit>,
}

const RESTART: [&str; 7] = [
    "no",
    "always",
    "on-success",
    "on-failure",
    "on-abnormal",
    "on-abort",
    "on-watchdog",
];
const SIGNALS: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM CHLD \
                       CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// `SIGTERM`, `TERM` or a number from 1 to 64, given back as `SIGTERM` or the number.
pub fn parse_signal(text: &str) -> Result<String, ValueError> {
    let bare = text.strip_prefix("SIG").unwrap_or(text);
    if SIGNALS.split_whitespace().any(|s| s == bare) {
        return Ok(format!("SIG{bare}"));
    }
    match text.parse::<u8>() {
        Ok(number @ 1..=64) => Ok(number.to_string()),
        _ => Err(not(text, "a signal: write for example SIGTERM")),
    }
}

impl ServiceSection {
    pub(crate) fn read(r: &mut Reader<'_>, container: bool) -> ServiceSection {
        let service_type = r.parse("Type", |v| match v {
            "simple" | "exec" | "oneshot" => Ok(v.to_owned()),
            "notify" | "notify-reload" => Err(format!(
                "{v} is not honoured; use Type=exec and a health check ([X-Deploy] Probe=)"
            )),
            "forking" | "dbus" | "idle" => Err(format!(
                "{v} is not honoured; use simple, exec or oneshot and stay in the foreground"
            )),
            _ => Err(format!("{v:?} is not simple, exec or oneshot")),
        });
        let service_type = service_type.unwrap_or_else(|| "simple".to_owned());
        let oneshot = service_type == "oneshot";
        if container {
            for key in ["ExecStart", "ExecStop", "ExecReload"] {
                for entry in r.entries(key) {
                    r.fail(
                        entry,
                        "a container's command is [Container] Exec=, its end StopSignal=",
                    );
                }
            }
        }
        let timeout = r.parse("TimeoutSec", zero_is_infinite);
        let start = r.parse("TimeoutStartSec", zero_is_infinite).or(timeout);
        let stop = r.parse("TimeoutStopSec", zero_is_infinite).or(timeout);
        let restart = choice(r, "Restart", &RESTART, "no");
        let section = ServiceSection {
            remain_after_exit: r.parse("RemainAfterExit", parse_bool).unwrap_or(false),
            exec_condition: commands(r, "ExecCondition"),
            exec_start_pre: commands(r, "ExecStartPre"),
            exec_start: commands(r, "ExecStart"),
            exec_start_post: commands(r, "ExecStartPost"),
            exec_reload: commands(r, "ExecReload"),
            exec_stop: commands(r, "ExecStop"),
            exec_stop_post: commands(r, "ExecStopPost"),
            restart_sec: r
                .parse("RestartSec", parse_time_span)
                .unwrap_or(TimeSpan::Finite(std::time::Duration::from_millis(100))),
            start_limit_interval: start_limit_interval(r).unwrap_or(TimeSpan::secs(10)),
            start_limit_burst: r.parse("StartLimitBurst", str::parse).unwrap_or(5),
            timeout_start: start.unwrap_or(if oneshot {
                TimeSpan::Infinity
            } else {
                TimeSpan::secs(90)
            }),
            timeout_stop: stop.unwrap_or(TimeSpan::secs(90)),
            environment: r.pairs("Environment"),
            environment_files: EnvironmentFile::read(r),
            user: r.string("User"),
            group: r.string("Group"),
            working_directory: r.string("WorkingDirectory"),
            kill_signal: r
                .parse("KillSignal", parse_signal)
                .unwrap_or_else(|| "SIGTERM".into()),
            kill_mode: choice(
                r,
                "KillMode",
                &["control-group", "mixed", "process", "none"],
                "control-group",
            ),
            success_exit_status: r.parse_words("SuccessExitStatus", |v| match v.parse::<u8>() {
                Ok(code) => Ok(code.to_string()),
                Err(_) => parse_signal(v),
            }),
            umask: r.parse("UMask", |v| {
                u32::from_str_radix(v, 8)
                    .ok()
                    .filter(|m| *m <= 0o777)
                    .ok_or("must be octal, as 0022")
            }),
            limits: ["LimitNOFILE", "LimitNPROC", "LimitCORE", "LimitMEMLOCK"]
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), r.parse(key, limit)?)))
                .collect(),
            memory_max: r.parse("MemoryMax", parse_bytes_limit),
            cpu_quota: r.parse_share("CPUQuota", parse_cpu_quota),
            tasks_max: r.parse("TasksMax", parse_count_limit),
            service_type,
            restart,
        };
        if oneshot && matches!(section.restart.as_str(), "always" | "on-success") {
            r.fail_section(
                "Restart",
                "a oneshot cannot restart after success; use on-failure",
            );
        }
        if !container && section.exec_start.is_empty() {
            r.fail_section("ExecStart", "is missing; a service needs a command");
        }
        if !oneshot && section.exec_start.len() > 1 {
            r.fail_section(
                "ExecStart",
                "only a oneshot may have several; an empty ExecStart= resets the list",
            );
        }
        section
    }
}

fn limit(v: &str) -> Result<String, ValueError> {
    for part in v.splitn(2, ':') {
        if part != "infinity" {
            parse_bytes(part)?;
        }
    }
    Ok(v.to_owned())
}

fn zero_is_infinite(text: &str) -> Result<TimeSpan, ValueError> {
    let span = parse_time_span(text)?;
    Ok(if span == TimeSpan::secs(0) {
        TimeSpan::Infinity
    } else {
        span
    })
}

pub(crate) fn start_limit_interval(r: &mut Reader<'_>) -> Option<TimeSpan> {
    let legacy = r.parse("StartLimitInterval", parse_time_span);
    r.parse("StartLimitIntervalSec", parse_time_span).or(legacy)
}

pub(crate) fn choice(r: &mut Reader<'_>, key: &str, known: &[&str], default: &str) -> String {
    r.parse(key, |v| {
        if known.contains(&v) {
            Ok(v.to_owned())
        } else {
            Err(format!("{v:?} is not one of {}", known.join(", ")))
        }
    })
    .unwrap_or_else(|| default.to_owned())
}

fn commands(r: &mut Reader<'_>, key: &str) -> Vec<Command> {
    let mut out = Vec::new();
    for entry in r.entries(key) {
        match Command::from_words(r.split(entry)) {
            Ok(command) => out.push(command),
            Err(message) => r.fail(entry, message),
        }
    }
    out
}
