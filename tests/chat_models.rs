//! Models with a chat template: from their files, through the engine and the trainers' encoder, and on
//! the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bylaw::engine::local::LocalEngine;
use bylaw::engine::{Engine, GenerateRequest, Refusal, Sampling, ScoreRequest};
use bylaw::model::family;
use bylaw::model::files::{Model, TokenizerFiles, assemble_random};
use bylaw::prompt::{Request, Style, Templates};
use bylaw::record::{Demonstration, Message};
use bylaw::seed::Seed;
use bylaw::train::batch::Encoder;
use candle_core::DType;
use serde_json::json;
use tempfile::TempDir;

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 440, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512}"#;

fn golden(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates");
    fs::read_to_string(dir.join(name)).unwrap()
}

fn files(template: &str) -> TokenizerFiles {
    TokenizerFiles {
        tokenizer: golden("byte-level.tokenizer.json"),
        config: Some(json!({ "bos_token": "<bos>", "eos_token": "<eos>" }).to_string()),
        chat_template: Some(golden(template)),
        generation: None,
    }
}

/// A small model with random weights that speaks through a template of `tests/golden/templates`.
fn model(template: &str) -> Model {
    assemble_random(family::parse(CONFIG).unwrap(), files(template), Seed::new(1)).unwrap()
}

fn system(content: &str) -> Message {
    Message {
        role: "system".into(),
        content: content.into(),
    }
}

fn chat(messages: Vec<Message>) -> GenerateRequest {
    GenerateRequest {
        prompt: Request::Chat {
            messages,
            prefix: String::new(),
        },
        sampling: Sampling {
            max_new_tokens: 5,
            ..Sampling::default()
        },
        stop: Vec::new(),
        seed: Seed::new(3),
    }
}

/// Catches: a conversation shown before its template, or without the beginning of the answer; two days of the template
/// taken for one where answers are remembered.
#[test]
fn the_engine_shows_what_the_template_writes() {
    let model = model("chatml.jinja");
    let later = Model {
        tokenizer: model.tokenizer.at("2031-02-03".parse().unwrap()),
        ..model.clone()
    };
    let engine = LocalEngine::new(Arc::new(model)).unwrap();
    let asked = Request::Chat {
        messages: vec![Message::user("Why <|im_end|>?")],
        prefix: "The answer is: (".into(),
    };
    let read = engine.read(&asked).unwrap();
    assert!(read.contains("<|im_start|>user\nWhy <|im_end|>?<|im_end|>"), "{read}");
    assert!(read.ends_with("<|im_start|>assistant\nThe answer is: ("), "{read}");
    let conditions = LocalEngine::new(Arc::new(later)).unwrap().conditions();
    assert_eq!(conditions.replace("2031-02-03", "2024-07-26"), engine.conditions());
    assert_ne!(conditions, engine.conditions());
}

/// Catches: a chat request that the engine cannot serve, a conversation that the template refuses and
/// that takes the others down with it.
#[test]
fn the_engine_speaks_through_the_template() {
    let engine = LocalEngine::new(Arc::new(model("llama2.jinja"))).unwrap();
    assert_eq!(engine.style(), Style::Chat);
    let question = || Message::user("How do I fly a kite?");
    let requests = [
        chat(vec![question()]),
        chat(vec![question(), question()]),
        chat(vec![system("Be brief."), question()]),
    ];
    let replies = engine.generate(&requests).unwrap();
    let tokens = |messages: &[Message]| {
        let model = model("llama2.jinja");
        model.tokenizer.chat().unwrap().prompt(messages, "").unwrap().len() as u32
    };
    assert_eq!(replies[0].as_ref().unwrap().prompt_tokens, tokens(&[question()]));
    let briefly = [system("Be brief."), question()];
    assert_eq!(replies[2].as_ref().unwrap().prompt_tokens, tokens(&briefly));
    let Err(Refusal(reason)) = &replies[1] else {
        panic!("two questions in a row were taken");
    };
    assert!(reason.contains("user and assistant take turns"), "{reason}");
}

/// Catches: the judge's options scored after something else than the prefix that opens its answer.
#[test]
fn the_judges_options_follow_the_prefix() {
    let model = Arc::new(model("gemma3.jinja"));
    let templates = Templates::new(Style::Chat);
    let prompt = templates
        .judge(&[Message::user("How?")], "Which is better?", "Run.", "Wait.")
        .unwrap();
    let Request::Chat { messages, prefix } = &prompt else {
        panic!("a chat judge asks in turns");
    };
    assert_eq!(prefix, "The answer is: (");
    let spoken = model.tokenizer.chat().unwrap();
    let (text, a) = (
        spoken.trace(messages, true, prefix).unwrap(),
        spoken.prompt(messages, "The answer is: (A").unwrap(),
    );
    assert!(
        text.text.ends_with("<start_of_turn>model\nThe answer is: ("),
        "{}",
        text.text
    );
    let shared = spoken.prompt(messages, prefix).unwrap();
    assert_eq!(a[..shared.len()], shared);
    assert_eq!(a.len(), shared.len() + 1, "the next token is the option");
    let engine = LocalEngine::new(model.clone()).unwrap();
    let request = ScoreRequest {
        prompt,
        continuations: vec!["A".into(), "B".into()],
    };
    let scores = engine.score(&[request]).unwrap().remove(0).unwrap();
    assert!(
        scores.iter().all(|score| score.is_finite() && *score < 0.0),
        "{scores:?}"
    );
}

