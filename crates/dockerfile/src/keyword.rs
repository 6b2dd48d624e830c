//! The instructions' names.

use crate::error::{DockerfileError, short};
use crate::node::Node;

/// All of them.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What is said of an instruction that is none: the nearest that is one, if it is near.
pub(crate) fn unknown(node: &Node) -> DockerfileError {
    let word = node.name();
    let near = KEYWORDS
        .iter()
        .map(|known| (distance(known, &word), known))
        .min()
        .filter(|(changes, known)| *changes <= 2 && *changes < known.len() - 1);
    DockerfileError::UnknownInstruction {
        line: node.line,
        keyword: short(&node.keyword),
        hint: match near {
            _ if word.is_empty() => "nothing follows the escape character; take it away".to_owned(),
            Some((_, known)) => format!(" (did you mean {known}?)"),
            None => String::new(),
        },
    }
}

/// Changes of one letter, or of two neighbours' places, that make one word of the other.
fn distance(known: &str, word: &str) -> usize {
    let known: Vec<char> = known.chars().collect();
    // The longest that is known has 11 letters.
    let word: Vec<char> = word.chars().take(32).collect();
    let mut rows = vec![(0..=word.len()).collect::<Vec<usize>>()];
    for (i, x) in known.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in word.iter().enumerate() {
            let changed = rows[i][j] + usize::from(x != y);
            let mut least = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == word[j - 1] && known[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[known.len()][word.len()]
}
