//! `coreos.locksmith`: when the machine may reboot, as locksmith had it.
use crate::fields::{At, Keys};
use crate::model::{Weekday, Window};
use crate::problem::{Problems, quoted};

const KEYS: Keys = Keys {
    known: &["window_start", "window_length"],
    refused: &[
        (
            "max",
            "how many machines may reboot at once is not written here; remove it",
        ),
        (
            "endpoint etcd_cafile etcd_certfile etcd_keyfile etcd_username etcd_password",
            "the lock is in Coracle's own store; remove it",
        ),
        ("group", "locks of groups are not had here; remove it"),
        ("reboot_strategy", "write coreos.update.reboot_strategy"),
    ],
};

const DAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];
const DAY: u32 = 24 * 60;

pub(crate) fn read(at: &At<'_>, out: &mut Problems) -> Option<Window> {
    let fields = at.fields(&KEYS, out)?;
    let (start, length) = (fields.get("window_start"), fields.get("window_length"));
    let begins = start.map(|at| at.read(out, start_of));
    let lasts = length.map(|at| at.read(out, minutes));
    match (start, length) {
        (None, None) => return None,
        (Some(at), None) => at.fail(
            out,
            "window_length is missing beside it; write for example 1h",
        ),
        (None, Some(at)) => at.fail(
            out,
            "window_start is missing beside it; write for example Thu 23:00",
        ),
        (Some(_), Some(_)) => {}
    }
    let ((weekday, minute_of_day), length_minutes) = (begins??, lasts??);
    let most = if weekday.is_some() { 7 * DAY } else { DAY };
    if length_minutes > most {
        length?.fail(
            out,
            format!(
                "is longer than {} h, when the window comes again; write less",
                most / 60
            ),
        );
        return None;
    }
    Some(Window {
        weekday,
        minute_of_day,
        length_minutes,
    })
}

/// `Thu 23:00` or `23:00`.
fn start_of(text: &str) -> Result<(Option<Weekday>, u16), String> {
    let bad = || {
        format!(
            "{} is no time; write for example 23:00 or Thu 23:00",
            quoted(text)
        )
    };
    let (day, time) = match text.split_once(' ') {
        Some((day, time)) => (Some(weekday(day).ok_or_else(bad)?), time.trim()),
        None => (None, text),
    };
    let number = |part: &str, length, below: u16| {
        let digits = (1..=length).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|n| digits && *n < below)
    };
    let (hour, minute) = time.split_once(':').ok_or_else(bad)?;
    let minute = number(minute, 2, 60).filter(|_| minute.len() == 2);
    let (hour, minute) = number(hour, 2, 24).zip(minute).ok_or_else(bad)?;
    Ok((day, hour * 60 + minute))
}

fn weekday(text: &str) -> Option<Weekday> {
    let low = text.to_lowercase();
    let found = DAYS.iter().find(|(day, _)| low == *day || low == day[..3]);
    found.map(|(_, day)| *day)
}

/// A duration as Go has it, of whole minutes: `1h`, `1h30m`, `90m`.
fn minutes(text: &str) -> Result<u32, String> {
    let bad = || {
        format!(
            "{} is no duration of whole minutes; write for example 1h or 30m",
            quoted(text)
        )
    };
    let (mut rest, mut seconds) = (text, 0u32);
    while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
        let number: u32 = rest[..end].parse().map_err(|_| bad())?;
        let unit = match rest[end..].chars().next() {
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(bad()),
        };
        let part = number.checked_mul(unit).ok_or_else(bad)?;
        seconds = seconds.checked_add(part).ok_or_else(bad)?;
        rest = &rest[end + 1..];
    }
    match rest.is_empty() && seconds > 0 && seconds % 60 == 0 {
        true => Ok(seconds / 60),
        false => Err(bad()),
    }
}
