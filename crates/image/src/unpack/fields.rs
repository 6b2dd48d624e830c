//! Fields of tar headers, and values of pax records.

/// Text, without the blanks around it.
pub(super) fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().map(str::trim)
}

/// What comes before the first zero byte.
pub(super) fn c_string(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

/// Octal digits between blanks, or GNU's base 256 for what does not fit.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let start: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        let mut value = (start << 6) | i128::from(first & 0x3f);
        for byte in &field[1..] {
            value = value.checked_mul(256)? | i128::from(*byte);
        }
        return i64::try_from(value).ok();
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() {
        Some(0)
    } else {
        i64::from_str_radix(text, 8).ok()
    }
}

/// Whether a header is as it was written.
pub(super) fn checksum_holds(block: &[u8]) -> bool {
    let Some(stored) = number(&block[148..156]) else {
        return false;
    };
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    // Some old programs added the bytes up as signed numbers.
    let signed = || bytes().map(|b| i64::from(b as i8)).sum::<i64>();
    stored == unsigned || stored == signed()
}

/// The name in a header, with what ustar keeps apart.
pub(super) fn header_path(block: &[u8]) -> Vec<u8> {
    let name = c_string(&block[..100]);
    let prefix = c_string(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

/// `seconds[.fraction]`, possibly negative.
pub(super) fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = ascii(value)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(b"12x\0\0\0\0\0"), None);
        let mut huge = [0xff; 12];
        huge[0] = 0x80 | 0x3f;
        assert_eq!(number(&huge), None);
    }

    #[test]
    fn times() {
        assert_eq!(pax_time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time(b"7"), Some((7, 0)));
        assert_eq!(pax_time(b"1.x"), None);
    }
}
