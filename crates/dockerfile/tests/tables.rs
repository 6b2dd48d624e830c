//! The reference tables: BuildKit's Dockerfiles and words, moby's patterns.
#![allow(clippy::unwrap_used)]
use coracle_dockerfile::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

fn read(path: &str) -> String {
    std::fs::read_to_string(reference(path)).unwrap()
}

/// Cases of a function's table, without those that were no plain data.
fn table(path: &str, func: &str, name: &str) -> Value {
    let tables: Vec<Value> = serde_json::from_str(&read(path)).unwrap();
    let of = |t: &&Value| t["func"].as_str().unwrap_or("None") == func && t["name"] == name;
    tables.iter().find(of).unwrap()["cases"].clone()
}

fn cases(path: &str, func: &str, name: &str) -> Vec<Value> {
    let all = table(path, func, name).as_array().unwrap().clone();
    let plain =
        |v: &Value| !v.to_string().contains("\"$expr\"") && !v.to_string().contains("\"$func\"");
    let found: Vec<Value> = all.into_iter().filter(plain).collect();
    assert!(!found.is_empty(), "{path} {func} {name}");
    found
}

fn s<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

const PARSER: &str = "buildkit-dockerfile/frontend/dockerfile/parser";

#[test]
fn dockerfiles_and_their_nodes() {
    let mut count = 0;
    for entry in std::fs::read_dir(reference(&format!("{PARSER}/testfiles"))).unwrap() {
        let dir = entry.unwrap().path();
        let text = std::fs::read_to_string(dir.join("Dockerfile")).unwrap();
        let wanted = std::fs::read_to_string(dir.join("result")).unwrap();
        let clean = |t: &str| -> Vec<String> {
            t.lines()
                .map(|l| l.trim_end().to_owned())
                .filter(|l| !l.is_empty())
                .collect()
        };
        assert_eq!(
            clean(&sexpr(&text).unwrap()),
            clean(&wanted),
            "{}",
            dir.display()
        );
        count += 1;
    }
    assert!(count > 25, "{count}");
}

#[test]
fn dockerfiles_that_are_none() {
    for entry in std::fs::read_dir(reference(&format!("{PARSER}/testfiles-negative"))).unwrap() {
        let path = entry.unwrap().path().join("Dockerfile");
        let text = std::fs::read_to_string(&path).unwrap();
        // One is only wrong as JSON, which BuildKit reads as a shell's text since.
        let nested = path.to_string_lossy().contains("nested-json");
        assert!(parse(&text).is_err() || nested, "{}", path.display());
    }
}

#[test]
fn lines_are_counted() {
    let text = read(&format!("{PARSER}/testfile-line/Dockerfile"));
    let file = parse(&text).unwrap();
    let mut found = vec![[file.stages[0].line, file.stages[0].line]];
    found.extend(
        file.stages[0]
            .instructions
            .iter()
            .map(|i| [i.line, i.end_line]),
    );
    let wanted = table(
        "buildkit-dockerfile/json/parser_test.json",
        "TestParseIncludesLineNumbers",
        "expected",
    );
    assert_eq!(json!(found), wanted);
}

#[test]
fn variables() {
    let text = read("buildkit-dockerfile/frontend/dockerfile/shell/envVarTest");
    let env: BTreeMap<&str, &str> = BTreeMap::from([
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("NULL", ""),
    ]);
    let mut count = 0;
    for line in text.lines() {
        let line = line
            .split('#')
            .next()
            .filter(|_| line.starts_with('#'))
            .map_or(line, |_| "");
        let Some((kind, rest)) = line.split_once('|') else {
            continue;
        };
        if !matches!(kind.trim(), "A" | "U") {
            continue;
        }
        let (word, wanted) = rest.split_once('|').unwrap();
        let (word, wanted) = (word.trim(), wanted.trim());
        let found = expand(word, '\\', &|name| env.get(name).map(|v| (*v).to_owned()));
        match wanted {
            "error" => assert!(found.is_err(), "{word}: {found:?}"),
            wanted => assert_eq!(found.as_deref(), Ok(wanted), "{word}"),
        }
        count += 1;
    }
    assert!(count > 200, "{count}");
}

