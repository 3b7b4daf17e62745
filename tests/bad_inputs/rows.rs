//! Rows that cannot be used: each becomes a reject with its place and reason, and the good row before it
//! is kept.

use bylaw::record::{Message, Preference};

use super::case::{Case, case};

const PROMPT: &str = r#"{"prompt": "How do I bake bread?"}"#;
const PAIR: &str = r#"{"prompt": "How do I bake bread?", "chosen": "Knead it.", "rejected": "No."}"#;
const LABELLED: &str = r#"{"prompt": "How do I bake bread?", "completion": "Knead it.", "label": true}"#;
const DEMONSTRATION: &str = r#"{"prompt": "How do I bake bread?", "completion": "Knead it."}"#;

/// `good` and then `bad` as lines, read as rows of `kind`.
fn bad(name: &'static str, kind: &str, good: &str, bad: impl AsRef<[u8]>) -> Case {
    let lines = [good.as_bytes(), b"\n", bad.as_ref(), b"\n"].concat();
    case(
        name,
        format!("data mix --data rows.jsonl --as {kind} --rows 1 --out out"),
        0,
    )
    .file("rows.jsonl", lines)
    .rejects()
}

fn prompt(name: &'static str, row: impl AsRef<[u8]>) -> Case {
    bad(name, "prompts", PROMPT, row)
}

fn pair(name: &'static str, row: &str) -> Case {
    bad(name, "preferences", PAIR, row)
}

/// A row of our own preferences, of which a column is another text.
fn own(name: &'static str, column: &str, text: &str) -> Case {
    let row = serde_json::to_value(Preference {
        id: "a".into(),
        prompt: vec![Message::user("q")],
        chosen: vec![Message::assistant("good")],
        rejected: vec![Message::assistant("bad")],
        p_chosen: 0.75,
        margin: 1.0,
        weight: 1.0,
        source: "judge".into(),
        votes: Vec::new(),
        chosen_tokens: 0,
        rejected_tokens: 0,
        chosen_chars: 4,
        rejected_chars: 3,
        p_raw: 0.75,
    })
    .unwrap();
    let was = format!("\"{column}\":{}", row[column]);
    let row = row.to_string();
    assert!(row.contains(&was), "{row}");
    let row = row.replace(&was, &format!("\"{column}\":{text}"));
    bad(name, "preferences", PAIR, row)
}

fn csv(name: &'static str, kind: &str, table: &str) -> Case {
    case(
        name,
        format!("data mix --data rows.csv --as {kind} --rows 1 --out out"),
        0,
    )
    .file("rows.csv", table)
    .rejects()
}

pub fn cases() -> Vec<Case> {
    let mut cases = syntax();
    cases.extend(types());
    cases.extend(labels());
    cases.extend(tables());
    cases
}

