//! The reference tables, and what the loader must accept and refuse.
#![allow(clippy::unwrap_used)]
use coracle_unit::syntax::{UnitFile, merge};
use coracle_unit::words::*;
use coracle_unit::*;
use serde_json::{Value, json};
use std::path::PathBuf;

fn reference(path: &str) -> PathBuf {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference");
    let root = std::env::var_os("CORACLE_REFERENCE").map_or(default, PathBuf::from);
    let file = root.join(path);
    assert!(
        file.exists(),
        "{} is missing; set CORACLE_REFERENCE",
        file.display()
    );
    file
}
fn cases(path: &str, func: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(reference(path)).unwrap();
    let tables: Vec<Value> = serde_json::from_str(&text).unwrap();
    let of = tables.iter().filter(|t| t["func"] == func);
    let out: Vec<Value> = of
        .flat_map(|t| t["cases"].as_array().unwrap().clone())
        .collect();
    assert!(!out.is_empty(), "{path} has no {func}");
    out
}
fn s<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap()
}
fn triples(file: &UnitFile) -> Value {
    let all = file
        .sections
        .iter()
        .flat_map(|s| s.entries.iter().map(|e| [&s.name, &e.key, &e.raw]));
    serde_json::to_value(all.collect::<Vec<_>>()).unwrap()
}

#[test]
fn reading_and_writing() {
    for c in cases(
        "go-systemd-unit/json/deserialize_test.json",
        "TestDeserialize",
    ) {
        assert_eq!(
            triples(&UnitFile::parse("t", s(&c, "input")).unwrap()),
            c["output"]
        );
    }
    for c in cases(
        "go-systemd-unit/json/deserialize_test.json",
        "TestDeserializeFail",
    ) {
        assert!(UnitFile::parse("t", c.as_str().unwrap()).is_err(), "{c}");
    }
    for c in cases(
        "go-systemd-unit/json/deserialize_test.json",
        "TestDeserializeLineTooLong",
    ) {
        assert!(
            !UnitFile::parse_bounded("t", c.as_str().unwrap(), 2048)
                .1
                .is_empty()
        );
    }
    for c in cases(
        "go-systemd-unit/json/end_to_end_test.json",
        "TestDeserializeAndReserialize",
    ) {
        assert_eq!(
            UnitFile::parse("t", s(&c, "in")).unwrap().to_text(),
            s(&c, "wout")
        );
    }
    for c in cases("go-systemd-unit/json/serialize_test.json", "TestSerialize") {
        let rows: Vec<[String; 3]> = serde_json::from_value(c["input"].clone()).unwrap();
        let rows = rows
            .iter()
            .map(|[a, b, v]| (a.as_str(), b.as_str(), v.as_str()));
        assert_eq!(UnitFile::from_entries("t", rows).to_text(), s(&c, "output"));
    }
    for c in cases(
        "go-systemd-unit/json/deserialize_test.json",
        "TestDeserializeSections",
    ) {
        let read = UnitFile::parse("t", s(&c, "input")).unwrap();
        let of = |s: &coracle_unit::syntax::Section| {
            let entries: Vec<_> = s.entries.iter().map(|e| json!([e.key, e.raw])).collect();
            json!({ "Section": s.name, "Entries": entries })
        };
        let sections: Vec<Value> = read.sections.iter().map(of).collect();
        assert_eq!(json!(sections), c["output"]);
        // Sections of one name stay apart when they are written.
        let written = UnitFile::parse("t", &read.to_text()).unwrap();
        assert_eq!(
            written.sections.iter().map(of).collect::<Vec<_>>(),
            sections
        );
    }
}

