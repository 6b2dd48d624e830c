//! A guest book: entries are kept in Redis, which is reached by its name.
//!
//! `GET /` shows the book, `POST /` (`entry=…`, as a form sends it) adds to it, `GET /entries` is plain text, `GET
//! /healthz` answers 200 while Redis answers. Environment: `PORT` (8080), `REDIS` (`redis:6379`).

mod http;
mod redis;

use http::{Request, Response};
use std::io::{self, BufReader};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_ENTRY: usize = 500;
const SHOWN: usize = 100;

fn main() -> io::Result<()> {
    let variable =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let port = variable("PORT", "8080");
    let redis = variable("REDIS", "redis:6379");
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on port {port}, entries are kept at {redis}");
    for stream in listener.incoming() {
        let redis = redis.clone();
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                eprintln!("a connection was lost: {error}");
                continue;
            }
        };
        // A thread that cannot be had is one connection less, not the end.
        let serve = move || {
            if let Err(error) = serve(&stream, &redis) {
                eprintln!("a client left early: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().stack_size(128 << 10).spawn(serve) {
            eprintln!("no thread for a client: {error}");
        }
    }
    Ok(())
}

fn serve(stream: &TcpStream, redis: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let response = match Request::read(&mut reader)? {
        Ok(request) => {
            let response = answer(&request, redis);
            println!("{} {} {}", request.method, request.path, response.status);
            response
        }
        Err(refused) => refused,
    };
    response.write(stream)
}

fn answer(request: &Request, redis: &str) -> Response {
    let result = match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => entries(redis).map(|e| Response::html(page(&e))),
        ("GET", "/entries") => entries(redis).map(|e| Response::text(200, e.join("\n") + "\n")),
        ("GET", "/healthz") => {
            redis::command(redis, &["PING"]).map(|_| Response::text(200, "ok\n".into()))
        }
        ("POST", "/") => add(request, redis),
        (_, "/" | "/entries" | "/healthz") => Ok(Response::text(405, "use GET or POST\n".into())),
        _ => Ok(Response::text(
            404,
            "there is only /, /entries and /healthz\n".into(),
        )),
    };
    result.unwrap_or_else(|error| {
        eprintln!("redis at {redis}: {error}");
        Response::text(
            503,
            format!("the book cannot be opened: {redis}: {error}\n"),
        )
    })
}

fn entries(redis: &str) -> io::Result<Vec<String>> {
    redis::command(redis, &["LRANGE", "entries", "0", &(SHOWN - 1).to_string()])
}

fn add(request: &Request, redis: &str) -> io::Result<Response> {
    let Some(entry) = http::form_field(&request.body, "entry").filter(|e| !e.trim().is_empty())
    else {
        return Ok(Response::text(400, "send entry=… as a form does\n".into()));
    };
    let entry: String = entry
        .chars()
        .filter(|c| !c.is_control())
        .take(LONGEST_ENTRY)
        .collect();
    redis::command(redis, &["LPUSH", "entries", &entry])?;
    Ok(Response::see_other("/"))
}

fn page(entries: &[String]) -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let items: String = entries
        .iter()
        .map(|e| format!("<li>{}</li>\n", http::escape(e)))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Guest book</title>\n\
         <style>body{{font:1.1rem/1.5 sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}</style>\n\
         <h1>Guest book</h1>\n<form method=\"post\"><input name=\"entry\" size=\"40\" autofocus> <button>Sign</button>\
         </form>\n<ul>\n{items}</ul>\n<p><small>served by {}</small></p></html>\n",
        http::escape(&host)
    )
}
