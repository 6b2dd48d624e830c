//! Unit files as lists of options and back.
#![allow(clippy::unwrap_used)]
use coracle_unit::options::{OptionError, UnitOption, file, options};
use coracle_unit::syntax::UnitFile;
use proptest::prelude::*;

fn option(section: &str, name: &str, value: &str) -> UnitOption {
    UnitOption {
        section: section.into(),
        name: name.into(),
        value: value.into(),
    }
}

fn read(text: &str) -> Vec<UnitOption> {
    options(&UnitFile::parse("t", text).unwrap())
}

#[test]
fn a_file_and_its_options() {
    let text = "# why it is here\n[Unit]\nDescription=Tide table\n\n[Service]\nExecStart=/bin/sh -c \"echo high; \\\n  \
                # a comment within\n  echo low\"\nEnvironment=A=1\n; another\nEnvironment=B=2\nEnvironment=\n[Unit]\nAfter=sea.service\n";
    let expected = [
        option("Unit", "Description", "Tide table"),
        option("Unit", "After", "sea.service"),
        option(
            "Service",
            "ExecStart",
            "/bin/sh -c \"echo high; \\\n  # a comment within\n  echo low\"",
        ),
        option("Service", "Environment", "A=1"),
        option("Service", "Environment", "B=2"),
        option("Service", "Environment", ""),
    ];
    let list = read(text);
    assert_eq!(list, expected);
    let written = file("t", &list).unwrap().to_text();
    assert_eq!(
        written,
        "[Unit]\nDescription=Tide table\nAfter=sea.service\n\n[Service]\nExecStart=/bin/sh -c \"echo high; \\\n  \
         # a comment within\n  echo low\"\nEnvironment=A=1\nEnvironment=B=2\nEnvironment=\n"
    );
    assert_eq!(read(&written), list);
}

/// Nothing gets into a file by way of an option that holds more than one.
#[test]
fn options_that_no_file_can_have() {
    for (list, number) in [
        (vec![option("", "A", "1")], None),
        (vec![option("Service", "", "1")], None),
        (
            vec![option("Service", "A", "1\nExecStart=/bin/rm")],
            Some(1),
        ),
        (vec![option("Service", "A", "1\n[Unit]")], Some(1)),
        (vec![option("Service", "#A", "1")], Some(1)),
        (vec![option("Service", "A=B", "1")], Some(1)),
        (vec![option("Service", "A\nB", "1")], None),
        (vec![option("A]\n[B", "A", "1")], Some(1)),
        (
            vec![option("Service", "A", "1"), option("Unit", "B", "x\n")],
            Some(2),
        ),
        (vec![option("Service", "A", "\0")], None),
    ] {
        match (file("t", &list), number) {
            (Err(OptionError::Unlike { number: found, .. }), Some(number)) => {
                assert_eq!(found, number, "{list:?}");
            }
            (Err(OptionError::Syntax(_)), None) => {}
            (other, _) => panic!("{list:?}: {other:?}"),
        }
    }
    // Blanks that no file keeps are no reason.
    let blanks = [option("Service", "A", " 1 \\\n 2 \t")];
    assert!(file("t", &blanks).is_ok());
    assert_eq!(file("t", &[]).unwrap().to_text(), "");
}

/// Lines of everything that has a meaning to the syntax.
fn line() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "[Unit]",
            "[Service]",
            "[",
            "]",
            "A",
            "B",
            "=",
            "\\",
            " ",
            "\t",
            "#",
            ";",
            "\"",
            "é",
            "\u{feff}",
            "%i",
        ]),
        0..6,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    /// Whatever file is read: its options make a file that has these options, and its text does not change any more.
    #[test]
    fn files_come_back(lines in prop::collection::vec(line(), 0..12)) {
        let (unit, _) = UnitFile::parse_all("t", &lines.join("\n"));
        let list = options(&unit);
        let made = file("t", &list).unwrap();
        prop_assert_eq!(options(&made), list.clone());
        let text = made.to_text();
        prop_assert_eq!(read(&text), list);
        prop_assert_eq!(UnitFile::parse("t", &text).unwrap().to_text(), text);
    }

    /// Whatever list is given is refused, or comes back but for blanks at the ends of lines.
    #[test]
    fn lists_come_back_or_are_refused(list in prop::collection::vec((line(), line(), prop::collection::vec(line(), 1..3)), 0..5)) {
        let list: Vec<_> = list.iter().map(|(s, n, v)| option(s, n, &v.join("\n"))).collect();
        if let Ok(made) = file("t", &list) {
            let found = options(&made);
            prop_assert_eq!(found.len(), list.len());
            for one in &list {
                let bare = |t: &str| t.replace([' ', '\t'], "");
                prop_assert!(
                    found.iter().any(|f| f.section == one.section && f.name == one.name && bare(&f.value) == bare(&one.value)),
                    "{one:?} is not among {found:?}"
                );
            }
        }
    }
}
