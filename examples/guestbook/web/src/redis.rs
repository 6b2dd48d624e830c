//! As much of Redis's protocol (RESP 2) as a guest book needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST: usize = 16 << 20;

/// Sends a command and gives the strings that were answered.
///
/// # Errors
/// When the name is not known, nobody listens, or Redis says no.
pub fn command(server: &str, words: &[&str]) -> io::Result<Vec<String>> {
    // The name is looked up each time: the server may have moved.
    let address = server.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    (&stream).write_all(request.as_bytes())?;
    let mut found = Vec::new();
    read(&mut BufReader::new(&stream), &mut found, 2)?;
    Ok(found)
}

/// Reads a reply; arrays may be `depth` deep.
fn read(from: &mut impl BufRead, found: &mut Vec<String>, depth: u8) -> io::Result<()> {
    let mut line = String::new();
    from.take(LONGEST as u64).read_line(&mut line)?;
    let line = line
        .strip_suffix("\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a reply that is none: {line:?}"),
        )
    };
    let rest = line.get(1..).unwrap_or_default();
    let length = || rest.parse::<i64>().map_err(|_| bad());
    match line.as_bytes().first() {
        Some(b'+' | b':') => found.push(rest.to_owned()),
        Some(b'-') => return Err(io::Error::other(rest.to_owned())),
        Some(b'$') => {
            // -1 is "nothing".
            if let Ok(length) = usize::try_from(length()?) {
                if length > LONGEST {
                    return Err(bad());
                }
                let mut bytes = vec![0; length + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(length);
                found.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Some(b'*') if depth > 0 => {
            for _ in 0..length()?.max(0) {
                read(from, found, depth - 1)?;
            }
        }
        _ => return Err(bad()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        let strings = |text: &str| {
            let mut found = Vec::new();
            read(&mut text.as_bytes(), &mut found, 2).map(|()| found)
        };
        assert!(matches!(strings("*2\r\n$1\r\na\r\n$-1\r\n"), Ok(f) if f == ["a"]));
        assert!(matches!(strings(":3\r\n"), Ok(f) if f == ["3"]));
        assert!(strings("-ERR no\r\n").is_err_and(|e| e.to_string() == "ERR no"));
        for bad in [
            "",
            "$5\r\na",
            "?\r\n",
            "$99999999999\r\n",
            "*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert!(strings(bad).is_err(), "{bad}");
        }
    }
}
