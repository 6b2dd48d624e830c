//! `modprobe` as the kernel calls it: `modprobe -q -- NAME`, a module or an alias.

use coracle_os::modules::Modules;
use std::path::PathBuf;

/// The directory of the running kernel's modules.
pub fn directory() -> PathBuf {
    let release = rustix::system::uname();
    PathBuf::from("/lib/modules").join(release.release().to_string_lossy().as_ref())
}

/// Loads what is asked for, and returns the exit code: 1 if there is no such module or it cannot be loaded.
pub fn run(arguments: impl Iterator<Item = String>) -> i32 {
    let mut quiet = false;
    let mut names = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "-q" | "--quiet" => quiet = true,
            option if option.starts_with('-') => {}
            _ => names.push(argument),
        }
    }
    let say = |text: String| {
        if !quiet {
            eprintln!("modprobe: {text}");
        }
    };
    let modules = match Modules::read(&directory()) {
        Ok(modules) => modules,
        Err(error) => {
            say(format!("{}: {error}", directory().display()));
            return 1;
        }
    };
    let mut code = 0;
    for name in names {
        let found = modules.find(&name);
        if found.is_empty() && !modules.is_builtin(&name) {
            say(format!("there is no module {name}"));
            code = 1;
        }
        for module in found {
            if let Err(error) = modules.load(module) {
                say(format!("{module}: {error}"));
                code = 1;
            }
        }
    }
    code
}
