//! A document with the machine's addresses in it, and problems where they stand in it as it was written.
use crate::document::{Parsed, parse};
use crate::problem::Problem;
use crate::substitute::substitute;
use std::net::Ipv4Addr;

/// The network is brought up before there is an address that could stand in this part.
const NETWORK: &str = "coracle.network";

/// Stands for a machine's address where there is none yet, or none is known. It is nobody's (RFC 5737).
pub const NOBODYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Parses a document as a machine does it that has `address`: the network of the document as it is, all else with the address for
/// `$private_ipv4` and `$public_ipv4`. Before there is one, any will do to find problems and the network.
pub fn understand(text: &str, address: Ipv4Addr) -> Parsed {
    let with = addressed(text, address);
    let mut parsed = parse(&with);
    if with == text {
        return parsed;
    }
    let lines: Vec<&str> = text.lines().collect();
    for problem in &mut parsed.problems {
        let line = lines.get(problem.line.saturating_sub(1));
        problem.column = written(line.unwrap_or(&""), problem.column, address);
    }
    let before = parse(text);
    let of_network = |problem: &Problem| problem.key.starts_with(NETWORK);
    parsed.problems.retain(|problem| !of_network(problem));
    let network = before.problems.into_iter().filter(of_network);
    parsed.problems.extend(network);
    parsed.config.network = before.config.network;
    parsed
}

fn addressed(text: &str, address: Ipv4Addr) -> String {
    // Only an address that is not given can be missing.
    substitute(text, Some(address), Some(address)).unwrap_or_else(|_| text.to_owned())
}

/// The column that something has in the line as it is written, if it has `column` in the line with addresses. Both begin with 1.
fn written(line: &str, column: usize, address: Ipv4Addr) -> usize {
    // Each part has one word at most that is replaced, at its beginning.
    let begins = |(at, _): (usize, &str)| at - usize::from(line[..at].ends_with('\\'));
    let mut ends: Vec<usize> = line.match_indices('$').map(begins).collect();
    ends.push(line.len());
    let (mut from, mut here, mut there) = (0, 1, 1);
    for end in ends {
        let part = &line[from..end];
        let (long, short) = (
            part.chars().count(),
            addressed(part, address).chars().count(),
        );
        if column == there {
            return here;
        }
        if column < there + short {
            return here + (column - there) + long - short;
        }
        (from, here, there) = (end, here + long, there + short);
    }
    here + column.saturating_sub(there)
}
