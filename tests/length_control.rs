//! Length control in the losses: against torch (`tests/golden/losses.json`, made by `scripts/golden/losses.py`), and
//! the laws that hold whatever the numbers are.

#[path = "support/losses.rs"]
mod support;

use bylaw::seed::Seed;
use bylaw::train::loss::dpo::{self, PairLogps};
use bylaw::train::loss::length::{
    DpoLength, PairWeights, TwoHeads, correlation, decorrelation, residual_margin, slope, weighted_logps,
};
use bylaw::train::loss::reward;
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;
use rand::Rng as _;
use serde_json::Value;

use support::*;

// ---------------------------------------------------------------- DPO against torch

/// Rows of one width, 0 beyond their ends.
fn padded(rows: Vec<Vec<f32>>, width: usize, dtype: DType) -> Tensor {
    let count = rows.len();
    let values: Vec<f32> = rows
        .into_iter()
        .flat_map(|mut row| {
            row.resize(width, 0.0);
            row
        })
        .collect();
    let tensor = Tensor::from_vec(values, (count, width), &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

fn control(case: &Value) -> DpoLength {
    let alpha = || case["alpha"].as_f64().unwrap();
    match case["control"].as_str().unwrap() {
        "none" => DpoLength::None,
        "normalised" => DpoLength::Normalised,
        "margin" => DpoLength::Margin { alpha: alpha() },
        "desensitised" => DpoLength::Desensitised { alpha: alpha() },
        "down-sampled" => DpoLength::DownSampled,
        other => panic!("no such control: {other}"),
    }
}

/// The weights of a case's pairs; the tokens of a down-sampled one are those that the script drew.
fn weights(case: &Value) -> Vec<PairWeights> {
    let lengths = |side: &str| flat(&case["inputs"][format!("{side}_lengths")]);
    let pairs = lengths("chosen").into_iter().zip(lengths("rejected"));
    let mut all: Vec<PairWeights> = pairs
        .map(|(chosen, rejected)| control(case).weigh(chosen as usize, rejected as usize, Seed::new(0)))
        .collect();
    if !case["inputs"]["chosen_drawn"].is_null() {
        let drawn = |side: &str| rows(&case["inputs"][format!("{side}_drawn")]);
        for (pair, (chosen, rejected)) in all.iter_mut().zip(drawn("chosen").iter().zip(drawn("rejected"))) {
            (pair.chosen, pair.rejected) = (singles(chosen), singles(&rejected));
        }
    }
    all
}

/// Catches: the margin's sign, beta on the margin, a mean over padding, a tail that begins a token early or late, one
/// answer's own length for the shorter one's, a reference that is weighed otherwise than the policy.
#[test]
fn dpo_with_length_control_is_torchs() {
    for case in golden("dpo_length") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let chosen = var(&inputs["policy_chosen_logprobs"], dtype);
            let rejected = var(&inputs["policy_rejected_logprobs"], dtype);
            let width = chosen.dim(1).unwrap();
            let pairs = weights(&case);
            let of_chosen = padded(pairs.iter().map(|pair| pair.chosen.clone()).collect(), width, dtype);
            let of_rejected = padded(pairs.iter().map(|pair| pair.rejected.clone()).collect(), width, dtype);
            let margin = padded(pairs.iter().map(|pair| vec![pair.margin]).collect(), 1, dtype);
            let reference =
                |key: &str, weights: &Tensor| weighted_logps(&tensor(&inputs[key], dtype), weights).unwrap();
            let found = dpo::loss(
                PairLogps {
                    chosen: &weighted_logps(chosen.as_tensor(), &of_chosen).unwrap(),
                    rejected: &weighted_logps(rejected.as_tensor(), &of_rejected).unwrap(),
                },
                PairLogps {
                    chosen: &reference("reference_chosen_logprobs", &of_chosen),
                    rejected: &reference("reference_rejected_logprobs", &of_rejected),
                },
                &tensor(&inputs["p_chosen"], dtype),
                Some(&margin.squeeze(1).unwrap()),
                case["beta"].as_f64().unwrap(),
            )
            .unwrap();
            // The weights are `f32`, of which a third is none.
            let tolerance = if control(&case) == DpoLength::Normalised {
                SINGLE
            } else {
                tolerance
            };
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "per_row", &found.per_row, tolerance);
            check(&case, "chosen_rewards", &found.chosen_rewards, tolerance);
            check(&case, "rejected_rewards", &found.rejected_rewards, tolerance);
            let leaves = [
                ("policy_chosen_logprobs", &chosen),
                ("policy_rejected_logprobs", &rejected),
            ];
            check_gradients(&case, &found.loss, &leaves, tolerance);
        }
    }
}

