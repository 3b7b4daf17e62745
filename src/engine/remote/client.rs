//! One question to whichever endpoint is free, asked again until it is answered or given up.
//!
//! What fails is sorted by who can do something about it. The endpoint's trouble (5xx, a timeout, a
//! reset, an answer that breaks off) is retried with backoff and jitter, and after `retries` more
//! attempts costs the row. An endpoint that cannot be reached, or is busy (429), costs no attempt: the
//! pool waits, and its limit ends the run. A refusal of this request (400, 413, 422, ...) costs the row at
//! once. A refusal of all requests (401, 402, 404, redirects) and a spent budget end the run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

use super::ApiKey;
use super::config::RemoteSettings;
use super::pool::Pool;
use super::protocol::{Answer, Question, error_message};
use super::reference::Endpoints;
use crate::engine::{Meter, Usage};
use crate::error::{Error, Result};
use crate::http::backoff::{full_jitter, retry_after};
use crate::http::{self, root_cause, shortened};

/// Busy answers (429) that a row lives through, for each of its attempts.
const BUSY_PER_RETRY: u32 = 8;
/// An answer with more bytes than this is none.
const MAX_BODY: usize = 64 << 20;
/// How long a connection or a health check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Client {
    http: reqwest::Client,
    key: Option<ApiKey>,
    pub endpoints: Endpoints,
    pub pool: Pool,
    settings: RemoteSettings,
    requests: AtomicU64,
    /// What was asked, and what it cost in tokens.
    pub meter: Meter,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The endpoint refuses this request, with these words.
    Rejected(String),
    /// Every attempt failed, the last one so.
    GivenUp(String),
    /// The run cannot go on.
    End(Error),
}

/// Why one attempt failed.
enum Failure {
    Unreachable(String),
    Transient { cause: String, after: Option<Duration> },
    Busy { cause: String, after: Option<Duration> },
    Rejected(String),
    Fatal(Error),
}

/// What a health check finds.
pub enum Health {
    /// The names that are served; empty if the endpoint has no list.
    Serves(Vec<String>),
    /// 401 or 403.
    Denied(String),
    Dead(String),
}

