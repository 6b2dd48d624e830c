//! Images from other machines, over the same way as requests.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, header};
use coracle_image::peers::{PeerAnswer, Peers};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::Elsewhere;

/// Asks the machines that live for images.
pub struct PeersElsewhere(Arc<dyn Elsewhere>);

impl PeersElsewhere {
    /// Over this way.
    pub fn new(elsewhere: Arc<dyn Elsewhere>) -> Self {
        Self(elsewhere)
    }
}

impl Peers for PeersElsewhere {
    fn machines(&self) -> Vec<String> {
        let own = self.0.own();
        let others = self.0.known().into_iter();
        others
            .filter(|m| m.alive && m.id != own)
            .map(|m| m.id)
            .collect()
    }

    fn called(&self, machine: &str) -> String {
        let known = self.0.known().into_iter().find(|m| m.id == machine);
        known.map_or_else(|| machine.to_owned(), |m| m.named())
    }

    fn get<'a>(
        &'a self,
        machine: &'a str,
        path: &'a str,
        from: u64,
    ) -> BoxFuture<'a, io::Result<PeerAnswer>> {
        async move {
            let mut request = Request::get(path).header(header::HOST, "coracle");
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let request = request.body(Body::empty()).map_err(io::Error::other)?;
            let answer = self.0.send(machine, request).await;
            let answer = answer.map_err(io::Error::other)?;
            Ok(PeerAnswer {
                status: answer.status().as_u16(),
                body: answer
                    .into_body()
                    .into_data_stream()
                    .map_err(io::Error::other)
                    .boxed(),
            })
        }
        .boxed()
    }
}