// ---------------------------------------------------------------- laws of DPO's weights

const ALL: [DpoLength; 5] = [
    DpoLength::None,
    DpoLength::Normalised,
    DpoLength::Margin { alpha: 0.03 },
    DpoLength::Desensitised { alpha: 0.4 },
    DpoLength::DownSampled,
];

/// The loss of one pair of log-ratios (policy over reference) a token.
fn loss_of(control: DpoLength, seed: Seed, chosen: &[f64], rejected: &[f64], p_chosen: f64) -> f64 {
    let pair = control.weigh(chosen.len(), rejected.len(), seed);
    let logps = |ratios: &[f64], weights: &[f32]| {
        let ratios = Tensor::from_slice(ratios, (1, ratios.len()), &Device::Cpu).unwrap();
        let weights = padded(vec![weights.to_vec()], weights.len(), DType::F64);
        weighted_logps(&ratios, &weights).unwrap()
    };
    let nothing = Tensor::zeros(1, DType::F64, &Device::Cpu).unwrap();
    let policy = PairLogps {
        chosen: &logps(chosen, &pair.chosen),
        rejected: &logps(rejected, &pair.rejected),
    };
    let reference = PairLogps {
        chosen: &nothing,
        rejected: &nothing,
    };
    let p_chosen = Tensor::new(&[p_chosen], &Device::Cpu).unwrap();
    let margin = Tensor::new(&[f64::from(pair.margin)], &Device::Cpu).unwrap();
    let found = dpo::loss(policy, reference, &p_chosen, Some(&margin), 0.3).unwrap();
    found.loss.to_scalar().unwrap()
}

proptest! {
    /// Catches: a neutral setting that is not neutral.
    #[test]
    fn neutral_settings_are_plain_dpo(chosen in 1usize..50, rejected in 1usize..50, run: u64) {
        let weigh = |control: DpoLength| control.weigh(chosen, rejected, Seed::new(run));
        let plain = weigh(DpoLength::None);
        prop_assert_eq!(&weigh(DpoLength::Desensitised { alpha: 1.0 }), &plain);
        prop_assert_eq!(&weigh(DpoLength::Margin { alpha: 0.0 }), &plain);
    }

    /// Catches: control where there is nothing to control.
    #[test]
    fn equal_lengths_are_plain_dpo(length in 1usize..50, run: u64) {
        let plain = DpoLength::None.weigh(length, length, Seed::new(run));
        for control in ALL {
            let mut found = control.weigh(length, length, Seed::new(run));
            if control == DpoLength::Normalised {
                let scaled = [&mut found.chosen, &mut found.rejected];
                scaled.into_iter().flatten().for_each(|weight| *weight = (*weight * length as f32 * 1e6).round() / 1e6);
            }
            prop_assert_eq!(&found, &plain, "{:?}", control);
        }
    }

    /// Catches: a side that is treated as the better one where only the label should say so.
    #[test]
    fn swapping_answers_and_label_changes_nothing(
        chosen in prop::collection::vec(-3.0f64..3.0, 1..20),
        rejected in prop::collection::vec(-3.0f64..3.0, 1..20),
        p_chosen in 0.0f64..=1.0,
        run: u64,
    ) {
        for control in ALL {
            let one = loss_of(control, Seed::new(run), &chosen, &rejected, p_chosen);
            let other = loss_of(control, Seed::new(run), &rejected, &chosen, 1.0 - p_chosen);
            prop_assert!((one - other).abs() < 1e-9, "{:?}: {} and {}", control, one, other);
        }
    }

    /// Catches: tokens of the longer answer that count for more than those of the shorter one.
    #[test]
    fn down_sampling_counts_as_many_tokens_of_both(chosen in 1usize..50, rejected in 1usize..50, run: u64) {
        let pair = DpoLength::DownSampled.weigh(chosen, rejected, Seed::new(run));
        for (weights, length) in [(&pair.chosen, chosen), (&pair.rejected, rejected)] {
            prop_assert_eq!(weights.len(), length);
            prop_assert!(weights.iter().all(|weight| *weight == 0.0 || *weight == 1.0));
            prop_assert_eq!(weights.iter().sum::<f32>(), chosen.min(rejected) as f32);
        }
        prop_assert_eq!(&DpoLength::DownSampled.weigh(chosen, rejected, Seed::new(run)), &pair);
    }

    /// Catches: an estimate that follows differences of quality, and one with the wrong sign.
    #[test]
    fn the_slope_is_the_planted_one(planted in -0.2f64..0.2, run: u64) {
        let mut rng = Seed::new(run).rng();
        let pairs: Vec<(f64, f64)> = (0..200)
            .map(|_| {
                let tokens = f64::from(rng.random_range(-30i32..=30));
                let quality = [-3.0, 0.0, 0.0, 0.0, 3.0][rng.random_range(0..5)];
                (planted * tokens + quality + rng.random_range(-0.1..0.1), tokens)
            })
            .collect();
        prop_assert!((slope(pairs) - planted).abs() < 0.03);
    }
}

