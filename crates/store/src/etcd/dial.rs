//! Connections that somebody else makes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::Service;
use tonic::transport::Uri;

/// What a connection must be.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

type Dialing<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Makes a connection to an endpoint, in whatever way: over TLS whose certificates change, for example.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Uri) -> Dialing<Box<dyn Io>> + Send + Sync>);

impl Dial {
    /// By that function, which is given the endpoint's URL.
    pub fn new<F, Fut>(dial: F) -> Self
    where
        F: Fn(Uri) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<Box<dyn Io>>> + Send + 'static,
    {
        Self(Arc::new(move |uri| Box::pin(dial(uri))))
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Dialing<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialing = (self.0)(uri);
        Box::pin(async move { Ok(TokioIo::new(dialing.await?)) })
    }
}
