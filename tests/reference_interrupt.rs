//! Ctrl-C while the reference is computed. In a program of its own: the flag is the process's.

#[path = "support/random_pairs.rs"]
mod random_pairs;
#[path = "support/small.rs"]
mod small;

use bylaw::dataset::Dataset;
use bylaw::engine::local::logprobs_all;
use bylaw::error::ErrorKind;
use bylaw::interrupt;
use bylaw::progress::Progress;
use bylaw::record::ReferenceLogprobs;
use bylaw::seed::Seed;
use bylaw::train::dpo::{self, DpoConfig};
use bylaw::train::{pairs, reference};

/// Asks for a stop as soon as something is done.
struct Stops;

impl Progress for Stops {
    fn start(&self, _: &str, _: u64, _: &'static str) {}

    fn advance(&self, done: u64) {
        if done > 0 {
            interrupt::request();
        }
    }

    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

/// Catches: a stop that waits until all is computed, and work that is lost, or kept half done.
#[test]
fn what_was_computed_stays() {
    let (model, dir) = (small::model(), tempfile::tempdir().unwrap());
    let rows = random_pairs::pairs(300);
    let run = dpo::train(
        random_pairs::setup(dir.path(), &Stops),
        &DpoConfig::default(),
        &model.decoder,
        &rows,
        Seed::new(1),
    );
    assert_eq!(run.unwrap_err().kind(), ErrorKind::Interrupted);
    let kept = Dataset::<ReferenceLogprobs>::open(dir.path().join(reference::DIR)).unwrap();
    let kept = kept.read_all().unwrap();
    assert!(!kept.is_empty() && kept.len() < 600, "{} answers", kept.len());
    let answers = pairs::sequences(&rows.iter().collect::<Vec<_>>());
    let expected = logprobs_all(&model.decoder, &answers[..kept.len()]).unwrap();
    assert!(
        kept.iter()
            .zip(expected)
            .all(|(row, expected)| row.logprobs == expected)
    );
}
