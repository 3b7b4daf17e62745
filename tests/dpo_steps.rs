//! A step of DPO and its kin in several batches: the gradient is that of all its pairs at once, whatever the loss.

#[path = "support/random_pairs.rs"]
mod random_pairs;
#[path = "support/small.rs"]
mod small;

use bylaw::model::decoder::Decoder;
use bylaw::progress::Silent;
use bylaw::seed::Seed;
use bylaw::train::dpo::{self, DpoConfig, PreferenceLoss};
use bylaw::train::length::{DpoControl, DpoLengthConfig};
use bylaw::train::metrics;
use bylaw::train::optim::{OptimConfig, Schedule};
use bylaw::train::pairs::Pair;
use proptest::prelude::*;
use random_pairs::{pairs, setup};
use serde_json::{Map, Value};

/// One step, in which a parameter moves by `g / (|g| + 1)`: what is small is the gradient itself.
fn config(loss: PreferenceLoss, batch_size: usize, gradient_accumulation_steps: usize) -> DpoConfig {
    DpoConfig {
        learning_rate: 1.0,
        batch_size,
        gradient_accumulation_steps,
        loss,
        optim: OptimConfig {
            adam_epsilon: 1.0,
            weight_decay: 0.0,
            max_grad_norm: 1e9,
            warmup_steps: 0,
            lr_scheduler: Schedule::Constant,
            ..OptimConfig::default()
        },
        ..DpoConfig::default()
    }
}

fn values(decoder: &Decoder) -> Vec<f32> {
    let tensors = decoder
        .parameters
        .iter()
        .map(|parameter| parameter.weight.dense().unwrap());
    tensors
        .flat_map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        .collect()
}

/// What the step moved, and what it told.
fn step(start: &Decoder, config: &DpoConfig, pairs: &[Pair]) -> (Vec<f64>, Map<String, Value>) {
    let dir = tempfile::tempdir().unwrap();
    let trained = dpo::train(setup(dir.path(), &Silent), config, start, pairs, Seed::new(3)).unwrap();
    let moved = values(&trained)
        .into_iter()
        .zip(values(start))
        .map(|(a, b)| f64::from(a) - f64::from(b));
    let mut log = metrics::read(dir.path()).unwrap();
    assert_eq!(log.len(), 1, "one step");
    (moved.collect(), log.remove(0))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn kinds() -> Vec<DpoConfig> {
    use PreferenceLoss::{Hinge, Ipo, Kto, Orpo, Robust, Sigmoid, Simpo};
    let mut kinds: Vec<DpoConfig> = [Sigmoid, Ipo, Hinge, Simpo, Kto, Orpo]
        .map(|loss| config(loss, 1, 1))
        .into();
    kinds.push(DpoConfig {
        label_smoothing: 0.1,
        ..config(Robust, 1, 1)
    });
    kinds.push(DpoConfig {
        prompt_loss_weight: Some(0.5),
        ..config(Orpo, 1, 1)
    });
    kinds.push(DpoConfig {
        sft_coef: 0.7,
        length: DpoLengthConfig {
            length_control: DpoControl::Normalised,
            ..DpoLengthConfig::default()
        },
        ..config(Sigmoid, 1, 1)
    });
    kinds
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// Catches: a mean of unequal batches' means, a likelihood of tokens weighed by pairs, a reference point of one batch,
    /// gradients of the last batch alone, a step a batch, weights drawn by a row's place in its batch, figures of one batch.
    #[test]
    fn batches_of_a_step_are_one_batch(
        labels in proptest::collection::vec((0.0f32..=1.0, 0.2f32..3.0), 5..8),
        batch in 1_usize..4,
    ) {
        let start = small::model().decoder;
        let mut rows = pairs(labels.len());
        for (pair, (p_chosen, weight)) in rows.iter_mut().zip(&labels) {
            (pair.p_chosen, pair.weight) = (*p_chosen, *weight);
        }
        for kind in kinds() {
            let of = |batch_size, gradient_accumulation_steps| {
                let config = DpoConfig { batch_size, gradient_accumulation_steps, ..kind.clone() };
                step(&start, &config, &rows)
            };
            let (whole, told) = of(rows.len(), 1);
            let (parts, also) = of(batch, rows.len().div_ceil(batch));
            let size = norm(whole.iter().copied());
            let distance = norm(whole.iter().zip(&parts).map(|(a, b)| a - b));
            prop_assert!(size > 0.0 && distance <= 2e-5 * size, "{:?}: {distance} of {size}", kind.loss);
            for name in [
                "loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "nll", "nll_loss", "kl",
                "num_tokens", "mean_token_accuracy", "entropy",
            ] {
                let [a, b] = [&told, &also].map(|told| told.get(name).and_then(Value::as_f64));
                prop_assert_eq!(a.is_some(), b.is_some(), "{}", name);
                let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
                prop_assert!((a - b).abs() <= 2e-5 * a.abs() + 2e-6, "{:?}, {name}: {a} and {b}", kind.loss);
            }
        }
    }
}

/// Catches: a held-out loss that is a mean of batches' means or weighs tokens otherwise than training does, a reference that
/// was not asked about held-out answers, pairs that are held out and learnt, a measure taken before the step. What the
/// second step learns from is measured after the first.
#[test]
fn held_out_pairs_are_measured_as_they_would_be_learnt() {
    let start = small::model().decoder;
    let rows = pairs(11);
    for kind in kinds() {
        let config = DpoConfig {
            epochs: 2,
            batch_size: rows.len(),
            ..kind
        };
        let run = |held_out: &[Pair], eval_steps: Option<usize>| {
            let dir = tempfile::tempdir().unwrap();
            let config = DpoConfig {
                eval_steps,
                ..config.clone()
            };
            let setup = setup(dir.path(), &Silent);
            let trained = dpo::train_beside(setup, &config, &start, (&rows, held_out), Seed::new(3)).unwrap();
            (values(&trained), metrics::read(dir.path()).unwrap())
        };
        let (weights, log) = run(&rows, Some(1));
        // The reference point of kto is of mismatched answers, which other orders mismatch otherwise.
        let same = match config.loss {
            PreferenceLoss::Kto => vec!["logps/chosen", "rewards/chosen", "nll"],
            _ => vec![
                "loss",
                "rewards/chosen",
                "rewards/margins",
                "rewards/accuracies",
                "logps/rejected",
                "nll",
                // Not a mean of batches'.
                "length/margin_correlation",
            ],
        };
        for name in same.into_iter().chain(["mean_token_accuracy", "entropy"]) {
            let [measured, learnt] = [(0, format!("eval_{name}")), (1, name.to_owned())]
                .map(|(step, name)| log[step][&name].as_f64().unwrap());
            let error = (measured - learnt).abs();
            assert!(
                error <= 2e-5 * learnt.abs() + 2e-6,
                "{:?} {name}: {measured} measured, {learnt} learnt",
                config.loss
            );
        }
        let (also, log) = run(&pairs(14)[11..], None);
        assert!(weights == also, "{:?}: what is held out moves the model", config.loss);
        let measured: Vec<bool> = log.iter().map(|row| row.contains_key("eval_loss")).collect();
        assert_eq!(
            measured,
            [false, true],
            "without --eval-steps it is measured at the end"
        );
        let (alone, log) = run(&[], None);
        assert!(weights == alone && log.iter().all(|row| !row.contains_key("eval_loss")));
    }
}
