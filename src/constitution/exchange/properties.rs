//! The laws of import and export, over texts that would break a careless reader or writer.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tests::{hostile, imported, requests, shown, there_and_back, turns};
use super::{Format, Originals, export, import};
use crate::constitution::{Constitution, Principle, write};

/// The same with what stands around texts in these files.
fn hostile_here() -> impl Strategy<Value = String> {
    const MARKS: &[&str] = &[
        "",
        "",
        "",
        "\n\nHuman:",
        "\n\nAssistant:",
        "CritiqueRequest:",
        "\n\nCritique:",
        "\n\nRevisionRequest: ",
        "\n\nRevision:",
        "Options:",
        "\n\nH: ",
        "]]]\n (B) [[[",
    ];
    (hostile(), proptest::sample::select(MARKS), hostile())
        .prop_map(|(before, mark, behind)| format!("{before}{mark}{behind}").trim().to_owned())
}

/// Space that may stand around a text.
fn space() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["", "", "", " ", "\n", "\n\n", "\t", "\u{a0}", "  \n"][..])
}

/// Values in the keys and with the words of the known files, in any arrangement.
fn confused() -> impl Strategy<Value = Value> {
    const TEXTS: &[&str] = &[
        "",
        " ",
        "x",
        "user",
        "assistant",
        "Human:",
        "Which? Options:",
        "CritiqueRequest: a\n\nCritique:",
        "RevisionRequest: a\n\nRevision:",
        "Human: a\n\nAssistant:",
        "\n\nHuman: a\n\nAssistant: b\n\nCritiqueRequest: c\n\nCritique:\n\nRevisionRequest:\n\nRevision:",
        "Human: é:\n\nH: a\n\n{}\n (A) [[[",
        "]]]\n (B) [[[b]]]\n\nAssistant: Let's think step by step:\n\nHuman:\nSo the answer is: (",
    ];
    const KEYS: &[&str] = &[
        "prompt",
        "edit_request",
        "corrects",
        "incorrects",
        "constitutions",
        "critic",
        "revision",
        "system_chat",
        "samples",
        "role",
        "content",
        "a.b[0]",
        "",
    ];
    let text = proptest::sample::select(TEXTS);
    let texts = (text.clone(), text.clone()).prop_map(|(one, other)| Value::from(format!("{one}{other}")));
    let leaf = prop_oneof![4 => text.prop_map(Value::from), 2 => texts, 1 => Just(Value::Null), 1 => Just(json!(1.5))];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let object = proptest::collection::vec((proptest::sample::select(KEYS), inner.clone()), 0..5);
        prop_oneof![
            proptest::collection::vec(inner, 0..7).prop_map(Value::from),
            object.prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Catches: a text, key, space or order of the paper's files that import and export lose together.
    #[test]
    fn any_requests_and_questions_come_back(
        keys in proptest::collection::btree_set(hostile_here(), 1..5),
        texts in proptest::collection::vec((hostile_here(), hostile_here(), space(), space()), 5),
        counts in proptest::collection::vec(1_usize..4, 5),
        turned in any::<bool>(),
    ) {
        let mut object = Map::new();
        for ((key, (critique, revise, before, behind)), count) in keys.into_iter().zip(&texts).zip(&counts) {
            let prompts: Vec<String> = (0..*count)
                .map(|index| format!("{before}CritiqueRequest:{behind}{critique}{index}{behind}Critique:{before}"))
                .collect();
            let edit = format!("{behind}RevisionRequest: {revise}\n\nRevision:{before}");
            object.insert(key, match turned {
                true => json!({ "edit_request": edit, "prompt": prompts }),
                false => json!({ "prompt": prompts, "edit_request": edit }),
            });
        }
        let questions = texts.iter().map(|(text, _, before, behind)| format!("{before}{text}{behind}Options:{behind}"));
        let files = [Value::Object(object), questions.collect()];
        prop_assert_eq!(shown(&there_and_back(&files).unwrap().0), shown(&files));
    }

    /// Catches: the same in the files of Hugging Face's recipe.
    #[test]
    fn any_file_of_hugging_face_comes_back(
        requests in proptest::collection::vec((hostile_here(), hostile_here(), space()), 1..4),
        chats in proptest::collection::vec((proptest::collection::vec((hostile_here(), space()), 6), any::<bool>()), 0..3),
    ) {
        let constitutions = requests
            .iter()
            .map(|(critic, revision, space)| json!({ "critic": format!("{space}{critic}"), "revision": revision }));
        let chats = chats.iter().map(|(texts, long)| {
            let mut contents: Vec<String> = texts.iter().map(|(text, space)| format!("{space}{text}{space}")).collect();
            if *long {
                contents.splice(0..0, ["\"\n".to_owned() + "x", "{{".to_owned()]);
            }
            turns(&contents.iter().map(String::as_str).collect::<Vec<_>>())
        });
        let file = json!({ "constitutions": constitutions.collect::<Vec<_>>(), "system_chat": chats.collect::<Vec<_>>() });
        prop_assert_eq!(shown(&there_and_back(std::slice::from_ref(&file)).unwrap().0), shown(&[file]));
    }

    /// Catches: examples of the paper's kinds that do not come back; what cannot be told apart is refused, never changed.
    #[test]
    fn any_examples_come_back_or_are_refused(
        texts in proptest::collection::vec(hostile_here(), 6),
        spaces in proptest::collection::vec(space(), 3),
        last in any::<bool>(),
    ) {
        let [first, second, third, fourth, fifth, sixth] = &texts[..] else { unreachable!() };
        let [before, between, behind] = &spaces[..] else { unreachable!() };
        let end = if last { "\n\nHuman:" } else { "" };
        let mut files = vec![json!({ "a": requests("c", "r") })];
        files.push(json!([format!(
            "{before}Human:{between}{first}\n\nAssistant: {second}\n\nCritiqueRequest: {third}\n\nCritique:{behind}{fourth}\n\n\
             RevisionRequest: {fifth}\n\nRevision: {sixth}{end}"
        )]));
        files.push(json!([{
            "prompt": format!("{before}Human: {first}{between}\n\nAssistant:"),
            "corrects": [format!("{between}{second}")],
            "incorrects": [third],
        }]));
        files.push(json!([{ "prompt": format!(
            "{before}Human: Consider this:\n\nH:{between}{first}\n\n{{}}\n (A) [[[{second}]]]\n (B) [[[{third}{behind}]]]\n\n\
             Assistant: Let's think step by step:{behind}{fourth}\n\nHuman:\nSo the answer is: (B)"
        ) }]));
        for file in &files[1..] {
            let pair = [files[0].clone(), file.clone()];
            match there_and_back(&pair) {
                Ok((back, _)) => prop_assert_eq!(shown(&back), shown(&pair)),
                Err(error) => prop_assert!(error.exit_code() == 3 && error.help_text().is_some(), "{}", error),
            }
        }
    }

    /// Catches: principles whose texts an export and an import change.
    #[test]
    fn any_constitution_comes_back(texts in proptest::collection::vec((hostile_here(), hostile_here(), hostile_here()), 1..5)) {
        let principles = texts.iter().enumerate().map(|(index, (critique, revise, judge))| Principle {
            id: format!("p-{index}"),
            rationale: None,
            critique: Some(critique.clone()),
            revise: Some(revise.clone()),
            judge: Some(judge.clone()),
            weight: 1.0,
            tags: Vec::new(),
        });
        let written = write::Written {
            name: "t",
            version: "1",
            description: None,
            few_shots: &[],
            principles: &principles.collect::<Vec<_>>(),
        };
        let constitution = Constitution::parse(&write::constitution(&written), "t.toml").unwrap();
        let export = |format| export(&constitution, format, &Originals::default()).unwrap().value;
        for critiques in [Format::PaperCritiques, Format::Hf] {
            let (_, read) = imported(&[export(critiques), export(Format::PaperJudge)]).unwrap();
            let count = texts.len();
            prop_assert_eq!(read.principles.len(), 2 * count);
            for (index, principle) in constitution.principles.iter().enumerate() {
                prop_assert_eq!(&read.principles[index].critique, &principle.critique);
                prop_assert_eq!(&read.principles[index].revise, &principle.revise);
                prop_assert_eq!(&read.principles[count + index].judge, &principle.judge);
            }
        }
    }

    /// Catches: a file that makes the program panic, or is taken and does not come back.
    #[test]
    fn no_file_makes_it_panic(value in confused(), cut in 0.0..1.0_f64) {
        match there_and_back(std::slice::from_ref(&value)) {
            Ok((back, _)) => prop_assert_eq!(shown(&back), shown(std::slice::from_ref(&value))),
            Err(error) => prop_assert!(error.help_text().is_some(), "{}", error),
        }
        let text = format!("{value:#}");
        let cut = text.floor_char_boundary((text.len() as f64 * cut) as usize);
        if let Err(error) = import(&[("f.json".into(), text[..cut].to_owned())]) {
            prop_assert!(error.help_text().is_some(), "{}", error);
        }
    }
}
