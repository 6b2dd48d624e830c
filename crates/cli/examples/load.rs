//! A load generator that never repeats a request.
//!
//! `load --requests N --clients C --mode keep-alive|connect [--rate R] [--until FILE] URL` sends N
//! requests, R per second, from C clients at a time. With `--until` it goes on until FILE exists.
//! `load --clients C --mode long [--until FILE] URL` opens C connections and reads them to the end.
//! `load --turns --clients C --mode keep-alive|connect URL` reads lines with a number from its
//! input and sends as many requests for each. What is kept alive is used by the next turn again.
//!
//! With `--ports FIRST-LAST` connections leave from these ports in turn, so that those of two of these programs are never the same ones
//! to a server that both ask in different ways.
//!
//! The result is one line of JSON, with `--turns` one for each turn. Failures are part of the result and not of the exit code.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::mem::take;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const USAGE: &str = "usage: load --requests N --clients C --mode keep-alive|connect|long \
    [--rate R] [--until FILE] [--turns] [--ports FIRST-LAST] http://HOST:PORT/PATH";

#[derive(PartialEq)]
enum Mode {
    KeepAlive,
    Connect,
    Long,
}

/// What all clients share.
struct Load {
    mode: Mode,
    turns: bool,
    requests: Cell<u64>,
    clients: usize,
    ports: Option<(u16, u16)>,
    /// Where the next connection leaves from, from the first port on.
    port: Cell<u16>,
    rate: Option<f64>,
    until: Option<PathBuf>,
    /// `HOST:PORT`, to be resolved for each connection.
    authority: String,
    /// The bytes of the request.
    request: Vec<u8>,
    start: Cell<Instant>,
    /// How many requests the clients have taken on so far.
    taken: Cell<u64>,
    /// What the turn before has left open, one for each client.
    kept: RefCell<Vec<Connection>>,
    stats: RefCell<Stats>,
}

/// What happened so far.
#[derive(Default)]
struct Stats {
    connections: u64,
    /// In microseconds, one for each request that was answered.
    latencies: Vec<u32>,
    bodies: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    /// How long each long connection lived, in seconds.
    ended: Vec<String>,
}

struct Connection {
    stream: TcpStream,
    /// The same socket. The runtime learns of a close only when it next polls, this one at once.
    probe: std::net::TcpStream,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let load = arguments().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, USAGE))?;
    let (stop, stopping) = watch::channel(load.until.is_none() && load.mode != Mode::Long);
    if let Some(file) = load.until.clone() {
        tokio::spawn(async move {
            while !file.exists() {
                sleep(Duration::from_millis(5)).await;
            }
            stop.send_replace(true);
        });
    }

    let load = Rc::new(load);
    if !load.turns {
        println!("{}", turn(&load, &stopping).await);
        return Ok(());
    }
    for line in io::stdin().lines() {
        let requests = line?.trim().parse().map_err(io::Error::other)?;
        load.requests.set(requests);
        load.taken.set(0);
        load.start.set(Instant::now());
        println!("{}", turn(&load, &stopping).await);
    }
    Ok(())
}

/// Runs all clients to their end and returns the result.
async fn turn(load: &Rc<Load>, stopping: &watch::Receiver<bool>) -> String {
    let clients = LocalSet::new();
    for _ in 0..load.clients {
        clients.spawn_local(client(load.clone(), stopping.clone()));
    }
    clients.await;
    load.result()
}

/// Understands the command line.
fn arguments() -> Option<Load> {
    let (mut mode, mut requests, mut clients) = (None, None, None);
    let (mut rate, mut until, mut url, mut turns, mut ports) = (None, None, None, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--requests" => requests = Some(arguments.next()?.parse().ok()?),
            "--clients" => clients = Some(arguments.next()?.parse().ok()?),
            "--rate" => rate = Some(arguments.next()?.parse().ok().filter(|rate| *rate > 0.0)?),
            "--until" => until = Some(arguments.next()?.into()),
            "--turns" => turns = true,
            "--ports" => {
                let range = arguments.next()?;
                let (first, last) = range.split_once('-')?;
                let range = (first.parse().ok()?, last.parse().ok()?);
                ports = Some(range).filter(|(first, last)| first <= last);
                ports?;
            }
            "--mode" => mode = arguments.next(),
            _ if url.is_none() => url = Some(argument),
            _ => return None,
        }
    }
    let (mode, close) = match mode?.as_str() {
        "keep-alive" => (Mode::KeepAlive, ""),
        "connect" => (Mode::Connect, ""),
        "long" => (Mode::Long, "Connection: close\r\n"),
        _ => return None,
    };
    let url = url?;
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    authority.rsplit_once(':')?.1.parse::<u16>().ok()?;
    Some(Load {
        requests: match turns || mode == Mode::Long {
            true => Cell::new(0),
            false => Cell::new(requests?),
        },
        turns,
        mode,
        clients: clients?,
        ports,
        port: Cell::new(0),
        rate,
        until,
        authority: authority.to_owned(),
        request: format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\n{close}\r\n").into_bytes(),
        start: Cell::new(Instant::now()),
        taken: Cell::new(0),
        kept: RefCell::default(),
        stats: RefCell::default(),
    })
}

