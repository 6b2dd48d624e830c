//! bollard, a Rust client of Docker's API, against our socket.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "bollard/images.rs"]
mod images;

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, EndpointSettings, ExecConfig, HealthConfig,
    HealthStatusEnum, HostConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkingConfig,
    PortBinding, VolumeCreateRequest,
};
use bollard::query_parameters as q;
use common::{Daemon, text};
use futures_util::{StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const NONE: Option<q::StartContainerOptions> = None;

async fn client(d: &Daemon) -> Docker {
    let socket = d.run_dir().join("docker.sock");
    let client =
        Docker::connect_with_unix(socket.to_str().unwrap(), 60, bollard::API_DEFAULT_VERSION);
    client.unwrap().negotiate_version().await.unwrap()
}

fn words(all: &[&str]) -> Option<Vec<String>> {
    Some(all.iter().map(|w| (*w).to_owned()).collect())
}

fn config(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some("bb".into()),
        cmd: words(command),
        ..ContainerCreateBody::default()
    }
}

fn named(name: &str) -> Option<q::CreateContainerOptions> {
    Some(
        q::CreateContainerOptionsBuilder::default()
            .name(name)
            .build(),
    )
}

fn forced() -> Option<q::RemoveContainerOptions> {
    Some(
        q::RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build(),
    )
}

/// Starts a container of this name.
async fn started(docker: &Docker, name: &str, body: ContainerCreateBody) -> String {
    let made = docker.create_container(named(name), body).await.unwrap();
    docker.start_container(name, NONE).await.unwrap();
    made.id
}

fn run<F: Future<Output = ()>>(scenario: F) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(120), scenario).await };
    runtime.block_on(bounded).expect("done within two minutes");
}

fn status(error: Error) -> u16 {
    match error {
        Error::DockerResponseServerError { status_code, .. } => status_code,
        other => panic!("no answer of the daemon: {other}"),
    }
}

