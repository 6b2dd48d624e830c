//! One request, one answer.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Asks and returns status and body. An answer takes its time on an emulated machine.
pub fn ask(port: u16, method: &str, path: &str) -> io::Result<(u16, String)> {
    ask_with(port, method, path, "")
}

/// The same with something to be read, as JSON if it is an object.
pub fn ask_with(port: u16, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    ask_within(Duration::from_secs(300), port, method, path, body)
}

/// The same; nobody waits longer than that for a part of the answer.
pub fn ask_within(
    limit: Duration,
    port: u16,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(limit))?;
    let kind = match body.starts_with('{') {
        true => "application/json",
        false => "application/octet-stream",
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: machine\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
}
