//! Continuous batching: many rows through the decoder, pass by pass.
//!
//! A pass takes the next token of every row that is drawing and, up to a budget of tokens, pieces of
//! the prompts of others. A row that ends makes room at once. Rows are let in by [`Blocks`], which
//! knows what of a prompt was computed before; what a row gets does not depend on any of this, for
//! the arithmetic below is the same to the bit alone and in a batch.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::Sampling;
use super::blocks::{Admission, Blocks, Table};
use super::drawing::{Drawing, Progress};
use crate::error::{Error, Result};
use crate::model::cpu::cache::{BLOCK, Extension, KvCache};
use crate::model::cpu::{Weights, gather_rows, kernels, team};
use crate::model::decoder::Decoder;
use crate::model::tokenizer::Tokenizer;
use crate::seed::Seed;

/// Rows in flight at most.
pub const ROWS: usize = 128;
/// New tokens of a pass at most, besides one for each row that is drawing.
const PASS_TOKENS: usize = 512;
/// Rows of logits held at a time.
const LOGIT_ROWS: usize = 64;
/// Waiting rows looked at in one pass.
const LOOKAHEAD: usize = 256;
/// Bytes of the key/value cache of a small model at most.
pub const CACHE_BYTES: usize = 1 << 30;

/// Bytes of the key/value cache of a model with weights of so many bytes: half of them, for who has
/// room for the weights has room for that, and [`CACHE_BYTES`] at least.
pub fn cache_budget(weight_bytes: usize) -> usize {
    CACHE_BYTES.max(weight_bytes / 2)
}

/// Hears the tokens of a completion so far, after each one.
pub type Listener<'a> = &'a (dyn Fn(&[u32]) + Sync);

/// What is wanted of a row.
#[derive(Clone)]
pub enum Ask<'a> {
    /// A completion.
    Draw {
        sampling: &'a Sampling,
        stop: &'a [String],
        seed: Seed,
        /// Knows what ends a completion.
        tokenizer: &'a Tokenizer,
        listener: Option<Listener<'a>>,
    },
    /// The log-probability of each token from index `from` on.
    Logprobs { from: usize },
    /// The log-probability of each of these tokens as the next.
    Choices(Vec<u32>),
    /// The normed hidden state after the last token.
    Hidden,
}

#[derive(Clone)]
pub struct Task<'a> {
    /// Not empty, and within the model's context.
    pub tokens: Vec<u32>,
    pub ask: Ask<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Drawing(Drawing),
    /// Log-probabilities, or a hidden state.
    Numbers(Vec<f32>),
}

impl Task<'_> {
    /// Tokens that the row may come to have in the cache.
    pub fn longest(&self, context: usize) -> usize {
        match &self.ask {
            Ask::Draw { sampling, .. } => (self.tokens.len() + sampling.max_new_tokens).min(context),
            _ => self.tokens.len(),
        }
    }

    /// Tokens to be computed before the row can answer or draw.
    fn input(&self) -> &[u32] {
        match self.ask {
            // Nothing is asked of what follows the last token.
            Ask::Logprobs { .. } => &self.tokens[..self.tokens.len() - 1],
            _ => &self.tokens,
        }
    }

    /// Tokens at the beginning whose hidden states are not wanted.
    fn reusable(&self) -> usize {
        match self.ask {
            Ask::Logprobs { from } => from - 1,
            _ => self.tokens.len() - 1,
        }
    }
}

/// The cache and what is in it; it may serve many batches of one model.
pub struct Pool {
    cache: KvCache,
    blocks: Blocks,
}

