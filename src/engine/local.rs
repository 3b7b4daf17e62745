//! The engine on this machine: texts to tokens, tokens through [`batch`](super::batch), tokens to
//! texts.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::batch::{self, Answer, Ask, Listener, Pool, Task, cache_budget};
use super::drawing::Drawing;
use super::{
    Engine, GenerateRequest, Generation, Meter, ModelIdentity, Refusal, Sampling, ScoreRequest, Usage, encode, only,
};
use crate::error::{Error, Result};
use crate::model::cpu::trunk::Sequence;
use crate::model::cpu::{Weights, kernels};
use crate::model::decoder::Decoder;
use crate::model::files::Model;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::{Request, Style};
use crate::seed::Seed;

pub struct LocalEngine {
    model: Arc<Model>,
    /// Kept from call to call: a critique continues the prefix of its answer.
    pool: Mutex<Pool>,
    /// Tokens that a row may have at most, prompt and completion.
    capacity: usize,
    meter: Meter,
}

/// A completion to be drawn, in tokens.
pub struct Job {
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    pub seed: Seed,
}

impl Job {
    /// Another completion of the same prompt: the `index`-th.
    #[must_use]
    pub fn at(&self, index: u64) -> Self {
        Self {
            prompt: self.prompt.clone(),
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            seed: self.seed.index(index),
        }
    }
}

impl LocalEngine {
    fn run(&self, tasks: &[Task<'_>]) -> Result<Vec<Answer>> {
        let weights = Weights::serving(&self.model.decoder, rayon::current_num_threads())?;
        // A pass that failed half-way leaves whole blocks behind, so the pool can go on.
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = batch::run(&weights, &mut pool, tasks)?;
        let drawn = |answer: &Answer| match answer {
            Answer::Drawing(drawing) => drawing.tokens.len() as u64,
            Answer::Numbers(_) => 0,
        };
        self.meter.add(Usage {
            requests: tasks.len() as u64,
            prompt_tokens: tasks.iter().map(|task| task.tokens.len() as u64).sum(),
            completion_tokens: answers.iter().map(drawn).sum(),
        });
        Ok(answers)
    }

    fn draw(
        &self,
        requests: &[GenerateRequest],
        listener: Option<Listener<'_>>,
    ) -> Result<Vec<Result<Generation, Refusal>>> {
        let mut tasks = Vec::new();
        let mut places = Vec::with_capacity(requests.len());
        let encode = |request: &GenerateRequest| encode::prompt(&self.model, &request.prompt, 1);
        let encoded: Vec<_> = requests.par_iter().map(encode).collect::<Result<_>>()?;
        for (request, tokens) in requests.iter().zip(encoded) {
            places.push(match tokens {
                Ok(tokens) => {
                    let ask = Ask::Draw {
                        sampling: &request.sampling,
                        stop: &request.stop,
                        seed: request.seed,
                        tokenizer: &self.model.tokenizer,
                        listener,
                    };
                    self.check_cache(Task { tokens, ask }).map(|task| {
                        tasks.push(task);
                        tasks.len() - 1
                    })
                }
                Err(refusal) => Err(refusal),
            });
        }
        let answers = self.run(&tasks)?;
        places
            .into_iter()
            .map(|place| match place {
                Ok(index) => {
                    let drawing = drawing(&answers[index])?;
                    Ok(Ok(Generation {
                        text: drawing.text(&self.model.tokenizer)?,
                        tokens: drawing.tokens.len() as u32,
                        prompt_tokens: tasks[index].tokens.len() as u32,
                        logprob: drawing.logprobs.iter().sum(),
                        finish_reason: drawing.finish_reason,
                    }))
                }
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }

    /// Refuses a row that would not fit the cache even by itself.
    fn check_cache<'a>(&self, task: Task<'a>) -> Result<Task<'a>, Refusal> {
        let longest = task.longest(self.model.decoder.config.context);
        if longest > self.capacity {
            return Err(Refusal(format!(
                "the prompt has {} tokens and may come to {longest} with its completion; the key/value cache holds {}",
                task.tokens.len(),
                self.capacity
            )));
        }
        Ok(task)
    }

    pub fn new(model: Arc<Model>) -> Result<Self> {
        let bytes = cache_budget(model.decoder.weight_bytes());
        Self::with_cache(model, bytes)
    }

    /// With a key/value cache of at most so many bytes.
    pub fn with_cache(model: Arc<Model>, bytes: usize) -> Result<Self> {
        Weights::serving(&model.decoder, 1)?.settle();
        let pool = Pool::of_bytes(&model.decoder, bytes);
        Ok(Self {
            capacity: pool.capacity(),
            pool: Mutex::new(pool),
            model,
            meter: Meter::default(),
        })
    }
}

impl Engine for LocalEngine {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        self.draw(requests, None)
    }

