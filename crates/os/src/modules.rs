//! Kernel modules: which one drives a device, what it needs, and loading it. The files are depmod's (`modules.dep(5)`).

use rustix::system::finit_module;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Modules {
    directory: PathBuf,
    /// By name, `-` as `_`: the file and the names of those needed, the deepest one last.
    needs: BTreeMap<String, (String, Vec<String>)>,
    /// Patterns by what is before their first colon.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    builtin: BTreeSet<String>,
}

/// The name of a module as the kernel has it, from a path or a name.
fn plain(text: &str) -> String {
    let file = text.rsplit('/').next().unwrap_or(text);
    file.trim_end_matches(".ko").replace('-', "_")
}

/// What patterns are grouped by: the bus of a device, or the whole text; nothing if it is a pattern itself (`acpi*:LNXPWRBN:*`).
fn group(text: &str) -> &str {
    let group = text.split_once(':').map_or(text, |(bus, _)| bus);
    if group.contains(['*', '?', '[']) {
        return "";
    }
    group
}

impl Modules {
    /// Reads the lists in `/lib/modules/RELEASE`.
    ///
    /// # Errors
    /// Those of reading `modules.dep` and `modules.alias`.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut all = Self {
            directory: directory.to_owned(),
            ..Self::default()
        };
        for line in fs::read_to_string(directory.join("modules.dep"))?.lines() {
            if let Some((file, needed)) = line.split_once(':') {
                let needed = needed.split_ascii_whitespace().map(plain).collect();
                all.needs.insert(plain(file), (file.to_owned(), needed));
            }
        }
        for line in fs::read_to_string(directory.join("modules.alias"))?.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                let of = all.aliases.entry(group(pattern).to_owned()).or_default();
                of.push((pattern.to_owned(), plain(name)));
            }
        }
        let builtin = fs::read_to_string(directory.join("modules.builtin")).unwrap_or_default();
        all.builtin = builtin.lines().map(plain).collect();
        Ok(all)
    }

    /// The names of the modules for a name or for the alias of a device; those built into the kernel are left out.
    pub fn find(&self, alias: &str) -> BTreeSet<&str> {
        let name = plain(alias);
        if self.builtin.contains(&name) {
            return BTreeSet::new();
        }
        if let Some((name, _)) = self.needs.get_key_value(&name) {
            return BTreeSet::from([name.as_str()]);
        }
        let groups = [group(alias), ""];
        let patterns = groups.iter().filter_map(|g| self.aliases.get(*g));
        patterns
            .flatten()
            .filter(|(pattern, name)| {
                matches(pattern.as_bytes(), alias.as_bytes()) && self.needs.contains_key(name)
            })
            .map(|(_, name)| name.as_str())
            .collect()
    }

    /// Whether the kernel has it without loading anything.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&plain(name))
    }

    /// Loads a module after those that it needs; what is there already is left as it is.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; the kernel's own.
    pub fn load(&self, name: &str) -> io::Result<()> {
        let (file, needed) = self
            .needs
            .get(&plain(name))
            .ok_or(io::ErrorKind::NotFound)?;
        let needed = needed.iter().rev();
        let files = needed
            .filter_map(|n| self.needs.get(n))
            .map(|(file, _)| file);
        for file in files.chain([file]) {
            match finit_module(File::open(self.directory.join(file))?, c"", 0) {
                Err(rustix::io::Errno::EXIST) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Loads a module with parameters (`soft_margin=60`).
    ///
    /// # Errors
    /// As [`Modules::load`], and `InvalidInput` if the parameters hold a NUL.
    pub fn load_with(&self, name: &str, parameters: &str) -> io::Result<()> {
        let (file, needed) = self
            .needs
            .get(&plain(name))
            .ok_or(io::ErrorKind::NotFound)?;
        for needed in needed.iter().rev() {
            self.load(needed)?;
        }
        let file = File::open(self.directory.join(file))?;
        match finit_module(file, &CString::new(parameters)?, 0) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// The kernel's patterns: `*`, `?` and `[a-z]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much it has taken.
    let mut star = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => return false,
            Some(b'?') => Some(1),
            Some(b'[') => set(&pattern[p..], text[t]),
            Some(byte) => (*byte == text[t]).then_some(1),
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, taken))) if taken < text.len() => {
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
            (None, _) => return false,
        }
    }
}

/// The length of the set that the pattern begins with, if the byte is of it.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut within = &pattern[1..end];
    let mut found = false;
    while let [low, rest @ ..] = within {
        match rest {
            [b'-', high, rest @ ..] => {
                found |= (*low..=*high).contains(&byte);
                within = rest;
            }
            _ => {
                found |= *low == byte;
                within = rest;
            }
        }
    }
    found.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_are_the_kernels() {
        for (pattern, text, fits) in [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            (
                "pci:v*d*sv*sd*bc01sc08i02*",
                "pci:v00008086d00000953sv00008086sd00003702bc01sc08i02",
                true,
            ),
            ("usb:v*p*d*dc09dsc*", "usb:v1p2d3dc08dsc1", false),
            ("input:b00[0-9a-c]1*", "input:b00b1v1", true),
            ("input:b00[0-9a-c]1*", "input:b00d1v1", false),
            ("*", "", true),
            ("?", "", false),
            ("", "", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[", "[", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn modules_are_found_by_name_and_by_alias() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "modules.dep",
            "kernel/a/virtio_net.ko: kernel/b/net-failover.ko kernel/b/failover.ko\nkernel/b/net-failover.ko: kernel/b/failover.ko\nkernel/b/failover.ko:\n",
        );
        write(
            "modules.alias",
            "# a comment\nalias virtio:d00000001v* virtio_net\nalias virtio:d00000009v* missing\nalias acpi*:LNXPWRBN:* failover\n",
        );
        write("modules.builtin", "kernel/fs/btrfs.ko\n");
        let modules = Modules::read(dir.path()).unwrap();
        assert_eq!(
            modules.find("virtio:d00000001v00001AF4"),
            BTreeSet::from(["virtio_net"])
        );
        assert_eq!(
            modules.find("net-failover"),
            BTreeSet::from(["net_failover"])
        );
        assert_eq!(modules.find("acpi:LNXPWRBN:"), BTreeSet::from(["failover"]));
        assert!(modules.find("btrfs").is_empty());
        assert!(modules.find("virtio:d00000009v1").is_empty());
        assert_eq!(
            modules.load("none").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