impl Pool {
    /// A pool for `tasks`, of at most `bytes` if that has room for the longest of them.
    pub fn new(decoder: &Decoder, tasks: &[Task<'_>], bytes: usize) -> Self {
        let context = decoder.config.context;
        let blocks = |task: &Task<'_>| task.longest(context).div_ceil(BLOCK);
        let longest = tasks.iter().map(blocks).max().unwrap_or(0);
        let all: usize = tasks.iter().map(blocks).sum();
        let affordable = bytes / KvCache::block_bytes(&decoder.config);
        Self::with_blocks(decoder, affordable.min(all).max(longest))
    }

    /// A pool of as many blocks as `bytes` hold, and of no more than fill every row in flight. It may be
    /// too small for a row of the whole context; see [`capacity`](Self::capacity).
    pub fn of_bytes(decoder: &Decoder, bytes: usize) -> Self {
        let affordable = bytes / KvCache::block_bytes(&decoder.config);
        let row = decoder.config.context.div_ceil(BLOCK);
        Self::with_blocks(decoder, affordable.min(ROWS * row).max(1))
    }

    /// Tokens that the longest row may have.
    pub fn capacity(&self) -> usize {
        self.cache.blocks() * BLOCK
    }

    fn with_blocks(decoder: &Decoder, blocks: usize) -> Self {
        Self {
            cache: KvCache::new(decoder, blocks),
            blocks: Blocks::new(blocks),
        }
    }
}

/// Answers every task, in order.
pub fn run(weights: &Weights<'_>, pool: &mut Pool, tasks: &[Task<'_>]) -> Result<Vec<Answer>> {
    // Neighbours in this order share the longest prefixes.
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by(|a, b| tasks[*a].tokens.cmp(&tasks[*b].tokens).then(a.cmp(b)));
    let mut batch = Batch {
        weights,
        pool,
        tasks,
        waiting: order.into(),
        rows: Vec::new(),
        answers: vec![None; tasks.len()],
    };
    team::awake(|| {
        while batch.admit() {
            batch.pass()?;
        }
        Ok::<(), Error>(())
    })?;
    let answers = batch.answers.into_iter();
    Ok(answers
        .map(|answer| answer.expect("no row is in flight and none waits, so every task was answered"))
        .collect())
}

/// A row in flight.
struct Row<'a> {
    task: usize,
    table: Table,
    /// The task's input, then the tokens drawn.
    tokens: Vec<u32>,
    /// Numbers of the answer so far.
    numbers: Vec<f32>,
    drawing: Option<Progress<'a>>,
}

struct Batch<'a> {
    weights: &'a Weights<'a>,
    pool: &'a mut Pool,
    tasks: &'a [Task<'a>],
    waiting: VecDeque<usize>,
    rows: Vec<Row<'a>>,
    answers: Vec<Option<Answer>>,
}

/// What a pass computes of one row.
struct Piece {
    row: usize,
    count: usize,
    /// Where it begins among all tokens of the pass.
    at: usize,
}

/// A position of the pass whose logits or hidden state is wanted, and what for.
struct Wanted {
    row: usize,
    at: usize,
    /// The token whose log-probability is wanted; without one, the row's task says what.
    target: Option<u32>,
}

impl<'a> Batch<'a> {
    /// Lets waiting rows in; false when nothing is left to do.
    fn admit(&mut self) -> bool {
        let context = self.weights.config().context;
        let mut skipped = VecDeque::new();
        while self.rows.len() < ROWS && skipped.len() < LOOKAHEAD {
            let Some(index) = self.waiting.pop_front() else { break };
            let task = &self.tasks[index];
            match self
                .pool
                .blocks
                .admit(task.input(), task.reusable(), task.longest(context))
            {
                Admission::Admitted(table, copy) => {
                    if let Some(copy) = copy {
                        self.pool.cache.copy_block(self.weights.config(), copy.from, copy.to);
                    }
                    self.rows.push(Row {
                        task: index,
                        table,
                        tokens: task.input().to_vec(),
                        numbers: Vec::new(),
                        drawing: Progress::of(task, context),
                    });
                }
                Admission::PrefixUnderWay => skipped.push_back(index),
                Admission::Full => {
                    skipped.push_back(index);
                    break;
                }
            }
        }
        while let Some(index) = skipped.pop_back() {
            self.waiting.push_front(index);
        }
        !self.rows.is_empty()
    }

    /// One pass through the decoder.
    fn pass(&mut self) -> Result<()> {
        let pieces = self.pieces();
        let extensions: Vec<Extension<'_>> = pieces
            .iter()
            .map(|piece| {
                let row = &self.rows[piece.row];
                Extension {
                    table: &row.table.blocks,
                    start: row.table.computed,
                    tokens: &row.tokens[row.table.computed..][..piece.count],
                }
            })
            .collect();
        let stream = self.pool.cache.extend(self.weights, &extensions);
        let wanted = self.wanted(&pieces);
        for piece in &pieces {
            let row = &mut self.rows[piece.row];
            let end = row.table.computed + piece.count;
            self.pool.blocks.computed(&mut row.table, end);
        }
        let at: Vec<usize> = wanted.iter().map(|wanted| wanted.at).collect();
        let layout = &self.weights.decoder.layout;
        let hidden = gather_rows(&stream, &at, self.weights.config().hidden);
        let hidden = self.weights.norm(&hidden, layout.norm);
        self.read(&wanted, &hidden)?;
        self.sweep();
        Ok(())
    }