    fn stream(&self, request: &GenerateRequest, told: &(dyn Fn(&str) + Sync)) -> Result<Result<Generation, Refusal>> {
        let listener = |tokens: &[u32]| {
            // Half a text is no reason to fail: the whole one follows.
            if let Ok(text) = self.model.tokenizer.decode(tokens) {
                told(settled(&text, &request.stop));
            }
        };
        only(self.draw(std::slice::from_ref(request), Some(&listener))?)
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        let mut tasks = Vec::new();
        let mut places = Vec::with_capacity(requests.len());
        let encode = |request: &ScoreRequest| encode::continuations(&self.model, request);
        let encoded: Vec<_> = requests.par_iter().map(encode).collect::<Result<_>>()?;
        for sequences in encoded {
            let first = tasks.len();
            places.push(match sequences {
                Ok(sequences) => {
                    let scored = score_tasks(sequences).into_iter().map(|task| self.check_cache(task));
                    scored.collect::<Result<Vec<_>, Refusal>>().map(|scored| {
                        tasks.extend(scored);
                        first..tasks.len()
                    })
                }
                Err(refusal) => Err(refusal),
            });
        }
        let answers = self.run(&tasks)?;
        places
            .into_iter()
            .map(|place| match place {
                Ok(range) => scores(&tasks[range.clone()], &answers[range]).map(Ok),
                Err(refusal) => Ok(Err(refusal)),
            })
            .collect()
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(self.model.tokenizer.encode(text)?.len() as u32)
    }

    fn usage(&self) -> Usage {
        self.meter.read()
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

    /// The program's version and the processor's vectors, in whose order sums run; how the weights are held; the day of
    /// the chat template.
    fn conditions(&self) -> String {
        let tokenizer = &self.model.tokenizer;
        let mut conditions = vec![
            concat!("bylaw ", env!("CARGO_PKG_VERSION")).to_owned(),
            kernels::arithmetic(),
        ];
        conditions.extend(self.model.decoder.formats());
        conditions.extend(tokenizer.chat().map(|chat| chat.template.date().to_string()));
        conditions.join(", ")
    }

    /// Special tokens stand as their texts. A conversation that the chat template does not take is an error.
    fn read(&self, prompt: &Request) -> Result<String> {
        let tokenizer = &self.model.tokenizer;
        match (prompt, tokenizer.chat()) {
            (Request::Text(text), _) => {
                let begin = tokenizer.begin().into_iter().filter_map(|token| tokenizer.name(token));
                Ok(begin.chain([text.clone()]).collect())
            }
            (Request::Chat { messages, prefix }, Some(chat)) => Ok(chat.trace(messages, true, prefix)?.text),
            (Request::Chat { .. }, None) => Err(Error::input("the model has no chat template")
                .at_file(&self.model.reference)
                .help("give --prompt-style transcript, or a model with a chat template")),
        }
    }
}

/// The beginning of `text` that stays, whatever is drawn next: without half a character and without what
/// may become a stop text.
fn settled<'a>(text: &'a str, stop: &[String]) -> &'a str {
    let text = text.trim_end_matches('\u{fffd}');
    let begun = |stop: &String| {
        let starts = text.char_indices().map(|(at, _)| at);
        starts
            .into_iter()
            .find(|at| text[*at..].starts_with(stop.as_str()) || stop.starts_with(&text[*at..]))
    };
    let end = stop.iter().filter_map(begun).min().unwrap_or(text.len());
    text[..end].trim()
}

