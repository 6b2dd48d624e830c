//! Links `coracle-init` with the C library inside and to a fixed address: it runs in containers that have no libraries.
//!
//! As for the command (`crates/cli/build.rs`), the linker finds the libraries' names in our directory first, and archives
//! behind them. The holder is linked as usual.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let link = |arg: &str| println!("cargo::rustc-link-arg-bin=coracle-init={arg}");
    link("-no-pie");
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
        link("-static");
        link(&format!("-L{}", dir.display()));
    }
    Ok(())
}
