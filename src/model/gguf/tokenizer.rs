//! The vocabulary of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.
//!
//! Two kinds of vocabulary are read: byte-level BPE (`gpt2`), whose file has the merges, and the BPE of
//! SentencePiece (`llama`), whose merges are those pairs of pieces that make a piece, by its score.
//! Keys and defaults are llama.cpp's (src/llama-vocab.cpp).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use super::header::Header;
use super::splitting;
use crate::error::{Error, Result};
use crate::model::files::TokenizerFiles;

/// What the file says of its tokens.
pub struct Vocabulary {
    pub files: TokenizerFiles,
    pub bos: Option<u32>,
    /// Every token that ends a completion, the end of a sequence first.
    pub ends: Vec<u32>,
}

/// The type of a token (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    /// Never made from text.
    Control,
    /// Found in text before anything else, whole.
    UserDefined,
    /// Padding of the embedding; no text has it.
    Unused,
    Byte,
}

/// The tokens, and those with a purpose.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<Kind>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
}

/// What llama.cpp takes for the end of a turn, whatever the file says.
const ENDS: [&str; 10] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// The space of SentencePiece.
const SPACE: &str = "▁";

/// Longer pieces are not searched for pairs: none is in a published vocabulary.
const LONGEST_PIECE: usize = 1024;

pub fn read(header: &Header) -> Result<Vocabulary> {
    let model = header.text("tokenizer.ggml.model")?.ok_or_else(|| {
        Error::input("the file has no tokenizer").help("give a GGUF file that was made with its vocabulary")
    })?;
    let tokens = Tokens::read(header, model == "llama")?;
    let ends = tokens.ends(header)?;
    let (tokenizer, adds_bos) = match model {
        "gpt2" => byte_level(header, &tokens, &ends)?,
        "llama" => sentence_piece(header, &tokens, &ends)?,
        other => {
            return Err(Error::input(format!("the tokenizer model `{other}` is not supported"))
                .help("supported in GGUF files: gpt2 (byte-level BPE), llama (SentencePiece BPE)"));
        }
    };
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens.text(tokens.bos),
        "eos_token": tokens.text(tokens.eos),
        "unk_token": tokens.text(tokens.unknown),
        "pad_token": tokens.text(tokens.padding),
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": false,
        "chat_template": header.text("tokenizer.chat_template")?,
    });
    Ok(Vocabulary {
        files: TokenizerFiles {
            tokenizer: tokenizer.to_string(),
            config: Some(format!("{config:#}\n")),
            ..TokenizerFiles::default()
        },
        bos: tokens.bos,
        ends,
    })
}

