//! How much a preference leans towards the longer answer.

/// A comparison: how strongly the first answer is preferred (log-odds or a reward difference), and how
/// much longer it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    pub preference: f32,
    pub length_difference: f32,
}

/// Answers of which neither is longer by more than this many tokens count as equally long.
pub const EQUAL_LENGTH: f32 = 5.0;

/// The share of comparisons of unequal length that prefer the longer answer; one half is no bias. An
/// exact tie counts one half. `None` without such comparisons.
pub fn prefer_longer(comparisons: impl IntoIterator<Item = Comparison>) -> Option<f64> {
    let (mut count, mut longer) = (0u32, 0.0);
    for comparison in comparisons {
        if comparison.length_difference.abs() <= EQUAL_LENGTH {
            continue;
        }
        count += 1;
        let towards_longer = comparison.preference * comparison.length_difference.signum();
        longer += match towards_longer.total_cmp(&0.0) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
    }
    (count > 0).then(|| longer / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_pair_say_the_same() {
        let pair = |preference, length_difference| Comparison {
            preference,
            length_difference,
        };
        assert_eq!(
            prefer_longer([pair(1.0, 10.0), pair(-1.0, -10.0), pair(0.5, -9.0), pair(1.0, 3.0)]),
            Some(2.0 / 3.0)
        );
        assert_eq!(prefer_longer([pair(1.0, 1.0)]), None);
        assert_eq!(prefer_longer([pair(0.0, 20.0)]), Some(0.5));
    }
}
