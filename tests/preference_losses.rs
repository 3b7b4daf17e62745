//! DPO's kin against torch (`tests/golden/losses.json`, made by `scripts/golden/losses.py`), and the laws that hold
//! whatever the numbers are.

#[path = "support/losses.rs"]
mod support;

use bylaw::seed::Seed;
use bylaw::train::loss::dpo::{self, PairLogps};
use bylaw::train::loss::kto::{self, KtoWeights};
use bylaw::train::loss::length::{DpoLength, weighted_logps};
use bylaw::train::loss::ops::{SoftLabels, log_odds};
use bylaw::train::loss::{hinge, ipo, orpo, robust, simpo};
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use serde_json::Value;

use support::*;

/// A loss of pairs with a reference, by the name of its cases.
fn pair_loss(
    name: &str,
    case: &Value,
    [chosen, rejected]: [&Tensor; 2],
    labels: SoftLabels<'_>,
    dtype: DType,
) -> dpo::DpoLoss {
    let setting = |key: &str| case[key].as_f64().unwrap();
    let policy = PairLogps { chosen, rejected };
    let beta = setting("beta");
    if name == "simpo" {
        return simpo::loss(policy, labels, beta, setting("simpo_gamma")).unwrap();
    }
    let reference = PairLogps {
        chosen: &tensor(&case["inputs"]["reference_chosen_logps"], dtype),
        rejected: &tensor(&case["inputs"]["reference_rejected_logps"], dtype),
    };
    match name {
        "robust" => robust::loss(policy, reference, labels, None, beta, setting("label_smoothing")),
        "hinge" => hinge::loss(policy, reference, labels, None, beta),
        "ipo" => ipo::loss(policy, reference, labels, beta),
        "kto" => {
            let others = |key: &str| singles(&flat(&case["inputs"][key]));
            let point = kto::reference_point(&others("other_policy_logps"), &others("other_reference_logps"));
            assert_near("reference point", &[point], &[setting("reference_point")], EXACT);
            let weights = KtoWeights {
                desirable: setting("desirable_weight"),
                undesirable: setting("undesirable_weight"),
            };
            kto::loss(policy, reference, labels, point, beta, weights)
        }
        other => panic!("no such loss: {other}"),
    }
    .unwrap()
}

/// Catches: swapped answers, a sign, a soft label read as a hard one, beta in the wrong place, IPO's target of twice or
/// half its size, smoothing instead of its undoing, a margin that follows the chosen answer of an even pair, weights of
/// the wanted on the unwanted, a reference point with the wrong sign or below 0, and what overflows at a margin of 1000.
#[test]
fn each_loss_is_torchs() {
    for name in ["robust", "hinge", "ipo", "simpo", "kto"] {
        for case in golden(name) {
            for (dtype, tolerance) in precisions() {
                let chosen = var(&case["inputs"]["policy_chosen_logps"], dtype);
                let rejected = var(&case["inputs"]["policy_rejected_logps"], dtype);
                let p_chosen = tensor(&case["inputs"]["p_chosen"], dtype);
                let sides = [chosen.as_tensor(), rejected.as_tensor()];
                let found = pair_loss(name, &case, sides, (&p_chosen).into(), dtype);
                check(&case, "loss", &found.loss, tolerance);
                check(&case, "per_row", &found.per_row, tolerance);
                check(&case, "chosen_rewards", &found.chosen_rewards, tolerance);
                check(&case, "rejected_rewards", &found.rejected_rewards, tolerance);
                let leaves = [("policy_chosen_logps", &chosen), ("policy_rejected_logps", &rejected)];
                check_gradients(&case, &found.loss, &leaves, tolerance);
            }
        }
    }
}

