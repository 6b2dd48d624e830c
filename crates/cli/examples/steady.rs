//! An HTTP/1.1 server that stops without losing a request: `steady VERSION [PORT]`.
//!
//! Each GET is answered with `VERSION HOSTNAME`, and so is each datagram on the same UDP port.
//! `/slow?ms=N` is answered after N ms. `/long` sends a line each 100 ms as long as the connection
//! lives.
//!
//! After SIGTERM each answer says `Connection: close`. A connection without a request is closed
//! when it was idle for another 500 ms. For as long, new connections are still accepted. The program ends with 0 when no connection is left. It never ends a `/long`
//! connection itself.

use std::env;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

/// The longest head of a request.
const HEAD_LIMIT: usize = 16 * 1024;

/// What is already on its way when the signal comes arrives within this time.
const GRACE: Duration = Duration::from_millis(500);

const BAD_REQUEST: &str = "400 Bad Request";

/// What a request asks for.
#[derive(Clone, Copy)]
enum Action {
    /// An answer after this time.
    Answer(Duration),
    /// Lines without an end.
    Long,
}

/// A request as far as it matters here.
struct Request {
    action: Action,
    /// The client wants the connection closed after the answer.
    close: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let version = arguments.next().ok_or_else(usage)?;
    let port = arguments
        .next()
        .map_or(Ok(8080), |port| port.parse())
        .map_err(|_| usage())?;

    // First of all, so that a signal that comes early is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let answer: Arc<str> = format!("{version} {}\n", hostname()?).into();

    // The first serves both families. The second is for a machine without IPv6.
    let anywhere: [SocketAddr; 2] = [
        (Ipv6Addr::UNSPECIFIED, port).into(),
        (Ipv4Addr::UNSPECIFIED, port).into(),
    ];
    let listener = TcpListener::bind(&anywhere[..]).await?;
    let address = listener.local_addr()?;
    let datagrams = UdpSocket::bind(address).await?;
    tokio::spawn(serve_datagrams(datagrams, answer.clone()));
    writeln!(io::stdout(), "listening on {address}")?;

    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    // Until then connections are accepted after the signal.
    let mut deadline = None;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, answer.clone(), stopping.clone()));
                }
                Err(_) => pause_accepting().await,
            },
            // Only removes what has ended. A connection that fails concerns its client alone.
            Some(_) = connections.join_next() => {}
            _ = terminate.recv(), if deadline.is_none() => {
                stop.send_replace(true);
                deadline = Some(Instant::now() + GRACE);
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
        }
    }

    // The kernel resets what it has completed and nobody has accepted. The runtime may not know of
    // it yet, so the kernel itself is asked until it has no more.
    let listener = listener.into_std()?;
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        connections.spawn(serve(stream, answer.clone(), stopping.clone()));
    }
    drop(listener);

    while connections.join_next().await.is_some() {}
    Ok(())
}

fn usage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "usage: steady VERSION [PORT]")
}

/// The name of this machine or container.
fn hostname() -> io::Result<String> {
    match env::var("HOSTNAME") {
        Ok(name) if !name.is_empty() => Ok(name),
        _ => Ok(std::fs::read_to_string("/etc/hostname")?.trim().to_owned()),
    }
}

/// Waits after a failed accept. It fails for long when there are no descriptors left, and would
/// otherwise be tried again at once.
async fn pause_accepting() {
    sleep(Duration::from_millis(10)).await;
}

