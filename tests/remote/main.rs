//! The remote engine against a real server on loopback that fails by a seeded plan: every request is
//! answered exactly once or refused with the cause, and answers do not depend on the failures.

#[path = "../support/http.rs"]
mod http;
mod program;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bylaw::engine::remote::{ApiKey, Endpoints, RemoteConfig, RemoteEngine};
use bylaw::engine::{Engine, GenerateRequest, Generation, Refusal, Sampling, ScoreRequest};
use bylaw::error::{Error, ErrorKind};
use bylaw::prompt::{Request, Style};
use bylaw::record::{FinishReason, Message};
use bylaw::seed::Seed;
use serde_json::{Value, json};

use http::{Asked, Attempts, Reply, Server, error, faulty, model, ok};

/// Longer than a server under load takes, short enough to wait for.
const TIMEOUT: f64 = 1.0;
const SLOW: Duration = Duration::from_secs(2);
const KEY: &str = "sk-test-5ecret0123456789";

fn config() -> RemoteConfig {
    RemoteConfig {
        concurrency: 8,
        request_timeout: TIMEOUT,
        retries: 4,
        backoff: 0.01,
        max_outage: 20.0,
        ..RemoteConfig::default()
    }
}

fn connect(reference: &str, config: &RemoteConfig) -> Result<RemoteEngine, Error> {
    RemoteEngine::connect(Endpoints::parse(reference)?, ApiKey::new(KEY), config)
}

fn engine(servers: &[&Server], config: &RemoteConfig) -> RemoteEngine {
    let references: Vec<String> = servers.iter().map(|server| server.reference()).collect();
    connect(&references.join(","), config).unwrap()
}

fn chat(text: String, prefix: &str) -> Request {
    Request::Chat {
        messages: vec![Message::user(text)],
        prefix: prefix.into(),
    }
}

fn generations(count: usize) -> Vec<GenerateRequest> {
    let request = |index| GenerateRequest {
        prompt: match index % 3 {
            0 => Request::Text(format!("Human: question {index}\n\nAssistant:")),
            _ => chat(format!("question {index}"), ""),
        },
        sampling: Sampling::default(),
        stop: Vec::new(),
        seed: Seed::new(7).index(index as u64),
    };
    (0..count).map(request).collect()
}

fn questions(count: usize) -> Vec<ScoreRequest> {
    let question = |index| ScoreRequest {
        prompt: match index % 3 {
            0 => Request::Text(format!("Which is better? {index} The answer is: (")),
            _ => chat(format!("Which is better? {index}"), "The answer is: ("),
        },
        continuations: vec!["A".into(), "B".into()],
    };
    (0..count).map(question).collect()
}

fn is_about(asked: &Asked, words: &str) -> bool {
    asked.body.to_string().contains(words)
}

type Generated = Vec<Result<Generation, Refusal>>;

fn texts(generated: &Generated) -> Vec<&str> {
    generated
        .iter()
        .map(|row| row.as_ref().map_or("refused", |row| row.text.as_str()))
        .collect()
}

// ---- faults --------------------------------------------------------------------------------------

/// Catches: a row lost, doubled or answered with another row's text under retries; results that depend on
/// the endpoint, the failures or the order of answers; a limit of requests in flight that is passed.
#[test]
fn faults_change_nothing() {
    let clean = Server::start(|asked| {
        // So that requests meet.
        std::thread::sleep(Duration::from_millis(5));
        ok(model(asked))
    });
    let calm = engine(&[&clean], &config());
    let (generate, score) = (generations(60), questions(40));
    let (expected, expected_scores) = (calm.generate(&generate).unwrap(), calm.score(&score).unwrap());
    assert_eq!(clean.log().len(), 100, "one request a row");
    assert!((2..=8).contains(&clean.peak()), "{} requests in flight", clean.peak());
    assert!(expected.iter().all(Result::is_ok) && expected_scores.iter().all(Result::is_ok));
    let distinct: std::collections::BTreeSet<&str> = texts(&expected).into_iter().collect();
    assert!(distinct.len() > 55, "the double's texts follow the rows");

    for seed in [1, 2] {
        let attempts = Attempts::default();
        let servers: Vec<Server> = (0..2)
            .map(|_| Server::start_at(0, &attempts, faulty(seed, SLOW)))
            .collect();
        let engine = engine(&[&servers[0], &servers[1]], &config());
        assert_eq!(engine.generate(&generate).unwrap(), expected, "seed {seed}");
        assert_eq!(engine.score(&score).unwrap(), expected_scores, "seed {seed}");
        for server in &servers {
            let log = server.log();
            assert!(log.len() > 20, "one endpoint did all the work");
            assert!(log.iter().any(|asked| asked.attempt > 0), "no fault was met");
        }
    }
}

