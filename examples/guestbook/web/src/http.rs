//! As much HTTP/1.1 (RFC 9112) as a guest book needs: one request a connection.

use std::io::{self, BufRead, Read, Write};

const LONGEST_HEAD: u64 = 16 << 10;
const LONGEST_BODY: usize = 64 << 10;

/// A request.
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// Reads one; the inner error is the answer to one that cannot be read.
    ///
    /// # Errors
    /// The connection's own.
    pub fn read(from: &mut impl BufRead) -> io::Result<Result<Self, Response>> {
        let refused = |status, why: &str| Ok(Err(Response::text(status, format!("{why}\n"))));
        let mut head = from.take(LONGEST_HEAD);
        let mut first = String::new();
        head.read_line(&mut first)?;
        let mut words = first.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return refused(400, "this is no request");
        };
        let mut length = 0;
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return refused(431, "the head is too long or ends early");
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                match value.trim().parse::<usize>() {
                    Ok(n) if n <= LONGEST_BODY => length = n,
                    _ => return refused(413, "the body is too long"),
                }
            }
        }
        let (method, path) = (
            method.to_owned(),
            target.split('?').next().unwrap_or(target).to_owned(),
        );
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Ok(Ok(Self { method, path, body }))
    }
}

/// An answer.
pub struct Response {
    /// Status code.
    pub status: u16,
    kind: &'static str,
    location: Option<&'static str>,
    body: String,
}

impl Response {
    /// Plain text.
    pub fn text(status: u16, body: String) -> Self {
        Self {
            status,
            kind: "text/plain; charset=utf-8",
            location: None,
            body,
        }
    }

    /// A page.
    pub fn html(body: String) -> Self {
        Self {
            kind: "text/html; charset=utf-8",
            ..Self::text(200, body)
        }
    }

    /// The answer after a form was taken.
    pub fn see_other(location: &'static str) -> Self {
        Self {
            location: Some(location),
            ..Self::text(303, "thank you\n".into())
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// The connection's own.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let reason = match self.status {
            200 => "OK",
            303 => "See Other",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.status,
            self.kind,
            self.body.len()
        );
        if let Some(location) = self.location {
            head.push_str(&format!("Location: {location}\r\n"));
        }
        head.push_str("\r\n");
        to.write_all(head.as_bytes())?;
        to.write_all(self.body.as_bytes())
    }
}

/// A field of `application/x-www-form-urlencoded` data.
pub fn form_field(body: &[u8], name: &str) -> Option<String> {
    body.split(|b| *b == b'&').find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        (pair[..at] == *name.as_bytes()).then(|| decode(&pair[at + 1..]))
    })
}

fn decode(text: &[u8]) -> String {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'+' => out.push(b' '),
            b'%' => {
                let hex = more.get(..2).and_then(|h| std::str::from_utf8(h).ok());
                match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
                    Some(byte) => {
                        out.push(byte);
                        rest = &more[2..];
                    }
                    None => out.push(b'%'),
                }
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Text as it may stand in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            form_field(b"a=1&entry=h%C3%A9llo+w%6frld%", "entry").as_deref(),
            Some("h\u{e9}llo world%")
        );
        assert_eq!(form_field(b"a=1", "entry"), None);
        assert_eq!(escape("<b>&"), "&lt;b&gt;&amp;");
    }

    #[test]
    fn requests_are_read_or_refused() {
        let read = |text: &str| Request::read(&mut text.as_bytes());
        let request = read("POST /?x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        assert!(
            matches!(request, Ok(Ok(r)) if r.method == "POST" && r.path == "/" && r.body == b"abc")
        );
        for (text, status) in [
            ("\r\n", 400),
            ("GET / HTTP/1.1\r\n", 431),
            ("GET / x\r\ncontent-length: 99999999\r\n\r\n", 413),
        ] {
            assert!(
                matches!(read(text), Ok(Err(r)) if r.status == status),
                "{text}"
            );
        }
    }
}