impl<'a> Tokens<'a> {
    fn read(header: &'a Header, sentence_piece: bool) -> Result<Self> {
        let texts = header
            .texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| Error::input("the file has no `tokenizer.ggml.tokens`"))?;
        let kinds = match header.numbers("tokenizer.ggml.token_type")? {
            None => vec![Kind::Normal; texts.len()],
            Some(numbers) => numbers.iter().map(|number| Kind::of(*number)).collect::<Result<_>>()?,
        };
        same_length("tokenizer.ggml.token_type", kinds.len(), texts)?;
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>> {
            let given = header.size(&format!("tokenizer.ggml.{name}_token_id"))?;
            let id = given.map_or(default, |id| u32::try_from(id).ok());
            // Some files name a padding token beyond their vocabulary.
            Ok(id.filter(|id| (*id as usize) < texts.len()))
        };
        let default = |id| sentence_piece.then_some(id);
        Ok(Self {
            bos: id("bos", default(1))?,
            eos: id("eos", default(2))?,
            unknown: id("unknown", default(0))?,
            padding: id("padding", None)?,
            texts,
            kinds,
        })
    }

    fn text(&self, id: Option<u32>) -> Option<&str> {
        id.map(|id| self.texts[id as usize].as_str())
    }

    /// Every token that ends a completion.
    fn ends(&self, header: &Header) -> Result<Vec<u32>> {
        let mut ends: Vec<u32> = self.eos.into_iter().collect();
        for key in ["eot", "eom"] {
            let id = header.size(&format!("tokenizer.ggml.{key}_token_id"))?;
            ends.extend(id.filter(|id| *id < self.texts.len()).map(|id| id as u32));
        }
        for (id, (text, kind)) in self.texts.iter().zip(&self.kinds).enumerate() {
            let special = matches!(kind, Kind::Control | Kind::UserDefined);
            if special && ENDS.contains(&text.as_str()) {
                ends.push(id as u32);
            }
        }
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }

    /// The tokens that text can have or a template can name, with their ids; the first of equal ones.
    fn vocabulary(&self) -> Map<String, Json> {
        let mut vocabulary = Map::new();
        for (id, (text, kind)) in self.texts.iter().zip(&self.kinds).enumerate() {
            if *kind != Kind::Unused {
                vocabulary.entry(text).or_insert_with(|| id.into());
            }
        }
        vocabulary
    }

    /// `added_tokens` of a `tokenizer.json`: what is not split, and what text cannot have.
    fn added(&self, ends: &[u32], strips: impl Fn(&str) -> bool) -> Json {
        let named: HashSet<u32> = [self.bos, self.eos, self.unknown, self.padding]
            .into_iter()
            .flatten()
            .chain(ends.iter().copied())
            .collect();
        let mut seen = HashSet::new();
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        let added = tokens.filter_map(|(id, (text, kind))| {
            let special = matches!(kind, Kind::Control | Kind::Unknown) || named.contains(&(id as u32));
            let whole = special || *kind == Kind::UserDefined;
            (whole && *kind != Kind::Unused && !text.is_empty() && seen.insert(text)).then(|| {
                json!({
                    "id": id,
                    "content": text,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": strips(text),
                    "normalized": false,
                    "special": special,
                })
            })
        });
        added.collect()
    }

    /// A post-processor that puts BOS before a text.
    fn begin(&self, adds_bos: bool) -> Json {
        let Some((bos, id)) = self.text(self.bos).zip(self.bos).filter(|_| adds_bos) else {
            return Json::Null;
        };
        let special = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let mut tokens = Map::new();
        tokens.insert(bos.to_owned(), json!({ "id": bos, "ids": [id], "tokens": [bos] }));
        json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), special, text("B")],
            "special_tokens": tokens,
        })
    }
}

impl Kind {
    fn of(number: f64) -> Result<Self> {
        Ok(match number as i64 {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => {
                return Err(Error::input(format!(
                    "`tokenizer.ggml.token_type` has the unknown type {number}"
                )));
            }
        })
    }
}

fn same_length(key: &str, length: usize, texts: &[String]) -> Result<()> {
    if length == texts.len() {
        return Ok(());
    }
    let tokens = texts.len();
    Err(
        Error::input(format!("`{key}` has {length} entries for {tokens} tokens"))
            .help("the file may be damaged: copy it again"),
    )
}

fn byte_level(header: &Header, tokens: &Tokens<'_>, ends: &[u32]) -> Result<(Json, bool)> {
    let name = header.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let splitting = splitting::named(name)?;
    let adds_bos = header
        .flag("tokenizer.ggml.add_bos_token")?
        .unwrap_or(splitting.adds_bos);
    let merges = header
        .texts("tokenizer.ggml.merges")?
        .ok_or_else(|| Error::input("the file has no `tokenizer.ggml.merges`"))?;
    let vocabulary = tokens.vocabulary();
    let merges = merges
        .iter()
        .map(|merge| pair(merge, &vocabulary))
        .collect::<Result<Vec<_>>>()?;
    let normalizer = splitting.composed.then(|| json!({ "type": "NFC" }));
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens.added(ends, |_| false),
        "normalizer": normalizer,
        "pre_tokenizer": splitting.pre_tokenizer(),
        "post_processor": tokens.begin(adds_bos),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": model(None, splitting.ignores_merges, false, vocabulary, merges),
    });
    Ok((tokenizer, adds_bos))
}