/// What fleet's own tests say of `[X-Fleet]`, and where we differ from it.
#[test]
fn fleets_tables() {
    let load = |text: &str| {
        let name = UnitName::new("own.service").unwrap();
        let text = format!("{text}\n[Service]\nExecStart=/bin/true\n");
        load(&name, &text, &[], &SpecifierContext::default())
    };
    let words = |v: &Value| serde_json::from_value::<Vec<String>>(v.clone()).unwrap();
    for c in cases("fleet/json/job_test.json", "TestJobPeers") {
        assert_eq!(
            load(s(&c, "contents")).unwrap().fleet.machine_of,
            words(&c["peers"])
        );
    }
    for c in cases("fleet/json/job_test.json", "TestJobConflicts") {
        assert_eq!(
            load(s(&c, "contents")).unwrap().fleet.conflicts,
            words(&c["conflicts"])
        );
    }
    for c in cases("fleet/json/job_test.json", "TestJobReplaces") {
        assert_eq!(
            load(s(&c, "contents")).unwrap().fleet.replaces,
            words(&c["replaces"])
        );
    }
    for c in cases("fleet/json/job_test.json", "TestJobRequiredMetadata") {
        let text = s(&c, "unit");
        let unreadable = ["foo=\n", "==", "=asdf=WHAT", "ignored="]
            .iter()
            .any(|bad| format!("{text}\n").contains(bad));
        match load(text) {
            // fleet ran a unit without the entries that it could not read; such a unit is refused.
            Err(problems) => assert!(unreadable, "{text}: {problems}"),
            Ok(unit) => {
                assert!(!unreadable, "{text}");
                let of = |(key, call): (&String, &Value)| {
                    (key.clone(), words(&call["args"]).into_iter().collect())
                };
                let wanted = c["out"].as_object().unwrap().iter().map(of).collect();
                assert_eq!(unit.fleet.machine_metadata, wanted, "{text}");
            }
        }
    }
    for c in cases("fleet/json/job_test.json", "TestUnitIsGlobal") {
        let text = s(&c, "contents");
        // Global with MachineOf contradict each other, which fleet said at submit, too.
        let text = text
            .replace("MachineOf=bar\n", "")
            .replace("MachineOf=foo\n", "");
        match load(&text) {
            Ok(unit) => assert_eq!(json!(unit.fleet.global), c["want"], "{text}"),
            // What fleet passed over is refused: no section, no such key, no such value.
            Err(_) => assert_eq!(c["want"], false, "{text}"),
        }
    }
    for c in cases("fleet/json/job_test.json", "TestUnitIsTruthy") {
        let text = s(&c, "contents");
        let read = coracle_unit::value::parse_bool(text);
        assert_eq!(json!(read.unwrap_or(false)), c["want"], "{text}");
    }
    let name = UnitName::new("foo@bar.service").unwrap();
    for c in cases("fleet/json/job_test.json", "TestInstanceUnitPrintf") {
        let context = SpecifierContext::default();
        let wanted = s(&c, "want").replace(".waldo", ".service");
        assert_eq!(context.expand(&name, s(&c, "in")).unwrap(), wanted);
    }
    for c in cases("fleet/json/unit_test.json", "TestBadUnitsFail") {
        assert!(
            UnitFile::parse("t", c.as_str().unwrap()).is_err(),
            "{c} has a line without ="
        );
    }
}

#[test]
fn escaping() {
    for c in cases(
        "go-systemd-unit/json/escape_test.json",
        "TestUnitNameEscape",
    ) {
        let f = if c["isPath"] == true {
            escape_path
        } else {
            escape_name
        };
        assert_eq!(f(s(&c, "in")), s(&c, "out"));
    }
    for c in cases(
        "go-systemd-unit/json/escape_test.json",
        "TestUnitNameUnescape",
    ) {
        let f = if c["isPath"] == true {
            unescape_path
        } else {
            unescape_name
        };
        assert_eq!(f(s(&c, "in")), s(&c, "out"));
    }
}

#[test]
fn names() {
    for c in cases("fleet/json/unit_test.json", "TestNamedUnit") {
        let Some(fname) = c["fname"].as_str() else {
            assert!(UnitName::new(c.as_str().unwrap()).is_err());
            continue;
        };
        let n = UnitName::new(fname).unwrap();
        assert_eq!(
            (n.stem(), n.prefix(), n.is_template()),
            (s(&c, "name"), s(&c, "pref"), c["istmpl"] == true)
        );
        assert_eq!(n.instance().unwrap_or(""), s(&c, "inst"));
        assert_eq!(
            n.template().map(|t| t.to_string()).unwrap_or_default(),
            s(&c, "tmpl")
        );
    }
    assert_eq!(expand_ranges("g@{1..3}").unwrap(), ["g@1", "g@2", "g@3"]);
    assert!(expand_ranges("g@{1..99999999}").is_err());
}

fn service(body: &str) -> Result<Unit, Diagnostics> {
    let text = format!("[Service]\nExecStart=/bin/true\n{body}");
    load(
        &UnitName::new("foo.service").unwrap(),
        &text,
        &[],
        &SpecifierContext::default(),
    )
}

#[test]
fn shares_of_a_processor_are_no_specifiers() {
    let unit = service("CPUQuota=150%\n").unwrap();
    let Kind::Service(service) = &unit.kind else {
        panic!("{unit:?}");
    };
    assert!(service.cpu_quota.is_some());
}