/// Weights `(B, T)` of a side of a case of ORPO: of its answers' tokens by `of_answer`, of the prompts' by `of_prompt`.
fn orpo_weights(case: &Value, side: &str, of_prompt: f32, of_answer: impl Fn(usize) -> f32, dtype: DType) -> Tensor {
    let width = rows(&case["inputs"][format!("policy_{side}_logprobs")])[0].len();
    let prompts = flat(&case["inputs"]["prompts"]);
    let lengths = flat(&case["inputs"][format!("{side}_lengths")]);
    let row = |(prompt, length): (&f64, &f64)| -> Vec<f32> {
        let (prompt, length) = (*prompt as usize, *length as usize);
        let mut row = [vec![of_prompt; prompt], vec![of_answer(length); length]].concat();
        row.resize(width, 0.0);
        row
    };
    let all: Vec<f32> = prompts.iter().zip(&lengths).flat_map(row).collect();
    let tensor = Tensor::from_vec(all, (prompts.len(), width), &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// Catches: sums for means, odds without their denominator or with its sign, the prompt in the odds or missing in the
/// likelihood, a likelihood that is a mean of means or of the chosen answers whatever the label, padding that counts.
#[test]
fn orpo_is_torchs() {
    for case in golden("orpo") {
        for (dtype, tolerance) in precisions() {
            let prompt_weight = case["prompt_weight"].as_f64().unwrap() as f32;
            let logprobs =
                ["chosen", "rejected"].map(|side| var(&case["inputs"][format!("policy_{side}_logprobs")], dtype));
            let means =
                ["chosen", "rejected"].map(|side| orpo_weights(&case, side, 0.0, |length| 1.0 / length as f32, dtype));
            let ones = ["chosen", "rejected"].map(|side| orpo_weights(&case, side, prompt_weight, |_| 1.0, dtype));
            let logps = [0, 1].map(|side| weighted_logps(logprobs[side].as_tensor(), &means[side]).unwrap());
            let p_chosen = tensor(&case["inputs"]["p_chosen"], dtype);
            let nll = orpo::nll(
                (logprobs[0].as_tensor(), &ones[0]),
                (logprobs[1].as_tensor(), &ones[1]),
                &p_chosen,
            )
            .unwrap();
            let policy = PairLogps {
                chosen: &logps[0],
                rejected: &logps[1],
            };
            let found = orpo::loss(policy, &nll, &p_chosen, case["beta"].as_f64().unwrap()).unwrap();
            // A third is none in `f32`, in which the weights are; near certainty a log-probability has few digits.
            let tolerance = match (name(&case), dtype) {
                ("extreme", DType::F32) => 1e-3,
                _ => tolerance.max(SINGLE),
            };
            check(&case, "nll", &nll, tolerance);
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "per_row", &found.per_row, tolerance);
            check(&case, "log_odds_ratio", &found.log_odds_ratio, tolerance);
            let leaves = [
                ("policy_chosen_logprobs", &logprobs[0]),
                ("policy_rejected_logprobs", &logprobs[1]),
            ];
            check_gradients(&case, &found.loss, &leaves, tolerance);
        }
    }
}

/// Catches: cancellation in `1 - p` near either end, a slope that is not the derivative, odds or slopes of a certain
/// answer that are infinite.
#[test]
fn log_odds_have_their_slope_everywhere() {
    let even = -std::f64::consts::LN_2;
    let points: [f64; 10] = [
        -1e-5,
        -1e-3,
        -0.1,
        even - 1e-4,
        even + 1e-4,
        -3.0,
        -40.0,
        -700.0,
        0.0,
        1e-3,
    ];
    let x = Var::new(&points, &Device::Cpu).unwrap();
    let odds = log_odds(x.as_tensor()).unwrap();
    let found = values(&odds);
    assert_near("near certainty", &found[..1], &[(1e5f64).ln() - 0.5e-5], 1e-9);
    // The slope is 2 there, and the odds bend by p / (1 - p)².
    assert_near("even", &found[3..5], &[-2e-4 + 1e-8, 2e-4 + 1e-8], 1e-11);
    assert_near("hopeless", &found[6..8], &[-40.0, -700.0], 1e-12);
    assert!(found[8] == found[9] && found[8].is_finite(), "{found:?}");
    let store = odds.sum_all().unwrap().backward().unwrap();
    let slopes = values(store.get(x.as_tensor()).unwrap());
    assert_eq!(slopes[8..], [0.0, 0.0]);
    for (index, point) in points[..8].iter().enumerate() {
        let step = 1e-4 * point.abs();
        let near = Tensor::new(&[point - step, point + step], &Device::Cpu).unwrap();
        let near = values(&log_odds(&near).unwrap());
        let expected = (near[1] - near[0]) / (2.0 * step);
        assert_near(&format!("slope at {point}"), &[slopes[index] / expected], &[1.0], 1e-6);
    }
}

// ---------------------------------------------------------------- laws

const LOSSES: [&str; 7] = ["sigmoid", "robust", "hinge", "ipo", "simpo", "kto", "orpo"];

/// One loss of rows of logps, all negative, with the gradients of the policy's. ORPO's likelihood is of one token a row.
fn family(name: &str, logps: &[[f64; 4]], p_chosen: &[f64], weights: Option<&[f64]>, dtype: DType) -> (f64, Vec<f64>) {
    let column = |index: usize| -> Var {
        let values: Vec<f64> = logps.iter().map(|row| row[index]).collect();
        let count = values.len();
        let tensor = Tensor::from_vec(values, count, &Device::Cpu).unwrap();
        Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
    };
    let plain = |values: &[f64]| {
        let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap()
    };
    let [chosen, rejected, reference_chosen, reference_rejected] = [0, 1, 2, 3].map(column);
    let (policy, reference) = (
        PairLogps {
            chosen: chosen.as_tensor(),
            rejected: rejected.as_tensor(),
        },
        PairLogps {
            chosen: reference_chosen.as_tensor(),
            rejected: reference_rejected.as_tensor(),
        },
    );
    let (p_chosen, weights) = (plain(p_chosen), weights.map(plain));
    let labels = SoftLabels {
        p_chosen: &p_chosen,
        weights: weights.as_ref(),
    };
    let even = KtoWeights {
        desirable: 1.25,
        undesirable: 0.5,
    };
    let loss = match name {
        "sigmoid" => dpo::loss(policy, reference, labels, None, 0.3).unwrap().loss,
        "robust" => robust::loss(policy, reference, labels, None, 0.3, 0.2).unwrap().loss,
        "hinge" => hinge::loss(policy, reference, labels, None, 0.3).unwrap().loss,
        "ipo" => ipo::loss(policy, reference, labels, 0.3).unwrap().loss,
        "simpo" => simpo::loss(policy, labels, 0.3, 0.5).unwrap().loss,
        "kto" => kto::loss(policy, reference, labels, 0.75, 0.3, even).unwrap().loss,
        _ => {
            let rows = |side: &Var| side.as_tensor().reshape((logps.len(), 1)).unwrap();
            let (chosen, rejected) = (rows(&chosen), rows(&rejected));
            let ones = chosen.ones_like().unwrap();
            let nll = orpo::nll((&chosen, &ones), (&rejected, &ones), labels).unwrap();
            orpo::loss(policy, &nll, labels, 0.3).unwrap().loss
        }
    };
    let store = loss.backward().unwrap();
    let gradient = [&chosen, &rejected]
        .map(|side| values(store.get(side.as_tensor()).unwrap()))
        .concat();
    (values(&loss)[0], gradient)
}

fn logps() -> impl Strategy<Value = [f64; 4]> {
    prop::array::uniform4(-30.0f64..-0.01)
}

proptest! {
    /// Catches: a label that is rounded, smoothed on one side, or carries something else with it than the answers.
    #[test]
    fn to_swap_the_answers_is_to_turn_the_label_round(row in logps(), p in 0.0f64..1.0) {
        let swapped = [row[1], row[0], row[3], row[2]];
        for name in LOSSES {
            let (one, gradient) = family(name, &[row], &[p], None, DType::F64);
            let (other, turned) = family(name, &[swapped], &[1.0 - p], None, DType::F64);
            prop_assert!((one - other).abs() <= 1e-9 * one.abs().max(1.0), "{name}: {one} and {other}");
            prop_assert!((gradient[0] - turned[1]).abs() <= 1e-9 * gradient[0].abs().max(1.0), "{name}");
        }
    }

    /// Catches: a loss of the expected label, which for curved losses is not the expected loss.
    #[test]
    fn a_soft_label_costs_what_a_coin_would(row in logps(), p in 0.0f64..1.0) {
        for name in LOSSES {
            let of = |p: f64| family(name, &[row], &[p], None, DType::F64).0;
            let expected = p * of(1.0) + (1.0 - p) * of(0.0);
            prop_assert!((of(p) - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{name}");
        }
    }

    /// Catches: gradients that are not those of the value, an operation of its own with a wrong backward pass.
    #[test]
    fn gradients_are_differences(row in logps(), p in 0.0f64..1.0) {
        for name in LOSSES {
            // At a kink there is no derivative.
            let delta = 0.3 * (row[0] - row[1] - row[2] + row[3]);
            if name == "hinge" && (delta.abs() - 1.0).abs() < 1e-3 {
                continue;
            }
            let (_, gradient) = family(name, &[row], &[p], None, DType::F64);
            for (side, found) in gradient.iter().enumerate() {
                let at = |step: f64| {
                    let mut row = row;
                    row[side] += step;
                    family(name, &[row], &[p], None, DType::F64).0
                };
                let step = 1e-5 * row[side].abs();
                let expected = (at(step) - at(-step)) / (2.0 * step);
                prop_assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{name}: {found}, {expected}");
            }
        }
    }

    /// Catches: weights that are left out, or divided by their sum.
    #[test]
    fn a_pair_of_weight_two_and_one_of_weight_none(rows in prop::array::uniform2(logps()), p in 0.0f64..1.0) {
        for name in LOSSES {
            let (loss, gradient) = family(name, &rows, &[p, p], Some(&[2.0, 0.0]), DType::F64);
            let (alone, of_alone) = family(name, &rows[..1], &[p], None, DType::F64);
            prop_assert!((loss - alone).abs() <= 1e-9 * alone.abs().max(1.0), "{name}: {loss}, {alone}");
            prop_assert!((gradient[0] - of_alone[0]).abs() <= 1e-9 * of_alone[0].abs().max(1.0), "{name}");
            prop_assert!(gradient[1] == 0.0 && gradient[3] == 0.0, "{name}");
        }
    }
}

/// Catches: NaN where a sum is large, an answer is certain, or nothing is left of it.
#[test]
fn nothing_is_not_a_number_at_the_edges() {
    let extreme = [
        [-1e4, -1e-3, -1.0, -1e4],
        [-1e-3, -1e4, -1e4, -1.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, -100.0, -100.0, 0.0],
        [-100.0, 0.0, 0.0, -100.0],
    ];
    for name in LOSSES {
        for dtype in [DType::F32, DType::F64] {
            for p in [0.0, 0.5, 1.0] {
                for row in extreme {
                    let (loss, gradient) = family(name, &[row], &[p], None, dtype);
                    let finite = loss.is_finite() && gradient.iter().all(|value| value.is_finite());
                    assert!(finite, "{name} of {row:?} with p = {p}: {loss}, {gradient:?}");
                }
            }
        }
    }
}

/// Catches: an answer all of whose tokens are masked that divides by its length.
#[test]
fn an_answer_without_tokens_has_a_mean_and_a_likelihood() {
    for control in [
        DpoLength::None,
        DpoLength::Normalised,
        DpoLength::Desensitised { alpha: 0.5 },
    ] {
        let pair = control.weigh(0, 3, Seed::new(1));
        assert!(pair.chosen.is_empty() && pair.rejected.iter().all(|weight| weight.is_finite()));
    }
    let none = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let logprobs = Var::from_tensor(&(none.ones_like().unwrap() * -2.0).unwrap()).unwrap();
    let logps = weighted_logps(logprobs.as_tensor(), &none).unwrap();
    let p_chosen = Tensor::new(&[1.0f32, 0.5], &Device::Cpu).unwrap();
    let masked = (logprobs.as_tensor(), &none);
    let nll = orpo::nll(masked, masked, &p_chosen).unwrap();
    let policy = PairLogps {
        chosen: &logps,
        rejected: &logps,
    };
    let loss = orpo::loss(policy, &nll, &p_chosen, 0.1).unwrap().loss;
    assert_near("loss", &values(&loss), &[0.1 * std::f64::consts::LN_2], EXACT);
    let store = loss.backward().unwrap();
    assert_eq!(values(store.get(logprobs.as_tensor()).unwrap()), [0.0; 6]);
}
