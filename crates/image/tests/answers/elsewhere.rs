//! Registries that send us elsewhere, and those that are not there.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_the_registry() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let other = {
        let seen = seen.clone();
        serve(move |own, asked| {
            let given = asked.headers.get("authorization").cloned();
            seen.lock().unwrap().push((asked.line.clone(), given));
            let mut refused = denied("UNAUTHORIZED", 401);
            let challenge = if asked.line.contains("/token") {
                "Basic realm=\"x\"".to_owned()
            } else {
                format!("Bearer realm=\"http://{own}/token\",service=\"evil\"")
            };
            refused.headers.push(("WWW-Authenticate".into(), challenge));
            refused
        })
    };
    let content = sample();
    let address = serve(move |_, asked| {
        // me:secret
        if asked.headers.get("authorization").map(String::as_str) != Some("Basic bWU6c2VjcmV0") {
            let mut refused = denied("UNAUTHORIZED", 401);
            let challenge = ("WWW-Authenticate".into(), "Basic realm=\"a\"".into());
            refused.headers.push(challenge);
            return refused;
        }
        if asked.line.contains("/blobs/") {
            let mut sent_on = answer(307, "text/plain", "");
            let place = format!("http://{other}/blob");
            sent_on.headers.push(("Location".into(), place));
            return sent_on;
        }
        content.answer(&asked.line)
    });
    let home = home();
    let who = me("secret", None);
    let error = pull(&home.store, &format!("{address}/team/app:1"), Some(&who)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{}", full(&error));
    nothing_left(&home);
    let seen = seen.lock().unwrap();
    assert!(!seen.is_empty());
    for (line, given) in seen.iter() {
        assert!(
            !line.contains("/token") && given.is_none(),
            "{line}: {given:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_are_not_there_are_not_waited_for() {
    let content = sample();
    let address = serve(move |_, asked| content.answer(&asked.line));
    // It takes connections and says nothing that is TLS.
    let connections = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = listener.local_addr().unwrap();
    let counted = connections.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(client);
        }
    });
    let home = home_with(RegistryConfig {
        // Whoever tries again does so for ever.
        attempts: u32::MAX,
        backoff: Duration::from_secs(30),
        mirrors: [(address.clone(), vec![format!("https://{dead}")])].into(),
        ..RegistryConfig::default()
    });
    pull(&home.store, &format!("{address}/team/app:1"), None)
        .await
        .unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // Nobody listens at this port any more.
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let error = pull(&home.store, &format!("127.0.0.1:{port}/app:1"), None).await;
    let error = full(&error.unwrap_err());
    assert!(error.contains("no answer from"), "{error}");
}