impl Client {
    pub fn new(endpoints: Endpoints, key: Option<ApiKey>, settings: RemoteSettings) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            headers.insert(AUTHORIZATION, key.header()?);
        }
        // The key goes to the addresses that the user named and to no other: no redirect is followed.
        let plain = endpoints.addresses.iter().all(|address| address.starts_with("http://"));
        let http = http::client(plain, |http| {
            http.default_headers(headers)
                .connect_timeout(CHECK_TIMEOUT.min(settings.timeout))
                .timeout(settings.timeout)
        })?;
        Ok(Self {
            http,
            key,
            pool: Pool::new(endpoints.addresses.len(), settings.limits),
            endpoints,
            settings,
            requests: AtomicU64::new(0),
            meter: Meter::default(),
        })
    }

    /// The answer to a question, from any endpoint.
    pub async fn ask(&self, question: &Question) -> Result<Answer, Unanswered> {
        let body = serde_json::to_string(&question.body)
            .map_err(|error| Unanswered::End(Error::unexpected("a request cannot be written").because(error)))?;
        let (mut failures, mut busy) = (0u32, 0u32);
        loop {
            let lease = self.pool.acquire().await.map_err(Unanswered::End)?;
            if lease.probe {
                if let Err(cause) = self.revived(lease.index).await {
                    lease.failed(&cause, None);
                    continue;
                }
                lease.found_alive();
            }
            self.spend().map_err(Unanswered::End)?;
            let wait = match self.attempt(lease.index, question.path, &body).await {
                Ok(answer) => {
                    lease.succeeded();
                    self.meter.add(Usage {
                        requests: 1,
                        prompt_tokens: answer.prompt_tokens.unwrap_or(0).into(),
                        completion_tokens: answer.completion_tokens.unwrap_or(0).into(),
                    });
                    return Ok(answer);
                }
                Err(Failure::Rejected(words)) => {
                    lease.succeeded();
                    return Err(Unanswered::Rejected(words));
                }
                Err(Failure::Fatal(error)) => return Err(Unanswered::End(error)),
                Err(Failure::Unreachable(cause)) => {
                    lease.failed(&cause, None);
                    continue;
                }
                Err(Failure::Transient { cause, after }) => {
                    lease.failed(&cause, after);
                    failures += 1;
                    if failures > self.settings.retries {
                        return Err(Unanswered::GivenUp(format!(
                            "{cause}; given up after {failures} attempts"
                        )));
                    }
                    full_jitter(self.settings.backoff, failures)
                }
                Err(Failure::Busy { cause, after }) => {
                    lease.throttled(&cause, after);
                    busy += 1;
                    if busy > (self.settings.retries + 1).saturating_mul(BUSY_PER_RETRY) {
                        return Err(Unanswered::GivenUp(format!("{cause}; given up after {busy} attempts")));
                    }
                    full_jitter(self.settings.backoff, busy)
                }
            };
            http::sleep(wait).await.map_err(Unanswered::End)?;
        }
    }

    /// Asks an endpoint for its models.
    pub async fn health(&self, index: usize) -> Health {
        let request = self.http.get(self.url(index, "models"));
        let request = request.timeout(CHECK_TIMEOUT.min(self.settings.timeout));
        let (status, _, body) = match self.exchange(request).await {
            Ok(response) => response,
            Err(Failure::Unreachable(cause) | Failure::Transient { cause, .. }) => return Health::Dead(cause),
            Err(_) => return Health::Dead("it does not answer".into()),
        };
        match status.as_u16() {
            200 => {
                let list: Value = serde_json::from_str(&body).unwrap_or_default();
                let names = list["data"].as_array().into_iter().flatten();
                Health::Serves(
                    names
                        .filter_map(|model| Some(model["id"].as_str()?.to_owned()))
                        .collect(),
                )
            }
            401 | 403 => Health::Denied(self.words(status, &body)),
            // Alive, without a list of models.
            404 | 405 | 501 => Health::Serves(Vec::new()),
            _ => Health::Dead(self.words(status, &body)),
        }
    }

    /// Whether an endpoint that was left alone is back, and serves the model.
    async fn revived(&self, index: usize) -> Result<(), String> {
        match self.health(index).await {
            Health::Serves(names) if names.is_empty() || names.contains(&self.endpoints.model) => Ok(()),
            Health::Serves(_) => Err(format!("it does not serve `{}`", self.endpoints.model)),
            Health::Denied(cause) | Health::Dead(cause) => Err(cause),
        }
    }

    fn url(&self, index: usize, path: &str) -> String {
        format!("{}/{path}", self.endpoints.addresses[index])
    }

    /// Takes one request from the budget. Tokens are known when answers come: what is in flight may pass
    /// the limit.
    fn spend(&self) -> Result<()> {
        let spent = |what: &str, limit: u64, flag: &str| {
            Error::remote(format!("the budget of {limit} {what} is spent")).help(format!(
                "finished units are kept: the same command goes on with a new budget of {flag}; a unit must fit into \
                 one (--unit-rows makes it smaller)"
            ))
        };
        let settings = &self.settings;
        if let Some(limit) = settings.max_tokens
            && self.meter.read().tokens() >= limit
        {
            return Err(spent("tokens", limit, "--max-total-tokens"));
        }
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        match settings.max_requests {
            Some(limit) if before >= limit => Err(spent("requests", limit, "--max-requests")),
            _ => Ok(()),
        }
    }

    async fn attempt(&self, index: usize, path: &str, body: &str) -> Result<Answer, Failure> {
        let request = self.http.post(self.url(index, path));
        let request = request.header(CONTENT_TYPE, "application/json").body(body.to_owned());
        let (status, after, body) = self.exchange(request).await?;
        if status == StatusCode::OK {
            let broken = |cause: String| Failure::Transient { cause, after };
            let value: Value = serde_json::from_str(&body)
                .map_err(|error| broken(format!("the endpoint's answer is not whole JSON ({error})")))?;
            return Answer::read(&value).map_err(|cause| broken(self.redacted(&cause)));
        }
        let cause = self.words(status, &body);
        Err(match status.as_u16() {
            429 => Failure::Busy { cause, after },
            408 | 425 | 500..=599 => Failure::Transient { cause, after },
            401 | 402 | 404 | 405 | 300..=399 => Failure::Fatal(self.fatal(index, path, status, &cause)),
            _ => Failure::Rejected(cause),
        })
    }

    /// A refusal that every other row would meet too.
    fn fatal(&self, index: usize, path: &str, status: StatusCode, cause: &str) -> Error {
        let help = match status.as_u16() {
            401 | 402 => "set BYLAW_API_KEY to a key that the endpoint accepts",
            300..=399 => "redirects are not followed: name the address that it leads to",
            _ => "the address usually ends in /v1; `curl ADDRESS/models` lists the names that it serves",
        };
        Error::remote(format!("{}: {cause}", self.url(index, path))).help(help)
    }

    /// Status, `Retry-After` and the whole body.
    async fn exchange(&self, request: RequestBuilder) -> Result<(StatusCode, Option<Duration>, String), Failure> {
        let failure = |error: reqwest::Error| {
            if error.is_connect() {
                return Failure::Unreachable(format!("cannot connect ({})", root_cause(&error)));
            }
            let cause = if error.is_timeout() {
                format!("no whole answer within {} s", self.settings.timeout.as_secs_f64())
            } else {
                format!("the connection broke ({})", root_cause(&error))
            };
            Failure::Transient { cause, after: None }
        };
        let mut response = request.send().await.map_err(failure)?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failure)? {
            if body.len() + chunk.len() > MAX_BODY {
                let cause = format!("the answer is longer than {} MiB", MAX_BODY >> 20);
                return Err(Failure::Transient { cause, after });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, after, String::from_utf8_lossy(&body).into_owned()))
    }

    /// A status and what the server says with it, without the key.
    fn words(&self, status: StatusCode, body: &str) -> String {
        let said = match serde_json::from_str::<Value>(body) {
            Ok(error) => error_message(&error),
            Err(_) => shortened(body),
        };
        let status = format!("the endpoint answers {status}");
        let text = if said.is_empty() {
            status
        } else {
            format!("{status}: {said}")
        };
        self.redacted(&text)
    }

    fn redacted(&self, text: &str) -> String {
        self.key
            .as_ref()
            .map_or_else(|| text.to_owned(), |key| key.redact(text))
    }
}
