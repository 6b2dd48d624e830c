//! Sizes and times in docker's words.

use chrono::{DateTime, Utc};

/// Bytes with three digits and decimal units: `1.23MB`.
pub fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Bytes with binary units: `1.2MiB`.
pub fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", units[unit])
}

/// `5 minutes ago`.
pub fn ago(time: DateTime<Utc>) -> String {
    format!(
        "{} ago",
        coracle_api::human((Utc::now() - time).num_seconds().max(0))
    )
}

/// Cuts with an ellipsis, as docker does.
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The first 12 digits of an id, without its algorithm.
pub fn short(id: &str) -> String {
    id.strip_prefix("sha256:")
        .unwrap_or(id)
        .chars()
        .take(12)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (1_234_000.0, "1.23MB"),
            (12_000_000.0, "12MB"),
            (130_300_000.0, "130MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(binary(3.5 * 1024.0 * 1024.0), "3.5MiB");
    }

    #[test]
    fn cuts() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