/// The two sides of a merge, which must make a token.
fn pair(merge: &str, vocabulary: &Map<String, Json>) -> Result<[String; 2]> {
    // A side may be a space of its own only in first place.
    let space = merge.bytes().skip(1).position(|byte| byte == b' ').map(|at| at + 1);
    let sides = space.map(|at| (&merge[..at], &merge[at + 1..]));
    let made = sides.filter(|(left, right)| {
        [left, right].into_iter().all(|side| vocabulary.contains_key(*side))
            && vocabulary.contains_key(&format!("{left}{right}"))
    });
    made.map(|(left, right)| [left.to_owned(), right.to_owned()])
        .ok_or_else(|| {
            Error::input(format!("the merge `{merge}` does not make one token of two"))
                .help("the file may be damaged: copy it again")
        })
}

fn sentence_piece(header: &Header, tokens: &Tokens<'_>, ends: &[u32]) -> Result<(Json, bool)> {
    let scores = header
        .numbers("tokenizer.ggml.scores")?
        .ok_or_else(|| Error::input("the file has no `tokenizer.ggml.scores`"))?;
    same_length("tokenizer.ggml.scores", scores.len(), tokens.texts)?;
    let adds_bos = header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true);
    let prefix = header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let to_space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let normalizer = match prefix {
        true => json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": SPACE }, to_space] }),
        false => to_space,
    };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    // Phi-3's markup takes the white space after it along (its tokenizer.json; llama.cpp goes by the
    // model's name).
    let phi3 = header.text("general.architecture")? == Some("phi3");
    let strips = |text: &str| phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens.added(ends, strips),
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": tokens.begin(adds_bos),
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": model(tokens.text(tokens.unknown), false, true, tokens.vocabulary(), merges(tokens, scores)),
    });
    Ok((tokenizer, adds_bos))
}

/// The merges of SentencePiece's BPE, best first: each pair of pieces that makes a piece, by the score
/// of that piece and then by length, as transformers orders them (`generate_merges` of
/// convert_slow_tokenizer.py). Only normal pieces take part, or text could make a control token.
fn merges(tokens: &Tokens<'_>, scores: &[f64]) -> Vec<[String; 2]> {
    let normal = || (0..tokens.texts.len()).filter(|id| tokens.kinds[*id] == Kind::Normal);
    let ids: HashMap<&str, usize> = normal().map(|id| (tokens.texts[id].as_str(), id)).collect();
    let mut merges: Vec<(f64, [&str; 2])> = Vec::new();
    for id in normal().filter(|id| tokens.texts[*id].len() <= LONGEST_PIECE) {
        let text = tokens.texts[id].as_str();
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut pairs: Vec<_> = cuts
            .filter_map(|(left, right)| Some(((ids.get(left)?, ids.get(right)?), [left, right])))
            .collect();
        pairs.sort_by_key(|(ids, _)| *ids);
        merges.extend(pairs.into_iter().map(|(_, pair)| (scores[id], pair)));
    }
    let length = |text: &str| text.chars().count();
    merges.sort_by(|(a, [a_left, a_right]), (b, [b_left, b_right])| {
        let lengths = (length(b_left), length(b_right)).cmp(&(length(a_left), length(a_right)));
        b.total_cmp(a).then(lengths)
    });
    merges.into_iter().map(|(_, pair)| pair.map(str::to_owned)).collect()
}

/// `model` of a `tokenizer.json`. `bytes`: characters without a token become their bytes.
fn model(
    unknown: Option<&str>,
    ignores_merges: bool,
    bytes: bool,
    vocabulary: Map<String, Json>,
    merges: Vec<[String; 2]>,
) -> Json {
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": bytes,
        "byte_fallback": bytes,
        "ignore_merges": ignores_merges,
        "vocab": vocabulary,
        "merges": merges,
    })
}
