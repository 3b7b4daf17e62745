//! Logistic regression on soft targets with a few coefficients, in `f64`, by Newton's method.
//!
//! Minimises `sum_i w_i · (-p_i log q_i - (1 - p_i) log(1 - q_i)) + 1/2 · sum_k penalty_k · beta_k²` with
//! `q_i = sigmoid(offset_i + beta · x_i)`. There is no intercept: a column of ones is one if it is wanted.
//! Knows nothing of models or lengths.

/// Newton steps at most. A fit that exists takes fewer than ten; separated data take one for each unit of log-odds.
const STEPS: usize = 80;

/// A step of no coefficient larger than this ends the fit.
const SMALL: f64 = 1e-11;

/// What is left of a direction's curvature, of that at equal odds, when the data no longer hold it.
const FLAT: f64 = 1e-11;

/// An observation.
#[derive(Debug, Clone, Copy)]
pub struct Observation<const K: usize> {
    pub x: [f64; K],
    /// Log-odds that are given.
    pub offset: f64,
    /// Probability, in 0..=1.
    pub target: f64,
}

impl<const K: usize> Observation<K> {
    pub fn log_odds(&self, beta: &[f64; K]) -> f64 {
        self.offset + dot(&self.x, beta)
    }
}

/// Why there are no coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Some direction separates wins from losses: the likelihood has no maximum.
    Separated,
    /// Two columns say the same.
    Collinear,
    /// The steps did not end.
    Unsettled,
}

/// The coefficients, from those of `start`. `weight` is that of an observation by its place; observations of weight 0
/// are not there.
pub fn fit<const K: usize>(
    rows: &[Observation<K>],
    weight: impl Fn(usize) -> f64,
    penalty: &[f64; K],
    start: [f64; K],
) -> Result<[f64; K], Failure> {
    let scale = curvature_at_equal_odds(rows, &weight, penalty);
    let mut beta = start;
    let mut here = Slope::at(rows, &weight, penalty, &beta);
    for _ in 0..STEPS {
        let Some(step) = solve(&here.curvature, &here.gradient, &scale) else {
            let far = rows.iter().any(|row| row.log_odds(&beta).abs() > 15.0);
            return Err(if far { Failure::Separated } else { Failure::Collinear });
        };
        // Half as far, until it goes down: a full step overshoots where the odds are extreme.
        let worst = here.loss + 1e-13 * here.loss.abs().max(1.0);
        let mut share = 1.0;
        let (next, there) = loop {
            let next = moved(&beta, &step, share);
            let there = Slope::at(rows, &weight, penalty, &next);
            if there.loss <= worst || share < 1e-6 {
                break (next, there);
            }
            share /= 2.0;
        };
        (beta, here) = (next, there);
        if step.iter().all(|step| step.abs() <= SMALL * (1.0 + norm(&beta))) {
            return Ok(beta);
        }
    }
    let far = rows.iter().any(|row| row.log_odds(&beta).abs() > 15.0);
    Err(if far { Failure::Separated } else { Failure::Unsettled })
}

/// The objective with its derivatives at one place.
struct Slope<const K: usize> {
    loss: f64,
    gradient: [f64; K],
    curvature: [[f64; K]; K],
}

impl<const K: usize> Slope<K> {
    fn at(rows: &[Observation<K>], weight: &impl Fn(usize) -> f64, penalty: &[f64; K], beta: &[f64; K]) -> Self {
        let mut slope = Self {
            loss: 0.0,
            gradient: [0.0; K],
            curvature: [[0.0; K]; K],
        };
        for (index, row) in rows.iter().enumerate() {
            let weight = weight(index);
            if weight == 0.0 {
                continue;
            }
            let log_odds = row.log_odds(beta);
            // One exponential serves all: e = exp(-|log-odds|).
            let e = (-log_odds.abs()).exp();
            let more = 1.0 / (1.0 + e);
            let q = if log_odds >= 0.0 { more } else { e * more };
            // log(1 + exp(log-odds)) - target · log-odds
            slope.loss += weight * (e.ln_1p() + log_odds.max(0.0) - row.target * log_odds);
            let error = weight * (q - row.target);
            // q (1 - q), exact for any log-odds.
            let spread = weight * e * more * more;
            for i in 0..K {
                slope.gradient[i] += error * row.x[i];
                for j in 0..=i {
                    slope.curvature[i][j] += spread * row.x[i] * row.x[j];
                }
            }
        }
        for i in 0..K {
            slope.loss += 0.5 * penalty[i] * beta[i] * beta[i];
            slope.gradient[i] += penalty[i] * beta[i];
            slope.curvature[i][i] += penalty[i];
        }
        slope
    }
}

