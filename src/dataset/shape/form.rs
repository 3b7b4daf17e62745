//! The forms that rows of other programs have: which columns announce each, and what can be made of it.
//!
//! A closed set: a new form is a variant, and the compiler names every place that has to know it. What
//! the columns hold is read in `read`.

use std::fmt;

use serde_json::Value;

use super::Object;
use crate::dataset::row::Kind;

/// What the columns of a row say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A row of one of our own datasets.
    Own(Kind),
    /// A round of critique and revision, as the CAI recipe of Hugging Face writes it.
    Cai,
    /// Two answers and the verdicts of three annotators: 1, 2, or 0 for a tie.
    PandaLm,
    /// Answers of several models with scores, as openbmb published them.
    UltraFeedback,
    /// A task with its worked instances (Wang et al. 2022, arXiv 2212.10560).
    SelfInstruct,
    /// distilabel's answers with their ratings.
    DistilabelGenerations,
    /// A pair with the scores of its sides, as the binarised UltraFeedback has it.
    ScoredPair,
    /// TRL's preferences.
    PromptPair,
    /// LLaMA-Factory's preferences over a ShareGPT conversation.
    ShareGptPair,
    /// LLaMA-Factory's preferences over an Alpaca instruction.
    AlpacaPair,
    /// Transcripts of "\n\nHuman:" and "\n\nAssistant:" turns (Bai et al. 2022, arXiv 2204.05862).
    HhRlhf,
    /// TRL's preferences with the prompt inside of both sides.
    ImplicitPair,
    /// LLaMA-Factory's conversation with a thumb up or down.
    ShareGptUnpaired,
    /// distilabel's single answer.
    DistilabelGeneration,
    /// Stanford Alpaca, with LLaMA-Factory's `system` and `history`.
    Alpaca,
    ShareGpt,
    /// TRL's unpaired preferences.
    Unpaired,
    /// A prompt and several answers without scores.
    PromptCompletions,
    /// TRL's prompts and completions.
    PromptCompletion,
    /// TRL's conversations.
    Messages,
    /// OpenRLHF's default columns of supervised data.
    InputOutput,
    Prompt,
    /// TRL's language modelling rows.
    Text,
}

impl Form {
    /// Every form of other programs, the one that says most first: a row may have the columns of several.
    pub const FOREIGN: [Self; 22] = [
        Self::Cai,
        Self::PandaLm,
        Self::UltraFeedback,
        Self::SelfInstruct,
        Self::DistilabelGenerations,
        Self::ScoredPair,
        Self::PromptPair,
        Self::ShareGptPair,
        Self::AlpacaPair,
        Self::HhRlhf,
        Self::ImplicitPair,
        Self::ShareGptUnpaired,
        Self::DistilabelGeneration,
        Self::Alpaca,
        Self::ShareGpt,
        Self::Unpaired,
        Self::PromptCompletions,
        Self::PromptCompletion,
        Self::Messages,
        Self::InputOutput,
        Self::Prompt,
        Self::Text,
    ];

