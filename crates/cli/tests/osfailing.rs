//! Releases that are not good, and power that goes at every step of an update: the machine always comes up in a slot that works, with its containers and
//! their data. They take longer than `make test` has time for: `make test-os` runs them.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "os/http.rs"]
mod http;
#[path = "os/machine.rs"]
mod machine;
#[path = "os/prepared.rs"]
mod prepared;
#[path = "os/registry.rs"]
mod registry;

use machine::{Machine, release, release_with, update_files};
use prepared::{Prepared, alone, is_good, prepare};
use registry::Registry;
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Another program in place of one of the image's.
fn instead(extra: &Path, program: &str, by: &str) {
    let to = extra.join(program);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(common::programs().with_file_name(by), to).unwrap();
}

/// Has the machine take a release, and waits until it is back in the first slot, with what it had; why.
fn goes_back(prepared: &Prepared, version: &str) -> String {
    let machine = &prepared.machine;
    let before = machine.containers();
    let name = prepared.image.replace("0.2.0", version);
    let (from, tag) = name.rsplit_once(':').unwrap();
    machine.post(&format!("/images/create?fromImage={from}&tag={tag}"));
    let said = machine.post(&format!("/v1/os/update?image={name}&restart=true"));
    assert!(said.contains("restarting"), "{said}");
    let status = machine.until_os(|s| s["last_update"]["outcome"] == "failed");
    assert_eq!(status["slot"], "a", "{status}");
    machine.until_answers("A ");
    assert_eq!(machine.containers(), before);
    status["last_update"]["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_release_that_panics_hangs_or_cannot_run_containers_is_gone_back_from() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let prepared = prepare(work.path());

    // Its process 1 ends at once, upon which the kernel panics; three times.
    let extra = tempfile::tempdir().unwrap();
    instead(extra.path(), "usr/sbin/init", "coracle");
    let update = release("0.3.0", Some(extra.path()));
    prepared.registry.push_update(&update, "coracle/os:0.3.0");
    let why = goes_back(&prepared, "0.3.0");
    assert!(why.contains("did not start"), "{why}");

    // Its process 1 does nothing for ever: the watchdog bites.
    let extra = tempfile::tempdir().unwrap();
    instead(extra.path(), "usr/sbin/init", "examples/idle");
    let update = release("0.4.0", Some(extra.path()));
    prepared.registry.push_update(&update, "coracle/os:0.4.0");
    let why = goes_back(&prepared, "0.4.0");
    assert!(why.contains("did not start"), "{why}");

    // Its daemon serves, and no container starts.
    let extra = tempfile::tempdir().unwrap();
    let settings = extra.path().join("usr/share/coracle/sysctls");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(settings, "user.max_pid_namespaces 0\n").unwrap();
    let update = release("0.5.0", Some(extra.path()));
    prepared.registry.push_update(&update, "coracle/os:0.5.0");
    let why = goes_back(&prepared, "0.5.0");
    assert!(
        why.contains("not well again: ") && why.contains("web"),
        "{why}"
    );
    prepared.machine.power_off();
}

/// What the machine says of an update that it does not take.
fn refused(prepared: &Prepared, tag: &str) -> String {
    let name = prepared.image.replace("0.2.0", tag);
    let (from, _) = name.rsplit_once(':').unwrap();
    let machine = &prepared.machine;
    machine.post(&format!("/images/create?fromImage={from}&tag={tag}"));
    let said = machine.post(&format!("/v1/os/update?image={name}&restart=true"));
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let error = last["error"].as_str();
    error.unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn updates_that_are_not_whole_or_not_signed_are_not_started() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let prepared = prepare(work.path());

    // Signed by somebody else.
    let keys = tempfile::tempdir().unwrap();
    let (key, public) = (keys.path().join("key"), keys.path().join("pub"));
    let update = release_with("0.3.0", &[("UPDATE_KEY", &key), ("UPDATE_PUB", &public)]);
    prepared.registry.push_update(&update, "coracle/os:foreign");
    let why = refused(&prepared, "foreign");
    assert!(why.contains("signed by none of the pinned keys"), "{why}");

    // Each file cut short, or with one bit that is another.
    release("0.3.0", None);
    for (file, bad) in [
        ("root.img", false),
        ("root.img", true),
        ("coracle.efi", false),
        ("coracle.efi", true),
        ("release.json", true),
    ] {
        let tree = work.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        for name in [
            "root.img",
            "coracle.efi",
            "release.json",
            "release.json.minisig",
        ] {
            fs::copy(update_files().join(name), tree.join(name)).unwrap();
        }
        let path = tree.join(file);
        let size = fs::metadata(&path).unwrap().len();
        let open = File::options().read(true).write(true).open(&path).unwrap();
        if bad {
            let mut byte = [0];
            open.read_exact_at(&mut byte, size / 2).unwrap();
            open.write_all_at(&[byte[0] ^ 1], size / 2).unwrap();
        } else {
            open.set_len(size - 4096).unwrap();
        }
        let tag = format!("{}-{bad}", file.replace('.', "-"));
        prepared
            .registry
            .push_tree(&format!("coracle/os:{tag}"), &tree);
        let why = refused(&prepared, &tag);
        // The image's name has no dot there.
        assert!(why.contains(file), "{tag}: {why}");
        let status = prepared.machine.until_os(|_| true);
        assert_eq!(status["slot"], "a", "{status}");
        assert_eq!(status["slots"].as_array().unwrap().len(), 1, "{status}");
    }
    // And it is as it was, and takes the good one.
    prepared.machine.until_answers("A ");
    let path = format!("/v1/os/update?image={}&restart=true", prepared.image);
    prepared.machine.post(&path);
    prepared.machine.until_os(is_good);
    prepared.machine.power_off();
}

#[test]
fn a_bit_that_turns_in_a_slot_is_found_before_it_matters() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let Prepared {
        machine,
        disk,
        image,
        registry: _registry,
    } = prepare(work.path());
    machine.post(&format!("/v1/os/update?image={image}"));
    machine.power_off();
    // All of the root's data: some of it is what the first stage reads.
    let (start, _) = machine::extent(&disk, "coracle-b");
    let blocks = machine::blocks("0.2.0");
    let file = File::options().read(true).write(true).open(&disk).unwrap();
    for block in (blocks / 8..blocks).step_by(16) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, start + block * 4096).unwrap();
        file.write_all_at(&[byte[0] ^ 1], start + block * 4096)
            .unwrap();
    }
    let machine = Machine::start(&disk);
    let status = machine.until_os(|s| s["last_update"]["outcome"] == "failed");
    assert_eq!(status["slot"], "a", "{status}");
    assert_eq!(status["slots"][1]["tries_left"], 0, "{status}");
    machine.until_answers("A ");
    machine.power_off();
}

