//! Columns as Go's tabwriter parts them with tabs of eight, which is how fleetctl's lists look.

use crate::error::{CliError, Result};
use crate::format::out;

const TAB: usize = 8;

/// Lines of cells: each but a line's last one is followed by as many tabs as bring all lines to the same column, one at least.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = |cell: &String| cell.chars().count();
    let width = |n: usize| {
        let longest = rows.iter().filter_map(|r| r.get(n)).map(length).max();
        (longest.unwrap_or(0) + 1).next_multiple_of(TAB)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if n + 1 < row.len() {
                let left = widths[n] - length(cell);
                text.extend(std::iter::repeat_n('\t', left.div_ceil(TAB)));
            }
        }
        text.push('\n');
    }
    text
}

/// Prints the columns that are asked for. `known` are all there are; `cell` gives a field of an entry.
///
/// # Errors
/// A column that is not known.
pub fn print<T>(
    fields: &str,
    known: &str,
    legend: bool,
    entries: &[T],
    cell: impl Fn(&T, &str) -> String,
) -> Result<()> {
    let fields = check(fields, known)?;
    let mut rows = Vec::new();
    if legend {
        rows.push(fields.iter().map(|f| f.to_uppercase()).collect());
    }
    rows.extend(
        entries
            .iter()
            .map(|e| fields.iter().map(|f| cell(e, f)).collect()),
    );
    out(&align(&rows))
}

/// The columns that are asked for.
fn check<'a>(fields: &'a str, known: &str) -> Result<Vec<&'a str>> {
    let fields: Vec<&str> = fields.split(',').collect();
    let wrong = fields.iter().find(|f| !known.split(',').any(|k| k == **f));
    match wrong {
        None => Ok(fields),
        Some(wrong) => Err(CliError::Usage(format!(
            "Invalid key in output format: \"{wrong}\"; there are {known}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rows(text: &[&[&str]]) -> Vec<Vec<String>> {
        let row = |r: &&[&str]| r.iter().map(|c| (*c).to_owned()).collect();
        text.iter().map(row).collect()
    }

    /// What Go's `tabwriter.NewWriter(w, 0, 8, 1, '\t', 0)` makes of these lines.
    #[test]
    fn as_go_aligns() {
        let list = rows(&[
            &["UNIT", "MACHINE", "ACTIVE", "SUB"],
            &[
                "hello.service",
                "148a18ff.../192.0.2.13",
                "active",
                "running",
            ],
            &["a.service", "-", "inactive", "dead"],
        ]);
        assert_eq!(
            align(&list),
            "UNIT\t\tMACHINE\t\t\tACTIVE\t\tSUB\n\
             hello.service\t148a18ff.../192.0.2.13\tactive\t\trunning\n\
             a.service\t-\t\t\tinactive\tdead\n"
        );
        // A cell of eight needs a tab more: one blank at least parts it from the next.
        assert_eq!(
            align(&rows(&[&["12345678", "x"], &["1", "y"]])),
            "12345678\tx\n1\t\ty\n"
        );
        assert_eq!(align(&rows(&[&["1234567", "x"]])), "1234567\tx\n");
        assert_eq!(align(&rows(&[&["UNIT"], &["a"]])), "UNIT\na\n");
        assert_eq!(align(&rows(&[&["é", "x"]])), "é\tx\n");
        assert_eq!(align(&[]), "");
    }

    #[test]
    fn columns_that_there_are() {
        assert_eq!(check("a,b", "b,a,c").unwrap(), ["a", "b"]);
        for wrong in ["a,d", "", "a,", "A"] {
            assert!(check(wrong, "a,b").is_err(), "{wrong}");
        }
    }
}
