//! `audit`, `balance` and the ledger of a run, as people and scripts use them.

use std::fs;
use std::path::Path;

#[path = "support/program.rs"]
mod program;

use program::*;

fn verdicts(dir: &Path) {
    let rows: String = (0..40)
        .map(|index| {
            let (verdict, swapped) = if index % 4 == 0 { (1, 2) } else { (2, 2) };
            format!(
                "{{\"prompt\": \"q{index}\", \"answer_1\": \"x\", \"answer_2\": \"longer\", \"verdict\": {verdict}, \
                     \"verdict_swapped\": {swapped}, \"gold\": 2}}\n"
            )
        })
        .collect();
    fs::write(dir.join("verdicts.jsonl"), rows).unwrap();
}

/// Catches: requirements that are not checked, checked on another figure, or that end with exit code 0.
#[test]
fn requirements_decide_the_exit_code() {
    let dir = temp();
    verdicts(dir.path());
    let audit = |require: &str| {
        bylaw(
            dir.path(),
            &["audit", "--verdicts", "verdicts.jsonl", "--require", require],
        )
    };
    assert_eq!(audit("accuracy>=0.8,order_consistency>0.7").code, 0);
    let missed = audit("accuracy>0.9,parse_failures<=0");
    assert_eq!(missed.code, 3, "{missed:?}");
    assert!(
        missed.stderr.contains("accuracy>0.9 is required, and it is 0.88"),
        "{}",
        missed.stderr
    );
    // The figures are told all the same.
    assert!(
        missed.stdout.contains("same verdict in both orders"),
        "{}",
        missed.stdout
    );
    let absent = audit("brier<1");
    assert!(
        absent.code == 3 && absent.stderr.contains("nothing here measures it"),
        "{absent:?}"
    );
    fails(
        dir.path(),
        &["audit", "--verdicts", "verdicts.jsonl", "--require", "acuracy>=0.8"],
        2,
        &["did you mean `accuracy`"],
    );
    fails(
        dir.path(),
        &["audit", "--verdicts", "verdicts.jsonl", "--require", "accuracy"],
        2,
        &["accuracy>=0.8"],
    );
}

/// Catches: a document that is none, figures without intervals, the same audit told otherwise when it is kept.
#[test]
fn an_audit_is_one_document() {
    let dir = temp();
    verdicts(dir.path());
    let command = ["audit", "--verdicts", "verdicts.jsonl", "--json"];
    let told = json(&succeeds(dir.path(), &command).stdout);
    let all = &told["sections"][0];
    assert_eq!(
        (all["name"].as_str(), all["pairs"].as_u64(), all["judgements"].as_u64()),
        (Some("all"), Some(40), Some(80))
    );
    assert_eq!(all["figures"]["order_consistency"]["value"], 0.75);
    assert_eq!(all["figures"]["gold_prefer_longer"]["value"], 1.0);
    let estimate = &all["figures"]["accuracy"];
    assert!(
        estimate["low"].as_f64() < estimate["value"].as_f64() && estimate["n"] == 80,
        "{estimate}"
    );
    let kept = [&command[..], &["--out", "out"]].concat();
    assert_eq!(json(&succeeds(dir.path(), &kept).stdout), told);
    let again = succeeds(dir.path(), &kept);
    assert!(
        json(&again.stdout) == told && again.stderr.contains("already complete"),
        "{again:?}"
    );
}

