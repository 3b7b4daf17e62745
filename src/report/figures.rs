//! How numbers are written: the same everywhere, and "–" for what was not measured.
//!
//! Numbers and units are joined by a no-break space, so that a line never breaks between them; the
//! terminal, which does not wrap, gets plain spaces (see [`plain`]).

/// Stands for a figure that is missing or not finite.
pub const MISSING: &str = "–";

/// U+202F NARROW NO-BREAK SPACE.
const THIN: char = '\u{202f}';

/// A rate in 0..1 with one decimal: `74.5 %`.
pub fn percent(rate: Option<f64>) -> String {
    finite(rate).map_or_else(missing, |rate| format!("{}{THIN}%", decimal(rate * 100.0, 1)))
}

/// A rate for a headline, without decimals: `74 %`. Never rounds some to none or not quite all to all.
pub fn percent_short(rate: Option<f64>) -> String {
    let Some(rate) = finite(rate) else {
        return missing();
    };
    let rounded = (rate * 100.0).round();
    if rate > 0.0 && rounded < 1.0 {
        format!("<{THIN}1{THIN}%")
    } else if rate < 1.0 && rounded >= 100.0 {
        format!(">{THIN}99{THIN}%")
    } else {
        format!("{}{THIN}%", decimal(rounded, 0))
    }
}

/// A measured number with one decimal.
pub fn one_decimal(value: Option<f64>) -> String {
    finite(value).map_or_else(missing, |value| decimal(value, 1))
}

/// A measured number with two decimals.
pub fn two_decimals(value: Option<f64>) -> String {
    finite(value).map_or_else(missing, |value| decimal(value, 2))
}

/// A whole number, its thousands apart: `12 800`.
pub fn count(value: Option<u64>) -> String {
    let Some(value) = value else {
        return missing();
    };
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + 4);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            text.push(THIN);
        }
        text.push(digit);
    }
    text
}

/// A duration: `0.42 s`, `4.2 s`, `41 s`, `1 min 53 s`, `2 h 05 min`.
pub fn duration(seconds: Option<f64>) -> String {
    let Some(seconds) = finite(seconds) else {
        return missing();
    };
    let whole = seconds.round() as i64;
    if seconds < 0.995 {
        format!("{seconds:.2}{THIN}s")
    } else if seconds < 9.95 {
        format!("{seconds:.1}{THIN}s")
    } else if whole < 60 {
        format!("{whole}{THIN}s")
    } else if whole < 3600 {
        format!("{}{THIN}min {:02}{THIN}s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as i64;
        format!("{}{THIN}h {:02}{THIN}min", minutes / 60, minutes % 60)
    }
}

/// An amount of memory in megabytes, in gigabytes from ten thousand on.
pub fn memory(megabytes: Option<f64>) -> String {
    match finite(megabytes) {
        None => missing(),
        Some(megabytes) if megabytes >= 10_000.0 => format!("{}{THIN}GB", decimal(megabytes / 1000.0, 1)),
        Some(megabytes) => format!("{}{THIN}MB", decimal(megabytes, 0)),
    }
}

/// A number of unknown size, to about three significant digits: `12 800`, `0.0021`, `3.1e-7`.
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return missing();
    }
    let size = value.abs();
    if size == 0.0 {
        "0".into()
    } else if !(1e-4..1e6).contains(&size) {
        format!("{value:.1e}").replace('-', "−")
    } else if size >= 100.0 {
        let digits = count(Some(size.round() as u64));
        if value < 0.0 { format!("−{digits}") } else { digits }
    } else {
        let decimals = (2 - size.log10().floor() as i32).max(0) as usize;
        trim_zeros(decimal(value, decimals))
    }
}

/// The same text with ordinary spaces and signs, for the terminal.
pub fn plain(text: &str) -> String {
    text.replace(THIN, " ").replace('−', "-")
}

/// Fixed decimals with a true minus sign; never a negative zero.
pub fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(size) if size.chars().all(|c| matches!(c, '0' | '.')) => size.to_owned(),
        Some(size) => format!("−{size}"),
        None => text,
    }
}

fn trim_zeros(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn missing() -> String {
    MISSING.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(String, &str)]) {
        for (written, expected) in cases {
            assert_eq!(plain(written), *expected);
        }
    }

    #[test]
    fn rates() {
        check(&[
            (percent(Some(0.745)), "74.5 %"),
            (percent(Some(1.0)), "100.0 %"),
            (percent(None), "–"),
            (percent(Some(f64::NAN)), "–"),
            (percent_short(Some(0.745)), "75 %"),
            (percent_short(Some(0.0)), "0 %"),
            (percent_short(Some(0.003)), "< 1 %"),
            (percent_short(Some(0.998)), "> 99 %"),
            (percent_short(Some(1.0)), "100 %"),
        ]);
    }

    #[test]
    fn durations() {
        check(&[
            (duration(Some(0.42)), "0.42 s"),
            (duration(Some(4.21)), "4.2 s"),
            (duration(Some(9.97)), "10 s"),
            (duration(Some(59.7)), "1 min 00 s"),
            (duration(Some(113.4)), "1 min 53 s"),
            (duration(Some(7500.0)), "2 h 05 min"),
            (duration(None), "–"),
        ]);
    }

    #[test]
    fn counts_and_sizes() {
        check(&[
            (count(Some(640)), "640"),
            (count(Some(1600)), "1600"),
            (count(Some(1_234_567)), "1 234 567"),
            (memory(Some(412.3)), "412 MB"),
            (memory(Some(41_200.0)), "41.2 GB"),
            (two_decimals(Some(-0.001)), "0.00"),
        ]);
    }

    #[test]
    fn numbers_of_unknown_size() {
        check(&[
            (significant(0.0), "0"),
            (significant(28.4), "28.4"),
            (significant(2.0), "2"),
            (significant(-0.0213), "-0.0213"),
            (significant(3.14e-7), "3.1e-7"),
            (significant(12_800.0), "12 800"),
            (significant(f64::INFINITY), "–"),
        ]);
    }
}
