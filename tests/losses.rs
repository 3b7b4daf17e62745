//! The losses and the optimiser against torch (`tests/golden/losses.json`, made by
//! `scripts/golden/losses.py`): values and gradients, with numbers beyond the masks that must not
//! count, and cases at the edge of what `f32` holds.

#[path = "support/losses.rs"]
mod support;

use bylaw::model::cpu::kernels::sum_of_squares;
use bylaw::train::loss::advantage::{Estimates, gae, whiten};
use bylaw::train::loss::dpo::PairLogps;
use bylaw::train::loss::kl::KlEstimator;
use bylaw::train::loss::ops::log_sigmoid;
use bylaw::train::loss::ppo::{Clipping, PpoBatch};
use bylaw::train::loss::surrogate::RatioClip;
use bylaw::train::loss::{dpo, ppo, reward, sft};
use bylaw::train::optim::{AdamW, Decay, OptimConfig, Schedule};
use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

use support::*;

// ---------------------------------------------------------------- preference losses

/// Catches: swapped answers, a sign, a soft label read as a hard one, beta applied twice, a loss
/// that overflows at a margin of 1000, a gradient lost at 0.
#[test]
fn dpo_is_torchs() {
    for case in golden("dpo") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let chosen = var(&inputs["policy_chosen_logps"], dtype);
            let rejected = var(&inputs["policy_rejected_logps"], dtype);
            let policy = PairLogps {
                chosen: chosen.as_tensor(),
                rejected: rejected.as_tensor(),
            };
            let reference = PairLogps {
                chosen: &tensor(&inputs["reference_chosen_logps"], dtype),
                rejected: &tensor(&inputs["reference_rejected_logps"], dtype),
            };
            let p_chosen = tensor(&inputs["p_chosen"], dtype);
            let found = dpo::loss(policy, reference, &p_chosen, None, case["beta"].as_f64().unwrap()).unwrap();
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "per_row", &found.per_row, tolerance);
            check(&case, "chosen_rewards", &found.chosen_rewards, tolerance);
            check(&case, "rejected_rewards", &found.rejected_rewards, tolerance);
            let leaves = [("policy_chosen_logps", &chosen), ("policy_rejected_logps", &rejected)];
            check_gradients(&case, &found.loss, &leaves, tolerance);
        }
    }
}

/// Catches: the margin added instead of subtracted, the centring term of differences instead of
/// sums or without its coefficient, and what dpo's test catches.
#[test]
fn bradley_terry_is_torchs() {
    for case in golden("bradley_terry") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let chosen = var(&inputs["chosen_rewards"], dtype);
            let rejected = var(&inputs["rejected_rewards"], dtype);
            let p_chosen = tensor(&inputs["p_chosen"], dtype);
            let margin = (!inputs["margin"].is_null()).then(|| tensor(&inputs["margin"], dtype));
            let centre = case["centre_coef"].as_f64().unwrap_or(0.0);
            let found = reward::loss(
                chosen.as_tensor(),
                rejected.as_tensor(),
                &p_chosen,
                margin.as_ref(),
                centre,
            );
            let found = found.unwrap();
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "per_row", &found.per_row, tolerance);
            let leaves = [("chosen_rewards", &chosen), ("rejected_rewards", &rejected)];
            check_gradients(&case, &found.loss, &leaves, tolerance);
        }
    }
}

