//! AlpacaEval's scale of preferences: 1 is the first answer (the baseline's), 2 the second (the model's), 1.5 a tie,
//! anything between a probability; and 0 is a tie as well.
//!
//! In a file that has no preference above 1, a 0 is not of this scale: the numbers are probabilities, or something else.

use crate::error::{Error, Result};

/// What was seen of the preferences of a file.
#[derive(Default)]
pub struct Scale {
    first_zero: Option<String>,
    zeros: usize,
    above_one: bool,
}

impl Scale {
    /// What a preference has to be.
    pub const EXPECTED: &'static str = "`preference` is from 1 (the baseline's answer, output 1, is better) to 2 (the \
         model's, output 2), and 1.5 is a tie, as in AlpacaEval; for `eval winrate` the probability that the model's is \
         better, from 0 to 1, goes into a column `p` instead";

    /// The probability that the second answer is the better one; `None` of a number that is not on the scale.
    pub fn probability_of_second(&mut self, preference: f64, place: &str) -> Option<f64> {
        if preference == 0.0 {
            self.first_zero.get_or_insert_with(|| place.to_owned());
            self.zeros += 1;
            return Some(0.5);
        }
        let found = (1.0..=2.0).contains(&preference).then_some(preference - 1.0);
        self.above_one |= found.is_some_and(|second| second > 0.0);
        found
    }

    /// What should be known of the zeros of a file that has been read.
    pub fn note(self, file: &str) -> Result<Option<String>> {
        match self.first_zero {
            None => Ok(None),
            Some(_) if self.above_one => Ok(Some(format!(
                "{} preferences of 0 are taken for ties, as AlpacaEval does",
                self.zeros
            ))),
            Some(place) => Err(
                Error::input(format!("{place}: the preference is 0, and no row has one above 1"))
                    .at_file(file)
                    .help(Self::EXPECTED),
            ),
        }
    }
}
