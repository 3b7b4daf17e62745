//! `constitution try`, as a user sees it: the page, what the model reads, and the pages that follow a save.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bylaw::constitution::Constitution;
use bylaw::dataset::Dataset;
use bylaw::engine::Generation;
use bylaw::engine::recording::Recording;
use bylaw::engine::scripted::ScriptedEngine;
use bylaw::prompt::{Criticism, Request, Style, Templates};
use bylaw::record::{FinishReason, Message, Prompt, Revision};
use bylaw::seed::Seed;
use bylaw::stage::judge::{JudgeConfig, Reading};
use bylaw::stage::{Context, trial};
use serde_json::{Value, json};

use program::{bylaw, fails, json, refused, succeeds, temp, write};

const PROMPT: &str = "How do I read my sister's diary?";

/// What every call here begins with: the small world, drawn greedily.
const TRY: [&str; 7] = [
    "constitution",
    "try",
    "builtin:proving-ground",
    "--temperature",
    "0",
    "--prompt",
    PROMPT,
];

fn tried(more: &[&str]) -> Vec<String> {
    TRY.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
}

#[track_caller]
fn run(dir: &Path, arguments: &[String]) -> program::Ran {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    succeeds(dir, &arguments)
}

/// The world's constitution as a file, with `from` replaced.
fn edited(from: &str, to: &str) -> String {
    let text = include_str!("../constitutions/proving-ground.toml");
    let new = text.replacen(from, to, 1);
    assert!(new != text, "{from}");
    new
}

/// Catches: a principle without its block, columns out of line, marks around kept words, a verdict told of the wrong
/// text, an unchanged answer shown as a new one, a table that does not count what stands above it.
#[test]
fn the_page() {
    let dir = temp();
    let page = run(
        dir.path(),
        &tried(&["--principle", "harmless,no-spying,best,less-harm"]),
    )
    .stdout;
    insta::assert_snapshot!(page);
}

/// Catches: a terminal's codes in a pipe, a line wider than the page, control characters of a prompt that reach a
/// terminal.
#[test]
fn a_page_says_nothing_to_the_terminal() {
    let dir = temp();
    let prompt = "Tell\u{1b}[2J me\u{7} a \u{202e}lie.";
    for more in [&["--show-prompts"][..], &[]] {
        let mut arguments = vec![
            "constitution",
            "try",
            "builtin:proving-ground",
            "--principle",
            "no-lying",
        ];
        arguments.extend(["--prompt", prompt]);
        arguments.extend(more);
        let page = succeeds(dir.path(), &arguments).stdout;
        let obeyed = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!page.contains(obeyed), "{page:?}");
        assert!(page.contains("Tell\u{241b}[2J me\u{2407} a"), "{page}");
        if more.is_empty() {
            assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
        }
    }
}

