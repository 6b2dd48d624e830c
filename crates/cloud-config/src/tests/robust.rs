//! Whatever is written, [`crate::parse`] says something.
use super::whole::DOCUMENT;
use crate::{parse, render_settings, substitute};
use proptest::prelude::*;

fn read(text: &str) {
    let parsed = parse(text);
    for problem in &parsed.problems {
        assert!(problem.line > 0 && problem.column > 0 && !problem.message.is_empty());
    }
    let lines: Vec<_> = parsed.problems.iter().map(|p| p.line).collect();
    assert!(lines.is_sorted());
    render_settings(&parsed.config);
}

/// Words of which YAML is made.
const WORDS: [&str; 24] = [
    "- ",
    "? ",
    ": ",
    "\n",
    "\n  ",
    "\n- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "|\n",
    ">-\n ",
    "'",
    "\"",
    "&a ",
    "*a",
    "!!binary ",
    "# x",
    "\t",
    "---\n",
    "coreos:",
    "units:",
    "\u{feff}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn arbitrary_text(text in "(?s).{0,200}", addresses in any::<bool>()) {
        read(&text);
        read(&format!("#cloud-config\n{text}"));
        let address = addresses.then(|| [10, 0, 0, 2].into());
        let _ = substitute(&text, address, None);
    }

    #[test]
    fn words_of_yaml(picks in prop::collection::vec(0..WORDS.len(), 0..40)) {
        let text: String = picks.into_iter().map(|n| WORDS[n]).collect();
        read(&format!("#cloud-config\n{text}"));
    }

    #[test]
    fn a_document_with_something_else_in_it(
        from in any::<prop::sample::Index>(),
        length in 0usize..60,
        text in "(?s).{0,8}",
        word in 0..WORDS.len(),
    ) {
        let mut chars: Vec<char> = DOCUMENT.chars().collect();
        let from = from.index(chars.len());
        let to = (from + length).min(chars.len());
        chars.splice(from..to, text.chars().chain(WORDS[word].chars()));
        read(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn a_document_cut_off(to in any::<prop::sample::Index>()) {
        read(&DOCUMENT[..to.index(DOCUMENT.len())]);
    }
}
