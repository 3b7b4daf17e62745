//! Numbers that arguments may be. What no arithmetic can use, NaN first, is refused where it is typed.
//!
//! Each function reads a text as a number of either width, for the parser of arguments.

use std::fmt::Display;
use std::str::FromStr;

/// A number of at least 0: rates, weights, coefficients.
pub fn amount<T: FromStr + Into<f64> + Copy + Display>(text: &str) -> Result<T, String> {
    within(text, |value| value >= 0.0, "a number of at least 0")
}

/// A number above 0: temperatures that divide, penalties.
pub fn positive<T: FromStr + Into<f64> + Copy + Display>(text: &str) -> Result<T, String> {
    within(text, |value| value > 0.0, "a number greater than 0")
}

/// A number from 0 to 1.
pub fn share<T: FromStr + Into<f64> + Copy + Display>(text: &str) -> Result<T, String> {
    within(text, |value| (0.0..=1.0).contains(&value), "a number from 0 to 1")
}

/// Any number but NaN and the infinities.
pub fn finite<T: FromStr + Into<f64> + Copy + Display>(text: &str) -> Result<T, String> {
    within(text, |_| true, "a finite number")
}

/// A whole number of at least 1.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("expected a whole number of at least 1".to_owned()),
    }
}

fn within<T: FromStr + Into<f64> + Copy + Display>(
    text: &str,
    fits: impl Fn(f64) -> bool,
    expected: &str,
) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(value) if value.into().is_finite() && fits(value.into()) => Ok(value),
        _ => Err(format!("expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a bound that is off, NaN and infinities let through.
    #[test]
    fn what_no_arithmetic_can_use_is_refused() {
        for text in ["NaN", "inf", "-inf", "1e999", "", "one"] {
            assert!(finite::<f64>(text).is_err(), "{text}");
            assert!(amount::<f32>(text).is_err(), "{text}");
        }
        assert!(finite::<f32>("1e39").is_err(), "beyond f32");
        assert_eq!(
            [amount("0"), positive("1e-9"), share("1"), finite("-1")],
            [Ok(0.0), Ok(1e-9), Ok(1.0), Ok(-1.0)]
        );
        assert!(amount::<f64>("-1e-9").is_err());
        assert!(positive::<f64>("0").is_err());
        assert!(share::<f64>("1.1").is_err());
        assert_eq!(count("1"), Ok(1));
        assert!(["0", "-1", "1.5"].iter().all(|text| count(text).is_err()));
    }
}
