//! `constitution diff`: what changed, and with a probe what the change does.

#[path = "support/program.rs"]
mod program;

use std::path::Path;

use program::{bylaw, json, refused, succeeds, temp, write};
use serde_json::Value;

const PROMPTS: &str = "{\"prompt\": \"How do I spy on my neighbor?\"}\n{\"prompt\": \"How do I bake bread?\"}\n{\"prompt\": \
                       \"How do I steal a bike?\"}\n{\"prompt\": \"How do I lie to my friend?\"}\n{\"prompt\": \"How do I \
                       plant a tree?\"}\n{\"prompt\": \"How do I cheat in the exam?\"}\n";

/// Principles in the wording that the bundled model knows, all drawn equally often.
fn constitution(dir: &Path, name: &str, change: impl Fn(String) -> String) {
    let mut text = "#:schema x\nname = \"narrow\"\nversion = \"1\"\n".to_owned();
    for kind in ["spying", "stealing", "cheating", "lying"] {
        text += &format!(
            "\n[[principle]]\nid = \"no-{kind}\"\ncritique = \"Say whether the answer helps with {kind}.\"\nrevise = \
             \"Please rewrite the answer to remove all harmful content.\"\ntags = [\"harm\"]\n"
        );
    }
    for (id, question) in [
        ("best", "Which answer is more helpful, honest and harmless?"),
        ("less-harm", "Which answer is less harmful?"),
    ] {
        text += &format!("\n[[principle]]\nid = \"{id}\"\njudge = \"{question}\"\n");
    }
    write(dir, name, &change(text));
}

fn probe(dir: &Path, new: &str) -> Value {
    let arguments = [
        "--json",
        "constitution",
        "diff",
        "old.toml",
        new,
        "--probe",
        "p.jsonl",
        "--max-new-tokens",
        "32",
    ];
    json(&succeeds(dir, &[&arguments[..], &["--critique-max-new-tokens", "32"]].concat()).stdout)
}

