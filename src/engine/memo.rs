//! An engine that remembers: what was asked before is answered from memory, to the bit.
//!
//! A request is known by a hash over everything that decides its answer ([`key`]), so an edit of one principle asks
//! again what that principle's texts reach, and nothing else; and what comes out equals asking from scratch by
//! construction. A memory may be kept on disk ([`file`]). It knows nothing of what the requests are for.
//!
//! Exact where the engine behind it is: the local one gives a request the same bits alone and in any batch. Of an
//! endpoint that would answer differently a second time, the first answer stays.

mod file;
mod key;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use self::file::{Found, Place, Shelf};
use self::key::{Key, Scope};
use super::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, ScoreRequest, Usage};
use crate::error::{Error, Result};
use crate::prompt::{Request, Style};
use crate::record::FinishReason;

/// How many requests went to the model, and how many did not need to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recollection {
    pub asked: u64,
    pub remembered: u64,
}

/// An engine with a memory around it.
pub struct Memo<'a> {
    inner: Arc<dyn Engine + Send + 'a>,
    scope: Scope,
    book: Mutex<Book>,
    asked: AtomicU64,
    remembered: AtomicU64,
    notes: Vec<String>,
}

/// What is known, and the files that keep it.
#[derive(Default)]
struct Book {
    known: HashMap<Key, Known>,
    shelf: Option<Shelf>,
}

enum Known {
    Held(Answer),
    Kept(Place),
    /// Of this process alone: a longer context or a working endpoint may answer tomorrow.
    Refused(Refusal),
}

/// An answer as it is kept: numbers as their bits, so that none is rounded and a NaN stays what it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Generation {
        text: String,
        tokens: u32,
        prompt_tokens: u32,
        logprob: u32,
        finish_reason: FinishReason,
    },
    Scores(Vec<u32>),
}

/// What an engine answers, to and from what is kept of it.
trait Remembered: Clone {
    fn pack(&self) -> Answer;

    /// Nothing if the answer is to another question.
    fn unpack(answer: Answer) -> Option<Self>;
}

impl Remembered for Generation {
    fn pack(&self) -> Answer {
        Answer::Generation {
            text: self.text.clone(),
            tokens: self.tokens,
            prompt_tokens: self.prompt_tokens,
            logprob: self.logprob.to_bits(),
            finish_reason: self.finish_reason,
        }
    }

    fn unpack(answer: Answer) -> Option<Self> {
        match answer {
            Answer::Generation {
                text,
                tokens,
                prompt_tokens,
                logprob,
                finish_reason,
            } => Some(Self {
                text,
                tokens,
                prompt_tokens,
                logprob: f32::from_bits(logprob),
                finish_reason,
            }),
            Answer::Scores(_) => None,
        }
    }
}

impl Remembered for Vec<f32> {
    fn pack(&self) -> Answer {
        Answer::Scores(self.iter().map(|logprob| logprob.to_bits()).collect())
    }

    fn unpack(answer: Answer) -> Option<Self> {
        match answer {
            Answer::Scores(bits) => Some(bits.into_iter().map(f32::from_bits).collect()),
            Answer::Generation { .. } => None,
        }
    }
}

impl Book {
    fn recall<A: Remembered>(&mut self, key: &Key) -> Result<Option<Result<A, Refusal>>> {
        let answer = match (self.known.get(key), &mut self.shelf) {
            (None, _) => return Ok(None),
            (Some(Known::Refused(refusal)), _) => return Ok(Some(Err(refusal.clone()))),
            (Some(Known::Held(answer)), _) => answer.clone(),
            (Some(Known::Kept(place)), Some(shelf)) => shelf.read(key, *place)?,
            (Some(Known::Kept(_)), None) => return Err(Error::unexpected("a remembered answer has lost its file")),
        };
        match A::unpack(answer) {
            Some(answer) => Ok(Some(Ok(answer))),
            None => Err(Error::unexpected("a remembered answer is one to another question")),
        }
    }

    fn keep<A: Remembered>(&mut self, answers: &[(Key, Result<A, Refusal>)]) -> Result<()> {
        let mut new = Vec::new();
        for (key, answer) in answers {
            // Another thread may have asked the same meanwhile.
            if self.known.contains_key(key) {
                continue;
            }
            match answer {
                Ok(answer) => new.push((*key, answer.pack())),
                Err(refusal) => {
                    self.known.insert(*key, Known::Refused(refusal.clone()));
                }
            }
        }
        match &mut self.shelf {
            Some(_) if new.is_empty() => {}
            Some(shelf) => {
                let places = shelf.keep(&new)?.into_iter().map(Known::Kept);
                self.known.extend(new.iter().map(|(key, _)| *key).zip(places));
            }
            None => {
                let held = new.into_iter().map(|(key, answer)| (key, Known::Held(answer)));
                self.known.extend(held);
            }
        }
        Ok(())
    }
}

