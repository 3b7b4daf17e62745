//! Advantages, losses and the KL controller of the methods that draw while they learn: against torch
//! (`tests/golden/online.json`, made by `scripts/golden/online.py`), by hand, and by finite differences.

#[path = "support/losses.rs"]
#[allow(dead_code, reason = "the cases here are those of another file")]
mod support;

use bylaw::train::loss::advantage::{
    ScaleRewards, leave_one_out, normalised, scale_to_unit_variance, share_without_difference,
};
use bylaw::train::loss::grpo::{self, Aggregation, GrpoBatch, GrpoTerms};
use bylaw::train::loss::kl::{KlController, KlEstimator};
use bylaw::train::loss::rloo::{self, RlooBatch};
use bylaw::train::loss::surrogate::{RatioClip, entropy_surrogate, surrogate};
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use serde_json::Value;

use support::*;

fn online(what: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/online.json")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[what].take().as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

// ---------------------------------------------------------------- advantages

type Advantages<'a> = dyn Fn(&[f32], &[usize]) -> Vec<f32> + 'a;

fn all_kinds() -> [(&'static str, Box<Advantages<'static>>); 4] {
    let scaled = |scale| Box::new(move |rewards: &[f32], groups: &[usize]| normalised(rewards, groups, scale));
    [
        ("leave_one_out", Box::new(leave_one_out)),
        ("group", scaled(ScaleRewards::Group)),
        ("batch", scaled(ScaleRewards::Batch)),
        ("none", scaled(ScaleRewards::None)),
    ]
}

/// Catches: a baseline that holds the completion itself, means over the batch, biased deviations, groups of one that
/// divide by zero, a group's deviation for the batch's.
#[test]
fn advantages_are_torchs() {
    for case in online("advantages") {
        let rewards = singles(&flat(&case["inputs"]["rewards"]));
        let groups: Vec<usize> = flat(&case["inputs"]["groups"])
            .iter()
            .map(|group| *group as usize)
            .collect();
        for (kind, advantages) in all_kinds() {
            let what = format!("{} {kind}", name(&case));
            let found = widened(&advantages(&rewards, &groups));
            assert_near(&what, &found, &flat(&case["expected"][kind]), EXACT);
        }
    }
}

/// By hand: rewards 1, 2 and 6 of one prompt have the means 4, 3.5 and 1.5 of the others, and the mean 3.
/// Catches: the same as above, without trust in a script.
#[test]
fn advantages_by_hand() {
    let (rewards, groups) = ([1.0, 5.0, 2.0, 6.0], [7, 3, 7, 7]);
    assert_eq!(leave_one_out(&rewards, &groups), [-3.0, 0.0, -1.5, 4.5]);
    assert_eq!(
        normalised(&rewards, &groups, ScaleRewards::None),
        [-2.0, 0.0, -1.0, 3.0]
    );
    // The deviation of 1, 2, 6 is the square root of 7.
    let scaled = normalised(&rewards, &groups, ScaleRewards::Group);
    assert!((f64::from(scaled[3]) - 3.0 / (7.0f64.sqrt() + 1e-4)).abs() < 1e-7);
    assert_eq!(share_without_difference(&rewards, &groups), 0.5);
}

/// Catches: NaN or a blown-up rounding error where a group agrees, where it is alone, where nothing was drawn.
#[test]
fn where_all_agree_nothing_is_learnt() {
    for (kind, advantages) in all_kinds() {
        // A mean of three 0.1 in binary is not 0.1.
        assert_eq!(advantages(&[0.1; 6], &[0, 0, 0, 1, 1, 1]), [0.0; 6], "{kind}");
        assert_eq!(advantages(&[3.0, -1.0], &[0, 1]), [0.0; 2], "{kind}");
        assert!(advantages(&[], &[]).is_empty(), "{kind}");
    }
    assert_eq!(share_without_difference(&[0.1; 6], &[0, 0, 0, 1, 1, 1]), 1.0);
}

proptest! {
    /// Catches: advantages that do not sum to 0 within a group, that follow a shift of all rewards, or that depend on the
    /// order of the completions; a leave-one-out baseline that is not k/(k-1) times the group's.
    #[test]
    fn advantages_know_differences_within_groups_alone(
        rewards in prop::collection::vec(-4.0f32..4.0, 12), size in 2usize..6, shift in -3.0f32..3.0
    ) {
        let groups: Vec<usize> = (0..rewards.len()).map(|row| row / size).collect();
        let shifted: Vec<f32> = rewards.iter().map(|reward| reward + shift).collect();
        for (kind, advantages) in all_kinds() {
            let found = advantages(&rewards, &groups);
            for group in 0..=groups[11] {
                let sum: f32 = (0..12).filter(|row| groups[*row] == group).map(|row| found[row]).sum();
                prop_assert!(sum.abs() < 1e-3, "{kind}: {sum}");
            }
            let moved = advantages(&shifted, &groups);
            for (before, after) in found.iter().zip(&moved) {
                // Deviations near 0 divide the rounding of the shift.
                prop_assert!((before - after).abs() < 2e-2 * before.abs().max(1.0), "{kind}: {before} {after}");
            }
            let turned: Vec<f32> = rewards.iter().rev().copied().collect();
            let turned_groups: Vec<usize> = groups.iter().rev().copied().collect();
            let back: Vec<f32> = advantages(&turned, &turned_groups).into_iter().rev().collect();
            for (one, other) in found.iter().zip(&back) {
                prop_assert!((one - other).abs() < 1e-4 * one.abs().max(1.0), "{kind}: {one} {other}");
            }
        }
        let (left_out, centred) = (leave_one_out(&rewards, &groups), normalised(&rewards, &groups, ScaleRewards::None));
        for (row, (one, other)) in left_out.iter().zip(&centred).enumerate() {
            let own = groups.iter().filter(|group| **group == groups[row]).count() as f32;
            prop_assert!(own < 2.0 || (one - other * own / (own - 1.0)).abs() < 1e-4, "{one} {other}");
        }
    }
}

/// Catches: a mean that is taken out and not put back.
#[test]
fn rewards_are_scaled_as_torch_does() {
    for case in online("scale") {
        let mask = rows(&case["inputs"]["mask"]);
        let mut found: Vec<Vec<f32>> = rows(&case["inputs"]["values"])
            .iter()
            .zip(&mask)
            .map(|(row, mask)| singles(&row[..mask.iter().filter(|counts| **counts == 1.0).count()]))
            .collect();
        scale_to_unit_variance(&mut found);
        for (found, expected) in found.iter().zip(rows(&case["expected"]["scaled"])) {
            assert_near(name(&case), &widened(found), &expected[..found.len()], EXACT);
        }
    }
}

// ---------------------------------------------------------------- losses

fn clip(case: &Value) -> RatioClip {
    RatioClip {
        clip_range: case["clip_range"].as_f64().unwrap(),
        dual_clip: case["dual_clip"].as_f64(),
    }
}

/// `(B, T)` of one number a row.
fn of_tokens(advantages: &Value, like: &Tensor) -> Tensor {
    let column = tensor(advantages, like.dtype()).unsqueeze(1).unwrap();
    column.broadcast_as(like.shape()).unwrap().contiguous().unwrap()
}

/// Catches: the three means taken for each other, a penalty of k1 whose gradient is none, the ratio of policy and
/// reference upside down, a penalty that padding takes part in, a dual clip of positive advantages.
#[test]
fn grpo_is_torchs() {
    for case in online("grpo") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let logprobs = var(&inputs["logprobs"], dtype);
            let batch = GrpoBatch {
                logprobs: logprobs.as_tensor(),
                old_logprobs: &tensor(&inputs["old_logprobs"], dtype),
                reference_logprobs: &tensor(&inputs["reference_logprobs"], dtype),
                advantages: &of_tokens(&inputs["advantages"], logprobs.as_tensor()),
                mask: &tensor(&inputs["mask"], dtype),
            };
            let terms = GrpoTerms {
                ratio: clip(&case),
                kl_coef: case["kl_coef"].as_f64().unwrap(),
                kl_estimator: KlEstimator::K3,
                aggregation: match case["aggregation"].as_str().unwrap() {
                    "token" => Aggregation::Token,
                    "sequence" => Aggregation::Sequence,
                    _ => Aggregation::Constant,
                },
                room: case["room"].as_u64().unwrap() as usize,
            };
            let found = grpo::loss(&batch, terms).unwrap();
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "policy_loss", &found.policy_loss, tolerance);
            check(&case, "kl", &found.kl, tolerance);
            check(&case, "clipfrac", &found.moved.clipfrac, tolerance);
            check(&case, "approx_kl", &found.moved.approx_kl, tolerance);
            check_gradients(&case, &found.loss, &[("logprobs", &logprobs)], tolerance);
        }
    }
}

