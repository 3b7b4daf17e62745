//! Data of other programs: every format and every form becomes the rows it means, in bounded memory.
//!
//! The files of `tests/golden/import/` come from `scripts/golden/import_files.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bylaw::dataset::{
    Form, Kind, Mapping, Options, Provenance, RowStream, Shape, detect, read_candidates, read_demonstrations,
    read_preferences, read_prompts, stream, write_all,
};
use bylaw::error::Error;
use bylaw::record::{Candidates, Demonstration, Message, Preference, Prompt, Reject, Revision, UnpairedPreference};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/import")
        .join(name);
    path.to_str().unwrap().to_owned()
}

/// The real files, which are not part of the repository.
fn shared(path: &str) -> Option<String> {
    let root = std::env::var_os("BYLAW_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    let path = root.join(path);
    if !path.is_file() {
        println!("skipped: {} is absent; set BYLAW_SHARED_DATA", path.display());
        return None;
    }
    path.to_str().map(str::to_owned)
}

/// Everything that a stream gives, to its end or to its error.
struct Read<R> {
    rows: Vec<R>,
    rejects: Vec<Reject>,
    stream: RowStream<R>,
    error: Option<Error>,
}

impl<R> Read<R> {
    fn reasons(&self) -> Vec<&str> {
        self.rejects.iter().map(|reject| reject.reason.as_str()).collect()
    }
}

fn read_with<R: Shape>(reference: &str, options: &Options) -> Read<R> {
    let mut stream = stream::<R>(reference, options).unwrap();
    let (mut rows, mut rejects, mut error) = (Vec::new(), Vec::new(), None);
    for item in &mut stream {
        match item {
            Ok(Ok(row)) => rows.push(row),
            Ok(Err(reject)) => rejects.push(reject),
            Err(end) => error = Some(end),
        }
    }
    Read {
        rows,
        rejects,
        stream,
        error,
    }
}

fn read<R: Shape>(reference: &str) -> Read<R> {
    read_with(reference, &Options::default())
}

/// One object as a row, or the reason why it is none.
fn row<R: Shape>(object: &Value) -> Result<R, String> {
    let files = Files::new();
    let mut read = read::<R>(&files.write("data.jsonl", format!("{object}\n")));
    match read.rejects.pop() {
        None => Ok(read.rows.remove(0)),
        Some(reject) => Err(reject.reason.strip_prefix("line 1: ").unwrap().to_owned()),
    }
}

fn form(object: &Value) -> Form {
    let files = Files::new();
    let detected = detect(&files.write("data.jsonl", object.to_string()), &Options::default(), 10).unwrap();
    detected.forms[0].form
}

fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
    let message = |(role, content): &(&str, &str)| Message {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
    };
    turns.iter().map(message).collect()
}

fn user(text: &str) -> Vec<Message> {
    chat(&[("user", text)])
}

fn assistant(text: &str) -> Vec<Message> {
    chat(&[("assistant", text)])
}

fn demonstration(object: &Value) -> (Vec<Message>, String) {
    let row: Demonstration = row(object).unwrap();
    assert_eq!(row.weight, 1.0);
    (row.prompt, row.completion)
}

fn pair(object: &Value) -> (Vec<Message>, Vec<Message>, Vec<Message>, f32, String) {
    let row: Preference = row(object).unwrap();
    (row.prompt, row.chosen, row.rejected, row.p_chosen, row.source)
}

// ---- forms ---------------------------------------------------------------------------------------

/// Catches: a form taken for another, which imports the wrong columns without a word.
#[test]
fn every_form_is_told_from_the_others() {
    let turn = json!([{"role": "user", "content": "q"}]);
    let said = json!([{"from": "human", "value": "q"}]);
    let cases = [
        (json!({"text": "t"}), Form::Text, Kind::Demonstrations),
        (json!({"messages": turn}), Form::Messages, Kind::Demonstrations),
        (
            json!({"prompt": "q", "completion": "a"}),
            Form::PromptCompletion,
            Kind::Demonstrations,
        ),
        (
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            Form::PromptPair,
            Kind::Preferences,
        ),
        (
            json!({"chosen": turn, "rejected": turn}),
            Form::ImplicitPair,
            Kind::Preferences,
        ),
        (
            json!({"prompt": "q", "completion": "a", "label": true}),
            Form::Unpaired,
            Kind::UnpairedPreferences,
        ),
        // A label of another kind is no thumb.
        (
            json!({"prompt": "q", "completion": "a", "label": "safe"}),
            Form::PromptCompletion,
            Kind::Demonstrations,
        ),
        (
            json!({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}),
            Form::HhRlhf,
            Kind::Preferences,
        ),
        (json!({"conversations": said}), Form::ShareGpt, Kind::Demonstrations),
        (
            json!({"conversations": said, "chosen": {}, "rejected": {}}),
            Form::ShareGptPair,
            Kind::Preferences,
        ),
        (
            json!({"conversations": said, "kto_tag": true}),
            Form::ShareGptUnpaired,
            Kind::UnpairedPreferences,
        ),
        (
            json!({"instruction": "i", "input": "", "output": "o", "text": "t"}),
            Form::Alpaca,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "chosen": "a", "rejected": "b"}),
            Form::AlpacaPair,
            Kind::Preferences,
        ),
        (
            json!({"instruction": "i", "completions": [{"response": "a"}]}),
            Form::UltraFeedback,
            Kind::Candidates,
        ),
        (
            json!({"prompt": "q", "chosen": turn, "rejected": turn, "score_chosen": 8.0, "score_rejected": 2.0}),
            Form::ScoredPair,
            Kind::Preferences,
        ),
        (
            json!({"init_prompt": "q", "init_response": "a", "revision_response": "b", "messages": turn}),
            Form::Cai,
            Kind::Revisions,
        ),
        (
            json!({"instruction": "i", "generation": "g"}),
            Form::DistilabelGeneration,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "generations": ["g"]}),
            Form::DistilabelGenerations,
            Kind::Candidates,
        ),
        (
            json!({"input": "i", "output": "o"}),
            Form::InputOutput,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "instances": []}),
            Form::SelfInstruct,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "input": "", "response1": "", "response2": "",
                   "annotator1": 1, "annotator2": 1, "annotator3": 1}),
            Form::PandaLm,
            Kind::Preferences,
        ),
        (
            json!({"prompt": "q", "completions": ["a"]}),
            Form::PromptCompletions,
            Kind::Candidates,
        ),
        (json!({"prompt": "q"}), Form::Prompt, Kind::Prompts),
        // Columns that other rows fill are null here.
        (
            json!({"messages": null, "prompt": null, "text": "t"}),
            Form::Text,
            Kind::Demonstrations,
        ),
        (
            json!({"id": "i", "messages": turn, "source": "", "tags": []}),
            Form::Own(Kind::Prompts),
            Kind::Prompts,
        ),
    ];
    for (object, expected, kind) in cases {
        assert_eq!(form(&object), expected, "{object}");
        assert_eq!(expected.kind(), kind, "{object}");
    }
}

