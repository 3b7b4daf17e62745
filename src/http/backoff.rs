//! How long to wait before asking again: exponential backoff with full jitter (Brooker, "Exponential
//! Backoff And Jitter", AWS Architecture Blog 2015), or what the server asks for in `Retry-After`
//! (RFC 9110, section 10.2.3).

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest step of the backoff.
pub const LONGEST: Duration = Duration::from_secs(30);

/// A wait before the `attempt`-th new attempt (the first is 1): anything from 0 to `base * 2^(attempt-1)`.
/// It follows no seed of the run: when a request is sent never decides what it asks.
pub fn full_jitter(base: Duration, attempt: u32) -> Duration {
    let step = base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST);
    // A new `RandomState` has keys of its own; 53 of its bits make a number from 0 to 1.
    let random = (RandomState::new().hash_one(attempt) >> 11) as f64 / (1u64 << 53) as f64;
    step.mul_f64(random)
}

/// The wait that a `Retry-After` header asks for: whole seconds, or a date.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let then = UNIX_EPOCH + Duration::from_secs(http_date(value)?);
    Some(then.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one format that servers may send.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let fields: Vec<&str> = text.split_once(", ")?.1.split([' ', ':']).collect();
    let [day, month, year, hour, minute, second, "GMT"] = fields[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let number = |text: &str, range: std::ops::RangeInclusive<u64>| {
        text.parse::<u64>().ok().filter(|number| range.contains(number))
    };
    let (day, year) = (number(day, 1..=31)?, number(year, 1970..=9999)?);
    // Days since 1970, with years that begin in March, so that the leap day is the last.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = 365 * shifted_year + leap_days + (153 * shifted_month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + number(hour, 0..=23)? * 3600 + number(minute, 0..=59)? * 60 + number(second, 0..=60)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a date read wrong around leap days, a date in the past that makes the wait huge.
    #[test]
    fn retry_after_is_read() {
        // `date -u -d '...' +%s`
        for (date, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Fri, 31 Dec 2100 12:00:00 GMT", 4_133_937_600),
        ] {
            assert_eq!(http_date(date), Some(seconds), "{date}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now),
            Some(Duration::from_secs(7))
        );
        assert_eq!(retry_after("Sun, 06 Nov 1993 08:49:37 GMT", now), Some(Duration::ZERO));
        for wrong in [
            "",
            "soon",
            "-1",
            "1.5",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Xxx 1994 08:49:37 GMT",
        ] {
            assert_eq!(retry_after(wrong, now), None, "{wrong}");
        }
    }

    /// Catches: a step that overflows, or that grows past the longest.
    #[test]
    fn the_backoff_grows_and_is_bounded() {
        let base = Duration::from_millis(500);
        for attempt in [1, 2, 7, 8, 40, u32::MAX] {
            let step = base.saturating_mul(1 << (attempt - 1).min(20)).min(LONGEST);
            for _ in 0..50 {
                assert!(full_jitter(base, attempt) <= step);
            }
        }
        let longest = (0..200).map(|_| full_jitter(base, 3)).max().unwrap();
        assert!(longest > Duration::from_secs(1), "the jitter is not full: {longest:?}");
    }
}
