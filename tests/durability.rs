//! No row lost, none doubled: whatever stops the program, the same command leads to the bytes of a run
//! that nothing stopped. All stages, on the model inside the program; seeds are fixed.
#![cfg(target_os = "linux")]

#[path = "support/faults/mod.rs"]
mod faults;

use faults::campaign::{
    Findings, STAGES, Which, clocks, crashes, crashes_again, failures, full_disks, kills, stops, vanishings,
};

// ---- kill -9 -------------------------------------------------------------------------------------

/// Kills of each stage; the sum over the three tests is 345.
#[track_caller]
fn killed(stages: &[(&str, usize)]) -> usize {
    let mut findings = Findings::default();
    for (seed, (stage, count)) in stages.iter().enumerate() {
        let found = kills(stage, *count, seed as u64);
        assert!(found.tried >= *count, "{stage} was killed only {} times", found.tried);
        findings.join(found);
    }
    let going_on = findings.going_on;
    eprintln!("{} kills, {going_on} of them with a checkpoint", findings.none());
    going_on
}

/// Catches: a shard, manifest or journal that a kill leaves half written or counted twice.
#[test]
fn killed_while_generating() {
    killed(&[
        ("world-prompts", 15),
        ("world-documents", 15),
        ("revise", 30),
        ("sample", 30),
        ("judge", 30),
        ("balance", 15),
    ]);
}

/// Catches: a checkpoint whose files are of different steps, a log of figures that loses or doubles
/// lines, events that are there twice, half of a model.
#[test]
fn killed_while_training() {
    let going_on = killed(&[
        ("train-sft", 30),
        ("train-lora", 20),
        ("train-reward", 25),
        ("train-dpo", 25),
        ("train-ppo", 30),
        ("train-rloo", 10),
        ("train-grpo", 10),
    ]);
    // Without them nothing was resumed.
    assert!(going_on >= 10, "{going_on} kills left a checkpoint");
}

/// Catches: an evaluation that is there in part, a run whose journal and stages disagree.
#[test]
fn killed_while_evaluating_and_in_recipes() {
    killed(&[
        ("eval-policy", 15),
        ("eval-judge", 15),
        ("eval-reward", 15),
        ("run", 35),
    ]);
}

// ---- the power fails -----------------------------------------------------------------------------

/// Catches: a rename before its data are durable, a name that no fsync of its directory covers, a
/// manifest that counts a shard which is not there.
#[test]
fn the_power_fails_while_generating() {
    eprintln!("{} crashes", crashes("sample", Which::Every).none());
}

/// Catches: figures or a checkpoint that are reported as saved and are gone; the same of the model.
#[test]
fn the_power_fails_while_training() {
    eprintln!("{} crashes", crashes("train-reward", Which::Some(40, 9)).none());
}

/// Catches: a journal that knows of a stage whose result is not durable.
#[test]
fn the_power_fails_in_a_recipe() {
    eprintln!("{} crashes", crashes("run-two", Which::Some(40, 3)).none());
}

/// Catches: a recovery that cannot itself be stopped.
#[test]
fn the_power_fails_again_while_going_on() {
    let mut findings = Findings::default();
    for (seed, stage) in ["sample", "train-reward", "run-two"].iter().enumerate() {
        let (first, second) = (Which::Some(2, 7 + seed as u64), Which::Some(3, 11));
        findings.join(crashes_again(stage, first, second));
    }
    eprintln!("{} crashes", findings.none());
}

/// The other stages, at some of their changes.
const OTHERS: [&str; 13] = [
    "world-prompts",
    "world-documents",
    "revise",
    "judge",
    "balance",
    "train-sft",
    "train-lora",
    "train-dpo",
    "train-ppo",
    "train-rloo",
    "train-grpo",
    "eval-policy",
    "run",
];

/// Catches: a stage that writes a file in another way than the rest.
#[test]
fn the_power_fails_in_the_other_stages() {
    let mut findings = Findings::default();
    for (seed, stage) in OTHERS.iter().enumerate() {
        findings.join(crashes(stage, Which::Some(3, seed as u64)));
    }
    eprintln!("{} crashes", findings.none());
}

// ---- the disk fails ------------------------------------------------------------------------------

/// Catches: a failed write, fsync or rename that is not told or not told usefully, and what it leaves.
#[test]
fn the_disk_fails_while_generating() {
    eprintln!("{} failures", failures("sample", Which::Every).none());
}

/// Catches: the same for checkpoints, figures and models.
#[test]
fn the_disk_fails_while_training() {
    eprintln!("{} failures", failures("train-reward", Which::Some(40, 9)).none());
}

/// Catches: the last checkpoint given up before the next one is whole; an error that does not say that the disk is full.
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let found = full_disks("train-lora", ["step-000003", "step-000006"]);
    assert!(found.tried >= 6, "only {} changes of a checkpoint failed", found.tried);
    eprintln!("{} full disks", found.none());
}

/// Catches: the same for the journal of a run.
#[test]
fn the_disk_fails_in_a_recipe() {
    eprintln!("{} failures", failures("run-two", Which::Some(40, 3)).none());
}

/// Catches: a stage that takes a failure in another way than the rest.
#[test]
fn the_disk_fails_in_the_other_stages() {
    let mut findings = Findings::default();
    for (seed, stage) in OTHERS.iter().enumerate() {
        findings.join(failures(stage, Which::Some(2, 100 + seed as u64)));
    }
    eprintln!("{} failures", findings.none());
}

/// Catches: work that goes on in a directory made anew under the old name, so that the rows are in two
/// places.
#[test]
fn the_directory_vanishes() {
    let mut findings = Findings::default();
    for (stage, places) in [("sample", 10), ("train-reward", 15), ("run-two", 10)] {
        findings.join(vanishings(stage, places, 5));
    }
    eprintln!("{} directories gone", findings.none());
}

// ---- clocks and Ctrl-C ---------------------------------------------------------------------------

/// Catches: a time subtracted from a later one, and results that depend on the clock.
#[test]
fn clocks_jump() {
    let mut findings = Findings::default();
    for (seed, stage) in STAGES.iter().enumerate() {
        findings.join(clocks(stage, 2, seed as u64));
    }
    eprintln!("{} runs with jumping clocks", findings.none());
}

/// Catches: a second Ctrl-C that is not heard, or that leaves what the same command cannot go on from.
/// (That the first finishes the unit in flight is tested in `cli.rs`.)
#[test]
fn a_second_interrupt_stops_at_once() {
    let mut findings = Findings::default();
    for (seed, stage) in ["sample", "train-sft", "run"].iter().enumerate() {
        let found = stops(stage, 8, seed as u64);
        assert!(found.tried >= 4, "{stage} was stopped only {} times", found.tried);
        findings.join(found);
    }
    eprintln!("{} runs stopped", findings.none());
}