/// Catches: ratios of tokens for the ratio of a completion, a mean over tokens that makes long completions count less.
#[test]
fn rloo_is_torchs() {
    for case in online("rloo") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let logprobs = var(&inputs["logprobs"], dtype);
            let batch = RlooBatch {
                logprobs: logprobs.as_tensor(),
                old_logprobs: &tensor(&inputs["old_logprobs"], dtype),
                advantages: &tensor(&inputs["advantages"], dtype),
                mask: &tensor(&inputs["mask"], dtype),
            };
            let found = rloo::loss(&batch, clip(&case)).unwrap();
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "clipfrac", &found.moved.clipfrac, tolerance);
            check(&case, "approx_kl", &found.moved.approx_kl, tolerance);
            check_gradients(&case, &found.loss, &[("logprobs", &logprobs)], tolerance);
        }
    }
}

/// Catches: NaN from a completion that is all padding, in value or gradient.
#[test]
fn an_empty_batch_row_does_not_spread() {
    let logprobs = var(&serde_json::json!([[-1.0, -2.0], [-3.0, -4.0]]), DType::F32);
    let other = tensor(&serde_json::json!([[-1.5, -2.0], [1e30, -1e30]]), DType::F32);
    let mask = tensor(&serde_json::json!([[1.0, 1.0], [0.0, 0.0]]), DType::F32);
    let advantages = tensor(&serde_json::json!([0.5, 0.0]), DType::F32);
    let batch = RlooBatch {
        logprobs: logprobs.as_tensor(),
        old_logprobs: &other,
        advantages: &advantages,
        mask: &mask,
    };
    let clip = RatioClip {
        clip_range: 0.2,
        dual_clip: None,
    };
    let loss = rloo::loss(&batch, clip).unwrap().loss;
    let store = loss.backward().unwrap();
    let gradient = values(store.get(logprobs.as_tensor()).unwrap());
    assert!(gradient.iter().all(|value| value.is_finite()), "{gradient:?}");
    assert_eq!(gradient[2..], [0.0, 0.0]);
}

