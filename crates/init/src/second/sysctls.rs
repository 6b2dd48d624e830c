//! Settings of the kernel that the image brings along: a list of keys and values (`os/sysctls`), each with its reason.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The list: a key with dots, its value, and words for people; `#` begins a line that is none.
const LIST: &str = "/usr/share/coracle/sysctls";

/// Writes them all. A key that this kernel does not have is passed over: it has nothing to be set there.
///
/// # Errors
/// That of reading the list, or the first setting that was refused; the others are written all the same.
pub fn apply() -> io::Result<()> {
    let mut first = Ok(());
    for (key, value) in settings(&fs::read_to_string(LIST)?) {
        let done = match fs::write(path(key), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|e| io::Error::new(e.kind(), format!("{key}={value}: {e}"))),
        };
        if first.is_ok() {
            first = done;
        }
    }
    first
}

/// How much of the machine's memory the kernel keeps free for itself, at most: the 256th part, and what it would keep without huge pages.
const PART: u64 = 256;
const RESERVE: &str = "/proc/sys/vm/min_free_kbytes";

/// Has the kernel keep no more memory free than a part of what there is. For the sake of huge pages it keeps a twentieth of a small machine's free
/// (`mm/khugepaged.c`), and half as much again before it has others wait: memory that nobody gets.
///
/// # Errors
/// Those of reading and writing below `/proc`.
pub fn limit_reserve() -> io::Result<()> {
    let named =
        |path: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{path}: {e}"));
    // Of /proc/meminfo the first line is `MemTotal:  989232 kB`.
    let first_number = |path: &'static str| {
        let text = fs::read_to_string(path).map_err(named(path))?;
        let found = text.split_whitespace().find_map(|w| w.parse::<u64>().ok());
        found.ok_or_else(|| named(path)(io::Error::other("there is no number in it")))
    };
    let total = first_number("/proc/meminfo")?;
    let limit = (total / PART).max((total * 16).isqrt());
    if first_number(RESERVE)? > limit {
        fs::write(RESERVE, limit.to_string()).map_err(named(RESERVE))?;
    }
    Ok(())
}

fn settings(list: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = list.lines().filter(|l| !l.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    })
}

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_list_is_read() {
        let list = include_str!("../../../../os/sysctls");
        let all: Vec<_> = settings(list).collect();
        let lines = list.lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!(all.len(), lines);
        assert!(all.contains(&("kernel.kptr_restrict", "2")));
        assert!(
            all.iter()
                .all(|(_, v)| v.bytes().all(|b| b.is_ascii_digit()))
        );
        assert_eq!(
            path("net.ipv4.conf.all.send_redirects"),
            Path::new("/proc/sys/net/ipv4/conf/all/send_redirects")
        );
    }
}
