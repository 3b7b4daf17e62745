//! Pairs of random tokens for the small model, and where a run of them goes.

use std::path::Path;

use bylaw::model::cpu::trunk::Sequence;
use bylaw::progress::Progress;
use bylaw::seed::Seed;
use bylaw::train::pairs::Pair;
use bylaw::train::run::Setup;
use rand::Rng as _;

/// Each with a prompt of its own; answers of 1 to 20 tokens.
pub fn pairs(count: usize) -> Vec<Pair> {
    let mut rng = Seed::new(9).rng();
    let mut draw = |longest: usize| -> Vec<u32> {
        let length = rng.random_range(1..=longest);
        (0..length).map(|_| rng.random_range(2..280)).collect()
    };
    (0..count)
        .map(|_| {
            let prompt = draw(30);
            let mut answer = || Sequence {
                tokens: [prompt.clone(), draw(20)].concat(),
                completion: prompt.len(),
            };
            Pair {
                chosen: answer(),
                rejected: answer(),
                p_chosen: 0.9,
                weight: 1.0,
                margin: 0.0,
            }
        })
        .collect()
}

pub fn setup<'a>(dir: &Path, progress: &'a dyn Progress) -> Setup<'a> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress,
        save_steps: 0,
        in_place: false,
        keeping: Default::default(),
    }
}
