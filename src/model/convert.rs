//! Import of llama2.c checkpoints (karpathy/llama2.c, `model.bin` version 0 and `tokenizer.bin`).
//!
//! The weights file is a header of seven `i32` (dim, hidden_dim, layers, heads, kv_heads, vocabulary,
//! context; a negative vocabulary means untied embeddings), then `f32` tensors. The tokenizer file is
//! the longest token's length, then score (`f32`), length (`i32`) and bytes of each token.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::config::DecoderConfig;
use super::decoder::{Decoder, Weight};
use super::files::{Model, TokenizerFiles};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Reads little-endian numbers, with errors instead of panics at the end.
struct Reader<'a> {
    bytes: &'a [u8],
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.bytes.len() {
            return Err(Error::input("the file ends too early")
                .at_file(self.path)
                .help("it is truncated, or not in llama2.c's format"));
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Ok(head)
    }

    fn i32(&mut self) -> Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn f32s(&mut self, count: usize) -> Result<Vec<f32>> {
        let bytes = self.take(count.saturating_mul(4))?;
        Ok(bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect())
    }

    fn size(&mut self, what: &str) -> Result<usize> {
        let value = self.i32()?;
        match usize::try_from(value) {
            Ok(size) if (1..=1 << 24).contains(&size) => Ok(size),
            _ => Err(Error::input(format!("{what} is {value}"))
                .at_file(self.path)
                .help("this is not a llama2.c checkpoint of version 0")),
        }
    }
}

/// Reads a llama2.c checkpoint and its tokenizer.
pub fn llama2c(checkpoint: &Path, tokenizer: &Path) -> Result<Model> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| Error::io("read", path, error));
    let bytes = read(checkpoint)?;
    let decoder = read_decoder(&mut Reader {
        bytes: &bytes,
        path: checkpoint,
    })?;
    let bytes = read(tokenizer)?;
    let vocabulary = read_vocabulary(
        &mut Reader {
            bytes: &bytes,
            path: tokenizer,
        },
        decoder.config.vocab,
    )?;
    let tokenizer = Tokenizer::new(sentencepiece(&vocabulary), "{}")?;
    tokenizer.check_vocabulary(decoder.config.vocab, checkpoint)?;
    Ok(Model {
        decoder,
        tokenizer,
        reference: checkpoint.display().to_string(),
        sha256: String::new(),
    })
}

fn read_decoder(reader: &mut Reader<'_>) -> Result<Decoder> {
    let hidden = reader.size("dim")?;
    let intermediate = reader.size("hidden_dim")?;
    let layers = reader.size("n_layers")?;
    let heads = reader.size("n_heads")?;
    let kv_heads = reader.size("n_kv_heads")?;
    let vocab = reader.i32()?;
    let context = reader.size("seq_len")?;
    if !hidden.is_multiple_of(2 * heads) || !heads.is_multiple_of(kv_heads) {
        return Err(Error::input(format!(
            "{heads} heads of even size over {kv_heads} key/value heads do not divide {hidden}"
        ))
        .at_file(reader.path));
    }
    let config = DecoderConfig {
        vocab: vocab.unsigned_abs() as usize,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim: hidden / heads,
        context,
        rms_eps: 1e-5,
        tied: vocab > 0,
        ..DecoderConfig::default()
    };
    let mut tensors = read_tensors(reader, &config)?;
    Decoder::build(config, |spec| {
        let values = tensors.remove(&spec.name).expect("every parameter of a Llama was read");
        Ok(Weight::Dense(Tensor::from_vec(
            values,
            spec.shape.as_slice(),
            &Device::Cpu,
        )?))
    })
}

type Tensors = std::collections::HashMap<String, Vec<f32>>;

