//! `coreos.units`.
use super::{good, one_problem, read, shown};
use crate::{CloudUnit, Command};

fn units(body: &str) -> Vec<CloudUnit> {
    good(&format!("coreos:\n  units:\n{body}")).units
}

#[track_caller]
fn wrong(body: &str, place: &str, words: &str) -> Vec<CloudUnit> {
    one_problem(&format!("coreos:\n  units:\n{body}"), place, words).units
}

const WEB: &str = "  - name: web.container\n    content: |\n      [Container]\n      Image=nginx\n";

#[test]
fn a_unit_with_everything() {
    let found = units(&format!(
        "{WEB}    enable: yes\n    runtime: true\n    command: start\n    drop-ins:\n    - name: 20-b.conf\n      content: |\n        [Container]\n        Environment=B=2\n    - name: 10-a.conf\n      content: |\n        [Container]\n        Environment=A=1\n"
    ));
    let web = &found[0];
    assert_eq!(web.name.as_str(), "web.container");
    assert_eq!(web.content.as_deref(), Some("[Container]\nImage=nginx\n"));
    assert!(web.enable && web.runtime && !web.mask);
    assert_eq!(web.command, Some(Command::Start));
    let names: Vec<_> = web.drop_ins.iter().map(|d| &*d.name).collect();
    assert_eq!(names, ["10-a.conf", "20-b.conf"]);
    assert_eq!(web.drop_ins[0].content, "[Container]\nEnvironment=A=1\n");
}

#[test]
fn kinds() {
    let found = units(
        "  - name: data.volume\n    content: \"[Volume]\\n\"\n  - name: net.network\n    content: \"[Network]\\n\"\n  - name: job@.service\n    content: \"[Service]\\nExecStart=/bin/true %i\\n\"\n",
    );
    assert_eq!(found.len(), 3);
    assert!(!found[0].enable && found[0].command.is_none());
}

#[test]
fn names() {
    for (name, words) in [
        ("web", "no known suffix"),
        ("''", "is empty"),
        ("a/b.service", "holds '/'"),
        ("eth0.netdev", "coracle.network.interfaces"),
        ("10-eth0.link", "coracle.network.interfaces"),
        (
            "web+.container",
            "a name that Coracle gives; write web.container",
        ),
    ] {
        let found = wrong(
            &format!("  - name: {name}\n    content: x\n"),
            "line 4: coreos.units[0].name: ",
            words,
        );
        assert_eq!(found, []);
    }
    wrong(
        "  - content: x\n",
        "line 4: coreos.units[0]: ",
        "name is missing",
    );
    let found = wrong(
        &format!("{WEB}{WEB}    enable: true\n"),
        "line 8: coreos.units[1].name: ",
        "on line 4 already",
    );
    assert_eq!((found.len(), found[0].enable), (1, false));
}

#[test]
fn lines_of_the_text_are_lines_of_the_document() {
    let found = wrong(
        "  - name: web.container\n    content: |\n      [Container]\n      # fine\n      Imag=nginx\n      Image=nginx\n",
        "line 8: coreos.units[0].content: [Container] Imag: ",
        "did you mean Image?",
    );
    assert_eq!(found, []);
    // Empty lines before the text are lines of it.
    wrong(
        "  - name: web.container\n    content: |2-\n\n\n        [Container]\n        Image=nginx\n        Foo=1\n",
        "line 10: coreos.units[0].content: ",
        "Foo",
    );
    let parsed = read(
        "coreos:\n  units:\n  - name: web.container\n    content: |\n      Image=nginx\n      [Container]\n      Image=nginx\n      Bar=1\n",
    );
    let places: Vec<_> = parsed.problems.iter().map(|p| (p.line, p.column)).collect();
    assert_eq!(places, [(6, 7), (9, 7)], "{:?}", shown(&parsed));
}

#[test]
fn lines_of_a_text_that_is_not_literal() {
    wrong(
        "  - name: web.container\n    content: \"[Container]\\nImage=a\\nFoo=1\\n\"\n",
        "line 5: coreos.units[0].content: ",
        "(line 3 of the text)",
    );
    wrong(
        "  - name: web.container\n    content: !!str |\n      [Container]\n      Image=a\n      Foo=1\n",
        "line 5: coreos.units[0].content: ",
        "(line 3 of the text)",
    );
}

#[test]
fn problems_of_the_unit_as_a_whole() {
    wrong(
        "  - name: web.container\n    content: |\n      [Container]\n",
        "line 6: coreos.units[0].content: ",
        "Image: is missing",
    );
    wrong(
        "  - name: web.container\n    content: ''\n",
        "line 5: coreos.units[0].content: ",
        "Image: is missing",
    );
}

