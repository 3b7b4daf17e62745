//! Datasets on disk: what is written is read, and what is damaged is refused.

use std::fs;
use std::path::Path;

use arrow::datatypes::{DataType, Field};
use bylaw::dataset::{
    Dataset, Kind, MANIFEST, Manifest, Provenance, Row, Source, Status, describe, from_batch, rejects_dir, shard,
    to_batch, write_all,
};
use bylaw::error::ErrorKind;
use bylaw::record::{
    Candidates, Completion, Demonstration, Message, Preference, Prompt, Reject, Revision, Round, Vote,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("\u{0}\n\t \u{1F980}\u{202E}é\u{FFFF}".to_owned()),
        any::<String>(),
        (1usize..4).prop_map(|thousands| "long ü ".repeat(thousands * 1000)),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    vec(
        (text(), text()).prop_map(|(role, content)| Message { role, content }),
        0..4,
    )
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f32::INFINITY),
        Just(f32::MIN_POSITIVE),
        -1e30f32..1e30
    ]
}

prop_compose! {
    fn prompt()(id in text(), messages in messages(), source in text(), tags in vec(text(), 0..4)) -> Prompt {
        Prompt { id, messages, source, tags }
    }
}

prop_compose! {
    fn round()(
        texts in [text(), text(), text(), text(), text(), text()], changed in any::<bool>(),
    ) -> Round {
        let [principle_id, critique_request, critique, revision_request, revision, principle_hash] = texts;
        Round { principle_id, critique_request, critique, revision_request, revision, changed, principle_hash }
    }
}

prop_compose! {
    fn revision()(
        texts in [text(), text(), text(), text(), text()],
        prompt in messages(),
        messages in messages(),
        rounds in vec(round(), 0..3),
        counts in any::<[u32; 3]>(),
    ) -> Revision {
        let [id, initial, final_answer, initial_finish_reason, final_finish_reason] = texts;
        let [prompt_tokens, initial_tokens, final_tokens] = counts;
        Revision {
            id, prompt, initial, rounds, final_answer, messages, prompt_tokens, initial_tokens, final_tokens,
            initial_finish_reason, final_finish_reason,
        }
    }
}

prop_compose! {
    fn completion()(
        text in text(), tokens in any::<u32>(), finish_reason in text(), logprob in number(), sample in any::<u32>(),
    ) -> Completion {
        Completion { text, tokens, finish_reason, logprob, sample }
    }
}

prop_compose! {
    fn candidates()(id in text(), prompt in messages(), completions in vec(completion(), 0..4)) -> Candidates {
        Candidates { id, prompt, completions }
    }
}

prop_compose! {
    fn vote()(
        [principle_id, order, verdict, principle_hash] in [text(), text(), text(), text()],
        numbers in [number(), number(), number()],
        cot in proptest::option::of(text()),
    ) -> Vote {
        let [logprob_a, logprob_b, p_a] = numbers;
        Vote { principle_id, order, logprob_a, logprob_b, p_a, cot, verdict, principle_hash }
    }
}

prop_compose! {
    fn preference()(
        id in text(), source in text(),
        sides in [messages(), messages(), messages()],
        numbers in [number(), number(), number(), number()],
        votes in vec(vote(), 0..4),
        counts in any::<[u32; 4]>(),
    ) -> Preference {
        let [prompt, chosen, rejected] = sides;
        let [p_chosen, margin, weight, p_raw] = numbers;
        let [chosen_tokens, rejected_tokens, chosen_chars, rejected_chars] = counts;
        Preference {
            id, prompt, chosen, rejected, p_chosen, margin, weight, source, votes, chosen_tokens, rejected_tokens,
            chosen_chars, rejected_chars, p_raw,
        }
    }
}

prop_compose! {
    fn rejected()(texts in [text(), text(), text(), text()]) -> Reject {
        let [id, stage, reason, raw] = texts;
        Reject { id, stage, reason, raw }
    }
}

prop_compose! {
    fn demonstration()(id in text(), prompt in messages(), prefix in text(), completion in text(), weight in number())
        -> Demonstration
    {
        Demonstration { id, prompt, prefix, completion, weight }
    }
}

