//! Log-probabilities of the reference: computed once, found again, by this run and by others.

#[path = "support/random_pairs.rs"]
mod random_pairs;
#[path = "support/small.rs"]
mod small;

use std::path::Path;

use bylaw::dataset::{self, Dataset, validate};
use bylaw::engine::local::logprobs_all;
use bylaw::error::{ErrorKind, Result};
use bylaw::model::decoder::Decoder;
use bylaw::progress::Silent;
use bylaw::record::ReferenceLogprobs;
use bylaw::seed::Seed;
use bylaw::train::dpo::{self, DpoConfig, PreferenceLoss};
use bylaw::train::pairs::{self, Pair};
use bylaw::train::{metrics, reference};
use random_pairs::setup;
use tempfile::TempDir;

fn train(dir: &Path, config: &DpoConfig, policy: &Decoder, rows: &[Pair]) -> Result<Decoder> {
    dpo::train(setup(dir, &Silent), config, policy, rows, Seed::new(1))
}

fn quick() -> DpoConfig {
    DpoConfig {
        learning_rate: 1e-3,
        batch_size: 4,
        ..DpoConfig::default()
    }
}

fn from(dir: &Path) -> DpoConfig {
    DpoConfig {
        reference_logprobs: Some(dir.to_path_buf()),
        ..quick()
    }
}

fn kept(dir: &Path) -> Vec<ReferenceLogprobs> {
    let dataset = Dataset::<ReferenceLogprobs>::open(dir.join(reference::DIR)).unwrap();
    dataset.read_all().unwrap()
}

/// The bytes of the dataset's one shard.
fn shard(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join(reference::DIR).join("data-00000-of-00001.arrow")).unwrap()
}

/// Writes the rows of a dataset again, all log-probabilities changed.
fn tamper(dir: &Path, change: impl Fn(&mut f32)) {
    let place = dir.join(reference::DIR);
    let provenance = Dataset::<ReferenceLogprobs>::open(&place)
        .unwrap()
        .manifest()
        .provenance
        .clone();
    let mut rows = kept(dir);
    rows.iter_mut().flat_map(|row| &mut row.logprobs).for_each(change);
    dataset::write_all(&place, &rows, provenance).unwrap();
}

/// Catches: answers in another order than the pairs, one of them twice, numbers of the prompt, rows that `data validate`
/// has something against.
#[test]
fn a_run_leaves_what_its_reference_gives() {
    let (model, dir, rows) = (small::model(), TempDir::new().unwrap(), random_pairs::pairs(7));
    let twice: Vec<Pair> = rows.iter().chain(&rows[2..4]).cloned().collect();
    train(dir.path(), &quick(), &model.decoder, &twice).unwrap();
    let kept = kept(dir.path());
    let answers = pairs::sequences(&rows.iter().collect::<Vec<_>>());
    let expected = logprobs_all(&model.decoder, &answers).unwrap();
    let found: Vec<Vec<f32>> = kept.iter().map(|row| row.logprobs.clone()).collect();
    assert_eq!(found, expected);
    let found = validate::validate(&dir.path().join(reference::DIR), &Silent).unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
}

/// Catches: a reference that is computed anew whatever is there, rows given to other answers, and a last digit that
/// depends on what was found.
#[test]
fn what_is_there_is_taken_and_what_is_missing_is_computed() {
    let (model, dirs, rows) = (small::model(), TempDir::new().unwrap(), random_pairs::pairs(9));
    let place = |name: &str| dirs.path().join(name);
    train(&place("whole"), &quick(), &model.decoder, &rows).unwrap();
    train(&place("part"), &quick(), &model.decoder, &rows[3..6]).unwrap();
    // Named by its own directory or by that of its run.
    train(&place("filled"), &from(&place("part")), &model.decoder, &rows).unwrap();
    train(
        &place("found"),
        &from(&place("whole").join(reference::DIR)),
        &model.decoder,
        &rows,
    )
    .unwrap();
    let log = |name: &str| std::fs::read_to_string(place(name).join(metrics::FILE)).unwrap();
    for name in ["filled", "found"] {
        assert_eq!(shard(&place(name)), shard(&place("whole")), "{name}");
        assert_eq!(log(name), log("whole"), "{name}");
    }
    // Had they been computed, nobody would know of the change.
    tamper(&place("part"), |logprob| *logprob -= 1.0);
    train(&place("tampered"), &from(&place("part")), &model.decoder, &rows[3..6]).unwrap();
    let reward = |name: &str| {
        metrics::read(&place(name)).unwrap()[0]["rewards/chosen"]
            .as_f64()
            .unwrap()
    };
    let tokens: usize = rows[3..6].iter().map(|pair| pair.chosen.completion_len()).sum();
    assert!(
        (reward("tampered") - 0.1 * tokens as f64 / 3.0).abs() < 1e-4,
        "{}",
        reward("tampered")
    );
    // The same run again finds its own.
    std::fs::remove_file(place("tampered").join(metrics::FILE)).unwrap();
    train(&place("tampered"), &quick(), &model.decoder, &rows[3..6]).unwrap();
    assert!((reward("tampered") - 0.1 * tokens as f64 / 3.0).abs() < 1e-4);
}

