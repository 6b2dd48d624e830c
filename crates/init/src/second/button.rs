//! The power button, as the kernel's input devices tell of it (`linux/input.h`).

use rustix::process::{Signal, getpid, kill_process};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::Read,
    path::Path,
    thread,
};

/// Bytes of `struct input_event`: a time, then type, code and value.
const EVENT: usize = 24;
const KEY: u16 = 1;
const POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Those that are listened to.
#[derive(Default)]
pub struct Buttons {
    known: BTreeSet<OsString>,
}

impl Buttons {
    /// Listens to buttons that are new.
    pub fn look(&mut self) {
        let entries = fs::read_dir("/sys/class/input")
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let name = entry.file_name();
            if self.known.contains(&name) || !has_button(&entry.path()) {
                continue;
            }
            let Ok(device) = File::open(Path::new("/dev/input").join(&name)) else {
                continue;
            };
            self.known.insert(name);
            let listening = thread::Builder::new().name("button".to_owned());
            if let Err(error) = listening.spawn(move || listen(device)) {
                crate::console::failed("the power button", &error);
            }
        }
    }
}

/// Whether the device has a power key: the lowest word of its keys comes last, in hexadecimal.
fn has_button(device: &Path) -> bool {
    let keys = fs::read_to_string(device.join("device/capabilities/key")).unwrap_or_default();
    let word = keys
        .split_ascii_whitespace()
        .rev()
        .nth(usize::from(POWER / 64));
    word.and_then(|w| u64::from_str_radix(w, 16).ok())
        .is_some_and(|w| w >> (POWER % 64) & 1 == 1)
}

/// Waits for it to be pressed, until the device is gone.
fn listen(mut device: File) {
    let mut event = [0; EVENT];
    while device.read_exact(&mut event).is_ok() {
        let [.., a, b, c, d, e, f, g, h] = event;
        if u16::from_ne_bytes([a, b]) == KEY
            && u16::from_ne_bytes([c, d]) == POWER
            && i32::from_ne_bytes([e, f, g, h]) == PRESSED
        {
            // As if somebody had asked for it.
            kill_process(getpid(), Signal::USR2).ok();
        }
    }
}
