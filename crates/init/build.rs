//! Links the program with the C library inside: the first file system has no libraries.

#[path = "../../link/static.rs"]
mod program;

fn main() -> std::io::Result<()> {
    program::link(|arg| println!("cargo::rustc-link-arg-bins={arg}"))
}