#[test]
fn a_containers_life() {
    let d = Daemon::start();
    run(async {
        let docker = client(&d).await;
        assert_eq!(docker.client_version().to_string(), "1.51");
        assert_eq!(docker.ping().await.unwrap(), "OK");
        assert_eq!(docker.version().await.unwrap().api_version.unwrap(), "1.51");
        assert_eq!(docker.info().await.unwrap().images, Some(1));
        let volume = VolumeCreateRequest {
            name: Some("data".into()),
            ..VolumeCreateRequest::default()
        };
        assert_eq!(docker.create_volume(volume).await.unwrap().name, "data");
        let network = NetworkCreateRequest {
            name: "back".into(),
            ..NetworkCreateRequest::default()
        };
        docker.create_network(network).await.unwrap();
        let ports = HashMap::from([(
            "80/tcp".to_owned(),
            Some(vec![PortBinding {
                host_ip: Some("127.0.0.1".into()),
                host_port: Some("8080".into()),
            }]),
        )]);
        let mut web = config(&["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]);
        web.env = words(&["A=b"]);
        web.labels = Some(HashMap::from([("role".into(), "web".into())]));
        web.exposed_ports = words(&["80/tcp"]);
        web.healthcheck = Some(HealthConfig {
            test: words(&["CMD", "test", "-e", "/data/ready"]),
            interval: Some(200_000_000),
            retries: Some(1),
            ..HealthConfig::default()
        });
        web.host_config = Some(HostConfig {
            binds: words(&["data:/data"]),
            port_bindings: Some(ports),
            memory: Some(64 << 20),
            ..HostConfig::default()
        });
        let joined = EndpointSettings {
            aliases: words(&["shop"]),
            ..EndpointSettings::default()
        };
        web.networking_config = Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([("back".into(), joined)])),
        });
        let id = started(&docker, "web", web).await;

        let found = docker.inspect_container("web", None::<q::InspectContainerOptions>);
        let found = found.await.unwrap();
        assert_eq!(found.id.as_ref(), Some(&id));
        assert_eq!(found.name.as_deref(), Some("/web"));
        let host = found.host_config.unwrap();
        assert_eq!(host.memory, Some(64 << 20));
        let settings = found.network_settings.unwrap();
        let ports = settings.ports.unwrap()["80/tcp"].clone().unwrap();
        assert_eq!(ports[0].host_port.as_deref(), Some("8080"));
        let back = &settings.networks.unwrap()["back"];
        assert!(
            back.dns_names
                .as_ref()
                .unwrap()
                .contains(&"shop".to_owned())
        );

        // A process in it makes it healthy.
        let exec = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: words(&["sh", "-c", "echo $A; touch /data/ready; exit 7"]),
            ..ExecConfig::default()
        };
        let exec = docker.create_exec("web", exec).await.unwrap().id;
        let started = docker.start_exec(&exec, None::<StartExecOptions>).await;
        let StartExecResults::Attached { output, .. } = started.unwrap() else {
            panic!("not attached")
        };
        let said: Vec<LogOutput> = output.try_collect().await.unwrap();
        assert_eq!(said[0].to_string(), "b\n");
        assert_eq!(docker.inspect_exec(&exec).await.unwrap().exit_code, Some(7));
        let since = q::EventsOptionsBuilder::default()
            .since("0")
            .filters(&HashMap::from([("container", vec!["web"])]))
            .build();
        let mut events = Box::pin(docker.events(Some(since)));
        loop {
            let event = events.next().await.unwrap().unwrap();
            if event.action.as_deref() == Some("health_status: healthy") {
                break;
            }
        }
        let found = docker.inspect_container("web", None::<q::InspectContainerOptions>);
        let health = found.await.unwrap().state.unwrap().health.unwrap();
        assert_eq!(health.status, Some(HealthStatusEnum::HEALTHY));

        let narrowed = HashMap::from([("label", vec!["role=web"]), ("health", vec!["healthy"])]);
        let listed = q::ListContainersOptionsBuilder::default()
            .filters(&narrowed)
            .build();
        let listed = docker.list_containers(Some(listed)).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].names.as_ref().unwrap(), &["/web"]);
        let stats = q::StatsOptionsBuilder::default().stream(false).build();
        let stats = docker
            .stats("web", Some(stats))
            .try_next()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(stats.memory_stats.unwrap().limit, Some(64 << 20));
        let processes = docker
            .top_processes("web", None::<q::TopOptions>)
            .await
            .unwrap();
        assert!(
            processes.processes.unwrap()[0]
                .iter()
                .any(|c| c.contains("sleep 1000"))
        );
        let asked = q::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .build();
        let logs: Vec<LogOutput> = docker.logs("web", Some(asked)).try_collect().await.unwrap();
        assert!(
            logs.iter()
                .any(|l| matches!(l, LogOutput::StdOut { message } if message == "out\n"))
        );
        assert!(
            logs.iter()
                .any(|l| matches!(l, LogOutput::StdErr { message } if message == "err\n"))
        );

        docker.pause_container("web").await.unwrap();
        docker.unpause_container("web").await.unwrap();
        let update = ContainerUpdateBody {
            memory: Some(96 << 20),
            memory_swap: Some(96 << 20),
            ..ContainerUpdateBody::default()
        };
        docker.update_container("web", update).await.unwrap();
        let rename = q::RenameContainerOptionsBuilder::default()
            .name("site")
            .build();
        docker.rename_container("web", rename).await.unwrap();
        let connect = NetworkConnectRequest {
            container: "site".into(),
            ..NetworkConnectRequest::default()
        };
        docker.connect_network("bridge", connect).await.unwrap();
        let network = docker.inspect_network("back", None::<q::InspectNetworkOptions>);
        assert!(network.await.unwrap().containers.unwrap().contains_key(&id));

        let waiting = docker.wait_container("site", None::<q::WaitContainerOptions>);
        let kill = q::KillContainerOptionsBuilder::default()
            .signal("KILL")
            .build();
        docker.kill_container("site", Some(kill)).await.unwrap();
        let waited: Vec<_> = waiting.collect().await;
        assert!(
            matches!(
                waited[0],
                Err(Error::DockerContainerWaitError { code: 137, .. })
            ),
            "{waited:?}"
        );
        docker.remove_container("site", forced()).await.unwrap();
        docker.remove_network("back").await.unwrap();
        docker
            .remove_volume("data", None::<q::RemoveVolumeOptions>)
            .await
            .unwrap();
        let gone = docker
            .inspect_container("site", None::<q::InspectContainerOptions>)
            .await;
        assert_eq!(status(gone.unwrap_err()), 404);
        let nobody = docker.start_container("nobody", NONE).await;
        assert_eq!(status(nobody.unwrap_err()), 404);
    });
    assert_eq!(d.ok(["ps", "-aq"]), "");
}