    /// What the next pass takes in: every drawing row's token, and prompts as far as the budget goes.
    fn pieces(&self) -> Vec<Piece> {
        let mut budget = PASS_TOKENS;
        let mut pieces = Vec::new();
        let mut at = 0;
        for (index, row) in self.rows.iter().enumerate() {
            let left = row.tokens.len() - row.table.computed;
            let count = if left == 1 { 1 } else { left.min(budget) };
            if left > 1 {
                budget -= count;
            }
            if count > 0 {
                pieces.push(Piece { row: index, count, at });
                at += count;
            }
        }
        pieces
    }

    fn wanted(&self, pieces: &[Piece]) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for piece in pieces {
            let row = &self.rows[piece.row];
            let task = &self.tasks[row.task];
            let (start, end) = (row.table.computed, row.table.computed + piece.count);
            if let Ask::Logprobs { from } = task.ask {
                wanted.extend((start.max(from - 1)..end).map(|position| Wanted {
                    row: piece.row,
                    at: piece.at + position - start,
                    target: Some(task.tokens[position + 1]),
                }));
            } else if end == row.tokens.len() {
                wanted.push(Wanted {
                    row: piece.row,
                    at: piece.at + piece.count - 1,
                    target: None,
                });
            }
        }
        wanted
    }

    /// Turns hidden states into what the rows want of them, some logits at a time.
    fn read(&mut self, wanted: &[Wanted], hidden: &[f32]) -> Result<()> {
        let config = self.weights.config();
        for (wanted, hidden) in wanted.chunks(LOGIT_ROWS).zip(hidden.chunks(LOGIT_ROWS * config.hidden)) {
            let mut states = Vec::with_capacity(hidden.len());
            let mut readers = Vec::with_capacity(wanted.len());
            for (wanted, state) in wanted.iter().zip(hidden.chunks_exact(config.hidden)) {
                let row = &mut self.rows[wanted.row];
                let task = &self.tasks[row.task];
                if let Ask::Hidden = task.ask {
                    row.numbers = state.to_vec();
                    continue;
                }
                states.extend_from_slice(state);
                readers.push(Reader {
                    row: wanted.row,
                    target: wanted.target,
                    ask: &task.ask,
                    drawing: row.drawing.take(),
                    numbers: Vec::new(),
                });
            }
            let mut logits = self.weights.logits(&states);
            logits
                .par_chunks_exact_mut(config.vocab)
                .zip(&mut readers)
                .try_for_each(|(logits, reader)| reader.read(logits))?;
            readers.into_iter().for_each(|reader| self.keep(reader));
        }
        Ok(())
    }

    fn keep(&mut self, reader: Reader<'a>) {
        let row = &mut self.rows[reader.row];
        row.numbers.extend(reader.numbers);
        row.drawing = reader.drawing;
        if let Some(token) = row.drawing.as_ref().and_then(Progress::next) {
            self.pool.blocks.push(&mut row.table, row.tokens.len(), token);
            row.tokens.push(token);
        }
    }

    /// Takes out the rows that have ended.
    fn sweep(&mut self) {
        let mut open = Vec::with_capacity(self.rows.len());
        for row in std::mem::take(&mut self.rows) {
            let ended = match &row.drawing {
                Some(drawing) => drawing.ended(),
                None => row.table.computed == row.tokens.len(),
            };
            if !ended {
                open.push(row);
                continue;
            }
            self.pool.blocks.finish(row.table);
            self.answers[row.task] = Some(match row.drawing {
                Some(drawing) => Answer::Drawing(drawing.drawing()),
                None => Answer::Numbers(row.numbers),
            });
        }
        self.rows = open;
    }
}

/// Reads what one row wants off its logits.
struct Reader<'a> {
    row: usize,
    target: Option<u32>,
    ask: &'a Ask<'a>,
    drawing: Option<Progress<'a>>,
    numbers: Vec<f32>,
}

impl Reader<'_> {
    fn read(&mut self, logits: &mut [f32]) -> Result<()> {
        if let Some(drawing) = &mut self.drawing {
            return drawing.advance(logits);
        }
        let log_sum = kernels::log_sum_exp(logits);
        let of = |token: &u32| logits[*token as usize] - log_sum;
        match self.ask {
            Ask::Choices(tokens) => self.numbers.extend(tokens.iter().map(of)),
            _ => self.numbers.extend(self.target.iter().map(of)),
        }
        Ok(())
    }
}