#[test]
fn drop_ins() {
    let body = format!(
        "{WEB}    drop_ins:\n    - name: 10-a.conf\n      content: |\n        [Container]\n        Foo=1\n"
    );
    assert_eq!(
        wrong(
            &body,
            "line 12: coreos.units[0].drop_ins[0].content: ",
            "Foo"
        ),
        []
    );
    for (item, place, words) in [
        (
            "{name: a, content: ''}",
            "line 9: coreos.units[0].drop_ins[0].name: ",
            "is no name of a drop-in",
        ),
        (
            "{name: ../a.conf, content: ''}",
            "line 9: coreos.units[0].drop_ins[0].name: ",
            "is no name",
        ),
        (
            "{name: a.conf}",
            "line 9: coreos.units[0].drop_ins[0]: ",
            "content is missing",
        ),
        (
            "{content: ''}",
            "line 9: coreos.units[0].drop_ins[0]: ",
            "name is missing",
        ),
        (
            "x",
            "line 9: coreos.units[0].drop_ins[0]: ",
            "has to be a mapping",
        ),
        (
            "{name: a.conf, content: ''}\n    - {name: a.conf, content: ''}",
            "line 10: coreos.units[0].drop_ins[1].name: ",
            "two drop-ins",
        ),
    ] {
        assert_eq!(
            wrong(&format!("{WEB}    drop_ins:\n    - {item}\n"), place, words),
            []
        );
    }
    assert_eq!(
        wrong(
            &format!("{WEB}    drop_ins: x\n"),
            "line 8: coreos.units[0].drop_ins: ",
            "has to be a list"
        ),
        []
    );
    let alone = "  - name: web.container\n    drop_ins:\n    - name: a.conf\n      content: \"[Container]\\n\"\n";
    assert_eq!(
        wrong(
            alone,
            "line 6: coreos.units[0].drop_ins: ",
            "has no content here"
        ),
        []
    );
}

#[test]
fn commands() {
    for (text, command) in [
        ("start", Command::Start),
        ("restart", Command::Start),
        ("stop", Command::Stop),
    ] {
        assert_eq!(
            units(&format!("{WEB}    command: {text}\n"))[0].command,
            Some(command)
        );
    }
    for text in [
        "reload",
        "try-restart",
        "reload-or-restart",
        "reload-or-try-restart",
    ] {
        let found = wrong(
            &format!("{WEB}    command: {text}\n"),
            "line 8: coreos.units[0].command: ",
            "at boot none does",
        );
        assert_eq!((found.len(), found[0].command), (1, None));
    }
    wrong(
        &format!("{WEB}    command: enable\n"),
        "line 8: coreos.units[0].command: ",
        "is no command",
    );
    wrong(
        &format!("{WEB}    enable: maybe\n"),
        "line 8: coreos.units[0].enable: ",
        "neither true nor false",
    );
}

#[test]
fn masks() {
    let found = units("  - name: web.container\n    mask: true\n");
    assert!(found[0].mask && found[0].content.is_none());
    let found = wrong(
        "  - name: web.container\n    mask: true\n    command: start\n    enable: true\n",
        "line 5: coreos.units[0].mask: ",
        "does not run",
    );
    assert_eq!(
        (found[0].mask, found[0].enable, found[0].command),
        (true, false, None)
    );
}

#[test]
fn units_of_coreos() {
    for (name, words) in [
        ("etcd2.service", "coracle.join"),
        ("etcd-member.service", "coracle.join"),
        ("fleet.service", "coracle.labels"),
        ("fleet.socket", "coracle.labels"),
        ("flanneld.service", "coracle.network"),
        ("docker.service", "coracle.registries"),
        ("locksmithd.service", "coreos.update.reboot_strategy"),
        ("update-engine.service", "coreos.update.server"),
        ("sshd@22.service", "ssh_authorized_keys"),
        ("systemd-networkd.service", "coracle.network"),
        ("systemd-timesyncd.service", "there is no systemd here"),
        ("other.service", "the machine has no unit of that name"),
    ] {
        for rest in ["command: start", "enable: true"] {
            assert_eq!(
                wrong(
                    &format!("  - name: {name}\n    {rest}\n"),
                    "line 4: coreos.units[0].name: ",
                    words
                ),
                []
            );
        }
    }
    wrong(
        "  - name: locksmithd.service\n    mask: true\n",
        "line 4: coreos.units[0].name: ",
        "reboot_strategy",
    );
    wrong(
        "  - name: docker.service\n    drop-ins: [{name: a.conf, content: '[Service]'}]\n",
        "line 4: coreos.units[0].name: ",
        "coracle.registries",
    );
    let own = units(
        "  - name: docker.service\n    content: |\n      [Service]\n      ExecStart=/bin/true\n",
    );
    assert_eq!(own.len(), 1);
}

#[test]
fn files_of_networkd() {
    wrong(
        "  - name: 00-eth0.network\n    content: |\n      [Match]\n      Name=eth0\n",
        "line 6: coreos.units[0].content: ",
        "coracle.network.interfaces",
    );
}

#[test]
fn a_wrong_unit_leaves_the_others() {
    let body = format!(
        "{WEB}  - name: b.container\n    content: |\n      [Container]\n  - name: c.volume\n    content: |\n      [Volume]\n"
    );
    let found = wrong(&body, "line 10: coreos.units[1].content: ", "Image");
    let names: Vec<_> = found.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["web.container", "c.volume"]);
}

#[test]
fn specifiers_of_the_machine_are_known() {
    units(
        "  - name: web.container\n    content: |\n      [Container]\n      Image=nginx\n      HostName=%H\n",
    );
    wrong(
        "  - name: web.container\n    content: |\n      [Container]\n      Image=nginx\n      HostName=%!\n",
        "line 8: coreos.units[0].content: ",
        "specifier",
    );
}
