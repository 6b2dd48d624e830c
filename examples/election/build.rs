//! Links the program with the C library inside: there is nothing else in its image.

#[path = "../../link/static.rs"]
mod program;

fn main() -> std::io::Result<()> {
    program::link(|arg| println!("cargo::rustc-link-arg-examples={arg}"))
}
