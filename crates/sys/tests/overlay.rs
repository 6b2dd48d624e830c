//! Overlays of many layers, in a mount namespace of the test's own.
#![allow(clippy::unwrap_used)]

use coracle_sys::overlay::{Naming, mount_overlay_named, open_overlay_named};
use std::{fs, path::PathBuf, thread};

/// Removes its directory, also when the test fails.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn layers_named_one_by_one_show_the_topmost_file_and_nothing_leaks() {
    many_layers(Naming::OneByOne);
}

/// As kernels before 6.5 need it.
#[test]
fn layers_named_in_one_string_do_the_same() {
    many_layers(Naming::OneString);
}

/// As many as Docker allows.
const LAYERS: usize = 128;

fn many_layers(naming: Naming) {
    let name = format!("coracle-overlay-{naming:?}-{}", std::process::id());
    let s = Scratch(std::env::temp_dir().join(name));
    let root = s.0.clone();
    fs::create_dir_all(root.join("target")).unwrap();
    let inside = thread::spawn(move || {
        // SAFETY: unshare has no memory effects; it concerns only this thread's namespace and working directory.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        let private = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        // Upper directories cannot lie on an overlay, which the temporary directory may be.
        rustix::mount::mount(
            "tmpfs",
            &root,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None,
        )
        .unwrap();
        let lower: Vec<PathBuf> = (0..LAYERS)
            .map(|n| root.join(format!("layer:{n}")))
            .collect();
        for (n, dir) in lower.iter().enumerate() {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("same"), n.to_string()).unwrap();
            fs::write(dir.join(format!("own-{n}")), "").unwrap();
        }
        let [upper, work, target] = ["upper", "work", "target"].map(|d| root.join(d));
        for dir in [&upper, &work, &target] {
            fs::create_dir(dir).unwrap();
        }
        mount_overlay_named(naming, &lower, &upper, &work, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("same")).unwrap(), "0");
        assert_eq!(fs::read_dir(&target).unwrap().count(), LAYERS + 1);
        fs::write(target.join("new"), "x").unwrap();
        assert!(upper.join("new").exists());
        let absent = [root.join("absent")];
        assert!(mount_overlay_named(naming, &absent, &upper, &work, &target).is_err());
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = mounts();
        let view = open_overlay_named(naming, &lower).unwrap();
        assert_eq!(mounts(), before, "a view is mounted nowhere");
        let flags = rustix::fs::OFlags::RDONLY;
        let file = rustix::fs::openat(&view, "same", flags, rustix::fs::Mode::empty()).unwrap();
        let mut text = [0; 8];
        let n = rustix::io::read(&file, &mut text).unwrap();
        assert_eq!(&text[..n], b"0");
        let write = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        let refused = rustix::fs::openat(&view, "other", write, rustix::fs::Mode::RWXU);
        assert_eq!(refused.unwrap_err(), rustix::io::Errno::ROFS);
    });
    inside.join().unwrap();
    assert_eq!(fs::read_dir(s.0.join("target")).unwrap().count(), 0);
}