/// Catches: a row that fails for good and takes the run, or other rows, with it; a cause that is lost.
#[test]
fn rows_that_cannot_be_served_are_refused_with_the_cause() {
    let attempts = Attempts::default();
    let server = Server::start_at(0, &attempts, |asked| {
        let finish = |reason: &str| {
            let mut answer = model(asked);
            answer["choices"][0]["finish_reason"] = reason.into();
            ok(answer)
        };
        match () {
            () if is_about(asked, "question 1\"") => error(400, "maximum context length is 8 tokens"),
            () if is_about(asked, "question 2\"") => error(500, "CUDA error"),
            () if is_about(asked, "question 4\"") => finish("content_filter"),
            () if is_about(asked, "question 5\"") => Reply::HalfJson(model(asked)),
            () if is_about(asked, "question 7\"") => finish("length"),
            () if is_about(asked, "question 8\"") => Reply::Cut(0, model(asked)),
            () if is_about(asked, "question 10\"") => Reply::Slow(SLOW, model(asked)),
            () => ok(model(asked)),
        }
    });
    let quick = RemoteConfig { retries: 1, ..config() };
    let generated = engine(&[&server], &quick).generate(&generations(30)).unwrap();
    let causes = [
        (1, "maximum context length"),
        (2, "500 Internal Server Error: CUDA error; given up after 2 attempts"),
        (4, "`content_filter`"),
        (5, "not whole JSON"),
        (8, "the connection broke"),
        (10, "no whole answer within 1 s"),
    ];
    for (index, row) in generated.iter().enumerate() {
        match (causes.iter().find(|(refused, _)| *refused == index), row) {
            (None, Ok(_)) => {}
            (Some((_, cause)), Err(Refusal(reason))) => assert!(reason.contains(cause), "{index}: {reason}"),
            (_, row) => panic!("{index}: {row:?}"),
        }
    }
    assert_eq!(generated[7].as_ref().unwrap().finish_reason, FinishReason::Length);
    let asked = |index: usize| {
        let name = format!("question {index}\"");
        server.log().iter().filter(|asked| is_about(asked, &name)).count()
    };
    assert_eq!(
        (asked(1), asked(2), asked(3), asked(4)),
        (1, 2, 0, 1),
        "a refusal is not asked again"
    );
}

/// Catches: `Retry-After` ignored, by the row that was told or by others at the same endpoint.
#[test]
fn a_busy_endpoint_is_left_alone_for_as_long_as_it_asks() {
    let told = AtomicUsize::new(0);
    let server = Server::start(move |asked| match told.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Json(429, Some(("Retry-After", "1".into())), json!({ "error": "busy" })),
        _ => ok(model(asked)),
    });
    let one = RemoteConfig {
        concurrency: 1,
        ..config()
    };
    let generated = engine(&[&server], &one).generate(&generations(3)).unwrap();
    assert!(generated.iter().all(Result::is_ok));
    let log = server.log();
    assert_eq!(log.len(), 4);
    // What arrived after the refusal was sent arrived a second later; a little is the network's.
    assert!(log[1].at - log[0].at > Duration::from_millis(950));
}

// ---- endpoints that die --------------------------------------------------------------------------

/// Catches: a run that fails, loses rows or waits when one of two endpoints is dead or dies midway.
#[test]
fn one_endpoint_carries_on_alone() {
    let alive = Server::start(|asked| ok(model(asked)));
    let expected = engine(&[&alive], &config()).generate(&generations(40)).unwrap();
    let dead = Server::start(|asked| ok(model(asked)));
    dead.kill();
    let engine_of_both = engine(&[&dead, &alive], &config());
    let notes = engine_of_both.notes();
    assert!(notes.len() == 1 && notes[0].contains(&dead.address()), "{notes:?}");
    assert_eq!(engine_of_both.generate(&generations(40)).unwrap(), expected);

    let dying = Server::start(|asked| ok(model(asked)));
    let (kill, count) = (dying.killer(), AtomicUsize::new(0));
    let wounded = Server::start(move |asked| {
        if count.fetch_add(1, Ordering::SeqCst) == 10 {
            kill();
        }
        ok(model(asked))
    });
    let engine_of_both = engine(&[&dying, &wounded], &config());
    assert_eq!(engine_of_both.generate(&generations(40)).unwrap(), expected);
    assert!(!dying.log().is_empty(), "the dead endpoint had work");
}

