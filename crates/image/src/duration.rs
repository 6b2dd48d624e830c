//! Durations as Docker's files and flags write them.

/// Reads a duration such as `1m30s` or `1.5h` (Go's `time.ParseDuration` without signs), in nanoseconds. Nothing for what is
/// none, or is longer than 292 years.
pub fn nanoseconds(text: &str) -> Option<i64> {
    let (mut sum, mut rest) = (0.0_f64, text);
    match text {
        "" => return None,
        "0" => return Some(0),
        _ => {}
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        sum += number
            * match &rest[..end] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (sum < 9e18).then_some(sum as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, wanted) in [
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("250ms", Some(250_000_000)),
            ("3µs", Some(3_000)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("99999999h", None),
        ] {
            assert_eq!(nanoseconds(text), wanted, "{text}");
        }
    }
}
