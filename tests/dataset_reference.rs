//! Data references: every documented shape becomes the row it means, and every bad line a reject.

use std::fs;
use std::path::PathBuf;

use bylaw::dataset::{
    Loaded, Manifest, Provenance, Status, read_candidates, read_demonstrations, read_preferences, read_prompts,
    read_revisions, shard, write_all,
};
use bylaw::error::{ErrorKind, Result};
use bylaw::record::{Candidates, Completion, Message, Prompt, Revision};
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

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn read_lines<R>(lines: &str, read: fn(&str) -> Result<Loaded<R>>) -> Result<Loaded<R>> {
    read(&Files::new().write("data.jsonl", lines))
}

fn assistant(text: &str) -> Vec<Message> {
    vec![Message::assistant(text)]
}

const HH: &str = r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: yés", "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: no"}"#;

#[test]
fn prompts_are_read_from_every_shape() {
    let lines = format!(
        "{}\n\n{}\r\n{}\n{}\n{HH}\n{}\n{}",
        "\u{feff}{\"prompt\": \"one\"}",
        r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "two"}]}"#,
        r#"{"messages": [{"role": "user", "content": "three"}, {"role": "assistant", "content": "cut"}]}"#,
        r#"{"prompt": "\n\nHuman: four\n\nAssistant:", "tags": ["t"], "source": "s", "other": 1}"#,
        r#"{"prompt": "six", "chosen": true}"#,
        r#"{"id": "own", "messages": [{"role": "user", "content": "seven"}], "source": "x", "tags": []}"#,
    );
    let loaded = read_lines(&lines, read_prompts).unwrap();
    assert_eq!(loaded.rejects, []);
    let last: Vec<&str> = loaded
        .rows
        .iter()
        .map(|row| row.messages.last().unwrap().content.as_str())
        .collect();
    assert_eq!(last, ["one", "two", "three", "four", "c", "six", "seven"]);
    let lengths: Vec<usize> = loaded.rows.iter().map(|row| row.messages.len()).collect();
    assert_eq!(lengths, [1, 2, 1, 1, 3, 1, 1]);
    assert_eq!(
        (loaded.rows[0].source.as_str(), loaded.rows[3].source.as_str()),
        ("data.jsonl", "s")
    );
    assert_eq!(
        (&loaded.rows[3].tags[..], loaded.rows[6].id.as_str()),
        (&["t".to_owned()][..], "own")
    );
    assert_eq!(loaded.rows[4].messages[1], Message::assistant("b"));
}