    /// The columns that a row must have to be of this form.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Own(_) => &[],
            Self::Cai => &["init_prompt", "init_response", "revision_response"],
            Self::PandaLm => &[
                "instruction",
                "response1",
                "response2",
                "annotator1",
                "annotator2",
                "annotator3",
            ],
            Self::UltraFeedback => &["instruction", "completions"],
            Self::SelfInstruct => &["instruction", "instances"],
            Self::DistilabelGenerations => &["instruction", "generations"],
            Self::ScoredPair => &["prompt", "chosen", "rejected", "score_chosen", "score_rejected"],
            Self::PromptPair => &["prompt", "chosen", "rejected"],
            Self::ShareGptPair => &["conversations", "chosen", "rejected"],
            Self::AlpacaPair => &["instruction", "chosen", "rejected"],
            Self::HhRlhf | Self::ImplicitPair => &["chosen", "rejected"],
            Self::ShareGptUnpaired => &["conversations", "kto_tag"],
            Self::DistilabelGeneration => &["instruction", "generation"],
            Self::Alpaca => &["instruction", "output"],
            Self::ShareGpt => &["conversations"],
            Self::Unpaired => &["prompt", "completion", "label"],
            Self::PromptCompletions => &["prompt", "completions"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Messages => &["messages"],
            Self::InputOutput => &["input", "output"],
            Self::Prompt => &["prompt"],
            Self::Text => &["text"],
        }
    }

    /// Further columns that are read where they are there.
    pub fn optional_columns(self) -> &'static [&'static str] {
        match self {
            Self::Cai => &[
                "critic_prompt",
                "critic_response",
                "revision_prompt",
                "chosen",
                "rejected",
            ],
            Self::PandaLm | Self::AlpacaPair => &["input", "system"],
            Self::DistilabelGenerations => &["system_prompt", "ratings"],
            Self::DistilabelGeneration => &["system_prompt"],
            Self::ShareGpt | Self::ShareGptPair | Self::ShareGptUnpaired => &["system"],
            Self::Alpaca => &["input", "system", "history"],
            Self::PromptPair | Self::HhRlhf | Self::ImplicitPair => &[
                "score_chosen",
                "score_rejected",
                "chosen_rating",
                "rejected_rating",
                "chosen_score",
                "rejected_score",
            ],
            Self::PromptCompletion => &["label"],
            Self::Own(_)
            | Self::UltraFeedback
            | Self::SelfInstruct
            | Self::ScoredPair
            | Self::Unpaired
            | Self::PromptCompletions
            | Self::Messages
            | Self::InputOutput
            | Self::Prompt
            | Self::Text => &[],
        }
    }

    /// What such rows are first of all: what they are imported as if nobody says.
    pub fn kind(self) -> Kind {
        match self {
            Self::Own(kind) => kind,
            Self::Cai => Kind::Revisions,
            Self::UltraFeedback | Self::DistilabelGenerations | Self::PromptCompletions => Kind::Candidates,
            Self::PandaLm
            | Self::ScoredPair
            | Self::PromptPair
            | Self::ShareGptPair
            | Self::AlpacaPair
            | Self::HhRlhf
            | Self::ImplicitPair => Kind::Preferences,
            Self::Unpaired | Self::ShareGptUnpaired => Kind::UnpairedPreferences,
            Self::SelfInstruct
            | Self::DistilabelGeneration
            | Self::Alpaca
            | Self::ShareGpt
            | Self::PromptCompletion
            | Self::Messages
            | Self::InputOutput
            | Self::Text => Kind::Demonstrations,
            Self::Prompt => Kind::Prompts,
        }
    }

    /// The forms that rows of `kind` are made from, the one to prefer first.
    pub fn of_kind(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Prompts => &[
                Self::Prompt,
                Self::Messages,
                Self::Cai,
                Self::PandaLm,
                Self::UltraFeedback,
                Self::SelfInstruct,
                Self::DistilabelGenerations,
                Self::DistilabelGeneration,
                Self::AlpacaPair,
                Self::ShareGptPair,
                Self::Alpaca,
                Self::ShareGptUnpaired,
                Self::ShareGpt,
                Self::HhRlhf,
                Self::ImplicitPair,
                Self::InputOutput,
            ],
            Kind::Revisions => &[Self::Cai],
            Kind::Candidates => &[
                Self::UltraFeedback,
                Self::PromptCompletions,
                Self::DistilabelGenerations,
                Self::PandaLm,
                Self::PromptPair,
                Self::ShareGptPair,
                Self::AlpacaPair,
                Self::HhRlhf,
                Self::ImplicitPair,
            ],
            Kind::Preferences => &[
                Self::Cai,
                Self::ScoredPair,
                Self::PromptPair,
                Self::ShareGptPair,
                Self::AlpacaPair,
                Self::HhRlhf,
                Self::ImplicitPair,
                Self::PandaLm,
                Self::UltraFeedback,
                Self::DistilabelGenerations,
            ],
            Kind::UnpairedPreferences => &[Self::Unpaired, Self::ShareGptUnpaired],
            Kind::Demonstrations => &[
                Self::PromptCompletion,
                Self::Messages,
                Self::Cai,
                Self::SelfInstruct,
                Self::DistilabelGeneration,
                Self::Alpaca,
                Self::ShareGpt,
                Self::InputOutput,
                Self::Text,
            ],
            Kind::Rejects | Kind::ReferenceLogprobs => &[],
        }
    }

    /// The form in which `object` is read as `kind`.
    ///
    /// A null counts as absent, because columns that only some rows fill are null in the others; but
    /// where nothing else fits it counts as present, so that the reason can name it.
    pub fn detect(object: &Object, kind: Kind) -> Option<Self> {
        first(Self::of_kind(kind), object)
    }

    /// The form that says most about `object`; `None` if it has no form that is known.
    pub fn detect_any(object: &Object) -> Option<Self> {
        if let Some(kind) = super::kind_of(object) {
            return Some(Self::Own(kind));
        }
        match first(&Self::FOREIGN, object)? {
            // Many data sets have labels of their own beside prompt and completion.
            Self::Unpaired if super::fields::label(object, "label").is_err() => Some(Self::PromptCompletion),
            form => Some(form),
        }
    }

    fn fits(self, object: &Object, has: impl Fn(&Value) -> bool) -> bool {
        let present = |name: &&str| object.get(*name).is_some_and(&has);
        self.columns().iter().all(present)
            && match self {
                // Answers with scores are objects; plain ones are strings.
                Self::UltraFeedback => holds(object, "completions", Value::is_object),
                Self::HhRlhf => !object.contains_key("prompt") && !object.get("chosen").is_some_and(Value::is_array),
                Self::ImplicitPair => {
                    !object.contains_key("prompt") && object.get("chosen").is_some_and(Value::is_array)
                }
                _ => true,
            }
    }
}