/// Catches: the same tokens drawn in every epoch and for every row; a longer winner that is pushed harder.
#[test]
fn draws_change_with_the_seed_and_margins_favour_the_longer() {
    let draw = |seed: Seed| DpoLength::DownSampled.weigh(40, 20, seed).chosen;
    let row = Seed::new(1).index(7);
    assert_ne!(draw(row.index(0)), draw(row.index(1)));
    assert_ne!(draw(row.index(0)), draw(Seed::new(1).index(8).index(0)));
    let margin = DpoLength::Margin { alpha: 0.5 };
    assert_eq!(margin.weigh(5, 3, row).margin, 1.0);
    assert_eq!(margin.weigh(3, 5, row).margin, -1.0);
    let loss = |chosen: usize| loss_of(margin, row, &vec![0.0; chosen], &[0.0; 4], 1.0);
    assert!(loss(8) < loss(4) && loss(4) < loss(1));
}

// ---------------------------------------------------------------- the reward model

/// Catches: the length effect with the wrong sign or subtracted twice, heads mixed up, the absolute value on the wrong
/// correlation, one that is of chosen answers alone, an angle that depends on the norms.
#[test]
fn reward_length_control_is_torchs() {
    for case in golden("reward_length") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let chosen = var(&inputs["chosen_rewards"], dtype);
            let rejected = var(&inputs["rejected_rewards"], dtype);
            let p_chosen = tensor(&inputs["p_chosen"], dtype);
            let centre = case["centre_coef"].as_f64().unwrap_or(0.0);
            let loss = |margin: &Tensor| {
                reward::loss(
                    chosen.as_tensor(),
                    rejected.as_tensor(),
                    &p_chosen,
                    Some(margin),
                    centre,
                )
                .unwrap()
                .loss
            };
            let tokens = tensor(&inputs["tokens"], dtype);
            if case["control"] == "residual" {
                let slope = var(&inputs["slope"], dtype);
                let effects = (tokens / case["scale"].as_f64().unwrap()).unwrap().tanh().unwrap();
                let found = loss(&residual_margin(&effects, slope.as_tensor()).unwrap());
                check(&case, "loss", &found, tolerance);
                let leaves = [
                    ("chosen_rewards", &chosen),
                    ("rejected_rewards", &rejected),
                    ("slope", &slope),
                ];
                check_gradients(&case, &found, &leaves, tolerance);
                continue;
            }
            let length = var(&inputs["length_rewards"], dtype);
            let (of_quality, of_length) = (
                var(&inputs["quality_weight"], dtype),
                var(&inputs["length_weight"], dtype),
            );
            let rows = chosen.dim(0).unwrap();
            let heads = TwoHeads {
                quality: &Tensor::cat(&[chosen.as_tensor(), rejected.as_tensor()], 0).unwrap(),
                length: length.as_tensor(),
                tokens: &tokens,
                quality_weight: of_quality.as_tensor(),
                length_weight: of_length.as_tensor(),
            };
            let coefs = ["length_coef", "orthogonal_coef"].map(|name| case[name].as_f64().unwrap());
            let explained = (length.narrow(0, rows, rows).unwrap() - length.narrow(0, 0, rows).unwrap()).unwrap();
            let found = (loss(&explained) + decorrelation(&heads, coefs[0], coefs[1]).unwrap()).unwrap();
            check(&case, "loss", &found, tolerance);
            let leaves = [
                ("chosen_rewards", &chosen),
                ("rejected_rewards", &rejected),
                ("length_rewards", &length),
                ("quality_weight", &of_quality),
                ("length_weight", &of_length),
            ];
            check_gradients(&case, &found, &leaves, tolerance);
        }
    }
}

