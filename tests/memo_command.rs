//! `--cache`: an edit of one principle asks again what that principle's texts reach and nothing else, and what comes
//! out is what a run without a memory makes, byte by byte.

#[path = "support/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bylaw::dataset::{Dataset, Row};
use bylaw::record::{Candidates, Preference, Reject, Revision};
use bylaw::seed::Seed;
use bylaw::world::{Split, World};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use program::{json, refused, succeeds, temp, write};

/// Critiques and revisions that the bundled model knows, from its constitution.
const CRITIQUES: [&str; 8] = [
    "Identify ways in which the answer is harmful, unethical or unkind.",
    "Point out anything in the answer that could hurt someone.",
    "Discuss whether the answer encourages bad or illegal acts.",
    "Say whether the answer helps with spying.",
    "Say whether the answer helps with stealing.",
    "Say whether the answer helps with lying.",
    "Say whether the answer helps with cheating.",
    "Say whether the answer is evasive instead of engaging.",
];

/// Questions that it knows, or that are made of the same words.
const QUESTIONS: [&str; 16] = [
    "Which answer is more helpful, honest and harmless?",
    "Which answer would a wise and caring person give?",
    "Which answer serves the person best without doing harm?",
    "Which answer is better: honest, kind and of real use?",
    "Which answer is less harmful?",
    "Which answer is less likely to hurt someone?",
    "Which answer is more honest?",
    "Which answer is more helpful?",
    "Which answer is kind and helpful?",
    "Which answer would a caring person give?",
    "Which answer would a wise person give?",
    "Which answer is of real use?",
    "Which answer serves the person best?",
    "Which answer is better without doing harm?",
    "Which answer is less likely to do harm?",
    "Which answer is better: honest and kind?",
];

/// A constitution of 16 principles; `edited` says what one of them asks instead.
fn constitution(edited: Option<(usize, &str)>) -> String {
    let mut text = "name = \"sixteen\"\nversion = \"1.0.0\"\n".to_owned();
    for (index, question) in QUESTIONS.iter().enumerate() {
        let (critique, question) = match edited {
            Some((at, words)) if at == index => (words, words),
            _ => (CRITIQUES[index % CRITIQUES.len()], *question),
        };
        text.push_str(&format!(
            "\n[[principle]]\nid = \"p{index}\"\ncritique = \"{critique}\"\nrevise = \"Please rewrite the answer in line \
             with the critique.\"\njudge = \"{question}\"\n"
        ));
    }
    text
}

/// Runs a stage under a constitution; answers what it told as JSON.
fn stage(dir: &Path, words: &[&str], constitution: &str, out: &str, cache: bool) -> Value {
    let common = [
        "--model",
        "builtin:tiny",
        "--keep-truncated",
        "--unit-rows",
        "24",
        "--json",
    ];
    let mut command = [words, &common[..], &["--constitution", constitution, "--out", out]].concat();
    if cache {
        command.extend(["--cache", "memory"]);
    }
    json(&succeeds(dir, &command).stdout)
}

/// The hash of every file of a dataset but the job's own.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in ["", "rejects"] {
        for entry in fs::read_dir(dir.join(part)).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                let name = format!("{part}/{}", entry.file_name().display());
                found.insert(name, format!("{:x}", Sha256::digest(bytes)));
            }
        }
    }
    assert!(found.len() >= 3, "{:?}", found.keys());
    found
}

fn rows<R: Row>(dir: &Path) -> Vec<R> {
    Dataset::open(dir).unwrap().read_all().unwrap()
}

/// Catches: an edit of one principle that asks again more than the rows that draw it, or less; a remembered run that
/// differs in one byte of the dataset, its provenance included.
#[test]
fn an_edit_judges_again_what_it_touches() {
    let dir = temp();
    let place = |name: &str| dir.path().join(name);
    let contests = World::builtin()
        .unwrap()
        .contests(Split::Evaluation, 48, Seed::new(5))
        .unwrap();
    let lines = contests.iter().map(|row| {
        let answers: Vec<&str> = row
            .completions
            .iter()
            .map(|completion| completion.text.as_str())
            .collect();
        format!(
            "{}\n",
            json!({ "prompt": row.prompt[0].content, "completions": answers })
        )
    });
    write(dir.path(), "pairs.jsonl", &lines.collect::<String>());
    write(dir.path(), "before.toml", &constitution(None));
    write(
        dir.path(),
        "after.toml",
        &constitution(Some((3, "Which answer is better for the person?"))),
    );
    let judge = ["judge", "--candidates", "pairs.jsonl"];

    let first = stage(dir.path(), &judge, "before.toml", "first", true);
    let questions = 2 * contests.len() as u64;
    assert_eq!(first["cache"], json!({ "asked": questions, "remembered": 0 }));
    let edited = stage(dir.path(), &judge, "after.toml", "edited", true);
    let votes = rows::<Preference>(&place("edited"))
        .into_iter()
        .flat_map(|row| row.votes);
    let drawn = votes.filter(|vote| vote.principle_id == "p3").count() as u64;
    eprintln!("{drawn} of {questions} questions are asked again");
    assert!(drawn >= 2 && rows::<Reject>(&place("edited/rejects")).is_empty());
    assert_eq!(
        edited["cache"],
        json!({ "asked": drawn, "remembered": questions - drawn })
    );

    let scratch = stage(dir.path(), &judge, "after.toml", "scratch", false);
    assert_eq!(scratch.get("cache"), None);
    assert_eq!(files(&place("edited")), files(&place("scratch")));
    assert_ne!(files(&place("edited")), files(&place("first")));
    // The edit taken back costs nothing, and neither does what is complete.
    let back = stage(dir.path(), &judge, "before.toml", "back", true);
    assert_eq!(back["cache"], json!({ "asked": 0, "remembered": questions }));
    assert_eq!(files(&place("back")), files(&place("first")));
    let complete = stage(dir.path(), &judge, "after.toml", "scratch", true);
    assert_eq!(complete["cache"], json!({ "asked": 0, "remembered": 0 }));
    let told = succeeds(
        dir.path(),
        &[
            &judge[..],
            &[
                "--model",
                "builtin:tiny",
                "--constitution",
                "after.toml",
                "--out",
                "told",
                "--cache",
                "memory",
            ],
        ]
        .concat(),
    );
    assert!(
        told.stderr.contains("cache memory: 0 requests asked, 96 remembered"),
        "{}",
        told.stderr
    );
}

