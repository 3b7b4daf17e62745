//! `match` keeps the pairs whose answers are of like length, so that length can have decided nothing in them.

use super::Unit;
use crate::record::Preference;

/// Shares of the longer answer, and counts, up to which lengths are alike if nobody says.
const LIKE_SHARE: f64 = 0.1;

/// How far apart lengths may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caliper {
    pub unit: Unit,
    /// Absolute; `None` is a tenth of the longer answer, and five tokens (or twenty characters) at least.
    pub most: Option<f64>,
}

impl Caliper {
    /// Why a pair is left out; nothing if it stays.
    pub fn refuses(self, row: &Preference) -> Option<String> {
        let [chosen, rejected] = self.unit.lengths(row);
        let most = self
            .most
            .unwrap_or_else(|| self.unit.equal_length().max(LIKE_SHARE * chosen.max(rejected)));
        let difference = (chosen - rejected).abs();
        (difference > most).then(|| {
            format!(
                "the answers are of unlike length: {chosen} and {rejected} {}, at most {most:.0} apart may stay",
                self.unit.as_str()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::residual::tests::row;
    use super::*;

    #[test]
    fn alike_is_relative_for_long_answers_and_absolute_for_short_ones() {
        let caliper = |most| Caliper {
            unit: Unit::Tokens,
            most,
        };
        assert_eq!(caliper(None).refuses(&row(1.0, 10, 15)), None);
        assert_eq!(caliper(None).refuses(&row(1.0, 200, 219)), None);
        assert!(
            caliper(None)
                .refuses(&row(1.0, 10, 16))
                .unwrap()
                .contains("10 and 16 tokens")
        );
        assert!(caliper(Some(3.0)).refuses(&row(1.0, 10, 14)).is_some());
        assert_eq!(caliper(Some(0.0)).refuses(&row(1.0, 10, 10)), None);
    }
}
