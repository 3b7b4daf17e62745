//! Mapping files.

use bylaw::dataset::{Mapping, Options};
use bylaw::record::{Demonstration, Preference, Prompt};
use serde_json::json;

use super::{Files, assistant, read_with, user};

pub fn mapped(text: &str) -> Options {
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
