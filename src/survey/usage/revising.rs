//! What a principle did in rounds of critique and revision.

use super::chars;
use super::ratio::Ratio;
use super::report::{RevisingUse, Wordings};
use crate::record::Round;

#[derive(Debug, Default)]
pub struct RevisingTally {
    changed: Ratio,
    added: Ratio,
    relative: Ratio,
    wordings: Wordings,
}

impl RevisingTally {
    /// A round that revised the answer `before`. `hash` is that of the principle in the constitution, if it has it.
    pub fn add(&mut self, prompt: u64, before: &str, round: &Round, hash: Option<&str>) {
        let (before, after) = (chars(before), chars(&round.revision));
        self.changed.count(prompt, round.changed);
        self.added.add(prompt, after - before, 1.0);
        self.relative.add(prompt, after - before, before);
        self.wordings.add(&round.principle_hash, hash);
    }

    pub fn drawn(&self) -> u64 {
        self.changed.n()
    }

    pub fn finish(&self) -> RevisingUse {
        RevisingUse {
            drawn: self.drawn(),
            changed: self.changed.share(),
            length_change: self.added.mean(),
            relative_change: self.relative.mean(),
            wordings: self.wordings,
        }
    }
}
