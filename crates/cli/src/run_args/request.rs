//! From flags to the request that they ask for.

use super::ContainerArgs;
use super::values::*;
use crate::error::{CliError, Result};
use serde_json::{Map, Value, json};

impl ContainerArgs {
    /// The image, as it was named.
    pub fn image(&self) -> &str {
        self.rest.first().map_or("", String::as_str)
    }

    /// Command and arguments; empty for the image's.
    pub fn command(&self) -> &[String] {
        self.rest.get(1..).unwrap_or_default()
    }

    /// Whether our input is the container's.
    pub fn takes_input(&self) -> bool {
        self.interactive && self.more.joins("stdin")
    }

    /// The body of `POST /containers/create`. `attached` says whether our own streams are joined.
    pub fn request(&self, attached: bool) -> Result<Value> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(env_file(file)?);
        }
        // A name alone that we do not have goes as it is: it takes the image's variable away.
        env.extend(self.env.iter().map(|e| match std::env::var(e) {
            Ok(value) if !e.contains('=') => format!("{e}={value}"),
            _ => e.clone(),
        }));
        let mut labels = Vec::new();
        for file in &self.label_file {
            // A line without a value is no label, as docker has it.
            labels.extend(lines(file)?.into_iter().filter(|l| l.contains("=")));
        }
        labels.extend(self.label.iter().cloned());
        let mut bindings = Bindings::new();
        for text in &self.publish {
            publish(text, &mut bindings)?;
        }
        let mut exposed: Map<String, Value> =
            bindings.keys().map(|p| (p.clone(), json!({}))).collect();
        for port in &self.expose {
            let port = if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            };
            exposed.insert(port, json!({}));
        }
        // A volume without a source is one without a name.
        let (binds, anonymous): (Vec<&String>, Vec<&String>) =
            self.volume.iter().partition(|v| v.contains(':'));
        let volumes: Map<String, Value> = anonymous
            .into_iter()
            .map(|v| (v.clone(), json!({})))
            .collect();
        let binds: Vec<String> = binds.into_iter().map(|b| absolute(b)).collect();
        Ok(json!({
            "Hostname": self.hostname.clone().unwrap_or_default(),
            "Domainname": self.domainname.clone().unwrap_or_default(),
            "User": self.user.clone().unwrap_or_default(),
            "AttachStdin": attached && self.takes_input(),
            "AttachStdout": attached && self.more.joins("stdout"),
            "AttachStderr": attached && self.more.joins("stderr"),
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": attached && self.takes_input(),
            "Env": env,
            "Cmd": if self.command().is_empty() { Value::Null } else { json!(self.command()) },
            "Entrypoint": self.entrypoint.as_ref().map(|e| [e]),
            "Image": self.image(),
            "Volumes": volumes,
            "WorkingDir": self.workdir.clone().unwrap_or_default(),
            "Labels": pairs(&labels),
            "ExposedPorts": exposed,
            "StopSignal": self.stop_signal,
            "StopTimeout": self.stop_timeout,
            "Healthcheck": self.health()?,
            "HostConfig": self.host(binds, &bindings)?,
            "NetworkingConfig": self.networking()?,
        }))
    }

    fn health(&self) -> Result<Value> {
        if self.no_healthcheck {
            return Ok(json!({ "Test": ["NONE"] }));
        }
        let time = |flag: &str, text: &Option<String>| {
            text.as_ref().map_or(Ok(0), |t| nanoseconds(flag, t))
        };
        let health = json!({
            "Test": self.health_cmd.as_ref().map(|c| ["CMD-SHELL", c]),
            "Interval": time("health-interval", &self.health_interval)?,
            "Timeout": time("health-timeout", &self.health_timeout)?,
            "StartPeriod": time("health-start-period", &self.health_start_period)?,
            "StartInterval": time("health-start-interval", &self.more.health_start_interval)?,
            "Retries": self.health_retries.unwrap_or(0),
        });
        let given = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.more.health_start_interval.is_some()
            || self.health_retries.is_some();
        Ok(if given { health } else { Value::Null })
    }

    fn host(&self, binds: Vec<String>, bindings: &Bindings) -> Result<Value> {
        let size =
            |flag: &str, text: &Option<String>| text.as_ref().map_or(Ok(0), |t| bytes(flag, t));
        let tmpfs: Map<String, Value> = self
            .tmpfs
            .iter()
            .map(|t| t.split_once(':').unwrap_or((t, "")))
            .map(|(target, options)| (target.to_owned(), json!(options)))
            .collect();
        let mut security = Vec::new();
        for option in &self.security_opt {
            security.push(match option.strip_prefix("seccomp=") {
                Some(file) if !matches!(file, "unconfined" | "builtin" | "default") => {
                    let text = std::fs::read_to_string(file).map_err(|source| CliError::File {
                        action: "reading",
                        path: file.into(),
                        source,
                    })?;
                    format!("seccomp={text}")
                }
                _ => option.clone(),
            });
        }
        let restart = restart_policy(self.restart.as_deref())?;
        let mut host = json!({
            "Binds": binds,
            "Mounts": self.mount.iter().map(|m| mount(m)).collect::<Result<Vec<_>>>()?,
            "Tmpfs": tmpfs,
            "NetworkMode": match self.network.first() {
                Some(first) => network(first)?.0,
                None => "default".to_owned(),
            },
            "PortBindings": bindings,
            "PublishAllPorts": self.publish_all,
            "RestartPolicy": restart,
            "AutoRemove": self.rm,
            "CapAdd": self.cap_add,
            "CapDrop": self.cap_drop,
            "Dns": self.dns,
            "DnsSearch": self.dns_search,
            "ExtraHosts": self.add_host,
            "GroupAdd": self.group_add,
            "IpcMode": self.ipc.clone().unwrap_or_default(),
            "PidMode": self.pid.clone().unwrap_or_default(),
            "UTSMode": self.uts.clone().unwrap_or_default(),
            "UsernsMode": self.userns.clone().unwrap_or_default(),
            "CgroupParent": self.cgroup_parent.clone().unwrap_or_default(),
            "OomKillDisable": self.oom_kill_disable.then_some(true),
            "CgroupnsMode": self.cgroupns.clone().unwrap_or_default(),
            "Privileged": self.privileged,
            "ReadonlyRootfs": self.read_only,
            "SecurityOpt": security,
            "Sysctls": pairs(&self.sysctl),
            "ShmSize": size("shm-size", &self.shm_size)?,
            "Ulimits": self.ulimit.iter().map(|u| ulimit(u)).collect::<Result<Vec<_>>>()?,
            "Init": self.init.then_some(true),
            "Devices": self.device.iter().map(|d| device(d)).collect::<Vec<_>>(),
            "Memory": size("memory", &self.memory)?,
            "MemorySwap": size("memory-swap", &self.memory_swap)?,
            "MemoryReservation": size("memory-reservation", &self.memory_reservation)?,
            // A processor is counted in billionths.
            "NanoCpus": self.cpus.map_or(0, |c| (c * 1e9).round() as i64),
            "CpuShares": self.cpu_shares.unwrap_or(0),
            "CpusetCpus": self.cpuset_cpus.clone().unwrap_or_default(),
            "PidsLimit": self.pids_limit,
            "OomScoreAdj": self.oom_score_adj.unwrap_or(0),
            "LogConfig": { "Type": self.log_driver.clone().unwrap_or_default(), "Config": pairs(&self.log_opt) },
            "ConsoleSize": crate::terminal::size().filter(|_| self.tty).map_or([0, 0], |(r, c)| [r, c]),
        });
        if let Some(host) = host.as_object_mut() {
            self.more.host(host)?;
        }
        Ok(host)
    }

    fn networking(&self) -> Result<Value> {
        let mut all = Map::new();
        let own = |endpoint: &mut Value| {
            if let Some(ip) = &self.ip {
                endpoint["IPAMConfig"]["IPv4Address"] = json!(ip);
            }
            self.more.endpoint(endpoint);
        };
        for (number, text) in self.network.iter().enumerate() {
            if text.starts_with("container:") {
                continue;
            }
            let (network, mut endpoint) = network(text)?;
            if let (true, Value::Null) = (number == 0 || !text.contains('='), &endpoint["Aliases"])
            {
                endpoint["Aliases"] = json!(self.network_alias);
            }
            if number == 0 {
                own(&mut endpoint);
            }
            all.insert(network, endpoint);
        }
        if self.network.is_empty() {
            let mut endpoint = json!({});
            if !self.network_alias.is_empty() {
                endpoint["Aliases"] = json!(self.network_alias);
            }
            own(&mut endpoint);
            if endpoint.as_object().is_some_and(|e| !e.is_empty()) {
                all.insert("default".into(), endpoint);
            }
        }
        Ok(json!({ "EndpointsConfig": all }))
    }
}

