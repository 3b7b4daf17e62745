//! The engine on this machine: continuous batching over the decoder's key/value cache.
//!
//! Each worker thread has a fixed set of slots. A row takes a slot, its prompt is computed in one
//! pass together with the next token of the rows already there, and when it ends another takes its
//! place. Rows are dealt to workers in a fixed order, so a run on the same machine repeats to the byte.

use std::sync::Arc;

use rayon::prelude::*;

use super::sampler::draw;
use super::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, Sampling, ScoreRequest, encode};
use crate::error::Result;
use crate::model::cpu::Weights;
use crate::model::cpu::cache::{Extension, KvCache};
use crate::model::cpu::trunk::{self, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::files::Model;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::Style;
use crate::record::FinishReason;
use crate::seed::{Rng, Seed};

/// Rows that one worker keeps in flight at most.
const SLOTS: usize = 64;
/// Bytes of one worker's key/value cache at most, if that leaves room for a row.
const CACHE_BYTES: usize = 1 << 30;
/// Prompt tokens that one pass takes in at most, besides a first prompt.
const PREFILL_TOKENS: usize = 2048;
/// Tokens scored in one pass.
const SCORE_TOKENS: usize = 8192;

pub struct LocalEngine {
    model: Arc<Model>,
}

/// A completion to be drawn, in tokens.
pub struct Job {
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub seed: Seed,
}

/// A drawn completion, in tokens; the end-of-sequence token, if drawn, is the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    pub tokens: Vec<u32>,
    /// The model's log-probability of each token at temperature 1.
    pub logprobs: Vec<f32>,
    pub finish_reason: FinishReason,
    /// Bytes at the end of the tokens' text that belong to a stop text: a token may hold the end of
    /// the answer and the beginning of the stop text.
    pub overhang: usize,
}

impl Drawing {
    /// The text before the stop text, without space at its ends.
    pub fn text(&self, tokenizer: &Tokenizer) -> Result<String> {
        let text = tokenizer.decode(&self.tokens)?;
        Ok(text[..text.len().saturating_sub(self.overhang)].trim().to_owned())
    }
}

impl LocalEngine {
    pub fn new(model: Arc<Model>) -> Self {
        Self { model }
    }
}

impl Engine for LocalEngine {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        let mut jobs = Vec::new();
        let mut places = Vec::with_capacity(requests.len());
        for request in requests {
            places.push(match encode::prompt(&self.model, &request.prompt, 1)? {
                Ok(prompt) => {
                    jobs.push(Job {
                        prompt,
                        sampling: request.sampling.clone(),
                        stop: request.stop.clone(),
                        seed: request.seed,
                    });
                    Ok(jobs.len() - 1)
                }
                Err(refusal) => Err(refusal),
            });
        }
        let drawings = draw_all(&self.model.decoder, &self.model.tokenizer, &jobs)?;
        places
            .into_iter()
            .map(|place| match place {
                Ok(index) => {
                    let drawing: &Drawing = &drawings[index];
                    Ok(Ok(Generation {
                        text: drawing.text(&self.model.tokenizer)?,
                        tokens: drawing.tokens.len() as u32,
                        prompt_tokens: jobs[index].prompt.len() as u32,
                        logprob: drawing.logprobs.iter().sum(),
                        finish_reason: drawing.finish_reason,
                    }))
                }
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        let mut sequences = Vec::new();
        let mut places = Vec::with_capacity(requests.len());
        for request in requests {
            let first = sequences.len();
            places.push(match encode::continuations(&self.model, request)? {
                Ok(encoded) => {
                    sequences.extend(encoded);
                    Ok(first..sequences.len())
                }
                Err(refusal) => Err(refusal),
            });
        }
        let logps = score_all(&self.model.decoder, &sequences)?;
        Ok(places
            .into_iter()
            .map(|place| place.map(|range| logps[range].to_vec()))
            .collect())
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(self.model.tokenizer.encode(text)?.len() as u32)
    }

    fn style(&self) -> Style {
        match self.model.tokenizer.chat() {
            Some(_) => Style::Chat,
            None => Style::Transcript,
        }
    }

    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            reference: self.model.reference.clone(),
            sha256: self.model.sha256.clone(),
        }
    }
}

/// The summed log-probability of each sequence's completion.
pub fn score_all(decoder: &Decoder, sequences: &[Sequence]) -> Result<Vec<f32>> {
    let mut logps = Vec::with_capacity(sequences.len());
    let mut rest = sequences;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = rest
            .iter()
            .take_while(|sequence| {
                tokens += sequence.tokens.len();
                tokens <= SCORE_TOKENS
            })
            .count();
        let (batch, tail) = rest.split_at(fits.max(1));
        let outputs = trunk::infer(decoder, batch, Wanted::Logprobs { temperature: 1.0 })?;
        logps.extend(outputs.logprobs.iter().map(|logprobs| logprobs.iter().sum::<f32>()));
        rest = tail;
    }
    Ok(logps)
}

/// Draws a completion for every job, in order.
pub fn draw_all(decoder: &Decoder, tokenizer: &Tokenizer, jobs: &[Job]) -> Result<Vec<Drawing>> {
    let weights = Weights::new(decoder)?;
    let workers = rayon::current_num_threads().min(jobs.len().div_ceil(4)).max(1);
    // Long prompts first, dealt in turn: every worker gets a like share.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(jobs[*index].prompt.len()));
    let mut drawings: Vec<Option<Drawing>> = vec![None; jobs.len()];
    let done: Vec<Vec<(usize, Drawing)>> = (0..workers)
        .into_par_iter()
        .map(|worker| {
            let share = order.iter().copied().skip(worker).step_by(workers).collect();
            Worker::new(&weights, tokenizer, jobs, share).run()
        })
        .collect::<Result<_>>()?;
    for (index, drawing) in done.into_iter().flatten() {
        drawings[index] = Some(drawing);
    }
    Ok(drawings
        .into_iter()
        .map(|drawing| drawing.expect("every job was dealt to a worker, and a worker ends when all its jobs have"))
        .collect())
}