/// Text that is not JSON, or not of rows.
fn syntax() -> Vec<Case> {
    vec![
        prompt("a line that is not UTF-8", b"{\"prompt\": \"\xff\xfe\"}"),
        prompt("UTF-16 in the middle of a file", b"{\0\"\0p\0\"\0"),
        prompt("NUL bytes", b"\0\0\0\0\0\0\0\0"),
        prompt("a NUL byte inside of a text", b"{\"prompt\": \"a\0b\"}"),
        prompt("half of a surrogate pair", r#"{"prompt": "\ud800"}"#),
        prompt("a line that is cut off", r#"{"prompt": "How do"#),
        prompt("two objects on a line", format!("{PROMPT}{PROMPT}")),
        prompt("carriage returns for line ends", format!("{PROMPT}\r{PROMPT}")),
        prompt("nested 10,000 deep", format!(r#"{{"prompt": {}}}"#, "[".repeat(10_000))),
        prompt("a list for a row", r#"["How do I bake bread?"]"#),
        prompt("a text for a row", r#""How do I bake bread?""#),
        prompt("single quotes", "{'prompt': 'How do I bake bread?'}"),
        prompt("a key that is there twice", r#"{"prompt": "one", "prompt": "two"}"#),
        prompt(
            "a key of a turn that is there twice",
            r#"{"prompt": [{"role": "user", "content": "one", "content": "two"}]}"#,
        ),
        prompt("a number beyond all numbers", r#"{"prompt": 1e999}"#),
        prompt("a line of 1 MB of open brackets", "{\"prompt\":".repeat(100_000)),
    ]
}

/// Columns that are missing or of another type.
fn types() -> Vec<Case> {
    vec![
        prompt("an empty object", "{}"),
        prompt("no column that is known", r#"{"question": "q", "answer": "a"}"#),
        prompt("a number for a text", r#"{"prompt": 7}"#),
        prompt("null for a text", r#"{"prompt": null}"#),
        prompt("no text", r#"{"prompt": "   "}"#),
        prompt("no messages", r#"{"prompt": []}"#),
        prompt("texts for messages", r#"{"prompt": ["How do I bake bread?"]}"#),
        prompt("a message without a role", r#"{"prompt": [{"content": "q"}]}"#),
        prompt("null for a role", r#"{"prompt": [{"role": null, "content": "q"}]}"#),
        prompt("an unknown role", r#"{"prompt": [{"role": "wizard", "content": "q"}]}"#),
        prompt(
            "null for a content",
            r#"{"prompt": [{"role": "user", "content": null}]}"#,
        ),
        prompt(
            "parts for a content",
            r#"{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}"#,
        ),
        prompt(
            "an answer at the end",
            r#"{"prompt": [{"role": "assistant", "content": "a"}]}"#,
        ),
        prompt("a text for tags", r#"{"prompt": "q", "tags": "bread"}"#),
        prompt("rows inside of a row", r#"{"data": [{"prompt": "q"}]}"#),
        pair("a pair without its worse answer", r#"{"prompt": "q", "chosen": "a"}"#),
        pair(
            "a number for an answer",
            r#"{"prompt": "q", "chosen": "a", "rejected": 7}"#,
        ),
        pair(
            "the same answer twice",
            r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#,
        ),
        pair("no answers", r#"{"prompt": "q", "chosen": [], "rejected": []}"#),
        pair(
            "two prompts for one pair",
            r#"{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]}"#
                .replace('\n', "")
                .leak(),
        ),
        pair(
            "scores that contradict the columns",
            r#"{"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 9}"#,
        ),
        pair(
            "a transcript without turns",
            r#"{"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}"#,
        ),
        bad(
            "a conversation without an answer",
            "demonstrations",
            DEMONSTRATION,
            r#"{"messages": [{"role": "user", "content": "q"}]}"#,
        ),
    ]
}

/// Labels and numbers beyond their range.
fn labels() -> Vec<Case> {
    let label = |name, label: &str| {
        let row = format!(r#"{{"prompt": "q", "completion": "a", "label": {label}}}"#);
        bad(name, "unpaired", LABELLED, row)
    };
    vec![
        own("a probability of 1.7", "p_chosen", "1.7"),
        own("a probability of -0.2", "p_chosen", "-0.2"),
        own("NaN for a probability, as Python writes it", "p_chosen", "NaN"),
        own(
            "Infinity for a probability, as Python writes it",
            "p_chosen",
            "Infinity",
        ),
        own("null for a probability", "p_chosen", "null"),
        own("a text for a probability", "p_chosen", "\"0.7\""),
        own("a weight of -1", "weight", "-1"),
        own("a margin of 1e39, beyond f32", "margin", "1e39"),
        own("a count of -3", "chosen_chars", "-3"),
        own("a count of half a token", "chosen_tokens", "0.5"),
        label("the label \"yes\"", "\"yes\""),
        label("the label 0.5", "0.5"),
        label("NaN for a label", "NaN"),
        label("null for a label", "null"),
    ]
}

/// Rows of CSV.
fn tables() -> Vec<Case> {
    vec![
        csv(
            "CSV: a cell too few",
            "preferences",
            "prompt,chosen,rejected\nq,good,bad\nq,good\n",
        ),
        csv(
            "CSV: a cell too many",
            "preferences",
            "prompt,chosen,rejected\nq,good,bad\nq,good,bad,worse\n",
        ),
        csv(
            "CSV: a quote that is never closed",
            "preferences",
            "prompt,chosen,rejected\nq,good,bad\nq,\"good,bad\nr,good,bad\n",
        ),
        csv(
            "CSV: an empty cell",
            "unpaired",
            "prompt,completion,label\nq,a,true\nq,a,\n",
        ),
        csv(
            "CSV: nan for a label",
            "unpaired",
            "prompt,completion,label\nq,a,true\nq,a,nan\n",
        ),
        csv(
            "CSV: \"maybe\" for a label",
            "unpaired",
            "prompt,completion,label\nq,a,true\nq,a,maybe\n",
        ),
        case(
            "CSV: a cell that is not UTF-8",
            "data mix --data rows.csv --as prompts --rows 1 --out out",
            0,
        )
        .file("rows.csv", b"prompt\nWhy?\nWelche Stra\xdfe?\n")
        .rejects(),
    ]
}
