//! Links the program so that it starts and ends fast, which is a good part of what a short command takes.
//!
//! - To a fixed address: tens of thousands of relocations, each page of them a fault, would else be done at every start. Its
//!   stack and its heap stay at random addresses.
//! - With the C library inside: finding, mapping, binding and unmapping three libraries takes as long as starting a small
//!   process at all. Of names it looks up only hosts (`getaddrinfo`, whose `files` and `dns` the archive has).

#[path = "../../link/static.rs"]
mod program;

fn main() -> std::io::Result<()> {
    program::link(|arg| println!("cargo::rustc-link-arg-bins={arg}"))
}
