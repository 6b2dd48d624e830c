//! What a container sees of the machine below it, for tests of the image: `look WORD …`
//!
//! `machine KEY…`: as JSON what process 1 of the machine has: its mounts, settings of the kernel by these keys, programs, files with
//! setuid or setgid, sockets that wait for others; and what became of trying to change the root and the kernel. It needs a privileged
//! container with the machine's processes. `write DEVICE OFFSET TEXT`: writes onto a device. `user`: the user that it runs as.
//! `memory`: the lines of `/proc/meminfo`. `hears ADDRESS PORT`: fails unless something is said there at once.

use rustix::{
    fs::sync,
    mount::{MountFlags, mount_remount},
    process::geteuid,
    system::finit_module,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::{Value, json};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// What an appended signature ends with.
const SIGNED: &[u8] = b"~Module signature appended~\n";

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["machine", keys @ ..] => println!("{}", machine(keys)?),
        ["write", device, offset, text] => {
            let offset = offset.parse().map_err(io::Error::other)?;
            let device = OpenOptions::new().write(true).open(device)?;
            device.write_all_at(text.as_bytes(), offset)?;
            device.sync_all()?;
            sync();
            println!("written");
        }
        ["user"] => println!("{}", geteuid().as_raw()),
        ["hears", address, port] => {
            let mut door = TcpStream::connect(format!("{address}:{port}"))?;
            let mut said = [0; 1];
            door.read_exact(&mut said)?;
        }
        ["memory"] => print!("{}", fs::read_to_string("/proc/meminfo")?),
        _ => {
            let text = "usage: look machine KEY… | write DEVICE OFFSET TEXT | user | memory | hears ADDRESS PORT";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    io::stdout().flush()
}

fn machine(keys: &[&str]) -> io::Result<Value> {
    // The machine's root and mounts in place of the container's; its links are the container's own already.
    let namespace = File::open("/proc/1/ns/mnt")?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let settings = keys.iter().map(|key| {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let value = fs::read_to_string(path).ok();
        ((*key).to_owned(), json!(value.map(|v| v.trim().to_owned())))
    });
    let settings: serde_json::Map<_, _> = settings.collect();
    let mounts = fs::read_to_string("/proc/1/mounts")?;
    let mounts: serde_json::Map<_, _> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
            Some((place.to_owned(), json!(format!("{kind},{options}"))))
        })
        .collect();
    let mut raising = Vec::new();
    walk(Path::new("/"), fs::metadata("/")?.dev(), &mut raising)?;
    let mut programs = Vec::new();
    for directory in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(directory)? {
            programs.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    programs.sort();
    Ok(json!({
        "command_line": fs::read_to_string("/proc/cmdline")?.trim(),
        "lockdown": text("/sys/kernel/security/lockdown"),
        "sysctls": settings,
        "mounts": mounts,
        "raising": raising,
        "programs": programs,
        "sockets": sockets()?,
        "tried": tried(),
    }))
}

fn text(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Files of one file system by which somebody would get more rights.
fn walk(directory: &Path, device: u64, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let about = fs::symlink_metadata(&path)?;
        if about.dev() != device {
            continue;
        }
        if about.is_dir() {
            walk(&path, device, found)?;
        } else if about.is_file() && about.permissions().mode() & 0o6000 != 0 {
            found.push(path);
        }
    }
    Ok(())
}

/// Addresses and ports that wait for whoever comes, loopback's left out.
fn sockets() -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    // TCP that listens, UDP that is not connected.
    for (kind, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let table = fs::read_to_string(format!("/proc/self/net/{kind}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, is, ..] = words.as_slice() else {
                continue;
            };
            let Some((address, port)) = local.split_once(':').filter(|_| *is == state) else {
                continue;
            };
            let port = u16::from_str_radix(port, 16).map_err(io::Error::other)?;
            let parts = address.as_bytes().chunks(8).map(|word| {
                let word = String::from_utf8_lossy(word);
                Ok(u32::from_str_radix(&word, 16)
                    .map_err(io::Error::other)?
                    .to_ne_bytes())
            });
            let bytes: Vec<_> = parts.collect::<io::Result<Vec<_>>>()?.concat();
            let (shown, loopback) = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(four) => (Ipv4Addr::from(four).to_string(), four[0] == 127),
                Err(_) => {
                    let all: [u8; 16] = bytes.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                    let address = Ipv6Addr::from(all);
                    (address.to_string(), address.is_loopback())
                }
            };
            if !loopback {
                found.push(format!("{} {shown} {port}", &kind[..3]));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What root of the machine must not be able to do.
fn tried() -> Value {
    let told = |done: io::Result<()>| match done {
        Ok(()) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    let remounted = mount_remount("/", MountFlags::empty(), c"").map_err(io::Error::from);
    let remounted = told(remounted);
    let created = told(File::create("/usr/bin/intruder").map(drop));
    let changed = OpenOptions::new().append(true).open("/usr/bin/coracle");
    json!({
        "remount": remounted,
        "create": created,
        "change": told(changed.map(drop)),
        "verity": told(verity()),
        "unsigned": told(unsigned()),
        "memory": told(OpenOptions::new().write(true).open("/dev/mem").map(drop)),
        "bpf_again": told(fs::write("/proc/sys/kernel/unprivileged_bpf_disabled", "0")),
        "kexec_again": told(fs::write("/proc/sys/kernel/kexec_load_disabled", "0")),
    })
}

/// Writes what is there already onto the opened root.
fn verity() -> io::Result<()> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/dm-0")?;
    let mut block = [0; 4096];
    device.read_exact_at(&mut block, 0)?;
    device.write_all_at(&block, 0)?;
    device.sync_all()
}

/// Loads a module without its signature.
fn unsigned() -> io::Result<()> {
    let release = text("/proc/sys/kernel/osrelease");
    let path = format!("/lib/modules/{release}/kernel/drivers/net/dummy.ko");
    let mut module = fs::read(path)?;
    if !module.ends_with(SIGNED) {
        return Err(io::Error::other("the module has no signature"));
    }
    module.truncate(module.len() - SIGNED.len());
    let copy = "/run/look-module";
    fs::write(copy, module)?;
    let done = finit_module(File::open(copy)?, c"", 0);
    fs::remove_file(copy)?;
    Ok(done?)
}