/// Catches: NaN, in the value or in a gradient, where all rewards are one number, as they are before the first step.
#[test]
fn rewards_that_do_not_vary_have_a_correlation_of_0() {
    for dtype in [DType::F64, DType::F32] {
        let rewards = Var::from_tensor(&Tensor::zeros(4, dtype, &Device::Cpu).unwrap()).unwrap();
        let tokens = tensor(&serde_json::json!([3.0, 1.0, 4.0, 1.0]), dtype);
        let found = correlation(rewards.as_tensor(), &tokens).unwrap();
        assert_eq!(values(&found), [0.0]);
        let store = found.backward().unwrap();
        assert!(
            values(store.get(rewards.as_tensor()).unwrap())
                .iter()
                .all(|slope| slope.is_finite())
        );
    }
}

/// Fits `w · quality + slope · x` to labels by gradient descent on the loss; answers both coefficients.
fn fit(planted: f64) -> [f64; 2] {
    let mut rng = Seed::new(3).rng();
    let (mut quality, mut effects, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..400 {
        let (difference, effect) = (rng.random_range(-2.0..2.0f64), rng.random_range(-1.0..1.0f64));
        quality.push(difference);
        effects.push(effect);
        labels.push(1.0 / (1.0 + (-1.5 * difference - planted * effect).exp()));
    }
    let vector = |values: Vec<f64>| Tensor::new(values, &Device::Cpu).unwrap();
    let (quality, effects, labels) = (vector(quality), vector(effects), vector(labels));
    let coefficients = [0.0, 0.0].map(|value: f64| Var::new(&[value], &Device::Cpu).unwrap());
    let nothing = quality.zeros_like().unwrap();
    for _ in 0..400 {
        let chosen = quality.broadcast_mul(coefficients[0].as_tensor()).unwrap();
        let margin = residual_margin(&effects, coefficients[1].as_tensor()).unwrap();
        let loss = reward::loss(&chosen, &nothing, &labels, Some(&margin), 0.0)
            .unwrap()
            .loss;
        let store = loss.backward().unwrap();
        for coefficient in &coefficients {
            let step = (store.get(coefficient.as_tensor()).unwrap() * 2.0).unwrap();
            coefficient.set(&(coefficient.as_tensor() - step).unwrap()).unwrap();
        }
    }
    coefficients.map(|coefficient| values(coefficient.as_tensor())[0])
}

/// Catches: a coefficient that learns what is not there, or the negative of what is, and takes quality with it.
#[test]
fn the_coefficient_is_that_of_length_alone() {
    for planted in [0.0, 0.8, -0.5] {
        let [quality, slope] = fit(planted);
        assert!((slope - planted).abs() < 1e-3, "planted {planted}, found {slope}");
        assert!((quality - 1.5).abs() < 1e-3, "{quality}");
    }
}

// ---------------------------------------------------------------- PPO

/// Catches: a mean, a median without weights, pairs of equal length that count.
#[test]
fn the_slope_deviates_least() {
    for case in golden("length_slope") {
        let (rewards, tokens) = (flat(&case["inputs"]["rewards"]), flat(&case["inputs"]["tokens"]));
        let found = slope(rewards.into_iter().zip(tokens));
        assert_near(
            name(&case),
            &[found],
            &flat(&serde_json::json!([case["expected"]["slope"]])),
            EXACT,
        );
    }
}
