//! Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691, equations 4, 6 and 7): fine-tuning on the better
//! answer, and a push on its odds against the other's. No reference.

use candle_core::{Result, Tensor};

use super::dpo::PairLogps;
use super::ops::{SoftLabels, log_odds, log_sigmoid};

/// What [`loss`] computes. Shapes: scalar, then `(B)`.
pub struct OrpoLoss {
    /// `nll + mean(per_row)`.
    pub loss: Tensor,
    /// `-β` times the expected `log σ` of the log odds ratio.
    pub per_row: Tensor,
    /// `log odds(chosen) - log odds(rejected)`.
    pub log_odds_ratio: Tensor,
    /// Its `log σ`.
    pub log_sigmoid: Tensor,
    /// `β` times the mean log-probability of a token.
    pub chosen_rewards: Tensor,
    pub rejected_rewards: Tensor,
}

/// `nll - β (p log σ(o) + (1-p) log σ(-o))` with `o = log (odds(chosen) / odds(rejected))`, where
/// `odds = P / (1 - P)` and `log P (B)` is the mean over the tokens of an answer. `nll` is what [`nll`] answers.
pub fn loss<'a>(policy: PairLogps<'_>, nll: &Tensor, labels: impl Into<SoftLabels<'a>>, beta: f64) -> Result<OrpoLoss> {
    let labels = labels.into();
    let log_odds_ratio = (log_odds(policy.chosen)? - log_odds(policy.rejected)?)?;
    let won = log_sigmoid(&log_odds_ratio)?;
    let lost = log_sigmoid(&log_odds_ratio.neg()?)?;
    let per_row = (labels.expected(&won, &lost)? * -beta)?;
    Ok(OrpoLoss {
        loss: (nll + labels.mean(&per_row)?)?,
        per_row,
        log_odds_ratio,
        log_sigmoid: won,
        chosen_rewards: (policy.chosen * beta)?,
        rejected_rewards: (policy.rejected * beta)?,
    })
}

/// The mean negative log-likelihood of the tokens of the better answers: `-Σ q w log π / Σ q w`, where `q` is `p` for a
/// chosen answer and `1-p` for a rejected one. The log-probabilities of both and their tokens' weights are `(B, T)`.
/// Weights of pairs are in the upper sum alone, for their mean over a data set is 1.
pub fn nll<'a>(
    chosen: (&Tensor, &Tensor),
    rejected: (&Tensor, &Tensor),
    labels: impl Into<SoftLabels<'a>>,
) -> Result<Tensor> {
    let labels = labels.into();
    let sums = |(logprobs, weights): (&Tensor, &Tensor)| -> Result<(Tensor, Tensor)> {
        Ok(((logprobs * weights)?.sum(1)?, weights.sum(1)?))
    };
    let ((chosen, of_chosen), (rejected, of_rejected)) = (sums(chosen)?, sums(rejected)?);
    let logps = labels.expected(&chosen, &rejected)?;
    let logps = match labels.weights {
        Some(weights) => (logps * weights)?,
        None => logps,
    };
    let tokens = labels.expected(&of_chosen, &of_rejected)?.sum_all()?;
    // Without a token the sum above is 0 as well.
    logps
        .sum_all()?
        .div(&tokens.maximum(f64::from(f32::MIN_POSITIVE))?)?
        .neg()
}
