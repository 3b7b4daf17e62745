//! Where every random choice comes from: a seed is a path (run, stage, row, sample), hashed.
//!
//! Two choices with different paths are independent, and no choice depends on how many others were
//! made before it; so a resumed run, or one cut into other batches, chooses the same.

use rand::SeedableRng;
use sha2::{Digest, Sha256};

/// The generator behind all sampling: portable, so the same seed gives the same stream anywhere.
pub type Rng = rand_chacha::ChaCha8Rng;

/// A point in the tree of random choices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The root, from the `--seed` of a run.
    pub fn new(run: u64) -> Self {
        Self(Sha256::digest(run.to_le_bytes()).into())
    }

    /// The child named `label`: a stage, a row id.
    #[must_use]
    pub fn child(&self, label: impl AsRef<[u8]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(b"/");
        hash.update(label);
        Self(hash.finalize().into())
    }

    /// The `index`-th child: a sample, a step.
    #[must_use]
    pub fn index(&self, index: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(b"#");
        hash.update(index.to_le_bytes());
        Self(hash.finalize().into())
    }

    /// What tells it from every other seed.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub fn rng(&self) -> Rng {
        Rng::from_seed(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn paths_are_distinct_and_stable() {
        let run = Seed::new(1);
        let mut seen = std::collections::HashSet::new();
        for seed in [
            run,
            Seed::new(2),
            run.child("a"),
            run.child("b"),
            run.index(0),
            run.index(1),
            run.child("a").index(0),
        ] {
            assert!(seen.insert(seed.rng().random::<u64>()), "two paths share a stream");
        }
        assert_eq!(
            run.child("a").rng().random::<u64>(),
            Seed::new(1).child("a").rng().random::<u64>()
        );
    }
}