/// The diagonal of the curvature where all odds are equal, the most that there can be.
fn curvature_at_equal_odds<const K: usize>(
    rows: &[Observation<K>],
    weight: &impl Fn(usize) -> f64,
    penalty: &[f64; K],
) -> [f64; K] {
    let mut diagonal = *penalty;
    for (index, row) in rows.iter().enumerate() {
        let weight = weight(index);
        for (sum, x) in diagonal.iter_mut().zip(&row.x) {
            *sum += 0.25 * weight * x * x;
        }
    }
    diagonal
}

/// Solves `curvature · step = gradient` by Cholesky's factors, of which the lower triangle is given; `None` where the
/// curvature is flat in some direction beside `scale`.
fn solve<const K: usize>(curvature: &[[f64; K]; K], gradient: &[f64; K], scale: &[f64; K]) -> Option<[f64; K]> {
    let mut factor = [[0.0; K]; K];
    for i in 0..K {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
            let rest = curvature[i][j] - sum;
            factor[i][j] = if i == j {
                if rest.is_nan() || rest <= FLAT * scale[i] {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / factor[j][j]
            };
        }
    }
    let mut step = *gradient;
    for i in 0..K {
        let sum: f64 = (0..i).map(|k| factor[i][k] * step[k]).sum();
        step[i] = (step[i] - sum) / factor[i][i];
    }
    for i in (0..K).rev() {
        let sum: f64 = (i + 1..K).map(|k| factor[k][i] * step[k]).sum();
        step[i] = (step[i] - sum) / factor[i][i];
    }
    Some(step)
}

fn moved<const K: usize>(beta: &[f64; K], step: &[f64; K], share: f64) -> [f64; K] {
    std::array::from_fn(|k| beta[k] - share * step[k])
}

fn dot<const K: usize>(a: &[f64; K], b: &[f64; K]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm<const K: usize>(beta: &[f64; K]) -> f64 {
    dot(beta, beta).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(data: &[(f64, f64)]) -> Vec<Observation<2>> {
        data.iter()
            .map(|(x, target)| Observation {
                x: [1.0, *x],
                offset: 0.0,
                target: *target,
            })
            .collect()
    }

    /// Catches: endless coefficients of separated data passed off as a fit.
    #[test]
    fn separated_data_have_no_fit_unless_a_penalty_holds_them() {
        let apart = rows(&[(-2.0, 0.0), (-1.0, 0.0), (1.0, 1.0), (2.0, 1.0)]);
        assert_eq!(fit(&apart, |_| 1.0, &[0.0; 2], [0.0; 2]), Err(Failure::Separated));
        let held = fit(&apart, |_| 1.0, &[0.0, 1.0], [0.0; 2]).unwrap();
        assert!(held[0].abs() < 1e-9 && held[1] > 0.5 && held[1] < 5.0, "{held:?}");
        // All but one side of a line: quasi-separated.
        let touching = rows(&[(-1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]);
        assert_eq!(fit(&touching, |_| 1.0, &[0.0; 2], [0.0; 2]), Err(Failure::Separated));
    }

    /// Catches: a singular system solved to whatever comes out.
    #[test]
    fn columns_that_say_the_same_are_told() {
        let same = rows(&[(3.0, 0.2), (3.0, 0.9), (3.0, 0.4)]);
        assert_eq!(fit(&same, |_| 1.0, &[0.0; 2], [0.0; 2]), Err(Failure::Collinear));
    }

    /// Catches: weights that are not counts of copies, a start that changes the answer.
    #[test]
    fn a_weight_is_a_number_of_copies() {
        let data = [(-1.0, 0.1), (0.5, 0.7), (1.5, 0.6), (-0.3, 0.9), (2.0, 0.95)];
        let counts = [2.0, 0.0, 1.0, 3.0, 1.0];
        let copied: Vec<(f64, f64)> = data
            .iter()
            .zip(counts)
            .flat_map(|(row, count)| std::iter::repeat_n(*row, count as usize))
            .collect();
        let weighted = fit(&rows(&data), |index| counts[index], &[0.0, 0.5], [4.0, -9.0]).unwrap();
        let alone = fit(&rows(&copied), |_| 1.0, &[0.0, 0.5], [0.0; 2]).unwrap();
        for (a, b) in weighted.iter().zip(alone) {
            assert!((a - b).abs() < 1e-9, "{weighted:?} {alone:?}");
        }
    }
}
