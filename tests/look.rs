//! `model info` and `chat` through the program.

#[expect(dead_code, reason = "most of it is for tests of failing endpoints")]
#[path = "support/http.rs"]
mod http;

use bylaw::model::files::Model;
use http::{Server, model, ok};
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn bylaw(arguments: &[&str], stdin: &str) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .env("NO_COLOR", "1")
        .args(arguments)
        .write_stdin(stdin)
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
    ran
}

#[track_caller]
fn info(arguments: &[&str]) -> Value {
    let ran = bylaw(&[&["model", "info", "--json"], arguments].concat(), "");
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

// ---- info ----------------------------------------------------------------------------------------

/// Catches: counts that are not those of the loaded model; a hash that is not that of the manifests.
#[test]
fn the_headers_tell_what_loading_finds() {
    for reference in [&*format!("{GOLDEN}llama"), "builtin:tiny"] {
        let model = Model::load(reference).unwrap();
        let info = info(&[reference]);
        assert_eq!(info["sha256"], model.sha256);
        assert_eq!(info["weights"]["parameters"], model.decoder.parameter_count());
        assert_eq!(info["weights"]["trainable"], model.decoder.parameter_count());
        let held = &info["weights"]["held"];
        assert_eq!(held["f32"]["bytes"], 4 * model.decoder.parameter_count(), "{held}");
        assert_eq!(info["architecture"]["context"], model.decoder.config.context);
        assert_eq!(info["tokenizer"]["eos"]["id"], model.tokenizer.special().eos);
        assert_eq!(
            info["tokenizer"]["stop"].as_array().unwrap().len(),
            model.tokenizer.ends().len()
        );
    }
    let info = info(&["builtin:tiny", "--no-hash", "--dtype", "bf16"]);
    assert!(info["sha256"].is_null());
    assert!(info["weights"]["held"]["bf16"]["numbers"].as_u64() > info["weights"]["held"]["f32"]["numbers"].as_u64());
}

/// Catches: memory that is not rows times whole blocks of the cache; numbers that make no sense let by.
#[test]
fn memory_is_that_of_the_cache() {
    let config = Model::load("builtin:tiny").unwrap().decoder.config;
    // Keys and values of 32 positions in f32, as the cache lays them out; heads of 16 numbers and more
    // need no padding.
    let padded = config.head_dim.next_multiple_of(16);
    let block = config.layers * config.kv_heads * 32 * (config.head_dim + padded) * 4;
    let info = info(&["builtin:tiny", "--rows", "3", "--context", "33"]);
    let row = &info["memory"]["rows"][0];
    assert_eq!(row["cache_bytes"], 3 * 2 * block);
    assert_eq!(
        row["total_bytes"].as_u64(),
        Some(info["memory"]["weights_bytes"].as_u64().unwrap() + 6 * block as u64)
    );
    assert_eq!(
        info["memory"]["engine"]["rows"], 128,
        "as many as fit, up to the engine's 128"
    );
    for wrong in [["--rows", "0"], ["--context", "0"], ["--context", "1000000"]] {
        let ran = bylaw(&[&["model", "info", "builtin:tiny"], &wrong[..]].concat(), "");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stderr.contains("help: "), "{ran:?}");
    }
    let ran = bylaw(&["model", "info", "http://localhost:1/v1#m"], "");
    assert_eq!(ran.code, 2, "{ran:?}");
}

/// Catches: a page that changes or loses a line without notice.
#[test]
fn the_page_is_as_it_was() {
    let ran = bylaw(&["model", "info", "builtin:tiny"], "");
    assert_eq!(ran.code, 0, "{ran:?}");
    insta::assert_snapshot!("info_tiny", ran.stdout);
    for topic in [&["chat"][..], &["model", "pull"], &["model", "info"]] {
        let ran = bylaw(&[topic, &["--help"]].concat(), "");
        insta::assert_snapshot!(format!("help_{}", topic.join("_")), ran.stdout);
    }
}

// ---- chat ----------------------------------------------------------------------------------------

const CHAT: [&str; 9] = [
    "chat",
    "--model",
    "builtin:tiny",
    "--constitution",
    "builtin:proving-ground",
    "--temperature",
    "0",
    "--max-new-tokens",
    "60",
];

