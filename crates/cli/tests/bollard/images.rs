//! Images and registries.

use crate::common::Daemon;
use crate::common::registry::{Index, Registry};
use crate::{NONE, client, config, forced, named, run, status};
use bollard::container::LogOutput;
use bollard::models::ContainerCreateBody;
use bollard::{body_full, query_parameters as q};
use futures_util::TryStreamExt;

#[test]
fn images_and_registries() {
    let d = Daemon::start();
    let _registry = Registry::start(&d, 5000);
    let _index = Index::start(&d, r#"{"results":[{"name":"redis","star_count":3}]}"#);
    let context = d.dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(
        context.join("Dockerfile"),
        "FROM bb\nCOPY f /f\nRUN cat /f > /g\n",
    )
    .unwrap();
    std::fs::write(context.join("f"), "file\n").unwrap();
    let tar = |path: &std::path::Path| {
        let packed = std::process::Command::new("tar")
            .arg("-C")
            .arg(path)
            .args(["-c", "."])
            .output();
        body_full(packed.unwrap().stdout.into())
    };
    run(async {
        let docker = client(&d).await;
        let name = "127.0.0.1:5000/app";
        let build = q::BuildImageOptionsBuilder::default()
            .t("127.0.0.1:5000/app:1")
            .rm(true);
        let lines = docker.build_image(build.build(), None, Some(tar(&context)));
        let lines: Vec<_> = lines.try_collect().await.unwrap();
        let said: String = lines.iter().filter_map(|l| l.stream.clone()).collect();
        assert!(said.contains("Successfully tagged"), "{said}");
        let id = docker
            .inspect_image("127.0.0.1:5000/app:1")
            .await
            .unwrap()
            .id
            .unwrap();
        let push = q::PushImageOptionsBuilder::default().tag("1").build();
        docker
            .push_image(name, Some(push), None)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
        let asked = docker
            .inspect_registry_image("127.0.0.1:5000/app:1", None)
            .await
            .unwrap();
        assert!(asked.descriptor.digest.unwrap().starts_with("sha256:"));
        let whole = "127.0.0.1:5000/app:1";
        docker
            .remove_image(whole, None::<q::RemoveImageOptions>, None)
            .await
            .unwrap();
        let pull = |tag| {
            q::CreateImageOptionsBuilder::default()
                .from_image(name)
                .tag(tag)
                .build()
        };
        let pulled = docker.create_image(Some(pull("1")), None, None);
        pulled.try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(docker.inspect_image(whole).await.unwrap().id.unwrap(), id);
        let missing = docker.create_image(Some(pull("2")), None, None);
        let missing = missing.try_collect::<Vec<_>>().await;
        assert_eq!(status(missing.unwrap_err()), 404);
        let tag = q::TagImageOptionsBuilder::default()
            .repo("other")
            .tag("2")
            .build();
        docker.tag_image(whole, Some(tag)).await.unwrap();
        let history = docker.image_history(whole).await.unwrap();
        assert!(history[0].created_by.contains("cat /f"), "{history:?}");
        let search = format!("{}/redis", Index::ADDRESS);
        let search = q::SearchImagesOptionsBuilder::default()
            .term(&search)
            .build();
        let found = docker.search_images(search).await.unwrap();
        assert_eq!(found[0].name.as_deref(), Some("redis"));

        // What is exported can be brought back, and files go in and come out.
        let mut archive = Vec::new();
        let mut export = Box::pin(docker.export_image("other:2"));
        while let Some(piece) = export.try_next().await.unwrap() {
            archive.extend(piece);
        }
        docker
            .remove_image("other:2", None::<q::RemoveImageOptions>, None)
            .await
            .unwrap();
        let load = q::ImportImageOptionsBuilder::default().build();
        let loaded = docker.import_image(load, body_full(archive.into()), None);
        loaded.try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(
            docker.inspect_image("other:2").await.unwrap().id.unwrap(),
            id
        );
        let body = ContainerCreateBody {
            image: Some("other:2".into()),
            ..config(&["cat", "/f"])
        };
        docker.create_container(named("files"), body).await.unwrap();
        std::fs::write(context.join("f"), "changed\n").unwrap();
        let place = q::UploadToContainerOptionsBuilder::default()
            .path("/")
            .build();
        docker
            .upload_to_container("files", Some(place), tar(&context))
            .await
            .unwrap();
        docker.start_container("files", NONE).await.unwrap();
        let waited = docker.wait_container("files", None::<q::WaitContainerOptions>);
        assert_eq!(
            waited.try_collect::<Vec<_>>().await.unwrap()[0].status_code,
            0
        );
        let asked = q::LogsOptionsBuilder::default().stdout(true).build();
        let logs: Vec<LogOutput> = docker
            .logs("files", Some(asked))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(logs[0].to_string(), "changed\n");
        let place = q::DownloadFromContainerOptionsBuilder::default()
            .path("/f")
            .build();
        let pieces = docker.download_from_container("files", Some(place));
        let all = pieces.try_collect::<Vec<_>>().await.unwrap().concat();
        assert!(all.windows(8).any(|w| w == b"changed\n"));
        let changes = docker.container_changes("files").await.unwrap().unwrap();
        assert!(changes.iter().any(|c| c.path == "/f"), "{changes:?}");
        docker.remove_container("files", forced()).await.unwrap();
        let usage = docker.df(None::<q::DataUsageOptions>).await.unwrap();
        drop(usage);
    });
}