fn round_trip<R: Row + PartialEq + std::fmt::Debug>(rows: &[R]) {
    let batch = to_batch(rows).unwrap();
    assert_eq!(
        batch.schema(),
        R::KIND.schema(),
        "the schema must not depend on the rows"
    );
    assert_eq!(from_batch::<R>(&batch, Path::new("memory")).unwrap(), rows);
    let dir = tempfile::tempdir().unwrap();
    let written = shard::write(dir.path(), "a.arrow", rows).unwrap();
    assert_eq!(shard::read::<R>(dir.path(), &written).unwrap(), rows);
    assert_eq!(
        shard::write(dir.path(), "a.arrow", rows).unwrap(),
        written,
        "the same rows give the same bytes"
    );
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["a.arrow"], "no temporary file may stay");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prompts_survive(rows in vec(prompt(), 0..6)) { round_trip(&rows) }

    #[test]
    fn revisions_survive(rows in vec(revision(), 0..6)) { round_trip(&rows) }

    #[test]
    fn candidates_survive(rows in vec(candidates(), 0..6)) { round_trip(&rows) }

    #[test]
    fn preferences_survive(rows in vec(preference(), 0..6)) { round_trip(&rows) }

    #[test]
    fn rejects_survive(rows in vec(rejected(), 0..6)) { round_trip(&rows) }

    #[test]
    fn demonstrations_survive(rows in vec(demonstration(), 0..6)) { round_trip(&rows) }
}

/// Collects the nullable fields, and checks the names of list items.
fn walk(field: &Field, nullable: &mut Vec<String>) {
    if field.is_nullable() {
        nullable.push(field.name().clone());
    }
    match field.data_type() {
        DataType::List(item) => {
            assert_eq!(item.name(), "item");
            walk(item, nullable);
        }
        DataType::Struct(fields) => fields.iter().for_each(|field| walk(field, nullable)),
        _ => {}
    }
}

#[test]
fn schemas_are_stable() {
    const MESSAGES: &str = "list<struct<role: string, content: string>>";
    let expected = [
        (
            "prompts",
            format!("id: string; messages: {MESSAGES}; source: string; tags: list<string>"),
        ),
        (
            "revisions",
            format!(
                "id: string; prompt: {MESSAGES}; initial: string; rounds: list<struct<principle_id: string, \
                 critique_request: string, critique: string, revision_request: string, revision: string, changed: \
                 bool, principle_hash: string>>; final: string; messages: {MESSAGES}; prompt_tokens: u32; initial_tokens: u32; final_tokens: \
                 u32; initial_finish_reason: string; final_finish_reason: string"
            ),
        ),
        (
            "candidates",
            format!(
                "id: string; prompt: {MESSAGES}; completions: list<struct<text: string, tokens: u32, finish_reason: \
                 string, logprob: f32, sample: u32>>"
            ),
        ),
        (
            "preferences",
            format!(
                "id: string; prompt: {MESSAGES}; chosen: {MESSAGES}; rejected: {MESSAGES}; p_chosen: f32; margin: f32; \
                 weight: f32; source: string; votes: list<struct<principle_id: string, order: string, logprob_a: f32, \
                 logprob_b: f32, p_a: f32, cot: string, verdict: string, principle_hash: string>>; chosen_tokens: u32; rejected_tokens: u32; chosen_chars: u32; \
                 rejected_chars: u32; p_raw: f32"
            ),
        ),
        (
            "rejects",
            "id: string; stage: string; reason: string; raw: string".to_owned(),
        ),
        (
            "demonstrations",
            format!("id: string; prompt: {MESSAGES}; prefix: string; completion: string; weight: f32"),
        ),
        (
            "unpaired",
            format!("id: string; prompt: {MESSAGES}; completion: {MESSAGES}; label: bool; weight: f32"),
        ),
        ("reference_logprobs", "id: string; logprobs: list<f32>".to_owned()),
    ];
    assert_eq!(Kind::ALL.len(), expected.len());
    let mut nullable = Vec::new();
    for (kind, (name, columns)) in Kind::ALL.into_iter().zip(expected) {
        let schema = kind.schema();
        let found: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| format!("{}: {}", field.name(), describe(field.data_type())))
            .collect();
        assert_eq!((kind.as_str(), found.join("; ")), (name, columns));
        schema.fields().iter().for_each(|field| walk(field, &mut nullable));
    }
    assert_eq!(nullable, ["cot"]);
}

fn some_prompts(count: usize) -> Vec<Prompt> {
    (0..count)
        .map(|index| Prompt {
            id: format!("id-{index}"),
            messages: vec![Message::user(format!("Question {index}? ü"))],
            source: "test".into(),
            tags: vec!["t".into(); index % 3],
        })
        .collect()
}