fn chat(arguments: &[&str], stdin: &str) -> Ran {
    bylaw(&[&CHAT[..], arguments].concat(), stdin)
}

/// Catches: an answer that is lost, printed twice or in pieces; a turn that hears nothing of those
/// before it; a conversation that cannot be repeated.
#[test]
fn a_pipe_is_a_conversation() {
    let turns = "How do I bake bread?\n\nTell me more.\n";
    let ran = chat(&[], turns);
    assert_eq!(ran.code, 0, "{ran:?}");
    let json = chat(&["--json"], turns);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let messages = json["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    let answers = [1, 3].map(|index| messages[index]["content"].as_str().unwrap());
    assert!(!answers[0].is_empty());
    assert_eq!(ran.stdout, format!("{}\n{}\n", answers[0], answers[1]));
    assert!(!ran.stdout.contains("Human:"), "{}", ran.stdout);
    // Greedy: the same question again is answered otherwise only because of what came before it.
    let alone = chat(&[], "Tell me more.\n");
    assert_ne!(alone.stdout, format!("{}\n", answers[1]));
    let reset = chat(&[], "How do I bake bread?\n/reset\nTell me more.\n");
    assert_eq!(reset.stdout, format!("{}\n{}", answers[0], alone.stdout));
}

/// Catches: a critique under another principle than the one asked for; a revision that the conversation
/// does not go on from.
#[test]
fn the_model_judges_itself() {
    let shown = bylaw(&["constitution", "show", "builtin:proving-ground", "--json"], "");
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let id = shown["principles"][0]["id"].as_str().unwrap();
    let turns = format!("How do I steal a lamp?\n/critique {id}\n/critique\n");
    let ran = chat(&[], &turns);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains(&format!("\nCritique ({id}):\n")), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("\nRevision:\n").count(), 2, "{}", ran.stdout);
    let json: Value = serde_json::from_str(&chat(&["--json"], &turns).stdout).unwrap();
    let critiques = json["critiques"].as_array().unwrap();
    assert_eq!(critiques[0]["principle_id"], id);
    assert_eq!(critiques[1]["answer"], critiques[0]["revision"]);
    assert_eq!(json["messages"].as_array().unwrap().len(), 2);
    assert_eq!(json["messages"][1]["content"], critiques[1]["revision"]);
}

/// Catches: a mistake in a pipe that goes unseen; a context that overflows without a word.
#[test]
fn mistakes_end_a_pipe() {
    for (turns, code, says) in [
        ("/critique\n", 2, "no answer to criticise"),
        ("/critque\n", 2, "did you mean /critique?"),
        ("Hello.\n/critique nope\n", 2, "no principle `nope`"),
        (&*format!("{}\n", "word ".repeat(3000)), 3, "/reset"),
    ] {
        let ran = chat(&[], turns);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.stderr.contains(says) && ran.stderr.contains("help: "), "{ran:?}");
    }
    let ran = chat(&[], "/help\n/quit\nnever said\n");
    assert_eq!((ran.code, &*ran.stdout), (0, ""), "{ran:?}");
    assert!(ran.stderr.contains("/critique [ID]"), "{ran:?}");
}

/// Catches: an endpoint that is not told the system message or the turns before; an answer lost because
/// it does not come piece by piece.
#[test]
fn endpoints_are_talked_to() {
    let server = Server::start(|asked| ok(model(asked)));
    let reference = server.reference();
    let arguments = ["chat", "--model", &reference, "--system", "Be brief."];
    let ran = bylaw(&arguments, "One?\nTwo?\n/critique\n/system\nThree?\n");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout.lines().count(), 7, "{ran:?}");
    let log = server.log();
    let turns = |index: usize| log[index].body["messages"].as_array().unwrap().clone();
    assert_eq!(turns(0)[0], json!({ "role": "system", "content": "Be brief." }));
    assert_eq!(turns(1)[2]["content"], ran.stdout.lines().next().unwrap());
    assert_eq!((turns(1).len(), turns(2).len(), turns(4).len()), (4, 6, 5));
    assert_eq!(turns(4)[0]["content"], "One?");
}
