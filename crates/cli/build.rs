//! Links the program so that it starts and ends fast, which is a good part of what a short command takes.
//!
//! - To a fixed address: tens of thousands of relocations, each page of them a fault, would else be done at every start. Its
//!   stack and its heap stay at random addresses.
//! - With the C library inside: finding, mapping, binding and unmapping three libraries takes as long as starting a small
//!   process at all. Of names it looks up only hosts (`getaddrinfo`, whose `files` and `dns` the archive has).
//!
//! This is what `-C target-feature=+crt-static` does, which could only be asked for everything, macros of the build included.
//! The linker finds the libraries' names in our directory first, and archives behind them.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|e| e == "gnu") {
        let dir = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
        for (name, archives) in [
            ("gcc_s", "libgcc_eh.a libgcc.a"),
            ("c", "libc.a"),
            ("m", "libm.a"),
        ] {
            let file = dir.join(format!("lib{name}.so"));
            fs::write(file, format!("GROUP({archives})\n"))?;
        }
        println!("cargo::rustc-link-arg-bins=-static");
        println!("cargo::rustc-link-arg-bins=-L{}", dir.display());
    }
    Ok(())
}
