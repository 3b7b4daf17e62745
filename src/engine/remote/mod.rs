//! The engine behind OpenAI-compatible endpoints: vLLM, SGLang, llama.cpp's server, TGI.
//!
//! Requests go to any number of endpoints of one model, as many at a time as they take, in any order;
//! answers come back in the order of the requests, and a row's seed goes with it, so that nothing
//! depends on which answer came first. Whether the same seed draws the same text again is the server's
//! promise. Every request is answered or refused with the cause; an endpoint that fails for good ends
//! the run, which goes on later from its finished units.
//!
//! - [`reference`]: how endpoints are named.
//! - [`protocol`]: bodies. [`choices`]: a judge's options among the likeliest tokens.
//! - [`rows`]: a row's question and result. [`client`]: one question with its retries. [`pool`]: the endpoints' health.

mod choices;
mod client;
mod config;
mod pool;
mod protocol;
mod reference;
mod rows;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use self::client::{Client, Health};
use self::rows::Shared;
use super::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, ScoreRequest, Usage};
use crate::error::{Error, Result};
use crate::prompt::{Request, Style};
use crate::record::Message;

pub use self::config::RemoteConfig;
pub use self::reference::{Endpoints, is_endpoint};
pub use crate::http::Secret as ApiKey;

/// The variables that may hold the API key; the first one that is set counts.
pub const KEY_VARIABLES: [&str; 2] = ["BYLAW_API_KEY", "OPENAI_API_KEY"];

pub struct RemoteEngine {
    shared: Arc<Shared>,
    runtime: Runtime,
    unreachable: Vec<String>,
}

impl RemoteEngine {
    /// Looks at every endpoint first: an error if none answers, if a key is refused, or if the model is
    /// not served. Endpoints that do not answer while others do are tried again later.
    pub fn connect(endpoints: Endpoints, key: Option<ApiKey>, config: &RemoteConfig) -> Result<Self> {
        let client = Client::new(endpoints, key, config.settings()?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(|error| Error::unexpected("the threads of the remote engine cannot be started").because(error))?;
        let shared = Arc::new(Shared::new(client));
        let mut engine = Self {
            shared,
            runtime,
            unreachable: Vec::new(),
        };
        engine.check()?;
        Ok(engine)
    }

    /// What the user should know of the answers, in sentences.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.unreachable.clone();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (unscored, floors) = (count(&self.shared.unscored), count(&self.shared.floors));
        if unscored > 0 {
            notes.push(format!(
                "the endpoint served no log-probabilities for {unscored} completions: theirs stand as 0"
            ));
        }
        if floors > 0 {
            notes.push(format!(
                "{floors} of {} options were not among the likeliest tokens that the endpoint lists and stand as the \
                 least likely of these: such verdicts are less extreme than the model's",
                count(&self.shared.options),
            ));
        }
        notes
    }

    fn check(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let found = self.run(self.shared.client.endpoints.addresses.len(), move |index| {
            let shared = shared.clone();
            async move { shared.first_health(index).await }
        })?;
        let endpoints = &self.shared.client.endpoints;
        let mut dead = Vec::new();
        for (index, (address, health)) in endpoints.addresses.iter().zip(found).enumerate() {
            match health {
                Health::Serves(names) if names.is_empty() || names.contains(&endpoints.model) => {}
                Health::Serves(names) => return Err(not_served(address, &endpoints.model, &names)),
                Health::Denied(cause) => {
                    return Err(Error::remote(format!("{address}: {cause}"))
                        .help("set BYLAW_API_KEY to a key that the endpoint accepts"));
                }
                Health::Dead(cause) => {
                    self.shared.client.pool.found_dead(index, &cause);
                    dead.push(format!("{address}: {cause}"));
                }
            }
        }
        if dead.len() == endpoints.addresses.len() {
            return Err(
                Error::remote(format!("no endpoint answers: {}", dead.join("; "))).help(format!(
                    "start the server, or correct the address; the check is GET {}/models",
                    endpoints.addresses[0]
                )),
            );
        }
        let note = |dead: String| format!("an endpoint did not answer when the run began: {dead}");
        self.unreachable = dead.into_iter().map(note).collect();
        Ok(())
    }