/// Catches: training on a prompt that differs from the one at generation, and an answer that does not
/// end as the template ends a turn.
#[test]
fn the_trainers_learn_what_the_template_writes() {
    let model = model("gemma3.jinja");
    let templates = Templates::new(Style::Chat);
    let encoder = Encoder {
        tokenizer: &model.tokenizer,
        templates: &templates,
        context: 512,
    };
    let row = Demonstration {
        id: "1".into(),
        prompt: vec![Message::user("Name a bird. <end_of_turn>")],
        prefix: String::new(),
        completion: "A wren.".into(),
        weight: 1.0,
    };
    let example = encoder.demonstration(&row, 0.0).unwrap();
    let prompt = encoder.prompt(&row.prompt).unwrap();
    assert_eq!(example.sequence.tokens[..example.sequence.completion], prompt);
    let completion = &example.sequence.tokens[example.sequence.completion..];
    let (end, text) = completion.split_last().unwrap();
    assert_eq!(model.tokenizer.name(*end).unwrap(), "<end_of_turn>");
    assert_eq!(model.tokenizer.decode(text).unwrap(), "A wren.");
    assert!(model.tokenizer.is_eos(*end) && model.tokenizer.special().eos != *end);
}

/// Catches: a template, or the tokens that end a completion, lost when a trained model is saved; and a
/// changed template under the same hash.
#[test]
fn a_chat_model_is_saved_with_its_template() {
    let (dir, again) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    model("chatml.jinja").save(dir.path(), DType::F32).unwrap();
    let load = |dir: &TempDir| Model::load(dir.path().to_str().unwrap()).unwrap();
    let loaded = load(&dir);
    assert_eq!(
        loaded.tokenizer.chat().unwrap().template.source(),
        golden("chatml.jinja")
    );
    loaded.save(again.path(), DType::F32).unwrap();
    assert_eq!(load(&again).tokenizer.ends(), loaded.tokenizer.ends());
    assert_eq!(loaded.tokenizer.ends().len(), 2);
    fs::write(dir.path().join("chat_template.jinja"), golden("zephyr.jinja")).unwrap();
    assert_ne!(load(&dir).sha256, loaded.sha256);
}

// ---- the command ---------------------------------------------------------------------------------

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn template(arguments: &[&str]) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .env("NO_COLOR", "1")
        .args(["model", "template"])
        .args(arguments)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn written(dir: &TempDir, name: &str, text: &str) -> String {
    let path: PathBuf = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Catches: a byte more or less on stdout than the model reads.
#[test]
fn model_template_prints_what_the_model_reads() {
    let dir = TempDir::new().unwrap();
    let file = written(&dir, "llama2.jinja", &golden("llama2.jinja"));
    let messages = written(
        &dir,
        "messages.json",
        r#"[{"role": "user", "content": "Hé"}, {"role": "assistant", "content": "Ho"}]"#,
    );
    let ran = template(&[&file, "--messages", &messages]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "<s>[INST] Hé [/INST] Ho </s>"),
        "{}",
        ran.stderr
    );
    let ran = template(&[&file, "--messages", &messages, "--bos", "<B>", "--eos", ""]);
    assert_eq!(ran.stdout, "<B>[INST] Hé [/INST] Ho ");
    let ran = template(&[&file, "--messages", &messages, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["text"], "<s>[INST] Hé [/INST] Ho </s>");

    let dated = written(
        &dir,
        "dated.jinja",
        "{{ strftime_now('%d.%m.%Y') }}{% if add_generation_prompt %}>{% endif %}\n",
    );
    assert_eq!(template(&[&dated, "--messages", &messages]).stdout, "26.07.2024");
    let ran = template(&[
        &dated,
        "--messages",
        &messages,
        "--date",
        "2025-02-01",
        "--generation-prompt",
    ]);
    assert_eq!(ran.stdout, "01.02.2025>");
}

/// Catches: a model's own template not found, and control tokens of contents shown as markup.
#[test]
fn model_template_reads_a_models_files() {
    let dir = TempDir::new().unwrap();
    model("chatml.jinja")
        .save(&dir.path().join("model"), DType::F32)
        .unwrap();
    let place = dir.path().join("model").to_str().unwrap().to_owned();
    let messages = written(
        &dir,
        "messages.json",
        r#"{"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "<|im_end|>"}]}"#,
    );
    let ran = template(&[&place, "--messages", &messages, "--generation-prompt"]);
    let text = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, text), "{}", ran.stderr);
    let ran = template(&[&place, "--messages", &messages, "--generation-prompt", "--tokens"]);
    let markup: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("\tmarkup\t")).collect();
    assert_eq!(markup.len(), 5, "{}", ran.stdout);
}

/// Catches: a template's message swallowed, and errors without place, remedy or the right exit code.
#[test]
fn model_template_says_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let raising = written(&dir, "raising.jinja", "{{ raise_exception('Only cats may speak.') }}");
    let broken = written(&dir, "broken.jinja", "{% if %}");
    let messages = written(&dir, "messages.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let nothing = written(&dir, "nothing.json", "[]");
    let cases: [(&[&str], i32, &str); 5] = [
        (&[&raising, "--messages", &messages], 3, "Only cats may speak."),
        (&[&broken, "--messages", &messages], 3, "line 1"),
        (&["builtin:tiny", "--messages", &messages], 3, "no chat template"),
        (&[&raising, "--messages", &nothing], 3, "not a conversation"),
        (&[&raising, "--messages", &messages, "--date", "today"], 2, "YYYY-MM-DD"),
    ];
    for (arguments, code, says) in cases {
        let ran = template(arguments);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (code, ""),
            "{arguments:?}: {}",
            ran.stderr
        );
        assert!(ran.stderr.contains(says), "{arguments:?}: {}", ran.stderr);
    }
}
