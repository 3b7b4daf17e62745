//! Bad inputs and the message that each gets, as one document: `tests/snapshots/bad_inputs__messages.snap`.
//!
//! A case is a directory, a command in it, and the exit code. The snapshot holds what the user reads; the
//! test itself holds every case to the same rules: no panic, no hang, memory that the input cannot
//! decide, and a message with a remedy.

#![cfg(target_os = "linux")]

#[path = "bad_inputs/arguments.rs"]
mod arguments;
#[path = "bad_inputs/case.rs"]
mod case;
#[path = "bad_inputs/datasets.rs"]
mod datasets;
#[path = "bad_inputs/files.rs"]
mod files;
#[path = "bad_inputs/mappings.rs"]
mod mappings;
#[path = "bad_inputs/rows.rs"]
mod rows;

use std::collections::HashSet;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Case, Told, case};

/// What a case may take. The program itself needs 30 MB, and a record of up to 64 MB is read whole.
const MOST_MEMORY: u64 = 300 << 20;

/// Runs the cases, a few at a time, and answers what each was told.
fn run(cases: &[Case]) -> Vec<Told> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut told = Vec::new();
        while let Some((index, case)) = cases.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            told.push((index, case.run()));
        }
        told
    };
    let mut told: Vec<(usize, Told)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    told.sort_by_key(|(index, _)| *index);
    told.into_iter().map(|(_, told)| told).collect()
}

/// Catches: a message without a remedy, or a panic, where the system refuses. What it says differs from
/// machine to machine, and from root to others, so that it is not in the document.
#[test]
fn what_the_system_refuses_has_a_remedy() {
    let prompts = "{\"prompt\": \"How do I bake bread?\"}\n";
    for command in [
        "sample --model builtin:tiny --prompts rows.jsonl --out /proc/bylaw",
        "data mix --data rows.jsonl --rows 1 --out /proc/bylaw",
        "data split rows.jsonl --test 0.5 --out /sys/bylaw",
        "data inspect locked.jsonl",
        "data validate locked.jsonl",
        "run locked.jsonl",
    ] {
        let told = case(command, command, 1)
            .file("rows.jsonl", prompts.repeat(8))
            .file("locked.jsonl", prompts)
            .given(|work| {
                let nobody = std::fs::Permissions::from_mode(0o000);
                std::fs::set_permissions(work.join("locked.jsonl"), nobody).unwrap();
            })
            .run();
        told.refused(command);
    }
}

/// Catches: a bad input that makes the program panic, hang or fill the memory, that is taken for a good one,
/// that loses the good rows beside it, or whose message has no place or remedy.
#[test]
fn every_bad_input_has_its_message() {
    let parts = [
        ("Rows", rows::cases()),
        ("Files", files::cases()),
        ("Datasets", datasets::cases()),
        ("Arguments, recipes and places", arguments::cases()),
    ];
    let (mut document, mut wrong) = (String::new(), Vec::new());
    for (title, cases) in parts {
        let _ = writeln!(document, "# {title}");
        let names: HashSet<&str> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len(), "two cases of `{title}` have one name");
        for (case, told) in cases.iter().zip(run(&cases)) {
            let _ = write!(document, "\n{}", case.chapter(&told));
            wrong.extend(case.complaints(&told, MOST_MEMORY));
        }
        document.push('\n');
    }
    document.push_str(&mappings::chapter());
    insta::with_settings!({ omit_expression => true }, {
        insta::assert_snapshot!("messages", document);
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