/// The derivative of `loss` by each element of `at`, by central differences.
fn differences(at: &[f64], loss: impl Fn(&Tensor) -> Tensor) -> Vec<f64> {
    let value = |values: &[f64]| {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        loss(&tensor).to_scalar::<f64>().unwrap()
    };
    let step = 1e-6;
    (0..at.len())
        .map(|index| {
            let moved = |by: f64| {
                let mut values = at.to_vec();
                values[index] += by;
                value(&values)
            };
            (moved(step) - moved(-step)) / (2.0 * step)
        })
        .collect()
}

/// Catches: a gradient that candle's clamp, minimum or choice loses or doubles, at ratios on both sides of every bound.
#[test]
fn the_surrogates_gradient_is_its_slope() {
    let log_ratios = [-1.2, -0.05, 0.1, 0.6, 1.5, -0.7, 0.3, 2.5];
    let advantages = tensor(
        &serde_json::json!([1.0, -2.0, 0.5, -0.5, -1.5, 0.0, 2.0, 0.25]),
        DType::F64,
    );
    for dual_clip in [None, Some(1.5), Some(3.0)] {
        let clip = RatioClip {
            clip_range: 0.2,
            dual_clip,
        };
        let loss = |log_ratio: &Tensor| surrogate(log_ratio, &advantages, clip).unwrap().loss.sum_all().unwrap();
        let at = Var::from_slice(&log_ratios, log_ratios.len(), &Device::Cpu).unwrap();
        let store = loss(at.as_tensor()).backward().unwrap();
        let found = values(store.get(at.as_tensor()).unwrap());
        assert_near(&format!("{dual_clip:?}"), &found, &differences(&log_ratios, loss), 1e-8);
    }
}

