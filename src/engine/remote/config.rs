//! How endpoints are asked: flags, and what they come to once checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pool::Limits;
use crate::error::{Error, Result};

/// How endpoints are asked. None of it decides what is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct RemoteConfig {
    /// Requests in flight to each endpoint; its key is BYLAW_API_KEY of the environment.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub concurrency: usize,
    /// How long one answer may take.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS")]
    pub request_timeout: f64,
    /// New attempts after 5xx, timeouts and broken connections, before a row is rejected.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub retries: u32,
    /// The first wait before a new attempt, at most; it doubles up to 30 s.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub backoff: f64,
    /// How long the run waits when no endpoint can be used.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS")]
    pub max_outage: f64,
    /// Stop after this many requests, retries counted [default: no limit].
    #[arg(long, value_name = "N")]
    pub max_requests: Option<u64>,
    /// Stop after this many tokens of prompts and answers together [default: no limit].
    #[arg(long, value_name = "N")]
    pub max_total_tokens: Option<u64>,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            concurrency: 32,
            request_timeout: 300.0,
            retries: 8,
            backoff: 0.5,
            max_outage: 300.0,
            max_requests: None,
            max_total_tokens: None,
        }
    }
}

/// A configuration that was checked.
#[derive(Debug, Clone, Copy)]
pub struct RemoteSettings {
    pub limits: Limits,
    pub timeout: Duration,
    pub retries: u32,
    pub backoff: Duration,
    pub max_requests: Option<u64>,
    pub max_tokens: Option<u64>,
}

impl RemoteConfig {
    pub(super) fn settings(&self) -> Result<RemoteSettings> {
        let seconds = |flag: &str, value: f64| match Duration::try_from_secs_f64(value) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            _ => Err(Error::config(format!("--{flag} is {value}")).help("give a number of seconds above 0")),
        };
        if self.concurrency == 0 {
            return Err(Error::config("--concurrency is 0").help("allow at least one request in flight"));
        }
        Ok(RemoteSettings {
            limits: Limits {
                concurrency: self.concurrency,
                outage: seconds("max-outage", self.max_outage)?,
            },
            timeout: seconds("request-timeout", self.request_timeout)?,
            retries: self.retries,
            backoff: seconds("backoff", self.backoff)?,
            max_requests: self.max_requests,
            max_tokens: self.max_total_tokens,
        })
    }
}