/// Sends requests one after the other until enough were sent, or reads one long connection.
async fn client(load: Rc<Load>, mut stopping: watch::Receiver<bool>) {
    let fail = |text| *load.stats.borrow_mut().errors.entry(text).or_default() += 1;
    if load.mode == Mode::Long {
        return load.listen(&mut stopping).await.unwrap_or_else(fail);
    }
    let mut connection = load.kept.borrow_mut().pop();
    let mut buffer = Vec::with_capacity(16 * 1024);
    while load.take(&mut stopping).await {
        if let Err(text) = load.request(&mut connection, &mut buffer).await {
            fail(text);
            // What fails at once would otherwise never let others run.
            yield_now().await;
        }
    }
    load.kept.borrow_mut().extend(connection);
}

impl Load {
    /// Takes on one more request and waits until it is due. False when there are enough.
    async fn take(&self, stopping: &mut watch::Receiver<bool>) -> bool {
        let number = self.taken.replace(self.taken.get() + 1);
        let extra = number >= self.requests.get();
        if extra && *stopping.borrow() {
            return false;
        }
        let Some(rate) = self.rate else { return true };
        let due = self.start.get() + Duration::from_secs_f64(number as f64 / rate);
        tokio::select! {
            biased;
            Ok(_) = stopping.wait_for(|stopping| *stopping), if extra => false,
            () = sleep_until(due) => true,
        }
    }

    /// Opens a connection to the first address of the host.
    async fn connect(&self) -> Result<Connection, String> {
        let limit = Instant::now() + CONNECT_TIMEOUT;
        let address = match self.authority.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => within(limit, "resolve", lookup_host(&self.authority))
                .await?
                .next()
                .ok_or("resolve: no address")?,
        };
        let connect = async {
            let stream = match self.ports {
                None => TcpStream::connect(address).await?,
                Some((first, last)) => {
                    let next = self.port.get();
                    self.port.set((next + 1) % (last - first + 1));
                    let socket = TcpSocket::new_v4()?;
                    socket.set_reuseaddr(true)?;
                    socket.bind((Ipv4Addr::UNSPECIFIED, first + next).into())?;
                    socket.connect(address).await?
                }
            };
            stream.set_nodelay(true)?;
            let probe = stream.as_fd().try_clone_to_owned()?.into();
            Ok(Connection { stream, probe })
        };
        let connection = within(limit, "connect", connect).await?;
        self.stats.borrow_mut().connections += 1;
        Ok(connection)
    }

    /// Sends one request and takes note of the answer. The connection stays if it can.
    async fn request(
        &self,
        connection: &mut Option<Connection>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut start = Instant::now();
        let mut open = match connection.take() {
            // A connection that was closed between two requests is no failure.
            Some(open) if open.usable()? => open,
            _ => self.connect().await?,
        };
        if self.mode == Mode::KeepAlive {
            start = Instant::now();
        }
        let (body, close) = open.exchange(&self.request, buffer).await?;
        // The timeouts keep it far below what fits.
        let latency = start.elapsed().as_micros() as u32;
        if close {
            // The server closes first, so that its end and not a port of this one stays reserved.
            drop(timeout(Duration::from_millis(100), open.stream.read_buf(buffer)).await);
        } else if self.mode == Mode::KeepAlive {
            *connection = Some(open);
        }
        let mut stats = self.stats.borrow_mut();
        stats.latencies.push(latency);
        *stats.bodies.entry(body).or_default() += 1;
        Ok(())
    }

    /// Reads one connection to its end and takes note of how long it lived. Nothing is noted if it
    /// is open when the run is over. It is an error if there was never a byte.
    async fn listen(&self, stopping: &mut watch::Receiver<bool>) -> Result<(), String> {
        let mut stream = self.connect().await?.stream;
        let start = Instant::now();
        let limit = start + RESPONSE_TIMEOUT;
        within(limit, "write", stream.write_all(&self.request)).await?;
        let mut buffer = [0; 4096];
        if within(limit, "read", stream.read(&mut buffer)).await? == 0 {
            return Err("read: EOF before the response".to_owned());
        }
        let end =
            async { while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {} };
        tokio::select! {
            () = end => {
                let lived = format!("{:.3}", start.elapsed().as_secs_f64());
                self.stats.borrow_mut().ended.push(lived);
            }
            Ok(_) = stopping.wait_for(|stopping| *stopping) => {}
        }
        Ok(())
    }

    /// The result as one line of JSON. Only answered requests count for the rate.
    fn result(&self) -> String {
        let seconds = self.start.get().elapsed().as_secs_f64();
        let mut stats = take(&mut *self.stats.borrow_mut());
        let failures: u64 = stats.errors.values().sum();
        let errors = json_counts(&stats.errors);
        if self.mode == Mode::Long {
            let (connections, ended) = (self.clients, stats.ended.join(","));
            return format!(
                "{{\"connections\":{connections},\"ended\":[{ended}],\"failures\":{failures},\
                \"errors\":{errors}}}"
            );
        }
        stats.latencies.sort_unstable();
        let answered = stats.latencies.len();
        let (requests, rps) = (answered as u64 + failures, answered as f64 / seconds);
        let (connections, bodies) = (stats.connections, json_counts(&stats.bodies));
        let [p50, p99, max] = [50, 99, 100].map(|percent| {
            let index = (answered * percent).div_ceil(100).saturating_sub(1);
            stats.latencies.get(index).copied().unwrap_or(0)
        });
        format!(
            "{{\"requests\":{requests},\"failures\":{failures},\"connections\":{connections},\
            \"bodies\":{bodies},\"errors\":{errors},\"seconds\":{seconds:.3},\"rps\":{rps:.0},\
            \"p50_us\":{p50},\"p99_us\":{p99},\"max_us\":{max}}}"
        )
    }
}

