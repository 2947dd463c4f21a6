//! Quantities (`100m`, `1.5Gi`, `12e6`): parsed, compared, added and printed in the canonical form.
//!
//! A quantity is an integer times a power of ten, never finer than a billionth; what is finer is rounded away from zero, since
//! whoever asks for a little should get a little. The form it was written in (binary, decimal, exponent) is kept for printing.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The finest scale, in powers of ten.
const NANO: i32 = -9;
/// Enough digits for any real amount, few enough that aligning two scales stays within `i128`.
const MAX_DIGITS: usize = 36;

/// How a quantity was written and so how it is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `1k`, `100m`.
    #[default]
    DecimalSi,
    /// `1Ki`.
    BinarySi,
    /// `1e3`.
    DecimalExponent,
}

/// An amount of a resource. Equality and order look at the amount alone, not at how it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    /// Together with `scale`: value × 10^scale. No trailing zeros above scale 0 are promised: comparisons align.
    value: i128,
    scale: i32,
    format: Format,
}

/// Texts are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the form sign, digits, suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number before the suffix is none, or has more digits than any amount needs.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

enum Unit {
    Ten(i32, Format),
    Two(u32),
}

fn unit(suffix: &str) -> Option<Unit> {
    Some(match suffix {
        "n" => Unit::Ten(-9, Format::DecimalSi),
        "u" => Unit::Ten(-6, Format::DecimalSi),
        "m" => Unit::Ten(-3, Format::DecimalSi),
        "" => Unit::Ten(0, Format::DecimalSi),
        "k" => Unit::Ten(3, Format::DecimalSi),
        "M" => Unit::Ten(6, Format::DecimalSi),
        "G" => Unit::Ten(9, Format::DecimalSi),
        "T" => Unit::Ten(12, Format::DecimalSi),
        "P" => Unit::Ten(15, Format::DecimalSi),
        "E" => Unit::Ten(18, Format::DecimalSi),
        "Ki" => Unit::Two(10),
        "Mi" => Unit::Two(20),
        "Gi" => Unit::Two(30),
        "Ti" => Unit::Two(40),
        "Pi" => Unit::Two(50),
        "Ei" => Unit::Two(60),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            Unit::Ten(digits.parse().ok()?, Format::DecimalExponent)
        }
    })
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        value: 0,
        scale: 0,
        format: Format::DecimalSi,
    };

    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Self {
        Self {
            value: value as i128,
            scale: 0,
            format,
        }
    }

    /// Thousandths.
    pub const fn from_milli(value: i64, format: Format) -> Self {
        Self {
            value: value as i128,
            scale: -3,
            format,
        }
    }

    /// How it is printed.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Parses what the API accepts.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        if text.is_empty() {
            return Err(Error::Format);
        }
        let digits_end = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
        let (whole, rest) = unsigned.split_at(digits_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
            None => ("", rest),
        };
        // The suffix: letters, then an exponent's sign and digits.
        let tail = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
        let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::Format);
        }
        let unit = unit(suffix).ok_or(Error::Suffix)?;

        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        // What lies behind the digits that can count only decides about rounding up.
        let (fraction, beyond) = fraction.split_at(fraction.len().min(MAX_DIGITS.saturating_sub(whole.len())));
        if whole.len() > MAX_DIGITS {
            return Err(Error::Number);
        }
        let mut value: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            value = value * 10 + i128::from(digit - b'0');
        }
        let mut inexact = !beyond.is_empty();
        let fraction_scale = -i32::try_from(fraction.len()).expect("at most 36 digits");
        let (mut scale, format) = match unit {
            Unit::Ten(exponent, format) => (exponent.saturating_add(fraction_scale), format),
            Unit::Two(bits) => {
                // Upstream caps binary amounts at the largest int64.
                (value, inexact) = scale_by_bits(value, fraction_scale, bits, inexact);
                (
                    if value == 0 || fraction_scale == 0 { 0 } else { NANO },
                    Format::BinarySi,
                )
            }
        };
        if value == 0 && !inexact {
            return Ok(Self {
                value: 0,
                scale: 0,
                format,
            });
        }
        if scale < NANO {
            let (rounded, exact) = shift_down(value, scale.abs_diff(NANO));
            value = rounded + i128::from(!exact || inexact);
            scale = NANO;
        }
        let mut format = format;
        if format == Format::BinarySi {
            let ceiling = Self {
                value: i128::from(i64::MAX),
                scale: 0,
                format,
            };
            let have = Self { value, scale, format };
            if have > ceiling {
                (value, scale) = (ceiling.value, ceiling.scale);
            } else if have < Self::new(1, format) {
                // A binary suffix cannot show a fraction.
                format = Format::DecimalSi;
            }
        }
        Ok(Self {
            value: if negative { -value } else { value },
            scale,
            format,
        })
    }

    /// Whether the amount is zero.
    pub const fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// Whether the amount is below zero.
    pub const fn is_negative(&self) -> bool {
        self.value < 0
    }

    /// The whole number of units, rounded away from zero; the nearest `i64` where it does not fit.
    pub fn as_i64(&self) -> i64 {
        self.scaled(0)
    }

    /// The number of thousandths, rounded away from zero; the nearest `i64` where it does not fit.
    pub fn as_milli(&self) -> i64 {
        self.scaled(-3)
    }

    /// The number of billionths, rounded away from zero; the nearest `i64` where it does not fit.
    pub fn as_nano(&self) -> i64 {
        self.scaled(NANO)
    }

    /// The whole number of units if it is one.
    pub fn exact_i64(&self) -> Option<i64> {
        let (value, exact) = self.at(0)?;
        if exact { i64::try_from(value).ok() } else { None }
    }

    /// The amount as a float, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    fn scaled(&self, scale: i32) -> i64 {
        let nearest = if self.value < 0 { i64::MIN } else { i64::MAX };
        self.at(scale)
            .and_then(|(v, _)| i64::try_from(v).ok())
            .unwrap_or(nearest)
    }

    /// Rounds away from zero to a power of ten (−3: thousandths) and says whether that changed nothing.
    pub fn round_up(&mut self, scale: i32) -> bool {
        if self.scale >= scale {
            return true;
        }
        let Some((value, exact)) = self.at(scale) else {
            return true;
        };
        (self.value, self.scale) = (value, scale);
        exact
    }

    /// The number of 10^scale, rounded away from zero, and whether it is exact; `None` where it does not fit.
    fn at(&self, scale: i32) -> Option<(i128, bool)> {
        if self.value == 0 {
            return Some((0, true));
        }
        if self.scale >= scale {
            let up = self.scale.abs_diff(scale);
            let factor = (up <= 38).then(|| 10i128.checked_pow(up)).flatten()?;
            return Some((self.value.checked_mul(factor)?, true));
        }
        let (value, exact) = shift_down(self.value, self.scale.abs_diff(scale));
        Some((if exact { value } else { value + self.value.signum() }, exact))
    }

    /// The two values at their finer scale, or `None` where one of them does not fit.
    fn align(&self, other: &Self) -> Option<(i128, i128, i32)> {
        let scale = self.scale.min(other.scale);
        Some((self.at(scale)?.0, other.at(scale)?.0, scale))
    }

    /// The mantissa without the zeros at its end, and the power of ten.
    fn normal(&self) -> (i128, i32) {
        let (mut value, mut scale) = (self.value, self.scale);
        while value != 0 && value % 10 == 0 {
            value /= 10;
            scale += 1;
        }
        (value, if value == 0 { 0 } else { scale })
    }
}

