//! What the tables do not have: each instruction as a whole, what is said of mistakes, and of what is odd.
#![allow(clippy::unwrap_used)]

use coracle_dockerfile::*;

fn kinds(text: &str) -> Vec<Kind> {
    let file = parse(&format!("FROM x\n{text}\n")).unwrap();
    let all = file.stages[0].instructions.iter();
    all.map(|i| i.kind.clone()).collect()
}

fn only(text: &str) -> Kind {
    let mut all = kinds(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn a_file_with_all_there_is_at_its_beginning() {
    let text = "\u{feff}# syntax=docker/dockerfile:1 more\r\n# ESCAPE = `\r\n# check=skip=all\r\n#escape=\\\r\n# comment\r\nARG A=1 B\r\nARG C=\"2 3\"\r\n\r\nfrom --platform=$A a:${B} As Base\r\nrun echo `\r\n # comment\r\n  \\\r\nFROM scratch";
    // The third escape is a second one.
    assert!(error(text).contains("line 4: only one escape parser directive can be used"));
    let file = parse(&text.replace("#escape=\\\r\n", "")).unwrap();
    assert_eq!(
        (file.escape, file.syntax.as_deref()),
        ('`', Some("docker/dockerfile:1"))
    );
    let args: Vec<(&str, Option<&str>)> = file
        .global_args
        .iter()
        .map(|a| (a.name.as_str(), a.default.as_deref()))
        .collect();
    assert_eq!(
        args,
        [("A", Some("1")), ("B", None), ("C", Some("\"2 3\""))]
    );
    let [base, last] = &file.stages[..] else {
        panic!("{:?}", file.stages)
    };
    assert_eq!(
        (
            base.name.as_deref(),
            base.base.as_str(),
            base.platform.as_deref(),
            base.line
        ),
        (Some("base"), "a:${B}", Some("$A"), 8)
    );
    assert_eq!(base.source, "from --platform=$A a:${B} As Base");
    assert_eq!((last.name.as_deref(), last.line), (None, 12));
    let run = &base.instructions[0];
    assert_eq!((run.line, run.end_line), (9, 11));
    assert_eq!(run.source, "RUN echo   \\");
    assert_eq!(file.warnings, []);
}

#[test]
fn directives_are_only_at_the_top() {
    for (text, escape) in [
        ("# escape=`\nFROM x", '`'),
        ("#escape=`\nFROM x", '`'),
        ("  # escape=`\nFROM x", '`'),
        ("\n# escape=`\nFROM x", '\\'),
        ("# other=1\n# escape=`\nFROM x", '\\'),
        ("# comment\n# escape=`\nFROM x", '\\'),
        ("FROM x\n# escape=`\n", '\\'),
        ("# escape\nFROM x", '\\'),
        ("# check=skip=a\n# escape=\\\nFROM x", '\\'),
    ] {
        assert_eq!(parse(text).unwrap().escape, escape, "{text}");
    }
    assert!(
        error("# escape=x\nFROM y")
            .contains("line 1: invalid escape token 'x' does not match ` or \\")
    );
    assert!(
        error("# syntax=a\n# Syntax=b\nFROM y")
            .contains("line 2: only one syntax parser directive")
    );
}

#[test]
fn copy_and_add() {
    let Kind::Copy(copy) = only(
        "COPY --from=build --chown=a:b --chmod=755 --link --parents=true --exclude=*.o --exclude=x a 'b c' /d/",
    ) else {
        panic!()
    };
    let wanted = Copy {
        sources: strings(&["a", "'b", "c'"]),
        destination: "/d/".into(),
        from: Some("build".into()),
        chown: Some("a:b".into()),
        chmod: Some("755".into()),
        link: true,
        parents: true,
        exclude: strings(&["*.o", "x"]),
        ..Copy::default()
    };
    assert_eq!(copy, wanted);
    let Kind::Add(add) = only(
        "ADD --checksum=sha256:0 --keep-git-dir --unpack=FALSE --from= [\"a b\", \"<<E\", \"/\"]"
            .replace("--from= ", "")
            .as_str(),
    ) else {
        panic!()
    };
    assert_eq!(add.sources, ["a b", "<<E"]);
    assert_eq!(
        (
            add.checksum.as_deref(),
            add.keep_git_dir,
            add.unpack,
            add.inline.len()
        ),
        (Some("sha256:0"), true, Some(false), 0)
    );
    // Blanks before and in a delimiter, and files beside.
    let Kind::Copy(copy) = only("COPY a << 'b c' d <<-E e /x\n$1\nb c\n\ttwo\n\t\tthree\n\tE")
    else {
        panic!()
    };
    assert_eq!(copy.sources, ["a", "d", "e"]);
    let inline: Vec<(&str, &str, bool)> = copy
        .inline
        .iter()
        .map(|h| (h.name.as_str(), h.content.as_str(), h.expand))
        .collect();
    assert_eq!(
        inline,
        [("b c", "$1\n", false), ("E", "two\nthree\n", true)]
    );
    assert_eq!(copy.destination, "/x");
}

#[test]
fn run() {
    let Kind::Run(run) = only(
        "RUN --mount=type=cache,target=/$A --mount=target=/b --network=none --security=sandbox --device=d \\\n  python3 - <<A 3<<\"B\" && true\na\nA\nb\r\nB",
    ) else {
        panic!()
    };
    assert_eq!(
        run.command,
        Command::Shell("python3 - <<A 3<<\"B\" && true".into())
    );
    assert_eq!(run.mounts, ["type=cache,target=/$A", "target=/b"]);
    assert_eq!(
        (
            run.network.as_deref(),
            run.security.as_deref(),
            &run.devices[..]
        ),
        (Some("none"), Some("sandbox"), &["d".to_owned()][..])
    );
    let documents: Vec<(&str, &str, bool)> = run
        .heredocs
        .iter()
        .map(|h| (h.name.as_str(), h.content.as_str(), h.expand))
        .collect();
    assert_eq!(documents, [("A", "a\n", true), ("B", "b\r\n", false)]);
    // What is no document: in quotes, in a list, a shift, or a line that is no words for us.
    for text in [
        "RUN \"<<E\" '<<E'",
        "RUN [\"cat\", \"<<E\"]",
        "RUN echo $((1 << 2)) $(( 1 <<2 ))",
        "RUN echo ${x^^} <<E it's",
        "RUN cat <<<E a<<E",
    ] {
        let Kind::Run(run) = only(text) else { panic!() };
        assert_eq!(run.heredocs, [], "{text}");
    }
    let Kind::Run(run) = only("RUN echo $((1 << 2)) <<E\nx\nE") else {
        panic!()
    };
    assert_eq!(run.heredocs.len(), 1);
}

#[test]
fn lists_and_texts() {
    let exec = |all: &[&str]| Command::Exec(strings(all));
    let shell = |text: &str| Command::Shell(text.to_owned());
    for (text, wanted) in [
        ("CMD a  b", shell("a  b")),
        ("CMD", shell("")),
        ("CMD []", exec(&[])),
        ("CMD [ \"a\" , \"b c\" ]", exec(&["a", "b c"])),
        ("CMD ['a']", shell("['a']")),
        ("CMD [\"a\"] b", shell("[\"a\"] b")),
        ("CMD [\"a\",]", shell("[\"a\",]")),
        ("CMD \"a\"", shell("\"a\"")),
    ] {
        assert_eq!(only(text), Kind::Cmd(wanted.clone()), "{text}");
        let text = text.replace("CMD", "ENTRYPOINT");
        assert_eq!(only(&text), Kind::Entrypoint(wanted), "{text}");
    }
    assert_eq!(
        only("SHELL [\"a\", \"-c\"]"),
        Kind::Shell(strings(&["a", "-c"]))
    );
    assert_eq!(only("VOLUME /a /b"), Kind::Volume(strings(&["/a", "/b"])));
    assert_eq!(only("VOLUME [\" /a \"]"), Kind::Volume(strings(&["/a"])));
    assert_eq!(
        only("EXPOSE 80 $P/udp"),
        Kind::Expose(strings(&["80", "$P/udp"]))
    );
    assert_eq!(only("USER a b"), Kind::User("a b".into()));
    assert_eq!(only("WORKDIR \"/a b\""), Kind::Workdir("\"/a b\"".into()));
    assert_eq!(only("STOPSIGNAL $S"), Kind::StopSignal("$S".into()));
    assert_eq!(only("MAINTAINER a <b>"), Kind::Maintainer("a <b>".into()));
    let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
        let both = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        all.iter().map(both).collect()
    };
    assert_eq!(
        only("ENV a=\"b c\" d=e\\ f g='$h' i="),
        Kind::Env(pairs(&[
            ("a", "\"b c\""),
            ("d", "e\\ f"),
            ("g", "'$h'"),
            ("i", "")
        ]))
    );
    assert_eq!(only("ENV a b = c"), Kind::Env(pairs(&[("a", "b = c")])));
    assert_eq!(
        only("LABEL \"a b\"=c"),
        Kind::Label(pairs(&[("\"a b\"", "c")]))
    );
}

#[test]
fn health() {
    let test = |text: &str| match only(text) {
        Kind::Healthcheck(health) => health,
        other => panic!("{other:?}"),
    };
    assert_eq!(test("HEALTHCHECK none"), Healthcheck::None);
    assert_eq!(
        test(
            "HEALTHCHECK --interval=1m30s --timeout=0 --start-period=.5s --start-interval= --retries=0 CMD [\"a\", \"b\"]"
        ),
        Healthcheck::Check {
            test: strings(&["CMD", "a", "b"]),
            interval: Some("1m30s".into()),
            timeout: Some("0".into()),
            start_period: Some(".5s".into()),
            start_interval: None,
            retries: Some("0".into()),
        }
    );
    for (text, words) in [
        ("--interval=x CMD a", "--interval: invalid duration \"x\""),
        (
            "--timeout=999us CMD a",
            "--timeout=999us cannot be less than 1ms",
        ),
        ("--timeout=-1s CMD a", "cannot be less than 1ms"),
        ("--retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("--retries=many CMD a", "--retries: \"many\" is no number"),
        ("--retries=2147483648 CMD a", "is no number"),
        (
            "--often NONE",
            "unknown flag: --often; HEALTHCHECK takes --interval",
        ),
        ("NONE a", "HEALTHCHECK NONE takes no arguments"),
        ("CMD", "HEALTHCHECK CMD has no command"),
        ("CMD []", "HEALTHCHECK CMD has no command"),
        ("GET /", "unknown type \"GET\""),
    ] {
        let said = error(&format!("FROM x\nHEALTHCHECK {text}"));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn triggers() {
    let Kind::OnBuild(text) = only("onbuild  copy  --chown=a <<A b /x  \n$1\nA") else {
        panic!()
    };
    assert_eq!(text, "copy  --chown=a <<A b /x\n$1\nA");
    let read = parse_onbuild(&text, '\\').unwrap();
    assert_eq!(read.source, "COPY  --chown=a <<A b /x");
    assert_eq!((read.line, read.end_line), (1, 3));
    assert!(
        matches!(&read.kind, Kind::Copy(c) if c.inline[0].content == "$1\n" && c.sources == ["b"])
    );
    assert!(
        matches!(parse_onbuild("RUN a `\n b", '`').unwrap().kind, Kind::Run(r) if r.command == Command::Shell("a  b".into()))
    );
    // A directive there is a comment.
    assert!(
        matches!(parse_onbuild("# escape=`\nUSER a", '\\').unwrap().kind, Kind::User(u) if u == "a")
    );
    for text in [
        "",
        "RUN a\nRUN b",
        "FROM x",
        "ONBUILD RUN a",
        "MAINTAINER a",
        "RUNN a",
        "RUN <<E\n",
    ] {
        assert!(parse_onbuild(text, '\\').is_err(), "{text}");
    }
    for (text, words) in [
        (
            "MAINTAINER a",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
        ),
        ("RNU a", "unknown instruction: RNU (did you mean RUN?)"),
        ("COPY a", "line 2: COPY requires at least two arguments"),
        ("--x RUN a", "unknown flag: --x; ONBUILD takes no flags"),
        ("RUN <<E\n", "unterminated heredoc"),
    ] {
        let said = error(&format!("FROM x\nONBUILD {text}"));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, words) in [
        ("", "line 1: file with no instructions; begin it with FROM"),
        ("# a\n\n", "line 2: file with no instructions"),
        ("ARG A\n", "line 1: no build stage: the file has no FROM"),
        (
            "# a\nRUN x",
            "line 2: no build stage in current context: RUN before FROM",
        ),
        (
            "FROM x\n\nRUNN y",
            "line 3: unknown instruction: RUNN (did you mean RUN?)",
        ),
        ("FROM x\nNothing y", "line 2: unknown instruction: Nothing"),
        (
            "FROM x\n\\\n",
            "line 2: unknown instruction: nothing follows the escape character",
        ),
        (
            "FROM",
            "line 1: FROM requires either one or three arguments",
        ),
        ("FROM x y", "FROM requires either one or three arguments"),
        ("FROM x AS 1st", "invalid name for build stage: \"1st\""),
        ("FROM x AS a/b", "invalid name for build stage"),
        (
            "FROM --arch=a x",
            "unknown flag: --arch; FROM takes --platform",
        ),
        (
            "FROM x\nCOPY --form=y a b",
            "line 2: unknown flag: --form; COPY takes --from, --chown",
        ),
        (
            "FROM x\nADD --from=y a b",
            "unknown flag: --from; ADD takes --chown",
        ),
        (
            "FROM x\nCOPY --link=maybe a b",
            "expecting boolean value for flag link, not: maybe",
        ),
        ("FROM x\nCOPY --link= a b", "missing a value on flag: link"),
        ("FROM x\nCOPY --chown a b", "missing a value on flag: chown"),
        (
            "FROM x\nCOPY --link --link a b",
            "duplicate flag specified: link",
        ),
        (
            "FROM x\nCOPY --from=$a b c",
            "variable expansion is not supported for --from",
        ),
        ("FROM x\nCOPY", "only none was provided"),
        ("FROM x\nRUN", "RUN requires at least one argument"),
        (
            "FROM x\nRUN --network=moon a",
            "unsupported value --network=moon; use default or none or host",
        ),
        (
            "FROM x\nRUN --network=none --network=host a",
            "duplicate flag specified: network",
        ),
        (
            "FROM x\nRUN --security=no a",
            "unsupported value --security=no",
        ),
        (
            "FROM x\nRUN --mount=from=$a,target=/b c",
            "'from' doesn't support variable expansion",
        ),
        (
            "FROM x\nRUN --mount=\\\"a b",
            "--mount=\"a: a quote is open",
        ),
        (
            "FROM x\nENV a",
            "ENV must have two arguments; write ENV name=value",
        ),
        ("FROM x\nLABEL a=b c", "can't find = in \"c\""),
        ("FROM x\nARG =b", "ARG names can not be blank"),
        (
            "FROM x\nSHELL sh -c",
            "SHELL requires the arguments to be in JSON form",
        ),
        ("FROM x\nSHELL []", "SHELL requires at least one argument"),
        (
            "FROM x\nVOLUME [\"\"]",
            "VOLUME specified can not be an empty string",
        ),
        ("FROM x\nARG --a b", "unknown flag: --a; ARG takes no flags"),
        (
            "FROM x\nCMD [\"a\", 1]",
            "line 2: CMD: when using JSON array syntax",
        ),
        (
            "FROM x\nRUN <<E \\\n  a\nE\nRUN <<F\nx\n",
            "line 5: unterminated heredoc: end it with a line that is F alone",
        ),
    ] {
        let said = error(text);
        assert!(said.contains(words), "{said}\n{words}");
        assert!(said.starts_with(&format!("line {}: ", parse(text).unwrap_err().line())));
    }
    // What is quoted is not longer than a message may be.
    let long = "x".repeat(100_000);
    for text in [
        long.clone(),
        format!("FROM x\nCOPY --{long} a b"),
        format!("FROM x AS 1{long}"),
        format!("FROM x\nENV a=b {long}"),
        format!("FROM x\nRUN <<{long}"),
        format!("FROM x\nRUN --mount=from=${long} a"),
    ] {
        let said = error(&text);
        assert!(said.len() < 500, "{}", said.len());
    }
}

#[test]
fn what_is_odd() {
    let text = "FROM x AS a\nENV a b\nLABEL a b\nMAINTAINER me\nCMD a\nCMD b\nENTRYPOINT a\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nRUN a \\\n  # fine\n\n  b \\\n\n  c\nFROM y AS A\nCMD a\nENTRYPOINT b\nFROM z as scratch\n";
    let file = parse(text).unwrap();
    let found: Vec<(usize, &str)> = file
        .warnings
        .iter()
        .map(|w| (w.line, w.text.split([';', ' ']).next().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            (2, "\"ENV"),
            (3, "\"LABEL"),
            (4, "MAINTAINER"),
            (6, "multiple"),
            (9, "multiple"),
            (12, "empty"),
            (16, "duplicate"),
            (19, "the"),
        ]
    );
    assert_eq!(file.stages[0].instructions[8].source, "RUN a   b   c");
    let last = &file.stages[0].instructions[8];
    assert_eq!((last.line, last.end_line), (10, 15));
}