#[test]
fn words_of_lines() {
    let text = read("buildkit-dockerfile/frontend/dockerfile/shell/wordsTest");
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    let mut count = 0;
    for line in text.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(pair) = line.strip_prefix("ENV ") {
            let (name, value) = pair.trim_start().split_once('=').unwrap();
            env.insert(name.into(), value.into());
            continue;
        }
        let (word, wanted) = line.split_once('|').unwrap();
        let found = expand_words(word.trim(), '\\', &|name| env.get(name).cloned());
        let wanted: Vec<&str> = wanted.trim_start().split(',').collect();
        match found {
            Ok(found) => assert_eq!(found, wanted, "{word}"),
            Err(_) => assert_eq!(wanted, ["error"], "{word}"),
        }
        count += 1;
    }
    assert!(count > 20, "{count}");
}

#[test]
fn substitutions() {
    let mut count = 0;
    for case in cases(
        "buildkit-dockerfile/json/lex_test.json",
        "TestProcessWithMatches",
        "tc",
    ) {
        let vars = |name: &str| case["envs"][name].as_str().map(str::to_owned);
        let found = expand(s(&case, "input"), '\\', &vars);
        match &found {
            Err(_) => assert!(case["expectedErr"] == true, "{case}: {found:?}"),
            Ok(found) => assert_eq!(found, s(&case, "expected"), "{case}"),
        }
        count += 1;
    }
    assert!(count > 40, "{count}");
}

#[test]
fn heredocs() {
    const FILE: &str = "buildkit-dockerfile/json/parser_heredoc_test.json";
    const HELPERS: &str = "TestParseHeredocHelpers";
    for word in cases(FILE, HELPERS, "validHeredocs") {
        let name = heredoc_of(word.as_str().unwrap()).map(|h| h.name);
        assert_eq!(name.as_deref(), Some("EOF"), "{word}");
    }
    for kind in ["invalidHeredocs", "notHeredocs"] {
        for word in cases(FILE, HELPERS, kind) {
            assert_eq!(heredoc_of(word.as_str().unwrap()), None, "{word}");
        }
    }
    for case in cases(FILE, "TestHeredocsFromLine", "srcs") {
        let names = case["heredocNames"].as_array().cloned().unwrap_or_default();
        let mut text = format!("{}\n", s(&case, "line"));
        for name in &names {
            text.push_str(&format!("{}\n", name.as_str().unwrap()));
        }
        let found = heredocs_in(&text).unwrap().remove(0);
        let found: Vec<Value> = found.into_iter().map(|h| json!(h.name)).collect();
        assert_eq!(found, names, "{case}");
    }
}

#[test]
fn heredocs_of_instructions() {
    const FILE: &str = "buildkit-dockerfile/json/parse_heredoc_test.json";
    let only = |text: &str| {
        let file = parse(&format!("FROM x\n{text}")).unwrap();
        file.stages[0].instructions[0].kind.clone()
    };
    for case in cases(FILE, "TestCopyHeredoc", "cases") {
        let Kind::Copy(copy) = only(s(&case, "dockerfile")) else {
            panic!("{case}")
        };
        let wanted = &case["sourcesAndDest"];
        let inline: Vec<Value> = copy
            .inline
            .iter()
            .map(|h| json!({ "Path": h.name, "Data": h.content, "Expand": h.expand }))
            .collect();
        let list = |key: &str| wanted[key].as_array().cloned().unwrap_or_default();
        let with_expand = |v: &Value| json!({ "Path": v["Path"], "Data": v["Data"], "Expand": v["Expand"] == true });
        assert_eq!(
            inline,
            list("SourceContents")
                .iter()
                .map(with_expand)
                .collect::<Vec<_>>(),
            "{case}"
        );
        assert_eq!(json!(copy.sources), json!(list("SourcePaths")), "{case}");
        assert_eq!(copy.destination, s(wanted, "DestPath"), "{case}");
    }
    for case in cases(FILE, "TestRunHeredoc", "cases") {
        let Kind::Run(run) = only(s(&case, "dockerfile")) else {
            panic!("{case}")
        };
        let (words, shell) = match &run.command {
            Command::Shell(text) => (vec![text.clone()], true),
            Command::Exec(words) => (words.clone(), false),
        };
        assert_eq!(
            (json!(words), json!(shell)),
            (case["command"].clone(), case["shell"].clone()),
            "{case}"
        );
        let files: Vec<Value> = run
            .heredocs
            .iter()
            .map(|h| json!([h.name, h.content, h.chomp]))
            .collect();
        let wanted = case["files"].as_array().cloned().unwrap_or_default();
        let wanted: Vec<Value> = wanted
            .iter()
            .map(|f| json!([f["Name"], f["Data"], f["Chomp"] == true]))
            .collect();
        assert_eq!(files, wanted, "{case}");
    }
    for case in cases(FILE, "TestErrorCasesHeredoc", "cases") {
        let error = parse(&format!("FROM x\n{}", s(&case, "dockerfile")))
            .unwrap_err()
            .to_string();
        assert!(error.contains(s(&case, "expectedError")), "{error}");
    }
}