#[test]
fn power_that_goes_at_any_step_leaves_a_slot_that_works() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let Prepared {
        mut machine,
        disk,
        image,
        registry: _registry,
    } = prepare(work.path());
    let path = format!("/v1/os/update?image={image}");
    for step in ["writing release", "16 of", "64 of", "is started from next"] {
        machine.post_until(&path, step);
        machine.cut_power();
        machine = Machine::start(&disk);
        let status = machine.until_os(|s| {
            let outcome = &s["last_update"]["outcome"];
            outcome == "failed" || outcome == "good"
        });
        machine.until_answers("A ");
        // What is whole is started from; it is the last of the steps, but the power may be quicker than the word.
        if is_good(&status) {
            assert_eq!(status["version"], "0.2.0", "{step}: {status}");
            machine.post("/v1/os/rollback?restart=true");
            machine.until_os(|s| s["slot"] == "a");
        }
    }
    // While the machine goes down, and while the new slot starts: as soon as nobody answers, and twice later.
    for restarts in 1..=3 {
        machine.post(&format!("{path}&restart=true"));
        let gone = |machine: &Machine| machine.try_get("/v1/os").is_none();
        machine.until("it does not go down", || gone(&machine).then_some(()));
        machine.cut_power();
        for _ in 1..restarts {
            machine = Machine::start(&disk);
            machine.until("it does not start", || machine.has_started().then_some(()));
            machine.cut_power();
        }
        machine = Machine::start(&disk);
        let status = machine.until_os(is_good);
        assert_eq!(status["slot"], "b", "{status}");
        machine.until_answers("A ");
        machine.post("/v1/os/rollback?restart=true");
        machine.until_os(|s| s["slot"] == "a");
    }
    machine.power_off();
}