#[test]
fn bad_lines_become_rejects_with_their_reason() {
    let cases: &[(&str, &str)] = &[
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object, found a list"),
        ("{}", "found no keys"),
        (r#"{"text": "x"}"#, "expected `prompt`"),
        (
            r#"{"prompt": true}"#,
            "`prompt` should be a string or messages, but is a boolean",
        ),
        (r#"{"prompt": null}"#, "but is null"),
        (r#"{"prompt": " \n"}"#, "the prompt is empty"),
        (r#"{"prompt": []}"#, "the prompt is empty"),
        (
            r#"{"prompt": ["x"]}"#,
            "`prompt[0]` should be a message, but is a string",
        ),
        (r#"{"prompt": [{"role": "user"}]}"#, "`prompt[0]`: `content` is missing"),
        (
            r#"{"prompt": [{"role": "user", "content": true}]}"#,
            "`content` should be a string, but is a boolean",
        ),
        (
            r#"{"prompt": [{"role": "human", "content": "x"}]}"#,
            "the role \"human\"",
        ),
        (
            r#"{"prompt": [{"role": "assistant", "content": "x"}]}"#,
            "ends with a turn of the assistant",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "x"}]}"#,
            "the prompt is empty",
        ),
        (r#"{"prompt": "x", "tags": "t"}"#, "`tags` should be a list of strings"),
        (
            r#"{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: A\n\nAssistant: b"}"#,
            "do not share",
        ),
        (
            r#"{"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c"}"#,
            "two human turns in a row",
        ),
        (
            r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "rejected": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: d"}"#,
            "do not alternate",
        ),
        (
            r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "\n\nHuman: a\n\nAssistant: b"}"#,
            "does not end with an assistant turn",
        ),
        (r#"{"chosen": "a", "rejected": "b"}"#, "has no \"\\n\\nAssistant:\""),
        (
            r#"{"chosen": "x\n\nAssistant: a", "rejected": "x\n\nAssistant: b"}"#,
            "does not begin with",
        ),
        (
            r#"{"chosen": "\n\nHuman:\n\nAssistant: a", "rejected": "\n\nHuman:\n\nAssistant: b"}"#,
            "the prompt is empty",
        ),
        (
            r#"{"chosen": true, "rejected": "b"}"#,
            "`chosen` should be a string, but is a boolean",
        ),
        (
            r#"{"id": 1, "messages": [], "source": "x", "tags": []}"#,
            "not a row of prompts",
        ),
    ];
    for (line, reason) in cases {
        let loaded = read_lines(&format!("{{\"prompt\": \"good\"}}\n{line}\n"), read_prompts).unwrap();
        assert_eq!(loaded.rows.len(), 1, "{line}");
        let [reject] = &loaded.rejects[..] else {
            panic!("one reject for {line}")
        };
        assert!(
            reject.reason.starts_with("line 2: ") && reject.reason.contains(reason),
            "{}",
            reject.reason
        );
        assert_eq!((reject.stage.as_str(), reject.raw.as_str()), ("read", *line));
    }
}

#[test]
fn bytes_that_are_not_utf8_are_rejected() {
    let files = Files::new();
    let path = files.write(
        "a.jsonl",
        b"{\"prompt\": \"x\"}\n{\"prompt\": \"\xff\"}\n{\"prompt\": \"\xff\"}\n",
    );
    let loaded = read_prompts(&path).unwrap();
    assert_eq!((loaded.rows.len(), loaded.rejects.len()), (1, 2));
    assert_eq!(loaded.rejects[0].reason, "line 2: not UTF-8 at byte 13");
    assert_ne!(loaded.rejects[0].id, loaded.rejects[1].id);
    assert!(loaded.rejects[0].raw.contains('\u{fffd}'));
}

#[test]
fn deep_nesting_is_a_reject() {
    let deep = format!("{{\"prompt\": {}", "[".repeat(100_000));
    let loaded = read_lines(&format!("{deep}\n{{\"prompt\": \"x\"}}"), read_prompts).unwrap();
    assert_eq!((loaded.rows.len(), loaded.rejects.len()), (1, 1));
}

#[test]
fn equal_contents_stay_apart() {
    let lines = "{\"prompt\": \"x\"}\n".repeat(3);
    let rows = read_lines(&lines, read_prompts).unwrap().rows;
    assert_eq!(rows[1].id, format!("{}-2", rows[0].id));
    assert_eq!(rows[2].id, format!("{}-3", rows[0].id));
    assert_eq!(rows[0].messages, rows[2].messages);

    let own = |id: &str| {
        format!(
            "{{\"id\": \"{id}\", \"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"source\": \"\", \"tags\": []}}\n"
        )
    };
    let lines: String = ["a", "a-2", "a", "a", "a-2"].map(own).concat();
    let rows = read_lines(&lines, read_prompts).unwrap().rows;
    let ids: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
}

#[test]
fn candidates_are_read_from_every_shape() {
    let lines = format!(
        "{HH}\n{}\n{}",
        r#"{"prompt": "q", "completions": ["a", "b", ""]}"#, r#"{"prompt": "q", "completions": [true]}"#
    );
    let loaded = read_lines(&lines, read_candidates).unwrap();
    assert_eq!(
        loaded.rejects[0].reason,
        "line 3: `completions[0]` should be a string, but is a boolean"
    );
    let completion = |text: &str, sample| Completion {
        text: text.into(),
        tokens: 0,
        finish_reason: "stop".into(),
        logprob: 0.0,
        sample,
    };
    assert_eq!(loaded.rows[0].completions, [completion("yés", 0), completion("no", 1)]);
    assert_eq!(loaded.rows[0].prompt.len(), 3);
    assert_eq!(
        loaded.rows[1].completions,
        [completion("a", 0), completion("b", 1), completion("", 2)]
    );
}

#[test]
fn preferences_are_read_from_every_shape() {
    let lines = [
        HH,
        r#"{"prompt": "q", "chosen": "yés", "rejected": "no"}"#,
        r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "yés"}], "rejected": [{"role": "assistant", "content": "no"}]}"#,
        r#"{"prompt": "q", "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yés"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no"}]}"#,
        r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yés"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "no"}]}"#,
        r#"{"prompt": "q", "chosen": "yés", "rejected": "no", "p_chosen": 0.7}"#,
        r#"{"prompt": "q", "chosen": [], "rejected": "no"}"#,
    ]
    .join("\n");
    let loaded = read_lines(&lines, read_preferences).unwrap();
    assert_eq!(loaded.rows.len(), 5);
    for row in &loaded.rows {
        assert_eq!((&row.chosen, &row.rejected), (&assistant("yés"), &assistant("no")));
        assert_eq!(
            (row.p_chosen, row.p_raw, row.weight, row.source.as_str()),
            (1.0, 1.0, 1.0, "human")
        );
        assert_eq!((row.chosen_chars, row.rejected_chars), (3, 2));
        assert!(row.margin.is_finite() && row.margin > 10.0);
    }
    assert!(
        loaded.rejects[0].reason.contains("line 6: not a row of preferences"),
        "a soft label is never overlooked"
    );
    assert!(loaded.rejects[1].reason.contains("line 7: `chosen` is empty"));
}

