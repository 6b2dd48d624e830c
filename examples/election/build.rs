//! Links the program with the C library inside: there is nothing else in its image.
//!
//! As for the command (`crates/cli/build.rs`), the linker finds the libraries' names in our directory first, and archives
//! behind them.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-examples=-no-pie");
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
        println!("cargo::rustc-link-arg-examples=-static");
        println!("cargo::rustc-link-arg-examples=-L{}", dir.display());
    }
    Ok(())
}
