//! Values that are a number or a percentage (`maxSurge`, `minAvailable`, `partition`).

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share of a total is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To the larger whole number.
    Up,
    /// To the smaller whole number.
    Down,
}

/// A value that is neither a number nor a percentage; the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: {0}")]
pub struct Error(&'static str);

/// The number, or that share of the total.
pub fn scaled(value: &IntOrString, total: i32, round: Round) -> Result<i32, Error> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let share = percentage(text).ok_or(Error("invalid type: string is not a percentage"))?;
            let product = i64::from(share) * i64::from(total);
            let whole = match round {
                Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
                Round::Down => product.div_euclid(100),
            };
            Ok(i32::try_from(whole).unwrap_or(i32::MAX))
        }
    }
}

/// The number before a `%`.
pub fn percentage(text: &str) -> Option<i32> {
    text.strip_suffix('%')?.parse().ok()
}

/// `maxSurge` and `maxUnavailable` of a Deployment as pods. Both zero would never move, so one may be unavailable then.
pub fn rolling(surge: &IntOrString, unavailable: &IntOrString, replicas: i32) -> Result<(i32, i32), Error> {
    let surge = scaled(surge, replicas, Round::Up)?;
    let unavailable = scaled(unavailable, replicas, Round::Down)?;
    Ok(if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        let text = |s: &str| IntOrString::String(s.to_owned());
        for (value, total, up, down) in [
            (IntOrString::Int(3), 10, 3, 3),
            (text("25%"), 10, 3, 2),
            (text("0%"), 10, 0, 0),
            (text("100%"), 7, 7, 7),
            (text("1%"), 1, 1, 0),
        ] {
            assert_eq!(scaled(&value, total, Round::Up), Ok(up));
            assert_eq!(scaled(&value, total, Round::Down), Ok(down));
        }
        assert_eq!(
            scaled(&text("x"), 1, Round::Up).unwrap_err().to_string(),
            "invalid value for IntOrString: invalid type: string is not a percentage"
        );
        assert_eq!(rolling(&text("0%"), &text("25%"), 3), Ok((0, 1)));
        assert_eq!(rolling(&text("25%"), &text("25%"), 10), Ok((3, 2)));
    }
}
