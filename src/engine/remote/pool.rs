//! The endpoints: which one takes the next request, and which ones are left alone for a while.
//!
//! A request goes to the endpoint with the fewest in flight. An endpoint that fails several times in a
//! row is left alone (its circuit is open); after a cooldown one request tries it (half open), and its
//! result closes the circuit or opens it for twice as long (Nygard, *Release It!*, "Circuit Breaker"). An
//! endpoint that asks for patience (`Retry-After`) is paused, which is no failure. When no endpoint can
//! be used for longer than a limit, the run ends. Nothing here knows HTTP.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::http::TICK;
use crate::interrupt;

/// Failures in a row that open an endpoint's circuit.
const FAILURES: u32 = 5;
/// How long a circuit stays open at first, and at most.
const COOLDOWN: Duration = Duration::from_secs(1);
const LONGEST_COOLDOWN: Duration = Duration::from_secs(30);
/// At most, if its health check is good: then the requests may be at fault.
const LONGEST_COOLDOWN_ALIVE: Duration = Duration::from_secs(4);
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests in flight to one endpoint.
    pub concurrency: usize,
    /// How long a run goes on without any usable endpoint.
    pub outage: Duration,
}

pub struct Pool {
    limits: Limits,
    state: Mutex<State>,
    /// A place or a circuit has changed.
    changed: Notify,
}

struct State {
    endpoints: Vec<Endpoint>,
    /// Since when no endpoint can be used.
    down_since: Option<Instant>,
}

struct Endpoint {
    outstanding: usize,
    /// Requests ever sent: breaks ties, so that idle endpoints take turns.
    sent: u64,
    /// Failures since the last success.
    failures: u32,
    circuit: Circuit,
    paused_until: Option<Instant>,
    /// What the last failure was.
    cause: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Circuit {
    Closed,
    Open {
        until: Instant,
        cooldown: Duration,
    },
    /// One request is trying the endpoint.
    HalfOpen {
        cooldown: Duration,
    },
}

/// What becomes of a request that wants an endpoint.
#[derive(Debug, PartialEq)]
enum Choice {
    Take {
        index: usize,
        probe: bool,
    },
    /// Until then, or until something changes; `hopeless` if no endpoint is usable at present.
    Wait {
        until: Option<Instant>,
        hopeless: bool,
    },
    Outage,
}

/// A place at an endpoint. Exactly one of its verdicts should be given; dropped without one (the run
/// ends), it says nothing about the endpoint.
pub struct Lease<'a> {
    pool: &'a Pool,
    pub index: usize,
    /// The endpoint was left alone until now: look at its health first.
    pub probe: bool,
    judged: bool,
}

impl Pool {
    pub fn new(endpoints: usize, limits: Limits) -> Self {
        let endpoint = || Endpoint {
            outstanding: 0,
            sent: 0,
            failures: 0,
            circuit: Circuit::Closed,
            paused_until: None,
            cause: String::new(),
        };
        Self {
            limits,
            state: Mutex::new(State {
                endpoints: (0..endpoints).map(|_| endpoint()).collect(),
                down_since: None,
            }),
            changed: Notify::new(),
        }
    }

    /// Requests in flight at most.
    pub fn places(&self) -> usize {
        self.limits.concurrency * self.state().endpoints.len()
    }

    /// Leaves an endpoint alone that did not answer when the run began.
    pub fn found_dead(&self, index: usize, cause: &str) {
        let endpoint = &mut self.state().endpoints[index];
        endpoint.failures = FAILURES;
        cause.clone_into(&mut endpoint.cause);
        endpoint.circuit = Circuit::Open {
            until: Instant::now() + COOLDOWN,
            cooldown: COOLDOWN,
        };
    }

