//! From a batch to rows: sequences end to end without padding, and a prompt that several sequences begin with once.

use std::collections::HashMap;
use std::ops::Range;

use super::{Sequence, Wanted};

/// Into how many shards a batch is cut. It does not follow the machine, so that sums come out in the
/// same order everywhere.
pub const SHARDS: usize = 2;

/// Sequences that share their prompt, as indices into the batch.
pub type Group = Vec<usize>;

/// Rows that attend to themselves and to what stands before them.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Rows of the prompt, where it is shared and stands elsewhere; else empty.
    pub prefix: Range<usize>,
    pub own: Range<usize>,
}

/// A part of a batch, row after row.
#[derive(Default)]
pub struct Packed {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub segments: Vec<Segment>,
    /// The rows whose hidden state leaves the trunk; the last row of a shared prompt stands here for each of its
    /// completions.
    pub rows: Vec<usize>,
    /// The token that each of `rows` predicts.
    pub targets: Vec<u32>,
    /// Which sequence of the batch comes here in turn, and how many of `rows` it has.
    pub members: Vec<(usize, usize)>,
}

impl Packed {
    /// Gives each sequence of the batch its part of `values (rows, width)`; nothing where nothing is wanted.
    pub fn scatter<T: Clone>(&self, values: &[T], width: usize, batch: &mut [Vec<T>]) {
        let mut rest = values;
        for (index, count) in &self.members {
            if let Some(place) = batch.get_mut(*index) {
                let (mine, others) = rest.split_at(count * width);
                *place = mine.to_vec();
                rest = others;
            }
        }
    }

    /// The opposite: `(rows, width)`, or nothing if the batch has nothing.
    pub fn gather(&self, batch: &[Vec<f32>]) -> Vec<f32> {
        let parts = self.members.iter().filter_map(|(index, _)| batch.get(*index));
        parts.flatten().copied().collect()
    }
}

/// The groups of a batch in the order of their first sequences. A sequence that is learnt or scored from its first
/// token has no prompt to share.
fn groups(batch: &[Sequence]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<&[u32], usize> = HashMap::new();
    for (index, sequence) in batch.iter().enumerate() {
        let prompt = &sequence.tokens[..sequence.completion];
        match known.get(prompt) {
            Some(group) if !prompt.is_empty() => groups[*group].push(index),
            _ => {
                known.insert(prompt, groups.len());
                groups.push(vec![index]);
            }
        }
    }
    groups
}

/// The groups of a batch in parts of about equally many rows.
pub fn split(batch: &[Sequence]) -> Vec<Vec<Group>> {
    let groups = groups(batch);
    let rows = |group: &Group| -> usize {
        let completions: usize = group.iter().map(|index| batch[*index].completion_len()).sum();
        batch[group[0]].completion + completions
    };
    let total: usize = groups.iter().map(rows).sum();
    let mut parts = Vec::new();
    let (mut part, mut done) = (Vec::new(), 0);
    for group in groups {
        done += rows(&group);
        part.push(group);
        if done * SHARDS >= total * (parts.len() + 1) {
            parts.push(std::mem::take(&mut part));
        }
    }
    parts
}

/// The rows of some groups of a batch.
pub fn pack(batch: &[Sequence], groups: &[Group], wanted: Wanted) -> Packed {
    let mut packed = Packed::default();
    for group in groups {
        let start = packed.tokens.len();
        for (place, index) in group.iter().enumerate() {
            let sequence = &batch[*index];
            let prompt = start..start + sequence.completion;
            // The first stands whole, the others leave their prompt out.
            let (prefix, from) = match place {
                0 => (0..0, 0),
                _ => (prompt.clone(), sequence.completion),
            };
            let own = packed.tokens.len()..packed.tokens.len() + sequence.tokens.len() - from;
            packed.tokens.extend_from_slice(&sequence.tokens[from..]);
            packed.positions.extend(from as u32..sequence.tokens.len() as u32);
            let completion = own.end - sequence.completion_len()..own.end;
            let before = packed.rows.len();
            match wanted {
                Wanted::LastHidden if completion.is_empty() => packed.rows.push(prompt.end - 1),
                Wanted::LastHidden => packed.rows.push(completion.end - 1),
                _ => {
                    assert!(sequence.completion > 0, "a completion needs a token before it");
                    if !completion.is_empty() {
                        packed.rows.push(prompt.end - 1);
                        packed.rows.extend(completion.start..completion.end - 1);
                    }
                    packed
                        .targets
                        .extend_from_slice(&sequence.tokens[sequence.completion..]);
                }
            }
            packed.members.push((*index, packed.rows.len() - before));
            if !own.is_empty() {
                packed.segments.push(Segment { prefix, own });
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: &[u32], completion: usize) -> Sequence {
        Sequence {
            tokens: tokens.to_vec(),
            completion,
        }
    }

    /// Catches: a prompt that stands twice, positions that go on from another sequence, a first token predicted from the
    /// wrong row, and sequences that share tokens but not the whole prompt taken for a group.
    #[test]
    fn a_prompt_stands_once() {
        let batch = [
            sequence(&[1, 2, 3, 4], 2),
            sequence(&[1, 2, 3], 3),
            sequence(&[1, 2, 5], 2),
            sequence(&[1, 2], 2),
        ];
        let wanted = Wanted::Logprobs { temperature: 1.0 };
        assert_eq!(groups(&batch), [vec![0, 2, 3], vec![1]]);
        let packed = pack(&batch, &groups(&batch), wanted);
        assert_eq!(packed.tokens, [1, 2, 3, 4, 5, 1, 2, 3]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 2, 0, 1, 2]);
        assert_eq!(packed.rows, [1, 2, 1]);
        assert_eq!(packed.targets, [3, 4, 5]);
        assert_eq!(packed.members, [(0, 2), (2, 1), (3, 0), (1, 0)]);
        let segments = [(0..0, 0..4), (0..2, 4..5), (0..0, 5..8)];
        assert_eq!(packed.segments, segments.map(|(prefix, own)| Segment { prefix, own }));
        let last = pack(&batch, &groups(&batch), Wanted::LastHidden);
        assert_eq!(last.rows, [3, 4, 1, 7]);
    }

    /// Catches: a group cut in two, or a sequence lost between parts.
    #[test]
    fn parts_hold_every_sequence_once() {
        let batch: Vec<Sequence> = (0..9u32).map(|i| sequence(&[i % 3, 7, i], 1)).collect();
        let parts = split(&batch);
        assert_eq!(parts.len(), SHARDS);
        let mut all: Vec<usize> = parts.iter().flatten().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..9).collect::<Vec<_>>());
    }
}
