//! Files of others come in, go out and are the same; constitutions go out, come in and say the same.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::constitution::few_shots::FewShots;
use crate::constitution::{Constitution, write};
use crate::record::Message;

/// Texts that would break a careless writer, without space at their ends.
pub fn hostile() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "\"",
        "\"\"\"",
        "\\",
        "\\u0041",
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\t",
        "\u{0}",
        "\u{7f}",
        "\u{85}",
        "{{",
        "}}",
        "{{ name }}",
        "{",
        "}",
        "#",
        "'''",
        "é",
        "日本",
        "🦀",
        "\u{200b}",
        "\u{feff}",
        "e\u{301}",
        "[[[",
        "]]]",
        "word",
        "a",
        "B",
        "$",
        " ",
        "{}",
    ];
    let piece = proptest::sample::select(PIECES);
    let text = proptest::collection::vec(piece, 1..10).prop_map(|pieces| pieces.concat().trim().to_owned());
    text.prop_map(|text| if text.is_empty() { "x".into() } else { text })
}

/// Imports texts as files and reads back what is written, as the command does.
pub fn imported(files: &[Value]) -> Result<(Import, Constitution)> {
    let texts: Vec<(PathBuf, String)> = files
        .iter()
        .enumerate()
        .map(|(index, value)| (format!("{index}.json").into(), value.to_string()))
        .collect();
    let import = import(&texts)?;
    let dir = tempfile::tempdir().unwrap();
    let mut few_shots = Vec::new();
    for (key, text, count) in [
        (
            "critique",
            write::critique_examples(&import.critique),
            import.critique.len(),
        ),
        ("judge", write::judge_examples(&import.judge), import.judge.len()),
        (
            "judge_reasoning",
            write::judge_examples(&import.judge_reasoning),
            import.judge_reasoning.len(),
        ),
    ] {
        if count > 0 {
            std::fs::write(dir.path().join(key), text).unwrap();
            few_shots.push((key, Path::new(key)));
        }
    }
    let text = import.constitution("name", &few_shots)?;
    let path = dir.path().join("c.toml");
    std::fs::write(&path, &text).unwrap();
    let constitution = Constitution::load(&path).unwrap_or_else(|error| panic!("{error}\n{text}"));
    Ok((import, constitution))
}

/// Imports files, and exports each in the format that it had.
pub fn there_and_back(files: &[Value]) -> Result<(Vec<Value>, Import)> {
    let (import, constitution) = imported(files)?;
    // As they are read from their file.
    let text = import.originals.to_json().to_string();
    let originals = Originals::parse(&text, Path::new("o.json")).unwrap();
    assert_eq!(originals, import.originals);
    let back = import
        .files
        .iter()
        .map(|file| export(&constitution, file.format, &originals).unwrap().value);
    Ok((back.collect(), import))
}

/// Texts, so that the order of keys counts.
pub fn shown(values: &[Value]) -> Vec<String> {
    values.iter().map(|value| format!("{value:#}")).collect()
}

pub fn requests(critique: &str, revise: &str) -> Value {
    json!({
        "prompt": [format!("\n\nCritiqueRequest: {critique}\n\nCritique:")],
        "edit_request": format!("\n\nRevisionRequest: {revise}\n\nRevision:"),
    })
}