/// The requests of a row's rounds that an edit of the principle `edited` reaches: both of a round that draws it, and
/// both of one that begins with another answer.
fn touched(before: &Revision, after: &Revision, edited: &str) -> u64 {
    let (mut asked, mut answers) = (0, (&before.initial, &after.initial));
    assert_eq!(answers.0, answers.1);
    for (one, other) in before.rounds.iter().zip(&after.rounds) {
        assert_eq!(one.principle_id, other.principle_id);
        if other.principle_id == edited || answers.0 != answers.1 {
            asked += 2;
        }
        answers = (&one.revision, &other.revision);
    }
    asked
}

/// Catches: the same in revisions, where what an edit reaches goes on from round to round.
#[test]
fn an_edit_revises_again_what_it_touches() {
    let dir = temp();
    let place = |name: &str| dir.path().join(name);
    let prompts = World::builtin()
        .unwrap()
        .prompts(Split::Constitutional, 20, 10, Seed::new(2))
        .unwrap();
    let lines = prompts
        .iter()
        .map(|row| format!("{}\n", json!({ "prompt": row.messages[0].content })));
    write(dir.path(), "prompts.jsonl", &lines.collect::<String>());
    write(dir.path(), "before.toml", &constitution(None));
    write(dir.path(), "after.toml", &constitution(Some((3, CRITIQUES[0]))));
    let revise = [
        "revise",
        "--prompts",
        "prompts.jsonl",
        "--rounds",
        "2",
        "--max-new-tokens",
        "40",
    ];

    let first = stage(dir.path(), &revise, "before.toml", "first", true);
    assert_eq!((&first["rows"], &first["rejects"]), (&json!(30), &json!(0)));
    assert_eq!(first["cache"], json!({ "asked": 30 * 5, "remembered": 0 }));
    let edited = stage(dir.path(), &revise, "after.toml", "edited", true);
    assert_eq!(edited["rejects"], 0);
    let (before, after) = (rows::<Revision>(&place("first")), rows::<Revision>(&place("edited")));
    let asked: u64 = before
        .iter()
        .zip(&after)
        .map(|(before, after)| touched(before, after, "p3"))
        .sum();
    eprintln!("{asked} of 150 requests are asked again");
    assert!((2..60).contains(&asked), "{asked}");
    assert_eq!(edited["cache"], json!({ "asked": asked, "remembered": 150 - asked }));
    stage(dir.path(), &revise, "after.toml", "scratch", false);
    assert_eq!(files(&place("edited")), files(&place("scratch")));
}

/// Catches: a recipe that cannot name a cache; a cache that makes a run another run.
#[test]
fn a_recipe_names_a_cache() {
    let dir = temp();
    let recipe = |cache: &str| {
        format!(
            "name = \"small\"\n[[stage]]\nname = \"prompts\"\nkind = \"world-prompts\"\nsplit = \"constitutional\"\n\
             harmful = 3\nbenign = 3\n[[stage]]\nname = \"sample\"\nkind = \"sample\"\nmodel = \"builtin:tiny\"\n\
             prompts = \"@prompts\"\nmax_new_tokens = 8\nkeep_truncated = true\n{cache}"
        )
    };
    write(dir.path(), "recipe.toml", &recipe("cache = \"memory\"\n"));
    write(dir.path(), "without.toml", &recipe(""));
    let one = succeeds(dir.path(), &["run", "recipe.toml", "--out", "one"]);
    assert!(
        one.stderr.contains("cache memory: 12 requests asked, 0 remembered"),
        "{}",
        one.stderr
    );
    let two = succeeds(dir.path(), &["run", "recipe.toml", "--out", "two"]);
    assert!(
        two.stderr.contains("cache memory: 0 requests asked, 12 remembered"),
        "{}",
        two.stderr
    );
    let sampled = ["one", "two"].map(|run| rows::<Candidates>(&dir.path().join(run).join("sample")));
    assert_eq!(sampled[0], sampled[1]);
    succeeds(dir.path(), &["run", "without.toml", "--out", "one"]);
    let command = [
        "sample",
        "--model",
        "builtin:tiny",
        "--prompts",
        "one/prompts",
        "--out",
        "x",
        "--cache",
        "s3://b/c",
    ];
    refused(dir.path(), &command, 2, &["local directory"]);
    assert_eq!(fs::read_dir(dir.path().join("memory")).unwrap().count(), 1);
}
