//! Revise (SL-CAI, Bai et al. 2022, section 3): an answer, then rounds of critique and revision, each
//! under a principle drawn anew.

use super::respond::respond;
use super::{Context, Outcome, reject};
use crate::constitution::{Constitution, Principle};
use crate::engine::{GenerateRequest, Generation, Sampling};
use crate::error::{Error, Result};
use crate::prompt::Criticism;
use crate::record::{Message, Prompt, Reject, Revision, Round};
use crate::seed::Seed;

const STAGE: &str = "revise";

#[derive(Debug, Clone)]
pub struct ReviseConfig {
    pub rounds: usize,
    pub answer: Sampling,
    pub critique: Sampling,
}

/// A row on its way through the rounds.
struct Draft<'a> {
    prompt: &'a Prompt,
    first: Generation,
    answer: Generation,
    rounds: Vec<Round>,
}

/// A principle with the texts that a round needs.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    principle: &'a Principle,
    pub(super) critique: &'a str,
    pub(super) revise: &'a str,
}

pub fn revise(
    context: Context<'_>,
    constitution: &Constitution,
    prompts: &[Prompt],
    config: &ReviseConfig,
) -> Result<Vec<Outcome<Revision>>> {
    let answers = respond(context, prompts, &config.answer, 0)?;
    let mut rows: Vec<Result<Draft<'_>, Reject>> = prompts
        .iter()
        .zip(answers)
        .map(|(prompt, answer)| match context.accept("the answer", answer) {
            Ok(answer) => Ok(Draft {
                prompt,
                first: answer.clone(),
                answer,
                rounds: Vec::new(),
            }),
            Err(why) => Err(reject(&prompt.id, STAGE, why)),
        })
        .collect();
    for round in 0..config.rounds {
        rows = revise_once(context, constitution, rows, config, round as u64)?;
    }
    Ok(rows.into_iter().map(|row| row.map(finish)).collect())
}

/// One round over all rows still in the running.
fn revise_once<'a>(
    context: Context<'_>,
    constitution: &Constitution,
    rows: Vec<Result<Draft<'a>, Reject>>,
    config: &ReviseConfig,
    round: u64,
) -> Result<Vec<Result<Draft<'a>, Reject>>> {
    let seed = |draft: &Draft<'_>| seed_of_round(context, &draft.prompt.id, round);
    let mut asked = Vec::new();
    for draft in rows.iter().flatten() {
        asked.push(draw(constitution, seed(draft))?);
    }
    let open: Vec<&Draft<'_>> = rows.iter().flatten().collect();
    let critiques = generate(context, open.len(), &config.critique, |index| {
        let request = context.templates.critique(criticism(open[index], &asked[index]))?;
        Ok((request, seed(open[index]).child("critique")))
    })?;
    // A row whose critique failed still takes part in the second pass, with its critique empty, and is
    // rejected below: so positions stay aligned.
    let critiques: Vec<_> = critiques
        .into_iter()
        .map(|critique| context.accept("the critique", critique))
        .collect();
    let revisions = generate(context, open.len(), &config.answer, |index| {
        let critique = critiques[index].as_ref().map_or("", |critique| critique.text.as_str());
        let asked = &asked[index];
        let request = context
            .templates
            .revision(criticism(open[index], asked), critique, asked.revise)?;
        Ok((request, seed(open[index]).child("revision")))
    })?;
    let mut results = critiques.into_iter().zip(revisions).zip(asked);
    Ok(rows
        .into_iter()
        .map(|row| {
            let mut draft = row?;
            let ((critique, revision), asked) = results.next().expect("one result for each open row");
            let done = critique.and_then(|critique| Ok((critique, context.accept("the revision", revision)?)));
            let (critique, revision) = done.map_err(|why| reject(&draft.prompt.id, STAGE, why))?;
            draft.rounds.push(Round {
                principle_id: asked.principle.id.clone(),
                critique_request: asked.critique.to_owned(),
                critique: critique.text,
                revision_request: asked.revise.to_owned(),
                changed: revision.text != draft.answer.text,
                revision: revision.text.clone(),
                principle_hash: asked.principle.hash(),
            });
            draft.answer = revision;
            Ok(draft)
        })
        .collect())
}

/// The seed of all that happens to a prompt in a round.
pub(super) fn seed_of_round(context: Context<'_>, prompt_id: &str, round: u64) -> Seed {
    context.seed.child(prompt_id).child("round").index(round)
}

fn draw(constitution: &Constitution, seed: Seed) -> Result<Request<'_>> {
    Request::of(constitution.draw_critique(seed.child("principle"))?)
}

impl<'a> Request<'a> {
    pub(super) fn of(principle: &'a Principle) -> Result<Self> {
        match (&principle.critique, &principle.revise) {
            (Some(critique), Some(revise)) => Ok(Self {
                principle,
                critique,
                revise,
            }),
            _ => Err(Error::unexpected(format!(
                "the principle `{}` was drawn for a critique and has none",
                principle.id
            ))),
        }
    }
}

fn criticism<'a>(draft: &'a Draft<'_>, asked: &'a Request<'_>) -> Criticism<'a> {
    Criticism {
        messages: &draft.prompt.messages,
        answer: &draft.answer.text,
        critique_request: asked.critique,
    }
}

/// Draws `count` texts, the requests and their seeds by number.
pub(super) fn generate(
    context: Context<'_>,
    count: usize,
    sampling: &Sampling,
    request: impl Fn(usize) -> Result<(crate::prompt::Request, Seed)>,
) -> Result<Vec<Result<Generation, crate::engine::Refusal>>> {
    let stop = context.templates.stop_strings();
    let requests = (0..count)
        .map(|index| {
            let (prompt, seed) = request(index)?;
            Ok(GenerateRequest {
                prompt,
                sampling: sampling.clone(),
                stop: stop.clone(),
                seed,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    context.engine.generate(&requests)
}

fn finish(draft: Draft<'_>) -> Revision {
    let mut messages = draft.prompt.messages.clone();
    messages.push(Message::assistant(draft.answer.text.clone()));
    Revision {
        id: draft.prompt.id.clone(),
        prompt: draft.prompt.messages.clone(),
        prompt_tokens: draft.first.prompt_tokens,
        initial_tokens: draft.first.tokens,
        final_tokens: draft.answer.tokens,
        initial_finish_reason: draft.first.finish_reason.as_str().into(),
        final_finish_reason: draft.answer.finish_reason.as_str().into(),
        initial: draft.first.text,
        rounds: draft.rounds,
        final_answer: draft.answer.text,
        messages,
    }
}