/// `value × 10^scale × 2^bits` in billionths where there is a fraction, else in units; saturating.
fn scale_by_bits(value: i128, scale: i32, bits: u32, inexact: bool) -> (i128, bool) {
    let factor = 1i128 << bits;
    if scale == 0 {
        return (value.saturating_mul(factor), inexact);
    }
    let fine = 10i128.pow(scale.unsigned_abs().min(38));
    let (whole, fraction) = (value / fine, value % fine);
    // The whole part is capped far above the largest amount that a binary quantity may have.
    let whole = whole.saturating_mul(factor).min(1i128 << 80);
    // Long division: binary digits of the fraction never exceed `fine`, so nine decimal digits are drawn one at a time.
    let mut carry = fraction;
    let mut units: i128 = 0;
    for bit in (0..bits).rev() {
        carry *= 2;
        if carry >= fine {
            carry -= fine;
            units += 1i128 << bit;
        }
    }
    let mut nanos: i128 = 0;
    for _ in 0..9 {
        carry *= 10;
        nanos = nanos * 10 + carry / fine;
        carry %= fine;
    }
    let total = (whole + units) * 1_000_000_000 + nanos;
    (total + i128::from(carry != 0 || inexact), false)
}

/// Divides by 10^by, toward zero, and says whether nothing was lost.
fn shift_down(value: i128, by: u32) -> (i128, bool) {
    match (by <= 38).then(|| 10i128.pow(by)) {
        Some(factor) => (value / factor, value % factor == 0),
        None => (0, value == 0),
    }
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl TryFrom<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    type Error = Error;

    fn try_from(text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<Self, Error> {
        Self::parse(&text.0)
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

/// The canonical form: no fraction, the largest suffix that keeps the amount exact.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == 0 {
            return f.write_str("0");
        }
        let mut format = self.format;
        if format == Format::BinarySi {
            let small = *self > Self::new(-1024, format) && *self < Self::new(1024, format);
            match self.at(0) {
                Some((mut value, true)) if !small => {
                    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
                    let mut power = 0;
                    while value % 1024 == 0 && power + 1 < SUFFIXES.len() {
                        value /= 1024;
                        power += 1;
                    }
                    return write!(f, "{value}{}", SUFFIXES[power]);
                }
                // Precision is worth more than the suffix.
                _ => format = Format::DecimalSi,
            }
        }
        let (value, mut scale) = self.normal();
        let mut pad = scale.rem_euclid(3);
        if format == Format::DecimalSi && scale - pad > 18 {
            pad = scale - 18;
        }
        scale -= pad;
        write!(f, "{value}")?;
        for _ in 0..pad {
            f.write_str("0")?;
        }
        if format == Format::DecimalExponent {
            return if scale == 0 { Ok(()) } else { write!(f, "e{scale}") };
        }
        f.write_str(match scale {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.normal().hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.align(other) {
            Some((a, b, _)) => a.cmp(&b),
            None => {
                // One of them cannot even be written at the other's scale: signs, then orders of magnitude decide.
                let (a, b) = (self.value.signum(), other.value.signum());
                if a != b {
                    return a.cmp(&b);
                }
                let magnitude = |q: &Self| {
                    let (value, scale) = q.normal();
                    i64::from(value.unsigned_abs().checked_ilog10().unwrap_or(0)) + i64::from(scale)
                };
                let order = magnitude(self).cmp(&magnitude(other));
                if a < 0 { order.reverse() } else { order }
            }
        }
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The form is that of the left side, or of the right one where the left is zero. Saturates.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        match self.align(&other) {
            Some((a, b, scale)) => Self {
                value: a.saturating_add(b),
                scale,
                format,
            },
            None => {
                let larger = if self.as_f64().abs() >= other.as_f64().abs() {
                    self
                } else {
                    other
                };
                Self { format, ..larger }
            }
        }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            value: -self.value,
            ..self
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Text(String),
            Whole(i64),
            Real(f64),
        }
        let text = match Wire::deserialize(from)? {
            Wire::Text(text) => text,
            Wire::Whole(number) => number.to_string(),
            Wire::Real(number) => number.to_string(),
        };
        Self::parse(text.trim()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn quantities_print_canonically() {
        for (given, want) in [
            ("0", "0"),
            ("0n", "0"),
            ("-0", "0"),
            ("+1", "1"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("007", "7"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1500k", "1500k"),
            ("1000k", "1M"),
            ("1Ki", "1Ki"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("1023Ki", "1023Ki"),
            ("0.1Ki", "102400m"),
            ("0.001Gi", "1073741824m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1e-3", "1e-3"),
            ("12e6", "12e6"),
            ("1e4", "10e3"),
            ("1E", "1E"),
            ("1000E", "1000E"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1.1n", "2n"),
            ("-0.1n", "-1n"),
            ("1000000n", "1m"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("123Mi", "123Mi"),
            ("-1Ki", "-1Ki"),
            ("100Ei", "9223372036854775807"),
            ("0.0000000001Ki", "103n"),
            ("9223372036854775807", "9223372036854775807"),
            ("100000000000000000000", "100E"),
            ("3000000000000000000000000000n", "3E"),
        ] {
            assert_eq!(q(given).to_string(), want, "{given}");
        }
    }

    #[test]
    fn bad_quantities_are_refused() {
        for (text, want) in [
            ("", Error::Format),
            ("1a", Error::Format),
            ("1.2.3", Error::Format),
            ("1 Gi", Error::Format),
            ("--1", Error::Suffix),
            ("1Gi2x", Error::Format),
            ("1GB", Error::Format),
            ("1gi", Error::Format),
            ("1e", Error::Suffix),
            ("1ki", Error::Suffix),
            ("1K", Error::Suffix),
            ("1Gi2", Error::Suffix),
            ("1e99999999999", Error::Suffix),
            ("1234567890123456789012345678901234567890", Error::Number),
        ] {
            assert_eq!(Quantity::parse(text).expect_err(text), want, "{text}");
        }
    }

    #[test]
    fn quantities_compare_by_amount() {
        for (a, order, b) in [
            ("1", Ordering::Equal, "1000m"),
            ("1Ki", Ordering::Equal, "1024"),
            ("1k", Ordering::Less, "1Ki"),
            ("1e30", Ordering::Greater, "1n"),
            ("-1e30", Ordering::Less, "1n"),
            ("-1e60", Ordering::Less, "-1e50"),
            ("1e60", Ordering::Greater, "1e50"),
            ("0", Ordering::Less, "1n"),
        ] {
            assert_eq!(q(a).cmp(&q(b)), order, "{a} {b}");
            assert_eq!(q(b).cmp(&q(a)), order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn quantities_round_up_to_numbers() {
        assert_eq!(q("1500m").as_i64(), 2);
        assert_eq!(q("-1500m").as_i64(), -2);
        assert_eq!(q("1u").as_milli(), 1);
        assert_eq!(q("1Gi").as_i64(), 1 << 30);
        assert_eq!(q("2").as_milli(), 2000);
        assert_eq!(q("1e60").as_i64(), i64::MAX);
        assert_eq!(q("1500m").exact_i64(), None);
        assert_eq!(q("1e3").exact_i64(), Some(1000));
        let mut fine = q("1.0005");
        assert!(!fine.round_up(-3));
        assert_eq!(fine.to_string(), "1001m");
    }

    #[test]
    fn sums_keep_the_left_form() {
        assert_eq!((q("1Gi") + q("1Mi")).to_string(), "1025Mi");
        assert_eq!((q("100m") + q("900m")).to_string(), "1");
        assert_eq!((Quantity::ZERO + q("1Ki")).to_string(), "1Ki");
        assert_eq!((q("1") - q("1500m")).to_string(), "-500m");
        assert_eq!(["1", "250m"].into_iter().map(q).sum::<Quantity>().to_string(), "1250m");
    }

    #[test]
    fn json_takes_numbers_and_strings() {
        let parse = |v: serde_json::Value| serde_json::from_value::<Quantity>(v);
        assert_eq!(parse(serde_json::json!(7)).unwrap().to_string(), "7");
        assert_eq!(parse(serde_json::json!(0.5)).unwrap().to_string(), "500m");
        assert_eq!(serde_json::to_value(q("1024Mi")).unwrap(), "1Gi");
        assert!(parse(serde_json::json!("x")).is_err());
    }

    proptest! {
        #[test]
        fn printing_and_parsing_keep_the_amount(value in any::<i64>(), scale in -12i32..20, suffix in "(n|u|m||k|M|G|T|Ki|Mi|Gi|Ti)") {
            let text = if suffix.is_empty() { format!("{value}e{scale}") } else { format!("{value}{suffix}") };
            let have = q(&text);
            let again = q(&have.to_string());
            prop_assert_eq!(have, again);
            prop_assert_eq!(again.to_string(), have.to_string());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[-+0-9.eEinumkKMGTPx ]{0,50}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(q(&quantity.to_string()), quantity);
            }
        }

        #[test]
        fn adding_and_taking_away_changes_nothing(a in any::<i32>(), b in any::<i32>(), unit in "(m|k|Ki)") {
            let (a, b) = (q(&format!("{a}{unit}")), q(&format!("{b}n")));
            prop_assert_eq!(a + b - b, a);
            prop_assert_eq!((a + b).cmp(&a), b.cmp(&Quantity::ZERO));
        }
    }
}
