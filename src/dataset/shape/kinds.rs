//! Our kinds of rows, made of the forms of other programs and of each other.

use super::fields::{check_completion, check_prompt, check_roles, label, messages, missing, parts, string, strings};
use super::trl::{self, Pair, answer, continuation};
use super::{Form, Native, Object, Reason, Shape, cai, carried, instruct, rated, sharegpt, transcript};
use crate::dataset::row::Kind;
use crate::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Revision, UnpairedPreference, content_id,
    messages_id,
};

impl Shape for Prompt {
    const SHAPES: &'static str = "`prompt` (a string or messages), `messages`, or `chosen` and `rejected`, or the \
         columns of ShareGPT, Alpaca, UltraFeedback, distilabel, CAI or self-instruct";

    fn from_foreign(form: Form, object: &Object, file: &str) -> Result<Self, Reason> {
        let messages = match form {
            Form::Prompt => trl::prompt(object)?,
            Form::Messages => {
                let mut messages = messages(object, "messages")?;
                // A demonstration's own answer is not part of its question.
                messages.pop_if(|last| last.role == "assistant");
                messages
            }
            Form::HhRlhf | Form::ImplicitPair => pair(form, object)?.prompt,
            Form::Cai => cai::prompt(object)?,
            Form::PandaLm | Form::Alpaca | Form::AlpacaPair => instruct::alpaca_prompt(object)?,
            Form::UltraFeedback | Form::DistilabelGeneration | Form::DistilabelGenerations => {
                instruct::distilabel_prompt(object)?
            }
            Form::SelfInstruct => instruct::task_prompt(object)?,
            Form::ShareGpt | Form::ShareGptPair | Form::ShareGptUnpaired => sharegpt::prompt(object)?,
            Form::InputOutput => instruct::input_prompt(object)?,
            Form::Own(_)
            | Form::ScoredPair
            | Form::PromptPair
            | Form::Unpaired
            | Form::PromptCompletions
            | Form::PromptCompletion
            | Form::Text => return Err(missing(object, Self::SHAPES)),
        };
        Ok(Self {
            id: messages_id(&messages),
            messages,
            source: match object.get("source") {
                Some(_) => string(object, "source")?.to_owned(),
                None => file.to_owned(),
            },
            tags: match object.get("tags") {
                Some(_) => strings(object, "tags")?,
                None => Vec::new(),
            },
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        let (messages, source) = match row {
            Native::Prompt(prompt) => return Some(Ok(prompt)),
            Native::Revision(row) => (row.prompt, Kind::Revisions),
            Native::Candidates(row) => (row.prompt, Kind::Candidates),
            Native::Preference(row) => (row.prompt, Kind::Preferences),
            Native::UnpairedPreference(row) => (row.prompt, Kind::UnpairedPreferences),
            Native::Demonstration(_) => return None,
        };
        Some(Ok(Self {
            id: messages_id(&messages),
            messages,
            source: source.to_string(),
            tags: Vec::new(),
        }))
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.messages)
    }
}

impl Shape for Revision {
    const SHAPES: &'static str = "the columns of revisions, as `bylaw revise` writes them, or of Hugging Face's CAI \
         recipe (`init_prompt`, `init_response`, `revision_response`)";

    fn from_foreign(form: Form, object: &Object, _: &str) -> Result<Self, Reason> {
        match form {
            Form::Cai => cai::revision(object),
            _ => Err(missing(object, Self::SHAPES)),
        }
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Revision(revision) => Some(Ok(revision)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.prompt)?;
        check_roles(&self.messages, "messages")
    }
}

impl Shape for Candidates {
    const SHAPES: &'static str = "`prompt` and `completions` (strings), or `chosen` and `rejected`, or the columns of \
         UltraFeedback or distilabel's `generations`";