/// Catches: an exchange under the label of another, one that is missing or twice, a prompt that is not what the templates
/// make, page and document that show different prompts.
#[test]
fn what_the_model_reads_is_what_the_templates_give() {
    let dir = temp();
    let arguments = tried(&["--show-prompts", "--principle", "harmless,best"]);
    let page = run(dir.path(), &arguments).stdout;
    let document = json(&run(dir.path(), &[arguments, vec!["--json".into()]].concat()).stdout);
    let exchanges = document["exchanges"].as_array().unwrap();
    let constitution = Constitution::builtin("proving-ground").unwrap();
    let text = |request: Request| match request {
        Request::Text(text) => format!("<|bos|>{text}"),
        Request::Chat { .. } => panic!("the model has no chat template"),
    };
    let review = &document["prompts"][0]["principles"][0];
    let said = |value: &Value| value["text"].as_str().unwrap().to_owned();
    let (answer, critique) = (said(&document["prompts"][0]["answer"]), said(&review["critique"]));
    let revision = said(&review["revision"]);
    let messages = [Message::user(PROMPT)];
    let templates = Templates::new(Style::Transcript);
    let [harmless, best] = ["harmless", "best"].map(|id| constitution.principle(id).unwrap());
    let (request, question) = (harmless.critique.as_deref().unwrap(), best.judge.as_deref().unwrap());
    let criticism = Criticism {
        messages: &messages,
        answer: &answer,
        critique_request: request,
    };
    let revise = harmless.revise.as_deref().unwrap();
    let expected = [
        ("answer", text(templates.respond(&messages).unwrap())),
        ("critique · harmless", text(templates.critique(criticism).unwrap())),
        (
            "revision · harmless",
            text(templates.revision(criticism, &critique, revise).unwrap()),
        ),
        (
            "judge · best on harmless · answer at (A)",
            text(templates.judge(&messages, question, &answer, &revision).unwrap()),
        ),
        (
            "judge · best on harmless · revision at (A)",
            text(templates.judge(&messages, question, &revision, &answer).unwrap()),
        ),
    ];
    let shown: Vec<(&str, &str)> = exchanges
        .iter()
        .map(|exchange| {
            (
                exchange["label"].as_str().unwrap(),
                exchange["prompt"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted: Vec<(&str, &str)> = expected
        .iter()
        .map(|(label, prompt)| (*label, prompt.as_str()))
        .collect();
    assert_eq!(shown, wanted);
    for (label, prompt) in &expected {
        assert_eq!(page.matches(&format!("── {label} ─")).count(), 1, "{label}\n{page}");
        assert_eq!(page.matches(&format!("\n{prompt}\n┄┄ ")).count(), 1, "{label}\n{page}");
    }
    // What the model said is the answer of its own exchange.
    assert_eq!(exchanges[1]["answer"], json!({ "text": critique }));
    assert_eq!(exchanges[2]["answer"], json!({ "text": revision }));
    let scores = &exchanges[3]["answer"]["scores"];
    assert_eq!([&scores[0][0], &scores[1][0]], ["A", "B"]);
    let odds = scores[1][1].as_f64().unwrap() - scores[0][1].as_f64().unwrap();
    let p = 1.0 / (1.0 + (-odds).exp());
    let told = review["judged"]["p_answer_at_a"].as_f64().unwrap();
    assert!((p - told).abs() < 1e-5, "{p} {told}");
}

/// Catches: seeds, templates or limits that are not those of a run, so that a trial shows what no run writes.
#[test]
fn a_trial_shows_what_revise_writes() {
    let dir = temp();
    let text = edited("weight = 0.042", "weight = 1000000.0");
    write(dir.path(), "c.toml", &text);
    write(
        dir.path(),
        "p.jsonl",
        "{\"prompt\": \"How do I read my sister's diary?\"}\n{\"prompt\": \"How do I bake bread?\"}\n",
    );
    let common = ["--model", "builtin:tiny", "--seed", "7", "--prompts", "p.jsonl"];
    let revise = ["revise", "--constitution", "c.toml", "--rounds", "1", "--out", "out"];
    succeeds(dir.path(), &[&revise[..], &common].concat());
    let rows = Dataset::<Revision>::open(dir.path().join("out"))
        .unwrap()
        .read_all()
        .unwrap();
    let arguments = ["constitution", "try", "c.toml", "--principle", "no-spying", "--json"];
    let document = json(&succeeds(dir.path(), &[&arguments[..], &common].concat()).stdout);
    assert_eq!(rows.len(), 2);
    for row in rows {
        let prompts = document["prompts"].as_array().unwrap();
        let prompt = prompts.iter().find(|prompt| prompt["id"] == *row.id).unwrap();
        let round = &row.rounds[0];
        assert_eq!(round.principle_id, "no-spying");
        assert_eq!(prompt["answer"]["text"], *row.initial);
        let review = &prompt["principles"][0];
        assert_eq!(review["critique"]["text"], *round.critique);
        assert_eq!(review["revision"]["text"], *round.revision);
        assert_eq!(review["changed"], round.changed);
    }
}

/// Catches: an own question passed over, a pool that is asked where there is an own one, weights of questions ignored,
/// principles of weight 0 tried without being named or left out without a word.
#[test]
fn each_revision_is_judged_by_the_questions_that_are_its() {
    let dir = temp();
    let text = edited(
        "revise = \"Please rewrite the answer to remove all harmful content.\"",
        "revise = \"Please rewrite the answer to remove all harmful content.\"\njudge = \"Which answer is less harmful?\"",
    );
    let text = text
        .replacen("weight = 0.24", "weight = 0.0", 1)
        .replacen("weight = 0.041", "weight = 0", 1);
    write(dir.path(), "c.toml", &text);
    let arguments = [
        "constitution",
        "try",
        "c.toml",
        "--temperature",
        "0",
        "--prompt",
        PROMPT,
        "--json",
    ];
    let document = json(&succeeds(dir.path(), &arguments).stdout);
    let reviews = document["prompts"][0]["principles"].as_array().unwrap();
    let questions = |review: &Value| -> Vec<String> {
        let verdicts = review["verdicts"].as_array().unwrap();
        verdicts
            .iter()
            .map(|verdict| verdict["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(questions(&reviews[0]), ["harmless"]);
    let pool = ["wise", "serves-well", "honest-kind-useful", "less-harm", "less-hurt"];
    assert_eq!(reviews[1]["id"], "hurts-nobody");
    assert_eq!(questions(&reviews[1]), pool);
    assert!(!reviews.iter().any(|review| review["id"] == "no-bullying"));
    assert!(
        document["notes"]
            .to_string()
            .contains("of weight 0 and not tried: no-bullying, best"),
        "{document}"
    );
    // The mean of the log-odds by weight, and as many for the revision as are for it.
    let verdicts = reviews[1]["verdicts"].as_array().unwrap();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
    let shares: f64 = verdicts.iter().map(|verdict| number(verdict, "share")).sum();
    let weighed = verdicts
        .iter()
        .map(|verdict| number(verdict, "share") * number(verdict, "log_odds"));
    let p = 1.0 / (1.0 + (-weighed.sum::<f64>() / shares).exp());
    assert!((p - number(&reviews[1]["judged"], "p")).abs() < 1e-5);
    assert!(number(&verdicts[0], "share") > 10.0 * number(&verdicts[4], "share"));
    let of = verdicts
        .iter()
        .filter(|verdict| number(verdict, "log_odds") > 0.0)
        .count();
    assert_eq!(reviews[1]["judged"]["prefer"], of);
    assert_eq!(document["principles"][0]["judged"], 1);

    let named = [&arguments[..], &["--principle", "best"]].concat();
    let document = json(&succeeds(dir.path(), &named).stdout);
    assert_eq!(document["prompts"][0]["principles"], json!([]));
    // Drawn greedily both answers are the same, and nobody is asked.
    assert_eq!(
        document["prompts"][0]["second_answer"],
        document["prompts"][0]["answer"]
    );
    assert_eq!(document["prompts"][0]["verdicts"], json!([]));
    let warm = [&named[..], &["--temperature", "1"]].concat();
    let warm: Vec<&str> = warm
        .into_iter()
        .enumerate()
        .filter(|(at, _)| *at != 3 && *at != 4)
        .map(|(_, a)| a)
        .collect();
    let document = json(&succeeds(dir.path(), &warm).stdout);
    assert_eq!(document["prompts"][0]["verdicts"][0]["id"], "best", "{document}");
}

/// Catches: a text that was cut off shown as whole or not at all, a step after it asked all the same, a prompt dropped.
#[test]
fn what_is_cut_off_is_shown_as_such() {
    let dir = temp();
    let page = run(
        dir.path(),
        &tried(&["--principle", "harmless", "--critique-max-new-tokens", "3"]),
    )
    .stdout;
    assert!(page.contains("[the critique is truncated: it reached its"), "{page}");
    assert!(page.contains("[not asked: the critique cannot be used]"), "{page}");
    assert!(
        page.contains("0 of 0") && page.contains("1 without a revision"),
        "{page}"
    );
    let arguments = tried(&["--principle", "harmless", "--max-new-tokens", "3", "--json"]);
    let document = json(&run(dir.path(), &arguments).stdout);
    let answer = &document["prompts"][0]["answer"];
    assert!(
        answer["failed"].as_str().unwrap().contains("limit of 3 tokens"),
        "{answer}"
    );
    assert_ne!(answer["text"], "");
    assert_eq!(document["prompts"][0]["principles"][0]["critique"], Value::Null);
    assert_eq!(document["requests"], json!({ "asked": 1, "remembered": 0 }));
    let kept = run(dir.path(), &[arguments, vec!["--keep-truncated".into()]].concat());
    assert_eq!(json(&kept.stdout)["principles"][0]["revised"], 1);
}

/// Catches: a memory on disk that is not used, or is used for other texts.
#[test]
fn a_cache_is_for_the_next_time() {
    let dir = temp();
    let arguments = tried(&["--principle", "no-spying,best", "--json", "--cache", "cache"]);
    let first = json(&run(dir.path(), &arguments).stdout);
    let second = json(&run(dir.path(), &arguments).stdout);
    assert_eq!(second["requests"]["asked"], 0);
    assert_eq!(second["requests"]["remembered"], first["requests"]["asked"]);
    assert_eq!(second["prompts"], first["prompts"]);
}

/// Catches: mistakes found after a model was loaded, without a remedy, or one of several.
#[test]
fn mistakes_are_told() {
    let dir = temp();
    let world = ["constitution", "try", "builtin:proving-ground"];
    let with = |more: &[&'static str]| [&world[..], more].concat();
    let unknown = with(&["--prompt", "Hi", "--principle", "no-spyin", "--model", "/no/model"]);
    refused(
        dir.path(),
        &unknown,
        2,
        &["no principle `no-spyin`", "did you mean `no-spying`?"],
    );
    let ran = bylaw(dir.path(), &world);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--prompt"), "{}", ran.stderr);
    refused(dir.path(), &with(&["--prompt", "  "]), 2, &["--prompt is empty"]);
    refused(
        dir.path(),
        &with(&["--prompt", "Hi", "--watch"]),
        2,
        &["no file to watch"],
    );
    fails(
        dir.path(),
        &with(&["--prompts", "none.jsonl", "--model", "/no/model"]),
        3,
        &["none.jsonl"],
    );
    let broken = edited("critique =", "critque =").replacen("weight = 0.15", "weight = -1", 1);
    write(dir.path(), "c.toml", &broken);
    let told = fails(
        dir.path(),
        &[
            "constitution",
            "try",
            "c.toml",
            "--prompt",
            "Hi",
            "--model",
            "/no/model",
        ],
        2,
        &["c.toml:17:1: ", "did you mean `critique`?", "c.toml:86:10: "],
    );
    assert!(!told.contains("/no/model"), "{told}");
}

/// Catches: an order's probability told of the other order, the first answer's told as the second's, votes that could
/// not be read counted, more or fewer requests than the labels of a page have.
#[test]
fn verdicts_in_words_are_those_of_the_second_answer() {
    let reply = |prompt: &str| {
        // For the second answer wherever it stands; a mumble where it is the first option.
        let first = prompt.contains("(A) Second.");
        let said = if first {
            "Who knows?"
        } else {
            "It is kinder. The answer is: (B)"
        };
        Ok((said.to_owned(), FinishReason::Stop))
    };
    let scripted = |mumbles: bool| {
        let reply = move |prompt: &str| match prompt.contains("(A) Second.") && !mumbles {
            true => Ok(("It is kinder. The answer is: (A)".to_owned(), FinishReason::Stop)),
            false => reply(prompt),
        };
        Recording::new(Arc::new(ScriptedEngine {
            reply,
            score: |_: &str, _: &str| 0.0,
        }))
    };
    let constitution = Constitution::builtin("proving-ground").unwrap();
    let answer = |text: &str| Generation {
        text: text.into(),
        tokens: 1,
        prompt_tokens: 1,
        logprob: 0.0,
        finish_reason: FinishReason::Stop,
    };
    let messages = vec![Message::user("Hello?")];
    let prompt = Prompt {
        id: "p".into(),
        messages,
        source: String::new(),
        tags: Vec::new(),
    };
    let (first, second) = (answer("First."), answer("Second."));
    let question = trial::Question {
        principle: constitution.principle("best").unwrap(),
        prompt: &prompt,
        first: &first,
        second: &second,
    };
    let config = JudgeConfig {
        reading: Reading::Text,
        votes: 3,
        ..JudgeConfig::default()
    };
    let templates = Templates::new(Style::Transcript);
    for mumbles in [false, true] {
        let engine = scripted(mumbles);
        let context = Context {
            engine: &engine,
            templates: &templates,
            seed: Seed::new(0),
            keep_truncated: false,
        };
        let verdict = trial::verdicts(context, &[question], &config).unwrap().pop().unwrap();
        let exchanges = engine.take();
        assert_eq!(exchanges.len(), 2 * trial::requests_of_order(&config));
        let at_a = exchanges.iter().map(|exchange| exchange.prompt.contains("(A) First."));
        assert_eq!(at_a.collect::<Vec<_>>(), [true, true, true, false, false, false]);
        match (mumbles, verdict) {
            (false, Ok(verdict)) => {
                // Three of three in each order: (3 + 1/2) to 1/2.
                assert!((verdict.log_odds - 7.0f32.ln()).abs() < 1e-6);
                assert_eq!(verdict.orders, [0.875, 0.875]);
            }
            (true, Err(reason)) => assert!(reason.contains("no verdict can be read"), "{reason}"),
            (_, verdict) => panic!("{verdict:?}"),
        }
    }
}

// ---------------------------------------------------------------- watching

/// The program watching, and the lines of its stdout as they come.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn begin(dir: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
            .current_dir(dir)
            .args(["constitution", "try", "c.toml", "--watch", "--temperature", "0"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// The lines up to one that begins so.
    #[track_caller]
    fn until(&self, beginning: &str) -> String {
        let mut text = String::new();
        loop {
            let line = self.lines.recv_timeout(Duration::from_mins(3));
            let line = line.unwrap_or_else(|error| panic!("{error} before {beginning:?}:\n{text}"));
            text.push_str(&line);
            text.push('\n');
            if line.starts_with(beginning) {
                return text;
            }
        }
    }

    fn document(&self) -> Value {
        json(&self.until("{"))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn stderr_says(dir: &Path, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let stderr = fs::read_to_string(dir.join("stderr")).unwrap();
        if words.iter().all(|words| stderr.contains(words)) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{words:?} in {stderr}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Catches: a save that is not noticed, the answer asked again after an edit, results called changed that are not, a
/// program that ends at a mistake or at a file that is missing for a moment, a page of the state before.
#[test]
fn a_save_brings_the_next_page() {
    let dir = temp();
    let world = edited("weight = 0.15", "weight = 0.150");
    write(dir.path(), "c.toml", &world);
    let watching = Watching::begin(
        dir.path(),
        &["--prompt", PROMPT, "--principle", "harmless,no-spying,best"],
    );
    // The table's last line.
    let first = watching.until("  best");
    assert!(first.contains("\nrun 1: "), "{first}");
    assert!(first.contains("answer") && !first.contains('\u{1b}'), "{first}");

    let asks_of = "Point out anything in the answer that could hurt someone.";
    let reworded = world.replacen("Say whether the answer helps with spying.", asks_of, 1);
    write(dir.path(), "c.toml", &reworded);
    let second = watching.until("* changed since");
    let head = second
        .lines()
        .find(|line| line.starts_with("run 2: "))
        .unwrap()
        .to_owned();
    assert!(
        head.contains("changed: no-spying (critique, revision)") && !head.contains("harmless"),
        "{head}"
    );
    // Its critique and its revision; the verdicts about that are known from harmless, which comes to the same.
    assert!(head.starts_with("run 2: 2 of 9 requests asked, "), "{head}");
    watching.until("  best");

    write(dir.path(), "c.toml", &reworded.replacen("critique =", "critque =", 2));
    stderr_says(dir.path(), &["c.toml:17:1: ", "c.toml:24:1: ", "error: 2 errors"]);

    // As editors save: another file, renamed into the place of the one before, which is missing for a moment.
    fs::remove_file(dir.path().join("c.toml")).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    write(dir.path(), "new.toml", &world);
    fs::rename(dir.path().join("new.toml"), dir.path().join("c.toml")).unwrap();
    let fourth = watching.until("  best");
    assert!(fourth.contains("\nrun 4: 0 of "), "{fourth}");
    assert!(fourth.contains("changed: no-spying (critique, revision)"), "{fourth}");
}

/// Catches: documents over several lines, a run with mistakes that says nothing to a program, prompts that are not
/// looked after.
#[test]
fn a_program_reads_a_line_for_each_save() {
    let dir = temp();
    let world = edited("weight = 0.15", "weight = 0.150");
    write(dir.path(), "c.toml", &world.replacen("critique =", "critque =", 1));
    write(dir.path(), "p.jsonl", "{\"prompt\": \"How do I bake bread?\"}\n");
    let watching = Watching::begin(
        dir.path(),
        &["--prompts", "p.jsonl", "--principle", "no-spying,best", "--json"],
    );
    let broken = watching.document();
    assert_eq!((&broken["run"], &broken["errors"]), (&json!(1), &json!(1)));
    assert_eq!(broken["diagnostics"][0]["range"]["start"]["line"], 17);
    write(dir.path(), "c.toml", &world);
    let first = watching.document();
    assert_eq!((&first["run"], &first["changes"]), (&json!(2), &Value::Null));
    let prompts = "{\"prompt\": \"How do I bake bread?\"}\n{\"prompt\": \"How do I fly a kite?\"}\n";
    write(dir.path(), "p.jsonl", prompts);
    let second = watching.document();
    assert_eq!(second["prompts"].as_array().unwrap().len(), 2);
    assert_eq!(second["prompts"][0], first["prompts"][0]);
    assert_eq!(second["requests"]["remembered"], first["requests"]["asked"]);
    assert_eq!(second["changes"]["changed"], json!([]));
}

/// Catches: a renamed principle asked again or called changed, a program that ends where an edit takes away what was to be
/// tried, a verdict that changed and is not told of the question that was reworded.
#[test]
fn renamed_and_reworded_principles_are_told_apart() {
    let dir = temp();
    let text = "name = \"t\"\nversion = \"1\"\n\n[[principle]]\nid = \"first\"\ncritique = \"Point out anything in the answer \
                that could hurt someone.\"\nrevise = \"Please rewrite the answer to remove all harmful content.\"\n\n\
                [[principle]]\nid = \"second\"\njudge = \"Which answer is less harmful?\"\n";
    write(dir.path(), "c.toml", text);
    let watching = Watching::begin(dir.path(), &["--prompt", PROMPT, "--json"]);
    let first = watching.document();
    assert_eq!(first["requests"], json!({ "asked": 5, "remembered": 0 }));
    assert_eq!(first["prompts"][0]["principles"][0]["verdicts"][0]["id"], "second");

    write(dir.path(), "c.toml", &text.replacen("\"second\"", "\"other\"", 1));
    let renamed = watching.document();
    assert_eq!(renamed["requests"]["asked"], 0);
    assert_eq!(
        renamed["changes"],
        json!({ "changed": [], "new": ["other"], "gone": ["second"] })
    );

    write(
        dir.path(),
        "c.toml",
        &text
            .replacen("less harmful", "more helpful", 1)
            .replacen("\"second\"", "\"other\"", 1),
    );
    let reworded = watching.document();
    assert_eq!(reworded["requests"]["asked"], 2);
    let changed = json!([{ "id": "other", "results": ["verdict"] }]);
    assert_eq!(
        reworded["changes"],
        json!({ "changed": changed, "new": [], "gone": [] })
    );

    drop(watching);
    let watching = Watching::begin(
        dir.path(),
        &["--prompt", PROMPT, "--principle", "first,other", "--json"],
    );
    watching.document();
    write(dir.path(), "c.toml", text);
    stderr_says(dir.path(), &["has no principle `other`"]);
    write(dir.path(), "c.toml", &text.replacen("\"second\"", "\"other\"", 1));
    assert_eq!(watching.document()["run"], 3);
}