/// Catches: a log-sigmoid put together from `abs`, whose gradient at exactly 0 (where DPO begins)
/// is 0 or 1 instead of a half, and one that is infinite or flat far out.
#[test]
fn log_sigmoid_has_its_gradient_everywhere() {
    let points: [f64; 7] = [0.0, -0.0, 1e-9, 40.0, -40.0, 1000.0, -1000.0];
    for dtype in [DType::F64, DType::F32] {
        let x = Tensor::new(&points, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let y = log_sigmoid(x.as_tensor()).unwrap();
        let (far, half) = ((-40.0f64).exp(), std::f64::consts::LN_2);
        let expected = [-half, -half, -half, -far, -40.0 - far, 0.0, -1000.0];
        assert_near("log_sigmoid", &values(&y), &expected, EXACT);
        let store = y.sum_all().unwrap().backward().unwrap();
        let slopes = values(store.get(x.as_tensor()).unwrap());
        assert_eq!(slopes[..2], [0.5, 0.5]);
        assert_near("slope", &slopes, &[0.5, 0.5, 0.5, far, 1.0, 0.0, 1.0], EXACT);
    }
}

/// Catches: an operation of its own that reads its storage in order whatever the layout is.
#[test]
fn log_sigmoid_follows_the_layout() {
    let x = var(&serde_json::json!([[-2.0, 0.5, 3.0], [1.0, -1.0, 4.0]]), DType::F64);
    let turned = x.as_tensor().t().unwrap();
    let y = log_sigmoid(&turned).unwrap();
    let straight = log_sigmoid(x.as_tensor()).unwrap();
    assert_eq!(values(&y), values(&straight.t().unwrap()));
    // The third column only: its elements are 3 and 4.
    let last = log_sigmoid(&x.as_tensor().narrow(1, 2, 1).unwrap()).unwrap();
    let store = last.sum_all().unwrap().backward().unwrap();
    let slope = |x: f64| 1.0 / (1.0 + x.exp());
    let expected = [0.0, 0.0, slope(3.0), 0.0, 0.0, slope(4.0)];
    assert_near("slope", &values(store.get(x.as_tensor()).unwrap()), &expected, EXACT);
}

// ---------------------------------------------------------------- PPO

/// The counted part of each row; counted tokens stand first.
fn counted(case: &Value, key: &str) -> Vec<Vec<f32>> {
    let masks = rows(&case["inputs"]["mask"]);
    rows(&case["inputs"][key])
        .iter()
        .zip(masks)
        .map(|(row, mask)| {
            let count = mask.iter().filter(|counts| **counts > 0.0).count();
            singles(&row[..count])
        })
        .collect()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Catches: the recursion run forwards, lambda or gamma forgotten in one of its two places, a value
/// bootstrapped beyond the end, returns that are not advantage + value.
#[test]
fn gae_is_torchs() {
    for case in golden("gae") {
        let (gamma, lambda) = (case["gamma"].as_f64().unwrap(), case["gae_lambda"].as_f64().unwrap());
        let (advantages, returns) = (
            rows(&case["expected"]["advantages"]),
            rows(&case["expected"]["returns"]),
        );
        let inputs = counted(&case, "rewards").into_iter().zip(counted(&case, "values"));
        for (row, (rewards, values)) in inputs.enumerate() {
            let found = gae(&rewards, &values, gamma, lambda);
            let count = rewards.len();
            let what = format!("{} row {row}", name(&case));
            assert_near(&what, &widened(&found.advantages), &advantages[row][..count], EXACT);
            assert_near(&what, &widened(&found.returns), &returns[row][..count], EXACT);
        }
    }
    let nothing = Estimates {
        advantages: Vec::new(),
        returns: Vec::new(),
    };
    assert_eq!(gae(&[], &[], 1.0, 0.95), nothing);
}

/// Catches: whitening each row by itself, dividing by n, padding that takes part, NaN for constants
/// and for a single value.
#[test]
fn whitening_is_torchs() {
    for case in golden("whiten") {
        let mut found = counted(&case, "values");
        whiten(&mut found);
        for (row, (found, expected)) in found.iter().zip(rows(&case["expected"]["whitened"])).enumerate() {
            let what = format!("{} row {row}", name(&case));
            assert_near(&what, &widened(found), &expected[..found.len()], EXACT);
        }
    }
    let mut single = vec![vec![3.0], vec![]];
    whiten(&mut single);
    assert_eq!(single, [vec![3.0], vec![]]);
}

/// Catches: a minimum for the maximum, clipping on one side only, values clipped around the returns
/// instead of the old values, a dual clip of positive advantages, means over padding, junk beyond a completion's end reaching the loss or
/// a gradient, and `0 · exp(100) = NaN`.
#[test]
fn ppo_is_torchs() {
    for case in golden("ppo") {
        for (dtype, tolerance) in precisions() {
            let inputs = &case["inputs"];
            let input = |key: &str| tensor(&inputs[key], dtype);
            let (logprobs, predicted) = (var(&inputs["logprobs"], dtype), var(&inputs["values"], dtype));
            let batch = PpoBatch {
                logprobs: logprobs.as_tensor(),
                old_logprobs: &input("old_logprobs"),
                advantages: &input("advantages"),
                values: predicted.as_tensor(),
                old_values: &input("old_values"),
                returns: &input("returns"),
                mask: &input("mask"),
            };
            let clipping = Clipping {
                ratio: RatioClip {
                    clip_range: case["clip_range"].as_f64().unwrap(),
                    dual_clip: case["dual_clip"].as_f64(),
                },
                clip_range_value: case["clip_range_value"].as_f64(),
                vf_coef: case["vf_coef"].as_f64().unwrap(),
            };
            let found = ppo::loss(&batch, clipping).unwrap();
            check(&case, "loss", &found.loss, tolerance);
            check(&case, "policy_loss", &found.policy_loss, tolerance);
            check(&case, "value_loss", &found.value_loss, tolerance);
            check(&case, "clipfrac", &found.moved.clipfrac, tolerance);
            check(&case, "value_clipfrac", &found.value_clipfrac, tolerance);
            check(&case, "approx_kl", &found.moved.approx_kl, tolerance);
            check(&case, "ratio", &found.moved.ratio, tolerance);
            let leaves = [("logprobs", &logprobs), ("values", &predicted)];
            check_gradients(&case, &found.loss, &leaves, tolerance);
        }
    }
}

/// Catches: masked tokens that count after all. Whatever stands there, nothing changes to the bit.
#[test]
fn ppo_does_not_look_beyond_the_mask() {
    let mut case = golden("ppo").remove(0);
    let losses = |case: &Value| {
        let input = |key: &str| tensor(&case["inputs"][key], DType::F32);
        let (logprobs, old_logprobs) = (input("logprobs"), input("old_logprobs"));
        let (advantages, returns) = (input("advantages"), input("returns"));
        let (predicted, old_values, mask) = (input("values"), input("old_values"), input("mask"));
        let batch = PpoBatch {
            logprobs: &logprobs,
            old_logprobs: &old_logprobs,
            advantages: &advantages,
            values: &predicted,
            old_values: &old_values,
            returns: &returns,
            mask: &mask,
        };
        let clipping = Clipping {
            ratio: RatioClip {
                clip_range: 0.2,
                dual_clip: Some(3.0),
            },
            clip_range_value: Some(0.2),
            vf_coef: 0.1,
        };
        let found = ppo::loss(&batch, clipping).unwrap();
        let all = [
            found.loss,
            found.moved.clipfrac,
            found.value_clipfrac,
            found.moved.approx_kl,
        ];
        all.map(|figure| figure.to_scalar::<f32>().unwrap().to_bits())
    };
    let before = losses(&case);
    let mask = rows(&case["inputs"]["mask"]);
    for (key, junk) in [
        ("logprobs", 1e4),
        ("old_logprobs", -1e4),
        ("advantages", -1e9),
        ("values", 1e15),
        ("returns", -3.0),
    ] {
        for (row, mask) in mask.iter().enumerate() {
            for (column, _) in mask.iter().enumerate().filter(|(_, counts)| **counts == 0.0) {
                case["inputs"][key][row][column] = junk.into();
            }
        }
    }
    assert_eq!(losses(&case), before);
}

/// Catches: estimators swapped, `π / π_ref` for `π_ref / π`, cancellation in K3.
#[test]
fn kl_penalties_are_torchs() {
    for case in golden("kl_penalty") {
        let (policy, reference) = (
            flat(&case["inputs"]["logprobs"]),
            flat(&case["inputs"]["reference_logprobs"]),
        );
        for (key, estimator) in [
            ("k1", KlEstimator::K1),
            ("k2", KlEstimator::K2),
            ("k3", KlEstimator::K3),
        ] {
            let found: Vec<f64> = singles(&policy)
                .into_iter()
                .zip(singles(&reference))
                .map(|(policy, reference)| f64::from(estimator.estimate(policy, reference)))
                .collect();
            let what = format!("{} {key}", name(&case));
            assert_near(&what, &found, &flat(&case["expected"][key]), EXACT);
        }
    }
    assert_eq!(KlEstimator::K3.estimate(-1.5, -1.5), 0.0);
    assert!(KlEstimator::K3.estimate(-1.5, -1.500_1) > 0.0);
}

// ---------------------------------------------------------------- SFT

/// Catches: a mean over all tokens instead of the weighted one, a mean of the rows' means.
#[test]
fn sft_is_torchs() {
    for case in golden("sft") {
        for (dtype, tolerance) in precisions() {
            let logprobs = var(&case["inputs"]["logprobs"], dtype);
            let weights = tensor(&case["inputs"]["weights"], dtype);
            let found = sft::loss(logprobs.as_tensor(), &weights).unwrap();
            check(&case, "loss", &found, tolerance);
            check_gradients(&case, &found, &[("logprobs", &logprobs)], tolerance);
        }
    }
}

// ---------------------------------------------------------------- AdamW

const PARAMETERS: [&str; 2] = ["first", "second"];

fn optim_config(case: &Value) -> OptimConfig {
    let setting = |key: &str| case[key].as_f64().unwrap();
    OptimConfig {
        adam_beta1: setting("beta1"),
        adam_beta2: setting("beta2"),
        adam_epsilon: setting("eps"),
        weight_decay: setting("weight_decay"),
        max_grad_norm: setting("max_grad_norm"),
        lr_scheduler: Schedule::Constant,
        ..OptimConfig::default()
    }
}

/// The parameters as matrices: those decay.
fn matrices(start: &Value) -> Vec<Tensor> {
    let matrix = |key: &str| {
        let values = singles(&flat(&start[key]));
        let count = values.len();
        Tensor::from_vec(values, (count, 1), &Device::Cpu).unwrap()
    };
    PARAMETERS.map(matrix).to_vec()
}

/// Catches: clipping each parameter by itself, moments of unclipped gradients, a decay that goes
/// through the moments (Adam with L2) or is applied after the step, a bias correction off by a step,
/// epsilon inside the square root.
#[test]
fn adamw_is_torchs() {
    for case in golden("adamw") {
        let parameters = matrices(&case["inputs"]["parameter"]);
        let tensors: Vec<&Tensor> = parameters.iter().collect();
        let rate = case["lr"].as_f64().unwrap();
        let mut optimizer = AdamW::new(optim_config(&case), tensors.iter().copied());
        let steps = case["expected"]["steps"].as_array().unwrap();
        for (step, expected) in steps.iter().enumerate() {
            let what = format!("{} step {step}", name(&case));
            let given = &case["inputs"]["gradient"][step];
            let mut gradients = PARAMETERS.map(|key| singles(&flat(&given[key])));
            let mut borrowed: Vec<&mut Vec<f32>> = gradients.iter_mut().collect();
            let norm = optimizer.update(&tensors, &mut borrowed, rate).unwrap();
            assert_near(&what, &[norm], &flat(&expected["grad_norm"]), SINGLE);
            for (index, key) in PARAMETERS.iter().enumerate() {
                let clipped = flat(&expected["clipped_gradient"][key]);
                assert_near(
                    &format!("{what} gradient {key}"),
                    &widened(&gradients[index]),
                    &clipped,
                    SINGLE,
                );
                let moved = flat(&expected["parameter"][key]);
                assert_near(&format!("{what} {key}"), &values(&parameters[index]), &moved, SINGLE);
            }
        }
    }
}

/// Catches: norms and biases that decay, matrices that do not, and a rate factor that reaches the
/// wrong parameters.
#[test]
fn only_matrices_decay_and_only_the_head_is_faster() {
    let config = OptimConfig {
        weight_decay: 0.5,
        ..OptimConfig::default()
    };
    let matrix = Tensor::new(&[[2.0f32], [-4.0]], &Device::Cpu).unwrap();
    let vector = Tensor::new(&[2.0f32, -4.0], &Device::Cpu).unwrap();
    let head = Tensor::new(&[[2.0f32], [-4.0]], &Device::Cpu).unwrap();
    let tensors = [&matrix, &vector, &head];
    let mut optimizer = AdamW::new(config, tensors).with_rate_factor(2, 10.0);
    let mut still = [vec![0.0f32; 2], vec![0.0; 2], vec![0.0; 2]];
    let mut borrowed: Vec<&mut Vec<f32>> = still.iter_mut().collect();
    optimizer.update(&tensors, &mut borrowed, 0.01).unwrap();
    assert_near("matrix", &values(&matrix), &[1.99, -3.98], EXACT);
    assert_eq!(values(&vector), [2.0, -4.0]);
    assert_near("head", &values(&head), &[1.9, -3.8], EXACT);
    let mut gradients = [vec![1.0f32, -1.0], vec![1.0, -1.0], vec![1.0, -1.0]];
    let before = [&matrix, &vector, &head].map(values);
    let mut borrowed: Vec<&mut Vec<f32>> = gradients.iter_mut().collect();
    optimizer.update(&tensors, &mut borrowed, 0.01).unwrap();
    let moved = |index: usize, tensor: &Tensor| (values(tensor)[0] - before[index][0]).abs();
    assert!(moved(2, &head) > 5.0 * moved(0, &matrix), "the head is no faster");
}

/// Catches: restored moments that are swapped or a step count that starts again.
#[test]
fn a_restored_optimiser_goes_on_exactly() {
    let case = golden("adamw").remove(0);
    let gradient = |step: usize| PARAMETERS.map(|key| singles(&flat(&case["inputs"]["gradient"][step][key])));
    let step = |optimizer: &mut AdamW, tensors: &[&Tensor], index: usize| {
        let mut gradients = gradient(index);
        let mut borrowed: Vec<&mut Vec<f32>> = gradients.iter_mut().collect();
        optimizer.update(tensors, &mut borrowed, 0.01).unwrap();
    };
    let whole = matrices(&case["inputs"]["parameter"]);
    let tensors: Vec<&Tensor> = whole.iter().collect();
    let mut first = AdamW::new(optim_config(&case), tensors.iter().copied());
    (0..2).for_each(|index| step(&mut first, &tensors, index));
    let copies: Vec<Tensor> = whole.iter().map(|tensor| tensor.copy().unwrap()).collect();
    let copied: Vec<&Tensor> = copies.iter().collect();
    let mut second = AdamW::new(optim_config(&case), copied.iter().copied());
    let moments = first.moments().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
    second.restore(first.step, moments);
    (2..5).for_each(|index| step(&mut first, &tensors, index));
    (2..5).for_each(|index| step(&mut second, &copied, index));
    for (one, other) in whole.iter().zip(&copies) {
        assert_eq!(values(one), values(other));
    }
}

/// Catches: a norm that loses its small parts to single precision.
#[test]
fn the_norm_is_summed_in_double_precision() {
    let ones = vec![1e-4f32; 1 << 20];
    let expected = f64::from(1e-4f32).powi(2) * f64::from(1u32 << 20);
    assert!((sum_of_squares(&ones) - expected).abs() < 1e-6 * expected);
}

// ---------------------------------------------------------------- the learning rate

/// Catches: a first step of rate 0, a warm-up that never ends, a schedule that misses its end.
#[test]
fn the_learning_rate_warms_up_and_falls() {
    let config = |lr_scheduler, warmup_steps, min_lr_ratio| OptimConfig {
        lr_scheduler,
        warmup_steps,
        min_lr_ratio,
        ..OptimConfig::default()
    };
    let constant = config(Schedule::Constant, 4, 0.0);
    let rates: Vec<f64> = (0..6).map(|step| constant.rate(2.0, step, 6)).collect();
    assert_near("warm-up", &rates, &[0.5, 1.0, 1.5, 2.0, 2.0, 2.0], 1e-12);
    let linear = config(Schedule::Linear, 0, 0.0);
    let rates: Vec<f64> = (0..5).map(|step| linear.rate(1.0, step, 5)).collect();
    assert_near("linear", &rates, &[1.0, 0.8, 0.6, 0.4, 0.2], 1e-12);
    let cosine = config(Schedule::Cosine, 0, 0.1);
    assert_near(
        "cosine",
        &[cosine.rate(1.0, 0, 10), cosine.rate(1.0, 5, 10)],
        &[1.0, 0.55],
        1e-12,
    );
    assert!(cosine.rate(1.0, 9, 10) > 0.1);
}

/// Catches: a decay that begins a step early or late, that does not end above 0, a default that is no tenth, a share
/// rounded down to no step, a warm-up by steps that a share does not replace.
#[test]
fn a_stable_rate_decays_at_the_end() {
    let wsd = OptimConfig {
        lr_scheduler: Schedule::Wsd,
        warmup_ratio: Some(0.2),
        decay_steps: Some(4),
        ..OptimConfig::default()
    };
    let rates =
        |config: &OptimConfig, total| -> Vec<f64> { (0..total).map(|step| config.rate(1.0, step, total)).collect() };
    assert_near(
        "wsd",
        &rates(&wsd, 10),
        &[0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25],
        1e-12,
    );
    let root = OptimConfig {
        decay_shape: Some(Decay::OneMinusSqrt),
        min_lr_ratio: 0.1,
        ..wsd.clone()
    };
    assert_near("1-sqrt", &rates(&root, 10)[6..8], &[1.0, 0.55], 1e-12);
    let tenth = OptimConfig {
        warmup_ratio: None,
        decay_steps: None,
        ..wsd
    };
    assert_near("a tenth", &rates(&tenth, 20)[17..], &[1.0, 1.0, 0.5], 1e-12);
    assert_near("rounded up", &rates(&tenth, 12)[9..], &[1.0, 1.0, 0.5], 1e-12);
    assert!(tenth.check().is_ok());
    let stray = OptimConfig {
        decay_ratio: Some(0.5),
        ..OptimConfig::default()
    };
    assert_eq!(stray.check().unwrap_err().kind(), bylaw::error::ErrorKind::Config);
}

/// Catches: weights left out of the loss, or divided by their own sum in the batch.
#[test]
fn a_pair_counts_as_much_as_it_weighs() {
    use bylaw::train::loss::ops::SoftLabels;
    let tensor = |values: &[f64]| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    let chosen = Var::from_tensor(&tensor(&[0.3, -1.2])).unwrap();
    let (rejected, p_chosen) = (tensor(&[0.1, 0.4]), tensor(&[0.8, 0.6]));
    let weights = tensor(&[2.0, 0.0]);
    let labels = SoftLabels {
        p_chosen: &p_chosen,
        weights: Some(&weights),
    };
    let weighed = reward::loss(chosen.as_tensor(), &rejected, labels, None, 0.0).unwrap();
    let per_row = values(&weighed.per_row);
    assert_near(
        "loss",
        &[weighed.loss.to_scalar::<f64>().unwrap()],
        &per_row[..1],
        EXACT,
    );
    let store = weighed.loss.backward().unwrap();
    let gradient = values(store.get(chosen.as_tensor()).unwrap());
    let alone = 1.0 / (1.0 + (-0.2f64).exp()) - 0.8;
    assert_near("gradient", &gradient, &[alone, 0.0], 1e-12);
}