/// Catches: an estimator whose differentiable form is another than the one that is reported.
#[test]
fn penalties_are_the_estimates_and_their_slopes() {
    let (policy, reference) = ([-0.5, -2.0, -3.5], [-0.75, -1.0, -3.5]);
    let fixed = Tensor::from_slice(&reference, 3, &Device::Cpu).unwrap();
    let all = Tensor::ones(3, DType::F64, &Device::Cpu).unwrap();
    for estimator in [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3] {
        let penalty = |logprobs: &Tensor| estimator.penalty(logprobs, &fixed, &all).unwrap();
        let at = Var::from_slice(&policy, 3, &Device::Cpu).unwrap();
        let found = penalty(at.as_tensor());
        let single: Vec<f64> = policy
            .iter()
            .zip(reference)
            .map(|(policy, reference)| f64::from(estimator.estimate(*policy as f32, reference as f32)))
            .collect();
        assert_near("value", &values(&found), &single, EXACT);
        let store = found.sum_all().unwrap().backward().unwrap();
        let slopes = values(store.get(at.as_tensor()).unwrap());
        assert_near(
            "slope",
            &slopes,
            &differences(&policy, |at| penalty(at).sum_all().unwrap()),
            1e-8,
        );
    }
}

/// Catches: the bonus with the wrong sign. The expected gradient over all tokens is that of the entropy itself.
#[test]
fn the_entropy_bonus_is_unbiased() {
    let logits = [0.3, -1.0, 2.0, 0.0];
    let softmax = |logits: &Tensor| {
        let sum = logits.exp().unwrap().sum_all().unwrap().log().unwrap();
        logits.broadcast_sub(&sum).unwrap()
    };
    let entropy = |logits: &Tensor| {
        let logprobs = softmax(logits);
        (logprobs.exp().unwrap() * logprobs)
            .unwrap()
            .sum_all()
            .unwrap()
            .neg()
            .unwrap()
    };
    let at = Var::from_slice(&logits, 4, &Device::Cpu).unwrap();
    let old = softmax(at.as_tensor()).detach();
    let probabilities = values(&old.exp().unwrap());
    let mut expected = vec![0.0; 4];
    for (token, probability) in probabilities.iter().enumerate() {
        let pick = |tensor: &Tensor| tensor.narrow(0, token, 1).unwrap();
        let one = Tensor::ones(1, DType::F64, &Device::Cpu).unwrap();
        let bonus = entropy_surrogate(&pick(&softmax(at.as_tensor())), &pick(&old), &one).unwrap();
        let store = bonus.backward().unwrap();
        for (sum, slope) in expected.iter_mut().zip(values(store.get(at.as_tensor()).unwrap())) {
            *sum += probability * slope;
        }
    }
    assert_near("entropy", &expected, &differences(&logits, entropy), 1e-8);
}

// ---------------------------------------------------------------- the KL controller

/// Catches: a coefficient that falls where the KL is too large, an error without bounds, the horizon in iterations.
#[test]
fn the_controller_is_zieglers() {
    for case in online("kl_controller") {
        let number = |key: &str| case[key].as_f64().unwrap();
        let controller = KlController::Adaptive {
            target: number("target"),
            horizon: number("horizon"),
        };
        let mut coefficient = case["inputs"]["coefficient"].as_f64().unwrap();
        let found: Vec<f64> = flat(&case["inputs"]["kl"])
            .into_iter()
            .map(|kl| {
                coefficient = controller.next(coefficient, kl, number("completions") as usize);
                coefficient
            })
            .collect();
        assert_near(name(&case), &found, &flat(&case["expected"]["coefficients"]), 1e-12);
    }
    assert_eq!(KlController::Fixed.next(0.05, 1e9, 64), 0.05);
    let adaptive = KlController::Adaptive {
        target: 1.0,
        horizon: 100.0,
    };
    assert_eq!(adaptive.next(0.05, f64::NAN, 64), 0.05);
}