/// Catches: a dead server that costs rows, or a run without end.
#[test]
fn a_run_without_endpoints_ends() {
    let server = Server::start(|asked| ok(model(asked)));
    let engine = engine(
        &[&server],
        &RemoteConfig {
            max_outage: 1.5,
            retries: 1000,
            ..config()
        },
    );
    assert!(engine.generate(&generations(5)).unwrap().iter().all(Result::is_ok));
    server.kill();
    let ended = engine.generate(&generations(5)).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Remote);
    assert!(
        ended.message().contains("no endpoint could be used for 1.5 s"),
        "{ended}"
    );
    assert!(ended.message().contains("cannot connect"), "{ended}");
    assert!(ended.help_text().unwrap().contains("kept"));
}

// ---- what endpoints do not serve -----------------------------------------------------------------

/// Catches: invented log-probabilities, a NaN, a silent 0.
#[test]
fn absent_logprobs_are_said_to_be_absent() {
    let server = Server::start(|asked| {
        let mut answer = model(asked);
        answer["choices"][0]["logprobs"] = Value::Null;
        ok(answer)
    });
    let engine = engine(&[&server], &config());
    for score in engine.score(&questions(6)).unwrap() {
        assert_eq!(score, Err(Refusal("the endpoint serves no log-probabilities".into())));
    }
    for generation in engine.generate(&generations(6)).unwrap() {
        assert_eq!(generation.unwrap().logprob, 0.0);
    }
    let notes = engine.notes();
    assert!(notes.len() == 1 && notes[0].contains("6 completions"), "{notes:?}");
}

/// Catches: a judge that waits for log-probabilities which no one will serve, and one that does without those
/// that are there.
#[test]
fn whether_options_can_be_scored_is_found_out() {
    let lists = |tokens: &'static [&'static str]| {
        Server::start(move |asked| {
            let list: Vec<Value> = tokens
                .iter()
                .map(|token| json!({ "token": token, "logprob": -1.0 }))
                .collect();
            let mut answer = model(asked);
            answer["choices"][0]["logprobs"] =
                json!({ "content": [{ "token": "A", "logprob": -1.0, "top_logprobs": list }] });
            ok(answer)
        })
    };
    assert!(engine(&[&lists(&["A", "B"])], &config()).scores(Style::Chat).unwrap());
    // The turn that had begun is not continued.
    assert!(!engine(&[&lists(&["The", "I"])], &config()).scores(Style::Chat).unwrap());
    let silent = Server::start(|asked| {
        let mut answer = model(asked);
        answer["choices"][0]["logprobs"] = Value::Null;
        ok(answer)
    });
    assert!(!engine(&[&silent], &config()).scores(Style::Chat).unwrap());
    let refusing = Server::start(|_| error(400, "logprobs is not supported"));
    assert!(!engine(&[&refusing], &config()).scores(Style::Chat).unwrap());
    let broken = Server::start(|_| error(503, "overloaded"));
    let unknown = engine(&[&broken], &config()).scores(Style::Chat).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Remote);
}

/// Catches: generation that fails where `logprobs` is refused, and a judge whose refusal has no cause.
#[test]
fn refused_fields_are_left_out_or_named() {
    let server = Server::start(|asked| {
        let body = asked.body.as_object().unwrap();
        match () {
            () if body.contains_key("continue_final_message") => error(422, "unknown field: continue_final_message"),
            () if body.contains_key("logprobs") => error(400, "logprobs is not supported"),
            // TGI.
            () if body.get("top_p") == Some(&json!(1.0)) => error(422, "`top_p` must be > 0.0 and < 1.0"),
            () => ok(model(asked)),
        }
    });
    let engine = engine(&[&server], &config());
    assert!(engine.generate(&generations(9)).unwrap().iter().all(Result::is_ok));
    for (index, score) in engine.score(&questions(6)).unwrap().into_iter().enumerate() {
        let Refusal(reason) = score.unwrap_err();
        let says = if index % 3 == 0 {
            "serves no log-probabilities: "
        } else {
            "cannot continue the assistant's turn"
        };
        assert!(reason.contains(says), "{index}: {reason}");
    }
}

/// Catches: 20 taken for granted; an option out of sight taken for impossible, without a word.
#[test]
fn shorter_lists_are_read() {
    let server = Server::start(|asked| {
        let top = asked.body["top_logprobs"].as_u64().or(asked.body["logprobs"].as_u64());
        if top.unwrap() > 5 {
            return error(400, "top_logprobs must be at most 5");
        }
        let list = json!([{ "token": "A", "logprob": -0.5 }, { "token": "\n", "logprob": -1.0 }]);
        let mut answer = model(asked);
        answer["choices"][0]["logprobs"] =
            json!({ "content": [{ "token": "B", "logprob": -9.0, "top_logprobs": list }] });
        ok(answer)
    });
    let engine = engine(&[&server], &config());
    let scores = engine.score(&questions(4)).unwrap();
    assert!(scores.iter().all(|score| *score == Ok(vec![-0.5, -1.0])), "{scores:?}");
    assert!(engine.notes()[0].starts_with("4 of 8 options"), "{:?}", engine.notes());
}

