//! Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409): an unbiased estimate of the loss under labels of
//! which a known share is wrong.

use candle_core::{Result, Tensor};

use super::dpo::{self, DpoLoss, PairLogps};
use super::ops::SoftLabels;

/// `((1-ε) L(p) - ε L(1-p)) / (1-2ε)` with the loss `L` of [`dpo`] under soft labels, and `ε < 1/2` the share of labels
/// that were turned round.
///
/// `L` is linear in `p`, so this is `L` of `(p - ε) / (1-2ε)`: what smoothing is to labels that are too sure, undone.
/// Such a label may lie outside of 0 to 1, where the loss has no lower bound.
pub fn loss<'a>(
    policy: PairLogps<'_>,
    reference: PairLogps<'_>,
    labels: impl Into<SoftLabels<'a>>,
    margin: Option<&Tensor>,
    beta: f64,
    noise: f64,
) -> Result<DpoLoss> {
    let labels = labels.into();
    let scale = 1.0 / (1.0 - 2.0 * noise);
    let p_chosen = labels.p_chosen.affine(scale, -noise * scale)?;
    let denoised = SoftLabels {
        p_chosen: &p_chosen,
        weights: labels.weights,
    };
    dpo::loss(policy, reference, denoised, margin, beta)
}