#[test]
fn placement_keys() {
    let deploy = |text: &str| service(&format!("[X-Deploy]\n{text}\n")).map(|u| u.deploy);
    let given = deploy("ReserveCPU=0.5\nReserveMemory=1.5G\nSpread=no\nExclusive=yes").unwrap();
    assert_eq!(
        (
            given.reserve_cpu,
            given.reserve_memory,
            given.spread,
            given.exclusive
        ),
        (Some(500), Some(3 << 29), false, Some(true))
    );
    for (text, seconds) in [
        ("", None),
        ("LostAfterSec=5", Some(5)),
        ("LostAfterSec=20s", Some(20)),
    ] {
        assert_eq!(deploy(text).unwrap().lost_after, seconds, "{text}");
    }
    assert!(deploy("Exclusive=yes\nLostAfterSec=20\n[Service]\nTimeoutStopSec=6").is_ok());
    let none = deploy("").unwrap();
    assert_eq!(
        (
            none.reserve_cpu,
            none.reserve_memory,
            none.spread,
            none.exclusive
        ),
        (None, None, true, None)
    );
    for (cpus, millis) in [("2", 2000), (".25", 250), ("0.001", 1), ("16.", 16000)] {
        assert_eq!(
            deploy(&format!("ReserveCPU={cpus}")).unwrap().reserve_cpu,
            Some(millis)
        );
    }
    for bad in [
        "ReserveCPU=0",
        "ReserveCPU=50%%",
        "ReserveCPU=0.0001",
        "ReserveCPU=-1",
        "ReserveMemory=0",
        "ReserveMemory=infinity",
        "ReserveMemory=1X",
        "Spread=maybe",
        "Memory=1G",
        "CPU=1",
        "Exclusive=yes\n[X-Fleet]\nGlobal=yes",
        "Exclusive=yes\n[Service]\nTimeoutStopSec=7",
        "Exclusive=yes\n[Service]\nTimeoutStopSec=infinity",
        "Exclusive=yes\nLostAfterSec=10",
        "LostAfterSec=4",
        "LostAfterSec=21s",
        "LostAfterSec=5.5s",
        "LostAfterSec=infinity",
    ] {
        assert!(deploy(bad).is_err(), "{bad}");
    }
    let container = |limit: &str| {
        let text =
            format!("[Container]\nImage=web\nMemory={limit}\n[X-Deploy]\nReserveMemory=1G\n");
        load(
            &UnitName::new("web.container").unwrap(),
            &text,
            &[],
            &SpecifierContext::default(),
        )
    };
    assert!(container("1G").is_ok());
    let problems = container("512M").unwrap_err();
    assert_eq!(
        problems.0[0].to_string(),
        "web.container:4: [X-Deploy] ReserveMemory: is more than the unit may take; raise Memory= of [Container] or lower it"
    );
}

#[test]
fn fleet_keys() {
    for c in cases("fleet/json/job_test.json", "TestJobConditionMachineID") {
        let unit = service(s(&c, "unit")).unwrap();
        assert_eq!(
            unit.fleet.machine_id.as_deref().unwrap_or(""),
            s(&c, "outS")
        );
    }
    for c in cases("fleet/json/job_test.json", "TestBadValidateRequirements") {
        assert!(
            service(&format!("[X-Fleet]\n{}\n", c.as_str().unwrap())).is_err(),
            "{c}"
        );
    }
    for c in cases("fleet/json/job_test.json", "TestValidateRequirements") {
        // fleet let "true=false" and the like pass; so do we.
        service(&format!("[X-Fleet]\n{}\n", c.as_str().unwrap())).unwrap();
    }
    for two in [
        "MachineID=a\nGlobal=1",
        "Global=1\nReplaces=a",
        "Conflicts=a\nReplaces=b",
        "MachineOf=b.service\nConflicts=b*",
    ] {
        assert!(service(&format!("[X-Fleet]\n{two}\n")).is_err(), "{two}");
    }
    for file in std::fs::read_dir(reference("fleet/functional/fixtures/units")).unwrap() {
        let path = file.unwrap().path();
        let name = UnitName::new(path.file_name().unwrap().to_str().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(e) = load(&name, &text, &[], &SpecifierContext::default()) {
            panic!("{e}");
        }
    }
}

#[test]
fn containers() {
    let name = UnitName::new("web@1.container").unwrap();
    let ctx = SpecifierContext::default();
    let text = "[Container]\nImage=web\nVolume=data.volume:/data\nNetwork=app.network\nPublishPort=127.0.0.1:808%i:80\n";
    let unit = load(&name, text, &[], &ctx).unwrap();
    assert_eq!(implied_dependencies(&unit).len(), 2);
    serde_json::to_string(&unit).unwrap();
    let bad = "[Container]\nImage=web\nImgae=x\nPodmanArgs=--x\n[X-Deploy]\nScale=0\n";
    let problems = load(&name, bad, &[], &ctx).unwrap_err();
    assert_eq!(problems.0.len(), 3, "{problems}");
    assert_eq!(
        problems.0[0].to_string(),
        "web@1.container:3: [Container] Imgae: unknown key; did you mean Image?"
    );
    let reset = UnitFile::parse("d", "[Container]\nVolume=\n").unwrap();
    let merged = merge(&UnitFile::parse("b", text).unwrap(), &[reset]);
    assert!(merged.values("Container", "Volume").is_empty());
}

/// `CORACLE_FUZZ` multiplies the rounds (`make soak`).
#[test]
fn corpus_and_mutations_hold() {
    let more = std::env::var("CORACLE_FUZZ").map_or(1, |n| n.parse::<u64>().unwrap());
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/unit");
    let mut seed: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut next = move |n: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % n as u64) as usize
    };
    for file in std::fs::read_dir(dir).unwrap() {
        let base = std::fs::read(file.unwrap().path()).unwrap();
        fuzz::fuzz_unit(&base);
        for _ in 0..1000 * more {
            let mut data = base.clone();
            for _ in 0..=next(6) {
                let at = next(data.len());
                let token = b"\\\n=[]#;% \r\"'{}$:-@\0\xc3x"[next(21)];
                if next(2) == 0 {
                    data[at] = token
                } else {
                    data.insert(at, token)
                }
            }
            fuzz::fuzz_unit(&data);
        }
    }
}