/// A row in flight.
struct Row<'a> {
    job: usize,
    slot: usize,
    /// What the next pass takes in: the prompt, then the token drawn last.
    pending: Vec<u32>,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// As in [`Drawing`].
    overhang: usize,
    limit: usize,
    rng: Rng,
    spec: &'a Job,
}

struct Worker<'a> {
    weights: &'a Weights<'a>,
    tokenizer: &'a Tokenizer,
    jobs: &'a [Job],
    queue: std::vec::IntoIter<usize>,
    cache: KvCache,
    free: Vec<usize>,
    rows: Vec<Row<'a>>,
}

impl<'a> Worker<'a> {
    fn new(weights: &'a Weights<'a>, tokenizer: &'a Tokenizer, jobs: &'a [Job], share: Vec<usize>) -> Self {
        let context = weights.config().context;
        let capacity = share
            .iter()
            .map(|index| (jobs[*index].prompt.len() + jobs[*index].sampling.max_new_tokens).min(context))
            .max()
            .unwrap_or(0);
        let affordable = CACHE_BYTES / KvCache::slot_bytes(weights.decoder, capacity).max(1);
        let slots = SLOTS.min(share.len()).min(affordable.max(1));
        Self {
            weights,
            tokenizer,
            jobs,
            queue: share.into_iter(),
            cache: KvCache::new(weights.decoder, slots, capacity),
            free: (0..slots).rev().collect(),
            rows: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Vec<(usize, Drawing)>> {
        let mut done = Vec::new();
        loop {
            self.admit();
            if self.rows.is_empty() {
                return Ok(done);
            }
            let extensions: Vec<Extension<'_>> = self
                .rows
                .iter()
                .map(|row| Extension {
                    slot: row.slot,
                    tokens: &row.pending,
                })
                .collect();
            let hidden = self.cache.extend(self.weights, &extensions);
            let mut logits = self.weights.logits(&hidden);
            let vocab = self.weights.config().vocab;
            let mut open = Vec::with_capacity(self.rows.len());
            for (mut row, logits) in std::mem::take(&mut self.rows)
                .into_iter()
                .zip(logits.chunks_exact_mut(vocab))
            {
                match row.advance(logits, self.tokenizer)? {
                    None => open.push(row),
                    Some(finish_reason) => {
                        self.free.push(row.slot);
                        let drawing = Drawing {
                            tokens: row.tokens,
                            logprobs: row.logprobs,
                            finish_reason,
                            overhang: row.overhang,
                        };
                        done.push((row.job, drawing));
                    }
                }
            }
            self.rows = open;
        }
    }

    /// Gives free slots to waiting rows, as far as the prefill budget goes.
    fn admit(&mut self) {
        let mut taken_in = 0;
        while taken_in < PREFILL_TOKENS && !self.free.is_empty() {
            let Some(job) = self.queue.next() else { return };
            let Some(slot) = self.free.pop() else { return };
            let spec = &self.jobs[job];
            taken_in += spec.prompt.len();
            self.cache.clear(slot);
            let room = self.weights.config().context - spec.prompt.len();
            self.rows.push(Row {
                job,
                slot,
                pending: spec.prompt.clone(),
                tokens: Vec::new(),
                logprobs: Vec::new(),
                overhang: 0,
                limit: spec.sampling.max_new_tokens.min(room),
                rng: spec.seed.rng(),
                spec,
            });
        }
    }
}

/// Tokens at the end of a completion in which a stop text is looked for; more for a longer one, for a
/// token may be a single byte.
const STOP_WINDOW: usize = 24;

impl Row<'_> {
    /// Draws the next token; answers the reason if it was the last.
    fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Result<Option<FinishReason>> {
        if self.limit == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let drawn = draw(logits, &self.spec.sampling, &mut self.rng);
        self.tokens.push(drawn.token);
        self.logprobs.push(drawn.logprob);
        if tokenizer.is_eos(drawn.token) {
            return Ok(Some(FinishReason::Stop));
        }
        if self.stopped(tokenizer)? {
            return Ok(Some(FinishReason::Stop));
        }
        if self.tokens.len() >= self.limit {
            return Ok(Some(FinishReason::Length));
        }
        self.pending.clear();
        self.pending.push(drawn.token);
        Ok(None)
    }

    /// Whether a stop text has appeared; if so, the tokens that hold nothing else are cut off.
    fn stopped(&mut self, tokenizer: &Tokenizer) -> Result<bool> {
        let Some(longest) = self.spec.stop.iter().map(String::len).max() else {
            return Ok(false);
        };
        let window = self.tokens.len().saturating_sub(STOP_WINDOW.max(longest));
        let tail = tokenizer.decode(&self.tokens[window..])?;
        let Some(at) = self.spec.stop.iter().filter_map(|stop| tail.find(stop.as_str())).min() else {
            return Ok(false);
        };
        // The fewest tokens that hold the answer. Compared by content: half a character decodes to more
        // bytes than a whole one.
        let answer = &tail[..at];
        let mut keep = self.tokens.len();
        while keep > window && tokenizer.decode(&self.tokens[window..keep - 1])?.starts_with(answer) {
            keep -= 1;
        }
        self.overhang = tokenizer.decode(&self.tokens[window..keep])?.len() - at;
        self.tokens.truncate(keep);
        self.logprobs.truncate(keep);
        Ok(true)
    }
}
