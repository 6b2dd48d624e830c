//! Bytes that a thread writes and somebody else reads as they come. They end with what became of the writer: a reader that sees the
//! end knows that it has all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, DuplexStream, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::io::SyncIoBridge;

/// The reader's end.
#[derive(Debug)]
pub struct Produced {
    bytes: DuplexStream,
    /// What is told at the end; none once it was.
    ended: Option<oneshot::Receiver<io::Result<()>>>,
}

/// Tells what became of the writing. Dropped without a word it means that the writing was cut short.
#[derive(Debug)]
pub struct Ending(oneshot::Sender<io::Result<()>>);

impl Ending {
    /// The writer is done, well or not. It must have been dropped by now.
    pub fn tell(self, result: io::Result<()>) {
        // Whoever read may have left.
        let _ = self.0.send(result);
    }
}

/// Both ends; at most `waiting` bytes wait for a slow reader. Must be called within the runtime; the writer is for another thread.
#[must_use]
pub fn produced(waiting: usize) -> (Produced, SyncIoBridge<DuplexStream>, Ending) {
    let (reader, writer) = tokio::io::duplex(waiting);
    let (tell, told) = oneshot::channel();
    let reader = Produced {
        bytes: reader,
        ended: Some(told),
    };
    (reader, SyncIoBridge::new(writer), Ending(tell))
}

impl AsyncRead for Produced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(context, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let Some(ended) = &mut self.ended else {
            return Poll::Ready(Ok(()));
        };
        let result = ready!(Pin::new(ended).poll(context));
        self.ended = None;
        Poll::Ready(result.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    async fn read(result: Option<io::Result<()>>) -> (Vec<u8>, io::Result<usize>) {
        let (mut reader, mut writer, ending) = produced(4);
        let writing = tokio::task::spawn_blocking(move || {
            writer.write_all(b"some bytes").unwrap();
            drop(writer);
            if let Some(result) = result {
                ending.tell(result);
            }
        });
        let mut bytes = Vec::new();
        let read = reader.read_to_end(&mut bytes).await;
        writing.await.unwrap();
        (bytes, read)
    }

    #[tokio::test]
    async fn the_end_says_how_it_went() {
        let (bytes, read_to_end) = read(Some(Ok(()))).await;
        assert_eq!((&bytes[..], read_to_end.unwrap()), (&b"some bytes"[..], 10));
        let (bytes, read_to_end) = read(Some(Err(io::Error::other("why")))).await;
        assert_eq!(bytes, b"some bytes");
        assert_eq!(read_to_end.unwrap_err().to_string(), "why");
        let (_, read_to_end) = read(None).await;
        assert!(read_to_end.is_err(), "a writer that went without a word");
    }
}