impl Connection {
    /// Whether the server has not closed the connection. It must not have sent anything either.
    fn usable(&self) -> Result<bool, String> {
        match self.probe.peek(&mut [0]) {
            Ok(0) => Ok(false),
            Ok(_) => Err("read: bytes before the request".to_owned()),
            Err(error) => Ok(error.kind() == io::ErrorKind::WouldBlock),
        }
    }

    /// Sends a request and reads the whole response. See `parse` for the result.
    async fn exchange(
        &mut self,
        request: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(String, bool), String> {
        let limit = Instant::now() + RESPONSE_TIMEOUT;
        within(limit, "write", self.stream.write_all(request)).await?;
        buffer.clear();
        while within(limit, "read", self.stream.read_buf(buffer)).await? > 0 {
            if let Some(response) = parse(buffer)? {
                return Ok(response);
            }
        }
        Err(format!("read: EOF after {} bytes", buffer.len()))
    }
}

/// Returns the body of a response and whether the server closes the connection. `None` means that
/// the response is not complete.
fn parse(buffer: &[u8]) -> Result<Option<(String, bool)>, String> {
    let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&buffer[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    if status != Some("200") {
        return Err(format!("status {}", status.unwrap_or("missing")));
    }
    let (mut length, mut close) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let (body, length) = (&buffer[end + 4..], length.ok_or("read: no length")?);
    if body.len() > length {
        return Err("read: more than the response".to_owned());
    }
    let text = String::from_utf8_lossy(body);
    Ok((body.len() == length).then(|| (text.trim().to_owned(), close)))
}

/// Waits for a result until the limit. The error names what was done.
async fn within<T>(
    limit: Instant,
    what: &str,
    future: impl Future<Output = io::Result<T>>,
) -> Result<T, String> {
    let result = timeout_at(limit, future).await;
    result
        .map_err(|_| format!("{what}: timed out"))?
        .map_err(|error| format!("{what}: {error}"))
}

/// Counts by text as a JSON object. What JSON does not take as it is becomes a question mark.
fn json_counts(counts: &BTreeMap<String, u64>) -> String {
    let odd = |c: char| c.is_control() || c == '"' || c == '\\';
    let pair = |(text, count): (&String, _)| format!("\"{}\":{count}", text.replace(odd, "?"));
    let pairs: Vec<_> = counts.iter().map(pair).collect();
    format!("{{{}}}", pairs.join(","))
}