/// Catches: overheads counted as the text's tokens; a count that is asked for again and again.
#[test]
fn tokens_are_counted_by_the_server() {
    let server = Server::start(|asked| {
        let mut answer = model(asked);
        let text = asked.body["messages"][0]["content"].as_str().unwrap();
        answer["usage"]["prompt_tokens"] = (11 + text.split_whitespace().count()).into();
        ok(answer)
    });
    let counting = engine(&[&server], &config());
    assert_eq!(counting.count_tokens("three words here").unwrap(), 3);
    assert_eq!(counting.count_tokens("two words").unwrap(), 2);
    assert_eq!(counting.count_tokens("").unwrap(), 0);
    assert_eq!(server.log().len(), 3);
    let silent = Server::start(|asked| {
        let mut answer = model(asked);
        answer.as_object_mut().unwrap().remove("usage");
        ok(answer)
    });
    assert_eq!(engine(&[&silent], &config()).count_tokens("twelve bytes").unwrap(), 3);
}

// ---- errors of the run ---------------------------------------------------------------------------

#[track_caller]
fn refused(reference: &str, says: &[&str]) -> String {
    let Err(error) = connect(reference, &config()) else {
        panic!("{reference} was accepted");
    };
    assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
    let all = format!("{error} {}", error.help_text().unwrap());
    for words in says {
        assert!(all.contains(words), "{all}");
    }
    assert!(!format!("{error:?}").contains(KEY), "{error:?}");
    all
}

/// Catches: a wrong name that a server answers to anyway; an address without a server.
#[test]
fn a_wrong_endpoint_is_named() {
    let server = Server::start(|asked| ok(model(asked)));
    let address = server.address();
    refused(
        &format!("{address}#other-mode"),
        &["`other-mode`", "it serves m, other-model", "did you mean `other-model`"],
    );
    server.kill();
    refused(&format!("{address}#m"), &[&address, "cannot connect", "/v1/models"]);
    let config = RemoteConfig {
        concurrency: 0,
        ..config()
    };
    assert_eq!(
        connect("http://127.0.0.1:1/v1#m", &config).err().unwrap().kind(),
        ErrorKind::Config
    );
}

/// Catches: an `https` endpoint that panics for want of a cryptographic provider.
#[test]
fn tls_is_there() {
    let server = Server::start(|asked| ok(model(asked)));
    let reference = server.reference().replace("http:", "https:");
    if let Err(error) = connect(&reference, &config()) {
        let kinds = [ErrorKind::Remote, ErrorKind::Unexpected];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
}

/// Catches: a budget that is not kept, or that costs rows instead of ending the run.
#[test]
fn a_spent_budget_ends_the_run() {
    let server = Server::start(|asked| ok(model(asked)));
    for (config, flag, most) in [
        (
            RemoteConfig {
                max_requests: Some(12),
                ..config()
            },
            "--max-requests",
            12,
        ),
        (
            RemoteConfig {
                max_total_tokens: Some(50),
                concurrency: 1,
                ..config()
            },
            "--max-total-tokens",
            12,
        ),
    ] {
        let before = server.log().len();
        let engine = engine(&[&server], &config);
        assert_eq!(engine.generate(&generations(4)).unwrap().len(), 4);
        let ended = engine.generate(&generations(40)).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Remote);
        assert!(
            ended.message().contains("budget") && ended.help_text().unwrap().contains(flag),
            "{ended}"
        );
        assert!(server.log().len() - before <= most, "{}", server.log().len() - before);
    }
}

/// Catches: a key that is refused midway and costs every row, or that an error repeats.
#[test]
fn a_refused_key_ends_the_run() {
    let server = Server::start(|_| error(401, &format!("Incorrect API key provided: {KEY}")));
    let engine = engine(&[&server], &config());
    assert_eq!(engine.style(), Style::Chat);
    let ended = engine.generate(&generations(5)).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Remote);
    assert!(
        ended.message().contains("Incorrect API key provided: [redacted]"),
        "{ended}"
    );
    assert!(ended.help_text().unwrap().contains("BYLAW_API_KEY"));
    assert_eq!(
        server.log()[0].authorization.as_deref(),
        Some(&*format!("Bearer {KEY}"))
    );
}
