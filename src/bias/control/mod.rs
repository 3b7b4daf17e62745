//! Length control of preference labels: what the lengths alone explain is taken out of them ([`residual`]), pairs of
//! unlike length are left out ([`matching`]), or pairs are weighed so that length and verdict go together no more
//! ([`weights`]).
//!
//! Each control leaves labels without a length bias as they are, and tells what it found and did.

pub mod matching;
pub mod residual;
pub mod weights;

use serde::{Deserialize, Serialize};

use super::measure::{Comparison, EQUAL_LENGTH};
use crate::record::Preference;

/// What lengths of answers are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Tokens,
    Characters,
}

impl Unit {
    /// Tokens, if all rows have been counted in them.
    pub fn of(rows: &[Preference]) -> Self {
        match rows.iter().all(|row| row.chosen_tokens > 0 && row.rejected_tokens > 0) {
            true => Self::Tokens,
            false => Self::Characters,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Characters => "characters",
        }
    }

    /// How far apart lengths may be that count as equal; a token has about four characters.
    pub fn equal_length(self) -> f64 {
        match self {
            Self::Tokens => EQUAL_LENGTH,
            Self::Characters => 4.0 * EQUAL_LENGTH,
        }
    }

    /// How long both answers are.
    pub fn lengths(self, row: &Preference) -> [f64; 2] {
        let counts = match self {
            Self::Tokens => [row.chosen_tokens, row.rejected_tokens],
            Self::Characters => [row.chosen_chars, row.rejected_chars],
        };
        counts.map(f64::from)
    }

    /// How much longer the chosen answer is.
    pub fn difference(self, row: &Preference) -> f64 {
        let [chosen, rejected] = self.lengths(row);
        chosen - rejected
    }

    pub fn comparison(self, row: &Preference) -> Comparison {
        Comparison {
            preference: f64::from(row.margin),
            length_difference: self.difference(row),
            weight: f64::from(row.weight),
        }
    }
}
