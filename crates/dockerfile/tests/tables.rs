//! BuildKit's reference tables, but for words and patterns, which are in `words.rs` and `patterns.rs`.
#![allow(clippy::unwrap_used)]

mod common;
use common::*;
use coracle_dockerfile::*;
use serde_json::{Value, json};

/// The only instruction of a stage.
fn only(text: &str) -> Result<Kind, DockerfileError> {
    parse(&format!("FROM x\n{text}\n")).map(|f| f.stages[0].instructions[0].kind.clone())
}

fn wrong(text: &str) -> String {
    only(text).unwrap_err().to_string()
}

#[test]
fn dockerfiles_and_their_nodes() {
    let all = dockerfiles("testfiles");
    assert!(all.len() >= 33, "{}", all.len());
    for (dir, text) in all {
        let wanted = std::fs::read_to_string(dir.join("result")).unwrap();
        assert_eq!(
            format!("{}\n", sexpr(&text).unwrap()),
            wanted,
            "{}",
            dir.display()
        );
    }
}

#[test]
fn dockerfiles_that_are_none() {
    let all = dockerfiles("testfiles-negative");
    assert!(all.len() >= 4, "{}", all.len());
    for (dir, text) in all {
        // Taking it apart must fail already, not only what it means.
        assert!(sexpr(&text).is_err(), "{}", dir.display());
        assert!(parse(&text).is_err(), "{}", dir.display());
    }
}

#[test]
fn lines_are_counted() {
    let text = read(&format!("{PARSER}/testfile-line/Dockerfile"));
    let path = format!("{BUILDKIT}/parser_test.json");
    let wanted = rows(&path, "TestParseIncludesLineNumbers", "expected", 3);
    assert_eq!(json!(probe::lines(&text).unwrap()), json!(wanted));
    let file = parse(&text).unwrap();
    let found = file.stages[0].instructions.iter();
    let found: Vec<Value> = found.map(|i| json!([i.line, i.end_line])).collect();
    assert_eq!(file.stages[0].line, wanted[0][0].as_u64().unwrap() as usize);
    assert_eq!(found, wanted[1..]);
}

#[test]
fn words_of_a_line() {
    let path = format!("{BUILDKIT}/parser_test.json");
    for row in rows(&path, "TestParseWords", "tests", 8) {
        let found = probe::words(row["input"][0].as_str().unwrap());
        assert_eq!(found, strings(&row["expect"]), "{row}");
    }
}

#[test]
fn words_that_begin_documents() {
    let path = format!("{BUILDKIT}/parser_heredoc_test.json");
    let words = |name, least| rows(&path, "TestParseHeredocHelpers", name, least);
    for word in words("validHeredocs", 9) {
        let found = probe::heredoc_of_word(word.as_str().unwrap()).unwrap();
        assert_eq!(found.unwrap().name, "EOF", "{word}");
    }
    for word in words("invalidHeredocs", 4) {
        let found = probe::heredoc_of_word(word.as_str().unwrap());
        assert!(found.is_err(), "{word}");
    }
    for word in words("notHeredocs", 7) {
        let found = probe::heredoc_of_word(word.as_str().unwrap());
        assert_eq!(found, Ok(None), "{word}");
    }
    for row in rows(&path, "TestHeredocsFromLine", "srcs", 10) {
        let found = probe::heredocs_of_line(s(&row, "line")).unwrap();
        let found: Vec<String> = found.into_iter().map(|h| h.name).collect();
        let wanted = row["heredocNames"].as_array().cloned().unwrap_or_default();
        assert_eq!(json!(found), json!(wanted), "{row}");
    }
}

/// The lines that begin what the table has; their bodies are the table's own.
const OPENERS: [&str; 27] = [
    "ENV NAME=me",
    "RUN ls",
    "USER <<INVALID",
    "INVALID",
    "RUN <<EMPTY",
    "RUN 3<<EMPTY2",
    "RUN \"<<NOHEREDOC\"",
    "RUN <<INDENT",
    "RUN <<-UNINDENT",
    "RUN <<- UNINDENT2",
    "RUN <<-EXPAND",
    "RUN <<-'NOEXPAND'",
    "RUN <<COPY",
    "RUN sh <<COMMENT",
    "RUN --mount=type=cache,target=/c <<MOUNT",
    "COPY <<FILE1 <<FILE2 /dest",
    "COPY <<EOF /quotes",
    "ADD <<X <<Y /dest",
    "RUN <<COMPLEX python3",
    "COPY <<file.txt /dest",
    "RUN <<eo'f'",
    "RUN <<eo\\'f",
    "RUN <<'e'o\\'f",
    "RUN <<'one two'",
    "RUN <<$EOF",
    "RUN <<  EOF",
    "ONBUILD RUN <<  EOF  > foo",
];