#[test]
fn a_successor_is_called_as_the_unit_whose_place_it_takes() {
    let unit = UnitName::new("web@1.container").unwrap();
    let next = unit.successor();
    assert_eq!(next.as_str(), "web@1+.container");
    assert_eq!(UnitName::new(next.as_str()).unwrap(), next);
    assert!(next.is_successor() && !unit.is_successor());
    assert_eq!(
        (next.base(), next.successor()),
        (unit.clone(), next.clone())
    );
    let same = (next.stem(), next.instance(), next.prefix(), next.template());
    let of = (unit.stem(), unit.instance(), unit.prefix(), unit.template());
    assert_eq!(same, of);
    assert_eq!(
        UnitName::new("web.container").unwrap().successor().as_str(),
        "web+.container"
    );
    for bad in [
        "web@+.container",
        "we+b.container",
        "web++.container",
        "+.container",
    ] {
        assert!(UnitName::new(bad).is_err(), "{bad}");
    }
    let text = "[Container]\nImage=web:%i\nEnvironment=N=%n\n";
    let load = |name: &UnitName| load(name, text, &[], &SpecifierContext::default()).unwrap();
    assert_eq!(load(&next).kind, load(&unit).kind);
}

#[test]
fn how_a_unit_is_deployed() {
    use coracle_unit::deploy::Strategy;
    let name = UnitName::new("web@.container").unwrap();
    let of = |keys: &str| {
        let text = format!("[Container]\nImage=web\n[X-Deploy]\n{keys}");
        load(&name, &text, &[], &SpecifierContext::default())
    };
    let deploy = of("Strategy=stop-first\nBatch=2\nCanary=1\nScale=5\nDrainSec=1min\n");
    let deploy = deploy.unwrap().deploy;
    assert_eq!(deploy.strategy, Some(Strategy::StopFirst));
    let numbers = (deploy.batch, deploy.canary, deploy.scale);
    assert_eq!(numbers, (2, 1, Some(5)));
    assert_eq!(deploy.drain.duration().unwrap().as_secs(), 60);
    let usual = of("").unwrap().deploy;
    assert_eq!((usual.strategy, usual.batch, usual.scale), (None, 1, None));
    for bad in [
        "Strategy=both",
        "Batch=0",
        "Canary=x",
        "Scale=1001",
        "DrainSec=infinity",
        "Exclusive=yes\nStrategy=start-first",
    ] {
        let problems = of(bad).unwrap_err().to_string();
        let key = bad.rsplit('\n').next().unwrap().split('=').next().unwrap();
        assert!(problems.contains(key), "{bad}: {problems}");
    }
    let section = |key| coracle_unit::section_of(name.kind(), key);
    let known = ["Image", "Scale", "After", "Restart", "MachineID"].map(section);
    let sections = ["Container", "X-Deploy", "Unit", "Service", "X-Fleet"];
    assert_eq!(known, sections.map(Some));
    assert_eq!(section("Nothing"), None);
}