/// The tensors in the order of the file: each kind for all layers before the next kind.
fn read_tensors(reader: &mut Reader<'_>, config: &DecoderConfig) -> Result<Tensors> {
    let (hidden, intermediate) = (config.hidden, config.intermediate);
    let kv_width = config.kv_width();
    let mut tensors = Tensors::new();
    tensors.insert("model.embed_tokens.weight".into(), reader.f32s(config.vocab * hidden)?);
    let kinds = [
        ("input_layernorm", hidden),
        ("self_attn.q_proj", hidden * hidden),
        ("self_attn.k_proj", kv_width * hidden),
        ("self_attn.v_proj", kv_width * hidden),
        ("self_attn.o_proj", hidden * hidden),
        ("post_attention_layernorm", hidden),
        ("mlp.gate_proj", intermediate * hidden),
        ("mlp.down_proj", hidden * intermediate),
        ("mlp.up_proj", intermediate * hidden),
    ];
    for (kind, size) in kinds {
        for layer in 0..config.layers {
            let mut values = reader.f32s(size)?;
            if kind.ends_with("q_proj") || kind.ends_with("k_proj") {
                values = halves_from_pairs(&values, config.head_dim, hidden);
            }
            tensors.insert(format!("model.layers.{layer}.{kind}.weight"), values);
        }
    }
    tensors.insert("model.norm.weight".into(), reader.f32s(hidden)?);
    // Tables of cosines and sines that the file carries and nobody needs.
    reader.f32s(config.context * config.head_dim)?;
    if !config.tied {
        tensors.insert("lm_head.weight".into(), reader.f32s(config.vocab * hidden)?);
    }
    if !reader.bytes.is_empty() {
        let message = format!(
            "the file has {} bytes more than its header asks for",
            reader.bytes.len()
        );
        return Err(Error::input(message)
            .at_file(reader.path)
            .help("this is not a llama2.c checkpoint of version 0"));
    }
    Ok(tensors)
}

/// llama2.c rotates neighbouring pairs of a head's rows; Hugging Face rotates its two halves.
fn halves_from_pairs(weight: &[f32], head_dim: usize, inputs: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(weight.len());
    for head in weight.chunks_exact(head_dim * inputs) {
        for parity in 0..2 {
            for pair in 0..head_dim / 2 {
                out.extend_from_slice(&head[(2 * pair + parity) * inputs..][..inputs]);
            }
        }
    }
    out
}

struct Piece {
    text: String,
    score: f32,
}

fn read_vocabulary(reader: &mut Reader<'_>, size: usize) -> Result<Vec<Piece>> {
    if size < FIRST_PIECE {
        let message = format!("{size} tokens are too few: the {FIRST_PIECE} special tokens and bytes come first");
        return Err(Error::input(message).at_file(reader.path));
    }
    reader.size("the longest token's length")?;
    (0..size)
        .map(|index| {
            let score = reader.f32s(1)?[0];
            let length = usize::try_from(reader.i32()?).unwrap_or(usize::MAX);
            let bytes = reader.take(length)?;
            let text = String::from_utf8(bytes.to_vec()).map_err(|error| {
                Error::input(format!("token {index} is not UTF-8"))
                    .at_file(reader.path)
                    .because(error)
            })?;
            Ok(Piece { text, score })
        })
        .collect()
}

/// Ids of the first tokens of every SentencePiece vocabulary of llama2.c: unknown, begin, end, then
/// the 256 bytes.
const UNKNOWN: usize = 0;
const BOS: usize = 1;
const EOS: usize = 2;
const FIRST_PIECE: usize = 259;

/// The SentencePiece BPE as a `tokenizer.json`: the merges follow from the scores.
fn sentencepiece(pieces: &[Piece]) -> TokenizerFiles {
    let names: Vec<String> = pieces
        .iter()
        .enumerate()
        .map(|(id, piece)| match id {
            UNKNOWN => "<unk>".to_owned(),
            BOS => "<s>".to_owned(),
            EOS => "</s>".to_owned(),
            3..FIRST_PIECE => format!("<0x{:02X}>", id - 3),
            _ => piece.text.replace(' ', "▁"),
        })
        .collect();
    let vocab: serde_json::Map<String, serde_json::Value> = names
        .iter()
        .enumerate()
        .map(|(id, name)| (name.clone(), id.into()))
        .collect();
    let special = |id: usize| {
        serde_json::json!({ "id": id, "content": names[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "added_tokens": [special(UNKNOWN), special(BOS), special(EOS)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [BOS], "tokens": ["<s>"] } },
        },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges(pieces, &names) },
    });
    let config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": false,
    });
    TokenizerFiles {
        tokenizer: format!("{tokenizer:#}\n"),
        config: Some(format!("{config:#}\n")),
        ..TokenizerFiles::default()
    }
}

/// Every way to join two pieces into a third, best score first: SentencePiece always makes the
/// best-scored merge there is.
fn merges(pieces: &[Piece], names: &[String]) -> Vec<[String; 2]> {
    let known: std::collections::HashSet<&str> = names[FIRST_PIECE..].iter().map(String::as_str).collect();
    let mut merges = Vec::new();
    for (piece, name) in pieces.iter().zip(names).skip(FIRST_PIECE) {
        for (border, _) in name.char_indices().skip(1) {
            let (left, right) = name.split_at(border);
            if known.contains(left) && known.contains(right) {
                merges.push((piece.score, [left.to_owned(), right.to_owned()]));
            }
        }
    }
    merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    merges.into_iter().map(|(_, merge)| merge).collect()
}