/// Reads what a container says until it has said `what`.
async fn said(
    output: &mut (impl futures_util::Stream<Item = Result<LogOutput, Error>> + Unpin),
    what: &str,
) {
    let mut all = String::new();
    while !all.contains(what) {
        let piece = output
            .next()
            .await
            .expect("it ends before it has said so")
            .unwrap();
        all += &piece.to_string();
    }
}

#[test]
fn attached_by_stream_and_by_websocket() {
    let d = Daemon::start();
    run(async {
        let docker = client(&d).await;
        for (terminal, websocket) in [(false, false), (false, true), (true, false), (true, true)] {
            let body = ContainerCreateBody {
                open_stdin: Some(true),
                tty: Some(terminal),
                ..config(&["sh", "-c", "while read line; do echo got:$line; done"])
            };
            started(&docker, "talk", body).await;
            let options = q::AttachContainerOptionsBuilder::default()
                .stdin(true)
                .stdout(true)
                .stderr(true)
                .stream(true)
                .build();
            let attached = if websocket {
                docker
                    .attach_container_websocket("talk", Some(options))
                    .await
            } else {
                docker.attach_container("talk", Some(options)).await
            };
            let AttachContainerResults {
                mut output,
                mut input,
            } = attached.unwrap();
            for line in ["one", "two"] {
                input
                    .write_all(format!("{line}\n").as_bytes())
                    .await
                    .unwrap();
                input.flush().await.unwrap();
                said(&mut output, &format!("got:{line}")).await;
            }
            // Its end is the connection's.
            let kill = q::KillContainerOptionsBuilder::default()
                .signal("KILL")
                .build();
            docker.kill_container("talk", Some(kill)).await.unwrap();
            while let Some(piece) = output.next().await {
                piece.unwrap();
            }
            docker.remove_container("talk", forced()).await.unwrap();
        }
        // Past output comes first if it is asked for; what is no websocket is told so.
        started(
            &docker,
            "past",
            config(&["sh", "-c", "echo before; exec sleep 1000"]),
        )
        .await;
        let logs = q::LogsOptionsBuilder::default()
            .stdout(true)
            .follow(true)
            .build();
        said(&mut Box::pin(docker.logs("past", Some(logs))), "before").await;
        let options = q::AttachContainerOptionsBuilder::default()
            .stdout(true)
            .logs(true)
            .build();
        let attached = docker
            .attach_container_websocket("past", Some(options))
            .await;
        said(&mut attached.unwrap().output, "before").await;
        docker.remove_container("past", forced()).await.unwrap();
        let nobody = docker.attach_container_websocket("past", None).await;
        assert!(nobody.is_err());
    });
    let plain = std::process::Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--unix-socket",
        ])
        .arg(d.run_dir().join("docker.sock"))
        .arg("http://x/containers/none/attach/ws")
        .output()
        .unwrap();
    assert_eq!(text(&plain), "404");
}
