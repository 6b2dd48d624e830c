//! `coreos.locksmith`: when the machine may reboot, as locksmith had it.
use crate::fields::{At, Keys};
use crate::model::{Weekday, Window};
use crate::problem::{Problems, quoted};
use std::fmt;

const KEYS: Keys = Keys {
    known: &["window_start", "window_length"],
    refused: &[
        (
            "max",
            "how many machines may reboot at once is for all of them: remove it, and use `coracle os rollout at-once`",
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
    let window = Window {
        weekday,
        minute_of_day,
        length_minutes,
    };
    if let Err(why) = window.fits() {
        length?.fail(out, why);
        return None;
    }
    Some(window)
}

impl Window {
    /// A window from the texts that `coreos.locksmith` takes: `Thu 23:00` or `23:00`, and `1h30m`.
    ///
    /// # Errors
    /// What is wrong with one of them, and the way out.
    pub fn parse(start: &str, length: &str) -> Result<Self, String> {
        let (weekday, minute_of_day) = start_of(start)?;
        let window = Self {
            weekday,
            minute_of_day,
            length_minutes: minutes(length)?,
        };
        window
            .fits()
            .map_err(|why| format!("{} {why}", quoted(length)))?;
        Ok(window)
    }

    /// Seconds after which it comes again.
    fn period(&self) -> u64 {
        let days = if self.weekday.is_some() { 7 } else { 1 };
        days * u64::from(DAY) * 60
    }

    fn fits(&self) -> Result<(), String> {
        match u64::from(self.length_minutes) * 60 > self.period() {
            true => Err(format!(
                "is longer than {} h, when the window comes again; write less",
                self.period() / 3600
            )),
            false => Ok(()),
        }
    }

    /// Seconds until it opens, 0 while it is open. `now` is in seconds since 1970; the window's times are UTC.
    pub fn opens_in(&self, now: u64) -> u64 {
        // 1970 began on a Thursday.
        let day = self.weekday.map_or(0, |day| (day as u64 + 4) % 7);
        let start = (day * u64::from(DAY) + u64::from(self.minute_of_day)) * 60;
        let period = self.period();
        let since = (now % period + period - start) % period;
        match since < u64::from(self.length_minutes) * 60 {
            true => 0,
            false => period - since,
        }
    }

    /// When it begins, as [`Self::parse`] takes it.
    pub fn start(&self) -> String {
        let (hour, minute) = (self.minute_of_day / 60, self.minute_of_day % 60);
        let day = self.weekday.map_or(String::new(), |day| {
            let (name, _) = DAYS[day as usize];
            format!("{}{} ", name[..1].to_uppercase(), &name[1..3])
        });
        format!("{day}{hour:02}:{minute:02}")
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} UTC for {} min", self.start(), self.length_minutes)
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Thursday, 2026-11-26, 00:00 UTC.
    const THURSDAY: u64 = 1_795_651_200;
    const HOUR: u64 = 3600;

    #[test]
    fn a_window_of_each_day_is_open_for_its_length_and_comes_again() {
        let window = Window::parse("23:30", "1h").unwrap();
        let opens = |hour: u64, minute: u64| window.opens_in(THURSDAY + hour * HOUR + minute * 60);
        assert_eq!((opens(23, 30), opens(23, 59), opens(0, 29)), (0, 0, 0));
        assert_eq!(opens(0, 30), 23 * HOUR);
        assert_eq!(opens(23, 29), 60);
    }

    #[test]
    fn a_window_of_a_weekday_comes_once_a_week() {
        let window = Window::parse("Thu 04:00", "90m").unwrap();
        assert_eq!(window.opens_in(THURSDAY), 4 * HOUR);
        assert_eq!(window.opens_in(THURSDAY + 4 * HOUR), 0);
        assert_eq!(window.opens_in(THURSDAY + 5 * HOUR + 29 * 60), 0);
        let week = 7 * 24 * HOUR;
        assert_eq!(
            window.opens_in(THURSDAY + 5 * HOUR + 30 * 60),
            week - 90 * 60
        );
        let window = Window::parse("monday 4:00", "168h").unwrap();
        assert_eq!(window.opens_in(THURSDAY), 0, "it is always open");
        let sunday = Window::parse("Sun 00:00", "1h").unwrap();
        assert_eq!(sunday.opens_in(THURSDAY + 3 * 24 * HOUR), 0);
        assert_eq!(sunday.opens_in(THURSDAY), 3 * 24 * HOUR);
    }

    #[test]
    fn it_is_shown_as_it_is_read() {
        for (start, length) in [("Thu 04:00", "90m"), ("23:05", "30m"), ("Sun 00:00", "60m")] {
            let window = Window::parse(start, length).unwrap();
            assert_eq!(window.start(), start);
            let again = format!("{}m", window.length_minutes);
            assert_eq!(Window::parse(&window.start(), &again), Ok(window));
        }
        assert!(Window::parse("23:00", "25h").unwrap_err().contains("24 h"));
    }
}