#[test]
fn a_truncated_shard_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let rows = some_prompts(40);
    let written = shard::write(dir.path(), "a.arrow", &rows).unwrap();
    let path = dir.path().join("a.arrow");
    let whole = fs::read(&path).unwrap();
    for cut in (0..whole.len()).step_by(97).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..cut]).unwrap();
        for error in [
            shard::read::<Prompt>(dir.path(), &written).unwrap_err(),
            shard::read_unverified::<Prompt>(&path).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Input, "{error}");
            assert!(
                error.to_string().contains("a.arrow") && error.help_text().is_some(),
                "{error}"
            );
        }
    }
}

#[test]
fn a_damaged_shard_is_refused_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let written = shard::write(dir.path(), "a.arrow", &some_prompts(5)).unwrap();
    let path = dir.path().join("a.arrow");
    let whole = fs::read(&path).unwrap();
    for position in 0..whole.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[position] ^= damage;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(
                shard::read::<Prompt>(dir.path(), &written).unwrap_err().kind(),
                ErrorKind::Input
            );
            // Without a checksum, damage to a text cannot be seen; it must only not bring us down.
            let _ = shard::read_unverified::<Prompt>(&path);
        }
    }
}

#[test]
fn foreign_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.arrow");
    for (contents, message) in [
        (&b""[..], "the file is empty"),
        (b"PAR1....", "Parquet"),
        (b"\xff\xff\xff\xff\0\0", "stream format"),
        (b"hello, world", "not an Arrow file"),
        (b"ARROW1", "cut short"),
        (b"ARROW1\0\0\xff\xff\xff\xffARROW1", "damaged"),
        (b"ARROW1\0\0\xff\xff\xff\x7fARROW1", "damaged"),
    ] {
        fs::write(&path, contents).unwrap();
        let error = shard::read_unverified::<Prompt>(&path).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
}

#[test]
fn columns_are_found_by_name_and_wrong_ones_named() {
    let path = Path::new("x.arrow");
    let rows = some_prompts(3);
    let batch = to_batch(&rows).unwrap();
    let reordered = batch.project(&[3, 1, 0, 2]).unwrap();
    assert_eq!(from_batch::<Prompt>(&reordered, path).unwrap(), rows);
    let error = from_batch::<Prompt>(&batch.project(&[0, 1, 3]).unwrap(), path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "x.arrow: the column `source` (string) of prompts is missing; found id, messages, tags"
    );
    let other = to_batch(&[Demonstration {
        id: "a".into(),
        prompt: vec![],
        prefix: String::new(),
        completion: String::new(),
        weight: 1.0,
    }])
    .unwrap();
    let renamed = arrow::record_batch::RecordBatch::try_from_iter([
        ("id", other.column(0).clone()),
        ("messages", other.column(1).clone()),
        ("source", other.column(4).clone()),
        ("tags", other.column(2).clone()),
    ])
    .unwrap();
    let error = from_batch::<Prompt>(&renamed, path).unwrap_err();
    assert_eq!(
        error.to_string(),
        "x.arrow: the column `source` should be string, but is f32"
    );
    assert!(error.help_text().unwrap().contains("source: string"));
}

#[test]
fn nulls_where_none_may_be_are_refused() {
    use arrow::array::{ArrayRef, StringArray};
    let texts = |value: Option<&str>| std::sync::Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let batch = arrow::record_batch::RecordBatch::try_from_iter_with_nullable([
        ("id", texts(Some("a")), true),
        ("stage", texts(None), true),
        ("reason", texts(Some("r")), true),
        ("raw", texts(Some("x")), true),
    ])
    .unwrap();
    let error = from_batch::<Reject>(&batch, Path::new("x.arrow")).unwrap_err();
    assert!(
        error.to_string().starts_with("x.arrow: cannot be read as rejects"),
        "{error}"
    );
}

#[test]
fn datasets_are_cut_into_shards_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let rows = some_prompts(bylaw::dataset::SHARD_ROWS + 3);
    let manifest = write_all(dir.path(), &rows, Provenance::new("test", 1)).unwrap();
    let files: Vec<&str> = manifest.shards.iter().map(|shard| shard.file.as_str()).collect();
    assert_eq!(files, ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]);
    let dataset = Dataset::<Prompt>::open(dir.path()).unwrap();
    assert_eq!(dataset.manifest(), &manifest);
    assert_eq!(dataset.read_all().unwrap(), rows);
    assert!(dataset.rejects().unwrap().is_empty());

    let rejects = [Reject {
        id: "r".into(),
        stage: "test".into(),
        reason: "why".into(),
        raw: "what".into(),
    }];
    write_all(&rejects_dir(dir.path()), &rejects, Provenance::new("test", 1)).unwrap();
    assert_eq!(dataset.rejects().unwrap(), rejects);

    let error = Dataset::<Candidates>::open(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("holds prompts, expected candidates"),
        "{error}"
    );
}