#[test]
fn demonstrations_are_read_from_every_shape() {
    let lines = [
        r#"{"prompt": "q", "completion": "a"}"#,
        r#"{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}"#,
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
        r#"{"text": "a"}"#,
        r#"{"messages": [{"role": "user", "content": "q"}]}"#,
        r#"{"text": ""}"#,
    ]
    .join("\n");
    let loaded = read_lines(&lines, read_demonstrations).unwrap();
    assert_eq!(loaded.rejects.len(), 2);
    for (row, prompt) in loaded.rows.iter().zip([1, 1, 1, 0]) {
        assert_eq!(
            (row.completion.as_str(), row.prompt.len(), row.prefix.as_str()),
            ("a", prompt, "")
        );
        assert_eq!(row.weight, 1.0);
    }
}

fn revision() -> Revision {
    Revision {
        id: "r".into(),
        prompt: vec![Message::user("q")],
        initial: "bad".into(),
        rounds: vec![],
        final_answer: "good".into(),
        messages: vec![Message::user("q"), Message::assistant("good")],
        prompt_tokens: 1,
        initial_tokens: 1,
        final_tokens: 1,
        initial_finish_reason: "stop".into(),
        final_finish_reason: "stop".into(),
    }
}

fn candidates() -> Candidates {
    let completion = |text: &str, sample| Completion {
        text: text.into(),
        tokens: 1,
        finish_reason: "stop".into(),
        logprob: -1.0,
        sample,
    };
    Candidates {
        id: "c".into(),
        prompt: vec![Message::user("q")],
        completions: vec![completion("first", 0), completion("second", 1)],
    }
}

#[test]
fn datasets_are_read_as_what_can_be_made_of_them() {
    let files = Files::new();
    let (revisions, samples) = (files.path("revisions"), files.path("samples"));
    let manifest = write_all(revisions.as_ref(), &[revision()], Provenance::new("revise", 1)).unwrap();
    write_all(samples.as_ref(), &[candidates()], Provenance::new("sample", 1)).unwrap();

    assert_eq!(read_revisions(&revisions).unwrap().rows, [revision()]);
    assert_eq!(read_candidates(&samples).unwrap().rows, [candidates()]);
    assert_eq!(read_demonstrations(&revisions).unwrap().rows[0].completion, "good");
    assert_eq!(read_demonstrations(&samples).unwrap().rows[0].completion, "first");
    for dir in [&revisions, &samples] {
        assert_eq!(read_prompts(dir).unwrap().rows[0].messages, [Message::user("q")]);
    }
    assert_eq!(read_prompts(&revisions).unwrap().sha256, manifest.shards[0].sha256);

    // The shard alone, without its manifest, is the same data.
    let shard = format!("{revisions}/{}", manifest.shards[0].file);
    assert_eq!(
        read_demonstrations(&shard).unwrap().rows,
        read_demonstrations(&revisions).unwrap().rows
    );

    let error = read_preferences(&revisions).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("holds revisions, which cannot be read as preferences"),
        "{error}"
    );
}

#[test]
fn a_dataset_in_the_making_is_refused() {
    let files = Files::new();
    let dir = files.path("d");
    let mut manifest = write_all(dir.as_ref(), &[revision()], Provenance::new("revise", 1)).unwrap();
    manifest.status = Status::Running;
    Manifest::write(&manifest, dir.as_ref()).unwrap();
    assert!(read_revisions(&dir).unwrap_err().to_string().contains("not complete"));
}