    fn from_foreign(form: Form, object: &Object, _: &str) -> Result<Self, Reason> {
        let (prompt, texts) = match form {
            Form::PromptCompletions => (trl::prompt(object)?, strings(object, "completions")?),
            Form::UltraFeedback => rated::ultrafeedback(object)?,
            Form::DistilabelGenerations => rated::distilabel(object)?,
            Form::PandaLm => rated::pandalm(object)?,
            _ => {
                let Pair {
                    prompt,
                    chosen,
                    rejected,
                } = pair(form, object)?;
                (prompt, vec![answer(chosen, "chosen")?, answer(rejected, "rejected")?])
            }
        };
        let completions = texts.into_iter().zip(0..).map(|(text, sample)| Completion {
            text,
            // Nobody counted the tokens or scored them; 0 keeps the columns free of nulls and NaN.
            tokens: 0,
            finish_reason: "stop".into(),
            logprob: 0.0,
            sample,
        });
        let completions: Vec<Completion> = completions.collect();
        let texts = completions.iter().map(|completion| completion.text.as_str());
        Ok(Self {
            id: content_id(parts(&prompt).chain(texts)),
            prompt,
            completions,
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Candidates(candidates) => Some(Ok(candidates)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), Reason> {
        if self.completions.is_empty() {
            return Err("`completions` is empty".into());
        }
        check_prompt(&self.prompt)
    }
}

/// The two answers of the forms that name which is better, whatever scores say.
fn pair(form: Form, object: &Object) -> Result<Pair, Reason> {
    match form {
        Form::ScoredPair | Form::PromptPair => trl::explicit_pair(object),
        Form::ImplicitPair => trl::implicit_pair(object),
        Form::HhRlhf => transcript::pair(string(object, "chosen")?, string(object, "rejected")?),
        Form::ShareGptPair => sharegpt::pair(object),
        Form::AlpacaPair => instruct::alpaca_pair(object),
        Form::Cai => cai::pair(object),
        Form::UltraFeedback => rated::ultrafeedback_pair(object),
        Form::DistilabelGenerations => rated::distilabel_pair(object),
        Form::PandaLm => rated::pandalm_pair(object).map(|(pair, _)| pair),
        Form::Own(_)
        | Form::SelfInstruct
        | Form::ShareGptUnpaired
        | Form::DistilabelGeneration
        | Form::Alpaca
        | Form::ShareGpt
        | Form::Unpaired
        | Form::PromptCompletions
        | Form::PromptCompletion
        | Form::Messages
        | Form::InputOutput
        | Form::Prompt
        | Form::Text => Err(missing(object, Preference::SHAPES)),
    }
}

impl Shape for Preference {
    const SHAPES: &'static str = "`chosen` and `rejected`, with `prompt` or as whole conversations, or the columns of \
         preferences, of ShareGPT or Alpaca pairs, UltraFeedback, distilabel, CAI or PandaLM";

    fn from_foreign(form: Form, object: &Object, _: &str) -> Result<Self, Reason> {
        let mut told = None;
        let (pair, p_chosen, source) = match form {
            Form::PandaLm => {
                let (pair, share) = rated::pandalm_pair(object)?;
                (pair, share, "human")
            }
            Form::Cai => (cai::pair(object)?, 1.0, "revision"),
            Form::UltraFeedback | Form::DistilabelGenerations => (pair(form, object)?, 1.0, "judge"),
            _ => {
                let pair = pair(form, object)?;
                trl::check_scores(object)?;
                told = trl::margin(object)?;
                (pair, 1.0, "human")
            }
        };
        let mut row = preference(pair, p_chosen, source);
        row.margin = told.unwrap_or(row.margin);
        Ok(row)
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Preference(preference) => Some(Ok(preference)),
            _ => None,
        }
    }

    fn carry(&mut self, object: &Object) -> Result<(), Reason> {
        carried::preference(self, object)
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.prompt)?;
        check_completion(&self.chosen, "chosen")?;
        check_completion(&self.rejected, "rejected")?;
        if self.chosen == self.rejected {
            return Err("`chosen` and `rejected` are the same: neither is preferred".into());
        }
        if !(0.5..=1.0).contains(&self.p_chosen) {
            return Err(format!("`p_chosen` is {}, expected 0.5 to 1", self.p_chosen));
        }
        if !(0.0..=1.0).contains(&self.p_raw) {
            return Err(format!("`p_raw` is {}, expected 0 to 1", self.p_raw));
        }
        if !self.margin.is_finite() {
            return Err(format!("`margin` is {}, expected a finite number", self.margin));
        }
        check_weight(self.weight)
    }
}

fn check_weight(weight: f32) -> Result<(), Reason> {
    match weight.is_finite() && weight >= 0.0 {
        true => Ok(()),
        false => Err(format!("`weight` is {weight}, expected a number of at least 0")),
    }
}

fn preference(pair: Pair, p_chosen: f32, source: &str) -> Preference {
    let Pair {
        prompt,
        chosen,
        rejected,
    } = pair;
    let chars = |messages: &[Message]| {
        let count: usize = messages.iter().map(|message| message.content.chars().count()).sum();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    Preference {
        id: content_id(
            parts(&prompt)
                .chain(["chosen"])
                .chain(parts(&chosen))
                .chain(["rejected"])
                .chain(parts(&rejected)),
        ),
        p_chosen,
        margin: margin(p_chosen),
        weight: 1.0,
        source: source.into(),
        votes: Vec::new(),
        chosen_tokens: 0,
        rejected_tokens: 0,
        chosen_chars: chars(&chosen),
        rejected_chars: chars(&rejected),
        p_raw: p_chosen,
        prompt,
        chosen,
        rejected,
    }
}

/// Log-odds of `p`, held finite: a certain label must not bring infinities into later arithmetic.
pub(super) fn margin(p: f32) -> f32 {
    let p = p.clamp(f32::EPSILON, 1.0 - f32::EPSILON);
    (p / (1.0 - p)).ln()
}

impl Shape for UnpairedPreference {
    const SHAPES: &'static str =
        "`prompt`, `completion` and `label` (true or false), or ShareGPT conversations with `kto_tag`";

    fn from_foreign(form: Form, object: &Object, _: &str) -> Result<Self, Reason> {
        let (prompt, completion, label) = match form {
            Form::Unpaired => {
                let prompt = trl::prompt(object)?;
                let completion = continuation(object, "completion", &prompt)?;
                (prompt, completion, label(object, "label")?)
            }
            Form::ShareGptUnpaired => sharegpt::unpaired(object)?,
            _ => return Err(missing(object, Self::SHAPES)),
        };
        let name = if label { "good" } else { "bad" };
        Ok(Self {
            id: content_id(parts(&prompt).chain([name]).chain(parts(&completion))),
            prompt,
            completion,
            label,
            weight: 1.0,
        })
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::UnpairedPreference(row) => Some(Ok(row)),
            _ => None,
        }
    }

    fn carry(&mut self, object: &Object) -> Result<(), Reason> {
        carried::weight(&mut self.weight, object)
    }

    fn check(&self) -> Result<(), Reason> {
        check_prompt(&self.prompt)?;
        check_completion(&self.completion, "completion")?;
        check_weight(self.weight)
    }
}

impl Shape for Demonstration {
    const SHAPES: &'static str = "`prompt` and `completion`, `messages` that end with an assistant turn, `text`, rows \
         of revisions or candidates, or the columns of ShareGPT, Alpaca, self-instruct, CAI or distilabel";

