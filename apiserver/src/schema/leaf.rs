//! Values with a form of their own: quantities, times, durations, base64. Text in, the text that the server writes
//! out, or the error text of Go's parser.

use jiff::Timestamp;
use jiff::tz::Offset;

/// A quantity in its canonical form.
pub(super) fn quantity(text: &str) -> Result<String, String> {
    api::quantity::Quantity::parse(text.trim())
        .map(|q| q.to_string())
        .map_err(|e| e.to_string())
}

const SECONDS: &str = "2006-01-02T15:04:05Z07:00";
const MICROS: &str = "2006-01-02T15:04:05.000000Z07:00";

/// RFC 3339 as Go reads it, in UTC with whole seconds.
pub(super) fn time(text: &str) -> Result<String, String> {
    let at = rfc3339(text, SECONDS, false)?;
    Ok(Offset::UTC.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The same with six digits of a second.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    let at = rfc3339(text, MICROS, true)?;
    Ok(Offset::UTC
        .to_datetime(at)
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string())
}

/// Go's `time.Parse` for the two layouts; `micros` requires exactly six digits of a second.
fn rfc3339(text: &str, layout: &str, micros: bool) -> Result<Timestamp, String> {
    let fail = |rest: &str, element: &str| {
        Err(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}"
        ))
    };
    let bytes = text.as_bytes();
    let mut at = 0;
    // The layout's elements with what stands before each.
    for (separator, element, width) in [
        ("", "2006", 4),
        ("-", "01", 2),
        ("-", "02", 2),
        ("T", "15", 2),
        (":", "04", 2),
        (":", "05", 2),
    ] {
        let Some(rest) = text.get(at..) else {
            return fail("", element);
        };
        if !rest.starts_with(separator) {
            return fail(rest, separator);
        }
        at += separator.len();
        if bytes.len() < at + width || !bytes[at..at + width].iter().all(u8::is_ascii_digit) {
            return fail(text.get(at..).unwrap_or_default(), element);
        }
        at += width;
    }
    let rest = text.get(at..).unwrap_or_default();
    let fraction = match rest.strip_prefix(['.', ',']) {
        Some(digits) => 1 + digits.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    if micros && fraction != 7 {
        return fail(rest, ".000000");
    }
    let zone = rest.get(fraction..).unwrap_or_default();
    let number = |from: usize, to: usize| text[from..to].parse::<i8>().unwrap_or(0);
    let seconds_east = if zone == "Z" {
        0
    } else {
        let z = zone.as_bytes();
        let shaped = z.len() == 6 && matches!(z[0], b'+' | b'-') && z[3] == b':';
        let digits = shaped && [1, 2, 4, 5].iter().all(|i| z[*i].is_ascii_digit());
        if let Some(extra) = zone.strip_prefix('Z') {
            return Err(format!("parsing time {text:?}: extra text: {extra:?}"));
        }
        if !digits {
            return fail(zone, "Z07:00");
        }
        let value = |i: usize| i32::from(z[i] - b'0') * 10 + i32::from(z[i + 1] - b'0');
        if value(1) > 24 || value(4) >= 60 {
            return Err(format!("parsing time {text:?}: time zone offset hour out of range"));
        }
        (value(1) * 3600 + value(4) * 60) * if z[0] == b'-' { -1 } else { 1 }
    };
    for (value, low, high, what) in [
        (number(5, 7), 1, 12, "month"),
        (number(11, 13), 0, 23, "hour"),
        (number(14, 16), 0, 59, "minute"),
        (number(17, 19), 0, 59, "second"),
    ] {
        if value < low || value > high {
            return Err(format!("parsing time {text:?}: {what} out of range"));
        }
    }
    let year: i16 = text[0..4].parse().unwrap_or(0);
    let mut nanos = 0;
    let digits = rest.get(1..fraction.max(1)).unwrap_or_default();
    for i in 0..9 {
        nanos = nanos * 10 + digits.as_bytes().get(i).map_or(0, |d| i32::from(d - b'0'));
    }
    let civil = jiff::civil::DateTime::new(
        year,
        number(5, 7),
        number(8, 10),
        number(11, 13),
        number(14, 16),
        number(17, 19),
        nanos,
    )
    .map_err(|_| format!("parsing time {text:?}: day out of range"))?;
    Offset::UTC
        .to_timestamp(civil)
        .ok()
        .and_then(|t| {
            t.checked_sub(jiff::SignedDuration::from_secs(i64::from(seconds_east)))
                .ok()
        })
        .ok_or_else(|| format!("parsing time {text:?}: day out of range"))
}

