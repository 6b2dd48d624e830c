//! Durations as Go writes them: `1m30s`, `1.5h`, `-250ms`.

/// Nanoseconds in one of each.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads Go's `time.ParseDuration`: nanoseconds, or nothing for what is none or longer than 292 years.
pub(crate) fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, mut left) = match text.strip_prefix(['-', '+']) {
        Some(left) => (text.starts_with('-'), left),
        None => (false, text),
    };
    if left == "0" {
        return Some(0);
    }
    if left.is_empty() {
        return None;
    }
    let mut sum: u128 = 0;
    while !left.is_empty() {
        let (whole, rest) = digits(left);
        let (part, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, rest) = rest.split_at(end.unwrap_or(rest.len()));
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        sum = sum.checked_add(u128::from(whole) * unit)?;
        // Digits after the eighteenth are less than a nanosecond of an hour.
        let part = &part[..part.len().min(18)];
        if let (Ok(value), Ok(places)) = (part.parse::<u128>(), u32::try_from(part.len())) {
            sum += value * unit / 10_u128.pow(places);
        }
        left = rest;
    }
    match i64::try_from(sum) {
        Ok(sum) if negative => Some(-sum),
        sum => sum.ok(),
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn as_go_reads_them() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("+3µs", Some(3_000)),
            ("-250ms", Some(-250_000_000)),
            ("0.3333333333333333333h", Some(1_199_999_999_999)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("99999999999999999999h", None),
            ("3000000h", None),
            ("", None),
            ("-", None),
            ("5", None),
            (".s", None),
            ("s", None),
            ("1d", None),
            ("1s ", None),
            ("1é", None),
        ] {
            assert_eq!(nanoseconds(text), wanted, "{text}");
        }
    }
}
