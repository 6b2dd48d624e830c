//! Links `coracle-init` with the C library inside and to a fixed address: it runs in containers that have no libraries. The
//! holder is linked as usual.

#[path = "../../link/static.rs"]
mod program;

fn main() -> std::io::Result<()> {
    program::link(|arg| println!("cargo::rustc-link-arg-bin=coracle-init={arg}"))
}
