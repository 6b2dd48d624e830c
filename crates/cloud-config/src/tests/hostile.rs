//! Documents that mean harm.
use super::{one_problem, read, shown};
use crate::{CloudConfig, DOCUMENT_MAX, parse};

#[test]
fn too_large() {
    let head = "#cloud-config\nhostname: a\n#";
    let fits = format!("{head}{}", "x".repeat(DOCUMENT_MAX - head.len()));
    assert_eq!(parse(&fits).config.hostname.as_deref(), Some("a"));
    let parsed = parse(&format!("{fits}x"));
    assert_eq!(parsed.config, CloudConfig::default());
    assert!(shown(&parsed)[0].starts_with("line 1: the document is larger than 1024 KiB"));
}

#[test]
fn too_deep() {
    let most = format!(
        "ssh_authorized_keys: {}{}\n",
        "[".repeat(31),
        "]".repeat(31)
    );
    one_problem(&most, "line 2: ssh_authorized_keys[0]: ", "has to be text");
    for deep in [
        format!("write_files: {}{}", "[".repeat(32), "]".repeat(32)),
        format!("write_files: {}", "[".repeat(100_000)),
        format!("write_files: {}", "{a: ".repeat(100_000)),
        format!("write_files:\n{}a", "- ".repeat(100_000)),
        format!("write_files:\n{}a", "? ".repeat(100_000)),
        format!(
            "write_files:\n{}",
            (1..1000)
                .map(|n| format!("{}a:\n", " ".repeat(n)))
                .collect::<String>()
        ),
    ] {
        let parsed = read(&format!("hostname: a\n{deep}\n"));
        assert_eq!(
            parsed.config.hostname.as_deref(),
            Some("a"),
            "{:?}",
            shown(&parsed)
        );
        assert!(
            parsed
                .problems
                .iter()
                .any(|p| p.message.contains("more than 32")),
            "{:?}",
            shown(&parsed)
        );
    }
}

#[test]
fn aliases_are_not_followed() {
    let parsed = read(
        "write_files: [{path: &p /etc/a, content: &c x}, {path: /etc/b, content: *c}]\nssh_authorized_keys: *p\ncoracle: *c\n",
    );
    let shown = shown(&parsed);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(
        shown
            .iter()
            .all(|line| line.contains("aliases (*name) are not followed"))
    );
    assert_eq!(parsed.config.write_files.len(), 1);
    let laughs: String = (1..30)
        .map(|n| {
            format!(
                "  l{n}: &l{n} [{}]\n",
                vec![format!("*l{}", n - 1); 9].join(",")
            )
        })
        .collect();
    let parsed = read(&format!(
        "hostname: a\ncoracle:\n  labels:\n  l0: &l0 ha\n{laughs}"
    ));
    assert_eq!(parsed.config.hostname.as_deref(), Some("a"));
}

#[test]
fn many_problems() {
    let keys: String = (0..2000).map(|n| format!("zz{n}: 1\n")).collect();
    let parsed = read(&format!("{keys}hostname: a\n"));
    assert_eq!(parsed.problems.len(), 1001);
    assert!(shown(&parsed)[1000].contains("1000 further problems"));
    assert_eq!(parsed.config.hostname.as_deref(), Some("a"));
}

#[test]
fn what_was_written_is_shown_short_and_plain() {
    let (long, key) = ("x".repeat(100_000), "x".repeat(1000));
    let mut parsed = read(&format!(
        "hostname: \"\\e[31m{long}\"\n\"{key}\\e[31m\": 1\ncoreos: {{update: {{group: \"\\e{long}\"}}}}\n"
    ));
    let unit = "coreos: {units: [{name: a.volume, content: \"[Volume]\\n\\e[31m=1\\n\"}]}\n";
    parsed.problems.extend(read(unit).problems);
    assert_eq!(parsed.problems.len(), 4);
    for line in shown(&parsed) {
        assert!(line.len() < 400 && !line.contains('\u{1b}'), "{line}");
    }
}

/// Each ends, in time that grows with the document and not with its square.
#[test]
fn long_documents() {
    let fill = |unit: &str| unit.repeat((DOCUMENT_MAX - 256) / unit.len());
    let count = |unit: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        let mut n = 0;
        while text.len() < DOCUMENT_MAX - 256 {
            text.push_str(&unit(n));
            n += 1;
        }
        text
    };
    for body in [
        fill("a: 1\n"),
        fill("a: [\n"),
        format!(
            "coracle: {{labels: {{{}}}}}",
            count(&|n| format!("a{n}: b, "))
        ),
        format!(
            "coracle: {{registries: [{}]}}",
            count(&|n| format!("{{host: a{n}}}, "))
        ),
        format!("write_files: [{}]", fill("{},")),
        format!(
            "write_files: [{}]",
            count(&|n| format!("{{path: /etc/{n}}},"))
        ),
        format!("ssh_authorized_keys:\n{}", fill("- a\n")),
        format!("coreos: {{units: [{}]}}", fill("{name: a.service},")),
        format!(
            "coreos:\n  units:\n  - name: a.volume\n    content: '[Volume]'\n    drop_ins: [{}]",
            count(&|n| format!("{{name: a{n}.conf, content: a}},"))
        ),
        format!(
            "coreos:\n  units:\n  - name: a.container\n    content: |\n      [Container]\n{}",
            "      a=\n".repeat(2000)
        ),
        format!("hostname: \"{}", fill("\\x41")),
        format!("hostname: '{}", fill("'' ")),
        format!("hostname: |\n{}", fill(" a\n\n")),
        fill("\"a"),
        fill("- "),
        fill("? "),
        fill("!!a "),
        fill("&a "),
        fill("#\n"),
        fill("---\n"),
        fill("%TAG ! a\n"),
    ] {
        assert!(read(&body).problems.len() <= 1001);
    }
}
