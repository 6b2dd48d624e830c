//! Stores that ask the machines of a test.
#![allow(clippy::unwrap_used, dead_code)]

use crate::common::{DockerRegistry, Home, files, full, home_with, push, registry, sample, save};
use crate::net::Net;
use coracle_api::machines::PeersElsewhere;
use coracle_image::{Image, ImageError, ImageStore, Reference, RegistryConfig, Silent};
use std::sync::Arc;
use std::time::Duration;

/// A store that asks the machines of a net.
pub fn asking(net: &Arc<Net>, patience: Duration) -> Home {
    let home = home_with(RegistryConfig {
        backoff: Duration::from_millis(5),
        attempts: 2,
        peer_patience: patience,
        ..RegistryConfig::default()
    });
    home.store
        .set_peers(Arc::new(PeersElsewhere::new(net.clone())));
    home
}

pub fn patient(net: &Arc<Net>) -> Home {
    asking(net, Duration::from_secs(30))
}

pub fn home() -> Home {
    home_with(RegistryConfig::default())
}

/// A registry that has an image which none of the machines made; its name there.
pub async fn offered() -> (DockerRegistry, String) {
    let (registry, source) = (registry(""), home());
    let archive = sample(&source, "app:1").await;
    push(&archive, &registry.address, "app:1", &[]);
    let name = format!("{}/app:1", registry.address);
    (registry, name)
}

pub async fn pull(store: &ImageStore, name: &str) -> Result<Image, ImageError> {
    let reference = Reference::parse_normalized(name).unwrap();
    store.pull(&reference, None, None, &Silent).await
}

pub async fn good(store: &ImageStore, name: &str) -> Image {
    let pulled = pull(store, name).await;
    pulled.unwrap_or_else(|e| panic!("{name}: {}", full(&e)))
}

/// The image is whole: it can be saved, which reads and checks every layer.
pub async fn whole(home: &Home, name: &str, like: &Image) {
    let image = home.store.get(name).unwrap();
    assert_eq!((image.id, &image.layers), (like.id, &like.layers));
    for dir in home.store.layer_dirs(&image.id).unwrap() {
        assert_eq!(std::fs::read(dir.join("etc/motd")).unwrap(), b"hello");
        assert_eq!(std::fs::read(dir.join("big")).unwrap(), vec![7; 3 << 20]);
    }
    save(&home.store, name, &home.dir.path().join("again.tar")).await;
}

pub fn nothing(home: &Home) {
    assert!(home.store.list().is_empty());
    home.store.collect().unwrap();
    for dir in ["content", "layers", "tmp"] {
        let left = files(&home.dir.path().join(dir));
        assert!(left.is_empty(), "{left:?}");
    }
}
