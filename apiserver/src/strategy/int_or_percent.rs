//! Numbers that may also be a share: `3` or `25%`.

use serde_json::Value;

use super::field::{Field, NEGATIVE};
use crate::status::Errors;

fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if good { digits.parse().ok() } else { None }
}

/// A number that is not negative, or a percentage.
pub fn validate(field: &Field, errors: &mut Errors) {
    match field.value() {
        Some(Value::String(text)) if percent(text).is_none() => {
            field.invalid(
                    errors,
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                );
        }
        Some(_) if field.number() < 0 => field.invalid(errors, NEGATIVE),
        _ => {}
    }
}

/// At most all of them.
pub fn at_most_all(field: &Field, errors: &mut Errors) {
    if percent(field.str()).is_some_and(|share| share > 100) {
        field.invalid(errors, "must not be greater than 100%");
    }
}

/// None of them, as a number or a share.
pub fn is_none(field: &Field) -> bool {
    match field.value() {
        Some(Value::String(text)) => percent(text).unwrap_or(0) == 0,
        _ => field.number() == 0,
    }
}