/// Catches: log-probabilities of another model taken for those of this one; a mistyped directory that is passed over.
#[test]
fn those_of_other_weights_are_refused() {
    let (model, dirs, rows) = (small::model(), TempDir::new().unwrap(), random_pairs::pairs(4));
    let place = |name: &str| dirs.path().join(name);
    let moved = train(&place("one"), &quick(), &model.decoder, &rows).unwrap();
    let error = train(&place("two"), &from(&place("one")), &moved, &rows).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error.message().contains("other weights") && error.help_text().is_some(),
        "{error}"
    );
    let error = train(&place("three"), &from(&place("nowhere")), &model.decoder, &rows).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
}

/// Catches: time and disk spent on a reference that nobody asks.
#[test]
fn losses_without_a_reference_compute_none() {
    let (model, rows) = (small::model(), random_pairs::pairs(5));
    for loss in [PreferenceLoss::Simpo, PreferenceLoss::Orpo] {
        let dir = TempDir::new().unwrap();
        train(dir.path(), &DpoConfig { loss, ..quick() }, &model.decoder, &rows).unwrap();
        assert!(!dir.path().join(reference::DIR).exists());
    }
}

/// Catches: answers to other prompts that are not asked of the reference, a batch of one pair that has no neighbour, a
/// reference point of matched answers (which is that of the rewards), a loss that does not learn.
#[test]
fn kto_learns_with_a_batch_of_one_at_the_end() {
    let (model, dir, rows) = (small::model(), TempDir::new().unwrap(), random_pairs::pairs(5));
    let config = DpoConfig {
        loss: PreferenceLoss::Kto,
        batch_size: 2,
        epochs: 6,
        ..quick()
    };
    train(dir.path(), &config, &model.decoder, &rows).unwrap();
    let log = metrics::read(dir.path()).unwrap();
    assert_eq!(log.len(), 18);
    let figure = |step: usize, name: &str| log[step][name].as_f64().unwrap();
    assert_eq!(figure(0, "kl"), 0.0);
    assert!((figure(0, "loss") - (0.5 * 0.5 + 0.5 * 0.5)).abs() < 1e-4);
    assert!(figure(17, "rewards/margins") > figure(0, "rewards/margins") + 0.1);
    let matched = |step: usize| 5.0 * (figure(step, "rewards/chosen") + figure(step, "rewards/rejected"));
    assert!((1..18).any(|step| figure(step, "kl") > 0.0 && (figure(step, "kl") - matched(step)).abs() > 1e-3));
    let error = train(dir.path(), &config, &model.decoder, &rows[..1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
}

/// Catches: a reference in another precision than the policy, which then seems to have moved before its first step.
#[test]
fn in_mixed_precision_the_policy_begins_as_its_reference() {
    let (model, dir) = (small::model(), TempDir::new().unwrap());
    let mut policy = model.decoder.copy().unwrap();
    policy.training.halves = true;
    train(dir.path(), &quick(), &policy, &random_pairs::pairs(4)).unwrap();
    let first = &metrics::read(dir.path()).unwrap()[0];
    let margin = first["rewards/margins"].as_f64().unwrap();
    assert!(margin.abs() < 1e-6, "{margin}");
}
