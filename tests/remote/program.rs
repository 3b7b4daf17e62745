//! The stages on endpoints, through the program.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bylaw::dataset::{Dataset, Row};
use bylaw::record::{Candidates, Preference, Reject, Revision};
use serde_json::{Value, json};

use super::http::{Asked, Attempts, Reply, Server, error, faulty, model, ok};
use super::{KEY, is_about};

struct Ran {
    code: i32,
    output: String,
}

fn bylaw(dir: &Path, arguments: &[&str]) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env_remove("RUST_BACKTRACE")
        .env("BYLAW_API_KEY", KEY)
        .args(arguments)
        .args(["--backoff", "0.01", "--request-timeout", "1.5"])
        .write_stdin("")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        output: text(&output.stdout) + &text(&output.stderr),
    };
    assert!(!ran.output.contains("panicked"), "{}", ran.output);
    assert!(!ran.output.contains(KEY), "{}", ran.output);
    ran
}

fn with_prompts(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = (0..count).map(|index| format!("{}\n", json!({ "prompt": format!("question {index}") })));
    std::fs::write(dir.path().join("prompts.jsonl"), rows.collect::<String>()).unwrap();
    dir
}

/// The files under `dir`.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

fn rejects<R: Row>(dir: &Path) -> Vec<Reject> {
    Dataset::<R>::open(dir).unwrap().rejects().unwrap()
}

/// Catches: a stage that does not take endpoints; a row that is neither a row nor a reject; a key in any
/// file or output; provenance without the endpoint.
#[test]
fn the_stages_run_on_endpoints() {
    let poisoned = |asked: &Asked| match () {
        () if is_about(asked, "question 3\"") => error(400, "a prompt that is refused"),
        () if is_about(asked, "question 5\"") => error(500, &format!("header was Bearer {KEY}")),
        () => faulty(3, Duration::ZERO)(asked),
    };
    let server = Server::start(poisoned);
    let (dir, model) = (with_prompts(12), server.reference());
    let stage = |name: &str, arguments: &[&str]| {
        let common = ["--model", &model, "--out", name, "--retries", "3", "--unit-rows", "5"];
        bylaw(dir.path(), &[&[name], arguments, &common].concat())
    };
    let revise = [
        "--prompts",
        "prompts.jsonl",
        "--constitution",
        "builtin:harmless",
        "--rounds",
        "1",
    ];
    let ran = stage("revise", &revise);
    assert_eq!(ran.code, 0, "{}", ran.output);
    let revised = Dataset::<Revision>::open(dir.path().join("revise"))
        .unwrap()
        .read_all()
        .unwrap();
    let refused = rejects::<Revision>(&dir.path().join("revise"));
    assert_eq!((revised.len(), refused.len()), (10, 2));
    let reasons: String = refused.iter().map(|reject| reject.reason.clone() + "\n").collect();
    assert!(reasons.contains("a prompt that is refused"), "{reasons}");
    assert!(reasons.contains("header was Bearer [redacted]"), "{reasons}");

    let ran = stage("sample", &["--prompts", "prompts.jsonl", "--per-prompt", "3"]);
    assert_eq!(ran.code, 0, "{}", ran.output);
    let candidates = Dataset::<Candidates>::open(dir.path().join("sample"))
        .unwrap()
        .read_all()
        .unwrap();
    assert_eq!(candidates.len(), 10);
    let logprobs = candidates
        .iter()
        .flat_map(|row| &row.completions)
        .map(|answer| answer.logprob);
    assert!(logprobs.clone().count() == 30 && logprobs.clone().all(|logprob| logprob < 0.0));

    let ran = stage(
        "judge",
        &["--candidates", "sample", "--constitution", "builtin:harmless"],
    );
    assert_eq!(ran.code, 0, "{}", ran.output);
    let judged = Dataset::<Preference>::open(dir.path().join("judge"))
        .unwrap()
        .read_all()
        .unwrap();
    assert_eq!(
        judged.len() + rejects::<Preference>(&dir.path().join("judge")).len(),
        30,
        "three pairs a prompt"
    );
    assert!(judged.len() > 25);
    let manifest = std::fs::read_to_string(dir.path().join("judge/manifest.json")).unwrap();
    assert!(manifest.contains(&model), "{manifest}");
    for file in files(dir.path()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(
            !bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()),
            "{}",
            file.display()
        );
    }
}

