//! Cron schedules: five fields or a word, as the CronJob controller reads them (robfig/cron, standard parser), and the
//! times that they mean.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// A schedule that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that fit.
    At(Fields),
    /// Again and again after this many seconds.
    Every(i64),
}

/// Which minutes fit: a bit for each value of each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month and of the week both have to fit, because one of them was left open.
    both: bool,
}

/// Reads a schedule, or says what is wrong with it.
pub fn parse(schedule: &str) -> Result<Schedule, String> {
    let schedule = schedule.trim();
    if schedule.is_empty() {
        return Err("empty spec string".into());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        return descriptor(word, schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields[..] else {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    };
    let (minutes, _) = field(minutes, (0, 59, &[]))?;
    let (hours, _) = field(hours, (0, 23, &[]))?;
    let (days, all_days) = field(days, (1, 31, &[]))?;
    let (months, _) = field(months, (1, 12, MONTHS))?;
    let (weekdays, all_weekdays) = field(weekdays, (0, 6, DAYS))?;
    Ok(Schedule::At(Fields {
        minutes,
        hours,
        days,
        months,
        weekdays,
        both: all_days || all_weekdays,
    }))
}

/// One field: its bits, and whether it leaves everything open.
fn field(text: &str, bounds: (u32, u32, &[&str])) -> Result<(u64, bool), String> {
    let (mut bits, mut open) = (0, false);
    for part in text.split(',') {
        let (part, all) = range(part, bounds)?;
        bits |= part;
        open |= all;
    }
    Ok((bits, open))
}

impl Schedule {
    /// The first time after this one, in a time zone; none where there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(seconds) => Timestamp::from_second(after.as_second().checked_add(*seconds)?).ok(),
            Schedule::At(fields) => fields.next(after, zone),
        }
    }
}

impl Fields {
    fn fits_day(&self, day: &Zoned) -> bool {
        let of_month = has(self.days, day.day());
        let of_week = has(self.weekdays, day.weekday().to_sunday_zero_offset());
        if self.both {
            of_month && of_week
        } else {
            of_month || of_week
        }
    }

    /// Days go by the calendar; hours and minutes go by as they really do, so that an hour that a change of the clock
    /// leaves out has no schedule and one that comes twice has two.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let later = |at: &Zoned, seconds: i64| at.checked_add(SignedDuration::from_secs(seconds)).ok();
        let start = Timestamp::from_second(after.as_second().checked_add(1)?).ok()?;
        let mut at = start.to_zoned(zone.clone());
        let last_year = at.year() + 5;
        'again: loop {
            if at.year() > last_year {
                return None;
            }
            while !has(self.months, at.month()) {
                at = at.last_of_month().ok()?.tomorrow().ok()?.start_of_day().ok()?;
                if at.month() == 1 {
                    continue 'again;
                }
            }
            while !self.fits_day(&at) {
                at = at.tomorrow().ok()?.start_of_day().ok()?;
                if at.day() == 1 {
                    continue 'again;
                }
            }
            while !has(self.hours, at.hour()) {
                let into = i64::from(at.minute()) * 60 + i64::from(at.second());
                at = later(&at, 3600 - into)?;
                if at.hour() == 0 {
                    continue 'again;
                }
            }
            while !has(self.minutes, at.minute()) || at.second() != 0 {
                at = later(&at, 60 - i64::from(at.second()))?;
                if at.minute() == 0 {
                    continue 'again;
                }
            }
            return Some(at.timestamp());
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn descriptor(word: &str, schedule: &str) -> Result<Schedule, String> {
    if let Some(every) = word.strip_prefix("every ") {
        return match go_duration(every) {
            // Less than a second is a second.
            Some(seconds) => Ok(Schedule::Every(seconds.max(1))),
            None => Err(format!(
                "failed to parse duration {schedule}: time: invalid duration \"{every}\""
            )),
        };
    }
    parse(match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => return Err(format!("unrecognized descriptor: {schedule}")),
    })
}

/// `1h30m`, as Go's time.ParseDuration takes it, in whole seconds.
fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = None;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("µs", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let fitting = units.into_iter().filter(|(name, _)| tail.starts_with(name));
        let (name, seconds) = fitting.max_by_key(|(name, _)| name.len())?;
        total = Some(total.unwrap_or(0.0) + number.parse::<f64>().ok()? * seconds);
        rest = &tail[name.len()..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "parts of a second do not count")]
    let total = total? as i64;
    Some(if negative { -total } else { total })
}

/// `*`, `3`, `mon-fri`, `*/5`, `1-10/2`.
fn range(part: &str, (min, max, names): (u32, u32, &[&str])) -> Result<(u64, bool), String> {
    let (span, step) = match part.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {part}")),
        Some((span, step)) => (span, Some(step)),
        None => (part, None),
    };
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = names.iter().position(|name| *name == lower) {
            return Ok(index as u32 + min);
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
    };
    let (start, end) = match span.split_once('-') {
        _ if span == "*" || span == "?" => (min, max),
        Some((_, rest)) if rest.contains('-') => return Err(format!("too many hyphens: {part}")),
        Some((from, to)) => (number(from)?, number(to)?),
        None => {
            let one = number(span)?;
            (one, if step.is_some() { max } else { one })
        }
    };
    let step = step.map_or(Ok(1), number)?;
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {part}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {part}"));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let bits = (start..=end)
        .step_by(step as usize)
        .fold(0, |bits, value| bits | 1 << value);
    Ok((bits, matches!(span, "*" | "?") && step == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_does() {
        for good in [
            "* * * * *",
            "*/5 0-6,12 1 jan-MAR mon",
            "? ? ? ? ?",
            "@daily",
            "@every 1h30m",
            "5/15 * * * 0",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "* * * * 7",
            "*/0 * * * *",
            "a * * * *",
            "5-1 * * * *",
            "@often",
            "@every x",
            "1/2/3 * * * *",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse("* * * *").unwrap_err(),
            "expected exactly 5 fields, found 4: [* * * *]"
        );
    }

    fn next(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = parse(schedule).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut all = Vec::new();
        while all.len() < count {
            let Some(next) = schedule.next(at, &zone) else { break };
            all.push(next.to_string());
            at = next;
        }
        all
    }

    #[test]
    fn the_next_times_of_a_schedule() {
        for (schedule, after, want) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:30.5Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
            ("5/20 3 * * *", "2026-01-01T03:26:00Z", "2026-01-01T03:45:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 29 feb ?", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            // Both are asked for: either will do. One is left open: the other decides.
            ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 */2 * fri", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.9Z", "2026-01-01T01:30:00Z"),
            ("@every 1ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ] {
            assert_eq!(next(schedule, "UTC", after, 1), [want], "{schedule} {after}");
        }
        assert!(
            next("59 23 31 2 *", "UTC", "2026-01-01T00:00:00Z", 1).is_empty(),
            "there is no such day"
        );
    }

    #[test]
    fn a_change_of_the_clock_leaves_out_an_hour_and_repeats_one() {
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2),
            ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            next("0 9 * * *", "Asia/Kolkata", "2026-01-01T00:00:00Z", 1),
            ["2026-01-01T03:30:00Z"]
        );
    }
}
