//! A connection that can be cut from outside, whoever holds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

type Cut = Pin<Box<WaitForCancellationFutureOwned>>;

/// Reads and writes fail once the token is cancelled, those that wait already too; what was received before and not read is
/// not to be had either.
pub(crate) struct Cuttable<T> {
    inner: T,
    cut: CancellationToken,
    // Readers and writers may be two tasks, each of which is to be woken.
    reading: Cut,
    writing: Cut,
    /// Cancels when this is dropped: then the connection has ended by itself.
    _ended: DropGuard,
}

impl<T> Cuttable<T> {
    pub(crate) fn new(inner: T, cut: CancellationToken, ended: CancellationToken) -> Self {
        Self {
            inner,
            reading: Box::pin(cut.clone().cancelled_owned()),
            writing: Box::pin(cut.clone().cancelled_owned()),
            cut,
            _ended: ended.drop_guard(),
        }
    }
}

fn refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the machine may not be connected any more",
    )
}

/// The answer of `inner`, or the refusal if it has none and the cut comes.
fn unless_cut<R>(
    cut: &mut Cut,
    context: &mut Context<'_>,
    inner: Poll<io::Result<R>>,
) -> Poll<io::Result<R>> {
    if inner.is_pending() && cut.as_mut().poll(context).is_ready() {
        return Poll::Ready(Err(refused()));
    }
    inner
}

impl<T: AsyncRead + Unpin> AsyncRead for Cuttable<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_cancelled() {
            return Poll::Ready(Err(refused()));
        }
        let read = Pin::new(&mut this.inner).poll_read(context, buffer);
        unless_cut(&mut this.reading, context, read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cuttable<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.cut.is_cancelled() {
            return Poll::Ready(Err(refused()));
        }
        let written = Pin::new(&mut this.inner).poll_write(context, bytes);
        unless_cut(&mut this.writing, context, written)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_cancelled() {
            return Poll::Ready(Err(refused()));
        }
        let flushed = Pin::new(&mut this.inner).poll_flush(context);
        unless_cut(&mut this.writing, context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.is_cancelled() {
            return Poll::Ready(Err(refused()));
        }
        let shut = Pin::new(&mut this.inner).poll_shutdown(context);
        unless_cut(&mut this.writing, context, shut)
    }
}
