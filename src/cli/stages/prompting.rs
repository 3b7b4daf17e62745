//! How a model is spoken to: the flags that the stages share.

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::files::{Model, Precision};
use crate::model::template::Date;
use crate::prompt::Style;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    // Chat if the model has a chat template, else transcript.
    #[default]
    Auto,
    // In turns, through the model's chat template.
    Chat,
    // As a transcript to continue.
    Transcript,
}

impl PromptStyle {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

#[derive(Debug, Clone, Default, Serialize, Args)]
pub struct Prompting {
    /// How the model is spoken to; auto is its chat template if it has one, else a transcript.
    #[arg(long, value_enum, default_value_t)]
    #[serde(skip_serializing_if = "PromptStyle::is_auto")]
    pub prompt_style: PromptStyle,
    /// The day that the chat template takes for today [default: 2024-07-26].
    #[arg(long, value_name = "YYYY-MM-DD")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<Date>,
}

impl Prompting {
    /// Loads a model, its chat template's clock at the date.
    pub fn load(&self, reference: &str, precision: Precision) -> Result<Model> {
        let model = Model::load_in(reference, precision)?;
        Ok(match self.date {
            Some(date) => Model {
                tokenizer: model.tokenizer.at(date),
                ..model
            },
            None => model,
        })
    }

    pub fn style(&self, model: &Model) -> Result<Style> {
        let best = match model.tokenizer.chat() {
            Some(_) => Style::Chat,
            None => Style::Transcript,
        };
        self.choose(best, &model.reference)
    }

    /// The style asked for, or the `best` of the model.
    pub fn choose(&self, best: Style, reference: &str) -> Result<Style> {
        match (self.prompt_style, best) {
            (PromptStyle::Auto, best) => Ok(best),
            (PromptStyle::Transcript, _) => Ok(Style::Transcript),
            (PromptStyle::Chat, Style::Chat) => Ok(Style::Chat),
            (PromptStyle::Chat, _) => Err(Error::config("the model has no chat template")
                .at_file(reference)
                .help("give --prompt-style transcript, or a model with a chat template")),
        }
    }
}