/// Catches: a role, a system turn or an input lost on the way into a demonstration.
#[test]
fn demonstrations_of_every_form() {
    let alpaca = json!({"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]});
    assert_eq!(
        demonstration(&alpaca),
        (
            chat(&[
                ("system", "s"),
                ("user", "a"),
                ("assistant", "b"),
                ("user", "Add.\n1 2")
            ]),
            "3".into()
        )
    );
    let bare = json!({"instruction": "Add.", "input": "", "output": "3", "system": null, "history": null});
    assert_eq!(demonstration(&bare), (user("Add."), "3".into()));
    let sharegpt = json!({"system": "s", "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
        {"from": "user", "value": "r"}, {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(
        demonstration(&sharegpt),
        (
            chat(&[("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")]),
            "b".into()
        )
    );
    let cai = json!({"init_prompt": "q", "init_response": "bad", "revision_response": "good"});
    assert_eq!(demonstration(&cai), (user("q"), "good".into()));
    let distilabel = json!({"instruction": "q", "system_prompt": "s", "generation": "a"});
    assert_eq!(
        demonstration(&distilabel),
        (chat(&[("system", "s"), ("user", "q")]), "a".into())
    );
    let openrlhf = json!({"input": "q", "output": "a"});
    assert_eq!(demonstration(&openrlhf), (user("q"), "a".into()));
    let openrlhf =
        json!({"input": [{"role": "user", "content": "q"}], "output": [{"role": "assistant", "content": "a"}]});
    assert_eq!(demonstration(&openrlhf), (user("q"), "a".into()));
    let task = json!({"instruction": "i", "instances": [{"input": "x", "output": "y"}]});
    assert_eq!(demonstration(&task), (user("i\nx"), "y".into()));
}

/// Catches: chosen and rejected swapped, a label made up, scores overlooked.
#[test]
fn preferences_of_every_form() {
    let human = |prompt: Vec<Message>| (prompt, assistant("good"), assistant("bad"), 1.0, "human".to_owned());
    let judge = |prompt: Vec<Message>| (prompt, assistant("good"), assistant("bad"), 1.0, "judge".to_owned());
    let sharegpt = json!({
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"},
    });
    assert_eq!(pair(&sharegpt), human(user("q")));
    let alpaca = json!({"instruction": "q", "input": "x", "chosen": "good", "rejected": "bad"});
    assert_eq!(pair(&alpaca), human(user("q\nx")));
    let scored = json!({
        "prompt": "q", "score_chosen": 7.5, "score_rejected": 7, "messages": [],
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
    });
    assert_eq!(pair(&scored), human(user("q")));
    let ultrafeedback = json!({"instruction": "q", "completions": [
        {"response": "so-so", "overall_score": 5.0}, {"response": "bad", "overall_score": 1},
        {"response": "good", "overall_score": 8.5}, {"response": "too", "overall_score": 8.5},
    ]});
    assert_eq!(pair(&ultrafeedback), judge(user("q")));
    let distilabel = json!({"instruction": "q", "generations": ["bad", "good"], "ratings": [1, 4.5]});
    assert_eq!(pair(&distilabel), judge(user("q")));
    let cai = json!({
        "init_prompt": "q", "init_response": "bad", "revision_response": "good", "prompt": "q",
        "chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}],
    });
    let (.., source) = pair(&cai);
    assert_eq!((pair(&cai).1, source.as_str()), (assistant("good"), "revision"));

    let votes = |a: u8, b: u8, c: u8| {
        json!({"instruction": "q", "input": "", "response1": "one", "response2": "two",
               "annotator1": a, "annotator2": b, "annotator3": c})
    };
    for (object, better, p) in [
        (votes(1, 1, 1), "one", 1.0),
        (votes(2, 1, 2), "two", 2.0 / 3.0),
        (votes(0, 1, 1), "one", 2.5 / 3.0),
    ] {
        let (_, chosen, _, p_chosen, source) = pair(&object);
        assert_eq!((chosen, source.as_str()), (assistant(better), "human"));
        assert!((p_chosen - p).abs() < 1e-6, "{p_chosen}");
    }
}

/// Catches: what distilabel does with equal ratings, and every other label that says nothing.
#[test]
fn labels_that_name_no_better_answer_are_rejects() {
    let rated = |ratings: Value| json!({"instruction": "q", "generations": ["a", "b"], "ratings": ratings});
    let scored = |chosen: Value, rejected: Value| json!({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": chosen, "score_rejected": rejected});
    let votes = |a: Value, b: Value, c: Value| {
        json!({"instruction": "q", "input": "", "response1": "one", "response2": "two",
               "annotator1": a, "annotator2": b, "annotator3": c})
    };
    let cases = [
        (
            rated(json!([3, 3])),
            "all 2 ratings are 3: no answer is better than another",
        ),
        (rated(json!([3])), "`generations` has 2 answers, `ratings` has 1"),
        (rated(json!([3, null])), "`ratings[1]` should be a number, but is null"),
        (
            rated(json!([3, "NaN"])),
            "`ratings[1]` is NaN, expected a finite number",
        ),
        (rated(json!(null)), "`ratings` should be a list of ratings, but is null"),
        (
            json!({"instruction": "q", "generations": ["a", "a"], "ratings": [1, 2]}),
            "the best and the worst answer are the same text",
        ),
        (
            json!({"instruction": "q", "generations": ["a"], "ratings": [1]}),
            "there is one answer, rated 1, and none to compare it with",
        ),
        (
            json!({"instruction": "q", "completions": [{"response": "a"}]}),
            "`completions[0].overall_score` is missing",
        ),
        (
            scored(json!(7), json!(7.0)),
            "`score_chosen` and `score_rejected` are both 7: neither answer is preferred",
        ),
        (
            scored(json!(1), json!(7)),
            "`score_chosen` is 1, less than the 7 of `score_rejected`: the scores contradict the columns",
        ),
        (
            scored(json!("inf"), json!(7)),
            "`score_chosen` is inf, expected a finite number",
        ),
        (
            votes(json!(1), json!(2), json!(0)),
            "the 3 annotators disagree: no answer has a majority",
        ),
        (
            votes(json!(0), json!(2), json!(0)),
            "2 of the 3 annotators call it a tie: no answer is preferred",
        ),
        (
            votes(json!(1), json!(3), json!(1)),
            "`annotator2` is 3, expected 1, 2, or 0 for a tie",
        ),
        (
            json!({"init_prompt": "q", "init_response": "a", "revision_response": "a"}),
            "`revision_response` is the same text as `init_response`: the revision changed nothing",
        ),
    ];
    for (object, reason) in cases {
        assert_eq!(row::<Preference>(&object).unwrap_err(), reason, "{object}");
    }
    let own = |p: Value, margin: Value| {
        json!({"id": "i", "prompt": user("q"), "chosen": assistant("a"), "rejected": assistant("b"), "p_chosen": p,
               "margin": margin, "weight": 1.0, "source": "judge", "votes": [], "chosen_tokens": 0,
               "rejected_tokens": 0, "chosen_chars": 1, "rejected_chars": 1, "p_raw": 0.5})
    };
    assert!(row::<Preference>(&own(json!(0.7), json!(0.8))).is_ok());
    for (p, reason) in [
        (json!(0.4), "expected 0.5 to 1"),
        (json!(1.5), "expected 0.5 to 1"),
        (json!(null), "not a row"),
    ] {
        assert!(row::<Preference>(&own(p, json!(0.8))).unwrap_err().contains(reason));
    }
}

#[test]
fn unpaired_preferences_of_every_form() {
    let trl: UnpairedPreference = row(&json!({"prompt": "q", "completion": "a", "label": false})).unwrap();
    assert_eq!(
        (&trl.prompt, &trl.completion, trl.label),
        (&user("q"), &assistant("a"), false)
    );
    let messages = json!({"prompt": user("q"), "completion": assistant("a"), "label": 0});
    assert_eq!(row::<UnpairedPreference>(&messages).unwrap(), trl);
    let sharegpt = json!({"kto_tag": false, "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
    ]});
    assert_eq!(row::<UnpairedPreference>(&sharegpt).unwrap(), trl);
    for (label, reason) in [
        (json!(2), "`label` is 2, expected true or false"),
        (json!("yes"), "`label` is \"yes\", expected true or false"),
        (json!(null), "`label` should be true or false, but is null"),
    ] {
        let object = json!({"prompt": "q", "completion": "a", "label": label});
        assert_eq!(row::<UnpairedPreference>(&object).unwrap_err(), reason);
    }
    // Nothing should learn an answer with a thumb down.
    let bad = json!({"prompt": "q", "completion": "a", "label": false});
    assert!(row::<Demonstration>(&bad).unwrap_err().contains("a bad one"));
}

#[test]
fn revisions_and_candidates_of_other_programs() {
    let cai = json!({"init_prompt": "q", "init_response": "bad", "critic_prompt": "c?", "critic_response": "c",
                     "revision_prompt": "r?", "revision_response": "good"});
    let revision: Revision = row(&cai).unwrap();
    assert_eq!((&revision.initial[..], &revision.final_answer[..]), ("bad", "good"));
    assert_eq!(revision.messages, chat(&[("user", "q"), ("assistant", "good")]));
    let [round] = &revision.rounds[..] else {
        panic!("one round")
    };
    assert_eq!(
        (
            &round.critique_request[..],
            &round.critique[..],
            &round.revision_request[..],
            &round.revision[..],
            round.changed
        ),
        ("c?", "c", "r?", "good", true)
    );
    let texts = |object: &Value| -> Vec<String> {
        let row: Candidates = row(object).unwrap();
        row.completions.into_iter().map(|completion| completion.text).collect()
    };
    // Candidates need no ratings.
    assert_eq!(
        texts(&json!({"instruction": "q", "generations": ["a", "b"], "ratings": null})),
        ["a", "b"]
    );
    let ultrafeedback = json!({"instruction": "q", "completions": [{"response": "a"}, {"response": "b"}]});
    assert_eq!(texts(&ultrafeedback), ["a", "b"]);
}

#[test]
fn rows_of_other_forms_say_what_is_wrong() {
    let demonstrations = [
        (
            json!({"instruction": "i", "instances": [{}, {}]}),
            "`instances` holds 2, and a row is made of one: write each to a row of its own",
        ),
        (json!({"instruction": "i", "instances": []}), "`instances` is empty"),
        (
            json!({"instruction": "i", "instances": [{"input": ""}]}),
            "`instances[0]`: `output` is missing",
        ),
        (
            json!({"conversations": [{"from": "tool", "value": "x"}]}),
            "`conversations[0]` is from \"tool\", expected human, gpt or system; a mapping file can rename roles",
        ),
        (
            json!({"conversations": [{"from": "human", "value": "x"}]}),
            "`conversations` does not end with an assistant turn",
        ),
        (
            json!({"conversations": [{"from": "human"}]}),
            "`conversations[0]`: `value` is missing",
        ),
        (
            json!({"instruction": "i", "output": "o", "history": [["a"]]}),
            "`history[0]` should be a question and its answer, but is a list",
        ),
        (
            json!({"instruction": 7, "output": "o"}),
            "`instruction` should be a string, but is a number",
        ),
    ];
    for (object, reason) in demonstrations {
        assert_eq!(row::<Demonstration>(&object).unwrap_err(), reason);
    }
    // What the row is taken for helps to see the wrong command.
    let reason = row::<Preference>(&json!({"conversations": []})).unwrap_err();
    assert!(
        reason.ends_with("found ShareGPT conversations: conversations"),
        "{reason}"
    );
}

/// Catches: a demonstration's prompt that differs from the prompt read from the same row.
#[test]
fn prompts_are_what_the_rows_ask() {
    for object in [
        json!({"instruction": "i", "input": "x", "output": "o"}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        json!({"init_prompt": "q", "init_response": "bad", "revision_response": "good"}),
        json!({"instruction": "q", "system_prompt": "s", "generation": "a"}),
        json!({"instruction": "i", "instances": [{"input": "x", "output": "y"}]}),
        json!({"input": "q", "output": "a"}),
    ] {
        let prompt: Prompt = row(&object).unwrap();
        assert_eq!(prompt.messages, demonstration(&object).0, "{object}");
    }
}

/// Catches: ids, weights and soft labels that an export kept and an import made anew.
#[test]
fn what_an_export_keeps_beside_a_form_comes_back() {
    let object = json!({"messages": chat(&[("user", "q"), ("assistant", "a")]), "bylaw_id": "mine", "weight": 0.25});
    let kept: Demonstration = row(&object).unwrap();
    assert_eq!((&kept.id[..], kept.weight), ("mine", 0.25));
    // Without our id the other columns are another program's.
    let other: Demonstration = row(&json!({"messages": object["messages"], "id": "mine", "weight": 0.25})).unwrap();
    assert!(other.id != "mine" && other.weight == 1.0);
    let object = json!({"prompt": "q", "bylaw_id": "mine", "source": "s", "tags": ["t"]});
    let kept: Prompt = row(&object).unwrap();
    assert_eq!((&kept.id[..], &kept.source[..]), ("mine", "s"));
    let object = json!({
        "conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"}, "bylaw_id": "mine", "p_chosen": 0.75, "weight": 0.5,
        "source": "judge", "votes": [], "chosen_tokens": 1, "rejected_tokens": 2, "chosen_chars": 1,
        "rejected_chars": 1, "p_raw": 0.25,
    });
    let kept: Preference = row(&object).unwrap();
    assert_eq!(
        (&kept.id[..], kept.p_chosen, kept.p_raw, kept.rejected_tokens),
        ("mine", 0.75, 0.25, 2)
    );
    assert_eq!((&kept.prompt, &kept.chosen), (&user("q"), &assistant("a")));
    assert!((kept.margin - 3_f32.ln()).abs() < 1e-6);
    let mut wrong = object.clone();
    wrong["p_chosen"] = json!(0.25);
    assert_eq!(
        row::<Preference>(&wrong).unwrap_err(),
        "`p_chosen` is 0.25, expected 0.5 to 1"
    );
    wrong["p_chosen"] = json!("high");
    let reason = row::<Preference>(&wrong).unwrap_err();
    assert!(
        reason.starts_with("not what an export carries of preferences"),
        "{reason}"
    );
}

// ---- formats -------------------------------------------------------------------------------------

fn golden_rows() -> Vec<Preference> {
    let objects: Vec<Value> = serde_json::from_str(&fs::read_to_string(golden("rows.json")).unwrap()).unwrap();
    objects.iter().map(|object| row(object).unwrap()).collect()
}

/// Catches: a codec, an encoding or a batch that a reader of ours does not get right.
#[test]
fn files_of_pyarrow_polars_and_datasets_hold_the_same_rows() {
    let expected = golden_rows();
    for name in [
        "rows.json",
        "pyarrow-none.parquet",
        "pyarrow-snappy.parquet",
        "pyarrow-gzip.parquet",
        "pyarrow-zstd.parquet",
        "pyarrow-brotli.parquet",
        "pyarrow-lz4.parquet",
        "pyarrow-groups.parquet",
        "pyarrow.arrow",
        "pyarrow-lz4.arrow",
        "pyarrow-zstd.arrow",
        "pyarrow-stream.arrow",
        "pyarrow.feather",
        "polars.parquet",
        "polars.arrow",
        "polars-zstd.arrow",
        "datasets.parquet",
        "datasets.jsonl",
        "saved",
    ] {
        let read = read::<Preference>(&golden(name));
        assert!(
            read.error.is_none() && read.rejects.is_empty(),
            "{name}: {:?}",
            read.error
        );
        assert_eq!(read.rows, expected, "{name}");
        let position = read.stream.position();
        assert_eq!(position.bytes, position.total, "{name}");
        let found = &read.stream.detected().forms;
        assert_eq!(
            (found.len(), found[0].form, found[0].rows),
            (1, Form::PromptPair, 3),
            "{name}"
        );
    }
    // CSV holds texts only.
    let csv = read_preferences(&golden("datasets.csv")).unwrap();
    for (row, expected) in csv.rows.iter().zip(&expected) {
        assert_eq!((&row.chosen, &row.rejected), (&expected.chosen, &expected.rejected));
        assert_eq!(row.prompt.last(), expected.prompt.last());
    }
    assert_eq!(csv.rows.len(), 3);
}

/// Catches: a hash that is not that of the file, which provenance would then record.
#[test]
fn every_format_is_hashed_as_sha256sum_does() {
    use sha2::{Digest, Sha256};
    for name in [
        "rows.json",
        "pyarrow-zstd.parquet",
        "pyarrow.arrow",
        "pyarrow-stream.arrow",
        "datasets.jsonl",
        "datasets.csv",
    ] {
        let hash: String = Sha256::digest(fs::read(golden(name)).unwrap())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            read::<Preference>(&golden(name)).stream.sha256(),
            Some(hash.as_str()),
            "{name}"
        );
    }
}

/// Catches: a column type that makes a row unreadable, or that comes out as another value.
#[test]
fn every_arrow_type_becomes_a_json_value() {
    let expected: Value = serde_json::from_str(&fs::read_to_string(golden("types.json")).unwrap()).unwrap();
    for (name, arrow_only) in [("types.arrow", true), ("types.parquet", false)] {
        // No form has these columns: the rejects say what was read.
        let read = read::<Prompt>(&golden(name));
        assert_eq!(read.rejects.len(), 2, "{name}: {:?}", read.error);
        for (index, reject) in read.rejects.iter().enumerate() {
            let mut wanted = expected["rows"][index].as_object().unwrap().clone();
            if arrow_only {
                wanted.extend(expected["arrow_only"][index].as_object().unwrap().clone());
            }
            let found: Value = serde_json::from_str(&reject.raw).unwrap();
            for (key, value) in &wanted {
                assert_eq!(&found[key], value, "{name}: {key} of row {index}");
            }
            assert_eq!(found.as_object().unwrap().len(), wanted.len());
        }
    }
}

/// Catches: an image beside the texts that makes the row unreadable.
#[test]
fn columns_that_are_not_read_do_no_harm_and_are_named_once() {
    let read = read::<Preference>(&golden("wide.parquet"));
    assert_eq!((read.rows.len(), read.rejects.len()), (1, 0));
    assert_eq!(read.stream.detected().unused, ["image", "topic", "meta"]);
    assert_eq!(
        read.stream.detected().to_string(),
        "TRL preferences (prompt, chosen, rejected), 1 row"
    );
}

/// Catches: a list read whole or by lines, objects lost at borders, a bad element that ends the reading.
#[test]
fn json_is_read_an_object_at_a_time() {
    let files = Files::new();
    let text =
        "\u{feff} [\n{\"prompt\": \"a]}\\\"\"},\n 7, {\"prompt\":\n  tru}, {\"prompt\": NaN}\n,{\"prompt\": \"b\"}]\n";
    let found = read::<Prompt>(&files.write("a.json", text));
    let texts: Vec<&str> = found.rows.iter().map(|row| row.messages[0].content.as_str()).collect();
    assert_eq!(texts, ["a]}\"", "b"]);
    assert_eq!(
        found.reasons(),
        [
            "row 2 at line 3: expected a JSON object, found a number",
            "row 3 at line 3: not valid JSON: expected ident at line 4 column 6",
            "row 4 at line 4: not valid JSON: expected value at line 4 column 20: NaN is not a number of JSON",
        ]
    );
    assert_eq!(found.rejects[0].raw, "7");

    // Objects one after the other, over several lines.
    let found = read::<Prompt>(&files.write(
        "b.json",
        "{\"prompt\":\n\"a\"}\n\n{\"prompt\": \"b\"}{\"prompt\": \"c\"}",
    ));
    assert_eq!((found.rows.len(), found.rejects.len()), (3, 0));

    let found = read::<Prompt>(&files.write("c.json", "[{\"prompt\": \"a\"}, {\"prompt\": \"b"));
    assert_eq!(found.rows.len(), 1);
    assert!(
        found.reasons()[0].starts_with("row 2 at line 1: not valid JSON: EOF"),
        "{:?}",
        found.reasons()
    );
    assert_eq!(
        found.reasons()[1],
        "row 3 at line 1: the file ends before its list does: it was cut short"
    );

    let found = read::<Prompt>(&files.write("d.json", "[{\"prompt\": \"a\"}] {\"prompt\": \"b\"}"));
    assert_eq!(found.reasons(), ["row 2 at line 1: stands behind the end of the list"]);

    for (text, reason) in [("[]", "is empty"), ("", "is empty"), ("prompt\n", "it begins with 'p'")] {
        let error = read::<Prompt>(&files.write("e.json", text)).error.unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// Catches: a cell that stands for a list or a number read as text, quotes and line breaks in cells.
#[test]
fn csv_cells_are_read_as_what_they_stand_for() {
    let files = Files::new();
    let text = "\u{feff}prompt,chosen,rejected,score_chosen,score_rejected,note\r\n\
                \"q, \"\"r\"\"\n2\",a,b,3,2.5,\r\n\
                \"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"q\"\"}]\",a,b,,,x\r\n\
                [1],a,b,nan,1,\r\n";
    let found = read::<Preference>(&files.write("a.csv", text));
    let asked: Vec<&str> = found.rows.iter().map(|row| row.prompt[0].content.as_str()).collect();
    assert_eq!(asked, ["q, \"r\"\n2", "q"]);
    assert_eq!(
        found.reasons(),
        ["row 3 at line 5: `score_chosen` is NaN, expected a finite number"]
    );
    assert_eq!(found.stream.detected().unused, ["note"]);

    let tsv = "prompt\tcompletion\tlabel\na\tb\tTrue\nc\td\t0\n";
    let found = read::<UnpairedPreference>(&files.write("a.tsv", tsv));
    assert_eq!(
        found.rows.iter().map(|row| row.label).collect::<Vec<_>>(),
        [true, false]
    );

    let lists = "instruction,generations,ratings\nq,\"[\"\"a\"\",\"\"b\"\"]\",\"[1,2]\"\n";
    assert_eq!(read_preferences(&files.write("b.csv", lists)).unwrap().rows.len(), 1);
}

/// Catches: rows that vanish into a cell behind an open quote, or shift by a missing one.
#[test]
fn bad_csv_records_are_rejects_with_their_line() {
    let files = Files::new();
    let text = b"prompt,note\na,1\nb\nc,1,2\n\xff,1\nd,\"open\ne,1\nf,1\n";
    let found = read::<Prompt>(&files.write("a.csv", text));
    assert_eq!(found.rows.len(), 1);
    assert_eq!(
        found.reasons(),
        [
            "row 2 at line 3: has 1 cells, the header has 2",
            "row 3 at line 4: has 3 cells, the header has 2",
            "row 4 at line 5: the column `prompt` is not UTF-8 at byte 1",
            "row 5 at line 6: a quote is left open: it takes the rest of the file into one cell",
        ]
    );
    // A quote inside of a bare cell is a quote, at the end of the file too.
    assert_eq!(
        read::<Prompt>(&files.write("b.csv", "prompt,note\n5\" nail,x\n"))
            .rows
            .len(),
        1
    );

    for (text, reason) in [
        ("", "is empty"),
        ("prompt\n", "is empty"),
        ("prompt,prompt\na,b\n", "two columns are named `prompt`"),
        ("prompt;note\na;b\n", "the header has one column, \"prompt;note\""),
    ] {
        let mut stream = stream::<Prompt>(&files.write("c.csv", text), &Options::default()).unwrap();
        let error = stream.next().unwrap().unwrap_err();
        assert!(
            error.to_string().contains(reason) && error.help_text().is_some(),
            "{error}"
        );
    }
    let limit = Options {
        record_limit: 1000,
        ..Options::default()
    };
    let long = format!("prompt\na\n\"{}", "x\n".repeat(400_000));
    let found = read_with::<Prompt>(&files.write("d.csv", long), &limit);
    let error = found.error.unwrap().to_string();
    assert!(
        error.contains("the record at line 3 is longer than the limit of 1000 bytes"),
        "{error}"
    );
}

/// Catches: a line of any length read into memory, or one that takes the next lines with it.
#[test]
fn records_over_the_limit_are_rejects_with_their_beginning() {
    let files = Files::new();
    let options = Options {
        record_limit: 5000,
        ..Options::default()
    };
    let line = |length: usize| format!("{{\"prompt\": \"{}\"}}", "x".repeat(length - 14));
    let lines = [line(5000 - 1), line(5001), line(600_000), line(20)].join("\n");
    let found = read_with::<Prompt>(&files.write("a.jsonl", &lines), &options);
    assert_eq!(found.rows.len(), 2);
    assert_eq!(
        found.reasons(),
        [
            "line 2: the line has 5002 bytes, more than the limit of 5000",
            "line 3: the line has 600001 bytes, more than the limit of 5000",
        ]
    );
    assert!(found.rejects[1].raw.len() < 1100 && found.rejects[1].raw.starts_with("{\"prompt\": \"xx"));

    let list = format!("[{}, {}, {}]", line(20), line(600_000), line(4000));
    let found = read_with::<Prompt>(&files.write("a.json", list), &options);
    assert_eq!((found.rows.len(), found.rejects.len()), (2, 1));
    assert_eq!(
        found.reasons(),
        ["row 2 at line 1: the object has 600000 bytes, more than the limit of 5000"]
    );
}

/// Catches: a damaged file that panics, allocates by its lengths, or passes for a shorter one.
#[test]
fn damaged_files_end_the_stream_with_an_error() {
    let files = Files::new();
    for name in [
        "pyarrow-zstd.parquet",
        "pyarrow.arrow",
        "pyarrow-stream.arrow",
        "pyarrow-lz4.arrow",
    ] {
        let bytes = fs::read(golden(name)).unwrap();
        let extension = name.rsplit('.').next().unwrap();
        for length in (1..bytes.len()).step_by(97) {
            let path = files.write(&format!("cut.{extension}"), &bytes[..length]);
            let end = stream::<Preference>(&path, &Options::default())
                .unwrap()
                .find_map(Result::err);
            assert!(
                end.is_some_and(|error| error.help_text().is_some()),
                "{name} cut at {length}"
            );
        }
        for position in (0..bytes.len()).step_by(13) {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x55;
            let path = files.write(&format!("flipped.{extension}"), &flipped);
            // Any end but a panic: without a checksum, text may change and still be text.
            let _ = stream::<Preference>(&path, &Options::default()).unwrap().count();
        }
    }
}

#[test]
fn a_directory_reads_its_data_and_not_what_describes_it() {
    let files = Files::new();
    files.write("dataset_info.json", "{\"version\": 1}");
    files.write("config.json", "{\"version\": 1}");
    files.write("a.csv", "prompt\na\n");
    files.write("b.ndjson", "{\"prompt\": \"b\"}");
    let dir = files.0.path().to_str().unwrap();
    let found = read::<Prompt>(dir);
    assert_eq!((found.rows.len(), found.rejects.len()), (2, 0));
    let only = Files::new();
    only.write("dataset_info.json", "{\"version\": 1}");
    only.write("alpaca.json", "[{\"instruction\": \"i\", \"output\": \"o\"}]");
    assert_eq!(
        read_demonstrations(only.0.path().to_str().unwrap()).unwrap().rows.len(),
        1
    );
    let nested = Files::new();
    fs::create_dir(nested.0.path().join("train")).unwrap();
    let error = read_prompts(nested.0.path().to_str().unwrap()).unwrap_err();
    assert!(error.help_text().unwrap().contains("train"), "{:?}", error.help_text());
}

/// Catches: a mapping that is silently without effect, rows inside of another object taken for nothing.
#[test]
fn what_cannot_be_meant_is_said() {
    let files = Files::new();
    let own = json!({"id": "i", "messages": user("q"), "source": "", "tags": []});
    let dir = files.0.path().join("own");
    let rows: Vec<Prompt> = vec![row(&own).unwrap()];
    write_all(&dir, &rows, Provenance::new("import", 1)).unwrap();
    let options = mapped("[columns]\nprompt = \"messages\"\n");
    for path in [dir.clone(), dir.join("data-00000-of-00001.arrow")] {
        let error = read_with::<Prompt>(path.to_str().unwrap(), &options).error.unwrap();
        assert!(error.to_string().contains("rows are rows of bylaw"), "{error}");
    }
    let found = read::<Prompt>(&files.write("a.json", "{\"data\": [{\"prompt\": \"q\"}]}"));
    assert!(found.reasons()[0].ends_with("the rows seem to be inside of `data`: write them as a list of their own"));
    #[cfg(unix)]
    {
        let link = files.0.path().join("loop.jsonl");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        let error = read_prompts(link.to_str().unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("cannot read") && error.help_text().unwrap().contains("links"),
            "{error}"
        );
    }
}

/// Catches: a mixture read as if all rows had the first one's form.
#[test]
fn the_forms_of_a_mixture_are_counted() {
    let files = Files::new();
    let lines = "{\"instruction\": \"i\", \"output\": \"o\", \"input\": \"x\", \"id\": 1}\n{\"text\": \"t\"}\n\
                 {\"instruction\": \"i\", \"output\": \"o\", \"id\": 2}\n{}\n";
    let found = read::<Demonstration>(&files.write("a.jsonl", lines));
    let detected = found.stream.detected();
    assert_eq!(
        detected.to_string(),
        "Alpaca instructions (instruction, output, input), 2 rows; TRL texts (text), 1 row"
    );
    assert_eq!(detected.unused, ["id"]);
    assert_eq!(
        (found.stream.counts(), detected.kind()),
        ((3, 1), Some(Kind::Demonstrations))
    );
}

// ---- mapping -------------------------------------------------------------------------------------

fn mapped(text: &str) -> Options {
    Options {
        mapping: Some(Mapping::parse(text, "map.toml").unwrap()),
        ..Options::default()
    }
}

/// Catches: a path into an object or a list that finds another value, roles that stay as they were.
#[test]
fn a_mapping_names_the_columns_of_other_data() {
    let files = Files::new();
    let options = mapped(
        "format = \"jsonl\"\n[columns]\nprompt = \"q.turns\"\nchosen = \"answers.1.text\"\nrejected = \"a.b\"\nid = \"uuid\"\n\
         [roles]\nPrompter = \"user\"\n[messages]\nrole = \"who\"\ncontent = \"said\"\n",
    );
    let object = json!({
        "q": {"turns": [{"who": "Prompter", "said": "hi"}]},
        "answers": [{"text": "worse"}, {"text": "better"}],
        "a.b": "worst", "uuid": "u-1", "prompt": "not this", "noise": 1,
    });
    let found = read_with::<Preference>(&files.write("data.txt", object.to_string()), &options);
    assert_eq!(found.reasons(), [""; 0]);
    let row = &found.rows[0];
    assert_eq!(
        (&row.prompt, &row.chosen, &row.rejected),
        (&user("hi"), &assistant("better"), &assistant("worst"))
    );
    assert_eq!(row.id, "u-1");
    assert_eq!(found.stream.detected().unused, ["prompt", "noise"]);

    // CSV of another delimiter; a mapped list is a list.
    let options = mapped("delimiter = \";\"\n[columns]\nconversations = \"dialog\"\n");
    let csv = "dialog;x\n[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"a\"}];1\n";
    let csv = csv.replace('"', "\"\"").replace("[{", "\"[{").replace("}]", "}]\"");
    let found = read_with::<Demonstration>(&files.write("data.csv", csv), &options);
    assert_eq!((found.reasons(), found.rows[0].completion.as_str()), (vec![], "a"));

    // Roles alone leave the columns as they are.
    let options = mapped("[roles]\nbot = \"assistant\"\nperson = \"user\"\n");
    let object = json!({"messages": [{"role": "person", "content": "q"}, {"role": "bot", "content": "a"}]});
    let found = read_with::<Demonstration>(&files.write("roles.jsonl", object.to_string()), &options);
    assert_eq!(found.rows[0].completion, "a");
}

#[test]
fn a_bad_mapping_is_pointed_at() {
    for (text, place, message, help) in [
        (
            "[columns]\npromt = \"q\"\n",
            "2:1",
            "no row has a column `promt`",
            "did you mean `prompt`?",
        ),
        (
            "[columns]\nprompt = \"a..b\"\n",
            "2:10",
            "\"a..b\" is not the path of a column",
            "better.text",
        ),
        (
            "[roles]\nhuman = \"User\"\n",
            "2:9",
            "there is no role \"User\"",
            "system, user and assistant",
        ),
        (
            "format = \"xlsx\"\n",
            "1:10",
            "the format \"xlsx\" is not read",
            "jsonl, json, csv",
        ),
        (
            "delimiter = \"ab\"\n",
            "1:13",
            "\"ab\" cannot separate cells",
            "one ASCII character",
        ),
        ("colums = 1\n", "1:1", "not a mapping", "[columns]"),
        ("[columns\n", "1:9", "not a mapping", "[columns]"),
    ] {
        let error = Mapping::parse(text, "map.toml").unwrap_err();
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("map.toml:{place}: ")) && told.contains(message),
            "{told}"
        );
        assert!(error.help_text().unwrap().contains(help), "{:?}", error.help_text());
    }
    let files = Files::new();
    let options = mapped("[columns]\nprompt = \"questoin\"\n");
    let path = files.write("a.jsonl", "{\"question\": \"q\"}\n{\"question\": \"q\"}\n");
    let error = read_with::<Prompt>(&path, &options).error.unwrap().to_string();
    assert_eq!(
        error,
        "map.toml:2:10: the row has no `questoin`, which the mapping names for `prompt`; did you mean `question`?"
    );
    // A column that some rows lack costs those rows only.
    let path = files.write("b.jsonl", "{\"questoin\": \"q\"}\n{\"question\": \"q\"}\n");
    let found = read_with::<Prompt>(&path, &options);
    assert_eq!(
        (found.rows.len(), found.rejects.len(), found.error.is_none()),
        (1, 1, true)
    );
    assert!(
        Mapping::load(files.0.path().join("absent.toml"))
            .unwrap_err()
            .help_text()
            .is_some()
    );
}

// ---- real data -----------------------------------------------------------------------------------

/// Catches: rows of the real file dropped or guessed; counted apart from the program.
#[test]
fn real_files_are_read_whole() {
    if let Some(path) = shared("hh-rlhf/harmless-test.dev.jsonl") {
        let found = read::<Preference>(&path);
        assert_eq!((found.rows.len(), found.rejects.len()), (1468, 8));
        assert_eq!(found.stream.detected().forms[0].form, Form::HhRlhf);
    }
    if let Some(path) = shared("self-instruct/seed_tasks.jsonl") {
        let found = read::<Demonstration>(&path);
        assert_eq!((found.rows.len(), found.rejects.len()), (175, 0));
        assert_eq!(found.stream.detected().unused, ["id", "name", "is_classification"]);
        assert_eq!(read_prompts(&path).unwrap().rows.len(), 175);
    }
    if let Some(path) = shared("pandalm/testset-v1.json") {
        let found = read::<Preference>(&path);
        assert_eq!(found.rows.len() + found.rejects.len(), 999);
        let count = |part: &str| found.reasons().iter().filter(|reason| reason.contains(part)).count();
        assert_eq!(count("should be a string, but is a boolean"), 6);
        println!(
            "{} ties, {} without a majority, {} of one text",
            count("call it a tie"),
            count("disagree"),
            count("same text")
        );
        assert_eq!(
            6 + count("call it a tie") + count("disagree") + count("same text"),
            found.rejects.len()
        );
        assert_eq!(read_candidates(&path).unwrap().rows.len(), 993);
    }
    if let Some(path) = shared("pandalm/gpt-3.5-turbo-testset-v1.json") {
        // Verdicts without their texts are no data.
        let error = read_preferences(&path).unwrap_err().to_string();
        assert!(
            error.contains("none of its 999 rows can be read as preferences"),
            "{error}"
        );
    }
    if let Some(path) = shared("xstest/xstest_prompts.csv") {
        assert_eq!(read_prompts(&path).unwrap().rows.len(), 450);
    }
    if let Some(path) = shared("xstest/xstest_v2_completions_gpt4.csv") {
        assert_eq!(read_demonstrations(&path).unwrap().rows.len(), 450);
    }
}

// ---- properties ----------------------------------------------------------------------------------

fn messages() -> impl Strategy<Value = Vec<Value>> {
    let turn = |role: &'static str| any::<String>().prop_map(move |content| json!({"role": role, "content": content}));
    (prop::option::of(turn("system")), turn("user"))
        .prop_map(|(system, user)| system.into_iter().chain([user]).collect())
}

prop_compose! {
    fn pairs()(prompt in messages(), chosen in any::<String>(), rejected in any::<String>(), extra in any::<Option<i64>>())
        -> Value
    {
        json!({
            "prompt": prompt, "extra": extra,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        })
    }
}

/// The columns of [`pairs`].
fn fields() -> Vec<arrow::datatypes::FieldRef> {
    use arrow::datatypes::{DataType, Field, FieldRef, Fields};
    use std::sync::Arc;
    let text = |name| Arc::new(Field::new(name, DataType::Utf8, true));
    let turn = DataType::Struct(Fields::from(vec![text("role"), text("content")]));
    let turns = |name: &str| -> FieldRef {
        let item = Arc::new(Field::new("item", turn.clone(), true));
        Arc::new(Field::new(name, DataType::List(item), true))
    };
    vec![
        turns("prompt"),
        Arc::new(Field::new("extra", DataType::Int64, true)),
        turns("chosen"),
        turns("rejected"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Catches: a format that changes a text, a row or their order.
    #[test]
    fn every_format_gives_the_rows_of_the_objects(objects in prop::collection::vec(pairs(), 1..40), group in 1..20_usize) {
        use arrow::ipc::writer::{FileWriter, StreamWriter};
        use parquet::arrow::ArrowWriter;
        let files = Files::new();
        let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
        let expected = read::<Preference>(&files.write("a.jsonl", lines));
        let batch = serde_arrow::to_record_batch(&fields(), &objects).unwrap();
        let path = |name: &str| files.0.path().join(name);
        let create = |name: &str| fs::File::create(path(name)).unwrap();
        let mut file = FileWriter::try_new(create("file.arrow"), &batch.schema()).unwrap();
        let mut stream = StreamWriter::try_new(create("stream.arrow"), &batch.schema()).unwrap();
        let mut parquet = ArrowWriter::try_new(create("a.parquet"), batch.schema(), None).unwrap();
        for start in (0..batch.num_rows()).step_by(group) {
            let slice = batch.slice(start, group.min(batch.num_rows() - start));
            file.write(&slice).unwrap();
            stream.write(&slice).unwrap();
            parquet.write(&slice).unwrap();
            parquet.flush().unwrap();
        }
        file.finish().unwrap();
        stream.finish().unwrap();
        parquet.close().unwrap();
        files.write("a.json", serde_json::to_string_pretty(&objects).unwrap());
        for name in ["a.json", "file.arrow", "stream.arrow", "a.parquet"] {
            let found = read::<Preference>(path(name).to_str().unwrap());
            prop_assert_eq!(&found.rows, &expected.rows, "{}", name);
            prop_assert_eq!(found.rejects.len(), expected.rejects.len(), "{}", name);
        }
        prop_assert_eq!(expected.rows.len() + expected.rejects.len(), objects.len());
    }

    /// Catches: bytes that make a reader of text panic, loop, or lose count of what it read.
    #[test]
    fn no_text_makes_a_reader_panic(text in "[\\[\\]{},:\" a\\n\\\\0-9promt]{0,200}", format in 0..3_usize) {
        let files = Files::new();
        let name = ["a.jsonl", "a.json", "a.csv"][format];
        let mut stream = stream::<Prompt>(&files.write(name, text), &Options::default()).unwrap();
        let count = stream.by_ref().filter(Result::is_ok).count() as u64;
        let (rows, rejects) = stream.counts();
        prop_assert_eq!(count, rows + rejects);
    }
}

// ---- memory --------------------------------------------------------------------------------------

const CHILD: &str = "BYLAW_TEST_STREAM";

/// Peak resident memory of this process in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs in a process of its own; see the next test.
#[test]
fn stream_a_large_file() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let before = peak();
    let stream = stream::<Preference>(path.to_str().unwrap(), &Options::default()).unwrap();
    let rows = stream.filter(|row| matches!(row, Ok(Ok(_)))).count();
    println!("rows {rows} grew {} end", peak() - before);
}

/// Catches: a reader whose memory grows with the file.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_file() {
    use std::io::Write;
    const ROWS: usize = 40_000;
    let files = Files::new();
    for (name, [open, separator, close]) in [("a.jsonl", ["", "\n", "\n"]), ("a.json", ["[", ",\n", "]"])] {
        let path = files.0.path().join(name);
        let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
        let answer = "words of an answer ".repeat(60);
        for row in 0..ROWS {
            let before = if row == 0 { open } else { separator };
            write!(
                file,
                "{before}{{\"prompt\": \"{row}\", \"chosen\": \"{answer}\", \"rejected\": \"{answer}!\"}}"
            )
            .unwrap();
        }
        write!(file, "{close}").unwrap();
        file.into_inner().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "stream_a_large_file", "--nocapture"])
            .env(CHILD, &path)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let figure = |after: &str| -> u64 {
            let rest = told.split(after).nth(1).unwrap_or_else(|| panic!("{told}"));
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        assert_eq!(figure("rows "), ROWS as u64);
        // The file has some 90 MB.
        assert!(figure("grew ") < 24 << 10, "{name}: {told}");
    }
}