#[test]
fn a_dataset_is_replaced_by_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let provenance = Provenance::new("test", 1);
    // What a killed run with another number of shards left.
    fs::write(dir.path().join("data-00001-of-00009.arrow"), "half").unwrap();
    write_all(dir.path(), &some_prompts(2), provenance.clone()).unwrap();
    assert!(!dir.path().join("data-00001-of-00009.arrow").exists());
    let first = fs::read(dir.path().join(MANIFEST)).unwrap();
    write_all(dir.path(), &some_prompts(2), provenance.clone()).unwrap();
    assert_eq!(fs::read(dir.path().join(MANIFEST)).unwrap(), first);
    let error = write_all(dir.path(), &some_prompts(3), Provenance { seed: 2, ..provenance }).unwrap_err();
    assert!(error.to_string().contains("seed: 1 there, 2 here"), "{error}");
    assert_eq!(
        Dataset::<Prompt>::open(dir.path()).unwrap().read_all().unwrap(),
        some_prompts(2)
    );
}

#[test]
fn the_manifest_has_the_documented_fields() {
    let dir = tempfile::tempdir().unwrap();
    write_all::<Prompt>(dir.path(), &[], Provenance::new("test", 1)).unwrap();
    let text = fs::read_to_string(dir.path().join(MANIFEST)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&value), "format schema_version kind status rows shards provenance");
    assert_eq!(keys(&value["shards"][0]), "file rows bytes sha256");
    assert_eq!(
        keys(&value["provenance"]),
        "stage program model constitution prompts inputs settings seed"
    );
    assert_eq!(
        (
            &value["format"],
            &value["schema_version"],
            &value["kind"],
            &value["status"]
        ),
        (
            &"bylaw-dataset".into(),
            &3.into(),
            &"prompts".into(),
            &"complete".into()
        )
    );
    assert_eq!(Dataset::<Prompt>::open(dir.path()).unwrap().read_all().unwrap(), []);
}

#[test]
fn bad_manifests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &some_prompts(2), Provenance::new("test", 1)).unwrap();
    let path = dir.path().join(MANIFEST);
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, message) in [
        ("\"schema_version\": 3", "\"schema_version\": 4", "schema version 4"),
        ("bylaw-dataset", "other", "the format is \"other\""),
        ("\"kind\": \"prompts\"", "\"kind\": \"poems\"", "not a manifest"),
        ("\"rows\": 2,", "\"rows\": 3,", "do not add up"),
        (
            "\"data-00000-of-00001.arrow\"",
            "\"../data.arrow\"",
            "not a plain file name",
        ),
        ("{", "[", "not a manifest"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        fs::write(&path, bad).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err();
        assert!(error.to_string().contains(message), "{message:?} not in {error}");
        assert!(error.to_string().contains(MANIFEST) && error.help_text().is_some());
    }
    for cut in 0..good.len() - 2 {
        fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap_err().kind(), ErrorKind::Input);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn provenances_say_where_they_differ() {
    let there = Provenance {
        model: Some(Source {
            reference: "m".into(),
            sha256: "1".into(),
        }),
        settings: serde_json::json!({"rounds": 2, "sampling": {"top_p": 0.9}})
            .as_object()
            .unwrap()
            .clone(),
        ..Provenance::new("revise", 1)
    };
    assert_eq!(there.difference(&there), Vec::<String>::new());
    let here = Provenance {
        model: None,
        settings: serde_json::json!({"rounds": 3, "sampling": {"top_p": 0.9, "top_k": 5}})
            .as_object()
            .unwrap()
            .clone(),
        inputs: vec![Source {
            reference: "p".into(),
            sha256: "2".into(),
        }],
        ..there.clone()
    };
    assert_eq!(
        here.difference(&there),
        [
            "model: {\"reference\":\"m\",\"sha256\":\"1\"} there, null here",
            "inputs[0]: absent there, {\"reference\":\"p\",\"sha256\":\"2\"} here",
            "settings.rounds: 2 there, 3 here",
            "settings.sampling.top_k: absent there, 5 here",
        ]
    );
    let status = Manifest::new(Kind::Prompts, Status::Running, Vec::new(), here).status;
    assert_eq!(status, Status::Running);
}