/// One row for each continuation; only one for all of them if each is a single token.
fn score_tasks(sequences: Vec<Sequence>) -> Vec<Task<'static>> {
    let single = |sequence: &Sequence| sequence.completion_len() == 1;
    match sequences.first() {
        Some(first) if sequences.iter().all(single) => {
            let next = |sequence: &Sequence| sequence.tokens[sequence.completion];
            vec![Task {
                tokens: first.tokens[..first.completion].to_vec(),
                ask: Ask::Choices(sequences.iter().map(next).collect()),
            }]
        }
        _ => sequences.into_iter().map(Task::from).collect(),
    }
}

/// The summed log-probability of each continuation of a request.
fn scores(tasks: &[Task<'_>], answers: &[Answer]) -> Result<Vec<f32>> {
    match (tasks, answers) {
        (
            [
                Task {
                    ask: Ask::Choices(_), ..
                },
            ],
            [answer],
        ) => Ok(numbers(answer)?.to_vec()),
        _ => answers.iter().map(|answer| Ok(numbers(answer)?.iter().sum())).collect(),
    }
}

impl From<Sequence> for Task<'_> {
    /// Asks for the log-probability of the completion.
    fn from(sequence: Sequence) -> Self {
        Self {
            tokens: sequence.tokens,
            ask: Ask::Logprobs {
                from: sequence.completion,
            },
        }
    }
}

fn numbers(answer: &Answer) -> Result<&[f32]> {
    match answer {
        Answer::Numbers(numbers) => Ok(numbers),
        Answer::Drawing(_) => Err(Error::unexpected("a completion where numbers were asked for")),
    }
}

fn drawing(answer: &Answer) -> Result<&Drawing> {
    match answer {
        Answer::Drawing(drawing) => Ok(drawing),
        Answer::Numbers(_) => Err(Error::unexpected("numbers where a completion was asked for")),
    }
}

/// Runs `tasks` through a decoder that is not an engine's: its weights may change afterwards.
fn run_once(decoder: &Decoder, tasks: &[Task<'_>]) -> Result<Vec<Answer>> {
    let weights = Weights::serving(decoder, rayon::current_num_threads())?;
    let mut pool = Pool::new(decoder, tasks, cache_budget(decoder.weight_bytes()));
    batch::run(&weights, &mut pool, tasks)
}

/// The log-probability of each token of each sequence's completion.
pub fn logprobs_all(decoder: &Decoder, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
    let tasks: Vec<Task<'_>> = sequences.iter().cloned().map(Task::from).collect();
    let answers = run_once(decoder, &tasks)?;
    answers.iter().map(|answer| Ok(numbers(answer)?.to_vec())).collect()
}

/// The summed log-probability of each sequence's completion.
pub fn score_all(decoder: &Decoder, sequences: &[Sequence]) -> Result<Vec<f32>> {
    let logprobs = logprobs_all(decoder, sequences)?;
    Ok(logprobs.iter().map(|logprobs| logprobs.iter().sum()).collect())
}

/// Draws a completion for every job, in order.
pub fn draw_all(decoder: &Decoder, tokenizer: &Tokenizer, jobs: &[Job]) -> Result<Vec<Drawing>> {
    let tasks: Vec<Task<'_>> = jobs
        .iter()
        .map(|job| Task {
            tokens: job.prompt.clone(),
            ask: Ask::Draw {
                sampling: &job.sampling,
                stop: &job.stop,
                seed: job.seed,
                tokenizer,
                listener: None,
            },
        })
        .collect();
    let answers = run_once(decoder, &tasks)?;
    answers.iter().map(|answer| Ok(drawing(answer)?.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: half a character or half of the next role's name on the screen.
    #[test]
    fn what_may_change_is_not_told() {
        let stop = ["\n\nHuman:".to_owned()];
        for (text, told) in [
            (" Yes", "Yes"),
            ("Yes\u{fffd}", "Yes"),
            ("Yes\n", "Yes"),
            ("Yes\n\nHum", "Yes"),
            ("Yes\n\nHuman: more", "Yes"),
            ("Yes\n\nHumble", "Yes\n\nHumble"),
            ("", ""),
        ] {
            assert_eq!(settled(text, &stop), told, "{text:?}");
        }
    }
}
