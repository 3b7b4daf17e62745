//! Import of a llama2.c checkpoint: the real stories260K must write the text its author published.
//!
//! The checkpoint is not part of the repository. It is looked for in `../shared/data/stories260K`
//! beside it, or in `$BYLAW_SHARED_DATA/stories260K`; without it those tests say so and pass.

#[path = "support/slots.rs"]
mod slots;

use std::path::{Path, PathBuf};

use bylaw::error::{Error, ErrorKind};
use bylaw::model::convert::llama2c;
use bylaw::model::cpu::Weights;
use bylaw::model::files::Model;
use candle_core::DType;
use slots::{Extension, Slots};

/// Folder of the checkpoint, or a note that the test is skipped.
fn stories() -> Option<PathBuf> {
    let shared = std::env::var_os("BYLAW_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let dir = shared.join("stories260K");
    if dir.join("stories260K.bin").exists() {
        return Some(dir);
    }
    println!("skipped: there is no {} (set BYLAW_SHARED_DATA)", dir.display());
    None
}

fn convert(dir: &Path) -> Model {
    llama2c(&dir.join("stories260K.bin"), &dir.join("tok512.bin")).unwrap()
}

/// At most `steps` tokens after BOS, each the most likely one; ends before BOS or EOS.
fn greedy(model: &Model, steps: usize) -> Vec<u32> {
    let weights = Weights::serving(&model.decoder, 2).unwrap();
    let mut cache = Slots::new(&model.decoder, 1, steps);
    let special = model.tokenizer.special();
    let mut token = special.bos.unwrap();
    let mut tokens = Vec::new();
    for _ in 0..steps {
        let extension = Extension {
            slot: 0,
            tokens: &[token],
        };
        let logits = weights.logits(&cache.extend(&weights, &[extension]));
        let likeliest = (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best });
        token = likeliest.unwrap() as u32;
        if token == special.eos || Some(token) == special.bos {
            break;
        }
        tokens.push(token);
    }
    tokens
}

/// The text after the line that runs `-t 0.0`, up to the end of its block.
fn published(dir: &Path) -> String {
    let page = std::fs::read_to_string(dir.join("stories260K.md")).unwrap();
    let (_, after) = page.split_once("-t 0.0\n").expect("the command");
    let (text, _) = after.split_once("\n```").expect("the end of the block");
    text.to_owned()
}

/// Catches: a transposed or misplaced tensor, rows of a head not brought to the half-split rotary
/// layout, a wrong epsilon, a tokenizer that decodes spaces or bytes otherwise, and any of these lost
/// when the converted model is saved and loaded again.
#[test]
fn stories260k_writes_its_published_text() {
    let Some(dir) = stories() else { return };
    let published = published(&dir);
    assert!(published.starts_with("Once upon a time") && published.len() > 500);
    let converted = convert(&dir);
    let saved = tempfile::tempdir().unwrap();
    converted.save(saved.path(), DType::F32).unwrap();
    let loaded = Model::load(saved.path().to_str().unwrap()).unwrap();
    assert_eq!(loaded.decoder.config, converted.decoder.config);
    for model in [&converted, &loaded] {
        let text = model.tokenizer.decode(&greedy(model, 256)).unwrap();
        assert_eq!(text, published);
    }
}

/// llama2.c's `encode`, straightforwardly: a space in front, one token a character (or its bytes,
/// which come three ids later), then always the best-scored merge, the leftmost of equals.
struct Llama2c(Vec<(String, f32)>);

impl Llama2c {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[4..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let score = f32::from_le_bytes(rest[..4].try_into().unwrap());
            let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
            pieces.push((String::from_utf8(rest[8..8 + length].to_vec()).unwrap(), score));
            rest = &rest[8 + length..];
        }
        Self(pieces)
    }

    fn id(&self, text: &str) -> Option<usize> {
        self.0.iter().position(|(piece, _)| piece == text)
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let spaced = if text.is_empty() {
            String::new()
        } else {
            format!(" {text}")
        };
        for character in spaced.chars().map(String::from) {
            match self.id(&character) {
                Some(id) => tokens.push(id),
                None => tokens.extend(character.bytes().map(|byte| usize::from(byte) + 3)),
            }
        }
        loop {
            let mut best: Option<(f32, usize, usize)> = None;
            for (at, pair) in tokens.windows(2).enumerate() {
                let joined = format!("{}{}", self.0[pair[0]].0, self.0[pair[1]].0);
                if let Some(id) = self.id(&joined)
                    && best.is_none_or(|(score, ..)| self.0[id].1 > score)
                {
                    best = Some((self.0[id].1, at, id));
                }
            }
            let Some((_, at, id)) = best else { break };
            tokens.splice(at..at + 2, [id]);
        }
        tokens.into_iter().map(|id| id as u32).collect()
    }
}

/// Catches: merges in another order than the scores say, a missing or doubled space in front,
/// characters that become "unknown" instead of bytes, special tokens recognised in a text.
#[test]
fn the_tokenizer_merges_as_llama2c_does() {
    let Some(dir) = stories() else { return };
    let reference = Llama2c::read(&dir.join("tok512.bin"));
    let model = convert(&dir);
    let story = published(&dir);
    let texts = [
        "Once upon a time, there was a little girl named Lily.",
        "The assistant should not help anybody to harm others; it should say why.",
        "She said, \"I don't know!\" and then they played together in the park.\nThe end.",
        "  two  spaces, a tab\tand CRLF\r\n\n",
        "Zażółć gęślą jaźń, naïve café — “quoted” … 日本語 👩‍🔬",
        "an end in the text: </s> and a start <s>, <unk>, <0x0A>",
        "aaaaaaaa hehehehe nnddnd   thethe",
        " ",
        "",
        &story,
    ];
    for text in texts {
        let tokens = model.tokenizer.encode(text).unwrap();
        assert_eq!(tokens, reference.encode(text), "{text:?}");
        assert_eq!(model.tokenizer.decode(&tokens).unwrap(), text);
    }
    assert_eq!(model.tokenizer.begin(), [1]);
    assert_eq!(model.tokenizer.special().eos, 2);
}