/// `--restart` as the API takes it.
pub fn restart_policy(text: Option<&str>) -> Result<Value> {
    let (policy, count) = match text {
        None => ("no", 0),
        Some(text) => match text.split_once(':') {
            Some((policy, count)) => (
                policy,
                count
                    .parse::<i64>()
                    .map_err(|_| bad("restart", text, "write on-failure:MAX"))?,
            ),
            None => (text, 0),
        },
    };
    Ok(json!({ "Name": policy, "MaximumRetryCount": count }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ContainerArgs,
    }

    fn request(line: &[&str]) -> Result<Value> {
        let line = std::iter::once("run").chain(line.iter().copied());
        Line::try_parse_from(line)
            .map_err(|e| CliError::Usage(e.to_string()))?
            .args
            .request(true)
    }

    #[test]
    fn what_people_type() {
        let body = request(&[
            "-it",
            "--rm",
            "--name",
            "x",
            "-e",
            "A=b",
            "-v",
            "data:/d",
            "-v",
            "/anon",
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1::53/udp",
            "-p",
            "90-91:90-91",
            "--cpus",
            "1.5",
            "-m",
            "64m",
            "--restart",
            "on-failure:3",
            "--network",
            "back",
            "--network-alias",
            "n",
            "--ip",
            "10.0.0.9",
            "--health-cmd",
            "true",
            "--health-interval",
            "1m30s",
            "--entrypoint",
            "sh",
            "img",
            "-c",
            "ls -l",
        ])
        .unwrap();
        assert_eq!(body["Cmd"], json!(["-c", "ls -l"]));
        assert_eq!(body["Entrypoint"], json!(["sh"]));
        assert_eq!(body["Volumes"], json!({ "/anon": {} }));
        let host = &body["HostConfig"];
        assert_eq!(host["Binds"], json!(["data:/d"]));
        assert_eq!(
            host["PortBindings"]["80/tcp"],
            json!([{ "HostIp": "", "HostPort": "8080" }])
        );
        assert_eq!(
            host["PortBindings"]["53/udp"],
            json!([{ "HostIp": "127.0.0.1", "HostPort": "" }])
        );
        assert_eq!(host["PortBindings"]["91/tcp"][0]["HostPort"], "91");
        assert_eq!(
            (host["NanoCpus"].as_i64(), host["Memory"].as_i64()),
            (Some(1_500_000_000), Some(64 << 20))
        );
        assert_eq!(
            host["RestartPolicy"],
            json!({ "Name": "on-failure", "MaximumRetryCount": 3 })
        );
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"]["back"]["IPAMConfig"]["IPv4Address"],
            "10.0.0.9"
        );
        assert_eq!(body["Healthcheck"]["Interval"], json!(90_000_000_000_i64));
        assert_eq!(body["StdinOnce"], true);
    }

    #[test]
    fn networks_with_settings_of_their_own() {
        let body = request(&[
            "--network",
            "name=front,alias=a,alias=b,ip6=fd00::5,gw-priority=-1",
            "--network",
            "back",
            "-p",
            "[::1]:8080:80",
            "i",
        ])
        .unwrap();
        let all = &body["NetworkingConfig"]["EndpointsConfig"];
        assert_eq!(
            all["front"],
            json!({ "Aliases": ["a", "b"], "IPAMConfig": { "IPv6Address": "fd00::5" }, "GwPriority": -1 })
        );
        assert_eq!(all["back"], json!({ "Aliases": [] }));
        assert_eq!(body["HostConfig"]["NetworkMode"], "front");
        assert_eq!(
            body["HostConfig"]["PortBindings"]["80/tcp"][0]["HostIp"],
            "::1"
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (line, word) in [
            (["-p", "x", "i"], "\"x\""),
            (["-p", "80-81:90-92", "i"], "same length"),
            (["-m", "lots", "i"], "--memory"),
            (["--health-interval", "5", "i"], "--health-interval"),
            (["--ulimit", "nofile", "i"], "--ulimit"),
            (["--mount", "type=bind,what=x", "i"], "what"),
            (["--restart", "on-failure:x", "i"], "--restart"),
            (["--network", "alias=x", "i"], "name=NETWORK"),
            (["--network", "name=x,what=y", "i"], "what"),
            (["--network", "name=x,gw-priority=y", "i"], "gw-priority"),
        ] {
            let error = request(&line).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