#[test]
fn documents_of_a_file() {
    let path = format!("{BUILDKIT}/parser_heredoc_test.json");
    let wanted = rows(&path, "TestParseExtractsHeredoc", "tests", 27);
    assert_eq!(wanted.len(), OPENERS.len());
    let none = Vec::new();
    let documents = |row: &Value| row.as_array().unwrap_or(&none).clone();
    let mut text = String::from("FROM x\n");
    for (opener, row) in OPENERS.iter().zip(&wanted) {
        text.push_str(&format!("{opener}\n"));
        for (n, document) in documents(row).iter().enumerate() {
            let tab = if document["Chomp"] == true && n == 0 {
                "\t"
            } else {
                ""
            };
            text.push_str(&format!(
                "{}{tab}{}\n",
                s(document, "Content"),
                s(document, "Name")
            ));
        }
        // What follows is no part of it.
        text.push('\n');
    }
    let mut found = probe::heredocs(&text).unwrap();
    assert_eq!(found.remove(0), []);
    assert_eq!(found.len(), wanted.len());
    for (n, (found, row)) in found.iter().zip(&wanted).enumerate() {
        // Those of ONBUILD are its instruction's.
        if OPENERS[n].starts_with("ONBUILD") {
            let name = s(&row[0], "Name");
            let file = format!("FROM x\n{}\n{name}\n", OPENERS[n]);
            let kind = parse(&file).unwrap().stages[0].instructions[0].kind.clone();
            let Kind::OnBuild(trigger) = kind else {
                panic!("{kind:?}")
            };
            let read = parse_onbuild(&trigger, '\\').unwrap();
            assert!(matches!(read.kind, Kind::Run(run) if run.heredocs[0].name == name));
            continue;
        }
        let as_go = |h: &Heredoc| json!([h.name, h.content, h.expand, h.chomp]);
        let found: Vec<Value> = found.iter().map(as_go).collect();
        let row: Vec<Value> = documents(row)
            .iter()
            .map(|d| json!([d["Name"], d["Content"], d["Expand"], d["Chomp"] == true]))
            .collect();
        assert_eq!(found, row, "{}", OPENERS[n]);
    }
}

#[test]
fn documents_of_instructions() {
    let path = format!("{BUILDKIT}/parse_heredoc_test.json");
    for row in rows(&path, "TestCopyHeredoc", "cases", 8) {
        let Kind::Copy(copy) = only(s(&row, "dockerfile")).unwrap() else {
            panic!("{row}")
        };
        let wanted = &row["sourcesAndDest"];
        let list = |key: &str| wanted[key].as_array().cloned().unwrap_or_default();
        let inline = copy.inline.iter();
        let inline: Vec<Value> = inline
            .map(|h| json!({ "Path": h.name, "Data": h.content, "Expand": h.expand }))
            .collect();
        assert_eq!(inline, list("SourceContents"), "{row}");
        assert_eq!(json!(copy.sources), json!(list("SourcePaths")), "{row}");
        assert_eq!(copy.destination, s(wanted, "DestPath"), "{row}");
    }
    for row in rows(&path, "TestRunHeredoc", "cases", 6) {
        let Kind::Run(run) = only(s(&row, "dockerfile")).unwrap() else {
            panic!("{row}")
        };
        let wanted = strings(&row["command"]);
        let wanted = match row["shell"] == true {
            true => Command::Shell(wanted[0].clone()),
            false => Command::Exec(wanted),
        };
        assert_eq!(run.command, wanted, "{row}");
        let files = run.heredocs.iter();
        let files: Vec<Value> = files.map(|h| json!([h.name, h.content, h.chomp])).collect();
        let wanted = row["files"].as_array().cloned().unwrap_or_default();
        let wanted: Vec<Value> = wanted
            .iter()
            .map(|f| json!([f["Name"], f["Data"], f["Chomp"] == true]))
            .collect();
        assert_eq!(files, wanted, "{row}");
    }
    for row in rows(&path, "TestErrorCasesHeredoc", "cases", 1) {
        let said = wrong(s(&row, "dockerfile"));
        assert!(said.contains(s(&row, "expectedError")), "{row}: {said}");
    }
}