/// Catches: a change that is not told, or told of the wrong principle; texts shown without what changed in them.
#[test]
fn every_change_is_told() {
    let dir = temp();
    constitution(dir.path(), "old.toml", |text| text);
    constitution(dir.path(), "new.toml", |text| {
        let text = text.replace("helps with spying", "helps with secret spying");
        let text = text.replace("\"no-lying\"", "\"no-deceit\"");
        let text = text.replace(
            "id = \"best\"",
            "id = \"best\"\nweight = 3.0\nrationale = \"All three.\"",
        );
        let removed = text.find("\n[[principle]]\nid = \"less-harm\"").unwrap();
        format!(
            "{}\n[[principle]]\nid = \"wise\"\njudge = \"Which answer would a wise person give?\"\n",
            &text[..removed]
        )
    });
    let told = succeeds(dir.path(), &["constitution", "diff", "old.toml", "new.toml"]).stdout;
    insta::assert_snapshot!(told);
    // The other way round, what was added is removed.
    let back = json(&succeeds(dir.path(), &["--json", "constitution", "diff", "new.toml", "old.toml"]).stdout);
    let changes: Vec<(&str, &str)> = back["principles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|changed| (changed["id"].as_str().unwrap(), changed["change"].as_str().unwrap()))
        .collect();
    let expected = [
        ("no-spying", "changed"),
        ("no-lying", "renamed"),
        ("best", "changed"),
        ("less-harm", "added"),
        ("wise", "removed"),
    ];
    assert_eq!(changes, expected);
    assert_eq!(back["same_meaning"], false);
}

/// Catches: a mixture's weights that change unseen, and a variable that only one of the two has.
#[test]
fn parts_and_variables_are_compared() {
    let dir = temp();
    let mixture = |weight: f64| {
        format!(
            "name = \"m\"\nversion = \"1\"\n[[mix]]\nconstitution = \"builtin:honest\"\nweight = {weight:?}\n[[mix]]\nconstitution \
             = \"builtin:helpful\"\n"
        )
    };
    write(dir.path(), "old.toml", &mixture(1.0));
    write(dir.path(), "new.toml", &mixture(5.0));
    let told = succeeds(dir.path(), &["constitution", "diff", "old.toml", "new.toml"]).stdout;
    assert_eq!(told, "honest  weight in the mixture 1 -> 5\n27 principles unchanged\n");

    let text = "name = \"v\"\nversion = \"1\"\n[[principle]]\nid = \"a\"\njudge = \"Which is kinder?\"\n";
    write(dir.path(), "plain.toml", text);
    let filled = text
        .replace("kinder?", "kinder to {{ who }}?")
        .replace("[[", "[variables]\nwho = \"me\"\n[[");
    write(dir.path(), "filled.toml", &filled);
    let arguments = [
        "constitution",
        "diff",
        "plain.toml",
        "filled.toml",
        "--variable",
        "who=pilots",
    ];
    let told = succeeds(dir.path(), &arguments).stdout;
    assert!(told.contains("pilots"), "{told}");
    refused(
        dir.path(),
        &[&arguments[..5], &["whom=pilots"]].concat(),
        2,
        &["did you mean `who`?"],
    );
}

/// Catches: layout, order and what only people read taken for a change of meaning.
#[test]
fn what_no_model_reads_is_no_change_of_meaning() {
    let dir = temp();
    constitution(dir.path(), "old.toml", |text| text);
    constitution(dir.path(), "new.toml", |text| {
        text.replace("#:schema x\n", "# new\n")
            .replace("[\"harm\"]", "[\"harm\", \"law\"]")
    });
    let told = succeeds(dir.path(), &["constitution", "diff", "old.toml", "new.toml"]).stdout;
    assert!(told.contains("no-spying  tags harm -> harm, law"), "{told}");
    assert!(
        told.ends_with("2 principles unchanged; no model reads what changed\n"),
        "{told}"
    );
    let told = succeeds(dir.path(), &["constitution", "diff", "old.toml", "old.toml"]).stdout;
    assert_eq!(told, "old.toml and old.toml mean the same: 6 principles\n");
}

/// Catches: rows asked again that the edit does not touch, effects put down to another principle, and a removed or added
/// principle that changes the draws of the others.
#[test]
fn a_probe_asks_again_what_the_edit_touches() {
    let dir = temp();
    write(dir.path(), "p.jsonl", PROMPTS);
    constitution(dir.path(), "old.toml", |text| text);
    constitution(dir.path(), "same.toml", |text| format!("# the same\n{text}"));
    constitution(dir.path(), "reworded.toml", |text| {
        text.replace("helps with spying.", "helps with bullying.")
            .replace("less harmful?", "less likely to hurt someone?")
    });
    constitution(dir.path(), "removed.toml", |text| {
        text.replace("id = \"no-spying\"", "id = \"no-spying\"\nweight = 0")
    });

    let same = probe(dir.path(), "same.toml");
    assert_eq!(same["probe"]["asked"]["new"], 0, "{same}");
    assert_eq!(same["probe"]["revisions_changed"], 0);

    let by = |document: &Value, id: &str, key: &str| document["probe"]["by_principle"][id][key].as_u64().unwrap_or(0);
    let reworded = probe(dir.path(), "reworded.toml");
    let (spying, harm) = (
        by(&reworded, "no-spying", "rounds"),
        by(&reworded, "less-harm", "pairs"),
    );
    assert!(spying > 0 && harm > 0, "the seed draws both: {reworded}");
    // A critique and a revision for each of its rounds at most (another revision request reads the same critique), and
    // both orders of each of its pairs.
    let asked = reworded["probe"]["asked"]["new"].as_u64().unwrap();
    assert!(
        asked <= 2 * spying + 2 * harm && asked >= spying + 2 * harm,
        "{reworded}"
    );
    for id in ["no-stealing", "no-cheating", "no-lying", "best"] {
        assert_eq!(
            by(&reworded, id, "revisions_changed") + by(&reworded, id, "labels_flipped"),
            0,
            "{id}: {reworded}"
        );
        assert_eq!(
            reworded["probe"]["by_principle"][id]["moved"].as_f64().unwrap_or(0.0),
            0.0,
            "{id}"
        );
    }
    assert!(
        reworded["probe"]["by_principle"]["less-harm"]["moved"]
            .as_f64()
            .unwrap()
            > 0.0
    );

    // Without a principle, only its own rows are asked anew, under the others.
    let removed = probe(dir.path(), "removed.toml");
    assert_eq!(by(&removed, "no-spying", "rounds"), 0);
    let asked = removed["probe"]["asked"]["new"].as_u64().unwrap();
    assert!(asked > 0 && asked <= 2 * spying, "{removed}");
    assert_eq!(removed["probe"]["labels_flipped"], 0);
}

/// Catches: a page that says other figures than the document, or that a pipe cannot take.
#[test]
fn the_page_shows_examples() {
    let dir = temp();
    write(dir.path(), "p.jsonl", PROMPTS);
    constitution(dir.path(), "old.toml", |text| text);
    constitution(dir.path(), "new.toml", |text| {
        text.replace("less harmful?", "less likely to hurt someone?")
    });
    let arguments = [
        "constitution",
        "diff",
        "old.toml",
        "new.toml",
        "--probe",
        "p.jsonl",
        "--max-new-tokens",
        "32",
    ];
    let told = succeeds(dir.path(), &arguments).stdout;
    assert!(
        told.contains("\nprobe\n  0 of 6 revisions and ") && told.contains("  less-harm"),
        "{told}"
    );
    assert!(!told.contains('\u{1b}'));
}

/// Catches: bad arguments that are found after the model was asked.
#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = temp();
    constitution(dir.path(), "old.toml", |text| text);
    refused(
        dir.path(),
        &["constitution", "diff", "old.toml", "nowhere.toml"],
        3,
        &["nowhere.toml"],
    );
    refused(
        dir.path(),
        &[
            "constitution",
            "diff",
            "old.toml",
            "old.toml",
            "--probe",
            "nowhere.jsonl",
        ],
        3,
        &["nowhere.jsonl"],
    );
    let ran = bylaw(
        dir.path(),
        &[
            "constitution",
            "diff",
            "old.toml",
            "old.toml",
            "--model",
            "builtin:tiny",
        ],
    );
    assert_eq!(ran.code, 2, "{}", ran.stderr);
}
