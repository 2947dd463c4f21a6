//! Cron schedules: five fields or a word, as the CronJob controller reads them (robfig/cron, standard parser).

/// What is wrong with a schedule, if anything.
pub fn check(schedule: &str) -> Result<(), String> {
    let schedule = schedule.trim();
    if schedule.is_empty() {
        return Err("empty spec string".into());
    }
    if let Some(word) = schedule.strip_prefix('@') {
        return descriptor(word, schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    const BOUNDS: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    fields
        .iter()
        .zip(BOUNDS)
        .try_for_each(|(field, bounds)| field.split(',').try_for_each(|part| range(part, bounds)))
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn descriptor(word: &str, schedule: &str) -> Result<(), String> {
    if let Some(every) = word.strip_prefix("every ") {
        return if go_duration(every) {
            Ok(())
        } else {
            Err(format!(
                "failed to parse duration {schedule}: time: invalid duration \"{every}\""
            ))
        };
    }
    match word {
        "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
        _ => Err(format!("unrecognized descriptor: {schedule}")),
    }
}

/// `1h30m`, as Go's time.ParseDuration takes it.
fn go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|u| tail.starts_with(u))
            .max_by_key(|u| u.len())
        else {
            return false;
        };
        if number.parse::<f64>().is_err() {
            return false;
        }
        rest = &tail[unit.len()..];
        any = true;
    }
    any
}

/// `*`, `3`, `mon-fri`, `*/5`, `1-10/2`.
fn range(part: &str, (min, max, names): (u32, u32, &[&str])) -> Result<(), String> {
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
    Ok(())
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
            assert_eq!(check(good), Ok(()), "{good}");
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
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            check("* * * *").unwrap_err(),
            "expected exactly 5 fields, found 4: [* * * *]"
        );
    }
}
