//! Releases as Debian's minisign signs them, written into the file of a slot.
#![allow(clippy::unwrap_used)]

use coracle_os::{
    Slot,
    entries::{self, Entry, Standing},
    release::{FORMAT, Part, Release, ReleaseError, keys},
    write::{Target, WriteError},
};
use semver::Version;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

const BLOCK: usize = 4096;

fn part(bytes: &[u8]) -> Part {
    let digest = Sha256::digest(bytes);
    Part {
        size: bytes.len() as u64,
        sha256: digest.iter().map(|b| format!("{b:02x}")).collect(),
    }
}

/// Three blocks with a tree of one; what is in them does not matter here.
fn root() -> Vec<u8> {
    (0..4 * BLOCK).map(|n| (n / 7) as u8).collect()
}

fn release() -> Release {
    Release {
        format: FORMAT,
        version: Version::new(0, 3, 0),
        floor: Version::new(0, 2, 0),
        architecture: std::env::consts::ARCH.to_owned(),
        kernel: part(b"a kernel"),
        root: part(&root()),
        root_hash: "0a".repeat(32),
        root_blocks: 3,
        etcd: "3.4".to_owned(),
    }
}

/// A pair of keys of minisign.
struct Signer {
    dir: tempfile::TempDir,
    public: String,
}

impl Signer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        minisign(dir.path(), &["-G", "-W", "-p", "key.pub", "-s", "key"]);
        let text = fs::read_to_string(dir.path().join("key.pub")).unwrap();
        let [public] = <[String; 1]>::try_from(keys(&text)).unwrap();
        Self { dir, public }
    }

    fn sign(&self, json: &[u8], options: &[&str]) -> String {
        fs::write(self.dir.path().join("release.json"), json).unwrap();
        let all = [&["-S", "-W", "-s", "key", "-m", "release.json"], options].concat();
        minisign(self.dir.path(), &all);
        fs::read_to_string(self.dir.path().join("release.json.minisig")).unwrap()
    }
}

fn minisign(dir: &Path, options: &[&str]) {
    let done = Command::new("minisign")
        .args(options)
        .current_dir(dir)
        .output();
    let done = done.expect("Debian's package minisign");
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_release_is_taken_if_one_of_the_keys_signed_it() {
    let (ours, other) = (Signer::new(), Signer::new());
    let json = serde_json::to_vec(&release()).unwrap();
    let both = [other.public.clone(), ours.public.clone()];
    for options in [&[][..], &["-l"]] {
        let signature = ours.sign(&json, options);
        assert_eq!(Release::read(&json, &signature, &both).unwrap(), release());
        let read = |json: &[u8], keys: &[String]| Release::read(json, &signature, keys);
        assert!(matches!(
            read(&json, &both[..1]),
            Err(ReleaseError::Unsigned)
        ));
        assert!(matches!(read(&json, &[]), Err(ReleaseError::NoKeys)));
        let mut changed = json.clone();
        changed[json.len() / 2] ^= 1;
        assert!(matches!(read(&changed, &both), Err(ReleaseError::Unsigned)));
    }
    let read = Release::read(&json, "RUS0", &both);
    assert!(matches!(read, Err(ReleaseError::Signature(_))));
    let key = ["not a key".to_owned()];
    let read = Release::read(&json, &ours.sign(&json, &[]), &key);
    assert!(matches!(read, Err(ReleaseError::Key(k, _)) if k == "not a key"));
}

#[test]
fn what_is_not_for_this_machine_is_refused() {
    let of = |change: fn(&mut Release)| {
        let mut release = release();
        change(&mut release);
        Release::of(&serde_json::to_vec(&release).unwrap())
    };
    assert!(of(|_| {}).is_ok());
    let refused = of(|r| r.architecture = "s390x".to_owned());
    assert!(matches!(refused, Err(ReleaseError::Architecture(a)) if a == "s390x"));
    assert!(matches!(of(|r| r.format = 2), Err(ReleaseError::Format(2))));
    assert!(matches!(
        of(|r| r.root_blocks = 4),
        Err(ReleaseError::Root { .. })
    ));
    // A later format may have nothing else in common.
    assert!(matches!(
        Release::of(br#"{"format":7}"#),
        Err(ReleaseError::Format(7))
    ));
    assert!(matches!(
        Release::of(b"{}"),
        Err(ReleaseError::Malformed(_))
    ));
    let floor = Version::new(0, 3, 1);
    assert!(matches!(
        release().not_below(&floor),
        Err(ReleaseError::Downgrade { .. })
    ));
    assert!(release().not_below(&Version::new(0, 3, 0)).is_ok());
}

/// A machine that runs from slot a, with something in slot b.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Self { dir };
        fs::create_dir_all(machine.efi().join("coracle")).unwrap();
        for slot in [Slot::A, Slot::B] {
            fs::write(machine.efi().join(entries::kernel(slot)), slot.to_string()).unwrap();
            let entry = Entry {
                slot,
                standing: Standing::Proven,
                order: 5,
                title: "before".to_owned(),
            };
            entries::write(&machine.efi(), &entry).unwrap();
        }
        fs::write(machine.device(), vec![7; 8 * BLOCK]).unwrap();
        machine
    }

    fn efi(&self) -> PathBuf {
        self.dir.path().join("efi")
    }

    fn device(&self) -> PathBuf {
        self.dir.path().join("slot")
    }

    /// Writes all, with what is read of root and kernel.
    fn update(
        &self,
        release: &Release,
        root: impl Read,
        kernel: impl Read,
    ) -> Result<(), WriteError> {
        let (device, efi) = (self.device(), self.efi());
        let target = Target {
            slot: Slot::B,
            device: &device,
            efi: &efi,
        };
        target.begin(release)?;
        target.root(release, root, |_| {})?;
        target.kernel(release, kernel)?;
        target.commit(release)
    }

    fn entries(&self) -> Vec<Entry> {
        entries::read(&self.efi()).unwrap().into_values().collect()
    }
}

