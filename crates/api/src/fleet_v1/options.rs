//! A unit's text as a list of options, and the list's hash.

use coracle_fleet::UnitText;
use coracle_unit::options::{self, UnitOption};
use coracle_unit::syntax::{UnitFile, merge};
use sha1::{Digest, Sha1};
use std::fmt::Write as _;

/// The options of a text and its drop-ins, in the order in which they apply.
pub fn options(name: &str, text: &UnitText) -> Vec<UnitOption> {
    let dropins = text.dropins.iter();
    let dropins: Vec<UnitFile> = dropins
        .map(|d| UnitFile::parse_all(&d.file, &d.text).0)
        .collect();
    let file = UnitFile::parse_all(name, &text.text).0;
    options::options(&merge(&file, &dropins))
}

/// What fleet calls the hash of a unit: SHA-1 of the text that the options make, as 40 hexadecimal digits.
pub fn hash(options: &[UnitOption]) -> String {
    let entries = options
        .iter()
        .map(|o| (o.section.as_str(), o.name.as_str(), o.value.as_str()));
    let text = UnitFile::from_entries("", entries).to_text();
    let digest = Sha1::digest(text.as_bytes());
    digest.iter().fold(String::new(), |mut all, byte| {
        // Writing to a string cannot fail.
        let _ = write!(all, "{byte:02x}");
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_fleet::Dropin;

    fn text(text: &str, dropins: &[&str]) -> UnitText {
        let dropin = |text: &&str| Dropin {
            file: "10.conf".into(),
            text: (*text).to_owned(),
        };
        UnitText {
            text: text.to_owned(),
            dropins: dropins.iter().map(dropin).collect(),
        }
    }

    /// As `sha1sum` has it of the text that fleet would have written.
    #[test]
    fn the_hash_is_that_of_the_plain_text() {
        let plain = text("[Service]\nExecStart=/bin/true\n", &[]);
        let found = hash(&options("a.service", &plain));
        assert_eq!(found, "86943ac9f3754cb90f8dd38bf6da7b0cad074592");
        let commented = text("# a comment\n[Service]\n\nExecStart = /bin/true", &[]);
        assert_eq!(hash(&options("a.service", &commented)), found);
        let other = text("[Service]\nExecStart=/bin/false\n", &[]);
        assert_ne!(hash(&options("a.service", &other)), found);
    }

    #[test]
    fn dropins_are_among_the_options() {
        let both = text(
            "[Unit]\nDescription=a\n[Service]\nExecStart=/bin/true\n",
            &["[Service]\nRestart=always\n[Unit]\nAfter=b.service\n"],
        );
        let found = options("a.service", &both);
        let names: Vec<&str> = found.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["Description", "After", "ExecStart", "Restart"]);
    }
}
