//! Text to tokens and back, with the model's own tokenizer.
//!
//! Text from users and models is data: it is encoded so that a literal `</s>` inside it stays four
//! characters and never becomes a special token. Conversations through a chat template are encoded by
//! [`super::chat`].

mod markup;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

pub use self::markup::Control;
use self::markup::Controls;
use super::chat::Chat;
use super::family::SpecialTokens;
use super::files::TokenizerFiles;
use super::template::{ChatTemplate, Date};
use crate::error::{Error, Result};

#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    files: TokenizerFiles,
    special: SpecialTokens,
    /// Whether sequences begin with BOS.
    begins_with_bos: bool,
    /// Every token that ends a completion.
    eos: Vec<u32>,
    /// How the model is spoken to in turns, if it can be.
    template: Option<ChatTemplate>,
    /// The tokens that only the template may write.
    controls: Option<Arc<Controls>>,
}

impl Tokenizer {
    /// From the texts of `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, the chat
    /// template and the model's `config.json`.
    ///
    /// A completion ends at any token that `eos_token`, either configuration's `eos_token_id` or the
    /// chat template (after an assistant's turn) names.
    pub fn new(files: TokenizerFiles, model_config: &str) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(&files.tokenizer).map_err(|error| {
            Error::input("tokenizer.json is not a tokenizer")
                .help("copy tokenizer.json again from the checkpoint, or save it with a current `tokenizers`")
                .because(error)
        })?;
        let with_special = inner
            .encode("", true)
            .map_err(|error| Error::input("the tokenizer cannot encode").because(error))?;
        // From here on, special tokens are recognised in no text.
        inner.set_encode_special_tokens(true);
        let json = |text: &str, file: &str| {
            serde_json::from_str::<Value>(text)
                .map_err(|error| Error::input(format!("{file} is not JSON")).because(error))
        };
        let tokenizer_config = json(files.config.as_deref().unwrap_or("{}"), "tokenizer_config.json")?;
        let model_config = json(model_config, "config.json")?;
        let generation_config = json(files.generation.as_deref().unwrap_or("{}"), "generation_config.json")?;
        let named = |key: &str| named_token(&inner, &tokenizer_config[key], key);
        let bos = named("bos_token")?.or_else(|| ids(&model_config["bos_token_id"]).first().copied());
        let mut eos = ids(&model_config["eos_token_id"]);
        for id in ids(&generation_config["eos_token_id"]) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        if let Some(named) = named("eos_token")? {
            eos.retain(|id| *id != named);
            eos.insert(0, named);
        }
        let Some(&first) = eos.first() else {
            return Err(
                Error::input("neither tokenizer_config.json nor config.json names an end-of-sequence token")
                    .help("set `eos_token` in tokenizer_config.json"),
            );
        };
        let template = ChatTemplate::from_files(&files)?;
        let controls = template
            .as_ref()
            .map(|template| Controls::new(&inner, template.source()));
        let mut tokenizer = Self {
            begins_with_bos: bos.is_some_and(|bos| with_special.get_ids().first() == Some(&bos)),
            inner: Arc::new(inner),
            files,
            special: SpecialTokens { bos, eos: first },
            eos,
            template,
            controls: controls.map(Arc::new),
        };
        let end_of_turn = tokenizer.chat().and_then(|chat| chat.end_of_turn());
        if let Some(end) = end_of_turn.filter(|end| !tokenizer.eos.contains(end)) {
            tokenizer.eos.push(end);
        }
        Ok(tokenizer)
    }

    /// Trains a byte-level BPE of `vocab` tokens (GPT-2's splitting) on `texts`.
    pub fn train(texts: impl Iterator<Item = String> + Send, vocab: usize) -> Result<TokenizerFiles> {
        const BOS: &str = "<|bos|>";
        const EOS: &str = "<|eos|>";
        let failed = |error: tokenizers::Error| Error::unexpected("the tokenizer cannot be trained").because(error);
        let specials = [BOS, EOS].map(|token| AddedToken::from(token, true));
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(specials.to_vec())
            .show_progress(false)
            .build();
        let byte_level = ByteLevel::default().add_prefix_space(false);
        let template = TemplateProcessing::builder()
            .try_single(format!("{BOS} $A"))
            .map_err(Error::unexpected)?
            .special_tokens(vec![(BOS, 0)])
            .build()
            .map_err(|error| Error::unexpected("the post-processor cannot be built").because(error))?;
        let mut inner = TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_normalizer(None::<tokenizers::NormalizerWrapper>)
            .with_pre_tokenizer(Some(byte_level))
            .with_post_processor(Some(template))
            .with_decoder(Some(byte_level))
            .build()
            .map_err(failed)?;
        inner.train(&mut trainer, texts).map_err(failed)?;
        let config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS,
            "clean_up_tokenization_spaces": false,
        });
        Ok(TokenizerFiles {
            tokenizer: inner.to_string(true).map_err(failed)?,
            config: Some(format!("{config:#}\n")),
            ..TokenizerFiles::default()
        })
    }

    /// The tokens of a text that is data: no special token, whatever it contains.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if self.has_soft_controls() {
            return self.encode_around(text, &[]);
        }
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| Error::input("a text cannot be encoded").because(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokens of a text at the beginning of a sequence, after BOS if the model uses one.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.begin();
        tokens.extend(self.encode(text)?);
        Ok(tokens)
    }

    /// What every sequence begins with: BOS, or nothing.
    pub fn begin(&self) -> Vec<u32> {
        self.special.bos.filter(|_| self.begins_with_bos).into_iter().collect()
    }

    /// The text of `tokens`, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        // What ends a turn is no text, even where the tokenizer does not mark it as special.
        let ends = |token: &u32| self.has_soft_controls() && self.is_eos(*token);
        let text: Vec<u32> = tokens.iter().copied().filter(|token| !ends(token)).collect();
        self.inner
            .decode(&text, true)
            .map_err(|error| Error::unexpected("tokens cannot be decoded").because(error))
    }

    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    pub fn is_eos(&self, token: u32) -> bool {
        self.eos.contains(&token)
    }

    /// Every token that ends a completion, `special().eos` first.
    pub fn ends(&self) -> &[u32] {
        &self.eos
    }

    /// How many tokens there are.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The text of a token as the vocabulary has it.
    pub fn name(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Conversations with the model, if it has a chat template.
    pub fn chat(&self) -> Option<Chat<'_>> {
        let template = self.template.as_ref()?;
        Some(Chat {
            template,
            tokenizer: self,
        })
    }

    /// The same tokenizer, its chat template's clock at `date`.
    #[must_use]
    pub fn at(&self, date: Date) -> Self {
        Self {
            template: self.template.as_ref().map(|template| template.at(date)),
            ..self.clone()
        }
    }

    pub fn files(&self) -> &TokenizerFiles {
        &self.files
    }

    /// A `tokenizer_config.json` for a checkpoint that came without one.
    pub fn default_config(&self) -> String {
        let name = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.special.bos),
            "eos_token": name(Some(self.special.eos)),
        });
        format!("{config:#}\n")
    }

    /// An error unless every token has a row in the embedding of `rows`.
    pub fn check_vocabulary(&self, rows: usize, place: &Path) -> Result<()> {
        let vocab = self.inner.get_vocab(true);
        let size = vocab.len();
        let mismatch = |what: String| {
            Error::input(format!("the tokenizer does not match the model: {what}"))
                .at_file(place)
                .help("tokenizer.json and config.json must come from the same checkpoint")
        };
        if size > rows {
            return Err(mismatch(format!("it has {size} tokens, the embedding {rows} rows")));
        }
        if let Some((token, id)) = vocab.iter().find(|(_, id)| **id as usize >= rows) {
            return Err(mismatch(format!(
                "its token `{token}` has the id {id}, the embedding {rows} rows"
            )));
        }
        let specials = self.eos.iter().chain(&self.special.bos);
        match specials.into_iter().find(|id| self.inner.id_to_token(**id).is_none()) {
            Some(id) => Err(mismatch(format!(
                "config.json names the special token {id}, which is not among its {size} tokens"
            ))),
            None => Ok(()),
        }
    }
}

/// The id of a token given by name, `"</s>"` or `{"content": "</s>"}`.
fn named_token(inner: &tokenizers::Tokenizer, value: &Value, key: &str) -> Result<Option<u32>> {
    let Some(name) = value.as_str().or_else(|| value["content"].as_str()) else {
        return Ok(None);
    };
    match inner.token_to_id(name) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::input(format!(
            "tokenizer_config.json names `{name}` as {key}, which tokenizer.json does not have"
        ))
        .help("both must come from the same checkpoint")),
    }
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        single => id(single).into_iter().collect(),
    }
}