/// A judge that is asked goes on where it was, to the same figures; its labels lie there to be looked at.
#[test]
fn a_judge_is_audited_once() {
    let dir = temp();
    succeeds(
        dir.path(),
        &[
            "world",
            "pairs",
            "--split",
            "evaluation",
            "--count",
            "24",
            "--out",
            "pairs",
        ],
    );
    let command = [
        "audit",
        "--model",
        "builtin:tiny",
        "--constitution",
        "builtin:proving-ground",
        "--pairs",
        "pairs/pairs.jsonl",
        "--padding",
        "builtin:proving-ground",
        "--changes",
        "padded",
        "--out",
        "out",
        "--json",
    ];
    let first = json(&succeeds(dir.path(), &command).stdout);
    assert_eq!(first["changes"][0]["change"], "padded");
    assert_eq!(first["changes"][0]["trials"], 24);
    // All pairs, then each changed answer against the other and against itself.
    let labels = json(&succeeds(dir.path(), &["data", "inspect", "out/labels", "--json"]).stdout);
    assert_eq!(labels["rows"], 72, "{labels}");
    fs::remove_file(dir.path().join("out/audit.json")).unwrap();
    let again = succeeds(dir.path(), &command);
    assert_eq!(json(&again.stdout), first);
    assert!(again.stderr.contains("audit: already complete"), "{}", again.stderr);
    // Asked without a place for what it says: the same figures.
    let bare = &command[..command.len() - 3];
    let told = json(&succeeds(dir.path(), &[bare, &["--json"]].concat()).stdout);
    assert_eq!(told, first);
    let tags: Vec<&str> = first["sections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| section["name"].as_str().unwrap())
        .collect();
    assert!(tags.contains(&"harm") && tags.contains(&"helpful"), "{tags:?}");
}

/// Labels on short answers: enough for a bias to be found.
fn labels(dir: &Path) {
    succeeds(
        dir,
        &[
            "world",
            "prompts",
            "--split",
            "constitutional",
            "--harmful",
            "30",
            "--benign",
            "30",
            "--out",
            "prompts",
        ],
    );
    succeeds(
        dir,
        &[
            "sample",
            "--model",
            "builtin:tiny",
            "--prompts",
            "prompts",
            "--per-prompt",
            "3",
            "--max-new-tokens",
            "64",
            "--keep-truncated",
            "--out",
            "sample",
        ],
    );
    succeeds(
        dir,
        &[
            "judge",
            "--model",
            "builtin:tiny",
            "--constitution",
            "builtin:proving-ground",
            "--candidates",
            "sample",
            "--keep-truncated",
            "--out",
            "labels",
        ],
    );
}

/// Catches: a row lost or doubled by a control, weights that stay 1, pairs of unlike length that stay.
#[test]
fn every_row_comes_out_of_a_control_once() {
    let dir = temp();
    labels(dir.path());
    let balance = |method: &str| {
        let out = format!("out-{method}");
        json(
            &succeeds(
                dir.path(),
                &[
                    "balance",
                    "--preferences",
                    "labels",
                    "--method",
                    method,
                    "--out",
                    &out,
                    "--json",
                ],
            )
            .stdout,
        )
    };
    let rows = json(&succeeds(dir.path(), &["data", "inspect", "labels", "--json"]).stdout)["rows"]
        .as_u64()
        .unwrap();
    let residual = balance("residual");
    assert_eq!(residual["rows"].as_u64(), Some(rows));
    assert!(
        residual["result"]["fitted"]["effect"]["slope"].as_f64().unwrap() > 0.0,
        "{residual}"
    );
    let matched = balance("match");
    let kept = matched["rows"].as_u64().unwrap();
    // The rejects of the labels, ties among them, are kept as well.
    assert!(
        kept > 0 && kept < rows && kept + matched["rejects"].as_u64().unwrap() >= rows,
        "{matched}"
    );
    let weighed = balance("weight");
    assert_eq!(weighed["rows"].as_u64(), Some(rows));
    let result = &weighed["result"];
    assert!(result["effective"].as_f64().unwrap() < rows as f64, "{result}");
    let lean = |when: &str| (result[when]["prefer_longer"].as_f64().unwrap() - 0.5).abs();
    assert!(lean("after") < lean("before"), "{result}");
    let given = json(
        &succeeds(
            dir.path(),
            &[
                "balance",
                "--preferences",
                "labels",
                "--length-effect",
                "0.4",
                "--out",
                "given",
                "--json",
            ],
        )
        .stdout,
    );
    let typical = given["result"]["fitted"]["typical"].as_f64().unwrap();
    let slope = given["result"]["fitted"]["effect"]["slope"].as_f64().unwrap();
    assert!((slope * 1f64.tanh() - 0.4).abs() < 1e-6 && typical > 0.0, "{given}");
}

/// Catches: own answers taken for the others', or pairs of answers to different prompts.
#[test]
fn a_judge_meets_its_own_answers_and_others() {
    let dir = temp();
    succeeds(
        dir.path(),
        &[
            "world",
            "prompts",
            "--split",
            "evaluation",
            "--harmful",
            "10",
            "--benign",
            "10",
            "--out",
            "prompts",
        ],
    );
    let sample = [
        "sample",
        "--model",
        "builtin:tiny",
        "--prompts",
        "prompts",
        "--per-prompt",
        "1",
        "--max-new-tokens",
        "48",
        "--keep-truncated",
    ];
    succeeds(dir.path(), &[&sample[..], &["--out", "own"]].concat());
    succeeds(dir.path(), &[&sample[..], &["--seed", "7", "--out", "others"]].concat());
    let audit = |own: &str, others: &str| {
        let command = [
            "audit",
            "--model",
            "builtin:tiny",
            "--constitution",
            "builtin:proving-ground",
            "--candidates",
            own,
            "--others",
            others,
            "--changes",
            "listed",
            "--json",
        ];
        json(&succeeds(dir.path(), &command).stdout)["sections"][0]["figures"]["prefer_own"].clone()
    };
    let (one, other) = (audit("own", "others"), audit("others", "own"));
    let share = |estimate: &serde_json::Value| estimate["value"].as_f64().unwrap();
    assert!(one["n"].as_u64().unwrap() >= 15, "{one}");
    // A pair seen from the other side has the other answer for its own; principles are drawn by pair, so not exactly.
    assert!((share(&one) + share(&other) - 1.0).abs() < 0.2, "{one} {other}");
}

/// Preferences of one prompt, that lean to the longer answer.
fn of_one_prompt(dir: &Path) {
    let rows: String = (0..60u32)
        .map(|index| {
            let word = |count: u32| "word ".repeat(count as usize);
            let (longer, shorter) = (word(10 + index % 7), word(2 + index % 5));
            let (chosen, rejected) = if index % 10 == 0 {
                (shorter, longer)
            } else {
                (longer, shorter)
            };
            let margin = 0.2 + 0.01 * f64::from(index);
            let p = 1.0 / (1.0 + (-margin).exp());
            let row = serde_json::json!({
                "id": index.to_string(),
                "prompt": [{ "role": "user", "content": "q" }],
                "chosen": [{ "role": "assistant", "content": chosen }],
                "rejected": [{ "role": "assistant", "content": rejected }],
                "p_chosen": p, "margin": margin, "weight": 1.0, "source": "judge", "votes": [],
                "chosen_tokens": 0, "rejected_tokens": 0,
                "chosen_chars": chosen.len(), "rejected_chars": rejected.len(), "p_raw": p,
            });
            format!("{row}\n")
        })
        .collect();
    fs::write(dir.join("one.jsonl"), rows).unwrap();
}

/// Catches: labels changed, or requirements met, by a figure of one prompt, whose resamples are all alike.
#[test]
fn one_prompt_decides_nothing() {
    let dir = temp();
    of_one_prompt(dir.path());
    for method in ["residual", "weight"] {
        let out = format!("out-{method}");
        let command = [
            "balance",
            "--preferences",
            "one.jsonl",
            "--method",
            method,
            "--out",
            &out,
        ];
        let told = succeeds(dir.path(), &[&command[..], &["--json"]].concat());
        let result = &json(&told.stdout)["result"];
        let untold = result["untold"].as_str().unwrap();
        assert!(
            untold.contains("(no interval)") && untold.contains("label more prompts"),
            "{untold}"
        );
        assert_eq!(result["changed"], 0.0);
        assert_eq!(result["before"], result["after"]);
        if method == "residual" {
            assert!(result["fitted"]["found"]["low"].is_null(), "{result}");
            assert_eq!(result["fitted"]["effect"]["slope"], 0.0);
        }
        // What is complete is not fitted again, and tells the same.
        let again = succeeds(dir.path(), &[&command[..], &["--json"]].concat());
        assert_eq!(&json(&again.stdout)["result"], result);
        assert!(!again.stderr.contains("resamples"), "{}", again.stderr);
    }
    let audit = bylaw(
        dir.path(),
        &[
            "audit",
            "--preferences",
            "one.jsonl",
            "--require",
            "prefer_longer<=0.95",
        ],
    );
    assert_eq!(audit.code, 3, "{audit:?}");
    assert!(
        audit.stderr.contains("rests on too few prompts for an interval"),
        "{}",
        audit.stderr
    );
    assert!(audit.stdout.contains("0.90 (no interval)"), "{}", audit.stdout);
    assert!(
        audit.stdout.contains("not fit to label: all pairs are of one prompt"),
        "{}",
        audit.stdout
    );
}

/// Catches: a flag that the method does not read, taken without a word.
#[test]
fn flags_belong_to_their_method() {
    let dir = temp();
    of_one_prompt(dir.path());
    let refused = |method: &str, flag: &str, help: &str| {
        fails(
            dir.path(),
            &[
                "balance",
                "--preferences",
                "one.jsonl",
                "--method",
                method,
                flag,
                "0.5",
                "--out",
                "out",
            ],
            2,
            &[flag, help],
        );
    };
    refused("match", "--length-effect", "--method residual");
    refused("weight", "--length-effect", "--method residual");
    refused("residual", "--max-difference", "--method match");
    // What is given is told as it was given, not as a slope.
    let given = succeeds(
        dir.path(),
        &[
            "balance",
            "--preferences",
            "one.jsonl",
            "--length-effect",
            "0.5",
            "--out",
            "out",
        ],
    );
    let told = given.stdout + &given.stderr;
    assert!(told.contains("the longer answer gained 0.50 log-odds"), "{told}");
}

/// Catches: a judge whose verdicts are all ties called fit; counts made of what is no share.
#[test]
fn ties_are_no_labels() {
    let dir = temp();
    let rows: String = (0..40)
        .map(|index| {
            format!(
                "{{\"prompt\": \"q{index}\", \"answer_1\": \"x\", \"answer_2\": \"longer\", \"verdict\": \"tie\", \
                     \"verdict_swapped\": \"tie\", \"gold\": 2}}\n"
            )
        })
        .collect();
    fs::write(dir.path().join("ties.jsonl"), rows).unwrap();
    let told = succeeds(dir.path(), &["audit", "--verdicts", "ties.jsonl"]).stdout;
    assert!(told.contains("not fit to label: ties 1.00"), "{told}");
    assert!(told.contains("80 of 80"), "{told}");
}

/// Catches: rows of the other model's data lost, prompts that only one of the two answered uncounted, an audit of no pair.
#[test]
fn prompts_without_a_partner_are_counted() {
    let dir = temp();
    let rows = |name: &str, prompts: &[&str], more: &str| {
        let rows: String = prompts
            .iter()
            .map(|prompt| {
                let answers = format!("\"It is {prompt}, says {name}.\", \"No, says {name}.\"");
                format!("{{\"prompt\": \"Is it {prompt}?\", \"completions\": [{answers}]}}\n")
            })
            .collect();
        fs::write(dir.path().join(format!("{name}.jsonl")), rows + more).unwrap();
    };
    rows("own", &["hot", "cold", "wet"], "");
    rows("others", &["cold", "dry", "hot"], "{\"prompt\": 7}\n");
    rows("strange", &["blue"], "");
    let command = [
        "audit",
        "--model",
        "builtin:tiny",
        "--constitution",
        "builtin:proving-ground",
        "--candidates",
        "own.jsonl",
        "--changes",
        "repeated",
        "--out",
        "out",
        "--others",
    ];
    let told = json(&succeeds(dir.path(), &[&command[..], &["others.jsonl", "--json"]].concat()).stdout);
    assert_eq!(
        (
            told["sections"][0]["pairs"].as_u64(),
            told["unmatched"].as_u64(),
            told["unread"].as_u64()
        ),
        (Some(2), Some(2), Some(1)),
        "{told}"
    );
    assert!(told["first_unread"].as_str().unwrap().contains("line 4"), "{told}");
    let rejects = fs::read_dir(dir.path().join("out/labels/rejects")).unwrap().count();
    assert!(rejects > 0);
    fails(
        dir.path(),
        &[&command[..9], &["--others", "strange.jsonl"]].concat(),
        3,
        &["answers no prompt that is answered in own.jsonl", "same prompts"],
    );
}

/// Catches: candidates that make no pair, and pairs of which nothing can be asked, lost from the count of what was given.
#[test]
fn what_makes_no_comparison_is_counted() {
    let dir = temp();
    let rows = [
        r#"{"prompt": "Is it hot?", "completions": ["Yes.", "No.", " Yes. "]}"#,
        r#"{"prompt": "Is it cold?", "completions": ["No.", "No."]}"#,
        r#"{"prompt": "Is it wet?", "completions": ["Yes."]}"#,
    ];
    fs::write(dir.path().join("candidates.jsonl"), rows.join("\n")).unwrap();
    let pairs = [
        r#"{"prompt": "Is it hot?", "answer_1": "Yes.", "answer_2": "No.", "gold": 1}"#,
        r#"{"prompt": "Is it cold?", "answer_1": "No.", "answer_2": "No.", "gold": 0}"#,
    ];
    fs::write(dir.path().join("pairs.jsonl"), pairs.join("\n")).unwrap();
    let audit = |more: &[&str]| {
        let command = [
            "audit",
            "--model",
            "builtin:tiny",
            "--changes",
            "repeated",
            "--constitution",
        ];
        succeeds(dir.path(), &[&command[..], &["builtin:proving-ground"], more].concat()).stdout
    };
    let told = json(&audit(&["--candidates", "candidates.jsonl", "--out", "out", "--json"]));
    let counts = |told: &serde_json::Value| {
        let pairs = told["sections"][0]["pairs"].as_u64();
        (pairs, told["identical"].as_u64(), told["single"].as_u64())
    };
    assert_eq!(counts(&told), (Some(2), Some(2), Some(1)), "{told}");
    let page = audit(&["--candidates", "candidates.jsonl"]);
    for line in [
        "2 pairs left out, for both answers are the same",
        "1 row left out, for a comparison needs two answers",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let rejects = fs::read_dir(dir.path().join("out/labels/rejects")).unwrap().count();
    assert!(rejects > 0);
    let told = json(&audit(&["--pairs", "pairs.jsonl", "--json"]));
    assert_eq!(counts(&told), (Some(1), Some(1), None), "{told}");
}
