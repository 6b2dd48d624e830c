//! Gets a lease and keeps it, without putting it in place: `lease <interface> <mac> [--hostname <name>] [--remembered <file>]`.
//! What happens is written as lines of JSON, until it is killed.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use coracle_dhcp::{Client, Event, clock};
use serde_json::json;

/// How often it is looked whether the state is another one.
const LOOK: Duration = Duration::from_millis(20);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().expect("an interface");
    let mac = mac(&arguments.next().expect("a MAC address"));
    let (mut hostname, mut remembered) = (None, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next();
        match option.as_str() {
            "--hostname" => hostname = value,
            "--remembered" => {
                let text = std::fs::read(value.expect("a file")).unwrap();
                remembered = Some(serde_json::from_slice(&text).unwrap());
            }
            _ => panic!("unknown option {option}"),
        }
    }
    let mut client = match Client::new(&interface, mac, hostname, remembered) {
        Ok(client) => client,
        Err(error) => return tell_error(&error),
    };
    let mut state = None;
    loop {
        match client.next(Some(clock::now() + LOOK)) {
            Ok(Event::Bound(lease)) => println!("{}", json!({"event": "bound", "lease": lease})),
            Ok(Event::Renewed(lease)) => {
                println!("{}", json!({"event": "renewed", "lease": lease}));
            }
            Ok(Event::Lost) => println!("{}", json!({"event": "lost"})),
            Ok(Event::Deadline) if state != Some(client.state()) => {
                state = Some(client.state());
                let name = format!("{:?}", client.state()).to_lowercase();
                println!("{}", json!({"event": "state", "state": name}));
            }
            Ok(Event::Deadline) => {}
            Err(error) => tell_error(&error),
        }
    }
}

fn tell_error(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    println!("{}", json!({"event": "error", "error": text}));
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<_> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().expect("six bytes")
}
