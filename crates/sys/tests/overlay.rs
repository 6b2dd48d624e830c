//! Overlays of many layers, in a mount namespace of the test's own.
#![allow(clippy::unwrap_used)]

use coracle_sys::overlay::mount_overlay;
use std::{fs, path::PathBuf, thread};

/// Removes its directory, also when the test fails.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_hundred_and_twenty_layers_show_the_topmost_file_and_nothing_leaks() {
    let s = Scratch(std::env::temp_dir().join(format!("coracle-overlay-{}", std::process::id())));
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
        let lower: Vec<PathBuf> = (0..120).map(|n| root.join(format!("layer-{n}"))).collect();
        for (n, dir) in lower.iter().enumerate() {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("same"), n.to_string()).unwrap();
            fs::write(dir.join(format!("own-{n}")), "").unwrap();
        }
        let [upper, work, target] = ["upper", "work", "target"].map(|d| root.join(d));
        for dir in [&upper, &work, &target] {
            fs::create_dir(dir).unwrap();
        }
        mount_overlay(&lower, &upper, &work, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("same")).unwrap(), "0");
        assert_eq!(fs::read_dir(&target).unwrap().count(), 121);
        fs::write(target.join("new"), "x").unwrap();
        assert!(upper.join("new").exists());
        assert!(mount_overlay(&[root.join("absent")], &upper, &work, &target).is_err());
    });
    inside.join().unwrap();
    assert_eq!(fs::read_dir(s.0.join("target")).unwrap().count(), 0);
}
