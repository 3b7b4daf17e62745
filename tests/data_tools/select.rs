//! `data mix` and `data split`, and the choices behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use bylaw::dataset::Dataset;
use bylaw::record::{Message, Prompt};
use bylaw::seed::Seed;
use bylaw::select::mix::{MixConfig, Stratum, Weighted, mix};
use bylaw::select::split::{SplitConfig, leaks, split};
use bylaw::survey::Sameness;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use crate::{json_of, preference, program, prompt, write};

fn source(name: &str, count: usize) -> Vec<Prompt> {
    let row = |index: usize| {
        let kind = if index.is_multiple_of(4) { "rare" } else { "common" };
        prompt(&format!("{name}{index}"), &format!("{name} {index}"), kind)
    };
    (0..count).map(row).collect()
}

/// Catches: shares that are not the weights', rows taken twice, another seed without effect, a dataset
/// without its sources.
#[test]
fn a_mixture_has_the_shares_that_were_asked_for() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("a"), &source("a", 100));
    write(&dir.path().join("b"), &source("b", 40));
    let make = |out: &str, more: &[&str]| {
        let arguments = [
            "data", "mix", "--data", "a=3", "--data", "b", "--rows", "61", "--out", out,
        ];
        let told = json_of(dir.path(), &[&arguments, more].concat());
        let dataset = Dataset::<Prompt>::open(dir.path().join(out)).unwrap();
        (told, dataset.read_all().unwrap(), dataset.manifest().provenance.clone())
    };
    let (told, rows, provenance) = make("mixed", &[]);
    let of_a = rows.iter().filter(|row| row.id.starts_with('a')).count();
    assert_eq!((of_a, rows.len()), (46, 61), "45.75 and 15.25");
    assert_eq!(
        (&told["sources"][0]["taken"], &told["sources"][1]["taken"]),
        (&json!(46), &json!(15))
    );
    assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>().len(), 61);
    assert_eq!(provenance.inputs[1].reference, "b");
    assert_eq!(provenance.settings["weights"], json!([3.0, 1.0]));
    assert!(rows[..30].iter().any(|row| row.id.starts_with('b')), "shuffled");

    let (_, again, _) = make("again", &[]);
    assert_eq!(again, rows);
    let (_, same_place, _) = make("mixed", &[]);
    assert_eq!(same_place, rows);
    let (_, other, _) = make("other", &["--seed", "5"]);
    assert_ne!(other, rows);
    let (_, stratified, _) = make("stratified", &["--stratify", "source"]);
    let rare = |rows: &[Prompt], name| {
        rows.iter()
            .filter(|row| row.id.starts_with(name) && row.source == "rare")
            .count()
    };
    assert!((11..=12).contains(&rare(&stratified, 'a')), "a quarter of 46");
    assert!((3..=4).contains(&rare(&stratified, 'b')), "a quarter of 15");
    assert_eq!(program(dir.path(), &["data", "validate", "mixed"]).code, 0);
}

