//! Instances of one unit that choose a leader and follow their configuration, with an ordinary etcd client.
//!
//! All of them campaign. The leader counts, once a second, in the key `/election/counter`; each counting is a transaction
//! that compares the leader's key, so that one who was frozen and does not know yet that another leads counts nothing. All
//! watch `/config/greeting`. `GET /` shows what an instance knows now, `GET /healthz` answers 200 once it has read its
//! configuration. Environment: `ETCD_ENDPOINTS` (given by Coracle), `HOSTNAME`, `PORT` (8080).

mod candidate;
mod follow;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use candidate::Candidate;
use etcd_client::{Client, KeyValue};
use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const GREETING: &str = "/config/greeting";
const COUNTER: &str = "/election/counter";

/// What this instance knows.
#[derive(Default)]
struct Known {
    leader: Option<String>,
    greeting: Option<String>,
    counter: Option<String>,
    /// The configuration has been read, if only to find that there is none.
    ready: bool,
}

struct App {
    name: String,
    known: Mutex<Known>,
}

impl App {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is an assignment, so a panic leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let variable =
        |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let endpoints = variable("ETCD_ENDPOINTS", "http://127.0.0.1:2379");
    let endpoints: Vec<_> = endpoints.split(',').collect();
    let client = Client::connect(&endpoints, None).await?;
    let app = Arc::new(App {
        name: variable("HOSTNAME", "nameless"),
        known: Mutex::default(),
    });
    let port = variable("PORT", "8080");
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await?;
    println!(
        "{} listens on port {port}, the store is {endpoints:?}",
        app.name
    );
    let routes = Router::new()
        .route("/", get(page))
        .route("/healthz", get(healthz))
        .with_state(app.clone());
    let candidate = Candidate::new(client.clone(), app.name.clone());
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        () = candidate.campaign() => {}
        () = follow::leader(client.clone(), |name| app.known().leader = Some(name)) => {}
        () = follow::key(client.clone(), GREETING, |kv| {
            let mut known = app.known();
            (known.greeting, known.ready) = (kv.map(text), true);
        }) => {}
        () = follow::key(client, COUNTER, |kv| app.known().counter = kv.map(text)) => {}
        _ = end.recv() => println!("asked to end"),
    }
    candidate.leave().await;
    Ok(())
}

fn text(kv: &KeyValue) -> String {
    String::from_utf8_lossy(kv.value()).into_owned()
}

async fn page(State(app): State<Arc<App>>) -> String {
    let known = app.known();
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "instance {}\nleader {}\ngreeting {}\ncounter {}\n",
        app.name,
        shown(&known.leader),
        shown(&known.greeting),
        shown(&known.counter)
    )
}

async fn healthz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.known().ready {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the configuration has not been read\n",
        )
    }
}
