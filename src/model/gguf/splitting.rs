//! How byte-level vocabularies split a text before merging: the expressions of the models' own
//! `tokenizer.json`, by the names that llama.cpp gives them (`tokenizer.ggml.pre`).

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};

/// One way of splitting.
#[derive(Debug, Clone, Copy)]
pub struct Splitting {
    parts: Parts,
    /// The text is brought to Unicode's NFC first.
    pub composed: bool,
    /// A part that is a token is taken without merging.
    pub ignores_merges: bool,
    /// Whether a text begins with BOS when the file does not say.
    pub adds_bos: bool,
}

#[derive(Debug, Clone, Copy)]
enum Parts {
    /// GPT-2's expression, which `tokenizers` has built in.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    Digits,
    Expression(&'static str),
}

/// cl100k's expression as Llama 3 has it.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with digits alone.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's, from Nemo on.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// o200k's, which Phi-4-mini has.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PLAIN: Splitting = Splitting {
    parts: Parts::Gpt2,
    composed: false,
    ignores_merges: false,
    adds_bos: false,
};

/// By name; `default` is what converters wrote before they knew names.
const NAMED: [(&str, Splitting); 13] = [
    ("default", PLAIN),
    ("gpt-2", PLAIN),
    ("llama-bpe", LLAMA_BPE),
    ("llama3", LLAMA_BPE),
    ("llama-v3", LLAMA_BPE),
    ("falcon3", LLAMA_BPE),
    ("qwen2", QWEN),
    (
        "deepseek-r1-qwen",
        Splitting {
            composed: false,
            ..QWEN
        },
    ),
    (
        "smollm",
        Splitting {
            parts: Parts::Digits,
            ..PLAIN
        },
    ),
    (
        "dbrx",
        Splitting {
            parts: Parts::Expression(LLAMA3),
            ..PLAIN
        },
    ),
    (
        "smaug-bpe",
        Splitting {
            parts: Parts::Expression(LLAMA3),
            ..PLAIN
        },
    ),
    (
        "gpt-4o",
        Splitting {
            parts: Parts::Expression(GPT4O),
            ..PLAIN
        },
    ),
    (
        "tekken",
        Splitting {
            parts: Parts::Expression(TEKKEN),
            ignores_merges: true,
            adds_bos: true,
            ..PLAIN
        },
    ),
];

const LLAMA_BPE: Splitting = Splitting {
    parts: Parts::Expression(LLAMA3),
    composed: false,
    ignores_merges: true,
    adds_bos: true,
};

const QWEN: Splitting = Splitting {
    parts: Parts::Expression(QWEN2),
    composed: true,
    ..PLAIN
};

pub fn named(name: &str) -> Result<Splitting> {
    let known = NAMED.iter().find(|(known, _)| *known == name);
    known.map(|(_, splitting)| *splitting).ok_or_else(|| {
        let names = NAMED.map(|(name, _)| name).join(", ");
        Error::input(format!("the pre-tokenizer `{name}` is not supported"))
            .help(format!("supported in GGUF files: {names}"))
    })
}

impl Splitting {
    /// `pre_tokenizer` of a `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Json {
        let bytes = |splits: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits });
        let first = match self.parts {
            Parts::Gpt2 => return bytes(true),
            Parts::Digits => json!({ "type": "Digits", "individual_digits": true }),
            Parts::Expression(expression) => json!({
                "type": "Split",
                "pattern": { "Regex": expression },
                "behavior": "Isolated",
                "invert": false,
            }),
        };
        let splits = matches!(self.parts, Parts::Digits);
        json!({ "type": "Sequence", "pretokenizers": [first, bytes(splits)] })
    }
}
