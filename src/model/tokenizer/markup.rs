//! Control tokens: found in markup, kept out of data.
//!
//! A control token is an added token that the tokenizer marks as special, or one that it does not mark
//! but the chat template writes (Qwen3's `<think>`, Gemma's turns in some checkpoints). Other added
//! tokens, such as runs of line ends, are ordinary vocabulary and recognised everywhere.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use tokenizers::normalizer::Range as Slice;
use tokenizers::{
    AddedVocabulary, Model as _, NormalizedString, Normalizer as _, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer as _, Token,
};

use super::Tokenizer;
use crate::error::{Error, Result};

/// A control token in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Its bytes, with the space around it that the tokenizer counts to it.
    pub range: Range<usize>,
    pub id: u32,
}

/// What a tokenizer with a chat template knows of its control tokens.
pub(super) struct Controls {
    /// Recognises every added token.
    markup: AddedVocabulary,
    ids: HashSet<u32>,
    /// The texts of those that are not marked as special.
    soft: BTreeSet<String>,
    /// The characters with which control tokens begin and end.
    edges: BTreeSet<char>,
}

impl Controls {
    pub(super) fn new(inner: &tokenizers::Tokenizer, template: &str) -> Self {
        let mut markup = inner.get_added_vocabulary().clone();
        markup.set_encode_special_tokens(false);
        let (mut ids, mut soft, mut edges) = (HashSet::new(), BTreeSet::new(), BTreeSet::new());
        for (id, token) in markup.get_added_tokens_decoder() {
            let text = token.content.as_str();
            let marked = markup.is_special_token(text);
            if !marked && (text.trim().is_empty() || !template.contains(text)) {
                continue;
            }
            if !marked {
                soft.insert(text.to_owned());
            }
            ids.insert(*id);
            edges.extend(text.chars().next());
            edges.extend(text.chars().next_back());
        }
        Self {
            markup,
            ids,
            soft,
            edges,
        }
    }
}

impl Tokenizer {
    /// The control tokens in `text` if all of it were markup, in order.
    pub fn find_controls(&self, text: &str) -> Vec<Control> {
        let Some(controls) = &self.controls else {
            return Vec::new();
        };
        added_tokens(&controls.markup, self.inner.get_normalizer(), text)
            .into_iter()
            .filter_map(|(range, id)| {
                let id = id.filter(|id| controls.ids.contains(id))?;
                Some(Control { range, id })
            })
            .collect()
    }

    /// The tokens of a text all of which is markup: control tokens are recognised, and nothing is added.
    pub fn encode_markup(&self, text: &str) -> Result<Vec<u32>> {
        let Some(controls) = &self.controls else {
            return self.encode(text);
        };
        self.finish(controls.markup.extract_and_normalize(self.inner.get_normalizer(), text))
    }

    /// The tokens of a text in which `controls` are markup and all else is data.
    pub fn encode_around(&self, text: &str, controls: &[Control]) -> Result<Vec<u32>> {
        self.encode_cut(text, controls, text.len())
    }

    /// As [`Self::encode_around`], with no token across the byte `cut`.
    pub fn encode_cut(&self, text: &str, controls: &[Control], cut: usize) -> Result<Vec<u32>> {
        let data = |range: Range<usize>| {
            let cut = cut.clamp(range.start, range.end);
            [range.start..cut, cut..range.end]
                .into_iter()
                .flat_map(|range| self.data_pieces(text, range))
        };
        let mut pieces = Vec::new();
        let mut from = 0;
        for control in controls {
            pieces.extend(data(from..control.range.start));
            pieces.push((control.range.clone(), Some(control.id)));
            from = control.range.end;
        }
        pieces.extend(data(from..text.len()));
        let mut split = PreTokenizedString::from(text);
        split
            .split(|_, whole| {
                pieces
                    .iter()
                    .map(|piece| self.piece(&whole, piece))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(failed)?;
        self.finish(split)
    }

    /// Whether a text can be cut without a trace: some tokenizers put a space before every piece.
    pub fn cuts_cleanly(&self) -> Result<bool> {
        let pair = "\u{1}\u{1}";
        Ok(self.encode_cut(pair, &[], 1)? == self.encode_around(pair, &[])?)
    }

    /// Data as runs of text, between them the added tokens that are ordinary vocabulary.
    fn data_pieces(&self, text: &str, range: Range<usize>) -> Vec<(Range<usize>, Option<u32>)> {
        let is_control = |id: &u32| {
            let ids = self.controls.as_ref().map(|controls| &controls.ids);
            ids.is_some_and(|ids| ids.contains(id))
        };
        let vocabulary = self.inner.get_added_vocabulary();
        let found = added_tokens(vocabulary, self.inner.get_normalizer(), &text[range.clone()]);
        let mut pieces: Vec<(Range<usize>, Option<u32>)> = Vec::new();
        for (at, id) in found {
            let at = range.start + at.start..range.start + at.end;
            let id = id.filter(|id| !is_control(id));
            match pieces.last_mut() {
                Some((last, None)) if id.is_none() => last.end = at.end,
                _ => pieces.push((at, id)),
            }
        }
        pieces
    }

    fn piece(
        &self,
        whole: &NormalizedString,
        (range, id): &(Range<usize>, Option<u32>),
    ) -> Result<(NormalizedString, Option<Vec<Token>>), tokenizers::Error> {
        let mut slice = whole
            .slice(Slice::Original(range.clone()))
            .ok_or("a piece of a text is not at the borders of its characters")?;
        let tokens = match (id, self.inner.get_normalizer()) {
            (Some(id), _) => Some(vec![Token::new(*id, String::new(), (0, slice.len()))]),
            (None, Some(normalizer)) => {
                normalizer.normalize(&mut slice)?;
                None
            }
            (None, None) => None,
        };
        Ok((slice, tokens))
    }

    /// What the tokenizer does after its added tokens are found.
    fn finish(&self, mut split: PreTokenizedString) -> Result<Vec<u32>> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
        }
        let model = self.inner.get_model();
        split.tokenize(|piece| model.tokenize(piece.get())).map_err(failed)?;
        let encoding = split.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether data can hold a control token that `encode_special_tokens` does not keep out.
    pub(super) fn has_soft_controls(&self) -> bool {
        self.controls.as_ref().is_some_and(|controls| !controls.soft.is_empty())
    }

    /// The texts of control tokens that are not marked as special.
    pub fn soft_controls(&self) -> BTreeSet<String> {
        self.controls
            .as_ref()
            .map_or_else(BTreeSet::new, |controls| controls.soft.clone())
    }

    /// The characters with which control tokens begin and end.
    pub fn control_edges(&self) -> BTreeSet<char> {
        self.controls
            .as_ref()
            .map_or_else(BTreeSet::new, |controls| controls.edges.clone())
    }
}

/// `text` as runs, in bytes: of ordinary text (no id), and added tokens.
fn added_tokens(
    vocabulary: &AddedVocabulary,
    normalizer: Option<&NormalizerWrapper>,
    text: &str,
) -> Vec<(Range<usize>, Option<u32>)> {
    vocabulary
        .extract_and_normalize(normalizer, text)
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(_, (start, end), tokens)| {
            let id = tokens.as_ref().and_then(|tokens| tokens.first()).map(|token| token.id);
            (start..end, id)
        })
        .collect()
}

fn failed(error: tokenizers::Error) -> Error {
    Error::input("a text cannot be encoded").because(error)
}