    /// A place at the endpoint with the fewest requests in flight, as soon as there is one. Ends with
    /// an error when all endpoints are dead for too long, and on Ctrl-C if there is none to wait for.
    pub async fn acquire(&self) -> Result<Lease<'_>> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on, a change wakes this task even if it comes before the wait.
            changed.as_mut().enable();
            let now = Instant::now();
            let choice = self.state().choose(now, self.limits);
            match choice {
                Choice::Take { index, probe } => {
                    return Ok(Lease {
                        pool: self,
                        index,
                        probe,
                        judged: false,
                    });
                }
                Choice::Wait { until, hopeless } => {
                    if hopeless {
                        interrupt::check()?;
                    }
                    let wait = until.map_or(TICK, |until| until.saturating_duration_since(now).min(TICK));
                    // A timer may fire a little early; the floor keeps the loop from spinning.
                    let wait = tokio::time::sleep(wait.max(Duration::from_millis(1)));
                    tokio::select! {
                        () = changed => {}
                        () = wait => {}
                    }
                }
                Choice::Outage => return Err(self.outage()),
            }
        }
    }

    fn outage(&self) -> Error {
        let state = self.state();
        let cause = state.endpoints.iter().map(|endpoint| endpoint.cause.as_str());
        let cause = cause.filter(|cause| !cause.is_empty()).collect::<Vec<_>>().join("; ");
        Error::remote(format!(
            "no endpoint could be used for {} s; the last failure: {}",
            self.limits.outage.as_secs_f64(),
            if cause.is_empty() { "none was named" } else { &cause },
        ))
        .help("finished units are kept: when an endpoint is back, the same command goes on from them")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the counts usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease<'_> {
    /// The health check before a probe was good: should the probe fail, the cooldown stays short.
    pub fn found_alive(&self) {
        let endpoint = &mut self.pool.state().endpoints[self.index];
        if let Circuit::HalfOpen { cooldown } = &mut endpoint.circuit {
            *cooldown = (*cooldown).min(LONGEST_COOLDOWN_ALIVE / 2);
        }
    }

    /// The endpoint answered, be it with a refusal of this one request.
    pub fn succeeded(mut self) {
        self.judge(|endpoint, _| {
            endpoint.failures = 0;
            endpoint.circuit = Circuit::Closed;
        });
    }

    /// The endpoint failed; `after` is how long it asked to be left alone.
    pub fn failed(mut self, cause: &str, after: Option<Duration>) {
        self.judge(|endpoint, now| endpoint.fail(cause, after, now));
    }

    /// The endpoint is busy and asks to be left alone for `after`.
    pub fn throttled(mut self, cause: &str, after: Option<Duration>) {
        self.judge(|endpoint, now| {
            cause.clone_into(&mut endpoint.cause);
            // A probe that is told to wait has found a live endpoint.
            endpoint.circuit = Circuit::Closed;
            endpoint.pause(after, now);
        });
    }

    fn judge(&mut self, verdict: impl FnOnce(&mut Endpoint, Instant)) {
        verdict(&mut self.pool.state().endpoints[self.index], Instant::now());
        self.judged = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let endpoint = &mut self.pool.state().endpoints[self.index];
        endpoint.outstanding -= 1;
        if let Circuit::HalfOpen { cooldown } = endpoint.circuit
            && self.probe
            && !self.judged
        {
            let until = Instant::now();
            endpoint.circuit = Circuit::Open { until, cooldown };
        }
        self.pool.changed.notify_waiters();
    }
}

impl Endpoint {
    fn fail(&mut self, cause: &str, after: Option<Duration>, now: Instant) {
        cause.clone_into(&mut self.cause);
        self.failures = self.failures.saturating_add(1);
        self.pause(after, now);
        let cooldown = match self.circuit {
            Circuit::Closed if self.failures >= FAILURES => COOLDOWN,
            Circuit::HalfOpen { cooldown } => (2 * cooldown).min(LONGEST_COOLDOWN),
            Circuit::Closed | Circuit::Open { .. } => return,
        };
        let until = now + cooldown;
        self.circuit = Circuit::Open { until, cooldown };
    }

    fn pause(&mut self, after: Option<Duration>, now: Instant) {
        let until = after.and_then(|after| now.checked_add(after));
        self.paused_until = self.paused_until.max(until);
    }

    /// When it takes requests again; `None` is now, or not before a probe is back.
    fn usable_at(&self, now: Instant) -> Option<Instant> {
        let open_until = match self.circuit {
            Circuit::Open { until, .. } => Some(until),
            Circuit::Closed | Circuit::HalfOpen { .. } => None,
        };
        self.paused_until.max(open_until).filter(|until| *until > now)
    }
}

impl State {
    fn choose(&mut self, now: Instant, limits: Limits) -> Choice {
        let waiting = |endpoint: &Endpoint| endpoint.usable_at(now);
        let usable = |endpoint: &&Endpoint| endpoint.circuit == Circuit::Closed && waiting(endpoint).is_none();
        let hopeless = !self.endpoints.iter().any(|endpoint| usable(&endpoint));
        self.down_since = hopeless.then(|| self.down_since.unwrap_or(now));
        // A probe is due: one request pays for it, lest the endpoint stay unused for good.
        let due = |endpoint: &Endpoint| matches!(endpoint.circuit, Circuit::Open { .. }) && waiting(endpoint).is_none();
        let probed = |endpoint: &Endpoint| matches!(endpoint.circuit, Circuit::HalfOpen { .. });
        let overdue = self.down_since.is_some_and(|since| now - since > limits.outage);
        if overdue && !self.endpoints.iter().any(probed) {
            return Choice::Outage;
        }
        if let Some(index) = self.endpoints.iter().position(due) {
            let endpoint = &mut self.endpoints[index];
            if let Circuit::Open { cooldown, .. } = endpoint.circuit {
                endpoint.circuit = Circuit::HalfOpen { cooldown };
            }
            return self.take(index, true);
        }
        let free = self.endpoints.iter().enumerate();
        let free = free.filter(|(_, endpoint)| usable(endpoint) && endpoint.outstanding < limits.concurrency);
        match free.min_by_key(|(_, endpoint)| (endpoint.outstanding, endpoint.sent)) {
            Some((index, _)) => self.take(index, false),
            None => Choice::Wait {
                until: self.endpoints.iter().filter_map(waiting).min(),
                hopeless,
            },
        }
    }

    fn take(&mut self, index: usize, probe: bool) -> Choice {
        let endpoint = &mut self.endpoints[index];
        endpoint.outstanding += 1;
        endpoint.sent += 1;
        Choice::Take { index, probe }
    }
}

#[cfg(test)]
mod tests;