#[test]
fn instructions_that_are_wrong() {
    const FILE: &str = "buildkit-dockerfile/json/parse_test.json";
    let error = |text: &str| parse(&format!("FROM x\n{text}\n")).unwrap_err().to_string();
    for case in cases(FILE, "TestErrorCases", "cases") {
        let error = error(s(&case, "dockerfile"));
        assert!(error.contains(s(&case, "expectedError")), "{case}: {error}");
    }
    for word in cases(FILE, "TestCommandsExactlyOneArgument", "commands") {
        let word = word.as_str().unwrap();
        assert!(
            error(word).contains(&format!("{word} requires exactly one argument")),
            "{word}"
        );
    }
    for word in cases(FILE, "TestCommandsAtLeastOneArgument", "commands") {
        let word = word.as_str().unwrap();
        assert!(
            error(word).contains(&format!("{word} requires at least one argument")),
            "{word}"
        );
    }
    for word in cases(FILE, "TestCommandsNoDestinationArgument", "commands") {
        let word = word.as_str().unwrap();
        assert!(
            error(&format!("{word} arg1")).contains("requires at least two arguments"),
            "{word}"
        );
    }
    for word in cases(FILE, "TestCommandsBlankNames", "commands") {
        assert!(
            error(&format!("{} =arg2", word.as_str().unwrap())).contains("names can not be blank")
        );
    }
}

#[test]
fn lists_of_strings() {
    const FILE: &str = "buildkit-dockerfile/json/json_test.json";
    let command = |text: &str| {
        parse(&format!("FROM x\nCMD {text}")).map(|f| f.stages[0].instructions[0].kind.clone())
    };
    let valid = table(FILE, "None", "validJSONArraysOfStrings");
    for (text, wanted) in valid.as_object().unwrap() {
        let wanted: Vec<String> = serde_json::from_value(wanted.clone()).unwrap();
        assert_eq!(
            command(text).unwrap(),
            Kind::Cmd(Command::Exec(wanted)),
            "{text}"
        );
    }
    for text in cases(FILE, "None", "invalidJSONArraysOfStrings") {
        assert!(command(text.as_str().unwrap()).is_err(), "{text}");
    }
}

#[test]
fn patterns() {
    const FILE: &str = "patternmatcher/json/patternmatcher_test.json";
    let excludes = |patterns: &[String], path: &str| Ignore::new(patterns).unwrap().excludes(path);
    for case in cases(FILE, "TestMatches", "tests") {
        let found = excludes(&[s(&case, "pattern").to_owned()], s(&case, "text"));
        assert_eq!(found, case["pass"] == true, "{case}");
    }
    for case in cases(FILE, "TestMatches", "multiPatternTests") {
        let patterns: Vec<String> = serde_json::from_value(case["patterns"].clone()).unwrap();
        assert_eq!(
            excludes(&patterns, s(&case, "text")),
            case["pass"] == true,
            "{case}"
        );
    }
    assert!(Ignore::new(&["!".to_owned()]).is_err());
}

#[test]
fn paths_as_go_matches_them() {
    const FILE: &str = "patternmatcher/json/patternmatcher_test.json";
    let all = table(FILE, "TestCleanPatternsErrorSingleException", "matchTests");
    let mut count = 0;
    for case in all.as_array().unwrap() {
        match Ignore::new(&[s(case, "pattern").to_owned()]) {
            Err(_) => assert!(!case["err"].is_null(), "{case}"),
            Ok(ignore) => {
                assert!(case["err"].is_null(), "{case}");
                assert_eq!(
                    ignore.excludes(s(case, "s")),
                    case["match"] == true,
                    "{case}"
                );
            }
        }
        count += 1;
    }
    assert!(count > 50);
    assert!(!matches("a*", "ab/c").unwrap() && matches("a?/[^x]*", "ab/c").unwrap());
    assert!(matches("a[", "a").is_err() && matches("[a-]", "a").is_err());
}

#[test]
fn ignore_files() {
    let text = "\u{feff}test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n!\n! \n";
    let wanted = table(
        "patternmatcher/json/ignorefile_test.json",
        "TestReadAll",
        "expected",
    );
    assert_eq!(json!(Ignore::read(text)), wanted);
}