#[test]
fn arrow_files_of_other_programs_have_the_same_shapes() {
    use arrow::array::{ArrayRef, BooleanArray, LargeStringArray, StringArray};
    use arrow::ipc::writer::FileWriter;
    use arrow::record_batch::RecordBatch;
    let files = Files::new();
    let write = |name: &str, columns: Vec<(&str, ArrayRef)>| {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = files.path(name);
        let mut writer = FileWriter::try_new(fs::File::create(&path).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        path
    };
    let path = write(
        "a.arrow",
        vec![
            (
                "prompt",
                std::sync::Arc::new(LargeStringArray::from(vec![Some("q"), None, Some("")])) as ArrayRef,
            ),
            (
                "chosen",
                std::sync::Arc::new(StringArray::from(vec!["yes", "a", "b"])) as ArrayRef,
            ),
            (
                "rejected",
                std::sync::Arc::new(StringArray::from(vec!["no", "a", "b"])) as ArrayRef,
            ),
        ],
    );
    let loaded = read_preferences(&path).unwrap();
    assert_eq!(loaded.rows[0].chosen, assistant("yes"));
    let reasons: Vec<&str> = loaded.rejects.iter().map(|reject| reject.reason.as_str()).collect();
    assert!(
        reasons[0].starts_with("row 2: `prompt` should be") && reasons[1].starts_with("row 3: the prompt is empty")
    );
    let path = write(
        "b.arrow",
        vec![(
            "prompt",
            std::sync::Arc::new(BooleanArray::from(vec![true])) as ArrayRef,
        )],
    );
    assert!(
        read_prompts(&path)
            .unwrap_err()
            .to_string()
            .contains("row 1: `prompt` should be a string")
    );
}

#[test]
fn references_name_files_directories_and_globs() {
    let files = Files::new();
    let one = files.write("b1.jsonl", "{\"prompt\": \"b\"}\n{\"prompt\": 1}\n");
    files.write("a1.jsonl", "{\"prompt\": \"a\"}\n");
    files.write("notes.txt", "x");
    files.write(".hidden.jsonl", "broken");
    let rows = [Prompt {
        id: "own".into(),
        messages: vec![Message::user("c")],
        source: String::new(),
        tags: vec![],
    }];
    shard::write(files.0.path(), "c1.arrow", &rows).unwrap();
    let texts = |loaded: &Loaded<Prompt>| -> Vec<String> {
        loaded.rows.iter().map(|row| row.messages[0].content.clone()).collect()
    };
    let all = read_prompts(files.0.path().to_str().unwrap()).unwrap();
    assert_eq!(texts(&all), ["a", "b", "c"]);
    assert!(
        all.rejects[0].reason.starts_with("b1.jsonl, line 2: "),
        "{}",
        all.rejects[0].reason
    );
    let glob = read_prompts(&files.path("?1.json*")).unwrap();
    assert_eq!(texts(&glob), ["a", "b"]);
    assert_ne!(all.sha256, glob.sha256);
    assert_eq!(texts(&read_prompts(&one).unwrap()), ["b"]);
}

#[test]
fn references_that_lead_nowhere_say_so() {
    let files = Files::new();
    files.write("empty.jsonl", "\n \n");
    files.write("bad.jsonl", "{\n[]\n");
    for (name, contents) in [
        ("a.txt", "x"),
        ("a.gz", "x"),
        ("a.parquet", "PAR1"),
        ("a", "x"),
        ("a.arrow", "x"),
    ] {
        files.write(name, contents);
    }
    fs::create_dir(files.path("dir")).unwrap();
    for (name, message) in [
        ("empty.jsonl", "is empty"),
        (
            "bad.jsonl",
            "none of its 2 rows can be read as prompts; the first: line 1: not valid JSON",
        ),
        ("a.txt", "`.txt` files are not read"),
        ("a.gz", "`.gz` files are not read"),
        ("a.parquet", "the Parquet file is damaged"),
        ("a", "no extension"),
        ("a.arrow", "not an Arrow file"),
        ("dir", "no file of data"),
        ("nowhere", "no such file"),
        ("*.xyz", "no file matches"),
        ("a.*", "files are not read"),
        ("*/a.jsonl", "last part of a path only"),
    ] {
        let error = read_prompts(&files.path(name)).unwrap_err();
        assert!(error.to_string().contains(message), "{message:?} not in {error}");
        assert!(error.help_text().is_some() && matches!(error.kind(), ErrorKind::Input | ErrorKind::Config));
    }
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

#[test]
fn every_row_of_the_real_hh_rlhf_file_is_accounted_for() {
    let Some(path) = shared("hh-rlhf/harmless-test.dev.jsonl") else {
        return;
    };
    let preferences = read_preferences(&path).unwrap();
    assert_eq!(preferences.rows.len() + preferences.rejects.len(), 1476);
    for reject in &preferences.rejects {
        println!("{}", reject.reason);
    }
    // Counted apart from the program: three rows repeat the assistant's turn on both sides, five on one.
    assert_eq!(preferences.rejects.len(), 8);
    let prompts = read_prompts(&path).unwrap();
    let candidates = read_candidates(&path).unwrap();
    assert_eq!(prompts.rows.len(), preferences.rows.len());
    assert_eq!(candidates.rows.len(), preferences.rows.len());
    assert_eq!(prompts.rejects, preferences.rejects);
    let ids: std::collections::HashSet<&str> = prompts.rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids.len(), prompts.rows.len());
}
