//! The first line, which says what kind of document it is.
use crate::nearest::distance;
use crate::problem::quoted;

const HEADER: &str = "#cloud-config";

/// What the first line is.
pub(crate) enum Header {
    /// As it has to be.
    Good,
    /// Surely meant, so the document is read, but it is told.
    Near(String),
    /// Another kind of document, which is not read.
    Foreign(String),
}

pub(crate) fn read(text: &str) -> Header {
    let line = text.lines().next().unwrap_or_default().trim_end();
    if line == HEADER {
        return Header::Good;
    }
    if text.trim().is_empty() {
        return Header::Foreign(format!("is empty; the first line has to be {HEADER}"));
    }
    if line.starts_with("#!") {
        return Header::Foreign(format!(
            "is a script, and scripts are not run; write {HEADER} with write_files and coreos.units"
        ));
    }
    if line.starts_with('#') {
        let shown = quoted(line);
        let low = line.to_lowercase();
        return if line.len() <= 2 * HEADER.len() && distance(&low, HEADER) <= 2 {
            Header::Near(format!(
                "begins with {shown}; write {HEADER} as its first line"
            ))
        } else {
            Header::Foreign(format!(
                "begins with {shown}, which is another kind of document; only such with {HEADER} as their first line are read"
            ))
        };
    }
    if text.trim_start().starts_with(HEADER) {
        return Header::Near(format!(
            "has something before {HEADER}; it has to be the first line"
        ));
    }
    if line.trim_start().starts_with('{') {
        return Header::Foreign(format!(
            "is JSON, as Ignition has it, which is not read; write YAML after a first line {HEADER}"
        ));
    }
    Header::Foreign(format!(
        "does not begin with {HEADER}; write that as its first line"
    ))
}