#[test]
fn nothing_panics() {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(reference(&format!("{PARSER}/testfiles"))).unwrap() {
        texts.push(std::fs::read_to_string(entry.unwrap().path().join("Dockerfile")).unwrap());
    }
    texts.push("# escape=`\nFROM x\nRUN <<EOF <<-\"B\"\n\tx\nEOF\n\tB\nCOPY <<E /x\n$a ${b:-c}\nE\nONBUILD COPY --from=x <<Q /\nQ\n".into());
    for text in &texts {
        let ends = text.char_indices().map(|(at, _)| at);
        for end in ends.step_by(3) {
            let _ = parse(&text[..end]);
            let _ = parse(&text[end..]);
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let alphabet: Vec<char> = "FROMRUN COPY<<-'\"\\`$({[]})!*?#=/\n\t\r:=é\u{feff}\0"
        .chars()
        .collect();
    for _ in 0..3000 {
        let mut text = String::from("FROM x\nRUN ");
        for _ in 0..60 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push(alphabet[usize::try_from(state % alphabet.len() as u64).unwrap()]);
        }
        let _ = parse(&text);
        let _ = parse_onbuild(&text[7..], '\\');
        let _ = expand_words(&text, '\\', &|n| Some(n.to_owned()));
        let _ = Mount::parse(&text);
        if let Ok(ignore) = Ignore::new(&Ignore::read(&text)) {
            let _ = ignore.excludes("a/b/FROM");
        }
    }
}

#[test]
fn long_files_are_read_in_one_go() {
    let mut text = String::from("FROM x\nRUN true \\\n");
    for n in 0..100_000 {
        text.push_str(&format!("  && echo ${{A{n}:-'b c'}} \\\n"));
    }
    text.push_str("  && true\nENV ");
    for n in 0..50_000 {
        text.push_str(&format!("A{n}=\"b {n}\" "));
    }
    let file = parse(&text).unwrap();
    assert_eq!(file.stages[0].instructions.len(), 2);
    let deep = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert!(expand(&deep, '\\', &|_| None).is_err());
}

#[test]
fn mounts() {
    let mount =
        Mount::parse("type=cache,target=/root/.cache,id=a,sharing=locked,uid=7,mode=0700").unwrap();
    assert_eq!(
        (mount.kind, mount.sharing, mount.uid, mount.mode),
        (MountKind::Cache, Sharing::Locked, Some(7), Some(0o700))
    );
    let mount = Mount::parse("target=/x,from=build,source=/out,rw").unwrap();
    assert_eq!(
        (mount.kind, mount.read_only, mount.from.as_deref()),
        (MountKind::Bind, Some(false), Some("build"))
    );
    assert_eq!(
        Mount::parse("type=tmpfs,target=/t,size=64m").unwrap().size,
        Some(64 << 20)
    );
    assert_eq!(
        Mount::parse("type=secret,id=t,\"target=/a,b\"")
            .unwrap()
            .target
            .as_deref(),
        Some("/a,b")
    );
    for bad in [
        "type=nfs,target=/x",
        "type=cache",
        "target=/x,what=1",
        "type=cache,target=/x,mode=9",
        "type=cache,target=/x,sharing=no",
        "target",
    ] {
        assert!(Mount::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_said_of_mistakes() {
    let error = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(
        error("FROM x\n\nRUNN y"),
        "line 3: unknown instruction: RUNN (did you mean RUN?)"
    );
    assert!(error("RUN x").contains("before FROM"));
    assert!(error("ARG A").contains("no FROM"));
    assert!(
        error("FROM x\nCOPY --form=y a b").contains("unknown flag: --form; COPY takes --chown")
    );
    assert!(error("# escape=x\nFROM y").contains("invalid escape token"));
    assert!(error("# escape=`\n# escape=`\nFROM y").contains("only one escape parser directive"));
    assert!(error("FROM x\nRUN <<EOF\nls\n").contains("unterminated heredoc"));
    assert!(error("FROM x AS 1st").contains("invalid name"));
    let file = parse("FROM x\nENV a b\nMAINTAINER me\nCMD a\nCMD b\nRUN a \\\n\n  b\n").unwrap();
    let lines: Vec<usize> = file.warnings.iter().map(|w| w.line).collect();
    assert!(
        lines.contains(&2) && lines.contains(&3) && lines.contains(&5) && lines.contains(&6),
        "{:?}",
        file.warnings
    );
}