    /// Runs `count` tasks, as many at a time as the endpoints take. The first error ends all.
    fn run<T, F>(&self, count: usize, task: impl Fn(usize) -> F + Clone + Send + 'static) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let workers = self.shared.client.pool.places().min(count);
        let next = Arc::new(AtomicUsize::new(0));
        let mut slots: Vec<Option<T>> = (0..count).map(|_| None).collect();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..workers {
                let (next, task) = (next.clone(), task.clone());
                tasks.spawn(async move {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return Ok::<_, Error>(done);
                        }
                        done.push((index, task(index).await?));
                    }
                });
            }
            while let Some(worker) = tasks.join_next().await {
                let done =
                    worker.map_err(|error| Error::unexpected("a task of the remote engine died").because(error))??;
                for (index, value) in done {
                    slots[index] = Some(value);
                }
            }
            Ok::<_, Error>(())
        })?;
        let all: Option<Vec<T>> = slots.into_iter().collect();
        all.ok_or_else(|| Error::unexpected("a request was lost between the remote engine's tasks"))
    }
}

fn not_served(address: &str, model: &str, names: &[String]) -> Error {
    let near = crate::error::nearest(model, names.iter().map(String::as_str));
    let help = near.map_or_else(
        || "write one of these names after the # of the reference".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    Error::remote(format!(
        "{address} does not serve `{model}`; it serves {}",
        names.join(", ")
    ))
    .help(help)
}

impl Engine for RemoteEngine {
    /// The log-probabilities are what the server gives: vLLM and llama.cpp's server give the model's own,
    /// SGLang those after the temperature unless told otherwise. A server that gives none leaves `logprob`
    /// at 0, and [`RemoteEngine::notes`] says so.
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        let (shared, requests) = (self.shared.clone(), Arc::new(requests.to_vec()));
        self.run(requests.len(), move |index| {
            let (shared, requests) = (shared.clone(), requests.clone());
            async move { shared.generate(&requests[index]).await }
        })
    }

    /// The log-probability of each continuation's first token; see [`choices`] for how it is read.
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        let (shared, requests) = (self.shared.clone(), Arc::new(requests.to_vec()));
        self.run(requests.len(), move |index| {
            let (shared, requests) = (shared.clone(), requests.clone());
            async move { shared.score(&requests[index]).await }
        })
    }

    /// By one question whose answer every model knows.
    fn scores(&self, style: Style) -> Result<bool> {
        let question = "Which letter comes first in the alphabet?\n\nOptions:\n(A) A\n(B) B\n\n";
        let prefix = "The answer is: (";
        let prompt = match style {
            Style::Chat => Request::Chat {
                messages: vec![Message::user(format!(
                    "{question}Reply with the letter of the right option."
                ))],
                prefix: prefix.to_owned(),
            },
            Style::Transcript | Style::Raw => Request::Text(format!("{question}{prefix}")),
        };
        self.runtime.block_on(self.shared.scores(&prompt))
    }

    /// By the server's `usage` for a request about the text, less what a one-letter text costs besides
    /// its one token (BOS, the turn's marks). Where text and marks share a token this is off by one. If
    /// the server does not count, a quarter of the bytes.
    fn count_tokens(&self, text: &str) -> Result<u32> {
        let prompt = |text: &str| Request::Chat {
            messages: vec![Message::user(text)],
            prefix: String::new(),
        };
        if text.is_empty() {
            return Ok(0);
        }
        self.runtime.block_on(self.shared.count_tokens(text, prompt))
    }

    fn usage(&self) -> Usage {
        self.shared.client.meter.read()
    }

    fn style(&self) -> Style {
        // The server has the chat template; whether the model was made for it, its user knows.
        Style::Chat
    }

    /// The endpoints and the model's name; [`Endpoints::identity`] says what its hash is worth.
    fn identity(&self) -> ModelIdentity {
        self.shared.client.endpoints.identity()
    }
}