/// Catches: an answer of an endpoint that is paid for twice, or a refusal that is kept for ever; a key in the memory.
#[test]
fn a_later_run_remembers_what_an_endpoint_answered() {
    let (served, mended) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let now = mended.clone();
    let server = Server::start(move |asked| match is_about(asked, "question 3\"") {
        true if !now.load(Ordering::SeqCst) => error(400, "a prompt that is refused"),
        _ => {
            // Never the same twice.
            let mut answer = model(asked);
            answer["choices"][0]["message"]["content"] = served.fetch_add(1, Ordering::SeqCst).to_string().into();
            ok(answer)
        }
    });
    let (dir, model) = (with_prompts(6), server.reference());
    let sample = |out: &str| {
        let command = [
            "sample",
            "--model",
            &model,
            "--prompts",
            "prompts.jsonl",
            "--per-prompt",
            "2",
        ];
        let ran = bylaw(
            dir.path(),
            &[&command[..], &["--out", out, "--cache", "memory"]].concat(),
        );
        assert_eq!(ran.code, 0, "{}", ran.output);
        let rows = Dataset::<Candidates>::open(dir.path().join(out))
            .unwrap()
            .read_all()
            .unwrap();
        (ran.output, rows)
    };
    let (output, first) = sample("first");
    assert!(
        output.contains("cache memory: 12 requests asked, 0 remembered"),
        "{output}"
    );
    let before = server.log().len();
    mended.store(true, Ordering::SeqCst);
    let (output, second) = sample("second");
    assert!(
        output.contains("cache memory: 2 requests asked, 10 remembered"),
        "{output}"
    );
    assert_eq!((first.len(), second.len(), server.log().len() - before), (5, 6, 2));
    assert!(first.iter().all(|row| second.contains(row)));
    for file in files(&dir.path().join("memory")) {
        assert!(
            !std::fs::read_to_string(&file).unwrap().contains(KEY),
            "{}",
            file.display()
        );
    }
}

/// Catches: log-probabilities that a judge makes up, and an exit code that hides it.
#[test]
fn a_judge_without_logprobs_rejects_every_row() {
    let server = Server::start(|asked| {
        let mut answer = model(asked);
        answer["choices"][0]["logprobs"] = Value::Null;
        ok(answer)
    });
    let dir = tempfile::tempdir().unwrap();
    let row = json!({ "prompt": "question 1", "chosen": "one answer", "rejected": "another" });
    std::fs::write(dir.path().join("pairs.jsonl"), format!("{row}\n")).unwrap();
    let ran = bylaw(
        dir.path(),
        &[
            "judge",
            "--model",
            &server.reference(),
            "--candidates",
            "pairs.jsonl",
            "--constitution",
            "builtin:harmless",
            "--out",
            "out",
            "--prompt-style",
            "transcript",
            "--read",
            "logprobs",
        ],
    );
    assert_eq!(ran.code, 3, "{}", ran.output);
    let reasons = rejects::<Preference>(&dir.path().join("out"));
    assert_eq!(reasons.len(), 1);
    assert_eq!(reasons[0].reason, "the endpoint serves no log-probabilities");
}

/// Catches: a judge that could have said it in words and was not asked to, a label in which not all its words
/// count, settings that do not say how verdicts were read.
#[test]
fn a_judge_without_logprobs_is_read_as_text() {
    let server = Server::start(|asked| {
        let mut answer = model(asked);
        let likes_a = asked.body.to_string().contains("(A) one answer");
        answer["choices"][0]["logprobs"] = Value::Null;
        answer["choices"][0]["message"]["content"] = json!(if likes_a { "Kinder.\n[[A]]" } else { "Kinder.\n[[B]]" });
        ok(answer)
    });
    let dir = tempfile::tempdir().unwrap();
    let row = json!({ "prompt": "question 1", "chosen": "another", "rejected": "one answer" });
    std::fs::write(dir.path().join("pairs.jsonl"), format!("{row}\n")).unwrap();
    let ran = bylaw(
        dir.path(),
        &[
            "judge",
            "--model",
            &server.reference(),
            "--candidates",
            "pairs.jsonl",
            "--constitution",
            "builtin:harmless",
            "--out",
            "out",
            "--few-shots",
            "builtin",
            "--votes",
            "2",
        ],
    );
    assert_eq!(ran.code, 0, "{}", ran.output);
    let out = dir.path().join("out");
    let rows = Dataset::<Preference>::open(&out).unwrap().read_all().unwrap();
    assert_eq!(rows[0].chosen[0].content, "one answer");
    // Two of two in each order: 2.5 to 0.5.
    assert!((rows[0].margin - 5f32.ln()).abs() < 1e-5, "{}", rows[0].margin);
    assert_eq!(rows[0].votes.len(), 4);
    assert!(
        rows[0]
            .votes
            .iter()
            .all(|vote| vote.cot.as_deref().is_some_and(|cot| cot.starts_with("Kinder.")))
    );
    let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
    assert!(
        manifest.contains("\"read\": \"text\"") && manifest.contains("few_shots"),
        "{manifest}"
    );
}

