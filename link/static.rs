//! For build scripts: links a program to a fixed address, and with the C library inside.
//!
//! This is what `-C target-feature=+crt-static` does, which could only be asked for everything, macros of the build included.
//! The linker finds the libraries' names in our directory first, and archives behind them.

use std::path::PathBuf;
use std::{env, fs, io};

/// `arg` hands one argument to the linker of those programs that are meant.
///
/// # Errors
/// What writing into the build's directory says.
pub fn link(arg: impl Fn(&str)) -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../link/static.rs");
    arg("-no-pie");
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
        arg("-static");
        arg(&format!("-L{}", dir.display()));
    }
    Ok(())
}