/// Something that the machine's containers need and that is not the machine's: it says something to everybody, while it is there.
struct Elsewhere {
    port: u16,
    there: Arc<AtomicBool>,
}

impl Elsewhere {
    fn start() -> Self {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = door.local_addr().unwrap().port();
        let there = Arc::new(AtomicBool::new(true));
        let says = there.clone();
        std::thread::spawn(move || {
            for visitor in door.incoming() {
                if says.load(Ordering::Relaxed) {
                    visitor.and_then(|mut v| v.write_all(b"yes")).ok();
                }
            }
        });
        Self { port, there }
    }

    fn set(&self, there: bool) {
        self.there.store(there, Ordering::Relaxed);
    }
}

#[test]
fn what_is_not_the_releases_fault_does_not_condemn_it() {
    let _alone = alone();
    let work = tempfile::tempdir().unwrap();
    let elsewhere = Elsewhere::start();
    let registry = Registry::start();
    registry.push_programs("steady:1", &["steady", "door", "look"]);
    let host = registry.seen_from_machine();
    let unit = format!(
        "    - name: needs.container
      command: start
      content: |
        [Container]
        Image={host}/steady:1
        Exec=/bin/steady B 8081
        HealthCmd=[\"/bin/look\", \"hears\", \"10.0.2.2\", \"{}\"]
        HealthInterval=2s
        HealthRetries=1
",
        elsewhere.port
    );
    let update = format!(
        "coreos:\n  update:\n    server: {host}/coracle/os\n    group: stable\n    reboot-strategy: etcd-lock\n"
    );
    let text = machine::configuration(&host, None).replace("coreos:\n", &update) + &unit;
    let disk = work.path().join("disk");
    machine::disk(&machine::image(), &disk, &text);
    let machine = Machine::start(&disk);
    machine.until_answers("A ");
    machine.until("it is not healthy", || {
        let listed =
            machine.try_get("/containers/json?filters=%7B%22health%22%3A%5B%22healthy%22%5D%7D")?;
        (!listed.as_array()?.is_empty()).then_some(())
    });
    registry.push_update(&release("0.2.0", None), "coracle/os:stable");
    machine.try_post("/v1/os/check");
    // It goes while the machine restarts.
    machine.until("it does not go down", || {
        machine.try_get("/v1/os").is_none().then_some(())
    });
    elsewhere.set(false);
    let status = machine.until_os(|s| s["last_update"]["outcome"] == "failed");
    assert_eq!(status["slot"], "a", "{status}");
    let why = status["last_update"]["reason"].as_str().unwrap();
    assert!(
        why.contains("not well again: ") && why.contains("needs"),
        "{why}"
    );
    machine.until("nobody is told that it failed", || {
        let rollout = machine.try_get("/v1/os/rollout")?;
        (rollout["releases"][0][1]["standing"] == "failed").then_some(())
    });
    // The former release cannot do better.
    let status = machine.until_os(|s| s["last_update"]["former_too"] == true);
    let why = status["last_update"]["reason"].as_str().unwrap();
    assert!(why.contains("the cause may lie elsewhere"), "{why}");
    elsewhere.set(true);
    let status = machine.until_os(is_good);
    assert_eq!(
        (&status["slot"], &status["version"]),
        (&Value::from("b"), &Value::from("0.2.0"))
    );
    machine.until_answers("A ");
    let rollout = machine.get("/v1/os/rollout");
    assert_eq!(rollout["releases"][0][1]["resumes"], 1, "{rollout}");
    machine.power_off();
}