fn first(forms: &[Form], object: &Object) -> Option<Form> {
    let find = |has: fn(&Value) -> bool| forms.iter().find(|form| form.fits(object, has)).copied();
    find(|value| !value.is_null()).or_else(|| find(|_| true))
}

fn holds(object: &Object, name: &str, is: impl Fn(&Value) -> bool) -> bool {
    matches!(object.get(name), Some(Value::Array(items)) if items.first().is_some_and(is))
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(kind) => return write!(f, "{kind} of bylaw"),
            Self::Cai => "critiques and revisions of Hugging Face's CAI recipe",
            Self::PandaLm => "PandaLM comparisons",
            Self::UltraFeedback => "UltraFeedback completions",
            Self::SelfInstruct => "self-instruct tasks",
            Self::DistilabelGenerations => "distilabel generations",
            Self::ScoredPair => "preferences with scores",
            Self::PromptPair => "TRL preferences",
            Self::ShareGptPair => "ShareGPT preferences",
            Self::AlpacaPair => "Alpaca preferences",
            Self::HhRlhf => "hh-rlhf transcripts",
            Self::ImplicitPair => "TRL preferences with an implicit prompt",
            Self::ShareGptUnpaired => "ShareGPT unpaired preferences",
            Self::DistilabelGeneration => "distilabel instructions",
            Self::Alpaca => "Alpaca instructions",
            Self::ShareGpt => "ShareGPT conversations",
            Self::Unpaired => "TRL unpaired preferences",
            Self::PromptCompletions => "prompts with several completions",
            Self::PromptCompletion => "TRL prompts and completions",
            Self::Messages => "TRL conversations",
            Self::InputOutput => "OpenRLHF inputs and outputs",
            Self::Prompt => "prompts",
            Self::Text => "TRL texts",
        })
    }
}