    fn from_foreign(form: Form, object: &Object, _: &str) -> Result<Self, Reason> {
        let (prompt, completion) = match form {
            Form::PromptCompletion => {
                // TRL's label says that this is an answer not to give.
                if label(object, "label") == Ok(false) {
                    return Err("`label` says that the completion is a bad one, which nothing should learn".into());
                }
                let prompt = trl::prompt(object)?;
                let completion = answer(continuation(object, "completion", &prompt)?, "completion")?;
                (prompt, completion)
            }
            Form::Messages => trl::conversation(object, "messages")?,
            Form::Text => (Vec::new(), string(object, "text")?.to_owned()),
            Form::Cai => cai::demonstration(object)?,
            Form::SelfInstruct => instruct::task(object)?,
            Form::DistilabelGeneration => instruct::distilabel(object)?,
            Form::Alpaca => instruct::alpaca(object)?,
            Form::ShareGpt => sharegpt::demonstration(object)?,
            Form::InputOutput => instruct::input_output(object)?,
            Form::Own(_)
            | Form::PandaLm
            | Form::UltraFeedback
            | Form::DistilabelGenerations
            | Form::ScoredPair
            | Form::PromptPair
            | Form::ShareGptPair
            | Form::AlpacaPair
            | Form::HhRlhf
            | Form::ImplicitPair
            | Form::ShareGptUnpaired
            | Form::Unpaired
            | Form::PromptCompletions
            | Form::Prompt => return Err(missing(object, Self::SHAPES)),
        };
        Ok(demonstration(
            content_id(parts(&prompt).chain(["completion", completion.as_str()])),
            prompt,
            completion,
        ))
    }

    fn from_native(row: Native) -> Option<Result<Self, Reason>> {
        match row {
            Native::Demonstration(row) => Some(Ok(row)),
            Native::Revision(row) => Some(Ok(demonstration(row.id, row.prompt, row.final_answer))),
            Native::Candidates(row) => Some(match row.completions.into_iter().next() {
                Some(first) => Ok(demonstration(row.id, row.prompt, first.text)),
                None => Err("`completions` is empty".into()),
            }),
            Native::Prompt(_) | Native::Preference(_) | Native::UnpairedPreference(_) => None,
        }
    }

    fn carry(&mut self, object: &Object) -> Result<(), Reason> {
        carried::weight(&mut self.weight, object)
    }

    fn check(&self) -> Result<(), Reason> {
        check_weight(self.weight)?;
        if self.prompt.is_empty() {
            // A raw text: all of it is there to learn, or a prefix and what follows it.
            return match self.completion.is_empty() {
                true => Err("the text is empty".into()),
                false => Ok(()),
            };
        }
        check_prompt(&self.prompt)
    }
}

fn demonstration(id: String, prompt: Vec<Message>, completion: String) -> Demonstration {
    Demonstration {
        id,
        prompt,
        prefix: String::new(),
        completion,
        weight: 1.0,
    }
}
