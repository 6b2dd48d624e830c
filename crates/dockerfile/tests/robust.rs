//! Whatever the text, it is read or refused, and never in more steps than its length asks for.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use coracle_dockerfile::*;

/// Everything that reads a text.
fn all(text: &str) {
    for escape in ['\\', '`'] {
        let _ = parse_onbuild(text, escape);
        let _ = expand(text, escape, &|n| (n.len() > 1).then(|| n.to_owned()));
        let _ = expand_words(text, escape, &|n| Some(format!("{n} {n}")));
        let _ = expand_raw(text, escape, &|_| None);
        let _ = names_used(text, escape);
    }
    let _ = sexpr(text);
    if let Ok(file) = parse(text) {
        for stage in &file.stages {
            for instruction in &stage.instructions {
                assert!(stage.line < instruction.line, "{text:?}");
                assert!(instruction.line <= instruction.end_line, "{text:?}");
            }
        }
    }
    let _ = Mount::parse(text);
    let _ = (
        is_glob(text),
        matches(text, "a/b"),
        matches("*[a-z]?", text),
    );
    if let Ok(ignore) = Ignore::new(&Ignore::read(text)) {
        let _ = (ignore.excludes("a/b/FROM"), ignore.has_exceptions());
        let _ = (ignore.excludes(text), ignore.may_hold_exceptions(text));
    }
}

fn random() -> impl FnMut(usize) -> usize {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    }
}

fn samples() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for folder in ["testfiles", "testfiles-negative"] {
        texts.extend(dockerfiles(folder).into_iter().map(|(_, t)| t));
    }
    texts.push(read(&format!("{PARSER}/testfile-line/Dockerfile")));
    texts.push("# escape=`\nFROM x AS a\nRUN --mount=type=bind,from=a <<EOF <<-\"B\" $((1 << 2))\n\tx\nEOF\n\tB\nCOPY <<E << 'f g' /x\n$a ${b:-c}\nE\nf g\nONBUILD COPY --from=x <<Q /\nQ\nHEALTHCHECK --interval=5s --retries=3 CMD [\"é\"]\nENV a=\"ü` \" b\\=c\n".to_owned());
    assert!(texts.len() >= 39);
    texts
}

#[test]
fn parts_of_files() {
    for text in samples() {
        // Ends and beginnings everywhere, but for the longest files.
        let step = 1 + text.len() / 600;
        for (at, _) in text.char_indices().step_by(step) {
            let _ = parse(&text[..at]);
            let _ = sexpr(&text[at..]);
        }
        all(&text);
    }
}

#[test]
fn files_with_something_changed() {
    let texts = samples();
    let mut next = random();
    let tokens = [
        "\\", "\n", "<<E", "\"", "'", "$", "${", "}", "[", "]", "--", "=", "#", "`", "\r", "\t",
        "é", "\u{feff}", "\0", "\u{85}", "ONBUILD ", "FROM ", "!", "**", ":", "/", "\u{a0}",
    ];
    for _ in 0..400 {
        let mut text = texts[next(texts.len())].clone();
        text.truncate(
            (0..=text.len().min(700))
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap(),
        );
        for _ in 0..=next(6) {
            let at = next(text.len() + 1);
            let at = (0..=at)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap();
            text.insert_str(at, tokens[next(tokens.len())]);
        }
        all(&text);
    }
}

#[test]
fn random_bytes() {
    let mut next = random();
    let alphabet = b"FROMRUN COPYADENV<<-'\"\\`$({[]})!*?#=/:,\n\n\t\r\xc3\xa9\xff\0|&;%+";
    for round in 0..3000 {
        let length = next(80);
        let bytes: Vec<u8> = (0..length)
            .map(|_| match round % 2 {
                0 => alphabet[next(alphabet.len())],
                _ => next(256) as u8,
            })
            .collect();
        let text = String::from_utf8_lossy(&bytes);
        all(&text);
        for start in ["RUN ", "COPY ", "ENV ", "HEALTHCHECK ", "ONBUILD ADD "] {
            let _ = parse(&format!("FROM x\n{start}{text}"));
        }
    }
}