/// Catches: work that is lost when the endpoint dies, and a resumed run with other rows.
#[test]
fn a_run_goes_on_when_the_endpoint_is_back() {
    let dir = with_prompts(20);
    let sample = |model: &str, out: &str| {
        let flags = [
            "--unit-rows",
            "4",
            "--max-outage",
            "1",
            "--concurrency",
            "2",
            "--per-prompt",
            "1",
        ];
        bylaw(
            dir.path(),
            &[
                &["sample", "--model", model, "--prompts", "prompts.jsonl", "--out", out],
                &flags[..],
            ]
            .concat(),
        )
    };
    let server = Server::start(|asked| ok(model(asked)));
    let (reference, port) = (server.reference(), server.port);
    assert_eq!(sample(&reference, "whole").code, 0);
    server.kill();
    let ran = sample(&reference, "parts");
    assert_eq!(ran.code, 4, "{}", ran.output);
    assert!(ran.output.contains("no endpoint answers"), "{}", ran.output);

    let count = AtomicUsize::new(0);
    let dying = rebind(port, move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0..10 => ok(model(asked)),
        _ => Reply::Cut(0, model(asked)),
    });
    let ran = sample(&reference, "parts");
    assert_eq!(ran.code, 4, "{}", ran.output);
    assert!(ran.output.contains("finished units are kept"), "{}", ran.output);
    let kept = bylaw::job::StatusFile::read(&dir.path().join("parts")).unwrap();
    assert!((4..=10).contains(&kept.rows), "{kept:?}");
    assert!(kept.last_error.is_some());
    dying.kill();

    let server = rebind(port, |asked| ok(model(asked)));
    assert_eq!(sample(&reference, "parts").code, 0);
    let asked = server.log().len() as u64;
    assert_eq!(asked, 20 - kept.rows, "what was finished is not asked again");
    let rows = |out: &str| {
        Dataset::<Candidates>::open(dir.path().join(out))
            .unwrap()
            .read_all()
            .unwrap()
    };
    assert_eq!(rows("parts"), rows("whole"));
}

/// Catches: Ctrl-C that waits as long as the endpoint asks.
#[test]
fn an_interrupt_ends_the_wait() {
    let server = Server::start(|_| Reply::Json(429, Some(("retry-after", "200".into())), Value::Null));
    let dir = with_prompts(3);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
        .current_dir(dir.path())
        .args([
            "sample",
            "--model",
            &server.reference(),
            "--prompts",
            "prompts.jsonl",
            "--out",
            "out",
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while server.log().is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    // Well before the 200 s.
    for _ in 0..600 {
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(130));
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    panic!("it went on waiting");
}

/// A server at a port that was just left.
fn rebind(port: u16, answering: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
    for _ in 0..100 {
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Server::start_at(port, &Attempts::default(), answering);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("port {port} stays taken");
}

/// The flag decides what an endpoint is asked through.
///
/// Catches: transcripts sent as chats, and the reverse.
#[test]
fn the_api_follows_the_flag() {
    let server = Server::start(|asked| ok(model(asked)));
    let dir = with_prompts(1);
    let model = server.reference();
    let common = [
        "sample",
        "--model",
        &model,
        "--prompts",
        "prompts.jsonl",
        "--per-prompt",
        "1",
        "--out",
    ];
    for (out, flags, path) in [
        ("chat", &[][..], "/v1/chat/completions"),
        ("transcript", &["--prompt-style", "transcript"], "/v1/completions"),
        ("raw", &["--raw"], "/v1/completions"),
    ] {
        let ran = bylaw(dir.path(), &[&common[..], &[out], flags].concat());
        assert_eq!(ran.code, 0, "{}", ran.output);
        assert_eq!(server.log().last().unwrap().path, path, "{out}");
    }
    assert!(is_about(&server.log()[1], "Human: question 0"));
}