/// One file of each of the paper's kinds, in our own words and in the forms that its files have.
fn supplement() -> Vec<Value> {
    vec![
        json!({ "harmful0": requests("What may hurt?", "Take it out."), "harmful1": requests("What is untrue?", "Correct it.") }),
        json!([
            "\nWhich answer is kinder? Options:",
            "\nWhich is truer?\nBe strict. Options:"
        ]),
        json!([
            "\n\nHuman: Hello.\n\nAssistant: Go away.\n\nHuman: Why?\n\nAssistant: Because.\n\nCritiqueRequest: What is rude?\n\n\
             Critique: All of it.\n\nIt scolds.\n\nRevisionRequest: Be kind.\n\nRevision: I am sorry.\n\nHuman:",
            "\n\nHuman: Hi.\n\nAssistant: Ho.\n\nCritiqueRequest: Q\n\nCritique: C\n\nRevisionRequest: R\n\nRevision: N"
        ]),
        json!([
            { "prompt": "\n\nHuman: May I?\n\nAssistant:", "corrects": ["Yes, gladly."], "incorrects": ["No."] },
            { "prompt": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:", "corrects": ["D"], "incorrects": ["E"] },
        ]),
        json!([
            { "prompt": "\n\nHuman: Consider the following conversation between a human (H) and an assistant (A):\n\nH: One?\n\n\
                A:  Two.\n\nH: Three?\n\n{}\n (A) [[[Four.\n\nFive.]]]\n (B) [[[Six.]]]\n\nAssistant: Let's think step by \
                step:\n(A) counts on.\n\nSo it is better.\n\nHuman:\nSo the answer is: (A)" },
            { "prompt": "Human: Consider the following conversation between two people:\n\nH: One?\n\n{}\n (A) [[[No.]]]\n (B) \
                [[[Yes.]]]\n\nAssistant: Let's think step by step: yes is kinder.\n\nHuman:\nSo the answer is: (B)" },
        ]),
    ]
}

pub fn turns(contents: &[&str]) -> Value {
    let roles = ["user", "assistant"].into_iter().cycle();
    let turns = contents.iter().zip(roles);
    turns
        .map(|(content, role)| json!({ "role": role, "content": content }))
        .collect()
}

fn hugging_face() -> Value {
    json!({
        "constitutions": [
            { "critic": "What may hurt?", "revision": "Take it out." },
            { "critic": "What is untrue?", "revision": "Correct it." },
        ],
        "system_chat": [
            turns(&["Hi", "Go away.", "What is rude?", "All.", "Be kind.", "Hello!"]),
            turns(&["a", "b", "c", "d", "e", "f", "g", "h"]),
        ],
    })
}

/// Catches: a kind of file that is taken for another, texts with their wrappers still on, examples in the wrong place.
#[test]
fn the_files_of_the_paper_make_one_constitution() {
    let (import, constitution) = imported(&supplement()).unwrap();
    let formats: Vec<&str> = import.files.iter().map(|file| file.format.name()).collect();
    assert_eq!(formats, Format::ALL.map(Format::name)[..5]);
    let ids: Vec<&str> = constitution
        .principles
        .iter()
        .map(|principle| principle.id.as_str())
        .collect();
    assert_eq!(ids, ["harmful0", "harmful1", "judge-1", "judge-2"]);
    let first = &constitution.principles[0];
    assert_eq!(first.critique.as_deref(), Some("What may hurt?"));
    assert_eq!(first.revise.as_deref(), Some("Take it out."));
    assert_eq!(
        constitution.principles[3].judge.as_deref(),
        Some("Which is truer?\nBe strict.")
    );

    let critiques = constitution.examples.critique.as_ref().map(FewShots::examples).unwrap();
    assert_eq!(critiques[0].messages.len(), 3);
    assert_eq!(
        (critiques[0].answer.as_str(), critiques[0].critique.as_str()),
        ("Because.", "All of it.\n\nIt scolds.")
    );
    assert_eq!(
        (critiques[0].revision.as_str(), critiques[1].revision.as_str()),
        ("I am sorry.", "N")
    );
    // The better answer alternates between the places.
    let judge = constitution.examples.judge.as_ref().map(FewShots::examples).unwrap();
    assert_eq!(
        (judge[0].answer, judge[0].answer_a.as_str()),
        (Answer::A, "Yes, gladly.")
    );
    assert_eq!((judge[1].answer, judge[1].answer_b.as_str()), (Answer::B, "D"));
    assert_eq!(judge[1].messages.len(), 3);
    let reasoned = constitution
        .examples
        .judge_reasoning
        .as_ref()
        .map(FewShots::examples)
        .unwrap();
    assert_eq!(reasoned[0].messages[1].content, "Two.");
    assert_eq!(
        (reasoned[0].answer_a.as_str(), reasoned[0].question.as_str()),
        ("Four.\n\nFive.", STAND_IN)
    );
    assert_eq!(reasoned[0].reasoning, "(A) counts on.\n\nSo it is better.");
    assert_eq!(reasoned[1].answer, Answer::B);
}

/// Catches: anything that is lost on the way, in the forms that the real files have.
#[test]
fn files_come_back_as_they_were() {
    let files = supplement();
    let (back, import) = there_and_back(&files).unwrap();
    assert_eq!(shown(&back), shown(&files));
    // The end of a transcript, space before a turn, and headings are what has to be remembered.
    assert_eq!(import.originals.len(), 3);
    let swapped: Value = serde_json::from_str(
        r#"{"system_chat": [], "constitutions": [{"revision": "r", "critic": " c"}, {"critic": "c", "revision": "r"}]}"#,
    )
    .unwrap();
    let bare = json!({ "constitutions": [{ "critic": "c", "revision": "r" }] });
    for file in [hugging_face(), swapped, bare] {
        assert_eq!(
            shown(&there_and_back(std::slice::from_ref(&file)).unwrap().0),
            shown(&[file])
        );
    }
    let nemo = json!({ "samples": [turns(&["1", "2", "3", "4", "5", "6"])] });
    let files = [supplement().swap_remove(0), nemo];
    assert_eq!(shown(&there_and_back(&files).unwrap().0), shown(&files));
}

/// Catches: keys that are no ids lost or taken for each other, a key's requests drawn too often, a key that stands for
/// several written as several.
#[test]
fn odd_keys_and_several_requests_come_back() {
    let mut several = requests("one", "r");
    several["prompt"] = json!([
        "\n\nCritiqueRequest: one\n\nCritique:",
        " \nCritiqueRequest:two Critique:"
    ]);
    let mut usual = several.clone();
    usual["prompt"][1] = "\n\nCritiqueRequest: two\n\nCritique:".into();
    let file = json!({
        "b": several, "Harm": requests("x", "y"), "harm": requests("x", "y"), "害": requests("z", "{{ y }}"), "a.b": usual,
        "": requests("x", "y"), "B": requests("x", "y"),
    });
    let (import, constitution) = imported(std::slice::from_ref(&file)).unwrap();
    let ids: Vec<(&str, f64)> = import
        .principles
        .iter()
        .map(|principle| (principle.id.as_str(), principle.weight))
        .collect();
    assert_eq!(
        ids,
        [
            ("b-1", 0.5),
            ("b-2", 0.5),
            ("harm", 1.0),
            ("harm-2", 1.0),
            ("principle-4", 1.0),
            ("a-b-1", 0.5),
            ("a-b-2", 0.5),
            ("principle-6", 1.0),
            ("b-3", 1.0)
        ]
    );
    let exported = export(&constitution, Format::PaperCritiques, &import.originals).unwrap();
    assert_eq!(shown(&[exported.value]), shown(std::slice::from_ref(&file)));
    assert!(
        !exported.notes.iter().any(|note| note.contains("drawn equally often")),
        "{:?}",
        exported.notes
    );
    // The list that Hugging Face's recipe draws from has no such groups.
    let exported = export(&constitution, Format::Hf, &Originals::default()).unwrap();
    assert_eq!(exported.items, 9);
    assert!(
        exported.notes.iter().any(|note| note.contains("drawn equally often")),
        "{:?}",
        exported.notes
    );
}

/// Catches: an edit that is overwritten by what was imported, a key lost with it, an edit that is not told.
#[test]
fn an_edited_text_is_exported_as_edited() {
    let file = json!({ "Harm": requests(" spaced", "r"), "b": requests("c", "d ") });
    let (import, mut constitution) = imported(std::slice::from_ref(&file)).unwrap();
    constitution.principles[0].critique = Some("edited".into());
    let exported = export(&constitution, Format::PaperCritiques, &import.originals).unwrap();
    assert_eq!(exported.value["Harm"], requests("edited", "r"));
    assert_eq!(exported.value["b"], file["b"]);
    assert!(
        exported
            .notes
            .iter()
            .any(|note| note.starts_with("1 item imported with")),
        "{:?}",
        exported.notes
    );
}

/// Catches: a text that is dropped or changed because it does not fit, errors without their place or remedy.
#[test]
fn what_does_not_fit_is_refused_at_its_place() {
    let wrong_key = json!({ "a": requests("c", "r"), "b": { "prompt": [], "edit_request": "" } });
    let cases: Vec<(Value, &str)> = vec![
        (json!(3), "0.json:1:1: this is none of the files"),
        (json!({}), "this is none of the files"),
        (json!([]), "this is none of the files"),
        (json!(["Which?"]), "this is none of the files"),
        (
            json!({ "a": { "prompt": ["c"], "edit_request": "r" } }),
            "a.prompt[0]: the text does not begin with `CritiqueRequest:`",
        ),
        (
            json!({ "a": { "prompt": ["CritiqueRequest: c"] } }),
            "a: `edit_request` is missing",
        ),
        (
            json!({ "a": { "prompt": ["CritiqueRequest: c"], "edit_request": "x" } }),
            "a.prompt[0]: the text does not end with `Critique:`",
        ),
        (wrong_key, "b.prompt: there is no critique request"),
        (
            json!({ "a": { "prompt": "c", "edit_request": "r" } }),
            "a.prompt: here should be a list, but is a text",
        ),
        (
            json!({ "a": { "prompt": ["CritiqueRequest: Critique:"], "edit_request": "r" } }),
            "a.prompt[0]: a text in it is empty",
        ),
        (
            json!({ "a": requests("c", "r"), "b": "text" }),
            "b: here should be an object, but is a text",
        ),
        (
            json!({ "a": { "prompt": [], "edit_request": "", "weight": 2 } }),
            "a.weight: this key is not known",
        ),
        (
            json!(["Which? Options:", "Which?"]),
            "0.json:1:20: [1]: the question does not end with `Options:`",
        ),
        (json!([" Options:"]), "[0]: a text in it is empty"),
        (
            json!(["Human: a CritiqueRequest: b"]),
            "[0]: there is no paragraph `CritiqueRequest:`",
        ),
        (
            json!(["Human: a\n\nCritiqueRequest: b\n\nCritique: c\n\nRevisionRequest: d\n\nRevision: e"]),
            "[0]: an answer of the assistant has to stand before",
        ),
        (
            json!([{ "prompt": "Human: a\n\nAssistant:", "corrects": ["b", "c"], "incorrects": ["d"] }]),
            "[0].corrects: here should be one text, but are 2",
        ),
        (
            json!([{ "prompt": "Human: a", "corrects": ["b"], "incorrects": ["d"] }]),
            "[0].prompt: the conversation does not end",
        ),
        (
            json!([{ "prompt": "x\n\nAssistant:", "corrects": ["b"], "incorrects": ["d"] }]),
            "[0].prompt: a turn begins with neither",
        ),
        (json!([{ "prompt": "Human: a" }]), "[0].prompt: there is no "),
        (
            json!({ "constitutions": [{ "critic": "c" }] }),
            "constitutions[0]: `revision` is missing",
        ),
        (
            json!({ "constitutions": [{ "critic": " ", "revision": "r" }] }),
            "constitutions[0].critic: the text is empty",
        ),
        (
            json!({ "constitutions": [], "chat": [] }),
            "chat: this key is not known here",
        ),
        (
            json!({ "constitutions": [], "system_chat": [] }),
            "there is nothing in it",
        ),
        (
            json!({ "constitutions": [], "system_chat": [turns(&["a", "b", "c"])] }),
            "system_chat[0]: the conversation is too short",
        ),
        (
            json!({ "constitutions": [], "system_chat": [turns(&["a", "b", "c", "d", "e", "f", "g"])] }),
            "system_chat[0]: the last six turns are not",
        ),
        (
            json!({ "samples": [[{ "role": "robot", "content": "a" }]] }),
            "samples[0][0].role: there is no role \"robot\"",
        ),
        (
            json!({ "samples": [turns(&["1", "2", "3", "4", "5", "6"])] }),
            "these are examples alone",
        ),
    ];
    for (file, says) in cases {
        let error = imported(std::slice::from_ref(&file))
            .err()
            .unwrap_or_else(|| panic!("taken: {file}"));
        assert!(error.to_string().contains(says), "{says:?} is not in {error}");
        assert!(error.help_text().is_some(), "no remedy: {error}");
        assert_eq!(
            error.exit_code(),
            if says.starts_with("these are examples") { 2 } else { 3 },
            "{error}"
        );
    }
    // A reasoning that names the other answer would not be read from its file.
    let mut files = supplement();
    let contradicting = files[4][1]["prompt"]
        .as_str()
        .unwrap()
        .replace("yes is kinder", "the answer is (A)");
    files[4][1]["prompt"] = contradicting.into();
    let error = imported(&files).unwrap_err();
    assert!(error.to_string().contains("[1]: the reasoning names (A)"), "{error}");
    // Two files that would have to share a place.
    for (one, other) in [
        (supplement().swap_remove(0), hugging_face()),
        (hugging_face(), supplement().swap_remove(2)),
    ] {
        let error = imported(&[one, other]).unwrap_err();
        assert!(error.to_string().contains("the same part of a constitution"), "{error}");
    }
}

fn constitution(text: &str) -> Constitution {
    Constitution::parse(&format!("name = \"t\"\nversion = \"1\"\n{text}"), "t.toml").unwrap()
}

/// Catches: a tag, weight, rationale, text or principle that an export leaves out in silence.
#[test]
fn what_a_format_cannot_hold_is_told_by_name() {
    let constitution = constitution(
        "description = \"d\"\n[few_shots]\njudge = \"builtin\"\n\
         [[principle]]\nid = \"a\"\ncritique = \"C\"\nrevise = \"R\"\njudge = \"J\"\ntags = [\"x\"]\nrationale = \"why\"\n\
         [[principle]]\nid = \"b\"\njudge = \"K\"\nweight = 3\n\
         [[principle]]\nid = \"c\"\ncritique = \"C\"\nrevise = \"R\"\nweight = 0\n",
    );
    let notes = |format| export(&constitution, format, &Originals::default()).unwrap().notes;
    assert_eq!(
        notes(Format::PaperCritiques),
        [
            "left out, having no text for it: b",
            "left out, having the weight 0: c",
            "judge questions are another file (--format paper-judge): a",
            "tags are not in it: a",
            "rationales are not in it: a",
            "examples are other files (--format): paper-judge-few-shots",
            "name, version and description are not in it",
        ]
    );
    let judge = notes(Format::PaperJudge);
    assert!(
        judge.contains(
            &"all principles are drawn equally often there, and here in these shares: a 25.000 %, b 75.000 %".into()
        ),
        "{judge:?}"
    );
    assert!(
        judge.contains(&"left out, having no text for it: c".into()),
        "{judge:?}"
    );
    assert!(
        notes(Format::PaperJudgeFewShots)
            .iter()
            .any(|note| note.starts_with("questions of examples"))
    );
    for format in [
        Format::PaperCritiqueFewShots,
        Format::PaperReasoningFewShots,
        Format::NemoFewShots,
    ] {
        let error = export(&constitution, format, &Originals::default()).unwrap_err();
        assert!(
            error.exit_code() == 2 && error.to_string().contains("has nothing for a file of"),
            "{error}"
        );
    }
}

/// Catches: examples that would be read otherwise than they are, written all the same.
#[test]
fn an_example_that_looks_like_a_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let example = |answer: &str, critique: &str, revision: &str| CritiqueExample {
        messages: vec![Message::user("a")],
        answer: answer.into(),
        critique_request: "c".into(),
        critique: critique.into(),
        revision_request: "e".into(),
        revision: revision.into(),
    };
    let export_of = |example: CritiqueExample| {
        std::fs::write(dir.path().join("f.toml"), write::critique_examples(&[example])).unwrap();
        let text = "name = \"t\"\nversion = \"1\"\nfew_shots.critique = \"f.toml\"\n[[principle]]\nid = \"a\"\njudge = \"J\"\n";
        let constitution = Constitution::parse(text, dir.path().join("t.toml")).unwrap();
        export(&constitution, Format::PaperCritiqueFewShots, &Originals::default())
    };
    for revision in ["Human: no paragraph", "Human:", "x\n\nHuman:", "x\n\nRevision: y"] {
        assert!(export_of(example("b", "d", revision)).is_ok(), "{revision}");
    }
    for refused in [
        example("b\n\nHuman: x", "d", "f"),
        example("b\n\nCritiqueRequest: x", "d", "f"),
        example("b", "d\n\nRevisionRequest: x", "f"),
    ] {
        let error = export_of(refused).unwrap_err();
        assert!(
            error.to_string().contains("example 1: a text in it looks like a mark"),
            "{error}"
        );
    }
    let mut system = example("b", "d", "f");
    system.messages.insert(0, Message::system("s"));
    assert!(export_of(system).is_err());
}
