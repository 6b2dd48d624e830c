//! Lets TCP in to a Unix socket: `door PORT SOCKET`. In a container of a virtual machine it is how a test asks that machine's daemon.

use std::{
    io,
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    thread,
};

fn main() -> io::Result<()> {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "usage: door PORT SOCKET");
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse::<u16>().ok());
    let (Some(port), Some(socket)) = (port, arguments.next()) else {
        return Err(usage());
    };
    for client in TcpListener::bind(("0.0.0.0", port))?.incoming() {
        let (client, socket) = (client?, socket.clone());
        // A connection that breaks is the client's to notice.
        thread::spawn(move || pass(&client, &UnixStream::connect(socket)?));
    }
    Ok(())
}

fn pass(client: &TcpStream, daemon: &UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, daemon.try_clone()?);
    thread::spawn(move || {
        io::copy(&mut from, &mut to)?;
        to.shutdown(std::net::Shutdown::Write)
    });
    let (mut from, mut to) = (daemon, client);
    io::copy(&mut from, &mut to)?;
    to.shutdown(std::net::Shutdown::Both)
}