// ---------------------------------------------------------------- bad files

/// A checkpoint and a vocabulary in llama2.c's layout: 2 layers, hidden 8, weights that count up.
struct Files {
    header: [i32; 7],
    floats: usize,
    tokens: usize,
}

impl Files {
    fn new() -> Self {
        let (hidden, intermediate, layers, heads, kv_heads, vocab, context) = (8, 12, 2, 2, 1, 262, 16);
        let (head_dim, kv_width) = (hidden / heads, hidden / heads * kv_heads);
        let layer = 2 * hidden + 2 * hidden * hidden + 2 * kv_width * hidden + 3 * hidden * intermediate;
        Self {
            header: [hidden, intermediate, layers, heads, kv_heads, vocab, context].map(|size| size as i32),
            floats: vocab * hidden + layers * layer + hidden + context * head_dim,
            tokens: vocab,
        }
    }

    fn checkpoint(&self) -> Vec<u8> {
        let header = self.header.iter().flat_map(|size| size.to_le_bytes());
        header
            .chain((0..self.floats).flat_map(|i| (i as f32 * 1e-4).to_le_bytes()))
            .collect()
    }

    fn vocabulary(&self) -> Vec<u8> {
        let mut bytes = 7i32.to_le_bytes().to_vec();
        for id in 0..self.tokens {
            let text = match id {
                0 => "<unk>".to_owned(),
                1 => "\n<s>\n".to_owned(),
                2 => "\n</s>\n".to_owned(),
                3..259 => format!("<0x{:02X}>", id - 3),
                _ => char::from(b'a' + (id - 259) as u8).to_string(),
            };
            bytes.extend((-(id as f32)).to_le_bytes());
            bytes.extend((text.len() as i32).to_le_bytes());
            bytes.extend(text.bytes());
        }
        bytes
    }

    fn load(checkpoint: &[u8], vocabulary: &[u8]) -> Result<Model, Error> {
        let dir = tempfile::tempdir().unwrap();
        let (weights, tokenizer) = (dir.path().join("model.bin"), dir.path().join("tok.bin"));
        std::fs::write(&weights, checkpoint).unwrap();
        std::fs::write(&tokenizer, vocabulary).unwrap();
        llama2c(&weights, &tokenizer)
    }
}

fn assert_input_error(result: Result<Model, Error>, file: &str, what: &str) {
    let error = result.map(drop).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Input, "{what}: {error}");
    assert!(error.to_string().contains(file), "{what}: {file} is not in: {error}");
}

/// Catches: the premise of the tests below, a layout that needs other numbers than the file has.
#[test]
fn a_small_checkpoint_loads() {
    let files = Files::new();
    let model = Files::load(&files.checkpoint(), &files.vocabulary()).unwrap();
    assert_eq!(model.decoder.config.kv_width(), 4);
    assert_eq!(model.tokenizer.encode("ab").unwrap().last(), Some(&260));
}

/// Catches: a panic, or a giant allocation, on files that are cut short or are something else.
#[test]
fn bad_llama2c_files_are_refused() {
    let files = Files::new();
    let (checkpoint, vocabulary) = (files.checkpoint(), files.vocabulary());
    for cut in [0, 3, 27, 28, 29, checkpoint.len() / 2, checkpoint.len() - 1] {
        assert_input_error(
            Files::load(&checkpoint[..cut], &vocabulary),
            "model.bin",
            "a truncated checkpoint",
        );
    }
    for cut in [0, 3, 4, 9, vocabulary.len() / 2, vocabulary.len() - 1] {
        assert_input_error(
            Files::load(&checkpoint, &vocabulary[..cut]),
            "tok.bin",
            "a truncated vocabulary",
        );
    }
    for (index, value) in [
        (0, 0),
        (0, -8),
        (0, i32::MAX),
        (2, 1 << 24),
        (3, 3),
        // Heads of one number cannot be rotated.
        (3, 8),
        (4, 3),
        (5, 0),
        (5, i32::MIN),
        (5, i32::MAX),
        (6, 1 << 24),
    ] {
        let mut other = Files::new();
        other.header[index] = value;
        assert_input_error(
            Files::load(&other.checkpoint(), &vocabulary),
            "model.bin",
            &format!("a header with {value} at {index}"),
        );
    }
    let mut longer = checkpoint.clone();
    longer.extend([0; 400]);
    assert_input_error(
        Files::load(&longer, &vocabulary),
        "model.bin",
        "a checkpoint of another layout",
    );
    // A vocabulary that ends before the pieces begin.
    let mut few = Files::new();
    few.floats -= (few.tokens - 40) * 8;
    (few.header[5], few.tokens) = (40, 40);
    assert_input_error(
        Files::load(&few.checkpoint(), &few.vocabulary()),
        "tok.bin",
        "a vocabulary without bytes",
    );
}
