//! What process 1 has to say goes into the kernel's log, for `dmesg`, and onto the console if a person there wants to see it. The
//! kernel's own messages stay off the console but the worst.

use std::{fs::OpenOptions, io::Write};

/// How much it matters, as in syslog(2).
#[derive(Debug, Clone, Copy)]
pub enum Level {
    /// Something does not work.
    Error = 3,
    /// Something works less well.
    Warning = 4,
    /// What a person at the console wants to see.
    Notice = 5,
    /// What helps to find out.
    Info = 6,
}

/// Writes one line.
pub fn say(level: Level, text: &str) {
    let line = format!("coracle: {}\n", text.replace('\n', " "));
    let write = |path: &str, text: String| {
        let file = OpenOptions::new().write(true).open(path);
        // There is nobody else to tell.
        file.and_then(|mut f| f.write_all(text.as_bytes())).ok();
    };
    if level as u8 <= Level::Notice as u8 {
        write("/dev/console", line.replace('\n', "\r\n"));
    }
    write("/dev/kmsg", format!("<{}>{line}", level as u8));
}

/// Writes what does not work, with its causes.
pub fn failed(what: &str, error: &dyn std::error::Error) {
    say(
        Level::Error,
        &format!("{what}: {}", coracle_sys::full(error)),
    );
}