/// Catches: a source used up without a word, rows repeated unevenly, repeated ids.
#[test]
fn a_source_is_used_up_before_its_rows_come_again() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("a"), &source("a", 10));
    write(&dir.path().join("f"), &[preference("x")]);
    let mix = |more: &[&str]| {
        program(
            dir.path(),
            &[&["data", "mix", "--data", "a", "--rows", "25", "--out", "out"], more].concat(),
        )
    };
    let ran = mix(&[]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("needs 25 rows of it, but there are 10"), "{ran:?}");
    assert!(ran.stderr.contains("--rows 10"), "{ran:?}");
    assert!(!dir.path().join("out").exists());
    assert_eq!(mix(&["--repeat"]).code, 0);
    let rows = Dataset::<Prompt>::open(dir.path().join("out"))
        .unwrap()
        .read_all()
        .unwrap();
    let mut times: BTreeMap<&str, u32> = BTreeMap::new();
    for row in &rows {
        *times.entry(row.messages[0].content.as_str()).or_default() += 1;
    }
    assert_eq!(times.len(), 10);
    assert!(times.values().all(|count| (2..=3).contains(count)), "{times:?}");
    assert_eq!(rows.iter().map(|row| &row.id).collect::<BTreeSet<_>>().len(), 25);
    assert_eq!(program(dir.path(), &["data", "validate", "out"]).code, 0);

    let ran = mix(&["--data", "f", "--repeat"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("f: it holds preferences, but a holds prompts"),
        "{ran:?}"
    );
    let ran = mix(&["--repeat", "--seed", "3"]);
    assert_eq!(ran.code, 2, "another mixture lies there: {ran:?}");
    fs::write(dir.path().join("out/thesis.doc"), "").unwrap();
    let ran = mix(&["--repeat"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("thesis.doc"), "{ran:?}");
    for wrong in ["a=0", "a=-1", "a=many", "a=inf"] {
        let ran = program(
            dir.path(),
            &["data", "mix", "--data", wrong, "--rows", "5", "--out", "new"],
        );
        assert_eq!(ran.code, 2, "{ran:?}");
    }
    let ran = program(
        dir.path(),
        &[
            "data",
            "mix",
            "--data",
            "f",
            "--rows",
            "1",
            "--out",
            "new",
            "--stratify",
            "tag",
        ],
    );
    assert_eq!(ran.code, 2, "{ran:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Catches: shares off by one row or more, rows taken twice before all were taken once.
    #[test]
    fn shares_are_exact(
        sizes in proptest::collection::vec(1_usize..60, 1..5),
        weights in proptest::collection::vec(0.1_f64..10.0, 5),
        rows in 1_u64..200,
        stratify in any::<bool>(),
    ) {
        let sources: Vec<Vec<Prompt>> = sizes.iter().enumerate().map(|(index, size)| source(&format!("s{index}x"), *size)).collect();
        let weighted: Vec<Weighted<'_, Prompt>> = sources
            .iter()
            .zip(&weights)
            .map(|(rows, weight)| Weighted { name: "s", weight: *weight, rows })
            .collect();
        let config = MixConfig {
            rows,
            stratify: stratify.then_some(Stratum::Source),
            repeat: true,
            seed: Seed::new(rows),
        };
        let chosen = mix(&weighted, &config).unwrap();
        prop_assert_eq!(chosen.len() as u64, rows);
        let sum: f64 = weighted.iter().map(|source| source.weight).sum();
        for (index, source) in weighted.iter().enumerate() {
            let taken: Vec<_> = chosen.iter().filter(|choice| choice.source == index).collect();
            let ideal = rows as f64 * source.weight / sum;
            prop_assert!((taken.len() as f64 - ideal).abs() < 1.0);
            let distinct: BTreeSet<(usize, u64)> = taken.iter().map(|choice| (choice.row, choice.pass)).collect();
            prop_assert_eq!(distinct.len(), taken.len());
            for pass in 0..taken.len() / source.rows.len() {
                let full = taken.iter().filter(|choice| choice.pass == pass as u64).count();
                prop_assert_eq!(full, source.rows.len());
            }
        }
    }

    /// Catches: a prompt on both sides, whatever its spelling, and rows that move when others come.
    #[test]
    fn no_prompt_leaks_and_added_rows_move_no_other(
        texts in proptest::collection::vec("[aB] ?[cD]{0,2}[.!]?", 1..60),
        more in proptest::collection::vec("[aB] ?[cD]{0,2}[.!]?", 0..20),
        test in 0.05_f64..0.95,
        seed in any::<u64>(),
    ) {
        let rows: Vec<Prompt> = texts.iter().chain(&more).enumerate()
            .map(|(index, text)| prompt(&index.to_string(), text, "x"))
            .collect();
        let config = SplitConfig { test, by: Sameness::Prompt, near: None, seed: Seed::new(seed) };
        let all = split(&rows, &config);
        let side = |test: bool| rows.iter().zip(&all.test).filter(move |(_, side)| **side == test).map(|(row, _)| row);
        prop_assert_eq!(leaks(side(false), side(true), Sameness::Prompt), 0);
        let few = split(&rows[..texts.len()], &config);
        prop_assert_eq!(&few.test[..], &all.test[..texts.len()]);
        let near = split(&rows, &SplitConfig { near: Some(0.8), ..config });
        for (a, row_a) in rows.iter().enumerate() {
            for (b, row_b) in rows.iter().enumerate().skip(a + 1) {
                let lower = |row: &Prompt| row.messages[0].content.to_lowercase().replace(['.', '!'], "");
                if lower(row_a).trim() == lower(row_b).trim() {
                    prop_assert_eq!(all.test[a], all.test[b]);
                    prop_assert_eq!(near.test[a], near.test[b]);
                }
            }
        }
    }
}

/// Catches: a share far from the one asked for, near duplicates torn apart, conversations of one opening
/// torn apart, an empty side that nobody notices.
#[test]
fn a_split_is_written_and_told() {
    let dir = TempDir::new().unwrap();
    let words = |row: usize| {
        (0..40)
            .map(|word| format!("r{row}w{word}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let rows: Vec<Prompt> = (0..500)
        .flat_map(|row| {
            [("", "x"), (" indeed", "y")]
                .map(|(end, id)| prompt(&format!("{id}{row}"), &format!("{}{end}", words(row)), "s"))
        })
        .collect();
    write(&dir.path().join("rows"), &rows);
    let run = |out: &str, more: &[&str]| {
        json_of(
            dir.path(),
            &[&["data", "split", "--test", "0.2", "--out", out], more, &["rows"]].concat(),
        )
    };
    let told = run("bare", &["--near"]);
    assert_eq!(told["near_groups"], 500, "0.8");
    let told = run("plain", &[]);
    assert_eq!(told["prompts"], 1000);
    assert_eq!(told["leaked_prompts"], 0);
    let test = told["test"].as_u64().unwrap();
    assert!(
        (160..240).contains(&test),
        "a fifth of 1000 within three standard deviations: {test}"
    );
    assert_eq!(told["train"].as_u64().unwrap() + test, 1000);
    let told = run("near", &["--near=0.7"]);
    assert_eq!(told["near_groups"], 500);
    let numbers = |side: &str| -> BTreeSet<String> {
        let rows = Dataset::<Prompt>::open(dir.path().join("near").join(side))
            .unwrap()
            .read_all()
            .unwrap();
        rows.iter().map(|row| row.id[1..].to_owned()).collect()
    };
    assert!(numbers("train").is_disjoint(&numbers("test")));
    assert_eq!(run("near", &["--near=0.7"]), told, "the same command again");
    assert_eq!(program(dir.path(), &["data", "validate", "near"]).code, 0);

    let turns = |id: usize, opening: usize| {
        let mut row = prompt(&id.to_string(), &format!("opening {opening}"), "s");
        row.messages.push(Message::assistant("and?"));
        row.messages.push(Message::user(format!("turn {id}")));
        row
    };
    let rows: Vec<Prompt> = (0..200).map(|row| turns(row, row % 20)).collect();
    write(&dir.path().join("turns"), &rows);
    let split = |by: &str| {
        json_of(
            dir.path(),
            &["data", "split", "turns", "--test", "0.5", "--by", by, "--out", by],
        )
    };
    assert_eq!(split("prompt")["prompts"], 200);
    assert_eq!(split("opening")["prompts"], 20);

    write(&dir.path().join("one"), &rows[..1]);
    let ran = program(dir.path(), &["data", "split", "one", "--test", "0.1", "--out", "none"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stderr.contains("only 1 different prompts"), "{ran:?}");
    assert!(!dir.path().join("none").exists());
    for test in ["0", "1", "-0.1", "NaN"] {
        let ran = program(
            dir.path(),
            &["data", "split", "rows", &format!("--test={test}"), "--out", "none"],
        );
        assert_eq!(ran.code, 2, "{ran:?}");
    }
}