#[test]
fn a_release_comes_into_the_slot_and_first_in_the_list() {
    let machine = Machine::new();
    machine
        .update(&release(), &root()[..], &b"a kernel"[..])
        .unwrap();
    assert_eq!(fs::read(machine.device()).unwrap()[..4 * BLOCK], root());
    // What is behind it is not touched.
    assert_eq!(
        fs::read(machine.device()).unwrap()[4 * BLOCK..],
        vec![7; 4 * BLOCK]
    );
    assert_eq!(
        fs::read(machine.efi().join("coracle/b.efi")).unwrap(),
        b"a kernel"
    );
    let [a, b] = <[Entry; 2]>::try_from(machine.entries()).unwrap();
    assert_eq!(
        (a.slot, a.standing, a.order),
        (Slot::A, Standing::Proven, 5)
    );
    let tries = Standing::Tries { left: 3, done: 0 };
    assert_eq!((b.slot, b.standing, b.order), (Slot::B, tries, 6));
    assert_eq!(b.title, "Coracle 0.3.0");
}

/// Ends with an error.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the connection is gone"))
    }
}

#[test]
fn what_is_not_what_the_release_says_gets_no_entry() {
    let whole = root();
    let (mut flipped, mut longer) = (whole.clone(), whole.clone());
    flipped[BLOCK] ^= 1;
    longer.push(0);
    let kernel = &b"a kernel"[..];
    type Sources<'a> = (Box<dyn Read + 'a>, Box<dyn Read + 'a>);
    let wrong: Vec<(Sources, &str)> = vec![
        ((Box::new(&flipped[..]), Box::new(kernel)), "root.img"),
        ((Box::new(&longer[..]), Box::new(kernel)), "root.img"),
        ((Box::new(&whole[..BLOCK]), Box::new(kernel)), "root.img"),
        (
            (Box::new(whole[..BLOCK].chain(Broken)), Box::new(kernel)),
            "root.img",
        ),
        (
            (Box::new(&whole[..]), Box::new(&b"b kernel"[..])),
            "coracle.efi",
        ),
        ((Box::new(&whole[..]), Box::new(&b"a"[..])), "coracle.efi"),
    ];
    for ((root, kernel), part) in wrong {
        let machine = Machine::new();
        let error = machine.update(&release(), root, kernel).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(
            fs::read(machine.device()).unwrap()[4 * BLOCK..],
            vec![7; 4 * BLOCK]
        );
        // The slot that runs is as it was, and the other one is not known any more.
        let [a] = <[Entry; 1]>::try_from(machine.entries()).unwrap();
        assert_eq!((a.slot, a.standing), (Slot::A, Standing::Proven));
    }
}

#[test]
fn a_root_that_is_larger_than_the_slot_is_refused_before_anything_is_touched() {
    let machine = Machine::new();
    File::options()
        .write(true)
        .open(machine.device())
        .unwrap()
        .set_len(2 * BLOCK as u64)
        .unwrap();
    let error = machine
        .update(&release(), &root()[..], &b"a kernel"[..])
        .unwrap_err();
    assert!(matches!(error, WriteError::Room { .. }));
    assert_eq!(machine.entries().len(), 2);
}