#[test]
fn instructions_that_are_wrong() {
    let path = format!("{BUILDKIT}/parse_test.json");
    for row in rows(&path, "TestErrorCases", "cases", 6) {
        let said = wrong(s(&row, "dockerfile"));
        assert!(said.contains(s(&row, "expectedError")), "{row}: {said}");
    }
    for (func, least, after, words) in [
        (
            "TestCommandsExactlyOneArgument",
            4,
            "",
            "requires exactly one argument",
        ),
        (
            "TestCommandsAtLeastOneArgument",
            6,
            "",
            "requires at least one argument",
        ),
        (
            "TestCommandsNoDestinationArgument",
            2,
            " arg1",
            "requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "TestCommandsBlankNames",
            2,
            " =arg2",
            "names can not be blank",
        ),
    ] {
        for word in rows(&path, func, "commands", least) {
            let word = word.as_str().unwrap();
            let said = wrong(&format!("{word}{after}"));
            assert!(said.contains(&format!("{word} {words}")), "{said}");
        }
    }
}

#[test]
fn instructions_that_are_right() {
    let path = format!("{BUILDKIT}/parse_test.json");
    let [test] = &tables(&path, "TestHealthCheckCmd", "expected")[..] else {
        panic!("more than one")
    };
    let Kind::Healthcheck(Healthcheck::Check { test: found, .. }) =
        only("HEALTHCHECK CMD hello world").unwrap()
    else {
        panic!("no check")
    };
    assert_eq!(found, strings(test));
    for name in rows(&path, "BenchmarkParseBuildStageName", "stageNames", 3) {
        let name = name.as_str().unwrap();
        let file = parse(&format!("FROM foo as {name}")).unwrap();
        assert_eq!(file.stages[0].name, Some(name.to_lowercase()));
    }
}

#[test]
fn lists_of_strings() {
    let path = format!("{BUILDKIT}/json_test.json");
    let valid = tables(&path, "", "validJSONArraysOfStrings").remove(0);
    let valid = valid.as_object().unwrap();
    assert!(valid.len() >= 8);
    for (text, wanted) in valid {
        let wanted = Kind::Cmd(Command::Exec(strings(wanted)));
        assert_eq!(only(&format!("CMD {text}")), Ok(wanted), "{text}");
    }
    for text in rows(&path, "", "invalidJSONArraysOfStrings", 8) {
        let said = wrong(&format!("CMD {}", text.as_str().unwrap()));
        assert!(
            said.contains("arrays must be comprised of strings only"),
            "{said}"
        );
    }
}

#[test]
fn flags() {
    let path = format!("{BUILDKIT}/bflag_test.json");
    let all = tables(&path, "TestBuilderFlags", "Args");
    // What Go's test expects of each: the flags that are set, or an error.
    let some = [
        Some(json!([])),
        None,
        Some(json!([["str1", ""]])),
        Some(json!([["str1", "BYE"]])),
        Some(json!([["bool1", "true"]])),
        Some(json!([["bool1", "true"]])),
        Some(json!([["bool1", "false"]])),
        None,
        None,
        Some(json!([["str1", "BYE"], ["bool1", "true"]])),
    ];
    assert_eq!(all.len(), some.len() + 1);
    for (args, wanted) in all.iter().zip(&some) {
        let found = probe::flags(&strings(args), &["str1"], &["bool1"]);
        assert_eq!(found.ok().map(|f| json!(f)), *wanted, "{args}");
    }
    let texts = ["str1", "str2", "str3", "str4"];
    let switches = ["bool1", "bool2", "bool3", "bool4", "bool5"];
    let found = probe::flags(&strings(&all[some.len()]), &texts, &switches).unwrap();
    let wanted = json!([
        ["str2", " "],
        ["str3", "def3"],
        ["str4", "my-val"],
        ["bool2", "false"],
        ["bool3", "true"],
        ["bool4", "true"],
        ["bool5", "true"],
    ]);
    assert_eq!(json!(found), wanted);
}
