//! COPY and ADD.

use crate::error::DockerfileError;
use crate::flags::Flags;
use crate::heredoc::{self, Heredoc};
use crate::instruction::Copy;
use crate::node::Node;

/// Reads one of both.
pub(crate) fn copy(node: &Node) -> Result<Copy, DockerfileError> {
    let keyword = node.name();
    let add = keyword == "ADD";
    let known: &[&str] = match add {
        true => &[
            "chown",
            "chmod",
            "link",
            "exclude",
            "checksum",
            "keep-git-dir",
            "unpack",
        ],
        false => &["from", "chown", "chmod", "link", "exclude", "parents"],
    };
    let flags = Flags::of(node.line, &keyword, &node.flags, known)?;
    let on = |name| Ok::<_, DockerfileError>(flags.switch(name)?.unwrap_or(false));
    let mut copy = Copy {
        from: flags.some("from")?,
        chown: flags.some("chown")?,
        chmod: flags.some("chmod")?,
        link: on("link")?,
        parents: on("parents")?,
        exclude: flags.list("exclude")?,
        checksum: flags.some("checksum")?,
        keep_git_dir: on("keep-git-dir")?,
        unpack: flags.switch("unpack")?,
        ..Copy::default()
    };
    // Which stages are needed is known before any variable is.
    if copy.from.as_ref().is_some_and(|from| from.contains('$')) {
        return Err(flags.wrong(
            "from",
            "variable expansion is not supported for --from; write FROM with the variable AS a stage, and take from that".to_owned(),
        ));
    }
    let Some((destination, sources)) = node.values.split_last().filter(|(_, s)| !s.is_empty())
    else {
        return Err(node.wrong(format!(
            "requires at least two arguments, but only {} was provided. Destination could not be determined",
            if node.values.is_empty() { "none" } else { "one" }
        )));
    };
    // In a JSON list it is a file's name.
    let document = |word: &str| match node.json {
        true => None,
        false => heredoc::of_word(word).ok().flatten(),
    };
    if document(destination).is_some() {
        return Err(node.wrong("cannot accept a heredoc as a destination; write a path"));
    }
    copy.destination.clone_from(destination);
    let mut documents = node.heredocs.iter().peekable();
    for source in sources {
        let named = document(source);
        match documents.next_if(|d| named.as_ref().is_some_and(|n| n.name == d.name)) {
            Some(found) => copy.inline.push(Heredoc {
                content: found.text(),
                ..found.clone()
            }),
            None => copy.sources.push(source.clone()),
        }
    }
    Ok(copy)
}
