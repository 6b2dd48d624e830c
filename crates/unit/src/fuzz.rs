//! Entry for fuzzing: arbitrary bytes must be read or refused, never panic, and rewrite stably.
use crate::{SpecifierContext, UnitName, load, name, syntax::UnitFile, value, words};

/// Reads `data` as every kind of unit and checks that writing and reading again changes nothing.
#[doc(hidden)]
pub fn fuzz_unit(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, _) = UnitFile::parse_all("fuzz", &text);
    let (again, errors) = UnitFile::parse_all("fuzz", &file.to_text());
    assert!(errors.is_empty(), "rewritten text is refused: {errors:?}");
    assert_eq!(file, again, "rewriting changed the file");
    let ctx = SpecifierContext::default();
    for unit in ["a.container", "a@1.service", "a.volume", "a@.network"] {
        if let Ok(name) = UnitName::new(unit) {
            let _ = load(&name, &text, &[], &ctx);
        }
    }
    let _ = (
        words::split_words(&text),
        value::parse_time_span(&text),
        value::parse_bytes(&text),
    );
    let _ = (
        name::expand_ranges(&text),
        UnitName::new(&text),
        words::unescape_name(&text),
    );
}