/// Seconds since 1970 and nanoseconds of a time in either form.
pub(super) fn instant(text: &str) -> Option<(i64, i32)> {
    let at = rfc3339(text, SECONDS, false).ok()?;
    // Before 1970 the parts count down; the wire counts nanoseconds up.
    let (seconds, nanos) = (at.as_second(), at.subsec_nanosecond());
    Some(if nanos < 0 {
        (seconds - 1, nanos + 1_000_000_000)
    } else {
        (seconds, nanos)
    })
}

/// The text of an instant, with whole seconds or with microseconds.
pub(super) fn print_instant(seconds: i64, nanos: i32, micros: bool) -> Option<String> {
    let at = Offset::UTC.to_datetime(Timestamp::new(seconds, nanos).ok()?);
    let form = if micros {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Some(at.strftime(form).to_string())
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub(super) fn duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
        let digits = &rest[..whole];
        rest = &rest[whole..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let count = after.bytes().take_while(u8::is_ascii_digit).count();
            fraction = &after[..count];
            rest = &after[count..];
        }
        if digits.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = &rest[..end];
        let scale: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        rest = &rest[end..];
        let value: i128 = if digits.is_empty() {
            0
        } else {
            digits.parse().map_err(|_| invalid())?
        };
        total = value
            .checked_mul(scale)
            .and_then(|v| v.checked_add(total))
            .ok_or_else(invalid)?;
        let mut part = scale;
        for digit in fraction.bytes() {
            part /= 10;
            total += part * i128::from(digit - b'0');
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Go's `Duration.String`.
pub(super) fn print_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, scale: u64, digits: usize| {
        let rest = format!("{:0digits$}", value % scale);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() {
            format!("{}", value / scale)
        } else {
            format!("{}.{rest}", value / scale)
        }
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000, 6)),
        _ => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, 9);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// Standard base64 with padding, line breaks ignored; the error counts bytes as Go does.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    let clean: String;
    let source = if text.contains(['\r', '\n']) {
        clean = text.replace(['\r', '\n'], "");
        &clean
    } else {
        text
    };
    base64::engine::general_purpose::STANDARD.decode(source).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => source.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// The canonical text of bytes.
pub(super) fn print_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_normalised_or_refused_as_go_does() {
        for (text, want) in [
            ("2026-01-02T03:04:05Z", Ok("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05.999Z", Ok("2026-01-02T03:04:05Z")),
            ("2026-01-02T03:04:05+02:00", Ok("2026-01-02T01:04:05Z")),
            (
                "2026-01-02",
                Err(r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
            ),
            (
                "x",
                Err(r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#),
            ),
            (
                "",
                Err(r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#),
            ),
            (
                "2026-13-02T03:04:05Z",
                Err(r#"parsing time "2026-13-02T03:04:05Z": month out of range"#),
            ),
            (
                "2026-02-30T03:04:05Z",
                Err(r#"parsing time "2026-02-30T03:04:05Z": day out of range"#),
            ),
            (
                "2026-01-02T03:04:05",
                Err(
                    r#"parsing time "2026-01-02T03:04:05" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
                ),
            ),
        ] {
            assert_eq!(time(text).as_deref().map_err(String::as_str), want, "{text}");
        }
        assert!(micro_time("2026-01-02T03:04:05.1234567Z").is_err());
        assert_eq!(
            micro_time("2026-01-02T03:04:05.120000Z").unwrap(),
            "2026-01-02T03:04:05.120000Z"
        );
    }

    #[test]
    fn durations_read_and_print_as_go_does() {
        for (text, want) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("100ms", "100ms"),
            ("-1m", "-1m0s"),
            ("0", "0s"),
            ("1us", "1µs"),
        ] {
            assert_eq!(print_duration(duration(text).unwrap()), want);
        }
        assert_eq!(duration("x").unwrap_err(), "time: invalid duration \"x\"");
        assert_eq!(duration("1").unwrap_err(), "time: missing unit in duration \"1\"");
        assert_eq!(
            duration("1y").unwrap_err(),
            "time: unknown unit \"y\" in duration \"1y\""
        );
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(base64("YWJj\n").unwrap(), b"abc");
        assert_eq!(base64("a*bc").unwrap_err(), "illegal base64 data at input byte 1");
        assert!(base64("YWJ").is_err());
    }
}
