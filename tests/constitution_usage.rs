//! `constitution show --usage` as people meet it, on datasets of the bundled model.

#[path = "support/program.rs"]
mod program;

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use program::{json, refused, succeeds, temp, write};

/// Two principles of critiques and two of comparisons in the words that the bundled model knows, one of each kind that
/// is never drawn, and one for everything that is in no dataset.
const CONSTITUTION: &str = r#"
name = "small"
version = "2.1.0"

[[principle]]
id = "harmless"
critique = "Identify ways in which the answer is harmful, unethical or unkind."
revise = "Please rewrite the answer to remove all harmful content."

[[principle]]
id = "not-evasive"
critique = "Say whether the answer is evasive instead of engaging."
revise = "Please rewrite the answer in line with the critique."

[[principle]]
id = "best"
judge = "Which answer is more helpful, honest and harmless?"

[[principle]]
id = "less-harm"
judge = "Which answer is less harmful?"
weight = 2.0
"#;

/// A principle that the datasets do not have.
const LATER: &str = r#"
[[principle]]
id = "later"
critique = "Say whether the answer is late."
revise = "Please rewrite the answer in time."
judge = "Which answer is later?"
"#;

/// The constitution and what was made with it: `revised`, `judged` (both principles a pair) and `judged-by-one`.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = temp();
        let at = dir.path();
        write(at, "small.toml", CONSTITUTION);
        let ran = |args: &str| {
            let args: Vec<&str> = args.split_whitespace().chain(["--quiet"]).collect();
            succeeds(at, &args);
        };
        ran("world prompts --split evaluation --harmful 8 --benign 4 --out prompts");
        ran("revise --model builtin:tiny --prompts prompts --constitution small.toml --rounds 2 --max-new-tokens 48 \
             --critique-max-new-tokens 32 --keep-truncated --out revised");
        ran("sample --model builtin:tiny --prompts prompts --max-new-tokens 48 --keep-truncated --out sampled");
        ran("judge --model builtin:tiny --candidates sampled --constitution small.toml --principles-per-pair all \
             --keep-truncated --out judged");
        ran("judge --model builtin:tiny --candidates sampled --constitution small.toml --keep-truncated --out judged-by-one");
        dir
    });
    dir.path()
}

fn show(args: &[&str]) -> String {
    succeeds(made(), &[&["constitution", "show"], args].concat()).stdout
}

/// Catches: a page that loses a table, a column or a finding, or writes colours into a pipe.
#[test]
fn the_page_of_both_kinds() {
    let page = show(&["small.toml", "--usage", "revised", "judged"]);
    assert!(!page.contains('\u{1b}'));
    assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    insta::assert_snapshot!("usage", page);
}

/// Catches: figures that do not add up over several datasets, hashes that say another wording where none was.
#[test]
fn the_document_adds_up() {
    let text = show(&["small.toml", "--json", "--usage", "revised", "judged", "judged-by-one"]);
    let document: Value = json(&text);
    let usage = &document["usage"];
    let sum = |part: &str, figure: &str| -> u64 {
        let principles = usage["principles"].as_array().unwrap().iter();
        principles
            .map(|principle| principle[part][figure].as_u64().unwrap())
            .sum()
    };
    assert_eq!(document["datasets"].as_array().unwrap().len(), 3);
    assert_eq!(usage["revising"]["rounds"], sum("revising", "drawn"));
    assert_eq!(usage["judging"]["votes"], sum("judging", "votes"));
    assert!(sum("revising", "drawn") > 0 && sum("judging", "pairs_alone") > 0);
    assert_eq!(usage["judging"]["not_recounted"], 0);
    for principle in usage["principles"].as_array().unwrap() {
        for part in ["revising", "judging"] {
            let wordings = &principle[part]["wordings"];
            assert_eq!(
                (&wordings["other"], &wordings["unknown"]),
                (&0.into(), &0.into()),
                "{principle}"
            );
        }
    }
    assert_eq!(usage["agreement"].as_array().unwrap().len(), 1);
}

/// Catches: a principle added since that is not called unused, one reworded since that is not called so, one taken out
/// since that is left out of the table.
#[test]
fn a_constitution_that_was_edited_since() {
    let dir = made();
    let edited = CONSTITUTION
        .replace("Which answer is less harmful?", "Which answer harms less?")
        .replace("id = \"not-evasive\"", "id = \"engaging\"");
    write(dir, "edited.toml", &(edited + LATER));
    let page = show(&["edited.toml", "--usage", "revised", "judged"]);
    assert!(page.contains("never drawn: engaging, later\n"), "{page}");
    assert!(page.contains("never asked: later\n"), "{page}");
    assert!(
        page.contains("less-harm was worded otherwise in 0 rounds and "),
        "{page}"
    );
    assert!(page.contains("not-evasive *"), "{page}");
    assert!(page.contains("* not in the constitution"), "{page}");
}

/// Catches: figures about a constitution that has nothing to do with the data, a dataset of another kind passed over.
#[test]
fn a_stranger_is_refused() {
    refused(
        made(),
        &["constitution", "show", "builtin:harmless", "--usage", "revised"],
        3,
        &[
            "is of a principle of the constitution",
            "constitution show small.toml --usage revised",
        ],
    );
    refused(
        made(),
        &["constitution", "show", "small.toml", "--usage", "sampled"],
        3,
        &["candidates, in which no principle left a trace"],
    );
}

/// Catches: datasets of earlier versions refused, or their rounds taken for rounds of another wording.
#[test]
fn rows_without_hashes_say_so() {
    let dir = made();
    write(
        dir,
        "old.toml",
        "name = \"old\"\nversion = \"1\"\n[[principle]]\nid = \"no-cheating\"\ncritique = \"Criticise.\"\nrevise = \"Revise.\"\n",
    );
    for version in [1, 2] {
        let data = format!("{}/tests/golden/schema-{version}/revisions", env!("CARGO_MANIFEST_DIR"));
        let page = show(&["old.toml", "--usage", &data]);
        assert!(
            page.contains("4 rounds do not say how the principle was worded"),
            "{page}"
        );
    }
}