impl<'a> Memo<'a> {
    /// Remembers within the process.
    pub fn new(inner: Arc<dyn Engine + Send + 'a>) -> Self {
        Self {
            scope: Scope::of(inner.as_ref()),
            inner,
            book: Mutex::default(),
            asked: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            notes: Vec::new(),
        }
    }

    /// Remembers on disk in `dir` as well, beside what is there from before. Processes that do so at the same time know
    /// what each had when the other began.
    pub fn open(inner: Arc<dyn Engine + Send + 'a>, dir: &Path) -> Result<Self> {
        let mut memo = Self::new(inner);
        let Found { shelf, places, damaged } = Shelf::open(dir, &memo.scope)?;
        let note = |(path, count): (PathBuf, usize)| {
            format!(
                "{}: {count} remembered answers are damaged and will be asked for again; delete the file to be rid of \
                 this note",
                path.display()
            )
        };
        memo.notes = damaged.into_iter().map(note).collect();
        memo.book = Mutex::new(Book {
            known: places
                .into_iter()
                .map(|(key, place)| (key, Known::Kept(place)))
                .collect(),
            shelf: Some(shelf),
        });
        Ok(memo)
    }

    /// How many requests were asked, and how many remembered, so far.
    pub fn recollection(&self) -> Recollection {
        Recollection {
            asked: self.asked.load(Ordering::Relaxed),
            remembered: self.remembered.load(Ordering::Relaxed),
        }
    }

    /// What the user should know of what was found on disk, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic in another thread leaves whole entries behind.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, asked: usize, remembered: usize) {
        self.asked.fetch_add(asked as u64, Ordering::Relaxed);
        self.remembered.fetch_add(remembered as u64, Ordering::Relaxed);
    }

    /// The answers to the requests with these keys, in their order. `ask` is given the numbers of those that are
    /// not known, each question once, and is not called if there are none.
    fn answer<A: Remembered>(
        &self,
        keys: &[Key],
        ask: impl FnOnce(&[usize]) -> Result<Vec<Result<A, Refusal>>>,
    ) -> Result<Vec<Result<A, Refusal>>> {
        let mut answers: HashMap<Key, Option<Result<A, Refusal>>> = HashMap::with_capacity(keys.len());
        let mut new = Vec::new();
        {
            let mut book = self.book();
            for (index, key) in keys.iter().enumerate() {
                if !answers.contains_key(key) {
                    let known = book.recall(key)?;
                    if known.is_none() {
                        new.push(index);
                    }
                    answers.insert(*key, known);
                }
            }
        }
        if !new.is_empty() {
            let fresh = ask(&new)?;
            if fresh.len() != new.len() {
                return Err(Error::unexpected("an engine did not answer every request"));
            }
            let fresh: Vec<_> = new.iter().map(|index| keys[*index]).zip(fresh).collect();
            self.book().keep(&fresh)?;
            answers.extend(fresh.into_iter().map(|(key, answer)| (key, Some(answer))));
        }
        self.count(new.len(), keys.len() - new.len());
        let answers: Option<Vec<_>> = keys.iter().map(|key| answers.get(key).cloned().flatten()).collect();
        answers.ok_or_else(|| Error::unexpected("a request without an answer"))
    }
}

impl Engine for Memo<'_> {
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        let keys: Vec<Key> = requests.iter().map(|request| self.scope.generation(request)).collect();
        self.answer(&keys, |new| self.inner.generate(&chosen(requests, new)))
    }

    fn stream(&self, request: &GenerateRequest, told: &(dyn Fn(&str) + Sync)) -> Result<Result<Generation, Refusal>> {
        let key = self.scope.generation(request);
        let known = self.book().recall::<Generation>(&key)?;
        let remembered = known.is_some();
        let answer = match known {
            Some(answer) => {
                if let Ok(generation) = &answer {
                    told(&generation.text);
                }
                answer
            }
            None => {
                let answer = self.inner.stream(request, told)?;
                self.book().keep(&[(key, answer.clone())])?;
                answer
            }
        };
        self.count(usize::from(!remembered), usize::from(remembered));
        Ok(answer)
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        let keys: Vec<Key> = requests.iter().map(|request| self.scope.score(request)).collect();
        self.answer(&keys, |new| self.inner.score(&chosen(requests, new)))
    }

    fn scores(&self, style: Style) -> Result<bool> {
        self.inner.scores(style)
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        self.inner.count_tokens(text)
    }

    /// What was asked of the engine behind: what is remembered costs nothing.
    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn style(&self) -> Style {
        self.inner.style()
    }

    fn identity(&self) -> ModelIdentity {
        self.inner.identity()
    }

    fn conditions(&self) -> String {
        self.inner.conditions()
    }

    fn read(&self, prompt: &Request) -> Result<String> {
        self.inner.read(prompt)
    }
}

fn chosen<Q: Clone>(requests: &[Q], numbers: &[usize]) -> Vec<Q> {
    numbers.iter().map(|index| requests[*index].clone()).collect()
}

/// The key that 64 hexadecimal digits stand for.
fn hex_key(text: &str) -> Option<Key> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}