/// Two megabytes each. A reader that goes over what it has read once more for each piece is not done today.
#[test]
fn long_texts() {
    const SIZE: usize = 2 << 20;
    let fill = |piece: &str| piece.repeat(SIZE / piece.len());
    let after =
        |start: &str, piece: &str, end: &str| format!("FROM x\n{start}{}{end}", fill(piece));
    let read = |text: String| parse(&text).map(|f| f.stages.len());
    // Lines, and what goes over many of them.
    assert_eq!(read(after("RUN a ", "\\\n  b ", "")), Ok(1));
    assert_eq!(read(after("RUN a \\\n", "\n", "")), Ok(1));
    assert_eq!(read(after("RUN a \\\n", "# c\n", "")), Ok(1));
    assert_eq!(read(after("", "CMD a\n", "")), Ok(1));
    assert_eq!(read(after("", "ENV a b\n", "")), Ok(1));
    assert_eq!(read(fill("FROM x AS a\n")), Ok(SIZE / 12));
    assert_eq!(read(after("RUN <<E\n", "E \n", "E\n")), Ok(1));
    // As many ends as there are beginnings.
    assert_eq!(read(after("RUN", " <<E", &"\nE".repeat(SIZE / 4))), Ok(1));
    assert_eq!(
        read(after(
            "ONBUILD COPY",
            " <<E",
            &format!(" /{}", "\nE".repeat(SIZE / 4))
        )),
        Ok(1)
    );
    assert!(read(after("RUN", " <<E", "")).is_err());
    // One line.
    assert_eq!(read(after("RUN ", "a\"b\" ", "")), Ok(1));
    assert_eq!(read(after("RUN <<E ", "'", "\nE")), Ok(1));
    assert_eq!(read(after("RUN ", "$(( << ", "")), Ok(1));
    assert_eq!(read(after("RUN", " --device=a", " b")), Ok(1));
    assert_eq!(read(after("COPY", " --exclude=a", " b c")), Ok(1));
    assert_eq!(read(after("COPY", " <<'a", " /b\n")), Ok(1));
    assert_eq!(read(after("ENV", " a=\"b c\"", "")), Ok(1));
    assert_eq!(read(after("ARG", " a", "")), Ok(1));
    assert_eq!(read(after("CMD [\"\"", ",\"a\"", "]")), Ok(1));
    assert_eq!(read(after("CMD ", "[", "")), Ok(1));
    assert!(read(after("", "ONBUILD ", "")).is_err());
    assert!(read(after("", "a", "")).is_err());
    assert!(read(fill("#")).is_err());
    // Words.
    let none = |_: &str| None;
    for text in [
        fill("${a:-"),
        fill("\""),
        fill("$"),
        fill("\\"),
        fill("$a "),
        fill("${a}'b' "),
    ] {
        let _ = expand(&text, '\\', &none);
        let _ = expand_words(&text, '\\', &none);
        let _ = names_used(&text, '\\');
    }
    let long = fill("ab");
    let value = |_: &str| Some(long.clone());
    for (word, length) in [
        ("${a##*b}", 0),
        ("${a%a*}", SIZE - 2),
        ("${a//a/}", SIZE / 2),
        ("${a//ba/}", 2),
        ("${a/b*c/}", SIZE),
    ] {
        assert_eq!(expand(word, '\\', &value).unwrap().len(), length, "{word}");
    }
    // Patterns and paths.
    for (pattern, path) in [
        (fill("a/"), "a".to_owned()),
        (fill("*"), "a".to_owned()),
        (fill("[a]"), "a".to_owned()),
        ("a/*/c".to_owned(), fill("a/")),
        ("**/c".to_owned(), fill("a/")),
        ("!**/c/**".to_owned(), fill("a/")),
        (fill("a\n"), "a".to_owned()),
    ] {
        let ignore = Ignore::new(&Ignore::read(&pattern)).unwrap();
        let _ = (ignore.excludes(&path), ignore.may_hold_exceptions(&path));
        let _ = matches(&pattern, &path);
    }
    let _ = Mount::parse(&fill("a,"));
    let _ = Mount::parse(&format!("type=cache,target=\"{}\"", fill("\"\"")));
}
