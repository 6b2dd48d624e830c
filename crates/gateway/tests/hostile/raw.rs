//! Bytes that no proper client sends.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::common::PATIENCE;

/// Sends bytes on a connection of their own, ends our half, and reads until the other half ends too.
pub async fn send(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let sent = async {
        // It may be cut off before all is sent, or reset while we read.
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let answered = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(sent, answered) };
    let ended = tokio::time::timeout(PATIENCE, both).await;
    ended.unwrap_or_else(|_| panic!("kept open: {:?}…", &bytes[..bytes.len().min(80)]));
}

/// A gRPC call whose body is as it is given; its status.
pub async fn call(address: SocketAddr, path: &str, body: Vec<u8>) -> (Code, String) {
    call_in(address, path, "application/grpc", vec![body.into()]).await
}

/// The same, of one kind and in pieces, each in a frame of its own.
pub async fn call_in(
    address: SocketAddr,
    path: &str,
    kind: &str,
    pieces: Vec<Bytes>,
) -> (Code, String) {
    let frames = pieces
        .into_iter()
        .map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let stream = TcpStream::connect(address).await.unwrap();
    let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::post(format!("http://{address}{path}"))
        .header("content-type", kind)
        .header("te", "trailers")
        .body(StreamBody::new(stream::iter(frames)))
        .unwrap();
    let answer = async {
        let answer = sender.send_request(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        let status = Status::from_header_map(&head.headers);
        status.or_else(|| Status::from_header_map(body.trailers()?))
    };
    let status = tokio::time::timeout(PATIENCE, answer).await;
    let status = status.unwrap_or_else(|_| panic!("no answer from {path}"));
    connection.abort();
    let status = status.unwrap_or_else(|| panic!("no status from {path}"));
    (status.code(), status.message().to_owned())
}

/// The message of a transaction within transactions, framed, so deep that no client's library would write it.
pub fn deep(depth: usize) -> Vec<u8> {
    // From the innermost outwards, each in front of what it holds, so back to front: field 4 of an operation is a
    // transaction, field 2 of a transaction the operations.
    let mut reversed: Vec<u8> = Vec::new();
    for _ in 0..depth {
        for tag in [4 << 3 | 2, 2 << 3 | 2] {
            let mut length = Vec::new();
            let mut rest = reversed.len();
            while rest >= 0x80 {
                length.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            length.push(rest as u8);
            reversed.extend(length.iter().rev());
            reversed.push(tag);
        }
    }
    let length = u32::try_from(reversed.len()).unwrap();
    let mut framed = [&[0][..], &length.to_be_bytes()].concat();
    framed.extend(reversed.iter().rev());
    framed
}