/// Answers each datagram, until the program ends.
async fn serve_datagrams(socket: UdpSocket, answer: Arc<str>) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer).await {
            // An answer that cannot be sent is lost, as any datagram may be.
            Ok((_, peer)) => drop(socket.send_to(answer.trim_end().as_bytes(), peer).await),
            // An earlier answer was refused. This says nothing about the next question.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Answers the requests of one connection until one side closes it.
async fn serve(
    mut stream: TcpStream,
    answer: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let mut reply = Vec::new();
    loop {
        let Some(end) = read_head(&mut stream, &mut buffer, &mut stopping).await? else {
            return Ok(());
        };
        let request = if end > HEAD_LIMIT {
            Err("431 Request Header Fields Too Large")
        } else {
            parse(&buffer[..end])
        };
        // The rest is the start of the next request.
        buffer.drain(..end);

        let (status, body, close) = match request {
            Ok(Request {
                action: Action::Long,
                close,
            }) => {
                return send_lines(&mut stream, &answer, close || *stopping.borrow()).await;
            }
            Ok(Request {
                action: Action::Answer(delay),
                close,
            }) => {
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                // Asked late, since the signal may have come meanwhile.
                ("200 OK", &*answer, close || *stopping.borrow())
            }
            // Where the next request would start is not known.
            Err(status) => (status, "", true),
        };

        reply.clear();
        write!(
            reply,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{}\r\n{body}",
            body.len(),
            connection_header(close)
        )?;
        stream.write_all(&reply).await?;
        if close {
            break;
        }
    }

    // Closing with unread bytes would reset the connection, and the client could lose the answer.
    stream.shutdown().await?;
    let rest = async {
        while stream.read(&mut reply).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that does not close in time has had its answer for as long.
    timeout(GRACE, rest).await.unwrap_or(Ok(()))
}

/// The header for a connection that is closed after the answer.
fn connection_header(close: bool) -> &'static str {
    if close { "Connection: close\r\n" } else { "" }
}

/// Reads until the buffer starts with the head of a request, and returns the length of the head.
///
/// A length above the limit means that the head is too long and perhaps not complete. `None` means
/// that there will be no request.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    stopping: &mut watch::Receiver<bool>,
) -> io::Result<Option<usize>> {
    loop {
        if let Some(start) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(start + 4));
        }
        if buffer.len() > HEAD_LIMIT {
            return Ok(Some(buffer.len()));
        }
        // The time starts with the signal, or with the latest bytes if these came after it.
        let idle = async {
            if stopping.wait_for(|stopping| *stopping).await.is_ok() {
                sleep(GRACE).await;
            }
        };
        tokio::select! {
            // A request that is there goes before a time that is over.
            biased;
            count = stream.read_buf(buffer) => {
                if count? == 0 {
                    return Ok(None);
                }
            }
            () = idle => return Ok(None),
        }
    }
}

/// Understands the head of a request. The error is the status to answer with.
fn parse(head: &[u8]) -> Result<Request, &'static str> {
    let head = str::from_utf8(head).map_err(|_| BAD_REQUEST)?;
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(protocol), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD_REQUEST);
    };
    let mut close = match protocol {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return Err("505 HTTP Version Not Supported"),
    };
    if method != "GET" {
        return Err("405 Method Not Allowed");
    }

    for line in lines {
        let (name, value) = line.split_once(':').ok_or(BAD_REQUEST)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            close |= value
                .split(',')
                .any(|word| word.trim().eq_ignore_ascii_case("close"));
        } else if name.eq_ignore_ascii_case("transfer-encoding")
            || (name.eq_ignore_ascii_case("content-length") && value != "0")
        {
            // A body would be taken for the next request.
            return Err(BAD_REQUEST);
        }
    }

    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let action = match path {
        // The version before has no chunks.
        "/long" if protocol == "HTTP/1.0" => return Err("505 HTTP Version Not Supported"),
        "/long" => Action::Long,
        "/slow" => {
            let delay = query.split('&').find_map(|pair| pair.strip_prefix("ms="));
            let delay = delay
                .and_then(|delay| delay.parse().ok())
                .ok_or(BAD_REQUEST)?;
            Action::Answer(Duration::from_millis(delay))
        }
        _ => Action::Answer(Duration::ZERO),
    };
    Ok(Request { action, close })
}

/// Sends lines until the client is gone, which the next write or the one after it shows.
async fn send_lines(stream: &mut TcpStream, line: &str, close: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n{}\r\n",
        connection_header(close)
    );
    stream.write_all(head.as_bytes()).await?;
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    let mut ticks = interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        stream.write_all(chunk.as_bytes()).await?;
    }
}
